"""Pictures for judges, and a judge asked in a process with small random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.judges import environment, trial
from fewstep.judges.judge import Judge, find
from fewstep.judges.running import Judgement

PROMPTS = ["a red heart", "a blue fish", "the", "it is a very long one " * 40]


def pictures(folder: Path) -> list[Path]:
    """A square, a wide, a high and a transparent one."""
    lot, found = np.random.default_rng(0), []
    for i, (wide, high, bands) in enumerate([(40, 40, 3), (60, 32, 3), (30, 51, 3), (40, 40, 4)]):
        found.append(folder / f"{i}.png")
        Image.fromarray(lot.integers(0, 256, (high, wide, bands), np.uint8)).save(found[-1])
    return found


def here(name: str) -> Judge:
    """The judge, in fewstep's own environment: the releases that its pins name are installed there, too."""
    return replace(find(name), pins=None)


def judged(name: str, weights: Path, given: list[Path], tiny: bool = True) -> Judgement:
    """Asked in a process, the first picture once more as a real one; its weights are made there, or lie in the folder."""
    weights.mkdir(exist_ok=True)
    return trial.run(here(name), given, PROMPTS, given[:1], environment.Found(str(weights)), 240, tiny=tiny)
