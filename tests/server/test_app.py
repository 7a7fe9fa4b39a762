"""A whole server over loopback: live sessions, single pictures, OpenAI's own client, limits, and clients that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as live

import fewstep
from fewstep.client import Client, ServerError
from fewstep.provenance.content_credentials import read as read_credentials
from fewstep.provenance.identity import own_identity
from fewstep.provenance.options import Signing
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.verify import VerifyOptions, verify
from fewstep.server import app
from fewstep.server.drawing.client_session import HistoryEntry
from fewstep.server.drawing.provenance import PictureFacts
from fewstep.server.http import websocket as stream
from fewstep.server.http.disconnect import CLIENT_ADDRESS, DisconnectMiddleware
from fewstep.server.limits import Limits
from fewstep.server.state import Studio
from fewstep.server.wire.protocol import HEAD, SUBPROTOCOL, VERSION, pack, unpack
from serving_helpers import PATIENCE_S, SIZE, Server, running, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HOME", str(tmp_path_factory.mktemp("home")))
        with running(limits=Limits(sessions=4, queue=2, share=1.0, body_s=1.0, send_s=1.0, messages_per_s=400)) as made:
            yield made


def websocket(server: Server, **options: Any) -> Any:
    options = {"subprotocols": [SUBPROTOCOL], "compression": None} | options
    return live("ws" + server.url.removeprefix("http") + options.pop("path", "/v1/stream"), **options)


def photo(size: int = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8))


def encoded_photo() -> bytes:
    buffer = io.BytesIO()
    photo(64).save(buffer, "PNG")
    return buffer.getvalue()


# live


def test_a_session_from_hello_to_a_signed_file(server: Server, tmp_path: Path):
    with fewstep.connect(server.url) as studio:
        hello = studio.hello
        assert (hello["protocol"], hello["state"], hello["backend"]) == (SUBPROTOCOL, "ready", "eager")
        assert hello["model"]["steps"] == [1, 2, 4]
        assert hello["marks"] == {"watermark": True, "credentials": True}
        picture = studio.draw("a red heart", seed=7, target_ms=60_000, encoder="png")
        assert picture.pixels.shape == (SIZE, SIZE, 3)
        assert (picture.seed, picture.facts["steps"], picture.facts["shed"]) == (7, 4, [])
        assert picture.round_trip_ms >= picture.facts["server_ms"]
        again = studio.draw("a red heart", seed=7, target_ms=60_000, encoder="png")
        other = studio.draw("a red heart", seed=8, target_ms=60_000, encoder="png")
        assert again.data == picture.data != other.data
        picture.save(tmp_path / "streamed.png")
        assert (tmp_path / "streamed.png").read_bytes() == picture.data
        picture.save(tmp_path / "streamed.jpg")
        assert np.abs(np.asarray(Image.open(tmp_path / "streamed.jpg")).astype(int) - picture.pixels).mean() < 6
        with pytest.raises(ValueError, match="webp"):
            picture.save(tmp_path / "streamed.gif")
        for name in ("a.png", "a.jpg", "a.webp"):
            studio.download(picture, tmp_path / name, include_prompt=name == "a.png")
            mime = Image.MIME[Image.open(tmp_path / name).format or ""]
            credentials = read_credentials((tmp_path / name).read_bytes(), mime)
            assert (credentials.state, credentials.facts["seed"], credentials.facts["steps"]) == ("valid", 7, 4)
            assert credentials.facts.get("prompt") == ("a red heart" if name == "a.png" else None)
        with pytest.raises(ValueError, match="jpg"):
            studio.download(picture, tmp_path / "a.gif")
        with pytest.raises(ServerError, match=r"^this picture is no longer on the server") as gone:
            studio.download(replace(picture, facts={"id": 99}), tmp_path / "gone.png")
        assert gone.value.code == "not_found"
        stats = studio.stats()
        assert stats["counts"]["drawn"] >= 3
        assert stats["stages_ms"]["network"][0] > 0


def test_pictures_and_masks_of_every_kind(server: Server, tmp_path: Path):
    image = photo()
    image.save(tmp_path / "in.jpg")
    with fewstep.connect(server.url) as studio:
        for given in (image, np.asarray(image), tmp_path / "in.jpg", (tmp_path / "in.jpg").read_bytes()):
            picture = studio.draw("a cat", image=given, strength=0.5)
            assert picture.facts["strength"] == 0.5
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (0, 0, 8, 8))
        history = studio.draw("a cat", image=image, mask=mask.convert("RGB"), strength=0.75, encoder="png")
        change = np.abs(history.pixels.astype(int) - np.asarray(image))
        assert change[8:, 8:].mean() < 6 < change[:8, :8].mean()  # the mark moves pixels a little
        with pytest.raises(ServerError, match="not a picture"):
            studio.draw("a cat", image=b"\x89PNG nonsense")
        assert studio.draw("a cat").pixels.shape == (SIZE, SIZE, 3)


def test_the_async_client_streams_newest_wins(server: Server):
    async def asks() -> AsyncIterator[dict[str, Any]]:
        for i in range(60):
            yield {"prompt": "a cat", "seed": i, "steps": 1}

    async def main() -> list[int]:
        async with fewstep.connect(server.url) as studio:
            first = await studio.draw("a dog")
            assert first.pixels.shape == (SIZE, SIZE, 3)
            with pytest.raises(ServerError, match="steps"):
                await studio.draw("a dog", steps=3)
            with pytest.raises(ServerError, match=f"at {SIZE} px here, not 48"):
                await studio.draw("a dog", size=48)
            return [picture.seed async for picture in studio.stream(asks())]

    seeds = asyncio.run(main())
    assert seeds[-1] == 59
    assert seeds == sorted(set(seeds))
    assert len(seeds) < 60


def test_a_stream_sends_no_more_than_it_may_and_ends_with_its_asks(server: Server):
    """The asks end long after the last answer, which must not leave the stream waiting; the last ask is always drawn."""

    async def main(in_flight: int) -> tuple[list[int], int]:
        drawn = asyncio.Event()

        async def asks() -> AsyncIterator[dict[str, Any]]:
            for seed in range(20):
                yield {"prompt": "a cat", "seed": seed, "steps": 1}
            await drawn.wait()

        async with fewstep.connect(server.url, timeout_s=30) as studio:
            seeds = []
            async for picture in studio.stream(asks(), in_flight):
                seeds.append(picture.seed)
                if picture.seed == 19:
                    drawn.set()
            counts = (await studio.stats())["counts"]
            assert counts["drawn"] > 0
            return seeds, studio.asked

    assert asyncio.run(main(1)) == ([0, 19], 2)
    seeds, asked = asyncio.run(main(2))
    assert seeds[-1] == 19
    assert asked in (3, 4)
    with pytest.raises(ValueError, match="1 or more"):
        asyncio.run(main(0))


def test_what_goes_wrong_in_the_asks_comes_out_of_the_stream(server: Server):
    async def asks() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "a cat"}
        raise RuntimeError("no more canvas")

    async def main() -> None:
        async with fewstep.connect(server.url) as studio:
            async for _ in studio.stream(asks()):
                pass

    with pytest.raises(RuntimeError, match="no more canvas"):
        asyncio.run(main())


def test_time_is_answered_under_compute(server: Server, monkeypatch: pytest.MonkeyPatch):
    """The event loop never draws: a ping comes back while a picture is being drawn, however long that takes."""
    engine = server.studio.worker.engine
    assert engine is not None
    drawing, go, draw = threading.Event(), threading.Event(), engine.draw

    def held(*given: Any) -> Any:
        drawing.set()
        assert go.wait(60)
        return draw(*given)

    monkeypatch.setattr(engine, "draw", held)
    with websocket(server) as ws:
        assert unpack(ws.recv(60)).type == "hello"
        ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
        assert drawing.wait(60)
        try:
            for number in range(1, 13):
                ws.send(pack({"type": "time", "sent_ms": float(number)}))
                message = unpack(ws.recv(60))
                assert (message.type, message.header["sent_ms"]) == ("time", number)
        finally:
            go.set()
        assert unpack(ws.recv(60)).type == "picture"


def test_what_the_browser_saw_is_counted(server: Server):
    with websocket(server) as ws:
        unpack(ws.recv(60))
        ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
        picture = unpack(ws.recv(60))
        ws.send(pack({"type": "seen", "id": 1, "glass_ms": picture.header["server_ms"] + 5}))
        ws.send(pack({"type": "seen", "id": 99, "glass_ms": 1.0}))  # never drawn: not counted
        ws.send(pack({"type": "stats"}))
        stages = unpack(ws.recv(60)).header["stages_ms"]
        assert stages["wire"][0] == pytest.approx(5, abs=0.01)
        assert stages["glass_to_glass"][2] == pytest.approx(picture.header["server_ms"] + 5, abs=0.01)


def test_a_full_room_has_a_queue_that_shows_the_place(server: Server):
    inside = [fewstep.connect(server.url) for _ in range(4)]
    clients: list[Client] = [connecting.__enter__() for connecting in inside]
    try:
        with websocket(server) as first, websocket(server) as second:
            assert unpack(first.recv(60)).header["position"] == 1
            assert unpack(second.recv(60)).header["position"] == 2
            second.send(pack({"type": "draw", "id": 1}))
            assert unpack(second.recv(60)).header["code"] == "queue"
            with websocket(server) as third:
                assert unpack(third.recv(60)).header["code"] == "full"
                with pytest.raises(ConnectionClosed) as closed:
                    third.recv(60)
                assert closed.value.rcvd.code == 4429
            clients[0].close()
            assert unpack(first.recv(60)).type == "hello"
            while (moved := unpack(second.recv(60))).header["position"] != 1:
                pass
            assert moved.type == "queue"
            first.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
            assert unpack(first.recv(60)).type == "picture"
    finally:
        for client in clients:
            client.close()
    until(lambda: server.studio.admission.active == server.studio.admission.waiting == 0)


def test_one_lost_session_that_comes_back_twice_is_two(server: Server):
    """As when a connection that nobody ended yet waits in the queue: what becomes of it is nothing to its successor."""
    with fewstep.connect(server.url) as lost:
        session = lost.hello["session"]
    until(lambda: server.studio.admission.active == 0)
    inside = [fewstep.connect(server.url) for _ in range(4)]
    clients: list[Client] = [connecting.__enter__() for connecting in inside]
    try:
        again = f"/v1/stream?resume={session}"
        with websocket(server, path=again) as first, websocket(server, path=again) as second:
            assert [unpack(ws.recv(60)).header["position"] for ws in (first, second)] == [1, 2]
            first.close()
            while unpack(second.recv(60)).header["position"] != 1:
                pass
            clients[0].close()
            while (hello := unpack(second.recv(60))).type != "hello":
                pass
            assert hello.header["session"] != session
            second.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
            assert unpack(second.recv(60)).type == "picture"
            assert server.studio.admission.active == 4
    finally:
        for client in clients:
            client.close()
    until(lambda: server.studio.admission.active == server.studio.admission.waiting == 0)


IDLE_S = 1.5
"""Longer than a busy machine holds a message up."""


def test_whoever_waits_in_the_queue_hears_so_and_is_not_idle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "QUEUE_S", 0.1)
    with running(limits=Limits(sessions=1, idle_s=IDLE_S)) as server, websocket(server) as inside:
        assert unpack(inside.recv(60)).type == "hello"
        with websocket(server) as waiting:
            began, heard = time.monotonic(), 0
            while (message := unpack(waiting.recv(60))).type == "queue":
                heard += 1
                if time.monotonic() - began < 1.5 * IDLE_S:  # as long as it asks for something, it keeps its place
                    inside.send(pack({"type": "draw", "id": heard, "prompt": "a cat"}))
                    assert unpack(inside.recv(60)).type == "picture"  # read: what is not holds up its end
            assert message.type == "hello"
            assert heard > 10
            admitted = time.monotonic()
            with pytest.raises(ConnectionClosed) as closed:
                waiting.recv(60)
            assert closed.value.rcvd.code == 4408
            assert time.monotonic() - admitted > 0.9 * IDLE_S, "its own time begins when it is admitted"


def test_sessions_of_others_that_come_and_go_push_no_pictures_out(server: Server):
    """An empty one leaves nothing, and one of few bytes takes the room of few."""
    with websocket(server) as ws:
        session = unpack(ws.recv(60)).header["session"]
        ws.send(pack({"type": "draw", "id": 7, "prompt": "a cat"}))
        assert unpack(ws.recv(60)).type == "picture"
    for number in range(3 * server.studio.limits.sessions):
        with websocket(server) as ws:
            assert unpack(ws.recv(60)).type == "hello"
            if number % 2:
                ws.send(pack({"type": "draw", "id": 1, "prompt": "a dog", "steps": 1}))
                assert unpack(ws.recv(60)).type == "picture"
        until(lambda: server.studio.admission.active == 0)
    assert httpx.get(f"{server.url}/v1/sessions/{session}/pictures/7").status_code == 200


def test_whoever_left_the_most_makes_room_first(server: Server):
    """Beyond the bound in bytes an address loses its own oldest; the one picture of somebody else stays."""
    studio = Studio(server.studio.worker, Limits(sessions=2, kept_bytes=3000), server.studio.access, server.studio.budget)

    def leaves(address: str, number: int) -> str:
        async def main() -> str:
            name, _ = studio.enter("", lambda: None, address)
            entry = HistoryEntry(np.zeros((10, 100, 3), np.uint8), PictureFacts(1, 0, ""))
            studio.open_session(name, lambda: None).history.put(number, entry)
            studio.leave(name)
            return name

        return asyncio.run(main())

    mine, *theirs = leaves("10.0.0.1", 0), *(leaves("10.0.0.2", n) for n in range(3))
    assert [studio.history(name) is not None for name in (mine, *theirs)] == [True, False, False, True]


def test_a_lost_session_comes_back_with_its_pictures(server: Server):
    with websocket(server) as ws:
        session = unpack(ws.recv(60)).header["session"]
        ws.send(pack({"type": "draw", "id": 5, "prompt": "a cat"}))
        assert unpack(ws.recv(60)).type == "picture"
    until(lambda: server.studio.admission.active == 0)
    with websocket(server, path=f"/v1/stream?resume={session}") as ws:
        assert unpack(ws.recv(60)).header["session"] == session
        fetched = httpx.get(f"{server.url}/v1/sessions/{session}/pictures/5")
        assert fetched.status_code == 200
        assert httpx.get(f"{server.url}/v1/sessions/{session}/pictures/6").status_code == 404
    with websocket(server, path="/v1/stream?resume=guessed") as ws:
        assert unpack(ws.recv(60)).header["session"] != "guessed"


def test_a_recording_is_signed_for_its_owner_alone(server: Server, tmp_path: Path):
    """Larger than any other body may be; what is no recording, no session's or not recorded here gets no signature."""
    film = b"\x1a\x45\xdf\xa3" + np.random.default_rng(0).bytes(server.studio.limits.message_bytes)
    with fewstep.connect(server.url) as studio:
        place = f"{server.url}/v1/sessions/{studio.hello['session']}/recordings"
        assert studio.hello["recordings"] is True
        answer = httpx.post(place, content=film, timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/c2pa")
        (tmp_path / "film.webm").write_bytes(film)
        (tmp_path / "film.c2pa").write_bytes(answer.content)
        verdict = verify(tmp_path / "film.webm")
        assert verdict.credentials.state == "trusted"
        assert verdict.credentials.facts == {"model": "tiny", "bundle_hash": server.studio.stamper.hash}
        assert "(bundle" in str(verdict)
        assert "steps" not in str(verdict)
        (tmp_path / "film.webm").write_bytes(film[:-1] + bytes([film[-1] ^ 1]))
        assert verify(tmp_path / "film.webm").credentials.state == "tampered"
        refused = httpx.post(place, content=encoded_photo())
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "recording")
    assert httpx.post(f"{server.url}/v1/sessions/guessed/recordings", content=film).status_code == 404
    for options in ({"names": ("studio.local",)}, {"signing": Signing(provenance=False)}):
        with running(limits=Limits(recording_bytes=1000), **options) as shared, fewstep.connect(shared.url) as studio:
            assert studio.hello["recordings"] is False
            place = f"{shared.url}/v1/sessions/{studio.hello['session']}/recordings"
            assert httpx.post(place, content=film[:1001]).status_code == 413
            refused = httpx.post(place, content=film[:1000])
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "recordings")


