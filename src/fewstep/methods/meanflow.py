"""MeanFlow distillation (Geng et al., arXiv 2505.13447) of the map from any noise level to clean data, on any noise schedule.

==================  ================================================================================
paper               here
==================  ================================================================================
z_t, t              ``x_t / (alpha + sigma)`` and ``tau = sigma / (alpha + sigma)``, `Path`: every schedule is a straight
                    flow in these, ``z = (1 - tau) x0 + tau noise``
r                   0: the end of every interval
u_theta(z, r, t)    ``(z - x0) / tau`` for the ``student``'s estimate: the average velocity from z to it
v                   ``(z - x0) / tau`` for the guided ``teacher``'s estimate: the velocity at z
alpha, theta^-      ``(tau_t - tau_s) / tau_t``, of times ``Options.difference`` apart; ``target``, the student's moving average
du/dt               ``v du/dz + du/dt`` by `tangents.along`, one forward-mode derivative
p, c                ``Options.power``, ``Options.c``: the adaptive weight ``1 / (||error||^2 + c)^p``
==================  ================================================================================

``L = ||u_theta - sg(u_tgt)||^2`` with ``u_tgt = v - (t - r) du/dt`` (Eq. 9 and 10): the average velocity over an interval follows
from the one at its end and from how it changes. The paper takes v from data and noise and trains from nothing; here it is the
teacher's, guided, so that nothing has to be averaged over the noises that a z may come from.

The identity is the limit of a finite one (alpha-Flow, arXiv 2510.20771): ``u_tgt = alpha v + (1 - alpha) u_theta^-(z_s, r, s)``,
a step with v from z to ``z_s``, and from there the student's own average velocity. It has no du/dt. That is the default here,
with s ``difference`` below t: du/dt of a stock network is the slope of its fast waves of time (docs/log.md), and t - r multiplies
it. ``--meanflow.difference 0 --meanflow.target-decay 0`` is the paper's.

The paper's network is told r beside t. A stock network is told one time alone, so r stays 0, and the student is an ordinary
denoiser that stock tools draw as it is: in one step from pure noise, or in several with fresh noise in between. What a
second time would give, jumps to any r and so several steps without fresh noise, stock pipelines cannot ask for. With r = 0 the
method is a relative of ``scm``, with the flow's velocity in place of TrigFlow's, a weight that adapts in place of a warm-up, and
points at pure noise too, where one step begins: there sCM's tangent is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion import losses
from ..parts.denoiser import Denoiser, Student, Teacher, check_alike, noise_to
from ..ranges import Range
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly, full_precision
from . import tangents
from .method import OnePlayer, Parts
from .tangents import Scales, along, below, mixed_times, scales


@dataclass(frozen=True)
class Options(tangents.Options):
    """How the map to clean data is distilled."""

    logit_mean: Annotated[float, Range(-10, 10)] = -0.4
    """Mean of the logit of a point's time; the paper's -.4. The time is then put into ``times``."""
    logit_spread: Annotated[float, Range(0, 10, above=True)] = 1.0
    """Its standard deviation; the paper's 1."""
    power: Annotated[float, Range(0, 2)] = 1.0
    """p of the adaptive weight: 1 as in the paper; .5 is like a pseudo-Huber distance, 0 leaves the square."""
    c: Annotated[float, Range(0, above=True)] = 1e-3
    """What is added to the squared error, a mean over elements, before it divides."""


check = tangents.check


class Path(NamedTuple):
    """Times as a straight flow has them: everything ``[B, 1, ...]``, beside the latents."""

    tau: Tensor
    scale: Tensor
    """``alpha + sigma``: x_t over it is z."""
    slope: Tensor
    """How tau changes with the time."""


def path(at: Scales) -> Path:
    """The straight flow's time of these scales, and its derivative."""
    scale = at.alpha + at.sigma
    slope = (at.alpha * at.sigma_slope - at.sigma * at.alpha_slope) / (scale * scale)
    return Path(at.sigma / scale, scale, slope)


