"""A dataset of your own, written from Python: coloured shapes on white, with captions.

    fewstep data examples.shapes --out out/shapes/data --of-each 24      # in the repository's folder

Any pictures will do: a file of your own offers `Options` and `build`, and hands `DatasetWriter` pixels and what is known of them.
Nothing is registered anywhere; `--data FOLDER` is all that a training needs. (A folder of picture files with captions needs no
Python at all: `fewstep data folder`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fewstep.data.dataset import Dataset, DatasetWriter, Item, Progress, split_of

SIDE = 32
COLOURS = {
    "red": (214, 40, 40), "yellow": (250, 205, 20), "green": (46, 160, 67), "blue": (38, 96, 214), "purple": (130, 60, 190),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "ring")
LICENCE = {"work": "coloured shapes", "author": "examples/shapes.py", "licence": "CC0-1.0", "url": "none"}


def picture(colour: str, shape: str, rng: np.random.Generator) -> np.ndarray:
    """One drawing, uint8 ``[3, SIDE, SIDE]``, place and size drawn at random; made four times as large, for smooth edges."""
    canvas = Image.new("RGB", (4 * SIDE, 4 * SIDE), "white")
    radius = 4 * SIDE * rng.uniform(0.25, 0.4)
    x, y = rng.uniform(radius, 4 * SIDE - radius, size=2)
    box, draw = (x - radius, y - radius, x + radius, y + radius), ImageDraw.Draw(canvas)
    if shape == "circle":
        draw.ellipse(box, COLOURS[colour])
    elif shape == "square":
        draw.rectangle(box, COLOURS[colour])
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], COLOURS[colour])
    else:
        draw.ellipse(box, outline=COLOURS[colour], width=round(radius * 0.45))
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small).transpose(2, 0, 1)


@dataclass(frozen=True)
class Options:
    """Coloured shapes on white."""

    of_each: int = 24
    """Drawings of every colour and shape."""


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Write the drawings; ``progress`` is told how many are done."""
    rng, kinds = np.random.default_rng(0), list(product(COLOURS, SHAPES))
    facts = {"name": "shapes", "shape": (3, SIDE, SIDE), "licences": [LICENCE], "attribution": "Made by examples/shapes.py.\n"}
    with DatasetWriter(folder, **facts, build={"of_each": options.of_each}) as writer:
        for done, (colour, shape) in enumerate(kinds, 1):
            for n in range(options.of_each):
                name, key = f"a {colour} {shape}", f"{colour}-{shape}-{n}"
                writer.add(picture(colour, shape, rng), Item(key, name, (name,), split=split_of(key, heldout=0.1)))
            if progress is not None:
                progress("shapes", done, len(kinds))
    return Dataset.open(folder)
