"""What one hostile client costs an honest one: a real ``fewstep serve``, loopback only, one attack after another.

    python benchmarks/hostile.py [--attacks idle-connections rest-flood] [--seconds 20] [--output docs/results/hostile.json]

Every attack gets a fresh server. One honest person at 127.0.0.1 draws with fewstep's own client: a canvas that changes twenty
times a second, and every second another prompt. After ``seconds`` of quiet the attacker (attackers.py, at 127.0.0.2) comes for as
long; five seconds after he has gone the person is measured once more.

The server's weakness is to be seen, not the machine's: the attacker is a process of its own, stands back for all others
(``nice``), and sleeps where it has used more than ``share`` of a core; what it used stands in the table. The row ``nothing`` is
an attacker that works as much and never connects: what the person loses there is not the server's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import tyro
from attackers import ATTACKS
from load import PROMPTS, Canvas, Served, child, machine, serving, without

import fewstep
from fewstep.client import ServerError

HERE = Path(__file__).parent
SERVER = {"guard-backlog": ("--safety", "slow_filter.Slow")}
"""What a server is started with for an attack."""
LEAST_SHARE, MOST_WAIT, MOST_MB, NORMAL = 0.5, 3.0, 100.0, 0.9
"""Aims: pictures a second and p99 as shares of the quiet ones, memory, and pictures a second afterwards."""


@dataclass(frozen=True)
class HostileOptions:
    """What is measured."""

    attacks: tuple[str, ...] = tuple(ATTACKS)
    """Which attacks, by name; default: all."""
    seconds: float = 20.0
    """How long the quiet and the attack last, each; the pause is a quarter of that, what is measured afterwards half."""
    fps: float = 20.0
    """How often the honest canvas changes in a second."""
    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    backends: tuple[str, ...] = ("auto",)
    """What may run the network."""
    share: float = 0.25
    """How much of one core the attacker may use."""
    nice: int = 10
    """How far the attacker stands back for the server."""
    note: str = ""
    """What else to say about the machine."""
    output: Path | None = None
    """Result file; default: none, the table is printed."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.attacks if name not in ATTACKS]:
            raise ValueError(f"there is no attack {unknown[0]!r}: use {', '.join(ATTACKS)}")


@dataclass
class Honest:
    """One person drawing until told to stop, and when which picture came."""

    url: str
    fps: float
    came: list[tuple[float, float]] = field(default_factory=list)
    """When, and milliseconds after what it shows was drawn."""
    errors: list[str] = field(default_factory=list)
    stop: bool = False

    async def canvas(self, size: int) -> AsyncIterator[dict[str, Any]]:
        """What the person wants drawn, as it changes."""
        canvas, i, due = Canvas(size, 0), 0, time.monotonic()
        while not self.stop:
            due = max(due + 1 / self.fps, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())
            i += 1
            prompt = f"{PROMPTS[int(i / self.fps) % len(PROMPTS)]} {int(i / self.fps)}"
            now = {"image": canvas.stroke().copy(), "sent_ms": 1000 * time.monotonic()}
            yield now | {"prompt": prompt, "seed": 1, "strength": 0.5}

    async def draw(self) -> None:
        """Draw, and where the session is lost, come back."""
        while not self.stop:
            try:
                async with fewstep.connect(self.url) as studio:
                    async for picture in studio.stream(self.canvas(studio.hello["model"]["size"])):
                        now = time.monotonic()
                        self.came.append((now, 1000 * now - picture.facts["sent_ms"]))
            except ServerError as error:
                self.errors.append(f"{error.code}: {error}")
                await asyncio.sleep(0.5)

    def between(self, start: float, end: float) -> tuple[float, float, float]:
        """Pictures a second, and p50 and p99 of their milliseconds; a wait that goes on at the end counts as long as it has."""
        ms = [took for at, took in self.came if start <= at < end]
        last = max((at for at, _ in self.came if at < end), default=start)
        p50, p99 = np.percentile([*ms, 1000 * (end - max(last, start))] if end - last > 1 else ms, (50, 99)) if ms else (
            1000 * (end - start), 1000 * (end - start)
        )  # fmt: skip
        return len(ms) / (end - start), float(p50), float(p99)


