"""Progressive distillation (Salimans & Ho, arXiv 2202.00512): one step of the student does two of its teacher, again and again.

==================  ================================================================================
paper               here
==================  ================================================================================
x^_theta            ``student``
x^_eta              ``current``: the guided teacher in the first phase, then the student as the last phase left it
N                   steps from a student time to 0: 2^(halvings - 1) in the first phase, 1 in the last
z_t, z_t', z_t''    ``x_t`` and what one and two DDIM steps of ``current`` make of it
x~                  ``target``: the estimate with which one DDIM step lands at z_t''
==================  ================================================================================

``L = max(SNR(t), 1) ||x~ - x^_theta(z_t, t)||^2`` (Eq. 9), or ``SNR + 1`` in place of the maximum. After ``each`` steps the
student becomes the teacher, the optimiser begins anew, and N is halved. The paper halves the way from pure noise to the data.
Here every student time has its own way to the data, and each is halved: a student is drawn with fresh noise in between, so its
last phase has to lead from each of its times to a sample in one step. The first phase learns the guidance, too
(arXiv 2210.03142).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion import losses, sampler
from ..diffusion.schedule import NoiseSchedule
from ..parts.denoiser import Student, Teacher, check_alike, noise_to
from ..ranges import Count, Range
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly, match_dims
from .method import UNKNOWN, Facts, OnePlayer, Parts, StudentOptions, Turn


@dataclass(frozen=True)
class Options(StudentOptions):
    """How the steps are halved."""

    halvings: Annotated[int, Range(1, 20)] = 4
    """Phases. The first teacher takes 2^halvings steps to the data, the last student one."""
    each: Count = 200
    """Steps of every phase but the last, which goes on to the end of the run."""
    weighting: Literal["truncated_snr", "snr_plus_one"] = "truncated_snr"
    """Weight of an estimate's error by its time's signal-to-noise ratio: ``max(SNR, 1)`` or ``SNR + 1`` (section 4)."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse a run that ends before its last phase. Raises ValueError with the fix."""
    needed = (o.halvings - 1) * o.each + 1
    if facts.steps is not None and facts.steps < needed:
        raise ValueError(
            f"{o.halvings} halvings of {o.each} steps need --steps {needed} or more, not {facts.steps}: give fewer "
            "--progressive.halvings, or a smaller --progressive.each"
        )


def target(schedule: NoiseSchedule, x_t: Latents, t: Time, x_s: Latents, s: Time) -> Latents:
    """The estimate with which one DDIM step from ``(x_t, t)`` lands at ``x_s`` (Eq. 8, Algorithm 2):
    ``(x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)``."""
    ratio = schedule.sigma(s) / schedule.sigma(t)
    apart = match_dims(schedule.alpha(s) - ratio * schedule.alpha(t), exactly(x_t))
    return ((exactly(x_s) - match_dims(ratio, exactly(x_t)) * exactly(x_t)) / apart).to(x_t.dtype)


def weight_of(kind: str, alpha: Tensor, sigma: Tensor) -> Float[Tensor, " B"]:
    """The weight of an estimate's squared error at each time."""
    snr = (alpha / sigma).pow(2)
    return snr.clamp(min=1) if kind == "truncated_snr" else snr + 1


class Progressive(OnePlayer):
    """The student does in one step what its teacher, at last its former self, does in two."""

    def __init__(self, student: Student, teacher: Teacher, former: nn.Module, options: Options = Options()) -> None:
        """``former`` is a frozen copy of the student's denoiser. ValueError where the two schedules differ."""
        check_alike(student, teacher)
        super().__init__("student", student.denoiser, options.student_moves(beta1=0.9))
        self.student, self.teacher, self.former, self.options = student, teacher, former, options
        self.followers = {"former": former}
        self._phase = 0

    def turns(self, step: int) -> Sequence[Turn]:
        """The student; its optimiser forgets the last phase."""
        o = self.options
        self._phase = min(step // o.each, o.halvings - 1)
        begins = step > 0 and step % o.each == 0 and step // o.each < o.halvings
        return (Turn("student", fresh_optimizer=begins),)

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``distillation``: the weighted squared distance from the estimate that does two steps in one."""
        schedule, n = self.student.denoiser.schedule, 2 ** (self.options.halvings - 1 - self._phase)
        share = self.student.draw_times(len(batch), rng).to(batch.x0.device) / n
        k = rng.integers((len(batch),), n) + 1
        t, mid, end = (exactly(share * at) for at in (k, k - 0.5, k - 1))
        x_t = noise_to(schedule, batch.x0, rng.normal_like(batch.x0), t)
        with torch.no_grad():
            x_mid = sampler.ddim_step(schedule, x_t, self._current(x_t, t, batch), t, mid)
            x_end = sampler.ddim_step(schedule, x_mid, self._current(x_mid, mid, batch), mid, end)
            wanted = target(schedule, x_t, t, x_end, end)
        weight = weight_of(self.options.weighting, schedule.alpha(t), schedule.sigma(t)).to(x_t.dtype)
        return {"distillation": (weight * losses.squared(self.student.denoiser(x_t, t, batch.cond), wanted)).mean()}

    def observations(self) -> dict[str, float]:
        """``steps``: how many the student is to need from a time of its own, in this phase."""
        return {"steps": float(2 ** (self.options.halvings - 1 - self._phase))}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """At the end of a phase the student becomes the teacher."""
        if (step + 1) % self.options.each == 0 and (step + 1) // self.options.each < self.options.halvings:
            self.former.load_state_dict(self.student.denoiser.state_dict())

    def _current(self, x_t: Latents, t: Time, batch: Batch) -> Latents:
        if self._phase:
            return self.former(x_t, t, batch.cond)
        return self.teacher(x_t, t, batch.cond, batch.null)


def build(o: Options, parts: Parts) -> Progressive:
    """Progressive distillation of a run's parts."""
    return Progressive(parts.student, parts.teacher, parts.follower(parts.student.denoiser), o)
