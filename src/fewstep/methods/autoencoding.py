"""Codec training: a deterministic autoencoder whose latents a diffusion model likes (TAESD-like, no KL, no sampling).

Three terms: reconstruction error in pixels, error of their differences between neighbours (edges stay sharp), and a pull
of every latent channel to zero mean and unit variance over the batch, so that the scaling factor is 1. Latents are
jittered while training, so that the decoder forgives the small errors of a student.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.losses import neighbour_differences
from ..parts.codec import Codec
from ..rng import Rng
from ..tensors import Batch
from .method import OnePlayer


@dataclass(frozen=True)
class Options:
    """How a codec is trained."""

    edges: float = 0.5
    """Weight of the error of neighbour differences."""
    latents: float = 0.02
    """Weight of the pull to zero mean and unit variance."""
    jitter: float = 0.05
    """Standard deviation of the noise added to latents before decoding."""


class Autoencoding(OnePlayer):
    """Train ``network.encode`` and ``network.decode`` together."""

    def __init__(self, network: Codec, options: Options = Options()) -> None:
        super().__init__("codec", network)
        self.network, self.options = network, options

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``reconstruction``, ``edges``, ``latents``."""
        assert batch.media is not None, "codec training needs the pixels"
        media, o = batch.media, self.options
        z = self.network.encode(media)
        out = self.network.decode(z + o.jitter * rng.normal_like(z))
        per_channel = z.transpose(0, 1).flatten(1)
        pull = per_channel.mean(1).pow(2).mean() + (per_channel.var(1) - 1).pow(2).mean()
        edges = torch.stack(
            [(a - b).pow(2).mean() for a, b in zip(neighbour_differences(out), neighbour_differences(media))]
        ).sum()
        return {
            "reconstruction": (out - media).pow(2).mean(),
            "edges": o.edges * edges,
            "latents": o.latents * pull,
        }
