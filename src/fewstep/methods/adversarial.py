"""What methods with one student and one adversary have in common: two players, who moves when, what is observed.

Not a method itself: ADD, LADD and GAN stand on it. Each may regress onto the teacher's trajectories beside the adversary, and
ADD says what else its student minimises. Methods with more players (DMD2) hold an `Adversary` of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..diffusion import losses, sampler
from ..options import CHANGEABLE
from ..parts import adversary
from ..parts.adversary import Adversary
from ..parts.denoiser import BEND, Student, StudentInput, Teacher, check_alike, to_trajectories
from ..ranges import Count, Range, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, Time
from .method import UNKNOWN, Defaults, Facts, Optimizer, Parts, Player, StudentOptions, Turn

Reals = Literal["data", "teacher"]
"""What stands for data: the data, or the teacher's own samples."""


@dataclass(frozen=True)
class Options(StudentOptions, adversary.Options):
    """The adversary, how the two players take turns, and the regression beside them."""

    backward: Share = 0.0
    """Share of batches that start from the student's own roll-out (DMD2's backward simulation)."""
    discriminator_turns: Count = 1
    """Discriminator updates a step (two-time-scale updates); each has its own real samples, noise and fakes."""
    student_every: Count = 1
    """The student moves every this many steps."""
    regression_weight: Annotated[Weight, CHANGEABLE] = 0.0
    """Weight of regression onto the teacher's trajectories, beside the adversary (DMD's, arXiv 2311.18828): it keeps the variety
    that a warm start brought and the adversary alone gives away. Needs noise-to-sample pairs, or ``regression_steps``."""
    regression_steps: Annotated[int, Range(0, 1000)] = 0
    """Regress at every student time, from whatever the student is shown onto where this many DDIM steps of the teacher carry
    it: no pairs, never the same trajectory twice, so many more teacher evaluations a sample. It keeps rare modes at two and four
    steps too, where pairs keep them at one (docs/variety.md): 8, with a regression weight of 10. 0 takes pairs."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    adversary.check(o, facts.batch_size, facts.concepts)
    if o.regression_steps and not o.regression_weight:
        raise ValueError(
            f"regression_steps {o.regression_steps} says how to regress, but regression_weight is 0: give it a weight (10)"
        )


def adversary_of(o: adversary.Options, parts: Parts) -> Adversary | None:
    """The heads and their feature network, made of the run's parts; None where ``adversarial_weight`` is 0."""
    if not o.adversarial_weight:
        return None
    features = parts.features(o)
    return Adversary(parts.codec, features, parts.heads(features, o.heads), o)


def colours(sample: Latents, x0: Latents) -> dict[str, float]:
    """How every channel of the samples stands to the data's: ``shift_c``, the difference of their means in the data's
    standard deviations, and ``spread_c``, the ratio of their standard deviations; 0 and 1 where they are alike."""
    of, real = (x.transpose(0, 1).flatten(1).float() for x in (sample, x0))
    std = real.std(1).clamp(min=1e-6)
    found = torch.stack([(of.mean(1) - real.mean(1)) / std, of.std(1) / std]).tolist()
    return {f"{name}_{c}": value for name, row in zip(("shift", "spread"), found) for c, value in enumerate(row)}


def teacher_made(batch: Batch) -> Batch:
    """The teacher's samples that come beside the batch, to stand for its data. ValueError where none come."""
    if batch.pairs is None:
        raise ValueError("the teacher's samples are to stand for data: give batches with pairs")
    return batch.pairs


def followed(o: Options, parts: Parts, reals: Reals = "data") -> Teacher | None:
    """The teacher, where the student follows it at every student time; else None. Asks for pairs where they are needed."""
    if reals == "teacher" or (o.regression_weight and not o.regression_steps):
        parts.pairs()
    return parts.teacher if o.regression_steps else None


def adversarial_of(o: Options, parts: Parts, reals: Reals = "data") -> Adversarial:
    """A student and its adversary, of a run's parts, with nothing else to minimise than regression, if that is asked."""
    teacher = followed(o, parts, reals)
    return Adversarial(parts.student, adversary_of(o, parts), o, reals, teacher)


