"""Record what the planner is tested with: every picture's stage, wait and wire times while people draw on a real server.

    python benchmarks/traces.py [--seconds 10] [--output tests/assets/traces.json]

One, ten and fifty people, and one behind a proxy that lets only so many bytes a second through. Everything is on the
loopback of one machine, whatever else it does meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tyro
from load import Person, Served, machine, serving

import fewstep
from fewstep import bundle
from fewstep.client import AsyncClient
from fewstep.inference.pipeline import Pipeline
from fewstep.inference.timings import STAGES
from fewstep.server.drawing.engine import Engine
from fewstep.server.drawing.provenance import Stamper

COLUMNS = ("at_s", "steps", "encoder", "bytes", *STAGES)
"""Of a recorded picture: when it came, how it was drawn, and milliseconds by stage."""


@dataclass(frozen=True)
class TraceOptions:
    """What is recorded."""

    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    seconds: float = 10.0
    """How long each crowd draws."""
    sessions: tuple[int, ...] = (1, 10, 50)
    """People drawing at once, one trace each."""
    slow_kbit: float = 1000.0
    """What the slow client's network lets through in a second."""
    budget: str = "30fps"
    """End-to-end target that the server is started with."""
    pictures: int = 150
    """Kept of each trace, evenly spread over it."""
    note: str = ""
    """What else to say about the machine."""
    output: Path = Path("tests/assets/traces.json")
    """Result file."""


@dataclass
class Watched(Person):
    """A person drawing who writes down every picture."""

    pictures: list[list[Any]] = field(default_factory=list)
    """By COLUMNS; the first is a time of this machine's clock."""

    async def draw(self, studio: AsyncClient) -> None:
        """From the first stroke to the last picture."""
        async for picture in studio.stream(self.canvas()):
            glass_ms = 1000 * time.perf_counter() - picture.facts["sent_ms"]
            await studio.seen(picture, glass_ms)
            stages = picture.facts["stages_ms"] | {"wire": max(0.0, glass_ms - picture.facts["server_ms"])}
            drawn = [picture.facts["steps"], picture.facts["encoder"], len(picture.data)]
            self.pictures.append([time.perf_counter(), *drawn, *(round(stages.get(name, 0.0), 1) for name in STAGES)])


async def crowd(url: str, sessions: int, seconds: float) -> list[list[Any]]:
    """Every picture of so many people, in the order they came."""
    async with contextlib.AsyncExitStack() as stack:
        studios = [await stack.enter_async_context(fewstep.connect(url)) for _ in range(sessions)]
        people = [Watched(i, 30.0, seconds, studio.hello["model"]["size"]) for i, studio in enumerate(studios)]
        began = time.perf_counter()
        await asyncio.gather(*(person.draw(studio) for person, studio in zip(people, studios)))
    rows = sorted(row for person in people for row in person.pictures)
    return [[round(at - began, 2), *rest] for at, *rest in rows]


@contextlib.asynccontextmanager
async def slow_road(url: str, kbit_s: float) -> AsyncIterator[str]:
    """The address of a proxy that lets so much through, each way."""
    place = urlsplit(url)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(1024):
                await asyncio.sleep(8e-3 * len(piece) / kbit_s)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection(place.hostname, place.port)
        await asyncio.gather(carry(reader, inner[1]), carry(inner[0], writer))

    async with await asyncio.start_server(both, "127.0.0.1", 0, limit=2048) as proxy:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        proxy.close()


async def behind_a_slow_road(served: Served, options: TraceOptions) -> list[list[Any]]:
    """One person there."""
    async with slow_road(served.url, options.slow_kbit) as url:
        return await crowd(url, 1, options.seconds)


def idle_costs(model: str) -> dict[str, Any]:
    """What the server measures before it serves; pairs become words."""
    pipeline = Pipeline.open(bundle.locate(model))
    engine = Engine(pipeline, Stamper(pipeline.card))
    engine.warm_up(lambda what: None)
    costs = asdict(engine.costs)
    return {name: spelt(value) if isinstance(value, dict) else round(value, 3) for name, value in costs.items()}


def spelt(costs: dict[Any, float]) -> dict[str, float]:
    """``{("png", 64): ms}`` -> ``{"png 64": ms}``."""
    return {" ".join(map(str, k)) if isinstance(k, tuple) else str(k): round(ms, 3) for k, ms in costs.items()}


def record(options: TraceOptions) -> dict[str, Any]:
    """Everything, one after the other."""
    found: dict[str, list[list[Any]]] = {}
    places = ["--limits.sessions", str(max(options.sessions) + 1)]
    with serving(options.model, "--budget", options.budget, *places) as served:
        for n in options.sessions:
            found[f"{n} drawing"] = asyncio.run(crowd(served.url, n, options.seconds))
        found[f"1 behind {options.slow_kbit:g} kbit/s"] = asyncio.run(behind_a_slow_road(served, options))
    traces = {name: rows[:: max(1, -(-len(rows) // options.pictures))] for name, rows in found.items()}
    facts = {"model": options.model, "budget": options.budget, "machine": machine(options.note)}
    return {"facts": facts, "columns": COLUMNS, "costs": idle_costs(options.model), "traces": traces}


def text(recorded: dict[str, Any]) -> str:
    """As JSON with one picture a line."""
    traces = {}
    for name, rows in recorded["traces"].items():
        traces[name] = "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"
    inner = ",\n".join(f"{json.dumps(name)}: {rows}" for name, rows in traces.items())
    lines = [f"{json.dumps(name)}: {json.dumps(recorded[name])}" for name in ("facts", "columns", "costs")]
    return "{\n" + ",\n".join([*lines, f'"traces": {{\n{inner}\n}}']) + "\n}\n"


if __name__ == "__main__":
    chosen = tyro.cli(TraceOptions)
    chosen.output.write_text(text(record(chosen)))
