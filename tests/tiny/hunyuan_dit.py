"""Hunyuan-DiT: BERT and T5 with their masks, rotary positions, v and its variances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import foreign
from tiny import Tiny, scaled


def bert(folder: Path, width: int) -> tuple[Any, Any]:
    """A BERT of one layer, and its tokenizer of single letters."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BertConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=77,
    )  # fmt: skip
    return BertTokenizer(str(folder / "vocab.txt"), model_max_length=77), BertModel(config).eval()


def make(root: Path) -> Path:
    """A teacher on latents of 4x4, 8 pixels each."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel

    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, patch_size=2, sample_size=4, hidden_size=32,
        num_layers=4, mlp_ratio=2.0, cross_attention_dim=16, cross_attention_dim_t5=32, pooled_projection_dim=24,
    ).eval()  # fmt: skip
    tokenizer, encoder = bert(root / "words", 16)
    tokenizer_2, encoder_2 = foreign.t5(32)
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction",
        clip_sample=False, steps_offset=1,
    )  # fmt: skip
    folder = foreign.write(
        root / "hunyuan", "HunyuanDiTPipeline", tokenizer=tokenizer, text_encoder=encoder, tokenizer_2=tokenizer_2,
        text_encoder_2=encoder_2, transformer=transformer, vae=foreign.kl_vae(4), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    scaled(folder, "vae", 6, "decoder.conv_out")
    return scaled(folder, "transformer", 4, "attn2.to_out", "attn2.to_v")


TINY = Tiny(
    make,
    extra={"use_resolution_binning": False},  # the sizes that it knows are those of the large models
    other=(64, 32),
    student={"use_resolution_binning": False},
    without={
        "image to image": "diffusers has no pipeline for it",
        "lora": "stock diffusers loads no LoRA onto a HunyuanDiT2DModel: use --student full",
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
    },
    refused=[
        ("vae", {"block_out_channels": [8, 8]}, "pixels a latent, and the stock pipeline counts its positions with 8"),
        ("transformer", {"learn_sigma": False}, "predicts no variances .learn_sigma."),
    ],
)
