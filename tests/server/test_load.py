"""Many people at once on a real server process, alone and among clients that mean harm. The long form: benchmarks/load.py."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import math
import re
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import fewstep
from fewstep.evaluation import realtime
from fewstep.server.wire.protocol import HEAD, SUBPROTOCOL, TOKEN_PREFIX, Part, pack, unpack
from serving_helpers import SIZE, TOKEN, benchmark

load = benchmark("load")


def address(served: Any) -> str:
    return served.url.partition("#")[0].rstrip("/")


def page(served: Any) -> str:
    return httpx.get(address(served) + "/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text


def reading(served: Any, name: str) -> float:
    found = re.search(rf"^fewstep_{name} (\S+)$", page(served), re.MULTILINE)
    assert found, name
    return float(found[1])


def test_three_people_are_served_and_nothing_is_lost(served: Any, tmp_path: Path):
    for _ in range(6):  # an allocator grows now and then, until it has enough; a leak takes more every time
        level = asyncio.run(load.crowd(served, 3, seconds=2.0))
        if level.rss_peak_mb - level.rss_start_mb < 8:
            break
    assert (level.sessions, level.errors, level.lost) == (3, 0, 0)
    assert 0 < level.p50_ms <= level.p95_ms <= level.p99_ms
    assert level.rss_peak_mb - level.rss_start_mb < 8
    assert 'stage="glass_to_glass"' in page(served), "what people saw was told to the server"
    found = realtime.Realtime(
        (level,), 1.1, 1.2, 3.0, 30.0, 10.0, 16.0, "tiny", "eager", 33.3, "a test", "pytest tests/server/test_load.py"
    )
    found.write(tmp_path / "realtime.json")
    again = realtime.Realtime.read(tmp_path / "realtime.json")
    assert again.load[0].fps_per_user == pytest.approx(level.fps_per_user, rel=1e-3)
    assert f"| 3 | {level.fps_per_user:.3g} |" in realtime.table(again)


def test_a_person_whose_requests_are_lost_would_be_noticed():
    """The test's own judge: five asked, three drawn, one overwritten, so one is lost."""
    person = load.Person(0, 30.0, 1.0, SIZE, glass_ms=[1.0, 2.0, 3.0], steps=[1, 1, 2], in_time=3, frames=9)
    person.asked, person.drops = 5, 1
    level = load.level([person], 1.0, [100.0, 130.0, 110.0])
    assert (level.lost, level.drops, level.skipped, level.errors) == (1, 1, 4, 0)
    assert (level.fps_per_user, level.p50_ms, level.rss_peak_mb, level.rss_end_mb) == (3.0, 2.0, 130.0, 110.0)
    idle = load.Person(1, 30.0, 1.0, SIZE)
    assert math.isinf(load.level([person, idle], 1.0, [100.0]).fairness)
    found = realtime.Realtime((load.level([person, idle], 1.0, [1.0]),), *[None] * 6, "m", "b", 33.0, "here", "now")
    assert "somebody got none" in realtime.table(found)


def test_a_file_that_holds_no_load_test_is_named(tmp_path: Path):
    for text in ("{}", "[1]", '{"load": [{"sessions": 1}]}', "nonsense"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"x\.json holds no load test"):
            realtime.Realtime.read(tmp_path / "x.json")


# clients that mean harm: each goes on until it is cancelled


@contextlib.asynccontextmanager
async def live(served: Any) -> Any:
    protocols = [SUBPROTOCOL, TOKEN_PREFIX + TOKEN]
    url = "ws" + address(served).removeprefix("http") + "/v1/stream"
    async with connect(url, subprotocols=protocols, compression=None, close_timeout=1) as ws:  # type: ignore[arg-type]
        yield ws


def broken() -> Iterator[bytes | str]:
    rng = np.random.default_rng(0)
    while True:
        yield rng.bytes(int(rng.integers(0, 300)))
        yield b"XX" + bytes(20)
        yield HEAD.pack(b"FS", 1, 0, 2**32 - 1) + b"{}"
        deep = b'{"type":' + b"[" * 8000 + b"]" * 8000 + b"}"
        yield HEAD.pack(b"FS", 1, 0, len(deep)) + deep
        yield pack({"type": "draw", "seed": 2**80})
        yield pack({"type": "draw", "task": "image"}, [Part("image", "pixels/rgba", b"short", 64, 64)])
        yield "not binary"


