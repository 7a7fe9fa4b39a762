"""Sessions, the fair order in which they are served, and admission. Pure: time is an argument, nothing waits, draws or locks.

A slot holds one thing, the newest. An older one is overwritten and counted: a queue would only make every later picture
older. Sessions take turns, the one served longest ago first. Requests that fit into the same network call share it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True)
class Pending(Generic[T]):
    """Something taken out of a slot, and when it was put there."""

    value: T
    put_at: float
    """In seconds of the caller's clock."""


class Slot(Generic[T]):
    """Holds one value, the newest. Putting into a full slot overwrites the older value and counts it."""

    def __init__(self) -> None:
        self._waiting: tuple[T, float] | None = None
        self.overwritten = 0

    @property
    def full(self) -> bool:
        """Whether something waits here."""
        return self._waiting is not None

    def put(self, value: T, now: float) -> bool:
        """Store ``value``; True if an older one was overwritten."""
        overwrote = self._waiting is not None
        self._waiting = (value, now)
        self.overwritten += overwrote
        return overwrote

    def miss(self) -> bool:
        """Count a value that came too late to be stored as overwritten; returns True, as `put` does."""
        self.overwritten += 1
        return True

    def peek(self) -> T | None:
        """The value, left in place; None if the slot is empty."""
        return None if self._waiting is None else self._waiting[0]

    def take(self) -> Pending[T] | None:
        """Empty the slot and return its value; None if it is empty."""
        if self._waiting is None:
            return None
        (value, put_at), self._waiting = self._waiting, None
        return Pending(value, put_at)

    def clear(self) -> None:
        """Empty the slot without counting."""
        self._waiting = None


ClientKey = tuple[str, ...]
"""Whose share a piece of work counts against, from large to small: an address, and in it a session."""


class FairQueueing:
    """Start-time fair queueing (Goyal, Vin and Cheng 1997), at every level of the client keys.

    The address that has had least comes first, and in it the session that has had least. So an address with sixteen
    sessions gets as much as an address with one, and a picture of four steps costs four times a picture of one. A client
    that asks for nothing saves nothing up, and a newcomer stands behind all who are here.
    """

    def __init__(self) -> None:
        self._members: Counter[ClientKey] = Counter()
        self._had: dict[ClientKey, float] = {}
        self._served: dict[ClientKey, int] = {}
        self._now: dict[ClientKey, float] = {}
        """By the level above: the start of the member that was served last."""
        self._clock = itertools.count(1)

    def join(self, client_key: ClientKey) -> None:
        """Count one more piece of this client's work."""
        for level in _levels(client_key):
            if not self._members[level]:
                beside = (had for other, had in self._had.items() if other[:-1] == level[:-1])
                self._had[level], self._served[level] = max(beside, default=0.0), next(self._clock)
            self._members[level] += 1

    def leave(self, client_key: ClientKey) -> None:
        """Count one less; a client without work is forgotten."""
        for level in _levels(client_key):
            self._members[level] -= 1
            if not self._members[level]:
                del self._members[level], self._had[level], self._served[level]
                self._now.pop(level, None)

    def serve(self, client_key: ClientKey, cost: float = 1.0) -> None:
        """Charge a client ``cost`` for a turn."""
        for level in _levels(client_key):
            self._now[level[:-1]] = start = self._start(level)
            self._had[level], self._served[level] = start + cost, next(self._clock)

    def _start(self, level: ClientKey) -> float:
        return max(self._had[level], self._now.get(level[:-1], 0.0))

    def place(self, client_key: ClientKey) -> tuple[float, ...]:
        """The sort key of a client: the smallest is served first."""
        return tuple(number for level in _levels(client_key) for number in (self._start(level), self._served[level]))


def _levels(client_key: ClientKey) -> Iterator[ClientKey]:
    return (client_key[: n + 1] for n in range(len(client_key)))


@dataclass
class Session(Generic[RequestT, ResponseT]):
    """One user: a slot each way, and counters. Settings travel inside each request, so nothing goes stale."""

    id: str
    client_key: ClientKey = ()
    """Whose share its turns count against; empty becomes the session's own id."""
    incoming: Slot[Any] = field(default_factory=Slot)
    """The newest request whose picture has to be decoded first."""
    inbox: Slot[RequestT] = field(default_factory=Slot)
    """The newest request not yet drawn."""
    outbox: Slot[ResponseT] = field(default_factory=Slot)
    """The newest answer not yet sent: a client that does not read holds one picture, never a heap of them."""
    last_served: int = 0
    """Number of the turn it was last served in; decides among equals."""
    served: int = 0
    """Requests taken from the inbox."""
    drawing: bool = False
    """Whether one of its requests is being drawn: no second one begins meanwhile, so its pictures come in order."""

    def __post_init__(self) -> None:
        self.client_key = self.client_key or (self.id,)

    def submit(self, request: RequestT, now: float) -> bool:
        """Put a request into the inbox; True if it overwrote one that was never drawn."""
        return self.inbox.put(request, now)

    @property
    def drops(self) -> int:
        """Requests that were overwritten, and answers that were."""
        return self.incoming.overwritten + self.inbox.overwritten + self.outbox.overwritten


@dataclass(frozen=True)
class Dispatch(Generic[RequestT, ResponseT]):
    """One session's request in a batch."""

    session: Session[RequestT, ResponseT]
    pending: Pending[RequestT]


