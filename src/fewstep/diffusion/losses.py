"""Losses of adversarial training and of regression: pure functions of logits or tensors.

Logits are ``[B, K]``: one number for each of K places (heads x positions), higher means "more real". Every loss averages
over K and over the batch, as StyleGAN-T does, so its scale does not depend on how many places the heads judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..tensors import Logits, Media


def hinge_discriminator(real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """``E max(0, 1 - D(real)) + E max(0, 1 + D(fake))``: 2.0 at zero logits (arXiv 2311.17042, Eq. 3)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: Logits | None, fake: Logits) -> Float[Tensor, ""]:
    """``-E D(fake)`` (arXiv 2311.17042, Eq. 2)."""
    return -fake.mean()


def softplus_discriminator(real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """Non-saturating logistic loss (Goodfellow, arXiv 1406.2661): 2 log 2 at zero logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def softplus_generator(real: Logits | None, fake: Logits) -> Float[Tensor, ""]:
    """Non-saturating logistic loss for the student."""
    return F.softplus(-fake).mean()


def relativistic_discriminator(real: Logits, fake: Logits) -> Float[Tensor, ""]:
    """Relativistic pairing ``softplus(-(D(real) - D(fake)))`` (R3GAN, arXiv 2501.05441): log 2 at equal logits."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Logits | None, fake: Logits) -> Float[Tensor, ""]:
    """The same pair seen from the other side; needs the real logits of the same rows."""
    if real is None:
        raise ValueError("the relativistic student loss needs the real logits of the same batch")
    return F.softplus(real - fake).mean()


ADVERSARIAL: dict[str, tuple[Callable[[Logits, Logits], Tensor], Callable[[Logits | None, Logits], Tensor]]] = {
    "hinge": (hinge_discriminator, hinge_generator),
    "softplus": (softplus_discriminator, softplus_generator),
    "relativistic": (relativistic_discriminator, relativistic_generator),
}


def r1(logits: Logits, inputs: Sequence[Tensor]) -> Float[Tensor, ""]:
    """``E_x sum_k ||grad_{F_k} sum_n D_kn||^2 / N_k`` on the heads' INPUTS, not on pixels (arXiv 2311.17042, section 3).

    ``inputs [B, C_k, *S_k]``, one for each head k, require grad, and ``logits`` depend on them. Head k has a logit at each of
    its ``N_k = prod(S_k)`` places. The gradient is that of their sum (add_spec A5.5), and its square is averaged over the
    places: so a head that asks the same question at every place has the same R1 at 4 places and at 4096, beside losses
    that average over places too. Heads add up. Mescheder's factor 1/2 (arXiv 1801.04406) is left to the weight gamma.
    """
    gradients = torch.autograd.grad(logits.sum(), list(inputs), create_graph=True)
    return torch.stack([g.pow(2).flatten(1).sum(1).mean() / places(g) for g in gradients]).sum()


def approximate_r1(logits: Logits, perturbed: Logits, heads: Sequence[int] = ()) -> Float[Tensor, ""]:
    """``E sum_k (sum_n (D_kn(x) - D_kn(x + s n)))^2 / N_k``: R1 without a second backward (APT, arXiv 2501.08316).

    ``heads`` says how many of the ``K`` logits each head gives; empty is one head of them all. For white noise n on the
    heads' inputs its expectation is ``s^2`` times `r1` as s falls to 0; on pixels it is the slope with respect to those.
    """
    differences = (logits - perturbed).split(list(heads) or logits.shape[1], 1)
    return torch.stack([d.sum(1).pow(2).mean() / d.shape[1] for d in differences]).sum()


def places(level: Float[Tensor, " B C *S"]) -> int:
    """Number of places at which a head on this feature level has a logit: ``prod(S)``."""
    return math.prod(level.shape[2:])


def huber(a: Float[Tensor, " B *X"], b: Float[Tensor, " B *X"], c: float = 0.03) -> Float[Tensor, " B"]:
    """Pseudo-Huber distance a sample, ``sqrt(mean((a-b)^2) + c^2) - c`` (iCT, arXiv 2310.14189, section 3.3)."""
    return (squared(a, b) + c * c).sqrt() - c


def squared(a: Float[Tensor, " B *X"], b: Float[Tensor, " B *X"]) -> Float[Tensor, " B"]:
    """``mean((a - b)^2)`` over everything but the batch: ADD's d, averaged so that lambda does not depend on size."""
    return (a - b).pow(2).flatten(1).mean(1)


def neighbour_differences(x: Media) -> list[Tensor]:
    """First differences along every spatial axis, whatever their number."""
    return [x.diff(dim=axis) for axis in range(2, x.dim())]
