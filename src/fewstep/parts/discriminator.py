"""The discriminator's trained part: one light head a feature level, conditioned by projection (StyleGAN-T, arXiv 2301.09515).

Features are ``[B, C, *S]``: a row of tokens (one axis) or a map (two, three). The residual convolution looks at nine
places whatever the number of axes where it can: 9 tokens of a row, 3x3 of a map, 3x3x3 of a volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..ranges import Limit
from ..tensors import Conditioning, Features, Logits, Time

_PROJECTION = 64
_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Options:
    """Shape of the heads."""

    norm: Literal["local", "group"] = "local"
    """``local``: batch norm over groups of 8 samples, needs a batch that divides (StyleGAN-T); ``group``: GroupNorm."""
    spectral: bool = True
    """Spectral normalisation of every convolution."""
    width: Limit = 0
    """Channels inside a head; 0 keeps those of the feature level, as StyleGAN-T does."""
    text: bool = True
    """Condition on ``cond.pooled`` (c_text): the teacher's own text encoder's; the paper takes CLIP ViT-g-14."""
    image: bool = True
    """Condition on ``cond.image`` (c_img), the embedding of the real x0, by the network that the heads look through; the paper
    takes DINOv2 ViT-L. It is zero where the student saw nothing of x0, of which the paper says nothing."""
    noise_level: bool = False
    """Condition on the noise level t at which the features saw their input, as LADD's heads (arXiv 2403.12015): high t shows the
    layout, low t the detail. Features of clean input have none."""


GROUP = 8
"""Samples that share their statistics in local batch norm."""


def check_groups(n: int, group: int = GROUP) -> None:
    """Refuse a batch above ``group`` that ``group`` does not divide. Raises ValueError with the fix."""
    if n > group and n % group:
        raise ValueError(
            f"a batch of {n} cannot be split into groups of {group}: use a multiple of {group}, "
            f"at most {group}, or group norm in the heads"
        )


class BatchNormLocal(nn.Module):
    """Batch norm over groups of ``group`` consecutive samples, statistics over (samples in the group, places).

    No running statistics: a batch is normalised by its own group, in training and in evaluation alike.
    Raises ValueError for a batch above ``group`` that ``group`` does not divide.
    """

    def __init__(self, channels: int, group: int = GROUP, eps: float = 1e-5) -> None:
        super().__init__()
        self.group, self.eps = group, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [B, C, *S]``."""
        n, c = x.shape[:2]
        check_groups(n, self.group)
        groups = math.ceil(n / self.group)
        y = x.reshape(groups, n // groups, c, -1)
        mean = y.mean((1, 3), keepdim=True)
        var = y.var((1, 3), unbiased=False, keepdim=True)
        y = ((y - mean) * (var + self.eps).rsqrt()).reshape(x.shape)
        shape = (1, c, *([1] * (x.dim() - 2)))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)


class Projection(nn.Module):
    """Linear with equalised learning rate: N(0, 1) weights, gain ``1 / sqrt(c_in)``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.gain = 1 / math.sqrt(c_in)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, c_in] -> [B, c_out]``."""
        return F.linear(x, self.weight * self.gain, self.bias)


