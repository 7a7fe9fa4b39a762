"""How long each stage takes: percentiles over a sliding window, and how busy the machine is against its idle costs.

The planner asks what a choice would cost that nobody has drawn with for an hour. So costs are measured once, idle, for
every choice (`Costs`), and while serving only the ratio of now to then is tracked, stage by stage: one slow neighbour
slows every choice, and when it goes away every choice recovers, whether it was in use or not.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STAGES = ("decode", "wait", "text", "codec_in", "network", "codec_out", "watermark", "encode", "other", "wire")
"""In the order a frame meets them. ``wait``: for its turn. ``other``: served, but in none of the stages, as in the steps
between two networks. ``wire``: both ways, beyond the server."""

Kind = tuple[str, int]
"""How a picture travels: encoder and pixels a side."""


class Percentiles:
    """Percentiles of the newest values: at most ``size`` of them, none older than ``seconds``.

    ``thinned`` values always reach back all the ``seconds``: of those that come too fast for that, some are left out.
    """

    def __init__(self, size: int = 256, seconds: float = 30.0, thinned: bool = False) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._times: deque[float] = deque(maxlen=size)
        self._seconds = seconds
        self._apart_s = seconds / size if thinned else 0.0

    def add(self, value: float, now: float) -> None:
        """Note one value."""
        if self._times and now - self._times[-1] < self._apart_s:
            return
        self._values.append(value)
        self._times.append(now)

    def _fresh(self, now: float) -> list[float]:
        while self._times and now - self._times[0] > self._seconds:
            self._times.popleft()
            self._values.popleft()
        return sorted(self._values)

    def at(self, quantile: float, now: float) -> float | None:
        """The value at ``quantile`` in [0, 1], between neighbours linearly; None where nothing is fresh."""
        return self.many((quantile,), now)[0]

    def many(self, quantiles: Iterable[float], now: float) -> list[float | None]:
        """Several quantiles at the price of one sorting."""
        values = self._fresh(now)
        if not values:
            return [None for _ in quantiles]
        found: list[float | None] = []
        for quantile in quantiles:
            place = quantile * (len(values) - 1)
            low = int(place)
            high = min(low + 1, len(values) - 1)
            found.append(values[low] + (values[high] - values[low]) * (place - low))
        return found

    def rate(self, now: float) -> float:
        """Values a second, over the time that the window really covers."""
        values = self._fresh(now)
        if not values:
            return 0.0
        covered = self._seconds if len(values) < (self._values.maxlen or 0) else now - self._times[0]
        return len(values) / max(covered, 1e-6)


@dataclass(frozen=True)
class Costs:
    """Milliseconds of each stage for each choice, measured on an idle machine before serving. Sizes are pixels a side."""

    network: Mapping[tuple[str, int], float]
    """One evaluation, by (backend, size)."""
    encode: Mapping[Kind, float]
    """By (encoder, size)."""
    codec_out: Mapping[int, float]
    """By size."""
    codec_in: Mapping[int, float] = field(default_factory=dict)
    """By size; for requests that bring a picture."""
    watermark: Mapping[int, float] = field(default_factory=dict)
    """By size; empty where no mark is made."""
    decode: float = 0.0
    """A picture that a request brings."""
    text: float = 0.0
    """A prompt seen for the first time."""
    other: Mapping[int, float] = field(default_factory=dict)
    """By size."""
    sent: Mapping[Kind, float] = field(default_factory=dict)
    """Not a time: bytes of a typical picture, by (encoder, size)."""


@dataclass(frozen=True)
class Timings:
    """All times that the planner knows at one moment."""

    costs: Costs
    load: Mapping[str, float] = field(default_factory=dict)
    """By stage: measured now over idle; 1 where nothing was measured lately."""
    wire_ms: Mapping[Kind, float] = field(default_factory=dict)
    """There and back, beyond the server, by (encoder, size); 0 where nothing is known."""
    wait_ratio: float = 0.0
    """Time waited for one's turn over time served: 0 alone, about n - 1 among n busy sessions."""
    text_ms: float = 0.0
    """Of the prompts that this user asked for lately: 0 while they are remembered."""

    def factor(self, stage: str) -> float:
        """The load on a stage."""
        return self.load.get(stage, 1.0)


class StageClock:
    """Live stage times: percentiles for people, load ratios for the planner."""

    def __init__(self, costs: Costs, quantile: float = 0.9) -> None:
        self.costs = costs
        self._quantile = quantile
        self._stages: defaultdict[str, Percentiles] = defaultdict(lambda: Percentiles(2048, 30.0, thinned=True))
        self._loads: defaultdict[str, Percentiles] = defaultdict(lambda: Percentiles(64, 5.0))
        self._waits = Percentiles(64, 5.0)

    def note(self, stage: str, ms: float, now: float, idle_ms: float | None = None) -> None:
        """One measurement; with the idle cost of the same work, it counts towards the load of its stage."""
        self._stages[stage].add(ms, now)
        if idle_ms:
            self._loads[stage].add(ms / idle_ms, now)

    def note_wait(self, wait_ms: float, served_ms: float, now: float) -> None:
        """How long a request waited for its turn, and how long serving it took."""
        self.note("wait", wait_ms, now)
        self._waits.add(wait_ms / max(served_ms, 1e-3), now)

    def percentiles(
        self, now: float, quantiles: tuple[float, ...] = (0.5, 0.95, 0.99)
    ) -> dict[str, list[float | None]]:
        """By stage, in the order of STAGES, then anything else that was noted."""
        names = [s for s in STAGES if s in self._stages] + [s for s in self._stages if s not in STAGES]
        return {name: self._stages[name].many(quantiles, now) for name in names}

    def timings(self, now: float) -> Timings:
        """The times for the planner, without those of one user: the wire, and how new the prompts are."""
        load = {name: value for name, p in self._loads.items() if (value := p.at(self._quantile, now)) is not None}
        return Timings(self.costs, load, wait_ratio=self._waits.at(0.5, now) or 0.0)
