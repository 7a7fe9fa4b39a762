"""PixArt-alpha: a transformer whose blocks share the time's modulation, T5; the 1024 one is told the size (arXiv 2310.00426)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...diffusion.schedule import NoiseSchedule
from ..schedules import schedule_of
from ._classes import without_scaling
from ._pixart import PixArt
from .family import Configs, Usual


class PixArtAlpha(PixArt):
    """PixArt-alpha of 256, 512 and 1024 pixels, and fine-tunes."""

    title = "PixArt-alpha"
    pipeline = "PixArtAlphaPipeline"
    usual = Usual("PixArt-alpha", 611_349_152, 6_509_523_566_592, (1024, 1024))
    length = 120
    tokenizers = {"tokenizer": 120}  # noqa: RUF012

    def fits(self, configs: Configs) -> bool:
        """Every PixArt whose folder does not say that it is the other."""
        return super().fits(configs) and "Sigma" not in str(configs.index.get("_class_name", ""))

    def told_sizes(self, network: Any) -> bool:
        """The stock pipeline tells a network of 128 latents a side, and no other."""
        return network.config.sample_size == 128

    def schedule(self, configs: Configs) -> NoiseSchedule:
        """Its student starts from noise of full scale, as its scheduler has it."""
        return schedule_of(dict(configs.scheduler), unit_start=True)

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """DDPM's for a student: of one step the stock pipeline takes the estimate, which those of Euler's kind give in single
        precision whatever the VAE's is."""
        return without_scaling(role, config, super().scheduler)


FAMILY = PixArtAlpha()
