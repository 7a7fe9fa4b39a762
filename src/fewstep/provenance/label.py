"""A visible disclosure: the letters "AI" in a corner of the picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fewstep.pixels import Pixels

SHARE, LEAST = 0.075, 11
"""Height of the label: a share of the shorter side, and pixels below which its letters can't be read."""
FINE = 8
"""Drawn this many times larger and averaged, so that small letters are smooth."""
PAPER, INK = (20, 20, 22), (255, 255, 255)
OPACITY = 0.8
"""Of the label's ground: white letters keep a contrast over 4.5 : 1 on it, whatever the picture shows behind it."""


def labelled(picture: Pixels, text: str = "AI") -> Pixels:
    """A copy of ``picture [H, W, 3 or 4]`` (uint8) with the label at its lower right; one too small for it stays as it is."""
    height, width = picture.shape[:2]
    tall = max(LEAST, round(SHARE * min(height, width)))
    margin = max(1, tall // 6)
    font = ImageFont.load_default(size=tall * FINE * 0.78)
    left, top, right, bottom = font.getbbox(text)
    wide = -(-int(right - left) // FINE) + 2 * max(2, round(tall * 0.22))
    if wide + 2 * margin > width or tall + 2 * margin > height:
        return picture.copy()
    size = (wide * FINE, tall * FINE)
    ground, letters = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(ground).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=size[1] // 4, fill=255)
    at = ((size[0] - (right - left)) / 2 - left, (size[1] - (bottom - top)) / 2 - top)
    ImageDraw.Draw(letters).text(at, text, fill=255, font=font)
    shown = [np.asarray(one.reduce(FINE), np.float32)[..., None] / 255 for one in (ground, letters)]
    marked = picture.copy()
    corner = marked[height - margin - tall : height - margin, width - margin - wide : width - margin]
    mixed = corner[..., :3] + (np.array(PAPER) - corner[..., :3]) * shown[0] * OPACITY
    mixed += (np.array(INK) - mixed) * shown[1]
    corner[..., :3] = np.rint(mixed)
    if corner.shape[2] == 4:
        corner[..., 3:] = np.maximum(corner[..., 3:], np.rint(shown[0] * 255))
    return marked
