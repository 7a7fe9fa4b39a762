"""Many people drawing at once: a real ``fewstep serve`` in a process of its own, real sockets, loopback only, bounded.

    python benchmarks/load.py [--sessions 1 10 50] [--seconds 60] [--output docs/results/realtime.json]

Every person is an asyncio task with fewstep's own client and a canvas that changes thirty times a second. As in the studio
page two requests are in flight, and the newest frame waits for room. Afterwards one person draws in turn on fewstep, on a
plain server around the stock diffusers pipeline (stock_server.py) and beside the bare networks (bare_call.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from PIL import Image

import fewstep
from fewstep.client import AsyncClient, ServerError
from fewstep.evaluation.realtime import LoadLevel, Realtime
from fewstep.inference.budget import milliseconds
from fewstep.inference.timings import Percentiles

HERE = Path(__file__).parent
PROMPTS = ("a red heart", "a blue house", "a cat", "a green apple", "a yellow star")
EVALUATION = {"prompt": PROMPTS[0], "seed": 7, "strength": 0.5}
"""One picture of the comparisons: on both sides one network evaluation, from half noise."""


@dataclass(frozen=True)
class LoadOptions:
    """What is measured."""

    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    device: tuple[str, ...] = ("cpu",)
    """What the server is given to draw on; ``cpu cpu`` draws two batches at a time."""
    sessions: tuple[int, ...] = (1, 10, 50)
    """People drawing at once, one level after the other."""
    seconds: float = 60.0
    """How long each level lasts."""
    fps: float = 30.0
    """How often each canvas changes in a second."""
    budget: str = "30fps"
    """End-to-end target that the server is started with."""
    rounds: int = 30
    """Turns that fewstep, the stock server and the bare networks take; 0 leaves the comparisons out."""
    calls: int = 30
    """Pictures a turn."""
    nice: int = 5
    """How far the clients stand back for the servers."""
    note: str = ""
    """What else to say about the machine."""
    output: Path = Path("docs/results/realtime.json")
    """Result file."""


# servers


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def memory_mb(self) -> float:
        """Resident."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    @property
    def cpu_s(self) -> float:
        """Processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def child(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process with one torch thread, told to end when done, and made to if it does not."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def serving(model: str, *arguments: str, seconds: float = 300) -> Iterator[Served]:
    """``fewstep serve`` on a free port, ready to draw. Raises RuntimeError with its output where it does not get ready."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log:
        path = Path(log.name)
        command = ["-m", "fewstep.cli", "serve", "--model", model, "--port", "0", *arguments]
        with child(command, stdout=log, stderr=subprocess.STDOUT) as process:
            deadline = time.monotonic() + seconds
            while "  ready\n" not in (said := path.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not get ready:\n{said}")
                time.sleep(0.05)
            yield Served(said.split("fewstep studio: ")[1].split()[0], process, path)


@contextlib.contextmanager
def stock_serving(folder: Path, seconds: float = 300) -> Iterator[str]:
    """stock_server.py on a free port: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with child([str(HERE / "stock_server.py"), str(folder), str(port)]) as process:
        deadline = time.monotonic() + seconds
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the stock server did not get ready: its output stands above")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"ws://127.0.0.1:{port}/"


# people


class Canvas:
    """A white square on which a brush goes round."""

    def __init__(self, size: int, seed: int) -> None:
        self.pixels = np.full((size, size, 4), 255, np.uint8)
        self._size, self._rng = size, np.random.default_rng(seed)
        self._strokes = 0

    def stroke(self) -> np.ndarray:
        """The canvas after the next dab."""
        turn, brush = 0.11 * self._strokes, max(1, self._size // 10)
        x, y = ((0.5 + 0.35 * np.array([np.cos(turn), np.sin(1.3 * turn)])) * self._size).astype(int)
        if self._strokes % 30 == 0:
            self._colour = self._rng.integers(0, 256, 3)
        self.pixels[y - brush : y + brush, x - brush : x + brush, :3] = self._colour
        self._strokes += 1
        return self.pixels


@dataclass
class Person:
    """One person drawing, and what became of it."""

    number: int
    fps: float
    seconds: float
    size: int
    glass_ms: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    in_time: int = 0
    """Pictures that came while the canvas still changed."""
    frames: int = 0
    """What the canvas has shown."""
    asked: int = 0
    drops: int = 0
    """Of those, overwritten on the server."""
    errors: list[str] = field(default_factory=list)

    async def canvas(self) -> AsyncIterator[dict[str, Any]]:
        """What the person wants drawn, as it changes."""
        canvas, began = Canvas(self.size, self.number), time.perf_counter()
        for i in range(max(1, round(self.seconds * self.fps))):
            await asyncio.sleep(began + i / self.fps - time.perf_counter())
            self.frames += 1
            changed = {"image": canvas.stroke().copy(), "sent_ms": 1000 * time.perf_counter()}
            yield changed | {"prompt": PROMPTS[self.number % len(PROMPTS)], "seed": self.number, "strength": 0.5}

    async def draw(self, studio: AsyncClient) -> None:
        """From the first stroke to the last picture."""
        end = time.perf_counter() + self.seconds
        try:
            async for picture in studio.stream(self.canvas()):
                assert picture.pixels.shape == (self.size, self.size, 3)  # decoded: it could be shown now
                now = time.perf_counter()
                self.glass_ms.append(1000 * now - picture.facts["sent_ms"])
                self.steps.append(picture.facts["steps"])
                self.drops = picture.facts["drops"]
                self.in_time += now <= end
                await studio.seen(picture, self.glass_ms[-1])
        except ServerError as error:
            self.errors.append(str(error))
        self.asked = studio.asked


async def until_ended(stop: asyncio.Event, served: Served, memory_mb: list[float]) -> None:
    """Watch the server's memory."""
    while not stop.is_set():
        memory_mb.append(served.memory_mb)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.5)


