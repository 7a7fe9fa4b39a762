"""Kernel Inception Distance's statistic on any features: unbiased squared MMD with a cubic kernel, right at small n.

Bińkowski et al. 2018, arXiv:1801.01401 (kernel: section 4; the unbiased estimator: Gretton et al. 2012, lemma 6). Unbiased
means over pairs of independent samples. Pictures of one prompt are none: they are alike, and pairing them would make every
set seem narrower, hence further away, than it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewstep.rng import Rng


def polynomial_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """``(x . y / D + 1)^3`` in float64: no scale to choose."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def squared_mmd(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"], clusters: Int[Tensor, " N"] | None = None
) -> float:
    """Unbiased squared maximum mean discrepancy; its expectation is 0 for equal distributions, so it may be negative."""
    return kernel_statistic(generated, reference, clusters)(torch.ones(len(generated), dtype=torch.float64))


def kernel_statistic(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"], clusters: Int[Tensor, " N"] | None = None,
    behind: ReferencePairs | None = None,
) -> Callable[[Float[Tensor, " N"]], float]:  # fmt: skip
    """The squared MMD as a function of how often each generated sample counts.

    Samples of one cluster, the pictures of one prompt, are never paired, nor is a sample that a resample took twice with
    itself. With ``behind``, what is known of the reference's own pairs, they count as often as two draws of a concept are the
    same there: next to never among many concepts, and often where there are a few classes and nothing else.
    """
    if len(generated) < 2 or len(reference) < 2:
        raise ValueError("an unbiased MMD needs 2 or more samples on either side")
    behind = behind or ReferencePairs.of(reference)
    within = polynomial_kernel(generated, generated)
    within.fill_diagonal_(0)
    across = polynomial_kernel(generated, reference).mean(1)
    of = torch.arange(len(generated)) if clusters is None else clusters.unique(return_inverse=True)[1]
    same = (of[:, None] == of).double()
    if bool((same == 1).all()):
        raise ValueError("an unbiased MMD needs samples of two prompts or more: those of one are never paired")
    alike = within * same
    apart = within - alike

    def statistic(weights: Float[Tensor, " N"]) -> float:
        w = weights.double()
        total = w.sum()
        sizes = torch.zeros(int(of.max()) + 1, dtype=torch.float64).index_add_(0, of, w)
        together = sizes.square().sum()
        mean = w @ apart @ w / (total**2 - together)
        siblings = together - w.square().sum()
        if behind.share > 0 and siblings > 0:
            mean = (1 - behind.share) * mean + behind.share * (w @ alike @ w) / siblings
        return (mean + behind.mean - 2 * (w @ across) / total).item()

    return statistic


@dataclass(frozen=True)
class ReferencePairs:
    """Means over the pairs of a reference, computed once."""

    mean: float
    """Of the kernel over pairs of different samples, those of one concept as often as two draws of a concept are the same."""
    share: float = 0.0
    """How often two draws of a concept are the same."""

    @classmethod
    def of(cls, reference: Float[Tensor, "M D"], concepts: Int[Tensor, " M"] | None = None) -> ReferencePairs:
        """Go through all pairs of ``reference``; ``concepts`` says what each sample shows, all different things by default."""
        m = len(reference)
        of = torch.arange(m) if concepts is None else concepts
        every = alike = 0.0
        for rows, own in zip(reference.split(1024), of.split(1024)):
            values = polynomial_kernel(rows, reference)
            every += float(values.sum())
            alike += float(values[own[:, None] == of].sum())
        itself = float(((reference.double().square().sum(1) / reference.shape[1] + 1) ** 3).sum())
        sizes = of.unique(return_counts=True)[1].double()
        siblings = float(sizes.square().sum()) - m
        if not 0 < siblings < m * (m - 1):
            return cls((every - itself) / (m * (m - 1)))
        share = float((sizes / m).square().sum())
        return cls((1 - share) * (every - alike) / (m * m - m - siblings) + share * (alike - itself) / siblings, share)


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
