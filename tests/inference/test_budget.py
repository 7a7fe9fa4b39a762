"""The planner on recorded and made-up traces, with a fake clock."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.inference.budget import SHED_ORDER, Budget, Choices, Plan, ladder, milliseconds, plan, predict, totals
from fewstep.inference.timings import Costs, Percentiles, StageClock, Timings
from fewstep.server.sessions.wire_estimate import WireEstimate

COSTS = Costs(
    network={("onnx", 64): 10.0, ("int8", 64): 6.0, ("onnx", 32): 4.0, ("int8", 32): 2.5},
    encode={("png", 64): 2.0, ("jpeg", 64): 0.2, ("png", 32): 0.5, ("jpeg", 32): 0.1},
    codec_out={64: 3.0, 32: 1.0},
    codec_in={64: 3.0, 32: 1.0},
    watermark={64: 0.2, 32: 0.1},
    other={64: 0.4, 32: 0.3},
    decode=0.3,
)
CHOICES = Choices(steps=(4, 2, 1), sizes=(64, 32), backends=("onnx", "int8"), encoders=("png", "jpeg"))


def total(steps: int, size: int, backend: str, encoder: str, slow: float = 1.0) -> float:
    network = steps * COSTS.network[backend, size]
    rest = COSTS.codec_out[size] + COSTS.watermark[size] + COSTS.other[size]
    return slow * (network + COSTS.encode[encoder, size] + rest)


def loaded(slow: float) -> Timings:
    return Timings(
        COSTS, load=dict.fromkeys(("network", "encode", "codec_out", "watermark", "codec_in", "decode", "other"), slow)
    )


def run(budget: Budget, load: Callable[[float], float], seconds: float, fps: float = 30.0) -> list[tuple[float, Plan]]:
    """Plans over time under a load that is a function of time."""
    course: list[tuple[float, Plan]] = []
    current = None
    for i in range(int(seconds * fps)):
        now = i / fps
        current = plan(budget, CHOICES, loaded(load(now)), current, now)
        course.append((now, current))
    return course


def test_the_best_way_is_taken_when_there_is_time():
    chosen = plan(Budget(100), CHOICES, loaded(1))
    assert (chosen.steps, chosen.size, chosen.backend, chosen.encoder, chosen.shed) == (4, 64, "onnx", "png", ())
    assert chosen.expected_ms == pytest.approx(total(4, 64, "onnx", "png"))
    assert chosen.fits


def test_prediction_names_every_stage_and_adds_up():
    timings = Timings(COSTS, wire_ms={("png", 64): 1.5}, wait_ratio=1.0, text_ms=2.0)
    stages = predict(ladder(CHOICES)[0], timings, with_picture=True)
    served = 0.3 + 2.0 + 3.0 + 40 + 3.0 + 0.2 + 2.0 + 0.4
    assert stages["wait"] == pytest.approx(served)
    assert sum(stages.values()) == pytest.approx(2 * served + 1.5)


def test_the_quick_sum_is_the_sum_of_the_stages():
    load, wire_ms = {"network": 2.0, "encode": 3.0, "decode": 1.5, "other": 1.2}, {("png", 64): 1.5, ("jpeg", 32): 0.5}
    timings = Timings(COSTS, load, wire_ms, wait_ratio=0.5, text_ms=2.0)
    for with_picture in (False, True):
        slowly = [sum(predict(quality, timings, with_picture).values()) for quality in ladder(CHOICES)]
        assert totals(ladder(CHOICES), timings, with_picture) == pytest.approx(slowly)


def test_what_is_shed_follows_the_stated_order():
    """Under a load that only rises, the plan gives up as little as will do, cheapest loss first."""
    course = run(Budget(100), lambda now: 1 + now / 4, 80)
    shed: list[tuple[str, ...]] = []
    for _, p in course:
        if not shed or p.shed != shed[-1]:
            shed.append(p.shed)
    assert shed[:5] == [(), ("encoder",), ("backend",), ("encoder", "backend"), ("steps",)]
    firsts = [next(i for i, s in enumerate(shed) if name in s) for name in SHED_ORDER]
    assert firsts == sorted(firsts)
    levels = [p.level for _, p in course]
    assert levels == sorted(levels)


def test_nothing_is_shed_for_a_short_hiccup():
    course = run(Budget(100), lambda now: 5.0 if 3 < now < 3.2 else 1.0, 10)
    assert {p.level for _, p in course} == {0}


def test_it_recovers_fully_when_the_load_goes_away():
    course = run(Budget(100), lambda now: 6.0 if 2 < now < 8 else 1.0, 30)
    during = [p for now, p in course if 3 < now < 8]
    assert all(p.shed and p.expected_ms <= 100 for p in during)
    after = [(now, p) for now, p in course if now > 8]
    recovered_at = next(now for now, p in after if not p.shed)
    assert recovered_at - 8 <= 2.0
    assert all(not p.shed for now, p in after if now > recovered_at)


@pytest.mark.parametrize("period", [0.2, 0.5, 2.0, 5.0, 11.0])
def test_it_never_oscillates_with_a_load_around_the_target(period: float):
    """Ten minutes of a load that swings across the edge of two qualities, at any pace: changes die out."""
    edge = 100 / total(4, 64, "onnx", "png")
    course = run(Budget(100), lambda now: edge * (1 + 0.3 * math.sin(2 * math.pi * now / period)), 600, fps=5)
    assert course[-1][1].changes <= 8
    assert len({p.level for now, p in course if now > 300}) == 1


def test_wrong_idle_costs_do_not_make_it_swing():
    """The better quality costs twice what was measured idle, so taking it back is always wrong: attempts must die out."""
    current, changes = None, []
    for i in range(3000):
        now = i / 5
        slow = 3.0 if current is None or current.level == 0 else 1.0
        before = current
        current = plan(Budget(100), CHOICES, loaded(slow), current, now)
        if before is not None and current.level != before.level:
            changes.append(now)
    assert len(changes) <= 18
    assert sum(now > 300 for now in changes) <= 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.3, 30), min_size=1, max_size=40), st.floats(5, 300))
def test_any_trace_ends_in_time_or_at_the_cheapest(loads: list[float], target: float):
    """Whatever came before, after two seconds of any steady load the plan meets the target if anything can."""
    course = run(Budget(target), lambda now: loads[min(int(now * 4), len(loads) - 1)], len(loads) / 4 + 2)
    last, slow = course[-1][1], loads[-1]
    cheapest = min(sum(predict(quality, loaded(slow)).values()) for quality in ladder(CHOICES))
    assert last.expected_ms <= max(target, cheapest / Budget(target).room)
    assert last.fits == (last.expected_ms <= target)


def test_the_same_facts_give_the_same_plan():
    assert run(Budget(40), lambda now: 1 + now % 3, 20) == run(Budget(40), lambda now: 1 + now % 3, 20)


def test_when_nothing_fits_it_takes_the_cheapest_and_says_so():
    chosen = plan(Budget(1), CHOICES, loaded(1))
    assert not chosen.fits
    assert (chosen.steps, chosen.size, chosen.backend) == (1, 32, "int8")
    assert chosen.shed == SHED_ORDER


def test_where_nothing_fits_it_does_not_swing_between_ways_that_are_as_good():
    current, choices = None, Choices((1,), (64,), ("onnx",), ("png", "jpeg"))
    for i in range(300):
        wire_ms = {("png", 64): 100.0 + i % 7, ("jpeg", 64): 103.0 - i % 5}
        current = plan(Budget(10), choices, Timings(COSTS, wire_ms=wire_ms), current, i / 2)
    assert current is not None
    assert not current.fits
    assert current.changes == 0
    wire_ms["png", 64] = 150.0
    for i in range(300, 303):
        current = plan(Budget(10), choices, Timings(COSTS, wire_ms=wire_ms), current, i / 2)
    assert current.encoder == "jpeg"


def test_waiting_for_others_counts():
    alone = plan(Budget(60), CHOICES, Timings(COSTS))
    crowded = plan(Budget(60), CHOICES, Timings(COSTS, wait_ratio=3.0))
    assert alone.steps == 4
    assert crowded.steps < 4


def test_a_pinned_choice_is_kept():
    chosen = plan(Budget(5), Choices((4,), (64,), ("onnx",), ("png",)), loaded(2))
    assert (chosen.steps, chosen.fits, chosen.shed) == (4, False, ())


@pytest.mark.parametrize(("text", "ms"), [("100ms", 100), ("0.1s", 100), ("25fps", 40), ("33.5", 33.5), (" 1 s", 1000)])
def test_targets_are_read(text: str, ms: float):
    assert milliseconds(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["", "fast", "-3ms", "0ms", "10 minutes", "1e3"])
def test_targets_that_make_no_sense_are_refused(text: str):
    with pytest.raises(ValueError, match="100ms"):
        milliseconds(text)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="more than 0"):
        Budget(0)
    with pytest.raises(ValueError, match="sizes"):
        Choices((1,), ())


def test_percentiles_of_a_window():
    p = Percentiles(size=100, seconds=10)
    assert p.at(0.5, 0) is None
    for i in range(101):
        p.add(float(i), now=i / 100)
    assert p.many((0, 0.5, 0.99, 1), 1.0) == pytest.approx([1, 50.5, 99.01, 100])
    assert p.rate(1.0) == pytest.approx(100 / 0.99)
    assert p.at(0.5, 100.0) is None  # all too old
    assert p.rate(100.0) == 0


@pytest.mark.parametrize("fps", [5, 76, 250])
def test_what_people_are_shown_covers_the_half_minute_that_it_says(fps: int):
    """However many pictures are drawn: 20 s ago every tenth was slow, since then none was."""
    clock = StageClock(COSTS)
    for i in range(30 * fps):
        slow = i < 10 * fps and i % 10 == 0
        clock.note("network", 50.0 if slow else 10.0, i / fps)
    median, tail = clock.percentiles(30.0, (0.5, 0.98))["network"]
    assert (median, tail) == pytest.approx((10.0, 50.0))
    assert clock.percentiles(41.0, (0.5, 0.999))["network"] == pytest.approx([10.0, 10.0])


def test_a_rate_with_room_to_spare_is_over_the_whole_window():
    p = Percentiles(size=1000, seconds=10)
    for i in range(20):
        p.add(1.0, now=100 + i / 2)
    assert p.rate(109.5) == pytest.approx(2.0)


def test_load_is_measured_against_idle_costs_and_fades():
    clock = StageClock(COSTS)
    for i in range(20):
        clock.note("network", 30.0, i / 10, idle_ms=10.0)
        clock.note_wait(12.0, 6.0, i / 10)
    timings = clock.timings(2.0)
    assert timings.factor("network") == pytest.approx(3.0)
    assert timings.factor("encode") == 1.0
    assert timings.wait_ratio == pytest.approx(2.0)
    assert list(clock.percentiles(2.0)) == ["wait", "network"]
    assert clock.percentiles(2.0)["network"] == pytest.approx([30, 30, 30])
    assert clock.timings(60.0) == Timings(COSTS)


# recorded: benchmarks/traces.py

RECORDED = json.loads((Path(__file__).parents[1] / "assets" / "traces.json").read_text())
ALONE, TEN, FIFTY, SLOW = RECORDED["traces"]


def recorded_costs() -> Costs:
    """What the recorded server had measured before it served."""
    costs = dict(RECORDED["costs"])
    for name in ("network", "encode", "sent"):
        costs[name] = {(kind, int(size)): ms for (kind, size), ms in ((k.split(), v) for k, v in costs[name].items())}
    for name in ("codec_in", "codec_out", "watermark", "other"):
        costs[name] = {int(size): ms for size, ms in costs[name].items()}
    return Costs(**costs)


def replay(names: Sequence[str], target_ms: float) -> list[tuple[float, str, Plan]]:
    """Plans while the recorded pictures come by, trace after trace; a picture travels as long as its plan's bytes take."""
    costs, estimate, current, course, began = recorded_costs(), WireEstimate(), None, [], 0.0
    clock, ((backend, size),) = StageClock(costs), tuple(costs.network)
    choices = Choices((4, 2, 1), (size,), (backend,))
    for name in names:
        for row in RECORDED["traces"][name]:
            seen = dict(zip(RECORDED["columns"], row))
            now = began + seen["at_s"]
            idle = {stage: getattr(costs, stage)[size] for stage in ("codec_in", "codec_out", "watermark", "other")}
            idle |= {"network": seen["steps"] * costs.network[backend, size], "decode": costs.decode}
            idle |= {"encode": costs.encode[seen["encoder"], size]}
            for stage, ms in idle.items():
                clock.note(stage, seen[stage], now, ms)
            clock.note_wait(seen["wait"], seen["text"] + sum(seen[stage] for stage in idle), now)
            timings = replace(clock.timings(now), wire_ms=estimate.wire_ms(costs.sent, now))
            current = plan(Budget(target_ms), choices, timings, current, now, with_picture=True)
            sent = costs.sent[current.encoder, size]
            longer = sent / seen["bytes"] if name == SLOW else 1.0
            estimate.add((current.encoder, size), int(sent), seen["wire"] * longer, now)
            course.append((now, name, current))
        began = now + 1.0
    return course


