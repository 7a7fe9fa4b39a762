"""All TCP connections, by address: how many there may be, and how much of what was written each has taken."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from ..access import AccessPolicy
from ..limits import Arrivals, Limits, Pace, Refusal, Shares, neighbourhood, too_soon
from ..metrics import Metrics

LINGER_NOT = struct.pack("ii", 1, 0)
"""Socket option: closing drops unsent bytes at once, in the kernel, too."""


class TrackedTransport:
    """One TCP connection: an asyncio transport with its client's address and a count of the bytes that the client has taken."""

    def __init__(
        self, transport: Any, is_idle: Callable[[], bool], address: str, proxied: bool, limits: Limits
    ) -> None:
        self._transport, self.address, self.proxied = transport, address, proxied
        self.is_idle = is_idle
        """Whether the protocol on it, HTTP or WebSocket, has nothing under way: then it may be closed to make room."""
        self.refusal: Refusal | None = None
        """Why every request on it is refused; None if they are served."""
        self._limits = limits
        self._pace = Pace(limits.slowest_bytes_per_s)
        self._written = self._taken = 0
        self._looked_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write and count."""
        self._written += len(data)
        self._transport.write(data)

    @property
    def pending(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        return int(self._transport.get_write_buffer_size())

    def is_stuck(self, now: float) -> bool:
        """Whether its client has been taking too little of what it is sent, for too long."""
        pending = self.pending
        taken = self._written - pending
        moved, self._taken = taken - self._taken, taken
        passed, self._looked_s = now - self._looked_s, now
        if not pending:
            self._pace.rest()
            return False
        return self._pace.lag(passed, moved) > self._limits.send_s

    def drop(self) -> None:
        """Close it now and drop what its client did not take, which frees the socket and the memory."""
        with contextlib.suppress(OSError, AttributeError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._transport.abort()


class ConnectionLimiter:
    """All open connections, by address. At the limit an idle connection is closed for a new one, first of the same address."""

    def __init__(self, limits: Limits, access: AccessPolicy, clock: Callable[[], float], metrics: Metrics) -> None:
        self.limits, self._access, self._clock, self._metrics = limits, access, clock, metrics
        self.arrivals = Arrivals(limits)
        self.received = Shares(limits.half_bytes, max(limits.message_bytes, limits.each(limits.half_bytes)))
        """Bytes of messages and bodies that are not whole yet."""
        self._open: dict[str, dict[TrackedTransport, None]] = {}
        metrics.gauge("connections", lambda: sum(map(len, self._open.values())))

    def enter(self, transport: Any, is_idle: Callable[[], bool]) -> TrackedTransport:
        """A new connection. One over the limits is told why at its first request."""
        peer = transport.get_extra_info("peername")
        host = str(peer[0]) if isinstance(peer, tuple) else ""
        tracked = TrackedTransport(
            transport, is_idle, neighbourhood(host), self._access.trusts_proxy(host), self.limits
        )
        limits, mine = self.limits, self._open.setdefault(tracked.address, {})
        if not tracked.proxied:
            each = limits.each(limits.connections)
            if wait_s := self.arrivals.take(tracked.address, self._clock()):
                tracked.refusal = too_soon(wait_s)
            elif len(mine) >= each and not self._close_idle([mine]):
                said = f"this address has {each} connections here, its share: close one, or try again later"
                tracked.refusal = Refusal(429, "too_many", said, 1)
        if sum(map(len, self._open.values())) >= limits.connections:
            largest_first = sorted(self._open.values(), key=len, reverse=True)
            if not self._close_idle(largest_first) and tracked.refusal is None:
                tracked.refusal = Refusal(503, "busy", "all connections are taken: try again in a second", 1)
        self._open.setdefault(tracked.address, {})[tracked] = None
        return tracked

    def _close_idle(self, groups: Iterable[dict[TrackedTransport, None]]) -> bool:
        """Close the longest idle connection of the first group that has one; False if there is none."""
        idle = next((tracked for group in groups for tracked in group if tracked.is_idle()), None)
        if idle is None:
            return False
        self.leave(idle)
        idle.close()
        self._metrics.count("cut_off")
        return True

    def used(self, tracked: TrackedTransport) -> None:
        """Note that a connection served a request: it is now the last of the idle ones to be closed."""
        mine = self._open.get(tracked.address, {})
        if tracked in mine:
            del mine[tracked]
            mine[tracked] = None

    def leave(self, tracked: TrackedTransport) -> None:
        """Forget a closed connection."""
        mine = self._open.get(tracked.address, {})
        mine.pop(tracked, None)
        if not mine:
            self._open.pop(tracked.address, None)

    def cut(self, tracked: TrackedTransport) -> None:
        """End a connection whose client does not keep pace."""
        self._metrics.count("cut_off")
        tracked.drop()

    def note_cut(self) -> None:
        """Count a connection that was closed with a reason."""
        self._metrics.count("cut_off")
