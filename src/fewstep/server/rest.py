"""Single pictures over HTTP: our own routes, and OpenAI's ``POST /v1/images/generations`` so that its clients just work."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import secrets
import time
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect

from ..provenance.verify import video_type
from .engine import Drawn
from .gate import error_body
from .marks import Facts
from .protocol import MIMES, Ask, Message, Part, ProtocolError
from .studio import Studio
from .wire import Pixels

Encoder = Literal["png", "jpeg", "webp"]
STATUS = {"busy": 503, "not_ready": 503, "recordings": 403, "refused": 400, "internal": 500}


class PictureRequest(BaseModel):
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

    def ask(self, studio: Studio) -> Ask:
        """Checked as a live request is."""
        parts = {n: part for n, text in (("image", self.image), ("mask", self.mask)) if (part := _part(n, text))}
        if self.mask is not None and self.image is None:
            raise ProtocolError("mask", "a mask says where an image is drawn anew, and there is none: send both")
        task = {0: "text", 1: "image", 2: "inpaint"}[len(parts)]
        header = self.model_dump(include={"prompt", "blend_prompt", "blend", "steps", "size", "strength"})
        header |= {"type": "draw", "task": task, "seed": secrets.randbelow(2**31) if self.seed is None else self.seed}
        return studio.read_ask(Message(header, parts))


class OpenAIRequest(BaseModel):
    """OpenAI's request. What a student has no use for (quality, style ...) is accepted and has no effect."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    prompt: str
    model: str | None = None
    n: int | None = 1
    size: str | None = "auto"
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Encoder | None = "png"
    seed: int | None = None
    """Not OpenAI's: the seed of the first picture; the others count up."""
    steps: int = 0
    """Not OpenAI's: network evaluations."""
    stream: bool | None = None
    """Answers in pieces are not given: a student has nothing to show before its picture."""


def _part(name: str, text: str | None) -> Part | None:
    """Base64, bare or as a data URL, as a part whose kind is told from its first bytes."""
    if text is None:
        return None
    try:
        data = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(name, f'"{name}" is not valid base64') from None
    kind = "image/jpeg" if data[:2] == b"\xff\xd8" else "image/webp" if data[8:12] == b"WEBP" else "image/png"
    return Part(name, kind, data)


def failed(error: ProtocolError) -> Response:
    """An error in the form that OpenAI's clients read."""
    status = STATUS.get(error.code, 400)
    headers = {"retry-after": "1"} if status == 503 else {}
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Response(error_body(str(error), error.code, kind), status, headers, "application/json")


def square(size: str | None, max_pixels: int) -> int:
    """The side of an OpenAI-style size, 0 for the model's own; ProtocolError for one that is no square or too large."""
    if size is None or size == "auto":
        return 0
    width, _, height = size.partition("x")
    if not (width.isdecimal() and width == height and 0 < int(width) ** 2 <= max_pixels):
        raise ProtocolError("size", f"cannot draw {size!r}: use auto, or a square such as 256x256 within the limit")
    return int(width)


