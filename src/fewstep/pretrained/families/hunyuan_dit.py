"""Hunyuan-DiT: a transformer that reads Chinese and English through a BERT and T5, and predicts v (arXiv 2405.08748)."""

from __future__ import annotations

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
from ..text import PretrainedConditioner, tokenized
from .family import Configs, ModelFamily, Usual

BERT_TOKENS, T5_TOKENS = 77, 256
"""How many tokens the stock pipeline gives either encoder."""
FACTOR = 8
"""Pixels a latent: the stock pipeline counts its positions with it whatever the VAE has."""
ORIGINAL = (1024, 1024)
"""Size of the picture, before it was cut, that the stock pipeline tells of."""
SIZES = ((1024, 1024), (1280, 1280), (1024, 768), (1152, 864), (1280, 960), (768, 1024), (864, 1152), (960, 1280),
         (1280, 768), (768, 1280))  # fmt: skip
"""Sizes in pixels that the stock pipeline does not change."""


class HunyuanDiTDenoiser(TransformerDenoiser):
    """Hunyuan-DiT's transformer (``HunyuanDiT2DModel``). The second half of its output, its variances, is left."""

    reads = ("tokens", "mask")

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(network, schedule, kind)
        self._places: dict[tuple[Any, ...], tuple[tuple[Tensor, Tensor], Tensor]] = {}

    def blocks(self) -> list[nn.Module]:
        """Its blocks, in order; each of the second half is shown the output of one of the first, too."""
        return list(self.network.blocks)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The first half of the transformer's output: v."""
        x, cond = self._own(x_t, cond)
        if cond.tokens is None or cond.mask is None:
            raise ValueError("Hunyuan-DiT reads tokens and their mask: give both")
        positions, sizes = self.places(x)
        config = self.network.config
        out = self.network(
            x,
            self.told(t).to(x.dtype),
            encoder_hidden_states=cond.tokens[:, :BERT_TOKENS, : config.cross_attention_dim],
            text_embedding_mask=cond.mask[:, :BERT_TOKENS],
            encoder_hidden_states_t5=cond.tokens[:, BERT_TOKENS:, : config.cross_attention_dim_t5].contiguous(),
            text_embedding_mask_t5=cond.mask[:, BERT_TOKENS:],
            image_meta_size=sizes.repeat(len(x), 1),
            style=torch.zeros(len(x), dtype=torch.long, device=x.device),
            image_rotary_emb=positions,
            return_dict=False,
        )[0]
        return out[:, : x.shape[1]]

    def places(self, x_t: Latents) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Rotary embeddings of the picture's patches; the sizes that the network is told ``[1, 6]``, in pixels."""
        key = (*x_t.shape[2:], x_t.dtype, x_t.device)
        if key not in self._places:  # made once: a CUDA graph may not wait for numbers from the host
            from diffusers.models.embeddings import get_2d_rotary_pos_embed
            from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

            patch = self.network.config.patch_size
            grid = tuple(side // patch for side in x_t.shape[2:])
            region = get_resize_crop_region_for_grid(grid, 512 // FACTOR // patch)
            width = self.network.inner_dim // self.network.num_heads
            positions = get_2d_rotary_pos_embed(width, region, grid, device=x_t.device, output_type="pt")
            target = [side * FACTOR for side in x_t.shape[2:]]
            self._places[key] = (positions, x_t.new_tensor([[*ORIGINAL, *target, 0, 0]]))
        return self._places[key]

    def _level(self, output: Any) -> Tensor:
        return output.transpose(1, 2)  # tokens of the picture [B, N, C] -> [B, C, N]


class HunyuanDiTConditioner(PretrainedConditioner):
    """BERT's last states, then T5's, with the masks of both (arXiv 2405.08748, section 2.1)."""

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module]) -> None:
        """BERT's and T5's."""
        super().__init__()
        self.tokenizers, self.encoders = list(tokenizers), nn.ModuleList(encoders).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """``[B, 77 + 256, D]`` of the wider one's D: the others end in zeros, which the network is not shown."""
        seen = [self._read(*reader, prompts) for reader in self.readers()]
        width = max(tokens.shape[-1] for tokens, _ in seen)
        tokens = torch.cat([F.pad(tokens, (0, width - tokens.shape[-1])) for tokens, _ in seen], 1)
        cond = Conditioning(tokens=tokens, mask=torch.cat([mask for _, mask in seen], 1))
        return Conditioning(tokens=cond.tokens, mask=cond.mask, pooled=cond.mean_token)

    def _read(self, tokenizer: Any, encoder: Any, length: int | None, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = tokenized(tokenizer, prompts, length).to(encoder.device)
        return encoder(ids.input_ids, attention_mask=ids.attention_mask)[0], ids.attention_mask

    def readers(self) -> Iterator[tuple[Any, Any, int | None]]:
        """Both, in order."""
        yield from zip(self.tokenizers, self.encoders, (BERT_TOKENS, T5_TOKENS))


class HunyuanDiT(ModelFamily):
    """Hunyuan-DiT 1.0 to 1.2."""

    title = "Hunyuan-DiT"
    pipeline = "HunyuanDiTPipeline"
    usual = Usual("Hunyuan-DiT", 1_516_534_048, 14_365_834_125_312, (1024, 1024))
    component = "transformer"
    networks = ("HunyuanDiT2DModel",)
    optional = {  # noqa: RUF012
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }
    tokenizers = {"tokenizer": BERT_TOKENS, "tokenizer_2": T5_TOKENS}  # noqa: RUF012

    def check(self, configs: Configs) -> None:
        """What its stock pipeline takes for granted."""
        if self.factor(configs.of("vae")) != FACTOR:
            raise ValueError(
                f"{configs.folder}/vae has {self.factor(configs.of('vae'))} pixels a latent, and the stock pipeline counts "
                f"its positions with {FACTOR}: give the VAE that the model was trained with"
            )
        if not configs.of("transformer").get("learn_sigma", True):
            raise ValueError(
                f"{configs.folder}/transformer predicts no variances (learn_sigma), and the stock pipeline leaves half of "
                "its output: give a Hunyuan-DiT as it was published"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return HunyuanDiTDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> HunyuanDiTConditioner:
        """BERT and T5."""
        tokenizers = [parts("tokenizer"), parts("tokenizer_2")]
        return HunyuanDiTConditioner(tokenizers, [parts("text_encoder"), parts("text_encoder_2")])

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Sizes that are not of its list are not changed to one that is."""
        return {} if tuple(size) in SIZES else {"use_resolution_binning": False}


FAMILY = HunyuanDiT()
