"""``fewstep demo``: see what the shipped models do, then watch a student being made, in about three minutes."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from PIL import Image
from rich.table import Table
from torch import Tensor

from . import bundle
from .bundle import Card
from .console import TrainingDisplay, console, progress_bars, say
from .data import emoji as emoji_data
from .data.dataset import cache_dir
from .evaluation.sharpness import edges, highs
from .files import whole
from .inference.pipeline import Pipeline, Request
from .methods import add
from .modality.image import to_pil
from .parts.features.efficientnet import NETWORKS
from .ranges import Count, NewPath, Placement, Range, Seed
from .recipes import distillation
from .sheet import save, sheet
from .tensors import Media
from .training.recipe import run_phases
from .training.run import Saving, check_writable

PROMPTS = (
    "red heart",
    "pizza",
    "dog face",
    "grinning face",
    "rocket",
    "house",
    "red apple",
    "alarm clock",
    "cat face",
    "guitar",
)


ROUNDS = 8
"""Noises that every prompt is drawn from for the figures: ten pictures alone say little of a model."""


@dataclass(frozen=True)
class Options:
    """What the demo shows."""

    out: NewPath = Path("out/demo")
    """Folder for its pictures and its table."""
    student: str = "emoji-64"
    """Shipped student, or a bundle's folder."""
    teacher: str = "emoji-64-teacher"
    """Shipped teacher, or a bundle's folder."""
    seconds: Annotated[tuple[float, float], Range(0)] = (0.0, 0.0)
    """Time limit of the warm start and of the adversarial training, which then take fewer steps; 0 sets no limit."""
    concepts: Count = 64
    """How many concepts the demo's own student is made for; the prompts shown are among them, but for "dog face", held out."""
    seed: Seed = 7
    """Seed of the pictures and of the training."""
    placement: Annotated[Placement, tyro.conf.arg(name="")] = field(default_factory=Placement)
    """Where it is drawn and trained."""
    resume: bool = False
    """Go on with the student of a demo that was stopped; without it, one is made anew."""

    def needs(self) -> tuple[str, ...]:
        """The modules that the demo takes."""
        drawings = () if built() else OWN_DRAWINGS.needs()
        return (*drawings, NETWORKS["efficientnet-lite0"].module)


def run(o: Options) -> None:
    """The whole demo."""
    check_writable(o.out)
    console.rule("[bold]fewstep[/]: what is shipped")
    placed = (o.placement.device, o.placement.dtype)
    student, teacher = (Pipeline.open(bundle.locate(name), *placed) for name in (o.student, o.teacher))
    rows = [drawn(student, "student", steps, o.seed) for steps in (1, 2, 4) if steps in student.card.steps]
    before = drawn(teacher, "teacher", 1, o.seed, ROUNDS)
    rows += [drawn(teacher, "teacher", max(teacher.card.steps), o.seed), before]
    shown = _sheet(rows, "emoji-64: the shipped student beside its teacher")
    path = save(shown, o.out / "shipped.png", student.card, o.seed)
    console.print(_times(rows))
    say(f"pictures: {path}\n", path)

    console.rule("[bold]fewstep[/]: making a student, about three minutes")
    made, seconds = distil(o)
    after = drawn(made, "your student", 1, o.seed, ROUNDS)
    fewest = min(teacher.card.steps)  # its pictures are as good as those of its most steps, in less time
    goal = drawn(teacher, "teacher", fewest, o.seed, ROUNDS)
    report(o, made.card, before, after, goal, seconds)


@dataclass(frozen=True)
class Row:
    """Pictures of every prompt by one model, from one noise after the other."""

    name: str
    steps: int
    media: Media
    milliseconds: float

    def pictures(self) -> list[Image.Image]:
        """One of every prompt, as Pillow images."""
        return [to_pil(m) for m in self.media[: len(PROMPTS)]]

    @property
    def note(self) -> str:
        """Steps, and time a picture."""
        return f"{self.steps} step{'s' * (self.steps > 1)}, {self.milliseconds:,.0f} ms"


