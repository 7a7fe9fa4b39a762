"""Pictures: bytes and files <-> media ``[C, H, W]`` in [-1, 1].

What a file may hold and what becomes of it:

=========================  ========================================================================================
transparency               put on the background (white) at full size, before any resizing: no dark fringes
EXIF orientation           applied, so that the picture stands as its camera meant it
16-bit grey                scaled by 65535, never clipped to 255
CMYK, LAB, YCbCr, palette  converted to RGB; embedded colour profiles are not applied
animation, many pages      refused: one picture is one picture
too large or too small     refused from the header, before a pixel is decoded
truncated or corrupt       refused
=========================  ========================================================================================

Every refusal is a ``ValueError`` that reads ``<file>: <what is wrong>; <what to do>``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Picture = Float[Tensor, "C H W"]
Colour = tuple[int, int, int]
T = TypeVar("T")

WHITE: Colour = (255, 255, 255)
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is read. Formats that start a program (EPS) or hold a document (PDF) are not among them."""
SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "png apng jpg jpeg jfif webp gif bmp tif tiff ppm pgm pbm pnm avif jp2 j2k".split()  # noqa: SIM905
)
"""File names that `read` is worth trying on."""
MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
WRITTEN = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True)
class Loaded:
    """A decoded picture, upright and opaque."""

    image: Image.Image
    """Mode RGB; or F in [0, 65535] where the file is 16-bit grey."""
    notes: tuple[str, ...]
    """What had to be done to the file's pixels, in words: for reports."""

    def media(self, size: int | None = None) -> Picture:
        """RGB media ``[3, H, W]``; with ``size``, the middle square, resized with antialiasing."""
        return _to_tensor(self.image if size is None else _square(self.image, size))


def read(
    source: bytes | Path,
    size: int | None = None,
    *,
    background: Colour = WHITE,
    min_side: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Read one picture as RGB media ``[3, H, W]``; with ``size``, its middle square, resized with antialiasing."""
    return load(source, background=background, min_side=min_side, max_pixels=max_pixels).media(size)


def load(
    source: bytes | Path,
    *,
    background: Colour = WHITE,
    min_side: int = 2,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
) -> Loaded:
    """Decode one picture: checked by its header first, then turned upright and made opaque."""
    name = "picture" if isinstance(source, bytes) else str(source)
    image = _explained(name, lambda: _open(source))
    try:
        _check_header(name, image, min_side, max_pixels, max_side)
        _explained(name, image.load)
        return _explained(name, lambda: _opaque(image, background))
    finally:
        image.close()


def _open(source: bytes | Path) -> Image.Image:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_installed_formats())


@cache
def _installed_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _explained(name: str, decode: Callable[[], T]) -> T:
    """Turn whatever a decoder throws at a broken file (not only OSError) into one sentence."""
    try:
        return decode()
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: its header claims far too many pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture in a known format; save it as PNG, JPEG or WebP") from error
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(
                f"{name}: cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name}: cannot be decoded ({reason}); the file is damaged, replace it") from error


def _check_header(name: str, image: Image.Image, min_side: int, max_pixels: int, max_side: int) -> None:
    width, height = image.size
    if width * height > max_pixels or max(width, height) > max_side:
        raise ValueError(
            f"{name}: {width}x{height} pixels, where {max_pixels / 1e6:g} megapixels and a side of {max_side} "
            "are allowed; make it smaller"
        )
    if min(width, height) < min_side:
        raise ValueError(f"{name}: {width}x{height} pixels, less than {min_side} on a side; use a larger picture")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph with its preview
    if frames > 1:
        raise ValueError(f"{name}: animated or many pages ({frames} frames); save the frame you mean as one picture")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"{name}: 32-bit pixels, whose range no one states; save it with 8 or 16 bits")


def _opaque(image: Image.Image, background: Colour) -> Loaded:
    """Upright RGB, or F for 16-bit grey, with what was done."""
    notes = []
    if image.getexif().get(0x0112, 1) in range(2, 9):
        notes.append("turned as its EXIF orientation says")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        notes.append("16-bit grey scaled")
        return Loaded(_grey16(image, background), tuple(notes))
    if image.has_transparency_data:
        notes.append("transparency put on the background")
        image = flatten(image, background)
    elif image.mode not in ("RGB", "L", "P", "1"):
        notes.append(f"{image.mode} converted to RGB")
    return Loaded(image.convert("RGB"), tuple(notes))


def _grey16(image: Image.Image, background: Colour) -> Image.Image:
    """16-bit grey as floats in [0, 65535]; a transparent grey value becomes the background's luma."""
    values = np.array(image, dtype=np.float32)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        values[values == clear] = 257 * float(np.dot(background, (0.299, 0.587, 0.114)))
    return Image.fromarray(values)


def flatten(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """Put a picture with transparency on a plain background: RGB."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, resized to ``size`` with antialiasing (Lanczos)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if size == side:
        return image.crop(box)
    resized = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    # Lanczos overshoots at edges: 8-bit modes saturate by themselves, floats have to be told.
    return Image.fromarray(np.asarray(resized).clip(0, 65535)) if image.mode == "F" else resized


def _to_tensor(image: Image.Image) -> Picture:
    """RGB or 16-bit F -> media ``[3, H, W]``."""
    full = 65535.0 if image.mode == "F" else 255.0
    values = torch.from_numpy(np.array(image, dtype=np.float32)).div_(full / 2).sub_(1)
    return values.expand(3, -1, -1).contiguous() if values.dim() == 2 else values.permute(2, 0, 1).contiguous()


def from_pil(image: Image.Image, size: int | None = None, background: Colour = WHITE) -> Picture:
    """An image that is already in memory -> RGB media ``[3, H, W]``; ``size`` as in `read`."""
    if image.mode == "F":
        raise ValueError("the image has float pixels, whose range no one states; convert it to 8 or 16 bits")
    return _opaque(image, background).media(size)


def to_pil(media: Picture) -> Image.Image:
    """Media ``[1 or 3, H, W]`` -> an 8-bit image (L or RGB); values beyond [-1, 1] are clipped, NaN is refused."""
    if media.dim() != 3 or media.shape[0] not in (1, 3):
        raise ValueError(f"media has shape {list(media.shape)}; pass one picture, [1 or 3, H, W]")
    if media.isnan().any():
        raise ValueError("media holds NaN; the model that made it has diverged, look at its health curves")
    pixels = to_uint8(media).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if media.shape[0] == 1 else np.ascontiguousarray(pixels))


def to_uint8(media: Float[Tensor, "*shape"]) -> Tensor:
    """Media in [-1, 1] -> uint8 of the same shape, rounded to the nearest."""
    return media.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "*shape"]) -> Tensor:
    """uint8 -> media in [-1, 1] of the same shape."""
    return pixels.to(torch.float32).div(127.5).sub(1)


def write(media: Picture, to: Path | str = "png", quality: int = 90) -> bytes:
    """Encode one picture as ``png``, ``jpeg`` or ``webp`` and return the bytes; given a path, also write the file."""
    kind = to.suffix.removeprefix(".") if isinstance(to, Path) else to
    if kind.lower() not in WRITTEN:
        raise ValueError(f"{to}: pictures are written as {', '.join(WRITTEN)}; choose one of these")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality}: use 1 to 100")
    buffer = io.BytesIO()
    to_pil(media).save(buffer, WRITTEN[kind.lower()], quality=quality)
    data = buffer.getvalue()
    if isinstance(to, Path):
        _replace(to, data)
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from error
