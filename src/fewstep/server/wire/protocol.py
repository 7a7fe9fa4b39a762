"""The wire, version 1: every WebSocket message is one binary frame, a small JSON header and its payload.

::

    byte 0-1   "FS"
    byte 2     1, the version
    byte 3     0, reserved
    byte 4-7   length of the header, little endian
    ...        the header: JSON, UTF-8, an object with "type"
    ...        the parts that header["parts"] lists, one after another: [{"name", "mime", "bytes"}, ...]

A frame is understood whole or refused whole, with a sentence that says why. ``docs/protocol.md`` is the page for people.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
SUBPROTOCOL = f"fewstep.v{VERSION}"
OFFERED = re.compile(r"fewstep\.v(\d{1,2})")
TOKEN_PREFIX = "token."
MAGIC = b"FS"
HEAD = struct.Struct("<2sBBI")
MAX_HEADER_BYTES = 16_384
MAX_SENTENCE = 600
"""Longest sentence of an error, in characters. Many repeat what the client sent, which may be long."""
TASKS = ("text", "image", "inpaint")
ENCODERS = ("png", "webp", "jpeg")
MIMES = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
RAW = "pixels/rgba"
"""A part's mime for bare pixels: rows of four bytes; it then names its "width" and "height"."""


class ProtocolError(ValueError):
    """A message that cannot be understood or may not be sent. ``code`` is for programs, the sentence for people.

    The sentence can always be sent, whatever of a client's own words stands in it: it is bounded and valid UTF-8.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sendable(sentence))
        self.code = code


def sendable(sentence: str) -> str:
    """A sentence that fits into a header: without half characters, its middle left out where it is too long."""
    half = MAX_SENTENCE // 2
    short = sentence if len(sentence) <= MAX_SENTENCE else f"{sentence[:half]} ... {sentence[-half:]}"
    return short.encode("utf-8", "backslashreplace").decode()


def error_body(message: str, code: str, kind: str = "invalid_request_error") -> bytes:
    """An error in the form that OpenAI's clients read."""
    return json.dumps({"error": {"message": sendable(message), "type": kind, "param": None, "code": code}}).encode()


@dataclass(frozen=True)
class Part:
    """One payload of a frame."""

    name: str
    mime: str
    data: bytes | memoryview
    width: int = 0
    """Of bare pixels; 0 for an encoded picture, which says so itself."""
    height: int = 0


@dataclass(frozen=True)
class Message:
    """One frame, taken apart."""

    header: Mapping[str, Any]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """What it is about."""
        return str(self.header["type"])


def pack(header: Mapping[str, Any], parts: Sequence[Part] = (), version: int = VERSION) -> bytes:
    """Header and parts -> one frame. Another ``version`` than our own tells a client of that version why it is refused."""
    listed = []
    for part in parts:
        entry: dict[str, Any] = {"name": part.name, "mime": part.mime, "bytes": len(part.data)}
        if part.width:
            entry |= {"width": part.width, "height": part.height}
        listed.append(entry)
    body = dict(header) | ({"parts": listed} if listed else {})
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError("header_size", f"a header of {len(text)} bytes is too long: use at most {MAX_HEADER_BYTES}")
    return b"".join([HEAD.pack(MAGIC, version, 0, len(text)), text, *(part.data for part in parts)])


def unpack(frame: bytes) -> Message:
    """One frame -> header and parts. Raises ProtocolError for anything but a whole, well-formed frame."""
    if len(frame) < HEAD.size:
        raise ProtocolError("truncated", f"a frame of {len(frame)} bytes is too short: it begins with {HEAD.size}")
    magic, version, _, length = HEAD.unpack_from(frame)
    if magic != MAGIC:
        raise ProtocolError("magic", "this is not a fewstep frame: it must begin with the bytes FS")
    if version != VERSION:
        raise ProtocolError("version", f"version {version} of the protocol is not spoken here: use {VERSION}")
    if length > MAX_HEADER_BYTES or HEAD.size + length > len(frame):
        raise ProtocolError("header_size", f"a header of {length} bytes does not fit: at most {MAX_HEADER_BYTES}")
    header = _header(frame[HEAD.size : HEAD.size + length])
    return Message(header, _parts(header, memoryview(frame)[HEAD.size + length :]))


