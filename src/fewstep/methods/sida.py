"""Score identity distillation with an adversarial term (SiDA; Zhou et al., arXiv 2410.14919), after SiD (arXiv 2404.04057).

==================  ================================================================================
paper               here
==================  ================================================================================
G_theta             ``student``
f_phi               ``teacher``, guided; a gradient goes through it to what it is shown
f_psi               ``fake_score``: a denoiser of what the student draws, trained beside it
x_g, x_t            ``sample``, and it noised anew to t
alpha               ``Options.alpha``
omega(t)            ``1 / mean|x_g - f_phi(x_t, t)|``
==================  ================================================================================

``L = omega(t) [ (f_phi - f_psi)^T (f_phi - x_g) - alpha ||f_phi - f_psi||^2 ]`` (SiD, Eq. 23), averaged over elements. Where the
fake score is exact both parts are the Fisher divergence of the two distributions, the first by an identity of projected
scores; the second, whose gradient is wrong for a fake score that is held fixed, takes the first's error off. Unlike DMD's
gradient this one goes through both networks.

The paper's adversary reads the encoder of the fake score, which learns with it. Here it is the one that every method has: heads
on the frozen network that the fake score began as, at a noise level of their own, or on an image network. Uni-Instruct
(arXiv 2505.20755) weighs the loss by the ratio of the two densities: ``--sida.divergence``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE
from ..ranges import Range, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, exactly
from . import scores
from .adversarial import adversary_of
from .method import Parts
from .scores import TwoScores

check = scores.check


@dataclass(frozen=True)
class Options(scores.Options):
    """SiDA and its switches."""

    alpha: Annotated[float, Range(0, 2)] = 1.0
    """How much of the squared difference is taken off: SiDA's 1, or SiD's 1.2; 0 leaves the projected scores alone."""
    adversarial_weight: Annotated[Weight, CHANGEABLE] = 1e-2
    """Weight of the adversarial loss beside it (the paper's); 0 leaves the adversary out, which is SiD."""


def identity(
    sample: Float[Tensor, " B *X"], real: Float[Tensor, " B *X"], fake: Float[Tensor, " B *X"], alpha: float
) -> Float[Tensor, " B"]:
    """``(real - fake) (real - sample) - alpha |real - fake|^2``, a mean over elements: SiD's loss without its weight."""
    apart = real - fake
    return (apart * (real - sample) - alpha * apart.pow(2)).flatten(1).mean(1)


class SiDA(TwoScores):
    """A student whose samples have the teacher's scores."""

    options: Options
    usual = Options

    def matching(self, sample: Latents, batch: Batch, rng: Rng) -> Float[Tensor, " B"]:
        """The loss of `identity`, each sample's weighed by omega, which is a constant."""
        t = exactly(rng.uniform((len(sample),), *self.options.times))
        x_t = add_noise(self.teacher.schedule, sample, rng.normal_like(sample), t)
        real = self.teacher.differentiable(x_t, t, batch.cond, batch.null)
        fake = self.fake_score(x_t, t, batch.cond)
        with torch.no_grad():
            size = scores.size_of(sample, real)
            self._observed = {"score_difference": float((fake - real).abs().mean() / size.mean())}
        return identity(sample, real, fake, self.options.alpha) / size


def build(o: Options, parts: Parts) -> SiDA:
    """SiDA of a run's parts: its fake score begins as the teacher."""
    return SiDA(parts.student, parts.teacher, parts.denoiser(), adversary_of(o, parts), o)
