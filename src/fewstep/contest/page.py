"""``contest.html``: the contest on one page that opens offline, with plots and pictures from the same noises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from ..evaluation.record import METRICS, REAL, MetricRecord, judges
from ..report import page, plot
from ..report.page import Html, paragraph
from ..report.plot import Point, Reference, Series
from .measuring import TEACHER, picture
from .report import (
    NEAREST,
    Found,
    cost_rows,
    glance_heads,
    glance_rows,
    heads,
    introduction,
    nearest_heads,
    nearest_rows,
    pair_rows,
    table_rows,
    titled,
)
from .results import Trained, means, variety_share


def page_of(found: Found) -> str:
    """The whole document."""
    plan = found.plan
    intro = introduction(found)
    sections: list[tuple[str, str]] = []
    if first := nearest_rows(found):
        table = page.table(nearest_heads(found), first, "who is nearest")
        sections.append(("Who is nearest", table + paragraph(NEAREST, note=True)))
    for start, budget in found.groups:
        own = found.of(start, budget)
        sections += [(titled(start, budget), _group(found, own, f"({start}, {budget})"))]
    ended = [f"{run.model}, seed {run.seed}: {outcome.failed}" for run, outcome in found.failed]
    ended += [f"{name} was left out: {why}" for name, why in plan.left_out]
    if ended:
        lines = "".join(f"<li>{page.escape(line)}</li>" for line in ended)
        sections.append(("What did not train", f"<ul>{lines}</ul>"))
    how = "Every training has the same seeds, batches and noises as its neighbours, and a process of its own."
    sections.append(("How to read this", paragraph(_NOTE, note=True) + page.code(found.command)))
    return page.page("Which few-step method is best here?", f"{intro[0]} {how}", sections)


_NOTE = (
    "Bars reach from the least to the greatest training; of models that were trained once they are 95% intervals over "
    "prompts. Entries are compared in pairs, for what a prompt or a seed adds to both of them it adds to neither's lead. A "
    "judge that is a network may forgive what a network was trained to please; pixels shares nothing with it. Milliseconds "
    "are the median over all entries of the same number of evaluations, since their networks are the same."
)


def _group(found: Found, own: Sequence[Trained], where: str) -> str:
    rows = [*found.teacher, *means(own)]
    parts: list[str] = [page.table(glance_heads(found), glance_rows(found, own), f"all entries {where}")]
    for judge in judges([r for one in own for r in one.records]):
        name = judge.split("@")[0]
        parts.append(f"<h3>Judged by {page.escape(name)}</h3>")
        parts.append(_plots(found, rows, own, judge))
        for steps in found.plan.options.steps:
            table = page.table(heads(judge), table_rows(found, own, judge, steps), f"{steps} steps, judged by {name}")
            parts.append(page.details(f"{steps} step{'s' * (steps > 1)}: all figures", table))
    pairs = [p for p in found.pairings if p.entry.endswith(where)]
    if pairs:
        against = pairs[0].against.partition(" (")[0]
        table = page.table(
            ["", "steps", "figure", "entry's", "the other's", "gain", "verdict"], pair_rows(pairs), f"against {against}"
        )
        parts.append(page.details(f"Every entry in pairs against {against}", table))
    costs = page.table(["", "trainings", "updates", "processor s", "clock s", "memory MiB"], cost_rows(own), "costs")
    parts.append(page.details("What a training took", costs))
    parts += [_pictures(found, own, steps) for steps in found.plan.options.steps]
    return "".join(parts)


def _plots(found: Found, rows: Sequence[MetricRecord], own: Sequence[Trained], judge: str) -> str:
    """Quality against evaluations, milliseconds and training time, and against variety."""
    name = judge.split("@")[0]
    figure = METRICS["fd"][0].format(judge=name)
    models = list(dict.fromkeys(r.model for r in rows if r.model != REAL))

    def of(model: str, metric: str) -> dict[int, MetricRecord]:
        return {
            r.steps: r for r in rows if r.model == model and r.metric == metric and r.features in ("", judge)
        }  # fmt: skip

    floor = [
        Reference("real against real", r.value)
        for r in rows
        if r.model == REAL and r.metric == "fd" and r.features == judge
    ]
    teacher = max((r for r in rows if r.model == TEACHER and r.metric == "fd" and r.features == judge),
                  key=lambda r: r.steps, default=None)  # fmt: skip
    levels = floor + ([Reference(f"teacher, {teacher.steps} steps", teacher.value)] if teacher else [])
    pace: dict[int, list[float]] = {}
    for r in rows:
        if r.metric == "latency_ms" and r.model != TEACHER:
            pace.setdefault(r.steps, []).append(r.value)
    by_evaluations, by_time, by_training, by_variety = [], [], [], []
    for number, model in enumerate(models):
        shown, fd, nfe, ms = model.partition(" (")[0], of(model, "fd"), of(model, "nfe"), of(model, "latency_ms")
        steps = sorted(fd)
        by_evaluations.append(
            Series(shown, [_point(nfe[s].value, fd[s], shown) for s in steps if s in nfe], like=number)
        )
        timed = {s: median(pace[s]) if model != TEACHER and s in pace else ms[s].value for s in steps if s in ms}
        by_time.append(Series(shown, [_point(timed[s], fd[s], shown) for s in steps if s in timed], like=number))
        spent = [one.outcome.cpu_s for one in own if one.run.model == model]
        if spent:
            first = min(steps)
            by_training.append(Series(shown, [_point(fmean(spent), fd[first], shown)], like=number))
        varied = of(model, "pairwise_distance")
        both = [(variety_share(varied[s], found.teacher), s) for s in steps if s in varied]
        chosen = [(x, s) for x, s in both if x == x and (model != TEACHER or s in found.plan.options.steps)]
        by_variety.append(Series(shown, [_point(x, fd[s], f"{shown}, {s}") for x, s in chosen], like=number))
    least = min(found.plan.options.steps)
    return "".join([
        plot.lines(by_evaluations, "network evaluations a picture (NFE)", figure, log_x=True, log_y=True, references=levels,
                   title=f"{figure} against NFE"),
        plot.lines(by_variety, "variety, as a share of the teacher's", figure, log_y=True, references=levels,
                   title=f"{figure} against variety: right and low is good"),
        plot.lines(by_time, "milliseconds a picture", figure, log_x=True, log_y=True, references=levels,
                   title=f"{figure} against milliseconds"),
        plot.dots(by_training, "processor seconds of a training", f"{figure}, {least} step{'s' * (least > 1)}", log_x=True,
                  log_y=True, references=levels, title=f"{figure} against training time"),
    ])  # fmt: skip


def _point(x: float, r: MetricRecord, label: str) -> Point:
    return Point(x, r.value, r.low, r.high, label=label)


def _pictures(found: Found, own: Sequence[Trained], steps: int) -> str:
    """One prompt a row, one entry a column, the teacher's most steps first; the first training of each."""
    out = found.plan.options.out
    first: dict[str, Path] = {}
    for one in own:
        first.setdefault(one.run.entry.name, one.run.folder)
    most = max(found.plan.options.teacher_steps)
    columns = [f"teacher, {most}", f"teacher, {steps}", *first]
    places = [(out / TEACHER, most), (out / TEACHER, steps), *((folder, steps) for folder in first.values())]
    cells = [
        [
            page.picture(picture(folder, count, i), f"{prompt} by {column}", 128)
            for (folder, count), column in zip(places, columns)
        ]
        for i, prompt in enumerate(found.prompts)
    ]  # fmt: skip
    title = f"{steps} step{'s' * (steps > 1)}: pictures from the same noises"
    return Html(f"<h3>{title}</h3>") + page.grid(found.prompts, columns, cells, title)
