"""Denoisers: whatever a network predicts inside, its forward gives the clean estimate x0."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..diffusion import prediction, sampler
from ..diffusion.guidance import guide
from ..diffusion.losses import huber, squared
from ..diffusion.schedule import NoiseSchedule, knot, start_scale
from ..rng import Rng
from ..tensors import Batch, Conditioning, Features, Latents, Time, full_precision, match_dims


class Denoiser(nn.Module):
    """A network, its noise schedule, and what it predicts. Subclasses give ``predict`` and, if they can, ``features``."""

    def __init__(self, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__()
        self.schedule = schedule
        self.kind = prediction.check_kind(kind)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The network's own output, of kind ``self.kind``: what teacher training regresses."""
        raise NotImplementedError("a Denoiser subclass gives predict()")

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        """Intermediate maps of the network at ``(x_t, t)``, shallow to deep: LADD's feature network."""
        raise ValueError(f"{type(self).__name__} offers no features: choose another feature network")

    def forward(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """x0 estimate, in the dtype of ``x_t``."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        out = self.predict(x_t, t, cond)
        return prediction.to_x0(self.kind, x_t, out.to(x_t.dtype), alpha, sigma)

    def guide(
        self, x_t: Latents, t: Time, conditional: Latents, unconditional: Latents, guidance_scale: float
    ) -> Latents:
        """Both x0 estimates of ``(x_t, t)`` under guidance: classifier-free, where the model's makers have not said else."""
        return guide(conditional, unconditional, guidance_scale)

    def tangent(
        self, x_t: Latents, t: Time, cond: Conditioning, dx: Latents, dt: Float[Tensor, " B"]
    ) -> tuple[Latents, Latents]:
        """``(x0, dx0)``: the estimate, and how it changes along ``(dx, dt)``, by one forward-mode derivative.

        With ``dx = d x_t / d t`` and dt = 1 it is the total derivative along a trajectory, which continuous-time consistency
        (arXiv 2410.11081) and MeanFlow (arXiv 2505.13447) need. Attention runs unfused, for the fused kernels have no tangent,
        and in full precision, for a derivative of bf16 is noise.
        """
        with full_precision(x_t), sdpa_kernel(SDPBackend.MATH):
            x0, change = torch.func.jvp(lambda x, s: self(x, s, cond), (x_t, t), (dx, dt))  # type: ignore[misc]
        return x0, change


def freeze(module: nn.Module) -> nn.Module:
    """Switch to eval and stop gradients to the parameters; gradients to inputs still flow."""
    return module.eval().requires_grad_(False)


class Teacher:
    """A frozen denoiser under classifier-free guidance: under ``no_grad`` but in `differentiable`, never given a gradient."""

    def __init__(self, denoiser: Denoiser, guidance_scale: float = 1.0) -> None:
        self.denoiser = denoiser
        freeze(denoiser)
        self.guidance_scale = guidance_scale

    @property
    def schedule(self) -> NoiseSchedule:
        """The teacher's own schedule, which its loss is computed on."""
        return self.denoiser.schedule

    @torch.no_grad()
    def __call__(self, x_t: Latents, t: Time, cond: Conditioning, null: Conditioning) -> Latents:
        """Guided x0 estimate."""
        return self.differentiable(x_t, t, cond, null)

    def differentiable(self, x_t: Latents, t: Time, cond: Conditioning, null: Conditioning) -> Latents:
        """The same, through which a gradient reaches ``x_t``; the weights never get one."""
        if self.guidance_scale == 1:
            return self.denoiser(x_t, t, cond)
        return self.denoiser.guide(x_t, t, *self._both(x_t, t, cond, null), self.guidance_scale)

    @torch.no_grad()
    def both(self, x_t: Latents, t: Time, cond: Conditioning, null: Conditioning) -> tuple[Latents, Latents]:
        """Conditional and unconditional x0 estimates from one call of twice the batch."""
        return self._both(x_t, t, cond, null)

    def _both(self, x_t: Latents, t: Time, cond: Conditioning, null: Conditioning) -> tuple[Latents, Latents]:
        x0 = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), Conditioning.cat([cond, null]))
        conditional, unconditional = x0.chunk(2)
        return conditional, unconditional

    def draw(self, noise: Latents, cond: Conditioning, null: Conditioning, steps: int, kind: str = "ddim") -> Latents:
        """Sample with ``steps`` steps on trailing times."""
        times = sampler.trailing_times(steps)
        estimates = sampler.sample(
            lambda x, t: self(x, t, cond, null), noise, times, self.schedule, Rng.of(0, "teacher"), kind
        )
        return sampler.last(estimates)

    def refine(self, x_t: Latents, t: Time, cond: Conditioning, null: Conditioning, steps: int = 1) -> Latents:
        """x0 from ``(x_t, t)``, t differing from row to row, by ``steps`` DDIM steps down the rest of the way."""
        x0 = self(x_t, t, cond, null)
        for i in range(1, steps):
            now, after = t * (steps - i + 1) / steps, t * (steps - i) / steps
            x_t = sampler.ddim_step(self.schedule, x_t, x0, now, after)
            x0 = self(x_t, after, cond, null)
        return x0


