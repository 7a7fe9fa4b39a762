"""What a judge's file may import, in fewstep's process and in its own: the standard library at the top, nothing else.

A judge's environment holds the judge's packages, of the releases that it pins, and no fewstep. Everything here runs on any
Python of 3.9 or later.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

AT_ONCE = 16
"""Pictures that a network sees in one call."""
NETWORK = "transformers==4.46.3", "torch==2.5.1", "numpy==1.26.4", "pillow==10.4.0", "safetensors==0.4.5"
"""Pins of the judges that stand on transformers' own classes."""


@dataclass(frozen=True)
class Weights:
    """Files that a judge reads and that nobody but the user fetches."""

    fetch: str
    """What to type to get them; ``{folder}`` is where they are looked for."""
    files: Mapping[str, str]
    """By the name of each file that decides a score: how its SHA-256 begins, 8 hex digits or more. Empty digits: not known
    here, so no file can be told to be the canonical one."""
    licence: str = ""
    """Of the weights, where it is another than the judge's."""


@dataclass(frozen=True)
class Asked:
    """What a judge is loaded for."""

    name: str
    """The judge's name: a file may hold several."""
    weights: str = ""
    """The folder of its weights; empty for a judge that has none."""
    device: str = "cpu"
    """Where it computes."""
    against: Sequence[str] = ()
    """Files of the real pictures."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the judge was told."""


def batches(
    pictures: Sequence[str], prompts: Sequence[str], size: int = AT_ONCE
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Files and their prompts, ``size`` at a time; the last may be fewer."""
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size], prompts[start : start + size]


def rgb(path: str) -> Any:
    """A picture as PIL has it, in colour; a transparent one on white."""
    from PIL import Image

    with Image.open(path) as file:
        if "A" in file.getbands() or "transparency" in file.info:
            clear = file.convert("RGBA")
            ground = Image.new("RGBA", clear.size, "white")
            return Image.alpha_composite(ground, clear).convert("RGB")
        return file.convert("RGB")


def media(files: Sequence[str]) -> Iterator[Any]:
    """Pictures as tensors ``[n, 3, H, W]`` in [-1, 1]: all in one where they are of one size, else one by one."""
    import numpy
    import torch

    read = [torch.from_numpy(numpy.array(rgb(path))).permute(2, 0, 1).float() / 127.5 - 1 for path in files]
    if len({picture.shape for picture in read}) == 1:
        yield torch.stack(read)
    else:
        yield from (picture[None] for picture in read)


class OnMedia:
    """A map from media ``[n, 3, H, W]`` in [-1, 1] to features with ``pooled [n, D]``, on files; float32, no gradients."""

    def __init__(self, features: Any) -> None:
        self.features, self.resizer, self.fingerprint = features, features.resizer, features.fingerprint

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """The embeddings."""
        import torch

        for files, _ in batches(pictures, prompts):
            for some in media(files):
                with torch.no_grad():
                    yield from self.features(some).pooled


class FeaturesFile:
    """Rows of numbers as a safetensors file with the one tensor ``features [N, D]`` in float32, written row by row."""

    def __init__(self, path: Path | str, n: int) -> None:
        self._path, self._n, self._width = Path(path), n, 0
        self._file: BinaryIO | None = None

    def add(self, row: Any) -> None:
        """One picture's row: any sequence of numbers. Raises ValueError where it is of another length than the first."""
        values = array("f", [float(x) for x in getattr(row, "tolist", lambda: row)()])
        if self._file is None:
            self._width, self._file = len(values), open(self._path, "wb")  # noqa: SIM115
            size = self._n * self._width * values.itemsize
            head = {"features": {"dtype": "F32", "shape": [self._n, self._width], "data_offsets": [0, size]}}
            text = json.dumps(head).encode()
            text += b" " * (-len(text) % 8)
            self._file.write(struct.pack("<Q", len(text)) + text)
        if len(values) != self._width:
            raise ValueError(f"a row of {len(values)} features follows rows of {self._width}")
        self._file.write(values.tobytes())

    def close(self) -> None:
        """Have everything on disk."""
        if self._file is not None:
            self._file.close()
