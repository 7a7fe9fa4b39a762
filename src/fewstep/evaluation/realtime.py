"""Results of a load test: people drawing at the same time on one server. ``benchmarks/load.py`` writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..files import whole


@dataclass(frozen=True)
class LoadLevel:
    """So many people drawing at once."""

    sessions: int
    """People, each with a canvas that changes all the time."""
    seconds: float
    """How long they drew."""
    fps_per_user: float
    """Pictures a second and person, the mean over all of them."""
    fps_min: float
    """Of the one who got least."""
    fps_max: float
    """Of the one who got most."""
    p50_ms: float
    """Glass to glass: from the change of the canvas to the decoded picture."""
    p95_ms: float
    p99_ms: float
    steps: float
    """Network evaluations a picture, the mean of what the budget chose."""
    drops: int
    """Requests and pictures that a newer one overwrote on the server."""
    skipped: int
    """Canvas frames that a newer one overtook before there was room to send them."""
    errors: int
    """Requests answered with an error, and connections that broke."""
    lost: int
    """Requests that were neither answered nor counted as dropped."""
    rss_start_mb: float
    """Memory of the server before the first request of this level."""
    rss_peak_mb: float
    """The most seen during it."""
    rss_end_mb: float
    """After its last."""

    @property
    def fairness(self) -> float:
        """Most pictures over fewest; infinite where somebody got none."""
        return self.fps_max / self.fps_min if self.fps_min else math.inf


@dataclass(frozen=True)
class Realtime:
    """A whole load test."""

    load: tuple[LoadLevel, ...]
    overhead_ratio: float | None
    """Server time a picture, from the request's arrival to the finished answer, over the bare networks' time, one user."""
    overhead_cpu_ratio: float | None
    """The same in processor time of the whole server process, sockets included: neighbours on the machine do not count."""
    vs_stock_ratio: float | None
    """Pictures a second over those of a plain server around the stock diffusers pipeline, one user, same weights."""
    fps: float | None
    """Of fewstep in that comparison."""
    stock_fps: float | None
    """Of the stock server in it."""
    bare_ms: float | None
    """The bare networks: codec in, one evaluation, codec out."""
    model: str
    backend: str
    budget_ms: float
    """End-to-end target of the load levels."""
    machine: str
    """The machine of the measurement, and what else ran on it."""
    command: str
    """What to type to measure it again."""

    def write(self, path: Path) -> None:
        """As JSON, atomically."""
        facts = asdict(self)
        for level, found in zip(facts["load"], self.load):
            level["fairness"] = found.fairness if math.isfinite(found.fairness) else None
        text = json.dumps({key: _rounded(value) for key, value in facts.items()}, indent=1, allow_nan=False)
        with whole(path) as draft:
            draft.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Realtime:
        """Read the file of `write`. Raises ValueError, with the file's name, for any other."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            known = {f.name for f in fields(LoadLevel)}
            levels = [LoadLevel(**{k: v for k, v in level.items() if k in known}) for level in facts.pop("load")]
            return cls(load=tuple(levels), **facts)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} holds no load test ({error}): run benchmarks/load.py again") from error


def _rounded(value: Any) -> Any:
    """Four digits are more than a clock knows."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def table(found: Realtime) -> str:
    """A Markdown table: numbers of people down, what each of them got across; the comparisons below."""
    head = (
        "people drawing", "pictures a second each", "most / fewest", "p50 ms", "p95 ms", "p99 ms", "steps", "drops",
        "errors", "lost", "server memory MB",
    )  # fmt: skip
    rows = [_row(level) for level in found.load]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["--:"] * len(head), *rows)]
    return "\n".join([*lines, "", *_below(found)])


def _row(level: LoadLevel) -> Sequence[str]:
    times = [f"{ms:.0f}" for ms in (level.p50_ms, level.p95_ms, level.p99_ms)]
    memory = f"{level.rss_start_mb:.0f} → {level.rss_end_mb:.0f}"
    counts = [f"{n:,}" for n in (level.drops, level.errors, level.lost)]
    fair = f"{level.fairness:.2f}" if math.isfinite(level.fairness) else "somebody got none"
    return [str(level.sessions), f"{level.fps_per_user:.3g}", fair, *times, f"{level.steps:.2g}", *counts, memory]


def _below(found: Realtime) -> list[str]:
    """The sentences under the table."""
    seconds = ", ".join(dict.fromkeys(f"{level.seconds:g}" for level in found.load))
    said = [
        f"{found.model}, {found.backend} backend, a target of {found.budget_ms:.0f} ms, {seconds} seconds a row. Times are "
        "glass to glass, from the change of the canvas to the decoded picture. A drop is a request that a newer one of the "
        f"same person overwrote. {found.machine}."
    ]
    if found.overhead_ratio is not None and found.overhead_cpu_ratio is not None:
        said.append(
            f"For one person, the server takes {found.overhead_ratio:.2f} times as long for a picture as its bare networks "
            f"({found.bare_ms:.1f} ms), and {found.overhead_cpu_ratio:.2f} times their processor time, sockets included."
        )
    if found.vs_stock_ratio is not None:
        said.append(
            f"It draws {found.vs_stock_ratio:.1f} times the pictures of a plain server around the stock diffusers pipeline "
            f"({found.fps:.1f} against {found.stock_fps:.1f} a second, the same weights, one evaluation a picture)."
        )
    return [*said, f"Measured by `{found.command}`."]


def variants_table(path: Path) -> str:
    """The Markdown table of ``benchmarks/sdxl_size.py``; a ValueError that names the file for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [(v["variant"], *(f"{v[k]:.1f}" for k in ("p50_ms", "p99_ms", "fps"))) for v in found["variants"]]
        below = (
            f"One picture of {found['size']}x{found['size']} in one step, the UNet {found['unet_parameters'] / 1e9:.2f} billion "
            f"parameters of {found['dtype']} with random weights, n = {found['calls']} calls that took turns, on one "
            f"{found['device']}, torch {found['torch']}; peak memory of all variants together {found['peak_gib']:.1f} GiB. "
            f"Measured by `{found['command']}`."
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no variants ({error}): run benchmarks/sdxl_size.py again") from error
    lines = [("one step", "p50 ms", "p99 ms", "pictures a second"), ("---", "--:", "--:", "--:"), *rows]
    return "\n".join([*("| " + " | ".join(cells) + " |" for cells in lines), "", below])
