"""A local store of content credentials: what another program dropped from a picture is found again by what is in its pixels.

A folder of ``.c2pa`` files. Each is named by the two soft bindings of its picture: the identifier in the watermark, where the
picture is large enough for one, and a fingerprint. Nothing else is ever removed from the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.files import content, whole
from fewstep.pixels import Pixels

GRID, KEPT = 64, 16
"""The fingerprint resizes the luminance to a grid of this side, and keeps the signs of so many lowest frequencies a side."""
ALIKE = 24
"""Of 256 bits, so many may differ."""
MOST_KEPT, MOST_MANIFEST = 20_000, 2**26
"""Manifests that a store holds, about 4 KB each, before the oldest makes room, and the bytes of one."""
NAME = re.compile(r"fewstep-(?P<fingerprint>[0-9a-f]{64})-(?P<identifier>[0-9a-f]{12}|none)-[0-9a-f]{16}\.c2pa")


@dataclass(frozen=True)
class Found:
    """Credentials that a store holds for a picture."""

    manifest: bytes
    """A ``.c2pa`` file's content."""
    by_identifier: bool
    """Whether the number in its watermark named them; else its fingerprint is near that of the picture they are about."""
    differing: int
    """Bits of the fingerprint that differ, of 256."""
    bound: str
    """The soft binding that the file's name tells, and its signed content has to tell, too: anybody can rename a file."""


def fingerprint(picture: Pixels) -> int:
    """256 bits of ``picture [H, W, 3]`` (uint8) that saving, resizing and small changes leave alone: a perceptual hash.

    The luminance in 64x64 means, its cosine transform, and of the lowest 16x16 frequencies whether each is above their median
    (C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1, with more bits).
    """
    grey = Image.fromarray(picture[..., :3]).convert("L").resize((GRID, GRID), Image.Resampling.BOX)
    places = np.arange(GRID)
    waves = np.cos(np.pi / GRID * (places[None] + 0.5) * places[:KEPT, None])
    lowest = (waves @ np.asarray(grey, np.float64) @ waves.T).ravel()
    bits = lowest > np.median(lowest[1:])
    return int("".join("01"[int(bit)] for bit in bits), 2)


def keep(folder: Path, picture: Pixels, identifier: int | None, manifest: bytes) -> Path:
    """Keep the manifest of a picture, whole or not at all. Where the store is full, the oldest that was kept makes room."""
    named = "none" if identifier is None else f"{identifier:012x}"
    path = folder / f"fewstep-{fingerprint(picture):064x}-{named}-{hashlib.sha256(manifest).hexdigest()[:16]}.c2pa"
    with whole(path) as draft:
        draft.write_bytes(manifest)
    kept = list(_kept(folder))
    if len(kept) > MOST_KEPT:
        by_age = sorted(kept, key=lambda one: one[1])
        for name, *_ in by_age[: len(kept) - MOST_KEPT]:
            with suppress(OSError):  # somebody else made the room
                (folder / name).unlink()
    return path


def find(folder: Path, picture: Pixels, identifier: int | None) -> Found | None:
    """The credentials of a picture: those that its identifier names, else those with the nearest fingerprint.

    Raises ValueError for a folder that can't be read.
    """
    mine = fingerprint(picture)
    best: tuple[bool, int, str, str] | None = None
    try:
        for name, _ in _kept(folder):
            match = NAME.fullmatch(name)
            assert match is not None
            exact = identifier is not None and match["identifier"] == f"{identifier:012x}"
            differing = (int(match["fingerprint"], 16) ^ mine).bit_count()
            if exact or differing <= ALIKE:
                bound = match["fingerprint"] if match["identifier"] == "none" else match["identifier"]
                best = min(best or (True, 257, "", ""), (not exact, differing, name, bound))
    except OSError as error:
        raise ValueError(
            f"can't read the store ({error}): give the folder that draw or serve kept credentials in"
        ) from error
    if best is None:
        return None
    try:
        return Found(content(folder / best[2], MOST_MANIFEST), not best[0], best[1], best[3])
    except OSError:
        return None


def _kept(folder: Path) -> Iterator[tuple[str, float]]:
    """Name and age of what fewstep kept in a folder; what others put there is passed over."""
    with os.scandir(folder) as inside:
        for one in inside:
            if NAME.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                with suppress(OSError):
                    yield one.name, one.stat(follow_symlinks=False).st_mtime
