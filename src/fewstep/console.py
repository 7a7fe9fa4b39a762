"""The terminal: sentences, tables, and live displays of long work."""

from __future__ import annotations

import codecs
import math
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from .inference.budget import PredictedLatency
from .text import plain
from .training.log import Alarm, StepLog

if TYPE_CHECKING:  # they need torch, and packages that the rest does without
    from .data.dataset import Progress
    from .server.drawing.forecast import Forecast
    from .training.recipe import Phase
    from .training.trainer import Trainer

PIPE_CLOSED = 141
"""Exit code where nobody reads the output any more: that of a program which SIGPIPE ended."""


class Terminal(Console):
    """The terminal, or whatever the output goes into. Nothing that is printed can steer it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of text, each of them plain."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text, keep="\n\t"), segment.style)

    def on_broken_pipe(self) -> None:
        """End without a word."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(PIPE_CLOSED) from None


console = Terminal()

SPARKS = "▁▂▃▄▅▆▇█"
SPELT = {"×": "x", "·": ".", "•": "*", "…": "...", "−": "-", "–": "-", "—": "-", "░": ":", "━": "-", "╸": "-", "╺": "-"} | {
    "→": "->", "←": "<-", "↑": "^", "↓": "v", "≤": "<=", "≥": ">=", "±": "+-", "≈": "~", "\u00a0": " ", "\u200b": ""
} | {"‘": "'", "’": "'", "“": '"', "”": '"'} | dict(zip(SPARKS, "_.,-=+*#"))  # fmt: skip
"""How what we print is written in ASCII."""


def spelt(error: UnicodeError) -> tuple[str, int]:
    """Replacement for characters that an output cannot write, as an error handler of codecs: letters without their accents, signs
    in ASCII, and for anything else its number in Unicode, as ``\\u732b``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error

    def one(character: str) -> str:
        if character in SPELT:
            return SPELT[character]
        if "\u2800" <= character <= "\u28ff":  # Braille: what turns while something is waited for
            return "|/-\\"[ord(character) % 4]
        letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        return letters or character.encode("ascii", "backslashreplace").decode()

    return "".join(map(one, error.object[error.start : error.end])), error.end


codecs.register_error("fewstep.spelt", spelt)


def encodable(*streams: Any) -> None:
    """Let text outputs take any text, whatever their encoding: an ASCII or Latin-1 terminal is no reason to end."""
    for stream in streams:
        unicode = (stream.encoding or "utf-8").lower().startswith("utf")
        if not unicode and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="fewstep.spelt")


def say(text: str, *strong: object) -> None:
    """One line as it stands: no prompt and no path is markup, and no line break comes into a command. ``strong`` is bold."""
    shown = Text(text)
    shown.highlight_words([str(words) for words in strong], "bold")
    console.print(shown, highlight=False, soft_wrap=True)


def note(text: object) -> None:
    """A remark that stands out a little."""
    console.print(Text("note: ", "yellow").append(str(text), "default"), highlight=False, soft_wrap=True)


def _width(rows: list[list[str]]) -> int:
    """Characters of a table's line, with two between its columns."""
    return sum(max(map(len, column)) + 2 for column in zip(*rows))


