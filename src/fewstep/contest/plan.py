"""What a contest trains: every entry, from every start, within every budget, with every seed; and the command of each."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..evaluation import suite
from ..methods.method import FAMILY as METHODS
from ..ranges import Count, Counts, Limit, NewPath, Range, Seed, Weight, checked
from ..recipes import distillation

FLAT = tyro.conf.arg(name="")
Start = Literal["warm", "teacher"]
REGRESSION = "regression"
"""The control: as long a training that has no method but the warm start's."""


@dataclass(frozen=True)
class Options:
    """Which methods, on what, for how long, and how they are judged."""

    teacher: str = "emoji-64-teacher"
    """Name of a shipped bundle, or a diffusers folder."""
    data: str = "emoji"
    """Dataset folder, or the name of one that ``fewstep data`` has built."""
    out: NewPath = Path("runs/contest")
    """Folder of the contest. What is there already is gone on with."""
    methods: tuple[str, ...] = ()
    """Methods by name or dotted path, each with its own defaults; empty, and no --entries: every method there is."""
    entries: tuple[str, ...] = ()
    """Further entries, ``NAME=OPTIONS`` as ``fewstep distill`` takes them: "strong_r1=--method add --add.r1 1"."""
    against: str = "add"
    """The entry that all others are compared with, training by training."""
    trainings: Count = 2
    """Trainings of every entry; each has its own seed, the same for all entries."""
    first_seed: Seed = 0
    """Seed of the first training; the others count up."""
    starts: tuple[Start, ...] = ("warm",)
    """Where students begin: ``warm``, after a warm start that all entries of one seed share; ``teacher``, with the teacher's
    weights."""
    updates: Limit = 300
    """The first budget: so many updates of the student, whatever they cost; 0 leaves it out."""
    seconds: Weight = 0.0
    """The second budget: so many seconds of training, however many updates that makes; 0 leaves it out."""
    clock: Literal["wall", "processor"] = "processor"
    """What those seconds are: the processor's, which other work on the machine does not shorten, or those on the wall, which
    count a GPU's too."""
    warm: str = "--warm.steps 300 --warm.pairs 1024"
    """The common warm start, as options of ``fewstep distill``: --warm="--warm.steps 500"."""
    recipe: str = "--batch-size 16"
    """Options that every entry shares, in front of its own: --recipe="--batch-size 32 --captions name"."""
    steps: Counts = (1, 2, 4)
    """Steps that students are judged at."""
    teacher_steps: Counts = (50, 25, 8, 4, 2, 1)
    """Steps that the teacher is judged at."""
    grid: Annotated[int, Range(1, 100)] = 8
    """Prompts of the pictures that are shown side by side, spread evenly over those that are judged."""
    jobs: Annotated[int, Range(1, 64)] = 1
    """Trainings at once, a process and one thread each."""
    redo: bool = False
    """Train those once more that failed before."""
    judging: Annotated[suite.Options, FLAT] = field(default_factory=suite.Options)
    """How students are judged."""

    def needs(self) -> tuple[str, ...]:
        """The modules that judging takes."""
        return self.judging.needs()


@dataclass(frozen=True)
class Entry:
    """A name and what ``fewstep distill`` is told for it."""

    name: str
    words: tuple[str, ...]

    @property
    def method(self) -> str:
        """The method that is meant."""
        return next(
            (b for a, b in zip(reversed(self.words[:-1]), reversed(self.words)) if a == "--method"), distillation.USUAL
        )


@dataclass(frozen=True)
class Budget:
    """How long every entry may train."""

    updates: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """As folders are called."""
        return f"{self.updates}-updates" if self.updates else f"{self.seconds:g}-seconds"

    @property
    def words(self) -> tuple[str, ...]:
        """As ``fewstep distill`` takes it."""
        if self.updates:
            return ("--steps", str(self.updates))
        return ("--steps", str(MOST), "--seconds", "0", f"{self.seconds:g}")


WARM = "warm start"
"""What the common warm start is called among entries; no entry's name has a space."""
MOST = 10**6
"""Updates of a training that ends by the clock."""


@dataclass(frozen=True)
class Run:
    """One training."""

    entry: Entry
    start: Start
    budget: Budget
    seed: int
    folder: Path

    @property
    def bundle(self) -> Path:
        """Where its student will lie."""
        return self.folder / "bundle"

    @property
    def model(self) -> str:
        """What tables call it, whatever its seed."""
        return f"{self.entry.name} ({self.start}, {self.budget.name})"


