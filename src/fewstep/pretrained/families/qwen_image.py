"""Qwen-Image: a transformer over packed latents that predicts a flow, prompts read by Qwen2.5-VL in a chat (arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.guidance import guide
from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time, match_dims
from ..networks import NetworkDenoiser
from ..reading import Parts
from ..text import PretrainedConditioner, Written, check_prompts
from ..trainable import TARGETS
from ._flow import PackedDenoiser, PackedFlowFamily, packed, unpacked
from .family import Configs, Usual


class QwenImageDenoiser(PackedDenoiser):
    """Qwen-Image's transformer (``QwenImageTransformer2DModel``)."""

    reads = ("tokens", "mask")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        height, width = (side // 2 for side in x.shape[2:])
        out = self.network(
            hidden_states=packed(x),
            timestep=self.told(t).to(x.dtype) / 1000,
            encoder_hidden_states=cond.tokens,
            encoder_hidden_states_mask=cond.mask,
            img_shapes=[[(1, height, width)]] * len(x),
            return_dict=False,
        )[0]
        return unpacked(out, x)

    def guide(
        self, x_t: Latents, t: Time, conditional: Latents, unconditional: Latents, guidance_scale: float
    ) -> Latents:
        """Classifier-free guidance of the flows, every token scaled back to its length without it, as the stock pipeline does."""
        sigma = match_dims(self.schedule.sigma(t), x_t)
        own, none = (packed((x_t - x0) / sigma) for x0 in (conditional, unconditional))
        guided = guide(own, none, guidance_scale)
        length = own.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return x_t - sigma * unpacked(guided * length, x_t)


class Chat:
    """How the stock pipeline, as it is installed, puts a prompt to the encoder, and what of the answer it keeps."""

    def __init__(self) -> None:
        from diffusers import QwenImagePipeline

        pipe: Any = QwenImagePipeline(None, None, None, None, None)
        self.text: str = pipe.prompt_template_encode
        self.before: int = pipe.prompt_template_encode_start_idx
        """Tokens that stand before every prompt: their states are left out."""
        self.tokens: int = pipe.tokenizer_max_length
        """States that are kept at most."""

    def __call__(self, prompt: str) -> str:
        """The prompt within the chat."""
        return self.text.format(prompt)

    @property
    def length(self) -> int:
        """Tokens that are read, those before the prompt among them."""
        return self.before + self.tokens


chat = cache(Chat)


class QwenImageConditioner(PretrainedConditioner):
    """Qwen2.5-VL's last states of the prompt and of what stands after it in the chat (arXiv 2508.02324, section 2.2)."""

    written: Chat

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.encoder = tokenizer, encoder.eval().requires_grad_(False)
        self.written = chat()

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, 1024, D]`` with a mask, filled up with zeros; pooled is the mean of the prompt's."""
        check_prompts(prompts)
        texts = [self.written(prompt) for prompt in prompts]
        options = {"padding": True, "truncation": True, "max_length": self.written.length, "return_tensors": "pt"}
        ids = self.tokenizer(texts, **options).to(self.encoder.device)
        out = self.encoder(
            input_ids=ids.input_ids, attention_mask=ids.attention_mask, output_hidden_states=True, logits_to_keep=1
        )
        rows = [
            state[mask.bool()][self.written.before :] for state, mask in zip(out.hidden_states[-1], ids.attention_mask)
        ]
        tokens = torch.stack([self._filled(row) for row in rows])
        mask = torch.stack([self._filled(torch.ones_like(row[:, :1], dtype=torch.long))[:, 0] for row in rows])
        cond = Conditioning(tokens=tokens, mask=mask)
        return Conditioning(tokens=tokens, mask=mask, pooled=cond.mean_token)

    def _filled(self, row: Tensor) -> Tensor:
        return F.pad(row, (0, 0, 0, self.written.tokens - len(row)))

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, self.written.length

    def facts(self) -> dict[str, Any]:
        """The chat, and what of it is left out."""
        return {"chat": self.written.text, "before": self.written.before}


class QwenImage(PackedFlowFamily):
    """Qwen-Image, and fine-tunes; not those that edit a picture."""

    title = "Qwen-Image"
    pipeline = "QwenImagePipeline"
    usual = Usual("Qwen-Image", 20_430_401_088, 78_303_922_225_152, (1024, 1024))
    targets = (*TARGETS, *(f"{stream}_mlp.net.{layer}" for stream in ("img", "txt") for layer in ("0.proj", "2")))
    networks = ("QwenImageTransformer2DModel",)
    statistics = ("latents_mean", "latents_std")
    tokenizers = {"tokenizer": None}  # noqa: RUF012
    guidance_scale = 4.0

    def check(self, configs: Configs) -> None:
        """A flow from a prompt alone: those that edit pictures, or draw layers, are shown or told more."""
        super().check(configs)
        config, named = configs.of("transformer"), str(configs.index.get("_class_name"))
        more = [name for name in ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope") if config.get(name)]
        if more or "Edit" in named or "Layered" in named:
            raise ValueError(
                f"{configs.folder} is a {named}{f' ({more[0]})' if more else ''}, which is shown a picture: give the "
                "text-to-image model it was made from"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return QwenImageDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> QwenImageConditioner:
        """Qwen2.5-VL."""
        return QwenImageConditioner(parts("tokenizer"), parts("text_encoder"))

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Its tokenizer reads the chat, too."""
        return [(parts("tokenizer"), chat().length, chat())]


FAMILY = QwenImage()
