"""Draw on a running server from Python, with or without ``await``; needs neither torch nor the model.

::

    with fewstep.connect("http://localhost:7860") as studio:
        picture = studio.draw("a red heart", seed=7)
        picture.save("heart.png")                        # as streamed: with the invisible mark
        studio.download(picture, "heart.png")            # with content credentials, too

    async with fewstep.connect("http://localhost:7860") as studio:
        async for picture in studio.stream(frames):      # frames: dicts of draw's arguments; newest wins
            ...
"""

from __future__ import annotations

import asyncio
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inference.session import Slot
from ..provenance import DEFAULTS, encode
from .protocol import MIMES, RAW, SUBPROTOCOL, TOKEN_PREFIX, Message, Part, pack, unpack

Pixels = NDArray[np.uint8]
Picturelike = Path | str | bytes | Image.Image | Pixels
LOST = "the connection to the server was lost: connect again"


class ServerError(ValueError):
    """The server refused something; ``code`` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Picture:
    """One answer."""

    data: bytes = field(repr=False)
    """The file as it came."""
    mime: str
    facts: Mapping[str, Any] = field(repr=False)
    """The answer's header: steps, size, backend, encoder, shed, stages_ms, marks ..."""
    round_trip_ms: float
    """From sending the request to having the answer."""

    @property
    def id(self) -> int:
        """Number of its request."""
        return int(self.facts["id"])

    @property
    def seed(self) -> int:
        """What it was drawn from."""
        return int(self.facts["seed"])

    @property
    def image(self) -> Image.Image:
        """Decoded."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")

    @property
    def pixels(self) -> Pixels:
        """Decoded, uint8 ``[H, W, 3]``."""
        return np.asarray(self.image)

    def save(self, path: Path | str) -> None:
        """Write it as it was streamed, with the invisible mark; encoded anew, at high quality, where the name asks for another
        format. Content credentials come with the client's `download`."""
        path = Path(path)
        kind = _format(path)
        path.write_bytes(self.data if MIMES[kind] == self.mime else encode(self.pixels, kind.upper(), DEFAULTS.quality))


def part(name: str, picture: Picturelike) -> Part:
    """Anything that is a picture -> a part of a message."""
    if isinstance(picture, str | Path):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        kind = "image/jpeg" if picture[:2] == b"\xff\xd8" else "image/webp" if picture[8:12] == b"WEBP" else "image/png"
        return Part(name, kind, picture)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return Part(name, RAW, image.convert("RGBA").tobytes(), image.width, image.height)