@dataclass(frozen=True)
class Plan:
    """All that a contest does."""

    options: Options
    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    """Methods that nobody asked for by name and that cannot train so, with the reason."""

    @classmethod
    def of(cls, o: Options) -> Plan:
        """Raises ValueError with the fix for what cannot be trained or compared, before any work."""
        if not (o.updates or o.seconds):
            raise ValueError("a contest needs a budget: give --updates, --seconds or both")
        for name in o.methods:
            METHODS.load(name)
        if not o.starts or len(set(o.starts)) < len(o.starts):
            raise ValueError("--starts is warm, teacher, or both, each once")
        if not o.steps:
            raise ValueError("there is nothing to judge: give one of --steps or more")
        named = [Entry(distillation.short(name), ("--method", name)) for name in o.methods]
        given = [_entry(text) for text in o.entries]
        left_out: list[tuple[str, str]] = []
        if not named and not given:
            every = [Entry(name, ("--method", name)) for name in METHODS.names]
            for entry in every:
                try:
                    cls(o, (entry,)).check()
                except ValueError as error:
                    left_out.append((entry.name, str(error).removeprefix(f"entry {entry.name}: ")))
            out = {name for name, _ in left_out}
            named = [entry for entry in every if entry.name not in out]
            if not named:
                raise ValueError(left_out[0][1])
        entries = (*named, *given)
        names = [entry.name for entry in entries]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two entries are called {twice}: give one of them another name")
        if o.against not in names:
            raise ValueError(f"--against {o.against} is no entry of this contest: use {', '.join(names)}")
        return cls(o, entries, tuple(left_out))

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """One or two."""
        o = self.options
        return (*([Budget(o.updates)] if o.updates else []), *([Budget(seconds=o.seconds)] if o.seconds else []))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Of the trainings."""
        return tuple(range(self.options.first_seed, self.options.first_seed + self.options.trainings))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every training; all entries of one seed come before the next seed, so that a contest that was stopped compares."""
        return tuple(
            Run(entry, start, budget, seed, self.options.out / f"{start}-{budget.name}" / f"{entry.name}-{seed}")
            for seed in self.seeds
            for budget in self.budgets
            for start in self.options.starts
            for entry in self.entries
        )

    def begun(self, run: Run) -> Run | None:
        """The common warm start that a training goes on from, as if it were an entry of its start and budget."""
        if run.start != "warm":
            return None
        return Run(Entry(WARM, ()), run.start, run.budget, run.seed, self.warm_folder(run.seed))

    def warm_folder(self, seed: int) -> Path:
        """Where the warm start of a seed lies."""
        return self.options.out / "warm-start" / str(seed)

    def warm_words(self, seed: int) -> tuple[str, ...]:
        """``fewstep distill`` of the common warm start."""
        o = self.options
        return (*self._common(seed), *shlex.split(o.warm), "--steps", "0", "--out", str(self.warm_folder(seed)))

    def words(self, run: Run) -> tuple[str, ...]:
        """``fewstep distill`` of one training."""
        pairs = [word for word in _options(self.options.warm) if word[0] != "--warm.steps"]
        told = [text for option in pairs for text in option]  # of the pairs, which a method may ask for
        init = ("--init", str(self.warm_folder(run.seed) / "bundle")) if run.start == "warm" else ()
        return (
            *self._common(run.seed), *told, *run.entry.words, *init, "--warm.steps", "0", *run.budget.words,
            *(("--clock", self.options.clock) if run.budget.seconds else ()), "--out", str(run.folder),
        )  # fmt: skip

    def _common(self, seed: int) -> tuple[str, ...]:
        o = self.options
        return (
            "--teacher", o.teacher, "--data", o.data, "--keep", "last", *shlex.split(o.recipe), "--seed", str(seed)
        )  # fmt: skip

    def check(self) -> None:
        """Try the words of every entry, and what its method refuses. Raises ValueError with the fix."""
        first: dict[str, Run] = {}
        for run in self.runs:
            first.setdefault(f"{run.entry.name} {run.start} {run.budget.name}", run)
        if "warm" in self.options.starts and not parsed(self.warm_words(0), "the common warm start").warm.steps:
            raise ValueError("the common warm start: nothing to train: give more --warm.steps, or --starts teacher")
        for run in first.values():
            o = parsed(self.words(run), f"entry {run.entry.name}")
            for judge in self.options.judging.judge:
                suite.check_impartial(judge, features(o))


def features(o: Any) -> str | None:
    """The feature network that a method looks through, where it looks through one; the teacher itself is none."""
    found = getattr(o.own, "features", None)
    return found if found != "teacher" else None


def parsed(words: Sequence[str], whose: str) -> distillation.Options:
    """The options of ``fewstep distill``. Raises ValueError, which says whose they are, for what it would not take."""
    entry = Entry(whose, tuple(words))
    options = [word for group in _options(shlex.join(words)) for word in group if group[0] not in ("--out", "--clock")]

    def taken(options: Any) -> Any:
        return options

    try:
        taken.__annotations__["options"] = Annotated[distillation.options_type(entry.method), FLAT]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                found: distillation.Options = tyro.cli(checked(taken), args=options, prog=whose)
            except SystemExit:
                text = re.sub(r"[^\w .,:;'\"()=+-]|[-─]{2,}(?=\s)", " ", said.getvalue())
                raise ValueError(" ".join(text.split())) from None
        distillation.check(found)
    except ValueError as error:
        raise ValueError(f"{whose}: {error}") from None
    return found


def _entry(text: str) -> Entry:
    name, equals, told = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", name) or name.startswith("-"):
        raise ValueError(f'{text!r} is no entry: write NAME=OPTIONS, as "strong_r1=--method add --add.r1 1"')
    try:
        words = tuple(shlex.split(told))
    except ValueError as error:
        raise ValueError(f"entry {name}: {error}") from None
    taken = {"--teacher", "--data", "--seed", "--out", "--init", "--steps", "--seconds", "--warm.steps", "--keep"}
    if word := next((word for word in words if word.partition("=")[0] in taken), None):
        raise ValueError(f"entry {name}: {word} is the contest's own, the same for all: leave it out")
    return Entry(name, words)


def _options(text: str) -> list[list[str]]:
    """Words in groups, an option and its values each."""
    groups: list[list[str]] = []
    for word in shlex.split(text):
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups
