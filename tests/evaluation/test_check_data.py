"""Real pictures beside which ``fewstep check`` sets a model: distances by closed forms, the choice of captions, the verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.data.dataset import Dataset, DatasetWriter, Item
from fewstep.evaluation import _drawing, check, check_page, genuine, pyramid, ruler
from fewstep.evaluation.check_data import RealData, caption_of, chosen
from fewstep.evaluation.ruler import RealPictures
from fewstep.rng import Rng
from known_models import four, known

QUICK = _drawing.Options(steps=(1, 4, 16), wrong_steps=(), n=4, noises=4, calls=1)


def noise(seed: int, n: int) -> torch.Tensor:
    return Rng.of(seed).normal((n, 3, 16, 16)).clamp(-1, 1)


def test_mean_distances_leave_out_a_picture_and_itself() -> None:
    x = [torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0]])]
    y = [torch.tensor([[1.0]]), torch.tensor([[3.0], [7.0]])]
    assert pyramid.between(x, y).tolist() == [[1, 4], [4, 2]]
    itself = pyramid.between(x, x, themselves=True)
    assert itself[0].tolist() == [2, 4], "of the pairs of 0 and 2 the two with themselves do not count"
    assert itself[1, 1].isnan()


@pytest.mark.parametrize("each", [1, 3])
def test_the_mean_of_real_pictures_has_no_likeness_to_them(each: int) -> None:
    real = RealPictures(noise(1, 5 * each).split(each))
    middle = noise(1, 5 * each).mean(0, keepdim=True)
    near = real.near([middle.expand(2, -1, -1, -1)] * 5)
    assert real.by_prompt == (each > 1)
    assert near.likeness.value == pytest.approx(0, abs=1e-6)
    assert near.sharpness["highs"].value < 0.6


def test_the_same_pictures_are_alike_as_a_set_whatever_their_number_a_prompt() -> None:
    one = noise(2, 5).split(1)
    near = RealPictures(one).near([picture.repeat(3, 1, 1, 1) for picture in one])
    assert near.likeness.value == pytest.approx(1, abs=1e-6)
    assert near.share == pytest.approx(1, abs=1e-6)
    moved = [one[(i + 1) % 5].repeat(3, 1, 1, 1) for i in range(5)]
    assert RealPictures(one).near(moved).likeness.value != pytest.approx(1, abs=1e-3), "of another prompt: compared by prompt"


def test_the_energy_of_each_prompt_is_the_unbiased_one() -> None:
    real = RealPictures((pictures := noise(3, 6)).split(3))
    drawn = noise(4, 6)
    seen = [pyramid.features(part, real.scales) for part in drawn.split(3)]

    def energy(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(2 * torch.cdist(x, y).mean() - torch.pdist(x).mean() - torch.pdist(y).mean())

    mean = pyramid.features(pictures.mean(0, keepdim=True), real.scales)
    nothing = [2 * float(torch.cdist(mean, y).mean() - torch.pdist(y).mean() / 2) for y in real.real]
    away = sum(energy(x, y) for x, y in zip(seen, real.real)) / sum(nothing)
    assert real.near(drawn.split(3)).likeness.value == pytest.approx(1 - away, abs=1e-6)


def test_an_interval_leaves_out_a_prompt_with_its_row_and_its_column() -> None:
    above, below = Rng.of(5).uniform((4, 4)).double(), Rng.of(6).uniform((4, 4)).double() + 1
    kept = [torch.tensor([i for i in range(4) if i != out]) for out in range(4)]
    without = [float(above[k][:, k].sum() / below[k][:, k].sum()) for k in kept]
    found = ruler._of_pairs(above, below)
    assert found == ruler.interval(float(above.sum() / below.sum()), without)


def dataset(folder: Path, media: torch.Tensor, captions: list[tuple[str, ...]], labels: bool = False) -> Dataset:
    """Pictures with their captions."""
    writer = DatasetWriter(folder, name="own", shape=media.shape[1:], licences=[], attribution="", build={})
    with writer:
        for i, (picture, prompts) in enumerate(zip(((media + 1) * 127.5).round().byte().numpy(), captions)):
            writer.add(np.asarray(picture), Item(f"{i}", f"concept {i}", prompts, label=i % 2 if labels else None))
    return Dataset.open(folder)


def test_captions_with_several_pictures_are_taken_where_there_are_enough(tmp_path) -> None:
    pipeline = known(tmp_path, "teacher")
    captions = [(f"thing {i % 3}", f"other {i}") for i in range(6)] + [("alone",), ("lonely",)]
    data = dataset(tmp_path / "own", noise(1, 8), captions)
    several = chosen(data, pipeline, 2)
    assert several.prompts == ("thing 0", "thing 1")
    torch.testing.assert_close(several.media[1], data.media([1, 4]))
    assert several.by_prompt
    every = chosen(data, pipeline, 5)
    assert every.prompts == ("thing 0", "thing 1", "thing 2", "alone", "lonely")
    assert (every.by_prompt, every.pictures) == (False, 8)
    assert chosen(data, pipeline, 5, ["lonely", "thing 1"]).prompts == ("lonely", "thing 1")


def test_a_model_of_classes_is_asked_for_a_pictures_class() -> None:
    item = Item("k", "c", ("zero",), label=0)
    assert caption_of(item, ()) == "zero"
    assert caption_of(item, ("0", "1")) == "0"
    assert caption_of(item, ("one", "zero")) == "zero", "the word is known"
    assert caption_of(replace(item, label=7), ("0", "1")) == "zero", "and is refused, by its own name, when it is asked for"
    assert caption_of(replace(item, prompts=()), ()) == ""


def test_data_that_nothing_can_be_held_against_are_refused(tmp_path) -> None:
    pipeline = known(tmp_path, "teacher")
    two = [("a",), ("b",)]
    good = dataset(tmp_path / "good", noise(1, 2), two)
    for data, given, said in (
        (dataset(tmp_path / "grey", noise(1, 2)[:, :1], two), (), "16x16 in 1 channel, and the model draws 16x16 in 3 channels"),
        (dataset(tmp_path / "wide", noise(1, 2)[..., :8, :], two), (), "16x8 in 3 channels"),
        (dataset(tmp_path / "mute", noise(1, 2), [(), ()]), (), "own have no captions"),
        (dataset(tmp_path / "one", noise(1, 2), [("a",), ("a",)]), (), "one caption"),
        (good, ["c"], "own has no picture of 'c'"),
        (good, ["a"], "one caption"),
        (good.subset("heldout"), (), "no pictures"),
    ):
        with pytest.raises(ValueError, match=said):
            chosen(data, pipeline, 8, given)
    with pytest.raises(ValueError, match="give --n 2"):
        chosen(good, pipeline, 1)
    with pytest.raises(ValueError, match="real pictures are all alike"):
        RealPictures([torch.zeros(2, 3, 16, 16)] * 2)


def report_beside(tmp_path: Path, role: str, media: torch.Tensor) -> check.Report:
    real = RealData("own", tuple("abcd"), media.split(4))
    return check.check(known(tmp_path, role), QUICK, real=real)


def test_a_student_that_draws_the_data_reaches_them(tmp_path) -> None:
    found = report_beside(tmp_path, "student", four().repeat(4, 1, 1, 1))
    assert found.prompts == tuple("abcd")
    one = next(row.data for row in found.rows if row.steps == 1 and row.setting == _drawing.OWN)
    assert one is not None
    assert one.share > 0.8
    assert one.sharpness["highs"].value == pytest.approx(1, abs=0.02)
    assert found.verdict.kind == "few-step"
    assert "of the real pictures of own (likeness" in found.verdict.paragraph
    facts = json.loads(json.dumps(found.table(), allow_nan=False))
    assert facts["data"] == {"name": "own", "pictures": 16, "by_prompt": True}
    assert facts["rows"][0]["data"]["share"] == one.share
    page = check_page.document(found)
    assert page.count("a real picture") == 4
    assert "Beside real pictures" in page


def test_a_bad_model_that_is_equally_bad_at_every_step_is_not_praised(tmp_path) -> None:
    soft = torch.nn.functional.avg_pool2d(noise(9, 16), 5, 1, 2)  # other pictures, and far softer than what it draws
    found = report_beside(tmp_path, "student", soft)
    assert found.evidence.reached > genuine.REACHED
    assert found.verdict.kind == "undertrained"
    assert "but that best reaches" in found.verdict.headline
    assert "Its best is poor" in found.verdict.paragraph
