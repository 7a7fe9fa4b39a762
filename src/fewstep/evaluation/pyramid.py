"""What a picture is, at every scale: its layout in plain values, and where its detail lies. No network, no data, any axes.

A distance in plain pixels hardly punishes blur, and a set of a few dozen pictures is too small for a Fréchet distance. So a
picture becomes its coarse layout and, of every octave above that, the strength of detail from place to place (bands of a
Laplacian pyramid; Burt and Adelson 1983, IEEE Transactions on Communications 31). Two sets of pictures of one prompt are held
against each other by the energy distance (Székely and Rizzo 2013, Journal of Statistical Planning and Inference 143):

.. math:: D(X, Y) = 2 E|x - y| - E|x - x'| - E|y - y'|

It is 0 for two sets of one distribution, however unlike their pictures are: a sampler that adds fresh noise at every step draws
another picture of the prompt, and that is no fault. The means leave out pairs of one noise, so nothing is gained by pictures
that hang on the same noise, and D of a set with itself is exactly 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CELLS = 4
"""Places along each axis that the layout and the strength of detail are kept at."""


def blocks(media: Float[Tensor, "N C *S"]) -> list[Float[Tensor, "N K"]]:
    """The layout, then the root mean square of every octave's detail at each place, finest first; as rows."""
    x, axes = media.double(), media.dim() - 2
    bands = []
    while min(x.shape[2:]) >= 2 * CELLS:
        small = _pooled(x, [side // 2 for side in x.shape[2:]])
        detail = x - _enlarged(small, x.shape[2:])
        bands.append(_pooled(detail.square(), [CELLS] * axes).sqrt().flatten(1))
        x = small
    return [_pooled(x, [min(CELLS, side) for side in x.shape[2:]]).flatten(1), *bands]


def features(media: Float[Tensor, "N C *S"], scales: Sequence[float]) -> Float[Tensor, "N K"]:
    """The blocks side by side, each divided by its scale."""
    parts = [block / scale for block, scale in zip(blocks(media), scales, strict=True)]
    return torch.cat(parts, 1) / len(parts) ** 0.5


def scales(media: Float[Tensor, "N C *S"]) -> tuple[float, ...]:
    """Of each block the mean distance between two of these pictures: with it, they lie about 1 apart in every block.

    Raises ValueError where all pictures are alike, so that nothing is near or far.
    """
    found = [torch.pdist(block).mean().item() for block in blocks(media)]
    if len(media) < 2 or not max(found) > 1e-9:
        raise ValueError(
            "the pictures are all alike, whatever the prompt and the noise: there is nothing to hold them against"
        )
    return tuple(scale if scale > 1e-9 else 1.0 for scale in found)


def energy(x: Float[Tensor, "S K"], y: Float[Tensor, "S K"]) -> float:
    """The energy distance of two sets of features of the same ``S`` noises, S of 2 or more; unbiased, so it may be below 0."""
    others = ~torch.eye(len(x), dtype=torch.bool)
    xy, xx, yy = (torch.cdist(a, b)[others].mean() for a, b in ((x, y), (x, x), (y, y)))
    return float(2 * xy - xx - yy)


def energies(x: Float[Tensor, "P S K"], y: Float[Tensor, "P S K"]) -> Float[Tensor, " P"]:
    """The energy distance of every prompt's pictures."""
    return torch.tensor([energy(a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)


def between(
    x: Sequence[Float[Tensor, "_ K"]], y: Sequence[Float[Tensor, "_ K"]], themselves: bool = False
) -> Float[Tensor, "P P"]:
    """Mean distance of the pictures ``x`` of each prompt from the pictures ``y`` of each, whatever their numbers.

    ``themselves``: x and y are the same, and no picture is held against itself; of a single one that is NaN.
    """
    found = torch.stack([torch.stack([torch.cdist(a, b).mean() for b in y]) for a in x]).double()
    if themselves:
        counts = torch.tensor([len(a) for a in x], dtype=torch.float64)
        found.diagonal().mul_(counts / (counts - 1))
    return found


def paired(x: Float[Tensor, "P S K"], y: Float[Tensor, "P S K"]) -> Float[Tensor, " P"]:
    """Mean distance of the pictures of the same noise, prompt by prompt."""
    return (x - y).norm(dim=2).mean(1).double()


def spread(x: Float[Tensor, "P S K"]) -> Float[Tensor, " P"]:
    """Mean distance between two pictures of one prompt, from different noises."""
    pairs = list(itertools.combinations(range(x.shape[1]), 2))
    return torch.stack([(x[:, i] - x[:, j]).norm(dim=1) for i, j in pairs]).mean(0).double()


POOLS: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def _pooled(x: Tensor, size: Sequence[int]) -> Tensor:
    return POOLS[x.dim() - 2](x, list(size))


def _enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=list(size), mode=("linear", "bilinear", "trilinear")[x.dim() - 3], align_corners=False)
