"""Kernel Inception Distance's statistic on any features: unbiased squared MMD with a cubic kernel, right at small n.

Bińkowski et al. 2018, arXiv:1801.01401 (kernel: section 4; the unbiased estimator: Gretton et al. 2012, lemma 6).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fewstep.rng import Rng


def polynomial_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """``(x . y / D + 1)^3`` in float64: no scale to choose."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def squared_mmd(generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"]) -> float:
    """Unbiased squared maximum mean discrepancy; its expectation is 0 for equal distributions, so it may be negative."""
    return kernel_statistic(generated, reference)(torch.ones(len(generated), dtype=torch.float64))


def kernel_statistic(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"]
) -> Callable[[Float[Tensor, " N"]], float]:
    """The squared MMD as a function of how often each generated sample counts.

    A sample that a resample took twice is never paired with itself, so resampling adds no bias.
    """
    if len(generated) < 2 or len(reference) < 2:
        raise ValueError("an unbiased MMD needs 2 or more samples on either side")
    within = polynomial_kernel(generated, generated)
    within.fill_diagonal_(0)
    across = polynomial_kernel(generated, reference).mean(1)
    behind = polynomial_kernel(reference, reference)
    m = len(reference)
    constant = (behind.sum() - behind.diagonal().sum()) / (m * (m - 1))

    def statistic(weights: Float[Tensor, " N"]) -> float:
        w = weights.double()
        total = w.sum()
        pairs = total**2 - w.square().sum()
        return (w @ within @ w / pairs + constant - 2 * (w @ across) / total).item()

    return statistic


def kid(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"], rng: Rng, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Mean and standard deviation of the squared MMD over random subsets (without replacement): the published protocol.

    ``size`` shrinks to the smaller set where that is smaller; use ``squared_mmd`` where all pairs fit into memory.
    """
    size = min(size, len(generated), len(reference))
    values = []
    for _ in range(subsets):
        a = rng.uniform((len(generated),)).argsort()[:size]
        b = rng.uniform((len(reference),)).argsort()[:size]
        values.append(squared_mmd(generated[a], reference[b]))
    stacked = torch.tensor(values, dtype=torch.float64)
    return stacked.mean().item(), stacked.std(correction=0).item()
