"""The trainer: optimisers, gradients, precision, averaging, checkpoints. It runs any Method and knows none.

``steps`` is a generator: logging, evaluation, stopping and saving live outside, in whoever iterates over it. Every draw
comes from ``(seed, step, turn)`` and every batch from its number, which is the step's where every player moves once, so a
run resumed from a checkpoint is bit-identical to one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..methods.method import Method
from ..rng import Rng
from ..tensors import Batch, unfinite
from . import checkpoint
from .ema import EMA, load_moving, moving
from .log import StepLog
from .muon import Muon


@dataclass(frozen=True)
class Optimizer:
    """How one player's weights move."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.0
    """Adam's first-moment decay; 0 for adversarial games (StyleGAN-T), .9 for regression."""
    beta2: float = 0.99
    """Adam's second-moment decay."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    warmup: int = 50
    """Steps of linear warm-up."""
    decay: bool = False
    """Cosine decay to a tenth of the peak over the run; otherwise constant."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm; 0 turns clipping off."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none."""
    kind: Literal["adamw", "muon"] = "adamw"
    """``adamw``, or ``muon``: orthogonalised updates of matrices, fewer samples for more time a step (training/muon.py)."""

    def rate(self, step: int, total: int) -> float:
        """Learning rate at ``step`` of ``total``."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        shape = 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, total))) if self.decay else 1.0
        return self.learning_rate * warm * shape


@dataclass(frozen=True)
class Options:
    """How a run is trained, whatever its method."""

    steps: int = 1000
    """Training steps in all."""
    batch_size: int = 32
    """Samples a step."""
    seed: int = 0
    """Seed of everything that is drawn."""
    precision: str = "fp32"
    """``fp32``, or ``bf16`` for autocast: faster only where the processor has bf16 units."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    """Optimiser of each player, by role."""


@contextmanager
def only_trainable(players: Mapping[str, nn.Module], name: str) -> Iterator[nn.Module]:
    """Only this player's trainable weights may receive a gradient inside."""
    wanted = {id(p) for p in players[name].parameters() if p.requires_grad}
    held = [
        p for n, m in players.items() if n != name for p in m.parameters() if p.requires_grad and id(p) not in wanted
    ]
    for p in held:
        p.requires_grad_(False)
    try:
        yield players[name]
    finally:
        for p in held:
            p.requires_grad_(True)


