"""THE page of shapes, ranges and units. Everything that flows between rooms is named here, once.

====================  ==============  ==========================================================================
name                  shape           range and meaning
====================  ==============  ==========================================================================
media                 ``[B, C, *S]``  float in [-1, 1]: what a person sees or hears
latents, x0, x_t      ``[B, C, *S]``  float, about unit variance: the codec's view of media
noise                 ``[B, C, *S]``  float, standard Gaussian
t                     ``[B]``         float in [0, 1]: 0 is clean, 1 is pure noise
alpha, sigma          ``[B]``         float64: ``x_t = alpha(t) x0 + sigma(t) noise``
logits                ``[B, K]``      float: one number for each place that a head judges; higher means "more real"
====================  ==============  ==========================================================================

``*S`` is ``(L)`` for audio, ``(H, W)`` for images, ``(T, H, W)`` for video: nothing here assumes two axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Media = Float[Tensor, "B M *P"]  # names of their own: latents of the same picture have other channels and another size
Latents = Float[Tensor, "B C *S"]
Time = Float[Tensor, " B"]
Logits = Float[Tensor, "B K"]


def exact_dtype(device: torch.device | str) -> torch.dtype:
    """What times and coefficients are counted in on a device: float64, or float32 on Apple's mps, which has no more."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def exactly(x: Tensor) -> Tensor:
    """``x`` in the `exact_dtype` of its device."""
    return x.to(exact_dtype(x.device))


def valued(x: Tensor, value: Tensor) -> Tensor:
    """``value``, bit for bit where it lies within a factor of 2 of x or is 0, with the derivative of ``x``: rounding stops
    neither a gradient nor a tangent."""
    return x + (value - x).detach()


def snapped(x: Tensor, within: float = 1e-3) -> Tensor:
    """The whole number that is nearer than ``within``, else x itself; its derivative is 1 everywhere."""
    nearest = x.round()
    return torch.where((x - nearest).abs() < within, valued(x, nearest), x)


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """No autocast inside, on the device of ``like``: for what bf16 cannot tell apart, such as a difference of two estimates."""
    with torch.autocast(like.device.type, enabled=False):
        yield


def unfinite(values: Mapping[str, Tensor]) -> str:
    """The name of the first tensor that holds NaN or infinity; empty where all are numbers."""
    return next((name for name, value in values.items() if not bool(torch.isfinite(value).all())), "")


def match_dims(per_sample: Tensor, like: Tensor) -> Tensor:
    """Give ``per_sample [B]`` trailing axes so that it multiplies ``like [B, ...]``, in the dtype of ``like``."""
    return per_sample.to(like.dtype).reshape(-1, *([1] * (like.dim() - 1)))