class Corner:
    """A watermark of somebody's own: the payload in the first pixel."""

    def embed(self, picture: np.ndarray, payload: int) -> np.ndarray:
        marked = picture.copy()
        marked[0, 0] = (payload & 255, payload >> 8 & 255, payload >> 16 & 255)
        return marked

    def detect(self, picture: np.ndarray, effort: str = "aligned") -> Any:
        raise AssertionError("a server only marks")


def test_a_watermark_and_a_certificate_of_ones_own(tmp_path: Path):
    own_identity(tmp_path / "office")
    chain, key = (tmp_path / "office" / "identity" / name for name in ("chain.pem", "key.pem"))
    with running(signing=Signing(f"{__name__}.Corner", certificate_chain=chain, private_key=key)) as server:
        payload = mark_payload(server.studio.stamper.hash)
        with fewstep.connect(server.url) as studio:
            picture = studio.draw("a cat", encoder="png")
            studio.download(picture, tmp_path / "a.png")
        for pixels in (picture.pixels, np.asarray(Image.open(tmp_path / "a.png"))):
            assert bytes(pixels[0, 0]) == payload.to_bytes(6, "little")[:3]
        assert np.array_equal(picture.pixels, np.asarray(Image.open(tmp_path / "a.png"))), "marked once"
        office = VerifyOptions(home=tmp_path / "office", effort="aligned")
        assert verify(tmp_path / "a.png", office).credentials.state == "trusted"
    for options, sentence in (
        ({"certificate_chain": chain}, "give both"),
        ({"certificate_chain": key, "private_key": chain}, "PEM"),
        ({"watermark": "pathlib.Path"}, "embed and detect"),
        ({"watermark": "nowhere.Mark"}, "dotted path"),
        ({"watermark": f"{__name__}.Corner", "watermark_key": key}, "takes no --watermark-key"),
        ({"watermark_key": tmp_path / "none"}, "can't read the watermark key"),
    ):
        with pytest.raises(ValueError, match=sentence), running(signing=Signing(**options)):
            pass


