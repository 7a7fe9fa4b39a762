"""Single pictures over HTTP: our own routes. OpenAI's stand in ``openai.py``."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from ...pixels import Pixels
from ...provenance.verify import video_type
from ..drawing.frame import Drawn
from ..drawing.provenance import PictureFacts
from ..state import Studio
from ..wire.protocol import MIMES, DrawRequest, Message, Part, ProtocolError, error_body

Encoder = Literal["png", "jpeg", "webp"]
STANDARD = str.maketrans("-_", "+/")
"""From base64's letters for addresses (RFC 4648, section 5) to the usual ones."""
STATUS = {"busy": 503, "not_ready": 503, "recordings": 403, "refused": 400, "internal": 500}


NUMBERS = (int, float, int | None, float | None)


class Body(BaseModel):
    """A request in JSON. true and false are no numbers, as nowhere on the wire: pydantic would take them for 1 and 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields.get(str(info.field_name))
        if isinstance(value, bool) and field is not None and field.annotation in NUMBERS:
            raise PydanticCustomError("number_type", "should be a number")
        return value


class PictureRequest(Body):
    """What to draw."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    prompt: str = ""
    """What the picture should show."""
    blend_prompt: str = ""
    """A second prompt to mix in."""
    blend: float = 0.0
    """Share of the second prompt, 0 to 1."""
    seed: int | None = None
    """The same seed draws the same picture; none draws a new one."""
    steps: int = 0
    """Network evaluations; 0 takes the most the model was trained for."""
    size: int = 0
    """Side in pixels, one of those that the server draws; 0 takes the best."""
    image: str | None = None
    """Start from this picture: PNG, JPEG or WebP in base64."""
    mask: str | None = None
    """Redraw only where this picture (base64) is white."""
    strength: float = 0.5
    """How far the picture may be changed, more than 0 and at most 1."""
    format: Encoder = "png"
    """File format of the answer."""
    include_prompt: bool = False
    """Write the prompt into the content credentials."""

    def draw_request(self, studio: Studio) -> DrawRequest:
        """Checked as a live request is."""
        parts = {n: part for n, text in (("image", self.image), ("mask", self.mask)) if (part := part_of_text(n, text))}
        if self.mask is not None and self.image is None:
            raise ProtocolError("mask", "a mask says where an image is drawn anew, and there is none: send both")
        task = {0: "text", 1: "image", 2: "inpaint"}[len(parts)]
        header = self.model_dump(include={"prompt", "blend_prompt", "blend", "steps", "size", "strength"})
        header |= {"type": "draw", "task": task, "seed": secrets.randbelow(2**31) if self.seed is None else self.seed}
        return studio.read_draw_request(Message(header, parts))


def part_of_text(name: str, text: str | None) -> Part | None:
    """Base64 (also in lines, with the letters for addresses, or without its padding), bare or as a data URL, as a part."""
    if text is None:
        return None
    bare = "".join((text.partition(",")[2] if text.startswith("data:") else text).split())
    bare = bare.translate(STANDARD).rstrip("=")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(name, f'"{name}" is not valid base64') from None
    return part_of(name, data)


def part_of(name: str, data: bytes) -> Part:
    """The bytes of a file as a part, whose kind is told from its first bytes."""
    kind = "image/jpeg" if data[:2] == b"\xff\xd8" else "image/webp" if data[8:12] == b"WEBP" else "image/png"
    return Part(name, kind, data)


def failed(error: ProtocolError) -> Response:
    """An error in the form that OpenAI's clients read."""
    status = STATUS.get(error.code, 400)
    headers = {"retry-after": "1"} if status == 503 else {}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Response(error_body(str(error), error.code, kind), status, headers, "application/json")


async def drawn_file(
    studio: Studio,
    request: DrawRequest,
    encoder: str,
    include_prompt: bool = False,
    finish: Callable[[Pixels], Pixels] = lambda pixels: pixels,
    quality: int | None = None,
    given: Part | None = None,
) -> tuple[bytes, dict[str, Any], Drawn]:
    """Draw one picture in turn with everybody else: its file with content credentials, what is said about it, and itself.

    ``finish`` is what becomes of the pixels before they are marked, beside the event loop; ``quality`` is a JPEG's or a
    WebP's. ``given`` is the file that drawing began from, whose own credentials go along; by default the request's picture.
    Raises ProtocolError.
    """
    drawn, header = await studio.single(request)
    given = given or request.image

    def made() -> bytes:
        pixels, facts = finish(drawn.pixels), PictureFacts.of(request, drawn.steps, drawn.strength)
        return studio.stamper.file(pixels, facts, encoder, include_prompt, quality, given)

    return await studio.made(made), header, drawn


