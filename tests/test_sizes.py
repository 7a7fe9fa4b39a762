"""Models whose pictures are no squares: the same bundle lying (48x32) and standing (32x48), so that no two sides are mixed up."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

import foreign
from bundles import tiny_bundle
from fewstep import cli, pretrained, sheet, sizes
from fewstep.bundle import Card
from fewstep.data import _buckets, folder
from fewstep.data.dataset import Dataset, DatasetWriter, Item
from fewstep.evaluation.record import read_records
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.methods.method import FAMILY as METHODS
from fewstep.modality import image
from fewstep.modality.image import to_pil
from fewstep.parts.denoiser import Teacher
from fewstep.parts.features.efficientnet import ImageNetFeatures
from fewstep.recipes import assembly, distillation, warm
from fewstep.training import buckets
from method_parts import SMALL

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


def test_a_transformer_draws_whole_patches_within_its_places(tmp_path) -> None:
    """Latents of 2 pixels in patches of 2, and places for 16 patches a side."""
    folder = foreign.sd3(tmp_path)
    with pytest.warns(UserWarning, match="no student_card"):
        pipeline = Pipeline.open(folder)
    with pytest.warns(UserWarning, match="expect worse pictures"):
        assert pipeline.draw("a cat", 1, size=(20, 64)).shape == (1, 3, 20, 64)
    for size, said in (((20, 18), "18x20 .* a multiple of 4, the nearest is 16x20"), ((68, 20), "sides of at most 64 pixels")):
        with pytest.raises(ValueError, match=said), pytest.warns(UserWarning, match="expect worse pictures"):
            pipeline.draw("a cat", 1, size=size)


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


def colours(place: Path, sizes_: list[tuple[int, int]], n: int = 12) -> Path:
    """Pictures of a colour and noise each, of these sizes (height, width) in turn, with captions."""
    place.mkdir()
    for i in range(n):
        height, width = sizes_[i % len(sizes_)]
        noise = np.random.default_rng(i).integers(0, 60, (height, width, 3))
        Image.fromarray((noise + np.array((10 * i, 190 - 10 * i, 100))).astype(np.uint8)).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(["a red heart", "a blue house", "a cat", "a dog"][i % 4])
    return place


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


# buckets

BUCKETS = "32x32,48x16,16x48"


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten squares, six lying and three standing pictures, in buckets of 32x32, 48x16 and 16x48 (width first)."""
    root = tmp_path_factory.mktemp("buckets")
    shapes = [(40, 44)] * 10 + [(30, 80)] * 6 + [(88, 30)] * 3
    own = colours(root / "own", shapes, len(shapes))
    options = folder.Options(own, size=32, buckets=BUCKETS, multiple=16, heldout=0)
    folder.build(options, root / "set")
    return root / "set"


def test_every_picture_goes_to_the_bucket_of_its_shape_and_is_told_of_once(bucketed, capsys) -> None:
    data = Dataset.open(bucketed).verify()
    assert data.shapes == ((3, 32, 32), (3, 16, 48), (3, 48, 16))
    parts = data.buckets
    assert [len(part) for part in parts] == [10, 6, 3]
    assert [part.shape for part in parts] == list(data.shapes)
    for part, at in zip(parts, (range(10), range(10, 16), range(16, 19))):
        assert sorted(item.key for item in part.items) == sorted(f"{i}.png" for i in at)
        for i, item in enumerate(part.items):
            pixels = image.load(bucketed.parent / "own" / item.key).media(part.shape[1:])
            assert (part.media([i])[0] - pixels).abs().max() < 0.01
    assert torch.equal(data.subset(where=lambda item: item.key == "17.png").media([0]), parts[2].media([1]))
    with pytest.raises(ValueError, match="a batch has one: read each bucket alone"):
        data.media([9, 10])
    with pytest.raises(ValueError, match=r"3 sizes \(32x32, 48x16, 16x48\).*build it without --buckets"):
        _ = data.shape
    said = folder.told(bucketed)
    cut = 1 - 40 / 44, 1 - 80 / 80 * 26.667 / 30, 1 - 88 * 29.333 / 88 / 30
    assert f"10 in 32x32 ({cut[0]:.0%} cut off), 6 in 48x16 ({cut[1]:.0%} cut off), 3 in 16x48 ({cut[2]:.0%} cut off)" in said


