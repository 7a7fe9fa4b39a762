"""The sizes that ``fewstep check`` holds a model against, counted in diffusers' own classes, without any weights.

The configs are the published ones. Where a model's config is the class's defaults, as diffusers' own scripts
``scripts/convert_{flux,aura_flow}_to_diffusers.py`` have it, nothing is given here. Others:

* SD3 Medium: 24 layers and heads, 192 places, no norm of queries (``scripts/convert_sd3_to_diffusers.py``).
* PixArt: captions of T5-XXL; alpha at 1024 pixels is told size and shape, sigma is not (``scripts/convert_pixart_*``).
* DiT-XL/2: 8 channels out, for the variance is learned (``scripts/convert_dit_to_diffusers.py``). Its class gives each block an
  embedding of times and classes of its own: 750 million, where the paper's code shares one and has 675.
* Hunyuan-DiT 1.1: 40 blocks of DiT-g/2, of width 1408 and ratio 4.3637 (``hydit/modules/models.py`` of its makers;
  ``scripts/convert_hunyuandit_to_diffusers.py`` has the 40, and that 1.1 is told style and size).
* Lumina-Image 2.0: captions of Gemma 2 2B, 2304 numbers a token. SANA 1.6B, Qwen-Image, Chroma and Z-Image: the defaults.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fewstep.pretrained.families import all_families

DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D",) * 2
T5 = {"caption_channels": 4096}
PUBLISHED: dict[str, dict[str, Any]] = {
    "auraflow": {}, "chroma": {}, "qwen_image": {}, "sana": {}, "z_image": {},
    "dit": {"out_channels": 8},
    "flux": {"guidance_embeds": True},
    "hunyuan_dit": {"num_layers": 40, "in_channels": 4, "patch_size": 2, "hidden_size": 1408, "mlp_ratio": 4.3637,
                    "sample_size": 128},
    "lumina2": {"cap_feat_dim": 2304},
    "pixart_alpha": T5 | {"use_additional_conditions": True},
    "pixart_sigma": T5 | {"use_additional_conditions": False},
    "sd": {"cross_attention_dim": 768},
    "sd3": {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
    "sdxl": {"cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "down_block_types": DOWN,
             "up_block_types": (*UP, "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
             "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True},
}  # fmt: skip


def test_every_family_with_a_usual_size_is_counted() -> None:
    assert {name for name, family in all_families().items() if family.usual[1]} == set(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_usual_size_is_that_of_the_published_network(name: str) -> None:
    import diffusers

    family = all_families()[name]
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network = getattr(diffusers, family.networks[0])(**PUBLISHED[name])
    assert sum(p.numel() for p in network.parameters()) == family.usual[1]
