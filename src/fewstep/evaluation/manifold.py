"""Precision and recall, density and coverage: which share of either set lies in the other's nearest-neighbour balls.

Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision, recall; k = 3); Naeem et al. 2020, arXiv:2002.09797 (density,
coverage; k = 5). Recall and coverage fall when modes are lost; precision and density fall when samples are poor.
All four read a membership matrix, so that a bootstrap never measures a distance twice.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5


def radii(features: Float[Tensor, "N D"], k: int, chunk: int = 1024) -> Float[Tensor, " N"]:
    """Distance from every sample to its k-th nearest neighbour within the set, itself not counted."""
    if len(features) <= k:
        raise ValueError(f"{k} neighbours need more than {k} samples, not {len(features)}")
    x = features.double()
    found = []
    for start in range(0, len(x), chunk):
        distances = torch.cdist(x[start : start + chunk], x)
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf
        found.append(distances.kthvalue(k, 1).values)
    return torch.cat(found)


def membership(
    points: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], k: int, chunk: int = 1024
) -> Bool[Tensor, "N M"]:
    """Whether each point lies in the ball round each centre that reaches to the centre's k-th neighbour."""
    shift = centres.double().mean(0)  # distances by matrix products lose less where the origin is near
    points, centres = points.double() - shift, centres.double() - shift
    reach = radii(centres, k, chunk)
    return torch.cat([torch.cdist(part, centres) <= reach for part in points.split(chunk)])


def precision(in_reference: Bool[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """For every generated sample, 1 if some reference ball (k = 3) holds it: the mean is the precision."""
    return in_reference.any(1).double()


def recall(in_generated: Bool[Tensor, "M N"], weights: Float[Tensor, " N"] | None = None) -> float:
    """Share of the reference samples that some generated ball (k = 3) holds; balls of weight 0 are left out."""
    return (in_generated if weights is None else in_generated[:, weights > 0]).any(1).double().mean().item()


def density(in_reference: Bool[Tensor, "N M"], k: int = DENSITY_NEIGHBOURS) -> Float[Tensor, " N"]:
    """For every generated sample, the number of reference balls (k = 5) that hold it, over k: the mean is the density."""
    return in_reference.double().sum(1) / k


def coverage(in_reference: Bool[Tensor, "N M"], weights: Float[Tensor, " N"] | None = None) -> float:
    """Share of the reference balls (k = 5) that hold some generated sample; samples of weight 0 are left out."""
    return (in_reference if weights is None else in_reference[weights > 0]).any(0).double().mean().item()
