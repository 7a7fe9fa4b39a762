"""The latency budget: what may be spent on a picture so that it is there in time. Pure: the same facts, the same plan.

The user states an end-to-end target first. Choices stand on a ladder, best first; the plan is the best quality whose
predicted time fits. What is given up, in this order, as little of it as will do:

1. ``encoder``  how the picture travels (PNG, then WebP, then JPEG): nobody sees it
2. ``backend``  what runs the network, from the most exact to the fastest
3. ``steps``    network evaluations a picture
4. ``size``     pixels

Each thing given up earlier is taken back before the next is touched (an odometer, ``encoder`` its fastest wheel). The
plan sheds when the target has been missed for ``patience_s``, and takes back when a better quality has fitted with room to
spare for ``hold_s``. Each time that taking back proves too early ``hold_s`` doubles, and only a plan that was taken back
and stood for ``settled_s`` halves it again: attempts die out, so the picture never flips between two qualities. What the
wire would take for another encoding is `Link`'s estimate.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from .timings import STAGES, Timings

SHED_ORDER = ("encoder", "backend", "steps", "size")
"""The order in which quality is given up, first to last."""


@dataclass(frozen=True)
class Budget:
    """What the user wants."""

    target_ms: float
    """End to end: from the moment something changes on the user's screen to the new picture on it."""
    room: float = 0.85
    """A better quality must fit into this share of the target before it is taken."""
    patience_s: float = 0.25
    """The target must be missed for this long before anything is shed."""
    hold_s: float = 1.5
    """A better quality must fit for this long before it is taken."""
    longest_hold_s: float = 86400.0
    """``hold_s`` doubles up to this."""
    settled_s: float = 600.0
    """A plan that was taken back and has stood for this long halves the grown ``hold_s``."""

    def __post_init__(self) -> None:
        if not self.target_ms > 0:
            raise ValueError(f"a budget of {self.target_ms:g} ms is impossible: use more than 0, for example 100ms")


@dataclass(frozen=True)
class Choices:
    """The choices of each kind, the best first."""

    steps: tuple[int, ...]
    sizes: tuple[int, ...]
    backends: tuple[str, ...] = ("eager",)
    encoders: tuple[str, ...] = ("png", "webp", "jpeg")

    def __post_init__(self) -> None:
        for name in ("steps", "sizes", "backends", "encoders"):
            if not getattr(self, name):
                raise ValueError(f"there is nothing to choose from in {name}: give at least one")


@dataclass(frozen=True)
class QualityLevel:
    """One way to draw."""

    steps: int
    size: int
    backend: str
    encoder: str


@dataclass(frozen=True)
class Plan:
    """How to draw now, and what the planner has to remember."""

    steps: int
    size: int
    backend: str
    encoder: str
    expected_ms: float
    """Predicted end-to-end time."""
    fits: bool
    """False where even the cheapest way misses the target."""
    shed: tuple[str, ...] = ()
    """The kinds in which this plan is below the best choice, in the order of SHED_ORDER."""
    level: int = 0
    """Place on the ladder; 0 is the best."""
    since: float = 0.0
    """When this quality was taken."""
    missing_since: float | None = None
    """Since when the target has been missed."""
    better_since: float | None = None
    """Since when a better quality would fit."""
    hold_s: float = 0.0
    """How long a better quality has to fit now; grows when taking back was too early."""
    took_back: bool = False
    """Whether this quality was reached by taking back."""
    changes: int = field(default=0, compare=False)
    """How often the quality has changed."""


@lru_cache(256)
def ladder(choices: Choices) -> tuple[QualityLevel, ...]:
    """Every way to draw, best first."""
    everything = itertools.product(choices.sizes, choices.steps, choices.backends, choices.encoders)
    return tuple(QualityLevel(steps, size, backend, encoder) for size, steps, backend, encoder in everything)


def predict(quality: QualityLevel, timings: Timings, with_picture: bool = False) -> dict[str, float]:
    """Milliseconds by stage for one way to draw, under the load of now."""
    costs, size = timings.costs, quality.size
    stages = {
        "decode": costs.decode * timings.factor("decode") if with_picture else 0.0,
        "text": timings.text_ms,
        "codec_in": costs.codec_in.get(size, 0.0) * timings.factor("codec_in") if with_picture else 0.0,
        "network": quality.steps * costs.network[quality.backend, size] * timings.factor("network"),
        "codec_out": costs.codec_out[size] * timings.factor("codec_out"),
        "watermark": costs.watermark.get(size, 0.0) * timings.factor("watermark"),
        "encode": costs.encode[quality.encoder, size] * timings.factor("encode"),
        "other": costs.other.get(size, 0.0) * timings.factor("other"),
    }
    served = sum(stages.values())
    stages |= {"wait": served * timings.wait_ratio, "wire": timings.wire_ms.get((quality.encoder, size), 0.0)}
    return {name: stages[name] for name in STAGES}


@dataclass(frozen=True)
class PredictedLatency:
    """A quality, and where its time would go."""

    quality: QualityLevel
    stages_ms: Mapping[str, float]
    """By the names of STAGES."""

    @property
    def total_ms(self) -> float:
        """End to end."""
        return sum(self.stages_ms.values())


def latencies(choices: Choices, timings: Timings, with_picture: bool = False) -> list[PredictedLatency]:
    """Every way to draw, best first, as `predict` sees it: for people."""
    return [PredictedLatency(quality, predict(quality, timings, with_picture)) for quality in ladder(choices)]


