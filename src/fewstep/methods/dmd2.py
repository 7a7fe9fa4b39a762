"""Improved distribution matching distillation (DMD2; Yin et al., arXiv 2405.14867), after DMD (arXiv 2311.18828).

==================  ================================================================================
paper               here
==================  ================================================================================
G_theta             ``student``
mu_real             ``teacher``, guided
mu_fake^psi         ``fake_score``: a denoiser of what the student draws, trained beside it
x, x_t              ``sample``, and it noised anew to t
t_1 ... t_N         ``student.times``; simulated backward with ``Options.backward`` (section 4.4)
TTUR                ``Options.fake_score_turns`` (section 4.2)
==================  ================================================================================

The student moves against ``grad = (mu_fake(x_t, t) - mu_real(x_t, t)) / mean|x - mu_real(x_t, t)|``: from where its own
distribution is denser than the teacher's to where it is not, which is the gradient of a reverse KL divergence between the two
(DMD, Eq. 7 and 8). It is written as a loss whose gradient that is: ``1/2 ||x - sg(x - grad)||^2``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..diffusion import losses
from ..diffusion.schedule import add_noise
from ..parts.denoiser import Denoiser, Student, StudentInput, Teacher, prediction_error
from ..ranges import Count, Range, Share
from ..rng import Rng
from ..tensors import Batch, Latents, exactly, match_dims
from .method import Defaults, Optimizer, Player, Turn


@dataclass(frozen=True)
class Options:
    """DMD2 and its switches."""

    fake_score_turns: Count = 5
    """Updates of the fake score for one of the student, each on new samples: it must keep up with the student (5 to 10)."""
    times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform time t that a sample is noised to before the two scores are asked (DMD's)."""
    backward: Share = 1.0
    """Share of batches that start from the student's own roll-out, rather than from noised data; the paper's 1."""


class DMD2(Defaults):
    """A student between two scores: towards the teacher's, away from the one of its own samples."""

    def __init__(self, student: Student, teacher: Teacher, fake_score: Denoiser, options: Options = Options()) -> None:
        """``fake_score`` is a trainable denoiser of its own, best a copy of the teacher's."""
        self.student, self.teacher, self.fake_score, self.options = student, teacher, fake_score, options
        self.input = StudentInput(student, options.backward)
        self._observed: dict[str, float] = {}

    @property
    def players(self) -> Mapping[str, Player]:
        """``student`` and ``fake_score``."""
        return {
            "student": Player(self.student.denoiser, Optimizer(1e-4, beta1=0.9, warmup=20, ema=0.99)),
            "fake_score": Player(self.fake_score, Optimizer(5e-4, beta1=0.9, warmup=20)),
        }

    def turns(self, step: int) -> Sequence[Turn]:
        """The student, then the fake score, which sees a new batch at every turn."""
        return (Turn("student"), *(Turn("fake_score", batch) for batch in range(self.options.fake_score_turns)))

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``distribution_matching`` for the student, ``denoising`` for the fake score."""
        if player == "student":
            return {"distribution_matching": self.matching(self._draw(batch, rng), batch, rng)}
        with torch.no_grad():
            sample = self._draw(batch, rng)
        t = exactly(rng.uniform((len(sample),), 1e-3, 1.0))
        error = prediction_error(self.fake_score, sample, rng.normal_like(sample), t, batch.cond)
        return {"denoising": error.mean()}

    def observations(self) -> dict[str, float]:
        """``score_difference``: how far apart the two estimates are, in units of what the teacher would change."""
        return self._observed

    def _draw(self, batch: Batch, rng: Rng) -> Latents:
        x_t, t, _ = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond)

    def matching(self, sample: Latents, batch: Batch, rng: Rng) -> Tensor:
        """``1/2 ||x - sg(x - grad)||^2``, averaged over elements: its gradient is ``grad`` over their number (DMD, Eq. 7)."""
        t = exactly(rng.uniform((len(sample),), *self.options.times))
        with torch.no_grad():
            x_t = add_noise(self.teacher.schedule, sample, rng.normal_like(sample), t)
            real = self.teacher(x_t, t, batch.cond, batch.null)
            fake = self.fake_score(x_t, t, batch.cond)
            size = (sample - real).abs().flatten(1).mean(1).clamp(min=1e-4)
            gradient = (fake - real) / match_dims(size, sample)
            self._observed = {"score_difference": float(gradient.abs().mean())}
        return 0.5 * losses.squared(sample, (sample - gradient).detach()).mean()
