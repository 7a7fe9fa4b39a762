"""OpenAI's images API, so that its clients just work: ``POST /v1/images/generations``, and the model as they list it."""

from __future__ import annotations

import base64
import time
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict

from .protocol import MIMES, Ask, ProtocolError
from .rest import Encoder, PictureRequest, drawn_file, failed, failed404
from .studio import Studio
from .wire import Pixels


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
            data, facts, drawn = await drawn_file(studio, ask, encoder, False, lambda pixels: fitted(pixels, side))
            if request.response_format == "url":
                entry = {"url": f"{base}v1/files/{studio.shelf.put(data, MIMES[encoder])}"}
            else:
                entry = {"b64_json": base64.b64encode(data).decode()}
            left = drawn.unread.get("prompt")
            read = request.prompt if left is None else left.read
            entry |= {"revised_prompt": read, "seed": facts["seed"]}
            listed.append(entry | ({"unread": facts["unread"]} if "unread" in facts else {}))
        return {"created": int(time.time()), "data": listed, "output_format": encoder, "background": "opaque"}

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