def test_the_same_pictures_in_other_buckets_are_other_data(bucketed, tmp_path) -> None:
    """Also where every byte is the same: a picture of one colour is, lying or standing."""
    seen = set()
    for name, shapes in (("a", ((3, 4, 6), (3, 2, 2))), ("b", ((3, 6, 4), (3, 2, 2)))):
        given = {"name": "x", "shape": (3, 2, 2), "licences": [], "attribution": "", "build": {}, "buckets": shapes}
        with DatasetWriter(tmp_path / name, **given) as to:
            to.add(np.full(shapes[0], 7, np.uint8), Item("one", "one", ("a cat",)))
        seen.add(Dataset.open(tmp_path / name).fingerprint)
    assert len(seen) == 2
    damaged = next(bucketed.glob("media-48x16.npy")).read_bytes()
    other = shutil.copytree(bucketed, tmp_path / "other")
    (other / "media-48x16.npy").write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"media-48x16\.npy is not the file that was built"):
        Dataset.open(other).verify()


def test_what_needs_one_size_says_so_of_buckets(bucketed, teacher, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    other = tiny_bundle(tmp_path / "other", role="teacher", native_size=(20, 52))
    for command, said in (
        (["teach", "--data", str(bucketed), "--out", str(tmp_path / "run")], "3 sizes (32x32, 48x16, 16x48)"),
        (["evaluate", str(other), "--data", str(bucketed), "--steps", "1", "-o", str(tmp_path / "a.json")], "none of 52x20"),
    ):
        with pytest.raises(SystemExit):
            cli.main(command)
        assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("1", "use 3 to 64 buckets"),
        ("32x32,40x24", "multiples of 16 .* nearest is 32x32|nearest is 48x32"),
        ("32x32,32x32", "name each size once"),
        ("32*32", "WIDTHxHEIGHT"),
        ("32x32,", "WIDTHxHEIGHT"),
    ],
)
def test_buckets_that_cannot_be_are_refused_before_anything_is_read(tmp_path, words, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        folder.build(folder.Options(tmp_path, size=32, buckets=words, multiple=16), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (64, 64), (512, 768)], ids=str)
@pytest.mark.parametrize("count", [3, 5, 9])
def test_automatic_buckets_have_one_area_and_all_shapes(size, count) -> None:
    multiple = _buckets.multiple_for(size)
    found = _buckets.automatic(size, count, multiple)
    assert size in found
    assert 2 <= len(found) <= count
    ratios = [width / height for height, width in found]
    assert ratios == sorted(ratios)
    assert 0.4 < ratios[0] < 0.72
    assert 1.39 < ratios[-1] < 2.5
    for height, width in found:
        assert height % multiple == width % multiple == 0
        assert height * width == pytest.approx(size[0] * size[1], rel=0.1)
    assert _buckets.nearest((100, 99), found) == min(found, key=lambda s: abs(np.log(s[1] / s[0] / 0.99)))


