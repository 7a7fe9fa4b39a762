"""What a network predicts (eps | v | x0 | flow) <-> the clean estimate x0. Every formula is linear in ``(x_t, prediction)``.

=====  ===========================  =============================  =====================================
kind   target                       x0 from the prediction         source
=====  ===========================  =============================  =====================================
eps    ``noise``                    ``(x_t - sigma eps) / alpha``  DDPM, arXiv 2006.11239
v      ``alpha noise - sigma x0``   ``alpha x_t - sigma v``        Salimans & Ho, arXiv 2202.00512
x0     ``x0``                       ``x0``
flow   ``noise - x0``               ``x_t - t v``                  rectified flow, arXiv 2209.03003
=====  ===========================  =============================  =====================================

``v`` assumes ``alpha^2 + sigma^2 = 1``; ``flow`` assumes ``alpha + sigma = 1``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors import Latents, match_dims

KINDS = ("eps", "v", "x0", "flow")
_MIN_ALPHA = 1e-3


def check_kind(kind: str) -> str:
    """Return ``kind`` if it is known, else raise a ValueError that lists what is."""
    if kind not in KINDS:
        raise ValueError(f"unknown prediction type {kind!r}: use one of {', '.join(KINDS)}")
    return kind


def coefficients(kind: str, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """``(c_x, c_out)``, each ``[B]``, of ``x0 = c_x x_t + c_out prediction``. eps at alpha = 0 has none: a ValueError says so.

    An eps model at zero terminal SNR keeps its native, non-zero alpha for this conversion (add_spec A2, option 3).
    """
    if check_kind(kind) == "eps":
        if bool((alpha < _MIN_ALPHA).any()):
            raise ValueError(
                "an eps model has no x0 at zero terminal SNR: give its native alpha (rescale off) for the conversion, "
                "or use a v or flow model"
            )
        return 1 / alpha, -sigma / alpha
    if kind == "v":
        return alpha, -sigma
    one = torch.ones_like(sigma)
    return (0 * one, one) if kind == "x0" else (one, -sigma)


def to_x0(kind: str, x_t: Latents, prediction: Latents, alpha: Tensor, sigma: Tensor) -> Latents:
    """The clean estimate. ``alpha``, ``sigma`` are ``[B]``. ValueError as in `coefficients`."""
    return combined(x_t, prediction, *coefficients(kind, alpha, sigma))


def combined(x_t: Latents, prediction: Latents, c_x: Tensor, c_out: Tensor) -> Latents:
    """``c_x x_t + c_out prediction``, in the dtype of ``x_t``."""
    return match_dims(c_x, x_t) * x_t + match_dims(c_out, x_t) * prediction


def from_x0(kind: str, x_t: Latents, x0: Latents, alpha: Tensor, sigma: Tensor) -> Latents:
    """The prediction that would have given ``x0``: the inverse of ``to_x0``. Needs sigma > 0 except for kind x0."""
    if check_kind(kind) == "x0":
        return x0
    a, s = match_dims(alpha, x_t), match_dims(sigma, x_t)
    noise = (x_t - a * x0) / s
    if kind == "eps":
        return noise
    return a * noise - s * x0 if kind == "v" else noise - x0


def target(kind: str, x0: Latents, noise: Latents, alpha: Tensor, sigma: Tensor) -> Latents:
    """What the network should say for a known ``(x0, noise)``: the regression target of teacher training."""
    a, s = match_dims(alpha, x0), match_dims(sigma, x0)
    return {"eps": noise, "v": a * noise - s * x0, "x0": x0, "flow": noise - x0}[check_kind(kind)]
