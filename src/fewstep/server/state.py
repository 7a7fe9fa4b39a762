"""The state of one server, apart from its routes: the worker, admission, limits, histories and downloads."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..inference.budget import Budget
from ..pixels import Pixels
from ..version import __version__
from .access import AccessPolicy
from .drawing.client_session import ClientSession, History
from .drawing.frame import Drawn
from .drawing.pool import Pool
from .drawing.provenance import Stamper
from .drawing.worker import Worker
from .limits import Limits
from .metrics import Metrics
from .sessions.scheduler import Admission, Session
from .wire.protocol import ENCODERS, SUBPROTOCOL, TASKS, DrawRequest, Message, ProtocolError, read_draw_request

PATIENT_MS = 60_000.0
"""Budget of a single picture: nobody is drawing while they wait, so nothing is shed."""
CLIENT_ADDRESS: ContextVar[str] = ContextVar("address that the request at hand counts for", default="")
SINGLE = "single"
"""All single pictures of an address count as one session, which has this name."""
BUSY_S = 0.25
"""An address over its share gets its refusal after this many seconds: at once, it would only ask more often."""
FILERS = max(1, min(4, (os.cpu_count() or 1) // 2))
"""Threads that make files. The other half of the processor draws."""
log = logging.getLogger("fewstep.server")
T = TypeVar("T")
DETACHED_S = 300.0
"""Seconds that the history of a lost session is kept."""


class Downloads:
    """Files that an answer named by address. They are kept for a while, bounded in bytes and in seconds."""

    def __init__(self, limit_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._limit, self._seconds, self._clock = limit_bytes, seconds, clock
        self._files: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()

    def put(self, data: bytes, mime: str) -> str:
        """Keep a file; returns its secret name."""
        name = secrets.token_urlsafe(18)
        self._files[name] = (self._clock(), data, mime)
        self._tidy()
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A file and its mime, or None if it was never here or is gone."""
        self._tidy()
        found = self._files.get(name)
        return None if found is None else found[1:]

    def _tidy(self) -> None:
        total = sum(len(data) for _, data, _ in self._files.values())
        while self._files:
            name, (put_at, data, _) = next(iter(self._files.items()))
            if total <= self._limit and self._clock() - put_at <= self._seconds:
                return
            del self._files[name]
            total -= len(data)


@dataclass
class DetachedSession:
    """The history of a session that lost its connection, for when it comes back."""

    history: History
    at: float
    address: str
    """The address whose session it was."""


