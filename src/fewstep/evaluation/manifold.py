"""Precision and recall, density and coverage: which share of either set lies in the other's nearest-neighbour balls.

Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision, recall; k = 3); Naeem et al. 2020, arXiv:2002.09797 (density,
coverage; k = 5). Recall and coverage fall when modes are lost; precision and density fall when samples are poor.
All four read a ``Membership``, so that no distance is measured twice; where samples are left out, it has the balls that
the others have without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PRECISION_NEIGHBOURS = 3
DENSITY_NEIGHBOURS = 5


@dataclass(frozen=True)
class Membership:
    """Which points lie in the ball round which centre; a ball reaches to its centre's k-th neighbour among the centres."""

    distances: Float[Tensor, "N M"]
    """From every point to every centre."""
    reach: Float[Tensor, " M"]
    """Radius of every ball."""
    centres: Float[Tensor, "M D"]
    k: int

    @cached_property
    def inside(self) -> Bool[Tensor, "N M"]:
        """Whether each point lies in each ball."""
        return self.distances <= self.reach

    @cached_property
    def between(self) -> Float[Tensor, "M M"]:
        """Distances between the centres; infinite to itself, which is no neighbour."""
        return torch.cdist(self.centres, self.centres).fill_diagonal_(torch.inf)

    def among(self, kept: Bool[Tensor, " M"]) -> Bool[Tensor, "N K"]:
        """Whether each point lies in each ball, if there were only the centres that are ``kept``: with fewer of them a ball
        reaches further. Raises ValueError where no more than k are."""
        if bool(kept.all()):
            return self.inside
        if int(kept.sum()) <= self.k:
            raise ValueError(f"{self.k} neighbours need more than {self.k} samples, not {int(kept.sum())}")
        reach = self.between[kept][:, kept].kthvalue(self.k, 1).values
        return self.distances[:, kept] <= reach


def nearest(features: Float[Tensor, "N D"], most: int, chunk: int = 1024) -> Float[Tensor, "N K"]:
    """Distances from every sample to its ``most`` nearest neighbours within the set, nearest first, itself not counted."""
    if len(features) <= most:
        raise ValueError(f"{most} neighbours need more than {most} samples, not {len(features)}")
    x = features.double()
    x = x - x.mean(0)  # distances by matrix products lose less where the origin is near
    found = []
    for start in range(0, len(x), chunk):
        distances = torch.cdist(x[start : start + chunk], x)
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf
        found.append(distances.topk(most, 1, largest=False).values)
    return torch.cat(found)


def radii(features: Float[Tensor, "N D"], k: int, chunk: int = 1024) -> Float[Tensor, " N"]:
    """Distance from every sample to its k-th nearest neighbour within the set, itself not counted."""
    return nearest(features, k, chunk)[:, -1]


def membership(
    points: Float[Tensor, "N D"], centres: Float[Tensor, "M D"], k: int, chunk: int = 1024,
    reach: Float[Tensor, " M"] | None = None,
) -> Membership:  # fmt: skip
    """Where each point lies among the balls round ``centres``; ``reach``, their radii, saves measuring them again."""
    shift = centres.double().mean(0)
    points, centres = points.double() - shift, centres.double() - shift
    reach = radii(centres, k, chunk) if reach is None else reach
    return Membership(torch.cat([torch.cdist(part, centres) for part in points.split(chunk)]), reach, centres, k)


def precision(in_reference: Membership) -> Float[Tensor, " N"]:
    """For every generated sample, 1 if some reference ball (k = 3) holds it: the mean is the precision."""
    return in_reference.inside.any(1).double()


def recall(in_generated: Membership, weights: Float[Tensor, " N"] | None = None) -> float:
    """Share of the reference samples that some generated ball (k = 3) holds; samples of weight 0 have none, and are no
    neighbours of the others."""
    held = in_generated.inside if weights is None else in_generated.among(weights > 0)
    return held.any(1).double().mean().item()


def density(in_reference: Membership) -> Float[Tensor, " N"]:
    """For every generated sample, the number of reference balls (k = 5) that hold it, over k: the mean is the density."""
    return in_reference.inside.double().sum(1) / in_reference.k


def coverage(in_reference: Membership, weights: Float[Tensor, " N"] | None = None) -> float:
    """Share of the reference balls (k = 5) that hold some generated sample; samples of weight 0 are left out."""
    held = in_reference.inside if weights is None else in_reference.inside[weights > 0]
    return held.any(0).double().mean().item()
