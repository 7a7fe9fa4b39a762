"""A few-step student against heads on frozen features, and nothing else: what the adversarial loss alone does.

===================  =======================================================================================
paper                here
===================  =======================================================================================
theta                ``student``
phi, F               the ``adversary``'s heads and frozen features (Projected GAN, arXiv 2111.01007)
x_s, s               ``x_t, t`` from ``StudentInput``: real data noised to a student time, pure noise at the last
x^_theta(x_s, s)     ``sample``
L_adv                ``adversarial`` (parts/adversary.py)
===================  =======================================================================================

``L = L_adv``: hinge or softplus (Goodfellow et al., arXiv 1406.2661), or relativistic (arXiv 1807.00734), with R1 on the
heads' inputs. It needs no teacher while it is trained; the student's weights, and its knowledge, are the teacher's.
``--gan.regression-weight`` puts the teacher's trajectories beside the adversary.

Two relatives are this method with options. GDD-I (arXiv 2405.20750) keeps the convolutions inside the blocks as the teacher has
them: ``--student freeze``. APT (arXiv 2501.08316) has its R1 without a second backward, and no other: ``--gan.r1 0
--gan.approximate-r1 100 --gan.loss softplus``.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import adversarial
from .adversarial import Adversarial, adversarial_of
from .method import Parts

check = adversarial.check


@dataclass(frozen=True)
class Options(adversarial.Options):
    """A GAN on the student's few steps."""


def build(o: Options, parts: Parts) -> Adversarial:
    """A student and its adversary, of a run's parts."""
    return adversarial_of(o, parts)
