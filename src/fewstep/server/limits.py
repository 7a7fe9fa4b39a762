"""Limits on sizes, rates and numbers, for one client and for all together. Pure: time is an argument."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from ..ranges import Count, Limit, Range, Rate
from .wire.protocol import HEAD, MAX_HEADER_BYTES


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
    """How many seconds a client lags behind a slow pace of ``rate`` bytes a second. A client that keeps the pace never lags."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lag_s: float | None = None

    def rest(self) -> None:
        """Nothing is awaited."""
        self._lag_s = None

    def lag(self, passed_s: float, moved: int) -> float:
        """The lag in seconds, after ``passed_s`` seconds in which ``moved`` bytes came. Time begins with the first call."""
        lag = 0.0 if self._lag_s is None else self._lag_s + passed_s
        self._lag_s = max(0.0, lag - moved / self._rate)
        return self._lag_s


class Shares:
    """How much of something every address has taken: at most ``total`` together, and ``each`` for one address."""

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._had: Counter[str] = Counter()
        self.taken = 0
        """Taken by all addresses together."""

    def take(self, address: str, n: int = 1) -> bool:
        """Take n more; True if that is within the bounds. It is taken in any case. A negative n gives back."""
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
    """The refusal for an address that connects too often."""
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


def check_sizes(limits: Limits, shapes: Iterable[tuple[int, int]]) -> None:
    """Raise ValueError if a picture of a shape ``(height, width)`` that is drawn here would break the limits."""
    height, width = max(shapes, key=math.prod)
    pixels, said = height * width, f"{width}x{height}" if height != width else f"{width} px"
    if pixels > limits.picture_pixels:
        raise ValueError(
            f"{said} pictures are over the limit of {limits.picture_pixels} pixels: "
            f"use --limits.picture-pixels {pixels}"
        )
    if (needed := message_of(pixels)) > limits.message_bytes:
        raise ValueError(
            f"a {said} picture with its mask takes {needed} bytes, over the limit of {limits.message_bytes} bytes "
            f"a message: use --limits.message-bytes {needed}"
        )
