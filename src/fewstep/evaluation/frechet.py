r"""Fréchet distance between Gaussians fitted to features: ``FD-<network>``, never FID (that name means Inception-v3).

Heusel et al. 2017, arXiv:1706.08500, eq. 6; Dowson and Landau 1982 for the closed form:

.. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2})^{1/2})

The estimate is biased upward by a term that falls about as 1/n (arXiv:1911.07023): compare equal n only, and read a
difference or a ratio at that n, not the value. `frechet_infinity` extrapolates it away.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..rng import Rng
from .jackknife import Interval, interval


def frechet_gaussians(
    mean_a: Float[Tensor, " D"], cov_a: Float[Tensor, "D D"], mean_b: Float[Tensor, " D"], cov_b: Float[Tensor, "D D"]
) -> float:
    """Fréchet distance of two Gaussians, by two symmetric eigenproblems: no square root of a non-symmetric product."""
    mean_a, cov_a, mean_b, cov_b = (x.double() for x in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, distance.item())


def frechet(generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"]) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features (covariances with n - 1)."""
    return frechet_statistic(generated, reference)(torch.ones(len(generated), dtype=torch.float64))


def frechet_statistic(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"]
) -> Callable[[Float[Tensor, " N"]], float]:
    r"""The Fréchet distance as a function of how often each generated sample counts: exact, and made to be asked often.

    With the centred features as the rows of A (weighted) and B, the trace of the root is the nuclear norm of
    :math:`A B^T / \sqrt{(n-1)(m-1)}`. Only the weights change, so its Gram matrix is made once, on the narrower side, and
    another weighting costs one symmetric eigenproblem, no wider than the samples that occur in it, the reference or the
    features: some hundredths of a second for n = 500, where the full problem at D = 1,280 takes seconds.
    """
    a, b = _rows(generated), _rows(reference)
    mean_b = b.mean(0)
    centred = b - mean_b
    # R has the reference's covariance in at most D rows: B^T B / (m - 1) = R^T R
    root = torch.linalg.qr(centred, mode="r").R if len(b) > b.shape[1] else centred
    root = root / (len(b) - 1) ** 0.5
    a = a - mean_b
    seen, trace_b, lengths = a @ root.T, root.square().sum(), a.square().sum(1)
    few = len(seen) <= seen.shape[1]
    gram = seen @ seen.T if few else seen.T @ seen

    def scatter(w: Tensor, total: Tensor) -> Tensor:
        """Weighted and centred: of samples where they are few, else of axes, from the whole by what ``w`` changes in it."""
        if few:
            index = w.nonzero().squeeze(1)
            w, inner = w[index], gram[index][:, index]
            towards = inner @ w / total
            inner = inner - towards[:, None] - towards + (w @ towards) / total
            return inner * w.sqrt()[:, None] * w.sqrt()
        changed = (w != 1).nonzero().squeeze(1)
        mean = w @ seen / total
        moved = seen[changed]
        return gram + moved.T @ ((w[changed] - 1)[:, None] * moved) - total * torch.outer(mean, mean)

    def statistic(weights: Float[Tensor, " N"]) -> float:
        w = weights.double()
        total = w.sum()
        mean = w @ a / total
        trace_a = (w @ lengths - total * mean.square().sum()) / (total - 1)
        cross = torch.linalg.eigvalsh(scatter(w, total) / (total - 1)).clamp(min=0).sqrt().sum()
        return max(0.0, (mean.square().sum() + trace_a + trace_b - 2 * cross).item())

    return statistic


TIMES = 4
"""Pictures a feature that an extrapolation takes: with fewer, the bias is no multiple of 1/n."""


def frechet_infinity(
    generated: Float[Tensor, "N D"], reference: Float[Tensor, "M D"], rng: Rng, points: int = 6, groups: int = 20
) -> Interval:
    """The Fréchet distance for n without end, from distances at several smaller n, with its 95% interval.

    Chong and Forsyth 2020, arXiv:1911.07023: the bias of the drawn pictures is a multiple of 1/n, so a line through the
    distances at ``points`` numbers of pictures, from n / 2 to n, meets 1/n = 0 where it is gone. Of each number the first and
    the last of the pictures, in a random order, are taken, and the mean of the two counts. The reference's own bias stays: it
    is the same for every model.

    The interval leaves out one of ``groups`` random groups of pictures at a time and extrapolates anew.
    Raises ValueError for fewer than 4 pictures a feature (D): below, the curve over 1/n is bent, and the line lands as far below
    the truth as the distance is above it.
    """
    n, least = len(generated), TIMES * generated.shape[1]
    if n < least:
        raise ValueError(f"{n} pictures are too few to extrapolate from: {generated.shape[1]} features take {least}")
    statistic = frechet_statistic(generated, reference)
    order = rng.uniform((n,)).argsort()
    group = torch.arange(n) % groups  # of the shuffled pictures

    def at(kept: Tensor, size: int) -> float:
        halves = (kept[:size], kept[-size:]) if size < len(kept) else (kept,)
        return sum(statistic(torch.zeros(n, dtype=torch.float64).index_fill_(0, one, 1)) for one in halves) / len(
            halves
        )

    def extrapolated(kept: Tensor) -> float:
        sizes = [round(len(kept) * (0.5 + 0.5 * step / (points - 1))) for step in range(points)]
        x = 1 / torch.tensor(sizes, dtype=torch.float64)
        y = torch.tensor([at(kept, size) for size in sizes], dtype=torch.float64)
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        return float(y.mean() - slope * x.mean())

    without = [extrapolated(order[group != g]) for g in range(groups)]
    return interval(extrapolated(order), without)


def _rows(features: Tensor) -> Tensor:
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"a covariance needs features [N, D] with N of 2 or more, not {list(features.shape)}")
    return features.double()
