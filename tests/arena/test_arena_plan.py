"""Which pair comes next, and what the votes of raters with a known preference say: numbers alone, no page."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from arena_helpers import opinion, plan_of
from fewstep.arena.plan import APART, Plan, Trial, next_trial
from fewstep.arena.results import results
from fewstep.arena.votes import SIDES, Vote
from fewstep.rng import Rng

STRENGTHS = [1090.0, 1000.0, 910.0]


def session(plan: Plan, raters: dict[str, bool], seed: int) -> list[Vote]:
    """All votes of raters, in turn; those with False answer by chance."""
    shown: dict[str, list[Trial]] = {name: [] for name in raters}
    counted: Counter[tuple[int, int, int]] = Counter()
    votes: list[Vote] = []
    rngs = {name: Rng.of(seed, name) for name in raters}
    for number in range(plan.trials):
        for name, careful in raters.items():
            trial = next_trial(plan, name, shown[name], counted)
            if trial is None:
                continue
            shown[name].append(trial)
            if trial.kind == "pair":
                counted[trial.a, trial.b, trial.item] += 1
            rng = rngs[name]
            said = [opinion(trial, q, STRENGTHS, rng) if careful else SIDES[int(rng.integers((1,), 3))] for q in plan.questions]
            votes.append(Vote(name, number, trial, said[0], said[1] if len(said) > 1 else None, float(number)))
    return votes


def test_the_planted_ranking_comes_back_and_its_intervals_hold_it_as_often_as_they_say():
    """25 arenas of two raters and 120 pairs each: 75 intervals at 95%."""
    held, found_m = 0, torch.zeros(3)
    for seed in range(25):
        plan = plan_of(3, 50, trials=120, seed=seed, questions=("looks",))
        found = results(plan, session(plan, {"anna": True, "ben": True}, seed), resamples=120)
        rows = found["questions"]["looks"]["models"]
        held += sum(row["low"] <= truth <= row["high"] for row, truth in zip(rows, STRENGTHS))
        found_m += torch.tensor([row["rating"] for row in rows]) / 25
    assert held >= 66, "fewer have a probability under 1 in 100"
    assert (found_m - torch.tensor(STRENGTHS)).abs().max() < 15


def test_a_rater_who_does_not_look_is_found_and_left_out_and_careful_ones_are_not():
    plan = plan_of(3, 40, trials=150, seed=3)
    votes = session(plan, {"anna": True, "careless": False, "ben": True}, 3)
    found = results(plan, votes, resamples=50)
    assert found["left_out"] == ["careless"]
    by_name = {rater["rater"]: rater for rater in found["raters"]}
    assert by_name["anna"]["catch_right"] == by_name["anna"]["catch"] > 5
    assert by_name["careless"]["self_kappa"] < 0.4
    everyone = results(plan, votes, everyone=True, resamples=50)
    assert everyone["left_out"] == []
    assert everyone["votes"] > found["votes"]
    for seed in range(10):
        plan = plan_of(2, 20, trials=30, seed=seed)
        assert results(plan, session(plan, {"anna": True}, seed), resamples=5)["left_out"] == []


def test_two_catch_pairs_condemn_nobody_and_three_do():
    plan = plan_of(2, 8)
    pair = Vote("anna", 9, Trial("pair", 0, 1, 0, 0, False), "left", "tie", 9.0)
    wrong = [Vote("anna", n, Trial("damaged", 0, 0, n, n, False), "right", "tie", float(n)) for n in range(3)]
    assert results(plan, [*wrong[:2], pair], resamples=5)["left_out"] == []
    assert results(plan, [*wrong, pair], everyone=True, resamples=5)["raters"][0]["careless"]


def test_the_next_pair_is_a_pure_function_and_sides_and_kinds_come_as_often_as_asked():
    plan = plan_of(4, 60, trials=240, seed=5)
    shown: list[Trial] = []
    counted: Counter[tuple[int, int, int]] = Counter()
    while (trial := next_trial(plan, "anna", shown, counted)) is not None:
        assert trial == next_trial(plan, "anna", list(shown), Counter(counted))
        shown.append(trial)
        if trial.kind == "pair":
            counted[trial.a, trial.b, trial.item] += 1
    kinds = Counter(trial.kind for trial in shown)
    assert len(shown) == 240
    assert kinds["repeat"] == pytest.approx(24, abs=14)
    assert kinds["damaged"] + kinds["other_prompt"] == pytest.approx(24, abs=14)
    assert min(kinds["damaged"], kinds["other_prompt"]) > 5
    assert sum(trial.flipped for trial in shown) == pytest.approx(120, abs=31)
    of_models = Counter((a, b) for a, b, _ in counted.elements())
    assert max(of_models.values()) - min(of_models.values()) <= 1, "every pair of models has as many votes as any other"
    assert max(counted.values()) == 1
    assert shown != [next_trial(plan, "ben", shown[:n], Counter()) for n in range(240)], "each rater has an order of his own"
    for number, trial in enumerate(shown):
        if trial.kind == "repeat":
            first = next(n for n, t in enumerate(shown) if t.kind == "pair" and t[1:5] == trial[1:5])
            assert number - first > APART
        if trial.kind == "other_prompt":
            assert plan.prompts[trial.item] != plan.prompts[trial.other]


def test_votes_that_settle_nothing_say_how_many_are_missing():
    plan = plan_of(2, 30, trials=30, catch=0, repeat=0)
    trials = [Trial("pair", 0, 1, item, item, False) for item in range(30)]
    split = [Vote("anna", n, t, "left" if n < 18 else "right", "left", 0.0) for n, t in enumerate(trials)]
    found = results(plan, split, resamples=400)
    open_, settled = (found["questions"][q]["pairs"][0] for q in ("looks", "follows"))
    assert (open_["settled"], settled["settled"]) == (False, True)
    assert open_["share"] == 0.6
    assert 120 < open_["further_votes"] < 210, "194 are needed for 60%, and 30 are here"
    assert settled["further_votes"] is None


def test_raters_who_judge_the_same_pairs_alike_agree():
    plan = plan_of(2, 12)
    trials = [Trial("pair", 0, 1, item, item, bool(item % 3)) for item in range(12)]
    votes = [
        Vote(name, n, trial, SIDES[n % 3], SIDES[(n + shift) % 3], 0.0)
        for shift, name in enumerate(("anna", "ben"))
        for n, trial in enumerate(trials)
    ]
    found = results(plan, votes, resamples=20)
    assert found["questions"]["looks"]["agreement"]["alpha"] == 1
    assert found["questions"]["follows"]["agreement"]["alpha"] < 0
    with pytest.raises(ValueError, match="no votes on two models"):
        results(plan, [])


def test_a_plan_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="two models"):
        plan_of(models=1)
    with pytest.raises(ValueError, match=r"0\.8 of the pairs"):
        plan_of(catch=0.6, repeat=0.6)
