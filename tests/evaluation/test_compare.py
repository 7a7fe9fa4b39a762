"""Two models side by side: the paired interval of a difference, and the words for it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep import cli
from fewstep.evaluation import compare, jackknife, pages
from fewstep.evaluation.record import MetricRecord, write_records
from fewstep.rng import Rng

PROMPTS = 60


def record(values: torch.Tensor, metric: str = "fd", **more: object) -> MetricRecord:
    """A figure that is the mean of one value a prompt."""
    without = jackknife.left_out_means(values)
    at = jackknife.interval(values.mean().item(), without)
    facts = {"model": "add", "steps": 1, "features": "net@abc", "prompts": "p", "interval": "jackknife"} | more
    return MetricRecord(metric=metric, value=at.value, low=at.low, high=at.high, n=PROMPTS * 8, seeds=8,
                        left_out=tuple(without.tolist()), **facts)  # fmt: skip


def values(seed: int = 1, mean: float = 10.0, spread: float = 3.0) -> torch.Tensor:
    x = Rng.of(seed).normal((PROMPTS,), torch.float64)
    return mean + spread * (x - x.mean()) / x.std()


def test_what_prompts_add_to_both_models_is_no_error_of_their_difference() -> None:
    common, own = values(), values(2, 0.0, 0.2)
    a, b = record(common + own - 0.3), record(common, model="teacher", steps=50)
    assert a.high > b.low, "each by itself they cannot be told apart"
    found = compare.paired(a, b)
    assert found.difference.value == pytest.approx(-0.3)
    assert found.difference.high - found.difference.low == pytest.approx(2 * 2.001 * 0.2 / PROMPTS**0.5, rel=1e-3)
    assert found.verdict == "better"
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(0.97)
    assert found.ratio.low < 0.97 < found.ratio.high < 1
    back = compare.paired(b, a)
    assert back.verdict == "worse, by less than the margin of 5%"
    assert compare.paired(b, a, margin=0.01).verdict == "worse"
    assert (back.difference.low, back.difference.high) == (
        pytest.approx(-found.difference.high), pytest.approx(-found.difference.low)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "a", "b", "verdict"),
    [
        ("fd", 9.0, 10.0, "better"),
        ("recall", 0.4, 0.5, "worse"),
        ("recall", 0.6, 0.5, "better"),
        ("highs_ratio", 0.5, 0.6, "worse"),
        ("highs_ratio", 1.1, 0.6, "better"),
        ("highs_ratio", 1.6, 1.1, "worse"),
        ("highs_ratio", 0.9, 1.1, "no difference in nearness to 1 seen, at most 0.0258; not worse by the margin of 5%"),
        ("fd", 10.001, 10.0, "no difference seen, at most 0.00617; not worse by the margin of 5%"),
    ],
)
def test_the_words_follow_the_good_direction(metric: str, a: float, b: float, verdict: str) -> None:
    noise = values(3, 0.0, 0.02)
    found = compare.paired(record(values(4, b, 0.05) + noise + (a - b), metric), record(values(4, b, 0.05), metric))
    assert found.verdict == verdict


def test_not_seen_and_not_worse_are_two_things() -> None:
    a, b = record(values(5)), record(values(6))
    found = compare.paired(a, b)
    assert found.verdict == "no difference seen, at most 1.11; it may be worse by more than the margin of 5%"
    assert compare.paired(a, b, margin=0.15).verdict == "no difference seen, at most 1.11; not worse by the margin of 15%"


def test_a_distance_that_may_be_negative_has_no_ratio() -> None:
    assert compare.paired(record(values(7, 0.0), "kid"), record(values(8, 3.0), "kid")).ratio is None


def test_shares_that_differ_in_no_prompt_may_differ_in_others() -> None:
    every = record(torch.ones(PROMPTS), "retrieval_top5")
    found = compare.paired(every, every)
    assert found.difference.high == -found.difference.low == pytest.approx(2.001**2 / (PROMPTS + 2.001**2), rel=1e-3)


def test_unlike_or_unpaired_figures_are_refused_by_name() -> None:
    a = record(values())
    with pytest.raises(ValueError, match="cannot be compared: prompts is 'p' in one and 'q'"):
        compare.paired(a, replace(a, prompts="q"))
    with pytest.raises(ValueError, match="fd of teacher,50 was measured without what is needed to pair it"):
        compare.paired(a, replace(a, model="teacher", steps=50, left_out=()))
    with pytest.raises(ValueError, match="60 prompts in one and 59"):
        compare.paired(a, replace(a, left_out=a.left_out[1:]))
    with pytest.raises(ValueError, match="no figure in common: net measured one and other the other"):
        compare.compare([a], [replace(a, features="other@1")])
    with pytest.raises(ValueError, match="measured without what is needed"):
        compare.compare([replace(a, left_out=())], [replace(a, left_out=())])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    rows = [
        record(values(), model="teacher", steps=50), record(values(1, 0.4, 0.1), "recall", model="teacher", steps=50),
        record(values() - 1), record(values(1, 0.3, 0.1), "recall"), record(values() + 1, steps=4),
        record(values(), model="real", steps=0),
    ]  # fmt: skip
    write_records(tmp_path / "two.json", rows)
    write_records(tmp_path / "one.json", rows[2:4])
    return tmp_path


def test_a_row_is_named_as_one_would_guess(results: Path) -> None:
    two, one, bare = results / "two.json", results / "one.json", results / "bare.json"
    bare.write_text("{}")
    assert compare.row(str(one))[1] == compare.row(f"{two}:add,1")[1] == compare.row("add,1", two)[1]
    assert compare.row(f"{two}:teacher")[1][0].steps == 50
    named = "add (warm, 20-seconds)"  # as a contest calls its rows
    write_records(results / "contest.json", [record(values(), model=named), record(values(), model=named, steps=4)])
    assert compare.row(f"{results / 'contest.json'}:{named},4")[1][0].steps == 4
    assert compare.row(f"{results / 'contest.json'}:,1")[1][0].model == named
    for said, problem in (
        (f"{two}", "has 3 rows: say which as FILE:MODEL,STEPS; there are teacher,50, add,1, add,4"),
        (f"{two}:add", "has 2 rows 'add'"),
        (f"{two}:add,9", "has no row 'add,9'"),
        (f"{two}:add:1", f"write a comma before the steps, {two}:add,1"),
        (f"{bare}:add,1", "bare.json is no results file (no 'records' in it)"),
        ("gone.json:add,1", "gone.json: no results file here; `fewstep evaluate -o gone.json` writes one"),
        ("add,1", "'add,1' names no results file: write FILE:MODEL,STEPS"),
    ):
        with pytest.raises(ValueError, match=re.escape(problem)):
            compare.row(said)


def test_the_command_prints_the_paired_table(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compare", str(results / "one.json"), f"{results / 'two.json'}:teacher,50"])
    first = capsys.readouterr().out
    cli.main(["compare", f"{results / 'two.json'}:add,1", "teacher,50"])
    assert capsys.readouterr().out == first
    lines = first.splitlines()
    assert lines[0] == "| | add, 1 step | teacher, 50 steps | difference | ratio | add, 1 step is |"
    assert lines[2].startswith("| FD-net ↓ | 9 | 10 | -1 [-1, -1] | 0.900 [")
    assert lines[2].endswith("] | better |")
    assert lines[3].endswith("| worse |")
    assert "Paired over the same 60 prompts, n = 480" in first
    assert "margin, stated beforehand, is 5% of the second model's figure" in first
    cli.main(["compare", f"{results / 'two.json'}:add,1", "teacher,50", "--margin", "0.2"])
    assert "is 20% of the second" in capsys.readouterr().out


def test_a_page_holds_paired_figures_and_tables(results: Path) -> None:
    page = (
        "<!--=two:add,1,fd-teacher,50,fd:.1f--><!--=--> [<!--=two:add,1,fd-teacher,50,fd.low:.1f--><!--=-->], "
        "<!--=two:add,1,fd/teacher,50,fd.high:.1f--><!--=-->, <!--=two:add,1,fd@net:.0f--><!--=-->\n"
        "<!-- paired:two:add,1:teacher,50 -->\nold\n<!-- /paired -->\n"
    )
    filled = pages.filled(page, {"two": results / "two.json"})
    assert "-1.0<!--=--> [<!--=two:add,1,fd-teacher,50,fd.low:.1f-->-1.0<!--=-->]" in filled
    assert ".high:.1f-->.9<!--=-->" in filled
    assert "| recall ↑ | 0.3 | 0.4 |" in filled
    assert "old" not in filled
    assert pages.filled(filled, {"two": results / "two.json"}) == filled
    assert json.loads((results / "two.json").read_text())["records"][0]["left_out"]
