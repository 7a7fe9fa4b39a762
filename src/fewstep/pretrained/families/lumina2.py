"""Lumina-Image 2.0: one stream of the prompt's tokens and of the picture's, guidance that keeps its norm (arXiv 2503.21758)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.guidance import guide
from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Features, Latents, Time, match_dims
from ..networks import NetworkDenoiser, TransformerDenoiser, every_third
from ..reading import Parts
from ..schedules import settled
from ..text import Written
from ..trainable import TARGETS
from ._flow import RenoisedFlowFamily
from ._language import LanguageConditioner
from .family import Configs, Usual

TOKENS = 256
"""How many of Gemma's tokens the network is given."""
SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based on "
    "textual prompts or user prompts."
)
"""What the stock pipeline tells the encoder before a prompt."""


def written(prompt: str) -> str:
    """The prompt after what the encoder is told."""
    return f"{SYSTEM} <Prompt Start> {prompt}"


class Lumina2Denoiser(TransformerDenoiser):
    """Lumina-Image 2.0's transformer (``Lumina2Transformer2DModel``)."""

    reads = ("tokens", "mask")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The flow ``noise - x0``. The network itself is told ``1 - t``, and predicts ``x0 - noise``."""
        x, cond = self._own(x_t, cond)
        clean = 1 - self.told(t).to(torch.float32) / self.schedule.n_timesteps  # type: ignore[attr-defined]
        out = self.network(x, clean, cond.tokens, cond.mask, return_dict=False)[0]
        return -out

    def guide(
        self, x_t: Latents, t: Time, conditional: Latents, unconditional: Latents, guidance_scale: float
    ) -> Latents:
        """Classifier-free guidance of the flow, each of its rows as long as the conditional one: it saturates nothing."""
        sigma = match_dims(self.schedule.sigma(t), x_t).clamp(min=1e-6)
        flow, other = (x_t - conditional) / sigma, (x_t - unconditional) / sigma
        guided = guide(flow, other, guidance_scale)
        long, wanted = (torch.linalg.vector_norm(f, dim=-1, keepdim=True) for f in (guided, flow))
        return x_t - sigma * guided * (wanted / long.clamp(min=1e-12))

    def blocks(self) -> list[nn.Module]:
        """Those that refine the prompt, those that refine the picture, those of both."""
        return [*self.network.context_refiner, *self.network.noise_refiner, *self.network.layers]

    def tapped(self) -> Sequence[nn.Module]:
        """Every third of the blocks of both, and the last."""
        return every_third(list(self.network.layers))

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        """The picture's tokens, which come after each prompt's own."""
        found, n = super().features(x_t, t, cond), math.prod(x_t.shape[2:]) // self.network.config.patch_size**2
        assert cond.mask is not None
        places = cond.mask.sum(1, keepdim=True) + torch.arange(n, device=cond.mask.device)  # [B, n]
        levels = (level.gather(2, places[:, None].expand(-1, level.shape[1], -1)) for level in found.levels)
        return Features(tuple(levels), t=found.t)

    def _level(self, output: Any) -> Tensor:
        return output.transpose(1, 2)  # [B, N, C] -> [B, C, N]


class Lumina2Conditioner(LanguageConditioner):
    """Gemma 2's last states but one of the prompt after what it is told."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__(tokenizer, encoder, TOKENS, written)
        tokenizer.padding_side = "right"

    def null(self, n: int) -> Conditioning:
        """Nothing asked for, and nothing told."""
        return self.read([""] * n, self.length)


class Lumina2(RenoisedFlowFamily):
    """Lumina-Image 2.0."""

    title = "Lumina-Image 2.0"
    targets = (*TARGETS, "linear_1", "linear_2", "linear_3")
    pipeline = "Lumina2Pipeline"
    usual = Usual("Lumina-Image 2.0", 2_609_769_152, 23_829_123_432_448, (1024, 1024))
    networks = ("Lumina2Transformer2DModel",)
    statistics = ("shift_factor",)
    tokenizers = {"tokenizer": TOKENS}  # noqa: RUF012

    def noise(self, configs: Configs) -> dict[str, Any]:
        """A shift that goes by the size goes by the number of channels in this stock pipeline."""
        return settled(dict(configs.scheduler), self.latent_shape(configs.of(self.component))[0])

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return Lumina2Denoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> Lumina2Conditioner:
        """Gemma 2."""
        return Lumina2Conditioner(parts("tokenizer"), parts("text_encoder"))

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Its tokenizer reads what it is told, too."""
        return [(parts("tokenizer"), TOKENS, written)]


FAMILY = Lumina2()
