"""Stable Diffusion 1 and 2: a UNet that is told the time and a prompt's tokens, one text encoder (arXiv 2112.10752)."""

from __future__ import annotations

from typing import Any

from ..reading import Parts
from ..text import TextConditioner
from ._unet import UNetFamily
from .family import Configs, Usual, check_width


class StableDiffusion(UNetFamily):
    """Stable Diffusion 1.x and 2.x, fine-tunes of both, and small UNets in their layout."""

    title = "Stable Diffusion 1 and 2"
    pipeline = "StableDiffusionPipeline"
    usual = Usual("SD 1.5", 859_520_964, 803_273_441_280, (512, 512))
    optional = {  # noqa: RUF012
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }

    def fits(self, configs: Configs) -> bool:
        """A UNet with a text that is not told sizes, as SDXL's is."""
        return super().fits(configs) and configs.of("unet").get("addition_embed_type") != "text_time"

    def conditioner(self, parts: Parts, network: Any) -> TextConditioner:
        """The one text encoder."""
        made = TextConditioner(parts("tokenizer"), parts("text_encoder"))
        check_width(made.width, network.config.cross_attention_dim, "UNet")
        return made


FAMILY = StableDiffusion()
