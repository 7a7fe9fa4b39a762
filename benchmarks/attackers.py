"""The hostile clients of hostile.py, each in a process of its own, at 127.0.0.2, bounded in time, number and processor time.

    python benchmarks/attackers.py NAME PORT SECONDS SHARE

It says ``ready``, begins when it is sent a line, stops by itself after SECONDS, and prints what it did and what that took. SHARE
is how much of one core it may use: where it has used more it sleeps, so that what others lose is the server's loss. Nothing here
needs more than sockets.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from PIL import Image

SOURCE = "127.0.0.2"
"""Where it comes from: for the server another person than the honest one at 127.0.0.1."""
HOST = "Host: localhost\r\n"


class Attack:
    """What every attack needs: where to, until when, and how much of a core."""

    def __init__(self, port: int, seconds: float, share: float) -> None:
        self.port, self.share = port, share
        self.began, self.worked = time.monotonic(), time.process_time()
        self.ends = self.began + seconds
        self.did: Counter[str] = Counter()

    def on(self) -> bool:
        """Whether to go on; sleeps while it has used more of the core than its share."""
        while (now := time.monotonic()) < self.ends:
            ahead = (time.process_time() - self.worked) / self.share - (now - self.began)
            if ahead <= 0:
                return True
            time.sleep(min(ahead, self.ends - now))
        return False

    def rest(self, seconds: float) -> None:
        """Do nothing for a while."""
        time.sleep(max(0.0, min(seconds, self.ends - time.monotonic())))

    def tcp(self, receive_buffer: int = 0, timeout: float = 5.0) -> socket.socket:
        """A connection."""
        made = socket.socket()
        made.settimeout(timeout)
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.bind((SOURCE, 0))
        try:
            made.connect(("127.0.0.1", self.port))
        except OSError:
            made.close()
            raise
        self.did["connections"] += 1
        return made

    def live(self, receive_buffer: int = 0, timeout: float = 5.0) -> socket.socket:
        """A live session, its handshake done. Raises OSError where it is refused."""
        made = self.tcp(receive_buffer, timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        made.sendall(
            f"GET /v1/stream HTTP/1.1\r\n{HOST}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: fewstep.v1\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            more = made.recv(1)
            if not more:
                break
            head += more
        if b" 101 " not in head:
            made.close()
            raise OSError("refused")
        return made

    def again(self, hold: Callable[[], None], pause: float = 0.2) -> None:
        """Attack, and where the server ends it, after a pause anew."""
        while self.on():
            with contextlib.suppress(OSError):
                hold()
            self.did["ended by the server"] += time.monotonic() < self.ends
            self.rest(pause)

    def many(self, n: int, hold: Callable[[], None]) -> None:
        """So many at a time."""
        threads = [threading.Thread(target=self.again, args=(hold,), daemon=True) for _ in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, self.ends + 5 - time.monotonic()))


def websocket(code: int, payload: bytes = b"", last: bool = True) -> bytes:
    """One frame of a client (RFC 6455, 5.2), under a mask of zeros."""
    n, first = len(payload), (128 if last else 0) | code
    length = bytes([128 | n]) if n < 126 else struct.pack(">BH", 254, n) if n < 65536 else struct.pack(">BQ", 255, n)
    return bytes([first]) + length + bytes(4) + payload


def message(header: dict[str, object], part: bytes = b"", mime: str = "image/png") -> bytes:
    """One message of ours, as a frame."""
    listed = {"parts": [{"name": "image", "mime": mime, "bytes": len(part)}], "task": "image"} if part else {}
    text = json.dumps({"prompt": "a cat"} | header | listed).encode()
    return websocket(2, struct.pack("<2sBBI", b"FS", 1, 0, len(text)) + text + part)


def swallow(connection: socket.socket) -> None:
    """Read on and forget, beside what is sent."""

    def read() -> None:
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass

    threading.Thread(target=read, daemon=True).start()


def post(path: str, body: bytes, length: int | None = None) -> bytes:
    """A request with a JSON body; ``length`` is what it claims to have."""
    n = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: {n}\r\n\r\n"
    return head.encode() + body


def cut_gifs() -> list[bytes]:
    """An animation that ends too early, at every place that a decoder may trip over."""
    frames = [Image.new("RGB", (64, 64), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    data = file.getvalue()
    return [data[:end] for end in range(len(data) // 2, len(data), 7)]


def many_scans(side: int = 1024, scans: int = 50_000) -> bytes:
    """A small progressive JPEG whose scans say in a few bytes that no block changes (ITU T.81, G.1.2.2: end-of-band runs)."""

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 255, marker, len(data) + 2) + data

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")

    blocks = ((side + 7) // 8) ** 2
    run = blocks.bit_length() - 1
    one_code = bytes([1, *[0] * 15])
    head = b"\xff\xd8" + segment(0xDB, b"\x00" + b"\x01" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 3) + b"".join(bytes([c, 17, 0]) for c in (1, 2, 3)))
    head += segment(0xC4, b"\x00" + one_code + b"\x00") + segment(0xC4, b"\x10" + one_code + bytes([run << 4]))
    first = segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0])) + packed("0" * (3 * blocks))
    nothing = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + packed("0" + format(blocks - (1 << run), f"0{run}b"))
    return head + first + nothing * scans + b"\xff\xd9"


def draw_forever(attack: Attack, pictures: list[bytes], mime: str, pause: float) -> None:
    """One live session that asks with these pictures, one after another."""
    connection = attack.live()
    swallow(connection)
    for i, data in enumerate(itertools.cycle(pictures)):
        if not attack.on():
            return
        connection.sendall(message({"type": "draw", "id": i}, data, mime))
        attack.did["requests"] += 1
        attack.rest(pause)


def gifs(attack: Attack) -> None:
    """Cut GIFs, 20 a second."""
    pictures = cut_gifs()
    attack.many(1, lambda: draw_forever(attack, pictures, "image/png", 0.05))


def jpegs(attack: Attack) -> None:
    """JPEGs of 50,000 scans, four a second."""
    data = many_scans()
    attack.many(2, lambda: draw_forever(attack, [data], "image/jpeg", 0.5))


def continuations(attack: Attack) -> None:
    """One message of endless empty continuation frames."""

    def hold() -> None:
        connection = attack.live()
        swallow(connection)
        connection.sendall(websocket(2, b"F", last=False))
        blob = websocket(0, last=False) * 1000
        while attack.on():
            connection.sendall(blob)
            attack.did["frames"] += 1000

    attack.many(1, hold)


def pongs(attack: Attack) -> None:
    """Pings whose pongs nobody reads."""

    def hold() -> None:
        connection = attack.live(receive_buffer=2048)
        blob = websocket(9, bytes(125)) * 100
        while attack.on():
            connection.sendall(blob)
            attack.did["pings"] += 100

    attack.many(4, hold)


def idle(attack: Attack) -> None:
    """300 connections that were used once and are kept, each with a byte of a second request."""

    def hold() -> None:
        connection = attack.tcp()
        connection.sendall(f"GET /health HTTP/1.1\r\n{HOST}\r\n".encode())
        attack.did["answered"] += connection.recv(4096)[9:12] == b"200"
        connection.sendall(b"G")
        connection.settimeout(1)
        while time.monotonic() < attack.ends:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    return

    attack.many(300, hold)


def slow(attack: Attack) -> None:
    """Bodies, and second requests, of one byte a second."""

    def hold(start: bytes, byte: bytes) -> None:
        connection = attack.tcp()
        connection.sendall(start)
        while attack.on():
            connection.sendall(byte)
            attack.did["bytes"] += 1
            attack.rest(1)

    again = f"GET /health HTTP/1.1\r\n{HOST}\r\n".encode() + b"GET /health HTTP/1.1\r\nX-Slow: "
    starts = itertools.cycle([(post("/v1/pictures", b"", 1_000_000), b" "), (again, b"x")])
    lock = threading.Lock()

    def one() -> None:
        with lock:
            start = next(starts)
        hold(*start)

    attack.many(60, one)


def deaf_live(attack: Attack) -> None:
    """Live sessions that ask and never read."""

    def hold() -> None:
        connection = attack.live(receive_buffer=2048)
        for i in itertools.count():
            if not attack.on():
                return
            connection.sendall(message({"type": "draw", "id": i, "encoder": "png"}) + message({"type": "stats"}))
            attack.did["requests"] += 1
            attack.rest(0.05)

    attack.many(6, hold)


def deaf_http(attack: Attack) -> None:
    """Requests for files and pictures, one behind another, whose answers nobody reads."""

    def hold() -> None:
        connection = attack.tcp(receive_buffer=2048)
        while attack.on():
            connection.sendall(f"GET /web/studio.js HTTP/1.1\r\n{HOST}\r\n".encode() * 50)
            connection.sendall(post("/v1/pictures", b'{"prompt": "a cat"}'))
            attack.did["requests"] += 51

    attack.many(40, hold)


GENERATIONS = post("/v1/images/generations", b'{"prompt": "a cat", "n": 8, "size": "1024x1024"}')


def flood(attack: Attack) -> None:
    """16 clients that ask for eight large pictures, again and again."""

    def hold() -> None:
        connection = attack.tcp(timeout=30)
        while attack.on():
            connection.sendall(GENERATIONS)
            attack.did["requests"] += 1
            head = connection.recv(1 << 16)
            attack.did[f"answered {head[9:12].decode()}"] += 1
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            taken = len(head.partition(b"\r\n\r\n")[2])
            while taken < length and (more := connection.recv(1 << 20)):
                taken += len(more)
            if b" 503 " in head[:20] or b" 429 " in head[:20]:
                attack.rest(0.1)

    attack.many(16, hold)


def leave(attack: Attack) -> None:
    """Clients that ask for eight large pictures and leave at once, 40 a second."""

    def hold() -> None:
        with contextlib.closing(attack.tcp()) as connection:
            connection.sendall(GENERATIONS)
            attack.did["requests"] += 1
            attack.rest(0.1)

    attack.many(8, hold)


def downloads(attack: Attack) -> None:
    """One picture of a live session, saved again and again by eight at a time: each is signed."""
    connection = attack.live()
    connection.sendall(message({"type": "draw", "id": 1}))
    session, held = "", b""
    while b'"type":"picture"' not in held and attack.on():
        held += connection.recv(1 << 16)
        session = session or held.partition(b'"session":"')[2].partition(b'"')[0].decode()
    request = f"GET /v1/sessions/{session}/pictures/1 HTTP/1.1\r\n{HOST}\r\n".encode()

    def hold() -> None:
        with contextlib.closing(attack.tcp(timeout=30)) as saving:
            while attack.on():
                saving.sendall(request)
                head = saving.recv(1 << 20)
                attack.did[f"answered {head[9:12].decode()}"] += 1
                if head[9:12] != b"200":
                    attack.rest(0.1)

    attack.many(8, hold)


def prompts(attack: Attack, letters: int) -> None:
    """One live session with 110 new prompts a second, none of them waited for."""

    def hold() -> None:
        connection = attack.live()
        swallow(connection)
        for i in itertools.count():
            if not attack.on():
                return
            prompt = f"{i:x} {os.urandom(8).hex()} ".ljust(letters, "x")[:letters]
            connection.sendall(message({"type": "draw", "id": i, "prompt": prompt}))
            attack.did["requests"] += 1
            attack.rest(1 / 110)

    attack.many(1, hold)


def backlog(attack: Attack) -> None:
    """110 new prompts a second, for a filter that takes 100 ms a prompt."""
    prompts(attack, 20)


def prompt_flood(attack: Attack) -> None:
    """110 new prompts of 500 characters a second, for whatever remembers prompts."""
    prompts(attack, 500)


def nothing(attack: Attack) -> None:
    """No attack: as much work as an attacker may do, without a connection. What is lost here is the machine's."""
    while attack.on():
        attack.did["sums"] += sum(range(1000)) > 0


ATTACKS: dict[str, Callable[[Attack], None]] = {
    "nothing": nothing,
    "cut-gifs": gifs,
    "jpeg-scans": jpegs,
    "empty-continuations": continuations,
    "unread-pongs": pongs,
    "idle-connections": idle,
    "slow-requests": slow,
    "never-reads-live": deaf_live,
    "never-reads-http": deaf_http,
    "rest-flood": flood,
    "rest-leaves": leave,
    "downloads": downloads,
    "guard-backlog": backlog,
    "prompt-flood": prompt_flood,
}


@contextlib.contextmanager
def counted(attack: Attack) -> Iterator[None]:
    """Afterwards what was done, and what it took."""
    try:
        yield
    finally:
        spent = time.process_time() - attack.worked
        print(json.dumps({"cpu_s": round(spent, 2), **attack.did}), flush=True)


def main() -> None:
    """One attack."""
    name, port, seconds, share = sys.argv[1:]
    threading.stack_size(256 * 1024)
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    attack = Attack(int(port), float(seconds), float(share))
    with counted(attack):
        ATTACKS[name](attack)


if __name__ == "__main__":
    main()
    os._exit(0)  # threads that still wait for an answer are not waited for
