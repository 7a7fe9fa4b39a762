"""Chroma: FLUX.1 schnell pruned of its pooled text and trained anew, under true guidance; T5's tokens, padding masked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser
from ..reading import Parts
from ..text import PretrainedConditioner, tokenized
from ..trainable import TARGETS
from ._flow import PackedFlowFamily, TwoStreamDenoiser, packed, unpacked
from .family import Usual

T5_TOKENS = 512
"""How many tokens the stock pipeline gives T5."""


class ChromaDenoiser(TwoStreamDenoiser):
    """Chroma's transformer (``ChromaTransformer2DModel``)."""

    reads = ("tokens", "mask")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        assert cond.tokens is not None
        assert cond.mask is not None
        tokens = packed(x)
        out = self.network(
            hidden_states=tokens,
            timestep=self.told(t).to(x.dtype) / 1000,
            encoder_hidden_states=cond.tokens,
            txt_ids=x.new_zeros(cond.tokens.shape[1], 3),
            img_ids=self.places(x),
            attention_mask=torch.cat([cond.mask.to(x.dtype), x.new_ones(tokens.shape[:2])], 1),
            return_dict=False,
        )[0]
        return unpacked(out, x)


class ChromaConditioner(PretrainedConditioner):
    """T5's tokens; the network sees those of the prompt and the first that fills them up."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, 512, D]`` with a mask; pooled is the mean of what it leaves."""
        ids = tokenized(self.tokenizer, prompts, T5_TOKENS).to(self.encoder.device)
        tokens = self.encoder(ids.input_ids, attention_mask=ids.attention_mask)[0]
        places = torch.arange(T5_TOKENS, device=tokens.device)
        mask = (places <= ids.attention_mask.sum(1, keepdim=True)).long()
        cond = Conditioning(tokens=tokens, mask=mask)
        return Conditioning(tokens=tokens, mask=mask, pooled=cond.mean_token)

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, T5_TOKENS


class Chroma(PackedFlowFamily):
    """Chroma, and fine-tunes."""

    title = "Chroma"
    pipeline = "ChromaPipeline"
    usual = Usual("Chroma", 8_899_983_424, 74_569_497_968_640, (1024, 1024))
    targets = (*TARGETS, "proj_mlp")
    networks = ("ChromaTransformer2DModel",)
    optional = {"feature_extractor": [None, None], "image_encoder": [None, None]}  # noqa: RUF012
    statistics = ("shift_factor",)
    tokenizers = {"tokenizer": T5_TOKENS}  # noqa: RUF012
    guidance_scale = 5.0

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return ChromaDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> ChromaConditioner:
        """T5."""
        return ChromaConditioner(parts("tokenizer"), parts("text_encoder"))


FAMILY = Chroma()
