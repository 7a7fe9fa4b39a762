"""Slots, fair turns and admission with its queue: no clock but the one handed in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.inference.cache import Cache
from fewstep.server.sessions.scheduler import Admission, Dispatch, FairQueueing, Full, Scheduler, Session, Slot


def kind(_session: Session, request: str) -> str:
    return request[0]


def scheduler_of(*names: str) -> Scheduler[str, str]:
    scheduler: Scheduler[str, str] = Scheduler()
    for name in names:
        scheduler.join(Session(name))
    return scheduler


def drawn(scheduler: Scheduler[str, str], *of: Any, **options: Any) -> list[Dispatch[str, str]]:
    """The next batch, drawn at once."""
    batch = scheduler.next_batch(*of, **options)
    scheduler.done(batch)
    return batch


def test_slot_keeps_the_newest_and_counts_the_rest():
    slot: Slot[str] = Slot()
    assert slot.take() is None
    assert [slot.put(frame, now) for now, frame in enumerate("abc")] == [False, True, True]
    held = slot.take()
    assert held is not None
    assert (held.value, held.put_at, slot.overwritten) == ("c", 2, 2)
    assert slot.take() is None
    slot.put("d", 3)
    assert (slot.take().value, slot.overwritten) == ("d", 2)


@given(st.lists(st.sampled_from(["put", "take"]), max_size=60))
def test_slot_loses_nothing_uncounted(actions: list[str]):
    slot: Slot[int] = Slot()
    taken = []
    for number, action in enumerate(actions):
        if action == "put":
            slot.put(number, number)
        elif (held := slot.take()) is not None:
            taken.append(held.value)
    assert taken == sorted(taken)
    assert actions.count("put") == len(taken) + slot.overwritten + slot.full


def test_turns_are_fair_however_fast_one_asks():
    scheduler = scheduler_of("fast", "slow", "other")
    sessions = {s.id: s for s in scheduler}
    served = []
    for now in range(300):
        for _ in range(5):
            sessions["fast"].submit("x", now)
        if now % 2 == 0:
            sessions["slow"].submit("x", now)
        sessions["other"].submit("x", now)
        served += [dispatch.session.id for dispatch in drawn(scheduler, kind)]
    counts = {name: served.count(name) for name in sessions}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sessions["fast"].drops > 1000


def test_whoever_is_being_drawn_has_no_second_turn_meanwhile():
    scheduler = scheduler_of("a", "b")
    for session in scheduler:
        session.submit("x", 0)
    first = scheduler.next_batch(kind)
    next(iter(scheduler)).submit("x", 1)
    second = scheduler.next_batch(kind)
    assert [dispatch.session.id for dispatch in (*first, *second)] == ["a", "b"]
    assert scheduler.next_batch(kind) == []
    scheduler.done(first)
    assert [dispatch.session.id for dispatch in scheduler.next_batch(kind)] == ["a"]


def test_a_newcomer_stands_behind_those_who_wait():
    scheduler = scheduler_of("a", "b")
    for session in scheduler:
        session.submit("x", 0)
    late = Session[str, str]("late")
    scheduler.join(late)
    late.submit("x", 0)
    assert [drawn(scheduler, kind)[0].session.id for _ in range(3)] == ["a", "b", "late"]
    scheduler.leave("a")
    scheduler.join(Session("a"))  # leaving and coming again gains nothing
    for session in scheduler:
        session.submit("x", 1)
    assert [drawn(scheduler, kind)[0].session.id for _ in range(3)] == ["b", "late", "a"]


def test_only_requests_of_one_kind_join_and_only_in_compiled_sizes():
    scheduler = scheduler_of(*"abcdef")
    for session, request in zip(scheduler, ["small", "large", "small", "small", "large", "small"]):
        session.submit(request, 0)
    batches = []
    while batch := drawn(scheduler, kind, sizes=(1, 2, 4)):
        batches.append("".join(dispatch.session.id for dispatch in batch))
    assert batches == ["acdf", "be"]
    for session in list(scheduler)[:3]:
        session.submit("small", 0)
    assert [len(drawn(scheduler, kind, sizes=(1, 2, 4))) for _ in range(3)] == [2, 1, 0]


def test_the_longest_waiting_is_served_though_others_make_a_larger_batch():
    scheduler = scheduler_of("odd", "b", "c", "d", "e")
    for session in scheduler:
        session.submit("odd" if session.id == "odd" else "same", 0)
    assert [dispatch.session.id for dispatch in drawn(scheduler, kind, sizes=(1, 4))] == ["odd"]
    assert [dispatch.session.id for dispatch in drawn(scheduler, kind, sizes=(1, 4))] == ["b", "c", "d", "e"]


def test_leaving_forgets_what_waits():
    scheduler = scheduler_of("a", "b")
    for session in scheduler:
        session.submit("x", 0)
    scheduler.leave("a")
    assert [dispatch.session.id for dispatch in drawn(scheduler, kind)] == ["b"]
    scheduler.leave("never here")


def test_the_queue_at_the_door():
    admission = Admission(capacity=2, queue=2)
    assert [admission.enter(name) for name in "abcd"] == [0, 0, 1, 2]
    with pytest.raises(Full, match="try again later"):
        admission.enter("e")
    assert admission.leave("c") == []  # gave up in the queue
    assert admission.position("d") == 1
    assert admission.leave("a") == ["d"]
    assert (admission.position("d"), admission.active, admission.waiting) == (0, 2, 0)
    assert admission.leave("nobody") == []


def test_an_address_has_its_share_of_the_room_and_of_the_queue():
    admission = Admission(capacity=4, queue=4, capacity_each=2, queue_each=2)
    assert [admission.enter(name, "storm") for name in "abcd"] == [0, 0, 1, 2]
    with pytest.raises(Full, match="its share"):
        admission.enter("e", "storm")
    assert [admission.enter(name, "other") for name in "ghi"] == [0, 0, 3], "two places and half the queue are theirs"
    assert admission.leave("g") == ["i"], "who waits for his own address's places is passed"
    assert admission.leave("a") == ["c"]
    assert (admission.active, admission.waiting, admission.position("d")) == (4, 1, 1)
    assert Admission(2, 2).capacity_each == 2, "without shares one may have all"


def test_nobody_jumps_the_queue():
    admission = Admission(capacity=1, queue=3)
    assert [admission.enter(name) for name in "abc"] == [0, 1, 2]
    assert admission.leave("a") == ["b"]
    assert admission.enter("a") == 2
    assert [admission.leave("b"), admission.leave("c")] == [["c"], ["a"]]


def test_sixteen_sessions_of_one_address_weigh_as_much_as_one_of_another():
    scheduler: Scheduler[str, str] = Scheduler()
    names = {"live": ("1.1.1.1", "live"), "also": ("2.2.2.2", "also")} | {f"r{n}": ("2.2.2.2", "single") for n in range(16)}
    sessions = {name: Session[str, str](name, client_key) for name, client_key in names.items()}
    for session in sessions.values():
        scheduler.join(session)
    served = []
    for now in range(400):
        for session in sessions.values():
            session.submit("x", now)
        served += [dispatch.session.id for dispatch in drawn(scheduler, kind)]
    assert served.count("live") == 200
    assert served.count("also") == 100, "in their address its live session counts as much as all single pictures together"
    assert {served.count(f"r{n}") for n in range(16)} <= {6, 7}


def test_a_share_is_of_the_time_and_not_of_the_turns():
    """One address's pictures take four times as long: it has a fifth of the turns, and as much time as the other."""
    scheduler: Scheduler[str, str] = Scheduler()
    slow, quick = Session[str, str]("slow", ("a", "slow")), Session[str, str]("quick", ("b", "quick"))
    for session in (slow, quick):
        scheduler.join(session)
    served = []
    for now in range(100):
        for session in (slow, quick):
            session.submit("x", now)
        served += [t.session.id for t in drawn(scheduler, kind, cost=lambda session: 4.0 if session is slow else 1.0)]
    assert served.count("slow") == 20


