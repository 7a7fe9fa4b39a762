"""Diversity, retrieval and sharpness: planted answers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewstep.evaluation import alignment, diversity
from fewstep.evaluation import sharpness as pixels
from fewstep.rng import Rng

# diversity


def test_vendi_counts_different_samples() -> None:
    eye = torch.eye(7, dtype=torch.float64)
    assert diversity.vendi(eye) == pytest.approx(7, rel=1e-10)
    assert diversity.vendi(eye[:1].expand(5, -1) * torch.arange(1, 6)[:, None]) == pytest.approx(1, rel=1e-6)
    assert diversity.vendi(torch.cat([eye[:3], eye[:3]])) == pytest.approx(3, rel=1e-6)


def test_vendi_of_two_samples_is_the_exponential_of_a_binary_entropy() -> None:
    angle = 0.8
    pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    high = (1 + math.cos(angle)) / 2
    entropy = -(high * math.log(high) + (1 - high) * math.log(1 - high))
    assert diversity.vendi(pair) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_pairwise_distance_is_the_mean_over_pairs() -> None:
    x = Rng.of(1).normal((6, 5), torch.float64)
    pairs = [1 - torch.cosine_similarity(x[i], x[j], dim=0).item() for i in range(6) for j in range(i)]
    assert diversity.pairwise_distance(x) == pytest.approx(sum(pairs) / len(pairs), rel=1e-10)


def test_diversity_is_taken_within_prompts() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    features = torch.stack([eye[0], eye[1], eye[0], eye[2]])  # prompts alternate: 0 always draws the same
    scores, distances = diversity.per_prompt(features, torch.tensor([0, 1, 0, 1]))
    assert scores.tolist() == pytest.approx([1, 2], rel=1e-6)
    assert distances.tolist() == pytest.approx([0, 1], abs=1e-9)
    with pytest.raises(ValueError, match="more seeds"):
        diversity.per_prompt(features, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="same number"):
        diversity.per_prompt(features, torch.tensor([0, 0, 0, 1]))


# retrieval


def test_retrieval_finds_the_planted_concept_and_ranks_concepts_not_pictures() -> None:
    basis = torch.eye(4, dtype=torch.float64)
    # three drawings of concept 10, one of 20, one of 30
    gallery = torch.stack([basis[0], basis[0] * 2, basis[0] + 0.1 * basis[3], basis[1], basis[2]])
    owners = torch.tensor([10, 10, 10, 20, 30])
    query = torch.stack([basis[0], basis[0] + 0.9 * basis[1], basis[0] + 0.9 * basis[1] + 0.1 * basis[2]])
    ranks = alignment.retrieval_ranks(query, torch.tensor([10, 20, 30]), gallery, owners)
    assert ranks.tolist() == [0, 1, 2]  # by pictures the second would come fourth
    assert alignment.retrieved(ranks, 1).tolist() == [1, 0, 0]
    assert alignment.retrieved(ranks, 2).tolist() == [1, 1, 0]


def test_retrieval_of_noisy_copies_beats_chance_by_far_and_of_shuffled_ones_does_not() -> None:
    gallery = Rng.of(2).normal((100, 32), torch.float64)
    ids = torch.arange(100) * 3
    noisy = gallery + Rng.of(3).normal((100, 32), torch.float64)
    right = alignment.retrieved(alignment.retrieval_ranks(noisy, ids, gallery, ids, chunk=33), 5).mean()
    wrong = alignment.retrieved(alignment.retrieval_ranks(noisy.roll(1, 0), ids, gallery, ids), 5).mean()
    assert right > 0.9
    assert wrong < 0.15


def test_a_collapsed_or_broken_embedding_retrieves_nothing() -> None:
    gallery, ids = torch.ones(10, 4), torch.arange(10)
    for features in (torch.ones(10, 4), torch.zeros(10, 4), torch.full((10, 4), torch.nan)):
        assert alignment.retrieved(alignment.retrieval_ranks(features, ids, gallery, ids), 5).sum() == 0


def test_a_concept_without_a_picture_is_named() -> None:
    with pytest.raises(ValueError, match="concept 7"):
        alignment.retrieval_ranks(torch.ones(2, 3), torch.tensor([1, 7]), torch.ones(2, 3), torch.tensor([1, 9]))


# sharpness


def blurred(x: Tensor) -> Tensor:
    for axis in range(2, x.dim()):
        x = (x + x.roll(1, axis) + x.roll(-1, axis)) / 3
    return x


@pytest.mark.parametrize("shape", [(4, 1, 256), (4, 3, 24, 20), (2, 1, 6, 16, 12)])
def test_blur_lowers_edges_and_highs_and_fills_the_middle(shape: tuple[int, ...]) -> None:
    sharp = Rng.of(4).normal(shape, torch.float64).sign()
    figures = pixels.ratios(pixels.sharpness(blurred(sharp)), pixels.sharpness(blurred(sharp) * 0.5 + sharp * 0.5))
    assert (figures["edges"] < 0.9).all()
    assert (figures["highs"] < 0.5).all()
    assert (pixels.midgreys(blurred(sharp)) > pixels.midgreys(sharp) + 0.1).all()


def test_edges_of_a_ramp_are_its_slope() -> None:
    x, y = torch.arange(12).double(), torch.arange(9).double()
    ramp = (0.03 * x[:, None] + 0.04 * y).expand(2, 3, 12, 9)
    assert pixels.edges(ramp).tolist() == pytest.approx([0.05, 0.05])
    assert pixels.edges(torch.ones(1, 1, 5)).item() == 0


def test_highs_hear_waves_above_half_of_nyquist_only() -> None:
    n = torch.arange(32).double()
    low, high = torch.cos(2 * math.pi * 4 / 32 * n), torch.cos(2 * math.pi * 12 / 32 * n)
    waves = torch.stack([low, high, low + high])[:, None]
    assert pixels.highs(waves).tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-12)
    just_low = torch.cos(2 * math.pi * 7 / 32 * n)[None, None]
    assert pixels.highs(just_low).item() == pytest.approx(0, abs=1e-12)
    diagonal = torch.cos(2 * math.pi * 6 / 32 * (n[:, None] + n))[None, None]  # 0.1875 on each axis: 0.265 together
    assert pixels.highs(diagonal).item() == pytest.approx(0.5, abs=1e-12)


def test_midgreys_are_the_middle_half() -> None:
    assert pixels.midgreys(torch.tensor([[[-1.0, -0.4, 0.0, 0.49, 0.5, 1.0]]])).item() == pytest.approx(0.5)


def test_ratios_are_one_for_the_reference_itself_and_a_flat_reference_is_refused() -> None:
    figures = pixels.sharpness(Rng.of(5).uniform((8, 3, 10, 10), -1.0, 1.0))
    assert {k: v.mean().item() for k, v in pixels.ratios(figures, figures).items()} == pytest.approx(
        {"edges": 1, "midgreys": 1, "highs": 1}
    )
    with pytest.raises(ValueError, match="no edges"):
        pixels.ratios(figures, pixels.sharpness(torch.ones(2, 3, 10, 10)))
