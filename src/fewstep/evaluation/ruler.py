"""How near pictures are to others: likeness by the energy distance of ``pyramid.py``, and sharpness as a ratio."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from ..tensors import Media
from . import pyramid
from .jackknife import Interval, interval
from .sharpness import sharpness

FAR = ("highs", "edges")
"""The figures of `sharpness` that are looked at; of ``highs``, which is a power, the root."""


class Ruler:
    """The best pictures, and what is near or far from them."""

    def __init__(self, best: Media, noises: int) -> None:
        self.noises = noises
        self.scales = pyramid.scales(best)
        self.best = self.seen(best)
        mean = self.seen(best.mean(0, keepdim=True)).expand_as(self.best)
        self.nothing = pyramid.energies(mean, self.best)
        """How far the mean of all pictures is from those of each prompt."""
        self.sharp = _sharp(best, noises)

    def seen(self, media: Media) -> Float[Tensor, "P S K"]:
        """Features, by prompt and noise; of a single picture ``[1, 1, K]``."""
        found = pyramid.features(media, self.scales)
        return found.reshape(-1, min(self.noises, len(media)), found.shape[1])

    def likeness(self, seen: Float[Tensor, "P S K"]) -> Interval:
        """1 where they are of the best's distribution, 0 where they are as far from it as the mean picture."""
        away = ratio(pyramid.energies(seen, self.best), self.nothing)
        return Interval(1 - away.value, 1 - away.high, 1 - away.low)

    def share(self, media: Media) -> float:
        """The lower of the likeness and of how near the sharpness is to the best's, from either side."""
        return share(self.likeness(self.seen(media)), self.sharpness(media))

    def sharpness(self, media: Media) -> dict[str, Interval]:
        """Over the best's, prompts weighed alike."""
        return {name: ratio(value, self.sharp[name]) for name, value in _sharp(media, self.noises).items()}


def share(likeness: Interval, sharpness: Mapping[str, Interval]) -> float:
    """The lower of the likeness and of how near the sharpness is to the best's, from either side."""
    ratios = [i.value for i in sharpness.values()]
    return min([likeness.value, *(min(r, 1 / r) if r > 0 else 0.0 for r in ratios)])


def _sharp(media: Media, noises: int) -> dict[str, Float[Tensor, " P"]]:
    found = sharpness(media)
    amplitude = {"highs": found["highs"].sqrt(), "edges": found["edges"]}
    return {name: amplitude[name].reshape(-1, noises).mean(1) for name in FAR}


def ratio(above: Float[Tensor, " P"], below: Float[Tensor, " P"]) -> Interval:
    """Sum over sum, with the interval of leaving out one prompt at a time; of one prompt alone the interval is unbounded."""
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Interval(value, -float("inf"), float("inf"))
    return interval(value, (above.sum() - above) / (below.sum() - below))
