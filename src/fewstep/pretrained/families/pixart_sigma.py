"""PixArt-sigma: PixArt on SDXL's latents, with longer prompts, up to 2048 pixels (arXiv 2403.04692)."""

from __future__ import annotations

from ._pixart import PixArt
from .family import Configs, Usual


class PixArtSigma(PixArt):
    """PixArt-sigma of 256, 512, 1024 and 2048 pixels, and fine-tunes."""

    title = "PixArt-sigma"
    pipeline = "PixArtSigmaPipeline"
    usual = Usual("PixArt-Sigma", 610_856_096, 6_633_579_773_952, (1024, 1024))
    length = 300
    tokenizers = {"tokenizer": 300}  # noqa: RUF012

    def fits(self, configs: Configs) -> bool:
        """A PixArt whose folder says so."""
        return super().fits(configs) and "Sigma" in str(configs.index.get("_class_name", ""))


FAMILY = PixArtSigma()
