"""What a client may do, by default little: loopback only, known origins, bounded sizes, rates and numbers. All pure."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost",)


@dataclass(frozen=True)
class Limits:
    """Bounds on what one client, and all together, can take."""

    sessions: int = 8
    """Live sessions at a time; more wait in the queue."""
    queue: int = 32
    """Places in the queue; more are turned away."""
    connections: int = 256
    """Open connections of any kind."""
    message_bytes: int = 4 * 2**20
    """Largest message or request body."""
    picture_pixels: int = 1024 * 1024
    """Largest picture, read from its header before it is decoded."""
    prompt_characters: int = 500
    """Longest prompt."""
    messages_per_s: float = 120.0
    """Messages a session may send; what comes faster is dropped and counted."""
    burst: int = 60
    """Messages that may come at once."""
    pictures_per_request: int = 8
    """Largest ``n`` of an OpenAI-style request."""
    single_pictures: int = 16
    """REST requests being drawn or waiting at a time; more are answered 503."""
    send_s: float = 10.0
    """A client that does not take a picture for this long is disconnected."""
    body_s: float = 10.0
    """A request's headers and body must be here after this long."""
    idle_s: float = 900.0
    """A session that asks for nothing for this long gives its place up."""
    kept_bytes: int = 4 * 2**20
    """Pictures a session keeps for download, the newest."""


class TokenBucket:
    """``rate`` a second on average, ``burst`` at once. Time is an argument."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = float(burst), now

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = max(now, self._at)
        if self._left < 1:
            return False
        self._left -= 1
        return True


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Door:
    """Who may come in."""

    host: str
    """The address served on."""
    token: str = ""
    """What every request must show; may be empty on loopback only."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers that may use this one, as ``https://example.org``."""
    names: tuple[str, ...] = ()
    """Host names, beside the address, that this server is reached by."""

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise ValueError(
                f"serving on {self.host} would let anyone on the network in: give a --token, or serve on 127.0.0.1"
            )

    def stranger(self, host: str | None, origin: str | None) -> str | None:
        """Why a request with these headers is refused, as a sentence, or None.

        A page on another site can make a browser send requests here, and can make its own name point here (DNS
        rebinding): so on loopback the Host must be a local name, and a browser's Origin must be this server's own.
        """
        if not self._known_host(host or ""):
            return f"the host name {host!r} is not known here: use the address the server printed, or --names"
        if origin is not None and not self._known_origin(origin, host or ""):
            return f"pages from {origin} may not use this server: start it with --origins {origin} to allow them"
        return None

    def wrong_token(self, token: str) -> str | None:
        """Why this token is refused, as a sentence, or None."""
        if not self.token or hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        return "the access token is missing or wrong: use the address with the token that the server printed"

    def _known_host(self, host: str) -> bool:
        name = host_name(host)
        if self.token:  # whoever knows the token was given the address
            return True
        return is_loopback(name) or name == self.host or name in self.names

    def _known_origin(self, origin: str, host: str) -> bool:
        if origin in self.origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and bool(host) and parts.netloc.lower() == host.lower()


def host_name(host: str) -> str:
    """A Host header without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def bearer(authorization: str | None) -> str:
    """The token of an ``Authorization: Bearer`` header; empty where there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def address(host: str, port: int, token: str = "") -> str:
    """What to type into a browser; the token stands behind a #, which browsers never send."""
    shown = "localhost" if is_loopback(host) else host
    return f"http://{shown}:{port}/" + (f"#token={token}" if token else "")


def check_sizes(limits: Limits, sizes: Sequence[int]) -> None:
    """Raise ValueError if a picture of the model's own size would break the limits."""
    if (largest := max(sizes)) ** 2 > limits.picture_pixels:
        raise ValueError(f"{largest} px pictures are over the limit of {limits.picture_pixels} pixels: raise the limit")
