"""DDPM's UNet on pixels, unconditional."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, scaled


def make(root: Path) -> Path:
    """A teacher on pictures of 16x16."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, norm_num_groups=4,
    ).eval()  # fmt: skip
    folder = foreign.write(root / "unet", "DDPMPipeline", unet=network, scheduler=DDPMScheduler(clip_sample=False))
    return scaled(folder, "unet", 3, "conv_out")


def so_many(prompts: Sequence[str]) -> dict[str, Any]:
    """The stock pipeline is told how many, and nothing else."""
    return {"batch_size": len(prompts)}


TINY = Tiny(
    make,
    prompts=("", "", ""),
    call=so_many,
    guided="",
    other=None,
    auto=False,
    without={
        "prompts": "it draws without a prompt",
        "image to image": "diffusers has no pipeline for it",
        "bf16": "the stock pipeline makes no pictures of bf16 numbers",
        "lora": "stock diffusers loads no LoRA onto a UNet2DModel: use --student full",
    },
)
