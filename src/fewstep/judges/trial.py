"""A judge on a few made-up pictures: the self-test of its file, its environment and, where they are there, its weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.dataset import Progress
from . import environment
from .judge import Judge
from .running import Judgement, Request, ask

N = 6
"""Made-up pictures of a self-test."""


def run(
    judge: Judge, pictures: Sequence[Path], prompts: Sequence[str], against: Sequence[Path], found: environment.Found,
    timeout: float, device: str = "cpu", progress: Progress | None = None, tiny: bool = False,
) -> Judgement:  # fmt: skip
    """Ask a judge about pictures and, where it gives features, about the real ones after them. Raises as `ask` does."""
    python = environment.python_of(judge)
    if python is None:
        raise ValueError(f"the judge {judge.name} has no environment yet: fewstep judge {judge.name} --setup")
    every = [str(path.resolve()) for path in (*pictures, *(against if judge.kind == "features" else ()))]
    texts = [*prompts, *[""] * (len(every) - len(pictures))]
    with tempfile.TemporaryDirectory(prefix="fewstep-judge-") as made:
        folder = Path(made)
        request = Request(
            judge.name, judge.module.__name__, every, texts, [str(path.resolve()) for path in against], found.folder, device,
            packages=judge.packages, path=judge.search_path, tiny=tiny,
        )  # fmt: skip
        if judge.kind == "features":
            request = replace(request, features=str(folder / "features.safetensors"))
        (folder / "request.json").write_text(json.dumps(asdict(request)), "utf-8")
        return ask(
            judge, python, request, folder / "request.json", environment.place(judge) / "judge.log", timeout, progress
        )


def self_test(judge: Judge, timeout: float, weights: Path | None = None) -> list[str]:
    """Judge made-up pictures: with small random weights, and with its own where they are there. Says what was tested.

    Raises ValueError where the judge does not answer as it should.
    """
    told = []
    with tempfile.TemporaryDirectory(prefix="fewstep-judge-") as made:
        folder = Path(made)
        pictures = made_up(folder, N)
        prompts = [f"a square of shade {i}" for i in range(N)]
        if judge.has_tiny:
            (folder / "tiny").mkdir()
            stand_in = environment.Found(str(folder / "tiny"))
            run(judge, pictures, prompts, pictures, stand_in, timeout, tiny=True)
            told.append(f"{judge.name} answers with small random weights of its own classes")
        if lacking := environment.missing(judge, weights):
            told.append(lacking)
        else:
            found = environment.weights(judge, weights)
            run(judge, pictures, prompts, pictures, found, timeout)
            told.append(
                f"{judge.name}{found.others} answers" + (f" with the weights in {found.folder}" if found.folder else "")
            )
    return told


def made_up(folder: Path, n: int) -> list[Path]:
    """Pictures of 64 x 64 with squares of several shades and places."""
    found = []
    for i in range(n):
        pixels = np.full((64, 64, 3), 255 - 20 * i, np.uint8)
        pixels[8 + 4 * i : 40 + 2 * i, 10 : 30 + 3 * i] = (40 * i, 200 - 30 * i, 90)
        found.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(found[-1])
    return found
