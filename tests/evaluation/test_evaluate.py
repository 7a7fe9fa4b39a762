"""The whole measurement, with a small judge that needs no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.data.dataset import Dataset, Item
from fewstep.evaluation.evaluate import EvaluateOptions, MeasuredModel, Reference, draw_all, evaluate, floor
from fewstep.evaluation.evaluate import measure as measure_drawn
from fewstep.evaluation.record import MetricRecord
from fewstep.evaluation.suite import Options, asked
from fewstep.rng import Rng
from fewstep.tensors import Features

CONCEPTS = 40
OPTIONS = EvaluateOptions(seeds=(0, 1), batch=7, resamples=20)
SUBJECT = MeasuredModel("add", 1, command="fewstep evaluate", nfe=1, latency_ms=(3.0, 4.0, 5.0), device="test")


class SmallJudge:
    """Rectified random projections: enough to tell the test's pictures apart."""

    name, fingerprint, resizer = "small", "0123", "none-8"

    def __call__(self, media: Tensor, /) -> Features:
        weights = Rng.of(0, "judge").normal((media[0].numel(), 24))
        return Features((media,), torch.relu(media.flatten(1) @ weights / media[0].numel() ** 0.5 + 0.5))


def concept_picture(concept: int) -> Tensor:
    return Rng.of(1, "concept", concept).normal((3, 8, 8)).sign() * 0.9


class Painter:
    """Draws its concepts with some noise of the seed; ``strength`` 0 is collapse within a prompt."""

    def __init__(self, strength: float = 0.2, shift: int = 0, blur: bool = False) -> None:
        self.strength, self.shift, self.blur = strength, shift, blur
        self.calls: list[tuple[list[str], list[int]]] = []

    def __call__(self, prompts: list[str], seeds: list[int]) -> Tensor:
        self.calls.append((prompts, seeds))
        clean = torch.stack([concept_picture((int(p.split()[1]) + self.shift) % CONCEPTS) for p in prompts])
        media = clean + self.strength * Rng.per_sample(seeds).normal(clean.shape)
        return torch.nn.functional.avg_pool2d(media, 3, 1, 1) if self.blur else media


@pytest.fixture(scope="module")
def reference() -> Reference:
    ids = torch.arange(CONCEPTS).repeat_interleave(8)
    media = torch.stack([concept_picture(int(c)) for c in ids]) + 0.2 * Rng.of(2).normal((len(ids), 3, 8, 8))
    return Reference.build(media.clamp(-1, 1), ids, SmallJudge(), batch=9)


def measure(reference: Reference, painter: Painter, **more: object) -> dict[str, MetricRecord]:
    prompts = [f"concept {i}" for i in range(CONCEPTS)]
    records = evaluate(painter, prompts, range(CONCEPTS), reference, SmallJudge(), SUBJECT, OPTIONS, **more)
    return {r.metric: r for r in records}


def test_every_metric_gets_a_record_with_its_interval_and_its_circumstances(reference: Reference) -> None:
    said: list[tuple[str, int, int]] = []
    found = measure(reference, Painter(), progress=lambda *a: said.append(a), discriminator_features="another")
    assert set(found) == {
        "fd", "kid", "precision", "recall", "density", "coverage", "retrieval_top1", "retrieval_top5", "vendi_minus_1",
        "pairwise_distance", "edges_ratio", "midgreys_ratio", "highs_ratio", "latency_ms", "nfe",
    }  # fmt: skip
    for name, record in found.items():
        assert record.low <= record.value <= record.high, name
        assert (record.model, record.steps, record.seeds) == ("add", 1, 2)
    assert found["fd"].features == "small@0123"
    assert found["fd"].n == 2 * CONCEPTS
    assert found["fd"].dataset == reference.fingerprint
    assert found["edges_ratio"].features == ""
    assert found["latency_ms"].value == 4.0
    assert found["latency_ms"].device == "test"
    assert {name for name, record in found.items() if len(record.left_out) == CONCEPTS} == set(found) - {"latency_ms", "nfe"}
    assert {record.interval for record in found.values() if record.left_out} == {"jackknife"}
    assert found["retrieval_top1"].value > 0.9
    assert said[-1][0] == "intervals"
    assert ("drawing", 80, 80) in said


