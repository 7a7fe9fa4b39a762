"""The Fréchet distance against an independent implementation, the closed form, and for n without end."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from fewstep.evaluation.frechet import frechet, frechet_gaussians, frechet_infinity
from fewstep.rng import Rng


def features(n: int, d: int, seed: int) -> Tensor:
    """Correlated rows with unlike variances, away from 0."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.linspace(0.2, 2, d)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g, dtype=torch.float64)


def by_square_root(a: np.ndarray, b: np.ndarray) -> float:
    """As the papers write it, with scipy's square root of the product of both covariances."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b)
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root.real))


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 12), (60, 500, 40), (500, 60, 40)])
def test_the_distance_is_that_of_another_implementation_on_the_same_features(n: int, m: int, d: int) -> None:
    a, b = features(n, d, 0), features(m, d, 1)
    assert frechet(a, b) == pytest.approx(by_square_root(a.numpy(), b.numpy()), rel=1e-6)


def test_gaussians_with_the_same_axes_have_the_closed_form() -> None:
    s, t, shift = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([2.0, 1.0, 0.1]), torch.tensor([1.0, -2.0, 0.5])
    want = float(shift.square().sum() + (s - t).square().sum())
    found = frechet_gaussians(shift, torch.diag(s.square()), torch.zeros(3), torch.diag(t.square()))
    assert found == pytest.approx(want, rel=1e-6)


def test_the_bias_of_few_pictures_is_extrapolated_away() -> None:
    n, d, trials = 80, 8, 40
    scale, shift = torch.linspace(0.7, 1.4, d).double(), torch.full((d,), 0.1).double()
    true = frechet_gaussians(shift, torch.diag(scale.square()), torch.zeros(d), torch.eye(d))
    g = torch.Generator().manual_seed(0)
    real = torch.randn(20_000, d, generator=g, dtype=torch.float64)
    plain, limits = [], []
    for i in range(trials):
        drawn = torch.randn(n, d, generator=g, dtype=torch.float64) * scale + shift
        plain.append(frechet(drawn, real))
        limits.append(frechet_infinity(drawn, real, Rng.of(i)))
    error = torch.tensor([one.value for one in limits]).std().item() / trials**0.5
    assert np.mean(plain) > true + 4 * error  # biased
    assert np.mean([one.value for one in limits]) == pytest.approx(true, abs=3 * error)  # not any more
    assert sum(one.low <= true <= one.high for one in limits) >= 0.85 * trials


def test_no_limit_is_made_up_where_pictures_are_fewer_than_four_a_feature() -> None:
    with pytest.raises(ValueError, match="40 features take 160"):
        frechet_infinity(features(159, 40, 0), features(500, 40, 1), Rng.of(0))
