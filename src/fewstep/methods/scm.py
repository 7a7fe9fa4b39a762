"""Continuous-time consistency distillation (sCM; Lu & Song, arXiv 2410.11081), on any noise schedule.

==================  ================================================================================
paper               here
==================  ================================================================================
f_theta(x_t, t)     ``student``'s estimate of x0, which is what TrigFlow's ``cos x - sin F`` is
F_theta, dx/dt      `velocity` of the student's estimate, and of the guided teacher's
t, cos t, sin t     the angle ``atan(sigma / alpha)`` of a time; both scales over ``sqrt(alpha^2 + sigma^2)``
t', theta^-         a time ``Options.difference`` below; ``target``, the student's moving average
df/dt               `Denoiser.tangent` along the teacher's trajectory, by one forward-mode derivative
g, r, c             the tangent, its warm-up, and what normalises it: ``g / (||g|| + c)``
w_phi(t)            ``weight``: a `TimeWeight` of the angle, a player of its own, ``Options.learned_weight``
lambda, f_fake      ``Options.score_weight`` and ``fake_score`` (rCM)
==================  ================================================================================

A consistent student gives the same estimate all along a trajectory, ``df/dt = 0``. The paper's loss is
``||F_theta - sg(F_theta + g)||^2`` with ``g = -cos^2 (F_theta - dx/dt) - r (cos sin x_t + cos sin dF_theta/dt)`` (Eq. 8 and
Algorithm 1), which is ``cos df/dt`` where r = 1. It needs no neighbouring time and no target network. The paper weighs each time
by ``exp(w_phi(t))``, with ``-w_phi(t)`` beside it in the loss: ``--scm.learned-weight``.

rCM (arXiv 2510.08431) puts the gradient of a reverse divergence beside it, as DMD2 has it, at samples of the student's own
roll-out: consistency covers what the teacher draws, and the second score takes the blur off: ``--scm.score-weight``.

The derivative is as good as the network is smooth in its time. The paper changes the network's time embedding for that; stock
networks embed the timestep of a thousand in fast waves, whose slope drowns the rest, and their students came apart
(docs/log.md). So the default here is what the paper takes the limit of, the discrete consistency loss of consistency models
(arXiv 2303.01469), in TrigFlow's terms: ``||F_theta - F*||^2``, where F* leads from x_t to the target's estimate after one step
of the teacher, down to t'. The target is a moving average of the student, without which small batches come apart.
``--scm.difference 0 --scm.target-decay 0`` is the paper's, for networks that are smooth in their time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion import losses
from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE
from ..parts.denoiser import Denoiser, Student, StudentInput, Teacher, check_alike, noise_to
from ..ranges import Count, Limit, Range, Rate, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly, full_precision, match_dims
from . import scores, tangents
from .method import UNKNOWN, Defaults, Facts, Optimizer, Parts, Player, Turn
from .scores import check_rising
from .tangents import Scales, along, below, mixed_times, scales


@dataclass(frozen=True)
class Options(tangents.Options):
    """How a continuous-time consistency model is distilled."""

    normalise: bool = True
    """Divide the tangent by its root mean square and ``c``: a tangent that is large somewhere then breaks nothing. Of the exact
    derivative only (``difference`` 0), as the two that follow."""
    c: Annotated[float, Range(0, above=True)] = 0.1
    """What is added to it."""
    warmup: Limit = 100
    """Steps in which r rises from 0 to 1: the tangent's second part is the unstable one. The paper's 10,000 are of long runs."""
    learned_weight: bool = False
    """Weigh each time by ``exp(w(t))``, where w learns what makes the mean error of every time count alike (Eq. 8)."""
    weight_learning_rate: Annotated[Rate, CHANGEABLE] = 1e-2
    """Adam's learning rate of w. Of ``learned_weight`` only."""
    score_weight: Annotated[Weight, CHANGEABLE] = 0.0
    """Weight of rCM's regulariser, the gradient of a reverse divergence at the student's own samples; 0 leaves it out. rCM's is
    .01, beside a consistency loss of 1."""
    fake_score_turns: Count = 5
    """Updates of the fake score for one of the student, each on new samples. Of ``score_weight`` only, as what follows."""
    fake_score_learning_rate: Annotated[Rate, CHANGEABLE] = 2e-4
    """Adam's learning rate of the fake score."""
    score_times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform time that a sample is noised to before the two scores are asked."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    tangents.check(o, facts)
    check_rising("score times", o.score_times)


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