ROOMY_MS = 800.0
"""Enough for the best way while one draws on the machine that was recorded, which was busy with other work."""


def test_recorded_pictures_of_one_person_change_nothing():
    course = replay([ALONE] * 4, ROOMY_MS)
    assert {current.shed for now, _, current in course if now > 5} == {()}
    assert course[-1][2].changes <= 2


@pytest.mark.parametrize("crowd", [TEN, FIFTY])
def test_a_recorded_crowd_is_shed_for_at_once_and_recovered_from(crowd: str):
    course = replay([ALONE, crowd, ALONE, ALONE, ALONE], ROOMY_MS)
    came = next(now for now, name, _ in course if name == crowd)
    shed_at = next(now for now, _, current in course if now > came and "steps" in current.shed)
    assert shed_at - came < 5 + Budget(ROOMY_MS).patience_s  # the window that load is told from
    left = max(now for now, name, _ in course if name == crowd)
    assert all("steps" in current.shed for now, _, current in course if shed_at < now <= left)
    assert next(now for now, _, current in course if now > left and not current.shed) - left < 15
    assert course[-1][2].shed == ()
    assert course[-1][2].changes <= 6


@pytest.mark.parametrize("target_ms", [300.0, 1200.0, 2000.0])
def test_a_recorded_slow_network_ends_at_one_way(target_ms: float):
    course = replay([SLOW] * 12, target_ms)
    assert course[-1][2].changes <= 8
    assert len({current.level for _, _, current in course[len(course) // 2 :]}) <= 2
