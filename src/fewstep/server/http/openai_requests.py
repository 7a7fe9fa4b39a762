"""The requests of OpenAI's images API: their fields, what of them is refused, and how they are read from JSON or a form."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import ConfigDict, Field, ValidationError

from ..wire.protocol import Part, ProtocolError
from .canvas import Fit
from .forms import boundary_of, read_form
from .middleware import sentence, unreadable
from .pictures import Body, Encoder, part_of, part_of_text

SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
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
    """auto, or WIDTHxHEIGHT. The model draws its own size, then resized, and for other shapes cropped or padded."""
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


def checked_fields(form: Mapping[str, Any], kind: type[T]) -> T:
    """The fields of a form as a request of this kind. Raises ProtocolError for a field of the wrong kind."""
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


async def read_body(http: Request) -> tuple[dict[str, Any], dict[str, list[Part]]]:
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


def replace_seed(request: T, seed: int) -> T:
    """The same request with a seed."""
    return request.model_copy(update={"seed": seed})
