"""AuraFlow: a transformer of two streams, then of one, that predicts a flow; T5 of many languages reads its prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser
from ..reading import Parts
from ..trainable import TARGETS
from ._flow import FlowFamily, unless_1024
from ._language import LanguageConditioner
from .family import Usual, check_width

TOKENS = 256
"""How many tokens the stock pipeline gives T5."""


class AuraFlowDenoiser(TransformerDenoiser):
    """AuraFlow's transformer (``AuraFlowTransformer2DModel``), which is told the noise itself, from 0 to 1."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        told = (self.told(t) / 1000).to(x_t.dtype)
        return self.network(x, encoder_hidden_states=cond.tokens, timestep=told, return_dict=False)[0]

    def blocks(self) -> list[nn.Module]:
        """Those of two streams, then those of one."""
        return [*self.network.joint_transformer_blocks, *self.network.single_transformer_blocks]

    def _level(self, output: Any) -> Tensor:
        tokens = output[-1] if isinstance(output, tuple) else output  # (text, picture), or one after the other
        return tokens.transpose(1, 2)  # [B, N, C] -> [B, C, N]


class AuraFlowConditioner(LanguageConditioner):
    """T5's last states of the prompt, zeros where it is filled up; the transformer attends to all of them."""

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__(tokenizer, encoder, TOKENS, str)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Those of the last layer."""
        states = self.encoder(input_ids=ids, attention_mask=mask)[0]
        return states * mask.unsqueeze(-1).to(states.dtype)


class AuraFlow(FlowFamily):
    """AuraFlow .1 to .3, and fine-tunes."""

    title = "AuraFlow"
    targets = (*TARGETS, "linear_1", "linear_2", "out_projection")
    pipeline = "AuraFlowPipeline"
    usual = Usual("AuraFlow", 6_833_439_744, 11_243_874_680_832, (512, 512))
    networks = ("AuraFlowTransformer2DModel",)
    tokenizers = {"tokenizer": TOKENS}  # noqa: RUF012

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return AuraFlowDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> AuraFlowConditioner:
        """T5. Raises ValueError for one that gives another number of values a token than the transformer takes."""
        encoder = parts("text_encoder")
        check_width(encoder.config.d_model, network.config.joint_attention_dim, "transformer")
        return AuraFlowConditioner(parts("tokenizer"), encoder)

    def longest(self, config: Mapping[str, Any]) -> int:
        """Its places are counted over the whole square."""
        return math.isqrt(int(config["pos_embed_max_size"])) * self.patch(config)

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Its size, where that is not the stock pipeline's 1024."""
        return unless_1024(size)


FAMILY = AuraFlow()
