"""fewstep: Adversarial Diffusion Distillation, and what makes it useful."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .client import Connect

__all__ = ["__version__", "connect"]


def connect(url: str, token: str = "", timeout_s: float = 120.0) -> Connect:
    """Connect to a running ``fewstep serve``: ``with connect(url) as studio``, or ``async with``."""
    from .client import Connect

    return Connect(url, token, timeout_s)
