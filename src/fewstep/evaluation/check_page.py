"""What ``fewstep check`` found, as one page that opens offline: the verdict, quality against steps, one noise over the steps."""

from __future__ import annotations

from collections.abc import Sequence

from ..pretrained.families import Usual
from ..report import page, plot
from ..report.page import Html
from ..sizes import spoken
from . import genuine
from .check import Cost, Report, Row

SHOWN = 4
"""Prompts of which pictures are shown."""


def document(found: Report, command: str = "") -> str:
    """The page as HTML; ``command`` is what was typed."""
    e = found.evidence
    sections = [
        ("Quality against steps", _curves(found) + page.paragraph(found.explained, note=True)),
        *([("Beside real pictures", _beside_data(found))] if found.real else []),
        ("One noise over the steps", _pictures(found)),
        ("What one picture costs", _costs(found)),
        ("Every figure", _figures(found)),
    ]
    asked = f"Asked to draw with {e.own_name}." if e.own_name else "Drawn as its card says."
    ending = page.details("How this was made", page.code(command)) if command else Html("")
    sections.append(("", page.paragraph(asked, note=True) + ending))
    return page.page(f"What {found.model} is", found.verdict.paragraph, sections)


def _by_setting(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.setting, []).append(row)
    return found


def _curves(found: Report) -> Html:
    """The share of its best, a curve a setting."""
    series = [
        plot.Series(name, [plot.Point(row.steps, max(0.0, row.share)) for row in rows])
        for name, rows in _by_setting(found.rows).items()
    ]
    level = plot.Reference("few-step from here on", genuine.REACHED)
    return plot.lines(series, "steps", "share of its best", log_x=True, references=[level], title=found.model)


def _beside_data(found: Report) -> Html:
    """The share of real pictures, a curve a setting; the teacher's best as a line."""
    series = [
        plot.Series(name, [plot.Point(row.steps, max(0.0, row.data.share)) for row in rows if row.data is not None])
        for name, rows in _by_setting(found.rows).items()
    ]
    levels = [plot.Reference("poor below", genuine.OF_DATA)]
    if found.teacher_data is not None:
        levels.append(plot.Reference(f"the best of {found.evidence.usual_name}", found.teacher_data.share))
    drawn = plot.lines(
        series, "steps", "share of the data", log_x=True, references=levels, title="Beside real pictures"
    )
    heads, *rows = found.data_cells()
    said = "The lowest of three: how alike the pictures are to the real ones, and how near their sharpness is, from either side."
    return Html(page.paragraph(said) + drawn + page.table(heads, rows, "Beside real pictures"))


def _pictures(found: Report) -> Html:
    """One prompt a row, one step count a column, a table a setting: first what was asked for, the others folded."""
    shown: list[Html] = []
    prompts = [prompt or "no prompt" for prompt in found.prompts[:SHOWN]]
    for name, rows in _by_setting(found.rows).items():
        heads = [f"{genuine.counted(row.steps)}{'*' * row.off_card}" for row in rows]
        grid = [
            [page.picture(found.pictures[name, row.steps][i].expand(3, -1, -1), f"{prompt}, {head}, {name}")
             for row, head in zip(rows, heads)]
            for i, prompt in enumerate(prompts)
        ]  # fmt: skip
        if found.real is not None and not shown:
            heads.append("real")
            for media, prompt, line in zip(found.real.media, prompts, grid):
                line.append(page.picture(media[0].expand(3, -1, -1), f"{prompt}, a real picture"))
        table = page.grid(prompts, heads, grid, f"Pictures with {name}")
        shown.append(page.details(f"With {name}", table) if shown else Html(page.paragraph(f"With {name}:") + table))
    return Html("".join(shown))


def _costs(found: Report) -> Html:
    def line(name: str, of: Cost | Usual, time: str) -> list[str]:
        return [name, f"{of.parameters / 1e6:,.1f} million", f"{of.flops / 1e9:,.2f} GFLOP", time]

    rows = [line(found.model, found.cost, f"{found.cost.ms:,.1f} ms")]
    usual, theirs = found.usual, found.teacher_cost
    if theirs:
        rows.append(line(usual.name, theirs, f"{theirs.ms:,.1f} ms"))
    elif usual.name:
        rows.append(line(f"{usual.name}, as published, at {spoken(usual.size)}", usual, "not measured here"))
    heads = ["model", "parameters", "operations an evaluation", "time an evaluation"]
    said = "Time is this machine's, at the load it had, and decides nothing."
    return Html(page.table(heads, rows, "Costs") + page.paragraph(said, note=True))


def _figures(found: Report) -> Html:
    heads, *rows = found.cells()
    return page.table(heads, rows, "Every figure")
