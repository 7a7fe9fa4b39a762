"""Every student, the teacher and real pictures, judged alike; and pictures from the same noises to look at."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from .. import bundle
from .. import provenance as marks
from ..bundle import Card
from ..data.dataset import Dataset, Progress, spread
from ..evaluation.record import REAL, MetricRecord, merge, read_records, write_records
from ..evaluation.suite import Evaluator, Options
from ..inference.pipeline import Pipeline, Request
from .plan import Plan, Run
from .results import SHOWN

RECORDS = "records.json"
TEACHER = "teacher"


class Measuring:
    """Measures what is not measured yet."""

    def __init__(self, plan: Plan, dataset: Dataset, progress: Progress | None = None) -> None:
        self.plan, self.dataset, self.progress = plan, dataset, progress

    @cached_property
    def evaluator(self) -> Evaluator:
        """Judges and their reference."""
        return Evaluator(self.dataset, self.plan.options.judging, self.progress)

    @property
    def shown(self) -> list[str]:
        """The prompts whose pictures are shown."""
        prompts = self.evaluator.prompts
        return [prompts[i] for i in spread(self.plan.options.grid, len(prompts))]

    @property
    def exhaustive(self) -> bool:
        """Whether every concept that is trained on is judged."""
        return len(self.evaluator.prompts) == len(self.dataset.subset("train").concepts)

    def command(self, model: str, steps: int) -> str:
        """What to type to measure it again."""
        return command(model, self.plan.options.data, steps, self.plan.options.judging)

    def teacher(self) -> list[MetricRecord]:
        """The teacher's rows, and that of real pictures."""
        o = self.plan.options
        file = o.out / TEACHER / RECORDS
        known = read_records(file) if file.is_file() else []
        pipeline = Pipeline.open(bundle.locate(o.teacher))
        for steps in o.teacher_steps:
            if not any((r.model, r.steps) == (TEACHER, steps) for r in known):
                new = self.evaluator.measure(pipeline, steps, TEACHER, self.command(o.teacher, steps), self.progress)
                known = merge(known, _kept(new))
                write_records(file, known)
        if not any(r.model == REAL for r in known):
            known = merge(known, _kept(self.evaluator.floor(known, self.progress)))
            write_records(file, known)
        draw_shown(pipeline, self.shown, (max(o.teacher_steps), *o.steps), o.out / TEACHER)
        return known

    def student(self, run: Run) -> list[MetricRecord]:
        """A student's rows."""
        o, file = self.plan.options, run.folder / RECORDS
        if file.is_file():
            return [replace(r, model=run.model) for r in read_records(file)]  # a warm start is one of several budgets
        pipeline = Pipeline.open(run.bundle)
        found: list[MetricRecord] = []
        for steps in o.steps:
            new = self.evaluator.measure(
                pipeline, steps, run.model, self.command(str(run.bundle), steps), self.progress
            )
            found = merge(found, _kept(new))
        draw_shown(pipeline, self.shown, o.steps, run.folder)
        write_records(file, found)  # last: a student is measured when it is here
        return read_records(file)  # as every later call reads them


def command(model: str, data: str, steps: int, judging: Options) -> str:
    """``fewstep evaluate`` of one model, as the contest measured it."""
    usual = Options()
    words = ["fewstep", "evaluate", model, "--data", data, "--steps", str(steps)]
    for name in ("prompts", "seeds", "judge", "resolution"):
        value = getattr(judging, name)
        if value != getattr(usual, name):
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _kept(records: Sequence[MetricRecord]) -> list[MetricRecord]:
    return [r for r in records if r.metric in SHOWN]


def draw_shown(pipeline: Pipeline, prompts: Sequence[str], counts: Sequence[int], folder: Path) -> None:
    """One picture of every prompt at every step count, all models from the same noises; they carry mark and credentials."""
    card: Card = pipeline.card
    for steps in dict.fromkeys(counts):
        at = [i for i in range(len(prompts)) if not picture(folder, steps, i).is_file()]
        if not at:
            continue
        media = pipeline(Request([prompts[i] for i in at], [7] * len(at), steps)).float().cpu()
        facts = marks.GenerationFacts(card.name, card.fingerprint, steps, seed=7)
        for i, one in zip(at, media):
            picture(folder, steps, i).parent.mkdir(parents=True, exist_ok=True)
            marks.write(picture(folder, steps, i), one, replace(facts, prompt=prompts[i]))


def picture(folder: Path, steps: int, i: int) -> Path:
    """Where a shown picture lies."""
    return folder / "pictures" / f"{i}-{steps}.png"
