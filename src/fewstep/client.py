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
import contextlib
import difflib
import http.client
import io
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .pixels import Pixels
from .provenance import DEFAULTS, encode
from .server.sessions.scheduler import Slot
from .server.wire.protocol import (
    MIMES,
    RAW,
    SUBPROTOCOL,
    DrawRequest,
    Message,
    Part,
    ProtocolError,
    pack,
    read_draw_request,
    unpack,
)

__all__ = ["AsyncClient", "Client", "Connect", "Picture", "ServerError", "connect"]
Picturelike = Path | str | bytes | Image.Image | NDArray[Any]
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
"""How an address may begin -> how it does for a file; what is live has ws instead of http."""
TOKEN = re.compile(r"([!-~]([ -~]*[!-~])?)?")
"""What fits into a header, and comes out of it as it went in."""
OPTIONS = tuple(known.name for known in fields(DrawRequest) if known.name not in ("id", "task"))
"""What `draw` takes; its number is the client's own, and its task follows from the pictures."""
ENDS = {1009: "a message was too large", 1012: "the server stops"}
"""What a close without a reason means."""
QUEUE_S = 60.0
"""Silence in the queue after which nobody is there any more: a server repeats the place every few seconds."""


class ServerError(ValueError):
    """A request or the connection went wrong, on either side; ``code`` is for programs."""

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
    """Anything that is a picture -> a part of a message. Raises ServerError for what is none, or cannot be read."""
    try:
        if isinstance(picture, str | Path):
            picture = Path(picture).read_bytes()
        if isinstance(picture, bytes):
            return Part(name, _mime(picture), picture)
        image = picture if isinstance(picture, Image.Image) else _image(picture)
        return Part(name, RAW, image.convert("RGBA").tobytes(), image.width, image.height)
    except (OSError, ValueError) as error:
        taken = "a PNG, JPEG or WebP file, a PIL image, or uint8 pixels, height x width x 3 (or 4)"
        raise ServerError("picture", f"{name}: {error}: give {taken}") from None


def _mime(data: bytes) -> str:
    return "image/jpeg" if data[:2] == b"\xff\xd8" else "image/webp" if data[8:12] == b"WEBP" else "image/png"


def _image(pixels: NDArray[Any]) -> Image.Image:
    """Pixels, also grey ones of height x width, as uint8 or bool. Raises ValueError for any others."""
    shape, kind = np.shape(pixels), str(getattr(pixels, "dtype", type(pixels).__name__))
    kinds = {2: ("uint8", "bool"), 3: ("uint8",)}.get(len(shape), ())
    if not isinstance(pixels, np.ndarray) or kind not in kinds or 0 in shape or shape[2:] not in ((), (3,), (4,)):
        raise ValueError(f"{kind} of {' x '.join(map(str, shape)) or 'no size'} is no picture")
    return Image.fromarray(pixels)


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


