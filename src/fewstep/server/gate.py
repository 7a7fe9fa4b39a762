"""In front of every route: who may come in, how large and how slow a request may be, and the headers a browser gets."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Arrivals, Door, Limits, bearer
from .metrics import Metrics
from .prefix import route_path
from .protocol import VERSION, greeting, of_another_version, pack, sendable, token_in, version_in
from .stream import CLOSE_FOREIGN, CLOSE_UNAUTHORISED, CLOSE_VERSION

Headers = list[tuple[bytes, bytes]]

OPEN_PATHS = ("/", "/health", "/favicon.ico")
"""Paths that need no token: they hold nothing of anybody's."""
OPEN_FOLDERS = ("/web/", "/v1/files/")
"""The same for all below them. A file's name is a secret that only its answer gave away, as with OpenAI's addresses."""
RECORDINGS = "/recordings"
"""How a path ends that takes a recording."""
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
     b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=()"),
)  # fmt: skip
JSON = (b"content-type", b"application/json")
SHARED = (
    (b"vary", b"Origin"),
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", b"Authorization, Content-Type"),
    (b"access-control-expose-headers", b"X-Fewstep, Content-Disposition, Retry-After"),
    (b"access-control-max-age", b"600"),
)
"""For pages of other servers that were allowed: the browser hands them our answers."""


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """An error in the form that OpenAI's clients read."""
    return json.dumps({"error": {"message": sendable(message), "type": kind, "param": None, "code": code}}).encode()


