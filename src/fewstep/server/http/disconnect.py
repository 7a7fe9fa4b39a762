"""Around every HTTP request: note its client's address, and cancel its work if the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..limits import neighbourhood
from ..state import CLIENT_ADDRESS


class DisconnectMiddleware:
    """ASGI middleware: cancels the work on a request whose client has left (``http.disconnect``)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and listen meanwhile: from the end of the body on nothing else can come."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        CLIENT_ADDRESS.set(neighbourhood(scope["client"][0] if scope.get("client") else ""))
        first = [await receive()] if scope["method"] in ("GET", "HEAD") else []  # whose handlers never ask
        gone: asyncio.Task[Message] | None = None
        answered = False

        def listen() -> asyncio.Task[Message]:
            listening = asyncio.ensure_future(_message(receive()))
            listening.add_done_callback(lambda _: None if answered else work.cancel())
            return listening

        async def heard() -> Message:
            nonlocal gone
            if first:
                return first.pop()
            if gone is not None:
                return await asyncio.shield(gone)
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                gone = listen()
            return message

        async def told(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        work = asyncio.ensure_future(_done(self._app(scope, heard, told)))
        if first and first[0]["type"] == "http.request":
            gone = listen()
        try:
            await work
        except asyncio.CancelledError:
            if gone is None or not gone.done():  # not the client has left: the server ends
                work.cancel()
                raise
        finally:
            if gone is not None:
                gone.cancel()


async def _message(coming: Awaitable[Message]) -> Message:
    return await coming


async def _done(work: Awaitable[None]) -> None:
    await work
