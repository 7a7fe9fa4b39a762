"""What another encoding would take over a user's network, and the planner in a closed loop with it: the plan changes the wire."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.inference.budget import Budget, Choices, Plan, QualityLevel, ladder, plan, totals
from fewstep.inference.timings import Costs, Kind, Timings
from fewstep.server.sessions.wire_estimate import ENOUGH, IN_FLIGHT, WireEstimate

PNG, WEBP, JPEG = ("png", 512), ("webp", 512), ("jpeg", 512)
SENT = {PNG: 450e3, WEBP: 60e3, JPEG: 90e3}
COSTS = Costs({("onnx", 512): 15.0}, {PNG: 12.0, WEBP: 9.0, JPEG: 3.0}, {512: 15.0}, sent=SENT)
CHOICES = Choices((4, 2, 1), (512,), ("onnx",))
LADDER = ladder(CHOICES)


def travel_ms(latency_ms: float, mbit_s: float, sent: float) -> float:
    return latency_ms + 8e-3 * sent / mbit_s


def heard(estimate: WireEstimate, kind: Kind, ms: float, now: float, n: int = ENOUGH) -> float:
    """n pictures of a kind, a tenth of a second apart; when the last came."""
    for _ in range(n):
        now += 0.1
        estimate.add(kind, int(SENT[kind]), ms, now)
    return now


def test_nothing_is_known_before_a_few_pictures():
    estimate = WireEstimate()
    heard(estimate, PNG, 185.0, 0.0, ENOUGH - 1)
    assert estimate.wire_ms(SENT, 1.0) == {}


def test_what_was_never_tried_gets_the_better_of_the_two_ends():
    """One encoding in use cannot tell latency from bandwidth."""
    from_large, from_small = WireEstimate(), WireEstimate()
    heard(from_large, PNG, 185.0, 0.0)
    heard(from_small, WEBP, 29.0, 0.0)
    wire_ms = from_large.wire_ms(SENT, 1.0)
    assert wire_ms == pytest.approx({PNG: 185.0, WEBP: 185 * 60 / 450, JPEG: 185 * 90 / 450})
    assert from_small.wire_ms(SENT, 1.0) == pytest.approx(dict.fromkeys(SENT, 29.0))


def test_two_encodings_tell_latency_from_bandwidth():
    estimate = WireEstimate()
    now = heard(estimate, PNG, travel_ms(25, 20, 450e3), 0.0)
    now = heard(estimate, WEBP, travel_ms(25, 20, 60e3), now, IN_FLIGHT + ENOUGH)
    expected = {kind: travel_ms(25, 20, sent) for kind, sent in SENT.items()}
    assert estimate.wire_ms(SENT, now) == pytest.approx(expected, rel=0.01)


def test_a_users_own_bytes_count_and_not_the_typical_ones():
    estimate = WireEstimate()
    now = heard(estimate, PNG, travel_ms(25, 20, 450e3), 0.0)
    heard(estimate, WEBP, travel_ms(25, 20, 60e3), now, IN_FLIGHT + ENOUGH)
    smaller = {PNG: 45e3, WEBP: 6e3, JPEG: 9e3}
    assert estimate.wire_ms(smaller, now)[JPEG] == pytest.approx(travel_ms(25, 20, 90e3), rel=0.01)


def test_pictures_behind_one_of_another_kind_tell_nothing():
    estimate = WireEstimate()
    now = heard(estimate, PNG, 185.0, 0.0)
    now = heard(estimate, WEBP, 150.0, now, IN_FLIGHT)
    now = heard(estimate, WEBP, 29.0, now, ENOUGH)
    assert estimate.wire_ms(SENT, now)[WEBP] == pytest.approx(29.0)


def test_a_disturbance_that_passed_is_not_held_against_an_encoding():
    estimate = WireEstimate()
    now = heard(estimate, PNG, 40.0, 0.0, 200)
    now = heard(estimate, PNG, 900.0, now, 10)
    assert estimate.wire_ms(SENT, now)[PNG] == pytest.approx(900.0)
    now = heard(estimate, WEBP, 10.0, now, IN_FLIGHT + ENOUGH)
    assert estimate.wire_ms(SENT, now)[PNG] == pytest.approx(40.0, rel=0.01)


def test_what_is_remembered_fades_and_is_cut_to_what_is_possible():
    estimate = WireEstimate(fade_s=600)
    now = heard(estimate, PNG, 185.0, 0.0)
    now = heard(estimate, WEBP, 29.0, now, IN_FLIGHT + ENOUGH)
    assert estimate.wire_ms(SENT, now + 600)[PNG] == pytest.approx(29 + (185 - 29) / 2, rel=0.01)
    assert estimate.wire_ms(SENT, now + 60_000)[PNG] == pytest.approx(29.0)
    now = heard(estimate, WEBP, 4.0, now + 30, 200)  # the network became faster: all of it bandwidth is the most
    assert estimate.wire_ms(SENT, now)[PNG] < 4 * 450 / 60


Course = Callable[[float], float]


def drawn_over(
    latency_ms: Course, mbit_s: Course, jitter_ms: float, target_ms: float, seconds: float, fps: float = 0.4
) -> list[tuple[float, Plan]]:
    """Plans over time while every picture travels as it was planned; pictures differ in bytes by a tenth either way."""
    rng, estimate, current, course = random.Random(7), WireEstimate(), None, []
    for i in range(int(seconds * fps)):
        now = i / fps
        current = plan(Budget(target_ms), CHOICES, Timings(COSTS, wire_ms=estimate.wire_ms(SENT, now)), current, now)
        kind = current.encoder, current.size
        sent = SENT[kind] * rng.uniform(0.9, 1.1)
        jitter = rng.expovariate(1 / jitter_ms) if jitter_ms else 0.0
        estimate.add(kind, int(sent), travel_ms(latency_ms(now), mbit_s(now), sent) + jitter, now)
        course.append((now, current))
    return course


def mostly(course: list[tuple[float, Plan]]) -> QualityLevel:
    """The way that most of the second half was drawn with: an attempt may be under way when it ends."""
    plans = [current for _, current in course[len(course) // 2 :]]
    return LADDER[Counter(current.level for current in plans).most_common(1)[0][0]]


def really_ms(latency_ms: float, mbit_s: float) -> list[float]:
    """Every way's true time, with pictures that are large as they come."""
    wire_ms = {kind: travel_ms(latency_ms, mbit_s, 1.1 * sent) for kind, sent in SENT.items()}
    return totals(LADDER, Timings(COSTS, wire_ms=wire_ms))


