"""Ratings from votes: planted rankings come back, and the closed forms hold (identity 15 of the specification)."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.evaluation.preference import POINTS, bradley_terry, elo, expected
from fewstep.rng import Rng


def cast(strengths: list[float], each: int, seed: int = 0) -> list[tuple[int, int, float]]:
    rng = Rng.of(seed, "votes")
    pairs = [(i, j) for i in range(len(strengths)) for j in range(i)]
    return [
        (i, j, float(rng.uniform((1,)) < expected(strengths[i], strengths[j]))) for i, j in pairs for _ in range(each)
    ]


def test_a_planted_ranking_is_recovered_by_both():
    planted = [1000.0, 1150.0, 900.0, 1060.0]
    votes = cast(planted, 400)
    order = sorted(range(4), key=lambda i: planted[i])
    found = bradley_terry(votes, 4)
    assert sorted(range(4), key=lambda i: float(found[i])) == order
    centred = torch.tensor(planted, dtype=torch.float64) - sum(planted) / 4 + 1000
    assert (found - centred).abs().max() < 35  # 400 votes a pair: a standard error of about 11 points
    assert sorted(range(4), key=lambda i: float(elo(votes, 4, Rng.of(1), k=8, orders=100)[i])) == order


def test_two_models_have_the_closed_form_and_ties_count_half():
    votes = [(0, 1, 1.0)] * 60 + [(0, 1, 0.0)] * 30 + [(1, 0, 0.5)] * 10
    found = bradley_terry(votes, 2, prior=1e-12)
    assert float(found[0] - found[1]) == pytest.approx(POINTS * math.log(65 / 35), abs=1e-6)
    assert float(found.mean()) == pytest.approx(1000)


def test_who_is_named_first_does_not_matter():
    votes = cast([1000, 1100, 1200], 50)
    turned = [(b, a, 1 - score) for a, b, score in votes]
    torch.testing.assert_close(bradley_terry(votes, 3), bradley_terry(turned, 3))


def test_a_model_that_won_everything_stays_finite_and_first():
    found = bradley_terry([(0, 1, 1.0)] * 20 + [(1, 2, 1.0), (1, 2, 0.0)] * 5, 3)
    assert found.isfinite().all()
    assert int(found.argmax()) == 0


def test_elo_of_one_vote_moves_both_by_half_of_k_and_never_in_sum():
    torch.testing.assert_close(elo([(0, 1, 1.0)], 2, Rng.of(0), orders=3), torch.tensor([1000.5, 999.5]).double())
    assert float(elo(cast([1000, 1300, 800], 40), 3, Rng.of(0), orders=20).sum()) == pytest.approx(3000)


def test_the_gap_of_a_share_is_the_published_one():
    for share, gap in ((0.55, 35), (0.60, 70), (0.70, 147), (0.80, 241)):
        assert expected(1000 + gap, 1000) == pytest.approx(share, abs=0.001)


@pytest.mark.parametrize("votes", [[], [(0, 0, 1.0)], [(0, 5, 1.0)], [(0, 1, 2.0)]])
def test_bad_votes_get_one_sentence(votes):
    with pytest.raises(ValueError, match=r"no votes|name two of models"):
        bradley_terry(votes, 3)
