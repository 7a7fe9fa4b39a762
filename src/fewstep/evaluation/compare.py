"""Two models on the same prompts: the paired interval of their difference, and what it says in words.

Both are measured without each prompt in turn (see `jackknife.py`). What a prompt adds to both of them, it adds to neither's
lead: the spread of the differences is the error of the difference. Whether two intervals touch says nothing of the kind.

"Not worse" is a claim of its own: that the model is at most so much worse, by a margin that was stated before (non-inferiority;
Piaggio et al. 2012, JAMA 308, the CONSORT statement). The margin is a share of the other model's figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

import torch
from torch import Tensor

from .jackknife import LEVEL, Interval, interval, standard_error, student_t
from .record import METRICS, REAL, MetricRecord, check_alike, read_records

MARGIN = 0.05
SHARES = ("precision", "recall", "coverage", "retrieval_top1", "retrieval_top5")
"""Metrics that are shares of something, from 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """One figure of two models."""

    a: MetricRecord
    b: MetricRecord
    difference: Interval
    """``a - b``"""
    ratio: Interval | None
    """``a / b``; None where a figure is not above 0."""
    gain: Interval
    """By how much ``a`` is better: the difference in the metric's good direction; of metrics that should be 1, by how much
    ``a`` lies nearer to it."""
    margin: float
    """How much worse still counts as not worse, as a share of ``b``'s figure (or of 1, where that is the aim)."""

    @property
    def allowed(self) -> float:
        """The margin in the units of the figure."""
        return self.margin * (1.0 if self.a.direction == "→ 1" else abs(self.b.value))

    @property
    def verdict(self) -> str:
        """better, worse, or no difference seen, and what of the margin."""
        gain, share = self.gain, f"{self.margin:.0%}"
        if gain.low > 0:
            return "better"
        if gain.high < 0:
            return f"worse, by less than the margin of {share}" if gain.low > -self.allowed else "worse"
        most = shown(max(abs(gain.low), abs(gain.high)), self.a.metric)
        tail = "not worse by" if gain.low > -self.allowed else "it may be worse by more than"
        what = "no difference in nearness to 1" if self.a.direction == "→ 1" else "no difference"
        return f"{what} seen, at most {most}; {tail} the margin of {share}"


def paired(a: MetricRecord, b: MetricRecord, margin: float = MARGIN, level: float = LEVEL) -> Comparison:
    """Compare one figure of two models that were measured alike, prompt by prompt.

    Raises ValueError where they were measured unlike, or without what is needed to pair them.
    """
    check_alike(a, b)
    for record in (a, b):
        if len(record.left_out) < 2:
            raise ValueError(
                f"{record.metric} of {record.model},{record.steps} was measured without what is needed to pair it with "
                "another: measure it again (fewstep evaluate)"
            )
    if len(a.left_out) != len(b.left_out):
        raise ValueError(
            f"{a.metric}: {len(a.left_out)} prompts in one and {len(b.left_out)} in the other; measure both alike"
        )

    def held(of: Callable[[Tensor], Tensor]) -> Interval:
        values, lefts = ([of(torch.tensor(x, dtype=torch.float64)) for x in pair]
                         for pair in ((a.value, b.value), (a.left_out, b.left_out)))  # fmt: skip
        return _interval(float(values[0] - values[1]), lefts[0] - lefts[1], a.metric in SHARES, level)

    good: dict[str, Callable[[Tensor], Tensor]] = {"↑": lambda x: x, "↓": lambda x: -x, "→ 1": lambda x: -(x - 1).abs()}
    positive = min(a.value, b.value, *a.left_out, *b.left_out) > 0
    logarithm = held(torch.log) if positive else None
    ratio = Interval(*(math.exp(x) for x in (logarithm.value, logarithm.low, logarithm.high))) if logarithm else None
    return Comparison(a, b, held(lambda x: x), ratio, held(good[a.direction or "↑"]), margin)


def _interval(value: float, left_out: Tensor, of_shares: bool, level: float) -> Interval:
    """Of a difference. Shares that differ in no prompt may differ in others: as often as nothing found among P allows."""
    if of_shares and standard_error(left_out) == 0:
        t = student_t(level, len(left_out) - 1)
        most = t * t / (len(left_out) + t * t)
        return Interval(value, value - most, value + most)
    return interval(value, left_out, level=level)


def over_trainings(differences: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of paired differences, a training each, and the interval that other seeds of training would fall into.

    Raises ValueError for fewer than two: one training says nothing of others.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} pair{'s' * (n != 1)} of trainings: an interval over trainings needs two or more")
    half = student_t(level, n - 1) * math.sqrt(variance(differences) / n)
    return Interval(fmean(differences), fmean(differences) - half, fmean(differences) + half)


def direction(metric: str) -> str:
    """Where a known metric should go; up, if nobody has said. A record knows its own, `MetricRecord.direction`."""
    return METRICS.get(metric, ("", "↑"))[1]


