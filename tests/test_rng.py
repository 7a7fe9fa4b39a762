"""Randomness: a sample never depends on its batch, a stream on nothing but its name, and diffusers draws the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewstep.rng import Rng, check_seed, fold

PINNED = {"bare": 2631537505891389924, "step": 1863866566110188691, "other": 1113713773973498337}
DRAWS: dict[str, Callable[[Rng, int], Tensor]] = {
    "normal": lambda rng, n: rng.normal((n, 3, 5)),
    "many": lambda rng, n: rng.normal((n, 4, 32, 32)),  # beyond sixteen, torch draws in vectors
    "float64": lambda rng, n: rng.normal((n, 2), torch.float64),
    "uniform": lambda rng, n: rng.uniform((n, 7), -2, 3),
    "integers": lambda rng, n: rng.integers((n, 6), 10),
    "one a row": lambda rng, n: rng.uniform((n,)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_a_sample_does_not_depend_on_its_batch(draw: Callable[[Rng, int], Tensor]) -> None:
    seeds = [5, 0, 2**63 - 1, 5]
    together = Rng.per_sample(seeds)
    first, second = draw(together, 4), draw(together, 4)
    for i, seed in enumerate(seeds):
        alone = Rng.per_sample([seed])
        assert torch.equal(first[i], draw(alone, 1)[0])
        assert torch.equal(second[i], draw(alone, 1)[0]), "nor does the next draw"
    assert torch.equal(first[0], first[3])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])


def test_per_sample_draws_what_a_stock_pipeline_draws() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    generators = [torch.Generator().manual_seed(s) for s in (7, 8)]
    theirs = randn_tensor((2, 4, 8, 8), generator=generators)
    assert torch.equal(Rng.per_sample([7, 8]).normal((2, 4, 8, 8)), theirs)


def test_folded_seeds_are_the_same_on_every_machine() -> None:
    assert [fold(0), fold(0, "step", 1, 0), fold(1, "step", 1, 0)] == [PINNED[k] for k in ("bare", "step", "other")]
    assert all(0 <= fold(7, i) < 2**63 for i in range(100))
    assert len({fold(s, *path) for s in (0, 1) for path in (("a",), ("b",), ("a", 1), (1, "a"), (11,), (1, 1))}) == 12


def test_streams_are_named_and_repeatable() -> None:
    assert torch.equal(Rng.of(3, "step", 4).normal((2, 2)), Rng.of(3, "step", 4).normal((2, 2)))
    assert not torch.equal(Rng.of(3, "step", 4).normal((2, 2)), Rng.of(3, "step", 5).normal((2, 2)))
    before = torch.get_rng_state()
    Rng.of(0).normal((100,))
    assert torch.equal(before, torch.get_rng_state()), "the global stream is left alone"


def test_a_copy_draws_what_the_original_will() -> None:
    rng = Rng.per_sample([1, 2])
    rng.normal((2, 3))
    twin = rng.copy()
    wanted = twin.normal((2, 3))
    assert torch.equal(rng.normal((2, 3)), wanted)
    assert not torch.equal(rng.normal((2, 3)), wanted)


def test_choice_keeps_its_probabilities() -> None:
    values = torch.tensor([1.0, 0.75, 0.5, 0.25])
    drawn = Rng.of(0).choice(values, 20_000, torch.tensor([0.7, 0.1, 0.0, 0.2]))
    shares = torch.stack([(drawn == v).float().mean() for v in values])
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.1, 0.0, 0.2]), atol=0.015, rtol=0)
    assert shares[2] == 0
    even = Rng.of(1).choice(values, 20_000)
    assert all(abs(float((even == v).float().mean()) - 0.25) < 0.015 for v in values)


def test_draws_have_their_distribution() -> None:
    rng = Rng.of(0)
    normal, uniform, whole = rng.normal((50_000,)), rng.uniform((50_000,), -2, 3), rng.integers((50_000,), 5)
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    assert -2 <= float(uniform.min()) < -1.99
    assert 2.99 < float(uniform.max()) < 3
    assert whole.unique().tolist() == [0, 1, 2, 3, 4]
    assert rng.normal_like(torch.zeros(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_out_of_range_gets_a_sentence(seed: int) -> None:
    with pytest.raises(ValueError, match=r"whole number from 0 to 2\^63 - 1"):
        check_seed(seed)
    with pytest.raises(ValueError, match="out of range"):
        Rng.per_sample([0, seed])


def test_the_wrong_number_of_samples_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match="asked for 3 samples, but this Rng holds 2 seeds"):
        Rng.per_sample([0, 1]).normal((3, 2))
