"""Models whose every step is known: the exact denoiser of four pictures, and a student that picks one of them at once."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch

from fewstep.inference.pipeline import Pipeline
from fewstep.rng import Rng
from fewstep.tensors import Media, match_dims
from tiny import unet


def four() -> Media:
    """What they draw: a picture of noise, moved by half of its sides."""
    first = Rng.of(7).normal((3, 16, 16)).clamp(-1, 1)
    return torch.stack([first.roll((8 * (i // 2), 8 * (i % 2)), (1, 2)) for i in range(4)])


def known(tmp_path: Path, role: str) -> Pipeline:
    """A model of four pictures, the same one moved: its exact denoiser for a teacher, and for a student one that picks a picture
    at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = Pipeline.open(unet.TINY.make(tmp_path / role))
    pictures = four()
    schedule = pipeline.model.denoiser.schedule

    def denoise(x, t, cond):
        away = (x[:, None] - match_dims(schedule.alpha(t), x)[:, None] * pictures).square().flatten(2).sum(2)
        if role == "student":
            return pictures[away.argmin(1)]
        weights = torch.softmax(-away / (2 * schedule.sigma(t).float().square()[:, None]), 1)
        return torch.einsum("bk,kchw->bchw", weights, pictures)

    few = replace(pipeline.card, role="student", steps=(1, 2, 4), times=(1.0, 0.75, 0.5, 0.25), sampler="ancestral")
    return Pipeline(pipeline.model, few if role == "student" else pipeline.card, denoise)
