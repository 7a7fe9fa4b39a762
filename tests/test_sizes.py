"""Models whose pictures are no squares: the same bundle lying (48x32) and standing (32x48), so that no two sides are mixed up."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from bundles import tiny_bundle
from fewstep import cli, sheet, sizes
from fewstep.bundle import Card
from fewstep.data.dataset import Dataset
from fewstep.evaluation.record import read_records
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.modality.image import to_pil
from fewstep.parts.features.efficientnet import ImageNetFeatures
from fewstep.recipes import distillation

LYING, STANDING = (32, 48), (48, 32)
"""Height and width."""
BOTH = pytest.mark.parametrize("size", [LYING, STANDING], ids=["lying", "standing"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    root = tmp_path_factory.mktemp("oblong")
    return {
        size: tiny_bundle(root / sizes.spoken(size), name=sizes.spoken(size), native_size=size)
        for size in (LYING, STANDING)
    }


def test_a_size_is_said_width_first() -> None:
    assert sizes.heard("768x512") == (512, 768)
    assert sizes.heard("64") == (64, 64)
    assert sizes.heard(" 48X32 ") == sizes.heard("48×32") == (32, 48)
    assert sizes.spoken((512, 768)) == "768x512"
    assert sizes.spoken((16000,)) == "16000"
    for wrong in ("", "x", "48x", "48*32", "48x32x2", "0x8", "-8", "8x65537", "٣"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            sizes.heard(wrong)


@BOTH
def test_a_model_draws_its_own_size_from_noise_from_a_picture_and_within_a_mask(models, size) -> None:
    """What is kept of a picture is exactly where the mask says, along both axes."""
    pipeline = Pipeline.open(models[size])
    assert pipeline.card.native_size == pipeline.model.native_size == size
    assert pipeline.draw("a cat", 2).shape == (1, 3, *size)
    given = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, *size)
    mask[..., : size[0] // 4, size[1] // 2 :] = 1
    request = Request(["a cat"], [3], 2, image=given, strength=0.75, mask=mask)
    made = pipeline(request)
    changed = (made != given).any(1)[0]
    assert changed.equal(mask[0, 0] > 0)
    assert not made.equal(pipeline(Request(["a cat"], [3], 2, image=given, strength=0.75)))


@BOTH
def test_draw_makes_the_size_that_is_asked_for_width_first(models, size, tmp_path, capsys) -> None:
    own, other = tmp_path / "own.png", tmp_path / "other.png"
    model = ["draw", "a cat", "--model", str(models[size]), "--no-provenance", "-o"]
    cli.main([*model, str(own)])
    assert Image.open(own).size == size[::-1]
    cli.main([*model, str(other), "--size", "24x40"])
    assert f"was trained at {sizes.spoken(size)}, not 24x40: expect worse pictures" in capsys.readouterr().out
    assert Image.open(other).size == (24, 40)
    wanted = Pipeline.open(models[size]).draw("a cat", size=(40, 24))[0]
    assert np.array_equal(np.asarray(Image.open(other)), np.asarray(to_pil(wanted)))
    with pytest.raises(SystemExit):
        cli.main([*model, str(other), "--size", "25x41"])
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot draw 25x41 (width first): every side must be a multiple of 2, the nearest is 24x40" in said
    with pytest.raises(SystemExit):
        cli.main([*model, str(other), "--size", "25*41"])
    assert "give WIDTHxHEIGHT in pixels" in " ".join(capsys.readouterr().err.replace("│", " ").split())


@BOTH
def test_draw_starts_from_a_picture_of_any_shape(models, size, tmp_path, capsys) -> None:
    """Left and right of the given picture are left and right of what is drawn, whichever shape either has."""
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    Image.fromarray(pixels).save(tmp_path / "given.png")
    drawing = cli.Drawing("a cat", image=tmp_path / "given.png")
    start = drawing.start(size)
    assert start.shape == (3, *size)
    left, right = start[..., : size[1] // 2 - 1], start[..., size[1] // 2 + 1 :]
    assert left.max() < -0.9
    assert right.min() > 0.9
    out = tmp_path / "drawn.png"
    cli.main(["draw", "a cat", "--model", str(models[size]), "--image", str(drawing.image), "--no-provenance", "-o", str(out)])
    assert Image.open(out).size == size[::-1]
    cut = 1 - 30 * 30 * size[1] / size[0] / 2700
    assert f"{cut:.0%} of" in capsys.readouterr().out
    padded = cli.Drawing("a cat", image=tmp_path / "given.png", fit="pad").start(size)
    rows = np.flatnonzero((padded[0, :, : size[1] // 2 - 1] < -0.9).all(1).numpy())
    assert len(rows) == round(size[1] / 3), "a third as high as it is wide, all of it"


def test_info_says_which_number_is_the_width(models, capsys) -> None:
    for size, said in ((LYING, "48×32 (width × height)"), (STANDING, "32×48 (width × height)")):
        cli.main(["info", str(models[size])])
        assert f"native size {said}" in " ".join(capsys.readouterr().out.split())


def colours(folder: Path, sizes_: list[tuple[int, int]], n: int = 12) -> Path:
    """Pictures of a colour and noise each, of these sizes (height, width) in turn, with captions."""
    folder.mkdir()
    for i in range(n):
        height, width = sizes_[i % len(sizes_)]
        noise = np.random.default_rng(i).integers(0, 60, (height, width, 3))
        Image.fromarray((noise + np.array((16 * i, 190 - 16 * i, 100))).astype(np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(["a red heart", "a blue house", "a cat", "a dog"][i % 4])
    return folder


@pytest.mark.parametrize("size", [(16, 32), (32, 16)], ids=["lying", "standing"])
def test_an_oblong_teacher_is_taught_distilled_and_measured(size, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "home"))
    said, own = sizes.spoken(size), colours(tmp_path / "own", [(40, 64), (64, 40)])
    cli.main(["data", "folder", "--source", str(own), "--size", said, "--heldout", "0", "--out", str(tmp_path / "set")])
    data = Dataset.open(tmp_path / "set")
    assert (data.shape, data.name) == ((3, *size), f"folder-{said}")
    given, at = ["--data", str(data.folder), "--batch-size", "4"], lambda name: str(tmp_path / name / "bundle")
    cli.main(["teach", *given, "--steps", "2", "--codec-steps", "2", "--codec-batch-size", "4",
              "--out", str(tmp_path / "teacher")])  # fmt: skip
    cli.main(["distill", *given, "--teacher", at("teacher"), "--features", "efficientnet-lite0", "--warm.steps", "1",
              "--warm.pairs", "4", "--warm.teacher-steps", "1", "--steps", "1", "--look-every", "1",
              "--out", str(tmp_path / "student")])  # fmt: skip
    for name in ("teacher", "student"):
        assert Card.read(Path(at(name))).native_size == size
    assert Pipeline.open(at("student")).model.latent_shape == (4, size[0] // 4, size[1] // 4)
    out = tmp_path / "figures.json"
    cli.main(["evaluate", at("student"), "--data", str(data.folder), "--steps", "1", "--judge", "efficientnet-lite2",
              "--apart-from", "-o", str(out)])  # fmt: skip
    assert {"fd", "edges_ratio"} <= {record.metric for record in read_records(out)}
    wrong = tmp_path / "wrong"
    cli.main(["data", "folder", "--source", str(own), "--size", sizes.spoken(size[::-1]), "--out", str(wrong)])
    with pytest.raises(ValueError, match=rf"{re.escape(sizes.spoken(size[::-1]))}.* draws {said} .*--size {said}"):
        distillation.prepare(distillation.options(teacher=at("teacher"), data=str(wrong)), tmp_path / "other")


@BOTH
def test_feature_networks_see_pictures_in_their_own_shape(size) -> None:
    lite = ImageNetFeatures("efficientnet-lite0", 64)
    ramp = torch.linspace(-1, 1, size[1]).expand(1, 3, *size)
    seen = lite.prepare(ramp)
    assert seen.shape == (1, 3, *sizes.like(size, 64, least=32))
    assert abs(seen.shape[2] * seen.shape[3] - 64 * 64) < 64
    assert seen.shape[2] / seen.shape[3] == pytest.approx(size[0] / size[1], rel=0.02)
    assert torch.equal(lite.prepare(torch.zeros(1, 3, 20, 20)), lite.prepare(torch.zeros(1, 3, 64, 64)))
    assert sizes.like((16, 160), 64, least=32) == (32, 202), "what is narrow is still seen"


def test_a_sheet_shows_pictures_in_their_own_shape() -> None:
    lying, standing = Image.new("RGB", (48, 32), "red"), Image.new("RGB", (32, 48), "blue")
    made = sheet.sheet([("a", "", [lying, lying]), ("b", "", [lying, standing])], ["one", "two"], cell=96)
    boxes = [(right - left, bottom - top) for left, top, right, bottom in made.info[sheet.CELLS]]
    assert boxes == [(96, 64), (96, 64), (96, 64), (64, 96)]
    for box, colour in zip(made.info[sheet.CELLS], ["red", "red", "red", "blue"]):
        assert made.crop(box).getcolors() == [(96 * 64, ImageColor.getrgb(colour))]
    alone = sheet.sheet([("a", "", [lying])], ["one"], cell=96)
    assert alone.height == made.height - 2 * 96 - 10 + 64, "rows are as high as their pictures"
