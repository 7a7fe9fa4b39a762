"""A tiny complete text-to-image bundle of real parts: UNet, AutoencoderTiny, BERT and a word-piece tokenizer, no downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fewstep import bundle
from fewstep.pretrained.families import sd
from fewstep.recipes import emoji

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "heart", "blue", "house", "cat", "dog", ",", "style"]


def text_folder(folder: Path, width: int = 16, length: int = 8) -> Path:
    """``tokenizer/`` and ``text_encoder/`` of a two-layer BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizer

    (folder / "words").mkdir(parents=True)
    vocabulary = folder / "words" / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(vocabulary), model_max_length=length)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        use_attention_mask=True,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "text_encoder")
    return folder


def tiny_bundle(root: Path, role: str = "student", width: int = 16, prediction_type: str = "v_prediction", **card: Any) -> Path:
    """A bundle of small pictures with random weights, whose latents have half their sides: 16x16, if the card does not say
    another ``native_size`` (height, width)."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    torch.manual_seed(0)
    height, wide = size = card.get("native_size", (16, 16))
    unet = UNet2DConditionModel(
        sample_size=height // 2 if height == wide else tuple(side // 2 for side in size),
        in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=4, addition_embed_type="text",
        addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    facts = {
        "name": "tiny", "role": role, "method": "add", "steps": (1, 2, 3, 4) if role == "student" else (25, 50),
        "times": (1.0, 0.75, 0.5, 0.25) if role == "student" else (), "native_size": (16, 16),
        "guidance_scale": 1.0 if role == "student" else 3.0, "sampler": "ancestral" if role == "student" else "ddim",
    } | card  # fmt: skip
    folder = root / f"tiny-{role}"
    scheduler = sd.FAMILY.scheduler(role, {"prediction_type": prediction_type, **emoji.BETAS})
    bundle.save(folder, bundle.Card(**facts), family=sd.FAMILY, network=unet, vae=vae, scheduler=scheduler,
                text=text_folder(root / "text"))  # fmt: skip
    return folder
