"""Intervals that cover, records that refuse, tables that do not mix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.evaluation import bootstrap as boot
from fewstep.evaluation import frechet as fd
from fewstep.evaluation.record import (
    LIKE,
    MetricRecord,
    compare,
    merge,
    over_trainings,
    read_records,
    table,
    write_records,
)
from fewstep.rng import Rng

# intervals


def test_the_interval_of_a_mean_covers_the_truth_nineteen_times_in_twenty() -> None:
    hits = 0
    for trial in range(250):
        x = Rng.of(trial, "data").normal((60,), torch.float64) + 3
        at = boot.mean_interval(x, Rng.of(trial, "boot"), resamples=150)
        hits += at.low <= 3 <= at.high
        assert at.low < at.value < at.high
    assert 0.90 <= hits / 250 <= 0.98


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    x = Rng.of(1).normal((400,), torch.float64)
    at = boot.mean_interval(x, Rng.of(2), resamples=2000)
    expected = 2 * 1.96 * x.std().item() / 20
    assert at.high - at.low == pytest.approx(expected, rel=0.1)
    narrow = boot.mean_interval(x, Rng.of(2), resamples=2000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(expected * 0.6745 / 1.96, rel=0.1)


def test_pictures_of_one_prompt_are_resampled_together() -> None:
    prompts = torch.arange(50).repeat_interleave(8)
    x = Rng.of(3).normal((50,), torch.float64)[prompts]  # eight equal values a prompt
    alone = boot.mean_interval(x, Rng.of(4))
    together = boot.mean_interval(x, Rng.of(4), clusters=prompts)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(8**0.5, rel=0.2)
    weights = boot.resample(400, Rng.of(5), prompts)
    assert weights.sum() == 400
    assert all(weights[prompts == p].unique().numel() == 1 for p in range(50))


def test_intervals_are_the_same_for_the_same_seed() -> None:
    x = Rng.of(6).normal((30,), torch.float64)
    assert boot.mean_interval(x, Rng.of(7)) == boot.mean_interval(x, Rng.of(7))
    assert boot.mean_interval(x, Rng.of(7)) != boot.mean_interval(x, Rng.of(8))


def test_a_median_does_not_follow_the_tail() -> None:
    times = torch.cat([torch.linspace(9, 11, 99), torch.tensor([5000.0])]).double()
    at = boot.median_interval(times, Rng.of(9), resamples=200)
    assert at.value == pytest.approx(10, abs=0.1)
    assert 9 < at.low < at.value < at.high < 11


def test_recentring_puts_a_biased_statistic_inside_its_interval() -> None:
    x, y = Rng.of(10).normal((80, 12), torch.float64), Rng.of(11).normal((80, 12), torch.float64)
    statistic = fd.frechet_statistic(x, y)
    raw = boot.bootstrap(statistic, 80, Rng.of(12), resamples=60)
    at = boot.bootstrap(statistic, 80, Rng.of(12), resamples=60, recentre=True, bounds=(0.0, 1e9))
    assert raw.low > raw.value  # a resample holds fewer different samples, so its distance is larger
    assert at.low < at.value < at.high
    assert at.value == raw.value
    assert at.high - at.low == pytest.approx(raw.high - raw.low, rel=1e-6)
    assert boot.bootstrap(lambda w: 0.5, 5, Rng.of(1), resamples=5, bounds=(0.0, 0.25)).high == 0.25


# records

RECORD = MetricRecord(
    "add", 1, "fd", 3.0, 2.5, 3.5, 500, 2, "net@abc", "bicubic-64", "p" * 12, "d" * 12, 1.0, "fewstep evaluate", ""
)
OTHER = {
    "metric": "kid", "n": 501, "seeds": 4, "features": "net@abd", "resizer": "bilinear-64", "prompts": "q", "dataset": "e",
    "device": "another",
}  # fmt: skip


def test_like_records_compare_whatever_the_model_the_steps_and_the_guidance() -> None:
    teacher = replace(RECORD, model="teacher", steps=50, guidance=4.0, value=2.0, low=1.6, high=2.4, command="other")
    comparison = compare(RECORD, teacher)
    assert comparison.difference == 1
    assert comparison.ratio == 1.5
    assert comparison.apart
    assert compare(teacher, RECORD).apart
    assert not compare(RECORD, replace(teacher, high=2.6)).apart
    assert not compare(replace(teacher, high=2.6), RECORD).apart


def test_nothing_that_decides_a_figure_is_left_out_of_the_comparison() -> None:
    assert set(LIKE) == set(OTHER)


@pytest.mark.parametrize("field", OTHER)
def test_unlike_records_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be compared: {field} is"):
        compare(RECORD, replace(RECORD, model="teacher", **{field: OTHER[field]}))


def test_records_survive_the_file_and_keep_the_agreed_shape(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    records = [RECORD, replace(RECORD, metric="vendi", value=1.25, low=1.0, high=1.5)]
    write_records(path, records)
    assert read_records(path) == records
    first = json.loads(path.read_text())["records"][0]
    assert {"model", "steps", "metric", "value", "low", "high", "n", "seeds", "features", "command"} <= set(first)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "no results file"),
        ("[]", "no results file"),
        ('{"records": [{"model": "a"}]}', "no results file"),
        ('{"records": [{"modle": "a"}]}', "unknown field 'modle'"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_records(path)


def test_a_figure_that_is_not_finite_is_no_record() -> None:
    with pytest.raises(ValueError, match="not finite"):
        replace(RECORD, value=float("nan"))


def test_a_new_measurement_replaces_the_old_one_of_the_same_thing() -> None:
    newer, another = replace(RECORD, value=2.9, command="again"), replace(RECORD, steps=2)
    assert merge([RECORD, another], [newer]) == [newer, another]
    assert len(merge([RECORD], [replace(RECORD, n=1000)])) == 2


def test_the_table_has_a_row_a_model_and_says_how_it_was_measured() -> None:
    teacher = replace(RECORD, model="teacher", steps=50, guidance=4.0, value=1234.0, low=1200.0, high=1300.0)
    fast = replace(RECORD, metric="latency_ms", value=5.0, low=5.0, high=5.0, n=20, features="", device="cpu")
    lines = table([RECORD, fast, teacher]).splitlines()
    assert lines[0] == "| model | steps | guidance | FD-net ↓ | ms a picture ↓ |"
    assert lines[2] == "| add | 1 | 1 | 3 [2.5, 3.5] | 5 |"
    assert lines[3] == "| teacher | 50 | 4 | 1234 [1200, 1300] | - |"
    assert "n = 500" in lines[-1]
    assert "net@abc" in lines[-1]
    assert "FID" not in table([RECORD])


def test_the_mean_of_several_trainings_names_the_command_of_each() -> None:
    trained = [
        replace(RECORD, value=v, low=v - 2, high=v + 1, command=f"fewstep distill --seed {seed}")
        for seed, v in enumerate((3.0, 5.0))
    ]
    mean = over_trainings(trained)
    assert (mean.value, mean.low, mean.high, mean.runs) == (4.0, 1.0, 6.0, 2)
    assert mean.command == "fewstep distill --seed 0 && fewstep distill --seed 1"
    assert over_trainings([RECORD, RECORD]).command == RECORD.command  # one command that trains them all


def test_figures_of_several_trainings_say_so() -> None:
    rows = [replace(RECORD, model="teacher", runs=1, low=3.0, high=3.0), replace(RECORD, low=2.0, high=4.0, runs=3)]
    lines = table(rows).splitlines()
    assert lines[2:4] == ["| teacher | 1 | 1 | 3 |", "| add | 1 | 1 | 3 [2, 4] |"]
    assert "least and greatest of up to 3 trainings" in lines[-1]
    assert "bootstrap" in table([RECORD]).splitlines()[-1]
    mixed = table([*rows, replace(RECORD, model="random_init")]).splitlines()[-1]
    assert "bootstrap intervals over prompts, of up to 3 trainings the outermost ends; trained once: random_init" in mixed


def test_the_table_refuses_a_column_of_unlike_figures() -> None:
    with pytest.raises(ValueError, match="n is 500 in one and 5000"):
        table([RECORD, replace(RECORD, model="teacher", n=5000)])
