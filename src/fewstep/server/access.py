"""Who may use the server: its address and names, the token, the pages of other servers, and the proxies it believes. All pure."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass

LOCAL_NAMES = ("localhost",)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+|null")
"""As a browser writes it in its Origin header: in small letters, without a path."""
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?", re.IGNORECASE)
"""A Host header: a name or an address, and perhaps a port. Anything else is refused."""
NO_TOKEN = "none"
"""The ``--token`` that lets everybody in, also those who come through a proxy."""
TOKEN = re.compile(r"[A-Za-z0-9._~-]*")
"""A token of these characters needs no escape in an address or in a WebSocket's subprotocol."""


def _is_network(text: str) -> bool:
    """Whether this is an address or a network. The network of all addresses is refused: it would trust everybody."""
    try:
        return ipaddress.ip_network(text).prefixlen > 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class AccessPolicy:
    """Who may use the server."""

    host: str
    """The address served on."""
    token: str = ""
    """What every request must show; may be empty on loopback only."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers that may use this one, as ``https://example.org``."""
    names: tuple[str, ...] = ()
    """Host names, beside the address, that this server is reached by."""
    proxies: tuple[str, ...] = ()
    """Addresses and networks of reverse proxies, whose word for a client's address is believed."""
    open: bool = False
    """Whether the owner said that no token is wanted, wherever people come from."""

    def __post_init__(self) -> None:
        for name in self.names:
            if not HOST.fullmatch(name) or host_name(name) != name.lower():
                raise ValueError(
                    f"--names {name} is no host name: write it without scheme, port and path, as studio.example.org"
                )
        if not (self.token or self.open):
            if not is_loopback(self.host):
                raise ValueError(
                    f"serving on {self.host} would let anyone on the network in: give a --token, or serve on 127.0.0.1"
                )
            if self.proxies and self.names:
                raise ValueError(
                    f"serving as {' or '.join(self.names)} through {' and '.join(self.proxies)} would let anyone on the "
                    f"internet in: give a --token (auto makes one), or say --token {NO_TOKEN}"
                )
        if not TOKEN.fullmatch(self.token):
            raise ValueError(
                "--token may hold letters, digits, - . _ and ~ alone: choose such a one, or use --token auto"
            )
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"--origins {origin} is no origin of a page: write scheme, name and port alone, as https://example.org"
                )
        for proxy in self.proxies:
            if not _is_network(proxy):
                raise ValueError(
                    f"--trusted-proxies {proxy} is no address or network of a proxy: write 10.0.0.7, or 10.0.0.0/8"
                )

    @property
    def private(self) -> bool:
        """Whether only people at this machine can use the server: files that it signs are then theirs."""
        return is_loopback(self.host) and not self.names and not self.proxies

    def host_refusal(self, host: str | None) -> str | None:
        """Why a request with this Host is refused, as a sentence, or None.

        A page on another site can make its own name point here (DNS rebinding): so on loopback the Host must be a local
        name.
        """
        if self.token or self.knows_host(host):  # whoever knows the token was given the address
            return None
        if not host:
            return "the request names no host: send a Host header, with the address that the server printed"
        return f"the host name {host!r:.100} is not known here: use the address the server printed, or --names"

    def knows_host(self, host: str | None) -> bool:
        """Whether this Host is one that the server was told it has: its address, this machine, or one of its names.

        A client may write whatever it likes there, so addresses that are handed out are made from no other.
        """
        name = host_name(host or "")
        return bool(name) and (is_loopback(name) or name in {n.lower() for n in (self.host.strip("[]"), *self.names)})

    def trusts_proxy(self, address: str) -> bool:
        """Whether this is a proxy whose word is believed."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in ipaddress.ip_network(proxy) for proxy in self.proxies)

    @property
    def warning(self) -> str | None:
        """What the owner of an open server is told at the start, as a sentence, or None."""
        if self.private or self.token:
            return None
        ways = [f"through {' and '.join(self.proxies)}"] if self.proxies else []
        ways += [f"as {' or '.join(self.names)}"] if self.names else []
        ways += [f"on {self.host}"] if not is_loopback(self.host) else []
        return f"no token is asked for: whoever reaches this server {' '.join(ways)} can draw here (--token auto makes one)"

    def origin_refusal(self, host: str | None, origin: str | None) -> str | None:
        """Why a page of this origin is refused, as a sentence, or None.

        A page on another site can make a browser send requests here: so a browser's Origin must be this server's own,
        or one that was allowed.
        """
        if origin is None or self.allows_origin(origin) or self._own(origin, host or ""):
            return None
        if not ORIGIN.fullmatch(origin):
            return f"{origin!r:.100} is no origin of a page: a browser sends scheme, name and port alone, or null"
        return f"pages from {origin:.100} may not use this server: start it with --origins {origin:.100} to allow them"

    def allows_origin(self, origin: str | None) -> bool:
        """Whether a page of another server was allowed to use this one."""
        return origin in self.origins

    def token_refusal(self, token: str) -> str | None:
        """Why this token is refused, as a sentence, or None."""
        if not self.token or hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode()):
            return None
        return "the access token is missing or wrong: use the address with the token that the server printed"

    @staticmethod
    def _own(origin: str, host: str) -> bool:
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and bool(host) and rest.lower() == host.lower()


def host_name(host: str) -> str:
    """A Host header without its port, in small letters; empty for what is none."""
    found = HOST.fullmatch(host)
    return found[1].strip("[]").lower() if found else ""


def bearer(authorization: str | None) -> str:
    """The token of an ``Authorization: Bearer`` header; empty where there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def address(host: str, port: int, token: str = "") -> str:
    """What to type into a browser; the token stands behind a #, which browsers never send."""
    shown = "localhost" if is_loopback(host) else host
    return f"http://{shown}:{port}/" + (f"#token={token}" if token else "")
