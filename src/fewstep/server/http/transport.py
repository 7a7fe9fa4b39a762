"""Below the messages: every TCP connection is counted by its address, and cut off where its client is slow or a flood.

uvicorn reads and writes; here stand the bounds it does not have, for HTTP and WebSocket alike. What is awaited from a client -
a request's head, the rest of a message, that it takes what it is sent - has a pace to keep (`Pace`), and `Server` looks at
all connections twice a second. Every refusal is decided in `ConnectionLimiter`, and `AccessMiddleware` answers with it.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ProtocolError as BrokenFrame
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from ..limits import Pace, TokenBucket
from ..wire.protocol import error_body
from .connections import ConnectionLimiter, TrackedTransport

TICKS = 5
"""Connections are checked every so many ticks of uvicorn; one is a tenth of a second."""
CARRIES = 1024
"""Bytes that a fragment must bring to cost nothing."""


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP with a deadline for every request's head, the first and those that follow, and for taking the answer.

    `AccessMiddleware` keeps the deadline of the body: its client is late only while the application waits for more of it.
    """

    limiter: ConnectionLimiter

    def connection_made(self, transport: Any) -> None:
        """A client has connected: it has this long to say what it wants."""
        self.tracked = self.limiter.enter(transport, lambda: self.idle)
        self.app_state = {**self.app_state, "tracked": self.tracked}
        self._begun_s: float | None = time.monotonic()
        """When a head began that is not whole yet, or the wait for the rest of an answered body; None if there is neither."""
        super().connection_made(self.tracked)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.limiter.leave(self.tracked)
        super().connection_lost(exc)

    @property
    def under_way(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def idle(self) -> bool:
        """Whether no request is under way; half a head is none."""
        return not self.under_way and not self.tracked.pending

    def data_received(self, data: bytes) -> None:
        """Start the deadline with the first byte of a head; only the end of the head stops it."""
        if self._begun_s is None and not self.under_way:
            self._begun_s = time.monotonic()
        super().data_received(data)
        if self.under_way:
            self._begun_s = None

    def on_response_complete(self) -> None:
        """The next request may take its time, unless it has begun or the last one's body still comes."""
        super().on_response_complete()
        self.limiter.used(self.tracked)
        quiet = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        self._begun_s = None if quiet or self.under_way else time.monotonic()

    def check(self, now: float) -> None:
        """Cut the connection off where its client is late."""
        if self.tracked.is_stuck(now):
            self.limiter.cut(self.tracked)
        elif self._begun_s is not None and now - self._begun_s > self.limiter.limits.body_s:
            self._begun_s = None
            self.limiter.note_cut()
            self._end(
                408,
                "too_slow",
                f"the request did not come whole within {self.limiter.limits.body_s:g} s: send it again",
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the form of every other error."""
        self._end(400, "invalid", "this is no HTTP/1.1 request: see RFC 9112, or use another client")

    def _end(self, status: int, code: str, said: str) -> None:
        """Answer and close. If an answer was begun already, only close."""
        if self.transport.is_closing():
            return
        body = error_body(said, code)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        try:
            answer = h11.Response(
                status_code=status, headers=[*headers, (b"connection", b"close")], reason=STATUS_PHRASES[status]
            )
            for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass
        self.transport.close()


class Frames(ServerProtocol):
    """The WebSocket parser, which asks before it takes a frame."""

    judge: Callable[[Frame], str | None]
    """Why no more frames are taken, as a sentence, or None."""
    may_answer: Callable[[], bool]
    """Whether a ping can be answered now: a client that does not read its pongs gets one, for the last."""
    unanswered: bytes | None = None
    whole = 0
    """Messages that came whole."""

    def recv_frame(self, frame: Frame) -> None:
        """One frame, as soon as it is parsed: what follows one too many is not even looked at."""
        if (why := self.judge(frame)) is not None:
            self.refuse(1008, why)
        elif frame.opcode is Opcode.PING and not self.may_answer():
            self.unanswered = bytes(frame.data)
        else:
            self.whole += frame.fin and frame.opcode in (Opcode.CONT, Opcode.TEXT, Opcode.BINARY)
            super().recv_frame(frame)

    def refuse(self, code: int, why: str) -> None:
        """Say goodbye, and read nothing any more."""
        self.fail(code, why)
        self.parser_exc = BrokenFrame(why)

    def reject(self, status: StatusLike, text: str) -> Response:
        """The answer to a handshake that fails, in the one form that errors have here."""
        answer = super().reject(status, text)
        why = text.removeprefix("Failed to open a WebSocket connection: ").rstrip(".\n")
        said = f"this is no WebSocket handshake ({why}): see RFC 6455, or use another client"
        answer.body = error_body(said, "invalid")
        for name, value in (("content-type", "application/json"), ("content-length", str(len(answer.body)))):
            del answer.headers[name]
            answer.headers[name] = value
        return answer

    @property
    def begun(self) -> bool:
        """Whether a message or a frame is half received."""
        return self.current_size is not None or bool(self.reader.buffer)

    @property
    def half(self) -> int:
        """Its bytes so far."""
        return (self.current_size or 0) + len(self.reader.buffer) if self.begun else 0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with bounds on what is below messages: frames, pongs, and messages that are not whole yet."""

    limiter: ConnectionLimiter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limits = self.limiter.limits
        self.close_timeout = 2.0
        self._bucket = TokenBucket(limits.frames_per_s, limits.frames_burst, time.monotonic())
        self._pace = Pace(limits.slowest_bytes_per_s)
        self._held = self._most = self._whole = 0
        self._looked_s = 0.0
        frames = self.conn = Frames(max_size=self.config.ws_max_size, logger=logging.getLogger("uvicorn.error"))
        frames.judge, frames.may_answer = self._judge, self.writable.is_set
        self._over = False
        self.frames_read = frames

    def connection_made(self, transport: Any) -> None:
        """Take over the connection of the request that asked for the upgrade."""
        self.tracked: TrackedTransport = transport
        self.tracked.is_idle = lambda: False  # a live session stays
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.limiter.leave(self.tracked)
        self._hold(0)
        super().connection_lost(exc)

    def _judge(self, frame: Frame) -> str | None:
        """Whole messages and control frames cost one each, and so does a fragment that brings next to nothing."""
        carries = not frame.fin and len(frame.data) >= CARRIES
        if carries or self._bucket.take(time.monotonic()):
            return None
        self.limiter.note_cut()
        return "too many frames in a second: send fewer"

    def data_received(self, data: bytes) -> None:
        """Read more of the stream. Bytes of a message that is not whole count against the address."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._no_handshake(str(self.conn.handshake_exc.__cause__ or self.conn.handshake_exc))
        if not self.transport.is_closing() and not self._hold(self.frames_read.half):
            self._goodbye(1013, "too much is half received: try again in a second")

    def _no_handshake(self, why: str) -> None:
        """HTTP took this head, and the WebSocket's stricter parser did not: uvicorn would wait for the rest of it for ever."""
        if not self.transport.is_closing():
            told = b"".join(self.conn.data_to_send())  # nothing, from older versions of the parser
            self.transport.write(told or self.frames_read.reject(400, why).serialize())
            self.transport.close()

    def _hold(self, half: int) -> bool:
        grown, self._held = half - self._held, half
        return self.limiter.received.take(self.tracked.address, grown)

    def _goodbye(self, code: int, why: str) -> None:
        self.limiter.note_cut()
        self.frames_read.refuse(code, why)
        self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Say goodbye to a client that broke the rules."""
        self._over = True
        super().handle_parser_exception()

    async def send(self, message: Any) -> None:
        """Send a message. After a goodbye it is dropped as if the client had gone, and nothing is logged."""
        try:
            await super().send(message)
        except RuntimeError:
            if not self._over:
                raise
            raise ClientDisconnected from None

    def check(self, now: float) -> None:
        """Cut the connection off where its client is late: with reading, or with the rest of a message."""
        if self.tracked.is_stuck(now):
            self.limiter.cut(self.tracked)
            return
        frames, (passed, self._looked_s) = self.frames_read, (now - self._looked_s, now)
        if not frames.begun or self.read_paused or self.transport.is_closing() or frames.whole != self._whole:
            self._pace.rest()
            self._most, self._whole = 0, frames.whole
        else:
            grown, self._most = max(0, frames.half - self._most), max(self._most, frames.half)
            if self._pace.lag(passed, grown) > self.limiter.limits.body_s:
                self._goodbye(1008, "a message was begun and does not come whole: send it at once")

    def resume_writing(self) -> None:
        """The client reads again: answer its last ping."""
        super().resume_writing()
        ping, self.frames_read.unanswered = self.frames_read.unanswered, None
        if ping is not None and not (self.close_sent or self.transport.is_closing()):
            self.conn.send_pong(ping)
            self.transport.write(b"".join(self.conn.data_to_send()))

    def send_receive_event_to_app(self) -> None:
        """Let the application refuse a text message, also one that is not UTF-8, without an entry in the log."""
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames).decode("utf-8", "replace").encode()]
        super().send_receive_event_to_app()


class Server(uvicorn.Server):
    """uvicorn's server, which also checks its connections. SIGTERM ends it with exit code 0."""

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % TICKS == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                connection.check(now)  # type: ignore[union-attr]
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A service manager's SIGTERM ends it in order, with exit code 0; Ctrl-C is the user's, and ends the command."""
        if sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)
