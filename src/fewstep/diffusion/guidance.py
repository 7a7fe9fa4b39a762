"""Classifier-free guidance, on x0: x0, eps and v are linear in one another, so guiding one guides all."""

from __future__ import annotations

from ..tensors import Latents


def guide(conditional: Latents, unconditional: Latents, guidance_scale: float) -> Latents:
    """``x0_null + w (x0_cond - x0_null)``; w = 1 is no guidance (Ho & Salimans, arXiv 2207.12598, Eq. 6)."""
    return unconditional + guidance_scale * (conditional - unconditional)
