"""FLUX.1 dev: packed latents, a guidance beside the time, two text encoders, a shift that goes by the size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, Variant, scaled

SIDE = 8
"""Latents a side; the stock pipeline, which is not told, draws 128 where it is not asked for a size."""


def make(root: Path, guidance: bool = True, name: str = "flux", **transformer: Any) -> Path:
    """A teacher that listens: dev, or schnell without ``guidance``."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=8, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6), **transformer,
    ).eval()  # fmt: skip
    tokenizer, encoder = foreign.t5(32)
    folder = foreign.write(
        root / name, "FluxPipeline", transformer=network,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance, shift=3.0 if guidance else 1.0),
        vae=foreign.kl_vae(2, 4, shift_factor=0.12, scaling_factor=0.36, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=foreign.clip_encoder(8), tokenizer=foreign.clip_tokenizer(root / "words"),
        text_encoder_2=encoder, tokenizer_2=tokenizer,
    )  # fmt: skip
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": SIDE}))
    return scaled(folder, "transformer", 8, "context_embedder.weight", "norm_out.linear.weight")


def call(prompts: Sequence[str]) -> dict[str, Any]:
    """With the empty prompt beside, as classifier-free guidance wants it."""
    return {"prompt": list(prompts), "negative_prompt": [""] * len(prompts)}


def spatial(pipe: Any, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """By the pipeline's own unpacking."""
    return type(pipe)._unpack_latents(latents, *size, pipe.vae_scale_factor)


TINY = Tiny(
    make,
    call=call,
    guided="true_cfg_scale",
    other=(24, 16),
    spatial=spatial,
    student={"height": 2 * SIDE, "width": 2 * SIDE},
    told={"guidance_scale": 3.5},
    variants={"schnell": Variant(partial(make, guidance=False))},
    refused=[
        ("transformer", {"in_channels": 384, "out_channels": 64}, r"\(384 channels in, 64 out\), which is shown a picture"),
        ("", {"_class_name": "FluxKontextPipeline"}, "FluxKontextPipeline .* give the text-to-image model"),
        ("scheduler", {"_class_name": "DDIMScheduler", "beta_start": 1e-4}, "FLUX.1 predicts a flow"),
    ],
    without={"freeze": "no inner convolutions to freeze: use --student lora or --student full"},
)