# single pictures


def test_a_single_picture_over_http(server: Server):
    answer = httpx.post(
        f"{server.url}/v1/pictures", json={"prompt": "a red heart", "seed": 7, "format": "webp"}, timeout=60
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    facts = json.loads(answer.headers["x-fewstep"])
    assert (facts["seed"], facts["steps"], facts["size"]) == (7, 4, SIZE)
    assert Image.open(io.BytesIO(answer.content)).size == (SIZE, SIZE)
    assert read_credentials(answer.content, "image/webp").state == "valid"


def test_a_single_picture_from_a_picture(server: Server):
    image = "data:image/png;base64," + base64.b64encode(encoded_photo()).decode()
    body = {"prompt": "a cat", "image": image, "mask": image, "strength": 0.5, "seed": 1}
    assert httpx.post(f"{server.url}/v1/pictures", json=body, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"prompt": "x" * 501}, 400, "prompt"),
        ({"prompt": "nsfw"}, 400, "refused"),
        ({"steps": 3}, 400, "steps"),
        ({"size": 48}, 400, "size"),
        ({"image": "%%%"}, 400, "image"),
        ({"image": base64.b64encode(b"nonsense").decode()}, 400, "picture"),
        ({"mask": base64.b64encode(encoded_photo()).decode()}, 400, "mask"),
        ({"unknown": 1}, 422, "invalid"),
        ({"seed": "seven"}, 422, "invalid"),
        ({"seed": True}, 422, "invalid"),
        ({"steps": True}, 422, "invalid"),
        ({"blend": True, "blend_prompt": "a dog"}, 422, "invalid"),
        ({"strength": False}, 422, "invalid"),
    ],
)
def test_what_cannot_be_drawn_is_said(server: Server, body: dict, status: int, code: str):
    answer = httpx.post(f"{server.url}/v1/pictures", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert len(answer.json()["error"]["message"]) > 10


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/v1/nowhere", b"", 404, "GET /v1/nowhere is not offered here (not found): see /openapi.json"),
        ("GET", "/v1/pictures", b"", 405, "GET /v1/pictures is not offered here (method not allowed): see /openapi.json"),
        ("POST", "/v1/images/nowhere", b"{}", 404, "POST /v1/images/nowhere is not offered here (not found): see /openapi.json"),
        ("POST", "/v1/pictures", b"", 422, "the body must be a JSON object: send one with content-type application/json, "
                                           "as /openapi.json shows it"),
        ("POST", "/v1/pictures", b"[]", 422, "the body must be a JSON object: send one with content-type "
                                             "application/json, as /openapi.json shows it"),
        ("POST", "/v1/pictures", b"{", 422, "the body is not valid JSON (Expecting property name enclosed in double "
                                            "quotes): send an object, as /openapi.json shows it"),
        ("POST", "/v1/pictures", b'{"foo": 1}', 422, "there is no field 'foo': leave it out, or see /openapi.json for "
                                                     "those there are"),
        ("POST", "/v1/pictures", b'{"seed": "x"}', 422, "the field 'seed' should be a valid integer, unable to parse string "
                                                        "as an integer, and is 'x': give another"),
        ("POST", "/v1/images/generations", b"{}", 422, "the field 'prompt' is missing: give it"),
        ("GET", "/v1/sessions/x/pictures/y", b"", 422, "the field 'number' should be a valid integer, unable to parse string "
                                                       "as an integer, and is 'y': give another"),
    ],
)  # fmt: skip
def test_every_error_is_a_sentence_in_one_form(server: Server, method, path, body, status, sentence):
    answer = httpx.request(method, server.url + path, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, sentence)


