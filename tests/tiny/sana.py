"""Sana: an autoencoder of 32 pixels a latent, Gemma 2 with an instruction before the prompt, linear attention."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

import foreign
from tiny import ONE_LONG, Tiny, gemma, scaled

INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


def make(root: Path) -> Path:
    """A teacher that listens: 8 pixels a latent here."""
    torch.manual_seed(0)
    tokenizer, encoder = gemma(24, INSTRUCTION)
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=3,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=24,
        sample_size=4,
    ).eval()  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8, 8, 16, 16),
        decoder_block_out_channels=(8, 8, 16, 16), encoder_layers_per_block=(1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1), encoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",),
        decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",), encoder_qkv_multiscales=((), (), (), (5,)),
        decoder_qkv_multiscales=((), (), (), (5,)), scaling_factor=0.41407,
    ).eval()  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, solver_order=2
    )
    folder = foreign.write(
        root / "sana", "SanaPipeline", tokenizer=tokenizer, text_encoder=encoder, transformer=transformer, vae=vae,
        scheduler=scheduler,
    )  # fmt: skip
    return scaled(folder, "transformer", 4, "attn2.to_out", "attn2.to_v", "proj_out")


TINY = Tiny(
    make,
    prompts=ONE_LONG,
    extra={"use_resolution_binning": False},  # the sizes that it bins to are those of the large models
    other=(64, 32),
    student={"height": 32, "width": 32},
    refused=(
        ("transformer", {"guidance_embeds": True}, "such as Sana-Sprint, which is a student already: give the Sana that it"),
        ("scheduler", {"use_flow_sigmas": False, "prediction_type": "epsilon"}, r"\(eps\), and Sana predicts a flow: give it"),
    ),
    without={"image to image": "diffusers has no pipeline for it"},
)
