"""AuraFlow: two streams, then one; T5 with zeros where the prompt ends."""

from __future__ import annotations

from pathlib import Path

import torch

import foreign
from tiny import Tiny, scaled


def make(root: Path) -> Path:
    """A teacher on latents of 8x8 that listens."""
    from diffusers import AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=2, num_single_dit_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, out_channels=4, pos_embed_max_size=256,
    ).eval()  # fmt: skip
    tokenizer, encoder = foreign.t5(32)
    folder = foreign.write(
        root / "auraflow", "AuraFlowPipeline", tokenizer=tokenizer, text_encoder=encoder, transformer=transformer,
        vae=foreign.kl_vae(2), scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip
    scaled(folder, "transformer", 12, "context_embedder", "add_v_proj", "to_v", "to_out", "register_tokens")
    scaled(folder, "transformer", 2.5, "proj_out.weight")
    return scaled(folder, "transformer", 10, "norm1.linear")


TINY = Tiny(
    make,
    student={"height": 16, "width": 16},
    without={
        "image to image": "diffusers has no pipeline for it",
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
    },
)