@pytest.mark.parametrize(
    ("body", "headers", "status", "sentence"),
    [
        (gzip.compress(b"{}", mtime=0), {"content-encoding": "gzip"}, 415, "compressed (gzip): send it as it is"),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, {}, 400, "nested too deeply"),
        (b'{"prompt": "\xff"}', {}, 400, "not UTF-8 text (at byte 12)"),
        (b'{"seed": ' + b"9" * 5000 + b"}", {}, 400, "too many digits"),
        (b'{"size": ' + b"9" * 4000 + b"}", {}, 400, '"size" must be a whole number'),
        (b'{"prompt": "\\ud800"}', {}, 400, "control characters"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_told_what_is_wrong_with_it(server: Server, body, headers, status, sentence):
    answer = httpx.post(
        f"{server.url}/v1/pictures", content=body, headers={"content-type": "application/json"} | headers, timeout=60
    )
    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]


NINES = "9" * 5000


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/v1/models", {"Origin": "http://[::1"}, None, 403),
        ("GET", "/v1/models", {"Origin": b"\xff://"}, None, 403),
        ("GET", "/v1/models", {"Origin": "x" * 20_000}, None, 403),
        ("GET", "/v1/models", {"Host": "[::1"}, None, 403),
        ("GET", "/v1/models", {"Host": ""}, None, 403),
        ("GET", "/v1/models", {"Host": "evil.org@localhost"}, None, 403),
        ("GET", "/v1/models", {"Host": "localhost/evil"}, None, 403),
        ("GET", "/v1/models", {"Authorization": b"Bearer \xff\xfe"}, None, 200),
        ("GET", "/v1/models", {"X-Forwarded-For": f"[::1]:{NINES}"}, None, 200),
        ("GET", f"/v1/sessions/x/pictures/{NINES}", {}, None, 422),
        ("GET", "/v1/sessions/x/pictures/1?format=%ff", {}, None, 422),
        ("GET", "/%ff%00", {}, None, 404),
        ("GET", "/" + "x" * 20_000, {}, None, 404),
        ("POST", "/v1/images/generations", {}, {"prompt": "a cat", "size": f"{NINES}x{NINES}"}, 400),
        ("POST", "/v1/images/generations", {}, {"prompt": "a cat", "n": 10**400}, 400),
        ("POST", "/v1/images/generations", {}, {"prompt": "a cat", "n": True}, 422),
        ("POST", "/v1/images/generations", {}, {"prompt": "a cat", "output_compression": True}, 422),
    ],
    ids=range(17),
)  # fmt: skip
def test_odd_headers_paths_and_numbers_are_refused_and_break_nothing(
    server: Server, method, path, headers, body, status
):
    answer = httpx.request(method, server.url + path, headers=headers, json=body, timeout=60)
    assert answer.status_code == status
    assert len(answer.content) < 2000
    if status != 200:
        assert len(answer.json()["error"]["message"]) > 10


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Host": ""}, "names no host"),
        ({"Host": "studio.example"}, "is not known here"),
        ({"Origin": "http://[::1/x"}, "is no origin of a page"),
        ({"Origin": "http://example.org"}, "start it with --origins http://example.org"),
        ({"Origin": "null"}, "start it with --origins null"),
    ],
)
def test_advice_that_is_given_can_be_taken(server: Server, headers: dict, said: str):
    """What is no origin could not be given to ``--origins`` either, and "None" is no host's name."""
    answer = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=60)
    assert answer.status_code == 403
    assert said in answer.json()["error"]["message"]


