"""Plots as inline SVG: curves and dots with intervals, round ticks, direct labels, in the colours of the reader's theme.

A series has a colour of its own that colour-blind readers can tell (after Okabe and Ito 2008, darkened or lightened to a
contrast of 4.5 and more) and a marker's shape, in the order in which the series come. Values that are not finite, and such as
a logarithm has no room for, are left out, and the plot says how many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .page import Html, escape

WIDTH, HEIGHT = 640, 380
LEFT, RIGHT, TOP, BOTTOM = 68, 22, 36, 56
LETTER, LINE = 6.9, 15.0
"""Width and height of a letter of a label, about, in units of the plot."""
COLOURS = 8
"""Colours in the style sheet. The ninth series has the first one's colour and the second one's shape."""
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z", "M-4.2 -4.2H4.2V4.2H-4.2Z", "M0 -5.4L5.2 4H-5.2Z",
    "M0 -5.8L5.8 0L0 5.8L-5.8 0Z",
    "M0 5.4L5.2 -4H-5.2Z", "M-5 -1.7H-1.7V-5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5Z",
    "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z", "M-2.4 -5H2.4L5.2 0L2.4 5H-2.4L-5.2 0Z",
)  # fmt: skip
"""A circle, a square, triangles, a diamond, a plus, a cross, a hexagon; around 0, as an SVG path."""


def shape_of(number: int) -> str:
    """The marker of a series by its number: with its colour, no other of 64 is like it."""
    return SHAPES[(number + number // COLOURS) % len(SHAPES)]


@dataclass(frozen=True)
class Point:
    """One measured point."""

    x: float
    y: float
    low: float | None = None
    """Ends of y's interval."""
    high: float | None = None
    x_low: float | None = None
    """Ends of x's interval."""
    x_high: float | None = None
    label: str = ""
    """Said when a pointer rests on the point."""


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    points: Sequence[Point]
    faint: bool = False
    """Drawn behind the others, thin and without a name, as raw values are behind smoothed ones."""
    like: int | None = None
    """Number of the series whose colour and shape this one has; by itself its own."""


@dataclass(frozen=True)
class Reference:
    """A level that all is held against, such as a floor or the teacher: a dashed horizontal line."""

    name: str
    y: float


def points(
    x: Sequence[float], y: Sequence[float], low: Sequence[float] = (), high: Sequence[float] = ()
) -> list[Point]:
    """Points of columns; without ``low`` and ``high`` they have no interval."""
    ends = zip(low, high) if len(low) else ((None, None) for _ in x)
    return [Point(a, b, *end) for (a, b), end in zip(zip(x, y), ends)]


def lines(
    series: Sequence[Series], x: str, y: str, *, log_x: bool = False, log_y: bool = False,
    references: Sequence[Reference] = (), title: str = "", markers: bool | None = None, bands: bool = False,
) -> Html:  # fmt: skip
    """Curves. ``x`` and ``y`` are the titles of the axes, ``title`` what a screen reader is told first.

    ``bands`` draws intervals as an area, else as bars. Markers stand on curves of at most 40 points, or as ``markers`` says.
    """
    return _plot(series, x, y, log_x, log_y, references, title, joined=True, markers=markers, bands=bands)


def dots(
    series: Sequence[Series], x: str, y: str, *, log_x: bool = False, log_y: bool = False,
    references: Sequence[Reference] = (), title: str = "",
) -> Html:  # fmt: skip
    """Points that no line joins, with bars for the intervals along both axes."""
    return _plot(series, x, y, log_x, log_y, references, title, joined=False, markers=True, bands=False)