def say_tables(markdown: str) -> None:
    """Markdown as it stands; in a terminal its tables are set, and turned where they are too wide and then less so: what was a
    column is a row."""
    if not console.is_terminal:
        return say(markdown)
    lines = markdown.split("\n")
    for is_table, part in groupby(lines, lambda line: line.startswith("|")):
        if not is_table:
            say("\n".join(part))
            continue
        rows = [
            [cell.strip() for cell in line.strip()[1:-1].split(" | ")] for line in part if not line.startswith("|--")
        ]
        turned = [list(row) for row in zip(*rows)]
        if _width(rows) > max(console.width, _width(turned)):
            rows = turned
        table = Table(*(Column(overflow="fold") for _ in rows[0]), box=None, padding=(0, 2, 0, 0), show_header=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    return None


def _bars() -> tuple[Bars, Progress]:
    """Bars that are not shown by themselves yet, and what keeps one of them for every ``what``."""
    bars = Bars(
        TextColumn("  {task.description:<28}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    return bars, report


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Live bars, one for every ``what``."""
    bars, report = _bars()
    with bars:
        yield report


def spark(values: list[float], width: int = 24) -> str:
    """The course of a number as a line of little bars; what is not finite has none."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    every = max(1, len(values) // width)
    means = [sum(chunk) / len(chunk) for i in range(0, len(values), every) if (chunk := values[i : i + every])]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(SPARKS[int((m - low) / span * (len(SPARKS) - 1))] for m in means[-width:])


def show_forecast(found: Forecast) -> None:
    """Print what fits into a latency target: by backend, by plan and by stage."""
    say(f"\n{found.advice}\n")
    if found.measured or found.left_out:
        console.print(_backends(found), "")
    console.print(_ways(found), "")
    console.print(_stages(found))


def _backends(found: Forecast) -> Table:
    """The backends that were measured, and why one was chosen: pictures first, then speed."""
    table = Table("backend", "one evaluation", "off from eager", "", box=None, title="what runs the network",
                  title_justify="left", title_style="bold", padding=(0, 2))  # fmt: skip
    for m in sorted(found.measured, key=lambda m: m.ms):
        if m.name == found.plan.backend:
            row, said = "green", "taken: the fastest of those that draw eager's pictures"
        elif m.name in {way.quality.backend for way in found.latencies}:
            row, said = "", "nearly the same pictures: only where the target would be missed"
        elif m.exact:
            row, said = "", "the reference" if m.name == "eager" else "the same pictures, slower"
        else:
            row, said = "dim", "other pictures: not taken, however fast"
        table.add_row(m.name, f"{m.ms:.1f} ms", f"{m.error:.0e}" if m.error else "-", said, style=row)
    for name, why in found.left_out.items():
        table.add_row(name, "-", "-", Text(f"left out: {why}"), style="dim")
    return table


def _ways(found: Forecast) -> Table:
    """Step counts and sizes, each travelling as well as the target allows."""
    table = Table("steps", "size", "travels as", "end to end", "a second", "", box=None, padding=(0, 2),
                  title=f"what fits into {found.target_ms:.3g} ms", title_justify="left", title_style="bold")  # fmt: skip
    rows: dict[tuple[int, int, str], list[PredictedLatency]] = {}
    for way in found.latencies:
        rows.setdefault((way.quality.size, way.quality.steps, way.quality.backend), []).append(way)
    for same in rows.values():
        fitting = [way for way in same if way.total_ms <= found.target_ms]
        way = found.chosen if found.chosen in same else (fitting or [min(same, key=lambda w: w.total_ms)])[0]
        served = way.total_ms - way.stages_ms["wire"]
        fits = way.total_ms <= found.target_ms
        said = "fits" if fits else f"{way.total_ms - found.target_ms:.3g} ms too long"
        if fits and way is found.chosen:
            said = "what will be drawn" + (f", giving up {' and '.join(found.plan.shed)}" if found.plan.shed else "")
        style = "green" if fits and way is found.chosen else "" if fits else "dim"
        cells = (str(way.quality.steps), found.pixels(way.quality.size), way.quality.encoder, f"{way.total_ms:.1f} ms")
        table.add_row(*cells, f"{1000 / served:.0f}", said, style=style)
    return table


def _stages(found: Forecast) -> Table:
    """Where the time of the planned way goes, against the target."""
    quality = found.chosen.quality
    title = f"where the time goes (steps: {quality.steps}, {found.pixels(quality.size)}, {quality.backend}, {quality.encoder})"
    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold", padding=(0, 2))
    whole = max(found.target_ms, found.chosen.total_ms)
    for stage, ms in found.chosen.stages_ms.items():
        if ms:
            table.add_row(stage.replace("_", " "), f"{ms:.2f} ms", Text("█" * max(1, round(40 * ms / whole)), "cyan"))
    left = found.target_ms - found.chosen.total_ms
    said, style = ("left", "green") if left >= 0 else ("over", "red")
    table.add_row(said, f"{abs(left):.2f} ms", Text("░" * max(1, round(40 * abs(left) / whole)), style), style=style)
    if not found.chosen.stages_ms["wire"]:
        table.caption = "the way to the user and back is not in it: --wire 20ms counts it"
    return table


class TrainingDisplay:
    """Live panel of a run: bars of what is made ready for it, then progress, images a second, time left, losses, health."""

    def __init__(self, title: str, now: Callable[[], float] = time.monotonic) -> None:
        self.title, self.now = title, now
        self.alarms: deque[Alarm] = deque(maxlen=3)
        self._courses: dict[str, list[float]] = {}
        self._phase: str | None = None
        self._began, self._first, self._last_drawn = now(), 0, 0.0
        self.rates: dict[str, float] = {}
        self._bars, self._move_bar = _bars()
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> TrainingDisplay:
        if console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if console.is_terminal:
            self._live.__exit__(*error)

    def report(self, what: str, done: int, total: int) -> None:
        """Called while something is made ready, before a phase and at its beginning; lines where there is no live panel."""
        self._move_bar(what, done, total)
        if console.is_terminal:
            self._live.update(self._bars)
        elif done == total or self.now() - self._last_drawn > 30:
            self._last_drawn = self.now()
            say(f"{what} {done:,}/{total:,}")

    def watch(self, phase: Phase, trainer: Trainer, log: StepLog) -> None:
        """Called after every step; its alarms are shown, and told at once where there is no live panel."""
        if phase.name != self._phase:
            self._phase, self._courses = phase.name, {}
            self._began, self._first = self.now(), log.step  # the first step is over: it is not timed
        for name, value in (log.losses | {k: v for k, v in log.observations.items() if k.startswith("probe/")}).items():
            self._courses.setdefault(name, []).append(value)
        for alarm in log.alarms:
            self.alarms.append(alarm)
            if not console.is_terminal:
                say(f"health: {alarm.rule}: {alarm.message}")
        done = log.step == phase.steps
        every = 0.25 if console.is_terminal else 30.0
        if self.now() - self._last_drawn > every or done:
            self._last_drawn = self.now()
            panel = self._panel(phase, trainer, log)
            if console.is_terminal:
                self._live.update(Group(self._bars, panel))
            else:
                losses = "  ".join(f"{k} {sum(v[-50:]) / len(v[-50:]):.4g}" for k, v in self._courses.items())
                rate = self.rates[phase.name]
                line = f"{phase.name} {log.step}/{phase.steps}  {rate:.0f} images/s  {losses}"
                say(line)

    def _panel(self, phase: Phase, trainer: Trainer, log: StepLog) -> Panel:
        seconds = self.now() - self._began
        rate = (log.step - self._first) * trainer.options.batch_size / max(seconds, 1e-6)
        self.rates[phase.name] = rate
        left = (phase.steps - log.step) * seconds / max(1, log.step - self._first)
        if phase.seconds:
            left = min(left, phase.seconds - seconds)
        head = Text.assemble(
            (f"{phase.name} ", "bold"),
            (f"step {log.step:,} of {phase.steps:,}", ""),
            (f"   {rate:,.0f} images/s   ", "cyan"),
            (f"{max(0, int(left)) // 60}:{max(0, int(left)) % 60:02d} left", "magenta"),
        )
        bar = Bars(BarColumn(bar_width=60))
        bar.add_task("", total=phase.steps, completed=log.step)
        losses = Table.grid(padding=(0, 2))
        for name, values in self._courses.items():
            recent = values[-50:]
            losses.add_row(name, f"{sum(recent) / len(recent):.4g}", Text(spark(values), "cyan"))
        health = Text("health: no rule has fired", "green")
        if self.alarms:
            health = Text("\n".join(f"health: {a.rule}: {a.message}" for a in self.alarms), "yellow")
        return Panel(Group(head, bar, losses, health), title=self.title, border_style="blue", expand=False)
