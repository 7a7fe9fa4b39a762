"""The sizes that ``fewstep check`` holds a model against, counted in diffusers' own classes, without any weights.

Parameters and operations of one evaluation, for one picture.

The configs are the published ones. Where a model's config is the class's defaults, as diffusers' own scripts
``scripts/convert_{flux,aura_flow}_to_diffusers.py`` have it, nothing is given here. Others:

* SD3 Medium: 24 layers and heads, 192 places, no norm of queries (``scripts/convert_sd3_to_diffusers.py``).
* PixArt: captions of T5-XXL; alpha at 1024 pixels is told size and shape, sigma is not (``scripts/convert_pixart_*``).
* DiT-XL/2: 8 channels out, for the variance is learned (``scripts/convert_dit_to_diffusers.py``). Its class gives each block an
  embedding of times and classes of its own: 750 million, where the paper's code shares one and has 675.
* Hunyuan-DiT 1.1: 40 blocks of DiT-g/2, of width 1408 and ratio 4.3637 (``hydit/modules/models.py`` of its makers;
  ``scripts/convert_hunyuandit_to_diffusers.py`` has the 40, and that 1.1 is told style and size).
* Lumina-Image 2.0: captions of Gemma 2 2B, 2304 numbers a token. SANA 1.6B, Qwen-Image, Chroma and Z-Image: the defaults.

The picture is of the native size: the config's ``sample_size``, or what the stock pipeline draws where the config names none.
AuraFlow has 512 pixels by its config, though its pipeline asks for 1024 by itself. The caption is the longest that the stock
pipeline reads where it is asked for nothing else: its ``max_sequence_length`` (Qwen-Image 512), and 77 tokens of CLIP and of
Hunyuan-DiT's BERT. SD3 and Hunyuan-DiT read two.

Published counts take a multiplication and an addition as one. DiT-XL/2 has 118.67 billion so; its paper says 118.6 (arXiv
2212.09748), where the blocks share what embeds the times. SD 1.5 has 401.6 billion, or 338.6 without the two products of
attention; github.com/Nota-NetsPresso/BK-SDM/issues/53 leaves those out too, counts norms, and says 338.7.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.evaluation.operations import operations
from fewstep.pretrained.families import all_families
from fewstep.pretrained.families._flow import packed

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
    "sd": {"sample_size": 64, "cross_attention_dim": 768},
    "sd3": {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
    "sdxl": {"sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "down_block_types": DOWN,
             "up_block_types": (*UP, "UpBlock2D"), "transformer_layers_per_block": (1, 2, 10),
             "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
             "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True},
}  # fmt: skip



def full(*shape: int) -> Tensor:
    """Of one picture, on the current device."""
    return torch.ones(1, *shape)


def two_streams(x: Tensor, t: Tensor) -> dict[str, Any]:
    """What FLUX.1 and Chroma are given: 512 tokens of T5, and where every token stands."""
    tokens = packed(x)
    return {"hidden_states": tokens, "timestep": t, "encoder_hidden_states": full(512, 4096), "txt_ids": full(512, 3)[0],
            "img_ids": full(tokens.shape[1], 3)[0]}  # fmt: skip


GIVEN: dict[str, Callable[[Tensor, Tensor], dict[str, Any]]] = {
    "auraflow": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(256, 2048)},
    "chroma": two_streams,
    "dit": lambda x, t: {"hidden_states": x, "timestep": t, "class_labels": t.long()},
    "flux": lambda x, t: two_streams(x, t) | {"guidance": t, "pooled_projections": full(768)},
    "hunyuan_dit": lambda x, t: {
        "hidden_states": x, "timestep": t, "encoder_hidden_states": full(77, 1024), "encoder_hidden_states_t5": full(256, 2048),
        "text_embedding_mask": full(77).long(), "text_embedding_mask_t5": full(256).long(), "image_meta_size": full(6),
        "style": t.long(), "image_rotary_emb": (full(64 * 64, 88)[0], full(64 * 64, 88)[0]),
    },
    "lumina2": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(256, 2304),
                             "encoder_attention_mask": full(256).long()},
    "pixart_alpha": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(120, 4096),
                                  "added_cond_kwargs": {"resolution": full(2), "aspect_ratio": full(1)}},
    "pixart_sigma": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(300, 4096),
                                  "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    "qwen_image": lambda x, t: {"hidden_states": packed(x), "timestep": t, "encoder_hidden_states": full(512, 3584),
                                "encoder_hidden_states_mask": full(512).bool(), "img_shapes": [[(1, 64, 64)]]},
    "sana": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(300, 2304)},
    "sd": lambda x, t: {"sample": x, "timestep": t, "encoder_hidden_states": full(77, 768)},
    "sd3": lambda x, t: {"hidden_states": x, "timestep": t, "encoder_hidden_states": full(77 + 256, 4096),
                         "pooled_projections": full(2048)},
    "sdxl": lambda x, t: {"sample": x, "timestep": t, "encoder_hidden_states": full(77, 2048),
                          "added_cond_kwargs": {"text_embeds": full(1280), "time_ids": full(6)}},
    "z_image": lambda x, t: {"x": [x[0][:, None]], "t": t, "cap_feats": [full(512, 2560)[0]]},
}  # fmt: skip
"""From latents and a time, what the stock pipeline gives the network. Masks that add no operations are left out."""
PIXELS = {"sana": 32}
"""A latent, along each side; 8 for all others."""


def published(name: str) -> Any:
    """The network of a family, without weights."""
    import diffusers

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network = getattr(diffusers, all_families()[name].networks[0])(**PUBLISHED[name])
    if name == "lumina2":  # it asks the mask how long the caption is, and one without numbers cannot tell: as long as may be
        whole = torch.ones(1, 256, dtype=torch.long)
        network.rope_embedder.register_forward_pre_hook(lambda _, inputs: (inputs[0], whole))
    return network


def evaluated(name: str, network: Any) -> int:
    """Operations of one evaluation for one picture of the native size."""
    with torch.device("meta"):
        given = GIVEN[name](full(*all_families()[name].latent_shape(network.config)), full())
        return operations(lambda: network(**given))


def test_every_family_with_a_usual_size_is_counted() -> None:
    assert {name for name, family in all_families().items() if family.usual.name} == set(PUBLISHED) == set(GIVEN)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_usual_size_is_that_of_the_published_network(name: str) -> None:
    family, network = all_families()[name], published(name)
    sides = family.latent_shape(network.config)[1:]
    assert sum(p.numel() for p in network.parameters()) == family.usual.parameters
    assert tuple(PIXELS.get(name, 8) * side for side in sides) == family.usual.size
    assert evaluated(name, network) == family.usual.flops


def test_the_operations_of_a_transformer_are_those_of_its_formula() -> None:
    """DiT-XL/2: 28 blocks of width d on n tokens of 2 x 2 x 4 numbers, which become 2 x 2 x 8."""
    n, d, blocks = 16 * 16, 1152, 28
    told = 256 * d + d * d  # each block embeds the time, and so does the end
    block = n * (4 * d * d + 8 * d * d) + 2 * n * n * d + told + 6 * d * d
    ends = n * 16 * d + told + 2 * d * d + n * d * 32
    assert all_families()["dit"].usual.flops == 2 * (blocks * block + ends)
