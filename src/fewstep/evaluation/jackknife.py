r"""Intervals by leaving out one prompt at a time: how far would a figure move with other prompts and seeds, at this n?

Delete-one-group jackknife (Quenouille 1956; Tukey 1958; Efron and Stein 1981, Annals of Statistics 9). The figure is taken
anew without each prompt's pictures, exactly: neighbourhoods are measured on what is left. From these :math:`\theta_{(i)}`,
``left_out``, comes the standard error

.. math:: se^2 = \frac{P - 1}{P} \sum_i (\theta_{(i)} - \bar\theta)^2

and the interval ``value +- t_{P-1} se``. A resample with replacement would not do: it holds 63% of the prompts, and Fréchet
distance, recall and coverage hang on how many different pictures there are. The drawn pictures vary; the reference set is
held fixed, as the thing measured against. The interval says nothing about n without end.

Recall is half sampled in its place (`halved`). Which ball holds a real picture changes by leaps with every prompt, so the
:math:`\theta_{(i)}` differ by more than prompts differ: intervals 1.3 to 2 times too wide.

Figures of two models over the same prompts share what is easy and what is hard: the spread of the differences of their
``left_out`` is the paired standard error, as `compare.py` uses it.

``benchmarks/intervals.py`` counts how often the intervals hold what they should.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewstep.rng import Rng

LEVEL = 0.95
SHARE = (0.0, 1.0)
"""The bounds of a share: a figure with these gets Wilson's interval."""


@dataclass(frozen=True)
class Interval:
    """A figure with its bounds."""

    value: float
    low: float
    high: float


def left_out(
    statistic: Callable[[Float[Tensor, " N"]], float], n: int, clusters: Int[Tensor, " N"] | None = None
) -> Float[Tensor, " P"]:
    """The statistic without each cluster in turn; without ``clusters`` every sample is one.

    ``statistic`` is a function of ``weights [N]``, how often each sample counts: 0 for those that are left out, 1 for others.
    """
    names, member_of = (torch.arange(n) if clusters is None else clusters).unique(return_inverse=True)
    found = [statistic((member_of != i).double()) for i in range(len(names))]
    return torch.tensor(found, dtype=torch.float64)


def left_out_means(values: Float[Tensor, " N"], clusters: Int[Tensor, " N"] | None = None) -> Float[Tensor, " P"]:
    """The mean of ``values`` without each cluster in turn."""
    values = values.double()
    names, member_of = (torch.arange(len(values)) if clusters is None else clusters).unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, member_of, values)
    return (values.sum() - sums) / (len(values) - torch.bincount(member_of))


def halved(
    statistic: Callable[[Float[Tensor, " N"]], float],
    n: int,
    clusters: Int[Tensor, " N"],
    rng: Rng,
    least: int = 1,
) -> Float[Tensor, " P"]:
    r"""A share with a random half of the clusters, P times, moved so that `standard_error` is right for it as for ``left_out``.

    Half sampling (McCarthy 1969; Shao and Tu 1995, section 5.2): over random sets of :math:`h` of :math:`P` clusters, the
    variance of a figure is that of the whole times :math:`(P - h) / h`. A share of half as many prompts lies elsewhere between
    0 and 1, so the spread is taken in log odds and brought to the whole's. Halves are grown until more than ``least`` samples
    are left.
    Two models with the same ``rng`` get the same halves.
    """
    names, member_of = clusters.unique(return_inverse=True)
    p, sizes = len(names), torch.bincount(member_of).sort().values
    kept = next((h for h in range((p + 1) // 2, p - 1) if int(sizes[:h].sum()) > least), p - 1)
    orders = rng.uniform((p, p)).argsort(1) if kept < p - 1 else torch.eye(p).argsort(1)
    found = [statistic(torch.isin(member_of, order[:kept]).double()) for order in orders]
    few = 1 / (2 * n)
    shares = torch.tensor([statistic(torch.ones(n, dtype=torch.float64)), *found], dtype=torch.float64)
    inner = shares.clamp(few, 1 - few)
    odds = inner.logit()
    scale = inner[0] * (1 - inner[0]) * math.sqrt(kept / ((p - kept) * (p - 1)))
    return shares[0] + scale * (odds[1:] - odds[1:].mean())


def standard_error(left_out: Float[Tensor, " P"]) -> float:
    """Of the whole figure; nan where there are fewer than two clusters."""
    p = len(left_out)
    return ((p - 1) * left_out.var(correction=0)).sqrt().item() if p > 1 else math.nan


def interval(
    value: float,
    left_out: Float[Tensor, " P"] | Sequence[float],
    bounds: tuple[float, float] = (-math.inf, math.inf),
    level: float = LEVEL,
) -> Interval:
    """``value`` with its interval; ``bounds`` are the values that it can take at all.

    A share's is Wilson's, for as many independent trials as would have this standard error (Wilson 1927; Korn and Graubard
    1998 for samples in groups): it never leaves 0 to 1, and nothing found among P prompts does not mean that there is nothing.
    Raises ValueError for fewer than two clusters.
    """
    values = torch.as_tensor(left_out, dtype=torch.float64)
    p = len(values)
    if p < 2:
        raise ValueError("an interval needs two prompts or more: one tells nothing about others")
    se, t = standard_error(values), student_t(level, p - 1)
    if bounds != SHARE:
        return Interval(value, max(value - t * se, bounds[0]), min(value + t * se, bounds[1]))
    spread = value * (1 - value)
    trials = max(1.0, spread / se**2) if se > 0 and spread > 0 else float(p)
    middle = (value + t * t / (2 * trials)) / (1 + t * t / trials)
    half = t / (1 + t * t / trials) * math.sqrt(max(0.0, spread) / trials + (t / (2 * trials)) ** 2)
    return Interval(value, min(value, max(middle - half, 0.0)), max(value, min(middle + half, 1.0)))


def student_t(level: float, freedom: int) -> float:
    """How many standard errors either side hold ``level`` of Student's t with ``freedom`` degrees.

    Exact for 1 and 2; Abramowitz and Stegun 26.7.5 beyond, within a thousandth.
    """
    p = (1 + level) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return level * math.sqrt(2 / (1 - level**2))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**k for k, term in enumerate(terms, 1))
