"""OpenAI's images API, so that its clients just work: generations, edits, variations, and the model as they list it.

What a request asks for is honoured, or refused with a sentence. What OpenAI's own clients send by habit although it changes
nothing here (a style, a moderation level) is taken, and the answer's ``ignored`` says of each why it had no effect.
"""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from ...pixels import Pixels
from ..state import Studio
from ..wire.images import decode
from ..wire.protocol import MIMES, DrawRequest, Message, Part, ProtocolError, error_body
from .canvas import Canvas, Fit, hole, shaped
from .forms import boundary_of, read_form
from .middleware import sentence, unreadable
from .pictures import Body, Encoder, drawn_file, failed, failed404, part_of, part_of_text

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
STRENGTH = 0.5
"""How far a whole picture is changed where nobody says how far."""
FAITHFUL = 0.25
"""The same where ``input_fidelity`` is high."""
OPENAI_ONLY = {
    "complexity": "nothing is planned here before it is drawn",
    "frame_count": "animations are not drawn here",
    "frame_duration_ms": "animations are not drawn here",
    "svg": "SVG is not drawn here",
    "markup": "drawings over a picture are not read: send a mask, or the picture with the drawing in it",
    "prompt_rewriter": "prompts are drawn as they are",
}
"""Parameters of OpenAI's that nothing here can stand in for, and why."""
T = TypeVar("T", bound="ImagesRequest")


class ImagesRequest(Body):
    """What generations, edits and variations share."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)
    prompt: str
    """What the picture should show."""
    model: str | None = None
    """Any name is taken; the model that is served draws, and the answer names it."""
    n: int | None = 1
    """How many pictures."""
    size: str | None = "auto"
    """auto, or WIDTHxHEIGHT. The model draws squares of its own size, then resized, and for oblong sizes cropped or padded."""
    quality: Literal["auto", "standard", "low", "medium", "high", "hd", "xhigh", "max"] | None = "auto"
    """low takes the fewest steps that the model was trained for, high and auto the most."""
    response_format: Literal["b64_json", "url"] | None = None
    """url gives an address that is good for ten minutes."""
    output_format: Encoder | None = "png"
    """File format."""
    output_compression: int | None = Field(None, ge=0, le=100)
    """Quality of JPEG and WebP files."""
    background: Literal["auto", "opaque", "transparent"] | None = "auto"
    """Pictures are opaque; transparent is refused."""
    moderation: Literal["auto", "low"] | None = "auto"
    """One filter serves everybody here."""
    style: str | None = None
    """Has no effect: the prompt says what the picture should look like."""
    user: str | None = None
    """Comes back as ``safety_identifier``, and has no other effect."""
    safety_identifier: str | None = None
    """Comes back, and has no other effect."""
    stream: bool | None = False
    """Send every picture as an event, as soon as it is there."""
    partial_images: int | None = Field(None, ge=0, le=3)
    """A student has nothing to show before its picture: the finished one comes at once."""
    seed: int | None = None
    """Not OpenAI's: the seed of the first picture; the others count up. The answer tells every picture's."""
    steps: int | None = None
    """Not OpenAI's: network evaluations, one of those that the model was trained for; goes before ``quality``."""
    num_inference_steps: int | None = None
    """The same by diffusers' name."""
    guidance_scale: float | None = None
    """diffusers' name. A student takes 0 or 1, which mean none; a teacher its own."""
    negative_prompt: str | None = None
    """diffusers' name. Refused unless empty: pictures are drawn without a second, negative pass."""
    strength: float | None = None
    """diffusers' name: how far a given picture may be changed, more than 0 and at most 1."""
    fit: Fit | None = None
    """Not OpenAI's: how an oblong size is made, crop or pad; without it pictures with a plain edge are padded, others cropped."""
    blend_prompt: str = ""
    """Not OpenAI's: a second prompt to mix in."""
    blend: float = 0.0
    """Not OpenAI's: share of the second prompt, 0 to 1."""
    include_prompt: bool = False
    """Not OpenAI's: write the prompt into the content credentials."""

    @property
    def identifier(self) -> str | None:
        """Of the client's own user."""
        return self.safety_identifier or self.user

    @property
    def encoder(self) -> Encoder:
        """File format."""
        return self.output_format or "png"

    def ignored(self, served: str) -> dict[str, str]:
        """What changed nothing, and why."""
        filtered = "one filter serves everybody here: see docs/safety.md"
        found = {
            "model": self.model not in (None, "", served)
            and f"{self.model!r:.60} is not served here: {served} drew this",
            "style": self.style and "there are no styles: say in the prompt what the picture should look like",
            "moderation": self.moderation == "low" and filtered,
            "user": self.identifier and "nobody is told apart by it",
            "partial_images": self.partial_images and "nothing is there to be shown before the picture",
            "output_compression": self.output_compression is not None and self.encoder == "png" and "a PNG is exact",
        }
        return {name: str(why) for name, why in found.items() if why}

    def check(self, most: int) -> None:
        """Raise ProtocolError for what cannot be honoured."""
        for name in self.model_extra or {}:
            raise ProtocolError("unknown_parameter", _unknown(name, type(self)))
        n = 1 if self.n is None else self.n
        if not 1 <= n <= most:
            raise ProtocolError("n", f"cannot draw {n} pictures at a time: use 1 to {most}")
        if self.background == "transparent":
            raise ProtocolError(
                "background", "pictures are opaque here: leave background out, or cut the subject out later"
            )
        if self.negative_prompt and self.negative_prompt.strip():
            raise ProtocolError(
                "negative_prompt",
                "a negative prompt needs a second, guided pass, which is not drawn here: say in the prompt what to show",
            )
        if self.steps and self.num_inference_steps and self.steps != self.num_inference_steps:
            raise ProtocolError("steps", "steps and num_inference_steps differ: give one of them")
        if self.stream and self.response_format == "url":
            raise ProtocolError("stream", "events hold their pictures: leave response_format out, or stream")


