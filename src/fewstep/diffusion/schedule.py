"""Noise schedules: ``x_t = alpha(t) x0 + sigma(t) noise`` with t in [0, 1], 0 clean and 1 pure noise.

Coefficients are float64 (float32 on a device that has none) and are cast to the dtype of the data where they are applied,
never before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..tensors import Latents, Time, exact_dtype, exactly, match_dims, snapped, valued


@runtime_checkable
class NoiseSchedule(Protocol):
    """Signal and noise scale at each time."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale ``[B]``, float64."""

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale ``[B]``, float64."""


def start_scale(schedule: NoiseSchedule, t: Tensor) -> Tensor:
    """What the pure noise that a draw starts from is scaled by at ``t [B]``: sigma(t), where the schedule does not say else."""
    own: Callable[[Tensor], Tensor] = getattr(schedule, "start", schedule.sigma)
    return own(t)


def knot(schedule: NoiseSchedule, t: float) -> float:
    """The time of a pretrained model's table that is nearest to ``t``; ``t`` itself on a schedule without a table."""
    own: Callable[[float], float] = getattr(schedule, "knot", float)
    return own(t)


def time_of(schedule: NoiseSchedule, ratio: Float[Tensor, " B"]) -> Time:
    """The times at which ``ln(sigma / alpha)`` is this, between 0 and 1, by bisection: noise grows with the time."""
    low, high = torch.zeros_like(ratio), torch.ones_like(ratio)
    for _ in range(40):
        t = (low + high) / 2
        more = schedule.sigma(t) > schedule.alpha(t) * ratio.exp()
        low, high = torch.where(more, low, t), torch.where(more, t, high)
    return (low + high) / 2


def add_noise(schedule: NoiseSchedule, x0: Latents, noise: Latents, t: Time) -> Latents:
    """Diffuse: ``x_t = alpha(t) x0 + sigma(t) noise`` (DDPM, arXiv 2006.11239, Eq. 4)."""
    return match_dims(schedule.alpha(t), x0) * x0 + match_dims(schedule.sigma(t), x0) * noise


