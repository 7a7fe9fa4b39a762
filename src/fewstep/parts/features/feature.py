"""Feature networks: what the discriminator looks through. Frozen for ever, differentiable with respect to their input.

A file offers

- ``load(o, teacher)``: a frozen network, media -> ``Features``; or a `FeatureNetwork` of its own, if it reads latents;
- ``MEMBERS``, if it has other names on the command line than its file's, or several;
- ``suitable(side) -> int``, where pictures have to be resized: the resolution for pictures of this side;
- ``needs(name) -> tuple[str, ...]``, where it takes packages that fewstep does not: their modules.

Each one says which space it reads: ``media`` (pixels: ImageNet networks, DINOv2) or ``latents`` (the teacher's own
features, LADD). One file a network; this one is their contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...options import SHARED, StandsFor
from ...plugin import Family
from ...ranges import Range
from ...rng import Rng
from ...tensors import Conditioning, Features, Media, exactly
from ..augment import Augment
from ..denoiser import freeze

FAMILY = Family("fewstep.parts.features", "feature network", ("load",))
"""What a discriminator looks through."""
Space = Literal["media", "latents"]


@dataclass(frozen=True)
class Options:
    """The feature network that a method sees samples through."""

    features: Annotated[str, SHARED] = "auto"
    """What the discriminator looks through: dinov2, efficientnet-lite0, efficientnet-lite2, teacher, or the dotted path of a
    file of your own. ``auto`` is the paper's dinov2 for teachers of 128 pixels or more where its weights are to be had, else
    efficientnet-lite0, which comes in a Python package."""
    features_folder: Annotated[str, SHARED, StandsFor()] = ""
    """Folder of DINOv2 (a download of facebook/dinov2-small, say); empty looks for ``dinov2`` in fewstep's cache."""
    resolution: Annotated[int, Range(0, 4096), SHARED] = 0
    """Side that pictures are resized to for an image feature network, or that of a square of their area where they are none;
    0 takes the pictures' own, as near as it can."""
    augment: Annotated[tuple[str, ...], SHARED] = ()
    """Differentiable augmentation in front of the features: color, translation, cutout."""
    standardise: Annotated[bool, SHARED] = True
    """Give every channel of the features zero mean and unit variance over real data. Off, as in the paper, R1 is measured
    in the features' own units: raw EfficientNet-Lite0 takes 15 times the weight for the same pressure."""

    noise_mean: Annotated[float, Range(-10, 10), SHARED] = 1.0
    """Of ``--features teacher``: mean of ``ln(sigma / alpha)`` at which it sees latents of 128 x 128. Smaller ones hold less and
    are drowned sooner: theirs is lower by the logarithm of how much smaller their side is."""
    noise_spread: Annotated[float, Range(0, 10), SHARED] = 1.0
    """Its standard deviation."""

    @property
    def used(self) -> bool:
        """Are features needed at all?"""
        return True

    @property
    def embeds(self) -> bool:
        """Does somebody want the pooled features of every real picture (c_img)?"""
        return False


def check(o: Options) -> None:
    """Refuse options that contradict each other. Raises ValueError with the fix."""
    if o.features != "auto":
        FAMILY.load(o.features)
    Augment(o.augment)  # refuses names that it does not know
    if o.augment and o.features == "teacher":
        raise ValueError("--augment changes pictures, which --features teacher does not see: leave one of the two out")


@runtime_checkable
class FeatureNetwork(Protocol):
    """Maps media or latents to a record of feature maps."""

    space: Space

    def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        """Features of ``x [B, C, *S]``; gradients reach ``x`` and nothing else."""


class MediaFeatures:
    """A frozen network on pixels, behind an optional differentiable augmentation (StyleGAN-T's order: augment, resize)."""

    space: Space = "media"

    def __init__(
        self,
        network: Callable[[Media], Features],
        augment: Callable[[Media, Rng], Media] | None = None,
    ) -> None:
        self.network, self.augment = network, augment
        if isinstance(network, nn.Module):
            freeze(network)

    def __call__(self, x: Media, cond: Conditioning, rng: Rng) -> Features:
        """Features of the augmented media."""
        return self.network(x if self.augment is None else self.augment(x, rng))


def in_colour(media: Float[Tensor, "B C *S"], whose: str) -> Float[Tensor, "B 3 H W"]:
    """What a network that was trained on colour pictures is shown; grey is repeated thrice. Raises ValueError for anything
    but pictures in one channel or three; ``whose`` is the network's name in it."""
    if media.dim() != 4 or media.shape[1] not in (1, 3):
        raise ValueError(f"{whose} looks at pictures [B, 3, H, W], or grey [B, 1, H, W], not at {list(media.shape)}")
    return media.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Moments:
    """Count, mean ``[C]`` and sum of squared deviations ``[C]`` of every channel, float64."""

    count: int
    mean: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, level: Float[Tensor, "B C *S"]) -> Moments:
        """The moments over rows and places."""
        flat = exactly(level).transpose(0, 1).flatten(1)
        mean = flat.mean(1)
        return cls(flat.shape[1], mean, (flat - mean[:, None]).pow(2).sum(1))

    @property
    def variance(self) -> Tensor:
        """Over the count, not over one less."""
        return self.deviations / self.count

    def merged(self, other: Moments) -> Moments:
        """The moments of both parts together."""
        count, apart = self.count + other.count, other.mean - self.mean
        shift = apart.pow(2) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.deviations + other.deviations + shift)


class Standardised:
    """Features with zero mean and unit variance a channel over real data, so that heads start on equal terms.

    Without it every adversarial run at tiny scale collapsed (see docs/log.md).
    """

    def __init__(self, inner: FeatureNetwork, means: Sequence[Tensor], stds: Sequence[Tensor]) -> None:
        self.inner, self.space = inner, inner.space
        self._means, self._stds = list(means), list(stds)

    @classmethod
    @torch.no_grad()
    def fit(cls, inner: FeatureNetwork, batches: Iterable[tuple[Tensor, Conditioning]], rng: Rng) -> Standardised:
        """Measure mean and standard deviation of every level over real batches ``(media or latents, cond)``.

        Exact over all rows and places, however they are cut into batches: the moments of two parts are merged in float64
        (Chan, Golub & LeVeque 1983, Eq. 2.1). Raises ValueError without a batch.
        """
        found: list[Moments] = []
        for x, cond in batches:
            new = [Moments.of(level) for level in inner(x, cond, rng).levels]
            found = [a.merged(b) for a, b in zip(found, new)] if found else new
        if not found:
            raise ValueError("features cannot be standardised on no data: give at least one batch")
        return cls(inner, [m.mean for m in found], [m.variance.clamp(min=1e-6).sqrt() for m in found])

    def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        """Standardised features."""
        found = self.inner(x, cond, rng)
        levels = []
        for level, mean, std in zip(found.levels, self._means, self._stds):
            shape = (1, -1, *([1] * (level.dim() - 2)))
            levels.append((level - mean.to(level).reshape(shape)) / std.to(level).reshape(shape))
        return Features(tuple(levels), found.pooled, found.t)
