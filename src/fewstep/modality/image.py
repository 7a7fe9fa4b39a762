"""Pictures: bytes and files <-> media ``[C, H, W]`` in [-1, 1].

What a file may hold and what becomes of it:

=========================  ========================================================================================
transparency               put on the background (white) at full size, before any resizing: no dark fringes
EXIF orientation           applied, so that the picture stands as its camera meant it; one that cannot be read is none
other facts beside pixels  not read: a picture is sound where its pixels are, whatever is odd about its text or EXIF; of PNG
                           and JPEG they are cut out before a decoder sees them
more work than its pixels  refused before decoding: thousands of scans in a JPEG, of chunks or segments that hold nothing
16-bit grey                scaled by 65535, never clipped to 255
CMYK, LAB, YCbCr, palette  converted to RGB (CMYK in JPEG is stored inverted, as Adobe began it and browsers read it);
                           embedded colour profiles are not applied
HEIC, HEIF                 read where pillow-heif is installed (``fewstep[heif]``); else refused with the line that installs it
animation, many pages      refused: one picture is one picture
too large or too small     refused from the header, before a pixel is decoded
truncated or corrupt       refused, also a JPEG that decoders repair in silence, and a PNG whose checksums are wrong; what
                           has no checksum (WebP, AVIF, JPEG 2000, BMP) is refused only where its decoder notices
=========================  ========================================================================================

Every refusal is a ``ValueError`` that reads ``<file>: <what is wrong>; <what to do>``.
"""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import simplejpeg
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .. import sizes
from ..files import odd, whole

Picture = Float[Tensor, "C H W"]
Colour = tuple[int, int, int]
T = TypeVar("T")

warnings.filterwarnings("ignore", "Corrupt EXIF data|Metadata Warning", module=r"PIL\.TiffImagePlugin")  # see `_turn`
WHITE: Colour = (255, 255, 255)
Fit = Literal["crop", "pad"]
"""How a picture gets another shape: ``crop`` cuts the middle out of it, ``pad`` puts borders around it."""
SUFFIXES_OF = {
    "PNG": ("png", "apng"),
    "JPEG": ("jpg", "jpeg", "jfif", "jpe"),
    "MPO": ("mpo",),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "AVIF": ("avif",),
    "JPEG2000": ("jp2", "j2k"),
    "HEIF": ("heic", "heif", "hif"),
}
"""Formats that are read, and the endings of their files. Formats that start a program (EPS) or hold a document (PDF) are not."""
FORMATS = tuple(SUFFIXES_OF)
FORMAT_OF = {f".{suffix}": name for name, suffixes in SUFFIXES_OF.items() for suffix in suffixes}
SUFFIXES = frozenset(FORMAT_OF)
"""File names that `read` is worth trying on."""
RAW = "arw cr2 cr3 dng nef orf raf rw2"
UNREAD = {
    f".{suffix}": kind
    for suffixes, kind in {RAW: "a camera's raw file", "jxl": "JPEG XL", "psd xcf": "a file of layers", "svg": "SVG",
                           "tga ico exr hdr": "a picture"}.items()
    for suffix in suffixes.split()
}  # fmt: skip
"""Pictures that are not read, by the suffix, and what they are."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What the head of an HEIC or HEIF file says (ISO/IEC 23008-12, annex B)."""
MAX_BYTES = 2**30
MAX_PIXELS = 64_000_000
MAX_SIDE = 16_384
WRITTEN = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True)
class Loaded:
    """A decoded picture, upright and opaque."""

    image: Image.Image
    """Mode RGB; or F in [0, 65535] where the file is 16-bit grey."""
    notes: tuple[str, ...]
    """Changes made to the file's pixels, in words: for reports."""
    background: Colour | None = None
    """The colour put behind transparent pixels; None where there were none."""

    def media(self, size: int | Sequence[int] | None = None, fit: Fit = "crop") -> Picture:
        """RGB media ``[3, H, W]``; with ``size``, ``(H, W)`` or a square's side, resized to it with antialiasing.

        Borders (``fit`` "pad") are of the background where there was transparency, of the picture's own edge where that is
        plain, and else white.
        """
        if size is None:
            return _to_tensor(self.image)
        size = sizes.pair(size)
        return _to_tensor(_cropped(self.image, size) if fit == "crop" else _padded(self.image, size, self.background))

    def beyond(self, size: int | Sequence[int]) -> float:
        """The share of the picture, in [0, 1), that ``fit`` "crop" cuts off to give it the shape of ``size``."""
        width, height = _largest(self.image, sizes.pair(size))
        return 1 - width * height / (self.image.width * self.image.height)


