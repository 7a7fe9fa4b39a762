"""The contract of a method: it is handed its parts and owns the losses. The trainer owns everything else.

A method's file offers

- ``Options``, a frozen dataclass whose fields become ``--NAME.field``;
- ``build(o, parts) -> Method``, which asks ``parts`` for what it needs: a method *is* what it asks for;
- ``check(o, facts)``, where options can contradict each other: it refuses in one sentence, before any work;
- ``called(o) -> str``, where tables call a variant by another name than the file's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from ..options import CHANGEABLE, SHARED
from ..parts import discriminator
from ..parts.codec import Codec
from ..parts.denoiser import Denoiser, Student, Teacher
from ..parts.discriminator import Discriminator
from ..parts.features import feature
from ..parts.features.feature import FeatureNetwork
from ..plugin import Family
from ..ranges import Range, Rate
from ..rng import Rng
from ..tensors import Batch, Conditioning

FAMILY = Family("fewstep.methods", "method", ("Options", "build"))
"""How a student is distilled."""


@dataclass(frozen=True)
class Optimizer:
    """How one player's weights move."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.0
    """Adam's first-moment decay; 0 for adversarial training (StyleGAN-T), .9 for regression."""
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
    further_ema: tuple[float, ...] = ()
    """Decays of further averages of the same weights, kept to choose from after the run."""
    kind: str = "adamw"
    """A file of training/optimizers: ``adamw``; ``muon``, orthogonalised updates of matrices, fewer samples for more time a step;
    ``adamw8bit``, a quarter of AdamW's memory. Or the dotted path of one of your own."""

    def rate(self, step: int, total: int) -> float:
        """Learning rate at ``step`` of ``total``."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        shape = 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, total))) if self.decay else 1.0
        return self.learning_rate * warm * shape


class Player(NamedTuple):
    """A trainable network in its role, and how it moves where the run's options say nothing else."""

    network: nn.Module
    optimizer: Optimizer = Optimizer()


class Turn(NamedTuple):
    """One move of one player."""

    player: str
    batch: int = 0
    """Which of the step's batches it moves on: turns of one number share a batch."""
    fresh_optimizer: bool = False
    """Forget the optimiser's moments first: what the player is trained for has changed."""


@dataclass(frozen=True)
class StudentOptions:
    """How the student moves: what every method's options begin with."""

    student_learning_rate: Annotated[Rate, SHARED, CHANGEABLE] = 2e-4
    """Adam's learning rate of the student."""
    ema: Annotated[float, Range(0, 0.999999), SHARED, CHANGEABLE] = 0.99
    """Decay of the student's weight average, which is what is saved."""
    further_ema: Annotated[tuple[float, ...], Range(0, 0.999999), SHARED] = ()
    """Decays of further averages: each ends in a bundle of its own beside the student's, bundle-ema-0.999 say, of the last step's
    weights. Which average is best is known after a run only, and none takes a second run."""
    student_optimizer: Annotated[str, SHARED] = "adamw"
    """How the student's weights move: ``adamw``; ``muon``, which needs fewer samples and more time for each; ``adamw8bit``, which
    keeps a quarter of AdamW's state; or the dotted path of an optimiser of your own."""

    def student_moves(self, beta1: float = 0.0) -> Optimizer:
        """The student's optimiser; ``beta1`` is the method's (0 against an adversary, .9 for a regression)."""
        return Optimizer(
            self.student_learning_rate,
            beta1=beta1,
            warmup=20,
            ema=self.ema,
            further_ema=self.further_ema,
            kind=self.student_optimizer,
        )


@dataclass(frozen=True)
class Facts:
    """What is known of a run. ``check`` is asked before anything is read, and again once the teacher and the data are known:
    what is not known yet is None."""

    batch_size: int | None = None
    """Samples a step."""
    native_size: tuple[int, ...] | None = None
    """What the teacher draws: (length), (height, width) or (frames, height, width)."""
    concepts: int | None = None
    """How many concepts, under prompts of their own, are trained on."""
    steps: int | None = None
    """Steps of the run."""


UNKNOWN = Facts()
"""Of a run of which nothing is known."""


@runtime_checkable
class Parts(Protocol):
    """What a method may ask for. Each part is made when it is asked for, once, on the run's device."""

    @property
    def student(self) -> Student:
        """The few-step model that is trained: all of it, a LoRA, or some of its layers, as the run says."""

    @property
    def teacher(self) -> Teacher:
        """The frozen model, with its guidance."""

    @property
    def codec(self) -> Codec:
        """Media <-> latents, frozen."""

    @property
    def data(self) -> Callable[[int], Batch]:
        """Batches by number, with all in them that was asked for."""

    def features(self, o: feature.Options) -> FeatureNetwork:
        """The frozen network that samples are seen through. If it reads media, batches come with them."""

    def heads(self, features: FeatureNetwork, o: discriminator.Options) -> Discriminator:
        """Fresh heads that fit the features and the conditioning of the data."""

    def denoiser(self) -> Denoiser:
        """A second trainable denoiser that begins as the teacher, such as a fake score."""

    def follower(self, of: nn.Module) -> nn.Module:
        """A frozen copy, to be moved in ``after_step``."""

    def pairs(self) -> None:
        """From now on, batches come with the teacher's trajectories beside them (``Batch.pairs``)."""

    def group(self, samples: int) -> None:
        """From now on, this many samples of one condition stand side by side in every batch."""

    def encode(self, prompt: str) -> Conditioning:
        """A prompt as one row."""


@runtime_checkable
class Method(Protocol):
    """A way to train one or more players, turn by turn.

    In each step the trainer lets the players move by ``turns``, in that order: it unfreezes that player alone, asks for its
    losses, and takes one optimiser step on their sum. A player that is not at its turn gets no gradient.
    """

    @property
    def players(self) -> Mapping[str, Player]:
        """What is trained, by role."""

    @property
    def followers(self) -> Mapping[str, nn.Module]:
        """Networks that move without a gradient, in ``after_step``, such as an average that is a target. They are saved and
        restored with the players: the next step depends on them."""

    def turns(self, step: int) -> Sequence[Turn]:
        """Who moves in this step, in order, and on which batch. Asked once at the beginning of every step."""

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Weighted scalars, named as the paper names them; their sum is what the player minimises."""

    def observations(self) -> dict[str, float]:
        """Numbers of the last turn that are not minimised: logits, norms, ratios. What the health monitor reads."""

    def after_step(self, step: int) -> None:
        """Called after every step, e.g. to move a follower."""


class Defaults:
    """What most methods leave as it is: nothing follows, nothing is observed, nothing is done after a step."""

    followers: Mapping[str, nn.Module] = {}

    def observations(self) -> dict[str, float]:
        """Nothing beside the losses."""
        return {}

    def after_step(self, step: int) -> None:
        """Nothing to move."""


class OnePlayer(Defaults):
    """What methods with a single trainable network have in common: one turn a step."""

    def __init__(self, role: str, network: nn.Module, optimizer: Optimizer = Optimizer(beta1=0.9)) -> None:
        self._role, self._player = role, Player(network, optimizer)

    @property
    def players(self) -> Mapping[str, Player]:
        """The one network."""
        return {self._role: self._player}

    def turns(self, step: int) -> Sequence[Turn]:
        """One turn a step."""
        return (Turn(self._role),)
