"""The Python client when something goes wrong: always a `ServerError` with a code and the fix, with ``await`` or without."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.server import serve

import fewstep
from fewstep import client
from fewstep.client import AsyncClient, Client, Picture, ServerError
from fewstep.server.limits import Limits
from fewstep.server.wire.protocol import pack
from serving_helpers import SIZE, Server, running, until

LIMITS = Limits(sessions=2, queue=2, share=1.0, message_bytes=25_000, prompt_characters=40)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HOME", str(tmp_path_factory.mktemp("home")))
        with running(limits=LIMITS) as made:
            yield made


class Waiting:
    """An `AsyncClient` with a `Client`'s face, its loop in a thread of its own, so that every test is held with both."""

    def __init__(self, url: str, **options: Any) -> None:
        self._connect = fewstep.connect(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def _wait(self, awaited: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result(60)

    def __enter__(self) -> Waiting:
        self._thread.start()
        self._studio: AsyncClient = self._wait(self._connect.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self._connect.__aexit__(*error))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._studio, name)
        return (lambda *a, **o: self._wait(found(*a, **o))) if inspect.iscoroutinefunction(found) else found

    def stream(self, asks: list[dict[str, Any]]) -> list[Picture]:
        async def made() -> AsyncIterator[dict[str, Any]]:
            for ask in asks:
                yield ask

        async def main() -> list[Picture]:
            return [picture async for picture in self._studio.stream(made())]

        return self._wait(main())


both = pytest.mark.parametrize("connect", [fewstep.connect, Waiting], ids=["sync", "async"])


def refused(call: Any, *args: Any, **options: Any) -> tuple[str, str]:
    """Code and sentence of what must go wrong."""
    with pytest.raises(ServerError) as error:
        call(*args, **options)
    return error.value.code, str(error.value)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# requests


@both
@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ({"sed": 1}, "option", "draw has no option 'sed': did you mean seed?"),
        ({"promt": "a cat"}, "option", "did you mean prompt?"),
        ({"id": 3}, "option", "draw has no option 'id'"),
        ({"prompt": "x" * 50_000}, "prompt", '"prompt" has 50000 characters: use at most 40'),
        ({"strength": float("nan")}, "strength", '"strength" must be a number from 0 to 1'),
        ({"strength": np.float64("inf")}, "strength", '"strength" must be a number from 0 to 1'),
        ({"seed": -1}, "seed", '"seed" must be a whole number'),
        ({"seed": 1 + 1j}, "seed", '"seed" must be a whole number'),
        ({"steps": np.int64(3)}, "steps", "trained for 1, 2, 4 steps, not 3"),
        ({"size": 48}, "size", f"at {SIZE} px here, not 48"),
        ({"encoder": "gif"}, "encoder", "use one of png, webp, jpeg"),
        ({"mask": noise(8, 8)}, "parts", "takes image, not mask"),
        ({"image": np.zeros((8, 8, 3))}, "picture", "image: float64 of 8 x 8 x 3 is no picture: give a PNG"),
        ({"image": np.zeros((8, 8, 3), bool)}, "picture", "or uint8 pixels, height x width x 3 (or 4)"),
        ({"image": np.zeros((3, 8, 8), np.uint8)}, "picture", "uint8 of 3 x 8 x 8 is no picture"),
        ({"image": np.zeros((0, 8, 3), np.uint8)}, "picture", "uint8 of 0 x 8 x 3 is no picture"),
        ({"image": Path("nowhere.png")}, "picture", "No such file or directory: 'nowhere.png': give a PNG"),
        ({"image": b"\x89PNG nonsense"}, "picture", "not a picture"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_the_fix(
    server: Server, connect: Any, options: dict[str, Any], code: str, sentence: str
):
    """And the session goes on; nothing but the last, whose file only a decoder can judge, is sent at all."""
    with connect(server.url) as studio:
        said = refused(studio.draw, **options)
        assert said[0] == code
        assert sentence in said[1]
        assert refused(lambda: list(studio.stream([options]))) == said
        assert studio.draw("a cat", seed=3).seed == 3
        assert studio.asked == 1 + 2 * isinstance(options.get("image"), bytes)


@both
def test_numpys_numbers_are_numbers(server: Server, connect: Any):
    with connect(server.url) as studio:
        image = noise(8, 8)
        drawn = {"seed": np.int64(3), "steps": np.uint8(1), "strength": np.float32(0.5), "encoder": np.str_("png")}
        picture = studio.draw("a cat", image=image, **drawn)
        assert (picture.seed, picture.facts["steps"], picture.facts["strength"]) == (3, 1, 0.5)
        assert studio.draw("a cat", image=image, seed=3, steps=1, encoder="png").data == picture.data
        last = studio.draw("a cat")
        studio.seen(last, np.float32(last.facts["server_ms"] + 1000))
        assert studio.stats()["stages_ms"]["wire"][2] == pytest.approx(1000, abs=1)
        for wrong in (float("nan"), np.float64("inf"), np.float32("nan")):
            assert refused(studio.seen, picture, wrong)[0] == "number"
        assert studio.draw("a cat").seed == 0


@both
def test_grey_and_black_and_white_pixels_are_pictures(server: Server, connect: Any):
    with connect(server.url) as studio:
        grey = noise(16, 16)[:, :, 0]
        drawn = {"seed": 1, "steps": 1, "encoder": "png"}
        three = studio.draw("a cat", image=np.dstack([grey] * 3), **drawn)
        assert studio.draw("a cat", image=grey, **drawn).data == three.data
        mask = np.where(grey > 128, 255, 0).astype(np.uint8)
        masked = studio.draw("a cat", image=grey, mask=mask, **drawn)
        assert studio.draw("a cat", image=grey, mask=grey > 128, **drawn).data == masked.data


@both
def test_what_is_larger_than_the_server_takes_is_not_sent(server: Server, connect: Any):
    """To the byte: `limits.message_bytes` still is."""
    with connect(server.url) as studio:
        code, sentence = refused(studio.draw, "a cat", image=noise(100, 100))
        assert code == "too_large"
        assert "has 40" in sentence
        assert "bytes, the server takes 25000: send a smaller picture, or the file of a PNG or JPEG" in sentence
        flat = io.BytesIO()
        Image.new("RGB", (100, 100), "red").save(flat, "PNG")
        assert studio.draw("a cat", image=flat.getvalue()).pixels.shape == (SIZE, SIZE, 3)
        number, frame = studio.ask("a cat", image=bytes(10_000))
        room = LIMITS.message_bytes - len(frame)
        assert refused(studio.draw, "a cat", image=bytes(10_000 + room + 1))[0] == "too_large"
        assert refused(studio.draw, "a cat", image=bytes(10_000 + room))[0] == "picture"
        assert studio.asked == number + 1
        assert studio.draw("a cat").seed == 0


def test_an_ask_that_is_wrong_is_heard_of_while_the_last_picture_is_looked_at(server: Server):
    async def main() -> None:
        looked = asyncio.Event()

        async def asks() -> AsyncIterator[dict[str, Any]]:
            yield {"prompt": "a cat"}
            await looked.wait()
            yield {"sed": 1}

        async with fewstep.connect(server.url) as studio:
            async for _ in studio.stream(asks()):
                looked.set()
                await asyncio.sleep(0.1)

    with pytest.raises(ServerError, match="did you mean seed"):
        asyncio.run(main())


# addresses


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://x:many", "http://[::1", "x:0", "x:70000", "ws:///v1"]
)
def test_what_is_no_address_is_said_at_once(url: str):
    code, sentence = refused(fewstep.connect, url)
    assert code == "address"
    assert sentence == (
        f"{url!r} is no address of a server: use the one that the server printed, such as http://localhost:7860"
    )


def test_a_time_is_more_than_nothing():
    for timeout_s in (0.0, -1.0, float("nan")):
        assert refused(fewstep.connect, "localhost:7860", timeout_s=timeout_s)[0] == "timeout"


@both
def test_an_address_may_be_written_in_every_way(server: Server, connect: Any, tmp_path: Path):
    place = server.url.removeprefix("http://")
    for number, url in enumerate((place, f"ws://{place}", f" HTTP://{place}/ ", f"{server.url}/?x=1#token=unasked")):
        with connect(url) as studio:
            picture = studio.draw("a cat")
            studio.download(picture, tmp_path / f"{number}.png")
            assert Image.open(tmp_path / f"{number}.png").size == (SIZE, SIZE)
    assert fewstep.connect("wss://x/y/").live["uri"] == "wss://x/y/v1/stream"
    assert fewstep.connect("wss://x/y/").base == "https://x/y"


@both
def test_another_path_and_another_service_are_told(server: Server, connect: Any):
    code, sentence = refused(connect(f"{server.url}/studio").__enter__)
    assert (code, sentence) == ("not_found", "no live session is offered at /studio/v1/stream: open /v1/stream")
    answers = {
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": "(HTTP 200, hello): use the address",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 15\r\n\r\n<html>no</html>": "(HTTP 502): try again in a moment",
        b"SSH-2.0-OpenSSH_9.6\r\n": "start one: fewstep serve",
        b"": "start one: fewstep serve",
    }
    for said, wanted in answers.items():
        with saying(said) as url:
            code, sentence = refused(connect(url).__enter__)
            assert code == "unreachable"
            assert wanted in sentence


@contextlib.contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """Somebody who says one thing to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def answering() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = taken.accept()
                    with one:
                        one.recv(65_536)
                        one.sendall(answer)

        thread = threading.Thread(target=answering, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@both
def test_a_storm_is_told_when_to_come_again(connect: Any):
    with running(limits=Limits(connections_per_s=0.01, connections_burst=1), clock=lambda: 0.0) as server:
        with connect(server.url) as studio:
            assert studio.ready
        code, sentence = refused(connect(server.url).__enter__)
        assert (code, sentence) == ("too_many", "too many new connections from this address: try again in 100 s")


@both
def test_every_token_that_a_header_holds_opens_the_door(connect: Any, tmp_path: Path):
    """One that the door can have; what it cannot, is sent all the same and told to be wrong."""
    token = "a-token.with_all~Kinds-0f-things"
    with running(token=token) as server:
        with connect(server.url, token=token) as studio:
            studio.download(studio.draw("a cat"), tmp_path / "a.png")
        with connect(f"{server.url}/#token={token}") as studio:
            assert studio.draw("a cat").seed == 0
        for other in ("another", 'a token: (with) {"all"}, kinds/of=?@[things]'):
            code, sentence = refused(connect(server.url, token=other).__enter__)
            assert code == "token"
            assert "missing or wrong" in sentence
    for wrong in ("Schlüssel", "two\nlines", " "):
        assert refused(fewstep.connect, server.url, token=wrong) == (
            "token", "only plain ASCII can be sent as a token: start the server with --token auto",
        )  # fmt: skip


# the end of a connection


def calls(studio: Any, picture: Picture) -> dict[str, Any]:
    """Everything that goes over the live connection."""
    return {
        "draw": lambda: studio.draw("a cat"),
        "stats": studio.stats,
        "stream": lambda: list(studio.stream([{"prompt": "a cat"}])),
        "seen": lambda: studio.seen(picture, 1.0),
    }


@both
def test_a_server_that_has_stopped_is_told_by_every_call(connect: Any, tmp_path: Path):
    with contextlib.ExitStack() as stack:
        with running() as server:
            studios = [stack.enter_context(connect(server.url)) for _ in range(4)]
            pictures = [studio.draw("a cat") for studio in studios]
        sentence = "the connection to the server was lost (the server stops): connect again"
        for number, (studio, picture) in enumerate(zip(studios, pictures)):
            time.sleep(0.1)
            call = list(calls(studio, picture).values())[number]
            assert refused(call) == ("lost", sentence)
            assert refused(call) == ("lost", sentence)
            code, said = refused(studio.download, picture, tmp_path / "a.png")
            assert code == "unreachable"
            assert said.startswith(f"no server answers at {server.url} (")
            assert said.endswith("): start one: fewstep serve")
            assert not (tmp_path / "a.png").exists()


@both
def test_a_session_that_was_closed_says_so_and_still_has_its_files(server: Server, connect: Any, tmp_path: Path):
    with connect(server.url) as studio:
        picture = studio.draw("a cat")
    for call in calls(studio, picture).values():
        assert refused(call) == ("closed", "this session is closed: connect again")
    studio.download(picture, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (SIZE, SIZE)


@both
def test_the_reason_of_a_close_is_in_the_sentence(connect: Any):
    with running(limits=Limits(idle_s=0.3)) as server, connect(server.url) as studio:
        until(lambda: not server.studio.admission.active)
        code, sentence = refused(lambda: [studio.stats() for _ in range(2)])
        assert code == "lost"
        assert "(nothing was asked for in a long time)" in sentence


def test_two_answers_at_a_time_are_one_too_many(server: Server):
    async def main() -> list[Any]:
        async with fewstep.connect(server.url) as studio:
            return await asyncio.gather(studio.draw("a cat"), studio.stats(), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first.seed == 0
    assert isinstance(second, ServerError)
    assert second.code == "busy"
    assert "connect once more" in str(second)


# the queue, and silence


@both
def test_the_queue_lasts_longer_than_an_answer_may(server: Server, connect: Any):
    inside: list[Client] = [fewstep.connect(server.url).__enter__() for _ in range(2)]
    try:
        leaving = threading.Timer(1.5, inside[0].close)
        began = time.monotonic()
        leaving.start()
        with connect(server.url, timeout_s=0.5) as studio:
            assert time.monotonic() - began > 1.2
            assert studio.queue_position == 0
        leaving.join()
    finally:
        for one in inside:
            one.close()


@contextlib.contextmanager
def repeating(messages: list[dict[str, Any]], every_s: float) -> Iterator[str]:
    """Somebody who sends these, one after another, and then nothing more."""

    def handle(ws: Any) -> None:
        for message in messages:
            ws.send(pack(message))
            time.sleep(every_s)
        with contextlib.suppress(Exception):
            ws.recv()

    with serve(handle, "127.0.0.1", 0, subprotocols=["fewstep.v1"], compression=None) as server:  # type: ignore[list-item]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


@both
def test_silence_counts_from_the_last_message_of_any_kind(connect: Any, monkeypatch: pytest.MonkeyPatch):
    """Also in the queue, where it means that nobody is there: the server repeats the place."""
    monkeypatch.setattr(client, "QUEUE_S", 1.5)
    place = {"type": "queue", "position": 1, "waiting": 1, "places": 1}
    ready = {"type": "hello", "state": "ready"}
    with repeating([place] * 7 + [ready], 0.3) as url, connect(url, timeout_s=0.1) as studio:
        assert studio.ready
    with repeating([place] * 2, 0.3) as url:
        began = time.monotonic()
        code, sentence = refused(connect(url, timeout_s=0.1).__enter__)
        assert code == "timeout"
        assert sentence.startswith("the server said nothing for 1.5 seconds: ")
        assert time.monotonic() - began >= 1.8
    with repeating([ready | {"state": "warming"}] * 7 + [ready], 0.3) as url, connect(url, timeout_s=1.5) as studio:
        assert studio.ready


@both
def test_who_gives_up_waiting_leaves_no_place_taken(server: Server, connect: Any):
    with repeating([], 0.0) as url:
        assert refused(connect(url, timeout_s=0.2).__enter__)[0] == "timeout"
    inside: list[Client] = [fewstep.connect(server.url).__enter__() for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "QUEUE_S", 0.3)
        assert refused(connect(server.url, timeout_s=0.2).__enter__)[0] == "timeout"
    until(lambda: not server.studio.admission.waiting)
    for one in inside:
        one.close()