def test_who_rests_saves_nothing_up():
    fairness = FairQueueing()
    fairness.join(("a",))
    fairness.join(("b",))
    for _ in range(50):
        fairness.serve(("a",))
    for _ in range(2):
        fairness.serve(("b",))
    assert fairness.place(("a",)) < fairness.place(("b",)) or fairness.place(("b",))[0] >= 49


def test_a_party_that_is_gone_leaves_nothing_behind():
    fairness = FairQueueing()
    for number in range(1000):
        fairness.join((f"{number}", "x"))
        fairness.serve((f"{number}", "x"))
        fairness.leave((f"{number}", "x"))
    assert not fairness._members
    assert not fairness._had
    assert not fairness._served
    assert len(fairness._now) <= 1


def test_who_may_not_is_passed_by():
    scheduler = scheduler_of("a", "b")
    for session in scheduler:
        session.submit("x", 0)
    batch = scheduler.next_batch(kind, may=lambda session, asked: session.id != "a")
    assert [dispatch.session.id for dispatch in batch] == ["b"]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=80))
def test_a_cache_never_holds_more_bytes_than_it_may(puts: list[tuple[int, int]]):
    cache: Cache[int, int] = Cache(100)
    for key, size in puts:
        cache.put(key, size, size)
        assert cache.nbytes <= 100
        assert cache.nbytes == sum(value for k in range(21) if (value := cache.get(k)) is not None)


def test_a_cache_forgets_what_was_used_longest_ago():
    cache: Cache[str, str] = Cache(30)
    for name in "abc":
        cache.put(name, name, 10)
    assert cache.get("a") == "a"
    cache.put("d", "d", 10)
    assert [name in cache for name in "abcd"] == [True, False, True, True]
    cache.put("huge", "huge", 31)
    assert len(cache) == 0
    assert cache.nbytes == 0