class Trainer:
    """Runs a method on batches that are a function of their number."""

    def __init__(self, method: Method, options: Options) -> None:
        if options.precision not in ("fp32", "bf16"):
            raise ValueError(f"unknown precision {options.precision!r}: use fp32 or bf16")
        if options.device.startswith("cuda"):
            torch.backends.cudnn.benchmark = True  # a training asks for the same shapes all along
        self.method, self.options, self.step = method, options, 0
        self.ended_after = 0.0
        """The time limit, in seconds, that ended the run as if it were done; 0 while none has."""
        missing = set(method.players) - set(options.optimizers)
        if missing:
            raise ValueError(
                f"no optimiser for {', '.join(sorted(missing))}: give Options.optimizers one for each player"
            )
        self._names: dict[str, list[str]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.averages: dict[str, EMA] = {}
        for name, network in method.players.items():
            o = options.optimizers[name]
            named = [(k, p) for k, p in network.named_parameters() if p.requires_grad]
            self._names[name] = [k for k, _ in named]
            kind = Muon if o.kind == "muon" else partial(torch.optim.AdamW, foreach=True)
            self.optimizers[name] = kind(
                [p for _, p in named], lr=o.learning_rate, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay
            )
            if o.ema:
                self.averages[name] = EMA(network, o.ema)

    def _autocast(self) -> Any:
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, torch.bfloat16)

    def _turn(self, player: str, batch: Batch, turn: int) -> tuple[dict[str, float], dict[str, float], bool]:
        """One move: losses, gradients, one optimiser step. Returns (losses, observations, moved)."""
        o, optimizer = self.options.optimizers[player], self.optimizers[player]
        rng = Rng.of(self.options.seed, "step", self.step, turn, device=self.options.device)
        with only_trainable(self.method.players, player) as network:
            for name, other in self.method.players.items():
                other.train(name == player)
            optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                losses = self.method.losses(player, batch, rng)
            total = torch.stack([v.float() for v in losses.values()]).sum()
            total.backward()
            parameters = [p for p in network.parameters() if p.grad is not None]
            limit = o.max_gradient_norm or math.inf
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
            finite = bool(torch.isfinite(norm) & torch.isfinite(total))
            if finite:
                for group in optimizer.param_groups:
                    group["lr"] = o.rate(self.step, self.options.steps)
                optimizer.step()
                if player in self.averages:
                    self.averages[player].update(network)
            optimizer.zero_grad(set_to_none=True)
        observed = {f"{player}/{k}": v for k, v in self.method.observations().items()}
        logged = {f"{player}/{k}": float(v.detach()) for k, v in losses.items()}
        return logged, observed | {f"{player}/gradient_norm": float(norm)}, finite

    def steps(self, batches: Callable[[int], Batch]) -> Iterator[StepLog]:
        """Train from the current step to the last, yielding after each. ``batches(number)`` must be a pure function.

        A player that moves several times in a step has a new batch for every move; the others' moves share the first.
        """
        while self.step < self.options.steps:
            turns = self.method.turns(self.step)
            moves = [turns[:turn].count(player) for turn, player in enumerate(turns)]
            first = self.step * (max(moves, default=0) + 1)
            log, batch, at = StepLog(self.step + 1, {}, {}), None, -1
            for turn, (player, move) in enumerate(zip(turns, moves)):
                if batch is None or move != at:
                    batch, at = batches(first + move).to(self.options.device), move
                losses, observed, moved = self._turn(player, batch, turn)
                log.losses |= losses
                log.observations |= observed
                log.skipped |= not moved
            self.method.after_step(self.step)
            self.step += 1
            yield log

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Lend every player its averaged weights for drawing, evaluating or saving."""
        with ExitStack() as stack:
            for name, average in self.averages.items():
                stack.enter_context(average.applied(self.method.players[name]))
            yield

    def adopt_averages(self) -> None:
        """The averaged weights become the weights: the end of a run."""
        for name, average in self.averages.items():
            load_moving(self.method.players[name], average.average)

    def finite(self) -> bool:
        """Are all weights that move, and their averages, numbers?"""
        moved = [*self.weights().values(), *(average.average for average in self.averages.values())]
        return not any(unfinite(values) for values in moved)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Every player's weights that can move, as they stand, by role."""
        return {name: moving(network) for name, network in self.method.players.items()}

    def load_weights(self, players: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give every player these weights. Raises ValueError if they do not fit."""
        for name, network in self.method.players.items():
            load_moving(network, _own(moving(network), players[name]))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for frozen weights: those come back from where they came from."""
        return {
            "step": self.step,
            "seed": self.options.seed,
            "ended_after": self.ended_after,
            "players": self.weights(),
            "optimizers": {n: checkpoint.optimizer_state(o, self._names[n]) for n, o in self.optimizers.items()},
            "averages": {n: {"updates": a.updates, "weights": a.average} for n, a in self.averages.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state``. Raises ValueError if it belongs to another set of players or another seed."""
        if set(state["players"]) != set(self.method.players):
            raise ValueError(
                f"the checkpoint holds {sorted(state['players'])}, this run trains {sorted(self.method.players)}: "
                "resume with the options the run was started with"
            )
        if state["seed"] != self.options.seed:
            raise ValueError(f"the checkpoint was made with --seed {state['seed']}: resume with the same seed")
        self.load_weights(state["players"])
        for name in self.method.players:
            saved = state.get("optimizers", {}).get(name, {})
            checkpoint.load_optimizer_state(self.optimizers[name], self._names[name], saved)
        if set(state.get("averages", {})) != set(self.averages):
            raise ValueError(
                "the checkpoint was made with another --ema: resume with the options the run was started with"
            )
        for name, average in self.averages.items():
            saved = state["averages"][name]
            average.updates = int(saved["updates"])
            average.average = {k: v.clone() for k, v in _own(average.average, saved["weights"]).items()}
        self.step, self.ended_after = int(state["step"]), float(state.get("ended_after", 0.0))

    def save(self, folder: Path, keep: Path | None = None) -> None:
        """Write ``state`` atomically; the state it replaces is kept at ``keep``, if that is given."""
        checkpoint.save(folder, self.state(), keep)

    def resume(self, folder: Path) -> None:
        """Continue from what ``save`` wrote. Raises ValueError as ``load_state`` does, and where something is missing in it."""
        state = checkpoint.load(folder)
        try:
            self.load_state(state)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise checkpoint.damaged(folder, error) from error


def _own(current: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved weights under this network's own names; a mismatch of names or shapes is the user's to hear about."""
    wrong = [k for k in current if k not in saved or saved[k].shape != current[k].shape]
    if wrong or len(saved) != len(current):
        raise ValueError(
            f"the checkpoint does not fit this network (first at {wrong[0] if wrong else 'extra weights'}): "
            "resume with the options the run was started with"
        )
    return {k: saved[k].to(current[k].device) for k in current}
