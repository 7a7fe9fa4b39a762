"""What a codec keeps of pictures: every figure on an answer that is known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from fewstep.evaluation import reconstruction
from fewstep.parts.codec import Codec
from fewstep.tensors import Latents, Media


class Off(Codec):
    """Decodes with a constant error."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def encode(self, media: Media) -> Latents:
        return media

    def decode(self, latents: Latents) -> Media:
        return latents + self.by


def test_psnr_of_a_constant_error() -> None:
    x = torch.zeros(3, 3, 8, 8)
    error = torch.tensor([0.1, 0.2, 0.0]).reshape(3, 1, 1, 1)
    found = reconstruction.psnr(x, x + error)
    assert found[:2].tolist() == pytest.approx([20 * math.log10(2 / 0.1), 20 * math.log10(2 / 0.2)], abs=1e-5)
    assert found[2].item() == math.inf


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_corners_are_the_ends_of_every_axis(axes: int) -> None:
    media = torch.zeros(2, 3, *(5, 4, 6)[:axes])
    ends = [slice(None), slice(None), *(torch.tensor([0, size - 1]) for size in media.shape[2:])]
    for axis in range(2, media.dim()):
        shape = [1] * axes
        shape[axis - 2] = 2
        ends[axis] = ends[axis].reshape(shape)  # type: ignore[union-attr]
    media[tuple(ends)] = 1
    assert reconstruction.corners(media).shape == (2, 3, 2**axes)
    assert bool((reconstruction.corners(media) == 1).all())
    assert media.sum() == 2 * 3 * 2**axes


def test_only_corners_that_are_white_in_the_drawing_are_asked_to_be() -> None:
    x = torch.ones(1, 3, 4, 4)
    x[:, :, 0, 0] = -1
    decoded = torch.full_like(x, 1 - 2 / reconstruction.LEVELS)
    decoded[:, :, -1, -1] = 1 - 6 / reconstruction.LEVELS
    assert sorted(reconstruction.off_white(decoded, x).tolist()) == pytest.approx([2, 2, 6], abs=1e-3)
    assert len(reconstruction.off_white(decoded)) == 4


def test_a_codecs_figures_are_of_the_picture_as_it_is_shown() -> None:
    """Whiter than white is white: the error above 1 costs nothing."""
    x = torch.ones(2, 3, 8, 8)
    x[:, :, 2:6, 2:6] = torch.linspace(-0.5, 0.5, 16).reshape(4, 4)
    found = reconstruction.reconstruction(Off(0.2), [x[:1], x[1:]])
    inside = 16 / 64
    assert found["psnr"] == pytest.approx(10 * math.log10(4 / (0.2**2 * inside)), abs=1e-4)
    assert (found["off_white"], found["off_white_worst"], found["n"]) == (0, 0, 2)
    whole = reconstruction.reconstruction(Off(0.0), [x])
    assert whole["highs_ratio"] == pytest.approx(1)


def test_nothing_to_measure_is_told() -> None:
    with pytest.raises(ValueError, match="no picture to measure"):
        reconstruction.reconstruction(Off(0.0), [])
    assert reconstruction.told({}, {}) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = {"psnr": 30.2, "highs_ratio": 0.605, "off_white": 0.53, "off_white_worst": 14, "n": 285}
        lines = reconstruction.told(figures, figures)
    assert lines[0] == (
        "before, on 285 held-out pictures: PSNR 30.20 dB; 60% of the high frequencies; white corners off by 0.530 levels; "
        "the worst of them by 14"
    )