def velocity(at: Path, x_t: Latents, x0: Latents) -> Float[Tensor, " B *X"]:
    """``(z - x0) / tau``: from x0 to z in the time tau."""
    return (x_t / at.scale - x0) / at.tau


def target(v: Latents, du: Latents, span: Tensor) -> Float[Tensor, " B *X"]:
    """``v - (t - r) du/dt`` (Eq. 10); ``du`` is the total derivative at the later end, ``span`` is ``t - r``."""
    return v - span * du


def adaptive(error: Float[Tensor, " B"], power: float, c: float) -> Float[Tensor, " B"]:
    """``error / sg(error + c)^p`` (Eq. 22), a squared error of each sample."""
    return error / (error.detach() + c).pow(power)


class MeanFlow(OnePlayer):
    """The student's average velocity down to clean data obeys MeanFlow's identity along the teacher's trajectories."""

    def __init__(
        self, student: Student, teacher: Teacher, options: Options = Options(), target: Denoiser | None = None
    ) -> None:
        """``target``: a frozen copy of the student's denoiser, its average from now on; None is the student itself.
        ValueError where the two schedules differ."""
        check(options)
        check_alike(student, teacher)
        super().__init__("student", student.denoiser, options.student_moves(beta1=0.9))
        self.student, self.teacher, self.options = student, teacher, options
        self.target = student.denoiser if target is None else target
        self.followers = {} if target is None else {"target": target}
        self._observed: dict[str, float] = {}

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``consistency``: ``||u - sg(u_tgt)||^2``, a mean over elements, adaptively weighed."""
        o, schedule = self.options, self.student.denoiser.schedule
        t = self.draw_times(len(batch), rng).to(batch.x0.device)
        x_t = noise_to(schedule, batch.x0, rng.normal_like(batch.x0), t)
        here = scales(schedule, t, x_t)
        with torch.no_grad():
            wanted = self.wanted(x_t, t, here, batch)
        with full_precision(x_t):
            own = velocity(path(here), x_t, self.student.denoiser(x_t, t, batch.cond))
            error = losses.squared(own, wanted)
        self._observed = {"error": float(error.detach().mean())}
        return {"consistency": adaptive(error, o.power, o.c).mean()}

    def draw_times(self, n: int, rng: Rng) -> Time:
        """Logit-normal times, and the student's own."""
        o = self.options
        low, high = o.times
        t = exactly(torch.sigmoid(o.logit_mean + o.logit_spread * rng.normal((n,))))
        return mixed_times(low + (high - low) * t, list(self.student.times), o.own_times, rng)

    def wanted(self, x_t: Latents, t: Time, here: Scales, batch: Batch) -> Float[Tensor, " B *X"]:
        """u_tgt: alpha-Flow's, which is the way from z to the target's estimate a ``difference`` down; or MeanFlow's."""
        at, o = path(here), self.options
        if o.difference:
            with full_precision(x_t):
                r = (t - o.difference).clamp(min=0)
                return velocity(at, x_t, below(self.target, self.teacher, x_t, t, r, batch))
        x0, dx0, guided = along(self.target, self.teacher, x_t, t, here, batch)
        with full_precision(x_t):
            u, v = velocity(at, x_t, x0), velocity(at, x_t, guided)
            du = (v - u - dx0 / at.slope) / at.tau  # of (z - x0) / tau, along dz/dtau = v
            return target(v, du, at.tau)

    def observations(self) -> dict[str, float]:
        """``error``: the squared error before it is weighed, which its loss hides."""
        return self._observed

    def after_step(self, step: int) -> None:
        """Move the target, if there is one, a little towards the student."""
        for target in self.followers.values():
            tangents.follow(target, self.student.denoiser, self.options.target_decay)


def build(o: Options, parts: Parts) -> MeanFlow:
    """A MeanFlow student of a run's parts."""
    target = tangents.average(parts) if o.target_decay else None
    return MeanFlow(parts.student, parts.teacher, o, target)
