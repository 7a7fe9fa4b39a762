"""How much of a picture a codec keeps: of pictures decoded from their own latents, without any model between.

Four figures of drawings and what is decoded of them, clamped as a file has it:

* ``psnr``: ``10 log10(4 / mean((x - x^)^2))`` dB a picture, 4 being the square of the range from -1 to 1.
* ``highs_ratio``: power at high frequencies over that of the drawings (`sharpness.highs`).
* ``off_white``, ``off_white_worst``: how far the corners are from white where the drawing's are white, in levels of 255: the
  mean over such pixels, and the worst of them. NaN where no corner is white.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.dataset import Dataset
from ..parts.codec import Codec
from ..tensors import Media
from . import sharpness

LEVELS = 127.5
"""Levels of a byte in one unit of media."""


def psnr(x: Media, decoded: Media) -> Float[Tensor, " B"]:
    """Peak signal-to-noise ratio of every picture, in dB; infinite where nothing differs."""
    error = (x.double() - decoded.double()).pow(2).flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def corners(media: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C K"]:
    """The pixels in the corners, ``K = 2^axes``."""
    for axis in range(2, media.dim()):
        media = torch.stack([media.select(axis, 0), media.select(axis, -1)], axis).contiguous()
    return media.flatten(2)


def off_white(decoded: Media, x: Media | None = None) -> Float[Tensor, " N"]:
    """Distance from white of the corner pixels, in levels, the mean over channels; of those that are white in ``x``."""
    own = corners(decoded).clamp(-1, 1)
    away = ((1 - own.double()) * LEVELS).mean(1)
    white: Bool[Tensor, "B K"] = torch.ones_like(away, dtype=torch.bool) if x is None else (corners(x) == 1).all(1)
    return away[white]


@torch.no_grad()
def reconstruction(codec: Codec, pictures: Iterable[Media]) -> dict[str, float]:
    """The four figures, and ``n``, of pictures that come in batches. Raises ValueError where there are none."""
    return compared(lambda x: codec.decode(codec.encode(x)), pictures)


def compared(decoded: Callable[[Media], Media], pictures: Iterable[Media]) -> dict[str, float]:
    """The same of any way to decode them."""
    ratio: list[Tensor] = []
    high: list[tuple[Tensor, Tensor]] = []
    away: list[Tensor] = []
    for x in pictures:
        y = decoded(x).clamp(-1, 1)
        ratio.append(psnr(x, y))
        high.append((sharpness.highs(y), sharpness.highs(x)))
        away.append(off_white(y, x))
    if not ratio:
        raise ValueError("there is no picture to measure a codec on: give some")
    corner = torch.cat(away)
    made, real = (torch.cat(values).mean() for values in zip(*high))
    return {
        "psnr": float(torch.cat(ratio).mean()),
        "highs_ratio": float(made / real),
        "off_white": float(corner.mean()) if len(corner) else float("nan"),
        "off_white_worst": float(corner.max()) if len(corner) else float("nan"),
        "n": float(len(torch.cat(ratio))),
    }


def of_heldout(codec: Codec, dataset: Dataset) -> dict[str, float]:
    """The figures on a dataset's held-out concepts."""
    held, own = dataset.subset("heldout"), next(codec.parameters())
    if not len(held):
        warnings.warn(f"no picture of {dataset.name} is held out, so that the codec is not measured", stacklevel=2)
        return {}

    def batches() -> Iterator[Media]:
        for part in held.buckets:
            for i in range(0, len(part), 32):
                yield part.media(torch.arange(i, min(i + 32, len(part)))).to(own.device)

    return reconstruction(codec, batches())


def told(before: Mapping[str, float] | None, after: Mapping[str, float] | None) -> list[str]:
    """Both, in lines for people; none where nothing was measured."""
    if not before or not after:
        return []
    lines = {
        "psnr": "PSNR {:.2f} dB",
        "highs_ratio": "{:.0%} of the high frequencies",
        "off_white": "white corners off by {:.3f} levels",
        "off_white_worst": "the worst of them by {:.0f}",
    }
    was, now = ("; ".join(text.format(figures[name]) for name, text in lines.items()) for figures in (before, after))
    return [f"before, on {int(after['n']):,} held-out pictures: {was}", f"after: {now}"]
