"""What methods have in common that make a student's estimate agree along its teacher's trajectories.

Not a method itself: LCM, sCM and MeanFlow stand on it. A trajectory is that of the guided teacher's probability-flow equation,
``dx_t/dt = alpha' x0 + sigma' noise`` with the x0 and the noise that the teacher sees in x_t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion import sampler
from ..diffusion.schedule import NoiseSchedule
from ..parts.denoiser import Denoiser, Teacher
from ..ranges import Range, Share
from ..rng import Rng
from ..tensors import Batch, Latents, Time, full_precision, match_dims
from .method import UNKNOWN, Facts, Parts, StudentOptions


@dataclass(frozen=True)
class Options(StudentOptions):
    """Where on a trajectory the student learns."""

    times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.995)
    """Range of the time of a trajectory's point; the student's own times are asked, too (``own_times``)."""
    own_times: Annotated[float, Range(0, 1)] = 0.25
    """Share of points at one of the student's own times, where it will be drawn."""
    difference: Annotated[float, Range(0, 0.5)] = 0.1
    """How far down the trajectory lies the estimate that the student is to agree with: .1 is 100 timesteps of 1000, one step of
    the teacher. 0 takes the papers' limit, the exact derivative. That is as good as the network is smooth in its time: stock
    networks are told their timestep in fast waves, and students of theirs come apart (docs/log.md)."""
    target_decay: Share = 0.95
    """Decay of the moving average of the student that says this estimate. 0 takes the student itself, as the papers do, at
    batches of hundreds and more; small ones come apart so."""


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
    """An estimate on the teacher's trajectory."""

    x0: Latents
    """The estimate."""
    dx0: Latents
    """How that changes with t along the trajectory."""
    guided: Latents
    """The teacher's estimate."""


def along(denoise: Denoiser, teacher: Teacher, x_t: Latents, t: Time, at: Scales, batch: Batch) -> Along:
    """Both estimates at ``(x_t, t)``, and the total derivative of ``denoise``'s along the teacher's trajectory, exact."""
    with full_precision(x_t):
        guided = teacher(x_t, t, batch.cond, batch.null)
        noise = (x_t - at.alpha * guided) / at.sigma
        dx = (at.alpha_slope * guided + at.sigma_slope * noise).to(x_t.dtype)
        x0, dx0 = denoise.tangent(x_t, t, batch.cond, dx, torch.ones_like(t))
    return Along(x0, dx0, guided)


def below(denoise: Denoiser, teacher: Teacher, x_t: Latents, t: Time, r: Time, batch: Batch) -> Latents:
    """What ``denoise`` estimates after one DDIM step of the guided teacher from t down to r. Clean data, r = 0, is its own
    estimate."""
    schedule = denoise.schedule
    x_r = sampler.ddim_step(schedule, x_t, teacher(x_t, t, batch.cond, batch.null), t, r)
    return torch.where(match_dims(r, x_r) > 0, denoise(x_r, r, batch.cond), x_r)


def average(parts: Parts) -> Denoiser:
    """A frozen copy of the student's denoiser, its moving average from now on, if `follow` moves it after every step."""
    target = parts.follower(parts.student.denoiser)
    assert isinstance(target, Denoiser)
    return target


@torch.no_grad()
def follow(target: nn.Module, network: nn.Module, decay: float) -> None:
    """Move a moving average a little towards the network."""
    for own, now in zip(target.parameters(), network.parameters(), strict=True):
        own.lerp_(now, 1 - decay)
