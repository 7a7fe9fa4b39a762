"""What the families of transformers that predict a flow share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...tensors import Latents
from ..schedules import flow_shift, kind_of
from .family import Configs, ModelFamily


class FlowFamily(ModelFamily):
    """A transformer that predicts a flow."""

    component = "transformer"

    def check(self, configs: Configs) -> None:
        """It is a flow."""
        if (kind := kind_of(dict(configs.scheduler))) != "flow":
            raise ValueError(
                f"{configs.folder} has a {configs.kind(self.component)} ({kind}), and {self.title} predicts a flow: "
                "give it the scheduler that it was trained with"
            )


class RenoisedFlowFamily(FlowFamily):
    """A flow whose stock pipeline hands its scheduler the sigmas 1, (n - 1) / n, ... 1 / n: trailing times, before any shift."""

    sampler = "renoise"

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """Euler's rule on those sigmas; for a student with fresh noise in every step, which is the sampler ``renoise``."""
        import diffusers

        return diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            shift=flow_shift(dict(config)),
            stochastic_sampling=role == "student",
        )


def packed(latents: Latents) -> Tensor:
    """``[B, C, H, W]`` -> tokens ``[B, (H / 2) (W / 2), 4 C]``: patches of two by two, row by row."""
    b, c, h, w = latents.shape
    return latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, like: Latents) -> Latents:
    """`packed` undone, in the shape of ``like``."""
    b, c, h, w = like.shape
    return tokens.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def packed_noise(noise: Latents) -> Latents:
    """Noise in the order of pipelines whose scheduler draws it for packed latents: the same numbers in other places."""
    return unpacked(noise.reshape(len(noise), -1), noise)
