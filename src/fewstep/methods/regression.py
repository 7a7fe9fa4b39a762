"""Regression onto the teacher's own trajectories: the warm start that adversarial training profits from most.

At t = 1 the student maps the start of a teacher trajectory to its end (InstaFlow's and DMD's regression,
arXiv 2309.06380, 2311.18828); at its other times it denoises the same samples, or follows the teacher from there.

=============  ===========================================
symbol         here
=============  ===========================================
(z, x)         ``batch.noise``, ``batch.x0``: a pair
f_theta        ``student.denoiser``
psi            ``teacher``
=============  ===========================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ..parts.denoiser import BEND, Student, Teacher, check_alike, to_trajectories
from ..ranges import Range
from ..rng import Rng
from ..tensors import Batch
from .method import OnePlayer, Parts, StudentOptions


@dataclass(frozen=True)
class Options(StudentOptions):
    """How a student follows its teacher: a warm start, or a training of its own that others are held against."""

    huber: float = BEND
    """Where the pseudo-Huber distance turns from square to absolute."""
    regression_steps: Annotated[int, Range(0, 1000)] = 0
    """DDIM steps of the teacher that say where a noised sample leads, at student times below 1. There a denoiser learns the
    mean of all that it may come from, which leaves rare modes out and narrows the rest at two and four steps
    (docs/variety.md). 0 denoises."""


class Regression(OnePlayer):
    """Needs batches of noise-to-sample pairs (``Batch.noise``), and the teacher if it follows it at later times."""

    def __init__(self, student: Student, options: Options = Options(), teacher: Teacher | None = None) -> None:
        super().__init__("student", student.denoiser, options.student_moves(beta1=0.9))
        if options.regression_steps:
            check_alike(student, teacher)
        self.student, self.options, self.teacher = student, options, teacher if options.regression_steps else None

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``regression``: the distance of the one-pass estimate from the end of the trajectory."""
        pairs, o = batch.trajectories or batch, self.options
        t = self.student.draw_times(len(pairs), rng)
        return {"regression": to_trajectories(self.student, pairs, t, rng, o.huber, self.teacher, o.regression_steps)}


def build(o: Options, parts: Parts) -> Regression:
    """Regression on the teacher's trajectories of a run."""
    parts.pairs()
    return Regression(parts.student, o, parts.teacher)
