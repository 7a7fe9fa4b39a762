"""Entries side by side: the difference over trainings and prompts, its interval, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.contest.plan import Budget, Entry, Options, Plan, Run, Start
from fewstep.contest.report import Found, glance_heads, glance_rows, nearest_heads, nearest_rows
from fewstep.contest.results import Trained, means, paired, pairings, variety_share
from fewstep.contest.runs import Outcome
from fewstep.evaluation import jackknife
from fewstep.evaluation.record import MetricRecord
from fewstep.rng import Rng


def record(model: str, figure: float, left_out: Sequence[float] = (), metric: str = "fd", steps: int = 1, **more) -> MetricRecord:
    facts = {"n": 40, "seeds": 4, "features": "pixels@1", "interval": "jackknife"} | more
    return MetricRecord(model, steps, metric, figure, figure, figure, left_out=tuple(left_out), **facts)


def of_prompts(model: str, values: torch.Tensor, metric: str = "fd") -> MetricRecord:
    """A figure that is the mean of a value for each prompt."""
    left = jackknife.left_out_means(values)
    return record(model, values.mean().item(), left.tolist(), metric)


def test_over_prompts_alone_it_is_the_paired_t_interval():
    """One training: the interval of a mean difference of prompts, in closed form; what prompts add to both of them cancels."""
    rng = Rng.of(3)
    hard, own = 100 * rng.normal((12,)).double(), rng.normal((2, 12)).double()
    ours, theirs = own[0] + hard, own[1] + hard + 2
    found = paired([(of_prompts("a", ours), of_prompts("b", theirs))], "a", "b", 0.05)
    difference = theirs - ours  # of a Fréchet distance less is better
    half = jackknife.student_t(0.95, 11) * difference.std().item() / math.sqrt(12)
    assert found.gain.value == pytest.approx(difference.mean().item())
    assert (found.gain.high - found.gain.low) / 2 == pytest.approx(half)
    assert (found.trainings, found.prompts) == (1, 12)


def test_trainings_add_their_own_variance():
    """Prompts that all differ by the same: what is left is the t interval over trainings. Both together add up as variances."""
    flat = torch.zeros(10).double()
    pairs = [(of_prompts("a", flat + 5 - gain), of_prompts("b", flat + 5)) for gain in (1.0, 2.0, 4.0, 5.0)]
    found = paired(pairs, "a", "b", 0.05)
    half = jackknife.student_t(0.95, 3) * math.sqrt(10 / 3 / 4)
    assert found.gain.value == pytest.approx(3.0)
    assert (found.gain.high - found.gain.low) / 2 == pytest.approx(half)
    uneven = torch.tensor([1.0, -1] * 5).double()
    both = paired([(of_prompts("a", uneven + 5 - g), of_prompts("b", flat + 5)) for g in (1.0, 2.0, 4.0, 5.0)], "a", "b", 0.05)
    prompts, trainings = uneven.var().item() / 10, 10 / 3 / 4
    freedom = int((prompts + trainings) ** 2 / (prompts**2 / 9 + trainings**2 / 3))
    half = jackknife.student_t(0.95, freedom) * math.sqrt(prompts + trainings)
    assert (both.gain.high - both.gain.low) / 2 == pytest.approx(half)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Four trainings, ten prompts, both with noise of their own: 200 contests."""
    rng, held, n = Rng.of(0), 0, 200
    for _ in range(n):
        prompts, runs = rng.normal((10,)).double(), rng.normal((4,)).double()
        pairs = [(of_prompts("a", 3 + prompts + run), of_prompts("b", torch.full((10,), 5.0).double())) for run in runs]
        gain = paired(pairs, "a", "b", 0.05).gain
        held += gain.low <= 2.0 <= gain.high
    assert 0.91 <= held / n <= 0.99, held / n


def test_prompts_that_are_all_there_are_add_no_error():
    """Ten digits are no sample of digits: trainings alone vary. With one training there is nothing else to go by."""
    uneven, flat = torch.tensor([1.0, -1] * 5).double(), torch.zeros(10).double()
    pairs = [(of_prompts("a", uneven + 5 - g), of_prompts("b", flat + 5)) for g in (1.0, 2.0, 4.0, 5.0)]
    found, one = paired(pairs, "a", "b", 0.05, exhaustive=True), paired(pairs[:1], "a", "b", 0.05, exhaustive=True)
    half = jackknife.student_t(0.95, 3) * math.sqrt(10 / 3 / 4)
    assert (found.gain.high - found.gain.low) / 2 == pytest.approx(half)
    assert (found.prompts, one.prompts) == (0, 10)
    assert one.gain.high > one.gain.low


@pytest.mark.parametrize(
    ("ours", "theirs", "metric", "verdict"),
    [
        (1.0, 2.0, "fd", "better"),
        (2.0, 1.0, "fd", "worse"),
        (2.0, 1.0, "recall", "better"),
        (1.3, 0.9, "highs_ratio", "worse"),
        (0.95, 1.2, "highs_ratio", "better"),
    ],
)
def test_the_verdict_goes_the_metrics_good_way(ours, theirs, metric, verdict):
    values = torch.linspace(-0.01, 0.01, 8).double()
    found = paired([(of_prompts("a", values + ours, metric), of_prompts("b", values + theirs, metric))], "a", "b", 0.05)
    assert found.verdict == verdict


