"""Stable Diffusion 1 and 2, their table of betas."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import foreign
from tiny import Tiny, Variant, scaled


def make(root: Path, **scheduler: Any) -> Path:
    """A teacher that listens; ``scheduler`` is what its PNDM scheduler is told beside its betas."""
    return scaled(foreign.sd1(root, **scheduler), "unet", 8, "attn2.to_out", "attn2.to_v")


def changed(file: Path, **lines: Any) -> None:
    """Some lines of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | lines))


def zero_terminal(folder: Path) -> Path:
    """The folder with a scheduler that ends in pure noise."""
    changed(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    changed(folder / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler", rescale_betas_zero_snr=True)
    return folder


def oblong(root: Path) -> Path:
    """A teacher whose native size is no square."""
    folder = make(root)
    changed(folder / "unet" / "config.json", sample_size=[12, 8])
    return folder


TINY = Tiny(
    make,
    variants={
        "v": Variant(partial(make, prediction_type="v_prediction")),
        "v, zero terminal SNR": Variant(lambda root: zero_terminal(make(root, prediction_type="v_prediction"))),
        "x0": Variant(partial(make, prediction_type="sample")),
        "no square": Variant(oblong),
    },
)