def test_head_is_get_without_its_body(server: Server):
    for path in (
        "/",
        "/web/studio.css",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/tiny",
        "/openapi.json",
        "/nowhere",
    ):
        head, get = (httpx.request(method, server.url + path) for method in ("HEAD", "GET"))
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert int(head.headers["content-length"]) > 0
        assert head.headers["content-type"] == get.headers["content-type"]


def test_addresses_are_made_from_names_that_the_server_was_given():
    """A client may write any Host where a token is the key: it must not come back in a redirect or an address."""
    with running(token="secret", names=("studio.local",)) as server:
        own = server.url.removeprefix("http://")
        for host, named in (
            ("evil.org", own),
            ("a@b", own),
            ("studio.local:1", "studio.local:1"),
            ("localhost", "localhost"),
        ):
            headers = {"Host": host, "Authorization": "Bearer secret"}
            asked = {"prompt": "a cat", "steps": 1, "response_format": "url"}
            answer = httpx.post(f"{server.url}/v1/images/generations", json=asked, headers=headers, timeout=60)
            assert answer.json()["data"][0]["url"].split("/v1/")[0] in (f"http://{named}", "")
            moved = httpx.post(f"{server.url}/v1/images/generations/", json=asked, headers=headers)
            assert moved.headers["location"].split("/v1/")[0] in (f"http://{named}", "")


class FailsToSee:
    """A filter of somebody's own whose half for pictures is broken."""

    def prompt(self, text: str) -> str | None:
        return None

    def picture(self, pixels: np.ndarray) -> str | None:
        raise RuntimeError("no weights")


def test_a_broken_filter_of_pictures_shows_nothing():
    with running(safety=f"{__name__}.FailsToSee") as server:
        single = httpx.post(f"{server.url}/v1/pictures", json={"prompt": "a cat"}, timeout=60)
        with websocket(server) as ws:
            session = unpack(ws.recv(60)).header["session"]
            ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
            assert unpack(ws.recv(60)).type == "picture", "a stream is judged beside it"
            history = server.studio.history(session)
            until(lambda: not len(history))
            ws.send(pack({"type": "draw", "id": 2, "prompt": "a cat"}))
            stopped = unpack(ws.recv(60)).header
            history.put(1, HistoryEntry(np.zeros((SIZE, SIZE, 3), np.uint8), PictureFacts(1, 0, "a cat")))
            download = httpx.get(f"{server.url}/v1/sessions/{session}/pictures/1", timeout=60)
        assert (single.status_code, download.status_code) == (400, 400)
        for error in (single.json()["error"], download.json()["error"], stopped):
            assert (error["code"], "filter failed" in error["message"]) == ("refused", True)
        counted = server.studio.metrics.snapshot()
        assert counted["counts"]["refused"] == 3
        assert counted["stages_ms"]["safety_picture"][0] >= 0


def test_what_of_a_prompt_was_not_read_is_told_at_every_door(server: Server):
    long = "a red heart, a blue house"
    left = {"tokens": 11, "limit": 6, "dropped": "house"}  # it knows "house" by its letters only
    with fewstep.connect(server.url) as studio:
        told = dict(studio.draw(long).facts["unread"])
        assert told["prompt"].pop("message").startswith("the text encoder reads 6 tokens")
        assert told == {"prompt": left}
        both = studio.draw("a cat", blend_prompt=long, blend=0.5).facts["unread"]
        assert list(both) == ["blend_prompt"]
        assert "unread" not in studio.draw("a cat", blend_prompt=long).facts
    answer = httpx.post(f"{server.url}/v1/pictures", json={"prompt": long}, timeout=60)
    assert json.loads(answer.headers["x-fewstep"])["unread"]["prompt"]["dropped"] == "house"
    for prompt, read in ((long, "a red heart, a blue"), ("a cat", "a cat")):
        answer = httpx.post(f"{server.url}/v1/images/generations", json={"prompt": prompt}, timeout=60).json()
        assert answer["data"][0]["revised_prompt"] == read
        assert ("unread" in answer["data"][0]) == (prompt == long)