def sentence(fault: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a request, as a sentence with the fix."""
    place = [str(part) for part in fault["loc"] if part not in ("body", "query", "path")]
    field = ".".join(place)
    kind = fault["type"]
    if kind == "json_invalid":
        return f"the body is not valid JSON ({fault['ctx']['error']}): send an object, as /openapi.json shows it"
    if not field:
        return "the body must be a JSON object: send one with content-type application/json, as /openapi.json shows it"
    if kind == "missing":
        return f"the field {field!r} is missing: give it"
    if kind == "extra_forbidden":
        return f"there is no field {field!r}: leave it out, or see /openapi.json for those there are"
    said = fault["msg"].removeprefix("Input ")
    return f"the field {field!r} {said}, and is {fault['input']!r:.60}: give another"


def unreadable(error: BaseException | None, detail: str) -> str:
    """What is wrong with a body that could not be read, as a sentence with the fix."""
    if isinstance(error, RecursionError):
        return "the body is nested too deeply: send one flat JSON object, as /openapi.json shows it"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 text (at byte {error.start}): send JSON in UTF-8"
    if isinstance(error, ValueError) and "digits" in str(error):
        return "the body holds a number with too many digits: send numbers that 64 bits hold"
    return f"the body could not be read ({detail}): send it as /openapi.json shows it"


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, door: Door, limits: Limits, clock: Callable[[], float], metrics: Metrics) -> None:
        self._app, self._door, self._limits, self._clock, self._metrics = app, door, limits, clock, metrics
        self._arrivals = Arrivals(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with bounds."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        wait_s = self._arrivals.take(tuple(scope["client"] or ("", 0)), scope["type"] == "websocket", self._clock())
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, headers, wait_s)
        else:
            await self._http(scope, receive, send, headers, wait_s)

    def _too_soon(self, wait_s: float) -> tuple[int, Headers, bytes]:
        """The answer to somebody who comes too often: status, headers, body."""
        self._metrics.count("turned_away")
        seconds = math.ceil(wait_s)
        said = error_body(f"too many new connections from this address: try again in {seconds} s", "too_many")
        return 429, [(b"retry-after", str(seconds).encode()), JSON, (b"connection", b"close")], said

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], wait_s: float
    ) -> None:
        async def refuse(status: int, told: Headers, said: bytes) -> None:
            await send({"type": "websocket.http.response.start", "status": status, "headers": told})
            await send({"type": "websocket.http.response.body", "body": said})

        async def turn_away(number: int, code: str, sentence: str) -> None:
            """Accept, say why not and close, since a browser shows its page nothing of a refused handshake."""
            await receive()
            await send({"type": "websocket.accept", "subprotocol": greeting(offered)})
            error = {"type": "error", "code": code, "message": sentence}
            await send(
                {"type": "websocket.send", "bytes": pack(error, version=VERSION if version is None else version)}
            )
            await send({"type": "websocket.close", "code": number, "reason": code})

        offered = scope.get("subprotocols", [])
        version = version_in(offered)
        host, token = headers.get("host"), token_in(offered) or bearer(headers.get("authorization"))
        if wait_s:
            await refuse(*self._too_soon(wait_s))
        elif (strange := self._door.stranger(host)) is not None:
            await refuse(403, [], strange.encode())
        elif (foreign := self._door.foreign(host, headers.get("origin"))) is not None:
            await turn_away(CLOSE_FOREIGN, "origin", foreign)
        elif (wrong := self._door.wrong_token(token)) is not None:
            await turn_away(CLOSE_UNAUTHORISED, "token", wrong)
        elif (other := of_another_version(offered)) is not None:
            await turn_away(CLOSE_VERSION, "version", other)
        else:
            await self._app(scope, receive, send)

    async def _http(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], wait_s: float
    ) -> None:
        body = Bounded(receive, self._most(route_path(scope)), self._limits.body_s)
        origin = headers.get("origin")
        invited = origin is not None and self._door.invited(origin)
        shared = [*SHARED, (b"access-control-allow-origin", str(origin).encode())] if invited else []

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS, *shared]
                if body.cut:
                    message["status"] = body.cut
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        async def answer(status: int, told: Headers, said: bytes = b"") -> None:
            await dressed({"type": "http.response.start", "status": status, "headers": told})
            await dressed({"type": "http.response.body", "body": said})

        if invited and scope["method"] == "OPTIONS":  # a browser asks before its page may, and shows no token yet
            await answer(204, [])
        elif wait_s:
            await answer(*self._too_soon(wait_s))
        elif (refusal := self._refusal(route_path(scope), headers)) is not None:
            status, code, sentence = refusal
            await answer(status, [JSON], error_body(sentence, code))
        else:
            await self._app(self._plain(scope, headers), body, dressed)

    def _plain(self, scope: Scope, headers: Mapping[str, str]) -> Scope:
        """The request as the routes see it: HEAD as the GET whose body nobody sends, and a Host that the server has."""
        given = scope["headers"]
        if not self._door.knows(headers.get("host")):
            host, port = scope.get("server") or (self._door.host, None)
            own = f"[{host}]" if ":" in host else host
            named = (b"host", (own if port is None else f"{own}:{port}").encode())
            given = [named, *(pair for pair in given if pair[0] != b"host")]
        return dict(scope) | {"headers": given, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host")
        if (strange := self._door.stranger(host) or self._door.foreign(host, headers.get("origin"))) is not None:
            return 403, "forbidden", strange
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
        if not is_open and (wrong := self._door.wrong_token(bearer(headers.get("authorization")))) is not None:
            return 401, "invalid_api_key", wrong
        length = headers.get("content-length", "0")
        if len(length) > 18 or not length.isdecimal() or int(length) > self._most(path):
            return 413, "too_large", f"a request body may have at most {self._most(path)} bytes"
        if (packed := headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            return 415, "invalid", f"the body is compressed ({packed:.40}): send it as it is, without Content-Encoding"
        return None

    def _most(self, path: str) -> int:
        """Bytes that a request's body may have."""
        return self._limits.recording_bytes if path.endswith(RECORDINGS) else self._limits.message_bytes


class Bounded:
    """A request body that must be small and come soon."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._most, self._seconds = receive, most, seconds
        self._taken, self._ended = 0, False
        self.cut = 0
        """The status that says why the body was not read to its end; 0 while nothing is wrong with it."""

    async def __call__(self) -> Message:
        """The next message. A body that is too large or too slow ends as if the client had gone."""
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            self.cut = 408
            return {"type": "http.disconnect"}
        self._taken += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._taken > self._most:
            self.cut = 413
            return {"type": "http.disconnect"}
        return message


class Impatient(H11Protocol):
    """uvicorn's HTTP, but a connection that has sent no whole request after ``headers_s`` is closed."""

    headers_s = 10.0

    def connection_made(self, transport: Any) -> None:
        """A client has connected: it has this long to say what it wants."""
        super().connection_made(transport)
        self.loop.call_later(self.headers_s, self._still_nothing)

    def _still_nothing(self) -> None:
        if self.cycle is None and not self.transport.is_closing() and self.transport.get_protocol() is self:
            self.transport.close()
