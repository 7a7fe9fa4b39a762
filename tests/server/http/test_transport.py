"""Below the messages: floods of frames, clients that are late, and what one address may have. Raw sockets, loopback only."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as live

from fewstep.server.http.connections import ConnectionLimiter
from fewstep.server.http.transport import Frames
from fewstep.server.limits import Limits
from fewstep.server.wire.protocol import RAW, SUBPROTOCOL, Part, pack, unpack
from serving_helpers import PATIENCE_S, Server, process, running, until

OTHER = "127.0.0.2"
"""A second client of this machine."""
TEXT, BINARY, PING = 1, 2, 9
LIMITS = Limits(body_s=0.6, send_s=0.6, message_bytes=2**20, connections=12, connections_burst=10_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HOME", str(tmp_path_factory.mktemp("home")))
        with running(limits=LIMITS) as made:
            yield made


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test opened is closed when the next one begins."""
    yield
    if "server" in request.fixturenames:
        made = request.getfixturevalue("server")
        until(lambda: count(made) == made.studio.admission.active == made.studio.admission.waiting == 0)


def count(server: Server) -> int:
    return int(server.studio.metrics.snapshot()["connections"])


def port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def raw(server: Server, source: tuple[str, int] | None = None, window: int = 0) -> socket.socket:
    made = socket.socket()
    made.settimeout(PATIENCE_S)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if window:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    if source:
        made.bind(source)
    made.connect(("127.0.0.1", port(server)))
    return made


UPGRADE = (
    f"Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
)
HANDSHAKE = f"GET /v1/stream HTTP/1.1\r\n{UPGRADE}Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()


def raw_live(server: Server, **options: Any) -> socket.socket:
    made = raw(server, **options)
    made.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = made.recv(1)
        assert byte, head
        head += byte
    assert b" 101 " in head
    return made


def frame(kind: int, data: bytes = b"", last: bool = True) -> bytes:
    """As a client sends it, masked with zeros."""
    n = len(data)
    size = bytes([0x80 | n]) if n < 126 else b"\xfe" + struct.pack(">H", n) if n < 2**16 else b"\xff" + struct.pack(">Q", n)
    return bytes([last << 7 | kind]) + size + bytes(4) + data


