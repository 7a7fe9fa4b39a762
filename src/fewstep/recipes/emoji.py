"""emoji-64: the embedded default, a small but complete text-to-image model in Stable Diffusion's layout.

Four parts, as in every Stable Diffusion: a pretrained sentence encoder, a tiny VAE (f4), a small conditional UNet that
predicts v, and a scheduler config. This file says what they are and how each is trained; nothing here runs a loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .. import bundle
from ..data.dataset import Dataset
from ..parts.codec import Codec
from ..parts.conditioner import Conditioner
from ..pretrained import SENTENCE_TOKENS, UNetDenoiser, VaeCodec, schedule_of
from ..tensors import Media
from ..training.data import Progress, PromptTable, TrainingSet, encode_all
from ..training.trainer import Optimizer, Options

SIZE = 64
LATENT_CHANNELS = 4
TEXT_WIDTH = 384
BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
}
STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25)
GUIDANCE_SCALE = 3.0


@dataclass(frozen=True)
class Size:
    """How big the UNet is."""

    channels: tuple[int, ...] = (32, 96, 192)
    """Channels at 16x16, 8x8 and 4x4 latents."""
    attention: tuple[bool, ...] = (False, False, True)
    """Where text is read: cross-attention at these levels (and in the middle)."""
    layers: int = 1
    """Residual blocks a level."""


SIZES = {
    "small": Size(),
    "base": Size(channels=(64, 128, 256), attention=(False, True, True)),
}


def vae(width: int = 32) -> nn.Module:
    """The tiny VAE: f4, four latent channels, no full-resolution blocks (they cost half of all time at 64 px)."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 2, 2),
        num_decoder_blocks=(3, 2, 0),
        latent_channels=LATENT_CHANNELS,
        act_fn="relu",
    )


def unet(size: Size = Size()) -> nn.Module:
    """The conditional UNet, fresh."""
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in size.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(size.attention))
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(max(1, c // 32) for c in size.channels),  # diffusers reads this as a number of heads
        norm_num_groups=16,
    )


def denoiser(network: nn.Module) -> UNetDenoiser:
    """The UNet as a Denoiser: v-prediction, zero terminal SNR."""
    return UNetDenoiser(network, schedule_of(dict(BETAS)), "v")


def codec(network: nn.Module) -> VaeCodec:
    """The VAE as a Codec."""
    return VaeCodec(network)


def scheduler(role: str) -> Any:
    """The scheduler config that ships with a teacher or a student."""
    return bundle.scheduler_for(role, "v_prediction", **BETAS)


def codec_options(steps: int = 2000, **options: Any) -> Options:
    """How the VAE is trained: 64 crops of 32 px a step."""
    adam = Optimizer(learning_rate=2e-3, beta1=0.9, beta2=0.99, decay=True, ema=0.998)
    return Options(steps=steps, batch_size=64, optimizers={"codec": adam}, **options)


def teacher_options(steps: int = 20000, batch_size: int = 64, learning_rate: float = 1e-3, **options: Any) -> Options:
    """How the teacher is trained."""
    adam = Optimizer(
        learning_rate=learning_rate, beta1=0.9, beta2=0.99, weight_decay=0.01, warmup=200, decay=True, ema=0.999
    )
    return Options(steps=steps, batch_size=batch_size, optimizers={"teacher": adam}, **options)


def prompt_table(prompts: list[str], text: Conditioner, cache: Path, progress: Progress | None = None) -> PromptTable:
    """Encoded prompts, from the cache if the same ones were encoded before (about 10 ms a prompt otherwise)."""
    key = hashlib.sha256("\n".join([str(SENTENCE_TOKENS), *prompts]).encode()).hexdigest()[:16]
    path = cache / f"prompts-{key}.safetensors"
    if path.is_file():
        saved = load_file(path)
        return PromptTable(saved["tokens"], saved["pooled"])
    table = PromptTable.encode(prompts, text, progress)
    assert table.tokens is not None
    assert table.pooled is not None
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({"tokens": table.tokens, "pooled": table.pooled}, partial)
    partial.rename(path)
    return table


def training_set(
    dataset: Dataset,
    codec: Codec,
    text: Conditioner,
    cache: Path,
    batch_size: int,
    seed: int = 0,
    media: bool = False,
    progress: Progress | None = None,
) -> TrainingSet:
    """The train split, encoded: latents in memory, every distinct prompt once. ``media`` also hands out the pixels."""
    train = dataset.subset("train")
    prompts = sorted({p for item in train.items for p in item.prompts})
    row = {p: i for i, p in enumerate(prompts)}

    def read(rows: np.ndarray) -> Media:
        return train.media(torch.from_numpy(rows))

    return TrainingSet(
        latents=encode_all(len(train), read, codec, progress),
        prompts=prompt_table(prompts, text, cache, progress),
        choices=[[row[p] for p in item.prompts] for item in train.items],
        null=text.null(1),
        batch_size=batch_size,
        seed=seed,
        media=read if media else None,
    )
