"""The live connection: one WebSocket, a reader that fills the session's slot and a writer that empties it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..drawing.client_session import ClientSession
from ..limits import TokenBucket, neighbourhood
from ..sessions.scheduler import Full
from ..state import Studio, from_thread
from ..wire.protocol import SUBPROTOCOL, Message, ProtocolError, id_in, pack, unpack

log = logging.getLogger("fewstep.server")
CLOSE_UNAUTHORISED, CLOSE_FOREIGN, CLOSE_PROTOCOL = 4401, 4403, 4400
CLOSE_IDLE, CLOSE_FULL, CLOSE_SLOW, CLOSE_VERSION = 4408, 4429, 4413, 4426
PATIENCE, PATIENCE_S = 20, 60.0
"""This many bad messages within this many seconds close a connection. It is a rate, so a long session may err often."""
TOLD_S = 10.0
"""A client that sends too many messages is told so at most once in this many seconds."""
QUEUE_S = 5.0
"""Seconds between messages to a client in the queue."""


class Closing(Exception):
    """The connection ends, and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Connection:
    """One client. ``run`` is its whole life."""

    def __init__(self, ws: WebSocket, studio: Studio) -> None:
        self._ws, self._studio = ws, studio
        self._wake = asyncio.Event()
        self._notices: deque[dict[str, Any]] = deque(maxlen=32)
        self._bucket = TokenBucket(studio.limits.messages_per_s, studio.limits.burst, studio.clock())
        self._told = TokenBucket(1 / TOLD_S, 1, studio.clock())
        self._throttled = (
            f"more than {studio.limits.messages_per_s:g} messages in a second: the rest is dropped, send fewer"
        )
        self._patience_left = TokenBucket(PATIENCE / PATIENCE_S, PATIENCE - 1, studio.clock())
        self._asked_s = 0.0
        """When a picture was last asked for, in the event loop's time."""
        self._patience: asyncio.Timeout | None = None
        """The deadline of the next message; None while no message is awaited."""
        self._id = ""
        self._client: ClientSession | None = None
        self._position = 0

    async def run(self) -> None:
        """Queue if need be, then read and write until either side ends it."""
        await self._ws.accept(subprotocol=SUBPROTOCOL)
        try:
            await self._serve()
        except Closing as closing:
            await self._close(closing.code, closing.reason)
        except WebSocketDisconnect:
            pass

    async def _serve(self) -> None:
        studio = self._studio
        try:
            address = neighbourhood(self._ws.client.host if self._ws.client else "")
            self._id, self._position = studio.enter(self._ws.query_params.get("resume", ""), self._wake.set, address)
        except Full as full:
            studio.metrics.count("full")
            await self._send({"type": "error", "code": "full", "message": str(full)})
            raise Closing(CLOSE_FULL, "full") from None
        loop = asyncio.get_running_loop()
        forget = studio.worker.on_state(lambda: from_thread(loop, self._state_changed))
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            forget()
            studio.leave(self._id)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _state_changed(self) -> None:
        self._notices.append(self._studio.hello(self._id) if self._client is not None else self._queue())
        self._wake.set()

    def _queue(self) -> dict[str, Any]:
        studio = self._studio
        return {
            "type": "queue",
            "position": studio.admission.position(self._id),
            "waiting": studio.admission.waiting,
            "places": studio.admission.capacity,
        }

    # out

    async def _write(self) -> None:
        """Send everything, one message at a time. While one is stuck, newer answers overwrite each other in the outbox."""
        self._wake.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUEUE_S if self._client is None else None):
                    await self._wake.wait()
            self._wake.clear()
            if self._client is None:
                self._move_up()
            while self._notices:
                await self._send(self._notices.popleft())
            client = self._client
            pending = self._studio.worker.collect(client) if client is not None else None
            if client is not None and pending is not None:
                await self._send_bytes(pending.value.frame(drops=client.session.drops))
                if pending.value.drawn is not None:
                    self._studio.metrics.count("sent")

    def _move_up(self) -> None:
        """Begin the session if it is admitted by now, else tell the client its position in the queue."""
        position = self._studio.admission.position(self._id)
        if position == 0:
            self._client = self._studio.open_session(self._id, self._wake.set)
            self._asked()
            self._notices.append(self._studio.hello(self._id))
        elif position != self._position or not self._notices:
            self._notices.append(self._queue())
        self._position = position

    async def _send(self, header: dict[str, Any]) -> None:
        await self._send_bytes(pack(header))

    async def _send_bytes(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(self._studio.limits.send_s):
                await self._ws.send_bytes(frame)
        except TimeoutError:
            raise Closing(CLOSE_SLOW, "this client does not read what it is sent") from None

    async def _close(self, code: int, reason: str) -> None:
        if self._ws.application_state == WebSocketState.CONNECTED:
            try:
                async with asyncio.timeout(2):
                    await self._ws.close(code, reason)
            except (TimeoutError, RuntimeError, WebSocketDisconnect):
                log.debug("a connection could not be closed in order: %s", reason)

    # in

    async def _read(self) -> None:
        while True:
            received = await self._receive()
            if received["type"] == "websocket.disconnect":
                return
            if not self._bucket.take(self._studio.clock()):
                self._studio.metrics.count("throttled")
                if self._told.take(self._studio.clock()):
                    self._say({"type": "error", "code": "too_many", "message": self._throttled, "id": None})
                continue
            self._take(received.get("bytes"))

    async def _receive(self) -> Any:
        """The next message. In the queue, where nothing can be asked for, it may take as long as it likes."""
        try:
            async with asyncio.timeout_at(None if self._client is None else self._idle_at) as self._patience:
                return await self._ws.receive()
        except TimeoutError:
            raise Closing(CLOSE_IDLE, "nothing was asked for in a long time") from None
        finally:
            self._patience = None

    @property
    def _idle_at(self) -> float:
        return self._asked_s + self._studio.limits.idle_s

    def _asked(self) -> None:
        """Restart the idle time. Only requests for pictures do; other messages keep no place."""
        self._asked_s = asyncio.get_running_loop().time()
        if self._patience is not None:
            self._patience.reschedule(self._idle_at)

    def _take(self, frame: bytes | None) -> None:
        """One message. A broken one is answered with what is wrong; too many in a short time end the connection."""
        number: Any = None
        try:
            if frame is None:
                raise ProtocolError("text", "text messages are not understood here: send binary frames")
            message = unpack(frame)
            number = id_in(message.header)
            self._handle(message)
        except ProtocolError as error:
            self._studio.metrics.count("errors")
            self._say({"type": "error", "code": error.code, "message": str(error), "id": number})
            if not self._patience_left.take(self._studio.clock()):
                raise Closing(CLOSE_PROTOCOL, "too many broken messages") from None

    def _say(self, header: dict[str, Any]) -> None:
        self._notices.append(header)
        self._wake.set()

    def _handle(self, message: Message) -> None:
        kind, header = message.type, message.header
        if kind == "draw":
            self._draw(message)
        elif kind == "time":
            self._say(
                {"type": "time", "sent_ms": _finite(header.get("sent_ms")), "server_ms": self._studio.clock() * 1000}
            )
        elif kind == "seen":
            number, glass_ms = header.get("id"), _finite(header.get("glass_ms"))
            if self._client is not None and type(number) is int and 0 <= glass_ms < 600_000:
                self._studio.worker.seen(self._client, number, glass_ms)
        elif kind == "stats":
            self._say(self._studio.stats())
        else:
            raise ProtocolError("type", f"unknown message type {kind!r}: use draw, time, seen or stats")

    def _draw(self, message: Message) -> None:
        request = self._studio.read_draw_request(message)
        if self._client is None:
            raise ProtocolError("queue", "this session is still in the queue: wait for hello")
        self._asked()
        self._studio.worker.submit(self._client, request)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise ProtocolError("number", "a time must be a number of milliseconds")
    return float(value)
