"""A small classifier for tiny pictures, trained here: a feature network without a download."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...rng import Rng
from ...tensors import Features, Media
from ..denoiser import freeze


class ConvClassifier(nn.Module):
    """A small classifier for tiny pictures, trained here: the feature network and the judge of the digits experiments."""

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2 if i else 1, 1), nn.GroupNorm(8, b), nn.SiLU())
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, media: Media) -> Features:
        """Maps after every convolution; ``pooled`` is the mean of the last one."""
        levels = []
        for layer in self.layers:
            media = layer(media)
            levels.append(media)
        return Features(tuple(levels), pooled=media.flatten(2).mean(2))

    def classify(self, media: Media) -> Tensor:
        """Class logits ``[B, classes]``."""
        return self.classifier(self(media).pooled)

    def fit(self, media: Media, labels: Tensor, rng: Rng, steps: int = 300, batch: int = 64) -> ConvClassifier:
        """Train with one-pixel shifts, then freeze."""
        optimizer = torch.optim.AdamW(self.parameters(), 3e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
        for _ in range(steps):
            rows = rng.integers((batch,), len(media))
            shift = rng.integers((2,), 3) - 1
            x = media[rows].roll((int(shift[0]), int(shift[1])), (2, 3))
            loss = F.cross_entropy(self.classify(x), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        freeze(self)
        return self
