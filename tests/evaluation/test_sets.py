"""Fréchet distance, kernel distance and manifold shares against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.evaluation import frechet as fd
from fewstep.evaluation import kernel, manifold
from fewstep.evaluation.bootstrap import resample
from fewstep.rng import Rng


def gaussian(n: int, d: int, seed: int) -> Tensor:
    return Rng.of(seed).normal((n, d), torch.float64)


def covariance(d: int, seed: int) -> Tensor:
    root = gaussian(d, d, seed)
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


# Fréchet distance


def test_frechet_of_commuting_gaussians_is_the_sum_over_axes() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 1.0, 0.25]).double()
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert fd.frechet_gaussians(mean, a.diag(), 0 * mean, b.diag()) == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_in_two_dimensions_has_a_closed_form_for_covariances_that_do_not_commute() -> None:
    a, b = covariance(2, 1), covariance(2, 2)
    assert (a @ b - b @ a).norm() > 0.1
    # tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for any 2 x 2 matrix with positive eigenvalues
    root = (torch.trace(a @ b) + 2 * torch.det(a @ b).sqrt()).sqrt()
    zero = torch.zeros(2, dtype=torch.float64)
    expected = (a.trace() + b.trace() - 2 * root).item()
    assert fd.frechet_gaussians(zero, a, zero, b) == pytest.approx(expected, rel=1e-10)


def test_frechet_agrees_with_the_eigenvalues_of_the_plain_product() -> None:
    a, b, m = covariance(12, 3), covariance(12, 4), gaussian(1, 12, 5)[0]
    roots = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    expected = (m.square().sum() + a.trace() + b.trace() - 2 * roots).item()
    assert fd.frechet_gaussians(m, a, 0 * m, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 8), (30, 40, 64), (20, 200, 32)])
def test_the_fast_statistic_is_the_distance_of_the_fitted_gaussians_for_any_resample(n: int, m: int, d: int) -> None:
    x, y = gaussian(n, d, 6) @ covariance(d, 7) / d + 0.3, gaussian(m, d, 8)
    statistic = fd.frechet_statistic(x, y)
    for weights in (torch.ones(n).double(), resample(n, Rng.of(9))):
        drawn = x.repeat_interleave(weights.long(), 0)
        expected = fd.frechet_gaussians(drawn.mean(0), drawn.T.cov(), y.mean(0), y.T.cov())
        assert statistic(weights) == pytest.approx(expected, rel=1e-5)
    assert fd.frechet(x, y) == statistic(torch.ones(n).double())


def test_frechet_of_two_halves_is_small_and_of_a_shifted_set_is_the_shift() -> None:
    halves = gaussian(1200, 16, 10)
    near, far = fd.frechet(halves[:600], halves[600:]), fd.frechet(halves[:600] + 2, halves[600:])
    assert near < 0.3
    assert far == pytest.approx(16 * 4, rel=0.1)
    assert fd.frechet(halves, halves) == pytest.approx(0, abs=1e-6)


def test_frechet_is_biased_upward_at_small_n() -> None:
    small = sum(fd.frechet(gaussian(30, 8, 20 + i), gaussian(2000, 8, 60)) for i in range(10)) / 10
    large = sum(fd.frechet(gaussian(300, 8, 40 + i), gaussian(2000, 8, 60)) for i in range(10)) / 10
    assert small > 4 * large


def test_a_single_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        fd.frechet(gaussian(1, 4, 1), gaussian(9, 4, 2))


# kernel distance


def test_the_kernel_is_the_published_one() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    assert kernel.polynomial_kernel(x, y).item() == pytest.approx((11 / 2 + 1) ** 3)


def test_squared_mmd_is_zero_in_expectation_and_its_biased_twin_is_not() -> None:
    values, biased = [], []
    for i in range(300):
        x, y = gaussian(20, 4, 1000 + i), gaussian(20, 4, 5000 + i)
        values.append(kernel.squared_mmd(x, y))
        k = kernel.polynomial_kernel
        biased.append((k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()).item())
    v, w = torch.tensor(values), torch.tensor(biased)
    error = (v.std() / len(v) ** 0.5).item()
    assert abs(v.mean().item()) < 3 * error
    assert w.mean().item() > 10 * error


def test_squared_mmd_matches_a_double_loop_and_grows_with_the_shift() -> None:
    x, y = gaussian(6, 3, 1), gaussian(5, 3, 2) + 1

    def k(a: Tensor, b: Tensor) -> float:
        return ((a @ b).item() / 3 + 1) ** 3

    within = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 30
    behind = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 20
    across = sum(k(a, b) for a in x for b in y) / 30
    assert kernel.squared_mmd(x, y) == pytest.approx(within + behind - 2 * across, rel=1e-10)
    assert kernel.squared_mmd(x, y + 1) > kernel.squared_mmd(x, y)


def test_pictures_of_one_prompt_are_never_paired() -> None:
    """Prompts that are drawn eight times alike are as near as if they were drawn once; pairing them adds what they share."""
    v, paired = [], []
    for i in range(100):
        x, y = gaussian(20, 4, 2000 + i).repeat_interleave(8, 0), gaussian(60, 4, 6000 + i)
        v.append(kernel.squared_mmd(x, y, torch.arange(20).repeat_interleave(8)))
        paired.append(kernel.squared_mmd(x, y))
    error = torch.tensor(v).std().item() / len(v) ** 0.5
    assert abs(sum(v) / len(v)) < 3 * error
    assert sum(paired) / len(paired) > 10 * error
    with pytest.raises(ValueError, match="two prompts or more"):
        kernel.squared_mmd(x, y, torch.zeros(160, dtype=torch.long))


def test_a_few_classes_are_paired_as_often_as_the_reference_pairs_them() -> None:
    """Four classes and nothing else: leaving the pairs of one class out would put equal sets at less than nothing."""
    classes, drawn, left = gaussian(4, 3, 1) * 2, [], []
    real_of = torch.arange(4).repeat_interleave(50)
    for i in range(100):
        real = classes[real_of] + 0.5 * gaussian(200, 3, 3000 + i)
        of = torch.arange(4).repeat_interleave(10)
        x = classes[of] + 0.5 * gaussian(40, 3, 4000 + i)
        weights = torch.ones(40).double()
        drawn.append(kernel.kernel_statistic(x, real, of, kernel.ReferencePairs.of(real, real_of))(weights))
        left.append(kernel.kernel_statistic(x, real, of)(weights))
    spread = torch.tensor(drawn).std().item() / len(drawn) ** 0.5
    assert abs(sum(drawn) / len(drawn)) < 4 * spread
    assert sum(left) / len(left) < -20 * spread


def test_resampling_adds_no_bias_to_the_squared_mmd() -> None:
    x, y = gaussian(40, 4, 3), gaussian(60, 4, 4)
    statistic, rng = kernel.kernel_statistic(x, y), Rng.of(5)
    draws = torch.tensor([statistic(resample(40, rng)) for _ in range(2000)])
    error = (draws.std() / len(draws) ** 0.5).item()
    assert abs(draws.mean().item() - kernel.squared_mmd(x, y)) < 4 * error


def test_kid_over_subsets_has_the_full_estimate_for_its_mean() -> None:
    x, y = gaussian(60, 4, 6) + 0.5, gaussian(80, 4, 7)
    mean, spread = kernel.kid(x, y, Rng.of(8), subsets=400, size=20)
    assert abs(mean - kernel.squared_mmd(x, y)) < 4 * spread / 20
    assert spread > 0
    whole, none = kernel.kid(x, y[:60], Rng.of(9), subsets=3)
    assert whole == pytest.approx(kernel.squared_mmd(x, y[:60]))
    assert none == pytest.approx(0, abs=1e-9)


# manifold


def line(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_radii_count_neighbours_without_the_sample_itself() -> None:
    points = line(0, 1, 2, 3, 10)
    assert manifold.radii(points, 1).tolist() == [1, 1, 1, 1, 7]
    assert manifold.radii(points, 3, chunk=2).tolist() == [3, 2, 2, 3, 9]
    with pytest.raises(ValueError, match="more than"):
        manifold.radii(points, 5)


def test_membership_is_asked_of_the_centres_balls() -> None:
    centres = line(0, 1, 2, 3, 10)  # radii for k = 1: 1, 1, 1, 1, 7
    inside = manifold.membership(line(-0.5, 4.5, 18), centres, 1, chunk=2)
    assert inside.inside.tolist() == [
        [True, False, False, False, False],
        [False, False, False, False, True],
        [False, False, False, False, False],
    ]
    assert manifold.precision(inside).tolist() == [1, 1, 0]
    assert manifold.density(inside).tolist() == [1, 1, 0]
    assert manifold.coverage(inside) == pytest.approx(2 / 5)
    assert manifold.coverage(inside, torch.tensor([1.0, 0.0, 5.0])) == pytest.approx(1 / 5)


def test_who_is_left_out_is_nobodys_neighbour() -> None:
    points, centres = line(-0.5, 1.4, 4.5, 18), line(0, 1, 2, 3, 10)
    kept = torch.tensor([True, False, True, True, False])
    inside = manifold.membership(points, centres, 1)
    assert inside.among(kept).tolist() == manifold.membership(points, centres[kept], 1).inside.tolist()
    # without 1, the ball round 0 reaches to 2 and holds 1.4, which no other ball of 0 did
    assert (inside.inside[1, 0].item(), inside.among(kept)[1, 0].item()) == (False, True)
    assert inside.among(torch.ones(5, dtype=torch.bool)).equal(inside.inside)
    with pytest.raises(ValueError, match="more than 1 samples, not 1"):
        inside.among(torch.tensor([True, False, False, False, False]))


@pytest.mark.parametrize("seeds", [1, 2, 8])
def test_every_figure_without_a_prompt_is_the_figure_of_the_others_alone(seeds: int) -> None:
    prompts = torch.arange(12).repeat_interleave(seeds)
    drawn, real = gaussian(12, 6, 1).repeat_interleave(seeds, 0) + 0.3 * gaussian(12 * seeds, 6, 2), gaussian(90, 6, 3)

    def figures(x: Tensor, of: Tensor, w: Tensor) -> list[float]:
        in_real = manifold.membership(x, real, 5)
        return [
            fd.frechet_statistic(x, real)(w),
            kernel.kernel_statistic(x, real, of)(w),
            manifold.recall(manifold.membership(real, x, 3), w),
            manifold.coverage(in_real, w),
            ((w @ manifold.density(in_real)) / w.sum()).item(),
        ]

    for prompt in (0, 7):
        kept = prompts != prompt
        alone = figures(drawn[kept], prompts[kept], torch.ones(int(kept.sum())).double())
        assert figures(drawn, prompts, kept.double()) == pytest.approx(alone, rel=1e-9)


def test_a_dropped_mode_costs_recall_and_coverage_and_nothing_else() -> None:
    modes = torch.cat([gaussian(100, 3, 1), gaussian(100, 3, 2) + 50])
    drawn = gaussian(150, 3, 3)  # one mode only, and well drawn
    in_real, in_drawn = manifold.membership(drawn, modes, 3), manifold.membership(modes, drawn, 3)
    assert manifold.precision(in_real).mean() > 0.9
    assert 0.4 < manifold.recall(in_drawn) <= 0.5
    in_real_5 = manifold.membership(drawn, modes, 5)
    assert 0.4 < manifold.coverage(in_real_5) <= 0.5
    assert manifold.density(in_real_5).mean() > 0.8


def test_junk_costs_precision_and_density_and_not_recall() -> None:
    real, good = gaussian(200, 3, 4), gaussian(200, 3, 5)
    drawn = torch.cat([good, gaussian(200, 3, 6) * 0.1 + 50])
    in_real = manifold.membership(drawn, real, 3)
    assert manifold.precision(in_real).mean() == pytest.approx(0.5, abs=0.05)
    assert manifold.density(manifold.membership(drawn, real, 5)).mean() == pytest.approx(0.5, abs=0.1)
    in_drawn = manifold.membership(real, drawn, 3)
    assert manifold.recall(in_drawn) > 0.9
    junk_only = torch.cat([torch.zeros(200), torch.ones(200)])
    assert manifold.recall(in_drawn, junk_only) == 0


def test_two_draws_of_one_distribution_have_density_and_coverage_near_their_expectations() -> None:
    real, drawn = gaussian(400, 4, 7), gaussian(400, 4, 8)
    inside = manifold.membership(drawn, real, 5)
    assert manifold.density(inside).mean() == pytest.approx(1.0, abs=0.08)
    # Naeem et al., eq. 9: 1 - prod over k of (N - k + 1 - i) / (2N - i), about 1 - 2^-k
    assert manifold.coverage(inside) == pytest.approx(1 - 2**-5, abs=0.03)