def totals(qualities: Sequence[QualityLevel], timings: Timings, with_picture: bool = False) -> list[float]:
    """`predict`, summed, for many qualities: a plan is made for every picture, so this does no work twice."""
    costs, factor = timings.costs, timings.factor
    slow = {stage: factor(stage) for stage in ("network", "codec_in", "codec_out", "watermark", "encode", "other")}
    same = timings.text_ms + (costs.decode * factor("decode") if with_picture else 0.0)
    by_size = {
        size: same
        + (costs.codec_in.get(size, 0.0) * slow["codec_in"] if with_picture else 0.0)
        + costs.codec_out[size] * slow["codec_out"]
        + costs.watermark.get(size, 0.0) * slow["watermark"]
        + costs.other.get(size, 0.0) * slow["other"]
        for size in {quality.size for quality in qualities}
    }
    waiting = 1 + timings.wait_ratio
    return [
        timings.wire_ms.get((r.encoder, r.size), 0.0)
        + waiting
        * (
            by_size[r.size]
            + r.steps * costs.network[r.backend, r.size] * slow["network"]
            + costs.encode[r.encoder, r.size] * slow["encode"]
        )
        for r in qualities
    ]


def plan(
    budget: Budget,
    choices: Choices,
    timings: Timings,
    previous: Plan | None = None,
    now: float = 0.0,
    with_picture: bool = False,
) -> Plan:
    """The plan for the next picture; ``previous`` is the one before it, made from the same choices."""
    qualities = ladder(choices)
    costs = totals(qualities, timings, with_picture)
    if previous is None:
        level = _first(costs, range(len(qualities)), budget.target_ms * budget.room)
        return _at(
            budget, choices, qualities, costs, Plan(0, 0, "", "", 0, True, hold_s=budget.hold_s, since=now), level
        )
    state = replace(previous, level=min(previous.level, len(qualities) - 1))
    if costs[state.level] > budget.target_ms:
        return _missing(budget, choices, qualities, costs, state, now)
    return _meeting(budget, choices, qualities, costs, state, now)


def best(budget: Budget, choices: Choices, timings: Timings, with_picture: bool = False) -> Plan:
    """The plan that sheds nothing, whatever it takes."""
    qualities = ladder(choices)
    costs = totals(qualities[:1], timings, with_picture)
    return _at(budget, choices, qualities, costs, Plan(0, 0, "", "", 0, True), 0)


def _missing(
    budget: Budget, choices: Choices, qualities: Sequence[QualityLevel], costs: Sequence[float], state: Plan, now: float
) -> Plan:
    """The target is missed: shed, if it has been for long enough and there is something to shed."""
    since = now if state.missing_since is None else state.missing_since
    state = replace(state, missing_since=since, better_since=None)
    level = state.level
    if now - since >= budget.patience_s:
        level = _first(costs, range(state.level + 1, len(qualities)), budget.target_ms)
        if costs[level] > budget.target_ms and costs[level] >= costs[state.level] * budget.room:
            level = state.level
    if level == state.level:
        return _at(budget, choices, qualities, costs, state, level)
    hold_s = min(2 * state.hold_s, budget.longest_hold_s) if state.took_back else state.hold_s
    moved = replace(state, since=now, missing_since=None, hold_s=hold_s, took_back=False, changes=state.changes + 1)
    return _at(budget, choices, qualities, costs, moved, level)


def _meeting(
    budget: Budget, choices: Choices, qualities: Sequence[QualityLevel], costs: Sequence[float], state: Plan, now: float
) -> Plan:
    """The target is met: take something back, if it would have fitted for long enough."""
    if state.took_back and now - state.since >= budget.settled_s:
        state = replace(state, took_back=False, hold_s=max(budget.hold_s, state.hold_s / 2))
    state = replace(state, missing_since=None)
    fitting = [i for i in range(state.level) if costs[i] <= budget.target_ms * budget.room]
    if not fitting:
        return _at(budget, choices, qualities, costs, replace(state, better_since=None), state.level)
    since = now if state.better_since is None else state.better_since
    if now - since < state.hold_s:
        return _at(budget, choices, qualities, costs, replace(state, better_since=since), state.level)
    moved = replace(state, since=now, better_since=None, took_back=True, changes=state.changes + 1)
    return _at(budget, choices, qualities, costs, moved, fitting[0])


def _first(costs: Sequence[float], levels: Sequence[int], limit_ms: float) -> int:
    """The best of ``levels`` that fits; the cheapest way of all where none does."""
    for level in levels:
        if costs[level] <= limit_ms:
            return level
    return min(range(len(costs)), key=costs.__getitem__)


def _at(
    budget: Budget, choices: Choices, qualities: Sequence[QualityLevel], costs: Sequence[float], state: Plan, level: int
) -> Plan:
    quality, best = qualities[level], qualities[0]
    shed = tuple(name for name in SHED_ORDER if getattr(quality, name) != getattr(best, name))
    expected = costs[level]
    return replace(
        state,
        steps=quality.steps,
        size=quality.size,
        backend=quality.backend,
        encoder=quality.encoder,
        level=level,
        shed=shed,
        expected_ms=expected,
        fits=expected <= budget.target_ms,
    )


def milliseconds(text: str) -> float:
    """Read a target: ``100ms``, ``0.1s``, ``30fps`` or a bare number of milliseconds. ValueError names these forms."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|fps)?\s*", text)
    if not found or not float(found[1]):
        raise ValueError(f"{text!r} is not a time: write for example 100ms, 0.1s or 30fps")
    value = float(found[1])
    return {"s": 1000 * value, "fps": 1000 / value}.get(found[2] or "ms", value)
