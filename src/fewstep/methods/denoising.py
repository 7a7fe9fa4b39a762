"""Teacher training: regress the network's own kind of prediction on real data (DDPM, arXiv 2006.11239).

=========  ==========================================================
symbol     here
=========  ==========================================================
x_0, x_t   ``batch.x0``, ``x_t``
epsilon    ``noise``
w(t)       ``min(SNR, gamma)`` weighting, ``Options.min_snr_gamma``
=========  ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..parts.denoiser import Denoiser, prediction_error
from ..rng import Rng
from ..tensors import Batch, exactly
from .method import OnePlayer

MIN_SNR_GAMMA = 5.0


@dataclass(frozen=True)
class Options:
    """How a teacher is trained."""

    label_dropout: float = 0.1
    """Share of samples trained without their prompt, so that the teacher can be guided (arXiv 2207.12598)."""
    pure_noise: float = 0.1
    """Share of samples at t = 1 exactly: the few-step student will start there."""
    high_noise: float = 0.0
    """Share of samples drawn from t in [0.6, 1], where the prompt decides what is seen, rather than from all of [0, 1]."""
    min_snr_gamma: float | None = None
    """Clamp of the signal-to-noise weighting (arXiv 2303.09556); 0 turns it off. None takes the paper's 5, and 0 for a flow
    model, which is trained without."""


class Denoising(OnePlayer):
    """Plain diffusion training with condition dropout."""

    def __init__(self, denoiser: Denoiser, options: Options = Options()) -> None:
        """Raises ValueError for a flow model under a signal-to-noise weighting: that is defined for eps, v and x0."""
        if denoiser.kind == "flow" and options.min_snr_gamma:
            raise ValueError(
                f"min_snr_gamma {options.min_snr_gamma:g} weighs by the signal-to-noise ratio, which a flow model is not "
                "trained with: set min_snr_gamma to 0"
            )
        super().__init__("teacher", denoiser)
        self.denoiser, self.options = denoiser, options
        usual = 0.0 if denoiser.kind == "flow" else MIN_SNR_GAMMA
        self.min_snr_gamma = usual if options.min_snr_gamma is None else options.min_snr_gamma

    def weight(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """min-SNR-gamma weight of the x0 error ``min(SNR, gamma)``, turned into the weight of this kind's error."""
        gamma = self.min_snr_gamma
        if not gamma:
            return torch.ones_like(alpha)
        snr = alpha**2 / sigma.clamp(min=1e-6) ** 2
        if self.denoiser.kind == "v":
            return snr.clamp(max=gamma) / (snr + 1)  # ||x0 error||^2 = sigma^2 ||v error||^2 and SNR + 1 = 1/sigma^2
        if self.denoiser.kind == "eps":
            return snr.clamp(max=gamma) / snr.clamp(min=1e-8)
        return snr.clamp(max=gamma)

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``denoising``: the weighted squared error of the prediction."""
        n, o, schedule = len(batch), self.options, self.denoiser.schedule
        t = exactly(rng.uniform((n,), 1e-3, 1.0))
        if o.high_noise:
            t = torch.where(rng.uniform((n,)) < o.high_noise, 0.6 + 0.4 * t, t)
        t = torch.where(rng.uniform((n,)) < o.pure_noise, torch.ones_like(t), t)
        noise = rng.normal_like(batch.x0)
        keep = rng.uniform((n,)) >= o.label_dropout
        error = prediction_error(self.denoiser, batch.x0, noise, t, batch.cond.where(keep, batch.null))
        weight = self.weight(schedule.alpha(t), schedule.sigma(t))
        floor = 0.1 if self.denoiser.kind == "v" else 0.0  # min-SNR gives v no weight at t = 1, where students begin
        return {"denoising": (weight.clamp(min=floor).to(error.dtype) * error).mean()}
