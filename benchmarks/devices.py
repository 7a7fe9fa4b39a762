"""Several workers beside one: ten people draw on servers that are given one device and several, in turn.

    python benchmarks/devices.py [--device cpu cpu] [--output docs/results/devices.json]
"""

from __future__ import annotations

import asyncio
import shlex
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from load import crowd, serving

from fewstep.evaluation.record import write_figures


@dataclass(frozen=True)
class DeviceOptions:
    """What is compared."""

    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    device: tuple[str, ...] = ("cpu", "cpu")
    """The devices; against the first of them alone."""
    sessions: int = 10
    """People drawing at once."""
    seconds: float = 20.0
    """How long they draw each time."""
    rounds: int = 3
    """Turns that both take."""
    output: Path = Path("docs/results/devices.json")
    """Result file."""


def measure(options: DeviceOptions) -> dict[str, float]:
    """Medians over turns that followed one another, so that a machine that drifts drifts for both."""
    several, alone = [], []
    for _ in range(options.rounds):
        for devices, found in ((options.device[:1], alone), (options.device, several)):
            places = ["--limits.sessions", str(options.sessions + 1)]
            with serving(options.model, "--budget", "30fps", "--device", *devices, *places) as served:
                found.append(asyncio.run(crowd(served, options.sessions, options.seconds)))
            print(devices, found[-1], flush=True)
    figures = {"people": options.sessions, "workers": len(options.device), "rounds": options.rounds}
    for name, levels in (("alone", alone), ("several", several)):
        for fact in ("fps_per_user", "p50_ms", "p95_ms", "rss_end_mb"):
            figures[f"{name}_{fact}"] = statistics.median(getattr(level, fact) for level in levels)
        figures[f"{name}_errors"] = sum(level.errors + level.lost for level in levels)
    ratios = [two.fps_per_user / one.fps_per_user for one, two in zip(alone, several)]
    return figures | {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}


if __name__ == "__main__":
    chosen = tyro.cli(DeviceOptions)
    write_figures(chosen.output, measure(chosen), shlex.join(["python", "benchmarks/devices.py", *sys.argv[1:]]))
