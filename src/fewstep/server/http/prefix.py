"""Below a path of a reverse proxy: the studio at ``https://example.org/studio/`` instead of at a host of its own.

Proxies differ in whether they cut the path off before they pass a request on. Both are understood: every request is handed on as
ASGI has it, with the prefix in ``root_path`` and at the beginning of ``path``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
TAKEN = ("v1", "web", "health", "metrics", "openapi.json", "favicon.ico")
"""Paths of our own, which a prefix that begins alike could not be told from."""


def checked(path: str) -> str:
    """A prefix as ``/studio``, without a slash at its end; "" for none. Raises ValueError for what is none."""
    path = path.rstrip("/")
    if path and not PREFIX.fullmatch(path):
        raise ValueError(
            f"--root-path {path!r:.60} is no path: write it as the proxy's visitors see it, such as /studio"
        )
    if path.split("/")[1:2] and path.split("/")[1] in TAKEN:
        raise ValueError(
            f"--root-path {path} begins as addresses of the server itself do: choose another, such as /studio"
        )
    return path


def route_path(scope: Scope) -> str:
    """The path of a request without the prefix."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


class PrefixMiddleware:
    """ASGI middleware, before every other: says what the prefix is, whether or not the proxy has cut it off.

    It is ``root_path``, or what a trusted proxy names in X-Forwarded-Prefix.
    """

    def __init__(self, app: ASGIApp, root_path: str, proxies: Iterable[str] = ()) -> None:
        self._app, self._root_path = app, root_path
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        prefix = self._prefix(scope) if scope["type"] in ("http", "websocket") else ""
        if not prefix:
            await self._app(scope, receive, send)
            return
        if scope["path"] == prefix and scope["type"] == "http":  # links on the page are relative to a folder
            await send(
                {"type": "http.response.start", "status": 308, "headers": [(b"location", f"{prefix}/".encode())]}
            )
            await send({"type": "http.response.body", "body": b""})
            return
        whole = scope["path"].startswith(f"{prefix}/")
        told = {} if whole else {"path": prefix + scope["path"]}
        if not whole and scope.get("raw_path"):
            told["raw_path"] = prefix.encode() + scope["raw_path"]
        await self._app({**scope, "root_path": prefix, **told}, receive, send)

    def _prefix(self, scope: Scope) -> str:
        if scope.get("client") and self._trusted(scope["client"][0]):
            for name, value in scope["headers"]:
                if name == b"x-forwarded-prefix":
                    try:
                        return checked(value.decode("latin-1").strip())
                    except ValueError:
                        break
        return self._root_path

    def _trusted(self, client: str) -> bool:
        try:
            return any(ipaddress.ip_address(client) in network for network in self._proxies)
        except ValueError:  # a socket of this machine has no address
            return False
