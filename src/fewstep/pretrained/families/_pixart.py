"""What PixArt-alpha and PixArt-sigma share: the transformer, T5 with its mask, the cleaning of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser, VaeCodec
from ..reading import Parts
from ..text import PretrainedConditioner, Written, tokenized
from .family import ModelFamily, check_width

BINNED = (256, 512, 1024, 2048)
"""Sides of the squares for which the stock pipelines have a list of sizes, to which they round what they are asked for."""


class PixArtDenoiser(TransformerDenoiser):
    """PixArt's transformer (``PixArtTransformer2DModel``). Of twice as many channels the second half, its variances, is left."""

    reads = ("tokens", "mask")

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str, factor: int = 0) -> None:
        """``factor`` pixels a latent: the network is told the picture's size (arXiv 2310.00426, section 2.4); 0 if it is not."""
        super().__init__(network, schedule, kind)
        self._factor = factor
        self._sizes: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The first half of the transformer's output."""
        x, cond = self._own(x_t, cond)
        out = self.network(
            x,
            encoder_hidden_states=cond.tokens,
            encoder_attention_mask=cond.mask,
            timestep=self.told(t),
            added_cond_kwargs=self.sizes(x),
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]

    def sizes(self, x_t: Latents) -> dict[str, Tensor | None]:
        """The picture's size ``[B, 2]`` in pixels and its height over its width ``[B, 1]``, where the network is told them."""
        if not self._factor:
            return {"resolution": None, "aspect_ratio": None}
        key = (*x_t.shape[2:], x_t.dtype, x_t.device)
        if key not in self._sizes:  # made once: a CUDA graph may not wait for numbers from the host
            height, width = (side * self._factor for side in x_t.shape[2:])
            self._sizes[key] = (x_t.new_tensor([[height, width]]), x_t.new_tensor([[height / width]]))
        size, ratio = self._sizes[key]
        return {"resolution": size.expand(len(x_t), -1), "aspect_ratio": ratio.expand(len(x_t), -1)}

    def _level(self, output: Any) -> Tensor:
        return output.transpose(1, 2)  # tokens of the picture [B, N, C] -> [B, C, N]


def cleaned(prompt: str) -> str:
    """The prompt as the stock pipelines give it to T5: in small letters, and cleaned where bs4 and ftfy are installed."""
    from diffusers import PixArtAlphaPipeline
    from diffusers.utils import is_bs4_available, is_ftfy_available

    bare: Any = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)  # its cleaning needs none of its parts
    return bare._text_preprocessing(prompt, clean_caption=is_bs4_available() and is_ftfy_available())[0]


class PixArtConditioner(PretrainedConditioner):
    """T5's last states, with the mask of the prompt's tokens (arXiv 2310.00426, section 2.3)."""

    written: Written

    def __init__(self, tokenizer: Any, encoder: nn.Module, length: int) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.length = tokenizer, encoder.eval().requires_grad_(False), length
        self.written = cleaned

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, length, D]``; pooled is their mean."""
        ids = tokenized(self.tokenizer, [cleaned(p) for p in prompts], self.length).to(self.encoder.device)
        cond = Conditioning(
            tokens=self.encoder(ids.input_ids, attention_mask=ids.attention_mask)[0], mask=ids.attention_mask
        )
        return Conditioning(tokens=cond.tokens, mask=cond.mask, pooled=cond.mean_token)

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """The one."""
        yield self.tokenizer, self.encoder, self.length


class PixArt(ModelFamily):
    """A PixArt. Both kinds have the same networks, and pipelines of their own."""

    component = "transformer"
    networks = ("PixArtTransformer2DModel",)
    length: int
    """How many tokens the stock pipeline gives T5."""

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer; it is told sizes where `told_sizes` says so."""
        factor = codec.factor if self.told_sizes(network) and isinstance(codec, VaeCodec) else 0
        return PixArtDenoiser(network, schedule, kind, factor)

    def told_sizes(self, network: Any) -> bool:
        """Whether the network is told the picture's size."""
        return False

    def conditioner(self, parts: Parts, network: Any) -> PixArtConditioner:
        """T5. Raises ValueError for one that gives another number of values a token than the transformer takes."""
        encoder = parts("text_encoder")
        check_width(encoder.config.d_model, network.config.caption_channels, "transformer")
        return PixArtConditioner(parts("tokenizer"), encoder, self.length)

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Its tokenizer reads the cleaned prompt."""
        return [(parts("tokenizer"), self.length, cleaned)]

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Sizes of its own are not rounded: the stock pipeline has no list for them, and refuses them."""
        return {} if size[0] in BINNED else {"use_resolution_binning": False}
