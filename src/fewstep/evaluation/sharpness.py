"""Sharpness in pixels: feature distances hardly punish blur, so it is measured where it is.

Three figures a sample, each to be read as a ratio to the reference set's mean (1 is "as sharp as real pictures"):

* ``edges``: mean gradient magnitude. Blur lowers it; noise raises it.
* ``midgreys``: share of values within half of the range round the middle. On flat art and line art blur and averaged
  modes fill the middle: above 1 is blurred.
* ``highs``: mean power at spatial frequencies above half of Nyquist. Falls first of all; checkerboards raise it.

The first and last are the gradient energy and the high-frequency energy of the focus measures literature (Pertuz et al.,
Pattern Recognition 46, 2013, section 2). Any number of spatial axes: sound, pictures and video alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def edges(media: Float[Tensor, "B C *S"]) -> Float[Tensor, " B"]:
    """Mean over channels and places of the gradient's length, by forward differences over all spatial axes."""
    x = media.double()
    squares: Tensor | float = 0.0
    for axis in range(2, x.dim()):
        step = x.diff(dim=axis)
        for other in range(2, x.dim()):  # crop every axis alike, so that the differences meet
            step = step if other == axis else step.narrow(other, 0, x.shape[other] - 1)
        squares = squares + step.square()
    assert isinstance(squares, Tensor)
    return squares.sqrt().flatten(1).mean(1)


def midgreys(media: Float[Tensor, "B C *S"]) -> Float[Tensor, " B"]:
    """Share of the values in (-0.5, 0.5): neither dark nor light."""
    return (media.abs() < 0.5).double().flatten(1).mean(1)


def highs(media: Float[Tensor, "B C *S"]) -> Float[Tensor, " B"]:
    """Mean power per sample value at frequencies of 0.25 cycles a step or more, whatever the direction."""
    x = media.double()
    axes = tuple(range(2, x.dim()))
    power = torch.fft.fftn(x, dim=axes, norm="ortho").abs().square()
    radius = sum(
        torch.fft.fftfreq(x.shape[a], dtype=torch.float64).square().reshape(-1, *([1] * (x.dim() - 1 - a)))
        for a in axes
    )
    assert isinstance(radius, Tensor)
    return (power * (radius >= 0.25**2)).flatten(1).mean(1)


def sharpness(media: Float[Tensor, "B C *S"]) -> dict[str, Float[Tensor, " B"]]:
    """All three figures of every sample."""
    return {"edges": edges(media), "midgreys": midgreys(media), "highs": highs(media)}


def ratios(
    generated: Mapping[str, Float[Tensor, " B"]], reference: Mapping[str, Float[Tensor, " R"]]
) -> dict[str, Float[Tensor, " B"]]:
    """Every figure over the reference set's mean, sample by sample: the mean of each is the reported ratio."""
    flat = [name for name, values in reference.items() if values.mean() <= 0]
    if flat:
        raise ValueError(
            f"the reference pictures have no {flat[0]} at all: take pictures that are not of one flat colour"
        )
    return {name: values / reference[name].mean() for name, values in generated.items()}
