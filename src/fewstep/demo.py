"""``fewstep demo``: see what the shipped models do, then watch a student being made, in about three minutes."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from rich.table import Table

from . import bundle
from .bundle import Card
from .console import TrainingDisplay, console, progress_bars, say
from .data import emoji as emoji_data
from .data.dataset import cache_dir
from .evaluation import suite
from .evaluation.sharpness import ratios, sharpness
from .inference.pipeline import Pipeline, Request
from .modality.image import to_pil
from .parts.imagenet import NETWORKS
from .ranges import Count, NewPath, Placement, Range, Seed
from .recipes import distillation
from .sheet import save, sheet
from .tensors import Media
from .training.data import open_dataset
from .training.recipe import run_phases
from .training.run import Saving

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


@dataclass(frozen=True)
class Options:
    """What the demo shows."""

    out: NewPath = Path("out/demo")
    """Folder for its pictures and its table."""
    student: str = "emoji-64"
    """Shipped student, or a bundle's folder."""
    teacher: str = "emoji-64-teacher"
    """Shipped teacher, or a bundle's folder."""
    seconds: Annotated[tuple[float, float], Range(0)] = (110.0, 90.0)
    """Most time for the warm start and for the adversarial game; a quick machine is done with them in 80 and 60."""
    concepts: Count = 192
    """How many concepts the demo's own student is made for; the prompts shown are among them."""
    seed: Seed = 7
    """Seed of the pictures."""
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
    console.rule("[bold]fewstep[/]: what is shipped")
    placed = (o.placement.device, o.placement.dtype)
    student, teacher = (Pipeline.open(bundle.locate(name), *placed) for name in (o.student, o.teacher))
    rows = [drawn(student, "student", steps, o.seed) for steps in (1, 2, 4) if steps in student.card.steps] + [
        drawn(teacher, "teacher", max(teacher.card.steps), o.seed),
        drawn(teacher, "teacher", 1, o.seed),
    ]
    shown = _sheet(rows, "emoji-64: the shipped student beside its teacher")
    path = save(shown, o.out / "shipped.png", student.card, o.seed)
    console.print(_times(rows))
    say(f"pictures: {path}\n", path)

    console.rule("[bold]fewstep[/]: making a student, about three minutes")
    made, seconds = distil(o)
    before, after = rows[-1], drawn(made, "your student", 1, o.seed)
    report(o, made.card, before, after, rows[-2], seconds)


@dataclass(frozen=True)
class Row:
    """Pictures of every prompt by one model."""

    name: str
    steps: int
    media: Media
    milliseconds: float

    def pictures(self) -> list[Image.Image]:
        """As Pillow images."""
        return [to_pil(m) for m in self.media]

    @property
    def note(self) -> str:
        """Steps, and time a picture."""
        return f"{self.steps} step{'s' * (self.steps > 1)}, {self.milliseconds:,.0f} ms"


def drawn(pipeline: Pipeline, name: str, steps: int, seed: int) -> Row:
    """Draw every demo prompt; the time is the median of single calls after a warm-up."""
    pipeline.encode(PROMPTS)
    media = pipeline(Request(PROMPTS, [seed] * len(PROMPTS), steps)).float().cpu()
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


def distil(o: Options) -> tuple[Pipeline, float]:
    """Make a student of the teacher, live; returns it and the seconds it took."""
    options = distillation.Options(
        teacher=o.teacher,
        device=o.placement.device,
        precision=o.placement.precision,
        data=str(dataset()),
        concepts=o.concepts,
        captions="name",
        seconds=o.seconds,
        look_every=25,
        steps=180,
        batch_size=8,
        student_learning_rate=5e-5,
        heads_learning_rate=5e-4,
        warm=distillation.WarmStart(steps=160, pairs=o.concepts + 64, teacher_steps=8, batch_size=16),
    )
    began = time.monotonic()
    measure = suite.while_training()
    with TrainingDisplay("distilling emoji-64") as display:
        work = distillation.prepare(options, o.out / "run", display.report, keep=PROMPTS, measure=measure)
        kept = run_phases(work.phases, Saving(o.out / "run", resume=o.resume), display.watch)
    step = kept[work.phases[-1].name]
    say(f"the best was seen after step {step} of the game: its weights are kept")
    work.save(o.out / "student", step)
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
    """Before and after, in pictures and in figures."""
    title = f"made in {seconds / 60:.1f} minutes: your one-step student"
    shown = [
        replace(before, name="teacher, before"),
        replace(after, name="your student"),
        replace(goal, name="teacher"),
    ]
    path = save(_sheet(shown, title), o.out / "before_after.png", card, o.seed)
    real = reference()
    table = Table("one step", "edges", "high frequencies", "distance to the teacher's picture", box=None)
    lines = ["| one step | edges | high frequencies | distance to the teacher's picture |", "|---|---|---|---|"]
    for row in (before, after):
        r = ratios(sharpness(row.media), real)
        distance = float((row.media - goal.media).pow(2).mean().sqrt())
        name = "teacher, before" if row is before else "your student"
        cells = (f"{float(r['edges'].mean()):.2f}", f"{float(r['highs'].mean()):.2f}", f"{distance:.3f}")
        table.add_row(name, *cells)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (o.out / "table.md").write_text("\n".join(lines) + "\n")
    console.print(table)
    say("(edges and high frequencies: 1 is as sharp as the real drawings)")
    own = o.out / "student"
    say(f"pictures: {path}, your student: {own}\n", path, own)
    console.rule("[bold]fewstep[/]: now draw with it")
    command, place = shlex.join([sys.argv[0], "serve", "--model", str(own)]), "http://127.0.0.1:7860"
    say(f"the studio redraws while you draw:  {command}  and open {place}", command, place)


def reference() -> dict[str, torch.Tensor]:
    """Sharpness of the real drawings."""
    train = open_dataset(str(dataset())).subset("train")
    return sharpness(train.media(slice(0, len(train), 4)))
