"""PixArt-alpha of 128 latents a side: that one is told the picture's size."""

from __future__ import annotations

from pathlib import Path

import tiny.pixart_sigma as sigma
from tiny import Tiny


def make(root: Path) -> Path:
    """A teacher whose patches are large, and whose latents are as large as its pictures."""
    return sigma.make(
        root, "PixArtAlphaPipeline", levels=1, sample_size=128, patch_size=16, use_additional_conditions=True
    )


TINY = Tiny(
    make,
    extra={"use_resolution_binning": False},
    other=(64, 96),
    student={"use_resolution_binning": False},
    without=sigma.REASONS,
)
