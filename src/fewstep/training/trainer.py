"""The trainer: optimisers, gradients, precision, averaging, checkpoints. It runs any Method and knows none.

``steps`` is a generator: logging, evaluation, stopping and saving live outside, in whoever iterates over it. Every draw
comes from ``(seed, step, turn)`` and every batch from its number, which is the step's where every player moves once, so a
run resumed from a checkpoint is bit-identical to one that was never interrupted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..methods.method import Method, Optimizer, Turn
from ..plugin import Family
from ..rng import Rng
from ..tensors import Batch, unfinite
from . import checkpoint
from .ema import EMA, load_moving, moving
from .log import StepLog

OPTIMIZERS = Family("fewstep.training.optimizers", "optimiser", ("build",))
"""How weights move."""


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
    """Optimiser of each player, by role; the method's own where none is given."""
    gradient_accumulation: int = 1
    """Parts that every batch is worked through in, one after another, before a player moves: less memory at once, for the mean
    of the parts' gradients, weighted by their rows, is the batch's."""


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
        if not 1 <= options.gradient_accumulation <= options.batch_size:
            raise ValueError(
                f"a batch of {options.batch_size} cannot be worked through in {options.gradient_accumulation} parts: "
                "choose gradient_accumulation from 1 to the batch size"
            )
        if options.device.startswith("cuda"):
            torch.backends.cudnn.benchmark = True  # a training asks for the same shapes all along
        self.method, self.options, self.step = method, options, 0
        self.spent = 0.0
        """Seconds that the steps have taken, those of all parts of a run that was stopped and gone on with together."""
        self._names: dict[str, list[str]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.averages: dict[str, EMA] = {}
        """Of each player the one that is shown, by role; further ones under `further` names."""
        for name, network in self.networks.items():
            o = self.optimizer_of(name)
            named = [(k, p) for k, p in network.named_parameters() if p.requires_grad]
            self._names[name] = [k for k, _ in named]
            self.optimizers[name] = OPTIMIZERS.load(o.kind).build([p for _, p in named], o)
            if o.ema:
                self.averages[name] = EMA(network, o.ema)
            for decay in o.further_ema:
                self.averages[further(name, decay)] = EMA(network, decay)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every player's network, by role."""
        return {name: player.network for name, player in self.method.players.items()}

    def optimizer_of(self, player: str) -> Optimizer:
        """How this player moves: as the run's options say, or else as the method does."""
        return self.options.optimizers.get(player, self.method.players[player].optimizer)

    def _autocast(self) -> Any:
        if self.options.precision == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, torch.bfloat16)

    def _turn(self, turn: Turn, parts: Sequence[Batch], number: int) -> tuple[dict[str, float], dict[str, float], bool]:
        """One move, the step's ``number``-th, on a batch in parts: losses, gradients, one optimiser step.

        Returns (losses, observations, moved); the numbers are means over the batch.
        """
        player, networks = turn.player, self.networks
        o, optimizer = self.optimizer_of(player), self.optimizers[player]
        if turn.fresh_optimizer:
            optimizer.state.clear()
        logged, observed, finite = defaultdict[str, float](float), defaultdict[str, float](float), True
        with only_trainable(networks, player) as network:
            for name, other in networks.items():
                other.train(name == player)
            optimizer.zero_grad(set_to_none=True)
            for i, part in enumerate(parts):
                path = (number, i) if len(parts) > 1 else (number,)
                rng = Rng.of(self.options.seed, "step", self.step, *path, device=self.options.device)
                share = len(part) / sum(map(len, parts))
                with self._autocast():
                    losses = self.method.losses(player, part, rng)
                total = share * torch.stack([v.float() for v in losses.values()]).sum()
                total.backward()
                finite &= bool(torch.isfinite(total))
                for name, value in losses.items():
                    logged[f"{player}/{name}"] += share * float(value.detach())
                for name, seen in self.method.observations().items():
                    observed[f"{player}/{name}"] += share * seen
            parameters = [p for p in network.parameters() if p.grad is not None]
            limit = o.max_gradient_norm or math.inf
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
            finite &= bool(torch.isfinite(norm))
            if finite:
                for group in optimizer.param_groups:
                    group["lr"] = o.rate(self.step, self.options.steps)
                optimizer.step()
                for name, average in self.averages.items():
                    if name.partition("@")[0] == player:
                        average.update(network)
            optimizer.zero_grad(set_to_none=True)
        return dict(logged), dict(observed) | {f"{player}/gradient_norm": float(norm)}, finite

    def steps(self, batches: Callable[[int], Batch]) -> Iterator[StepLog]:
        """Train from the current step to the last, yielding after each. ``batches(number)`` must be a pure function.

        Turns on one batch of the step are handed the very same objects, so that a method can keep what it has made of them.
        """
        while self.step < self.options.steps:
            turns = self.method.turns(self.step)
            first = self.step * (max((turn.batch for turn in turns), default=0) + 1)
            log, seen = StepLog(self.step + 1, {}, {}), dict[int, list[Batch]]()
            for number, turn in enumerate(turns):
                if turn.batch not in seen:
                    batch = batches(first + turn.batch).to(self.options.device)
                    seen[turn.batch] = batch.split(o) if (o := self.options.gradient_accumulation) > 1 else [batch]
                losses, observed, moved = self._turn(turn, seen[turn.batch], number)
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
            for name, network in self.networks.items():
                if name in self.averages:
                    stack.enter_context(self.averages[name].applied(network))
            yield

    def adopt_averages(self) -> None:
        """The averaged weights become the weights: the end of a run."""
        for name, network in self.networks.items():
            if name in self.averages:
                load_moving(network, self.averages[name].average)

    def finite(self) -> bool:
        """Are all weights that move, and their averages, numbers?"""
        followers = [network.state_dict() for network in self.method.followers.values()]
        moved = [*self.weights().values(), *(average.average for average in self.averages.values()), *followers]
        return not any(unfinite(values) for values in moved)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Every player's weights that can move, as they stand, by role."""
        return {name: moving(network) for name, network in self.networks.items()}

    def load_weights(self, players: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give every player these weights. Raises ValueError if they do not fit."""
        for name, network in self.networks.items():
            load_moving(network, _own(moving(network), players[name]))

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for frozen weights: those come back from where they came from."""
        return {
            "step": self.step,
            "seed": self.options.seed,
            "spent": self.spent,
            "players": self.weights(),
            "optimizers": {n: checkpoint.optimizer_state(o, self._names[n]) for n, o in self.optimizers.items()},
            "averages": {n: {"updates": a.updates, "weights": a.average} for n, a in self.averages.items()},
            "followers": {name: network.state_dict() for name, network in self.method.followers.items()},
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
        followers = state.get("followers", {})
        if set(followers) != set(self.method.followers):
            raise ValueError(
                f"the checkpoint holds the followers {sorted(followers)}, this run has {sorted(self.method.followers)}: "
                "resume with the options the run was started with"
            )
        self.load_weights(state["players"])
        for name, network in self.method.followers.items():
            network.load_state_dict(_own(network.state_dict(), followers[name]))
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
        self.step = int(state["step"])
        # older states know nothing but the limit that ended them
        self.spent = float(state.get("spent", state.get("ended_after", 0.0)))

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


def further(player: str, decay: float) -> str:
    """What a further average of a player's weights is called in a state."""
    return f"{player}@{decay:g}"


def _own(current: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Saved weights under this network's own names; a mismatch of names or shapes is the user's to hear about."""
    wrong = [k for k in current if k not in saved or saved[k].shape != current[k].shape]
    if wrong or len(saved) != len(current):
        raise ValueError(
            f"the checkpoint does not fit this network (first at {wrong[0] if wrong else 'extra weights'}): "
            "resume with the options the run was started with"
        )
    return {k: saved[k].to(current[k].device) for k in current}