def compare(a: Sequence[MetricRecord], b: Sequence[MetricRecord], margin: float = MARGIN) -> list[Comparison]:
    """Every figure that both rows have and that was measured prompt by prompt; a ValueError if there is none, or if they were
    measured unlike."""
    theirs = {(r.metric, r.features): r for r in b}
    both = [(r, theirs[r.metric, r.features]) for r in a if (r.metric, r.features) in theirs]
    judged = [(x, y) for x, y in both if x.left_out or y.left_out]
    if not judged:
        for x, y in both[:1]:
            paired(x, y)  # says what they lack
        judges = [
            " and ".join(dict.fromkeys(r.features.split("@")[0] for r in rows if r.features)) or "nobody"
            for rows in (a, b)
        ]
        raise ValueError(f"the two rows have no figure in common: {judges[0]} measured one and {judges[1]} the other")
    return [paired(x, y, margin) for x, y in judged]


def row(said: str, file: Path | None = None) -> tuple[Path, list[MetricRecord]]:
    """The records of ``FILE:MODEL,STEPS``, a row of a results file, and the file.

    The steps may be left out where the model has one row, and the model where the file has one; ``file`` is meant where none is
    named. Raises ValueError with the rows that there are.
    """
    path, which = (Path(said), "") if Path(said).is_file() else (None, said)
    if path is None:
        named, colon, which = said.rpartition(":")
        path = Path(named) if named else file
        if not which.partition(",")[2] and (whole := Path(named.rpartition(":")[0])).is_file():
            raise ValueError(f"{said!r}: write a comma before the steps, {whole}:{named.rpartition(':')[2]},{which}")
        if path is None or (not colon and file is None):
            raise ValueError(f"{said!r} names no results file: write FILE:MODEL,STEPS, as in out/metrics.json:add,1")
        if not path.is_file():
            raise ValueError(f"{path}: no results file here; `fewstep evaluate -o {path}` writes one")
    rows: dict[tuple[str, str], list[MetricRecord]] = {}
    for record in read_records(path):
        if record.model != REAL:
            rows.setdefault((record.model, str(record.steps)), []).append(record)
    # a model's name has commas, too: "lcm (warm, 20-seconds)"
    found = [key for key in rows if which in ("", key[0], f"{key[0]},", f",{key[1]}", ",".join(key))]
    if len(found) != 1:
        known = ", ".join(",".join(key) for key in rows) or "none"
        problem = f"has no row {which!r}" if not found else f"has {len(found)} rows" + f" {which!r}" * bool(which)
        raise ValueError(f"{path} {problem}: say which as FILE:MODEL,STEPS; there are {known}")
    return path, rows[found[0]]


def shown(value: float, metric: str) -> str:
    """A figure as the tables have it; a kernel distance is given in thousandths."""
    scaled = value * (1000 if metric.startswith("kid") else 1)
    return f"{scaled:.3g}" if abs(scaled) < 1000 else f"{scaled:.0f}"


def table(comparisons: Sequence[Comparison], metrics: Sequence[str] | None = None) -> str:
    """A Markdown table: a figure a row, and the verdict of ``a`` against ``b`` in words."""
    order = list(metrics or dict.fromkeys((*METRICS, *(c.a.metric for c in comparisons))))
    chosen = sorted((c for c in comparisons if c.a.metric in order), key=lambda c: order.index(c.a.metric))
    if not chosen:
        raise ValueError(f"none of {', '.join(metrics or ())} was measured of both")
    a, b = chosen[0].a, chosen[0].b
    names = [f"{r.model}, {r.steps} step{'s' * (r.steps > 1)}" for r in (a, b)]
    several = len({c.a.features for c in chosen if c.a.features}) > 1
    lines = [f"| | {names[0]} | {names[1]} | difference | ratio | {names[0]} is |", "|---|--:|--:|--:|--:|---|"]
    for c in chosen:
        name = c.a.metric
        title = f"{c.a.title} {c.a.direction or '↑'}"
        judge = (
            f" ({c.a.features.split('@')[0]})"
            if several and c.a.features and "{judge}" not in METRICS.get(name, ("",))[0]
            else ""
        )
        at = c.difference
        spread = f"{shown(at.value, name)} [{shown(at.low, name)}, {shown(at.high, name)}]"
        ratio = f"{c.ratio.value:.3f} [{c.ratio.low:.3f}, {c.ratio.high:.3f}]" if c.ratio else "-"
        lines.append(
            f"| {title}{judge} | {shown(c.a.value, name)} | {shown(c.b.value, name)} | {spread} | {ratio} | {c.verdict} |"
        )
    return "\n".join([
        *lines, "",
        f"Paired over the same {len(a.left_out)} prompts, n = {a.n}: in brackets 95% jackknife intervals, each for itself, so "
        f"that one row in twenty may err. The margin, stated beforehand, is {chosen[0].margin:.0%} of the second model's figure "
        "(of 1, where that is the aim).",
    ])  # fmt: skip
