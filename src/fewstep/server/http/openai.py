"""OpenAI's images API, so that its clients just work: generations, edits, variations, and the model as they list it.

What a request asks for is honoured, or refused with a sentence. What OpenAI's own clients send by habit although it changes
nothing here (a style, a moderation level) is taken, and the answer's ``ignored`` says of each why it had no effect.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

from ...pixels import Pixels
from ..state import Studio
from ..wire.images import decode
from ..wire.protocol import MIMES, DrawRequest, Message, Part, ProtocolError, error_body
from .canvas import Canvas, Fit, hole, shaped
from .openai_requests import (
    EditRequest,
    GenerationRequest,
    ImagesRequest,
    VariationRequest,
    checked_fields,
    read_body,
    read_size,
    replace_seed,
)
from .pictures import drawn_file, failed, failed404

STRENGTH = 0.5
"""How far a whole picture is changed where nobody says how far."""
FAITHFUL = 0.25
"""The same where ``input_fidelity`` is high."""


@dataclass(frozen=True)
class Order:
    """A request made ready: what to ask of the worker, and what becomes of the pictures."""

    request: ImagesRequest
    kind: Literal["image_generation", "image_edit"]
    draw_request: DrawRequest
    """Of the first picture."""
    n: int
    size: tuple[int, int]
    """Width and height of the answer."""
    how: Fit | None
    """How it gets that shape, where that is known before anything is drawn."""
    canvas: Canvas | None = None
    given: Part | None = None
    """The file that is edited or varied."""

    def finish(self, pixels: Pixels) -> tuple[Pixels, Fit | None]:
        """A picture as it is sent, and how it got its shape."""
        if self.canvas is not None:
            return self.canvas.filled(pixels), self.how
        return shaped(pixels, *self.size, self.how)


class ImageService:
    """Takes orders and fills them."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def _draw_request(self, request: ImagesRequest, strength: float, parts: Mapping[str, Part], n: int) -> DrawRequest:
        """What is asked of the worker for the first picture; everything is pinned, so that its seed draws it again."""
        engine = self.studio.worker.engine
        if engine is None:
            worker = self.studio.worker
            raise ProtocolError("not_ready", f"the server is {worker.state}: {worker.doing or 'try again'}")
        card = engine.card
        scale = request.guidance_scale
        usual = (0.0, 1.0) if card.role == "student" else (card.guidance_scale,)
        if scale is not None and scale not in usual:
            raise ProtocolError(
                "guidance_scale",
                f"pictures are drawn with a guidance_scale of {' or '.join(f'{one:g}' for one in usual)} here, "
                f"not {scale:g}: leave it out",
            )
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        header = {
            "type": "draw", "task": {0: "text", 1: "image", 2: "inpaint"}[len(parts)], "prompt": request.prompt,
            "blend_prompt": request.blend_prompt, "blend": request.blend, "strength": strength, "size": engine.sizes[0],
            "steps": request.steps or request.num_inference_steps or _steps(request.quality, card.steps),
        }  # fmt: skip
        self.studio.read_draw_request(
            Message(header | {"seed": seed + n - 1}, parts)
        )  # the last one's seed is one, too
        return self.studio.read_draw_request(Message(header | {"seed": seed}, parts))

    def _own(self, size: int) -> tuple[int, int]:
        """Width and height of what the model draws at a size."""
        engine = self.studio.worker.engine
        assert engine is not None, "asked for after the worker is ready"
        return engine.shapes[size][::-1]

    def generation(self, request: GenerationRequest) -> Order:
        """From a prompt alone. Raises ProtocolError."""
        limits = self.studio.limits
        request.check(limits.pictures_per_request)
        size = read_size(request.size, limits.picture_pixels)
        n = request.n or 1
        draw_request = self._draw_request(request, 1.0, {}, n)
        return Order(request, "image_generation", draw_request, n, size or self._own(draw_request.size), request.fit)

    def edit(self, request: ImagesRequest, files: Mapping[str, list[Part]]) -> Order:
        """From a picture: without a hole all of it may change, with one only what lies in there. Raises ProtocolError."""
        limits = self.studio.limits
        request.check(limits.pictures_per_request)
        size = read_size(request.size, limits.picture_pixels)
        for name, parts in files.items():
            if len(parts) > 1:
                raise ProtocolError(name, f"one {name} is taken at a time, and {len(parts)} came: send one")
        if not files["image"]:
            raise ProtocolError("image", "the image is missing: send it as a file of the form")
        canvas, how = _canvas(files["image"][0], next(iter(files["mask"]), None), limits.picture_pixels), None
        if isinstance(request, VariationRequest):
            if files["mask"]:
                raise ProtocolError(
                    "mask", "a variation has no mask, all of it changes: use /v1/images/edits, or leave it out"
                )
            canvas = replace(canvas, open=None)
        if size is not None:
            canvas, how = canvas.shaped(*size, request.fit)
        faithful = isinstance(request, EditRequest) and request.input_fidelity == "high"
        usual = 1.0 if canvas.open is not None else FAITHFUL if faithful else STRENGTH
        strength = usual if request.strength is None else request.strength
        n = request.n or 1
        first = self._draw_request(request, strength, {}, n)  # before the picture is worked on
        draw_request = self._draw_request(
            replace_seed(request, first.seed), strength, canvas.parts(self._own(first.size)[::-1]), n
        )
        height, width = canvas.pixels.shape[:2]
        return Order(request, "image_edit", draw_request, n, (width, height), how, canvas, files["image"][0])

    async def edited(self, http: Request, kind: type[ImagesRequest]) -> Response:
        """Answer an edit or a variation, which comes as a form or as JSON."""
        try:
            fields, files = await read_body(http)
            order = await self.studio.read(partial(self.edit, checked_fields(fields, kind), files))
            return await self.answer(order, http)
        except ClientDisconnect:
            return failed(ProtocolError("form", "the form did not come whole: send it again"))
        except ProtocolError as error:
            return refused(error)

    async def answer(self, order: Order, http: Request) -> Response:
        """All pictures in one JSON object, or each as an event. Raises ProtocolError if the first cannot be drawn."""
        drawing = self.pictures(order, http, str(http.base_url))
        entry, said = await anext(drawing)  # what goes wrong with the first picture is an answer of its own
        if order.request.stream:
            return StreamingResponse(self._events(order, entry, said, drawing), media_type="text/event-stream")
        entries = [entry, *[entry async for entry, _ in drawing]]
        usage = self.usage(order, len(entries))
        return JSONResponse({"created": int(time.time()), "data": entries, "usage": usage} | said)

    async def _events(
        self, order: Order, entry: dict[str, Any], said: dict[str, Any],
        drawing: AsyncIterator[tuple[dict[str, Any], dict[str, Any]]],
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """Server-sent events: every picture as soon as it is there, or why it could not be drawn."""
        head = {"type": f"{order.kind}.completed", "usage": self.usage(order, 1)}
        try:
            yield _event(head | {"created_at": int(time.time())} | said | entry)
            async for entry, said in drawing:
                yield _event(head | {"created_at": int(time.time())} | said | entry)
        except ProtocolError as error:
            yield b"event: error\ndata: " + error_body(str(error), error.code) + b"\n\n"

    def models(self) -> list[dict[str, Any]]:
        """The model that is served, in OpenAI's words; empty before it is ready."""
        engine = self.studio.worker.engine
        names = [engine.card.name] if engine else []
        return [{"id": name, "object": "model", "created": 0, "owned_by": "fewstep"} for name in names]

    async def pictures(
        self, order: Order, http: Request, base: str
    ) -> AsyncIterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Draw in turn with everybody else: of every picture its entry, and what the whole answer says. Raises ProtocolError."""
        request, studio = order.request, self.studio
        for i in range(order.n):
            if i and await http.is_disconnected():
                return
            draw_request = replace(order.draw_request, seed=order.draw_request.seed + i)
            hows: list[Fit | None] = []

            def finish(pixels: Pixels, hows: list[Fit | None] = hows) -> Pixels:
                made, how = order.finish(pixels)
                hows.append(how)
                return made

            data, facts, drawn = await drawn_file(
                studio,
                draw_request,
                request.encoder,
                request.include_prompt,
                finish,
                request.output_compression,
                order.given,
            )
            if request.response_format == "url":
                entry = {"url": f"{base}v1/files/{studio.downloads.put(data, MIMES[request.encoder])}"}
            else:
                entry = {"b64_json": base64.b64encode(data).decode()}
            unread = drawn.unread.get("prompt")
            entry |= {"revised_prompt": request.prompt if unread is None else unread.read}
            entry |= {key: facts[key] for key in ("seed", "steps", "strength", "unread") if key in facts}
            yield entry, self.said(order, facts, hows[0])

    def usage(self, order: Order, n: int) -> dict[str, Any]:
        """What ``n`` pictures took, in OpenAI's words. A text token is one that was read of a prompt, an image token one place of
        the model's latents."""
        engine = self.studio.worker.engine
        assert engine is not None, "it has drawn"
        request = order.draw_request
        text = sum(
            engine.count_tokens(prompt)
            for prompt in (request.prompt, request.blended and request.blend_prompt)
            if prompt
        )
        places = engine.places(request.size)
        given, drawn = places * (order.canvas is not None), n * places
        return {
            "input_tokens": text + given,
            "input_tokens_details": {"text_tokens": text, "image_tokens": given},
            "output_tokens": drawn,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
            "total_tokens": text + given + drawn,
        }

    def said(self, order: Order, facts: Mapping[str, Any], how: Fit | None) -> dict[str, Any]:
        """What an answer says of all its pictures, in the order of OpenAI's schema, and beyond it."""
        engine = self.studio.worker.engine
        assert engine is not None, "it has drawn"
        request, steps = order.request, order.draw_request.steps
        fewest, most = min(engine.card.steps), max(engine.card.steps)
        width, height = order.size
        said: dict[str, Any] = {
            "background": "opaque",
            "output_format": request.encoder,
            "quality": "high" if steps == most else "low" if steps == fewest else "medium",
            "size": f"{width}x{height}",
            "model": engine.card.name,
        }
        if request.identifier:
            said["safety_identifier"] = request.identifier
        drawn = self._own(facts["size"])
        if (width, height) != drawn:
            said |= {"drawn": "{}x{}".format(*drawn), "fit": how or "none"}
            said["note"] = _note(order, said["drawn"], how)
        if ignored := request.ignored(engine.card.name):
            said["ignored"] = ignored
        return said


def _steps(quality: str | None, steps: tuple[int, ...]) -> int:
    """Network evaluations for a quality."""
    every = sorted(steps)
    return {"low": every[0], "medium": every[(len(every) - 1) // 2]}.get(quality or "auto", every[-1])


def _note(order: Order, drawn: str, how: Fit | None) -> str:
    """In words how the picture got its size."""
    width, height = order.size
    made = f"drawn at {drawn} and resized to {width}x{height}"
    if how == "crop":
        whose = "the given picture" if order.canvas is not None else "it"
        return f"{made}: {whose} was cropped to that shape; fit=pad keeps all of it"
    if how == "pad":
        return f"{made}: borders fill the rest; fit=crop fills it with the picture"
    return made


def _canvas(image: Part, mask: Part | None, max_pixels: int) -> Canvas:
    """A picture and where it is drawn anew: the mask's transparent hole, or else the picture's own. Raises ProtocolError."""
    pixels = decode(image, max_pixels)
    opened = hole(image if mask is None else mask, max_pixels)
    if mask is not None and opened.shape != pixels.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (opened.shape, pixels.shape)]
        raise ProtocolError("mask", f"the mask has {sizes[0]} pixels and the image {sizes[1]}: make them alike")
    if mask is not None and not opened.any():
        raise ProtocolError("mask", "the mask has no hole: make wholly transparent what is to be drawn anew")
    return Canvas(pixels, opened if opened.any() else None)


def routes(studio: Studio) -> APIRouter:
    """The routes of OpenAI's images API, and of its list of models."""
    router, service = APIRouter(), ImageService(studio)

    @router.post("/v1/images/generations")
    async def generations(request: GenerationRequest, http: Request) -> Response:
        """OpenAI's images API: pictures from a prompt."""
        try:
            return await service.answer(service.generation(request), http)
        except ProtocolError as error:
            return refused(error)

    @router.post("/v1/images/edits", openapi_extra=_form(EditRequest))
    async def edits(http: Request) -> Response:
        """OpenAI's images API: draw where a mask (or the image itself) is transparent, or change the whole image."""
        return await service.edited(http, EditRequest)

    @router.post("/v1/images/variations", openapi_extra=_form(VariationRequest))
    async def variations(http: Request) -> Response:
        """OpenAI's images API: pictures like a given one."""
        return await service.edited(http, VariationRequest)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served, as OpenAI lists models."""
        return {"object": "list", "data": service.models()}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        """It by its name."""
        found = [entry for entry in service.models() if entry["id"] == name]
        return JSONResponse(found[0]) if found else failed404(f"there is no model {name!r} here: see /v1/models")

    return router


def refused(error: ProtocolError) -> Response:
    """A field of the wrong kind is a 422 here, as it is in JSON."""
    if error.code == "invalid":
        return Response(error_body(str(error), "invalid"), 422, {}, "application/json")
    return failed(error)


def _event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode()


def _form(kind: type[ImagesRequest]) -> dict[str, Any]:
    """How a form is described in /openapi.json."""
    schema = kind.model_json_schema()
    file = {"type": "string", "format": "binary"}
    schema["properties"] |= {"image": file} | ({"mask": file} if kind is EditRequest else {})
    schema["required"] = [*schema.get("required", []), "image"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