def drawn(pipeline: Pipeline, name: str, steps: int, seed: int, rounds: int = 1) -> Row:
    """Draw every demo prompt from ``rounds`` noises; the time is the median of single calls after a warm-up."""
    pipeline.encode(PROMPTS)
    seeds = [(seed + i) % 2**63 for i in range(rounds)]
    media = torch.cat([pipeline(Request(PROMPTS, [one] * len(PROMPTS), steps)).float().cpu() for one in seeds])
    times = []
    for i in range(2 if steps > 8 else 6):
        began = time.perf_counter()
        pipeline.draw(PROMPTS[0], steps, seed=i).cpu()
        times.append(1000 * (time.perf_counter() - began))
    return Row(name, steps, media, statistics.median(times[1:]))


def _sheet(rows: list[Row], title: str) -> Image.Image:
    return sheet([(row.name, row.note, row.pictures()) for row in rows], PROMPTS, title)


def _times(rows: list[Row]) -> Table:
    table = Table("model", "steps", "ms a picture", box=None)
    for row in rows:
        table.add_row(row.name, str(row.steps), f"{row.milliseconds:,.0f}")
    return table


def recipe(o: Options) -> distillation.Options:
    """How the demo's student is made: what three minutes of one core are spent on, found by measurement (docs/log.md).

    It ends by steps, so that a slow machine makes the same student as a quick one. Many noises a concept, by few teacher
    steps each, keep the regression from learning its pairs by heart; most of the training goes to the one step that is
    shown; the adversarial phase sharpens, is short, and has the regression beside it, or it leaves the teacher's pictures.
    """
    return distillation.options(
        teacher=o.teacher,
        device=o.placement.device,
        precision=o.placement.precision,
        data=str(dataset()),
        concepts=o.concepts,
        captions="name",
        seconds=o.seconds,
        seed=o.seed,
        probabilities=(0.7, 0.1, 0.1, 0.1),
        steps=60,
        batch_size=8,
        student_learning_rate=5e-5,
        heads_learning_rate=5e-4,
        keep="last",
        warm=distillation.WarmStart(
            steps=200, pairs=24 * o.concepts, teacher_steps=4, batch_size=16, learning_rate=3e-4
        ),
        add=add.Options(regression_weight=5.0, r1=0.0),
    )


def distil(o: Options) -> tuple[Pipeline, float]:
    """Make a student of the teacher, live; returns it and the seconds it took."""
    began = time.monotonic()
    with TrainingDisplay("distilling emoji-64") as display:
        work = distillation.prepare(recipe(o), o.out / "run", display.report, keep=PROMPTS)
        taken = run_phases(work.phases, Saving(o.out / "run", resume=o.resume), display.watch)
    work.save(o.out / "student", taken[work.phases[-1].name])
    return Pipeline.open(o.out / "student", o.placement.device, o.placement.dtype), time.monotonic() - began


OWN_DRAWINGS = emoji_data.Options(vendors=("twemoji",), names="emoji")
"""One vendor's, from Python packages alone."""


def built() -> Path | None:
    """The emoji pictures that have been built: of all vendors, else the demo's own."""
    folders = [cache_dir() / "data" / name for name in ("emoji", "emoji-demo")]
    return next((folder for folder in folders if (folder / "dataset.json").is_file()), None)


def dataset() -> Path:
    """The emoji pictures of all vendors where they have been built; else one vendor's, from Python packages alone."""
    if folder := built():
        return folder
    folder = cache_dir() / "data" / "emoji-demo"
    with progress_bars() as bars:
        emoji_data.build(OWN_DRAWINGS, folder, bars)
    return folder


