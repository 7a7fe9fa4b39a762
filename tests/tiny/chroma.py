"""Chroma: FLUX without a pooled text, T5's padding masked, guided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, scaled

SIDE = 8


def make(root: Path) -> Path:
    """A teacher that listens."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.ChromaTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6), approximator_num_channels=64, approximator_hidden_dim=32,
        approximator_layers=1,
    ).eval()  # fmt: skip
    tokenizer, encoder = foreign.t5(32)
    folder = foreign.write(
        root / "chroma", "ChromaPipeline", transformer=network, text_encoder=encoder, tokenizer=tokenizer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.5),
        vae=foreign.kl_vae(2, 4, shift_factor=0.12, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
    )  # fmt: skip
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": SIDE}))
    return scaled(folder, "transformer", 8, "context_embedder.weight", "distilled_guidance_layer.out_proj.weight")


def spatial(pipe: Any, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """By the pipeline's own unpacking."""
    return type(pipe)._unpack_latents(latents, *size, pipe.vae_scale_factor)


TINY = Tiny(
    make,
    extra={"negative_prompt": ""},
    spatial=spatial,
    student={"height": 2 * SIDE, "width": 2 * SIDE},
    refused=[("scheduler", {"_class_name": "DDIMScheduler", "beta_start": 1e-4}, "Chroma predicts a flow")],
    without={
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
        "image to image": "AutoPipelineForImage2Image knows none for it",
    },
)
