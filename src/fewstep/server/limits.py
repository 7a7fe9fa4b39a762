"""What a client may do, by default little: loopback only, known origins, bounded sizes, rates and numbers. All pure."""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..ranges import Count, Limit, Range, Rate
from .wire.protocol import HEAD, MAX_HEADER_BYTES

LOCAL_NAMES = ("localhost",)
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+|null")
"""As a browser writes it in its Origin header: in small letters, without a path."""
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?", re.IGNORECASE)
"""A Host header: a name or an address, and perhaps a port. What else it may hold would only lead somebody astray."""
NO_TOKEN = "none"
"""The ``--token`` that lets everybody in, also those who come through a proxy."""
TOKEN = re.compile(r"[A-Za-z0-9._~-]*")
"""What passes through an address and a WebSocket's subprotocol as it is."""


def message_of(pixels: int) -> int:
    """Bytes of the largest message about a picture of so many pixels: it and a mask, bare, four bytes a pixel each."""
    return 2 * 4 * pixels + MAX_HEADER_BYTES + HEAD.size


PIXELS = 1024 * 1024
MESSAGE_BYTES = message_of(PIXELS)


@dataclass(frozen=True)
class Limits:
    """Bounds on what one client, and all together, can take."""

    sessions: Count = 8
    """Live sessions at a time; more wait in the queue."""
    queue: Limit = 32
    """Places in the queue; more are turned away."""
    share: Annotated[float, Range(0, 1, above=True)] = 0.5
    """What one address may have of connections, sessions, the queue and what is half received; 1 is all of it."""
    connections: Count = 256
    """Open connections of any kind."""
    connections_per_s: Rate = 20.0
    """New connections a second from one address, on average; what comes faster is answered 429. Behind a proxy: requests."""
    connections_burst: Count = 300
    """New connections from one address that may come at once."""
    message_bytes: Count = MESSAGE_BYTES
    """Largest message or request body; by itself it holds the largest picture and its mask, bare."""
    recording_bytes: Count = 64 * 2**20
    """Largest recording that is signed; one at a time."""
    picture_pixels: Count = PIXELS
    """Largest picture, read from its header before it is decoded."""
    prompt_characters: Count = 500
    """Longest prompt."""
    messages_per_s: Rate = 120.0
    """Messages a session may send; what comes faster is dropped and counted."""
    burst: Count = 60
    """Messages that may come at once."""
    pictures_per_request: Count = 10
    """Largest ``n`` of an OpenAI-style request."""
    single_pictures: Count = 16
    """REST requests being drawn or waiting at a time; more are answered 503."""
    send_s: Rate = 10.0
    """A client that does not take what it is sent for this long is disconnected."""
    body_s: Rate = 10.0
    """A request's head, and a body or message that has stopped coming, are given up after this long."""
    slowest_bytes_per_s: Rate = 32 * 1024.0
    """What a client must send of a message or body, and take of an answer, on average; ``send_s``, ``body_s`` are its grace."""
    idle_s: Rate = 900.0
    """A session that asks for nothing for this long gives its place up."""
    kept_bytes: Count = 4 * 2**20
    """Pictures a session keeps for download, the newest."""

    @property
    def half_bytes(self) -> int:
        """Bytes of messages and bodies that are not whole yet, all clients together."""
        return 8 * self.message_bytes

    @property
    def frames_per_s(self) -> float:
        """WebSocket frames that a connection may send: twice its messages. Fragments that carry something are not counted."""
        return 2 * self.messages_per_s

    @property
    def frames_burst(self) -> float:
        """Frames that may come at once."""
        return self.frames_per_s + self.burst

    def each(self, total: int) -> int:
        """One address's share of so many, rounded up."""
        return math.ceil(self.share * total)


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

    @property
    def wait_s(self) -> float:
        """How long after the last `take` the next one is allowed; 0 at once."""
        return max(0.0, 1 - self._left) / self._rate


class Pace:
    """How far somebody lags behind a slow pace, ``rate`` bytes a second: who keeps it never does, who stops does so at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lag_s: float | None = None

    def rest(self) -> None:
        """Nothing is awaited."""
        self._lag_s = None

    def lag(self, passed_s: float, moved: int) -> float:
        """The lag in seconds, after so many more in which so many bytes came. Time begins with the first call."""
        lag = 0.0 if self._lag_s is None else self._lag_s + passed_s
        self._lag_s = max(0.0, lag - moved / self._rate)
        return self._lag_s


class Shares:
    """How much of something everybody has: all together ``total``, an address ``each``."""

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._had: Counter[str] = Counter()
        self.taken = 0
        """By all."""

    def take(self, address: str, n: int = 1) -> bool:
        """Take n more, and tell whether that is within the bounds; it is taken all the same. Less than none gives back."""
        self._had[address] += n
        self.taken += n
        if not self._had[address]:
            del self._had[address]
        return n <= 0 or (self.taken <= self._total and self._had[address] <= self._each)


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused: an HTTP status, a code for programs, a sentence for people."""

    status: int
    code: str
    sentence: str
    retry_s: int = 0
    """Seconds after which it may be tried again; 0 says nothing."""


def too_soon(wait_s: float) -> Refusal:
    """Of an address that comes too often."""
    seconds = math.ceil(wait_s)
    said = f"too many new connections from this address: try again in {seconds} s"
    return Refusal(429, "too_many", said, seconds)


class Arrivals:
    """New connections by address. Bounded: an address that has not come for long is forgotten before those that have."""

    def __init__(self, limits: Limits, most: int = 4096) -> None:
        self._limits, self._most = limits, most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Let a connection of this address in and return 0, or return the seconds until it may come again.

        Which connection is new is told by the connection itself: a port says nothing, since a client may use one again and
        again. Of what comes through a proxy every request is an arrival.
        """
        bucket = self._buckets.pop(address, None)
        if bucket is None:
            bucket = TokenBucket(self._limits.connections_per_s, self._limits.connections_burst, now)
        self._buckets[address] = bucket
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if bucket.take(now) else bucket.wait_s


def neighbourhood(address: str) -> str:
    """Whom an address stands for: of IPv6 its first 64 bits, since every customer has as many addresses as they like.

    What is no address, as a proxy may pass on, stands for nobody: all such count as one.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _is_network(text: str) -> bool:
    """Whether it is an address or a network; the network of all addresses would be everybody, and is none."""
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
    """Who may come in."""

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
        """Whether only people at this very machine come in: the files that are signed here are theirs."""
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


def check_sizes(limits: Limits, sizes: Sequence[int]) -> None:
    """Raise ValueError if a picture of a size that is drawn here would break the limits."""
    pixels = max(sizes) ** 2
    if pixels > limits.picture_pixels:
        raise ValueError(
            f"{max(sizes)} px pictures are over the limit of {limits.picture_pixels} pixels: "
            f"use --limits.picture-pixels {pixels}"
        )
    if (needed := message_of(pixels)) > limits.message_bytes:
        raise ValueError(
            f"a {max(sizes)} px picture with its mask takes {needed} bytes, over the limit of {limits.message_bytes} bytes "
            f"a message: use --limits.message-bytes {needed}"
        )