class Student:
    """A trainable denoiser and the few times it is trained at: 1 (pure noise) first, falling."""

    def __init__(
        self,
        denoiser: Denoiser,
        times: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
        probabilities: Sequence[float] = (),
        sampler_kind: str = "ancestral",
    ) -> None:
        """``sampler_kind`` is how it is drawn where nobody says else, in training's roll-outs too: ``ancestral``, ``renoise``."""
        if not times or times[0] != 1 or any(b >= a for a, b in itertools.pairwise(times)) or times[-1] <= 0:
            raise ValueError(f"student times {list(times)} must fall from 1.0 (pure noise) and stay above 0")
        if probabilities and len(probabilities) != len(times):
            raise ValueError(f"{len(probabilities)} probabilities for {len(times)} student times: give one for each")
        if probabilities and not sum(probabilities) > 0:
            raise ValueError("every student time has probability 0: give one of them more")
        self.denoiser = denoiser
        self.times, self.sampler_kind = tuple(times), sampler_kind
        self.probabilities = tuple(probabilities) or tuple(1 / len(times) for _ in times)

    @property
    def steps(self) -> tuple[int, ...]:
        """In how many steps stock diffusers draws with it as `draw` does: `sampler.step_counts` of its times."""
        return sampler.step_counts(self.times)

    def times_for(self, steps: int) -> tuple[float, ...]:
        """The times to visit in ``steps`` steps; the first is always pure noise.

        Trailing times, on the model's own table, where it was trained at all of them; else its own, evenly spread.
        """
        n = len(self.times)
        if not 1 <= steps <= n:
            raise ValueError(f"this student was trained for 1 to {n} steps, not {steps}: choose one of those")
        if steps in self.steps:
            return tuple(knot(self.denoiser.schedule, t) for t in sampler.trailing_times(steps))
        return tuple(self.times[i * n // steps] for i in range(steps))

    def check_sampler(self, kind: str) -> None:
        """Refuse a sampler that visits times which the student has never seen."""
        if list(self.times) != sampler.visited(kind, self.times):
            raise ValueError(
                f"{kind} visits times of its own, and this student knows only {', '.join(f'{t:g}' for t in self.times)}: "
                "draw it with ancestral, renoise or ddim"
            )

    def draw_times(self, n: int, rng: Rng) -> Time:
        """n training times by their probabilities."""
        return rng.choice(
            torch.tensor(self.times, dtype=torch.float64), n, torch.tensor(self.probabilities, dtype=torch.float64)
        )

    def draw(self, noise: Latents, cond: Conditioning, steps: int, rng: Rng, kind: str = "") -> Latents:
        """Sample in ``steps`` network calls, without guidance, by its own sampler if no ``kind`` is given. Raises ValueError for
        ``heun``, which visits other times."""
        kind = kind or self.sampler_kind
        self.check_sampler(kind)
        schedule = self.denoiser.schedule
        denoise = lambda x, t: self.denoiser(x, t, cond)  # noqa: E731
        return sampler.last(sampler.sample(denoise, noise, self.times_for(steps), schedule, rng, kind))


def noise_to(schedule: NoiseSchedule, x0: Latents, noise: Latents, t: Time) -> Latents:
    """``add_noise``, but nothing of x0 at t = 1 even on a schedule whose alpha(1) is not 0: an eps model's (add_spec A2).

    There the noise is scaled by sigma(1), .9977 for Stable Diffusion's table, as every sampler scales what it starts from.
    """
    kept = schedule.alpha(t) * (t < 1)
    scale = torch.where(t < 1, schedule.sigma(t), start_scale(schedule, t))
    return match_dims(kept, x0) * x0 + match_dims(scale, x0) * noise


def prediction_error(
    denoiser: Denoiser, x0: Latents, noise: Latents, t: Time, cond: Conditioning
) -> Float[Tensor, " B"]:
    """Mean squared error of the network's own kind of prediction at ``x0`` noised to t: what a diffusion model minimises."""
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    out = denoiser.predict(noise_to(denoiser.schedule, x0, noise, t), t, cond)
    return squared(out.to(noise.dtype), prediction.target(denoiser.kind, x0, noise, alpha, sigma))


BEND = 0.1
"""Where the pseudo-Huber distance to a trajectory's end turns from square to absolute."""


def to_trajectories(
    student: Student,
    pairs: Batch,
    t: Time,
    rng: Rng,
    bend: float = BEND,
    teacher: Teacher | None = None,
    steps: int = 1,
) -> Float[Tensor, ""]:
    """Mean pseudo-Huber distance of the student's one pass from the pairs' samples.

    At t = 1 it starts where the teacher did, elsewhere from the sample under new noise; there ``teacher``, if there is one,
    says anew in ``steps`` DDIM steps where it leads. Raises ValueError without pairs.
    """
    if pairs.noise is None:
        raise ValueError("regression needs the teacher's trajectories: make pairs first")
    pure = (t >= 1).reshape(-1, *([1] * (pairs.x0.dim() - 1)))
    noise = torch.where(pure, pairs.noise, rng.normal_like(pairs.x0))
    noised = noise_to(student.denoiser.schedule, pairs.x0, noise, t)
    end = pairs.x0
    if teacher is not None:
        end = torch.where(pure, end, teacher.refine(noised, t, pairs.cond, pairs.null, steps))
    return huber(student.denoiser(noised, t, pairs.cond), end, bend).mean()


def check_alike(student: Student, teacher: Teacher | None) -> None:
    """Refuse a teacher that is missing, or that cannot go on from where the student is: its noise is scaled otherwise at a
    student time. Raises ValueError."""
    if teacher is None:
        raise ValueError("regression at every student time needs a teacher: give one, or set regression_steps to 0")
    times, own, theirs = torch.tensor(student.times), student.denoiser.schedule, teacher.schedule
    apart = torch.stack([f(times) - g(times) for f, g in ((own.alpha, theirs.alpha), (own.sigma, theirs.sigma))])
    if float(apart.abs().max()) > 1e-5:
        raise ValueError(
            "the teacher cannot go on from what the student is shown, for its noise schedule is another one: set "
            "regression_steps to 0"
        )


class StudentInput:
    """What the student sees in training: real data noised to a student time, or its own output (backward simulation).

    ``backward`` is the share of batches for which the student is rolled out from pure noise, without gradient, up to the
    drawn time, as it will be when it is used (DMD2, arXiv 2405.14867, section 4.4). ADD itself uses 0.
    """

    def __init__(self, student: Student, backward: float = 0.0) -> None:
        if not 0 <= backward <= 1:
            raise ValueError(f"backward simulation share {backward} must lie in [0, 1]")
        self.student, self.backward = student, backward

    def __call__(self, x0: Latents, cond: Conditioning, rng: Rng) -> tuple[Latents, Time, Bool[Tensor, " B"]]:
        """Draw ``(x_t, t)`` for a batch, and which rows of x_t hold something of x0: not pure noise, no roll-out."""
        if self.backward and float(rng.uniform((1,))) < self.backward:
            x_t, t = self.simulate(x0, cond, rng)
            return x_t, t, torch.zeros_like(t, dtype=torch.bool)
        t = self.student.draw_times(len(x0), rng).to(x0.device)
        return noise_to(self.student.denoiser.schedule, x0, rng.normal_like(x0), t), t, t < 1

    @torch.no_grad()
    def simulate(self, like: Latents, cond: Conditioning, rng: Rng) -> tuple[Latents, Time]:
        """Roll out to one step index drawn for the whole batch; the values of ``like`` are never read."""
        denoiser, times = self.student.denoiser, self.student.times
        p = torch.tensor(self.student.probabilities, dtype=torch.float64)
        k = int(rng.choice(torch.arange(len(times)), 1, p))
        x_t = sampler.pure(denoiser.schedule, rng.normal_like(like))
        for i in range(k):
            t = sampler.at(times[i], like)
            x0 = denoiser(x_t, t, cond)
            t_next = sampler.at(times[i + 1], like)
            x_t = sampler.stochastic_step(self.student.sampler_kind, denoiser.schedule, x_t, x0, t, t_next, rng)
        return x_t, sampler.at(times[k], like)
