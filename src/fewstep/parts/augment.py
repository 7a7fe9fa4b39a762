"""Differentiable augmentation in front of the feature network (DiffAugment, arXiv 2006.10738), for any number of axes.

Real and fake go through the same distribution of augmentations, so the discriminator cannot memorise the reals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..rng import Rng
from ..tensors import Media, match_dims


def brightness(x: Media, rng: Rng) -> Media:
    """Add up to a quarter of the range (media span 2, so +-0.5)."""
    return x + match_dims(rng.uniform((len(x),), -0.5, 0.5), x)


def saturation(x: Media, rng: Rng) -> Media:
    """Scale the distance from the channel mean by [0, 2]."""
    mean = x.mean(1, keepdim=True)
    return (x - mean) * match_dims(rng.uniform((len(x),), 0, 2), x) + mean


def contrast(x: Media, rng: Rng) -> Media:
    """Scale the distance from the sample mean by [0.5, 1.5]."""
    mean = x.flatten(1).mean(1).reshape(-1, *([1] * (x.dim() - 1)))
    return (x - mean) * match_dims(rng.uniform((len(x),), 0.5, 1.5), x) + mean


def color(x: Media, rng: Rng) -> Media:
    """Brightness, saturation, contrast."""
    return contrast(saturation(brightness(x, rng), rng), rng)


def _shifted_index(size: int, shift: Tensor) -> Tensor:
    """Positions ``[B, size]`` to read from, clamped to the border (nothing wraps round)."""
    return (torch.arange(size, device=shift.device)[None] + shift[:, None]).clamp(0, size - 1)


def translation(x: Media, rng: Rng, ratio: float = 0.125) -> Media:
    """Shift every spatial axis by up to an eighth of its size; the border is repeated."""
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        most = max(1, round(size * ratio))
        index = _shifted_index(size, rng.integers((len(x),), 2 * most + 1) - most)
        shape = [len(x), *([1] * (x.dim() - 1))]
        shape[axis] = size
        x = x.gather(axis, index.reshape(shape).expand(*x.shape))
    return x


def cutout(x: Media, rng: Rng, ratio: float = 0.2) -> Media:
    """Blank one box (``ratio`` of every axis) to mid-grey."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool)
    for axis in range(2, x.dim()):
        size = x.shape[axis]
        side = max(1, round(size * ratio))
        start = rng.integers((len(x),), size - side + 1)
        at = torch.arange(size, device=x.device)[None]
        hit = (at >= start[:, None]) & (at < (start + side)[:, None])
        shape = [len(x), *([1] * (x.dim() - 1))]
        shape[axis] = size
        inside = inside & hit.reshape(shape)
    return x * (~inside).to(x.dtype)


AUGMENTATIONS: dict[str, Callable[[Media, Rng], Media]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


class Augment:
    """A policy: the named augmentations in order. An empty policy is the identity."""

    def __init__(self, names: Sequence[str] = ("color", "translation", "cutout")) -> None:
        unknown = [n for n in names if n not in AUGMENTATIONS]
        if unknown:
            raise ValueError(f"unknown augmentation {unknown[0]!r}: use {', '.join(AUGMENTATIONS)}")
        self.names = tuple(names)

    def __call__(self, x: Media, rng: Rng) -> Media:
        """Augment every sample on its own."""
        for name in self.names:
            x = AUGMENTATIONS[name](x, rng)
        return x
