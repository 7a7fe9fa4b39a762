"""In front of every route: who may come in, how large and how slow a request may be, and the headers a browser gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..access import AccessPolicy, bearer
from ..limits import Limits, Pace, Refusal, Shares, neighbourhood, too_soon
from ..metrics import Metrics
from ..wire.protocol import VERSION, error_body, greeting, of_another_version, pack, sendable, token_in, version_in
from .connections import ConnectionLimiter
from .prefix import route_path
from .websocket import CLOSE_FOREIGN, CLOSE_UNAUTHORISED, CLOSE_VERSION

Headers = list[tuple[bytes, bytes]]

OPEN_PATHS = ("/", "/health", "/favicon.ico")
"""Paths that need no token: they hold nothing of anybody's."""
OPEN_FOLDERS = ("/web/", "/v1/files/")
"""Folders that need no token. A file's name is a secret that only its own answer holds, as with OpenAI's addresses."""
RECORDINGS = "/recordings"
"""The end of the path for recordings."""
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


def sentence(fault: Mapping[str, Any]) -> str:
    """A fault that pydantic found in a request, as a sentence with the fix."""
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
    """Why a body could not be read, as a sentence with the fix."""
    if isinstance(error, RecursionError):
        return "the body is nested too deeply: send one flat JSON object, as /openapi.json shows it"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 text (at byte {error.start}): send JSON in UTF-8"
    if isinstance(error, ValueError) and "digits" in str(error):
        return "the body holds a number with too many digits: send numbers that 64 bits hold"
    return f"the body could not be read ({detail}): send it as /openapi.json shows it"


def told_of(refusal: Refusal) -> Headers:
    """The headers of a refusal, after which the connection is closed."""
    retry = [(b"retry-after", str(refusal.retry_s).encode())] if refusal.retry_s else []
    return [*retry, JSON, (b"connection", b"close")]


def said_of(refusal: Refusal) -> bytes:
    """The body of a refusal."""
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return error_body(refusal.sentence, refusal.code, kind)