def fitted(pixels: Pixels, side: int) -> Pixels:
    """Resized to a square; 0 leaves it as it is."""
    if not side or pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def routes(studio: Studio) -> APIRouter:
    """All of them."""
    router = APIRouter()
    signing = asyncio.Lock()

    async def file(ask: Ask, encoder: str, side: int, include_prompt: bool) -> tuple[bytes, dict[str, Any], Drawn]:
        drawn, header = await studio.single(ask)

        def made() -> bytes:
            return studio.marks.file(fitted(drawn.pixels, side), Facts.of(ask, drawn), encoder, include_prompt)

        return await asyncio.to_thread(made), header, drawn

    @router.post("/v1/pictures", response_class=Response)
    async def picture(request: PictureRequest) -> Response:
        """Draw one picture: the answer is the file, with its content credentials."""
        try:
            data, facts, _ = await file(request.ask(studio), request.format, 0, request.include_prompt)
        except ProtocolError as error:
            return failed(error)
        said = {key: facts[key] for key in ("seed", "steps", "size", "stages_ms", "marks", "unread") if key in facts}
        return Response(data, 200, {"x-fewstep": json.dumps(said)}, MIMES[request.format])

    @router.get("/v1/sessions/{session_id}/pictures/{number}", response_class=Response)
    async def kept(session_id: str, number: int, format: Encoder = "png", prompt: bool = False) -> Response:
        """Download a picture of a live session, with its content credentials; ``prompt`` writes the prompt into them."""
        pictures = studio.kept(session_id)
        found = pictures.get(number) if pictures else None
        if found is None:
            return failed404("this picture is no longer on the server: draw it again from its seed")
        try:
            await studio.judge(found.pixels)
        except ProtocolError as error:
            return failed(error)
        data = await asyncio.to_thread(studio.marks.file, found.pixels, found.facts, format, prompt)
        name = f"fewstep-{found.facts.seed}-{number}.{format}"
        return Response(data, 200, {"content-disposition": f'attachment; filename="{name}"'}, MIMES[format])

    @router.post("/v1/sessions/{session_id}/recordings", response_class=Response)
    async def recording(session_id: str, request: Request) -> Response:
        """The ``.c2pa`` sidecar of a recording of a live session: WebM or MP4 in, its content credentials out."""
        if studio.kept(session_id) is None:
            return failed404("this session is no longer on the server: record again")
        if not studio.signs_recordings:
            return failed(
                ProtocolError("recordings", "recordings are signed on the machine alone that the server runs on")
            )
        if signing.locked():
            return failed(ProtocolError("busy", "another recording is being signed: try again in a second"))
        async with signing:
            try:
                data = await request.body()
            except ClientDisconnect:
                return failed(ProtocolError("recording", "the recording did not come whole: send it again"))
            kind = video_type(data)
            if kind is None:
                return failed(ProtocolError("recording", "this is no recording: send a WebM or MP4 file"))
            return Response(await asyncio.to_thread(studio.marks.recording, data, kind), 200, {}, "application/c2pa")

    @router.post("/v1/images/generations")
    async def generations(request: OpenAIRequest, http: Request) -> Response:
        """OpenAI's images API: any ``model`` name is taken, and the one that is served draws."""
        try:
            return JSONResponse(await _generations(request, str(http.base_url)))
        except ProtocolError as error:
            return failed(error)

    async def _generations(request: OpenAIRequest, base: str) -> dict[str, Any]:
        n, most = 1 if request.n is None else request.n, studio.limits.pictures_per_request
        if request.stream:
            raise ProtocolError(
                "stream", "pictures are not streamed here: leave stream out, or draw live on /v1/stream"
            )
        if not 1 <= n <= most:
            raise ProtocolError("n", f"cannot draw {n} pictures at a time: use 1 to {most}")
        encoder, side = request.output_format or "png", square(request.size, studio.limits.picture_pixels)
        first = PictureRequest(prompt=request.prompt, seed=request.seed, steps=request.steps).ask(studio)
        listed = []
        for i in range(n):
            ask = Ask(0, prompt=first.prompt, seed=first.seed + i, steps=first.steps)
            data, facts, drawn = await file(ask, encoder, side, False)
            if request.response_format == "url":
                entry = {"url": f"{base}v1/files/{studio.shelf.put(data, MIMES[encoder])}"}
            else:
                entry = {"b64_json": base64.b64encode(data).decode()}
            left = drawn.unread.get("prompt")
            read = request.prompt if left is None else left.read
            entry |= {"revised_prompt": read, "seed": facts["seed"]}
            listed.append(entry | ({"unread": facts["unread"]} if "unread" in facts else {}))
        return {"created": int(time.time()), "data": listed, "output_format": encoder, "background": "opaque"}

    @router.get("/v1/files/{name}", response_class=Response)
    async def shelved(name: str) -> Response:
        """A file that a "url" answer named; it is here for ten minutes."""
        found = studio.shelf.get(name)
        if found is None:
            return failed404("this file is no longer here: ask for it again")
        return Response(found[0], 200, {}, found[1])

    def served() -> list[dict[str, Any]]:
        engine = studio.worker.engine
        names = [engine.card.name] if engine else []
        return [{"id": name, "object": "model", "created": 0, "owned_by": "fewstep"} for name in names]

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served, as OpenAI lists models."""
        return {"object": "list", "data": served()}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        """It by its name."""
        found = [entry for entry in served() if entry["id"] == name]
        return JSONResponse(found[0]) if found else failed404(f"there is no model {name!r} here: see /v1/models")

    return router


def failed404(sentence: str) -> Response:
    """Not here."""
    return Response(error_body(sentence, "not_found"), 404, {}, "application/json")
