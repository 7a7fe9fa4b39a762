"""In front of every route: who may come in, how large and how slow a request may be, and the headers a browser gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Door, Limits, bearer
from .protocol import SUBPROTOCOL, pack, token_in
from .stream import CLOSE_UNAUTHORISED

OPEN_PATHS = ("/", "/health", "/favicon.ico")
"""Paths that need no token: they hold nothing of anybody's."""
OPEN_FOLDERS = ("/web/", "/v1/files/")
"""The same for all below them. A file's name is a secret that only its answer gave away, as with OpenAI's addresses."""
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
     b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=()"),
)  # fmt: skip


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """An error in the form that OpenAI's clients read."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, door: Door, limits: Limits) -> None:
        self._app, self._door, self._limits = app, door, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with bounds."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send, headers)
        else:
            await self._http(scope, receive, send, headers)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        offered = scope.get("subprotocols", [])
        token = token_in(offered) or bearer(headers.get("authorization"))
        strange = self._door.stranger(headers.get("host"), headers.get("origin"))
        if strange is not None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
            await send({"type": "websocket.http.response.body", "body": strange.encode()})
            return
        if (wrong := self._door.wrong_token(token)) is not None:
            await receive()  # accepted and closed, since a browser shows its page nothing of a refused handshake
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if SUBPROTOCOL in offered else None})
            await send({"type": "websocket.send", "bytes": pack({"type": "error", "code": "token", "message": wrong})})
            await send({"type": "websocket.close", "code": CLOSE_UNAUTHORISED, "reason": "token"})
            return
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        body = Bounded(receive, self._limits)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
                if body.cut:
                    message["status"] = body.cut
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            status, code, sentence = refusal
            await dressed(
                {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
            )
            await dressed({"type": "http.response.body", "body": error_body(sentence, code)})
            return
        await self._app(scope, body, dressed)

    def _refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        strange = self._door.stranger(headers.get("host"), headers.get("origin"))
        if strange is not None:
            return 403, "forbidden", strange
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
        if not is_open and (wrong := self._door.wrong_token(bearer(headers.get("authorization")))) is not None:
            return 401, "invalid_api_key", wrong
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.message_bytes:
            return 413, "too_large", f"a request body may have at most {self._limits.message_bytes} bytes"
        return None


class Bounded:
    """A request body that must be small and come soon."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._taken, self._ended = 0, False
        self.cut = 0
        """The status that says why the body was not read to its end; 0 while nothing is wrong with it."""

    async def __call__(self) -> Message:
        """The next message. A body that is too large or too slow ends as if the client had gone."""
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.body_s):
                message = await self._receive()
        except TimeoutError:
            self.cut = 408
            return {"type": "http.disconnect"}
        self._taken += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._taken > self._limits.message_bytes:
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
