"""A feature network of your own for the discriminator to look through: edges and patches of colour, at three scales.

    fewstep distill --features examples.own_features ...                     # in the repository's folder
    python examples/distil_shapes.py --features examples.own_features        # a teacher and a student of shapes, some minutes

A file of your own offers `load(o, teacher)`. What it returns is frozen; gradients pass through to the student's pictures alone.
This one has no weights at all, so it knows nothing of what pictures show: a pretrained network is the better eye.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.parts.denoiser import Denoiser
from fewstep.parts.features.feature import MediaFeatures, Options
from fewstep.tensors import Features

FILTERS = (
    [[0, 0, 0], [0, 1, 0], [0, 0, 0]],  # the colour itself
    [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],  # edges that stand (Sobel)
    [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],  # edges that lie
    [[0, 1, 0], [1, -4, 1], [0, 1, 0]],  # spots (Laplace)
)


class Edges(nn.Module):
    """Four filters on every colour, at whole, half and quarter size."""

    def __init__(self) -> None:
        super().__init__()
        bank = torch.tensor(FILTERS, dtype=torch.float32)[:, None]  # [4, 1, 3, 3]
        self.register_buffer("bank", bank / bank.abs().sum((2, 3), keepdim=True))

    def forward(self, media: Tensor) -> Features:
        """``media [B, 3, H, W]`` in [-1, 1] -> three levels of 12 channels, and their means and deviations as an embedding."""
        channels, levels = media.shape[1], []
        for scale in (1, 2, 4):
            small = F.avg_pool2d(media, scale) if scale > 1 else media
            bank = self.get_buffer("bank").to(media).repeat(channels, 1, 1, 1)
            levels.append(F.conv2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), bank, groups=channels))
        pooled = torch.cat([moment for level in levels for moment in (level.mean((2, 3)), level.std((2, 3)))], 1)
        return Features(tuple(levels), pooled=pooled)


def load(o: Options, teacher: Denoiser) -> MediaFeatures:
    """What ``--features examples.own_features`` finds."""
    return MediaFeatures(Edges())
