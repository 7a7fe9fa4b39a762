"""An arena whose pictures say which model made them, and raters whose preference is known."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from fewstep.arena.plan import CATCHES, Entry, Plan, Trial
from fewstep.arena.votes import Side
from fewstep.rng import Rng

NAMES = ("aurora", "borealis", "cumulus")
LEVELS = (230, 150, 70)
"""Redness of the pictures of models 0, 1 and 2."""


def folders(home: Path, items: int = 6) -> list[Path]:
    """A folder of pictures for each of three models: red says which model, blue which prompt."""
    made = [home / name for name in NAMES]
    for folder, level in zip(made, LEVELS):
        folder.mkdir()
        for item in range(items):
            colour = (level, 128, 20 + 40 * item)
            Image.new("RGB", (24, 24), colour).save(folder / f"prompt-{chr(97 + item)}.png")
    return made


def plan_of(models: int = 3, items: int = 20, **options: object) -> Plan:
    entries = tuple(Entry(f"m{m}", tuple(f"{m}-{i}.png" for i in range(items))) for m in range(models))
    return Plan(entries, tuple(f"prompt {i}" for i in range(items)), **options)  # type: ignore[arg-type]


def opinion(trial: Trial, question: str, strengths: list[float], rng: Rng, nu: float = 0.3) -> Side:
    """What a careful rater of these strengths says: drawn from Davidson's model, and right in catch pairs."""
    if trial.kind in CATCHES:
        score = 1.0 if CATCHES[trial.kind] == question else 0.5
    else:
        a, b = (10 ** (strengths[m] / 400) for m in (trial.a, trial.b))
        tie = nu * math.sqrt(a * b)
        at = float(rng.uniform((1,))) * (a + b + tie)
        score = 1.0 if at < a else 0.5 if at < a + tie else 0.0
    if score == 0.5:
        return "tie"
    return "left" if (score == 1) != trial.flipped else "right"


def seen(data: bytes) -> tuple[float, float, float]:
    """What a picture shows: its redness, its blueness, and how noisy it is."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    return float(pixels[..., 0].mean()), float(pixels[..., 2].mean()), float(pixels.std((0, 1)).mean())
