"""What methods have in common that move a student's estimate along its teacher's trajectories without a neighbouring point.

Not a method itself: sCM and MeanFlow stand on it. A trajectory is that of the guided teacher's probability-flow equation,
``dx_t/dt = alpha' x0 + sigma' noise`` with the x0 and the noise that the teacher sees in x_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ..diffusion import sampler
from ..diffusion.schedule import NoiseSchedule
from ..parts.denoiser import Student, Teacher
from ..ranges import Range
from ..rng import Rng
from ..tensors import Batch, Latents, Time, full_precision, match_dims
from .method import UNKNOWN, Facts, StudentOptions


@dataclass(frozen=True)
class Options(StudentOptions):
    """Where on a trajectory the student learns."""

    times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.995)
    """Range of the time of a trajectory's point; the student's own times are asked, too (``own_times``)."""
    own_times: Annotated[float, Range(0, 1)] = 0.25
    """Share of points at one of the student's own times, where it will be drawn."""
    difference: Annotated[float, Range(0, 0.5)] = 0.0
    """How far down the trajectory the derivative is taken, as a difference of two estimates over that time: .05 is 50 timesteps
    of 1000. 0 takes the exact derivative, which is as good as the network is smooth in its time; one that is told its timestep
    in fast waves need not be (docs/log.md)."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    if o.times[0] > o.times[1]:
        raise ValueError(f"times {o.times[0]:g} {o.times[1]:g} must rise: give the earlier one, nearer to 0, first")


def mixed_times(t: Time, own: list[float], share: float, rng: Rng) -> Time:
    """``t [B]``, of which this share is one of the student's ``own`` times instead."""
    if not own:
        return t
    later = torch.tensor(own, dtype=torch.float64)
    chosen = later[rng.integers((len(t),), len(later)).cpu()].to(t)
    return torch.where(rng.uniform((len(t),)) < share, chosen, t)


class Scales(NamedTuple):
    """A schedule at some times, and how it changes there: everything ``[B, 1, ...]``, beside the latents."""

    alpha: Tensor
    sigma: Tensor
    alpha_slope: Tensor
    sigma_slope: Tensor


def scales(schedule: NoiseSchedule, t: Time, like: Latents) -> Scales:
    """Both scales at ``t [B]``, and their derivatives by one forward-mode pass each."""
    one = torch.ones_like(t)
    a, da = torch.func.jvp(schedule.alpha, (t,), (one,))  # type: ignore[misc]
    s, ds = torch.func.jvp(schedule.sigma, (t,), (one,))  # type: ignore[misc]
    return Scales(*(match_dims(v, like) for v in (a, s, da, ds)))


class Along(NamedTuple):
    """The student on its teacher's trajectory."""

    x0: Latents
    """Its estimate."""
    dx0: Latents
    """How that changes with t along the trajectory."""
    guided: Latents
    """The teacher's estimate."""


def along(
    student: Student, teacher: Teacher, x_t: Latents, t: Time, at: Scales, batch: Batch, difference: float = 0.0
) -> Along:
    """Both estimates at ``(x_t, t)``, and the total derivative of the student's along the teacher's trajectory: exact, or by a
    ``difference`` over that much of time, at most to clean data. Clean data is its own estimate."""
    schedule, denoise = student.denoiser.schedule, student.denoiser
    with full_precision(x_t):
        guided = teacher(x_t, t, batch.cond, batch.null)
        if difference:
            r = (t - difference).clamp(min=0)
            x_r = sampler.ddim_step(schedule, x_t, guided, t, r)
            x0, before = denoise(x_t, t, batch.cond), denoise(x_r, r, batch.cond)
            before = torch.where(match_dims(r, x_t) > 0, before, x_r)
            return Along(x0, (x0 - before) / match_dims(t - r, x_t), guided)
        noise = (x_t - at.alpha * guided) / at.sigma
        dx = (at.alpha_slope * guided + at.sigma_slope * noise).to(x_t.dtype)
        x0, dx0 = denoise.tangent(x_t, t, batch.cond, dx, torch.ones_like(t))
    return Along(x0, dx0, guided)
