"""Z-Image: one stream, a chat with Qwen3, time and output the other way round."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

import foreign
from tiny import ONE_LONG, Tiny, Variant, qwen, scaled

SIDE = 8
"""Latents a side; the stock pipeline, which is not told, draws 1024 pixels where it is not asked for a size."""


def make(root: Path, shifting: bool = False) -> Path:
    """A teacher that listens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=4, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
        axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
    ).eval()  # fmt: skip
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    tokenizer, encoder = qwen(24)
    folder = foreign.write(
        root / "z_image", "ZImagePipeline", tokenizer=tokenizer, text_encoder=encoder, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=shifting),
        vae=foreign.kl_vae(2, 4, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
    )  # fmt: skip
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": SIDE}))
    return scaled(folder, "transformer", 4, "all_final_layer.2-1.linear.weight", "layers.0.attention.to_v")


TINY = Tiny(
    make,
    prompts=ONE_LONG,
    stock_scale=lambda scale: scale - 1,  # its pipeline counts from 0
    student={"height": 2 * SIDE, "width": 2 * SIDE},
    variants={"shifted by the size": Variant(partial(make, shifting=True))},
    refused=[
        ("transformer", {"siglip_feat_dim": 8}, "is a Z-Image-Omni .* give the Z-Image that draws from a prompt alone"),
        ("scheduler", {"_class_name": "DDIMScheduler", "beta_start": 1e-4}, "predicts a flow"),
    ],
    without={"freeze": "no inner convolutions to freeze: use --student lora or --student full"},
)
