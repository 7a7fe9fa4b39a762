"""Bootstrap intervals: how far would the figure move with other prompts and seeds, at this n?

Efron and Tibshirani 1993, chapter 13 (percentile interval); Davison and Hinkley 1997, section 3.8 (clusters). The drawn
pictures are resampled; the reference set is held fixed, as the thing measured against. Pictures of one prompt are alike,
so whole prompts are resampled (``clusters``) where several seeds share one.

A statistic is a function of ``weights [N]``, how often each sample counts. For plain means the percentile interval is
right as it is. Fréchet distance, recall and coverage are biased in the number of *different* samples, of which a resample
holds 63%, and a kernel distance in how often one prompt's pictures meet: their resamples lie to one side of the figure
itself. ``recentre`` moves the resamples' mean back onto the figure: the interval then tells the spread at this n, and says
nothing about n without end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewstep.rng import Rng


@dataclass(frozen=True)
class Interval:
    """A figure with its bounds."""

    value: float
    low: float
    high: float


def resample(n: int, rng: Rng, clusters: Int[Tensor, " N"] | None = None) -> Float[Tensor, " N"]:
    """One resample, as the number of times each sample was drawn; with ``clusters`` whole clusters are drawn."""
    if clusters is None:
        return torch.bincount(rng.integers((n,), n).cpu(), minlength=n).double()
    names, member_of = clusters.unique(return_inverse=True)
    drawn = torch.bincount(rng.integers((len(names),), len(names)).cpu(), minlength=len(names))
    return drawn[member_of].double()


def bootstrap(
    statistic: Callable[[Float[Tensor, " N"]], float],
    n: int,
    rng: Rng,
    *,
    resamples: int = 200,
    level: float = 0.95,
    clusters: Int[Tensor, " N"] | None = None,
    recentre: bool = False,
    bounds: tuple[float, float] = (-float("inf"), float("inf")),
) -> Interval:
    """The statistic of all samples with its percentile interval; ``bounds`` are the values it can take at all."""
    value = statistic(torch.ones(n, dtype=torch.float64))
    draws = torch.tensor([statistic(resample(n, rng, clusters)) for _ in range(resamples)], dtype=torch.float64)
    return _percentiles(value, draws, level, recentre, bounds)


def mean_interval(
    values: Float[Tensor, " N"],
    rng: Rng,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    clusters: Int[Tensor, " N"] | None = None,
) -> Interval:
    """Mean of per-sample values with its percentile interval."""
    values = values.double()
    names, member_of = (torch.arange(len(values)) if clusters is None else clusters).unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, member_of, values)
    sizes = torch.bincount(member_of).double()
    picks = rng.integers((resamples, len(names)), len(names)).cpu()
    draws = sums[picks].sum(1) / sizes[picks].sum(1)
    return _percentiles(values.mean().item(), draws, level, False, (-float("inf"), float("inf")))


def median_interval(values: Float[Tensor, " N"], rng: Rng, *, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Median of per-sample values with its percentile interval: for times, whose tail is long."""
    values = values.double()

    def median(weights: Tensor) -> float:
        return values.repeat_interleave(weights.long()).quantile(0.5).item()

    return bootstrap(median, len(values), rng, resamples=resamples, level=level)


def _percentiles(
    value: float, draws: Float[Tensor, " R"], level: float, recentre: bool, bounds: tuple[float, float]
) -> Interval:
    if recentre:
        draws = draws + (value - draws.mean())
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).clamp(*bounds).tolist()
    return Interval(value, low, high)