class Scheduler(Generic[RequestT, ResponseT]):
    """Picks the next requests fairly: first the client key that has had least, among equals the one served longest ago."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session[RequestT, ResponseT]] = {}
        self._fairness = FairQueueing()
        self._clock = itertools.count(1)

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session[RequestT, ResponseT]]:
        return iter(self._sessions.values())

    def join(self, session: Session[RequestT, ResponseT]) -> None:
        """Schedule a session from now on. It starts last: leaving and joining again gains nothing."""
        session.last_served = next(self._clock)
        self._sessions[session.id] = session
        self._fairness.join(session.client_key)

    def leave(self, session_id: str) -> None:
        """Remove a session and empty its slots."""
        if (session := self._sessions.pop(session_id, None)) is not None:
            self._fairness.leave(session.client_key)
            session.incoming.clear()
            session.inbox.clear()
            session.outbox.clear()

    def next_batch(
        self,
        key: Callable[[Session[RequestT, ResponseT], RequestT], Hashable],
        sizes: Sequence[int] = (1,),
        may: Callable[[Session[RequestT, ResponseT], RequestT], bool] = lambda session, asked: True,
        cost: Callable[[Session[RequestT, ResponseT]], float] = lambda session: 1.0,
    ) -> list[Dispatch[RequestT, ResponseT]]:
        """The next requests to draw together; empty if there is none. It never waits for more.

        The session whose turn it is comes first. Others join in order if their ``key`` equals its key, as many as make one
        of ``sizes`` (rising, the first is 1): the batch sizes that networks are compiled for. All of them are
        `Session.drawing` until they are given to `done`. Sessions for which ``may`` is false are skipped this time.
        ``cost`` is what a turn takes of its client's share.
        """
        ready = (
            s for s in self._sessions.values() if not s.drawing and (a := s.inbox.peek()) is not None and may(s, a)
        )
        order = sorted(ready, key=lambda s: (*self._fairness.place(s.client_key), s.last_served))
        if not order:
            return []
        keys = [key(s, s.inbox.peek()) for s in order]  # type: ignore[arg-type]
        same = [s for s, k in zip(order, keys) if k == keys[0]]
        n = max(size for size in sizes if size <= len(same))
        return [self._serve(session, cost(session)) for session in same[:n]]

    def _serve(self, session: Session[RequestT, ResponseT], cost: float) -> Dispatch[RequestT, ResponseT]:
        pending = session.inbox.take()
        assert pending is not None, "only sessions whose inbox is full are served"
        session.last_served = next(self._clock)
        self._fairness.serve(session.client_key, cost)
        session.served += 1
        session.drawing = True
        return Dispatch(session, pending)

    def again(self, session: Session[RequestT, ResponseT], pending: Pending[RequestT]) -> Dispatch[RequestT, ResponseT]:
        """Dispatch a request that was served already: it is drawn once more while nobody asks for anything."""
        session.last_served = next(self._clock)
        self._fairness.serve(session.client_key)
        session.drawing = True
        return Dispatch(session, pending)

    @staticmethod
    def done(batch: Iterable[Dispatch[RequestT, ResponseT]]) -> None:
        """These requests are drawn: their sessions may be scheduled again."""
        for dispatch in batch:
            dispatch.session.drawing = False


class Full(Exception):
    """Neither a place nor a spot in the queue is free."""


class Admission:
    """Admits sessions: ``capacity`` places, and a queue in front of them. When a session leaves, the first in the queue moves up.

    One address gets at most ``capacity_each`` places and ``queue_each`` spots in the queue. A session that waits because its
    own address has its share is overtaken by sessions of other addresses.
    """

    def __init__(
        self, capacity: int, queue: int, capacity_each: int | None = None, queue_each: int | None = None
    ) -> None:
        self.capacity, self.queue = capacity, queue
        self.capacity_each = capacity if capacity_each is None else capacity_each
        self.queue_each = queue if queue_each is None else queue_each
        self._active: dict[str, str] = {}
        self._waiting: dict[str, str] = {}

    def enter(self, session_id: str, address: str = "") -> int:
        """Admit or queue a session: 0 is admitted, 1 is first in the queue. Raises Full when the queue is full, too."""
        if self._has_place(address) and not any(self._has_place(other) for other in self._waiting.values()):
            self._active[session_id] = address
            return 0
        if len(self._waiting) >= self.queue:
            raise Full(f"all {self.capacity} places and {self.queue} places in the queue are taken: try again later")
        if (mine := sum(other == address for other in self._waiting.values())) >= self.queue_each:
            raise Full(
                f"{mine} sessions of this address wait in the queue already, its share: close one, or try again later"
            )
        self._waiting[session_id] = address
        return len(self._waiting)

    def _has_place(self, address: str) -> bool:
        """Whether a place is free, and this address has not had its share."""
        mine = sum(other == address for other in self._active.values())
        return len(self._active) < self.capacity and mine < self.capacity_each

    def position(self, session_id: str) -> int:
        """0 is admitted; otherwise the position in the queue, from 1."""
        return 0 if session_id in self._active else list(self._waiting).index(session_id) + 1

    def leave(self, session_id: str) -> list[str]:
        """Give up a place or a spot in the queue; returns the sessions that this admits."""
        self._active.pop(session_id, None)
        self._waiting.pop(session_id, None)
        moved = []
        for waiting, address in list(self._waiting.items()):
            if self._has_place(address):
                self._active[waiting] = self._waiting.pop(waiting)
                moved.append(waiting)
        return moved

    @property
    def active(self) -> int:
        """Sessions admitted."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Length of the queue."""
        return len(self._waiting)
