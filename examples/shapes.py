"""A dataset of your own, written from Python: coloured shapes on white, with captions.

    python examples/shapes.py out/shapes

Any pictures will do: hand `DatasetWriter` their pixels and what is known of each. Nothing is registered anywhere; `--data FOLDER`
is all that a training needs. (A folder of picture files with captions needs no Python at all: `fewstep data folder`.)
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fewstep.data.dataset import Dataset, DatasetWriter, Item, split_of

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


def build(folder: Path, of_each: int = 24) -> Dataset:
    """Write ``of_each`` drawings of every colour and shape."""
    rng = np.random.default_rng(0)
    facts = {"name": "shapes", "shape": (3, SIDE, SIDE), "licences": [LICENCE], "attribution": "Made by examples/shapes.py.\n"}
    with DatasetWriter(folder, **facts, build={"of_each": of_each}) as writer:
        for colour, shape, n in product(COLOURS, SHAPES, range(of_each)):
            name, key = f"a {colour} {shape}", f"{colour}-{shape}-{n}"
            writer.add(picture(colour, shape, rng), Item(key, name, (name,), split=split_of(key, heldout=0.1)))
    return Dataset.open(folder)


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else "out/shapes")
    print(f"{len(build(where))} pictures in {where}")