class TimeWeight(nn.Module):
    """w of an angle: a cosine series over its range, 0 everywhere at first."""

    def __init__(self, terms: int = 8) -> None:
        super().__init__()
        self.series = nn.Linear(terms, 1)
        nn.init.zeros_(self.series.weight)
        nn.init.zeros_(self.series.bias)

    def forward(self, x: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Of angles from 0 to pi/2."""
        k = torch.arange(1, self.series.in_features + 1, device=x.device, dtype=x.dtype)
        return self.series(torch.cos(2 * k * x[:, None]).to(self.series.weight.dtype)).squeeze(1)


class Seen(NamedTuple):
    """What the student's turn found on a batch, kept for the turn of the weight."""

    batch: Batch
    angle: Float[Tensor, " B"]
    error: Float[Tensor, " B"]


class ContinuousConsistency(Defaults):
    """The student's estimate is made constant along the teacher's trajectories; a weight of each time, and a second score that
    learns the student's samples, if asked."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        options: Options = Options(),
        fake_score: Denoiser | None = None,
        target: Denoiser | None = None,
    ) -> None:
        """``fake_score`` is a trainable denoiser of its own, best a copy of the teacher's; ``target`` a frozen copy of the
        student's, its average from now on, and None the student itself. ValueError where ``score_weight`` asks for a fake score
        and there is none, or where the two schedules differ."""
        check(options)
        check_alike(student, teacher)
        if options.score_weight and fake_score is None:
            raise ValueError("rCM's regulariser needs a fake score: give one, or set score_weight to 0")
        self.student, self.teacher, self.options = student, teacher, options
        self.target = student.denoiser if target is None else target
        self.followers = {} if target is None else {"target": target}
        self.fake_score = fake_score if options.score_weight else None
        self.weight = TimeWeight().to(next(student.denoiser.parameters()).device) if options.learned_weight else None
        self.input = StudentInput(student, backward=1.0)
        self._warmed = 1.0
        self._observed: dict[str, float] = {}
        self._seen: list[Seen] = []

    @property
    def players(self) -> Mapping[str, Player]:
        """``student`` and, where they are asked for, ``weight`` and ``fake_score``."""
        o = self.options
        out = {"student": Player(self.student.denoiser, o.student_moves(beta1=0.9))}
        if self.weight is not None:
            out["weight"] = Player(self.weight, Optimizer(o.weight_learning_rate, beta1=0.9, warmup=0))
        if self.fake_score is not None:
            out["fake_score"] = Player(self.fake_score, Optimizer(o.fake_score_learning_rate, beta1=0.9, warmup=20))
        return out

    def turns(self, step: int) -> Sequence[Turn]:
        """The student, for which r rises with the steps; the weight on the same errors; the fake score, on a new batch each."""
        self._warmed = min(1.0, (step + 1) / max(1, self.options.warmup))
        weighing = (Turn("weight"),) if self.weight is not None else ()
        following = range(self.options.fake_score_turns if self.fake_score is not None else 0)
        return (Turn("student"), *weighing, *(Turn("fake_score", k) for k in following))

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``consistency`` and ``distribution_matching`` for the student, ``consistency`` for the weight, ``denoising`` for the
        fake score."""
        if player == "weight":
            return self._weighing(batch)
        if player == "fake_score":
            assert self.fake_score is not None, "without a score_weight there is no such player"
            self._observed = {}
            with torch.no_grad():
                sample = self._draw(batch, rng)
            return {"denoising": scores.follows(self.fake_score, sample, batch, rng)}
        error, x = self.errors(batch, rng)
        if self.weight is not None:
            self._seen.append(Seen(batch, x, error.detach()))
            error = self.weight(x).detach().exp() * error
        out = {"consistency": error.mean()}
        if self.fake_score is not None:
            out["distribution_matching"] = self.options.score_weight * self.matching(batch, rng).mean()
        return out

    def errors(self, batch: Batch, rng: Rng) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """``||F - sg(F*)||^2`` of each sample, a mean over elements; and its angle."""
        t = self.draw_times(len(batch), rng).to(batch.x0.device)
        schedule = self.student.denoiser.schedule
        x_t = noise_to(schedule, batch.x0, rng.normal_like(batch.x0), t)
        here = scales(schedule, t, x_t)
        at = angle(here)
        with torch.no_grad():
            wanted = self.wanted(x_t, t, here, batch)
        with full_precision(x_t):
            own = velocity(at, x_t, self.student.denoiser(x_t, t, batch.cond))
            error = losses.squared(own, wanted)
        self._observed |= {"error": float(error.detach().mean())}
        return error, torch.atan2(schedule.sigma(t), schedule.alpha(t)).float()

    def wanted(self, x_t: Latents, t: Time, here: Scales, batch: Batch) -> Float[Tensor, " B *X"]:
        """F*: the way from x_t to the target's estimate a ``difference`` down; by the exact derivative F + g."""
        at, o = angle(here), self.options
        self._observed = {}
        if o.difference:
            with full_precision(x_t):
                r = (t - o.difference).clamp(min=0)
                return velocity(at, x_t, below(self.target, self.teacher, x_t, t, r, batch))
        x0, g = self.tangent(x_t, t, here, batch)
        size = g.pow(2).flatten(1).mean(1).sqrt()
        self._observed = {"tangent": float(size.mean())}
        if o.normalise:
            g = g / match_dims(size + o.c, g)
        return velocity(at, x_t, x0) + g

    def _weighing(self, batch: Batch) -> dict[str, Tensor]:
        """``e^w error - w``, which is least where e^-w is the mean error at that time."""
        assert self.weight is not None, "without learned_weight there is no such player"
        seen = next(s for s in reversed(self._seen) if s.batch is batch)
        w = self.weight(seen.angle)
        self._observed = {"least": float(w.detach().min()), "most": float(w.detach().max())}
        return {"consistency": (w.exp() * seen.error - w).mean()}

    def _draw(self, batch: Batch, rng: Rng) -> Latents:
        """A sample of the student's, from its own roll-out."""
        x_t, t, _ = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond)

    def matching(self, batch: Batch, rng: Rng) -> Float[Tensor, " B"]:
        """DMD's loss at the student's own samples."""
        assert self.fake_score is not None
        sample = self._draw(batch, rng)
        t = exactly(rng.uniform((len(sample),), *self.options.score_times))
        with torch.no_grad():
            x_t = add_noise(self.teacher.schedule, sample, rng.normal_like(sample), t)
            real = self.teacher(x_t, t, batch.cond, batch.null)
            fake = self.fake_score(x_t, t, batch.cond)
            gradient = (fake - real) / match_dims(scores.size_of(sample, real), sample)
            self._observed |= {"score_difference": float(gradient.abs().mean())}
        return scores.moved(sample, gradient)

    def draw_times(self, n: int, rng: Rng) -> Time:
        """Uniform times, and the student's own; by the exact derivative only those below 1, where the tangent is nothing, for cos
        is."""
        o = self.options
        t = exactly(rng.uniform((n,), *o.times))
        return mixed_times(t, [own for own in self.student.times if own < 1 or o.difference], o.own_times, rng)

    def tangent(self, x_t: Latents, t: Time, here: Scales, batch: Batch) -> tuple[Latents, Float[Tensor, " B *X"]]:
        """The target's estimate, and g along the teacher's trajectory."""
        at = angle(here)
        x0, dx0, guided = along(self.target, self.teacher, x_t, t, here, batch)
        with full_precision(x_t):
            whole = at.cos * dx0 / at.slope
            first = -(at.cos**2) * (velocity(at, x_t, x0) - velocity(at, x_t, guided))
        return x0, first + self._warmed * (whole - first)

    def observations(self) -> dict[str, float]:
        """``error``: the squared error before it is weighed; ``tangent``: the exact one's root mean square before it is
        normalised; ``score_difference`` as DMD2's; ``least``, ``most``: w."""
        return self._observed

    def after_step(self, step: int) -> None:
        """Forget the errors: the next step has its own. Move the target, if there is one, a little towards the student."""
        self._seen = []
        for target in self.followers.values():
            tangents.follow(target, self.student.denoiser, self.options.target_decay)


def build(o: Options, parts: Parts) -> ContinuousConsistency:
    """A continuous-time consistency model of a run's parts."""
    fake_score = parts.denoiser() if o.score_weight else None
    target = tangents.average(parts) if o.target_decay else None
    return ContinuousConsistency(parts.student, parts.teacher, o, fake_score, target)
