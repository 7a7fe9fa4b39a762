"""Latent consistency distillation (LCM; Luo et al., arXiv 2310.04378), after consistency models (arXiv 2303.01469).

==============  ==================================================================================
paper           here
==============  ==================================================================================
f_theta         ``student.denoiser``: its x0 estimate, and at t = 0 the sample itself
f_theta^-       ``target``: the student's moving average, a follower
t_{n+k}, t_n    ``t, r``: neighbours on ``Consistency.grid``
Psi, omega      one DDIM step of the guided ``teacher``; its guidance scale
mu              ``Options.target_decay``
d               pseudo-Huber, ``Options.huber``
==============  ==================================================================================

``L = E d(f_theta(x_t, t, c), f_theta^-(Psi(x_t, t, r, c), r, c))`` (Eq. 14): wherever the student stands on a trajectory of the
teacher, it says the same clean sample as one step further down. At the last step r = 0, so the target is the teacher's own.

The paper draws the guidance scale anew for every sample and tells the network; here it is the teacher's, the same for all,
since a student here has no such input. Its c_skip is left out: at the grid's first time, timestep 20 of 1000, it is 6e-6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..diffusion import losses, sampler
from ..parts.denoiser import Denoiser, Student, Teacher, check_alike, noise_to
from ..ranges import Range, Rate, Share
from ..rng import Rng
from ..tensors import Batch
from . import tangents
from .method import OnePlayer, Parts, StudentOptions


@dataclass(frozen=True)
class Options(StudentOptions):
    """How a consistency model is distilled."""

    intervals: Annotated[int, Range(2, 1000)] = 48
    """Steps of the teacher from pure noise to the sample. The paper's skip of 20 timesteps of 1000 makes 50; a multiple of the
    student's number of steps puts its times on the grid."""
    target_decay: Share = 0.95
    """Decay of the moving average that gives the target. The paper's .95 is of thousands of steps at a batch of 72."""
    huber: Rate = 0.001
    """Where the pseudo-Huber distance turns from square to absolute, in the latents' own unit."""


class Consistency(OnePlayer):
    """The student agrees with its own average, one step of the teacher further down."""

    def __init__(self, student: Student, teacher: Teacher, target: Denoiser, options: Options = Options()) -> None:
        """``target`` is a frozen copy of the student's denoiser. ValueError where the two schedules differ."""
        check_alike(student, teacher)
        super().__init__("student", student.denoiser, options.student_moves(beta1=0.9))
        self.student, self.teacher, self.target, self.options = student, teacher, target, options
        self.followers = {"target": target}
        even = [k / options.intervals for k in range(1, options.intervals + 1)]
        extra = [t for t in student.times if min(abs(t - own) for own in even) > sampler.NEAR]
        self.grid = torch.tensor(sorted([0.0, *even, *extra]), dtype=torch.float64)
        """Times ``[N + 1]`` from 0 to 1; the student's own are among them."""

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``consistency``: the distance between the estimates at two neighbouring times of one trajectory."""
        schedule = self.student.denoiser.schedule
        place = rng.integers((len(batch),), len(self.grid) - 1).cpu() + 1
        t, r = (self.grid[p].to(batch.x0.device) for p in (place, place - 1))
        x_t = noise_to(schedule, batch.x0, rng.normal_like(batch.x0), t)
        with torch.no_grad():
            target = tangents.below(self.target, self.teacher, x_t, t, r, batch)
        sample = self.student.denoiser(x_t, t, batch.cond)
        return {"consistency": losses.huber(sample, target, self.options.huber).mean()}

    def after_step(self, step: int) -> None:
        """Move the target a little towards the student."""
        tangents.follow(self.target, self.student.denoiser, self.options.target_decay)


def build(o: Options, parts: Parts) -> Consistency:
    """A consistency model of a run's parts; its target begins as the student."""
    return Consistency(parts.student, parts.teacher, tangents.average(parts), o)
