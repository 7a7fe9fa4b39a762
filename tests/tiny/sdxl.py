"""SDXL: two text encoders, sizes beside the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, Variant, scaled

MEAN, STD = [0.5, -0.3, 0.2, -0.4], [1.5, 0.6, 1.2, 0.8]


def make(root: Path) -> Path:
    """A teacher that listens."""
    return scaled(foreign.sdxl(root), "unet", 8, "attn2.to_out", "attn2.to_v")


def changed(folder: Path, file: str, **lines: Any) -> Path:
    """A folder with some lines of a JSON file changed."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | lines))
    return folder


def with_statistics(root: Path) -> Path:
    """A teacher whose latents have a mean and a deviation by channel, as Playground's."""
    folder = make(root)
    torch.manual_seed(1)
    foreign.kl_vae(2, latents_mean=MEAN, latents_std=STD).save_pretrained(folder / "vae")
    return changed(folder, "model_index.json", vae=["diffusers", "AutoencoderKL"])


def empty_prompt(root: Path) -> Path:
    """A teacher whose guidance is away from the empty prompt, not from zeros."""
    return changed(make(root), "model_index.json", force_zeros_for_empty_prompt=False)


def predicting_v(root: Path) -> Path:
    """A fine-tune that predicts v and ends in pure noise."""
    lines = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    return changed(make(root), "scheduler/scheduler_config.json", **lines)


TINY = Tiny(
    make,
    variants={
        "mean and deviation of its latents": Variant(with_statistics),
        "guidance away from the empty prompt": Variant(empty_prompt),
        "v, zero terminal SNR": Variant(predicting_v),
    },
    refused=(
        ("", {"text_encoder": ["kolors", "ChatGLMModel"]}, "is Kolors, whose text encoder, a ChatGLMModel, is not known here"),
    ),
)
