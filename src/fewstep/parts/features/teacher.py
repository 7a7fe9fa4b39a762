"""The teacher's own features as a feature network (LADD, arXiv 2403.12015): no second network, no decoding to pixels."""

from __future__ import annotations

import math

from ...diffusion.schedule import add_noise, time_of
from ...rng import Rng
from ...tensors import Conditioning, Features, Latents, exactly
from ..denoiser import Denoiser, freeze
from .feature import Options, Space

SIDE = 128
"""Latents' side of pictures of 1024 pixels in LADD's models."""


class TeacherFeatures:
    """The frozen teacher's own features of re-noised latents (LADD, arXiv 2403.12015).

    The noise level decides what the discriminator sees: high t the layout, low t detail. ``ln(sigma / alpha) = mean + std n``,
    which is LADD's ``t = sigmoid(mean + std n)`` on a rectified flow, and as much noise on every other schedule. ``mean`` belongs
    to latents of `SIDE`; of n elements a channel it is moved by ``ln sqrt(n / SIDE^2)``, as Stable Diffusion 3 moves the times of
    other sizes (arXiv 2403.03206, Eq. 23): the same noise hides more of a small picture.
    """

    space: Space = "latents"

    def __init__(self, denoiser: Denoiser, mean: float = 1.0, std: float = 1.0) -> None:
        self.denoiser, self.mean, self.std = denoiser, mean, std
        freeze(denoiser)

    def __call__(self, x: Latents, cond: Conditioning, rng: Rng) -> Features:
        """Features at a noise level drawn for each row; the record carries it."""
        shift = math.log(math.prod(x.shape[2:])) / 2 - math.log(SIDE)
        t = time_of(self.denoiser.schedule, exactly(self.mean + shift + self.std * rng.normal((len(x),))))
        x_t = add_noise(self.denoiser.schedule, x, rng.normal_like(x), t)
        return self.denoiser.features(x_t, t, cond)


def load(o: Options, teacher: Denoiser) -> TeacherFeatures:
    """The teacher's own."""
    return TeacherFeatures(teacher, o.noise_mean, o.noise_spread)