def bombs() -> list[Part]:
    """Few bytes that claim to be a huge picture, and pictures that end in the middle."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    jpeg = bytearray(buffer.getvalue())
    half = bytes(jpeg[: len(jpeg) // 2])
    size_at = jpeg.index(b"\xff\xc0") + 5
    jpeg[size_at : size_at + 4] = struct.pack(">HH", 65_500, 65_500)
    huge = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + huge + struct.pack(">I", zlib.crc32(huge)) + bytes(64)
    return [Part("image", "image/jpeg", bytes(jpeg[:2000])), Part("image", "image/jpeg", bytes(jpeg)),
            Part("image", "image/jpeg", half), Part("image", "image/png", png)]  # fmt: skip


async def malformed(served: Any) -> None:
    while True:
        with contextlib.suppress(ConnectionClosed):
            async with live(served) as ws:
                for frame in broken():
                    await ws.send(frame)
                    await ws.recv()


async def bombing(served: Any) -> None:
    parts = bombs()
    while True:
        with contextlib.suppress(ConnectionClosed):
            async with live(served) as ws:
                for number in range(1, 1000):
                    await ws.send(pack({"type": "draw", "task": "image", "id": number}, [parts[number % 4]]))
                    while (answer := unpack(await ws.recv())).type in ("hello", "state", "queue"):
                        pass  # it may have come in by the queue
                    assert answer.type == "error", answer.header
                    if answer.header["code"] == "too_many":
                        break  # the rest of this second is dropped unanswered: it goes on with another connection
                    assert answer.header["id"] == number


async def storming(served: Any) -> None:
    while True:
        with contextlib.suppress(ConnectionClosed, OSError):
            async with live(served) as ws:
                await ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
                ws.transport.abort()


def raw_handshake(served: Any) -> bytes:
    key = base64.b64encode(bytes(16)).decode()
    return (
        f"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}, {TOKEN_PREFIX}{TOKEN}\r\n\r\n"
    ).encode()


def masked(message: bytes) -> bytes:
    return bytes([0x82, 0xFE]) + struct.pack(">H", len(message)) + bytes(4) + message


async def a_byte_a_second(served: Any) -> None:
    """A request's head, a request's body and a live message, each of which never gets there."""
    head = b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + TOKEN.encode()
    body = head + b"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    begun = ((b"", head), (body, b"{" * 1000), (raw_handshake(served), masked(bytes(60_000))))

    async def drip(at_once: bytes, slowly: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("localhost", int(address(served).rpartition(":")[2]))
                writer.write(at_once)
                try:
                    for byte in slowly:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(1)
                finally:
                    writer.close()

    await asyncio.gather(*(drip(*both) for both in begun))


async def never_reading(served: Any) -> None:
    loop = asyncio.get_running_loop()
    message = masked(pack({"type": "draw", "id": 1, "prompt": "a cat", "encoder": "png", "pad": "x" * 200}))
    while True:
        with contextlib.suppress(OSError), socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, ("127.0.0.1", int(address(served).rpartition(":")[2])))
            await loop.sock_sendall(deaf, raw_handshake(served))
            while True:
                await loop.sock_sendall(deaf, message)
                await asyncio.sleep(0.01)


HARM: tuple[Callable[[Any], Awaitable[None]], ...] = (malformed, bombing, storming, a_byte_a_second, never_reading)


def test_people_go_on_drawing_among_clients_that_mean_harm(served: Any):
    """Two draw on undisturbed; the five others get errors and closed doors, and the server's memory stays where it was."""

    async def main() -> tuple[list[Any], list[float], list[Any]]:
        people = [load.Person(i, 30.0, 6.0, SIZE) for i in range(2)]
        memory_mb = [served.memory_mb]
        async with fewstep.connect(served.url) as first, fewstep.connect(served.url) as second:
            harm = [asyncio.create_task(do(served)) for do in HARM]
            watching = asyncio.create_task(load.until_ended(asyncio.Event(), served, memory_mb))
            for _ in range(10):  # a busy machine does less harm in six seconds
                await asyncio.gather(people[0].draw(first), people[1].draw(second))
                errors = await asyncio.to_thread(reading, served, "errors_total")
                if errors > before + 20 and min(len(person.glass_ms) for person in people) >= 2:
                    break
            ended = [task.exception() for task in harm if task.done()]
            for task in (*harm, watching):
                task.cancel()
            await asyncio.gather(*harm, watching, return_exceptions=True)
        return people, memory_mb, ended

    before = reading(served, "errors_total")
    people, memory_mb, ended = asyncio.run(main())
    assert ended == [], "the harm went on to the end"
    assert reading(served, "errors_total") > before + 20, "it was harm"
    for person in people:
        assert person.errors == []
        assert len(person.glass_ms) >= 2, "none starves; how even it is, the scheduler's tests and benchmarks/load.py say"
        assert person.asked == len(person.glass_ms) + person.drops
    assert max(memory_mb) - memory_mb[0] < 64
    assert httpx.get(address(served) + "/health").status_code == 200
    load_left = asyncio.run(emptied(served))
    assert load_left == 0


async def emptied(served: Any) -> float:
    """Live sessions, once those that were cut off are found out."""
    for _ in range(200):
        if (left := reading(served, "sessions")) == 0:
            break
        await asyncio.sleep(0.1)
    return left


def test_the_server_draws_for_anybody_afterwards(served: Any):
    with fewstep.connect(served.url) as studio:
        assert studio.draw("a red heart", seed=7).pixels.shape == (SIZE, SIZE, 3)