class Exchange:
    """Both clients' common half: makes, checks and reads messages, waits for nothing. Whatever goes wrong is a ServerError."""

    def __init__(self, to: Connect) -> None:
        self.hello: Mapping[str, Any] = {}
        """What the server said about itself: model, steps, sizes, limits."""
        self.queue_position = 0
        """Place in the queue while the server is full; 0 inside."""
        self._to = to
        self._closed = False
        """By ourselves."""
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

    @property
    def silence_s(self) -> float:
        """How long the server may say nothing. How long an answer may take says nothing about the queue, where none is owed."""
        return max(self._to.timeout_s, QUEUE_S) if self.queue_position else self._to.timeout_s

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Around whatever makes, sends, awaits or reads a message: what goes wrong there comes out as a ServerError."""
        from websockets.exceptions import ConcurrencyError, ConnectionClosed

        try:
            yield
        except ProtocolError as error:
            raise ServerError(error.code, str(error)) from None
        except ConnectionClosed as closed:
            if self._closed:
                raise ServerError("closed", "this session is closed: connect again") from None
            end = closed.rcvd or closed.sent
            why = end.reason or ENDS.get(end.code, f"code {end.code}") if end else "without a word"
            raise ServerError("lost", f"the connection to the server was lost ({why}): connect again") from None
        except ConcurrencyError:
            several = "wait for it, or connect once more for what is drawn at the same time"
            raise ServerError("busy", f"this session waits for another answer already: {several}") from None
        except TimeoutError:
            longer = "look at its log, or connect with a larger timeout_s"
            raise ServerError("timeout", f"the server said nothing for {self.silence_s:g} seconds: {longer}") from None

    def message(self, kind: str, parts: Mapping[str, Part] | None = None, **values: Any) -> bytes:
        """A frame that this server takes. Raises ServerError for one that it would not."""
        header = {"type": kind} | {name: _plain(value) for name, value in values.items()}
        asked = Message(header, parts or {})
        with self._told():
            if kind == "draw":
                model, limits = self.hello.get("model", {}), self.hello["limits"]
                read_draw_request(
                    asked, limits["prompt_characters"], model.get("steps", ()), self.hello.get("sizes", ())
                )
            frame = pack(header, list(asked.parts.values()))
        most = self.hello["limits"]["message_bytes"]
        if len(frame) > most:
            smaller = "send a smaller picture, or the file of a PNG or JPEG instead of pixels"
            raise ServerError("too_large", f"this request has {len(frame)} bytes, the server takes {most}: {smaller}")
        return frame

    def ask(
        self, prompt: str = "", image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> tuple[int, bytes]:
        """A draw message and its number. ``options`` are the protocol's: seed, steps, strength, blend, target_ms ..."""
        for name in options:
            if name not in OPTIONS:
                nearest = difflib.get_close_matches(name, OPTIONS, 1, 0.0)[0]
                known = f"did you mean {nearest}? There are {', '.join(OPTIONS)}"
                raise ServerError("option", f"draw has no option {name!r}: {known}")
        given = {"image": image, "mask": mask}
        parts = {name: part(name, picture) for name, picture in given.items() if picture is not None}
        task = ("text", "image", "inpaint")[len(parts)]
        number = self._number + 1
        frame = self.message("draw", parts, id=number, task=task, prompt=prompt, **options)
        self._number = number
        self._sent_at[number] = time.perf_counter()
        while len(self._sent_at) > 256:
            del self._sent_at[next(iter(self._sent_at))]
        return number, frame

    def glass(self, picture: Picture, glass_ms: float | np.number[Any]) -> bytes:
        """A message of how long a picture took to the screen. Raises ServerError for what is no number of milliseconds."""
        glass_ms = _plain(glass_ms)
        if isinstance(glass_ms, bool) or not isinstance(glass_ms, int | float) or not abs(glass_ms) < 1e15:
            raise ServerError("number", f"glass_ms must be a number of milliseconds, not {glass_ms!r}")
        return self.message("seen", id=picture.id, glass_ms=glass_ms)

    def read(self, frame: bytes | str) -> Picture | Message:
        """A picture, or any other message (hello and queue are taken note of). Raises ServerError for an error."""
        with self._told():
            message = unpack(frame if isinstance(frame, bytes) else frame.encode())
        if message.type == "hello":
            self.hello, self.queue_position = message.header, 0
            if message.header.get("state") == "failed":
                raise ServerError("failed", str(message.header.get("doing")))
        elif message.type == "queue":
            self.queue_position = int(message.header["position"])
        elif message.type == "picture":
            sent_at = self._sent_at.pop(int(message.header["id"]), time.perf_counter())
            image = message.parts["image"]
            took_ms = 1000 * (time.perf_counter() - sent_at)
            return Picture(bytes(image.data), image.mime, message.header, took_ms)
        elif message.type == "error":
            raise ServerError(str(message.header.get("code")), str(message.header.get("message")))
        return message

    def answers(self, message: Picture | Message, number: int) -> bool:
        """Whether this settles request ``number``: its picture or a newer one's."""
        return isinstance(message, Picture) and message.id >= number


