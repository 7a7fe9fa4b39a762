"""What ``fewstep judge`` does: say which judges there are, make one ready, or have it judge pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from ..arena import prompts as lists
from ..arena.pictures import READ, contender
from ..arena.plan import PLAN
from ..data.dataset import Dataset, Progress
from ..evaluation import suite
from ..evaluation.record import REAL, MetricRecord, check_output, merge
from ..ranges import Count, NewPath, Placement, Range, Seeds
from . import environment, figures, trial
from .judge import FAMILY, Judge, find
from .picture_sets import PictureSet, Real, card_of, of_arena, of_dataset, of_model, of_pictures, real_pictures

Open = Callable[[str, tuple[str, ...]], Dataset]
"""Opens a data set by its name, in some styles."""


@dataclass(frozen=True)
class Options:
    """Which judge, and what it judges."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """A judge's name, or the dotted path of a file of yours; without one, the judges there are."""
    pictures: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What is judged: folders of pictures, [NAME=]MODEL[,STEPS] to draw one, or the folder of an arena's run."""
    setup: bool = False
    """Make the judge's environment, and test it. Packages are fetched; weights never are."""
    against: str = ""
    """Real pictures that a distance is measured to: a folder of them, or a data set that `fewstep data` has built."""
    prompts: Path | None = None
    """Prompts, one a line or a TSV: of pictures in folders the n-th by name; of models what is drawn."""
    data: str = "emoji"
    """Without --prompts models draw the names of this data set's concepts, as `fewstep evaluate` has them draw."""
    most_prompts: Count = 64
    """How many of those names."""
    seeds: Seeds = tuple(range(8))
    """Every prompt is drawn with each of these."""
    weights: Path | None = None
    """Folder of the judge's weights, if they are not where it looks for them."""
    timeout: Annotated[float, Range(0, 10**6, above=True)] = 600.0
    """Seconds that a judge may be silent before it is stopped."""
    output: Annotated[NewPath, tyro.conf.arg(aliases=["-o"])] = Path("out/metrics.json")
    """JSON file of metric records; what others measured stays in it. Drawn pictures are kept in a folder beside it."""


@dataclass(frozen=True)
class Judged:
    """What came out."""

    records: list[MetricRecord]
    warnings: list[str]

    @property
    def alike(self) -> list[list[MetricRecord]]:
        """The records that may stand in one table, with the floor of as many pictures: rows may be of other prompts."""
        rows = [r for r in self.records if r.model != REAL]
        found = []
        for like in dict.fromkeys((r.n, r.seeds, r.prompts) for r in rows):
            own = [r for r in rows if (r.n, r.seeds, r.prompts) == like]
            floors = [r for r in self.records if r.model == REAL and r.n <= like[0]]
            found.append([*sorted(floors, key=lambda r: r.n)[-1:], *own])
        return found


def overview() -> str:
    """A table of the judges there are: what each measures, its licence, and what is ready."""
    lines = ["| judge | measures | licence | environment | weights |", "|---|---|---|---|---|"]
    for name in FAMILY.names:
        judge = find(name)
        ready = "this one" if judge.pins is None else "ready" if environment.python_of(judge) else "not yet: --setup"
        held = "none needed" if judge.weights is None else "not here" if environment.missing(judge) else "here"
        lines.append(f"| {name} | {judge.measures} | {judge.licence} | {ready} | {held} |")
    return "\n".join(lines)


def setup(o: Options, say: Callable[[str], None]) -> None:
    """Make a judge ready and test it. Raises ValueError where that fails."""
    judge = find(o.name)
    python = environment.make(judge, say)
    say(
        f"the environment of {judge.name}: {python.parent.parent if judge.pins is not None else 'the one that fewstep runs in'}"
    )
    for sentence in trial.self_test(judge, o.timeout, o.weights):
        say(sentence)


def check(o: Options) -> None:
    """Refuse what makes no sense, before anything is opened. Raises ValueError with the fix."""
    if not o.name:
        if o.setup or o.pictures:
            raise ValueError("which judge? `fewstep judge` lists them")
        return
    judge = find(o.name)
    if o.setup:
        if o.pictures:
            raise ValueError("--setup judges nothing: leave the pictures out")
        return
    if not o.pictures:
        raise ValueError(f"what is to be judged? give pictures or a model: fewstep judge {o.name} emoji-64,1")
    if judge.kind == "features" and not o.against:
        raise ValueError(f"{o.name} measures a distance to real pictures: give a folder or a data set with --against")
    if judge.kind == "score" and o.against:
        raise ValueError(f"{o.name} gives every picture a score by itself: leave out --against")
    if not o.seeds:
        raise ValueError("there is nothing to draw: give one of --seeds or more")
    if environment.python_of(judge) is None:
        raise ValueError(f"the judge {judge.name} has no environment yet: fewstep judge {judge.name} --setup")
    if said := environment.missing(judge, o.weights):
        raise ValueError(said)
    check_output(o.output)


