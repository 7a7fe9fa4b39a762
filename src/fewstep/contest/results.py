"""What a contest found: the records of every training, the mean of each entry, and every entry beside another, in pairs.

Trainings of one seed share their noise, their batches and their warm start, and all models draw the same prompts from the same
noises. So two entries are compared training by training and prompt by prompt: the error of their difference is that of the mean
over trainings (the spread of the paired differences) and that over prompts (the jackknife of the mean difference), added as
variances. With one training the first is not known, and the interval is one over prompts alone. Where the prompts are all that
there are, ten digits say, they are no sample of others: with two trainings or more the interval is one over trainings alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Any

import torch

from ..evaluation import compare, jackknife
from ..evaluation.jackknife import Interval
from ..evaluation.record import VARIETY, MetricRecord, over_trainings
from .plan import Plan, Run
from .runs import Outcome

SHOWN = ("fd", "kid", "precision", "recall", "retrieval_top1", "retrieval_top5", "vendi_minus_1", "pairwise_distance",
         "edges_ratio", "highs_ratio", "latency_ms", "nfe")  # fmt: skip
"""The figures that a contest keeps."""
COMPARED = ("fd", "kid", "recall", "retrieval_top1", "pairwise_distance", "highs_ratio")
"""The figures that entries are compared by."""


@dataclass(frozen=True)
class Trained:
    """A training that ended well, with what was measured of it."""

    run: Run
    outcome: Outcome
    records: tuple[MetricRecord, ...]


@dataclass(frozen=True)
class Pairing:
    """One figure of two entries at one step count, over the trainings that both have."""

    entry: str
    against: str
    metric: str
    judge: str
    steps: int
    trainings: int
    prompts: int
    """Prompts that the interval is over, too; 0 where it is over trainings alone."""
    mean: float
    """The entry's."""
    other: float
    """That of the other one."""
    gain: Interval
    """By how much the entry is better, in the figure's own unit."""
    margin: float
    """How much worse still counts as not worse, as a share of the other's figure."""

    @property
    def verdict(self) -> str:
        """better, worse, or no difference seen."""
        allowed = self.margin * (1.0 if compare.direction(self.metric) == "→ 1" else abs(self.other))
        if self.gain.low > 0:
            return "better"
        if self.gain.high < 0:
            return "worse"
        return "no difference seen, not worse by the margin" if self.gain.low > -allowed else "no difference seen"


@dataclass(frozen=True)
class Nearest:
    """The entry that is nearest to real pictures, by one judge at one step count."""

    start: str
    budget: str
    judge: str
    steps: int
    first: MetricRecord
    """Its FD."""
    second: MetricRecord
    """That of the next."""
    beside: Pairing | None
    """The first one against ``--against``; None where it is that one itself."""


def pairings(
    trained: Sequence[Trained], against: str, margin: float = compare.MARGIN, exhaustive: bool = False
) -> list[Pairing]:
    """Every entry beside ``against``, of the same start and budget. ``exhaustive``: the prompts are all there are."""
    groups: dict[tuple[str, str, str], dict[int, Trained]] = {}
    for one in trained:
        groups.setdefault((one.run.start, one.run.budget.name, one.run.entry.name), {})[one.run.seed] = one
    found = []
    for (start, budget, entry), ours in groups.items():
        theirs = groups.get((start, budget, against), {})
        seeds = sorted(ours.keys() & theirs.keys())
        if entry == against or not seeds:
            continue
        keys = [(r.metric, r.features, r.steps) for r in ours[seeds[0]].records if r.metric in COMPARED]
        for key in keys:
            pairs = [(_record(ours[seed], key), _record(theirs[seed], key)) for seed in seeds]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                found.append(paired(known, ours[seeds[0]].run.model, theirs[seeds[0]].run.model, margin, exhaustive))
    return found


def _record(one: Trained, key: tuple[str, str, int]) -> MetricRecord | None:
    return next((r for r in one.records if (r.metric, r.features, r.steps) == key), None)