class PictureRoutes:
    """What the routes do. FastAPI makes the texts of /openapi.json from these docstrings."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._signing = asyncio.Lock()

    async def draw_picture(self, request: PictureRequest) -> Response:
        """Draw one picture: the answer is the file, with its content credentials."""
        try:
            wanted = request.draw_request(self._studio)
            data, facts, _ = await drawn_file(self._studio, wanted, request.format, request.include_prompt)
        except ProtocolError as error:
            return failed(error)
        said = {key: facts[key] for key in ("seed", "steps", "size", "stages_ms", "marks", "unread") if key in facts}
        return Response(data, 200, {"x-fewstep": json.dumps(said)}, MIMES[request.format])

    async def download_picture(
        self, session_id: str, number: int, format: Encoder = "png", prompt: bool = False, side: int = 0
    ) -> Response:
        """Download a picture of a live session, with its content credentials; ``prompt`` writes the prompt into them.

        ``side`` enlarges it to so many pixels across, marked and signed at that size; its credentials and its name say so.
        """
        history = self._studio.history(session_id)
        entry = history.get(number) if history else None
        if entry is None:
            return failed404("this picture is no longer on the server: draw it again from its seed")
        height, drawn = entry.pixels.shape[:2]
        most = math.isqrt(self._studio.limits.picture_pixels * drawn // height)
        try:
            await self._studio.judge(entry.pixels)
            if side and not drawn <= side <= most:
                raise ProtocolError("side", f"cannot enlarge {drawn} pixels to {side}: use {drawn} to {most}, or none")
        except ProtocolError as error:
            return failed(error)

        def made() -> bytes:
            facts = replace(entry.facts, drawn_side=drawn) if side > drawn else entry.facts
            return self._studio.stamper.file(enlarged(entry.pixels, side), facts, format, prompt)

        data = await self._studio.made(made)
        size = f"-{drawn}px-enlarged-{side}" if side > drawn else ""
        name = f"fewstep-{entry.facts.seed}-{number}{size}.{format}"
        return Response(data, 200, {"content-disposition": f'attachment; filename="{name}"'}, MIMES[format])

    async def sign_recording(self, session_id: str, request: Request) -> Response:
        """The ``.c2pa`` sidecar of a recording of a live session: WebM or MP4 in, its content credentials out."""
        studio = self._studio
        if studio.history(session_id) is None:
            return failed404("this session is no longer on the server: record again")
        if not studio.signs_recordings:
            said = "recordings are signed on the machine alone that the server runs on"
            return failed(ProtocolError("recordings", said))
        if self._signing.locked():
            return failed(ProtocolError("busy", "another recording is being signed: try again in a second"))
        async with self._signing:
            try:
                data = await request.body()
            except ClientDisconnect:
                return failed(ProtocolError("recording", "the recording did not come whole: send it again"))
            kind = video_type(data)
            if kind is None:
                return failed(ProtocolError("recording", "this is no recording: send a WebM or MP4 file"))
            sidecar = await studio.made(partial(studio.stamper.recording, data, kind))
            return Response(sidecar, 200, {}, "application/c2pa")

    async def list_concepts(self) -> dict[str, Any]:
        """What the model knows by name, to choose from; none where its bundle brings no list."""
        engine = self._studio.worker.engine
        return {"concepts": engine.concepts.names if engine and engine.concepts else ()}

    async def download_file(self, name: str) -> Response:
        """A file that a "url" answer named; it is here for ten minutes."""
        found = self._studio.downloads.get(name)
        if found is None:
            return failed404("this file is no longer here: ask for it again")
        return Response(found[0], 200, {}, found[1])


def routes(studio: Studio) -> APIRouter:
    """The routes of single pictures, downloads and recordings."""
    router, pictures = APIRouter(), PictureRoutes(studio)
    router.get("/v1/concepts")(pictures.list_concepts)
    router.post("/v1/pictures", response_class=Response)(pictures.draw_picture)
    router.get("/v1/sessions/{session_id}/pictures/{number}", response_class=Response)(pictures.download_picture)
    router.post("/v1/sessions/{session_id}/recordings", response_class=Response)(pictures.sign_recording)
    router.get("/v1/files/{name}", response_class=Response)(pictures.download_file)
    return router


def failed404(sentence: str) -> Response:
    """Not here."""
    return Response(error_body(sentence, "not_found"), 404, {}, "application/json")


def enlarged(pixels: Pixels, width: int) -> Pixels:
    """So many pixels wide, in its own shape; 0 leaves it as it is."""
    high, wide = pixels.shape[:2]
    if width in (0, wide):
        return pixels
    size = (width, max(1, round(high * width / wide)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