class GenerationRequest(ImagesRequest):
    """OpenAI's request for pictures from a prompt."""

    def check(self, most: int) -> None:
        """Raise ProtocolError for what cannot be honoured."""
        super().check(most)
        if self.strength is not None:
            raise ProtocolError(
                "strength", "no picture is given that could be changed: use /v1/images/edits, or leave it out"
            )


class EditRequest(ImagesRequest):
    """OpenAI's request to draw in a given picture, beside its files."""

    input_fidelity: Literal["high", "low"] | None = None
    """How near to the picture: high is a strength of .25, low one of .5."""


class VariationRequest(ImagesRequest):
    """OpenAI's request for pictures like a given one, beside its file."""

    prompt: str = ""
    """Not OpenAI's: what it should show."""


def _unknown(name: str, kind: type[ImagesRequest]) -> str:
    if name in OPENAI_ONLY:
        return f"{name} has no meaning here, since {OPENAI_ONLY[name]}: leave it out"
    near = difflib.get_close_matches(name, kind.model_fields, 1)
    return f"there is no parameter {name!r:.60} here: " + (f"did you mean {near[0]!r}?" if near else "leave it out")


def read_size(size: str | None, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of an OpenAI-style size, None for auto. Raises ProtocolError for what is none, or is too large."""
    if size in (None, "", "auto"):
        return None
    sides = SIZE.fullmatch(str(size))
    if sides is None:
        raise ProtocolError("size", f"{size!r:.40} is no size: use auto, or WIDTHxHEIGHT such as 256x256")
    width, height = int(sides[1]), int(sides[2])
    if width * height > max_pixels:
        raise ProtocolError("size", f"{size} is over the limit of {max_pixels} pixels: use auto, or a smaller one")
    return width, height


def _fields(form: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return kind.model_validate(dict(form))
    except ValidationError as error:
        raise ProtocolError("invalid", sentence(error.errors()[0])) from None


def _reference(name: str, value: Any) -> list[Part]:
    """The pictures of one field of JSON: base64 or data URLs, bare, in a list, or as OpenAI's ``{"image_url": ...}``."""
    if isinstance(value, list):
        return [part for one in value for part in _reference(name, one)]
    if isinstance(value, dict):
        value = value.get("image_url")
    if not isinstance(value, str) or value.startswith(("http://", "https://")):
        raise ProtocolError(
            name, f'"{name}" must be the picture itself, as a file of a form, in base64 or as a data URL'
        )
    part = part_of_text(name, value)
    return [part] if part else []


async def _given(http: Request) -> tuple[dict[str, Any], dict[str, list[Part]]]:
    """The fields and the files of an edit or a variation, out of a form, or out of JSON."""
    kind = http.headers.get("content-type", "")
    boundary = boundary_of(kind)
    body = await http.body()
    fields: dict[str, Any] = {}
    files: dict[str, list[Part]] = {"image": [], "mask": []}
    if boundary is None:
        try:
            given = json.loads(body) if "json" in kind else None
        except json.JSONDecodeError as error:
            raise ProtocolError(
                "form", f"the body is not valid JSON ({error.msg}): send an object, or a form"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ProtocolError("form", unreadable(error, "")) from None
        if not isinstance(given, dict):
            raise ProtocolError(
                "form", "the body is no form: send multipart/form-data, as `curl -F image=@photo.png` does"
            )
        for name, value in given.items():
            file = {"images": "image"}.get(name, name)
            if file in files:
                files[file] += _reference(file, value)
            else:
                fields[name] = value
        return fields, files
    for name, value in await asyncio.to_thread(read_form, body, boundary):
        file = re.sub(r"\[\d*\]$", "", name)
        if file in files:
            files[file] += [part_of(file, value)] if isinstance(value, bytes) else _reference(file, value)
        elif isinstance(value, bytes):
            raise ProtocolError("form", f"{name!r:.40} is no file here: send image, and mask if need be")
        elif value != "":
            if name in fields:
                raise ProtocolError("form", f"the field {name!r:.40} came more than once: send it once")
            fields[name] = value
    return fields, files


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

    def generation(self, request: GenerationRequest) -> Order:
        """From a prompt alone. Raises ProtocolError."""
        limits = self.studio.limits
        request.check(limits.pictures_per_request)
        size = read_size(request.size, limits.picture_pixels)
        n = request.n or 1
        draw_request = self._draw_request(request, 1.0, {}, n)
        return Order(
            request, "image_generation", draw_request, n, size or (draw_request.size, draw_request.size), request.fit
        )

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
        draw_request = self._draw_request(replace_seed(request, first.seed), strength, canvas.parts(first.size), n)
        height, width = canvas.pixels.shape[:2]
        return Order(request, "image_edit", draw_request, n, (width, height), how, canvas, files["image"][0])

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
        drawn = facts["size"]
        if (width, height) != (drawn, drawn):
            said |= {"drawn": f"{drawn}x{drawn}", "fit": how or "none"}
            said["note"] = _note(order, drawn, how)
        if ignored := request.ignored(engine.card.name):
            said["ignored"] = ignored
        return said


def replace_seed(request: T, seed: int) -> T:
    """The same request with a seed."""
    return request.model_copy(update={"seed": seed})


def _steps(quality: str | None, steps: tuple[int, ...]) -> int:
    """Network evaluations for a quality."""
    every = sorted(steps)
    return {"low": every[0], "medium": every[(len(every) - 1) // 2]}.get(quality or "auto", every[-1])


def _note(order: Order, drawn: int, how: Fit | None) -> str:
    """In words how the picture got its size."""
    width, height = order.size
    made = f"drawn at {drawn}x{drawn} and resized to {width}x{height}"
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
    """All of them."""
    router = APIRouter()
    service = ImageService(studio)

    @router.post("/v1/images/generations")
    async def generations(request: GenerationRequest, http: Request) -> Response:
        """OpenAI's images API: pictures from a prompt."""
        try:
            return await answer(service.generation(request), http)
        except ProtocolError as error:
            return refused(error)

    @router.post("/v1/images/edits", openapi_extra=_form(EditRequest))
    async def edits(http: Request) -> Response:
        """OpenAI's images API: draw where a mask (or the image itself) is transparent, or change the whole image."""
        return await edited(http, EditRequest)

    @router.post("/v1/images/variations", openapi_extra=_form(VariationRequest))
    async def variations(http: Request) -> Response:
        """OpenAI's images API: pictures like a given one."""
        return await edited(http, VariationRequest)

    async def edited(http: Request, kind: type[ImagesRequest]) -> Response:
        try:
            fields, files = await _given(http)
            order = await studio.read(partial(service.edit, _fields(fields, kind), files))
            return await answer(order, http)
        except ClientDisconnect:
            return failed(ProtocolError("form", "the form did not come whole: send it again"))
        except ProtocolError as error:
            return refused(error)

    async def answer(order: Order, http: Request) -> Response:
        drawing = service.pictures(order, http, str(http.base_url))
        entry, said = await anext(drawing)  # what goes wrong with the first picture is an answer of its own
        if order.request.stream:
            return StreamingResponse(events(order, entry, said, drawing), media_type="text/event-stream")
        entries = [entry, *[entry async for entry, _ in drawing]]
        usage = service.usage(order, len(entries))
        return JSONResponse({"created": int(time.time()), "data": entries, "usage": usage} | said)

    async def events(
        order: Order, entry: dict[str, Any], said: dict[str, Any],
        drawing: AsyncIterator[tuple[dict[str, Any], dict[str, Any]]],
    ) -> AsyncIterator[bytes]:  # fmt: skip
        head = {"type": f"{order.kind}.completed", "usage": service.usage(order, 1)}
        try:
            yield _event(head | {"created_at": int(time.time())} | said | entry)
            async for entry, said in drawing:
                yield _event(head | {"created_at": int(time.time())} | said | entry)
        except ProtocolError as error:
            yield b"event: error\ndata: " + error_body(str(error), error.code) + b"\n\n"

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
