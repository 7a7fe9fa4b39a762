"""Slots, fair turns and the queue at the door: no clock but the one handed in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep.inference.session import Full, Room, Session, Slot, Turn, Turns


def kind(_session: Session, request: str) -> str:
    return request[0]


def room_of(*names: str) -> Turns[str, str]:
    turns: Turns[str, str] = Turns()
    for name in names:
        turns.join(Session(name))
    return turns


def drawn(turns: Turns[str, str], *of: Any, **options: Any) -> list[Turn[str, str]]:
    """The next batch, drawn at once."""
    batch = turns.next_batch(*of, **options)
    turns.done(batch)
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
    turns = room_of("fast", "slow", "other")
    sessions = {s.id: s for s in turns}
    served = []
    for now in range(300):
        for _ in range(5):
            sessions["fast"].ask("x", now)
        if now % 2 == 0:
            sessions["slow"].ask("x", now)
        sessions["other"].ask("x", now)
        served += [turn.session.id for turn in drawn(turns, kind)]
    counts = {name: served.count(name) for name in sessions}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sessions["fast"].drops > 1000


def test_whoever_is_being_drawn_has_no_second_turn_meanwhile():
    turns = room_of("a", "b")
    for session in turns:
        session.ask("x", 0)
    first = turns.next_batch(kind)
    next(iter(turns)).ask("x", 1)
    second = turns.next_batch(kind)
    assert [turn.session.id for turn in (*first, *second)] == ["a", "b"]
    assert turns.next_batch(kind) == []
    turns.done(first)
    assert [turn.session.id for turn in turns.next_batch(kind)] == ["a"]


def test_a_newcomer_stands_behind_those_who_wait():
    turns = room_of("a", "b")
    for session in turns:
        session.ask("x", 0)
    late = Session[str, str]("late")
    turns.join(late)
    late.ask("x", 0)
    assert [drawn(turns, kind)[0].session.id for _ in range(3)] == ["a", "b", "late"]
    turns.leave("a")
    turns.join(Session("a"))  # leaving and coming again gains nothing
    for session in turns:
        session.ask("x", 1)
    assert [drawn(turns, kind)[0].session.id for _ in range(3)] == ["b", "late", "a"]


def test_only_requests_of_one_kind_join_and_only_in_compiled_sizes():
    turns = room_of(*"abcdef")
    for session, request in zip(turns, ["small", "large", "small", "small", "large", "small"]):
        session.ask(request, 0)
    batches = []
    while batch := drawn(turns, kind, sizes=(1, 2, 4)):
        batches.append("".join(turn.session.id for turn in batch))
    assert batches == ["acdf", "be"]
    for session in list(turns)[:3]:
        session.ask("small", 0)
    assert [len(drawn(turns, kind, sizes=(1, 2, 4))) for _ in range(3)] == [2, 1, 0]


def test_the_longest_waiting_is_served_though_others_make_a_larger_batch():
    turns = room_of("odd", "b", "c", "d", "e")
    for session in turns:
        session.ask("odd" if session.id == "odd" else "same", 0)
    assert [turn.session.id for turn in drawn(turns, kind, sizes=(1, 4))] == ["odd"]
    assert [turn.session.id for turn in drawn(turns, kind, sizes=(1, 4))] == ["b", "c", "d", "e"]


def test_leaving_forgets_what_waits():
    turns = room_of("a", "b")
    for session in turns:
        session.ask("x", 0)
    turns.leave("a")
    assert [turn.session.id for turn in drawn(turns, kind)] == ["b"]
    turns.leave("never here")


def test_the_queue_at_the_door():
    room = Room(places=2, queue=2)
    assert [room.enter(name) for name in "abcd"] == [0, 0, 1, 2]
    with pytest.raises(Full, match="try again later"):
        room.enter("e")
    assert room.leave("c") == []  # gave up in the queue
    assert room.position("d") == 1
    assert room.leave("a") == ["d"]
    assert (room.position("d"), room.inside, room.waiting) == (0, 2, 0)
    assert room.leave("nobody") == []


def test_an_address_has_its_share_of_the_room_and_of_the_queue():
    room = Room(places=4, queue=4, places_each=2, queue_each=2)
    assert [room.enter(name, "storm") for name in "abcd"] == [0, 0, 1, 2]
    with pytest.raises(Full, match="its share"):
        room.enter("e", "storm")
    assert [room.enter(name, "other") for name in "ghi"] == [0, 0, 3], "two places and half the queue are theirs"
    assert room.leave("g") == ["i"], "who waits for his own address's places is passed"
    assert room.leave("a") == ["c"]
    assert (room.inside, room.waiting, room.position("d")) == (4, 1, 1)
    assert Room(2, 2).places_each == 2, "without shares one may have all"


def test_nobody_jumps_the_queue():
    room = Room(places=1, queue=3)
    assert [room.enter(name) for name in "abc"] == [0, 1, 2]
    assert room.leave("a") == ["b"]
    assert room.enter("a") == 2
    assert [room.leave("b"), room.leave("c")] == [["c"], ["a"]]
