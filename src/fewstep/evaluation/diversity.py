"""Diversity over seeds: how unlike are the pictures that one prompt gives?

Vendi score: Friedman and Dieng 2023, arXiv:2210.02410, eq. 1, with a cosine kernel: the effective number of different
pictures, from 1 (all alike) to the number of seeds. Since 1 is none at all, what is reported is the score less 1; the mean
pairwise distance beside it does not hang on the number of seeds. Both measures are taken per prompt and then averaged over
prompts: over all pictures at once they would mostly count the prompts. A diversity says nothing about quality: noise is
diverse. Read it against the teacher's, and against that of real pictures of one thing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def vendi(features: Float[Tensor, "N D"]) -> float:
    """``exp(-sum lambda_i log lambda_i)`` over the eigenvalues of ``K / n``, ``K`` the cosine similarities."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    lam = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp(min=0)
    return torch.exp(-torch.special.xlogy(lam, lam).sum()).item()


def pairwise_distance(features: Float[Tensor, "N D"]) -> float:
    """Mean of ``1 - cosine`` over all pairs of different samples."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    n = len(unit)
    alike = unit.sum(0).square().sum() - unit.square().sum()  # the sum over ordered pairs, without the n x n matrix
    return (1 - alike / (n * (n - 1))).item()


def per_prompt(
    features: Float[Tensor, "N D"], prompts: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Vendi score and mean pairwise distance of every prompt's pictures; ``prompts`` says which picture is whose."""
    counts = prompts.unique(return_counts=True)[1]
    if int(counts.min()) < 2 or int(counts.min()) != int(counts.max()):
        raise ValueError(
            "diversity needs the same number of pictures for every prompt, 2 or more: draw with more seeds"
        )
    groups = [features[prompts == p] for p in prompts.unique()]
    scores = torch.tensor([[vendi(g), pairwise_distance(g)] for g in groups], dtype=torch.float64)
    return scores[:, 0], scores[:, 1]
