"""What the families of text-to-image UNets share."""

from __future__ import annotations

from typing import Any

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ..networks import NetworkDenoiser, UNetDenoiser
from .family import Configs, ModelFamily


class UNetFamily(ModelFamily):
    """A ``UNet2DConditionModel`` that makes pictures from a prompt, and from nothing else."""

    networks = ("UNet2DConditionModel",)

    def check(self, configs: Configs) -> None:
        """Inpainting and depth models have channels of their own."""
        config = configs.of(self.component)
        takes, gives = config.get("in_channels"), config.get("out_channels")
        if takes != gives:
            raise ValueError(
                f"the UNet takes {takes} channels and gives {gives}: an inpainting or depth model cannot be distilled, "
                "give the text-to-image model it was made from"
            )

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The UNet."""
        return UNetDenoiser(network, schedule, kind)


def check_width(width: int, network: Any) -> None:
    """Raise ValueError for a text encoder that gives another number of values a token than the UNet takes."""
    if width != (wanted := network.config.cross_attention_dim):
        raise ValueError(
            f"the text encoder gives {width} numbers a token, the UNet takes {wanted}: use the encoder it was trained with"
        )
