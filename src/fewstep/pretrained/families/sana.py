"""Sana: linear attention on latents of 32 pixels a side, prompts read by Gemma 2 after an instruction (arXiv 2410.10629)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser
from ..reading import Parts
from ..text import Written
from ._flow import FlowFamily, unless_1024
from ._language import LanguageConditioner, masked
from .family import Configs, Usual

TOKENS = 300
"""How many of Gemma's tokens the network is given."""


class SanaDenoiser(TransformerDenoiser):
    """Sana's transformer (``SanaTransformer2DModel``)."""

    reads = ("tokens", "mask")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        out = self.network(
            x,
            encoder_hidden_states=cond.tokens,
            encoder_attention_mask=cond.mask,
            timestep=self.told(t).to(torch.float32) * self.network.config.timestep_scale,
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]  # without the variances that some predict beside it

    def _level(self, output: Any) -> Tensor:
        return output.transpose(1, 2)  # tokens of the picture [B, N, C] -> [B, C, N]


class Instruction:
    """What the stock pipeline, as it is installed, asks the encoder for: it stands before every prompt."""

    def __init__(self) -> None:
        from diffusers import SanaPipeline

        lines = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        self.text = "\n".join(lines)

    def __call__(self, prompt: str) -> str:
        """The prompt after the instruction, in small letters."""
        return self.text + prompt.lower().strip()

    def length(self, tokenizer: Any) -> int:
        """Tokens that are read, the instruction's among them."""
        return len(tokenizer.encode(self.text)) + TOKENS - 2


class SanaConditioner(LanguageConditioner):
    """Gemma 2's last states of the prompt after an instruction (arXiv 2410.10629, section 2.3): the first and the last 299."""

    written: Instruction

    def __init__(self, tokenizer: Any, encoder: nn.Module, instruction: Instruction) -> None:
        super().__init__(tokenizer, encoder, instruction.length(tokenizer), instruction)
        tokenizer.padding_side = "right"

    def null(self, n: int) -> Conditioning:
        """Nothing asked for, and no instruction."""
        return self.read([""] * n, TOKENS)

    def read(self, texts: Sequence[str], length: int) -> Conditioning:
        """Those tokens of so many."""
        cond = super().read(texts, length)
        assert cond.tokens is not None
        assert cond.mask is not None
        seen = [0, *range(length - TOKENS + 1, length)]
        return masked(cond.tokens[:, seen], cond.mask[:, seen])

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Those of the last layer."""
        return self.encoder(input_ids=ids, attention_mask=mask)[0]

    def facts(self) -> dict[str, Any]:
        """The instruction."""
        return {"instruction": self.written.text}


class Sana(FlowFamily):
    """Sana of any size and version that its stock pipeline draws step by step."""

    title = "Sana"
    pipeline = "SanaPipeline"
    usual = Usual("SANA 1.6B", 1_604_462_752, 2_966_661_160_960, (1024, 1024))
    networks = ("SanaTransformer2DModel",)
    tokenizers = {"tokenizer": None}  # noqa: RUF012

    def check(self, configs: Configs) -> None:
        """A flow, of a network that is not told the guidance: Sana-Sprint's is."""
        super().check(configs)
        if configs.of("transformer").get("guidance_embeds"):
            raise ValueError(
                f"{configs.folder} is a Sana that is told the guidance (guidance_embeds in transformer/config.json), such as "
                "Sana-Sprint, which is a student already: give the Sana that it was made of"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return SanaDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> SanaConditioner:
        """Gemma 2, with the instruction."""
        return SanaConditioner(parts("tokenizer"), parts("text_encoder"), Instruction())

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Its tokenizer reads the instruction, too."""
        tokenizer, instruction = parts("tokenizer"), Instruction()
        return [(tokenizer, instruction.length(tokenizer), instruction)]

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Its size, where that is not the stock pipeline's 1024."""
        return unless_1024(size)


FAMILY = Sana()