def test_no_difference_is_not_the_same_as_not_worse():
    noise = torch.tensor([1.0, -1] * 4).double()
    for scale, verdict in ((0.01, "no difference seen, not worse by the margin"), (1.0, "no difference seen")):
        found = paired([(of_prompts("a", 5 + scale * noise), of_prompts("b", 5 - scale * noise))], "a", "b", 0.05)
        assert found.verdict == verdict


def trained(entry: str, seed: int, figure: float, start: Start = "warm") -> Trained:
    run = Run(Entry(entry, ("--method", entry)), start, Budget(10), seed, Path("runs"))
    values = torch.linspace(0, 1, 6).double() + figure
    return Trained(run, Outcome("", done=True), (of_prompts(run.model, values),))


def test_entries_are_paired_by_seed_within_one_start_and_budget():
    all_ = [trained("add", 0, 3), trained("add", 1, 4), trained("lcm", 0, 1), trained("lcm", 2, 9),
            trained("lcm", 0, 7, start="teacher")]  # fmt: skip
    (one,) = pairings(all_, "add")
    assert (one.entry, one.against, one.trainings) == ("lcm (warm, 10-updates)", "add (warm, 10-updates)", 1)
    assert one.gain.value == pytest.approx(2.0)
    mean = next(r for r in means(all_) if r.model.startswith("add"))
    assert (mean.value, mean.low, mean.high, mean.runs) == (pytest.approx(4.0), pytest.approx(3.5), pytest.approx(4.5), 2)


def test_variety_is_a_share_of_the_teachers_most_steps():
    teacher = [record("teacher", v, metric="pairwise_distance", steps=s) for s, v in ((1, 9.0), (50, 2.0))]
    assert variety_share(record("a", 1.5, metric="pairwise_distance"), teacher) == pytest.approx(0.75)
    assert math.isnan(variety_share(record("a", 1.5), teacher))
    assert math.isnan(variety_share(record("a", 1.5, metric="pairwise_distance", seeds=2), teacher))


def test_the_short_table_ranks_by_all_judges_and_counts():
    """Two judges of two minds: lcm is first by one judge everywhere, add by the other at one step alone."""
    plan = Plan.of(Options(methods=("add", "lcm"), steps=(1, 4), updates=10))
    planted = {"add": {"network": (5.0, 4.0), "pixels": (1.0, 8.0)}, "lcm": {"network": (2.0, 1.0), "pixels": (2.0, 7.0)}}

    def trained_as(name: str, variety: float) -> Trained:
        run = next(run for run in plan.runs if run.entry.name == name)
        rows = [
            record(run.model, value, metric="fd", steps=steps, features=f"{judge}@1")
            for judge, values in planted[name].items()
            for steps, value in zip((1, 4), values)
        ]
        rows.append(record(run.model, variety, metric="pairwise_distance", features="network@1"))
        return Trained(run, Outcome("", cpu_s=30.0, done=True), tuple(rows))

    teacher = [record("teacher", 3.0, steps=50, features="network@1"),
               record("teacher", 0.5, metric="pairwise_distance", steps=50, features="network@1")]  # fmt: skip
    found = Found(plan, teacher, [trained_as("add", 0.25), trained_as("lcm", 0.4)], [], "", "")
    rows = {row[0]: row[1:] for row in glance_rows(found, found.trained)}
    assert list(rows) == ["real pictures", "teacher, 50 steps", "teacher", "lcm", "add"]
    assert rows["lcm"] == ["2 / 1", "2 / 7", "80% / -", "30"]
    assert rows["add"] == ["5 / 4", "1 / 8", "50% / -", "30"]
    assert rows["teacher, 50 steps"] == ["3", "-", "100%", "-"]
    assert len(glance_heads(found)) == 1 + len(rows["lcm"])


def test_the_nearest_by_every_judge_stands_beside_the_one_that_all_are_compared_with(tmp_path: Path) -> None:
    """Each prompt is 1 nearer for lcm: by the network the interval is a point; by pixels add is nearest, beside nobody."""
    flat = torch.zeros(4).double()

    def trained_as(name: str, by_network: float, by_pixels: float) -> Trained:
        run = Run(Entry(name, ()), "warm", Budget(10), 0, tmp_path)
        rows = [of_prompts(run.model, flat + value) for value in (by_network, by_pixels)]
        return Trained(run, Outcome("x"), (replace(rows[0], features="network@1"), rows[1]))

    options = Options(out=tmp_path, steps=(1,), against="add")
    plan = Plan(options, (Entry("add", ()), Entry("lcm", ())), ())
    found = Found(plan, [], [trained_as("add", 3, 5), trained_as("lcm", 2, 7)], [], "", "")
    where = "10 updates after a common warm start"
    assert nearest_rows(found) == [
        [where, "network", "1", "lcm", "2", "add", "3", "1 [1, 1]", "better", "1 training, 4 prompts"],
        [where, "pixels", "1", "add", "5", "lcm", "7", "-", "-", "-"],
    ]
    assert len(nearest_heads(found)) == 10