@pytest.mark.parametrize(("counts", "batch"), [((10, 6, 3), 4), ((100, 7, 1), 8), ((3, 2), 16), ((5,), 2)], ids=str)
def test_a_batch_is_a_function_of_its_number_and_every_sample_comes_once_an_epoch(counts, batch) -> None:
    """Over e epochs a bucket gives floor(e n / B) batches: nothing is dropped, and fewer than B wait for the next epoch."""
    order = [buckets.bucket_of(counts, batch, 3, number) for number in range(60)]
    assert [buckets.bucket_of(counts, batch, 3, number) for number in reversed(range(60))] == order[::-1]
    for bucket in range(len(counts)):
        assert [own for b, own in order if b == bucket] == list(range(sum(b == bucket for b, _ in order))), "none left out"
    for epoch in range(1, 12):
        given = [sum(b == bucket for b, _ in order[: sum(n * epoch // batch for n in counts)]) for bucket in range(len(counts))]
        if len(order) >= sum(n * epoch // batch for n in counts):
            assert given == [n * epoch // batch for n in counts]
    if len(counts) > 1 and max(counts) > batch:
        assert [b for b, _ in order] != [b for b, _ in (buckets.bucket_of(counts, batch, 4, n) for n in range(60))]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("square"), role="teacher", native_size=(32, 32))


def encoded(bucketed: Path, teacher: Path, cache: Path, batch: int = 4, seed: int = 5) -> buckets.BucketedSet:
    model = pretrained.load(teacher)
    data = buckets.training_samples(Dataset.open(bucketed), model.codec, model.conditioner, cache, batch, seed, media=True)
    assert isinstance(data, buckets.BucketedSet)
    return data


def test_batches_hold_pictures_of_one_bucket_with_their_own_latents_and_prompts(bucketed, teacher, tmp_path) -> None:
    data, model = encoded(bucketed, teacher, tmp_path), pretrained.load(teacher)
    again, items = encoded(bucketed, teacher, tmp_path), Dataset.open(bucketed).items
    pixels = [part.media([i])[0] for part in Dataset.open(bucketed).buckets for i in range(len(part))]
    prompts = {p: model.conditioner([p]).pooled[0] for item in items for p in item.prompts}
    seen = []
    for number in range(4 * 19 // 4):
        batch, other = data(number), again(number)
        assert torch.equal(batch.x0, other.x0)
        assert torch.equal(batch.cond.pooled, other.cond.pooled)
        assert batch.media.shape == (4, 3, *(2 * side for side in batch.x0.shape[2:]))
        for row in range(4):
            one = next(i for i, p in enumerate(pixels) if torch.equal(p, batch.media[row]))
            seen.append(one)
            torch.testing.assert_close(model.codec.encode(pixels[one][None])[0], batch.x0[row], atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(prompts[items[one].prompts[0]], batch.cond.pooled[row], atol=2e-3, rtol=2e-3)
    assert np.bincount(seen).tolist() == [4] * 19, "four epochs, in which every bucket fills its batches"
    for rows in (*data.chunks(4), *data.spread(12, 5), data.alike(64)):
        assert len({pixels[i].shape for i in rows}) == 1
    assert sorted(np.concatenate(list(data.chunks(4)))) == list(range(19))
    assert len(np.concatenate(list(data.spread(12, 5)))) == 12
    assert list(data.alike(64)) == list(range(10)), "of the largest bucket"
    with pytest.raises(ValueError, match="several sizes have no batch"):
        data.rows(np.array([9, 10]))
    groups = data.grouped(2)
    for number in range(8):
        pooled = groups(number).cond.pooled
        assert torch.equal(pooled[0::2], pooled[1::2])


def test_embeddings_and_pairs_stay_beside_their_own_pictures(bucketed, teacher, tmp_path) -> None:
    data, model = encoded(bucketed, teacher, tmp_path), pretrained.load(teacher)
    setting = assembly.Setting(4, 5, "cpu")
    o = warm.Options(pairs=19, teacher_steps=1, batch_size=4)
    pairs = warm.draw_pairs(o, setting, Teacher(model.denoiser, 1.0), data, tmp_path, "here", 4)
    assert [len(one) for one in pairs.sets] == [10, 6, 3]
    again = warm.draw_pairs(o, setting, Teacher(model.denoiser, 2.0), data, tmp_path, "here", 4)
    assert not torch.equal(pairs.sets[2].latents, again.sets[2].latents), "of another guidance they are drawn again"
    own = torch.arange(19.0)[:, None].expand(19, 2)
    whole = data.having(own, True, pairs)
    latents = [one for part in data.sets for one in part.latents]
    for number in range(12):
        batch = whole(number)
        assert batch.pairs.x0.shape == batch.pairs.noise.shape == batch.x0.shape
        for x0, embedding in zip(batch.x0, batch.cond.image):
            assert torch.equal(latents[int(embedding[0])].float(), x0)
    without = data.having(None, False, None)
    assert (without(0).media, without(0).cond.image, without(0).pairs) == (None, None, None)


def test_a_student_is_distilled_in_buckets_and_goes_on_to_the_same_bits(bucketed, teacher, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    given = ["distill", "--teacher", str(teacher), "--data", str(bucketed), "--batch-size", "4",
             "--features", "efficientnet-lite0", "--warm.steps", "3",
             "--warm.pairs", "8", "--warm.teacher-steps", "1", "--warm.batch-size",
             "4", "--add.regression-weight", "1", "--look-every", "3", "--keep", "last"]  # fmt: skip
    cli.main([*given, "--steps", "6", "--out", str(tmp_path / "whole")])
    cli.main([*given, "--steps", "3", "--out", str(tmp_path / "parts")])
    cli.main([*given, "--steps", "6", "--out", str(tmp_path / "parts"), "--resume"])
    one, other = (Pipeline.open(tmp_path / name / "bundle") for name in ("whole", "parts"))
    ours, theirs = (p.model.denoiser.state_dict() for p in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(next(iter(ours.values())), next(iter(pretrained.load(teacher).denoiser.state_dict().values())))
    assert sorted(path.name for path in (tmp_path / "whole").glob("pairs*")) == [
        f"pairs-{size}.safetensors" for size in ("16x16", "24x8", "8x24")
    ]
    out = tmp_path / "figures.json"
    cli.main(["evaluate", str(tmp_path / "whole" / "bundle"), "--data", str(bucketed), "--judge", "efficientnet-lite2",
              "--apart-from", "-o", str(out)])  # fmt: skip
    assert "measured beside the 10 pictures of 32x32 alone" in capsys.readouterr().out
    assert read_records(out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was trained at each of them
        for size in ((32, 32), (16, 48), (48, 16)):
            assert one.draw("a cat", size=size).shape == (1, 3, *size)
    cli.main(["info", str(tmp_path / "whole" / "bundle")])
    assert "trained at 32x32, 48x16, 16x48 (width x height)" in " ".join(capsys.readouterr().out.split())
    with pytest.warns(UserWarning, match="was trained at 32x32, 48x16, 16x48, not 40x24: expect worse pictures"):
        one.draw("a cat", size=(24, 40))


def test_buckets_that_the_teacher_cannot_draw_are_refused_with_the_way_out(tmp_path, teacher) -> None:
    own = colours(tmp_path / "own", [(33, 33), (25, 41)], 6)
    folder.build(folder.Options(own, size=33, buckets="33x33,41x25", multiple=1, heldout=0), tmp_path / "set")
    options = distillation.options(teacher=str(teacher), data=str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"pictures of 33x33, .* multiples of 2: build the data again with --multiple 2"):
        distillation.prepare(options, tmp_path / "run")


@pytest.mark.parametrize("method", METHODS.names)
def test_every_method_trains_in_buckets(method, bucketed, teacher, tmp_path, monkeypatch) -> None:
    """Batches of three sizes in turn, with the teacher's trajectories where the method asks for them."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    cli.main(["distill", "--teacher", str(teacher), "--data", str(bucketed), "--method", method, "--batch-size", "8",
              "--warm.steps", "0", "--warm.pairs", "6", "--warm.teacher-steps", "1", "--steps", "3", "--keep", "last",
              *(f"--{method}.{option.replace('_', '-')}={value}" for option, value in SMALL.get(method, {}).items()),
              "--out", str(tmp_path / "run")])  # fmt: skip
    assert Pipeline.open(tmp_path / "run" / "bundle").card.sizes == ((32, 32), (16, 48), (48, 16))
