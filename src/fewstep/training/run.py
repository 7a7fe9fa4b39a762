"""A run: a trainer, its folder, and what happens around every step: saving, stopping, watching."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..tensors import Batch
from . import checkpoint
from .trainer import StepLog, Trainer


@dataclass(frozen=True)
class Saving:
    """When a run writes its state, and when it ends."""

    out: Path
    """Folder of the run; its state goes into ``out/checkpoint``."""
    every_seconds: float = 60.0
    """Seconds between checkpoints."""
    resume: bool = False
    """Continue from the checkpoint in ``out``, if there is one."""
    minutes: float = 0.0
    """Stop cleanly, state saved, after this many minutes of this session; 0 runs to the last step."""

    @property
    def checkpoint(self) -> Path:
        """Where the state lies."""
        return self.out / "checkpoint"


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, time limit); its state is saved."""


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag that is looked at between steps; a second one ends at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
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
    now: Callable[[], float] = time.monotonic,
    seconds: float = 0.0,
) -> None:
    """Train to the end, saving on the way. Raises Stopped, after saving, when asked to stop earlier.

    ``seconds`` ends the run early as if it were done. ``watch`` is called after every step and may raise: what was saved
    last then stands on disk.
    """
    if saving.resume and checkpoint.exists(saving.checkpoint):
        trainer.resume(saving.checkpoint)
    started = saved = now()
    with stop_flag() as asked:
        for log in trainer.steps(batches):
            watch(log)
            out_of_time = saving.minutes and now() - started > saving.minutes * 60
            if asked() or out_of_time:
                trainer.save(saving.checkpoint)
                raise Stopped(
                    f"stopped after step {trainer.step} of {trainer.options.steps}; "
                    f"the state is in {saving.checkpoint}: continue with --resume"
                )
            if seconds and now() - started > seconds:
                break
            if now() - saved > saving.every_seconds:
                trainer.save(saving.checkpoint)
                saved = now()
    trainer.save(saving.checkpoint)
