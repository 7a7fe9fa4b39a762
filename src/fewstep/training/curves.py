"""A journal's columns as curves that fit a page: thinned, smoothed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.plot import Point, Series

MOST = 1200
"""Points of a curve, at most: beyond it the lowest and the highest value of every stretch are drawn."""
FEW = 40
"""Points up to which nothing is smoothed."""

Curve = list[tuple[int, float]]


def columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Every figure of a journal by its name, as (step, value) in the order of steps."""
    found: dict[str, Curve] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((int(line["step"]), float(value)))
    return found


def thinned(curve: Curve, most: int = MOST) -> Curve:
    """At most ``most`` points: of every stretch the lowest and the highest finite one, in their order."""
    if len(curve) <= most:
        return curve
    stretches = most // 2
    kept: Curve = []
    for i in range(stretches):
        part = curve[i * len(curve) // stretches : (i + 1) * len(curve) // stretches]
        finite = [one for one in part if math.isfinite(one[1])]
        if not finite:
            kept.append(part[0])
            continue
        kept += sorted({min(finite, key=lambda one: one[1]), max(finite, key=lambda one: one[1])})
    return kept


def smoothed(curve: Curve, most: int = MOST // 2) -> Curve:
    """Means over a fortieth of the curve, at most ``most`` of them; values that are not finite count in none."""
    half = max(1, len(curve) // 80)
    total, count = [0.0], [0]
    for _, value in curve:
        finite = math.isfinite(value)
        total.append(total[-1] + (value if finite else 0.0))
        count.append(count[-1] + finite)
    found: Curve = []
    places = range(len(curve)) if len(curve) <= most else [i * (len(curve) - 1) // (most - 1) for i in range(most)]
    for i in places:
        a, b = max(0, i - half), min(len(curve), i + half + 1)
        if count[b] > count[a]:
            found.append((curve[i][0], (total[b] - total[a]) / (count[b] - count[a])))
    return found


def series(name: str, curve: Curve, number: int = 0, smooth: bool = True) -> list[Series]:
    """A curve, smoothed with the raw values faint behind it where it has many points."""
    raw = [Point(step, value) for step, value in thinned(curve)]
    if not smooth or len(curve) <= FEW:
        return [Series(name, raw, like=number)]
    return [
        Series(f"{name}, raw", raw, faint=True, like=number),
        Series(name, [Point(*one) for one in smoothed(curve)], like=number),
    ]
