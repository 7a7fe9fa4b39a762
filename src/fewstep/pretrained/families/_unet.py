"""What the families of text-to-image UNets share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ..networks import NetworkDenoiser, UNetDenoiser
from ..schedules import kind_of, schedule_of
from ._classes import without_scaling
from .family import Configs, ModelFamily

BESIDE: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": (None, "text", "text_time"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
"""What a UNet may be told beside the time and the text, by its config, and the values that are known here."""


class UNetFamily(ModelFamily):
    """A ``UNet2DConditionModel`` that makes pictures from a prompt, and from nothing else."""

    networks = ("UNet2DConditionModel",)

    def check(self, configs: Configs) -> None:
        """Inpainting and depth models have channels of their own."""
        config = configs.of(self.component)
        for name, known in BESIDE.items():
            if config.get(name) not in known:
                raise ValueError(
                    f"{configs.folder}/unet is told more than the time and a text ({name} {config[name]!r}), which is not "
                    "known here: give the text-to-image model it was made from"
                )
        takes, gives = config.get("in_channels"), config.get("out_channels")
        if takes != gives:
            raise ValueError(
                f"the UNet takes {takes} channels and gives {gives}: an inpainting or depth model cannot be distilled, "
                "give the text-to-image model it was made from"
            )

    def schedule(self, configs: Configs) -> NoiseSchedule:
        """One that predicts x0 starts from noise of full scale, as its students' scheduler has it."""
        return schedule_of(dict(configs.scheduler), unit_start=kind_of(dict(configs.scheduler)) == "x0")

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """DDPM's for the student of a model that predicts x0: those of Euler's ancestral kind know no such prediction."""
        if kind_of(dict(config)) == "x0":
            return without_scaling(role, config, super().scheduler)
        return super().scheduler(role, config)

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The UNet."""
        return UNetDenoiser(network, schedule, kind)
