"""Trainings of one contest that were made on several machines, put together for the documentation."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fewstep.contest import measuring, report
from fewstep.contest.plan import Options, Plan
from fewstep.contest.results import Trained, pairings
from fewstep.contest.runs import Outcome
from fewstep.evaluation.record import MetricRecord
from serving_helpers import benchmark

PROMPTS = 12


def facts_of(seeds: tuple[int, ...], metrics: tuple[str, ...] = ("fd", "kid")) -> dict[str, Any]:
    """``contest.json`` of two entries whose figures of every prompt are made up, the same for a seed whoever trains it."""
    plan = Plan.of(Options(methods=("add", "lcm"), first_seed=seeds[0], trainings=len(seeds), updates=10, steps=(1,)))

    def records(model: str, seed: int) -> tuple[MetricRecord, ...]:
        draw = random.Random(f"{model} {seed}")
        found = []
        for metric in metrics:
            values = torch.tensor([draw.gauss(3, 1) for _ in range(PROMPTS)], dtype=torch.float64)
            left = (values.sum() - values) / (PROMPTS - 1)
            mean = float(values.mean())
            found.append(
                MetricRecord(
                    model, 1, metric, mean, mean - 1, mean + 1, 8, 2, "network@1", left_out=tuple(left.tolist())
                )
            )
        return tuple(found)

    trained = [Trained(run, Outcome("", 5, 6, 7, 10, done=True), records(run.model, run.seed)) for run in plan.runs]
    command = (
        f"fewstep contest --methods add lcm --updates 10 --steps 1 --first-seed {seeds[0]} --trainings {len(seeds)}"
    )
    return json.loads(json.dumps(report.as_json(report.Found(plan, [], trained, [], "a machine", command))))


def test_a_contest_reads_as_it_was_written(tmp_path: Path) -> None:
    facts = facts_of((0, 1))
    again = report.as_json(benchmark("contest_docs").read(facts, tmp_path))
    ours, theirs = again.pop("comparisons"), facts.pop("comparisons")
    assert again == facts  # but for what is worked out from ten digits of each prompt:
    for one, other in zip(ours, theirs, strict=True):
        figures = ("gain", "low", "high")
        assert [one.pop(f) for f in figures] == pytest.approx([other.pop(f) for f in figures], rel=1e-6)
        assert one == other


def test_an_entry_with_fewer_trainings_is_named(tmp_path: Path) -> None:
    docs = benchmark("contest_docs")
    facts = facts_of((0, 1))
    assert "Fewer" not in report.as_markdown(docs.read(facts, tmp_path))
    facts["runs"] = [run for run in facts["runs"] if (run["entry"], run["seed"]) != ("lcm", 1)]
    text = report.as_markdown(docs.read(facts, tmp_path))
    assert "3 of 4 trainings have ended well, 0 failed. Fewer than of others: lcm (1 of 2)." in text


def test_seeds_of_two_machines_are_what_one_machine_would_have_found(tmp_path: Path) -> None:
    docs = benchmark("contest_docs")
    found = docs.joined(docs.read(facts_of((1,)), tmp_path), docs.read(docs.slim(facts_of((0,))), tmp_path))
    whole = facts_of((0, 1))
    assert [one.run.seed for one in found.trained] == [0, 0, 1, 1]
    seen = report.as_json(found)
    assert sorted(map(str, seen["records"])) == sorted(map(str, whole["records"]))
    assert seen["command"] == "fewstep contest --methods add lcm --updates 10 --steps 1 --trainings 2"
    ours, theirs = (next(c for c in facts["comparisons"] if c["metric"] == "fd") for facts in (seen, docs.slim(whole)))
    assert ours["trainings"] == 2
    for name in ("gain", "low", "high", "mean", "other"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_without_what_pairs_them_anew_the_interval_is_never_narrower(tmp_path: Path) -> None:
    docs = benchmark("contest_docs")
    earlier = docs.slim(facts_of((0,)))
    for run in earlier["runs"]:
        for record in run["records"]:
            del record["left_out"]
    found = docs.joined(docs.read(facts_of((1,)), tmp_path), docs.read(earlier, tmp_path))
    (ours,) = (p for p in found.pairings if p.metric == "fd")
    exact = next(p for p in pairings(docs.read(facts_of((0, 1)), tmp_path).trained, "add") if p.metric == "fd")
    assert (ours.trainings, ours.prompts, ours.gain.value) == (2, PROMPTS, pytest.approx(exact.gain.value))
    assert ours.gain.low < exact.gain.low
    assert ours.gain.high > exact.gain.high


def test_prompts_that_err_alike_in_both_trainings_are_bounded_exactly(tmp_path: Path) -> None:
    docs = benchmark("contest_docs")
    (one,) = (p for p in docs.read(facts_of((0,)), tmp_path).pairings if p.metric == "fd")
    both = docs.together(one, one)
    assert (both.gain.low, both.gain.high) == (pytest.approx(one.gain.low), pytest.approx(one.gain.high))


def test_what_is_no_one_contest_is_not_put_together(tmp_path: Path) -> None:
    docs = benchmark("contest_docs")
    now = docs.read(facts_of((1,)), tmp_path)
    with pytest.raises(ValueError, match="both hold trainings of one seed"):
        docs.joined(now, now)
    other = copy.deepcopy(facts_of((0,)))
    other["command"] += " --recipe=--batch-size=8"
    with pytest.raises(ValueError, match="another contest's: recipe"):
        docs.joined(now, docs.read(other, tmp_path))
    with pytest.raises(ValueError, match="trainings failed: lcm, seed 0; train them again"):
        docs.read(facts_of((0,)) | {"failed": [{"run": "lcm, seed 0", "why": "no memory"}]}, tmp_path)


def test_the_page_shows_pictures_from_the_same_noises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = benchmark("contest_docs")
    monkeypatch.setattr(docs, "HOUSE", tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    out = tmp_path / "contest"
    found = docs.read(facts_of((0,)), out)
    colours = dict(zip([out / "teacher", *(one.run.folder for one in found.trained)], ("red", "lime", "blue")))
    for folder, colour in colours.items():
        for steps in (1, 4):
            for i in range(2):
                place = measuring.picture(folder, steps, i)
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), colour).save(place)
    report.write(found, out)
    docs.write("made_up", "A contest", out)
    assert "(pictures/contest_made_up.webp)" in (tmp_path / "docs" / "contest_made_up.md").read_text()
    with Image.open(tmp_path / "docs" / "pictures" / "contest_made_up.webp") as shown:
        seen = shown.convert("RGB")
    cell, height = docs.SIDE + 4, seen.height // 2
    assert seen.width == 3 * cell
    for block in (0, 1):
        for column, strongest in enumerate((0, 1, 2)):
            pixel = seen.getpixel((column * cell + cell // 2, (block + 1) * height - cell // 2))
            assert max(range(3), key=lambda c: pixel[c]) == strongest


def test_trainings_of_another_machine_stay_in_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = benchmark("contest_docs")
    monkeypatch.setattr(docs, "HOUSE", tmp_path)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    for seed in (0, 1):
        out = tmp_path / f"machine {seed}"
        out.mkdir()
        facts = facts_of((seed,))
        report.write(docs.read(facts, out), out)
        docs.write("made_up", "A contest", out)
        page = (tmp_path / "docs" / "contest_made_up.md").read_text()
        found = json.loads((tmp_path / "docs" / "results" / "contest_made_up.json").read_text())
        assert {run["seed"] for run in found["runs"]} == set(range(seed + 1))
        assert ("Trainings of seed 0 were made on another machine" in page) == (seed == 1)
        assert f"{2 * (seed + 1)} of {2 * (seed + 1)} trainings have ended well" in page
        docs.write("made_up", "A contest", out)  # once more, from a file that holds both
        assert found == json.loads((tmp_path / "docs" / "results" / "contest_made_up.json").read_text())
    (row,) = (r for r in found["records"] if r["metric"] == "kid" and r["model"].startswith("lcm"))
    assert row["runs"] == 2
    assert not math.isnan(row["value"])
