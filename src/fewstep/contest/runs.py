"""Trainings as processes: each by itself, stopped and gone on with at will, timed by what the system says of it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..bundle import Card
from ..files import whole
from ..recipes.warm import pairs_in
from ..text import spoken
from .plan import Plan, Run

FILE = "contest-run.json"
STOPPED = 130
"""Exit code of a training that was stopped, its state saved."""


@dataclass(frozen=True)
class Outcome:
    """What became of a training."""

    command: str
    cpu_s: float = 0.0
    """Processor time of its processes, all parts of a training that was stopped together."""
    wall_s: float = 0.0
    """Time on the clock."""
    memory_mib: float = 0.0
    """Most memory that a process of it held."""
    updates: int = 0
    """Steps of its method."""
    failed: str = ""
    """Why it failed, in its own last words; empty where it did not."""
    done: bool = False

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """What is written in a training's folder; None where nothing is."""
        try:
            return cls(**json.loads((folder / FILE).read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / FILE} cannot be read ({error}): remove {folder} to train it again") from None

    def write(self, folder: Path) -> None:
        """Keep it in the training's folder."""
        with whole(folder / FILE) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


@dataclass(frozen=True)
class Work:
    """A process that is to run: a warm start, or a training."""

    name: str
    folder: Path
    words: tuple[str, ...]
    pairs_of: Path | None = None
    """Where the teacher's trajectories of the same seed lie, perhaps."""

    @property
    def command(self) -> str:
        """What to type for it."""
        return shlex.join(["fewstep", "distill", *self.words])

    @property
    def outcome(self) -> Outcome:
        """As far as it has come."""
        return Outcome.read(self.folder) or Outcome(self.command)


def train(plan: Plan, told: Callable[[str, int, int], None], finished: Callable[[Run], None]) -> None:
    """Train all that is left to do, ``jobs`` at once; ``finished`` is called in this thread with every training that ended well.

    A training that fails is written down and the others go on. KeyboardInterrupt has every process save its state first.
    """
    o = plan.options
    with ThreadPoolExecutor(o.jobs) as pool, Processes() as processes:  # left in this order: queued ones don't begin
        for seed in plan.seeds:
            warm = warm_work(plan, seed)
            if "warm" in o.starts and not warm.outcome.done:
                told(warm.name, len(_ended(plan)), len(plan.runs))
                _go_on(processes.run(warm))
                if why := warm.outcome.failed:
                    raise ValueError(
                        f"the common warm start failed: {why}; its log is {warm.folder / LOG}, and it can be tried alone: "
                        f"{warm.command}"
                    )
            left = {}
            for run in plan.runs:
                if run.seed == seed:
                    work, outcome = work_of(plan, run), Outcome.read(run.folder)
                    if outcome is not None and outcome.done:
                        finished(run)
                    elif outcome is None or not outcome.failed or o.redo:
                        left[pool.submit(processes.run, work)] = (run, work)
            for one in as_completed(left):
                run, work = left[one]
                _go_on(one.result())
                told(run.model, len(_ended(plan)), len(plan.runs))
                if work.outcome.done:
                    finished(run)


def _go_on(outcome: Outcome) -> None:
    """Raise KeyboardInterrupt where a training was stopped before its end."""
    if not (outcome.done or outcome.failed):
        raise KeyboardInterrupt


def _ended(plan: Plan) -> list[Run]:
    found = ((run, Outcome.read(run.folder)) for run in plan.runs)
    return [run for run, outcome in found if outcome is not None and (outcome.done or outcome.failed)]


def warm_work(plan: Plan, seed: int) -> Work:
    """The common warm start of a seed."""
    return Work(f"the warm start of seed {seed}", plan.warm_folder(seed), plan.warm_words(seed))


def work_of(plan: Plan, run: Run) -> Work:
    """One training."""
    source = plan.warm_folder(run.seed) if "warm" in plan.options.starts else None
    return Work(f"{run.model}, seed {run.seed}", run.folder, plan.words(run), source)


LOG = "training.log"


class Processes:
    """Starts trainings and hears of their end; leaving it has those that still run save their state and stop."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._leaving = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with self._lock:
            self._leaving = True
            if kind is not None:
                for process in self._running:
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGTERM)

    def run(self, work: Work) -> Outcome:
        """Train to the end of the budget, to a failure, or until it is stopped; the outcome, with what it took before.

        It is in the training's folder when this returns, whoever stopped what.
        """
        before = work.outcome
        if self._leaving:  # one that waited in line leaves no folder, and no copy of the trajectories
            return before
        work.folder.mkdir(parents=True, exist_ok=True)
        lend_pairs(work)
        began = time.monotonic()
        with (work.folder / LOG).open("ab") as log:
            with self._lock:
                if self._leaving:
                    return before
                process = subprocess.Popen(
                    [sys.executable, "-c", "from fewstep.cli import main; main()", "distill", *work.words, "--resume"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1"},
                )  # fmt: skip
                self._running.add(process)
            _, status, used = os.wait4(process.pid, 0)
        with self._lock:
            self._running.discard(process)
            process.returncode = os.waitstatus_to_exitcode(status)
        spent = replace(
            before,
            command=work.command,
            failed="",
            cpu_s=round(before.cpu_s + used.ru_utime + used.ru_stime, 2),
            wall_s=round(before.wall_s + time.monotonic() - began, 2),
            memory_mib=round(max(before.memory_mib, used.ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)), 1),
        )
        outcome = self._ended(spent, work.folder, process.returncode)
        outcome.write(work.folder)
        return outcome

    def _ended(self, spent: Outcome, folder: Path, code: int) -> Outcome:
        """What became of a training whose process ended with ``code``."""
        if code == 0:
            taken = Card.read(folder / "bundle").training.get("taken", {})
            return replace(spent, done=True, updates=int([*taken.values()][-1]) if taken else 0)
        if code == STOPPED or self._leaving:
            return spent
        return replace(spent, failed=last_words(folder / LOG, code))


def lend_pairs(work: Work) -> None:
    """Put the warm start's trajectories into a training's folder, which draws them again where they are not its own."""
    if work.pairs_of is None:
        return
    there, here = (pairs_in(folder)[0] for folder in (work.pairs_of, work.folder))
    if there.is_file() and not here.exists():
        with whole(here) as draft:
            shutil.copyfile(there, draft)


def last_words(log: Path, code: int) -> str:
    """What a training that failed said last, or the number of its signal."""
    said = spoken(log)
    own = [line.removeprefix("fewstep: ") for line in said if line.startswith("fewstep: ")]
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return (own or said or [f"it ended with {code} and said nothing"])[-1]
