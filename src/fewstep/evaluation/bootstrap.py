"""Intervals of statistics that are given as a function of how often each sample counts.

Efron and Tibshirani 1993, chapter 13 (percentile interval); Davison and Hinkley 1997, section 3.8 (clusters). It is right for
plain means and medians; a statistic that hangs on how many *different* samples there are is jackknifed (see `jackknife.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewstep.evaluation import jackknife
from fewstep.evaluation.jackknife import LEVEL, Interval
from fewstep.rng import Rng


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
    level: float = LEVEL,
    clusters: Int[Tensor, " N"] | None = None,
    recentre: bool = False,
    bounds: tuple[float, float] = (-float("inf"), float("inf")),
) -> Interval:
    """The statistic of all samples with its interval; ``bounds`` are the values it can take at all.

    The percentile interval of ``resamples``; with ``recentre`` the jackknife's, which draws nothing and lies round the value.
    That is for Fréchet distance, recall and coverage: in a resample 37% of the samples are missing, which moves these by more
    than their spread, and moving the resamples back by the mean shift does not make their width right.
    """
    value = statistic(torch.ones(n, dtype=torch.float64))
    if recentre:
        return jackknife.interval(value, jackknife.left_out(statistic, n, clusters), bounds, level)
    draws = torch.tensor([statistic(resample(n, rng, clusters)) for _ in range(resamples)], dtype=torch.float64)
    tail = (1 - level) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).clamp(*bounds).tolist()
    return Interval(value, low, high)


def median_interval(values: Float[Tensor, " N"], rng: Rng, *, resamples: int = 1000, level: float = LEVEL) -> Interval:
    """Median of per-sample values with its percentile interval: for times, whose tail is long."""
    values = values.double()

    def median(weights: Tensor) -> float:
        return values.repeat_interleave(weights.long()).quantile(0.5).item()

    return bootstrap(median, len(values), rng, resamples=resamples, level=level)