def ended(made: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := made.recv(2**16):
            got += data
    return got


def answer(got: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of the last answer in what came."""
    head, _, body = got[got.rindex(b"HTTP/1.1 4") :].partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]


def get(server: Server, address: str = "127.0.0.1") -> httpx.Response:
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
        return client.get(server.url + "/health", timeout=60)


# floods of frames


@pytest.mark.parametrize(
    "flood",
    [
        frame(BINARY, b"F", last=False) + frame(0, last=False) * 20_000,
        frame(BINARY, b"F", last=False) + frame(0, b"x", last=False) * 20_000,
        frame(PING) * 20_000,
        frame(10, b"unasked") * 20_000,
        frame(BINARY, b"F", last=False) + (frame(0, last=False) + frame(PING, bytes(100))) * 10_000,
        frame(BINARY) * 20_000,
        frame(TEXT, b"\xff") * 20_000,
    ],
    ids=["empty fragments", "tiny fragments", "pings", "pongs", "both", "empty messages", "no UTF-8"],
)
def test_a_flood_of_frames_is_cut_off_after_a_few(server: Server, flood: bytes, monkeypatch: pytest.MonkeyPatch):
    """However many come in one packet: what follows the first too many is not even parsed."""
    parsed = []
    take = Frames.recv_frame
    monkeypatch.setattr(Frames, "recv_frame", lambda self, frame: (parsed.append(1), take(self, frame))[1])
    with raw_live(server) as made:
        with contextlib.suppress(OSError):  # ended while we send
            made.sendall(flood)
        ended(made)
    until(lambda: server.studio.admission.active == 0)
    most = LIMITS.frames_burst
    assert most * 0.9 < len(parsed) < most + 60 * LIMITS.frames_per_s
    assert len(parsed) < 20_000
    assert get(server).status_code == 200


def test_who_is_cut_off_while_an_answer_is_on_its_way_fills_no_log(server: Server):
    """The application still speaks, to a connection that was ended beneath it."""
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("uvicorn.error").addHandler(handler)
    flood = frame(BINARY, pack({"type": "stats"})) * 3 + frame(PING) * 1000
    try:
        for _ in range(10):
            with raw_live(server) as made:
                with contextlib.suppress(OSError):  # ended while we send
                    made.sendall(flood)
                ended(made)
        until(lambda: server.studio.admission.active == 0)
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)
    assert written == []


def test_a_ping_is_answered_only_to_those_who_read():
    """Else pongs pile up: of all that were not answered the last one counts."""
    reads = [False]
    frames = Frames(max_size=1000)
    frames.state = type(frames.state).OPEN
    frames.parser = frames.parse()
    next(frames.parser)
    frames.judge, frames.may_answer = lambda frame: None, lambda: reads[0]
    for number in range(50):
        frames.receive_data(frame(PING, b"%d" % number))
    assert (frames.data_to_send(), frames.events_received(), frames.unanswered) == ([], [], b"49")
    reads[0] = True
    frames.receive_data(frame(PING, b"last"))
    assert frames.data_to_send() == [b"\x8a\x04last"]


def test_a_large_message_may_come_in_many_pieces(server: Server):
    pixels = np.zeros((480, 480, 4), np.uint8)
    message = pack({"type": "draw", "id": 1, "task": "image", "strength": 0.5}, [Part("image", RAW, pixels.tobytes(), 480, 480)])
    pieces = [message[at : at + 1024] for at in range(0, len(message), 1024)]
    assert len(pieces) > 2 * LIMITS.frames_burst
    with live("ws" + server.url.removeprefix("http") + "/v1/stream", subprotocols=[SUBPROTOCOL], compression=None) as ws:  # type: ignore[list-item]
        assert unpack(ws.recv(60)).type == "hello"
        for _ in range(3):
            ws.send(iter(pieces))
            assert unpack(ws.recv(60)).type == "picture"


# clients that are late


@pytest.mark.parametrize(
    "begun",
    [
        frame(BINARY, b"F" * 2000, last=False),
        frame(BINARY, bytes(5000))[:4000],
        frame(BINARY, bytes(5000))[:3],
        frame(PING, bytes(100))[:50],
    ],
    ids=["a fragment", "half a frame", "half a head", "half a ping"],
)
def test_a_message_that_stops_coming_ends_the_connection(server: Server, begun: bytes):
    with raw_live(server) as made:
        made.sendall(begun)
        assert b"does not come whole" in ended(made)


def test_a_message_of_a_few_bytes_a_second_ends_the_connection_whatever_comes_between(server: Server):
    with raw_live(server) as made:
        made.sendall(frame(BINARY, b"F", last=False))
        with contextlib.suppress(OSError):  # ended while we send
            for _ in range(int(50 * PATIENCE_S)):
                made.sendall(frame(0, bytes(20), last=False) + frame(PING, b"x"))
                time.sleep(0.02)  # far below the limit of frames
        assert b"does not come whole" in ended(made)


def test_what_is_half_received_is_bounded_for_an_address_and_for_all(server: Server):
    """Each message is within the limit, and none is whole: together they are too much."""
    half = frame(BINARY, bytes(LIMITS.message_bytes))[: LIMITS.message_bytes - 1000]
    each = LIMITS.each(LIMITS.half_bytes) // LIMITS.message_bytes
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(raw_live(server)) for _ in range(each + 1)]
        for made in held:
            with contextlib.suppress(OSError):
                made.sendall(half)
        said = [ended(made) for made in held]
    assert sum(b"too much is half received" in got for got in said) >= 1
    limiter = ConnectionLimiter(LIMITS, server.studio.access, lambda: 0.0, server.studio.metrics.__class__())
    assert limiter.received.take("a", LIMITS.message_bytes), "a whole message fits, however small the share"


@pytest.mark.parametrize(
    ("before", "begun", "status"),
    [
        (b"", b"GET /health HT", 408),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"G", 408),
        (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", 200),
        (b"", b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n{", 413),
        (b"", b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              b"Content-Length: 9\r\n\r\n{", 408),
        (b"", b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              b"Transfer-Encoding: chunked\r\n\r\n9\r\n{", 408),
    ],
    ids=["first head", "second head", "a body nobody asked for", "a body that was refused", "a body", "a chunk"],
)  # fmt: skip
def test_every_phase_of_a_request_has_its_deadline(server: Server, before: bytes, begun: bytes, status: int):
    with raw(server) as made:
        if before:
            made.sendall(before)
            said = b""
            while b'"ready"' not in said:
                said += (more := made.recv(2**16))
                assert more, said
        made.sendall(begun)
        got = ended(made)
        if status == 200:  # it may be answered first: what counts is that it ends
            assert got
            return
        found, error = answer(got)
        assert (found, error["code"]) == (status, "too_slow" if status == 408 else "too_large")


@pytest.mark.parametrize(
    "junk",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"A" * 40_000,
    ],
    ids=["nonsense", "a long length", "TLS", "HTTP/2", "a long line"],
)
def test_what_is_no_http_is_told_so_in_the_one_form(server: Server, junk: bytes):
    with raw(server) as made:
        made.sendall(junk + b"\r\n\r\n")
        status, error = answer(ended(made))
        assert (status, error["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/v1/stream?resume=" + "a" * 9000, "", 414),
        ("/v1/stream", "".join(f"X-{number}: 1\r\n" for number in range(200)), 431),
        ("/v1/stream", "Sec-WebSocket-Protocol: " + ", ".join(f"a{number}" for number in range(2000)) + "\r\n", 431),
        ("/v1/stream", "Content-Length: 5\r\n", 400),
        ("/v1/stream", "Sec-WebSocket-Version: 8\r\n", 400),
        ("/v1/stream", "Sec-WebSocket-Protocol: fewstep.v\xb2\r\n", 400),
        ("/v1/elsewhere", f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n", 404),
    ],
    ids=["a long line", "many headers", "a long header", "a body", "two versions", "no protocol's name", "elsewhere"],
)  # fmt: skip
def test_a_handshake_that_fails_is_answered_in_the_one_form(server: Server, path: str, more: str, status: int):
    """Also where HTTP's parser took the head and the WebSocket's does not: nobody waits, and no connection stays."""
    with raw(server) as made:
        made.sendall(f"GET {path} HTTP/1.1\r\n{UPGRADE}{more}\r\n".encode("latin-1"))
        found, error = answer(ended(made))
        assert found in (status, 400 if status in (414, 431) else status), "older parsers have one number for all"
        assert error["code"] == ("not_found" if status == 404 else "invalid")
    until(lambda: count(server) == 0)


def test_a_download_that_nobody_reads_is_given_up(server: Server):
    name = server.studio.downloads.put(bytes(16 * 2**20), "image/png")
    with raw(server, window=4096) as made:
        made.sendall(f"GET /v1/files/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        until(lambda: count(server) == 1)
        until(lambda: count(server) == 0)
    assert httpx.get(f"{server.url}/v1/files/{name}", timeout=60).content == bytes(16 * 2**20), "who reads gets it"


def test_a_live_client_that_never_reads_gives_its_socket_back(server: Server):
    with raw_live(server, window=4096) as made:
        until(lambda: server.studio.admission.active == 1)
        message = frame(BINARY, pack({"type": "stats"}))
        with contextlib.suppress(OSError):
            while count(server):
                made.sendall(message)
                time.sleep(0.005)
        until(lambda: count(server) == 0)


# shares


def test_idle_connections_of_one_address_shut_nobody_out(server: Server):
    """Neither strangers nor the address itself: what is idle makes room, the oldest first."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(raw(server)) for _ in range(3)]
        for _ in range(2 * LIMITS.connections):
            held.append(stack.enter_context(raw(server)))
            held[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in held[-1].recv(4096)
            held[-1].sendall(b"G")
        assert get(server).status_code == get(server, OTHER).status_code == 200
        assert count(server) <= LIMITS.each(LIMITS.connections) + 1
        assert ended(held[0]) == b"", "the oldest was closed without a word"


def test_an_address_that_has_its_share_is_told_so_and_the_others_come_in(server: Server):
    """Live sessions, admitted and in the queue, are under way: they stay."""
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITS.each(LIMITS.connections)):
            stack.enter_context(raw_live(server))
        refused = get(server)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
        assert "its share" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        with pytest.raises(InvalidStatus) as caught:
            live("ws" + server.url.removeprefix("http") + "/v1/stream", subprotocols=[SUBPROTOCOL])  # type: ignore[list-item]
        assert json.loads(caught.value.response.body)["error"]["code"] == "too_many"
        assert get(server, OTHER).status_code == 200
        assert server.studio.admission.active == LIMITS.each(LIMITS.sessions), "and of the places it has half"
        with raw_live(server, source=(OTHER, 0)):
            until(lambda: server.studio.admission.active == LIMITS.each(LIMITS.sessions) + 1)


def test_a_full_server_says_so_in_the_one_form(server: Server):
    with contextlib.ExitStack() as stack:
        for address in ("127.0.0.1", OTHER):
            for _ in range(LIMITS.each(LIMITS.connections)):
                stack.enter_context(raw_live(server, source=(address, 0)))
        refused = get(server, "127.0.0.3")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")


def test_one_source_port_is_no_way_around_the_limit_of_arrivals():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        source = free.getsockname()
    with running(limits=Limits(connections_per_s=0.01, connections_burst=3), clock=lambda: 0.0) as server:
        statuses = []
        for _ in range(5):
            with raw(server, source=source) as made:
                made.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                statuses.append(int(made.recv(4096).split()[1]))
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the port is free at once
        assert statuses == [200, 200, 200, 429, 429]


# the end


def test_a_service_managers_sigterm_is_an_order_carried_out(tmp_path: Path):
    with process(tmp_path) as served:
        served.process.terminate()
        assert served.process.wait(60) == 0