def read(
    source: bytes | Path,
    size: int | Sequence[int] | None = None,
    *,
    background: Colour = WHITE,
    min_side: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Read one picture as RGB media ``[3, H, W]``; with ``size``, ``(H, W)`` or a square's side, as much of its middle as
    has that shape, resized with antialiasing."""
    return load(source, background=background, min_side=min_side, max_pixels=max_pixels).media(size)


def load(
    source: bytes | Path,
    *,
    background: Colour = WHITE,
    min_side: int = 2,
    max_pixels: int = MAX_PIXELS,
    max_side: int = MAX_SIDE,
    formats: Sequence[str] = FORMATS,
) -> Loaded:
    """Decode one picture: checked by its header first, then turned upright and made opaque.

    No decoder but those of ``formats`` sees a byte of it.
    """
    name = "picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _explained(name, lambda: _bytes(source))
    plain = _explained(name, lambda: inspect(data))
    image = _explained(name, lambda: _open(plain.data, formats), data, formats)
    try:
        _explained(name, lambda: _check_header(name, image, min_side, max_pixels, max_side))
        _explained(name, image.load)
        if image.format in ("JPEG", "MPO"):
            _explained(name, lambda: _check_jpeg(plain.data, image.mode))
        return _explained(name, lambda: _opaque(image, background, plain.turn))
    finally:
        image.close()


def _bytes(path: Path) -> bytes:
    if odd(path):
        raise Unusable("a device or a pipe, not a file; give a picture's file")
    if (size := os.stat(path).st_size) > MAX_BYTES:
        raise Unusable(f"{size / 2**30:.1f} GiB, where {MAX_BYTES >> 30} is allowed; make it smaller")
    return path.read_bytes()


def _open(data: bytes, formats: Sequence[str]) -> Image.Image:
    taken = [name for name in _installed_formats() if name in formats]
    return Image.open(io.BytesIO(data), formats=taken)


@cache
def _installed_formats() -> tuple[str, ...]:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def unread(suffix: str) -> str:
    """Why files with this suffix (``.heic``) are not read here, and the way out; "" for those that are, and for no pictures."""
    suffix = suffix.lower()
    if suffix in UNREAD:
        return f"{UNREAD[suffix]} ({suffix}) is not read; save it as PNG, JPEG or WebP"
    kind = FORMAT_OF.get(suffix)
    return "" if kind is None or kind in _installed_formats() else _without_decoder(kind)


def _without_decoder(kind: str) -> str:
    if kind == "HEIF":
        return "an HEIC picture needs a decoder: pip install 'fewstep[heif]' (pillow-heif), or save it as JPEG"
    return f"this Pillow cannot read {kind}: pip install --upgrade pillow, or save the picture as PNG"


def _unknown(head: bytes, formats: Sequence[str]) -> str:
    """The error sentence for bytes that no decoder of these ``formats`` knows."""
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    kind = "HEIF" if brand in HEIF_BRANDS else "AVIF" if brand in (b"avif", b"avis") else ""
    if kind and kind not in formats:
        return f"{kind} is not taken here; save it as PNG, JPEG or WebP"
    if kind:
        damaged = f"{kind} that cannot be decoded; the file is damaged, replace it"
        return damaged if kind in _installed_formats() else _without_decoder(kind)
    return "not a picture in a known format; save it as PNG, JPEG or WebP"


class Unusable(ValueError):
    """A picture that cannot be used: the sentence says why and what to do, without its name."""


class Refused(ValueError):
    """The same, with its name."""


def _explained(name: str, decode: Callable[[], T], data: bytes = b"", formats: Sequence[str] = FORMATS) -> T:
    """Turn whatever a decoder throws at a broken file (not only OSError) into one sentence."""
    try:
        return decode()
    except Refused:
        raise
    except Unusable as error:
        raise Refused(f"{name}: {error}") from error.__cause__
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: its header claims far too many pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: {_unknown(data, formats)}") from error
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
        raise Refused(
            f"{name}: {width}x{height} pixels, where {max_pixels / 1e6:g} megapixels and a side of {max_side} "
            "are allowed; make it smaller"
        )
    if min(width, height) < min_side:
        raise Refused(f"{name}: {width}x{height} pixels, less than {min_side} on a side; use a larger picture")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph with its preview
    if frames > 1:
        raise Refused(f"{name}: animated or many pages ({frames} frames); save the frame you mean as one picture")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise Refused(f"{name}: 32-bit pixels, whose range no one states; save it with 8 or 16 bits")


REPAIRED = ("Corrupt JPEG data", "Premature end of JPEG", "Inconsistent progression")
"""How those warnings of libjpeg begin after which it makes pixels up. Others are harmless; its errors Pillow raises itself."""


def _check_jpeg(data: bytes, mode: str) -> None:
    """Raise Unusable for a JPEG that libjpeg repairs: Pillow does not pass its warnings on.

    All of the entropy-coded data is read once more, but only an eighth of the size is made of it.
    """
    colours = "CMYK" if mode == "CMYK" else "GRAY"
    try:
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        if str(error).startswith(REPAIRED):
            raise Unusable(
                f"a part of it is missing or overwritten ({str(error).removeprefix('Corrupt JPEG data: ')}), so that "
                "decoders make pixels up; take it from its source again, or check it and save it again"
            ) from error


PNG = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
"""The chunks that a picture is made of. Of the others only the orientation is read."""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bool]]:
    """(type, all bytes of the chunk, is its checksum right?) up to the end, or to where the file is cut short."""
    view, at = memoryview(data), len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        right = zlib.crc32(view[at + 4 : at + 8 + length]) == struct.unpack_from(">I", data, at + 8 + length)[0]
        yield kind, view[at : at + 12 + length], right
        at += 12 + length
        if kind == b"IEND":
            return


def _png(data: bytes) -> Inspected:
    """A PNG without the chunks that its pixels do not need and a decoder may fall over; Unusable for wrong checksums."""
    kept: list[bytes | memoryview] = [PNG]
    at, turn = len(PNG), 1
    for number, (kind, chunk, right) in enumerate(_png_chunks(data)):
        if number > MOST_PARTS + len(data) // PART_BYTES:
            raise Unusable(f"more than {number} chunks, most of which hold nothing; save it anew as PNG, JPEG or WebP")
        at += len(chunk)
        if kind in PNG_PIXELS and not right:
            raise Unusable(f"the checksum of its {kind.decode()} data is wrong; the file is damaged, replace it")
        if kind in PNG_PIXELS:
            kept.append(chunk)
        elif right and kind == b"eXIf":
            turn = exif_orientation(chunk[8:-4])
        elif right and turn == 1 and chunk[8:25] == b"XML:com.adobe.xmp":
            found = XMP_ORIENTATION.search(chunk[8:-4])
            turn = int(found[1]) if found else 1
    return Inspected("PNG", b"".join([*kept, memoryview(data)[at:]]), turn)


MOST_PARTS = 4096
PART_BYTES = 1024
"""A picture is made of at most so many chunks or segments, and one more for every so many bytes: each costs its reader time."""
MOST_SCANS = 100
"""Scans of a progressive JPEG, each of which goes over all pixels. Ten are usual; a file of 600 kB has room for 50,000."""
SCAN_BYTES = 65_536
"""One more scan is allowed for every so many bytes: what lies behind a photograph may look like scans, once in so many."""
JPEG_PIXELS = frozenset([0xDB, 0xC4, 0xDD, 0xCC, 0xE0, 0xEE, *range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC),
                         *range(0xCD, 0xD0)])  # fmt: skip
"""The segments before the first scan that a picture is made of: tables, frame, JFIF's and Adobe's word for its colours."""
FRAMES = frozenset(JPEG_PIXELS - {0xDB, 0xC4, 0xDD, 0xCC, 0xE0, 0xEE})
XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])\b")


@dataclass(frozen=True)
class Inspected:
    """Facts read from a picture's bytes before any decoder runs."""

    kind: str
    """PNG, JPEG or WEBP; empty for all others, which are not inspected."""
    data: bytes
    """Without what is no part of the picture."""
    turn: int | None = None
    """How it is stored, by EXIF's orientation: 1 stands upright. None leaves it to the decoder."""
    frame: int = 0
    """Of a JPEG the marker of its frame: C0 and C1 are baseline, C2 is progressive; nearly nobody reads the others."""


def inspect(data: bytes) -> Inspected:
    """See what a picture is, and what it would cost to decode. Raises Unusable for one that is made to cost far more than
    its pixels are worth."""
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Inspected("WEBP", data, _webp_orientation(data))
    return Inspected("", data)


def _jpeg(data: bytes) -> Inspected:
    """A JPEG without the segments that its pixels do not need."""
    kept, turn, frame, at, number = [memoryview(data)[:2]], 1, 0, 2, 0
    view = memoryview(data)
    while at + 4 <= len(data):
        if (number := number + 1) > MOST_PARTS + len(data) // PART_BYTES:
            raise Unusable(
                f"more than {number} segments, most of which hold nothing; save it anew as PNG, JPEG or WebP"
            )
        if data[at] != 0xFF:  # decoders look for the next one, and say that the file is damaged
            at = max(at + 1, data.find(b"\xff", at))
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # stand alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in JPEG_PIXELS:
            kept.append(view[at:end])
            frame = marker if marker in FRAMES else frame
        elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            turn = exif_orientation(view[at + 4 : end])
        at = end
    scans = data.count(b"\xff\xda", at)
    if scans > (most := MOST_SCANS + len(data) // SCAN_BYTES):
        raise Unusable(f"{scans} scans, where {most} are allowed; save it anew as PNG, JPEG or WebP")
    return Inspected("JPEG", b"".join([*kept, view[at:]]), turn, frame)


def _webp_orientation(data: bytes) -> int:
    at = 12
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"EXIF":
            return exif_orientation(memoryview(data)[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return 1


def exif_orientation(exif: bytes | memoryview) -> int:
    """The orientation that an EXIF block names, 1 to 8; 1, upright, where it names none or cannot be read.

    Only the first directory's entries are read, and no value that lies elsewhere (EXIF 2.32, 4.6.2): a reader of all of
    EXIF copies what every entry points at, and a thousand may point at the same megabyte.
    """
    block = bytes(exif[:65_536]).removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    if at + 2 > len(block):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", block, at)
    for place in range(at + 2, min(at + 2 + 12 * entries, len(block) - 11), 12):
        tag, kind, count, value, _ = struct.unpack_from(f"{order}HHIHH", block, place)
        if tag == ORIENTATION:
            return value if (kind, count) == (3, 1) and value in TURNED else 1
    return 1


ORIENTATION = 0x0112
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, table 4.6.4 A: what makes a stored picture stand upright."""


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How a picture that was not inspected must be turned; None for one that is upright, or whose EXIF cannot be read."""
    try:
        return TURNED.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever the parser meets in bytes that are no TIFF, or that hold a list in place of a number
        return None


def _opaque(image: Image.Image, background: Colour, orientation: int | None = None) -> Loaded:
    """Upright RGB, or F for 16-bit grey, with what was done."""
    notes = []
    turn = _turn(image) if orientation is None else TURNED.get(orientation)
    if turn is not None:
        notes.append("turned as its EXIF orientation says")
        image = image.transpose(turn)
    if image.mode.startswith("I"):
        notes.append("16-bit grey scaled")
        return Loaded(_grey16(image, background), tuple(notes))
    clear = image.has_transparency_data
    if clear:
        notes.append("transparency put on the background")
        image = flatten(image, background)
    elif image.mode not in ("RGB", "L", "P", "1"):
        notes.append(f"{image.mode} converted to RGB")
    return Loaded(image.convert("RGB"), tuple(notes), background if clear else None)


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


def _largest(image: Image.Image, size: tuple[int, int]) -> tuple[float, float]:
    """Width and height, in pixels, of the largest part of a picture that has the shape of ``size``, ``(H, W)``."""
    height, width = size
    return min(image.width, image.height * width / height), min(image.height, image.width * height / width)


def _cropped(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As much of a picture's middle as has the shape of ``size``, resized to it with antialiasing (Lanczos)."""
    wide, high = _largest(image, size)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    box = (left, top, left + wide, top + high)
    if size == (high, wide):
        return image.crop(box)
    resized = image.resize(size[::-1], Image.Resampling.LANCZOS, box=box)
    # Lanczos overshoots at edges: 8-bit modes saturate by themselves, floats have to be told.
    return Image.fromarray(np.asarray(resized).clip(0, 65535)) if image.mode == "F" else resized


PLAIN = 8
"""How far, of 255, the pixels of a plain edge may be from its colour."""


def _padded(image: Image.Image, size: tuple[int, int], background: Colour | None) -> Image.Image:
    """The whole picture in the middle of one of ``size``, resized with antialiasing (Lanczos)."""
    above = size[0] * image.width > size[1] * image.height  # the borders lie above and below
    height = max(1, round(image.height * size[1] / image.width)) if above else size[0]
    width = size[1] if above else max(1, round(image.width * size[0] / image.height))
    within = image if (width, height) == image.size else image.resize((width, height), Image.Resampling.LANCZOS)
    full = 65535.0 if image.mode == "F" else 255.0
    pixels = np.asarray(within)
    made = np.empty((*size, *pixels.shape[2:]), pixels.dtype)
    across = np.asarray(image) if above else np.asarray(image).swapaxes(0, 1)
    made[:] = edge_colour(across, full)[0] if background is None else np.array(background) * (full / 255)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    made[top : top + height, left : left + width] = pixels.clip(0, full)
    return Image.fromarray(made)


def edge_colour(pixels: np.ndarray, full: float = 255.0) -> tuple[np.ndarray, bool]:
    """The colour of the first and the last row, and True, where they are plain; else white, and False."""
    edges = np.concatenate([pixels[0], pixels[-1]]).astype(np.float32)
    colour = np.median(edges, axis=0)
    plain = bool((np.abs(edges - colour) <= PLAIN * full / 255).mean() > 0.98)
    return np.asarray(colour.round() if plain else full), plain


def _to_tensor(image: Image.Image) -> Picture:
    """RGB or 16-bit F -> media ``[3, H, W]``."""
    full = 65535.0 if image.mode == "F" else 255.0
    values = torch.from_numpy(np.array(image, dtype=np.float32)).div_(full / 2).sub_(1)
    return values.expand(3, -1, -1).contiguous() if values.dim() == 2 else values.permute(2, 0, 1).contiguous()


def from_pil(image: Image.Image, size: int | Sequence[int] | None = None, background: Colour = WHITE) -> Picture:
    """An image that is already in memory -> RGB media ``[3, H, W]``; ``size`` as in `read`."""
    if image.mode == "F":
        raise ValueError("the image has float pixels, whose range no one states; convert it to 8 or 16 bits")
    return _opaque(image, background).media(size)


def to_pil(media: Picture) -> Image.Image:
    """Media ``[1 or 3, H, W]`` -> an 8-bit image (L or RGB); values beyond [-1, 1] are clipped, NaN is refused."""
    if media.dim() != 3 or media.shape[0] not in (1, 3):
        raise ValueError(f"media has shape {list(media.shape)}; pass one picture, [1 or 3, H, W]")
    if media.isnan().any():
        raise ValueError("media holds NaN; the model that made it has diverged, see its health curves")
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
    try:
        with whole(path) as draft:
            draft.write_bytes(data)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from error
