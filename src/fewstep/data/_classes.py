"""Labelled grey pictures as a dataset: what ``digits`` and ``fashion`` have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewstep.data._notices import notices
from fewstep.data.dataset import Dataset, DatasetWriter, Item, Progress, Split


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize one uint8 ``[H, W]`` picture to ``[1, size, size]`` with antialiasing; its own size is left alone."""
    if picture.shape == (size, size):
        return picture[None]
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))[None]


def stratified(labels: np.ndarray, heldout: int) -> list[Split]:
    """Hold out ``heldout`` pictures, equally many of each class, chosen by a hash of their place."""
    classes = np.unique(labels)
    if heldout < 0 or heldout % len(classes) or heldout // len(classes) >= np.bincount(labels)[classes].min():
        raise ValueError(
            f"--heldout {heldout}: use a multiple of {len(classes)} below {len(classes)} x the smallest class"
        )
    splits: list[Split] = ["train"] * len(labels)
    for label in classes:
        places = np.flatnonzero(labels == label).tolist()
        places.sort(key=lambda place: hashlib.blake2b(f"{label}/{place}".encode()).digest())
        for place in places[: heldout // len(classes)]:
            splits[place] = "heldout"
    return splits


def write_classes(
    folder: Path,
    name: str,
    pictures: np.ndarray,
    labels: np.ndarray,
    splits: Sequence[Split],
    *,
    size: int,
    words: Sequence[str],
    licence: Mapping[str, str],
    build: Mapping[str, Any],
    progress: Progress,
) -> Dataset:
    """Write uint8 ``pictures [N, H, W]`` with their class words as captions; the class is the concept."""
    if not 8 <= size <= 64:
        raise ValueError(f"--size {size}: use 8 to 64 pixels; the originals have 28")
    writer = DatasetWriter(
        folder,
        name=f"{name}-{size}",
        shape=(1, size, size),
        licences=[licence],
        attribution="# Attribution\n\n{work}, by {author}, under {licence}: {url}\n".format(**licence)
        + notices([licence]),
        build={"builder": name, "size": size, "classes": list(words), **build},
    )
    with writer:
        for i, (picture, label, split) in enumerate(zip(pictures, labels.tolist(), splits, strict=True)):
            item = Item(f"{name}/{i:05d}", words[label], (words[label],), None, label, split)
            writer.add(shrink(picture, size), item)
            progress(f"{name}: writing", i + 1, len(pictures))
    return Dataset.open(folder)
