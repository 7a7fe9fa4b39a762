"""What methods with two scores have in common: the teacher's, and that of a network which learns what the student draws.

Not a method itself: DMD2 and SiDA stand on it, and each says in `matching` what the difference of the two does to a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..diffusion import losses
from ..options import CHANGEABLE, SHARED
from ..parts import adversary, discriminator
from ..parts.adversary import Adversary
from ..parts.denoiser import Denoiser, Student, StudentInput, Teacher, prediction_error
from ..ranges import Count, Range, Rate, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly
from .method import UNKNOWN, Defaults, Facts, Optimizer, Player, StudentOptions, Turn


@dataclass(frozen=True)
class Options(StudentOptions, adversary.Options):
    """The two scores, and how their players take turns."""

    fake_score_turns: Count = 5
    """Updates of the fake score for one of the student, each on new samples: it must keep up with the student (5 to 10)."""
    fake_score_learning_rate: Annotated[Rate, CHANGEABLE] = 2e-4
    """Adam's learning rate of the fake score."""
    times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform time t that a sample is noised to before the two scores are asked (DMD's)."""
    backward: Share = 1.0
    """Share of batches that start from the student's own roll-out, rather than from noised data; the paper's 1."""
    adversarial_weight: Annotated[Weight, CHANGEABLE] = 3e-3
    """Weight of the adversarial loss beside it (section 4.3; 3e-3 on ImageNet, 5e-3 on SDXL); 0 leaves the adversary out."""
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon"] = "reverse_kl"
    """Which f-divergence the two scores bring down: a sample's weight is 1, r or r / (1 + r), where r is the ratio of the data's
    density to the student's as the discriminator sees it (f-distill, arXiv 2502.15681, for DMD's gradient; Uni-Instruct, arXiv
    2505.20755, for SiD's). The forward KL minds what the student leaves out. Others than the reverse need ``loss`` softplus."""
    features: Annotated[Literal["auto", "dinov2", "efficientnet-lite0", "efficientnet-lite2", "teacher"], SHARED] = (
        "teacher"
    )
    """What the discriminator looks through. The paper's heads stand on the fake score, which learns with them; here they stand on
    the frozen teacher that it began as, at a noise level of their own, or on an image network."""
    heads: Annotated[discriminator.Options, SHARED] = field(
        default_factory=lambda: discriminator.Options(image=False, noise_level=True)
    )
    """The discriminator's heads; they are told the noise level."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    adversary.check(o, facts.batch_size, facts.concepts)
    check_rising("times", o.times)
    if o.divergence != "reverse_kl" and not (o.adversarial_weight and o.loss == "softplus"):
        raise ValueError(
            f"the divergence {o.divergence} reads the ratio of two densities from the discriminator: give an "
            "adversarial_weight, and loss softplus, whose logit is that ratio's logarithm"
        )


def check_rising(what: str, times: tuple[float, float]) -> None:
    """Refuse a range of times that is the wrong way round. Raises ValueError with the fix."""
    if times[0] > times[1]:
        raise ValueError(f"{what} {times[0]:g} {times[1]:g} must rise: give the earlier one, nearer to 0, first")


LARGEST_RATIO = 10.0
"""Ratios of densities are cut off here, and at its inverse: a discriminator is sure of too much."""
RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": torch.ones_like,
    "forward_kl": lambda r: r,
    "jensen_shannon": lambda r: r / (1 + r),
}
"""Weight of a sample by the ratio r of the data's density to the student's: ``f''(r) r^2``."""


def weights_of(divergence: str, logits: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """The weight of each sample, of mean 1 over the batch; ``logits`` are the discriminator's, ``log r`` at each place."""
    limit = math.log(LARGEST_RATIO)
    weight = RATIOS[divergence](logits.mean(1).clamp(-limit, limit).exp())
    return weight / weight.mean()


def size_of(sample: Latents, real: Latents) -> Float[Tensor, " B"]:
    """``mean|x - mu_real|`` of each sample: what a difference of scores is measured in (DMD, Eq. 8)."""
    return (sample - real).abs().flatten(1).mean(1).clamp(min=1e-4)


def moved(sample: Latents, gradient: Latents) -> Float[Tensor, " B"]:
    """``1/2 ||x - sg(x - grad)||^2``, averaged over elements: its gradient is ``grad`` over their number (DMD, Eq. 7)."""
    return 0.5 * losses.squared(sample, (sample - gradient).detach())


def follows(fake_score: Denoiser, sample: Latents, batch: Batch, rng: Rng) -> Float[Tensor, ""]:
    """What the fake score minimises: it denoises what the student has drawn."""
    t = exactly(rng.uniform((len(sample),), 1e-3, 1.0))
    return prediction_error(fake_score, sample, rng.normal_like(sample), t, batch.cond).mean()


class TwoScores(Defaults):
    """A student between two scores, and an adversary, if asked. A method says in `matching` what the scores are for."""

    usual: type[Options] = Options
    """The options of a method that is given none."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        fake_score: Denoiser,
        adversary: Adversary | None = None,
        options: Options | None = None,
    ) -> None:
        """``fake_score`` is a trainable denoiser of its own, best a copy of the teacher's. Without an ``adversary`` it is DMD2's
        matching alone."""
        self.student, self.teacher, self.fake_score = student, teacher, fake_score
        self.adversary, self.options = adversary, self.usual() if options is None else options
        self.input = StudentInput(student, self.options.backward)
        self._observed: dict[str, float] = {}

    @property
    def players(self) -> Mapping[str, Player]:
        """``student``, ``fake_score`` and, if there is an adversary, ``discriminator``."""
        o = self.options
        scores = {
            "student": Player(self.student.denoiser, o.student_moves(beta1=0.9)),
            "fake_score": Player(self.fake_score, Optimizer(o.fake_score_learning_rate, beta1=0.9, warmup=20)),
        }
        if self.adversary is None:
            return scores
        heads = Optimizer(o.heads_learning_rate, warmup=0, max_gradient_norm=0.0)
        return scores | {"discriminator": Player(self.adversary.discriminator, heads)}

    def turns(self, step: int) -> Sequence[Turn]:
        """The student; the discriminator on the same samples; then the fake score, which sees a new batch at every turn."""
        if self.adversary is not None:
            self.adversary.begin(step)
        judging = (Turn("discriminator"),) if self.adversary else ()
        following = (Turn("fake_score", batch) for batch in range(self.options.fake_score_turns))
        return (Turn("student"), *judging, *following)

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``distribution_matching`` and ``adversarial`` for the student, ``denoising`` for the fake score, ``adversarial`` and
        ``r1`` for the heads."""
        if player == "student":
            return self._student(batch, rng)
        if player == "discriminator":
            assert self.adversary is not None, "without an adversary there is no such player"
            out = self.adversary.judge(batch, self.draw, rng)
            self._observed = self.adversary.observed
            return out
        self._observed = {}
        with torch.no_grad():
            sample, _ = self.draw(batch, rng)
        return {"denoising": follows(self.fake_score, sample, batch, rng)}

    def observations(self) -> dict[str, float]:
        """``score_difference``: how far apart the two estimates are, in units of what the teacher would change; logits."""
        return self._observed

    def after_step(self, step: int) -> None:
        """Forget the samples: the next step draws its own."""
        if self.adversary is not None:
            self.adversary.forget()

    def draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Bool[Tensor, " B"]]:
        """The student's sample, and which rows saw something of the data."""
        sample, seen, _ = self._draw(batch, rng)
        return sample, seen

    def _draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Bool[Tensor, " B"], Time]:
        x_t, t, seen = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond), seen, t

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        sample, seen, t = self._draw(batch, rng)
        matching = self.kept(self.matching(sample, batch, rng), t)
        out = {"distribution_matching": matching.mean()}
        if self.adversary is not None:
            out["adversarial"] = self.adversary.fool(sample, seen, batch, rng)
            if self.options.divergence != "reverse_kl":
                weight = weights_of(self.options.divergence, self.adversary.fooled)
                out["distribution_matching"] = (weight * matching).mean()
        return out | self.beside(batch, rng)

    def kept(self, matching: Float[Tensor, " B"], t: Time) -> Float[Tensor, " B"]:
        """What of the matching counts for samples that were drawn at ``t``."""
        return matching

    def beside(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """What the student minimises beside the matching and the adversary, weighted and named."""
        return {}

    def matching(self, sample: Latents, batch: Batch, rng: Rng) -> Float[Tensor, " B"]:
        """What the student minimises because of the two scores, a sample."""
        raise NotImplementedError("a method with two scores gives matching()")
