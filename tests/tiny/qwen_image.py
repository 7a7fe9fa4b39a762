"""Qwen-Image: packed latents, a Qwen2.5-VL that is asked in a chat, an autoencoder of videos, guidance of its own."""

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
WIDTH = 32


def reader(folder: Path) -> tuple[Any, Any]:
    """A byte-level tokenizer that merges nothing, and a Qwen2.5-VL of one layer."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    words = {word: i for i, word in enumerate((*bytes_to_unicode().values(), *marks))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2Tokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), additional_special_tokens=list(marks[1:]),
        model_max_length=2048,
    )  # fmt: skip
    text = {
        "vocab_size": len(words), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]}, "bos_token_id": 256,
        "eos_token_id": 258, "pad_token_id": 256,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return tokenizer, Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()


def make(root: Path, **scheduler: Any) -> Path:
    """A teacher that listens."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.3, -0.2, 0.1, 0.4], latents_std=[1.5, 0.8, 1.2, 2.0],
    ).eval()  # fmt: skip
    tokenizer, encoder = reader(root / "words")
    folder = foreign.write(
        root / "qwen_image", "QwenImagePipeline", transformer=network, vae=vae, tokenizer=tokenizer, text_encoder=encoder,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, **scheduler
        ),
    )  # fmt: skip
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": SIDE}))
    return scaled(folder, "transformer", 8, "txt_in.weight", "norm_out.linear.weight", "add_v_proj", "add_k_proj")


def call(prompts: Sequence[str]) -> dict[str, Any]:
    """With the empty prompt beside, as classifier-free guidance wants it."""
    return {"prompt": list(prompts), "negative_prompt": [""] * len(prompts)}


def spatial(pipe: Any, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """By the pipeline's own unpacking, without the frames' axis."""
    return type(pipe)._unpack_latents(latents, *size, pipe.vae_scale_factor)[:, :, 0]


TINY = Tiny(
    make,
    call=call,
    guided="true_cfg_scale",
    spatial=spatial,
    student={"height": 2 * SIDE, "width": 2 * SIDE, "negative_prompt": None},  # with one it would be guided
    variants={"as published": Variant(partial(make, shift_terminal=0.02))},  # of which stock diffusers makes no one step
    refused=[
        ("transformer", {"zero_cond_t": True}, r"\(zero_cond_t\), which is shown a picture"),
        ("", {"_class_name": "QwenImageEditPipeline"}, "QwenImageEditPipeline, which is shown a picture: give the"),
        ("scheduler", {"_class_name": "DDIMScheduler", "beta_start": 1e-4}, "Qwen-Image predicts a flow"),
    ],
    without={"freeze": "no inner convolutions to freeze: use --student lora or --student full"},
)
