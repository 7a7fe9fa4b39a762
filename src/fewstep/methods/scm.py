"""Continuous-time consistency distillation (sCM; Lu & Song, arXiv 2410.11081), on any noise schedule.

==================  ================================================================================
paper               here
==================  ================================================================================
f_theta(x_t, t)     ``student``'s estimate of x0, which is what TrigFlow's ``cos x - sin F`` is
F_theta, dx/dt      `velocity` of the student's estimate, and of the guided teacher's
t, cos t, sin t     the angle ``atan(sigma / alpha)`` of a time; both scales over ``sqrt(alpha^2 + sigma^2)``
df/dt               `Denoiser.tangent` along the teacher's trajectory, by one forward-mode derivative
g, r, c             the tangent, its warm-up, and what normalises it: ``g / (||g|| + c)``
==================  ================================================================================

A consistent student gives the same estimate all along a trajectory, ``df/dt = 0``. The loss is
``||F_theta - sg(F_theta + g)||^2`` with ``g = -cos^2 (F_theta - dx/dt) - r (cos sin x_t + cos sin dF_theta/dt)`` (Eq. 8 and
Algorithm 1), which is ``cos df/dt`` where r = 1. It needs no neighbouring time and no target network. The paper's learned weight
of each time is left out.

The derivative is as good as the network is smooth in its time. The paper changes the network's time embedding for that; stock
networks embed the timestep of a thousand in fast waves, and on digits such a student came apart (docs/log.md): try it beside
``lcm`` before you rely on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..parts.denoiser import Student, Teacher, check_alike, noise_to
from ..ranges import Limit, Range
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly, full_precision, match_dims
from . import tangents
from .method import OnePlayer, Parts, Turn
from .tangents import Scales, along, mixed_times, scales


@dataclass(frozen=True)
class Options(tangents.Options):
    """How a continuous-time consistency model is distilled."""

    normalise: bool = True
    """Divide the tangent by its root mean square and ``c``: a tangent that is large somewhere then breaks nothing."""
    c: Annotated[float, Range(0, above=True)] = 0.1
    """What is added to it. Of ``normalise`` only."""
    warmup: Limit = 100
    """Steps in which r rises from 0 to 1: the tangent's second part is the unstable one. The paper's 10,000 are of long runs."""


check = tangents.check


class Angle(NamedTuple):
    """A time as TrigFlow has it: everything ``[B, 1, ...]``, beside the latents."""

    cos: Tensor
    sin: Tensor
    scale: Tensor
    """``sqrt(alpha^2 + sigma^2)``: x_t over it is the paper's."""
    slope: Tensor
    """How the angle changes with the time."""


def angle(at: Scales) -> Angle:
    """The angle of times, and its derivative."""
    square = at.alpha.pow(2) + at.sigma.pow(2)
    scale = square.sqrt()
    slope = (at.alpha * at.sigma_slope - at.sigma * at.alpha_slope) / square
    return Angle(at.alpha / scale, at.sigma / scale, scale, slope)


def velocity(at: Angle, x_t: Latents, x0: Latents) -> Latents:
    """``F = (cos x - x0) / sin``, for the x of TrigFlow."""
    return (at.cos * x_t / at.scale - x0) / at.sin


class ContinuousConsistency(OnePlayer):
    """The student's estimate is made constant along the teacher's trajectories."""

    def __init__(self, student: Student, teacher: Teacher, options: Options = Options()) -> None:
        """ValueError where the two schedules differ."""
        check(options)
        check_alike(student, teacher)
        super().__init__("student", student.denoiser, options.student_moves(beta1=0.9))
        self.student, self.teacher, self.options = student, teacher, options
        self._warmed = 1.0
        self._observed: dict[str, float] = {}

    def turns(self, step: int) -> Sequence[Turn]:
        """The student; r rises with the steps."""
        self._warmed = min(1.0, (step + 1) / max(1, self.options.warmup))
        return (Turn("student"),)

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``consistency``: ``||F - sg(F + g)||^2``, a mean over elements."""
        t = self.draw_times(len(batch), rng).to(batch.x0.device)
        schedule = self.student.denoiser.schedule
        x_t = noise_to(schedule, batch.x0, rng.normal_like(batch.x0), t)
        here = scales(schedule, t, x_t)
        at = angle(here)
        with torch.no_grad():
            x0, g = self.tangent(x_t, t, here, batch)
            size = g.pow(2).flatten(1).mean(1).sqrt()
            self._observed = {"tangent": float(size.mean())}
            if self.options.normalise:
                g = g / match_dims(size + self.options.c, g)
            wanted = velocity(at, x_t, x0) + g
        with full_precision(x_t):
            own = velocity(at, x_t, self.student.denoiser(x_t, t, batch.cond))
        return {"consistency": (own - wanted).pow(2).mean()}

    def draw_times(self, n: int, rng: Rng) -> Time:
        """Uniform times, and the student's own below 1: at 1 the tangent is nothing, for cos is."""
        t = exactly(rng.uniform((n,), *self.options.times))
        return mixed_times(t, [own for own in self.student.times if own < 1], self.options.own_times, rng)

    def tangent(self, x_t: Latents, t: Time, here: Scales, batch: Batch) -> tuple[Latents, Float[Tensor, " B *X"]]:
        """The student's estimate, and g along the teacher's trajectory."""
        at = angle(here)
        x0, dx0, guided = along(self.student, self.teacher, x_t, t, here, batch, self.options.difference)
        with full_precision(x_t):
            whole = at.cos * dx0 / at.slope
            first = -(at.cos**2) * (velocity(at, x_t, x0) - velocity(at, x_t, guided))
        return x0, first + self._warmed * (whole - first)

    def observations(self) -> dict[str, float]:
        """``tangent``: its root mean square before it is normalised."""
        return self._observed


def build(o: Options, parts: Parts) -> ContinuousConsistency:
    """A continuous-time consistency model of a run's parts."""
    return ContinuousConsistency(parts.student, parts.teacher, o)