@dataclass(frozen=True)
class Conditioning:
    """What the picture should show, encoded. Any field may be absent; all present fields share the batch axis."""

    tokens: Float[Tensor, "B L D"] | None = None
    """Token embeddings for cross-attention."""
    pooled: Float[Tensor, "B P"] | None = None
    """One vector a sample: the discriminator's ``c_text``, SDXL's added embedding."""
    image: Float[Tensor, "B I"] | None = None
    """Embedding of the real x0: the discriminator's ``c_img`` (ADD)."""
    labels: Int[Tensor, " B"] | None = None
    """Class labels, for class-conditional models; the null class is the last one."""
    mask: Int[Tensor, "B L"] | None = None
    """Which of ``tokens`` are the prompt's, 1, and which fill it up, 0; None where the network attends to all of them."""

    @property
    def mean_token(self) -> Float[Tensor, "B D"] | None:
        """The mean of the prompt's tokens, one vector a sample; None without tokens."""
        if self.tokens is None:
            return None
        if self.mask is None:
            return self.tokens.mean(1)
        weights = self.mask.unsqueeze(-1).to(self.tokens.dtype)
        return (self.tokens * weights).sum(1) / weights.sum(1).clamp(min=1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """Do the same to every tensor that is there."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: function(value) for name, value in present.items()})

    def to(self, *args: Any, **kwargs: Any) -> Conditioning:
        """Move every present tensor; integer labels keep their dtype."""
        device_only = [a for a in args if not isinstance(a, torch.dtype)]
        return self.map(lambda v: v.to(*(args if v.is_floating_point() else device_only), **kwargs))

    def __getitem__(self, index: Tensor | slice | list[int]) -> Conditioning:
        return self.map(lambda v: v[index])

    def __len__(self) -> int:
        for f in fields(self):
            if (value := getattr(self, f.name)) is not None:
                return len(value)
        return 0

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate along the batch axis; every part must have the same fields."""
        first = parts[0]
        present = [f.name for f in fields(first) if getattr(first, f.name) is not None]
        return Conditioning(**{name: torch.cat([getattr(p, name) for p in parts]) for name in present})

    def where(self, keep: Tensor, other: Conditioning) -> Conditioning:
        """Take this conditioning where ``keep [B]`` (bool) is true, ``other`` elsewhere."""

        def pick(name: str) -> Tensor | None:
            a, b = getattr(self, name), getattr(other, name)
            return None if a is None else torch.where(keep.reshape(-1, *([1] * (a.dim() - 1))), a, b)

        return Conditioning(**{f.name: pick(f.name) for f in fields(self)})


@dataclass(frozen=True)
class Batch:
    """One training batch, already encoded."""

    x0: Latents
    cond: Conditioning
    null: Conditioning
    """The unconditional twin of ``cond``, row by row: for classifier-free guidance and condition dropout."""
    media: Media | None = None
    """The pixels behind ``x0``, where a part of the method needs pixels."""
    concepts: Int[Tensor, " B"] | None = None
    """Which concept each sample shows, as a number: samples of one concept may be asked for by different prompts."""
    noise: Latents | None = None
    """The start of the teacher's trajectory that ends in ``x0``, where the batch holds noise-to-sample pairs."""
    pairs: Batch | None = None
    """Noise-to-sample pairs that come with the data, for a method that regresses onto the teacher's trajectories."""

    def __len__(self) -> int:
        return len(self.x0)

    def to(self, device: torch.device | str) -> Batch:
        """Every tensor on that device; those that are there already stay where they are."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **moved)

    @property
    def trajectories(self) -> Batch | None:
        """The noise-to-sample pairs: the batch itself where it holds them, or those that come with it."""
        return self if self.noise is not None else self.pairs

    def split(self, parts: int) -> list[Batch]:
        """The same rows in ``parts`` batches, as even as can be, none of them empty; pairs are dealt out likewise."""
        rows = np.array_split(np.arange(len(self)), min(parts, len(self)))
        pairs = [None] * len(rows) if self.pairs is None else self.pairs.split(len(rows))
        if len(pairs) < len(rows):
            raise ValueError(
                f"{len(pairs)} pairs cannot be dealt out to {len(rows)} parts of a batch: take fewer parts"
            )
        return [self._rows(slice(int(r[0]), int(r[-1]) + 1), own) for r, own in zip(rows, pairs)]

    def _rows(self, rows: slice, pairs: Batch | None) -> Batch:
        present = [f.name for f in fields(self) if f.name != "pairs" and getattr(self, f.name) is not None]
        return replace(self, pairs=pairs, **{name: getattr(self, name)[rows] for name in present})


@dataclass(frozen=True)
class Features:
    """What a frozen network sees: one map a tapped level, ``[B, C_k, *S_k]``."""

    levels: tuple[Tensor, ...]
    pooled: Float[Tensor, "B P"] | None = None
    """One vector a sample: the embedding used as ``c_img`` and by metrics."""
    t: Time | None = None
    """Noise level at which the input was seen (LADD); None for clean input."""

    def detach(self) -> Features:
        """Cut the graph behind every level."""
        pooled = None if self.pooled is None else self.pooled.detach()
        return Features(tuple(level.detach() for level in self.levels), pooled, self.t)
