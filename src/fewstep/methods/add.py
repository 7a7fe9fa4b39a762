"""Adversarial Diffusion Distillation (Sauer, Lorenz, Blattmann, Rombach, arXiv 2311.17042), whole.

===================  =======================================================================================
paper                here
===================  =======================================================================================
theta, psi, phi      ``student``, ``teacher``, ``discriminator`` (heads only; ``features`` F is frozen)
x_s, s               ``x_t, t`` from ``StudentInput``: real data noised to a student time, pure noise at the last
x^_theta(x_s, s)     ``sample``
x^_psi(x^_theta,t)   ``target``: the guided teacher's estimate from the re-noised, detached sample
c(t), lambda         ``Options.weighting``, ``Options.distillation_weight``
L_adv, L_distill     ``adversarial``, ``distillation``
gamma R1             ``r1``, on the heads' inputs
===================  =======================================================================================

``L = L_adv + lambda L_distill`` (Eq. 1), here with DMD's regression onto the teacher's trajectories where that is asked for.
What is not published, and is a choice here, is said in the option's docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..diffusion import losses, sampler
from ..diffusion.schedule import add_noise
from ..diffusion.weighting import WEIGHTINGS
from ..parts.codec import Codec
from ..parts.denoiser import BEND, Student, StudentInput, Teacher, check_alike, to_trajectories
from ..parts.discriminator import Discriminator
from ..parts.features.feature import FeatureNetwork
from ..ranges import Count, Range, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Conditioning, Features, Latents, Logits, Time, exactly, match_dims
from .method import Defaults, Optimizer, Player, Turn


@dataclass(frozen=True)
class Options:
    """ADD and its switches. Where a default is not the paper's, or the paper does not say, its docstring says so."""

    adversarial_weight: Weight = 1.0
    """Weight of L_adv; 0 leaves distillation only."""
    distillation_weight: Weight = 2.5
    """The paper's lambda, here on a mean over elements; 0 leaves the adversarial loss only."""
    regression_weight: Weight = 0.0
    """Weight of regression onto the teacher's trajectories, beside the game (DMD's, arXiv 2311.18828): it keeps the variety
    that a warm start brought and the game alone gives away. Needs noise-to-sample pairs, or ``regression_steps``."""
    regression_steps: Annotated[int, Range(0, 1000)] = 0
    """Regress at every student time, from whatever the student is shown onto where this many DDIM steps of the teacher carry
    it: no pairs, never the same trajectory twice, so many more teacher evaluations a sample. It keeps rare modes at two and four
    steps too, where pairs keep them at one (docs/variety.md): 8, with a regression weight of 10. 0 takes pairs."""
    loss: Literal["hinge", "softplus", "relativistic"] = "hinge"
    """Adversarial loss of both players."""
    weighting: Literal["exponential", "sds", "nfsd"] = "exponential"
    """c(t). The paper's final models use nfsd; its ablations, and the best diversity, exponential."""
    space: Literal["latents", "media"] = "latents"
    """Where the distillation distance is taken. The paper: media (pixels), at the price of two decodes."""
    teacher_steps: Annotated[int, Range(1, 1000)] = 1
    """DDIM steps of the teacher from the re-noised sample; more gave the paper no conclusive gain."""
    teacher_times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform re-noising time t of the teacher. Not published; DMD's range."""
    r1: Weight = 0.001
    """gamma of R1 on the inputs of the heads: of each head the gradient of the sum over its places, squared, and averaged over
    them. It belongs to features of unit variance; raw ones of variance s^2 take about s^2 of it. The paper's 1e-5 is of a sum
    whose terms it does not say."""
    approximate_r1: Weight = 0.0
    """Weight of ``||D(x) - D(x + 0.01 n)||^2`` on real input, averaged as R1 is: R1 on pixels without a second backward (APT)."""
    renoised_input: Weight = 0.0
    """Largest standard deviation of Gaussian noise added to what the features see, real and fake alike; 0 is off."""
    condition_dropout: Share = 0.1
    """Share of rows whose condition is hidden from the discriminator in its own turn. Not the paper's: 0 there."""
    mismatched: Weight = 0.0
    """Weight of real samples under another concept's prompt as additional fakes (SANA-Sprint, arXiv 2503.09641)."""
    reals_through_codec: bool = False
    """Decode the encoded reals rather than show raw pixels, so that the codec's fingerprint proves nothing."""
    backward: Share = 0.0
    """Share of batches that start from the student's own roll-out (DMD2's backward simulation)."""
    discriminator_turns: Count = 1
    """Discriminator updates a step (two-time-scale updates); each has its own real samples, noise and fakes."""
    student_every: Count = 1
    """The student moves every this many steps."""


