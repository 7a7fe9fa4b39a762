"""One user's way to and from the server: what another encoding would take, told from the one in use. Pure: time is an argument.

A picture travels for a latency and for its bytes, and while one encoding is in use nobody can tell these apart: it may be
late since it is far, or since it is large. Certain are the two ends. If all were latency, every encoding would take the
same time; if all were bandwidth, each would take as long as it has bytes. So for an encoding that was never tried the
better end is taken: a smaller one helps, a larger one costs nothing. Trying it gives the answer, and that is remembered: of
each encoding what was usual in its last stay, cut to what the two ends still allow. Through it and the one in use goes a
line, for those that were never tried. What is remembered fades to the better end, since links change: at once as far as
the encoding that came next has changed since, and with time, half as fast each time that another stay proves it right.
So attempts die out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...inference.timings import Kind, Percentiles

ENOUGH = 3
"""Pictures of one kind until their time is believed."""
IN_FLIGHT = 2
"""Pictures of a new kind that still travel behind one of the old, and tell nothing."""
APART = 1.25
"""Two kinds tell latency from bandwidth only if one has this many times the other's bytes."""

SAME = 0.8
"""A period confirms the remembered one if its level is at least this share of it."""


@dataclass(frozen=True)
class UsagePeriod:
    """What was measured of a kind the last time it was in use."""

    ms: float
    """The level: 90% of the newest pictures took less."""
    usual_ms: float
    """The median of the levels of its last minute, known once the period ends. What ended it is mostly not part of it."""
    sent: float
    """Bytes of a picture, the median."""
    at: float
    """When, in seconds."""
    fade_s: float
    """Half of it is forgotten after this long out of use."""
    next_kind: Kind | None = None
    """What was in use after it ..."""
    next_ms: float = 0.0
    """... and the first level of that."""

    def trust(self, kind: Kind, ms: float, now: float) -> float:
        """How far it still holds, in [0, 1], while ``kind`` takes ``ms``."""
        change = min(ms, self.next_ms) / max(ms, self.next_ms, 1e-3) if kind == self.next_kind else 1.0
        return float(change * 0.5 ** ((now - self.at) / self.fade_s))


def _windows() -> tuple[Percentiles, Percentiles, Percentiles]:
    """Windows for the times, the bytes and the levels of one period."""
    return Percentiles(64, 10.0), Percentiles(64, 10.0), Percentiles(2048, 60.0)


class WireEstimate:
    """Network times of one session by kind, there and back, outside the server."""

    def __init__(self, fade_s: float = 600.0) -> None:
        self._fade_s = fade_s
        self._periods: dict[Kind, UsagePeriod] = {}
        self._kind: Kind | None = None
        """Of the newest picture."""
        self._used: Kind | None = None
        """The newest kind that is measured."""
        self._heard = 0
        self._times, self._bytes, self._levels = _windows()

    def add(self, kind: Kind, sent: int, ms: float, now: float) -> None:
        """A picture of ``sent`` bytes has travelled for ``ms``."""
        if kind != self._kind:
            self._begin(kind)
        self._heard += 1
        if self._heard <= 0:
            return
        self._times.add(ms, now)
        self._bytes.add(float(sent), now)
        if self._heard < ENOUGH:
            return
        level, size = self._times.at(0.9, now) or 0.0, self._bytes.at(0.5, now) or 0.0
        self._levels.add(level, now)
        period = UsagePeriod(level, level, size, now, self._fading(kind, level))
        if self._used is not None and self._used != kind:
            self._periods[self._used] = replace(self._periods[self._used], next_kind=kind, next_ms=level)
        self._used, self._periods[kind] = kind, period

    def _fading(self, kind: Kind, level: float) -> float:
        before = self._periods.get(kind)
        if before is None or (kind != self._used and level < SAME * before.usual_ms):
            return self._fade_s
        return before.fade_s if kind == self._used else 2 * before.fade_s

    def _begin(self, kind: Kind) -> None:
        """Begin a period of another kind, and sum up the one before."""
        if self._kind is not None and self._kind == self._used:
            period = self._periods[self._kind]
            self._periods[self._kind] = replace(period, usual_ms=self._levels.at(0.5, period.at) or 0.0)
        self._heard = 0 if self._kind is None else -IN_FLIGHT
        self._kind = kind
        self._times, self._bytes, self._levels = _windows()

    def wire_ms(self, typical: Mapping[Kind, float], now: float) -> dict[Kind, float]:
        """Milliseconds by kind, for every kind of ``typical``, its usual bytes; empty where nothing was measured."""
        if self._used is None:
            return {}
        used = self._periods[self._used]
        scale = used.sent / typical[self._used]
        sizes = {kind: scale * sent for kind, sent in typical.items()}
        sizes |= {kind: period.sent for kind, period in self._periods.items()}
        return {k: used.ms if k == self._used else self._expected(k, sizes[k], self._used, now) for k in typical}

    def _expected(self, kind: Kind, sent: float, in_use: Kind, now: float) -> float:
        """Milliseconds of a kind of ``sent`` bytes that is not in use."""
        used = self._periods[in_use]
        better, worse = sorted((used.ms, used.ms * sent / used.sent))
        known = self._periods.get(kind) or self._nearest(sent, used)
        if known is None:
            return better
        if kind in self._periods:
            told = known.usual_ms
        else:
            told = used.ms + (known.usual_ms - used.ms) / (known.sent - used.sent) * (sent - used.sent)
        trust = known.trust(in_use, used.ms, now)
        return better + trust * (min(max(told, better), worse) - better)

    def _nearest(self, sent: float, used: UsagePeriod) -> UsagePeriod | None:
        """The period of another size that tells most about ``sent`` bytes."""
        telling = [s for s in self._periods.values() if not 1 / APART < s.sent / used.sent < APART]
        return min(telling, key=lambda s: abs(s.sent - sent), default=None)
