"""What a model draws at many step counts, under its own settings and the usual wrong ones: the measurements of ``fewstep check``.

Every row starts from the same noises and prompts. The best, which the shares are shares of, is what the model draws in the
largest of its own step counts; `genuine.py` judges.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..bundle import Card
from ..data.dataset import Progress
from ..diffusion.sampler import at
from ..inference.pipeline import Pipeline
from ..pretrained.families import Usual
from ..sizes import spoken
from ..tensors import Media
from ..version import __version__
from . import genuine, pyramid
from ._drawing import OWN, Drawing, Options, Setting, drawn_shape, prompts_of, settings_of
from .check_data import RealData
from .jackknife import Interval
from .operations import operations
from .ruler import FAR, Nearness, RealPictures, Ruler, share


@dataclass(frozen=True)
class Row:
    """What one step count draws under one setting."""

    setting: str
    steps: int
    off_card: bool
    """Whether it is a student that is drawn in steps which its card does not list."""
    likeness: Interval
    """1 - D(these, best) / D(mean picture, best), D the energy distance of ``pyramid.py``: 1 is as good as the best."""
    sharpness: Mapping[str, Interval]
    """Over that of the best: 1 is as sharp."""
    distance: float
    """Mean distance from the best picture of the same noise; two pictures of two prompts are about 1 apart."""
    change: float | None
    """The same from the row before of this setting; None for the first."""
    from_own: float | None = None
    """The same from what the first setting draws in as many steps; None for that one."""
    reference: Interval | None = None
    """The likeness to a teacher's pictures; None where there is none."""

    data: Nearness | None = None
    """The same beside real pictures; None where there are none."""

    @property
    def share(self) -> float:
        """`share` of the best."""
        return share(self.likeness, self.sharpness)


@dataclass(frozen=True)
class Cost:
    """What one evaluation of the network costs, for one picture."""

    parameters: int
    flops: int
    ms: float
    """Median time on this machine: shown, and never part of a verdict."""


@dataclass(frozen=True)
class Report:
    """Everything that was found out about a model."""

    model: str
    card: Card
    rows: tuple[Row, ...]
    cost: Cost
    usual: Usual
    """What its size is held against: the named teacher, or what is usual in its family; empty without either."""
    evidence: genuine.Evidence
    verdict: genuine.Verdict
    prompts: tuple[str, ...]
    noises: int
    """Pictures of each prompt."""
    teacher_cost: Cost | None
    spread: float
    """Mean distance between two of its best pictures of one prompt, in the unit of `Row.distance`."""
    real: RealData | None
    """The real pictures; None where there are none."""
    teacher_role: str
    """What the card of the model says that it is held against; "" where there is none."""
    teacher_data: Nearness | None
    """The teacher's best beside them; None without both."""
    pictures: Mapping[tuple[str, int], Media] = field(repr=False, compare=False)
    """By setting and steps: of the first noise of every prompt."""

    def table(self) -> dict[str, Any]:
        """All of it but the pictures, as JSON has it."""
        e, v = self.evidence, self.verdict
        facts = {
            "model": self.model, "verdict": v.kind, "headline": v.headline, "paragraph": v.paragraph,
            "role": self.card.role, "fewest_steps": e.few, "best_steps": e.best, "reached": e.reached,
            "needed_steps": e.needed, "asked": e.own_name, "held_against": e.usual_name, "usual_parameters": e.usual,
            "usual_flops": self.usual.flops, "usual_size": list(self.usual.size),
            "cost": asdict(self.cost), "teacher_cost": asdict(self.teacher_cost) if self.teacher_cost else None,
            "spread": self.spread, "others": {name: dict(of) for name, of in e.others.items()},
            "data": self.real.facts if self.real else None,
            "teacher_beside_data": _facts(self.teacher_data),
            "rows": [asdict(row) | {"share": row.share, "data": _facts(row.data)} for row in self.rows],
            "prompts": list(self.prompts), "noises": self.noises, "fewstep": __version__,
        }  # fmt: skip
        return dict(_bounded(facts))

    def cells(self) -> list[list[str]]:
        """The table of the rows, its heads first."""
        theirs = any(row.reference for row in self.rows)
        heads = ["settings", "steps", "of its best", "likeness", *FAR.values(), "distance", "change"]
        lines = [[*heads, *[f"likeness to {self.evidence.usual_name}"] * theirs]]
        for row in self.rows:
            cells = [
                row.setting,
                f"{row.steps}{'*' * row.off_card}",
                f"{max(0.0, row.share):.0%}",
                _shown(row.likeness),
            ]
            cells += [_shown(row.sharpness[name]) for name in FAR]
            cells += [f"{row.distance:.2f}", "-" if row.change is None else f"{row.change:.2f}"]
            lines.append(cells + ([_shown(row.reference)] if row.reference else []))
        return lines

    def data_cells(self) -> list[list[str]]:
        """The table of the rows beside real pictures, its heads first; empty where there are none."""
        if self.real is None:
            return []
        lines = [["settings", "steps", f"of {self.real.name}", "likeness", *FAR.values()]]
        found = [(row.setting, f"{row.steps}{'*' * row.off_card}", row.data) for row in self.rows]
        teacher = (f"the teacher, {self.evidence.usual_name}", "best", self.teacher_data)
        for setting, steps, data in [*found, teacher]:
            if data is not None:
                figures = [_shown(data.likeness), *(_shown(data.sharpness[name]) for name in FAR)]
                lines.append([setting, steps, f"{max(0.0, data.share):.0%}", *figures])
        return lines

    @property
    def explained(self) -> str:
        """What the figures mean, in sentences."""
        best, own = genuine.counted(self.evidence.best), len(self.prompts) * self.noises
        said = (
            f"{own} pictures a row, of {len(self.prompts)} prompts, from the same noises; in brackets 95% jackknife intervals "
            f"over the prompts. Everything is held against its own {best} by its card's settings. A distance of 1 lies between "
            f"any two of those, {self.spread:.2f} between two of one prompt."
        )
        if self.teacher_role == "student":
            said += f" {self.evidence.usual_name} is a student by its card: the most steps that it lists stand for it."
        if self.real is not None:
            said += f" {self.real.explained}"
        if any(row.off_card for row in self.rows):
            said += (
                " A star: its card does not list this count, and it has no times for it; it was drawn as any diffusion model "
                "is, at trailing times."
            )
        return said

    def markdown(self) -> str:
        """The table, and the sentences that belong to it."""
        tables = [_table(cells) for cells in (self.cells(), self.data_cells()) if cells]
        lines = ["\n\n".join(tables), "", self.explained, _price(self.model, self.cost)]
        if self.teacher_cost:
            lines.append(_price(self.usual.name, self.teacher_cost))
        elif self.usual.name:
            at = f"a picture and network evaluation at {spoken(self.usual.size)}"
            lines.append(f"{self.usual.name}, its family's usual: {_work(self.usual)} {at}.")
        return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> str:
    rule = _cells(["---", *["--:"] * (len(rows[0]) - 1)]).replace(" ", "")
    return "\n".join([_cells(rows[0]), rule, *map(_cells, rows[1:])])


