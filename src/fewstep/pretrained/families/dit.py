"""DiT: a transformer on a VAE's latents that is told a class (arXiv 2212.09748). Its prompts are the names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...diffusion.schedule import NoiseSchedule
from ...parts.codec import Codec
from ...parts.conditioner import ClassConditioner
from ...tensors import Conditioning, Latents, Time
from ..networks import NetworkDenoiser, TransformerDenoiser
from ..reading import Parts
from ..schedules import schedule_of
from ._classes import class_conditioner, without_scaling
from .family import Configs, ModelFamily, Usual

NULL = 1000
"""The class that the stock pipeline calls none: ImageNet's thousand end before it."""


class DiTDenoiser(TransformerDenoiser):
    """DiT's transformer (``DiTTransformer2DModel``). Of twice as many channels the second half, its variances, is left."""

    reads = ("labels",)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The first half of the transformer's output."""
        x, cond = self._own(x_t, cond)
        out = self.network(x, timestep=self.told(t), class_labels=cond.labels, return_dict=False)[0]
        return out[:, : x.shape[1]]

    def _level(self, output: Any) -> Any:
        return output.transpose(1, 2)  # [B, N, C] -> [B, C, N]


class DiT(ModelFamily):
    """DiT-XL/2 and smaller ones. Its stock pipeline draws squares of one size."""

    title = "DiT"
    pipeline = "DiTPipeline"
    usual = Usual("DiT-XL/2", 749_826_464, 237_333_676_032, (256, 256))
    component = "transformer"
    networks = ("DiTTransformer2DModel",)
    guidance_scale = 4.0
    text = ("id2label",)
    tokenizers: Mapping[str, int | None] = {}

    def check(self, configs: Configs) -> None:
        """The stock pipeline knows one null class."""
        classes = configs.of("transformer").get("num_embeds_ada_norm")
        if classes != NULL:
            raise ValueError(
                f"{configs.folder}/transformer has {classes} classes, and the stock pipeline takes number {NULL} for none: "
                f"give a DiT of {NULL:,} classes"
            )

    def schedule(self, configs: Configs) -> NoiseSchedule:
        """Its stock pipeline starts from noise of full scale."""
        return schedule_of(dict(configs.scheduler), unit_start=True)

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The transformer."""
        return DiTDenoiser(network, schedule, kind)

    def conditioner(self, parts: Parts, network: Any) -> ClassConditioner:
        """The names of ``id2label``."""
        return class_conditioner(parts.index, network.config.num_embeds_ada_norm)

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """DDPM's for a student: the ancestral sampler, and the only one of those that starts as this pipeline does."""
        return without_scaling(role, config, super().scheduler)


FAMILY = DiT()