def check(o: Options) -> None:
    """Refuse switches that contradict each other. Raises ValueError with the fix."""
    if not (o.distillation_weight or o.adversarial_weight):
        raise ValueError(
            "both losses have weight 0, so nothing would be trained: give adversarial_weight or distillation_weight more"
        )
    if o.teacher_times[0] > o.teacher_times[1]:
        raise ValueError(f"teacher times {o.teacher_times} must rise: give the earlier one, nearer to 0, first")
    if o.regression_steps and not o.regression_weight:
        raise ValueError(
            f"regression_steps {o.regression_steps} says how to regress, but regression_weight is 0: give it a weight (10)"
        )
    if o.distillation_weight and o.weighting == "nfsd" and o.teacher_steps > 1:
        raise ValueError(
            f"nfsd asks the teacher for one direction, not for {o.teacher_steps} steps: set teacher_steps to 1, or take "
            "another weighting"
        )


def colours(sample: Latents, x0: Latents) -> dict[str, float]:
    """How every channel of the samples stands to the data's: ``shift_c``, the difference of their means in the data's
    standard deviations, and ``spread_c``, the ratio of their standard deviations; 0 and 1 where they are alike."""
    of, real = (x.transpose(0, 1).flatten(1).float() for x in (sample, x0))
    std = real.std(1).clamp(min=1e-6)
    found = torch.stack([(of.mean(1) - real.mean(1)) / std, of.std(1) / std]).tolist()
    return {f"{name}_{c}": value for name, row in zip(("shift", "spread"), found) for c, value in enumerate(row)}


def another_concept(batch: Batch) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """For each row the nearest row before it, round and round, that shows another concept under another prompt; and whether
    there is one. A row without stands for itself.

    Where nothing says which concept a row shows, its prompt alone tells: the pooled vector, else the label, else the tokens.
    """
    cond, n = batch.cond, len(batch)
    kinds = [v for v in (cond.pooled, cond.labels, cond.tokens) if v is not None][:1]
    kinds += [batch.concepts] if batch.concepts is not None else []
    alike = torch.eye(n, dtype=torch.bool, device=batch.x0.device)
    for kind in kinds:
        alike |= (kind.reshape(n, 1, -1) == kind.reshape(1, n, -1)).all(2)
    place = torch.arange(n, device=alike.device)
    back = (place[:, None] - place) % n  # how far before row i row j lies
    nearest = torch.where(alike, n, back).min(1)
    return torch.where(nearest.values < n, nearest.indices, place), nearest.values < n


STUDENT = Optimizer(2e-4, warmup=20, ema=0.99)
HEADS = Optimizer(1e-3, warmup=0, max_gradient_norm=0.0)
"""Two-time-scale updates, without momentum (StyleGAN-T); the heads' gradients are not clipped."""


@dataclass
class _Sample:
    """What the student drew in this step, kept so that the discriminator's turn need not draw it again."""

    batch: Batch
    seen: Tensor
    features: Features


