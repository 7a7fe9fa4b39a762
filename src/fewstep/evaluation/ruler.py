"""How near pictures are to others: likeness by the energy distance of ``pyramid.py``, and sharpness as a ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..tensors import Media
from . import pyramid
from .jackknife import Interval, interval
from .sharpness import sharpness

FAR = {"highs": "high frequencies", "edges": "edges"}
"""The figures of `sharpness` that are looked at, and what they are called; of ``highs``, which is a power, the root."""


@dataclass(frozen=True)
class Nearness:
    """How near pictures are to others."""

    likeness: Interval
    """1 - D(these, those) / D(mean picture, those), D the energy distance of ``pyramid.py``: 1 is of their distribution."""
    sharpness: Mapping[str, Interval]
    """Over theirs: 1 is as sharp."""

    @property
    def share(self) -> float:
        """`share`, of theirs."""
        return share(self.likeness, self.sharpness)


class Ruler:
    """The best pictures, and what is near or far from them."""

    def __init__(self, best: Media, noises: int) -> None:
        self.noises = noises
        self.scales = pyramid.scales(best)
        self.best = self.seen(best)
        mean = self.seen(best.mean(0, keepdim=True)).expand_as(self.best)
        self.nothing = pyramid.energies(mean, self.best)
        """How far the mean of all pictures is from those of each prompt."""
        self.sharp = _sharp(best.split(noises))

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
        return {name: ratio(value, self.sharp[name]) for name, value in _sharp(media.split(self.noises)).items()}


def share(likeness: Interval, sharpness: Mapping[str, Interval]) -> float:
    """The lower of the likeness and of how near the sharpness is to the best's, from either side."""
    ratios = [i.value for i in sharpness.values()]
    return min([likeness.value, *(min(r, 1 / r) if r > 0 else 0.0 for r in ratios)])


def _sharp(media: Sequence[Float[Tensor, "_ C *S"]]) -> dict[str, Float[Tensor, " P"]]:
    """Mean sharpness of each prompt's pictures."""
    found = [sharpness(pictures) for pictures in media]
    amplitude = {"highs": [one["highs"].sqrt() for one in found], "edges": [one["edges"] for one in found]}
    return {name: torch.stack([values.mean() for values in amplitude[name]]) for name in FAR}


def ratio(above: Float[Tensor, " P"], below: Float[Tensor, " P"]) -> Interval:
    """Sum over sum, with the interval of leaving out one prompt at a time; of one prompt alone the interval is unbounded."""
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Interval(value, -float("inf"), float("inf"))
    return interval(value, (above.sum() - above) / (below.sum() - below))


class RealPictures:
    """Real pictures of some prompts, and what is near or far from them.

    Where every prompt has two or more, drawn ones are held against them prompt by prompt. Else all are held against all, as one
    set: two pictures of one prompt are then never compared, so that it does not matter how many of each there are.
    """

    def __init__(self, real: Sequence[Float[Tensor, "_ C *S"]]) -> None:
        """``real`` are the pictures of each prompt. Raises ValueError where they are all alike, or are one prompt's."""
        self.by_prompt = min(map(len, real)) > 1
        if not self.by_prompt and len(real) < 2:
            raise ValueError("one real picture is all there is: nothing can be held against it")
        together = torch.cat(list(real))
        try:
            self.scales = pyramid.scales(together)
        except ValueError as error:
            raise ValueError("the real pictures are all alike: nothing is near them or far from them") from error
        self.real = [pyramid.features(media, self.scales) for media in real]
        self.apart = pyramid.between(self.real, self.real, themselves=True)
        middle = torch.stack([media.mean(0) for media in real]).mean(0, keepdim=True)
        mean = pyramid.features(middle, self.scales)
        self.nothing = self._energies([mean] * len(real), torch.zeros_like(self.apart))
        """How far the mean of all real pictures is from them."""
        self.sharp = _sharp(real)
        if flat := next((called for name, called in FAR.items() if not self.sharp[name].sum() > 0), None):
            raise ValueError(f"the real pictures have no {flat} at all: take pictures that are not of one flat colour")

    def near(self, drawn: Sequence[Float[Tensor, "_ C *S"]]) -> Nearness:
        """``drawn`` are pictures of each prompt, from two noises or more."""
        seen = [pyramid.features(media, self.scales) for media in drawn]
        away = _of_pairs(self._energies(seen, pyramid.between(seen, seen, themselves=True)), self.nothing)
        likeness = Interval(1 - away.value, 1 - away.high, 1 - away.low)
        return Nearness(likeness, {name: ratio(value, self.sharp[name]) for name, value in _sharp(drawn).items()})

    def _energies(self, x: Sequence[Float[Tensor, "_ K"]], xx: Float[Tensor, "P P"]) -> Float[Tensor, "P P"]:
        """What each pair of prompts adds to the energy distance: of a prompt with itself, or of two, as ``by_prompt`` says."""
        xy = pyramid.between(x, self.real)
        kept = torch.eye(len(xy), dtype=torch.bool) == self.by_prompt
        return torch.where(kept, xy + xy.T - xx - self.apart, 0.0)


def _of_pairs(above: Float[Tensor, "P P"], below: Float[Tensor, "P P"]) -> Interval:
    """Sum over sum, with the interval of leaving out one prompt, its row and its column, at a time."""

    def left(pairs: Float[Tensor, "P P"]) -> Float[Tensor, " P"]:
        return pairs.sum() - pairs.sum(0) - pairs.sum(1) + pairs.diagonal()

    value = float(above.sum() / below.sum())
    if not (left(below).abs() > 0).all():
        return Interval(value, -float("inf"), float("inf"))
    return interval(value, left(above) / left(below))
