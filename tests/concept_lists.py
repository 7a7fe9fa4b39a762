"""Bundles with a list of concepts of their own, and prompts that are far from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewstep.inference import concepts
from fewstep.inference.pipeline import Pipeline
from serving_helpers import WORDS, tiny_bundle

NAMES = [
    f"{colour} {thing}"
    for colour in ("red", "blue", "green")
    for thing in ("heart", "cat", "dog", "sun", "moon", "face")
]
NAMES += ["the sun with a face", "the moon with a face", "cat and dog"]


def with_list(folder: Path, names: list[str] = NAMES) -> Path:
    """The shared bundle with a list of its own."""
    shutil.copytree(tiny_bundle(), folder)
    (folder / concepts.LIST).write_text("\n".join(names) + "\n")
    return folder


def far_and_near(folder: Path) -> tuple[str, str]:
    """A prompt that is far from the list by this bundle's encoder, and one that is in it."""
    pipeline = Pipeline.open(folder)
    known = concepts.load(folder, pipeline.model.conditioner)
    assert known is not None
    tried = [f"{a} {b} {c}" for a in WORDS for b in "qxz" for c in "jkv"]
    return next(prompt for prompt in tried if known.far(pipeline.encode([prompt]))), NAMES[0]