class ADD(Defaults):
    """The game: a student against heads on frozen features, with a teacher's advice."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher | None,
        codec: Codec,
        features: FeatureNetwork | None,
        discriminator: Discriminator | None,
        options: Options = Options(),
        negative: Conditioning | None = None,
    ) -> None:
        """``negative`` (one row) is NFSD's negative prompt.

        ``teacher`` may be None when ``distillation_weight`` and ``regression_steps`` are 0, ``features`` and ``discriminator``
        when ``adversarial_weight`` is.
        """
        check(options)
        if options.distillation_weight and teacher is None:
            raise ValueError("the distillation loss needs a teacher: give one, or set distillation_weight to 0")
        if options.regression_steps:
            if teacher is None:
                raise ValueError(
                    "regression at every student time needs a teacher: give one, or set regression_steps to 0"
                )
            check_alike(student, teacher)
        if options.adversarial_weight and (features is None or discriminator is None):
            raise ValueError(
                "the adversarial loss needs features and a discriminator: give both, or set adversarial_weight to 0"
            )
        if options.adversarial_weight and options.mismatched and not discriminator.width:  # type: ignore[union-attr]
            raise ValueError("heads that see no condition cannot tell a mismatched one: set mismatched to 0")
        self.student, self.teacher, self.codec = student, teacher, codec
        self.features, self.discriminator, self.options = features, discriminator, options
        self.negative = negative
        self.input = StudentInput(student, options.backward)
        self._discriminator_loss, self._student_loss = losses.ADVERSARIAL[options.loss]
        self._samples: list[_Sample] = []
        self._observed: dict[str, float] = {}
        self._norms: dict[str, Tensor] = {}

    @property
    def players(self) -> Mapping[str, Player]:
        """``student`` and, if it is asked, ``discriminator``."""
        student = {"student": Player(self.student.denoiser, STUDENT)}
        if not self.options.adversarial_weight:
            return student
        assert self.discriminator is not None, "checked in __init__"
        return student | {"discriminator": Player(self.discriminator, HEADS)}

    def turns(self, step: int) -> Sequence[Turn]:
        """The student first, so that the discriminator judges what was just drawn; its further turns have their own batches."""
        student = (Turn("student"),) if step % self.options.student_every == 0 else ()
        if not self.options.adversarial_weight:
            return student
        return (*student, *(Turn("discriminator", batch) for batch in range(self.options.discriminator_turns)))

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``adversarial``, ``distillation``, ``regression`` for the student; ``adversarial``, ``r1`` ... for the heads."""
        return self._student(batch, rng) if player == "student" else self._discriminator(batch, rng)

    def observations(self) -> dict[str, float]:
        """Logits, and the norm of each loss's gradient at the student's sample (read after the backward pass)."""
        norms = {f"{name}_gradient_at_x0": float(value) for name, value in self._norms.items()}
        self._norms = {}
        return self._observed | norms

    def after_step(self, step: int) -> None:
        """Forget the samples: the next step draws its own."""
        self._samples = []

    # -- the student's turn

    def _draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Tensor, tuple[Latents, Time]]:
        """The sample, which rows saw something of the data, and what it was drawn from."""
        x_t, t, seen = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond), seen, (x_t, t)

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        o = self.options
        sample, seen, shown = self._draw(batch, rng)
        self._observed = colours(sample.detach(), batch.x0)
        out: dict[str, Tensor] = {}
        if o.adversarial_weight:
            view = self._tap(sample, "adversarial")
            features = self._look(self._view(view), batch.cond, rng)
            real = self._real_logits(batch, seen, rng) if o.loss == "relativistic" else None
            logits = self._judge(features, self._condition(batch.cond, seen))
            out["adversarial"] = o.adversarial_weight * self._student_loss(real, logits)
            self._samples.append(_Sample(batch, seen, features.detach()))
        if o.distillation_weight:
            advice = self.distillation(self._tap(sample, "distillation"), batch, rng)
            out["distillation"] = o.distillation_weight * advice
        if o.regression_weight:
            out["regression"] = o.regression_weight * self.regression(sample, shown, batch, rng)
        return out

    def _tap(self, sample: Latents, name: str) -> Latents:
        """An alias of the sample that writes down the norm of the gradient that comes back through it."""
        alias = sample.view_as(sample)
        if alias.requires_grad:
            alias.register_hook(lambda g: self._norms.__setitem__(name, g.detach().norm()))
        return alias

    def distillation(self, sample: Latents, batch: Batch, rng: Rng) -> Tensor:
        """``E c(t) d(x^_theta, x^_psi(sg(x^_theta,t); t))`` (Eq. 4): the teacher's target is a constant."""
        assert self.teacher is not None, "checked in __init__"
        o, schedule = self.options, self.teacher.schedule
        t = exactly(rng.uniform((len(sample),), *o.teacher_times))
        with torch.no_grad():
            x_t = add_noise(schedule, sample.detach(), rng.normal_like(sample), t)
            target = self.target(sample.detach(), x_t, t, batch)
        weight = WEIGHTINGS[o.weighting](schedule.alpha(t), schedule.sigma(t)).to(sample.dtype)
        if o.space == "media":
            with torch.no_grad():
                target = self.codec.decode(target)
            sample = self.codec.decode(sample)
        return (weight * losses.squared(sample, target)).mean()

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
            return losses.huber(self._tap(sample, "regression"), end, BEND).mean()
        if batch.pairs is None:
            raise ValueError("regression beside the game needs the teacher's trajectories: give batches with pairs")
        start = sampler.at(1.0, batch.pairs.x0)
        return to_trajectories(self.student, batch.pairs, start, rng)

    def target(self, sample: Latents, x_t: Latents, t: Time, batch: Batch) -> Latents:
        """The teacher's estimate; under nfsd the noise-free direction instead (Katzir et al., arXiv 2310.17590).

        ``x^ - (sigma/alpha)(delta_D + s delta_C)``; written in x0, where ``(sigma/alpha) delta_C = -(x0_cond - x0_null)``.
        delta_D is the null estimate's whole noise for t < 0.2 and its difference from a negative prompt's above.
        """
        assert self.teacher is not None, "checked in __init__"
        teacher = self.teacher
        if self.options.weighting != "nfsd":
            return teacher.refine(x_t, t, batch.cond, batch.null, self.options.teacher_steps)
        conditional, null = teacher.both(x_t, t, batch.cond, batch.null)
        towards_prompt = teacher.guidance_scale * (conditional - null)
        low = match_dims((t < 0.2).to(x_t.dtype), x_t)
        alpha = match_dims(teacher.schedule.alpha(t), x_t)
        towards_data = low * (null - x_t / alpha.clamp(min=0.1))
        if self.negative is not None:
            rows = torch.zeros(len(x_t), dtype=torch.long, device=x_t.device)
            away = teacher.denoiser(x_t, t, self.negative[rows])
            towards_data = towards_data + (1 - low) * (null - away)
        return sample + towards_data + towards_prompt

    # -- the discriminator's turn

    def _discriminator(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        o = self.options
        seen, fake_features = self._fake(batch, rng)
        shown = self._condition(batch.cond, seen)
        cond = self._dropped(shown, rng)
        with torch.no_grad():
            real_media = self._reals(batch)
            again = rng.copy()  # approximate R1 compares two looks under one augmentation
            real_features = self._look(real_media, batch.cond, rng)
        inputs = [level.detach().requires_grad_(bool(o.r1)) for level in real_features.levels]
        real = self._judge(Features(tuple(inputs), t=real_features.t), cond)
        fake = self._judge(fake_features, cond)
        out = {"adversarial": self._discriminator_loss(real, fake)}
        if o.r1:
            out["r1"] = o.r1 * losses.r1(real, inputs)
        if o.approximate_r1:
            with torch.no_grad():
                nearby = self._look(real_media + 0.01 * rng.normal_like(real_media), batch.cond, again)
            heads = [losses.places(level) for level in nearby.levels]
            slope = losses.approximate_r1(real, self._judge(nearby, cond), heads)
            out["approximate_r1"] = o.approximate_r1 * slope
        if o.mismatched:
            out["mismatched"] = o.mismatched * self._mismatched(batch, shown, real, real_features)
        self._observed = {
            "real_logit": float(real.detach().mean()),
            "fake_logit": float(fake.detach().mean()),
            "real_right": float((real.detach() > 0).float().mean()),
            "fake_right": float((fake.detach() < 0).float().mean()),
        }
        return out

    def _mismatched(self, batch: Batch, shown: Conditioning, real: Logits, features: Features) -> Tensor:
        """Real samples under another concept's condition are fakes, too; 0 in a batch where all show the same concept.

        ``shown`` is what no dropout has hidden from: a hidden condition is not a wrong one.
        """
        other, found = another_concept(batch)
        wrong = self._judge(features.detach(), shown[other])
        if not found.any():
            return 0 * wrong.sum()
        return self._discriminator_loss(real.detach()[found], wrong[found])

    def _fake(self, batch: Batch, rng: Rng) -> tuple[Tensor, Features]:
        """The sample of this step's student turn, or a new one if the student did not move."""
        for drawn in reversed(self._samples):
            if drawn.batch is batch:
                return drawn.seen, drawn.features
        with torch.no_grad():
            sample, seen, _ = self._draw(batch, rng)
            return seen, self._look(self._view(sample), batch.cond, rng)

    # -- what the discriminator is shown

    def _view(self, latents: Latents) -> Tensor:
        assert self.features is not None, "checked in __init__"
        return self.codec.decode(latents) if self.features.space == "media" else latents

    def _reals(self, batch: Batch) -> Tensor:
        assert self.features is not None, "checked in __init__"
        if self.features.space == "latents":
            return batch.x0
        if self.options.reals_through_codec or batch.media is None:
            return self.codec.decode(batch.x0)
        return batch.media

    def _look(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        assert self.features is not None, "checked in __init__"
        if self.options.renoised_input:
            x = x + match_dims(rng.uniform((len(x),), 0, self.options.renoised_input), x) * rng.normal_like(x)
        return self.features(x, cond, rng)

    def _judge(self, features: Features, cond: Conditioning) -> Logits:
        assert self.discriminator is not None, "checked in __init__"
        return self.discriminator(features, cond)

    def _condition(self, cond: Conditioning, seen: Tensor) -> Conditioning:
        """Hide the real picture's embedding where the student could not have seen it: else a mismatch gives fakes away."""
        if cond.image is None:
            return cond
        return replace(cond, image=cond.image * seen.to(cond.image.dtype).unsqueeze(1))

    def _dropped(self, cond: Conditioning, rng: Rng) -> Conditioning:
        if not self.options.condition_dropout:
            return cond
        keep = rng.uniform((len(cond),)) >= self.options.condition_dropout
        hide = lambda v: None if v is None else v * keep.to(v.dtype).unsqueeze(1)  # noqa: E731
        return replace(cond, pooled=hide(cond.pooled), image=hide(cond.image))

    def _real_logits(self, batch: Batch, seen: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():
            features = self._look(self._reals(batch), batch.cond, rng)
            return self._judge(features, self._condition(batch.cond, seen))