class AccessMiddleware:
    """ASGI middleware that lets a request pass, or refuses it with a sentence."""

    def __init__(
        self,
        app: ASGIApp,
        access: AccessPolicy,
        limiter: ConnectionLimiter,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._app, self._access, self._limiter, self._clock, self._metrics = app, access, limiter, clock, metrics
        self._limits = limiter.limits
        self._under_way = Shares(self._limits.connections, self._limits.each(self._limits.connections))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with bounds on its body."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        address = neighbourhood((scope.get("client") or ("",))[0])
        room = self._under_way.take(address)
        try:
            crowd = self._crowd(scope, address, room)
            if scope["type"] == "websocket":
                await self._websocket(scope, receive, send, headers, crowd)
            else:
                await self._http(scope, receive, send, headers, crowd, address)
        finally:
            self._under_way.take(address, -1)

    def _crowd(self, scope: Scope, address: str, room: bool) -> Refusal | None:
        """Why a client has to wait, or None. Decided once a connection; behind a proxy, at every request."""
        tracked = scope.get("state", {}).get("tracked")
        if tracked is not None and not tracked.proxied:
            found = tracked.refusal
        elif wait_s := self._limiter.arrivals.take(address, self._clock()):
            found = too_soon(wait_s)
        else:
            found = None
        if found is None and not room:
            found = Refusal(
                429, "too_many", "too many requests of this address are under way: wait for their answers", 1
            )
        if found is not None:
            self._metrics.count("turned_away")
        return found

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], crowd: Refusal | None
    ) -> None:
        async def refuse(refusal: Refusal) -> None:
            told = told_of(refusal)
            await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": told})
            await send({"type": "websocket.http.response.body", "body": said_of(refusal)})

        async def turn_away(number: int, code: str, sentence: str) -> None:
            """Accept, send the reason and close: a browser hides a refused handshake from its page."""
            await receive()
            await send({"type": "websocket.accept", "subprotocol": greeting(offered)})
            error = {"type": "error", "code": code, "message": sendable(sentence)}
            await send(
                {"type": "websocket.send", "bytes": pack(error, version=VERSION if version is None else version)}
            )
            await send({"type": "websocket.close", "code": number, "reason": code})

        offered = scope.get("subprotocols", [])
        version = version_in(offered)
        host, token = headers.get("host"), token_in(offered) or bearer(headers.get("authorization"))
        if crowd is not None:
            await refuse(crowd)
        elif (strange := self._access.host_refusal(host)) is not None:
            await refuse(Refusal(403, "forbidden", strange))
        elif (foreign := self._access.origin_refusal(host, headers.get("origin"))) is not None:
            await turn_away(CLOSE_FOREIGN, "origin", foreign)
        elif (wrong := self._access.token_refusal(token)) is not None:
            await turn_away(CLOSE_UNAUTHORISED, "token", wrong)
        elif (other := of_another_version(offered)) is not None:
            await turn_away(CLOSE_VERSION, "version", other)
        else:
            await self._app(scope, receive, send)

    async def _http(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[str, str],
        crowd: Refusal | None,
        address: str,
    ) -> None:
        path = route_path(scope)
        is_film = path.endswith(RECORDINGS)  # of which one comes at a time
        held = self._limiter.received
        body = Bounded(receive, self._most(path), self._limits, lambda n: is_film or held.take(address, n))
        origin = headers.get("origin")
        invited = origin is not None and self._access.allows_origin(origin)
        shared = [*SHARED, (b"access-control-allow-origin", str(origin).encode())] if invited else []
        spoken = False
        """Whether a body that was cut off has had its answer: the application's own answer is then dropped."""

        async def dressed(message: Message) -> None:
            nonlocal spoken
            if body.cut is not None and not spoken and message["type"] == "http.response.start":
                spoken = True
                await answer(body.cut.status, told_of(body.cut), said_of(body.cut))
            elif not spoken:
                await plain(message)

        async def plain(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS, *shared]
            await send(message)

        async def answer(status: int, told: Headers, said: bytes = b"") -> None:
            if said:
                told = [*told, (b"content-length", str(len(said)).encode())]
            await plain({"type": "http.response.start", "status": status, "headers": told})
            await plain({"type": "http.response.body", "body": said})

        if invited and scope["method"] == "OPTIONS":  # a browser asks before its page may, and shows no token yet
            await answer(204, [])
        elif crowd is not None:
            await answer(crowd.status, told_of(crowd), said_of(crowd))
        elif (refusal := self._refusal(path, headers)) is not None:
            status, code, sentence = refusal
            await answer(status, [JSON], error_body(sentence, code))
        else:
            try:
                await self._app(self._plain(scope, headers), body, dressed)
            finally:
                if not is_film:
                    held.take(address, -body.taken)

    def _plain(self, scope: Scope, headers: Mapping[str, str]) -> Scope:
        """The request as the routes see it: HEAD becomes GET (its body is not sent), an unknown Host becomes the server's."""
        given = scope["headers"]
        if not self._access.knows_host(headers.get("host")):
            host, port = scope.get("server") or (self._access.host, None)
            own = f"[{host}]" if ":" in host else host
            named = (b"host", (own if port is None else f"{own}:{port}").encode())
            given = [named, *(pair for pair in given if pair[0] != b"host")]
        return dict(scope) | {"headers": given, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host")
        if (
            strange := self._access.host_refusal(host) or self._access.origin_refusal(host, headers.get("origin"))
        ) is not None:
            return 403, "forbidden", strange
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
        if not is_open and (wrong := self._access.token_refusal(bearer(headers.get("authorization")))) is not None:
            return 401, "invalid_api_key", wrong
        length = headers.get("content-length", "0")
        if len(length) > 18 or not length.isdecimal() or int(length) > self._most(path):
            return 413, "too_large", f"a request body may have at most {self._most(path)} bytes"
        if (packed := headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
            return 415, "invalid", f"the body is compressed ({packed:.40}): send it as it is, without Content-Encoding"
        return None

    def _most(self, path: str) -> int:
        """Largest body of a request to this path, in bytes."""
        return self._limits.recording_bytes if path.endswith(RECORDINGS) else self._limits.message_bytes


class Bounded:
    """A request body with a bound on its size and its pace. ``hold`` says whether more bytes may be half received."""

    def __init__(self, receive: Receive, most: int, limits: Limits, hold: Callable[[int], bool]) -> None:
        self._receive, self._most, self._limits, self._hold = receive, most, limits, hold
        self._pace = Pace(limits.slowest_bytes_per_s)
        self._lag_s = self._pace.lag(0.0, 0)
        self._ended = False
        self.taken = 0
        """Bytes received so far."""
        self.cut: Refusal | None = None
        """Why reading the body was stopped; None if it was not."""

    async def __call__(self) -> Message:
        """The next message. A body that is too large or too slow ends as if the client had gone."""
        if self._ended:
            return await self._receive()
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, self._limits.body_s - self._lag_s)):
                message = await self._receive()
        except TimeoutError:
            return self._cut(408, "too_slow", "the body stopped coming: send it again, at once")
        n = len(message.get("body", b""))
        self._lag_s = self._pace.lag(asyncio.get_running_loop().time() - began, n)
        self._ended = not message.get("more_body", False)
        self.taken += n
        fits = self._hold(n)
        if self.taken > self._most:
            return self._cut(413, "too_large", f"a request body may have at most {self._most} bytes")
        return message if fits else self._cut(503, "busy", "too much is half received: try again in a second", 1)

    def _cut(self, status: int, code: str, sentence: str, retry_s: int = 0) -> Message:
        self._ended = True
        self.cut = Refusal(status, code, sentence, retry_s)
        return {"type": "http.disconnect"}
