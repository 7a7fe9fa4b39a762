"""A run: a trainer, its folder, and what happens around every step: evaluation, health checks, saving, stopping."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType

from ..tensors import Batch
from . import checkpoint, page
from .drawn import Drawn
from .health import REMEDY, Course, Health, Unhealthy
from .journal import Journal
from .log import STOPS, StepLog, Stopped, ignored, leave_terminal
from .probe import Best, Probe, evaluate_now
from .trainer import Trainer

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@dataclass(frozen=True)
class Saving:
    """When a run writes its state, and when it ends."""

    out: Path
    """Folder of the run; its state goes into ``out/checkpoint``, the best one by metric into ``out/best``."""
    every_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Continue from the checkpoint in ``out``, if there is one; else whatever an earlier run left there is forgotten."""
    until: float = math.inf
    """When to stop cleanly, state saved, in seconds of the ``clock``; by itself it runs to the last step."""
    seconds: float = 0.0
    """Seconds of training after which the run ends as if it were done, those before a resume counted; 0 sets no limit."""
    clock: Callable[[], float] = time.monotonic
    """What tells the seconds."""
    timer: Callable[[], float] | None = None
    """What tells ``seconds`` alone, processor time say; None is the ``clock``."""

    command: str = ""
    """What was typed for the run, to be written down."""
    log: tuple[str, ...] = ()
    """Where steps are logged beside the journal: ``tensorboard``, ``wandb``, ``trackio``, or dotted paths (see ``sinks``)."""

    @property
    def checkpoint(self) -> Path:
        """Where the state lies."""
        return self.out / "checkpoint"

    @property
    def best(self) -> Path:
        """Where the best state by metric lies."""
        return self.out / "best"

    @property
    def good(self) -> Path:
        """Where the state before the last one lies that a sound step followed: what a run goes back to when it has exploded."""
        return self.out / "good"

    @property
    def journal(self) -> Path:
        """Where every step is written down."""
        return self.out / "journal.jsonl"

    @property
    def made_with(self) -> Path:
        """Where the options stand that the state depends on."""
        return self.out / "made_with.json"

    @property
    def goes_on(self) -> bool:
        """Is there a state to continue from?"""
        return self.resume and checkpoint.exists(self.checkpoint)

    def forget(self) -> None:
        """Remove what an earlier run left behind."""
        for state in (self.checkpoint, self.best, self.good):
            checkpoint.remove(state)
        if self.journal.exists():
            self.journal.unlink()
        Drawn(self.out).forget()

    def check_own(self) -> None:
        """Refuse to go about where fewstep did not write what stands in the way. Raises ValueError with the fix."""
        if os.path.lexists(self.out) and not self.out.is_dir():
            raise ValueError(
                f"{self.out} is a file, and the run needs a folder there: choose another --out, or move it"
            )
        for state in (self.checkpoint, self.best, self.good):
            checkpoint.check_own(state)
        for path, written in ((self.journal, Journal.wrote), (self.made_with, wrote_options)):
            if os.path.lexists(path) and not written(path):
                raise ValueError(
                    f"{path} is damaged, or fewstep did not write it, and the run writes one there: move it elsewhere, or "
                    "choose another --out"
                )


def wrote_options(path: Path) -> bool:
    """Is this a ``made_with.json``?"""
    try:
        return isinstance(json.loads(path.read_text("utf-8")), dict)
    except (OSError, ValueError):
        return False


def check_free(out: Path) -> None:
    """Refuse to begin a run where one has taken steps already. Raises ValueError with the fix."""
    for folder in sorted({state.parent.parent for state in out.glob("*/checkpoint*/state.json")}):
        if steps := checkpoint.step_of(Saving(folder).checkpoint):
            raise ValueError(
                f"{out} holds a run, {steps:,} steps into its phase {folder.name}: go on with --resume, choose another --out, "
                "or remove that folder"
            )


def check_own(out: Path, phases: Iterable[str]) -> None:
    """Refuse a run's folder where files that fewstep did not write stand in the way. Raises ValueError with the fix."""
    page.check_place(out)
    for name in phases:
        Saving(out / name).check_own()


