"""Stable Diffusion's own safety checker: CLIP's view of a picture against the concepts that its folder brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from .quiet import quiet
from .weights import load_network

FILES = (
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
)
"""What a folder with one holds."""


def check_has_safety_checker(folder: Path) -> None:
    """Raise ValueError for a pipeline folder that brings none, or whose weights are a pickle."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"{folder} brings no safety checker ({missing[0]} is missing): use --safety words, or a filter of your own"
        )


class SafetyChecker:
    """Looks at pictures. On a CPU in one thread: it works beside whoever draws."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        check_has_safety_checker(folder)
        torch.set_num_threads(1)
        with quiet():
            self._prepare: Any = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
            network = load_network(StableDiffusionSafetyChecker, folder / "safety_checker")
        self._network: Any = network.eval().to(device)
        self._device = device

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"]) -> bool:
        """Whether it finds one of its concepts in a picture."""
        with quiet():
            given = self._prepare(Image.fromarray(pixels), return_tensors="pt").pixel_values
            _, found = self._network(clip_input=given.to(self._device), images=[pixels])
        return bool(found[0])
