"""c(t), the weight of ADD's distillation loss ``c(t) ||x0_student - x0_teacher||^2`` (arXiv 2311.17042, Eq. 4).

With ``x0_student - x0_teacher = (sigma/alpha)(eps_psi - noise)`` the gradient at the student's sample is
``2 c (sigma/alpha)(eps_psi - noise)``: *exponential* makes it ``2 sigma (eps_psi - noise)``, *sds* makes it
``w(t)(eps_psi - noise)``, the score distillation gradient of DreamFusion (arXiv 2209.14988) with ``w(t) = sigma^2``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def exponential(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``c = alpha``: best FID and diversity in the paper's Table 1d."""
    return alpha


def sds(alpha: Tensor, sigma: Tensor) -> Tensor:
    """``c = alpha w / (2 sigma)`` with ``w = sigma^2``, so ``alpha sigma / 2``."""
    return alpha * sigma / 2


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exponential": exponential,
    "sds": sds,
    "nfsd": sds,  # noise-free score distillation keeps c and replaces the residual: see methods/add.py
}