def memory_mb(served: Served) -> float:
    """Resident, with whatever processes the server has."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(served.process.pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss / 2**20
    return total


@dataclass(frozen=True)
class Row:
    """What one attack did."""

    attack: str
    quiet_fps: float
    quiet_p50_ms: float
    quiet_p99_ms: float
    during_fps: float
    during_p50_ms: float
    during_p99_ms: float
    after_fps: float
    memory_mb: float
    """Growth: the most during the attack and after it, over the most before it."""
    attacker: dict[str, float]
    """What he did, and the seconds of a core that it took (``cpu_s``)."""
    errors: tuple[str, ...]
    """What the honest person was told."""

    @property
    def share(self) -> float:
        """Pictures a second during the attack against those in quiet."""
        return self.during_fps / self.quiet_fps if self.quiet_fps else 0.0

    @property
    def wait(self) -> float:
        """The same of p99."""
        return self.during_p99_ms / self.quiet_p99_ms if self.quiet_p99_ms else float("inf")

    @property
    def normal(self) -> float:
        """The same of pictures a second afterwards."""
        return self.after_fps / self.quiet_fps if self.quiet_fps else 0.0

    @property
    def held(self) -> bool:
        """Whether the aims are met."""
        told = self.share >= LEAST_SHARE and self.wait < MOST_WAIT
        return told and self.memory_mb <= MOST_MB and self.normal >= NORMAL and not self.errors


async def watched(served: Served, attack: str, options: HostileOptions) -> Row:
    """Quiet, attack, pause, and after."""
    seconds, honest, memory = options.seconds, Honest(served.url, options.fps), list[tuple[float, float]]()
    drawing = asyncio.create_task(honest.draw())
    port = urlsplit(served.url).port

    async def watch(until: float) -> None:
        while (now := time.monotonic()) < until:
            memory.append((now, memory_mb(served)))
            await asyncio.sleep(min(0.5, until - now))

    command = [str(HERE / "attackers.py"), attack, str(port), str(seconds), str(options.share)]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(options.nice)) as he:
        assert he.stdin is not None
        assert he.stdout is not None
        await asyncio.to_thread(he.stdout.readline)
        while not honest.came:
            await asyncio.sleep(0.1)
        await watch(time.monotonic() + 3)  # until everything has been used once
        quiet = time.monotonic()
        await watch(quiet + seconds)
        began = time.monotonic()
        he.stdin.write("go\n")
        he.stdin.flush()
        await watch(began + seconds)
        gone = time.monotonic()
        done = asyncio.create_task(asyncio.to_thread(he.stdout.readline))
        await watch(gone + seconds / 4)
        after = time.monotonic()
        await watch(after + seconds / 2)
        end = time.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(done), 10)
        did = json.loads(done.result() or "{}") if done.done() else {}
    honest.stop = True
    with contextlib.suppress(TimeoutError, ServerError):
        await asyncio.wait_for(drawing, 10)
    grown = max(mb for at, mb in memory if at >= began) - max(mb for at, mb in memory if at < began)
    during = honest.between(began, gone)
    return Row(
        attack, *honest.between(quiet, began), *during, honest.between(after, end)[0], grown, did,
        tuple(dict.fromkeys(honest.errors)),
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """In Markdown, as docs/safety.md has it."""
    lines = [
        "| attack | pictures/s quiet | during | share | p99 quiet, ms | during | times | memory, MB | after | his CPU, s | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.attack} | {r.quiet_fps:.1f} | {r.during_fps:.1f} | {r.share:.2f} | {r.quiet_p99_ms:.0f} | {r.during_p99_ms:.0f} | "
        f"{r.wait:.1f} | {r.memory_mb:+.0f} | {r.normal:.2f} | {r.attacker.get('cpu_s', float('nan')):.1f} | "
        f"{'held' if r.held else 'missed'} |"
        for r in rows
    ]
    return "\n".join(lines)


def measure(options: HostileOptions) -> list[Row]:
    """Every attack."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    rows = []
    for attack in options.attacks:
        with serving(options.model, "--backends", *options.backends, *SERVER.get(attack, ())) as served:
            rows.append(asyncio.run(watched(served, attack, options)))
            errors = [line for line in served.log.read_text().splitlines() if "Traceback" in line]
        print(json.dumps(dataclasses.asdict(rows[-1]) | {"held": rows[-1].held, "tracebacks": len(errors)}), flush=True)
    return rows


if __name__ == "__main__":
    chosen = tyro.cli(HostileOptions)
    found = measure(chosen)
    print(table(found))
    if chosen.output:
        command = shlex.join(["python", "benchmarks/hostile.py", *without(sys.argv[1:], "--note")])
        said = {"command": command, "machine": machine(chosen.note), "rows": [dataclasses.asdict(row) for row in found]}
        chosen.output.write_text(json.dumps(said, indent=1) + "\n")