def _facts(near: Nearness | None) -> dict[str, Any] | None:
    return asdict(near) | {"share": near.share} if near is not None else None


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(at: Interval) -> str:
    """With its interval, where there is one."""
    return f"{at.value:.2f} [{at.low:.2f}, {at.high:.2f}]" if isfinite(at.low) else f"{at.value:.2f}"


def _bounded(facts: Any) -> Any:
    """The same with None in the place of a bound that there is none of: JSON has no infinity."""
    if isinstance(facts, Mapping):
        return {key: _bounded(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_bounded(value) for value in facts]
    return None if isinstance(facts, float) and not isfinite(facts) else facts


def _price(name: str, cost: Cost) -> str:
    return f"{name}: {_work(cost)} and {cost.ms:,.1f} ms a picture and network evaluation."


def _work(of: Cost | Usual) -> str:
    return f"{of.parameters / 1e6:,.1f} million parameters, {of.flops / 1e9:,.2f} GFLOP"


def cost(pipeline: Pipeline, calls: int) -> Cost:
    """Parameters, `operations` and time of one evaluation for one picture."""
    model, cond = pipeline.model, pipeline.encode([prompts_of(pipeline, (), 1)[0]])
    x = torch.zeros((1, *pipeline.latent_shape()), device=pipeline.device)
    t = at(1.0, x)
    flops, times = operations(lambda: pipeline.denoise(x, t, cond)), []
    with torch.inference_mode():
        for _ in range(calls + 1):
            began = time.perf_counter()
            pipeline.denoise(x, t, cond).cpu()  # and only then is a GPU done
            times.append((time.perf_counter() - began) * 1000)
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    return Cost(parameters, flops, median(times[1:]))


def plan(card: Card, o: Options) -> tuple[int, int, tuple[int, ...]]:
    """The fewest steps it is made for, the count that stands for its best, and all that it is drawn in.

    A student's best is the largest of its card's counts; where its card has one alone, the largest that is asked for, and a
    teacher's too. Raises ValueError where that leaves nothing to compare.
    """
    promised = card.steps if card.role == "student" else ()
    counts = tuple(sorted({*o.steps, *promised}))
    few = min(promised, default=counts[0])
    best = max(promised) if promised and max(promised) > few else counts[-1]
    if best == few:
        shows = f"{genuine.counted(few)} alone show{'s' * (few == 1)}"
        raise ValueError(f"{shows} no difference: give two of --steps or more, such as 1 50")
    return few, best, counts


def check(
    pipeline: Pipeline,
    o: Options,
    prompts: Sequence[str] = (),
    teacher: Pipeline | None = None,
    progress: Progress | None = None,
    real: RealData | None = None,
) -> Report:
    """Draw, measure, judge; where there are ``real`` pictures, their captions are drawn.

    Raises ValueError for settings that the model cannot be drawn with, and for pictures that are all alike.
    """
    card = pipeline.card
    few, best, counts = plan(card, o)
    settings = settings_of(card, o)
    asked, usual = settings[0], next(s for s in settings if s.plain)
    texts = real.prompts if real is not None else prompts_of(pipeline, prompts, o.n)
    draw = Drawing(pipeline, texts, o.noises)
    theirs = _teacher_of(pipeline, teacher, texts, o.noises) if teacher is not None else None
    photos = RealPictures(real.media) if real is not None else None
    jobs = [(s, n) for s in settings for n in counts if s is asked or n in {*o.wrong_steps, few, best}]
    drawn: dict[tuple[str, int], Media] = {}
    for done, (setting, n) in enumerate(jobs):
        drawn[setting.name, n] = draw(setting, n)
        if progress:
            progress("drawing", done + 1, len(jobs))
    top = drawn[usual.name, best]
    taught = theirs(Setting(OWN), max(theirs.pipeline.card.steps)) if theirs is not None else None
    rulers = Rulers(Ruler(top, o.noises), Ruler(taught, o.noises) if taught is not None else None, photos)
    rows = [_row(card, s, n, drawn, asked, rulers) for s, n in jobs]
    mine, other = cost(pipeline, o.calls), cost(teacher, o.calls) if teacher is not None else None
    beside = held_against(pipeline, teacher, other)
    of_best = rulers.beside_data(top)
    evidence = genuine.Evidence(
        student=card.role == "student",
        few=few,
        best=best,
        own={r.steps: r.share for r in rows if r.setting == asked.name},
        own_name="" if asked.plain else asked.name,
        others={
            s.name: {few: Ruler(drawn[s.name, best], o.noises).share(drawn[s.name, few])}
            for s in settings[1:]
            if not s.leading  # no model was made for those
        },
        reference={r.steps: r.reference.value for r in rows if r.reference and r.setting == asked.name},
        data=_figures(of_best) if of_best else {},
        data_share=of_best.share if of_best else 1.0,
        data_name=real.name if real is not None else "",
        parameters=mine.parameters,
        usual=beside.parameters,
        usual_name=beside.name,
    )
    return Report(
        model=card.name,
        card=card,
        rows=tuple(rows),
        cost=mine,
        usual=beside,
        evidence=evidence,
        verdict=genuine.judge(evidence),
        prompts=draw.prompts,
        noises=o.noises,
        teacher_cost=other,
        spread=float(pyramid.spread(rulers.own.best).mean()),
        real=real,
        teacher_role=teacher.card.role if teacher is not None else "",
        teacher_data=rulers.beside_data(taught) if taught is not None else None,
        pictures={key: media[:: o.noises] for key, media in drawn.items()},
    )


def _teacher_of(pipeline: Pipeline, teacher: Pipeline, texts: Sequence[str], noises: int) -> Drawing:
    """Draws the teacher. Raises ValueError where it draws pictures of another size, or does not know a prompt."""
    own, its = drawn_shape(pipeline), drawn_shape(teacher)
    if own != its:
        raise ValueError(
            f"{pipeline.card.name} draws {spoken(own[1:])} and --teacher {teacher.card.name} {spoken(its[1:])}, with {own[0]} "
            f"and {its[0]} channels: pictures of two sizes are not held against each other; name its own teacher"
        )
    return Drawing(teacher, texts, noises)


@dataclass(frozen=True)
class Rulers:
    """What every row is held against."""

    own: Ruler
    """The model's best."""
    teacher: Ruler | None
    real: RealPictures | None

    def beside_data(self, media: Media) -> Nearness | None:
        """How near they are to real pictures; None where there are none."""
        return self.real.near(media.split(self.own.noises)) if self.real is not None else None


def _figures(near: Nearness) -> dict[str, float]:
    """By their names in words."""
    return {"likeness": near.likeness.value, **{called: near.sharpness[name].value for name, called in FAR.items()}}


def held_against(pipeline: Pipeline, teacher: Pipeline | None, other: Cost | None) -> Usual:
    """Whose size it is held against: a named teacher's, or that of its family's best known model; empty for none."""
    if teacher is not None and other is not None:
        return Usual(teacher.card.name, other.parameters, other.flops, teacher.card.native_size)
    return pipeline.model.family.usual


def _row(
    card: Card, setting: Setting, n: int, drawn: Mapping[tuple[str, int], Media], asked: Setting, rulers: Rulers
) -> Row:  # fmt: skip
    media, ruler, teacher = drawn[setting.name, n], rulers.own, rulers.teacher
    seen = ruler.seen(media)
    before = max((m for name, m in drawn if name == setting.name and m < n), default=0)
    own = drawn.get((asked.name, n)) if setting is not asked else None
    return Row(
        setting.name,
        n,
        card.role == "student" and n not in card.steps,
        ruler.likeness(seen),
        ruler.sharpness(media),
        _mean(pyramid.paired(seen, ruler.best)),
        _mean(pyramid.paired(seen, ruler.seen(drawn[setting.name, before]))) if before else None,
        _mean(pyramid.paired(seen, ruler.seen(own))) if own is not None else None,
        teacher.likeness(teacher.seen(media)) if teacher is not None else None,
        rulers.beside_data(media),
    )


def _mean(values: Float[Tensor, " P"]) -> float:
    return float(values.mean())
