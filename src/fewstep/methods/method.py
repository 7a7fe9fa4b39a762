"""The contract of a method: it is handed its parts and owns the losses. The trainer owns everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..rng import Rng
from ..tensors import Batch


@runtime_checkable
class Method(Protocol):
    """A way to train, as a game of one or more players.

    In each step the trainer lets the players named by ``turns`` move, in that order: it unfreezes that player alone, asks
    for its losses, and takes one optimiser step on their sum. A player that is not at its turn gets no gradient.
    """

    @property
    def players(self) -> Mapping[str, nn.Module]:
        """Trainable networks by role."""

    def turns(self, step: int) -> Sequence[str]:
        """Who moves in this step, in order; the same name may stand twice, and has a batch of its own for each move."""

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Weighted scalars, named as the paper names them; their sum is what the player minimises."""

    def observations(self) -> dict[str, float]:
        """Numbers of the last turn that are not minimised: logits, norms, ratios. What the health monitor reads."""

    def after_step(self, step: int) -> None:
        """Called after every step, e.g. to move a target network."""


class OnePlayer:
    """What methods with a single trainable network have in common: one turn a step, nothing to observe."""

    def __init__(self, role: str, network: nn.Module) -> None:
        self._role, self._network = role, network

    @property
    def players(self) -> Mapping[str, nn.Module]:
        """The one network."""
        return {self._role: self._network}

    def turns(self, step: int) -> Sequence[str]:
        """One turn a step."""
        return (self._role,)

    def observations(self) -> dict[str, float]:
        """Nothing beside the losses."""
        return {}

    def after_step(self, step: int) -> None:
        """Nothing to move."""
