"""Lumina-Image 2.0: one stream, Gemma 2, guidance that keeps its norm; its pipeline takes 8 pixels a latent for granted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import foreign
from tiny import ONE_LONG, Tiny, Variant, gemma, scaled

TOLD = "You are an assistant designed to generate superior images with the superior degree of image-text alignment <Prompt Start>"


def make(root: Path, shifting: bool = False) -> Path:
    """A teacher that listens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Transformer2DModel

    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=4, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 6, 6), axes_lens=(300, 64, 64), cap_feat_dim=24,
    ).eval()  # fmt: skip
    tokenizer, encoder = gemma(24, [TOLD])
    folder = foreign.write(
        root / "lumina2", "Lumina2Pipeline", tokenizer=tokenizer, text_encoder=encoder, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0, use_dynamic_shifting=shifting),
        vae=foreign.kl_vae(4, 4, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
    )  # fmt: skip
    return scaled(folder, "transformer", 4, "norm_out.linear_2", "layers.0.attn.to_v")


TINY = Tiny(
    make,
    prompts=ONE_LONG,
    other=(96, 64),
    variants={"shifted by the size": Variant(partial(make, shifting=True))},
    refused=[("scheduler", {"_class_name": "DDIMScheduler", "beta_start": 1e-4}, "predicts a flow")],
    without={
        "image to image": "diffusers has no pipeline for it",
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
    },
)
