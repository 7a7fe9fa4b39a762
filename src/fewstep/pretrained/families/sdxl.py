"""SDXL: a UNet that is told the picture's size and a pooled text beside the time, two text encoders (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents
from ..networks import NetworkDenoiser, UNetDenoiser, VaeCodec
from ..reading import Parts
from ..text import PretrainedConditioner, penultimate
from ._unet import UNetFamily
from .family import Configs, Usual, check_width


class SDXLDenoiser(UNetDenoiser):
    """SDXL's UNet."""

    reads = ("tokens", "pooled")

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str, factor: int = 8) -> None:
        """``factor`` pixels a latent: the network is told the picture's size (arXiv 2307.01952, section 2.2)."""
        super().__init__(network, schedule, kind)
        self.reads = ("tokens", "pooled")
        self._factor = factor
        self._sizes: dict[tuple[Any, ...], Tensor] = {}

    def added(self, x_t: Latents, cond: Conditioning) -> dict[str, Any]:
        """The pooled text and the sizes."""
        return {"added_cond_kwargs": {"text_embeds": cond.pooled, "time_ids": self.sizes(x_t)}}

    def sizes(self, x_t: Latents) -> Tensor:
        """SDXL's size conditioning ``[B, 6]``: the original size, the crop's corner and the target size, in pixels.

        As the stock pipeline fills it in: the picture that is drawn is its own original, uncropped.
        """
        key = (*x_t.shape[2:], x_t.dtype, x_t.device)
        if key not in self._sizes:  # made once: a CUDA graph may not wait for numbers from the host
            height, width = (side * self._factor for side in x_t.shape[2:])
            self._sizes[key] = x_t.new_tensor([height, width, 0, 0, height, width])
        return self._sizes[key].expand(len(x_t), -1)


class SDXLConditioner(PretrainedConditioner):
    """SDXL's two CLIP encoders (arXiv 2307.01952, section 2.1): tokens side by side, the second's projection pooled."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module], zero_null: bool = True) -> None:
        """``zero_null``: the unconditional prompt is zeros (``force_zeros_for_empty_prompt``), not the empty prompt."""
        super().__init__()
        self.tokenizers, self.encoders = list(tokenizers), nn.ModuleList(encoders).eval().requires_grad_(False)
        self.zero_null = zero_null

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Hidden states of both encoders ``[B, L, D1 + D2]``; the second's projection ``[B, P]``."""
        seen = [penultimate(t, e, prompts) for t, e in zip(self.tokenizers, self.encoders)]
        return Conditioning(tokens=torch.cat([tokens for tokens, _ in seen], -1), pooled=seen[-1][1])

    def null(self, n: int) -> Conditioning:
        """Zeros, or the empty prompt."""
        empty = self([""] * n)
        return empty.map(torch.zeros_like) if self.zero_null else empty

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """Both, in order."""
        yield from ((tokenizer, encoder, None) for tokenizer, encoder in zip(self.tokenizers, self.encoders))

    @property
    def width(self) -> int:
        """Numbers a token."""
        return sum(encoder.config.hidden_size for encoder in self.encoders)  # type: ignore[union-attr, misc]


class SDXL(UNetFamily):
    """SDXL 1.0, its refiner excepted, and fine-tunes."""

    title = "SDXL"
    pipeline = "StableDiffusionXLPipeline"
    usual = Usual("SDXL", 2_567_463_684, 6_761_236_398_080, (1024, 1024))
    optional = {"feature_extractor": [None, None], "image_encoder": [None, None]}  # noqa: RUF012
    statistics = ("latents_mean", "latents_std")

    def fits(self, configs: Configs) -> bool:
        """A UNet that is told sizes."""
        return super().fits(configs) and configs.of("unet").get("addition_embed_type") == "text_time"

    def check(self, configs: Configs) -> None:
        """Kolors has such a UNet, and a language model that reads its prompts."""
        super().check(configs)
        if (kind := configs.kind("text_encoder")).startswith("ChatGLM"):
            raise ValueError(
                f"{configs.folder} is Kolors, whose text encoder, a {kind}, is not known here: give an SDXL, or write a "
                "family of your own (CONTRIBUTING.md, A model family)"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The UNet, which is told pixels."""
        return SDXLDenoiser(network, schedule, kind, codec.factor if isinstance(codec, VaeCodec) else 1)

    def conditioner(self, parts: Parts, network: Any) -> SDXLConditioner:
        """Both text encoders."""
        tokenizers = [parts("tokenizer"), parts("tokenizer_2")]
        zero_null = bool(parts.index.get("force_zeros_for_empty_prompt", True))
        made = SDXLConditioner(tokenizers, [parts("text_encoder"), parts("text_encoder_2")], zero_null)
        check_width(made.width, network.config.cross_attention_dim, "UNet")
        return made


FAMILY = SDXL()
