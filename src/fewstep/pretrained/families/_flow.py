"""What the families of transformers that predict a flow share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...diffusion.schedule import NoiseSchedule
from ...tensors import Latents
from ..networks import TransformerDenoiser
from ..schedules import flow_shift, kind_of
from .family import Configs, ModelFamily

NATIVE = 128
"""Latents a side that stock pipelines of packed latents draw where they are not asked for a size."""


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


def unless_1024(size: Sequence[int]) -> dict[str, Any]:
    """What a stock pipeline is asked with that takes 1024 by 1024 pixels for granted, whatever its network's size."""
    return {} if tuple(size) == (1024, 1024) else {"height": size[0], "width": size[1]}


class PackedFlowFamily(RenoisedFlowFamily):
    """One whose network sees patches of two by two latents as tokens of four times the channels."""

    def latent_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Unpacked. The native size is the stock pipeline's, where the network's config states no ``sample_size``."""
        size = config.get("sample_size") or NATIVE
        return (config["in_channels"] // 4, *((size, size) if isinstance(size, int) else size))

    def patch(self, config: Mapping[str, Any]) -> int:
        """Two by two."""
        return 2

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """Its size, where that is not the stock pipeline's 1024."""
        return unless_1024(size)


class PackedDenoiser(TransformerDenoiser):
    """A transformer that sees packed latents."""

    def as_drawn(self, noise: Latents) -> Latents:
        """Noise that the stock pipeline's scheduler draws for packed latents: the same numbers in other places."""
        return unpacked(noise.reshape(len(noise), -1), noise)

    def _level(self, output: Any) -> Tensor:
        tokens = output[-1] if isinstance(output, tuple) else output  # (text, picture), or one after the other
        return tokens.transpose(1, 2)  # [B, N, C] -> [B, C, N]


class TwoStreamDenoiser(PackedDenoiser):
    """One with blocks of two streams and then of one, which is told where every token stands: FLUX, and what was made of it."""

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(network, schedule, kind)
        self._places: dict[tuple[Any, ...], Tensor] = {}

    def places(self, x: Latents) -> Tensor:
        """Where every token of the picture is ``[N, 3]``: 0, row, column."""
        height, width = (side // 2 for side in x.shape[2:])
        key = (height, width, x.dtype, x.device)
        if key not in self._places:  # made once: a CUDA graph may not wait for numbers from the host
            rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            self._places[key] = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(x)
        return self._places[key]

    def blocks(self) -> list[nn.Module]:
        """Those of two streams, then those of one."""
        return [*self.network.transformer_blocks, *self.network.single_transformer_blocks]


def packed(latents: Latents) -> Tensor:
    """``[B, C, H, W]`` -> tokens ``[B, (H / 2) (W / 2), 4 C]``: patches of two by two, row by row."""
    b, c, h, w = latents.shape
    return latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, like: Latents) -> Latents:
    """`packed` undone, in the shape of ``like``."""
    b, c, h, w = like.shape
    return tokens.reshape(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