class Head(nn.Module):
    """One level's head: mix channels, look around, ask how real each place is under this condition."""

    def __init__(self, channels: int, axes: int, condition: int, options: Options = Options()) -> None:
        super().__init__()
        conv = _CONVS[axes]
        width = options.width or channels
        kernel = 9 if axes == 1 else 3
        wrap = spectral_norm if options.spectral else (lambda m: m)

        def norm() -> nn.Module:
            if options.norm == "local":
                return BatchNormLocal(width)
            return nn.GroupNorm(_groups(width), width)

        self.enter = nn.Sequential(wrap(conv(channels, width, 1)), norm(), nn.LeakyReLU(0.2))
        around = conv(width, width, kernel, padding=kernel // 2, padding_mode="circular")
        self.around = nn.Sequential(wrap(around), norm(), nn.LeakyReLU(0.2))
        self.leave = wrap(conv(width, _PROJECTION if condition else 1, 1))
        self.condition = Projection(condition, _PROJECTION) if condition else None

    def _around(self, x: Tensor) -> Tensor:
        """Circular convolution; a row shorter than the kernel's reach is repeated first, which changes no statistics."""
        if x.dim() > 3 or x.shape[2] >= 4:
            return self.around(x)
        return self.around(x.repeat(1, 1, 4))[:, :, : x.shape[2]]

    def forward(self, level: Tensor, condition: Tensor | None) -> Logits:
        """``[B, C, *S] -> [B, prod(S)]``."""
        x = self.enter(level)
        x = (self._around(x) + x) / math.sqrt(2)
        out = self.leave(x).flatten(2)
        if self.condition is None:
            return out.squeeze(1)
        assert condition is not None, "a conditional head needs its condition"
        return (out * self.condition(condition).unsqueeze(2)).sum(1) / math.sqrt(_PROJECTION)


class Discriminator(nn.Module):
    """Heads over Features. Real and fake must go through it in separate calls: their statistics never mix."""

    def __init__(
        self,
        levels: Sequence[tuple[int, int]],
        condition: int = 0,
        options: Options = Options(),
        prompted: bool | None = None,
    ) -> None:
        """``levels``: (channels, number of spatial axes) of every feature level; ``condition``: width of the condition;
        ``prompted``: whether it says what is asked for, and not the noise level alone. None: as it does where there is one."""
        super().__init__()
        self.options = options
        self.width = condition
        self.prompted = bool(condition) if prompted is None else prompted
        self.heads = nn.ModuleList(Head(c, axes, condition, options) for c, axes in levels)

    @classmethod
    def over(cls, features: Features, cond: Conditioning, options: Options = Options()) -> Discriminator:
        """A discriminator that fits these features and this conditioning."""
        asked = 0
        if options.text and cond.pooled is not None:
            asked += cond.pooled.shape[1]
        if options.image and cond.image is not None:
            asked += cond.image.shape[1]
        level = 2 * len(_FREQUENCIES) if options.noise_level and features.t is not None else 0
        shapes = [(level.shape[1], level.dim() - 2) for level in features.levels]
        return cls(shapes, asked + level, options, prompted=bool(asked))

    def condition(self, cond: Conditioning, t: Time | None = None) -> Tensor | None:
        """c_text, c_img and the noise level side by side, each of unit root mean square so that none drowns another."""
        parts = []
        if self.options.text and cond.pooled is not None:
            parts.append(cond.pooled)
        if self.options.image and cond.image is not None:
            parts.append(cond.image)
        if self.options.noise_level and t is not None:
            parts.append(_waves(t).to(parts[0] if parts else torch.get_default_dtype()))
        return torch.cat([_unit_rms(p) for p in parts], 1) if parts else None

    def forward(self, features: Features, cond: Conditioning) -> Logits:
        """Logits of every place of every level, ``[B, K]``."""
        condition = self.condition(cond, features.t)
        pairs = zip(self.heads, features.levels, strict=True)
        return torch.cat([head(level, condition) for head, level in pairs], 1)


_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)


def _waves(t: Time) -> Float[Tensor, "B K"]:
    """A time in [0, 1] as sines and cosines of it, coarse and fine."""
    phase = t.double()[:, None] * torch.tensor(_FREQUENCIES, dtype=torch.float64, device=t.device)
    return torch.cat([phase.sin(), phase.cos()], 1)


def _groups(channels: int) -> int:
    """At most 32 groups, of eight channels or more where it can be: groups of one or two wipe out what they normalise."""
    groups = math.gcd(channels, 32)
    while groups > 1 and channels // groups < 8:
        groups //= 2
    return groups


def _unit_rms(x: Tensor) -> Tensor:
    """Rows of root mean square 1; rows of zeros (a dropped condition) stay zeros."""
    return x / x.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-8)
