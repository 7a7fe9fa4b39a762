"""Fréchet distance in the principal components of small pictures: unlike any discriminator."""

from __future__ import annotations

from . import kit

KIND = "features"
METRIC = "fd"
LICENCE = "Apache-2.0"
PINS = None


def load(asked: kit.Asked) -> kit.OnMedia:
    """The components of the real pictures. Raises ValueError without any."""
    import torch

    from ..evaluation.pixel_features import PixelFeatures

    real = [media for files, _ in kit.batches(asked.against, asked.against) for media in kit.media(files)]
    if len({media.shape[1:] for media in real}) > 1:
        raise ValueError(
            "the real pictures have several sizes, and pixels are compared at one: give pictures of one size"
        )
    if not real:
        raise ValueError("pixels are seen in the components of real pictures: give some with --against")
    return kit.OnMedia(PixelFeatures.fit(torch.cat(real)))
