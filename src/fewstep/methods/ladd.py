"""Latent Adversarial Diffusion Distillation (Sauer, Boesel, Dockhorn, Blattmann, Esser, Rombach, arXiv 2403.12015).

===================  =======================================================================================
paper                here
===================  =======================================================================================
theta, phi           ``student``, the ``adversary``'s heads
F                    the teacher's own features of re-noised latents (parts/features/teacher.py)
x_s, s               ``x_t, t`` from ``StudentInput``: latents noised to a student time, pure noise at the last
x^_theta(x_s, s)     ``sample``
t                    noise level of the features, by ``noise_mean`` and ``noise_spread``; the heads are told it
L_adv                ``adversarial`` (parts/adversary.py)
===================  =======================================================================================

``L = L_adv`` in latents: nothing is decoded, and the distillation loss of ADD is gone. The paper trains on samples that the
teacher drew with guidance (section 3.2): ``Options.reals`` takes them; the default takes what ``--data`` names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from ..options import SHARED
from ..parts import discriminator
from . import adversarial
from .adversarial import Adversarial, Reals, adversarial_of
from .method import Parts

check = adversarial.check


@dataclass(frozen=True)
class Options(adversarial.Options):
    """LADD: an adversary on the teacher's own features."""

    features: Annotated[Literal["teacher"], SHARED] = "teacher"
    """What the discriminator looks through: the teacher itself, at a noise level drawn for each sample."""
    heads: Annotated[discriminator.Options, SHARED] = field(
        default_factory=lambda: discriminator.Options(norm="group", image=False, noise_level=True)
    )
    """The discriminator's heads. They are told the noise level, and normalise each sample by itself: groups mix the levels."""
    reals: Reals = "data"
    """What stands for real: the data, or the paper's guided samples of the teacher (``--warm.pairs``, ``--guidance-scale``)."""


def build(o: Options, parts: Parts) -> Adversarial:
    """A student and its adversary, of a run's parts."""
    return adversarial_of(o, parts, o.reals)
