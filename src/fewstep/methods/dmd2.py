"""Improved distribution matching distillation (DMD2; Yin et al., arXiv 2405.14867), after DMD (arXiv 2311.18828).

==================  ================================================================================
paper               here
==================  ================================================================================
G_theta             ``student``
mu_real             ``teacher``, guided
mu_fake^psi         ``fake_score``: a denoiser of what the student draws, trained beside it
x, x_t              ``sample``, and it noised anew to t
t_1 ... t_N         ``student.times``; simulated backward with ``Options.backward`` (section 4.4)
TTUR                ``Options.fake_score_turns`` (section 4.2)
==================  ================================================================================

The student moves against ``grad = (mu_fake(x_t, t) - mu_real(x_t, t)) / mean|x - mu_real(x_t, t)|``: from where its own
distribution is denser than the teacher's to where it is not, which is the gradient of a reverse KL divergence between the two
(DMD, Eq. 7 and 8). It is written as a loss whose gradient that is: ``1/2 ||x - sg(x - grad)||^2``. Beside it stands an
adversarial loss against real data (section 4.3), which lets the student get past the teacher's own errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from ..diffusion import losses
from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE, SHARED
from ..parts import adversary, discriminator
from ..parts.adversary import Adversary
from ..parts.denoiser import Denoiser, Student, StudentInput, Teacher, prediction_error
from ..ranges import Count, Range, Rate, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, exactly, match_dims
from .adversarial import adversary_of
from .method import UNKNOWN, Defaults, Facts, Optimizer, Parts, Player, StudentOptions, Turn


@dataclass(frozen=True)
class Options(StudentOptions, adversary.Options):
    """DMD2 and its switches."""

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
    if o.times[0] > o.times[1]:
        raise ValueError(
            f"--dmd2.times {o.times[0]:g} {o.times[1]:g} must rise: give the earlier one, nearer to 0, first"
        )


class DMD2(Defaults):
    """A student between two scores: towards the teacher's, away from the one of its own samples; and an adversary, if asked."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        fake_score: Denoiser,
        adversary: Adversary | None = None,
        options: Options = Options(),
    ) -> None:
        """``fake_score`` is a trainable denoiser of its own, best a copy of the teacher's. Without an ``adversary`` it is DMD2's
        matching alone."""
        self.student, self.teacher, self.fake_score = student, teacher, fake_score
        self.adversary, self.options = adversary, options
        self.input = StudentInput(student, options.backward)
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
        t = exactly(rng.uniform((len(sample),), 1e-3, 1.0))
        error = prediction_error(self.fake_score, sample, rng.normal_like(sample), t, batch.cond)
        return {"denoising": error.mean()}

    def observations(self) -> dict[str, float]:
        """``score_difference``: how far apart the two estimates are, in units of what the teacher would change; logits."""
        return self._observed

    def after_step(self, step: int) -> None:
        """Forget the samples: the next step draws its own."""
        if self.adversary is not None:
            self.adversary.forget()

    def draw(self, batch: Batch, rng: Rng) -> tuple[Latents, Bool[Tensor, " B"]]:
        """The student's sample, and which rows saw something of the data."""
        x_t, t, seen = self.input(batch.x0, batch.cond, rng)
        return self.student.denoiser(x_t, t, batch.cond), seen

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        sample, seen = self.draw(batch, rng)
        out = {"distribution_matching": self.matching(sample, batch, rng)}
        if self.adversary is not None:
            out["adversarial"] = self.adversary.fool(sample, seen, batch, rng)
        return out

    def matching(self, sample: Latents, batch: Batch, rng: Rng) -> Tensor:
        """``1/2 ||x - sg(x - grad)||^2``, averaged over elements: its gradient is ``grad`` over their number (DMD, Eq. 7)."""
        t = exactly(rng.uniform((len(sample),), *self.options.times))
        with torch.no_grad():
            x_t = add_noise(self.teacher.schedule, sample, rng.normal_like(sample), t)
            real = self.teacher(x_t, t, batch.cond, batch.null)
            fake = self.fake_score(x_t, t, batch.cond)
            size = (sample - real).abs().flatten(1).mean(1).clamp(min=1e-4)
            gradient = (fake - real) / match_dims(size, sample)
            self._observed = {"score_difference": float(gradient.abs().mean())}
        return 0.5 * losses.squared(sample, (sample - gradient).detach()).mean()


def build(o: Options, parts: Parts) -> DMD2:
    """DMD2 of a run's parts: its fake score begins as the teacher."""
    return DMD2(parts.student, parts.teacher, parts.denoiser(), adversary_of(o, parts), o)
