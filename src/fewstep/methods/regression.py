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

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.losses import huber
from ..parts.denoiser import Student, noise_to
from ..rng import Rng
from ..tensors import Batch, Time
from .method import OnePlayer


@dataclass(frozen=True)
class Options:
    """How the student is warmed up."""

    huber: float = 0.1
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


def to_trajectories(
    student: Student, pairs: Batch, t: Time, rng: Rng, bend: float = Options.huber
) -> Float[Tensor, ""]:
    """Mean pseudo-Huber distance of the student's one pass from the pairs' samples.

    At t = 1 it starts where the teacher did, elsewhere from the sample under new noise. Raises ValueError without pairs.
    """
    if pairs.noise is None:
        raise ValueError("regression needs the teacher's trajectories: make pairs first")
    pure = (t >= 1).reshape(-1, *([1] * (pairs.x0.dim() - 1)))
    noise = torch.where(pure, pairs.noise, rng.normal_like(pairs.x0))
    noised = noise_to(student.denoiser.schedule, pairs.x0, noise, t)
    return huber(student.denoiser(noised, t, pairs.cond), pairs.x0, bend).mean()