class Studio:
    """One server's state. The event loop owns it; the worker's thread is reached through `worker` alone."""

    def __init__(
        self,
        worker: Worker,
        limits: Limits,
        access: AccessPolicy,
        budget: Budget,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.worker, self.limits, self.access, self.budget, self.clock = worker, limits, access, budget, clock
        self.metrics: Metrics = worker.metrics
        capacity_each, queue_each = limits.each(limits.sessions), limits.each(limits.queue)
        self.admission = Admission(limits.sessions, limits.queue, capacity_each, queue_each)
        self.downloads = Downloads(32 * 2**20, 600.0, clock)
        self._singles: Counter[str] = Counter()
        self._files = Pool(FILERS, "files", patient=True)
        self._detached: OrderedDict[str, DetachedSession] = OrderedDict()
        self._wakers: dict[str, Callable[[], None]] = {}
        self._addresses: dict[str, str] = {}
        self.metrics.gauge("queue_length", lambda: self.admission.waiting)
        self.metrics.gauge("sessions", lambda: self.admission.active)

    @property
    def stamper(self) -> Stamper:
        """What marks and signs the pictures of the served model."""
        assert self.worker.engine is not None, "asked for after the worker is ready"
        return self.worker.engine.stamper

    @property
    def signs_recordings(self) -> bool:
        """Whether this server signs recordings.

        It cannot check what is in a recording, so it signs for people at this machine alone: the signature is theirs.
        """
        return self.access.private and self.worker.engine is not None and self.stamper.state["credentials"]

    # live sessions

    def enter(self, resume: str, wake: Callable[[], None], address: str = "") -> tuple[str, int]:
        """Ask for a place: the session's id and its place in the queue, 0 inside. Raises Full.

        ``address`` is whom the session counts for, as `limits.neighbourhood` names it.
        """
        known = resume in self._detached and resume not in self._wakers  # one that nobody else has come back as
        session_id = resume if known else secrets.token_urlsafe(16)
        position = self.admission.enter(session_id, address)
        self._wakers[session_id], self._addresses[session_id] = wake, address
        return session_id, position

    def open_session(self, session_id: str, wake: Callable[[], None]) -> ClientSession:
        """Begin an admitted session, with the history it had before its connection was lost."""
        loop = asyncio.get_running_loop()
        detached = self._detached.pop(session_id, None)
        client = ClientSession(
            Session(session_id, (self._addresses.get(session_id, ""), session_id)),
            lambda: from_thread(loop, wake),
            self.budget,
            detached.history if detached else History(self.limits.kept_bytes),
        )
        self.worker.join(client)
        return client

    def leave(self, session_id: str) -> None:
        """End a session and free its place; wakes those that wait in the queue."""
        client = self.worker.client(session_id)
        self.worker.leave(session_id)
        address = self._addresses.pop(session_id, "")
        if client is not None and len(client.history):
            self._detached[session_id] = DetachedSession(client.history, self.clock(), address)
        self._forget()
        self._wakers.pop(session_id, None)
        self.admission.leave(session_id)
        for wake in self._wakers.values():
            wake()

    def _forget(self) -> None:
        """Drop histories that waited too long; over the limit, the oldest of the address that holds the most bytes."""
        while self._detached and self.clock() - next(iter(self._detached.values())).at > DETACHED_S:
            self._detached.popitem(last=False)
        most = self.limits.sessions * self.limits.kept_bytes
        while sum(lost.history.nbytes for lost in self._detached.values()) > most:
            by_address: Counter[str] = Counter()
            for lost in self._detached.values():
                by_address[lost.address] += lost.history.nbytes
            largest = by_address.most_common(1)[0][0]
            del self._detached[next(name for name, lost in self._detached.items() if lost.address == largest)]

    def history(self, session_id: str) -> History | None:
        """The history of a session, while it is connected and shortly after; else None."""
        client = self.worker.client(session_id)
        if client is not None:
            return client.history
        detached = self._detached.get(session_id)
        return None if detached is None else detached.history

    # single pictures

    async def single(self, request: DrawRequest) -> tuple[Drawn, dict[str, Any]]:
        """Draw one picture, in fair turn with the live sessions; returns it and the header of its answer.

        Raises ProtocolError when refused, broken or too busy.
        """
        if self.worker.state != "ready":
            raise ProtocolError("not_ready", f"the server is {self.worker.state}: {self.worker.doing or 'try again'}")
        address, here = CLIENT_ADDRESS.get(), self._singles.total()
        if here >= self.limits.single_pictures:
            raise ProtocolError("busy", f"{here} single pictures are being drawn already: try again in a second")
        if (mine := self._singles[address]) >= self.limits.each(self.limits.single_pictures):
            await asyncio.sleep(BUSY_S)
            raise ProtocolError(
                "busy", f"{mine} single pictures are being drawn for this address, its share: try again in a second"
            )
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        client = ClientSession(
            Session(f"single-{secrets.token_urlsafe(8)}", (address, SINGLE)),
            lambda: from_thread(loop, done.set),
            Budget(PATIENT_MS),
            History(self.limits.kept_bytes),
        )
        self._singles[address] += 1
        self.worker.join(client)
        try:
            self.worker.submit(client, replace(request, target_ms=PATIENT_MS, encoder=request.encoder or "jpeg"))
            async with asyncio.timeout(120):
                await done.wait()
            pending = self.worker.collect(client)
        except TimeoutError:
            raise ProtocolError("busy", "the picture was not drawn within two minutes: try again") from None
        finally:
            self._singles[address] -= 1
            if not self._singles[address]:
                del self._singles[address]
            self.worker.leave(client.session.id)
        assert pending is not None, "woken with an answer"
        answer = pending.value
        if answer.drawn is None:
            raise ProtocolError(answer.header["code"], answer.header["message"])
        await self.judge(answer.drawn.pixels)
        return answer.drawn, answer.header

    async def judge(self, pixels: Pixels) -> None:
        """Raise ProtocolError if the safety filter refuses a picture that somebody is about to get."""
        verdict = self.worker.moderation.judge_picture(pixels, (CLIENT_ADDRESS.get(), SINGLE))
        reason = None if verdict is None else await asyncio.wrap_future(verdict)
        if reason is not None:
            self.metrics.count("refused")
            raise ProtocolError("refused", reason)

    async def made(self, call: Callable[[], T]) -> T:
        """Run ``call``, which makes a file of a drawn picture, in a thread for files and in fair turn. Raises ProtocolError."""
        return await self._beside(self._files, call)

    async def read(self, call: Callable[[], T]) -> T:
        """Run ``call``, which decodes a picture that was sent, in a decoder thread and in fair turn. Raises ProtocolError."""
        return await self._beside(self.worker.decoders, call)

    @staticmethod
    async def _beside(pool: Pool, call: Callable[[], T]) -> T:
        try:
            return await asyncio.wrap_future(pool.submit((CLIENT_ADDRESS.get(), SINGLE), call))
        except ProtocolError:
            raise
        except Exception as error:
            log.exception("a file could not be made")
            raise ProtocolError("internal", "the file could not be made: see the server's log") from error

    def close(self) -> None:
        """Stop working."""
        self.worker.stop()
        self._files.close()

    def read_draw_request(self, message: Message) -> DrawRequest:
        """Read a "draw" message and check it against this server's limits and model. Raises ProtocolError."""
        engine = self.worker.engine
        steps, sizes = (engine.card.steps, engine.sizes) if engine is not None else ((), ())
        return read_draw_request(message, self.limits.prompt_characters, steps, sizes)

    # what clients are told

    def hello(self, session_id: str) -> dict[str, Any]:
        """The first message of a live session: what is served here, and how."""
        engine = self.worker.engine if self.worker.state == "ready" else None
        limits = self.limits
        facts: dict[str, Any] = {
            "type": "hello",
            "protocol": SUBPROTOCOL,
            "server": f"fewstep {__version__}",
            "session": session_id,
            "state": self.worker.state,
            "doing": self.worker.doing,
            "tasks": list(TASKS),
            "encoders": list(ENCODERS),
            "target_ms": self.budget.target_ms,
            "limits": {
                "message_bytes": limits.message_bytes,
                "picture_pixels": limits.picture_pixels,
                "prompt_characters": limits.prompt_characters,
                "messages_per_s": limits.messages_per_s,
            },
        }
        if engine is None:
            return facts
        card = engine.card
        model = {
            "name": card.name,
            "role": card.role,
            "method": card.method,
            "steps": sorted(card.steps),
            "times": list(card.times),
            "size": card.native_size[-1],
            "licence": card.licence,
            "few_steps": card.role == "student",
        }
        return facts | {
            "model": model,
            "sizes": list(engine.sizes),
            "shapes": [list(shape[::-1]) for shape in engine.shapes.values()],
            "backend": engine.choices.backends[0],
            "marks": engine.stamper.state,
            "recordings": self.signs_recordings,
        }

    def stats(self) -> dict[str, Any]:
        """Live numbers of the whole server, for the page's panel."""
        return {
            "type": "stats",
            "room": {"places": self.admission.capacity, "inside": self.admission.active},
            **self.metrics.snapshot(),
        }


def from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call ``call`` in the event loop, from another thread. If the loop has ended, nothing happens."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
