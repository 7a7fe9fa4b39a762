"""The teacher's own features as a feature network (LADD, arXiv 2403.12015): no second network, no decoding to pixels."""

from __future__ import annotations

import torch

from ...diffusion.schedule import add_noise
from ...rng import Rng
from ...tensors import Conditioning, Features, Latents, exactly
from ..denoiser import Denoiser, freeze
from .feature import Options, Space


class TeacherFeatures:
    """The frozen teacher's own features of re-noised latents (LADD, arXiv 2403.12015).

    The noise level ``t = sigmoid(mean + std * n)`` decides what the discriminator sees: high t the layout, low t detail.
    """

    space: Space = "latents"

    def __init__(self, denoiser: Denoiser, mean: float = 1.0, std: float = 1.0) -> None:
        self.denoiser, self.mean, self.std = denoiser, mean, std
        freeze(denoiser)

    def __call__(self, x: Latents, cond: Conditioning, rng: Rng) -> Features:
        """Features at a noise level drawn for each row; the record carries it."""
        t = exactly(torch.sigmoid(self.mean + self.std * rng.normal((len(x),))))
        x_t = add_noise(self.denoiser.schedule, x, rng.normal_like(x), t)
        return self.denoiser.features(x_t, t, cond)


def load(o: Options, teacher: Denoiser) -> TeacherFeatures:
    """The teacher's own."""
    return TeacherFeatures(teacher)
