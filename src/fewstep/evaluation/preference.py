"""Which model do people prefer? Ratings from pairwise votes: Bradley-Terry by maximum likelihood, and Elo as ADD reports it.

A vote is ``(a, b, score)``: models a and b were shown side by side, and score is 1 where a was chosen, 0 where b was, and
one half for a tie. Ratings are in Elo points: 400 more means odds of ten to one.

Bootstraps need the ratings of a thousand resamples. So votes are counted once, by cluster: a *tally* ``[C, K, 3]`` holds for
each of the ``C`` clusters (prompts) and ``K`` pairs of models ``i < j`` how often i won, the two tied, and j won.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..rng import Rng
from .bootstrap import resample
from .jackknife import LEVEL

Vote = tuple[int, int, float]
POINTS = 400 / math.log(10)
"""Elo points of one unit of log odds."""


def expected(rating_a: float, rating_b: float) -> float:
    """Share of votes that a should get: ``1 / (1 + 10^((R_b - R_a) / 400))`` (arXiv 2311.17042, appendix)."""
    return 1 / (1 + 10 ** ((rating_b - rating_a) / 400))


def elo(
    votes: Sequence[Vote], models: int, rng: Rng, k: float = 1.0, start: float = 1000.0, orders: int = 1000
) -> Tensor:
    """Elo ratings ``[models]``, float64, averaged over ``orders`` random orders of the votes, since Elo depends on the order.

    K = 1, start 1000 and 1000 orders are ADD's protocol (arXiv 2311.17042). Every order is one row of a table, so that all
    are played at once. Raises ValueError for no votes or a vote that names no such model.
    """
    a, b, score = _columns(votes, models)
    ratings = torch.full((orders, models), start, dtype=torch.float64)
    row = torch.arange(orders)
    order = torch.stack([rng.uniform((len(a),)).argsort() for _ in range(orders)])
    for turn in order.T:
        first, second = a[turn], b[turn]
        gap = ratings[row, second] - ratings[row, first]
        change = k * (score[turn] - 1 / (1 + 10 ** (gap / 400)))
        ratings[row, first] += change
        ratings[row, second] -= change
    return ratings.mean(0)


def bradley_terry(votes: Sequence[Vote], models: int, prior: float = 1e-3, rounds: int = 50) -> Float[Tensor, " M"]:
    """Ratings ``[models]``, float64, mean 1000, under which the votes are most likely: no order, no K, one right answer.

    ``P(a over b) = 1 / (1 + exp(s_b - s_a))`` (Bradley & Terry 1952); a tie is half a win for each. ``prior`` is the weight
    of a Gaussian that keeps a model which won or lost everything finite; two models that no chain of votes joins are level
    under it. Raises ValueError for no votes or a vote that names no such model.
    """
    a, b, score = _columns(votes, models)
    known = {pair: k for k, pair in enumerate(pairs(models))}
    row = torch.tensor([known[min(i, j), max(i, j)] for i, j in zip(a.tolist(), b.tolist())])
    first = torch.where(a < b, score, 1 - score)
    won = torch.zeros(len(known), 2, dtype=torch.float64).index_add_(0, row, torch.stack([first, 1 - first], 1))
    s = _most_likely(_outcomes(models)[:, ::2, :-1], won, prior, rounds)
    return 1000 + POINTS * (s - s.mean())


class Davidson(NamedTuple):
    """What votes with ties say."""

    ratings: Float[Tensor, "*R M"]
    """Elo points, mean 1000. 400 more means that wins stand to losses as ten to one; ties are not counted in this."""
    tie: Float[Tensor, "*R"]
    """nu: two models that are level tie with probability ``nu / (2 + nu)``."""


def davidson(counted: Float[Tensor, "*R K 3"], models: int, prior: float = 1e-3, rounds: int = 50) -> Davidson:
    """Bradley-Terry with ties as an outcome of its own (Davidson 1970): the maximum of the likelihood, for all ``*R`` at once.

    With strengths ``pi = exp(s)``: ``P(a wins) = pi_a / D``, ``P(tie) = nu sqrt(pi_a pi_b) / D``, where
    ``D = pi_a + pi_b + nu sqrt(pi_a pi_b)``. ``counted`` are tallies summed over their clusters, with any weights.
    """
    found = _most_likely(_outcomes(models), counted, prior, rounds)
    s, nu = found[..., :-1], found[..., -1]
    return Davidson(1000 + POINTS * (s - s.mean(-1, keepdim=True)), nu.exp())


def pairs(models: int) -> list[tuple[int, int]]:
    """All pairs ``i < j`` of so many models, in the order of a tally's second axis."""
    return list(combinations(range(models), 2))


