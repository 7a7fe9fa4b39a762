"""Samplers: generators that yield the x0 estimate of every step, for any denoiser, any schedule, any shape.

A sampler is handed ``denoise(x_t, t) -> x0`` (conditioning and guidance already bound), the noise to start from, and the
times to visit in falling order. The last value it yields is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..rng import Rng
from ..tensors import Latents, exact_dtype, match_dims
from .schedule import NoiseSchedule, start_scale

Denoise = Callable[[Latents, Tensor], Latents]
KINDS = ("ancestral", "renoise", "ddim", "heun")


def trailing_times(steps: int) -> list[float]:
    """``1, (n-1)/n, ... 1/n``: timesteps 999, 749, 499, 249 for four steps of a table of 1000 (arXiv 2305.08891, 3.3)."""
    if steps < 1:
        raise ValueError(f"cannot draw in {steps} steps: use 1 or more")
    return [(steps - i) / steps for i in range(steps)]


NEAR = 1e-3
"""How far a time may lie from another that it stands for: a step of the usual table."""


def step_counts(times: Sequence[float]) -> tuple[int, ...]:
    """In how many steps a student of these times draws on times that it knows: all of `trailing_times` are among them.

    Stock diffusers' schedulers space every step count so, and no other way: four times evenly spaced give 1, 2 and 4 steps,
    not 3, whose times are 1, .667 and .333.
    """
    return tuple(
        n
        for n in range(1, len(times) + 1)
        if all(any(abs(t - own) <= NEAR for own in times) for t in trailing_times(n))
    )


def at(t: float, like: Latents) -> Tensor:
    """The time t for every row of ``like``, in its device's `exact_dtype`."""
    return torch.full((like.shape[0],), t, dtype=exact_dtype(like.device), device=like.device)


def pure(schedule: NoiseSchedule, noise: Latents, t: float = 1.0) -> Latents:
    """``sigma(t) noise``: where every draw starts. sigma(1) is below 1 where alpha(1) > 0, .9977 on Stable Diffusion's table."""
    return match_dims(start_scale(schedule, at(t, noise)), noise) * noise


def renoise(schedule: NoiseSchedule, x0: Latents, t_next: Tensor, rng: Rng) -> Latents:
    """``alpha' x0 + sigma' z``: forget the old noise entirely (consistency models, arXiv 2303.01469, Algorithm 1)."""
    return match_dims(schedule.alpha(t_next), x0) * x0 + match_dims(schedule.sigma(t_next), x0) * rng.normal_like(x0)


def ancestral(schedule: NoiseSchedule, x_t: Latents, x0: Latents, t: Tensor, t_next: Tensor, rng: Rng) -> Latents:
    """Euler ancestral with eta = 1: a draw from the diffusion posterior q(x_t' | x_t, x0) (arXiv 2006.11239, Eq. 6).

    With ``r = (s'/s)^2`` and s = sigma/alpha: ``x' = alpha'(1-r) x0 + (sigma'^2 alpha)/(alpha' sigma^2) x_t
    + sigma' sqrt(1-r) z``. Finite at alpha = 0, where it equals ``renoise``.
    """
    a, s, a2, s2 = (f(u) for u in (t, t_next) for f in (schedule.alpha, schedule.sigma))
    r = (s2 * a / (s * a2)) ** 2
    keep = s2**2 * a / (a2 * s**2)
    noise = match_dims(s2 * (1 - r).clamp(min=0).sqrt(), x0) * rng.normal_like(x0)
    return match_dims(a2 * (1 - r), x0) * x0 + match_dims(keep, x0) * x_t + noise


def stochastic_step(
    kind: str, schedule: NoiseSchedule, x_t: Latents, x0: Latents, t: Tensor, t_next: Tensor, rng: Rng
) -> Latents:
    """From t to t_next with fresh noise, by the sampler's name: ``ancestral`` or ``renoise``."""
    if kind == "renoise":
        return renoise(schedule, x0, t_next, rng)
    return ancestral(schedule, x_t, x0, t, t_next, rng)


def few_step(
    denoise: Denoise, x_t: Latents, times: Sequence[float], schedule: NoiseSchedule, rng: Rng, kind: str = "ancestral"
) -> Iterator[Latents]:
    """The student's sampler: one network call a time, fresh noise in between (add_spec A7). One step: just x0."""
    for i, now in enumerate(times):
        t = at(now, x_t)
        x0 = denoise(x_t, t)
        yield x0
        if i + 1 < len(times):
            x_t = stochastic_step(kind, schedule, x_t, x0, t, at(times[i + 1], x_t), rng)


