"""Pixels as a judge: the picture, made small, in the principal components of real pictures. It is no network.

A discriminator's features, and those of a judge of the same kind, forgive the same faults. Pixels share nothing with them: by
pixels a student can be worse than its own warm start while a network says that it is better. What they see is layout, colour
and coarse shape; what a picture shows they don't know.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..tensors import Features, Media

AT_ONCE = 1024
"""Pictures made small in one go."""


@dataclass(frozen=True)
class PixelFeatures:
    """The first principal components of small pictures; with `fit` a `Judge` of ``evaluate.py``.

    Over the fitted pictures the components have a mean of 0 and a mean variance of 1: a model that draws their mean and
    nothing else has a Fréchet distance of ``components`` to them.
    """

    mean: Float[Tensor, " P"]
    """Of the fitted pictures, P = channels x side x side."""
    axes: Float[Tensor, "P K"]
    """Orthogonal, divided by the one number that makes the mean variance 1."""
    side: int
    """Pictures are made this small."""
    fingerprint: str
    """Hash of the fitted pictures and of both numbers."""

    name = "pixels"

    @property
    def resizer(self) -> str:
        """How pictures are made small."""
        return f"area to {self.side} x {self.side}"

    @classmethod
    def fit(cls, media: Float[Tensor, "N C H W"], components: int = 64, side: int = 16) -> PixelFeatures:
        """The components of real pictures ``media`` in [-1, 1]: at most ``components``, fewer where N - 1 or pixels are fewer.

        Raises ValueError for fewer than two pictures, and for pictures that are all alike.
        """
        if media.dim() != 4 or len(media) < 2:
            raise ValueError(
                f"principal components need pictures [N, C, H, W], N of 2 or more, not {list(media.shape)}"
            )
        rows = torch.cat([_small(part, side).double() for part in media.split(AT_ONCE)])
        mean = rows.mean(0)
        centred = rows - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / (len(rows) - 1))  # ascending
        kept = min(components, len(rows) - 1, len(mean))
        values, vectors = values[-kept:].flip(0), vectors[:, -kept:].flip(1)
        if not values[0] > 1e-12:
            raise ValueError("the pictures are all alike, so they have no principal components: give different ones")
        shown = ((media.detach().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        digest = hashlib.sha256(f"{tuple(media.shape)} {components} {side}".encode())
        digest.update(shown.numpy().tobytes())
        return cls(mean, vectors / values.mean().sqrt(), side, digest.hexdigest()[:12])

    def __call__(self, media: Media, /) -> Features:
        """``pooled [B, K]``: the components of pictures in [-1, 1]; of whatever size, with the channels of the fitted ones."""
        small = _small(media, self.side)
        if small.shape[1] != len(self.mean):
            raise ValueError(f"the components are those of pictures of other channels than {media.shape[1]}")
        return Features((), ((small.double() - self.mean) @ self.axes).float())


def _small(media: Tensor, side: int) -> Float[Tensor, "N P"]:
    """Pictures averaged over areas, as rows."""
    return F.adaptive_avg_pool2d(media.detach().cpu().float(), side).flatten(1)
