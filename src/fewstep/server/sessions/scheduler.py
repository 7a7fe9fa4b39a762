"""One user's state, and whose turn it is. Pure: time is an argument, nothing here waits, draws or locks.

A slot holds one thing, the newest. What is overwritten is counted and gone: a queue would only make every later picture
older. Sessions take turns, the one served longest ago first; requests that fit into the same network call may join it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


@dataclass(frozen=True)
class Held(Generic[T]):
    """What a slot gave out."""

    value: T
    put_at: float
    """When it was put in, in seconds of the caller's clock."""


class Slot(Generic[T]):
    """Room for one, the newest. Putting into a full slot overwrites, and counts it."""

    def __init__(self) -> None:
        self._held: tuple[T, float] | None = None
        self.overwritten = 0

    @property
    def full(self) -> bool:
        """Whether something waits here."""
        return self._held is not None

    def put(self, value: T, now: float) -> bool:
        """Leave ``value`` here; True if an older one was overwritten."""
        overwrote = self._held is not None
        self._held = (value, now)
        self.overwritten += overwrote
        return overwrote

    def miss(self) -> bool:
        """Count what came too late to be put here as overwritten; True, as `put` says it."""
        self.overwritten += 1
        return True

    def peek(self) -> T | None:
        """What waits here, left in place."""
        return None if self._held is None else self._held[0]

    def take(self) -> Held[T] | None:
        """Empty the slot; None if nothing waits."""
        if self._held is None:
            return None
        (value, put_at), self._held = self._held, None
        return Held(value, put_at)

    def clear(self) -> None:
        """Forget what waits, without counting it."""
        self._held = None


Party = tuple[str, ...]
"""Whom a piece of work counts for, from the large to the small: an address, and in it a session."""


class Fair:
    """Whose turn it is, level by level: the address that has had least, and in it the session that has.

    So an address with sixteen sessions weighs as much as one with one, and pictures of four steps four times as much as those
    of one. Who wants nothing for a while saves nothing up, and a newcomer stands behind all who are here: start-time fair
    queueing (Goyal, Vin and Cheng 1997), at every level.
    """

    def __init__(self) -> None:
        self._members: Counter[Party] = Counter()
        self._had: dict[Party, float] = {}
        self._served: dict[Party, int] = {}
        self._now: dict[Party, float] = {}
        """By the level above: what who was served last had had by then."""
        self._clock = itertools.count(1)

    def join(self, party: Party) -> None:
        """One more piece of this party's work is here."""
        for level in _levels(party):
            if not self._members[level]:
                beside = (had for other, had in self._had.items() if other[:-1] == level[:-1])
                self._had[level], self._served[level] = max(beside, default=0.0), next(self._clock)
            self._members[level] += 1

    def leave(self, party: Party) -> None:
        """One less; who has none any more is forgotten."""
        for level in _levels(party):
            self._members[level] -= 1
            if not self._members[level]:
                del self._members[level], self._had[level], self._served[level]
                self._now.pop(level, None)

    def serve(self, party: Party, cost: float = 1.0) -> None:
        """It has its turn, which costs so much."""
        for level in _levels(party):
            self._now[level[:-1]] = start = self._start(level)
            self._had[level], self._served[level] = start + cost, next(self._clock)

    def _start(self, level: Party) -> float:
        return max(self._had[level], self._now.get(level[:-1], 0.0))

    def place(self, party: Party) -> tuple[float, ...]:
        """What the order is by, the first to be served first."""
        return tuple(number for level in _levels(party) for number in (self._start(level), self._served[level]))


def _levels(party: Party) -> Iterator[Party]:
    return (party[: n + 1] for n in range(len(party)))


@dataclass
class Session(Generic[Asked, Answered]):
    """One user: a slot each way and what has been counted. Settings travel inside each request, so nothing goes stale."""

    id: str
    party: Party = ()
    """Whom its turns count for; empty stands for itself."""
    incoming: Slot[Any] = field(default_factory=Slot)
    """The newest request that brings something which has to be made ready first."""
    inbox: Slot[Asked] = field(default_factory=Slot)
    """The newest request not yet drawn."""
    outbox: Slot[Answered] = field(default_factory=Slot)
    """The newest answer not yet sent: a client that does not read holds one picture, never a heap of them."""
    turn: int = 0
    """Number of the turn it was last served in; what fairness is decided by."""
    served: int = 0
    """Requests taken from the inbox."""
    drawing: bool = False
    """Whether a request of it is being drawn: no second one is begun meanwhile, so its pictures come in their order."""

    def __post_init__(self) -> None:
        self.party = self.party or (self.id,)

    def ask(self, request: Asked, now: float) -> bool:
        """Put a request into the inbox; True if it overwrote one that was never drawn."""
        return self.inbox.put(request, now)

    @property
    def drops(self) -> int:
        """Requests that were overwritten, and answers that were."""
        return self.incoming.overwritten + self.inbox.overwritten + self.outbox.overwritten


@dataclass(frozen=True)
class Turn(Generic[Asked, Answered]):
    """One session's part in a batch."""

    session: Session[Asked, Answered]
    held: Held[Asked]


