"""Intervals that hold what they should, as wide as need be: closed forms, and the benchmark's simulation in short."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.evaluation import bootstrap as boot
from fewstep.evaluation import frechet as fd
from fewstep.evaluation import jackknife, manifold
from fewstep.rng import Rng
from serving_helpers import benchmark


def test_a_means_error_is_that_of_the_textbook() -> None:
    x = Rng.of(1).normal((37,), torch.float64)
    without = jackknife.left_out_means(x)
    assert without[5].item() == pytest.approx(torch.cat([x[:5], x[6:]]).mean().item())
    error = x.std().item() / 37**0.5
    assert jackknife.standard_error(without) == pytest.approx(error, rel=1e-12)
    at = jackknife.interval(x.mean().item(), without)
    assert (at.high - at.low) / 2 == pytest.approx(2.0281 * error, rel=1e-4)  # Student's t with 36 degrees
    assert at.value - at.low == pytest.approx(at.high - at.value)


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (9, 2.2622), (63, 1.9983), (10**6, 1.95996)]
)
def test_students_t_is_that_of_the_tables(freedom: int, wanted: float) -> None:
    assert jackknife.student_t(0.95, freedom) == pytest.approx(wanted, rel=1.2e-3)


def test_pictures_of_one_prompt_are_left_out_together() -> None:
    prompts = torch.arange(50).repeat_interleave(8)
    x = Rng.of(3).normal((50,), torch.float64)[prompts]  # eight equal values a prompt
    together = jackknife.left_out_means(x, prompts)
    assert len(together) == 50
    assert jackknife.standard_error(together) / jackknife.standard_error(jackknife.left_out_means(x)) == pytest.approx(
        (8 * 399 / 392) ** 0.5, rel=1e-2
    )
    seen = []
    jackknife.left_out(lambda w: seen.append(w) or 0.0, 400, prompts)
    assert all(w.sum() == 392 and not w[prompts == i].any() for i, w in enumerate(seen))


def test_a_shares_interval_stays_between_none_and_all_and_nothing_found_is_not_nothing() -> None:
    none = jackknife.interval(0.0, torch.zeros(64), jackknife.SHARE)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1.9983**2 / (64 + 1.9983**2), rel=1e-3)  # Wilson 1927 for 0 of 64
    every = jackknife.interval(1.0, torch.ones(64), jackknife.SHARE)
    assert (every.low, every.high) == (pytest.approx(1 - none.high), 1)
    few = (torch.arange(64) < 2).double()
    at = jackknife.interval(2 / 64, jackknife.left_out_means(few), jackknife.SHARE)
    assert 0 < at.low < 2 / 64 < at.high < 0.13
    half = (torch.arange(400) % 2).double()
    at = jackknife.interval(0.5, jackknife.left_out_means(half), jackknife.SHARE)
    assert (at.low, at.high) == (pytest.approx(0.5 - 1.966 * 0.025, abs=1e-3), pytest.approx(0.5 + 1.966 * 0.025, abs=1e-3))
    assert jackknife.interval(0.1, torch.tensor([0.0, 0.2]), (0.0, math.inf)).low == 0


def test_halves_tell_the_same_error_as_leaving_one_out() -> None:
    """Of a plain share, where both are right; and halves are grown until they hold enough."""
    prompts = torch.arange(64).repeat_interleave(4)
    hit = (Rng.of(5).uniform((256,)) < Rng.of(6).uniform((64,)).repeat_interleave(4)).double()

    def share(w: torch.Tensor) -> float:
        return ((w @ hit) / w.sum()).item()

    wanted = jackknife.standard_error(jackknife.left_out(share, 256, prompts))
    errors = [jackknife.standard_error(jackknife.halved(share, 256, prompts, Rng.of(s))) for s in range(20)]
    assert sum(errors) / 20 == pytest.approx(wanted, rel=0.05)
    again = jackknife.halved(share, 256, prompts, Rng.of(3))
    assert jackknife.halved(share, 256, prompts, Rng.of(3)).equal(again)
    sizes: list[float] = []
    for p in (3, 6, 7):
        jackknife.halved(lambda w: sizes.append(w.sum().item()) or 0.5, p, torch.arange(p), Rng.of(0), least=3)
    assert sizes == [2, 2, 2, 3, *[4] * 6, 6, *[4] * 7, 7]


def test_one_prompt_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two prompts or more"):
        jackknife.interval(0.5, torch.ones(1))


def test_a_statistic_that_hangs_on_different_samples_is_not_resampled() -> None:
    x, y = Rng.of(10).normal((80, 12), torch.float64), Rng.of(11).normal((80, 12), torch.float64)
    statistic = fd.frechet_statistic(x, y)
    raw = boot.bootstrap(statistic, 80, Rng.of(12), resamples=60)
    at = boot.bootstrap(statistic, 80, Rng.of(12), recentre=True, bounds=(0.0, 1e9))
    assert raw.low > raw.value  # a resample holds fewer different samples, so its distance is larger
    assert at == jackknife.interval(at.value, jackknife.left_out(statistic, 80), (0.0, 1e9))
    assert at.low < at.value < at.high
    assert boot.bootstrap(lambda w: 0.5, 5, Rng.of(1), resamples=5, bounds=(0.0, 0.25)).high == 0.25


def test_recalls_interval_is_that_of_neighbourhoods_measured_on_what_is_left() -> None:
    real, drawn = Rng.of(1).normal((120, 4), torch.float64), Rng.of(2).normal((40, 4), torch.float64)
    prompts = torch.arange(20).repeat_interleave(2)
    held = manifold.membership(real, drawn, 3)
    without = jackknife.left_out(lambda w: manifold.recall(held, w), 40, prompts)
    alone = [manifold.recall(manifold.membership(real, drawn[prompts != i], 3)) for i in range(20)]
    assert without.tolist() == pytest.approx(alone)
    assert without.max() > manifold.recall(held), "balls that frozen radii would not let grow"


@pytest.mark.parametrize("seeds", [2, 8])
def test_every_metrics_interval_holds_alone_and_paired(seeds: int) -> None:
    """The benchmark in short. Resampled prompts, with radii frozen, held 61 to 72% of recall, and FD's were up to 3.2 wide."""
    simulation = benchmark("intervals")
    world = simulation.World(300)
    found = simulation.coverage(world, prompts=32, seeds=seeds, simulations=40)
    assert len(found) == 13
    for metric, both in found.items():
        for held in both:
            assert held.share >= 0.8, (metric, both)
            assert 0.7 < held.width < 1.75, (metric, both)