def test_openais_own_client(server: Server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none needed", max_retries=0)
    two = client.images.generate(model="gpt-image-1", prompt="a red heart", n=2, extra_body={"seed": 7})
    pictures = [base64.b64decode(entry.b64_json) for entry in two.data]
    assert len({*pictures}) == 2
    ours = httpx.post(f"{server.url}/v1/pictures", json={"prompt": "a red heart", "seed": 7}, timeout=60).content
    first, single = (np.asarray(Image.open(io.BytesIO(data))) for data in (pictures[0], ours))
    assert np.array_equal(first, single)
    assert read_credentials(pictures[0], "image/png").facts["seed"] == 7
    large = client.images.generate(prompt="a cat", size="256x256", response_format="url", output_format="jpeg")
    fetched = httpx.get(large.data[0].url)
    assert fetched.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(fetched.content)).size == (256, 256)
    assert [model.id for model in client.models.list()] == ["tiny"]
    for wrong in ({"size": "300by200"}, {"n": 11}, {"size": "99999x99999"}):
        with pytest.raises(openai.BadRequestError):
            client.images.generate(prompt="a cat", **wrong)
    with pytest.raises(openai.BadRequestError, match="word list"):
        client.images.generate(prompt="nsfw")


def test_health_metrics_and_description(server: Server):
    assert httpx.get(f"{server.url}/health").json() == {"state": "ready", "doing": ""}
    text = httpx.get(f"{server.url}/metrics").text
    for wanted in (
        "fewstep_drawn_total", "fewstep_overwritten_total", "fewstep_errors_total", "fewstep_fps", "fewstep_sessions",
        'fewstep_stage_milliseconds{quantile="0.99",stage="network"}',
    ):  # fmt: skip
        assert wanted in text
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/pictures", "/v1/images/generations", "/health", "/metrics"} <= set(paths)


# the access policy