class Turns(Generic[Asked, Answered]):
    """Fair turns over sessions, by their parties: whoever has had least comes first, among equals who was served longest ago."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session[Asked, Answered]] = {}
        self._fair = Fair()
        self._clock = itertools.count(1)

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session[Asked, Answered]]:
        return iter(self._sessions.values())

    def join(self, session: Session[Asked, Answered]) -> None:
        """Let a session take turns from now on: coming anew gains nothing over staying."""
        session.turn = next(self._clock)
        self._sessions[session.id] = session
        self._fair.join(session.party)

    def leave(self, session_id: str) -> None:
        """Take a session out; what waits in its slots is forgotten."""
        if (session := self._sessions.pop(session_id, None)) is not None:
            self._fair.leave(session.party)
            session.incoming.clear()
            session.inbox.clear()
            session.outbox.clear()

    def next_batch(
        self,
        key: Callable[[Session[Asked, Answered], Asked], Hashable],
        sizes: Sequence[int] = (1,),
        may: Callable[[Session[Asked, Answered], Asked], bool] = lambda session, asked: True,
        cost: Callable[[Session[Asked, Answered]], float] = lambda session: 1.0,
    ) -> list[Turn[Asked, Answered]]:
        """The next requests to draw together, never waiting for more: empty if nobody asks.

        The session whose turn it is is always in it. Others join, in their order, if their ``key`` equals its own,
        as many as make one of ``sizes`` (rising, the first is 1): the batch sizes that networks are compiled for. All of
        them are `Session.drawing` until they are given to `done`. Who ``may`` not is passed by for now; ``cost`` is what a
        turn takes of its party's share.
        """
        ready = (
            s for s in self._sessions.values() if not s.drawing and (a := s.inbox.peek()) is not None and may(s, a)
        )
        order = sorted(ready, key=lambda s: (*self._fair.place(s.party), s.turn))
        if not order:
            return []
        keys = [key(s, s.inbox.peek()) for s in order]  # type: ignore[arg-type]
        same = [s for s, k in zip(order, keys) if k == keys[0]]
        n = max(size for size in sizes if size <= len(same))
        return [self._serve(session, cost(session)) for session in same[:n]]

    def _serve(self, session: Session[Asked, Answered], cost: float) -> Turn[Asked, Answered]:
        held = session.inbox.take()
        assert held is not None, "only sessions whose inbox is full are served"
        session.turn = next(self._clock)
        self._fair.serve(session.party, cost)
        session.served += 1
        session.drawing = True
        return Turn(session, held)

    def again(self, session: Session[Asked, Answered], held: Held[Asked]) -> Turn[Asked, Answered]:
        """A turn for what a session was served with already: to be drawn once more, while nobody asks for anything."""
        session.turn = next(self._clock)
        self._fair.serve(session.party)
        session.drawing = True
        return Turn(session, held)

    @staticmethod
    def done(batch: Iterable[Turn[Asked, Answered]]) -> None:
        """What was taken is drawn: these sessions may have their next turns."""
        for turn in batch:
            turn.session.drawing = False


class Full(Exception):
    """Neither a place nor a place in the queue is free."""


class Room:
    """A number of places and a queue in front of them. Whoever leaves, the first in the queue comes in.

    Of both an address has a share, and no more where strangers stand free: who waits for his own address's places is passed
    by those of others.
    """

    def __init__(self, places: int, queue: int, places_each: int | None = None, queue_each: int | None = None) -> None:
        self.places, self.queue = places, queue
        self.places_each = places if places_each is None else places_each
        self.queue_each = queue if queue_each is None else queue_each
        self._inside: dict[str, str] = {}
        self._waiting: dict[str, str] = {}

    def enter(self, session_id: str, address: str = "") -> int:
        """Ask for a place: 0 is inside, 1 is first in the queue. Raises Full when the queue is full, too."""
        if self._welcomes(address) and not any(self._welcomes(other) for other in self._waiting.values()):
            self._inside[session_id] = address
            return 0
        if len(self._waiting) >= self.queue:
            raise Full(f"all {self.places} places and {self.queue} places in the queue are taken: try again later")
        if (mine := sum(other == address for other in self._waiting.values())) >= self.queue_each:
            raise Full(
                f"{mine} sessions of this address wait in the queue already, its share: close one, or try again later"
            )
        self._waiting[session_id] = address
        return len(self._waiting)

    def _welcomes(self, address: str) -> bool:
        """Whether a place is free, and one of this address's share."""
        mine = sum(other == address for other in self._inside.values())
        return len(self._inside) < self.places and mine < self.places_each

    def position(self, session_id: str) -> int:
        """0 is inside; otherwise the place in the queue, from 1."""
        return 0 if session_id in self._inside else list(self._waiting).index(session_id) + 1

    def leave(self, session_id: str) -> list[str]:
        """Give a place up, inside or in the queue; returns whom it lets in."""
        self._inside.pop(session_id, None)
        self._waiting.pop(session_id, None)
        moved = []
        for waiting, address in list(self._waiting.items()):
            if self._welcomes(address):
                self._inside[waiting] = self._waiting.pop(waiting)
                moved.append(waiting)
        return moved

    @property
    def inside(self) -> int:
        """Places taken."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """Length of the queue."""
        return len(self._waiting)
