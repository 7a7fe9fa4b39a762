"""DiT: a thousand classes, six of them with names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import PROMPTS, Tiny, scaled

NAMES = dict(enumerate(foreign.PROMPTS))


def make(root: Path) -> Path:
    """A teacher on latents of 8x8 that predicts variances, too."""
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=4, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4, attention_bias=True,
    ).eval()  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    folder = foreign.write(root / "dit", "DiTPipeline", transformer=transformer, vae=foreign.kl_vae(2), scheduler=scheduler)
    path = folder / "model_index.json"
    words = {str(k): f"{name}, class {k}" for k, name in NAMES.items()}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": words}))
    scaled(folder, "vae", 6, "decoder.conv_out")
    scaled(folder, "transformer", 6, "class_embedder", "norm1.linear")
    return folder


def by_class(prompts: Sequence[str]) -> dict[str, Any]:
    """Numbers of classes."""
    return {"class_labels": [foreign.PROMPTS.index(prompt) for prompt in prompts]}


TINY = Tiny(
    make,
    prompts=PROMPTS,
    call=by_class,
    other=None,
    auto=False,
    without={
        "image to image": "diffusers has no pipeline for it",
        "lora": "stock diffusers loads no LoRA onto a DiTTransformer2DModel: use --student full",
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
    },
)