def judge(o: Options, placement: Placement, open_dataset: Open, command: str, progress: Progress) -> Judged:
    """Have the pictures judged. Raises ValueError in one sentence for whatever goes wrong; drawn pictures are kept."""
    one = find(o.name)
    found = environment.weights(one, o.weights)
    subjects, real, warnings = gathered(o, placement, open_dataset, progress, one)
    if one.kind == "score" and any(not text for subject in subjects for text in subject.prompts):
        raise ValueError("a picture has no prompt: give --prompts, one for each picture")
    every = [path for subject in subjects for path in subject.pictures]
    texts = [text for subject in subjects for text in subject.prompts]
    against = real.pictures if real else ()
    answer = trial.run(one, every, texts, against, found, o.timeout, placement.device, progress)
    identity = figures.Identity(one, found.others, found.fingerprint or answer.fingerprint, answer.resizer, command)
    rows = torch.tensor(answer.scores, dtype=torch.float64) if answer.features is None else answer.features
    parts = rows.split([*(len(subject.pictures) for subject in subjects), len(rows) - len(every)])
    if real is None:
        scored = [figures.of_scores(identity, subject, part) for subject, part in zip(subjects, parts)]
        return Judged([record for part in scored for record in part], warnings)
    sizes = sorted({len(subject.pictures) for subject in subjects})
    floors = [figures.floor(identity, n, parts[-1], real) for n in sizes]
    records = merge([], [record for records in floors for record in records])
    warnings.append(figures.warning(one, sizes[0], len(against)))
    for number, (subject, part) in enumerate(zip(subjects, parts)):
        progress("intervals", number, len(subjects))
        records += figures.of_features(identity, subject, part, parts[-1], real)
    return Judged(records, list(filter(None, warnings)))


def gathered(
    o: Options, placement: Placement, open_dataset: Open, progress: Progress, judge: Judge
) -> tuple[list[PictureSet], Real | None, list[str]]:
    """The rows, drawn where they are models, the real pictures, and what is to be said of the models' discriminators."""
    given = [contender(word) for word in o.pictures]
    arenas = [one for one in given if (Path(one.place) / PLAN).is_file()]
    folders = [one for one in given if one not in arenas and one.is_folder_of_pictures]
    models = [one for one in given if one not in arenas and one not in folders]
    if single := next((one.place for one in models if Path(one.place).suffix.lower() in READ), ""):
        raise ValueError(f"{single} is a file: give the folder of the pictures")
    texts = [prompt.text for prompt in lists.read(o.prompts)] if o.prompts else []
    cards = {one.name: card_of(one) for one in models}
    card = next(iter(cards.values()), None)
    kin = [name for name, own in cards.items() if kindred(judge, own.discriminators)]
    styles = card.styles if card else ()
    keep = o.output.parent / f"{o.output.stem}-pictures"
    rows = {one.name: rows_of for one in arenas for rows_of in [of_arena(Path(one.place))]}
    rows |= {one.name: [row] for one, row in zip(folders, of_pictures(folders, texts) if folders else ())}
    if models and not texts:
        train = open_dataset(o.data, styles).subset("train")
        options = replace(suite.Options(), prompts=o.most_prompts)
        texts = [train.items[i].prompts[0] for i in suite.asked(train, options)]
    real = None
    if judge.kind == "features":
        folder = Path(o.against)
        is_data = not folder.is_dir() or (folder / "dataset.json").is_file()
        size = card.native_size if card else None
        real = of_dataset(open_dataset(o.against, styles), size, keep, progress) if is_data else real_pictures(folder)
    for one in models:
        rows[one.name] = [of_model(one, placement, texts, o.seeds, keep, progress)]
    ordered = [row for one in given for row in rows[one.name]]
    names = [(row.model, row.steps) for row in ordered]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two rows are both called {double[0]!r}: give one of them another name, as NAME=FOLDER")
    if any(row.model == REAL for row in ordered):
        raise ValueError(
            f"a row cannot be called {REAL!r}, which is that of real pictures: give it a name, NAME=FOLDER"
        )
    said = f"{', '.join(kin)}: trained against {judge.sees_like}, which {judge.name} sees like; let another judge look, too"
    return ordered, real, [said] if kin else []


def kindred(judge: Judge, discriminators: Sequence[str]) -> bool:
    """Whether the judge sees like a network that a student was trained to please. Raises ValueError where it is that one."""
    for discriminator in discriminators:
        suite.check_impartial(judge.name, discriminator)
    return bool(judge.sees_like) and judge.sees_like in discriminators
