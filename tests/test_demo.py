"""The demo, whole: pictures, a student, and a table that says of every figure whether it is better or not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import foreign
from bundles import tiny_bundle
from fewstep import bundle, cli, demo, sheet
from fewstep.bundle import Card
from fewstep.provenance import SpreadSpectrum
from fewstep.provenance.verify import verify
from fewstep.tensors import Media
from fewstep.training import checkpoint
from fewstep.training.journal import Journal
from serving_helpers import benchmark


def test_the_demo_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    foreign.pictures(tmp_path / "cache" / "data" / "emoji")
    student, teacher = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", "teacher")
    out = tmp_path / "demo"
    cli.main(["demo", "--student", str(student), "--teacher", str(teacher), "--out", str(out), "--concepts", "8",
              "--seconds", "1e-9", "1e-9"])  # fmt: skip
    journal = out / "run" / "add" / "journal.jsonl"
    assert [x["step"] for x in Journal.read(journal)] == [1], "the time ended it after one step of the game"
    assert Card.read(out / "student").training["steps"] == 1
    kept = checkpoint.load(out / "run" / "add" / "checkpoint")["averages"]["student"]["weights"]
    network = load_file(out / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, kept[f"network.{k}"]) for k, v in network.items()), "the average is what is saved"
    for name, made in (("shipped.png", student), ("before_after.png", out / "student")):
        said = verify(out / name)
        assert said.made_by_fewstep, "a sheet of drawn pictures says so"
        assert said.credentials.facts["bundle_hash"] == Card.read(made).fingerprint
    written = journal.stat().st_mtime_ns
    demo.distil(demo.Options(out, str(student), str(teacher), (1e-9, 1e-9), 8, resume=True))
    assert journal.stat().st_mtime_ns == written, "what was done is not done again"
    assert {"shipped.png", "before_after.png", "table.md"} <= {path.name for path in out.iterdir()}


def pictures(side: int = 16) -> Media:
    """Two pictures of every prompt: a dark square on white, as a teacher would draw it."""
    media = torch.ones(2 * len(demo.PROMPTS), 3, side, side)
    media[:, :, 4:12, 4:12] = -0.8
    return media


def test_the_figures_of_pictures_that_are_known() -> None:
    goal = pictures()
    assert demo.measured(goal, goal) == {"distance": 0.0, "haze": 0.0, "edges": 1.0, "highs": 1.0}
    hazy = torch.where(goal == 1, 0.9, goal)
    found = demo.measured(hazy, goal)
    assert found["haze"] == pytest.approx(0.1, abs=1e-6), "only the ground is looked at, and all of it"
    assert found["distance"] == pytest.approx((0.75 * 0.1**2) ** 0.5, abs=1e-6), "three quarters of it are ground"
    dark = torch.where(goal == 1, goal, 0.0)
    assert demo.measured(dark, goal)["haze"] == 0.0, "what is not white in the teacher's picture is no haze"
    blurred = torch.nn.functional.avg_pool2d(goal, 3, 1, 1, count_include_pad=False)
    assert demo.measured(blurred, goal)["highs"] < 0.5
    grey = torch.full_like(goal, 0.5)
    assert demo.measured(grey, grey) == {"distance": 0.0}, "no ground, no edges: nothing to hold them against"


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("distance", 0.278, 0.25, "better"),
        ("distance", 0.278, 0.282, "worse"),
        ("haze", 0.0384, 0.0376, "the same"),  # printed alike
        ("edges", 0.76, 0.9, "better"),
        ("edges", 0.76, 1.3, "worse"),  # sharper than the teacher by more than it was blurred
        ("edges", 1.3, 1.1, "better"),
        ("highs", 0.63, 0.5, "worse"),
        ("distance", 0.278, math.nan, "worse"),
    ],
)
def test_a_figure_is_judged_as_it_is_printed(name: str, before: float, after: float, verdict: str) -> None:
    (figure,) = demo.figures_of({name: [before, after]})
    assert figure.verdict == verdict
    assert figure.better == (verdict == "better")


@pytest.mark.parametrize(
    ("ground", "square", "verdicts", "said"),
    [
        (0.95, -0.75, ["better"] * 4, "All 4 figures are better than before"),
        (0.8, -0.8, ["worse", "worse", "better", "better"], "2 of 4 figures are better than before, not: distance (worse), "
                                                             "haze (worse)"),
        (0.9, -0.6, ["the same"] * 4, "0 of 4 figures are better than before, not: distance (the same), haze (the "
                                         "same), edges (the same), highs (the same)"),
    ],
)  # fmt: skip
def test_the_table_says_what_got_worse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ground: float,
    square: float,
    verdicts: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    goal = pictures()
    before, after = (torch.where(goal == 1, white, dark) for white, dark in ((0.9, -0.6), (ground, square)))
    rows = [demo.Row("it", steps, media, 1.0) for steps, media in ((1, before), (1, after), (25, goal))]
    demo.report(demo.Options(tmp_path), Card.read(bundle.locate("emoji-64")), *rows, seconds=60.0)
    table = (tmp_path / "table.md").read_text()
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:6]] == verdicts
    for text in (table, " ".join(capsys.readouterr().out.split())):
        assert f"{said} (20 pictures: 10 prompts from 2 noises each, compared with the teacher's of 25 steps" in text
    found = demo.figures_of(json.loads((tmp_path / "figures.json").read_text()))
    assert [figure.verdict for figure in found] == verdicts, "the file says the same"


def test_the_benchmark_counts_the_runs_in_which_every_figure_improved() -> None:
    def a_run(seed: int, distance: float, highs: float) -> dict[str, object]:
        found = {"distance": [0.3, distance], "haze": [0.04, 0.03], "edges": [0.8, 0.9], "highs": [0.6, highs]}
        return {"seed": seed, "cpu_minutes": 3.0 + seed, "peak_mib": 2000, **found}

    found = benchmark("demo").summary([a_run(0, 0.2, 0.7), a_run(1, 0.32, 0.7), a_run(2, 0.26, 0.5), a_run(3, 0.26, 0.7)])
    assert (found["runs"], found["all_better"]) == (4, 2)
    assert [found[f"{name}_better"] for name in ("distance", "haze", "edges", "highs")] == [3, 4, 4, 3]
    assert (found["distance_after"], found["distance_after_least"], found["distance_after_most"]) == (0.26, 0.2, 0.32)
    assert (found["cpu_minutes"], found["cpu_minutes_most"]) == (4.5, 6.0)


def test_a_sheets_pictures_are_marked_and_its_paper_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    rng = np.random.default_rng(3)
    coarse = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(4)]
    drawn = [one.resize((64, 64), Image.Resampling.BICUBIC) for one in coarse]
    made = sheet.sheet([("a", "one", drawn[:2]), ("b", "two", drawn[2:])], ["left", "right"], "A sheet")
    path = sheet.save(made, tmp_path / "sheet.png", Card.read(tiny_bundle(tmp_path / "model")), 7)
    with Image.open(path) as file:
        saved = np.asarray(file.convert("RGB")).astype(int)
    changed = np.abs(saved - np.asarray(made)).max(2)
    assert len(made.info[sheet.CELLS]) == 4
    for left, top, right, bottom in made.info[sheet.CELLS]:
        assert changed[top:bottom, left:right].any()
        changed[top:bottom, left:right] = 0
    assert not changed.any(), "margins and captions carry no mark"
    assert verify(path).watermark.found
    left, top, right, bottom = made.info[sheet.CELLS][2]
    one = np.ascontiguousarray(saved[top:bottom, left:right]).astype(np.uint8)
    assert SpreadSpectrum().detect(one, "offsets").found, "each picture keeps its own when it is cut out"
