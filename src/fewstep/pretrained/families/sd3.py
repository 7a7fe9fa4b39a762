"""Stable Diffusion 3 and 3.5: a transformer that predicts a flow, two CLIP encoders and T5 (arXiv 2403.03206)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser
from ..reading import Parts
from ..text import PretrainedConditioner, penultimate, tokenized
from ._flow import FlowFamily
from .family import Configs, Usual

T5_TOKENS = 256
"""How many tokens the stock pipeline gives T5."""


class SD3Denoiser(TransformerDenoiser):
    """Stable Diffusion 3's transformer (``SD3Transformer2DModel``)."""

    reads = ("tokens", "pooled")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        return self.network(
            hidden_states=x,
            timestep=self.told(t).to(x_t.dtype),
            encoder_hidden_states=cond.tokens,
            pooled_projections=cond.pooled,
            return_dict=False,
        )[0]

    def _level(self, output: Any) -> Tensor:
        return output[-1].transpose(1, 2)  # (text, picture) tokens [B, N, C] -> [B, C, N]


class SD3Conditioner(PretrainedConditioner):
    """SD3's two CLIP encoders and T5 (arXiv 2403.03206, section 4): CLIP's tokens padded to T5's width, then T5's."""

    def __init__(
        self,
        tokenizers: Sequence[Any],
        encoders: Sequence[nn.Module],
        width: int,
        t5: tuple[Any, nn.Module] | None = None,
    ) -> None:
        """``width`` is what the transformer takes; without ``t5`` its tokens are zeros, as in the stock pipeline."""
        super().__init__()
        self.tokenizers, self.encoders = list(tokenizers), nn.ModuleList(encoders).eval().requires_grad_(False)
        self.width = width
        self.t5_tokenizer = t5[0] if t5 else None
        self.t5 = t5[1].eval().requires_grad_(False) if t5 else None

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, L + 256, width]``; both projections side by side ``[B, P1 + P2]``."""
        seen = [penultimate(t, e, prompts) for t, e in zip(self.tokenizers, self.encoders)]
        clip = torch.cat([tokens for tokens, _ in seen], -1)
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))
        if self.t5 is None:
            long = clip.new_zeros(len(clip), T5_TOKENS, self.width)
        else:
            ids = tokenized(self.t5_tokenizer, prompts, T5_TOKENS).input_ids
            long = self.t5(ids.to(clip.device))[0]
        return Conditioning(tokens=torch.cat([clip, long], 1), pooled=torch.cat([pooled for _, pooled in seen], 1))

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """Both of CLIP, and T5 where it is there."""
        yield from ((tokenizer, encoder, None) for tokenizer, encoder in zip(self.tokenizers, self.encoders))
        if self.t5 is not None:
            yield self.t5_tokenizer, self.t5, T5_TOKENS

    def facts(self) -> dict[str, Any]:
        """The width that CLIP's tokens are padded to."""
        return {"width": self.width}


class StableDiffusion3(FlowFamily):
    """Stable Diffusion 3 and 3.5, with and without T5."""

    title = "Stable Diffusion 3 and 3.5"
    pipeline = "StableDiffusion3Pipeline"
    usual = Usual("SD3 Medium", 2_028_328_000, 8_904_337_539_072, (1024, 1024))
    networks = ("SD3Transformer2DModel",)
    optional = {"feature_extractor": [None, None], "image_encoder": [None, None]}  # noqa: RUF012
    statistics = ("shift_factor",)
    tokenizers = {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": T5_TOKENS}  # noqa: RUF012

    def check(self, configs: Configs) -> None:
        """A flow, with T5 or without; only whoever says so opens the latter with stock diffusers."""
        super().check(configs)
        if not configs.has("text_encoder_3"):
            warnings.warn(
                f"{configs.folder} has no T5 (text_encoder_3), which is right here; stock diffusers opens it, and a student of "
                "it, by from_pretrained(folder, text_encoder_3=None, tokenizer_3=None) alone",
                stacklevel=3,
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return SD3Denoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> SD3Conditioner:
        """Both of CLIP, and T5 where the folder has it."""
        t5 = (parts("tokenizer_3"), parts("text_encoder_3")) if parts.has("text_encoder_3") else None
        tokenizers = [parts("tokenizer"), parts("tokenizer_2")]
        encoders = [parts("text_encoder"), parts("text_encoder_2")]
        return SD3Conditioner(tokenizers, encoders, network.config.joint_attention_dim, t5)


FAMILY = StableDiffusion3()