async def crowd(served: Served, sessions: int, seconds: float, fps: float = 30.0) -> LoadLevel:
    """So many people draw for a while."""
    async with contextlib.AsyncExitStack() as stack:
        studios = [await stack.enter_async_context(fewstep.connect(served.url)) for _ in range(sessions)]
        people = [Person(i, fps, seconds, studio.hello["model"]["size"]) for i, studio in enumerate(studios)]
        stop, memory_mb = asyncio.Event(), [served.memory_mb]
        watching = asyncio.create_task(until_ended(stop, served, memory_mb))
        await asyncio.gather(*(person.draw(studio) for person, studio in zip(people, studios)))
        stop.set()
        await watching
    return level(people, seconds, [*memory_mb, served.memory_mb])


def level(people: Sequence[Person], seconds: float, memory_mb: Sequence[float]) -> LoadLevel:
    """What is said about so many people."""
    rates = [person.in_time / seconds for person in people]
    glass = Percentiles(10**6, seconds)
    for ms in (ms for person in people for ms in person.glass_ms):
        glass.add(ms, 0.0)
    p50, p95, p99 = (ms if ms is not None else 0.0 for ms in glass.many((0.5, 0.95, 0.99), 0.0))
    asked, answered = sum(p.asked for p in people), sum(len(p.glass_ms) for p in people)
    drops, errors = sum(p.drops for p in people), sum(len(p.errors) for p in people)
    return LoadLevel(
        sessions=len(people), seconds=seconds, fps_per_user=statistics.fmean(rates), fps_min=min(rates),
        fps_max=max(rates), p50_ms=p50, p95_ms=p95, p99_ms=p99,
        steps=statistics.fmean([n for p in people for n in p.steps] or [0]), drops=drops,
        skipped=sum(p.frames for p in people) - asked, errors=errors, lost=asked - answered - drops - errors,
        rss_start_mb=memory_mb[0], rss_peak_mb=max(memory_mb), rss_end_mb=memory_mb[-1],
    )  # fmt: skip


# comparisons


