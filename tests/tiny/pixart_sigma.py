"""PixArt-sigma: a transformer that predicts variances, too, and T5 with its mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, scaled

REASONS = {
    "image to image": "diffusers has no pipeline for it",
    "lora": "stock diffusers loads no LoRA onto a PixArtTransformer2DModel: use --student full",
    "freeze": "no inner convolutions to freeze: use --student lora or --student full",
}


def make(root: Path, pipeline: str = "PixArtSigmaPipeline", levels: int = 2, **network: Any) -> Path:
    """A teacher on latents of 8x8, if ``network`` does not say others, that listens."""
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    torch.manual_seed(0)
    options = {"sample_size": 8, "patch_size": 2, "use_additional_conditions": False} | network
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=4, norm_num_groups=4,
        cross_attention_dim=24, caption_channels=32, **options,
    ).eval()  # fmt: skip
    tokenizer, encoder = foreign.t5(32)
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2)
    folder = foreign.write(
        root / "pixart", pipeline, tokenizer=tokenizer, text_encoder=encoder, transformer=transformer,
        vae=foreign.kl_vae(levels, mid_block_add_attention=levels > 1), scheduler=scheduler,
    )  # fmt: skip
    scaled(folder, "vae", 6, "decoder.conv_out")
    return scaled(folder, "transformer", 3, "attn2.to_out", "attn2.to_v", "caption_projection")


TINY = Tiny(
    make,
    extra={"use_resolution_binning": False},  # the sizes that it bins to are those of the large models
    student={"use_resolution_binning": False},
    without=REASONS,
)