def report(o: Options, card: Card, before: Row, after: Row, goal: Row, seconds: float) -> None:
    """Before and after, in pictures and in figures, with what of them is better and what is not."""
    title = f"made in {seconds / 60:.1f} minutes: your one-step student"
    shown = [
        replace(before, name="teacher, before"),
        replace(after, name="your student"),
        replace(goal, name="teacher"),
    ]
    path = save(_sheet(shown, title), o.out / "before_after.png", card, o.seed)
    found = compared(before.media, after.media, goal.media)
    heads = ("one step", "teacher, before", "your student", "best", "")
    table, lines = Table(*heads, box=None), [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for figure in found:
        cells = (figure.title, *figure.printed, f"{figure.best:.0f}", figure.verdict)
        table.add_row(*cells, style="" if figure.better else "yellow")
        lines.append(f"| {' | '.join(cells)} |")
    said = (
        f"{conclusion(found)} ({len(goal.media)} pictures: {len(PROMPTS)} prompts from {len(goal.media) // len(PROMPTS)} "
        f"noises each, compared with the teacher's of {goal.steps} steps from the same noises)"
    )
    (o.out / "table.md").write_text("\n".join([*lines, "", said]) + "\n", "utf-8")
    with whole(o.out / "figures.json") as draft:
        draft.write_text(json.dumps({figure.name: [figure.before, figure.after] for figure in found}), "utf-8")
    console.print(table)
    say(said)
    own = o.out / "student"
    say(f"pictures: {path}, your student: {own}\n", path, own)
    console.rule("[bold]fewstep[/]: now draw with it")
    command, place = shlex.join([sys.argv[0], "serve", "--model", str(own)]), "http://127.0.0.1:7860"
    say(f"the studio redraws while you draw:  {command}  and open {place}", command, place)


@dataclass(frozen=True)
class Figure:
    """One figure of the pictures, before and after. It is judged as it is printed: a change too small to print is none."""

    name: str
    """Its key in ``figures.json``."""
    before: float
    after: float
    best: float
    """Its value for the teacher's own pictures: 0 for a distance, 1 for a ratio."""

    @property
    def title(self) -> str:
        """What it is called in the table."""
        return TITLES[self.name]

    @property
    def printed(self) -> tuple[str, str]:
        """Before and after, as the table shows them."""
        return f"{self.before:.3f}", f"{self.after:.3f}"

    @property
    def gain(self) -> float:
        """How much nearer to the best it came, of what is printed; below 0 it went away from it."""
        before, after = map(float, self.printed)
        return round(abs(before - self.best) - abs(after - self.best), 6)

    @property
    def better(self) -> bool:
        """Did it come nearer to the best?"""
        return self.gain > 0

    @property
    def verdict(self) -> str:
        """Said in the table's last column."""
        return "better" if self.better else "the same" if self.gain == 0 else "worse"  # so is what is not a number


TITLES = {
    "distance": "distance to the teacher's",
    "haze": "haze on the teacher's white",
    "edges": "edges / the teacher's",
    "highs": "high frequencies / the teacher's",
}
"""Every figure of the table by its key."""


def compared(before: Media, after: Media, goal: Media) -> list[Figure]:
    """The figures of pictures before and after, compared with the teacher's, as far as these pictures have them."""
    was, now = measured(before, goal), measured(after, goal)
    return figures_of({name: (was[name], now[name]) for name in was})


def figures_of(found: Mapping[str, Sequence[float]]) -> list[Figure]:
    """The figures of ``{name: [before, after]}``, which is what ``figures.json`` holds."""
    return [Figure(name, before, after, float(name in ("edges", "highs"))) for name, (before, after) in found.items()]


WHITE = 0.95
"""Where white begins, of values in [-1, 1]."""


def measured(media: Float[Tensor, "B C H W"], goal: Float[Tensor, "B C H W"]) -> dict[str, float]:
    """How near pictures come to the teacher's from the same noise, both in [-1, 1]:

    * ``distance``: root mean square of their difference;
    * ``haze``: mean distance from white of the pixels that are white in the teacher's, if it has any;
    * ``edges``, ``highs``: their sharpness (``evaluation.sharpness``) over that of the teacher's, if it has any.
    """
    white = (goal > WHITE).all(1, keepdim=True).expand_as(goal)
    found = {"distance": float((media - goal).pow(2).mean().sqrt())}
    if white.any():
        found["haze"] = float((1 - media[white]).mean())
    for name, of in (("edges", edges), ("highs", highs)):
        if wanted := float(of(goal).mean()):
            found[name] = float(of(media).mean()) / wanted
    return found


def conclusion(found: Sequence[Figure]) -> str:
    """In one sentence which figures are better; those that are not are named."""
    rest = [f"{figure.name} ({figure.verdict})" for figure in found if not figure.better]
    if not rest:
        return f"All {len(found)} figures are better than before"
    return f"{len(found) - len(rest)} of {len(found)} figures are better than before, not: {', '.join(rest)}"
