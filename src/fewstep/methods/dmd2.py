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

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion import sampler
from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE
from ..parts.denoiser import to_trajectories
from ..ranges import Range, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, Time, exactly, match_dims
from . import scores
from .adversarial import adversary_of
from .method import UNKNOWN, Facts, Parts
from .scores import TwoScores


@dataclass(frozen=True)
class Options(scores.Options):
    """DMD2 and its switches."""

    decoupled: bool = False
    """Ask for guidance at a time of its own (arXiv 2511.22677): the scores are matched without guidance, and what guidance adds
    is taken at one of ``guidance_times``."""
    guidance_times: Annotated[tuple[float, float], Range(0, 1)] = (0.02, 0.98)
    """Range of the uniform time that a sample is noised to before guidance is asked. Of ``decoupled`` only."""
    anchor: Annotated[Weight, CHANGEABLE] = 0.0
    """Weight of regression onto the teacher's trajectories where the student starts from pure noise. The scores are then matched
    at the later steps only, for the first one decides how varied samples are (DP-DMD's idea; it regresses a velocity, here it is
    the trajectory's end, so that one step stays a whole draw). 0 matches everywhere."""


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    scores.check(o, facts)
    scores.check_rising("guidance times", o.guidance_times)


class DMD2(TwoScores):
    """A student between two scores: towards the teacher's, away from the one of its own samples; and an adversary, if asked."""

    options: Options
    usual = Options

    def matching(self, sample: Latents, batch: Batch, rng: Rng) -> Float[Tensor, " B"]:
        """`scores.moved` against ``(fake - real) / mean|x - real|``."""
        o = self.options
        t = exactly(rng.uniform((len(sample),), *o.times))
        with torch.no_grad():
            noise = rng.normal_like(sample)
            x_t = add_noise(self.teacher.schedule, sample, noise, t)
            plain = self.teacher.denoiser if o.decoupled else None
            real = plain(x_t, t, batch.cond) if plain else self.teacher(x_t, t, batch.cond, batch.null)
            fake = self.fake_score(x_t, t, batch.cond)
            size = scores.size_of(sample, real)
            if o.decoupled:
                real = real + self._guidance(sample, noise, batch, rng)
            gradient = (fake - real) / match_dims(size, sample)
            self._observed = {"score_difference": float(gradient.abs().mean())}
        return scores.moved(sample, gradient)

    def _guidance(self, sample: Latents, noise: Latents, batch: Batch, rng: Rng) -> Latents:
        """What guidance adds to the teacher's estimate, at a time of its own."""
        t = exactly(rng.uniform((len(sample),), *self.options.guidance_times))
        x_t = add_noise(self.teacher.schedule, sample, noise, t)
        conditional, null = self.teacher.both(x_t, t, batch.cond, batch.null)
        return self.teacher.denoiser.guide(x_t, t, conditional, null, self.teacher.guidance_scale) - conditional

    def kept(self, matching: Float[Tensor, " B"], t: Time) -> Float[Tensor, " B"]:
        """All of it, or that of the later steps, where an anchor holds the first."""
        return matching * (t < 1).to(matching) if self.options.anchor else matching

    def beside(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``regression``, the anchor of the first step."""
        if not self.options.anchor:
            return {}
        assert batch.pairs is not None, "build() asked for pairs"
        start = sampler.at(1.0, batch.pairs.x0)
        return {"regression": self.options.anchor * to_trajectories(self.student, batch.pairs, start, rng)}


def build(o: Options, parts: Parts) -> DMD2:
    """DMD2 of a run's parts: its fake score begins as the teacher."""
    if o.anchor:
        parts.pairs()
    return DMD2(parts.student, parts.teacher, parts.denoiser(), adversary_of(o, parts), o)