def check_writable(out: Path) -> None:
    """See that a run's folder can be made and written to, before anything takes long; nothing is left of the attempt.

    Raises OSError as the system does.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass
    for folder in new:
        folder.rmdir()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only one who trains in ``folder``; the system lets go of it however the process ends.

    Raises ValueError where another process trains there. Where the system knows no such locks, nothing is locked.
    """
    if fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as file:  # whosever it is, what stands in it stays
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is training in {folder}: let it end, or choose another --out") from None
        yield


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a flag that is looked at between steps; a second one ends at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        leave_terminal(number)
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in STOPS if not ignored(s)}
    except ValueError:  # not in the main thread: whoever runs us there stops us by other means
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    trainer: Trainer,
    batches: Callable[[int], Batch],
    saving: Saving,
    watch: Callable[[StepLog], None] = lambda log: None,
    probe: Probe | None = None,
    health: Health | None = None,
    past: Callable[[int], Iterable[StepLog]] = lambda step: (),
) -> None:
    """Train to the end, saving on the way.

    ``probe`` evaluates the first state, one state every so many steps, and the last; its best state is kept in
    ``saving.best``. An evaluation that was interrupted is made again on resume: no state is saved between a step and the
    evaluation that is due after it, and the first state is evaluated whenever a run stands there.

    ``watch`` is called after every step, and for step 0 where there is a probe. It may raise; what was saved last is then on
    disk. ``health`` puts its alarms into the log before that. ``past(step)`` gives the logs of the steps before a resume:
    ``health`` reads them first, so that its rules continue where they stopped.

    Raises Stopped, after saving, when asked to stop earlier. Raises Unhealthy when a fatal alarm fires or when weights that
    are to be saved are not finite. The trainer then goes back to the last saved state that a sound step followed, which is
    from before the explosion.
    """
    health, new = health or Health(), not saving.goes_on
    before, best = begin(trainer, saving, health, past), Best(saving.best)
    if before is None:
        return
    state = SavedStates(trainer, saving, before)
    with stop_flag() as asked:
        if probe and (new or not trainer.step):
            first = StepLog(0, {}, evaluate_now(trainer, probe, best), pictures=probe.pictures())
            health.check(first)
            watch(first)
        timer = saving.timer or saving.clock
        started, saved = timer() - trainer.spent, saving.clock()

        def save(last: bool = False) -> None:
            trainer.spent = timer() - started
            state.save(last)

        for log in trainer.steps(batches):
            over = bool(saving.seconds) and timer() - started > saving.seconds
            if probe and probe.due(log.step, over or log.step == trainer.options.steps):
                log.observations |= evaluate_now(trainer, probe, best)
                log.pictures = probe.pictures()
            state.note(log)
            try:
                log.alarms = health.check(log)
            except Unhealthy as alarm:
                raise state.go_back(str(alarm)) from None
            watch(log)
            if asked() or saving.clock() > saving.until:
                save()
                raise Stopped(
                    f"stopped after step {trainer.step} of {trainer.options.steps}; "
                    f"the state is in {saving.checkpoint}: continue with --resume"
                )
            if over:
                break
            if (
                saving.clock() - saved > saving.every_seconds and not log.skipped
            ):  # the cause of a bad step is not saved
                save()
                saved = saving.clock()
        save(last=True)


def begin(
    trainer: Trainer, saving: Saving, health: Health, past: Callable[[int], Iterable[StepLog]]
) -> list[StepLog] | None:
    """Put the trainer where the run begins or continues; returns the logs before that, None where no time is left."""
    if not saving.goes_on:
        saving.forget()
        trainer.save(saving.checkpoint)  # there is always a state to go back to, and a bad folder is told at once
        return []
    trainer.resume(saving.checkpoint)
    if saving.seconds and trainer.spent >= saving.seconds:
        return None
    before = list(past(trainer.step)) if trainer.step else []
    if before:
        health.recall(before)
    return before


class SavedStates:
    """The states of a run on disk: the last one, and the one before it as long as a sound step has followed that."""

    def __init__(self, trainer: Trainer, saving: Saving, before: Iterable[StepLog]) -> None:
        """``before`` are the steps that led to the state on disk; the one that begins a run needs no step to prove it."""
        self.trainer, self.saving = trainer, saving
        self._course, self._proven, self._fresh = Course(), not trainer.step, bool(trainer.step)
        for log in before:
            self._course.sound(log)

    def note(self, log: StepLog) -> None:
        """The first step after a save shows what the saved state is worth."""
        sound = self._course.sound(log)
        if self._fresh:
            self._proven, self._fresh = sound, False

    def save(self, last: bool = False) -> None:
        """Write the state; the one it replaces is kept if it has proved sound, and none is after the last.

        Raises Unhealthy, with a good state in its place, where the weights are no numbers.
        """
        if not self.trainer.finite():
            raise self.go_back(f"not_finite: after step {self.trainer.step} the weights hold NaN or infinity: {REMEDY}")
        keep = self._proven and not last
        if keep or last:
            checkpoint.remove(self.saving.good)  # first: a disk has room for two states, perhaps not for three
        self.trainer.save(self.saving.checkpoint, self.saving.good if keep else None)
        self._proven, self._fresh = False, True

    def go_back(self, why: str) -> Unhealthy:
        """Give the trainer its last good state, the one that --resume will find; returns what to raise."""
        if not self._proven and checkpoint.exists(self.saving.good):
            self.trainer.resume(self.saving.good)
            self.trainer.save(self.saving.checkpoint)
        else:
            self.trainer.resume(self.saving.checkpoint)
        return Unhealthy(
            f"{why}; the last good state, of step {self.trainer.step}, is in {self.saving.checkpoint}: continue with --resume"
        )