def test_each_kind_of_failure_is_seen_by_its_own_metric(reference: Reference) -> None:
    good = measure(reference, Painter())
    collapsed, wrong, blurred = (
        measure(reference, Painter(strength=0.0)),
        measure(reference, Painter(shift=1)),
        measure(reference, Painter(blur=True)),
    )
    assert good["vendi_minus_1"].value > collapsed["vendi_minus_1"].value + 0.005
    assert collapsed["vendi_minus_1"].value == pytest.approx(0, abs=1e-6)
    assert wrong["retrieval_top5"].value < 0.3 < good["retrieval_top5"].value
    assert blurred["highs_ratio"].value < 0.5 * good["highs_ratio"].value
    assert blurred["fd"].value > 2 * good["fd"].value
    assert wrong["fd"].value == pytest.approx(good["fd"].value, rel=0.5)  # a distance of sets cannot see it
    assert good["precision"].value > blurred["precision"].value


def test_several_judges_look_at_the_same_pictures(reference: Reference) -> None:
    prompts, painter = [f"concept {i}" for i in range(CONCEPTS)], Painter()
    media = draw_all(painter, prompts, OPTIONS, reference.size)
    drawn = len(painter.calls)
    apart = evaluate(painter, prompts, range(CONCEPTS), reference, SmallJudge(), SUBJECT, OPTIONS)
    painter.calls.clear()
    for _ in range(2):
        assert measure_drawn(media, prompts, range(CONCEPTS), reference, SmallJudge(), SUBJECT, OPTIONS) == apart
    assert (drawn, len(painter.calls)) == (12, 0)


def test_real_pictures_held_against_real_ones_are_the_floor(reference: Reference) -> None:
    real = {r.metric: r for r in floor(reference, 2 * CONCEPTS)}
    drawn = measure(reference, Painter(strength=0.5))
    assert set(real) == set(drawn) - {"latency_ms", "nfe"}
    assert real["fd"].value < drawn["fd"].value
    assert real["highs_ratio"].low < 1 < real["highs_ratio"].high
    one, other = reference.split(3 * CONCEPTS)
    assert one.concepts.bincount().tolist() == [3] * CONCEPTS
    assert sorted([*one.sharpness["highs"].tolist(), *other.sharpness["highs"].tolist()]) == sorted(
        reference.sharpness["highs"].tolist()
    )
    assert (real["fd"].n, real["fd"].dataset, real["fd"].model) == (2 * CONCEPTS, reference.fingerprint, "real")
    assert (real["vendi_minus_1"].n, real["vendi_minus_1"].seeds) == (8 * CONCEPTS, 8)
    assert real["retrieval_top1"].value == 1
    assert floor(reference, 10**6)[0].n == 4 * CONCEPTS, "half of what there is"
    few = reference.rows(torch.arange(8))
    assert floor(few, 2 * CONCEPTS) == [], "too few, and of one concept"


def test_one_prompts_seeds_stand_for_themselves(reference: Reference) -> None:
    found = evaluate(Painter(), ["concept 3"], [3], reference, SmallJudge(), SUBJECT, replace(OPTIONS, seeds=tuple(range(9))))
    assert {len(r.left_out) for r in found} == {9, 0}
    assert "vendi_minus_1" not in {r.metric for r in found}


def test_a_dropped_half_of_the_concepts_costs_recall(reference: Reference) -> None:
    class Half(Painter):
        def __call__(self, prompts: list[str], seeds: list[int]) -> Tensor:
            return super().__call__([f"concept {int(p.split()[1]) % (CONCEPTS // 2)}" for p in prompts], seeds)

    good, half = measure(reference, Painter()), measure(reference, Half())
    assert half["coverage"].value < good["coverage"].value - 0.3
    assert half["recall"].value < good["recall"].value - 0.2
    assert half["precision"].value > 0.8