class Exchange:
    """Both clients' common half: makes and reads messages, waits for nothing."""

    def __init__(self) -> None:
        self.hello: Mapping[str, Any] = {}
        """What the server said about itself: model, steps, sizes, limits."""
        self.queue_position = 0
        """Place in the queue while the server is full; 0 inside."""
        self._number = 0
        self._sent_at: dict[int, float] = {}

    @property
    def asked(self) -> int:
        """Pictures asked for so far."""
        return self._number

    @property
    def ready(self) -> bool:
        """Whether the server's model is warm."""
        return self.hello.get("state") == "ready"

    def ask(
        self, prompt: str, image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> tuple[int, bytes]:
        """A draw message and its number. ``options`` are the protocol's: seed, steps, strength, blend, target_ms ..."""
        self._number += 1
        given = {"image": image, "mask": mask}
        parts = [part(name, picture) for name, picture in given.items() if picture is not None]
        task = ("text", "image", "inpaint")[len(parts)]
        header = {"type": "draw", "id": self._number, "task": task, "prompt": prompt, **options}
        self._sent_at[self._number] = time.perf_counter()
        while len(self._sent_at) > 256:
            del self._sent_at[next(iter(self._sent_at))]
        return self._number, pack(header, parts)

    def read(self, frame: bytes | str) -> Picture | ServerError | Message:
        """A picture, an error, or any other message (hello and queue are taken note of)."""
        message = unpack(frame if isinstance(frame, bytes) else frame.encode())
        if message.type == "hello":
            self.hello, self.queue_position = message.header, 0
            if message.header.get("state") == "failed":
                return ServerError("failed", str(message.header.get("doing")))
        elif message.type == "queue":
            self.queue_position = int(message.header["position"])
        elif message.type == "picture":
            sent_at = self._sent_at.pop(int(message.header["id"]), time.perf_counter())
            image = message.parts["image"]
            took_ms = 1000 * (time.perf_counter() - sent_at)
            return Picture(bytes(image.data), image.mime, message.header, took_ms)
        elif message.type == "error":
            return ServerError(str(message.header.get("code")), str(message.header.get("message")))
        return message

    def answers(self, message: Picture | ServerError | Message, number: int) -> bool:
        """Whether this settles request ``number``: its picture or a newer one's; an error always does."""
        return isinstance(message, ServerError) or (isinstance(message, Picture) and message.id >= number)


class Connect:
    """Where to connect to: ``with`` gives a `Client`, ``async with`` an `AsyncClient`."""

    def __init__(self, url: str, token: str = "", timeout_s: float = 120.0) -> None:
        base, _, fragment = url.partition("#")
        self.base = (base if "://" in base else f"http://{base}").rstrip("/")
        self.token = token or fragment.removeprefix("token=")
        self.timeout_s = timeout_s
        self._open: Client | AsyncClient | None = None

    @property
    def live(self) -> dict[str, Any]:
        """Arguments of websockets' connect."""
        offered = [SUBPROTOCOL] + ([TOKEN_PREFIX + self.token] if self.token else [])
        return {
            "uri": "ws" + self.base.removeprefix("http") + "/v1/stream",
            "subprotocols": offered,
            "compression": None,
            "max_size": 64 * 2**20,
            "open_timeout": self.timeout_s,
        }

    def file(self, session: str, picture: Picture, format: str, include_prompt: bool) -> bytes:
        """Fetch a picture with its content credentials."""
        query = f"format={format}&prompt={str(include_prompt).lower()}"
        request = urllib.request.Request(f"{self.base}/v1/sessions/{session}/pictures/{picture.id}?{query}")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            said = json.loads(error.read())["error"]
            raise ServerError(said["code"], said["message"]) from None

    def __enter__(self) -> Client:
        self._open = Client(self)
        return self._open

    def __exit__(self, *error: object) -> None:
        if isinstance(self._open, Client):
            self._open.close()

    async def __aenter__(self) -> AsyncClient:
        self._open = AsyncClient(self)
        await self._open.start()
        return self._open

    async def __aexit__(self, *error: object) -> None:
        if isinstance(self._open, AsyncClient):
            await self._open.close()


class Client(Exchange):
    """A live session, for programs that wait."""

    def __init__(self, to: Connect) -> None:
        super().__init__()
        from websockets.sync.client import connect

        self._to = to
        try:
            self._socket = connect(**to.live)
        except (OSError, TimeoutError) as error:
            raise ServerError(
                "unreachable", f"no server answers at {to.base} ({error}): start one: fewstep serve"
            ) from None
        self._until(lambda message: self.ready)

    def _until(self, enough: Any) -> Picture | Message:
        """Read on until ``enough(message)``; raises the first error that comes."""
        from websockets.exceptions import ConnectionClosed

        while True:
            try:
                message = self.read(self._socket.recv(self._to.timeout_s))
            except ConnectionClosed:
                raise ServerError("lost", LOST) from None
            except TimeoutError:
                raise ServerError("timeout", f"the server said nothing for {self._to.timeout_s:g} seconds") from None
            if isinstance(message, ServerError):
                raise message
            if enough(message):
                return message

    def draw(
        self, prompt: str = "", image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> Picture:
        """Draw one picture and wait for it."""
        number, frame = self.ask(prompt, image, mask, **options)
        self._socket.send(frame)
        picture = self._until(lambda message: self.answers(message, number))
        assert isinstance(picture, Picture)
        return picture

    def stream(self, asks: Iterable[Mapping[str, Any]]) -> Iterator[Picture]:
        """Draw for each of ``asks``, each as soon as the one before has come back."""
        for ask in asks:
            yield self.draw(**ask)

    def seen(self, picture: Picture, glass_ms: float) -> None:
        """Tell the server how long a picture took from what changed on the screen to the screen: its budget counts it."""
        self._socket.send(_seen(picture, glass_ms))

    def stats(self) -> Mapping[str, Any]:
        """The server's live numbers."""
        self._socket.send(pack({"type": "stats"}))
        message = self._until(lambda message: isinstance(message, Message) and message.type == "stats")
        assert isinstance(message, Message)
        return message.header

    def download(self, picture: Picture, path: Path | str, include_prompt: bool = False) -> None:
        """Save a picture of this session with its content credentials; the format follows from the name."""
        path = Path(path)
        path.write_bytes(self._to.file(self.hello["session"], picture, _format(path), include_prompt))

    def close(self) -> None:
        """End the session."""
        self._socket.close()


class AsyncClient(Exchange):
    """A live session, for programs that ``await``."""

    def __init__(self, to: Connect) -> None:
        super().__init__()
        self._to = to
        self._socket: Any = None

    async def start(self) -> None:
        """Connect, and wait in the queue and for the model if need be."""
        from websockets.asyncio.client import connect

        try:
            self._socket = await connect(**self._to.live)
        except (OSError, TimeoutError) as error:
            base = self._to.base
            raise ServerError(
                "unreachable", f"no server answers at {base} ({error}): start one: fewstep serve"
            ) from None
        while not self.ready:
            await self._next()

    async def _next(self) -> Picture | Message:
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(self._to.timeout_s):
                message = self.read(await self._socket.recv())
        except ConnectionClosed:
            raise ServerError("lost", LOST) from None
        except TimeoutError:
            raise ServerError("timeout", f"the server said nothing for {self._to.timeout_s:g} seconds") from None
        if isinstance(message, ServerError):
            raise message
        return message

    async def draw(
        self, prompt: str = "", image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> Picture:
        """Draw one picture and wait for it."""
        number, frame = self.ask(prompt, image, mask, **options)
        await self._socket.send(frame)
        while not self.answers(message := await self._next(), number):
            pass
        assert isinstance(message, Picture)
        return message

    async def stream(self, asks: AsyncIterable[Mapping[str, Any]], in_flight: int = 2) -> AsyncIterator[Picture]:
        """Draw the newest of ``asks`` again and again, and yield every picture as it comes; the last ask is always drawn.

        Two in flight keep the server busy. Meanwhile the newest ask waits here and a newer one takes its place, so that
        what is sent is never old, however slow server or network. Raises the first ServerError.
        """
        if in_flight < 1:
            raise ValueError(f"cannot stream with {in_flight} requests in flight: use 1 or more")
        newest: Slot[Mapping[str, Any]] = Slot()
        flying: list[int] = []
        sent = asyncio.Event()

        async def offer() -> None:
            while len(flying) < in_flight and (held := newest.take()) is not None:
                number, frame = self.ask(**held.value)
                flying.append(number)
                sent.set()
                await self._socket.send(frame)

        async def collect() -> None:
            async for ask in asks:
                newest.put(ask, 0.0)
                await offer()

        async def answer() -> Picture | Message:
            while not flying:  # nobody owes an answer: no silence is too long
                sent.clear()
                await sent.wait()
            return await self._next()

        collecting, answering = asyncio.create_task(collect()), asyncio.create_task(answer())
        try:
            while flying or newest.full or not collecting.done():
                waited = {answering} if collecting.done() else {answering, collecting}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if collecting.done():
                    collecting.result()
                if not answering.done():
                    continue
                message, answering = answering.result(), asyncio.create_task(answer())
                if isinstance(message, Picture):
                    flying[:] = [number for number in flying if number > message.id]
                    await offer()
                    yield message
        finally:
            for task in (collecting, answering):
                task.cancel()
            await asyncio.gather(collecting, answering, return_exceptions=True)

    async def seen(self, picture: Picture, glass_ms: float) -> None:
        """Tell the server how long a picture took from what changed on the screen to the screen: its budget counts it."""
        await self._socket.send(_seen(picture, glass_ms))

    async def stats(self) -> Mapping[str, Any]:
        """The server's live numbers."""
        await self._socket.send(pack({"type": "stats"}))
        while not (isinstance(message := await self._next(), Message) and message.type == "stats"):
            pass
        return message.header

    async def download(self, picture: Picture, path: Path | str, include_prompt: bool = False) -> None:
        """Save a picture of this session with its content credentials; the format follows from the name."""
        path = Path(path)
        session = self.hello["session"]
        path.write_bytes(await asyncio.to_thread(self._to.file, session, picture, _format(path), include_prompt))

    async def close(self) -> None:
        """End the session."""
        await self._socket.close()


def _seen(picture: Picture, glass_ms: float) -> bytes:
    return pack({"type": "seen", "id": picture.id, "glass_ms": glass_ms})


def _format(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    kind = {"jpg": "jpeg"}.get(suffix, suffix)
    if kind not in ("png", "jpeg", "webp"):
        raise ValueError(f"cannot save {path.name}: give a name that ends in .png, .jpg or .webp")
    return kind


def connect(url: str, token: str = "", timeout_s: float = 120.0) -> Connect:
    """Connect to a running server: ``with connect(url) as studio``, or ``async with``."""
    return Connect(url, token, timeout_s)
