"""Intervals that cover, records that refuse, tables that do not mix."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.evaluation import bootstrap as boot
from fewstep.evaluation.record import (
    LIKE,
    MetricRecord,
    beside_last,
    check_alike,
    check_output,
    difference,
    merge,
    over_trainings,
    ratio,
    read_records,
    table,
    write_records,
)
from fewstep.rng import Rng

# times


def test_a_median_does_not_follow_the_tail() -> None:
    times = torch.cat([torch.linspace(9, 11, 99), torch.tensor([5000.0])]).double()
    at = boot.median_interval(times, Rng.of(9), resamples=200)
    assert at.value == pytest.approx(10, abs=0.1)
    assert 9 < at.low < at.value < at.high < 11


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
    assert difference(RECORD, teacher) == 1
    assert ratio(RECORD, teacher) == 1.5
    assert math.isnan(ratio(RECORD, replace(teacher, value=0.0)))


def test_nothing_that_decides_a_figure_is_left_out_of_the_comparison() -> None:
    assert set(LIKE) == set(OTHER)


@pytest.mark.parametrize("field", OTHER)
def test_unlike_records_are_refused_by_name(field: str) -> None:
    with pytest.raises(ValueError, match=f"cannot be compared: {field} is"):
        check_alike(RECORD, replace(RECORD, model="teacher", **{field: OTHER[field]}))


def test_records_survive_the_file_and_keep_the_agreed_shape(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    records = [RECORD, replace(RECORD, metric="vendi_minus_1", value=0.25, interval="jackknife", left_out=(0.2, 1 / 4, 0.3))]
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
    assert "95% jackknife intervals over prompts." in table([replace(RECORD, interval="jackknife")]).splitlines()[-1]
    both = table([RECORD, replace(RECORD, model="new", interval="jackknife")]).splitlines()[-1]
    assert "jackknife intervals over prompts (new), the others by the older bootstrap, too wide for FD" in both
    mixed = table([*rows, replace(RECORD, model="random_init")]).splitlines()[-1]
    assert "of up to 3 trainings the outermost ends; trained once: random_init" in mixed


def test_the_table_refuses_a_column_of_unlike_figures() -> None:
    with pytest.raises(ValueError, match="n is 500 in one and 5000"):
        table([RECORD, replace(RECORD, model="teacher", n=5000)])


VARIED = replace(RECORD, metric="vendi_minus_1", value=0.4, low=0.3, high=0.5, interval="jackknife")


def test_variety_stands_as_a_share_of_the_teachers_of_most_steps() -> None:
    rows = [
        replace(VARIED, model="teacher", steps=1, value=0.05),
        replace(VARIED, model="teacher", steps=50, value=0.5),
        replace(VARIED, value=0.3),
    ]
    lines = table(rows).splitlines()
    assert lines[0].endswith("| Vendi − 1 ↑ (of the teacher's) |")
    assert [line.rpartition("] ")[2] for line in lines[2:5:2]] == ["(10%) |", "(60%) |"]
    assert lines[3].endswith("| 0.5 [0.3, 0.5] |")
    assert "(" not in table([VARIED]).splitlines()[2]


def test_the_floor_stands_in_the_table_though_it_was_measured_otherwise() -> None:
    real = replace(RECORD, model="real", steps=0, n=77, seeds=0, prompts="", command="")
    varied = replace(VARIED, model="real", steps=0, n=88, seeds=4, prompts="", command="")
    assert "| 0.4 [0.3, 0.5] |" in table([varied, replace(VARIED, model="teacher")]), "of four pictures, and of two"
    lines = table([real, varied, RECORD, VARIED]).splitlines()
    assert lines[2] == "| real | - | - | 3 [2.5, 3.5] | 0.4 [0.3, 0.5] |"
    assert "n = 500, 2 a prompt" in lines[-1]
    assert "real, the floor: 77 real pictures held against all others" in lines[-1]
    assert "the 4 drawings of one concept, 88 in all" in lines[-1]


def test_judges_get_a_table_each() -> None:
    other = replace(RECORD, features="net2@def", value=8.0)
    fast = replace(RECORD, metric="latency_ms", value=5.0, low=5.0, high=5.0, n=20, features="", device="cpu")
    first, second = table([RECORD, other, fast]).split("\n\n| model")
    for part, title, row in ((first, "FD-net ", "| 3 [2.5, 3.5] | 5 |"), (second, "FD-net2 ", "| 8 [2.5, 3.5] | 5 |")):
        assert f"| {title}↓ | ms a picture ↓ |" in part
        assert row in part


def test_an_older_files_vendi_loses_its_one_and_its_kernel_distance_its_name(tmp_path: Path) -> None:
    old = {"model": "add", "steps": 1, "value": 1.25, "low": 1.2, "high": 1.5, "n": 8, "seeds": 2}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"records": [old | {"metric": m} for m in ("vendi", "kid", "fd")]}))
    vendi, kid, fd = read_records(path)
    assert (vendi.metric, vendi.value, vendi.low, vendi.high) == ("vendi_minus_1", 0.25, pytest.approx(0.2), 0.5)
    assert (kid.metric, kid.value, fd.metric) == ("kid_all_pairs", 1.25, "fd")
    assert vendi.interval == "bootstrap"
    write_records(path, [vendi, kid, replace(kid, metric="kid")])
    assert [r.metric for r in read_records(path)] == ["vendi_minus_1", "kid_all_pairs", "kid"]


def test_only_what_may_stand_beside_the_last_row_is_shown() -> None:
    older = [replace(RECORD, model="teacher", n=256), replace(VARIED, model="teacher", n=256)]
    time = replace(RECORD, model="teacher", metric="latency_ms", features="", n=9, device="cpu")
    real = replace(RECORD, model="real", n=77, prompts="")
    now = [replace(RECORD, steps=2), RECORD, VARIED]
    assert beside_last([*older, time, real, *now]) == [real, *now]
    assert beside_last([real, replace(real, dataset="e"), *now]) == [real, *now]


def test_an_output_that_cannot_be_is_refused_and_one_that_can_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("mine")
    for path in (tmp_path / "there.json", tmp_path / "new" / "m.json"):
        check_output(path)
    assert (tmp_path / "there.json").read_text() == "mine"
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(IsADirectoryError):
        check_output(tmp_path)
    with pytest.raises(ValueError, match="/dev/full is no file"):
        check_output(Path("/dev/full"))
