"""Unconditional and class-conditional UNets on pixels (``UNet2DModel``; DDPM, arXiv 2006.11239)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec, IdentityCodec
from ...parts.conditioner import Conditioner
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, UNetDenoiser
from ..reading import Parts
from ..schedules import schedule_of
from ._classes import Unconditional, class_conditioner, without_scaling
from .family import Configs, ModelFamily


class PlainDenoiser(UNetDenoiser):
    """A UNet that is told the time alone."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The UNet's raw output."""
        x, _ = self._own(x_t, cond)
        return self.network(x, self.told(t), return_dict=False)[0]


class PixelUNet(ModelFamily):
    """DDPM's and DDIM's UNets, on pixels. Stock diffusers draws the unconditional ones, at their native size."""

    title = "DDPM and DDIM on pixels"
    pipeline = "DDPMPipeline"
    networks = ("UNet2DModel",)
    guidance_scale = 1.0
    text = ("id2label",)
    tokenizers: Mapping[str, int | None] = {}

    def fits(self, configs: Configs) -> bool:
        """A UNet without a VAE beside it."""
        return super().fits(configs) and not configs.has("vae") and not configs.has("vqvae")

    def check(self, configs: Configs) -> None:
        """Variances that were learned beside the prediction are not read by the stock pipeline either."""
        config = configs.of("unet")
        if config.get("in_channels") != config.get("out_channels"):
            raise ValueError(
                f"the UNet takes {config.get('in_channels')} channels and gives {config.get('out_channels')}: one that "
                "learned its variances, or is told another picture, cannot be distilled; give a plain one"
            )
        if config.get("class_embed_type"):
            raise ValueError(
                f"{configs.folder}/unet is told a class as {config['class_embed_type']!r}, and only numbers of classes "
                "(num_class_embeds) are known here: give an unconditional model, or one of those"
            )

    def patch(self, config: Mapping[str, Any]) -> int:
        """It halves between its levels, and doubles what is left."""
        return int(2 ** (len(config["block_out_channels"]) - 1))

    def schedule(self, configs: Configs) -> NoiseSchedule:
        """Its stock pipeline starts from noise of full scale."""
        return schedule_of(dict(configs.scheduler), unit_start=True)

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The UNet, told the class where it takes one."""
        kind_of_unet = UNetDenoiser if network.config.num_class_embeds else PlainDenoiser
        return kind_of_unet(network, schedule, kind)

    def codec(self, parts: Parts) -> Codec:
        """Pixels are the latents."""
        return IdentityCodec()

    def conditioner(self, parts: Parts, network: Any) -> Conditioner:
        """Names of classes (the last of them is none), or nothing."""
        classes = network.config.num_class_embeds
        return class_conditioner(parts.index, classes - 1) if classes else Unconditional()

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """DDPM's for a student: the ancestral sampler, and the only one of those that starts as this pipeline does."""
        return without_scaling(role, config, super().scheduler)

    def index(self, network: nn.Module, vae: nn.Module | None, scheduler: Any) -> dict[str, Any]:
        """A class-conditional UNet has no stock pipeline that would name a class: that is said."""
        if network.config.num_class_embeds:  # type: ignore[union-attr]
            warnings.warn(
                "stock diffusers has no pipeline that tells a UNet2DModel a class: draw this one with fewstep",
                stacklevel=3,
            )
        return super().index(network, vae, scheduler)


FAMILY = PixelUNet()