class Connect:
    """Where to connect to: ``with`` gives a `Client`, ``async with`` an `AsyncClient`.

    ``timeout_s``, more than 0, is how long the server may say nothing while an answer is owed; the queue may last for ever.
    Raises ServerError for a time that is not, for what is no address, and for a token that cannot be sent.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = 120.0) -> None:
        address, _, fragment = url.strip().partition("#")
        self.base = _base(address)
        self.token = token or fragment.removeprefix("token=")
        if not TOKEN.fullmatch(self.token):
            raise ServerError("token", "only plain ASCII can be sent as a token: start the server with --token auto")
        if not timeout_s > 0:
            raise ServerError("timeout", f"timeout_s must be more than 0 seconds, not {timeout_s:g}")
        self.timeout_s = timeout_s
        self._open: Client | AsyncClient | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every request shows."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def live(self) -> dict[str, Any]:
        """Arguments of websockets' connect."""
        return {
            "uri": "ws" + self.base.removeprefix("http") + "/v1/stream",
            "subprotocols": [SUBPROTOCOL],
            "additional_headers": self.headers,
            "compression": None,
            "max_size": 64 * 2**20,
            "open_timeout": self.timeout_s,
        }

    @contextlib.contextmanager
    def reaching(self) -> Iterator[None]:
        """Around whatever opens a connection: what goes wrong there comes out as a ServerError."""
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
        except ImportError:  # not "fewstep[client]", which brings torch to whoever left it out
            raise ServerError("unreachable", "the client needs websockets: pip install websockets") from None
        try:
            yield
        except InvalidStatus as refused:
            raise self._refusal(refused.response.status_code, refused.response.body or b"") from None
        except urllib.error.HTTPError as refused:
            raise self._refusal(refused.code, refused.read()) from None
        except (OSError, EOFError, UnicodeError, http.client.HTTPException, WebSocketException) as error:
            nobody = f"no server answers at {self.base} ({error})"
            raise ServerError("unreachable", f"{nobody}: start one: fewstep serve") from None

    def _refusal(self, status: int, body: bytes | bytearray) -> ServerError:
        """What an HTTP error means: our servers say so themselves; of anybody else's answer, its status and text."""
        try:
            said = json.loads(body)["error"]
            return ServerError(str(said["code"]), str(said["message"]))
        except (ValueError, LookupError, TypeError):
            text = body.decode(errors="replace").strip()
            said = f"HTTP {status}" + (f", {text}" if text and len(text) < 200 and "<" not in text else "")
            fix = "try again in a moment" if status >= 500 else "use the address that the server printed"
            return ServerError("unreachable", f"no studio answers at {self.base} ({said}): {fix}")

    def file(self, session: str, picture: Picture, format: str, include_prompt: bool) -> bytes:
        """Fetch a picture with its content credentials."""
        query = f"format={format}&prompt={str(include_prompt).lower()}"
        place = f"{self.base}/v1/sessions/{session}/pictures/{picture.id}?{query}"
        with self.reaching():
            request = urllib.request.Request(place, headers=self.headers)
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return bytes(response.read())

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
        super().__init__(to)
        from websockets.sync.client import connect

        with to.reaching():
            self._socket = connect(**to.live)
        try:
            self._until(lambda message: self.ready)
        except BaseException:
            self.close()
            raise

    def _send(self, frame: bytes) -> None:
        with self._told():
            self._socket.send(frame)

    def _until(self, enough: Any) -> Picture | Message:
        """Read on until ``enough(message)``; raises the first error that comes."""
        while True:
            with self._told():
                frame = self._socket.recv(self.silence_s)
            if enough(message := self.read(frame)):
                return message

    def draw(
        self, prompt: str = "", image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> Picture:
        """Draw one picture and wait for it."""
        number, frame = self.ask(prompt, image, mask, **options)
        self._send(frame)
        picture = self._until(lambda message: self.answers(message, number))
        assert isinstance(picture, Picture)
        return picture

    def stream(self, asks: Iterable[Mapping[str, Any]]) -> Iterator[Picture]:
        """Draw for each of ``asks``, each as soon as the one before has come back."""
        for ask in asks:
            yield self.draw(**ask)

    def seen(self, picture: Picture, glass_ms: float | np.number[Any]) -> None:
        """Tell the server how long a picture took from what changed on the screen to the screen: its budget counts it."""
        self._send(self.glass(picture, glass_ms))

    def stats(self) -> Mapping[str, Any]:
        """The server's live numbers."""
        self._send(self.message("stats"))
        message = self._until(lambda message: isinstance(message, Message) and message.type == "stats")
        assert isinstance(message, Message)
        return message.header

    def download(self, picture: Picture, path: Path | str, include_prompt: bool = False) -> None:
        """Save a picture of this session with its content credentials; the format follows from the name."""
        path = Path(path)
        path.write_bytes(self._to.file(self.hello["session"], picture, _format(path), include_prompt))

    def close(self) -> None:
        """End the session."""
        self._closed = True
        self._socket.close()


class AsyncClient(Exchange):
    """A live session, for programs that ``await``."""

    def __init__(self, to: Connect) -> None:
        super().__init__(to)
        self._socket: Any = None

    async def start(self) -> None:
        """Connect, and wait in the queue and for the model if need be."""
        from websockets.asyncio.client import connect

        with self._to.reaching():
            self._socket = await connect(**self._to.live)
        try:
            while not self.ready:
                await self._next()
        except BaseException:
            await self.close()
            raise

    async def _send(self, frame: bytes) -> None:
        with self._told():
            await self._socket.send(frame)

    async def _next(self) -> Picture | Message:
        with self._told():
            async with asyncio.timeout(self.silence_s):
                frame = await self._socket.recv()
        return self.read(frame)

    async def draw(
        self, prompt: str = "", image: Picturelike | None = None, mask: Picturelike | None = None, **options: Any
    ) -> Picture:
        """Draw one picture and wait for it."""
        number, frame = self.ask(prompt, image, mask, **options)
        await self._send(frame)
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
                await self._send(frame)

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
            collecting.result()  # it may have gone wrong while the last picture was being looked at
        finally:
            for task in (collecting, answering):
                task.cancel()
            await asyncio.gather(collecting, answering, return_exceptions=True)

    async def seen(self, picture: Picture, glass_ms: float | np.number[Any]) -> None:
        """Tell the server how long a picture took from what changed on the screen to the screen: its budget counts it."""
        await self._send(self.glass(picture, glass_ms))

    async def stats(self) -> Mapping[str, Any]:
        """The server's live numbers."""
        await self._send(self.message("stats"))
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
        self._closed = True
        await self._socket.close()


def _base(address: str) -> str:
    """Scheme, host, port and path of a server, without a slash at the end. Raises ServerError for what is no address."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address if "://" in address else f"http://{address}")
        if parts.scheme in SCHEMES and parts.hostname and parts.port != 0:
            return f"{SCHEMES[parts.scheme]}://{parts.netloc}{parts.path}".rstrip("/")
    printed = "use the one that the server printed, such as http://localhost:7860"
    raise ServerError("address", f"{address!r} is no address of a server: {printed}")


def _format(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    kind = {"jpg": "jpeg"}.get(suffix, suffix)
    if kind not in ("png", "jpeg", "webp"):
        raise ValueError(f"cannot save {path.name}: give a name that ends in .png, .jpg or .webp")
    return kind


def connect(url: str, token: str = "", timeout_s: float = 120.0) -> Connect:
    """Connect to a running server: ``with connect(url) as studio``, or ``async with``."""
    return Connect(url, token, timeout_s)
