"""Regression onto the teacher's own trajectories: the warm start that adversarial training profits from most.

At t = 1 the student maps the start of a teacher trajectory to its end (InstaFlow's and DMD's regression,
arXiv 2309.06380, 2311.18828); at its other times it denoises the same samples.

=============  ===========================================
symbol         here
=============  ===========================================
(z, x)         ``batch.noise``, ``batch.x0``: a pair
f_theta        ``student.denoiser``
=============  ===========================================
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..parts.denoiser import BEND, Student, to_trajectories
from ..rng import Rng
from ..tensors import Batch
from .method import OnePlayer


@dataclass(frozen=True)
class Options:
    """How the student is warmed up."""

    huber: float = BEND
    """Where the pseudo-Huber distance turns from square to absolute."""


class Regression(OnePlayer):
    """Needs batches of noise-to-sample pairs (``Batch.noise``)."""

    def __init__(self, student: Student, options: Options = Options()) -> None:
        super().__init__("student", student.denoiser)
        self.student, self.options = student, options

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``regression``: the distance of the one-pass estimate from the pair's sample."""
        t = self.student.draw_times(len(batch), rng)
        return {"regression": to_trajectories(self.student, batch, t, rng, self.options.huber)}
