"""Z-Image: one stream of the picture's tokens and of the prompt's, which Qwen3 reads as a chat (arXiv 2511.22699)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Features, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser, every_third
from ..reading import Parts
from ..text import Written
from ..trainable import TARGETS
from ._flow import RenoisedFlowFamily, unless_1024
from ._language import LanguageConditioner
from .family import Configs, Usual

TOKENS = 512
"""How many tokens of the chat Qwen3 is given."""
NATIVE = 128
"""Latents a side of what the stock pipeline draws where nobody says a size."""
PATCH = 2
"""Latents a token, along each side."""


class ZImageDenoiser(TransformerDenoiser):
    """Z-Image's transformer (``ZImageTransformer2DModel``)."""

    reads = ("tokens", "mask")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The flow ``noise - x0``. The network itself is told ``1 - t``, and predicts ``x0 - noise``."""
        x, cond = self._own(x_t, cond)
        assert cond.tokens is not None
        assert cond.mask is not None
        captions = [tokens[mask.bool()] for tokens, mask in zip(cond.tokens, cond.mask)]
        clean = (1000 - self.told(t).to(torch.float32)) / 1000
        out = self.network(list(x.unsqueeze(2).unbind(0)), clean, captions, return_dict=False)[0]
        return -torch.stack([picture.squeeze(1) for picture in out])

    def blocks(self) -> list[nn.Module]:
        """Those that refine the picture, those that refine the prompt, those of both."""
        return [*self.network.noise_refiner, *self.network.context_refiner, *self.network.layers]

    def tapped(self) -> Sequence[nn.Module]:
        """Every third of the blocks of both, and the last."""
        return every_third(list(self.network.layers))

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        """The picture's tokens, which come first."""
        found, n = super().features(x_t, t, cond), math.prod(x_t.shape[2:]) // PATCH**2
        return Features(tuple(level[:, :, :n] for level in found.levels), t=found.t)

    def _level(self, output: Any) -> Tensor:
        return output.transpose(1, 2)  # [B, N, C] -> [B, C, N]


class Chat:
    """A prompt as the tokenizer's own template has what somebody says to the assistant."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, prompt: str) -> str:
        """With the beginning of an answer."""
        said = [{"role": "user", "content": prompt}]
        return self.tokenizer.apply_chat_template(
            said, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )


class ZImage(RenoisedFlowFamily):
    """Z-Image and Z-Image-Turbo."""

    title = "Z-Image"
    targets = (*TARGETS, "w1", "w2", "w3")
    pipeline = "ZImagePipeline"
    usual = Usual("Z-Image", 6_154_908_736, 62_506_373_349_376, (1024, 1024))
    networks = ("ZImageTransformer2DModel",)
    statistics = ("shift_factor",)
    tokenizers = {"tokenizer": TOKENS}  # noqa: RUF012

    def check(self, configs: Configs) -> None:
        """A flow from a prompt alone: Z-Image-Omni is shown pictures, too."""
        super().check(configs)
        if configs.of("transformer").get("siglip_feat_dim"):
            raise ValueError(
                f"{configs.folder} is a Z-Image-Omni (siglip_feat_dim in transformer/config.json), which is shown pictures, "
                "too: give the Z-Image that draws from a prompt alone"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return ZImageDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> LanguageConditioner:
        """Qwen3."""
        tokenizer = parts("tokenizer")
        return LanguageConditioner(tokenizer, parts("text_encoder"), TOKENS, Chat(tokenizer))

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Its tokenizer reads the chat around the prompt, too."""
        tokenizer = parts("tokenizer")
        return [(tokenizer, TOKENS, Chat(tokenizer))]

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Its size, where that is not the stock pipeline's 1024."""
        return unless_1024(size)

    def latent_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Its config names no size."""
        size = config.get("sample_size") or NATIVE
        return (config["in_channels"], *((size, size) if isinstance(size, int) else size))

    def patch(self, config: Mapping[str, Any]) -> int:
        """Two by two, in the stock pipeline."""
        return PATCH


FAMILY = ZImage()
