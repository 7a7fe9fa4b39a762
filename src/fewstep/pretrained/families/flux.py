"""FLUX.1 dev and schnell: a transformer over packed latents that predicts a flow, CLIP's pooled text and T5's tokens.

Dev is told a guidance beside the time. It is folded in as it is loaded, at the stock pipeline's own `GUIDANCE`, for teacher and
student alike: ``W x + b + g = W x + (b + g)`` in the time's last layer. Stock tools then cannot give the student another.
"""

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
from .family import Configs, Usual

T5_TOKENS = 512
"""How many tokens the stock pipeline gives T5."""
GUIDANCE = 3.5
"""What the stock pipeline tells FLUX.1 dev where nobody says else."""


class FluxDenoiser(TwoStreamDenoiser):
    """FLUX's transformer (``FluxTransformer2DModel``) without a guidance of its own."""

    reads = ("tokens", "pooled")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        assert cond.tokens is not None
        out = self.network(
            hidden_states=packed(x),
            timestep=self.told(t).to(x.dtype) / 1000,
            guidance=None,
            pooled_projections=cond.pooled,
            encoder_hidden_states=cond.tokens,
            txt_ids=x.new_zeros(cond.tokens.shape[1], 3),
            img_ids=self.places(x),
            return_dict=False,
        )[0]
        return unpacked(out, x)


@torch.no_grad()
def without_guidance(network: Any) -> Any:
    """The network, told `GUIDANCE` once and for all; as it is, where it is told none."""
    if not network.config.guidance_embeds:
        return network
    from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings

    told = network.time_text_embed
    last = told.timestep_embedder.linear_2
    frequencies = told.time_proj(torch.tensor([GUIDANCE * 1000], device=last.weight.device))
    last.bias += told.guidance_embedder(frequencies.to(last.weight.dtype))[0]
    made = CombinedTimestepTextProjEmbeddings(network.inner_dim, network.config.pooled_projection_dim)
    made.timestep_embedder, made.text_embedder = told.timestep_embedder, told.text_embedder
    network.time_text_embed = made
    network.register_to_config(guidance_embeds=False)
    return network


class FluxConditioner(PretrainedConditioner):
    """T5's tokens, and CLIP's pooled text."""

    def __init__(self, clip: tuple[Any, nn.Module], t5: tuple[Any, nn.Module]) -> None:
        super().__init__()
        self.tokenizers = [clip[0], t5[0]]
        self.encoders = nn.ModuleList([clip[1], t5[1]]).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, 512, D]``, padding and all; ``[B, P]``."""
        (clip, t5), device = self.encoders, next(self.encoders.parameters()).device
        pooled = clip(tokenized(self.tokenizers[0], prompts).input_ids.to(device)).pooler_output
        tokens = t5(tokenized(self.tokenizers[1], prompts, T5_TOKENS).input_ids.to(device))[0]
        return Conditioning(tokens=tokens, pooled=pooled)

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """CLIP, then T5."""
        yield from zip(self.tokenizers, self.encoders, (None, T5_TOKENS))


class Flux(PackedFlowFamily):
    """FLUX.1 dev and schnell, and fine-tunes of both."""

    title = "FLUX.1"
    pipeline = "FluxPipeline"
    usual = Usual("FLUX.1-dev", 11_901_408_320, 74_384_653_418_496, (1024, 1024))
    targets = (*TARGETS, "proj_mlp")
    networks = ("FluxTransformer2DModel",)
    optional = {"feature_extractor": [None, None], "image_encoder": [None, None]}  # noqa: RUF012
    statistics = ("shift_factor",)
    tokenizers = {"tokenizer": None, "tokenizer_2": T5_TOKENS}  # noqa: RUF012
    guidance_scale = 1.0

    def check(self, configs: Configs) -> None:
        """A flow from a prompt alone: Fill, Canny, Depth and Kontext are shown a picture, too."""
        super().check(configs)
        config = configs.of("transformer")
        takes, gives = config.get("in_channels", 64), config.get("out_channels")
        if gives not in (None, takes) or "Kontext" in str(configs.index.get("_class_name")):
            raise ValueError(
                f"{configs.folder} is a {configs.index.get('_class_name')} ({takes} channels in, {gives or takes} out), which is "
                "shown a picture: give the text-to-image model it was made from"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer, its guidance folded in."""
        return FluxDenoiser(without_guidance(network), schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> FluxConditioner:
        """CLIP and T5."""
        clip, t5 = ((parts(f"tokenizer{n}"), parts(f"text_encoder{n}")) for n in ("", "_2"))
        return FluxConditioner(clip, t5)


FAMILY = Flux()
