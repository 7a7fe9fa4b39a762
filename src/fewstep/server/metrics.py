"""What is counted and timed, for people (the page), machines (Prometheus) and the planner. Safe from any thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ..inference.timings import Costs, Percentiles, StageClock, Timings

QUANTILES = (0.5, 0.95, 0.99)
COUNTERS = {
    "asked": "Requests taken in.",
    "drawn": "Pictures drawn.",
    "refined": "Pictures drawn once more at rest, with nothing shed.",
    "sent": "Pictures handed to the network.",
    "overwritten": "Requests overwritten by a newer one of the same session before their turn.",
    "superseded": "Pictures overwritten by a newer one before a slow client took them.",
    "throttled": "Messages dropped because a session sent too many.",
    "refused": "Requests and pictures refused by the safety filter.",
    "errors": "Requests answered with an error.",
    "full": "Connections turned away because room and queue were full.",
    "turned_away": "Requests turned away because their address, or all together, made too many.",
    "cut_off": "Connections ended because their client was late, a flood, or idle where others had no room.",
}


class Metrics:
    """Counters, stage times and rates of one server."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._stages = StageClock(Costs({}, {}, {}))
        self._drawn = Percentiles(4096, 10.0)
        self._gauges: dict[str, Callable[[], float]] = {}

    def use_costs(self, costs: Costs) -> None:
        """The idle costs that loads are measured against."""
        with self._lock:
            self._stages.costs = costs

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """Something that is looked up when it is asked for."""
        self._gauges[name] = value

    def count(self, name: str, by: int = 1) -> None:
        """Count something of COUNTERS."""
        assert name in COUNTERS, name
        with self._lock:
            self._counts[name] += by

    def total(self, name: str) -> int:
        """How many so far."""
        with self._lock:
            return self._counts[name]

    def note(self, stage: str, ms: float, idle_ms: float | None = None) -> None:
        """One stage time."""
        with self._lock:
            self._stages.note(stage, ms, self._clock(), idle_ms)

    def note_wait(self, wait_ms: float, served_ms: float) -> None:
        """Waiting for a turn against being served."""
        with self._lock:
            self._stages.note_wait(wait_ms, served_ms, self._clock())

    def note_drawn(self, n: int) -> None:
        """n pictures were drawn now."""
        with self._lock:
            self._counts["drawn"] += n
            for _ in range(n):
                self._drawn.add(1.0, self._clock())

    def timings(self) -> Timings:
        """For the planner."""
        with self._lock:
            return self._stages.timings(self._clock())

    def snapshot(self) -> dict[str, Any]:
        """Everything, as plain numbers."""
        with self._lock:
            now = self._clock()
            stages = self._stages.percentiles(now, QUANTILES)
            counts = {name: self._counts[name] for name in COUNTERS}
            fps = self._drawn.rate(now)
        gauges = {name: value() for name, value in self._gauges.items()}
        return {"counts": counts, "stages_ms": stages, "fps": fps, **gauges}

    def collect(self) -> Iterator[Any]:
        """Prometheus metric families: this object is a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        facts = self.snapshot()
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"fewstep_{name}", text, value=facts["counts"][name])
        stages = GaugeMetricFamily(
            "fewstep_stage_milliseconds", "Time of each stage over the last half minute.", labels=("stage", "quantile")
        )
        for stage, values in facts["stages_ms"].items():
            for quantile, value in zip(QUANTILES, values):
                if value is not None:
                    stages.add_metric((stage, str(quantile)), value)
        yield stages
        yield GaugeMetricFamily("fewstep_fps", "Pictures drawn a second, all sessions together.", value=facts["fps"])
        for name in self._gauges:
            yield GaugeMetricFamily(f"fewstep_{name}", f"Current {name.replace('_', ' ')}.", value=facts[name])

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)