def test_pictures_hang_on_prompt_and_seed_not_on_their_place_or_batch(reference: Reference) -> None:
    one, two = Painter(), Painter()
    prompts, ids = ["concept 1", "concept 2", "concept 3", "concept 4", "concept 5"], [1, 2, 3, 4, 5]
    evaluate(one, prompts, ids, reference, SmallJudge(), SUBJECT, OPTIONS)
    evaluate(two, prompts[::-1], ids[::-1], reference, SmallJudge(), SUBJECT, replace(OPTIONS, batch=3))
    drawn = [{(p, s) for call in painter.calls for p, s in zip(*call)} for painter in (one, two)]
    assert drawn[0] == drawn[1]
    assert len({s for _, s in drawn[0]}) == 10
    assert max(len(p) for p, _ in two.calls) == 3


def test_one_seed_leaves_diversity_out_and_the_same_command_gives_the_same_records(reference: Reference) -> None:
    prompts, ids = [f"concept {i}" for i in range(8)], range(8)
    options = replace(OPTIONS, seeds=(5,))
    twice = [evaluate(Painter(), prompts, ids, reference, SmallJudge(), SUBJECT, options) for _ in range(2)]
    assert twice[0] == twice[1]
    assert not {"vendi_minus_1", "pairwise_distance"} & {r.metric for r in twice[0]}


def test_the_discriminators_network_cannot_be_the_judge(reference: Reference) -> None:
    with pytest.raises(ValueError, match="small was the discriminator's network"):
        measure(reference, Painter(), discriminator_features="small")


def test_bad_requests_get_a_sentence(reference: Reference) -> None:
    class Other(SmallJudge):
        fingerprint = "4567"

    def ask(draw: object = None, concepts: object = (1, 2), judge: object = None) -> None:
        evaluate(
            draw or Painter(), ["concept 1", "concept 2"], concepts, reference, judge or SmallJudge(), SUBJECT, OPTIONS
        )

    with pytest.raises(ValueError, match="one concept a prompt"):
        ask(concepts=(1,))
    with pytest.raises(ValueError, match="seen by small@0123 none-8, not by small@4567"):
        ask(judge=Other())
    with pytest.raises(ValueError, match="reference is"):
        ask(draw=lambda p, s: torch.zeros(len(p), 3, 9, 9))
    with pytest.raises(ValueError, match="not finite"):
        ask(draw=lambda p, s: torch.full((len(p), 3, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="one concept a picture"):
        Reference.build(torch.zeros(2, 3, 8, 8), [1], SmallJudge())


def test_the_references_fingerprint_follows_pictures_and_concepts() -> None:
    media = Rng.of(3).integers((3, 3, 8, 8), 256) / 127.5 - 1
    prints = [
        Reference.build(m, c, SmallJudge()).fingerprint
        for m, c in ((media, [1, 2, 3]), (media + 1e-5, [1, 2, 3]), (media.flip(0), [1, 2, 3]), (media, [1, 2, 4]))
    ]
    assert prints[0] == prints[1]  # the same in 8 bits
    assert len(set(prints)) == 3


def test_prompts_apart_from_those_that_something_was_chosen_by_share_no_concept_with_them() -> None:
    """Two pictures of every concept in the first half, one of the others."""
    of = sorted([*range(20), *range(10)])
    items = tuple(Item(f"k/{i}", f"c{c:02}", (f"name {c}",)) for i, c in enumerate(of))
    train = Dataset(Path("pictures"), {}, items, np.arange(len(items)))

    def drawn(*apart_from: int, prompts: int = 6) -> list[str]:
        rows = asked(train, Options(prompts, apart_from))
        assert all(of.index(of[i]) == i for i in rows), "the first picture of its concept"
        return [items[i].prompts[0] for i in rows]

    assert drawn(prompts=5) == ["name 0", "name 4", "name 8", "name 12", "name 16"]
    left = {f"name {c}" for c in range(20)} - {*drawn(prompts=8), *drawn(prompts=5)}
    looked_at = {f"name {of[i * 30 // n]}" for n in (8, 5) for i in range(n)}
    assert looked_at & left, "pictures lie elsewhere than concepts"
    assert drawn(8, 5, prompts=99) == sorted(left - looked_at, key=lambda name: int(name.split()[1]))
    assert len(set(drawn(8, 5, prompts=3))) == 3
    with pytest.raises(ValueError, match="leaves no concept to draw: give smaller numbers, or fewer"):
        drawn(2, 20)