def paired(
    pairs: Sequence[tuple[MetricRecord, MetricRecord]],
    entry: str,
    against: str,
    margin: float,
    exhaustive: bool = False,
) -> Pairing:
    """One figure of two entries, a pair a training. Raises ValueError for records that were measured unlike.

    ``exhaustive``: the prompts are all there are, so that with two trainings or more they add no error.
    """
    gains, lefts = [], []
    for a, b in pairs:
        one = compare.paired(a, b, margin)
        gains.append(one.gain.value)
        ours, theirs = (_gain(torch.tensor(r.left_out, dtype=torch.float64), r.metric) for r in (a, b))
        lefts.append(ours - theirs)
    first, prompts = pairs[0][0], len(lefts[0])
    by_training = exhaustive and len(gains) > 1
    over_prompts = 0.0 if by_training else jackknife.standard_error(torch.stack(lefts).mean(0))
    mean, other = (fmean(r.value for r in column) for column in zip(*pairs))
    return Pairing(
        entry, against, first.metric, first.features.split("@")[0], first.steps, len(gains),
        0 if by_training else prompts, mean, other, mean_gain(gains, over_prompts, prompts), margin,
    )  # fmt: skip


def mean_gain(gains: Sequence[float], over_prompts: float, prompts: int) -> Interval:
    """The mean of ``gains``, a training each, with its 95% interval; ``over_prompts``: its standard error over prompts."""
    over_trainings = math.sqrt(variance(gains) / len(gains)) if len(gains) > 1 else 0.0
    error, value = math.hypot(over_prompts, over_trainings), fmean(gains)
    half = jackknife.student_t(jackknife.LEVEL, _freedom(over_prompts, prompts, over_trainings, len(gains))) * error
    return Interval(value, value - half, value + half)


def _gain(values: torch.Tensor, metric: str) -> torch.Tensor:
    way = compare.direction(metric)
    return -(values - 1).abs() if way == "→ 1" else -values if way == "↓" else values


def _freedom(over_prompts: float, prompts: int, over_trainings: float, trainings: int) -> int:
    """Of the sum of both variances (Welch 1947, Satterthwaite 1946), at least 1."""
    parts = [(over_prompts, prompts - 1), (over_trainings, trainings - 1)]
    below = sum(error**4 / freedom for error, freedom in parts if freedom > 0)
    if not below:
        return max(1, prompts - 1)
    return max(1, int((over_prompts**2 + over_trainings**2) ** 2 / below))


def means(trained: Sequence[Trained]) -> list[MetricRecord]:
    """One record a figure of every entry: the mean of its trainings, with the least and the greatest; or the only one."""
    groups: dict[tuple[str, int, str, str], list[MetricRecord]] = {}
    for one in trained:
        for r in one.records:
            groups.setdefault((r.model, r.steps, r.metric, r.features), []).append(r)
    return [group[0] if len(group) == 1 else _spread(group) for group in groups.values()]


def _spread(group: Sequence[MetricRecord]) -> MetricRecord:
    values = [r.value for r in group]
    return replace(over_trainings(group), low=min(values), high=max(values), interval="trainings")


def variety_share(record: MetricRecord, teacher: Sequence[MetricRecord]) -> float:
    """Variety over that of the teacher's most steps; nan where that was not measured alike."""
    alike = [r for r in teacher if (r.metric, r.features, r.seeds) == (record.metric, record.features, record.seeds)]
    most = max(alike, key=lambda r: r.steps, default=None)
    if record.metric not in VARIETY or most is None or most.value <= 0:
        return math.nan
    return record.value / most.value


def nearest(plan: Plan, trained: Sequence[Trained], found: Sequence[Pairing]) -> list[Nearest]:
    """Who is nearest to real pictures of every start and budget, by every judge, at every step count."""
    rows = [r for r in means(trained) if r.metric == "fd"]
    out = []
    for start, budget in dict.fromkeys((one.run.start, one.run.budget.name) for one in trained):
        for judge in dict.fromkeys(r.features.split("@")[0] for r in rows):
            for steps in plan.options.steps:
                own = [
                    r for r in rows
                    if r.features.startswith(f"{judge}@") and r.steps == steps and r.model.endswith(f"({start}, {budget})")
                ]  # fmt: skip
                if len(own) < 2:
                    continue
                first, second = sorted(own, key=lambda r: r.value)[:2]
                at = (first.model, "fd", judge, steps)
                beside = next((p for p in found if (p.entry, p.metric, p.judge, p.steps) == at), None)
                out.append(Nearest(start, budget, judge, steps, first, second, beside))
    return out


def facts(pairing: Pairing) -> Mapping[str, Any]:
    """A comparison as JSON has it."""
    g = pairing.gain
    return {
        "entry": pairing.entry, "against": pairing.against, "metric": pairing.metric, "judge": pairing.judge,
        "steps": pairing.steps, "trainings": pairing.trainings, "prompts": pairing.prompts, "mean": pairing.mean,
        "other": pairing.other, "gain": g.value, "low": g.low, "high": g.high, "margin": pairing.margin,
        "verdict": pairing.verdict,
    }  # fmt: skip