def _header(text: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ProtocolError("header", "the header is not valid JSON: send one UTF-8 JSON object") from None
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise ProtocolError("header", 'the header must be a JSON object with "type"')
    return header


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _parts(header: Mapping[str, Any], payload: memoryview) -> dict[str, Part]:
    listed = header.get("parts", [])
    if not isinstance(listed, list) or len(listed) > 4:
        raise ProtocolError("parts", '"parts" must be a list of at most four')
    parts: dict[str, Part] = {}
    start = 0
    for entry in listed:
        if not isinstance(entry, dict):
            raise ProtocolError("parts", 'each of "parts" must be an object with "name", "mime" and "bytes"')
        name, mime = entry.get("name"), entry.get("mime")
        sizes = [entry.get(key, 0) for key in ("bytes", "width", "height")]
        if not (isinstance(name, str) and isinstance(mime, str) and all(type(s) is int and s >= 0 for s in sizes)):
            raise ProtocolError("parts", 'each of "parts" needs "name" and "mime" (text) and "bytes" (a whole number)')
        n, width, height = sizes
        if name in parts:
            raise ProtocolError("parts", f"the part {name!r:.40} is listed twice: send one")
        if start + n > len(payload):
            raise ProtocolError("truncated", f"the part {name!r} should have {n} bytes, but the frame ends before")
        parts[name] = Part(name, mime, payload[start : start + n], width, height)
        start += n
    if start != len(payload):
        raise ProtocolError("truncated", f"{len(payload) - start} bytes follow the last part: list every part")
    return parts


@dataclass(frozen=True)
class DrawRequest:
    """A request for one picture. It is complete: nothing carries over from the request before."""

    id: int
    """Of the client's choice, rising; the answer repeats it."""
    task: str = "text"
    """text | image | inpaint."""
    prompt: str = ""
    blend_prompt: str = ""
    """A second prompt to mix in."""
    blend: float = 0.0
    """Its share, in [0, 1]."""
    seed: int = 0
    """The same seed keeps the same noise from frame to frame: no flicker."""
    strength: float = 0.5
    """How far a picture may be changed, in (0, 1]."""
    steps: int = 0
    """Pinned number of steps; 0 leaves it to the budget."""
    size: int = 0
    """Pinned size in pixels; 0 leaves it to the budget."""
    encoder: str = ""
    """Pinned encoder; empty leaves it to the budget."""
    target_ms: float = 0.0
    """End-to-end target; 0 takes the server's."""
    smoothing: float = 0.0
    """Share of the frame before that stays in this one, in [0, 0.95]."""
    sent_ms: float = 0.0
    """The client's clock; the answer repeats it."""
    refine: bool = False
    """Whether a second answer is wanted, with nothing shed, once nothing newer was asked for in a while."""
    image: Part | None = None
    mask: Part | None = None
    """White is drawn anew, black is kept."""

    @property
    def with_picture(self) -> bool:
        """Whether it brings a picture."""
        return self.image is not None

    @property
    def blended(self) -> bool:
        """Whether a second prompt has a share."""
        return bool(self.blend_prompt and self.blend)


def read_draw_request(
    message: Message, max_prompt: int = 500, steps: Sequence[int] = (), sizes: Sequence[int] = ()
) -> DrawRequest:
    """Read a "draw" message and check every value. ``steps`` and ``sizes`` may be pinned; empty ones are not known yet."""
    header = message.header
    task = _text(header, "task", "text", 16)
    if task not in TASKS:
        raise ProtocolError("task", f"unknown task {task!r}: use one of {', '.join(TASKS)}")
    encoder = _text(header, "encoder", "", 16)
    if encoder and encoder not in ENCODERS:
        raise ProtocolError("encoder", f"unknown encoder {encoder!r}: use one of {', '.join(ENCODERS)}")
    request = DrawRequest(
        id=_whole(header, "id", 0, 2**53),
        task=task,
        prompt=_text(header, "prompt", "", max_prompt),
        blend_prompt=_text(header, "blend_prompt", "", max_prompt),
        blend=_number(header, "blend", 0.0, 0.0, 1.0),
        seed=_whole(header, "seed", 0, 2**53),
        strength=_number(header, "strength", 0.5, 0.0, 1.0),
        steps=_whole(header, "steps", 0, 1000),
        size=_whole(header, "size", 0, 16_384),
        encoder=encoder,
        target_ms=_number(header, "target_ms", 0.0, 0.0, 3_600_000.0),
        smoothing=_number(header, "smoothing", 0.0, 0.0, 0.95),
        sent_ms=_number(header, "sent_ms", 0.0, 0.0, 1e15),
        refine=_flag(header, "refine"),
        image=message.parts.get("image"),
        mask=message.parts.get("mask"),
    )
    _check_parts(request, set(message.parts))
    check_pinned(request, steps, sizes)
    return request


def check_pinned(request: DrawRequest, steps: Sequence[int], sizes: Sequence[int]) -> None:
    """Raise ProtocolError for pinned steps or a pinned size that are not among these; of empty ones everything is."""
    if request.steps and steps and request.steps not in steps:
        raise ProtocolError(
            "steps", f"this model was trained for {_listed(steps)} steps, not {request.steps}: use one of those"
        )
    if request.size and sizes and request.size not in sizes:
        raise ProtocolError(
            "size", f"pictures are drawn at {_listed(sizes)} px here, not {request.size}: use one of those"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _check_parts(request: DrawRequest, names: set[str]) -> None:
    needed = {"text": set(), "image": {"image"}, "inpaint": {"image", "mask"}}[request.task]
    if names != needed:
        wanted = " and ".join(sorted(needed)) or "no parts"
        raise ProtocolError(
            "parts", f"the task {request.task!r} takes {wanted}, not {', '.join(sorted(names)) or 'none'}"
        )
    if request.image is not None and request.strength == 0:
        raise ProtocolError("strength", "a strength of 0 would change nothing: use more than 0")


def _text(header: Mapping[str, Any], name: str, default: str, longest: int) -> str:
    value = header.get(name, default)
    if not isinstance(value, str):
        raise ProtocolError(name, f'"{name}" must be text')
    if len(value) > longest:
        raise ProtocolError(name, f'"{name}" has {len(value)} characters: use at most {longest}')
    if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise ProtocolError(name, f'"{name}" holds control characters: leave them out')
    return value


def _number(header: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = header.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or math.isnan(value):
        raise ProtocolError(name, f'"{name}" must be a number from {low:g} to {high:g}')
    return float(value)


def _flag(header: Mapping[str, Any], name: str) -> bool:
    value = header.get(name, False)
    if not isinstance(value, bool):
        raise ProtocolError(name, f'"{name}" must be true or false')
    return value


def id_in(header: Mapping[str, Any]) -> int | None:
    """The id of a message, which its answer repeats; None if it has no valid one."""
    found = header.get("id")
    return found if type(found) is int and 0 <= found < 2**53 else None


def _whole(header: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = header.get(name, low)
    if type(value) is not int or not low <= value < high:
        raise ProtocolError(name, f'"{name}" must be a whole number from {low} to {high - 1}')
    return value


def version_in(offered: Sequence[str]) -> int | None:
    """The version of the wire that a client speaks: ours if it can, else the first that it offers; None where it offers none."""
    found = [int(match[1]) for one in offered if (match := OFFERED.fullmatch(one))]
    return VERSION if VERSION in found else next(iter(found), None)


def of_another_version(offered: Sequence[str]) -> str | None:
    """Why a client that offers these subprotocols is not understood here, as a sentence, or None."""
    version = version_in(offered)
    if version == VERSION:
        return None
    if version is None:
        return f"this client names no version of the protocol: offer the subprotocol {SUBPROTOCOL}"
    older = "reload the page, or update the client" if version < VERSION else "update the server"
    return f"this page or client speaks version {version} of the protocol, the server version {VERSION}: {older}"


def greeting(offered: Sequence[str]) -> str | None:
    """The subprotocol to accept a handshake with. A client of another version is accepted, too, to be told the reason: a
    browser fails a connection that accepts none of its subprotocols, and hides why from its page."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else next((o for o in offered if not o.startswith(TOKEN_PREFIX)), None)


def token_in(offered: Sequence[str]) -> str:
    """The access token among the offered subprotocols: a browser's WebSocket can send no other header."""
    return next((o.removeprefix(TOKEN_PREFIX) for o in offered if o.startswith(TOKEN_PREFIX)), "")