@dataclass(frozen=True)
class Axis:
    """From values to places along one side of a plot."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """Where a value lies."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers from end to end."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for multiples in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**d for d in decades for m in multiples if self.inside(m * 10.0**d)]
                if len(found) <= 8:
                    break
            if len(found) >= 3:
                return found[:: -(-len(found) // 8)]
        step = nice((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def inside(self, value: float) -> bool:
        """Is a value between the ends?"""
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)


def nice(step: float) -> float:
    """The next round step: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def axis(values: Sequence[float], start: float, end: float, log: bool, whole: bool = False) -> Axis:
    """An axis that holds all values with some room; a linear one of positive values that come near 0 begins there."""
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if log:
        room = max((high / low) ** 0.05, 1.08)
        return Axis(low / room, high * room, start, end, True)
    room = 0.0 if whole and high > low else 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    near = low >= 0 and low < 0.35 * high
    return Axis(0.0 if near else low - room, high + room, start, end, False)


def figure(value: float) -> str:
    """A tick in few characters: 0.05, 1,200, 20k, 3M, 1e-6."""
    if not value or 1e-3 <= abs(value) < 1e4:
        return f"{value:,.6g}"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def rounded(value: float) -> float:
    """To three digits, as tables have figures."""
    return float(f"{value:.3g}")


Box = tuple[float, float, float, float]


def _plot(
    series: Sequence[Series], x: str, y: str, log_x: bool, log_y: bool, references: Sequence[Reference], title: str,
    joined: bool, markers: bool | None, bands: bool,
) -> Html:  # fmt: skip
    shown, left_out = _drawable(series, log_x, log_y)
    levels = [r for r in references if math.isfinite(r.y) and (r.y > 0 or not log_y)]
    every = [p for one in shown for p in one if p is not None]
    if not every:
        return Html(f'<p class="note">There is nothing to draw: {escape(title or y)} has no finite value.</p>')
    across = axis(_values(every, "x", log_x), LEFT, WIDTH - RIGHT, log_x, whole=joined)
    up = axis([*_values(every, "y", log_y), *(r.y for r in levels)], HEIGHT - BOTTOM, TOP, log_y)
    many = max((len(one) for one in shown), default=0)
    marked = markers if markers is not None else many <= 40
    body, names, taken = "", [], _obstacles(shown, across, up, joined)
    for one, drawn in sorted(zip(series, shown), key=lambda pair: not pair[0].faint):
        number = next(i for i, other in enumerate(series) if other is one) if one.like is None else one.like
        body += _series(one, drawn, number, across, up, joined, marked and not one.faint, bands)
        if not one.faint and any(drawn):
            names.append((one, number, drawn))
    for level in levels:
        at = up.at(level.y)
        body += f'<path class="level" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        taken += [(LEFT + 6.0 * i, at - 2, LEFT + 6.0 * i + 6, at + 2) for i in range(int((WIDTH - RIGHT - LEFT) / 6))]
    labels = _labels(names, levels, across, up, taken) if len(names) + len(levels) > 1 else ""
    said = f"{title or y}: {y} against {x}"
    svg = (
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{escape(said)}</title>'
        f"<desc>{escape(_described(names, levels, across, up))}</desc>{_frame(across, up, x, y)}{body}{labels}</svg>"
    )
    return Html(f'<figure class="graph">{svg}{_legend(names, levels)}{_remark(left_out)}</figure>')


def _drawable(series: Sequence[Series], log_x: bool, log_y: bool) -> tuple[list[list[Point | None]], int]:
    """The points of every series in Python's own numbers, None in the place of what cannot be drawn; how many those are."""

    def plain(p: Point) -> Point | None:
        x, y = float(p.x), float(p.y)
        if not (math.isfinite(x) and math.isfinite(y)) or (log_x and x <= 0) or (log_y and y <= 0):
            return None
        low, high, x_low, x_high = (None if v is None else float(v) for v in (p.low, p.high, p.x_low, p.x_high))
        return Point(x, y, low, high, x_low, x_high, p.label)

    shown = [[plain(p) for p in one.points] for one in series]
    return shown, sum(p is None for one in shown for p in one)


def _values(every: Sequence[Point], side: str, log: bool) -> list[float]:
    """All finite values along one side, the ends of intervals among them."""
    ends = ("y", "low", "high") if side == "y" else ("x", "x_low", "x_high")
    found = [getattr(p, name) for p in every for name in ends]
    return [v for v in found if v is not None and math.isfinite(v) and (v > 0 or not log)]


def _span(low: float | None, high: float | None, along: Axis) -> tuple[float, float] | None:
    """Where an interval lies, cut at the axis' ends; None where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    return along.at(min(max(low, along.low), along.high)), along.at(min(max(high, along.low), along.high))


def _series(
    one: Series,
    drawn: Sequence[Point | None],
    number: int,
    across: Axis,
    up: Axis,
    joined: bool,
    marked: bool,
    bands: bool,
) -> str:
    """One series: its intervals, its curve, its markers."""
    body, path, gap = "", "", True
    for p in drawn:
        if p is None:
            gap = True
            continue
        path += f"{'M' if gap else 'L'}{across.at(p.x):.1f} {up.at(p.y):.1f}"
        gap = False
    real = [p for p in drawn if p is not None]
    bars = ""
    for p in real:
        a, b = across.at(p.x), up.at(p.y)
        if not bands and (span := _span(p.low, p.high, up)):
            bars += f"M{a:.1f} {span[0]:.1f}V{span[1]:.1f}M{a - 4:.1f} {span[0]:.1f}h8M{a - 4:.1f} {span[1]:.1f}h8"
        if span := _span(p.x_low, p.x_high, across):
            bars += f"M{span[0]:.1f} {b:.1f}H{span[1]:.1f}M{span[0]:.1f} {b - 4:.1f}v8M{span[1]:.1f} {b - 4:.1f}v8"
    if bands and (area := [(across.at(p.x), span) for p in real if (span := _span(p.low, p.high, up))]):
        there = "L".join(f"{a:.1f} {span[1]:.1f}" for a, span in area)
        body += f'<path class="band" d="M{there}L{"L".join(f"{a:.1f} {span[0]:.1f}" for a, span in reversed(area))}Z"/>'
    if bars:
        body += f'<path class="bars" d="{bars}"/>'
    if joined:
        body += f'<path class="line" d="{path}"/>'
    if marked or len(real) == 1:
        shape = shape_of(number)
        for p in real:
            place = f"{across.at(p.x):.1f} {up.at(p.y):.1f}"
            said = f"<title>{escape(_point(one, p))}</title>"
            body += f'<path class="mark" transform="translate({place})" d="{shape}">{said}</path>'
    return f'<g class="s{number % COLOURS}{" faint" if one.faint else ""}">{body}</g>'


def _point(one: Series, p: Point) -> str:
    ends = f" ({figure(p.low)} to {figure(p.high)})" if p.low is not None and p.high is not None else ""
    return f"{p.label or one.name}: {figure(p.x)}, {figure(p.y)}{ends}"


def _frame(across: Axis, up: Axis, x: str, y: str) -> str:
    """Grid lines, ticks and the axes' titles."""
    body = ""
    for value in up.ticks():
        at = up.at(value)
        body += f'<path class="rule" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        body += f'<text class="tick" x="{LEFT - 8}" y="{at:.1f}" dy=".35em" text-anchor="end">{figure(value)}</text>'
    for value in across.ticks():
        at, foot = across.at(value), HEIGHT - BOTTOM
        body += f'<path class="rule" d="M{at:.1f} {foot}v6"/>'
        body += f'<text class="tick" x="{at:.1f}" y="{foot + 8}" dy="1em" text-anchor="middle">{figure(value)}</text>'
    body += f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    body += f'<text class="axis" x="6" y="4" dy="1em">{escape(y)}{", logarithmic" if up.log else ""}</text>'
    named = f"{escape(x)}{', logarithmic' if across.log else ''}"
    return body + f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{named}</text>'


def _obstacles(shown: Sequence[Sequence[Point | None]], across: Axis, up: Axis, joined: bool) -> list[Box]:
    """Where no label may lie: on points, intervals and curves, as small boxes."""
    boxes: list[Box] = []
    for one in shown:
        before = None
        for p in one:
            if p is None:
                before = None
                continue
            a, b = across.at(p.x), up.at(p.y)
            low, high = _span(p.low, p.high, up) or (b, b)
            left, right = _span(p.x_low, p.x_high, across) or (a, a)
            boxes += [(a - 6, min(high, b - 6), a + 6, max(low, b + 6)), (left, b - 3, right, b + 3)]
            if joined and before:
                parts = max(1, int(math.dist(before, (a, b)) / 6))
                steps = [
                    (before[0] + (a - before[0]) * k / parts, before[1] + (b - before[1]) * k / parts)
                    for k in range(parts)
                ]
                boxes += [(u - 3, v - 3, u + 3, v + 3) for u, v in steps]
            before = (a, b)
    return boxes


Named = tuple[Series, int, Sequence[Point | None]]


def _labels(names: Sequence[Named], levels: Sequence[Reference], across: Axis, up: Axis, taken: list[Box]) -> str:
    """Names beside their points, each where nothing else lies; the legend names them all anyway."""
    body = ""
    for one, number, drawn in names:
        real = [p for p in drawn if p is not None]
        anchors = [(across.at(p.x), up.at(p.y)) for p in [*real[::-1][:6], *real[:: max(1, len(real) // 6)]]]
        body += _label(one.name, f"s{number % COLOURS}", anchors, taken)
    for level in levels:
        anchors = [(WIDTH - RIGHT - part * (WIDTH - LEFT - RIGHT), up.at(level.y)) for part in (0, 0.25, 0.5, 0.75)]
        body += _label(level.name, "plain", anchors, taken)
    return body


def _label(name: str, kind: str, anchors: Sequence[tuple[float, float]], taken: list[Box]) -> str:
    """A label at the first free place near one of the anchors, which is then taken; nothing where none is free."""
    wide = len(name) * LETTER
    for a, b in anchors:
        for left, top in (
            (a + 10, b - LINE / 2), (a - wide / 2, b - LINE - 7), (a - wide / 2, b + 7), (a - wide - 10, b - LINE / 2),
            (a + 9, b - LINE - 4), (a + 9, b + 4), (a - wide - 9, b - LINE - 4), (a - wide - 9, b + 4),
            (a - wide, b - LINE - 7), (a, b - LINE - 7),
        ):  # fmt: skip
            box = (left, top, left + wide, top + LINE)
            inside = left >= LEFT + 2 and box[2] <= WIDTH - 4 and top >= TOP - 6 and box[3] <= HEIGHT - BOTTOM - 2
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                return f'<text class="label {kind}" x="{left:.1f}" y="{top:.1f}" dy=".95em">{escape(name)}</text>'
    return ""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _legend(names: Sequence[Named], levels: Sequence[Reference]) -> str:
    """Below the plot, where it hides nothing; none where one curve stands alone."""
    if len(names) + len(levels) < 2:
        return ""
    items = "".join(
        f'<li class="s{n % COLOURS}"><svg viewBox="-11 -7 22 14" aria-hidden="true"><path class="line" d="M-11 0H11"/>'
        f'<path class="mark" d="{shape_of(n)}"/></svg><span>{escape(one.name)}</span></li>'
        for one, n, _ in names
    )
    items += "".join(
        '<li><svg viewBox="-11 -7 22 14" aria-hidden="true"><path class="level" d="M-11 0H11"/></svg>'
        f"<span>{escape(level.name)} ({figure(rounded(level.y))})</span></li>"
        for level in levels
    )
    return f'<ul class="legend">{items}</ul>'


def _remark(left_out: int) -> str:
    if not left_out:
        return ""
    many = "1 value is" if left_out == 1 else f"{left_out:,} values are"
    return f'<p class="note">{many} left out: not finite, or not above 0 on a logarithmic axis.</p>'


def _described(names: Sequence[Named], levels: Sequence[Reference], across: Axis, up: Axis) -> str:
    """What a screen reader is told: the ranges, and of every series how many points it has and where it ends."""
    said = f"{figure(across.low)} to {figure(across.high)} across, {figure(up.low)} to {figure(up.high)} up."
    for one, _, drawn in names:
        real = [p for p in drawn if p is not None]
        ends = [f"({figure(p.x)}, {figure(p.y)})" for p in (real[0], real[-1])]
        said += f" {one.name}: " + (
            f"{len(real)} points from {ends[0]} to {ends[1]}." if len(real) > 1 else f"{ends[0]}."
        )
    return said + "".join(f" {level.name}: {figure(rounded(level.y))}." for level in levels)