@pytest.mark.parametrize(
    ("latency_ms", "mbit_s", "jitter_ms", "target_ms", "steps", "encoder"),
    [
        (5, 20, 0, 150, 4, "webp"),  # every step fits if the encoding is light: PNG alone takes 185 ms
        (3, 60, 4, 150, 4, "webp"),  # wifi
        (120, 1.5, 20, 150, 1, "webp"),  # 3G: nothing fits
    ],
)
def test_an_hour_over_a_steady_network_has_few_changes(
    latency_ms: float, mbit_s: float, jitter_ms: float, target_ms: float, steps: int, encoder: str
):
    course = drawn_over(lambda now: latency_ms, lambda now: mbit_s, jitter_ms, target_ms, 3600)
    assert (mostly(course).steps, mostly(course).encoder) == (steps, encoder)
    assert course[-1][1].changes <= 9


@settings(max_examples=5, deadline=None)
@given(
    latency_ms=st.floats(1, 200),
    mbit_s=st.sampled_from([0.5, 2.0, 5.0, 10.0, 20.0, 50.0, 300.0]),
    jitter_ms=st.sampled_from([0.0, 1.0, 5.0]),
    target_ms=st.floats(50, 600),
)
def test_any_steady_network_ends_at_the_best_way_that_fits(
    latency_ms: float, mbit_s: float, jitter_ms: float, target_ms: float
):
    course = drawn_over(lambda now: latency_ms, lambda now: mbit_s, jitter_ms, target_ms, 1200)
    level = LADDER.index(mostly(course))
    noisy = really_ms(latency_ms + 3.5 * jitter_ms, mbit_s)
    room = Budget(target_ms).room
    clearly_better = [i for i in range(level) if noisy[i] <= 0.9 * room * target_ms]
    assert not clearly_better
    slack = 1.05 * max(target_ms, min(noisy) / room)
    assert really_ms(latency_ms, mbit_s)[level] <= slack
    assert course[-1][1].changes <= 16


def test_it_follows_a_network_that_becomes_slow_and_fast_again():
    def mbit_s(now: float) -> float:
        return 8.0 if 300 < now < 900 else 100.0

    course = drawn_over(lambda now: 10.0, mbit_s, 1.0, 150, 1500)
    assert {p.shed for now, p in course if now < 300} == {()}
    slow = [p for now, p in course if 330 < now < 900]
    assert all(p.steps < 4 and p.expected_ms <= 150 for p in slow[len(slow) // 2 :])
    assert all(p.steps == 4 for now, p in course if now > 930)
    assert course[-1][1].shed == ()
    assert course[-1][1].changes <= 8
