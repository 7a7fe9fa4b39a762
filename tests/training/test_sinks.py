"""Logs beside the journal: a sink of one's own, what fails in it, TensorBoard's files read back."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from test_run_page import STEPS, phase

from fewstep import extras
from fewstep.training import sinks
from fewstep.training.journal import Journal
from fewstep.training.recipe import Phase, run_phases
from fewstep.training.run import Saving
from fewstep.training.trainer import Trainer

HERE = "own_lab.sink"
OPENED: list[Recorder] = []


class Recorder:
    """A sink that writes down what it is handed."""

    def __init__(self, run: sinks.LoggedRun, config: Mapping[str, Any]) -> None:
        self.run, self.config, self.closed = run, dict(config), 0
        self.seen: list[tuple[int, Mapping[str, float]]] = []
        self.pictures: list[tuple[int, str, Any]] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.seen.append((step, values))

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self.pictures.append((step, name, image.size))

    def close(self) -> None:
        self.closed += 1


def open(run: sinks.LoggedRun, config: Mapping[str, Any]) -> Recorder:
    """This file is a sink."""
    OPENED.append(Recorder(run, config))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def own_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file by a dotted path, with no sink open."""
    OPENED.clear()
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def ends_at(step: int) -> Any:
    def watch(_: Phase, trainer: Trainer, log: Any) -> None:
        if log.step == step:
            raise KeyboardInterrupt

    return watch


def test_a_sink_of_ones_own_is_handed_every_step_every_picture_and_the_end(tmp_path: Path):
    run_phases([phase(3, "warm", probe=False), phase()], Saving(tmp_path, log=(HERE,)), lambda *_: None)
    warm, add = OPENED
    assert (warm.run.name, add.run.name) == (f"{tmp_path.name}/warm", f"{tmp_path.name}/add")
    assert [step for step, _ in warm.seen] == [1, 2, 3]
    assert [step for step, _ in add.seen] == list(range(STEPS + 1))
    assert [(step, name) for step, name, _ in add.pictures] == [(step, "evaluation") for step in (0, 2, 4, 6)]
    assert warm.closed == add.closed == 1
    lines = Journal.read(tmp_path / "add/journal.jsonl")
    for (_, values), line in zip(add.seen, lines):
        assert {name.replace("evaluation/", "probe/") for name in values} | {"step"} == line.keys()


def test_a_resumed_run_tells_what_was_logged_already(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_phases([phase()], Saving(tmp_path, log=(HERE,), every_seconds=1e9), ends_at(4))
    run_phases([phase()], Saving(tmp_path, log=(HERE,), resume=True), lambda *_: None)
    assert (OPENED[1].run.step, OPENED[1].run.logged) == (0, 4)
    assert OPENED[0].closed == 1


@pytest.mark.parametrize("method", ["scalars", "picture", "close"])
def test_a_sink_that_fails_is_told_once_and_the_training_goes_on(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> None:
        raise ConnectionError("the line is dead")

    monkeypatch.setattr(Recorder, method, fail)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run_phases([phase()], Saving(tmp_path, log=(HERE,)), lambda *_: None)
    assert [str(w.message) for w in told] == [
        f"--log {HERE} failed (the line is dead): nothing more goes there, the journal and the training go on"
    ]
    assert len(Journal.read(tmp_path / "add/journal.jsonl")) == STEPS + 1


def test_what_is_not_there_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="there is no log 'tensorbord': use tensorboard, trackio, wandb"):
        run_phases([phase()], Saving(tmp_path / "a", log=("tensorbord",)), lambda *_: None)
    monkeypatch.setattr(extras, "installed", lambda module: False)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(ValueError, match=rf"--log {name} needs {name}: pip install 'fewstep\[{name}\]'"):
            run_phases([phase()], Saving(tmp_path / "a", log=(name,)), lambda *_: None)
    assert not (tmp_path / "a").exists()


def test_tensorboard_has_every_step_once_after_a_kill_and_a_resume(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt):
        run_phases([phase()], Saving(tmp_path, log=("tensorboard",), every_seconds=0.0), ends_at(3))
    run_phases([phase()], Saving(tmp_path, log=("tensorboard",), resume=True), lambda *_: None)
    read = accumulator.EventAccumulator(str(tmp_path / "add/tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    lines = Journal.read(tmp_path / "add/journal.jsonl")
    for name in ("student/gradient_norm", "evaluation/score"):
        own = name.replace("evaluation/", "probe/")
        wanted = [(line["step"], pytest.approx(line[own], rel=1e-4)) for line in lines if own in line]
        assert [(event.step, event.value) for event in read.Scalars(name)] == wanted
    assert [event.step for event in read.Images("evaluation")] == [0, 2, 4, 6]


@pytest.mark.parametrize(("step", "kept"), [(0, [1, 2, 3]), (2, [3])])
def test_a_tracker_is_told_no_step_twice(tmp_path: Path, step: int, kept: list[int]):
    """A run that goes on takes steps again that its tracker has; one that begins anew tells all of them."""
    told: list[tuple[int, dict[str, Any]]] = []
    ended: list[bool] = []
    run = SimpleNamespace(log=lambda values, step: told.append((step, values)))
    tracker = sinks.Tracker(
        run, sinks.LoggedRun("run/add", tmp_path, step, logged=2), lambda image: image.size, lambda: ended.append(True)
    )
    for number in (1, 2, 3):
        tracker.scalars(number, {"loss": float(number)})
        tracker.picture(number, "drawn", Image.new("RGB", (4, 2)))
    tracker.close()
    assert told == [(n, values) for n in kept for values in ({"loss": float(n)}, {"drawn": (4, 2)})]
    assert ended == [True]