class Adversarial(Defaults):
    """A student against an adversary. A method says in `beside` what else its student minimises."""

    def __init__(
        self,
        student: Student,
        adversary: Adversary | None,
        options: Options,
        reals: Reals = "data",
        teacher: Teacher | None = None,
    ) -> None:
        """``adversary`` may be None where ``adversarial_weight`` is 0, ``teacher`` where ``regression_steps`` is.

        ``reals``: what stands for data.
        """
        if options.adversarial_weight and adversary is None:
            raise ValueError(
                "the adversarial loss needs features and a discriminator: give an adversary, or set adversarial_weight to 0"
            )
        if options.regression_steps:
            check_alike(student, teacher)
        self.student, self.options, self.reals, self.teacher = student, options, reals, teacher
        self.adversary = adversary if options.adversarial_weight else None
        self.input = StudentInput(student, options.backward)
        self._observed: dict[str, float] = {}
        self._norms: dict[str, Tensor] = {}

    @property
    def players(self) -> Mapping[str, Player]:
        """``student`` and, if it is asked, ``discriminator``: two time scales, without momentum (StyleGAN-T), heads unclipped."""
        o = self.options
        student = Player(self.student.denoiser, o.student_moves())
        if self.adversary is None:
            return {"student": student}
        heads = Optimizer(o.heads_learning_rate, warmup=0, max_gradient_norm=0.0)
        return {"student": student, "discriminator": Player(self.adversary.discriminator, heads)}

    def turns(self, step: int) -> Sequence[Turn]:
        """The student first, so that the discriminator judges what was just drawn; its further turns have their own batches."""
        if self.adversary is not None:
            self.adversary.begin(step)
        student = (Turn("student"),) if step % self.options.student_every == 0 else ()
        if self.adversary is None:
            return student
        return (*student, *(Turn("discriminator", batch) for batch in range(self.options.discriminator_turns)))

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``adversarial`` and what stands beside it for the student; ``adversarial``, ``r1`` ... for the heads."""
        if self.reals == "teacher":
            batch = teacher_made(batch)
        return self._student(batch, rng) if player == "student" else self._discriminator(batch, rng)

    def beside(self, sample: Latents, shown: tuple[Latents, Time], batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """What the student minimises beside the adversarial loss, weighted and named. ``sample`` was drawn from ``shown``,
        which is ``(x_s, s)``. Here: ``regression``, where it is asked for."""
        weight = self.options.regression_weight
        return {"regression": weight * self.regression(sample, shown, batch, rng)} if weight else {}

    def regression(self, sample: Latents, shown: tuple[Latents, Time], batch: Batch, rng: Rng) -> Tensor:
        """Pseudo-Huber distance to the ends of the teacher's trajectories: of the stored ones from pure noise, or of those that
        go on from ``shown = (x_s, s)``, whatever the student time s. ValueError where pairs are needed and missing.

        On data noised to s it makes the student the map from x_s to *one* sample, as sampling with fresh noise in between
        needs it, where denoising would make it the mean of all that x_s may come from: the mean leaves rare modes out.
        """
        if self.options.regression_steps:
            assert self.teacher is not None, "checked in __init__"
            x_s, s = shown
            end = self.teacher.refine(x_s, s, batch.cond, batch.null, self.options.regression_steps)
            return losses.huber(self.tap(sample, "regression"), end, BEND).mean()
        pairs = batch.trajectories
        if pairs is None:
            raise ValueError(
                "regression beside the adversary needs the teacher's trajectories: give batches with pairs"
            )
        return to_trajectories(self.student, pairs, sampler.at(1.0, pairs.x0), rng)

    def observations(self) -> dict[str, float]:
        """Logits, and the norm of each loss's gradient at the student's sample (read after the backward pass)."""
        norms = {f"{name}_gradient_at_x0": float(value) for name, value in self._norms.items()}
        self._norms = {}
        return self._observed | norms

    def after_step(self, step: int) -> None:
        """Forget the samples: the next step draws its own."""
        if self.adversary is not None:
            self.adversary.forget()

    def draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Tensor]:
        """The student's sample, and which rows saw something of the data."""
        sample, seen, _ = self._draw(batch, rng)
        return sample, seen

    def _draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Tensor, tuple[Latents, Time]]:
        x_t, t, seen = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond), seen, (x_t, t)

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        sample, seen, shown = self._draw(batch, rng)
        self._observed = colours(sample.detach(), batch.x0)
        out: dict[str, Tensor] = {}
        if self.adversary is not None:
            out["adversarial"] = self.adversary.fool(self.tap(sample, "adversarial"), seen, batch, rng)
        return out | self.beside(sample, shown, batch, rng)

    def _discriminator(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        assert self.adversary is not None, "without an adversary there is no such player"
        out = self.adversary.judge(batch, self.draw, rng)
        self._observed = self.adversary.observed
        return out

    def tap(self, sample: Latents, name: str) -> Latents:
        """An alias of the sample that writes down the norm of the gradient that comes back through it."""
        alias = sample.view_as(sample)
        if alias.requires_grad:
            alias.register_hook(lambda g: self._norms.__setitem__(name, g.detach().norm()))
        return alias
