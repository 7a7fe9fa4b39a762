"""Pixels as a judge: known variances, and a distance that is known in closed form."""

import pytest
import torch
from torch import Tensor

from fewstep.evaluation.evaluate import Judge
from fewstep.evaluation.frechet import frechet
from fewstep.evaluation.pixel_features import PixelFeatures


def pictures(n: int, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    """Pictures of 3 x 24 x 40 whose brightness and tint vary by the lot, in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    tint = torch.randn(n, 3, 1, 1, generator=g) * 0.2
    slope = torch.randn(n, 1, 1, 1, generator=g) * 0.1 * torch.linspace(-1, 1, 40)
    return (tint + slope + shift).expand(n, 3, 24, 40)


def seen_by(judge: PixelFeatures, media: Tensor) -> Tensor:
    pooled = judge(media).pooled
    assert pooled is not None
    return pooled


def test_pixels_are_a_judge_with_components_of_mean_zero_and_mean_variance_one() -> None:
    media = pictures(200)
    judge = PixelFeatures.fit(media, components=4)
    assert isinstance(judge, Judge)
    assert (judge.name, judge.resizer) == ("pixels", "area to 16 x 16")
    seen = seen_by(judge, media)
    assert seen.shape == (200, 4)
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    assert seen.var(0).mean().item() == pytest.approx(1, rel=1e-4)
    assert list(seen.var(0)) == sorted(seen.var(0), reverse=True)
    # a model that draws the mean picture alone is as far away as there are components
    mean = media.mean(0, keepdim=True).expand(200, -1, -1, -1)
    assert frechet(seen_by(judge, mean), seen) == pytest.approx(4, rel=1e-3)


def test_brighter_pictures_are_further_away_by_the_square_of_the_shift() -> None:
    media = pictures(300)
    judge = PixelFeatures.fit(media, components=4)
    seen, once, twice = (seen_by(judge, m) for m in (media, media + 0.1, media + 0.2))
    assert frechet(twice, seen) == pytest.approx(4 * frechet(once, seen), rel=1e-3)
    assert frechet(seen, seen) < 1e-6


def test_a_fit_is_named_by_its_pictures_and_numbers() -> None:
    media = pictures(50)
    one = PixelFeatures.fit(media, 4)
    assert one.fingerprint == PixelFeatures.fit(media.clone(), 4).fingerprint
    others = (PixelFeatures.fit(pictures(50, 1), 4), PixelFeatures.fit(media, 3), PixelFeatures.fit(media, 4, side=8))
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_few_pictures_give_few_components_and_none_or_like_ones_are_refused() -> None:
    assert PixelFeatures.fit(pictures(3), 64).axes.shape == (768, 2)
    with pytest.raises(ValueError, match="2 or more"):
        PixelFeatures.fit(pictures(1))
    with pytest.raises(ValueError, match="all alike"):
        PixelFeatures.fit(torch.zeros(9, 3, 16, 16))
    with pytest.raises(ValueError, match="other channels"):
        PixelFeatures.fit(pictures(9))(torch.zeros(2, 1, 16, 16))
