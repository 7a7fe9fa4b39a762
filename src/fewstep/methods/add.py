"""Adversarial Diffusion Distillation (Sauer, Lorenz, Blattmann, Rombach, arXiv 2311.17042), whole.

===================  =======================================================================================
paper                here
===================  =======================================================================================
theta, psi           ``student``, ``teacher``
phi, F               the ``adversary``'s heads and frozen features
x_s, s               ``x_t, t`` from ``StudentInput``: real data noised to a student time, pure noise at the last
x^_theta(x_s, s)     ``sample``
x^_psi(x^_theta,t)   ``target``: the guided teacher's estimate from the re-noised, detached sample
c(t), lambda         ``Options.weighting``, ``Options.distillation_weight``
L_adv, L_distill     ``adversarial`` (parts/adversary.py), ``distillation``
===================  =======================================================================================

``L = L_adv + lambda L_distill`` (Eq. 1), here with DMD's regression onto the teacher's trajectories where that is asked for.
What is not published, and is a choice here, is said in the option's docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..diffusion import losses
from ..diffusion.schedule import add_noise
from ..diffusion.weighting import WEIGHTINGS
from ..options import CHANGEABLE, SHARED
from ..parts.adversary import Adversary
from ..parts.codec import Codec
from ..parts.denoiser import Student, Teacher
from ..ranges import Range, Weight
from ..rng import Rng
from ..tensors import Batch, Conditioning, Latents, Time, exactly, match_dims
from . import adversarial
from .adversarial import Adversarial, adversary_of, followed
from .method import UNKNOWN, Facts, Parts


@dataclass(frozen=True)
class Options(adversarial.Options):
    """ADD and its switches. Where a default is not the paper's, or the paper does not say, its docstring says so."""

    distillation_weight: Annotated[Weight, CHANGEABLE] = 2.5
    """The paper's lambda, here on a mean over elements; 0 leaves the adversarial loss only."""
    weighting: Literal["exponential", "sds", "nfsd"] = "exponential"
    """c(t). The paper's final models use nfsd; its ablations, and the best diversity, exponential."""
    space: Literal["latents", "media"] = "latents"
    """Where the distillation distance is taken. The paper: media (pixels), at the price of two decodes."""
    teacher_steps: Annotated[int, Range(1, 1000)] = 1
    """DDIM steps of the teacher from the re-noised sample; more gave the paper no conclusive gain."""
    teacher_times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform re-noising time t of the teacher. Not published; DMD's range."""
    negative: Annotated[str, SHARED] = ""
    """What a picture should not be, such as "unrealistic, blurry, low quality": NFSD's negative prompt, read with
    ``--add.weighting nfsd`` only."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse switches that contradict each other. Raises ValueError with the fix."""
    adversarial.check(o, facts)
    if o.negative and o.weighting != "nfsd":
        raise ValueError("--negative is read by noise-free score distillation: add --add.weighting nfsd")
    if o.negative and not o.distillation_weight:
        raise ValueError("--negative belongs to the distillation loss, which has weight 0: leave one of the two out")
    if not (o.distillation_weight or o.adversarial_weight):
        raise ValueError(
            "both losses have weight 0, so nothing would be trained: give adversarial_weight or distillation_weight more"
        )
    if o.teacher_times[0] > o.teacher_times[1]:
        raise ValueError(f"teacher times {o.teacher_times} must rise: give the earlier one, nearer to 0, first")
    if o.distillation_weight and o.weighting == "nfsd" and o.teacher_steps > 1:
        raise ValueError(
            f"nfsd asks the teacher for one direction, not for {o.teacher_steps} steps: set teacher_steps to 1, or take "
            "another weighting"
        )


def build(o: Options, parts: Parts) -> ADD:
    """ADD of a run's parts."""
    teacher = followed(o, parts)
    if o.distillation_weight:
        teacher = parts.teacher
    negative = parts.encode(o.negative) if o.negative else None
    return ADD(parts.student, teacher, parts.codec, adversary_of(o, parts), o, negative)


def called(o: Options) -> str:
    """ADD, or which half of it is left."""
    if not o.adversarial_weight:
        return "distillation_only"
    return "add" if o.distillation_weight else "adversarial_only"


class ADD(Adversarial):
    """A student against heads on frozen features, with a teacher's advice."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher | None,
        codec: Codec,
        adversary: Adversary | None,
        options: Options = Options(),
        negative: Conditioning | None = None,
    ) -> None:
        """``negative`` (one row) is NFSD's negative prompt.

        ``teacher`` may be None when ``distillation_weight`` and ``regression_steps`` are 0, ``adversary`` when
        ``adversarial_weight`` is.
        """
        check(options)
        if options.distillation_weight and teacher is None:
            raise ValueError("the distillation loss needs a teacher: give one, or set distillation_weight to 0")
        super().__init__(student, adversary, options, teacher=teacher)
        self.options: Options = options
        self.codec, self.negative = codec, negative

    def beside(self, sample: Latents, shown: tuple[Latents, Time], batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``distillation`` and ``regression``."""
        o, out = self.options, dict[str, Tensor]()
        if o.distillation_weight:
            out["distillation"] = o.distillation_weight * self.distillation(
                self.tap(sample, "distillation"), batch, rng
            )
        return out | super().beside(sample, shown, batch, rng)

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
