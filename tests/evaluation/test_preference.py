"""Ratings from votes: planted rankings come back, and the closed forms hold (identity 15 of the specification)."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.evaluation.agreement import cohen_kappa, interval, krippendorff_alpha
from fewstep.evaluation.preference import (
    POINTS,
    bradley_terry,
    davidson,
    elo,
    expected,
    further_votes,
    pairs,
    resampled,
    shares,
    tally,
    votes_needed,
)
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


def three_way(strengths: list[float], each: int, nu: float, seed: int = 0) -> list[tuple[int, int, float]]:
    """Votes drawn from Davidson's model itself."""
    rng, votes = Rng.of(seed, "ties"), []
    for i, j in pairs(len(strengths)):
        a, b = (10 ** (strengths[k] / 400) for k in (i, j))
        tie = nu * math.sqrt(a * b)
        cuts = torch.tensor([a, a + tie]) / (a + b + tie)
        scores = 1 - torch.bucketize(rng.uniform((each,)), cuts) / 2
        votes += [(i, j, float(score)) for score in scores]
    return votes


def test_davidson_of_two_models_has_its_closed_form():
    """Wins 60:30 and 20 ties: the ratio of wins is that of the strengths, and nu = ties / sqrt(wins losses)."""
    found = davidson(tally([(0, 1, 1.0)] * 60 + [(1, 0, 1.0)] * 30 + [(1, 0, 0.5)] * 20, 2).sum(0), 2, prior=1e-12)
    assert float(found.ratings[0] - found.ratings[1]) == pytest.approx(400 * math.log10(2), abs=1e-6)
    assert float(found.tie) == pytest.approx(20 / math.sqrt(60 * 30), abs=1e-9)
    assert float(found.ratings.mean()) == pytest.approx(1000)


def test_davidson_recovers_what_was_planted_and_many_resamples_are_as_one_each():
    planted = [1100.0, 1000.0, 950.0, 950.0]
    counted = tally(three_way(planted, 2000, 0.7), 4)
    whole = davidson(counted.sum(0), 4)
    assert (whole.ratings - torch.tensor(planted, dtype=torch.float64)).abs().max() < 12
    assert float(whole.tie) == pytest.approx(0.7, abs=0.05)
    drawn = resampled(counted, Rng.of(1), 3)
    torch.testing.assert_close(davidson(drawn, 4).ratings[1], davidson(drawn[1], 4).ratings)


def test_without_ties_davidson_is_bradley_terry():
    votes = cast([1000, 1100, 1250], 80)
    with_ties = davidson(tally(votes, 3).sum(0), 3, 1e-9).ratings
    torch.testing.assert_close(with_ties, bradley_terry(votes, 3, 1e-9), rtol=0, atol=0.01)


def test_a_tally_knows_who_won_whoever_is_named_first_and_keeps_clusters_together():
    counted = tally([(0, 1, 1.0), (1, 0, 1.0), (2, 0, 0.5), (0, 1, 1.0)], 3, [7, 7, 7, 9])
    assert counted.tolist() == [[[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]]
    assert shares(counted.sum(0))[:2].tolist() == [pytest.approx(2 / 3), 0.5]
    for drawn in resampled(counted, Rng.of(0), 20):
        assert float(drawn[1].sum()) * 2 == float(drawn[0, 2]) * 2, "a prompt's votes come and go together"


def test_an_interval_by_prompts_holds_the_truth_as_often_as_it_says():
    """Votes of one prompt go together: 60 prompts, on each of which the gap is 60 points more or less; 60 repeats."""
    planted = torch.tensor([1080.0, 1000.0, 920.0], dtype=torch.float64)
    hits, widths = torch.zeros(3), torch.zeros(2)
    for repeat in range(60):
        rng = Rng.of(repeat, "coverage")
        own = (planted + 60 * rng.normal((60, 3), dtype=torch.float64)).repeat_interleave(4, 0)
        won = {(i, j): rng.uniform((240,)) < 1 / (1 + 10 ** ((own[:, j] - own[:, i]) / 400)) for i, j in pairs(3)}
        votes = [(i, j, float(score)) for (i, j), scores in won.items() for score in scores.tolist()]
        prompts = [n // 4 for _ in won for n in range(240)]
        for kind, clusters in enumerate((prompts, None)):
            ratings = davidson(resampled(tally(votes, 3, clusters), rng, 120), 3).ratings
            low, high = ratings.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), 0)
            widths[kind] += (high - low).mean()
            if clusters is not None:
                hits += (low <= planted) & (planted <= high)
    clustered = float(hits.mean()) / 60
    assert 0.88 <= clustered <= 0.99, clustered
    assert widths[0] > 1.03 * widths[1], "what ignores the prompts is too sure of itself"


def test_votes_needed_are_those_of_the_test_of_a_share():
    """The specification's: 783 for 55%, 194 for 60%; and a normal approximation of its own agrees with the power."""
    assert votes_needed(0.55) == votes_needed(0.45) == 783
    assert votes_needed(0.60) == 194
    assert further_votes(0.1, 0.05, 100) == pytest.approx(100 * (2.8016 * 0.5) ** 2 - 100, abs=0.1)
    assert further_votes(0.3, 0.05, 100) == 0
    assert further_votes(0.0, 0.05, 100) == math.inf


def test_cohen_and_krippendorff_have_the_published_values():
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)  # Cohen's kappa, the textbook's table
    assert math.isnan(cohen_kappa([[9, 0], [0, 0]]))
    one = [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0]  # Krippendorff 2011, section C: four observers, gaps (0), twelve units
    rows = (one, [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3], [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0])
    units = [[row[u] for row in rows if row[u]] for u in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units, interval) == pytest.approx(0.849, abs=5e-4)
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1, 1], [2]]))


def test_raters_who_guess_agree_by_chance_alone():
    guesses = Rng.of(3, "guesses").integers((4000, 2), 3)
    assert abs(krippendorff_alpha(guesses.tolist())) < 0.04
