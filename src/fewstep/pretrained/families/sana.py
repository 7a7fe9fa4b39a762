"""Sana: linear attention on latents of 32 pixels a side, prompts read by Gemma 2 after an instruction (arXiv 2410.10629)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser
from ..reading import Parts
from ..schedules import kind_of
from ..text import PretrainedConditioner, Written, tokenized
from .family import Configs, ModelFamily

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


class SanaConditioner(PretrainedConditioner):
    """Gemma 2's last states of the prompt after an instruction (arXiv 2410.10629, section 2.3): the first and the last 299."""

    written: Instruction

    def __init__(self, tokenizer: Any, encoder: nn.Module, instruction: Instruction) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.tokenizer.padding_side = "right"
        self.written, self.length = instruction, instruction.length(tokenizer)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, 300, D]``; pooled is their mean."""
        return self._read([self.written(prompt) for prompt in prompts], self.length)

    def null(self, n: int) -> Conditioning:
        """Nothing asked for, and no instruction: the stock pipeline's negative prompt."""
        return self._read([""] * n, TOKENS)

    @torch.no_grad()
    def _read(self, texts: Sequence[str], length: int) -> Conditioning:
        ids = tokenized(self.tokenizer, texts, length).to(self.encoder.device)
        tokens, mask = self.encoder(ids.input_ids, attention_mask=ids.attention_mask)[0], ids.attention_mask
        seen = [0, *range(length - TOKENS + 1, length)]
        cond = Conditioning(tokens=tokens[:, seen], mask=mask[:, seen])
        return Conditioning(tokens=cond.tokens, mask=cond.mask, pooled=cond.mean_token)

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, self.length

    def facts(self) -> dict[str, Any]:
        """The instruction."""
        return {"instruction": self.written.text}


class Sana(ModelFamily):
    """Sana of any size and version that its stock pipeline draws step by step."""

    title = "Sana"
    pipeline = "SanaPipeline"
    component = "transformer"
    networks = ("SanaTransformer2DModel",)
    tokenizers = {"tokenizer": None}  # noqa: RUF012

    def check(self, configs: Configs) -> None:
        """A flow, of a network that is not told the guidance: Sana-Sprint's is."""
        if (kind := kind_of(dict(configs.scheduler))) != "flow":
            raise ValueError(
                f"{configs.folder} has a {configs.kind('transformer')} ({kind}), and Sana predicts a flow: give it the "
                "scheduler that it was trained with"
            )
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
        """Its size, which the stock pipeline takes for 1024."""
        return {"height": size[0], "width": size[1]}


FAMILY = Sana()