class CachedCoefficients:
    """A pair of coefficients for whoever visits few times again and again: computed once a time, then looked up."""

    def __init__(self, pair: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self._pair = pair
        self._known: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The pair at ``t [B]``."""
        key = (t.device, *t.tolist())
        if key not in self._known:
            if len(self._known) >= 256:
                self._known.clear()
            with torch.inference_mode(False), torch.no_grad():  # of use in any mode later on
                self._known[key] = self._pair(t)
        return self._known[key]


class CachedSchedule:
    """A schedule of which each coefficient is computed once, then looked up."""

    def __init__(self, schedule: NoiseSchedule, unit_start: bool = False) -> None:
        """``unit_start``: draws begin at t = 1 with noise of scale 1, whatever the schedule says."""
        self.at = CachedCoefficients(lambda t: (schedule.alpha(t), schedule.sigma(t)))
        """Both at once."""
        self._schedule, self._unit_start = schedule, unit_start

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""
        return self.at(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""
        return self.at(t)[1]

    def start(self, t: Tensor) -> Tensor:
        """What pure noise is scaled by."""
        scale = start_scale(self._schedule, t)
        return torch.where(t >= 1, torch.ones_like(scale), scale) if self._unit_start else scale


def beta_table(start: float, end: float, n: int, kind: str) -> Float[Tensor, " T"]:
    """The usual tables: ``linear`` (DDPM), ``scaled_linear`` (Stable Diffusion), ``squaredcos_cap_v2`` (arXiv 2102.09672,
    Eq. 17) or ``sigmoid`` (GeoDiff, arXiv 2203.02923). Raises ValueError otherwise."""
    if kind == "linear":
        betas = torch.linspace(start, end, n, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    elif kind == "squaredcos_cap_v2":
        kept = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    elif kind == "sigmoid":
        betas = torch.sigmoid(torch.linspace(-6, 6, n, dtype=torch.float64)) * (end - start) + start
    else:
        raise ValueError(f"unknown beta schedule {kind!r}: use linear, scaled_linear, squaredcos_cap_v2 or sigmoid")
    return betas


class VariancePreserving:
    """A pretrained model's table of betas, read at any t: knot k of the table stands at ``t = (k + 1) / T``.

    Between knots alpha is interpolated linearly and ``sigma = sqrt(1 - alpha^2)``; ``t = 0`` is exactly clean. With
    ``zero_terminal_snr`` the table is rescaled so that t = 1 is exactly pure noise (arXiv 2305.08891, Algorithm 1).
    """

    def __init__(self, betas: Float[Tensor, " T"], zero_terminal_snr: bool = False, unit_start: bool = False) -> None:
        """``unit_start``: draws begin with noise of scale 1, not sigma(1), as pipelines do that hand their noise on as it is."""
        root = (1 - betas.double()).cumprod(0).sqrt()  # sqrt of alpha_bar: this project's alpha
        if zero_terminal_snr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        self._knots = torch.cat([root.new_ones(1), root])
        self._on: dict[torch.device, Tensor] = {}
        self._unit_start = unit_start

    @classmethod
    def from_range(
        cls, start: float = 0.00085, end: float = 0.012, n: int = 1000, kind: str = "scaled_linear", **options: bool
    ) -> VariancePreserving:
        """One of the usual tables: `beta_table`."""
        return cls(beta_table(start, end, n, kind), **options)

    @property
    def n_timesteps(self) -> int:
        """Length of the table."""
        return len(self._knots) - 1

    def knot(self, t: float) -> float:
        """The nearest time of the table."""
        return max(1, round(t * self.n_timesteps)) / self.n_timesteps

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""
        if t.device not in self._on:  # copied once to each device, not at every call
            self._on[t.device] = self._knots.to(t.device, exact_dtype(t.device))
        knots = self._on[t.device]
        # a float32 t such as 0.999 stands for its knot exactly, not for a point 1e-5 beside it
        position = snapped(exactly(t).clamp(0, 1) * self.n_timesteps)
        low = position.floor().long().clamp(max=self.n_timesteps - 1)
        return torch.lerp(knots[low], knots[low + 1], position - low)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""
        return (1 - self.alpha(t) ** 2).clamp(min=0).sqrt()

    def start(self, t: Tensor) -> Tensor:
        """What pure noise is scaled by."""
        sigma = self.sigma(t)
        return torch.where(t >= 1, torch.ones_like(sigma), sigma) if self._unit_start else sigma


class RectifiedFlow:
    """The straight path ``x_t = (1 - t) x0 + t noise`` (arXiv 2209.03003), as SD3 and FLUX use it.

    With ``last`` below 1 the path is followed to there: ``sigma = last t``. Stock diffusers' multistep solvers do so, to
    ``(N - 1) / N``, and start from noise of full scale all the same. With ``shift`` s the path is walked at another pace:
    ``sigma = s u / (1 + (s - 1) u)`` for ``u = last t``, later where s is above 1 (SD3, arXiv 2403.03206, Eq. 23).
    """

    def __init__(self, n_timesteps: int = 1000, last: float = 1.0, shift: float = 1.0) -> None:
        """``n_timesteps`` is what its networks call sigma = 1: SD3 and FLUX count to 1000. Raises ValueError for a shift of 0 or
        less."""
        if not (math.isfinite(shift) and shift > 0):
            raise ValueError(f"a flow cannot be shifted by {shift}: give a number above 0, 1 for none")
        self.n_timesteps, self.last, self.shift = n_timesteps, last, shift

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""
        return 1 - self.sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""
        return self._shifted(self.last * exactly(t))

    def start(self, t: Tensor) -> Tensor:
        """What pure noise is scaled by: not at all at t = 1."""
        return self._shifted(exactly(t))

    def _shifted(self, u: Tensor) -> Tensor:
        return u if self.shift == 1 else u / (u + (1 - u) / self.shift)  # exactly 1 at u = 1, whatever the shift


class Cosine:
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)``: variance preserving, zero terminal SNR (arXiv 2102.09672)."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale; exactly 0 at t = 1."""
        alpha = torch.cos(exactly(t) * torch.pi / 2)
        return torch.where(t >= 1, valued(alpha, torch.zeros_like(alpha)), alpha)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""
        return torch.sin(exactly(t) * torch.pi / 2)


class EDM:
    """EDM's exploding schedule, made variance preserving by dividing through ``sqrt(1 + s^2)``; s follows Karras' rho ramp.

    At t the noise-to-signal ratio is ``s(t) = (s_min^(1/rho) + t (s_max^(1/rho) - s_min^(1/rho)))^rho`` for t > 0
    (arXiv 2206.00364, Eq. 5), and exactly 0 at t = 0. ``alpha = 1/sqrt(1+s^2)``, ``sigma = s/sqrt(1+s^2)``.
    """

    def __init__(self, s_min: float = 0.002, s_max: float = 80.0, rho: float = 7.0) -> None:
        self._low, self._high, self._rho = s_min ** (1 / rho), s_max ** (1 / rho), rho

    def ratio(self, t: Tensor) -> Tensor:
        """EDM's own sigma: noise over signal."""
        ramp = (self._low + exactly(t) * (self._high - self._low)) ** self._rho
        return torch.where(t <= 0, torch.zeros_like(ramp), ramp)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale."""
        return 1 / (1 + self.ratio(t) ** 2).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale."""
        s = self.ratio(t)
        return s / (1 + s**2).sqrt()