def test_the_page_loads_nothing_from_elsewhere(server: Server):
    page = httpx.get(server.url + "/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def test_foreign_pages_and_names_are_refused(server: Server):
    for headers in ({"Origin": "https://evil.org"}, {"Host": "evil.org"}, {"Origin": "null"}):
        assert httpx.get(f"{server.url}/health", headers=headers).status_code == 403
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as there, pytest.raises(InvalidStatus) as refused:
        live("ws://evil.org/v1/stream", sock=there, subprotocols=[SUBPROTOCOL])
    assert refused.value.response.status_code == 403
    with websocket(
        server, origin="https://evil.org"
    ) as ws:  # told, since a browser hides a refused handshake from its page
        said = unpack(ws.recv(60)).header
        assert (said["type"], said["code"]) == ("error", "origin")
        assert "--origins https://evil.org" in said["message"]
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(60)
        assert closed.value.rcvd.code == 4403
    assert httpx.get(f"{server.url}/health", headers={"Origin": server.url}).status_code == 200


def test_pages_that_were_allowed_get_answers_that_their_browser_hands_on():
    friend = {"Origin": "https://friend.org"}
    with running(origins=("https://friend.org",), token="secret") as server:
        asked = httpx.options(f"{server.url}/v1/pictures", headers=friend | {"Access-Control-Request-Method": "POST"})
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        models = f"{server.url}/v1/models"
        answers = [
            asked,
            *(httpx.get(models, headers=friend | more) for more in ({}, {"Authorization": "Bearer secret"})),
        ]
        assert [answer.status_code for answer in answers] == [204, 401, 200], "an origin is no token"
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == "https://friend.org"
            assert answer.headers["vary"] == "Origin"
        for own in ({}, {"Origin": server.url}):
            assert "access-control-allow-origin" not in httpx.get(f"{server.url}/", headers=own).headers
        assert httpx.options(f"{server.url}/v1/pictures", headers={"Origin": "https://evil.org"}).status_code == 403


def test_an_older_or_newer_client_is_told_so(server: Server):
    """In a frame of its own version, and with a code: a browser shows its page nothing of a refused handshake."""
    for offered, version, sentence in (
        (["fewstep.v9"], 9, "speaks version 9 of the protocol, the server version 1: update the server"),
        (["fewstep.v0", "token.x"], 0, "speaks version 0 of the protocol, the server version 1: reload the page"),
        (None, 1, "offer the subprotocol fewstep.v1"),
    ):
        with websocket(server, subprotocols=offered) as ws:
            assert ws.subprotocol == (offered or [None])[0]
            frame = ws.recv(60)
            assert frame[2] == version
            said = unpack(frame[:2] + bytes([VERSION]) + frame[3:]).header
            assert (said["type"], said["code"]) == ("error", "version")
            assert sentence in said["message"]
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(60)
            assert closed.value.rcvd.code == 4426
    assert server.studio.admission.active == 0


def test_a_token_is_asked_for_everywhere_but_at_the_page():
    with running(token="secret") as server:
        for path in ("/metrics", "/v1/models", "/openapi.json"):
            assert httpx.get(server.url + path).status_code == 401
            assert httpx.get(server.url + path, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert httpx.get(server.url + "/").status_code == 200
        assert httpx.get(server.url + "/web/studio.css").status_code == 200
        with pytest.raises(ServerError, match="token"), fewstep.connect(server.url, token="wrong") as studio:
            studio.draw("a cat")
        with fewstep.connect(f"{server.url}#token=secret") as studio:
            assert studio.draw("a cat").seed == 0


# clients that misbehave


def test_malformed_messages_are_answered_and_end_after_twenty(server: Server):
    with websocket(server) as ws:
        unpack(ws.recv(60))
        broken = [
            b"",
            b"FS",
            b"XX" * 10,
            HEAD.pack(b"FS", 1, 0, 10**6),
            pack({"type": "dance"}),
            "text",
            pack({"type": "time"}),
        ]
        broken += [pack({"type": "draw", "steps": "many"}), pack({"type": "seen", "id": 1, "glass_ms": "soon"})]
        for frame in broken:
            ws.send(frame)
            answer = unpack(ws.recv(60))
            assert answer.type == "error"
            assert len(answer.header["message"]) > 10
        ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat"}))
        assert unpack(ws.recv(60)).type == "picture"
        with contextlib.suppress(ConnectionClosed):  # the end may be heard of at any of them
            for _ in range(20):
                ws.send(b"nonsense")
        with pytest.raises(ConnectionClosed) as closed:
            list(ws)
        assert closed.value.rcvd.code == 4400


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b'{"type":"draw","id":"\\ud800"}', "id"),
        (b'{"type":"draw","id":1e999}', "id"),
        (b'{"type":"nope","id":"' + b"x" * 16_300 + b'"}', "type"),
        (b'{"type":"' + b"x" * 16_350 + b'"}', "type"),
        (b'{"type":"' + b"\x7f" * 6000 + b'"}', "type"),
        (b'{"type":"\\udfff"}', "type"),
        (b'{"type":"draw","task":"\\udc00"}', "task"),
        (b'{"type":"draw","parts":[{"name":"\\ud800","mime":"image/png","bytes":0}]}', "parts"),
        (b'{"type":"draw","parts":[{"name":"' + b"n" * 16_200 + b'","mime":"image/png","bytes":9}]}', "truncated"),
        (b'{"type":"draw","task":"image","parts":[{"name":"image","mime":"\\ud800' + b"m" * 16_200 + b'","bytes":0}]}',
         "picture"),
        (b'{"type":"draw","task":"image","parts":[{"name":"image","mime":"image/png","bytes":0},'
         b'{"name":"image","mime":"image/png","bytes":0}]}', "parts"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_echoed_can_always_be_sent(server: Server, header: bytes, code: str):
    """The answer says what is wrong, however odd what it repeats is, and the session goes on."""
    with websocket(server) as ws:
        unpack(ws.recv(60))
        ws.send(HEAD.pack(b"FS", 1, 0, len(header)) + header)
        said = unpack(ws.recv(60)).header
        assert (said["type"], said["code"]) == ("error", code)
        assert said.get("id") in (None, 0)
        assert 10 < len(said["message"]) < 1000
        ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat", "steps": 1}))
        assert unpack(ws.recv(60)).type == "picture"


def test_many_refusals_in_a_long_life_end_nothing():
    now = [0.0]
    with running(clock=lambda: now[0]) as server, websocket(server) as ws:
        unpack(ws.recv(60))
        for number in range(3 * stream.PATIENCE):
            now[0] += stream.PATIENCE_S / stream.PATIENCE
            ws.send(pack({"type": "draw", "id": number, "steps": 3}))
            assert unpack(ws.recv(60)).header["code"] == "steps"
        with contextlib.suppress(ConnectionClosed):  # the end may be heard of at any of them
            for number in range(stream.PATIENCE + 1):
                ws.send(pack({"type": "draw", "id": number, "steps": 3}))
        with pytest.raises(ConnectionClosed) as closed:
            list(ws)
        assert closed.value.rcvd.code == 4400


def test_a_message_over_the_limit_closes_the_connection(server: Server):
    with websocket(server) as ws:
        unpack(ws.recv(60))
        with pytest.raises(ConnectionClosed) as closed:
            ws.send(bytes(server.studio.limits.message_bytes + 1)) or ws.recv(60)
        # while the rest of the message is still on its way, TCP's reset may overtake the frame that says why
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    answer = httpx.post(f"{server.url}/v1/pictures", content=bytes(server.studio.limits.message_bytes + 1))
    assert answer.status_code == 413


def test_a_flood_is_throttled_and_spoils_nothing(server: Server):
    before = server.studio.metrics.total("throttled")
    with websocket(server) as ws:
        unpack(ws.recv(60))
        for number in range(1, 500):
            ws.send(pack({"type": "seen", "id": number, "glass_ms": 1.0}))  # cheap: a flood also on a slow machine
        until(lambda: server.studio.metrics.total("throttled") > before)
        said = unpack(ws.recv(60)).header
        assert (said["type"], said["code"], said["id"]) == ("error", "too_many", None)
        assert f"more than {server.studio.limits.messages_per_s:g} messages in a second: the rest is dropped" in said["message"]
        with pytest.raises(TimeoutError):  # and once, however many are dropped
            ws.recv(0.2)
        with fewstep.connect(server.url) as studio:
            assert studio.draw("a dog").seed == 0


def test_a_client_that_never_reads_is_let_go_and_holds_no_memory(server: Server):
    """Its pictures pile up nowhere: the kernel's buffers fill, the outbox keeps one, and after ``send_s`` it is closed.

    Long before a ping that it does not answer would end it, after 20 + 20 s.
    """
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as sleeper:
        # before it connects: a window that shrinks under way has the kernel drop our own side's acknowledgements, too
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.settimeout(0.5)
        sleeper.connect((host, int(port)))
        key = base64.b64encode(bytes(16)).decode()
        sleeper.sendall(
            f"GET /v1/stream HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n".encode()
        )
        until(lambda: server.studio.admission.active == 1)
        message = pack({"type": "stats"})
        frame = bytes([0x82, 0x80 | len(message)]) + bytes(4) + message
        end = time.monotonic() + PATIENCE_S
        with contextlib.suppress(OSError):  # closed from the other side
            while server.studio.admission.active and time.monotonic() < end:
                sleeper.sendall(frame)
                time.sleep(0.002)
        assert server.studio.admission.active == 0


def test_a_client_of_a_byte_a_second_is_let_go(server: Server):
    host, port = server.url.removeprefix("http://").split(":")
    for first in (b"GET /health HT", b"POST /v1/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"):
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(first)
            slow.settimeout(PATIENCE_S)
            while slow.recv(4096):  # empty: the server has closed
                pass


def test_a_storm_of_reconnects_leaves_nothing_behind(server: Server):
    for _ in range(40):
        with websocket(server) as ws:
            ws.send(pack({"type": "draw", "id": 1, "prompt": "a cat", "steps": 1}))
    until(lambda: server.studio.admission.active == 0)
    assert server.studio.admission.waiting == 0
    assert server.studio.metrics.snapshot()["live_sessions"] == 0
    with fewstep.connect(server.url) as studio:
        assert studio.draw("a cat").seed == 0


def test_a_storm_is_told_when_to_come_again_and_disturbs_nobody_inside():
    limits = Limits(connections_per_s=0.01, connections_burst=6)
    now = [0.0]

    def restless(arrived: int) -> None:
        for _ in range(20):
            with pytest.raises(InvalidStatus) as refused:
                websocket(server).close()
            answer = refused.value.response
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "100")
            assert b"try again in 100 s" in answer.body
        assert httpx.get(f"{server.url}/health").headers["retry-after"] == "100"
        assert server.studio.metrics.total("turned_away") == arrived + 21

    with running(limits=limits, clock=lambda: now[0]) as server, websocket(server) as inside:
        unpack(inside.recv(60))
        for _ in range(5):
            websocket(server).close()
        for round in range(2):
            restless(21 * round)
            inside.send(pack({"type": "time", "sent_ms": 1.0}))
            while (said := unpack(inside.recv(60))).type != "time":
                pass
            assert said.header["sent_ms"] == 1.0
            now[0] += 100.0
            websocket(server).close()  # its time has come


def test_a_page_that_may_hears_why_it_has_to_wait():
    """The browser hands on no answer without these headers; what it asks before it shows a token is answered always."""
    friend = {"Origin": "https://friend.org"}
    limits = Limits(connections_per_s=0.01, connections_burst=1)
    with running(limits=limits, origins=("https://friend.org",), clock=lambda: 0.0) as server:
        models = f"{server.url}/v1/models"
        assert httpx.get(models, headers=friend).status_code == 200
        assert httpx.options(models, headers=friend).status_code == 204
        refused = httpx.get(models, headers=friend)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many")
        assert refused.headers["access-control-allow-origin"] == "https://friend.org"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        evil = httpx.get(models, headers={"Origin": "https://evil.org"})
        assert (evil.status_code, "access-control-allow-origin" in evil.headers) == (429, False)


def test_a_proxys_clients_are_told_apart_where_the_proxy_is_trusted_and_nowhere_else():
    limits = Limits(connections_per_s=0.01, connections_burst=2)

    def statuses(server: Server, *forwarded: str) -> list[int]:
        with httpx.Client() as history:  # as a proxy does, one connection for many
            return [history.get(f"{server.url}/health", headers={"X-Forwarded-For": f}).status_code for f in forwarded]

    def alone(server: Server, *forwarded: str) -> list[int]:
        return [status for f in forwarded for status in statuses(server, f)]

    def options(*proxies: str) -> dict[str, Any]:
        return {"limits": limits, "clock": lambda: 0.0, "trusted_proxies": proxies}

    with running(**options()) as server:  # nobody's word counts, not even this machine's
        assert alone(server, "192.0.2.1", "192.0.2.2", "192.0.2.3") == [200, 200, 429]
    with running(**options("10.0.0.0/8")) as server:  # we are no proxy of theirs
        assert alone(server, "192.0.2.1", "192.0.2.2", "10.0.0.1") == [200, 200, 429]
    with running(**options("127.0.0.0/8", "10.0.0.1")) as server:
        assert statuses(server, "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2") == [200, 200, 429, 200]
        forged = [f"198.51.100.{number}, 192.0.2.7, 10.0.0.1" for number in range(3)]
        assert alone(server, *forged) == [200, 200, 429], "only what the last stranger's proxy saw is believed"
        assert server.studio.signs_recordings is False


def test_a_server_that_stops_says_so_and_its_address_is_free_again():
    with running() as server:
        ws = websocket(server)
        unpack(ws.recv(60))
    with pytest.raises(ConnectionClosed) as closed:
        ws.recv(60)
    assert closed.value.rcvd.code == 1012
    with pytest.raises(ServerError, match="fewstep serve"):
        fewstep.connect(server.url, timeout_s=2).__enter__()


def test_a_port_that_is_taken_is_a_user_error(server: Server):
    from fewstep.server.app import listen

    with pytest.raises(ValueError, match="--port"):
        listen("127.0.0.1", int(server.url.rpartition(":")[2]))


def test_what_cannot_be_signed_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An identity needs a folder that can be written: a file is none."""
    home = tmp_path / "file"
    home.write_text("")
    monkeypatch.setenv("FEWSTEP_HOME", str(home))
    with pytest.raises(ValueError, match=r"cannot be signed here: .*--no-credentials") as raised:
        app.make_studio(app.ServeOptions(model="there is no such bundle"))  # before it is looked for
    assert str(raised.value).count("FEWSTEP_HOME") == 1, "the fix is said once"
    with running(credentials=False) as server:
        assert server.studio.stamper.state == {"watermark": True, "credentials": False}
        answer = httpx.post(f"{server.url}/v1/pictures", json={"prompt": "a cat"}, timeout=60)
        assert answer.status_code == 200
        assert b"c2pa" not in answer.content


def test_work_is_given_up_for_a_client_that_has_left():
    """Heard while the work goes on, for a request with a body and for one without; and not for one that waits."""

    async def ask(method: str, leaves: bool) -> list[str]:
        said, begun, left = [], asyncio.Event(), asyncio.Event()
        coming = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive() -> Any:
            if coming:
                return coming.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def work(scope: Any, receive: Any, send: Any) -> None:
            assert CLIENT_ADDRESS.get() == "10.0.0.7"
            if method == "POST":
                assert (await receive())["body"] == b"x"
            begun.set()
            try:
                await (asyncio.Event().wait() if leaves else asyncio.sleep(0))
            except asyncio.CancelledError:
                said.append("given up")
                raise
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b""})
            left.set()

        async def send(message: Any) -> None:
            said.append(message["type"])

        scope = {"type": "http", "method": method, "client": ("10.0.0.7", 1)}
        asked = asyncio.create_task(DisconnectMiddleware(work)(scope, receive, send))
        await begun.wait()
        if leaves:
            left.set()
        await asked
        return said

    for method in ("POST", "GET"):
        assert asyncio.run(ask(method, True)) == ["given up"]
        assert asyncio.run(ask(method, False)) == ["http.response.start", "http.response.body"]
