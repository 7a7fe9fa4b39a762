"""The page of a run: made of what its folder holds, of any age; bounded; and never at the cost of the training."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_keep import same_state

import training_worker
from fewstep.tensors import Batch
from fewstep.training import calls, checkpoint, curves, drawn, page
from fewstep.training.log import Stopped
from fewstep.training.probe import Probe, RememberingDraw
from fewstep.training.recipe import Phase, run_phases
from fewstep.training.run import Saving, check_own
from fewstep.training.trainer import Trainer

STEPS = 6


def evaluated(trainer: Trainer, every: int = 2) -> Probe:
    """Four pictures whose brightness is the step's, measured by their mean."""
    shown = RememberingDraw(lambda: torch.full((4, 3, 8, 8), trainer.step / STEPS), range(3))
    return Probe(lambda: {"score": 2 - float(shown().mean()), "fd": 1.0, "diversity": 1.0}, every, shown.pictures)


def phase(steps: int = STEPS, name: str = "add", probe: bool = True) -> Phase:
    trainer: list[Trainer] = []

    def build() -> tuple[Trainer, Callable[[int], Batch]]:
        trainer[:] = [training_worker.trainer(steps)]
        return trainer[0], training_worker.batches

    return Phase(name, steps, build, probe=(lambda: evaluated(trainer[0])) if probe else None)


def trained(out: Path, *phases: Phase, watch: Callable[..., None] = lambda *_: None, **saving: Any) -> str:
    """Run it; its page."""
    run_phases(phases or [phase()], Saving(out, **saving), watch)
    return (out / page.NAME).read_text("utf-8")


def shown_steps(made: str) -> list[int]:
    return [int(step.replace(",", "")) for step in re.findall(r"<figcaption>step ([\d,]+)", made)]


def test_a_run_shows_its_pictures_evaluations_losses_health_and_command(tmp_path: Path):
    made = trained(tmp_path, phase(4, "warm", probe=False), phase(), command="fewstep distill --out 'my run'")
    assert shown_steps(made) == [0, 2, 4, 6]
    for said in ("Evaluations (add)", "Losses (warm)", "Losses (add)", "Health (add)", "fewstep distill --out &#x27;my run&#x27;",
                 "warm: no evaluation was made", "no bundle was written yet", "the best", "torch"):  # fmt: skip
        assert said in made, said
    assert not re.search(r'(?:src|href)="(?!data:)', made)
    (call,) = calls.read(tmp_path)
    assert call["versions"]["torch"] == torch.__version__


def test_a_resumed_run_has_the_same_state_and_pictures_and_another_call(tmp_path: Path):
    def stop(_: Phase, trainer: Trainer, log: Any) -> None:
        if log.step == 3:
            raise KeyboardInterrupt

    trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", watch=stop, every_seconds=0.0, command="one")
    made = trained(tmp_path / "cut", resume=True, command="two")
    assert [call["command"] for call in calls.read(tmp_path / "cut")] == ["one", "two"]
    assert same_state(tmp_path / "whole/add/checkpoint", tmp_path / "cut/add/checkpoint")
    assert shown_steps(made) == [0, 2, 4, 6]
    for name in ("000002.webp", "000004.webp", "000006.webp"):
        a, b = ((tmp_path / run / "add/evaluations" / name).read_bytes() for run in ("whole", "cut"))
        assert a == b


def test_a_run_that_is_stopped_has_its_page(tmp_path: Path):
    with pytest.raises(Stopped):
        trained(tmp_path, until=-math.inf)
    assert "add: 1 steps" in (tmp_path / page.NAME).read_text("utf-8")


def test_a_new_run_forgets_the_pictures_of_the_old_one_and_leaves_a_strangers(tmp_path: Path):
    trained(tmp_path)
    own = tmp_path / "add/evaluations/mine.webp"
    own.write_bytes(b"mine")
    checkpoint.remove(tmp_path / "add/checkpoint")
    made = trained(tmp_path, phase(2))
    assert shown_steps(made) == [0, 2]
    assert own.read_bytes() == b"mine"


def test_sheets_are_bounded_and_keep_both_ends_and_an_even_spread(tmp_path: Path):
    kept, image = drawn.Drawn(tmp_path), Image.new("RGB", (4, 4))
    for step in range(0, 3 * drawn.MOST):
        kept.keep(step, image)
    steps = list(kept.sheets())
    assert len(steps) == drawn.MOST == len(list((tmp_path / "evaluations").glob("*.webp")))
    assert (steps[0], steps[-1]) == (0, 3 * drawn.MOST - 1)
    assert max(b - a for a, b in pairwise(steps)) <= 6
    kept.cut(steps[10])
    assert list(kept.sheets()) == steps[:11]
    kept.forget()
    assert not (tmp_path / "evaluations").exists()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((16, 3, 64, 64), (262, 262)),
        ((5, 1, 8, 8), (38, 18)),
        ((2, 3, 512, 256), (98, 96)),
        ((3, 3, 7, 8, 8), (28, 8)),
        ((2, 1, 100), None),
    ],
)
def test_a_sheet_of_any_media(shape: tuple[int, ...], size: tuple[int, int] | None):
    made = drawn.sheet(torch.zeros(shape))
    assert (made and made.size) == size
    assert drawn.sheet(torch.full(shape, math.nan)) is None


def test_a_page_that_cannot_be_written_is_told_once_and_ends_no_training(tmp_path: Path):
    (tmp_path / "add").mkdir()
    (tmp_path / "add/evaluations").write_text("in the way")
    (tmp_path / page.NAME).write_text("<p>mine")
    with pytest.raises(ValueError, match=r"index\.html is damaged, or fewstep did not write it"):
        check_own(tmp_path, ["add"])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trained(tmp_path)
    assert [str(w.message) for w in told if "page is not up to date" in str(w.message)] == [str(told[0].message)]
    assert (tmp_path / page.NAME).read_text() == "<p>mine"
    assert checkpoint.step_of(tmp_path / "add/checkpoint") == STEPS


def test_the_page_of_an_old_run_says_what_is_missing(tmp_path: Path):
    folder = tmp_path / "add"
    folder.mkdir()
    lines = [{"step": i, "student/distillation": 1 / (i + 1), "student/gradient_norm": math.nan} for i in range(5001)]
    lines[7]["alarms"] = ["colour_drift"]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    missing = page.write(tmp_path, "fewstep distill")
    assert len(missing) == 3
    made = (tmp_path / page.NAME).read_text("utf-8")
    assert "colour_drift after step 7" in made
    assert "5,000 steps 1,200 points are drawn" in made
    assert len(made) < 200_000
    with pytest.raises(ValueError, match="holds no run"):
        page.write(folder)


def test_thinned_curves_keep_the_extremes_and_smooth_ones_the_mean():
    curve = [(i, float(i % 7)) for i in range(50_000)]
    curve[33_333] = (33_333, 99.0)
    curve[123] = (123, math.nan)
    thin = curves.thinned(curve)
    assert len(thin) <= curves.MOST
    assert (33_333, 99.0) in thin
    assert thin == sorted(thin)
    level = [value for _, value in curves.smoothed(curve)]
    assert len(level) <= curves.MOST // 2
    assert all(abs(value - 3) < 0.1 for value in level)
