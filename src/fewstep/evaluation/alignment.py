"""Prompt-to-concept retrieval: is the picture nearest to drawings of the concept that was asked for?

R-precision of text-to-image work (AttnGAN, arXiv:1711.10485, section 4.1), with a gallery of real pictures in the place of
captions, so that the judge needs no text encoder. Concepts are ranked, not pictures: a gallery may hold several drawings of
one concept, and the best of them speaks for it. Give the figure of real pictures (another vendor's drawings, or the
gallery less the picture itself) beside it: that is the ceiling.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def retrieval_ranks(
    features: Float[Tensor, "N D"], concepts: Int[Tensor, " N"],
    gallery: Float[Tensor, "M D"], gallery_concepts: Int[Tensor, " M"],
    chunk: int = 1024,
) -> Int[Tensor, " N"]:  # fmt: skip
    """How many other concepts are as near as the true one or nearer (0 is best), by cosine.

    Ties count against the picture, so a constant embedding scores nothing, and so does one that is not a number.
    """
    names, slots = gallery_concepts.unique(return_inverse=True)
    true = torch.searchsorted(names, concepts).clamp(max=len(names) - 1)
    if missing := sorted(set(concepts[names[true] != concepts].tolist())):
        raise ValueError(f"the gallery has no picture of concept {missing[0]} ({len(missing)} missing): add them to it")
    unit = torch.nn.functional.normalize(gallery.double(), dim=1)
    ranks = []
    for part, own in zip(features.double().split(chunk), true.split(chunk)):
        similarity = torch.nn.functional.normalize(part, dim=1) @ unit.T
        best = torch.full((len(part), len(names)), -torch.inf, dtype=torch.float64)
        best.scatter_reduce_(1, slots.expand(len(part), -1), similarity, "amax")
        ranks.append((~(best < best.gather(1, own[:, None]))).sum(1) - 1)
    return torch.cat(ranks)


def retrieved(ranks: Int[Tensor, " N"], k: int) -> Float[Tensor, " N"]:
    """1 where the true concept is among the nearest k: the mean is the top-k retrieval accuracy."""
    return (ranks < k).double()
