"""SDXL: two text encoders, sizes beside the time."""

from __future__ import annotations

from pathlib import Path

import foreign
from tiny import Tiny, scaled


def make(root: Path) -> Path:
    """A teacher that listens."""
    return scaled(foreign.sdxl(root), "unet", 8, "attn2.to_out", "attn2.to_v")


TINY = Tiny(make)