def ddim_step(schedule: NoiseSchedule, x_t: Latents, x0: Latents, t: Tensor, t_next: Tensor) -> Latents:
    """One deterministic step from t to t_next along the line through x_t and x0 (DDIM, arXiv 2010.02502, Eq. 12)."""
    a, s, a2, s2 = (f(u) for u in (t, t_next) for f in (schedule.alpha, schedule.sigma))
    ratio = match_dims(s2 / s, x0)
    return match_dims(a2, x0) * x0 + ratio * (x_t - match_dims(a, x0) * x0)


def ddim(denoise: Denoise, x_t: Latents, times: Sequence[float], schedule: NoiseSchedule) -> Iterator[Latents]:
    """Deterministic first-order sampler (DDIM, arXiv 2010.02502, Eq. 12 with eta = 0). One call a step."""
    for i, now in enumerate(times):
        t = at(now, x_t)
        x0 = denoise(x_t, t)
        yield x0
        if i + 1 < len(times):
            x_t = ddim_step(schedule, x_t, x0, t, at(times[i + 1], x_t))


def tapered_times(first: float, steps: int) -> list[float]:
    """``steps`` falling times from ``first``: spaced like trailing ones at the noisy end, ever closer towards clean data.

    ``t = first u^3 (3 - 2u)`` for u = 1, (n-1)/n, ... 1/n; at u = 1 its slope is that of trailing times. Heun's rule is second
    order only where sigma, at the end, falls faster than 1/n: on trailing times of Stable Diffusion's table, where sigma goes
    as the root of t, the last jump alone costs 1/n. Here it falls as n^-3/2 there, as n^-3 on the other schedules. The noisy
    end stays as it is, for guided networks need it at few steps (docs/log.md). EDM's own ramp would need no taper.
    """
    at = [(steps - i) / steps for i in range(steps)]
    return [first * u**3 * (3 - 2 * u) for u in at]


def visited(kind: str, times: Sequence[float]) -> list[float]:
    """The times that a sampler visits when it is handed ``times``: ``heun`` places its own, every other takes them as given."""
    return tapered_times(times[0], len(times)) if kind == "heun" else list(times)


def heun(denoise: Denoise, x_t: Latents, times: Sequence[float], schedule: NoiseSchedule) -> Iterator[Latents]:
    """Second-order sampler: a DDIM step, then the same step with the mean of both ends' x0. Two calls a step but the last.

    Heun's rule in the exact exponential-integrator coordinates of the probability-flow ODE (DPM-Solver++, arXiv 2211.01095).
    ``times`` are visited as they are: down to clean data it is second order at ``tapered_times``.
    """
    for i, now in enumerate(times):
        t = at(now, x_t)
        x0 = denoise(x_t, t)
        if i + 1 == len(times):
            yield x0
            return
        t_next = at(times[i + 1], x_t)
        ahead = denoise(ddim_step(schedule, x_t, x0, t, t_next), t_next)
        x0 = (x0 + ahead) / 2
        yield x0
        x_t = ddim_step(schedule, x_t, x0, t, t_next)


def sample(
    denoise: Denoise, noise: Latents, times: Sequence[float], schedule: NoiseSchedule, rng: Rng, kind: str = "ancestral"
) -> Iterator[Latents]:
    """Sample from pure noise with a sampler picked by name."""
    return sample_from(denoise, pure(schedule, noise, times[0]), times, schedule, rng, kind)


def sample_from(
    denoise: Denoise, x_t: Latents, times: Sequence[float], schedule: NoiseSchedule, rng: Rng, kind: str = "ancestral"
) -> Iterator[Latents]:
    """Sample on from ``x_t``, already at the first time: a noised picture, say. ValueError for an unknown sampler.

    ``heun`` takes the first of the times and how many they are, and places the others itself (``visited``).
    """
    if kind not in KINDS:
        raise ValueError(f"unknown sampler {kind!r}: use one of {', '.join(KINDS)}")
    if kind == "ddim":
        return ddim(denoise, x_t, times, schedule)
    if kind == "heun":
        return heun(denoise, x_t, visited(kind, times), schedule)
    return few_step(denoise, x_t, times, schedule, rng, kind)


def last(estimates: Iterator[Latents]) -> Latents:
    """Run a sampler to its end and keep the result."""
    *_, result = estimates
    return result
