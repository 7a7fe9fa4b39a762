"""``fewstep contest``: train what is left, measure what is new, write what was found after every training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ..bundle import locate
from ..data.dataset import Progress
from ..files import whole
from ..inference.pipeline import Pipeline
from ..parts.conditioner import UnreadWarning
from ..training.data import open_dataset
from . import page, report
from .measuring import Measuring
from .plan import Options, Plan, Run
from .report import Found
from .results import Trained
from .runs import Outcome, train

SAID = "contest.txt"
"""What the contest was started with: figures of another contest are not mixed into it."""
SAME = ("teacher", "data", "warm", "recipe", "steps", "judging")
"""Options that make it another contest; entries, seeds and budgets may be added."""


def run(o: Options, command: str, progress: Progress, say: Callable[..., None]) -> Found:
    """The whole contest. Raises ValueError with the fix before any work, and KeyboardInterrupt with all that was done kept."""
    plan = Plan.of(o)
    plan.check()
    for name, why in plan.left_out:
        warnings.warn(f"{name} is left out: {why}", stacklevel=2)
    teacher = locate(o.teacher)
    dataset = open_dataset(o.data)
    o.out.mkdir(parents=True, exist_ok=True)
    _check_same(plan)
    torch.set_num_threads(1)
    measuring = Measuring(plan, dataset, progress)
    _ = measuring.evaluator  # refuses what cannot be judged
    machine = Pipeline.open(teacher).machine
    records = measuring.teacher()
    done: dict[Run, Trained] = {}
    starts: dict[Run, Trained] = {}

    def found() -> Found:
        ended = {run: Outcome.read(run.folder) for run in plan.runs}
        failed = [(run, outcome) for run, outcome in ended.items() if outcome is not None and outcome.failed]
        trained = [done[run] for run in plan.runs if run in done]
        before = list(starts.values())
        return Found(plan, records, trained, failed, machine, command, measuring.shown, measuring.exhaustive, before)

    def judged(run: Run) -> Trained:
        outcome = Outcome.read(run.folder)
        assert outcome is not None, "it was written when the training ended"
        return Trained(run, outcome, tuple(measuring.student(run)))

    def finished(run: Run) -> None:
        new = not (run.folder / "records.json").is_file()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreadWarning)  # told of the teacher, once; and so is this:
            warnings.filterwarnings("ignore", "no watermark")
            done[run] = judged(run)
            if (begun := plan.begun(run)) and begun not in starts:
                starts[begun] = judged(begun)
        if new:
            write(found())
            fd = ", ".join(f"{r.value:.3g}" for r in done[run].records if r.metric == "fd")
            say(f"{run.model}, seed {run.seed}: FD {fd}; {done[run].outcome.cpu_s:,.0f} s of processor time")

    def told(name: str, at: int, of: int) -> None:
        progress(f"trainings: {name}", at, of)

    try:
        train(plan, told, finished)
    finally:
        write(found())
    return found()


def write(found: Found) -> None:
    """``contest.json``, ``contest.md`` and ``contest.html``."""
    out = found.plan.options.out
    report.write(found, out)
    with whole(out / "contest.html") as draft:
        draft.write_text(page.page_of(found), "utf-8")


def _check_same(plan: Plan) -> None:
    """Refuse to go on with a folder whose trainings were another contest's. Raises ValueError with the fix."""
    o, file = plan.options, plan.options.out / SAID
    now = "\n".join(f"{name} {getattr(o, name)!r}" for name in SAME)
    if file.is_file() and (before := file.read_text("utf-8")) != now:
        ours, theirs = now.splitlines(), before.splitlines()
        first = next((a for a, b in zip(ours, theirs) if a != b), "its form")
        raise ValueError(
            f"{o.out} holds a contest with another {first.partition(' ')[0]}: give another --out, or the same options as then"
        )
    if not file.is_file():
        if any(Path(o.out).glob("*/*/contest-run.json")):
            raise ValueError(f"{o.out} holds trainings of a contest that is not known: give another --out")
        with whole(file) as draft:
            draft.write_text(now, "utf-8")