def tally(votes: Sequence[Vote], models: int, clusters: Sequence[int] | None = None) -> Float[Tensor, "C K 3"]:
    """Votes counted by cluster: i won, tie, j won. Without ``clusters`` every vote is one of its own.

    Raises ValueError for no votes, a vote that names no such model, or a score other than 0, 1/2 and 1.
    """
    _columns(votes, models)
    names = list(range(len(votes))) if clusters is None else list(clusters)
    place = {name: c for c, name in enumerate(dict.fromkeys(names))}
    known = {pair: k for k, pair in enumerate(pairs(models))}
    out = torch.zeros(len(place), len(known), 3, dtype=torch.float64)
    for (a, b, score), name in zip(votes, names):
        if 2 * score not in (0, 1, 2):
            raise ValueError(f"the vote {(a, b, score)} is none: its score is 0, 1, or 0.5 for a tie")
        first = score if a < b else 1 - score
        out[place[name], known[min(a, b), max(a, b)], round(2 - 2 * first)] += 1
    return out


def resampled(counted: Float[Tensor, "C K 3"], rng: Rng, resamples: int = 1000) -> Float[Tensor, "R K 3"]:
    """Sums over clusters that were drawn with replacement: votes on one prompt stay together, for they go together."""
    drawn = torch.stack([resample(len(counted), rng) for _ in range(resamples)])
    return torch.einsum("rc,cko->rko", drawn, counted)


def shares(counted: Float[Tensor, "*R K 3"]) -> Float[Tensor, "*R K"]:
    """Share of the votes that went to the first of each pair, a tie counting half; nan where there are none."""
    return (counted[..., 0] + counted[..., 1] / 2) / counted.sum(-1)


def votes_needed(share: float, power: float = 0.8, level: float = LEVEL) -> int:
    """Votes after which a true ``share`` (not one half) is told from one half with this power, if they are independent.

    ``n = ((z_level / 2 + z_power sqrt(p (1 - p))) / (p - 1/2))^2``, the one-sample test of a share, for its two-sided interval.
    """
    z, reach = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)
    return math.ceil(((z / 2 + reach * math.sqrt(share * (1 - share))) / (share - 0.5)) ** 2)


def further_votes(distance: float, error: float, n: int, power: float = 0.8, level: float = LEVEL) -> float:
    """Votes beside the ``n`` at hand that would settle a difference, if it is as large as it looks and they are as noisy.

    The standard ``error`` falls with the root of the number of votes: it is to be small enough that a ``distance`` of this
    size shows with the given power. Infinite where there is no distance; 0 where there are enough.
    """
    z, reach = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)
    if not distance:
        return math.inf
    return max(0.0, n * ((z + reach) * error / distance) ** 2 - n)


def _outcomes(models: int) -> Float[Tensor, "K 3 P"]:
    """What each outcome of each pair adds to its log probability, by parameter: the strengths, and last the log of nu."""
    known = pairs(models)
    out = torch.zeros(len(known), 3, models + 1, dtype=torch.float64)
    for k, (i, j) in enumerate(known):
        out[k, 0, i] = out[k, 2, j] = out[k, 1, -1] = 1
        out[k, 1, [i, j]] = 0.5
    return out


def _most_likely(
    outcomes: Float[Tensor, "K O P"], seen: Float[Tensor, "*R K O"], prior: float, rounds: int
) -> Float[Tensor, "*R P"]:
    """The maximum of an exponential family's likelihood under a Gaussian prior, by Newton's method: it is concave."""
    votes = seen.sum(-1, keepdim=True)
    found = torch.zeros(*seen.shape[:-2], outcomes.shape[-1], dtype=torch.float64)
    ridge = prior * torch.eye(outcomes.shape[-1], dtype=torch.float64)
    for _ in range(rounds):
        p = torch.einsum("kop,...p->...ko", outcomes, found).softmax(-1)
        gradient = torch.einsum("...ko,kop->...p", seen - votes * p, outcomes) - prior * found
        mean = torch.einsum("...ko,kop->...kp", p, outcomes)
        hessian = torch.einsum("...ko,kop,koq->...pq", votes * p, outcomes, outcomes)
        hessian = hessian - torch.einsum("...k,...kp,...kq->...pq", votes[..., 0], mean, mean) + ridge
        step = torch.linalg.solve(hessian, gradient)
        longest = step.abs().amax(-1, keepdim=True)
        found = found + step * (2 / longest.clamp(min=2))  # a step of more than 2 is shortened to 2
        if float(longest.max()) < 1e-10:
            break
    return found


def _columns(votes: Sequence[Vote], models: int) -> tuple[Tensor, Tensor, Tensor]:
    if not votes:
        raise ValueError("there are no votes: a rating needs at least one")
    for a, b, score in votes:
        if not (0 <= a < models and 0 <= b < models) or a == b or not 0 <= score <= 1:
            raise ValueError(
                f"the vote {(a, b, score)} is none: name two of models 0 to {models - 1} and a score from 0 to 1"
            )
    first, second, scores = zip(*votes)
    return torch.tensor(first), torch.tensor(second), torch.tensor(scores, dtype=torch.float64)
