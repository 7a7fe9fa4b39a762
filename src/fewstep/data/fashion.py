"""Fashion-MNIST: 70,000 grey pictures of clothes in ten classes, from Debian's package dataset-fashion-mnist."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewstep.data._classes import write_classes
from fewstep.data.dataset import Dataset, Progress, Split, no_progress

WORDS = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
LICENCE = {
    "work": "Fashion-MNIST",
    "author": "Zalando SE",
    "licence": "MIT",
    "url": "https://github.com/zalandoresearch/fashion-mnist",
    "copyright": "Copyright (c) 2017 Zalando SE, https://tech.zalando.com",
}


@dataclass(frozen=True)
class Options:
    """70,000 pictures of clothes, from Debian's dataset-fashion-mnist."""

    size: int = 28
    """Side of the pictures in pixels; the originals have 28."""
    source: Path = Path("/usr/share/datasets/fashion-mnist")
    """Folder of the four ``*-ubyte.gz`` files, where Debian's package puts them."""


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Write the clothes, white on black, one grey channel; the published test set is held out."""
    progress = progress or no_progress
    progress("fashion: reading", 0, 1)
    pictures = [_images(options.source / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    labels = [_labels(options.source / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")]
    for images, classes in zip(pictures, labels, strict=True):
        if len(images) != len(classes):
            raise ValueError(f"{options.source}: {len(images)} pictures but {len(classes)} labels; get the files anew")
    splits: list[Split] = ["train" if part == 0 else "heldout" for part in (0, 1) for _ in labels[part]]
    return write_classes(
        folder,
        "fashion",
        np.concatenate(pictures),
        np.concatenate(labels),
        splits,
        size=options.size,
        words=WORDS,
        licence=LICENCE,
        build={},
        progress=progress,
    )


def _images(path: Path) -> np.ndarray:
    return _idx(path, 3)


def _labels(path: Path) -> np.ndarray:
    labels = _idx(path, 1)
    if labels.max(initial=0) >= len(WORDS):
        raise ValueError(f"{path}: label {labels.max()}, where 0 to {len(WORDS) - 1} are known; get the file anew")
    return labels


def _idx(path: Path, axes: int) -> np.ndarray:
    """Read a gzipped IDX file of bytes: two zeros, type 8, number of axes, sizes (big endian), values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such file; apt-get install dataset-fashion-mnist, or pass --source with the folder that has it"
        ) from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); get the file anew") from error
    head = 4 + 4 * axes
    shape = struct.unpack_from(f">{axes}I", data, 4) if len(data) >= head else ()
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) - head != math.prod(shape):
        raise ValueError(f"{path}: not an IDX file of bytes with {axes} axes, or cut short; get the file anew")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
