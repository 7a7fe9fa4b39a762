"""Pictures of any shape beside a model that draws its own: what is cut off, what is put around, where a picture is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ...modality.image import edge_colour
from ...pixels import Pixels
from ..wire.images import decode, fit
from ..wire.protocol import RAW, Part

Fit = Literal["crop", "pad"]
"""How a picture gets another shape: ``crop`` cuts its middle out, ``pad`` puts borders of its edge's colour around it."""


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """With antialiasing (Lanczos); a picture of that size passes through."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def shaped(
    pixels: Pixels, width: int, height: int, how: Fit | None = None, border: int | None = None
) -> tuple[Pixels, Fit | None]:
    """A picture in another size and shape, and how it got it: None where its shape is the same.

    Without ``how`` a picture with a plain edge is padded, so that nothing is lost and nothing is seen, and any other cropped.
    ``border`` is the grey of the borders; None takes the edge's colour.
    """
    high, wide = pixels.shape[:2]
    if wide * height == high * width:
        return resized(pixels, width, height), None
    colour, plain = edge_colour(pixels if wide * height > high * width else pixels.swapaxes(0, 1))
    how = how or ("pad" if plain else "crop")
    scale = (min if how == "pad" else max)(width / wide, height / high)
    inner = resized(pixels, max(1, round(wide * scale)), max(1, round(high * scale)))
    top, left = abs(inner.shape[0] - height) // 2, abs(inner.shape[1] - width) // 2
    if how == "crop":
        return np.ascontiguousarray(inner[top : top + height, left : left + width]), how
    made = np.empty((height, width, 3), np.uint8)
    made[:] = colour if border is None else border
    made[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return made, how


def hole(part: Part, max_pixels: int) -> np.ndarray:
    """Where a picture is wholly transparent: bool ``[H, W]``. Only there white and black show through it as they are."""
    over_white, over_black = decode(part, max_pixels, 255), decode(part, max_pixels, 0)
    return (over_white == 255).all(-1) & (over_black == 0).all(-1)


@dataclass(frozen=True)
class Canvas:
    """A picture to be drawn on, of any shape."""

    pixels: Pixels
    """``[H, W, 3]``."""
    open: np.ndarray | None = None
    """Where it is drawn anew, bool ``[H, W]``; None is everywhere."""

    @property
    def _mask(self) -> Pixels:
        """White where it is drawn anew."""
        assert self.open is not None
        return np.repeat(np.where(self.open, np.uint8(255), np.uint8(0))[..., None], 3, axis=-1)

    def parts(self, shape: tuple[int, int]) -> dict[str, Part]:
        """What a model of this shape ``(height, width)`` is asked with: the whole picture, borders around it, and its hole."""
        width, height = self._around(shape)
        given = {"image": shaped(self.pixels, width, height, "pad")[0]}
        if self.open is not None:
            given["mask"] = shaped(self._mask, width, height, "pad", border=0)[0]
        return {name: _raw(name, fit(pixels, shape)) for name, pixels in given.items()}

    def _around(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the smallest picture of this shape ``(height, width)`` that holds this one."""
        height, width = self.pixels.shape[:2]
        return max(width, -(-height * shape[1] // shape[0])), max(height, -(-width * shape[0] // shape[1]))

    def filled(self, drawn: Pixels) -> Pixels:
        """The picture with the one that was drawn for it: outside the hole not a bit changes. ``[H, W, 3]``."""
        height, width = self.pixels.shape[:2]
        over = shaped(resized(drawn, *self._around(drawn.shape[:2])), width, height, "crop")[0]
        return over if self.open is None else np.where(self.open[..., None], over, self.pixels)

    def shaped(self, width: int, height: int, how: Fit | None) -> tuple[Canvas, Fit | None]:
        """In another size and shape, its hole with it."""
        pixels, how = shaped(self.pixels, width, height, how)
        if self.open is None:
            return Canvas(pixels), how
        mask, _ = shaped(self._mask, width, height, how, border=0)
        return Canvas(pixels, mask[..., 0] >= 128), how


def _raw(name: str, pixels: Pixels) -> Part:
    height, width = pixels.shape[:2]
    return Part(name, RAW, np.dstack([pixels, np.full((height, width), 255, np.uint8)]).tobytes(), width, height)
