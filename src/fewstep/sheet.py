"""Contact sheets: pictures in a grid with captions, the way results are shown here."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from . import provenance
from .bundle import Card
from .provenance import GenerationFacts, mark_payload

INK, FAINT, PAPER = (28, 30, 38), (120, 124, 138), (255, 255, 255)
CELLS = "cells"
"""Where a sheet's ``info`` says which parts of it a model drew."""


def _font(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def fitted(draw: ImageDraw.ImageDraw, text: str, font: object, width: int) -> str:
    """In letters that the font has (n for ñ), cut with an ellipsis to fit."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    if draw.textlength(text, font=font) <= width:  # type: ignore[arg-type]
        return text
    while text and draw.textlength(text + "…", font=font) > width:  # type: ignore[arg-type]
        text = text[:-1]
    return text.rstrip() + "…"


def sheet(
    rows: Sequence[tuple[str, str, Sequence[Image.Image]]],
    columns: Sequence[str],
    title: str = "",
    cell: int = 128,
) -> Image.Image:
    """A grid: each row is (name, note, pictures), each column a prompt. Pictures are enlarged without smoothing
    until their longer side is ``cell``.

    Where they lie is ``info[CELLS]``, boxes ``(left, top, right, bottom)`` in pixels: `save` marks those and no paper.
    Raises ValueError if a row does not have one picture a column.
    """
    if any(len(pictures) != len(columns) for _, _, pictures in rows):
        raise ValueError("every row of a sheet needs one picture for each column")
    gap, left, top = 10, 176, (54 if title else 16) + 26
    shapes = {shown_size(picture, cell) for _, _, pictures in rows for picture in pictures} or {(cell, cell)}
    wide, high = (max(sides) for sides in zip(*shapes))
    width = left + len(columns) * (wide + gap) + gap
    height = top + len(rows) * (high + gap) + gap
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    small, body, large = _font(13), _font(16), _font(22)
    if title:
        draw.text((16, 16), title, INK, font=large)
    for j, text in enumerate(columns):
        x = left + j * (wide + gap) + wide / 2
        draw.text((x, top - 12), fitted(draw, text, small, wide), FAINT, font=small, anchor="ms")
    boxes: list[tuple[int, int, int, int]] = []
    for i, (name, note, pictures) in enumerate(rows):
        y = top + i * (high + gap)
        draw.text((16, y + high / 2 - 4), fitted(draw, name, body, left - 24), INK, font=body, anchor="ls")
        draw.text((16, y + high / 2 + 16), fitted(draw, note, small, left - 24), FAINT, font=small, anchor="ls")
        for j, picture in enumerate(pictures):
            whole = cell % max(picture.size) == 0
            resample = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
            shown = picture.convert("RGB").resize(shown_size(picture, cell), resample)
            x = left + j * (wide + gap)
            canvas.paste(shown, (x, y))
            boxes.append((x, y, x + shown.width, y + shown.height))
    canvas.info[CELLS] = boxes
    return canvas


def shown_size(picture: Image.Image, cell: int) -> tuple[int, int]:
    """Width and height of a picture on the sheet: its own shape, the longer side ``cell`` pixels."""
    width, height = picture.size
    return max(1, round(width * cell / max(width, height))), max(1, round(height * cell / max(width, height)))


def save(picture: Image.Image, path: Path, card: Card, seed: int) -> Path:
    """Write a PNG of what a model drew, marked and signed as every saved picture, making its folder.

    Of a `sheet` the pictures are marked, and neither margins nor captions: those were not drawn by a model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = GenerationFacts(card.name, card.fingerprint, seed=seed)
    pixels = np.asarray(picture)
    if CELLS not in picture.info:
        provenance.write(path, pixels, facts)
        return path
    paper = pixels.copy()
    marked = provenance.DEFAULTS.mark.embed(pixels, mark_payload(card.fingerprint))
    for left, top, right, bottom in picture.info[CELLS]:
        paper[top:bottom, left:right] = marked[top:bottom, left:right]
    provenance.write(path, paper, facts, replace(provenance.DEFAULTS, watermark=False))
    return path