@dataclass(frozen=True)
class Bare:
    """bare_call.py, waiting for numbers."""

    process: subprocess.Popen[str]

    def call(self, n: int) -> tuple[float, float]:
        """Median milliseconds of n calls: passed, and worked."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(n, file=self.process.stdin, flush=True)
        passed, worked = map(float, self.process.stdout.readline().split())
        return passed, worked


async def one_by_one(studio: AsyncClient, bare: Bare, canvas: Canvas, calls: int) -> tuple[float, float]:
    """Median milliseconds of the server and of the bare networks; one picture of each in turn, so caches are as cold for both."""
    served, passed = [], []
    for _ in range(calls):
        picture = await studio.draw(image=canvas.stroke(), steps=1, **EVALUATION)
        served.append(picture.facts["server_ms"])
        passed.append(bare.call(1)[0])
    return statistics.median(served), statistics.median(passed)


async def back_to_back(studio: AsyncClient, canvas: Canvas, calls: int) -> tuple[int, float]:
    """Pictures that came and seconds that passed, with two in flight all the time."""
    room, last = asyncio.Semaphore(2), studio.asked

    async def frames() -> AsyncIterator[dict[str, Any]]:
        for _ in range(calls):
            await room.acquire()
            yield {"image": canvas.stroke(), "steps": 1, **EVALUATION}

    began, drawn = time.perf_counter(), 0
    async for picture in studio.stream(frames()):
        drawn += 1
        for _ in range(picture.id - last):
            room.release()
        last = picture.id
    return drawn, time.perf_counter() - began


async def stock_back_to_back(ws: Any, canvas: Canvas, calls: int) -> float:
    """The same on the stock server: the frame as a JPEG, two steps of which half are taken."""
    began = time.perf_counter()
    for i in range(calls + 2):
        if i < calls:
            await ws.send(json.dumps(EVALUATION | {"steps": 2}))
            buffer = io.BytesIO()
            Image.fromarray(canvas.stroke()).convert("RGB").save(buffer, "JPEG", quality=92)
            await ws.send(buffer.getvalue())
        if i >= 2:
            Image.open(io.BytesIO(await ws.recv())).convert("RGB")
    return calls / (time.perf_counter() - began)


@dataclass(frozen=True)
class Ratios:
    """One person on fewstep against two baselines: medians over turns that followed one another."""

    overhead: float
    overhead_cpu: float
    vs_stock: float
    fps: float
    stock_fps: float
    bare_ms: float


async def compare(served: Served, stock_url: str, bare: Bare, rounds: int, calls: int) -> Ratios:
    """Take turns, so that a machine that drifts drifts for all."""
    from websockets.asyncio.client import connect

    turns = []
    async with fewstep.connect(served.url) as studio, connect(stock_url, ping_timeout=None) as ws:
        canvas = Canvas(studio.hello["model"]["size"], 0)
        for i in range(rounds + 1):
            server_ms, bare_ms = await one_by_one(studio, bare, canvas, calls)
            worked = served.cpu_s
            drawn, seconds = await back_to_back(studio, canvas, calls)
            cpu_ms, fps = 1000 * (served.cpu_s - worked) / drawn, drawn / seconds
            bare_cpu_ms = bare.call(calls)[1]
            stock_fps = await stock_back_to_back(ws, canvas, calls)
            if i:  # the first turn warms everything up
                turns.append((server_ms / bare_ms, cpu_ms / bare_cpu_ms, fps / stock_fps, fps, stock_fps, bare_ms))
    return Ratios(*(statistics.median(column) for column in zip(*turns)))


def measure(options: LoadOptions) -> Realtime:
    """Everything, one after the other."""
    from fewstep import bundle

    folder = bundle.locate(options.model)
    places = ["--limits.sessions", str(max(options.sessions) + 1), "--limits.share", "1"]
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(options.model, "--budget", options.budget, "--device", *options.device, *places))
        with fewstep.connect(served.url) as studio:
            backend = studio.hello["backend"]
        os.nice(options.nice)
        levels = []
        for n in options.sessions:
            levels.append(asyncio.run(crowd(served, n, options.seconds, options.fps)))
            print(json.dumps(dataclasses.asdict(levels[-1])), flush=True)
        ratios = None
        if options.rounds:
            arguments = [str(HERE / "bare_call.py"), str(folder), backend]
            bare = stack.enter_context(child(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert bare.stdout is not None
            assert bare.stdout.readline() == "ready\n"
            stock_url = stack.enter_context(stock_serving(folder))
            ratios = asyncio.run(compare(served, stock_url, Bare(bare), options.rounds, options.calls))
            print(ratios, flush=True)
    return Realtime(
        load=tuple(levels),
        overhead_ratio=ratios and ratios.overhead,
        overhead_cpu_ratio=ratios and ratios.overhead_cpu,
        vs_stock_ratio=ratios and ratios.vs_stock,
        fps=ratios and ratios.fps,
        stock_fps=ratios and ratios.stock_fps,
        bare_ms=ratios and ratios.bare_ms,
        model=options.model,
        backend=backend,
        budget_ms=milliseconds(options.budget),
        machine=machine(options.note),
        command=shlex.join(["python", "benchmarks/load.py", *without(sys.argv[1:], "--note")]),
    )


def without(arguments: Sequence[str], name: str) -> list[str]:
    """Arguments without an option and its value."""
    at = arguments.index(name) if name in arguments else len(arguments)
    return [*arguments[:at], *arguments[at + 2 :]]


def machine(note: str) -> str:
    """What it ran on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = f"{platform.system()} {platform.machine()}, {cores} of {os.cpu_count()} cores for server and clients together"
    return f"{said}, {note}" if note else said


if __name__ == "__main__":
    chosen = tyro.cli(LoadOptions)
    measure(chosen).write(chosen.output)
