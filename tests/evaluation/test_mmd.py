"""The maximum mean discrepancy against sums written out, and its own properties."""

import math

import pytest
import torch

from fewstep.evaluation.mmd import SCALE, mmd


def test_the_discrepancy_is_the_sum_over_all_pairs_with_and_without_each_group() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=g), torch.randn(5, 3, generator=g) + 1
    groups = torch.tensor([4, 4, 9, 9, 9, 1, 1])

    def written_out(rows: torch.Tensor) -> float:
        def mean(a: torch.Tensor, b: torch.Tensor) -> float:
            pairs = [math.exp(-float((p - q).square().sum()) / (2 * 2.0**2)) for p in a for q in b]
            return sum(pairs) / len(pairs)

        return SCALE * (mean(rows, rows) + mean(y, y) - 2 * mean(rows, y))

    value, without = mmd(x, y, groups, sigma=2.0)
    assert value == pytest.approx(written_out(x), rel=1e-5)
    want = [written_out(x[groups != name]) for name in (1, 4, 9)]
    assert without.tolist() == pytest.approx(want, rel=1e-5)


def test_like_sets_have_none_and_it_grows_with_the_distance() -> None:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(40)
    near, far = mmd(x + 0.1, x, groups)[0], mmd(x + 1.0, x, groups)[0]
    assert mmd(x, x, groups)[0] == pytest.approx(0, abs=1e-9)
    assert 0 < near < far
