"""Which model do people prefer? Ratings from pairwise votes: Bradley-Terry by maximum likelihood, and Elo as ADD reports it.

A vote is ``(a, b, score)``: models a and b were shown side by side, and score is 1 where a was chosen, 0 where b was, and
one half for a tie. Ratings are in Elo points: 400 more means odds of ten to one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..rng import Rng

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

    ``P(a over b) = 1 / (1 + exp(s_b - s_a))`` (Bradley & Terry 1952), by Newton's method. ``prior`` is the weight of a
    Gaussian that keeps a model which won or lost everything finite; two models that no chain of votes joins are level under it.
    Raises ValueError for no votes or a vote that names no such model.
    """
    a, b, score = _columns(votes, models)
    s = torch.zeros(models, dtype=torch.float64)
    for _ in range(rounds):
        p = torch.sigmoid(s[a] - s[b])
        pull, weight = score - p, p * (1 - p)
        gradient = -prior * s
        gradient.index_add_(0, a, pull).index_add_(0, b, -pull)
        hessian = prior * torch.eye(models, dtype=torch.float64)
        for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            hessian.index_put_((i, j), sign * weight, accumulate=True)
        step = torch.linalg.solve(hessian, gradient)
        s = s + step * (2 / max(2.0, float(step.abs().max())))  # a step of more than 2 is shortened to 2
        if float(step.abs().max()) < 1e-10:
            break
    return 1000 + POINTS * (s - s.mean())


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
