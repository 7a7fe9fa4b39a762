"""What the benchmark of hostile clients sends is what it says, and its figures are reckoned rightly. Its table is its own."""

from __future__ import annotations

import asyncio
import io
import struct
import sys
import time
from pathlib import Path

import pytest
import simplejpeg
from PIL import Image

from fewstep.server.wire.protocol import read_draw_request, unpack
from serving_helpers import benchmark, running


@pytest.fixture(scope="module")
def attackers():
    return benchmark("attackers")


@pytest.fixture(scope="module")
def hostile():
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        return benchmark("hostile")
    finally:
        del sys.path[0]


def test_a_jpeg_of_many_scans_is_small_and_decodes(attackers):
    data = attackers.many_scans(64, 50)
    assert simplejpeg.decode_jpeg(data).shape == (64, 64, 3)
    assert data.count(b"\xff\xda") == 51
    assert len(attackers.many_scans()) < 2**20


def test_cut_gifs_trip_a_decoder(attackers):
    def trips(data: bytes) -> bool:
        try:
            Image.open(io.BytesIO(data), formats=("GIF",)).n_frames  # noqa: B018
        except Exception:
            return True
        return False

    assert any(trips(data) for data in attackers.cut_gifs())


def test_a_clients_frames_are_read_as_meant(attackers):
    for n in (0, 125, 126, 70_000):
        frame = attackers.websocket(2, bytes(n))
        assert frame[0] == 0x82
        assert len(frame) == n + 6 + (0 if n < 126 else 2 if n < 65536 else 8)
    frame = attackers.message({"type": "draw", "id": 3}, b"abc", "image/jpeg")
    length = struct.unpack_from(">H", frame, 2)[0]
    ask = read_draw_request(unpack(frame[8 : 8 + length]))
    assert (ask.id, ask.task, bytes(ask.image.data), ask.image.mime) == (3, "image", b"abc", "image/jpeg")


def test_an_attacker_sleeps_where_it_has_used_its_share(attackers):
    attack = attackers.Attack(1, 1.0, 0.01)
    attack.worked -= 100  # as if it had used as many seconds of a core
    assert not attack.on()
    assert time.monotonic() >= attack.ends


def test_figures_of_a_window_count_a_wait_that_goes_on(hostile):
    honest = hostile.Honest("", 20.0, came=[(0.5 * i, 10.0 * i) for i in range(10)])
    assert honest.between(1.0, 2.0) == pytest.approx((2.0, 25.0, 29.9))
    fps, _, p99 = honest.between(3.0, 63.0)
    assert (fps, p99 > 50_000) == (4 / 60, True)
    assert honest.between(5.0, 7.0) == (0.0, 2000.0, 2000.0)


def test_a_row_is_held_to_every_aim(hostile):
    good = {
        "attack": "x", "quiet_fps": 20.0, "quiet_p50_ms": 1.0, "quiet_p99_ms": 30.0, "during_fps": 10.0, "during_p50_ms": 1.0,
        "during_p99_ms": 89.0, "after_fps": 19.0, "memory_mb": 100.0, "attacker": {"cpu_s": 1.0}, "errors": (),
    }  # fmt: skip
    assert hostile.Row(**good).held
    missed = {"during_fps": 9.9, "during_p99_ms": 90.0, "after_fps": 17.0, "memory_mb": 101.0, "errors": ("lost: gone",)}
    for name, value in missed.items():
        assert not hostile.Row(**good | {name: value}).held, name
    assert hostile.table([hostile.Row(**good)]).count("\n") == 2


def test_the_benchmark_runs(hostile):
    """One honest person and an attacker of a fraction of a second, in front of a real server."""
    with running() as server:
        served = hostile.Served(server.url, type("Here", (), {"pid": hostile.os.getpid()})(), Path())
        row = asyncio.run(hostile.watched(served, "idle-connections", hostile.HostileOptions(seconds=0.4, nice=0)))
    assert row.attack == "idle-connections"
    assert not row.errors
