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
from torch import Tensor

from ..diffusion.losses import huber
from ..parts.denoiser import Student, noise_to
from ..rng import Rng
from ..tensors import Batch
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
        if batch.noise is None:
            raise ValueError("regression needs the teacher's trajectories: make pairs first")
        t = self.student.draw_times(len(batch), rng)
        pure = (t >= 1).reshape(-1, *([1] * (batch.x0.dim() - 1)))
        noise = torch.where(pure, batch.noise, rng.normal_like(batch.x0))
        noised = noise_to(self.student.denoiser.schedule, batch.x0, noise, t)
        out = self.student.denoiser(noised, t, batch.cond)
        return {"regression": huber(out, batch.x0, self.options.huber).mean()}
