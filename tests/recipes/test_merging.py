"""Means of students: the weights written out by hand, what goes into the card, and what cannot be averaged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bundles import tiny_bundle
from fewstep import bundle, cli
from fewstep.bundle import Card
from fewstep.evaluation import suite
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.recipes import merging
from fewstep.recipes.merging import merge
from fewstep.rng import Rng

UNET, VAE = (Path(part) / "diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two students of one teacher, trained against two networks."""
    root = tmp_path_factory.mktemp("students")
    first, second = ({"options": {"features": name, "styles": ["flat"]}} for name in ("efficientnet-lite0", "mobilenet-v2"))
    made = tiny_bundle(root, training=first, licence="MIT")
    return made, other(made, root / "other", method="drifting", training=second)


def other(of: Path, folder: Path, part: Path = UNET, **changes: object) -> Path:
    """A copy with other weights in one part, and other facts in its card."""
    shutil.copytree(of, folder)
    moved(folder, part)
    card = replace(Card.read(folder), name=folder.name, hashes=bundle.part_hashes(folder), **changes)
    card.write(folder)
    return folder


def moved(folder: Path, part: Path) -> None:
    rng = Rng.of(1, str(part))
    weights = {k: v + 0.1 * rng.normal_like(v) for k, v in load_file(folder / part).items()}
    save_file(weights, folder / part, metadata={"format": "pt"})


def test_every_weight_is_the_mean(students: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = students
    card = merge([f"{first}=1", f"{second}=3"], tmp_path / "soup")
    a, b, found = (load_file(folder / UNET) for folder in (first, second, tmp_path / "soup"))
    assert found.keys() == a.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, 0.25 * a[key] + 0.75 * b[key], rtol=1e-6, atol=1e-7)
    assert not torch.equal(found["conv_in.weight"], a["conv_in.weight"])
    assert [part["weight"] for part in card.training["merged"]] == [0.25, 0.75]
    assert (card.name, card.method, card.steps, card.licence) == (
        "soup",
        "merge",
        Card.read(first).steps,
        "MIT",
    )
    bundle.verify(tmp_path / "soup")


def test_a_student_with_itself_is_itself_and_draws_the_same_bits(students: tuple[Path, Path], tmp_path: Path) -> None:
    merge([str(students[0])] * 2, tmp_path / "same")
    drawn = [Pipeline.open(folder)(Request(["a red heart"], [3], 4)) for folder in (students[0], tmp_path / "same")]
    assert torch.equal(*drawn)


def test_the_command_says_what_went_in_and_how_much(
    students: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["merge", *map(str, students), "--out", str(tmp_path / "soup"), "--save-dtype", "fp16"])
    assert "50% tiny, 50% other; 1, 2, 4 steps of ancestral" in capsys.readouterr().out
    assert load_file(tmp_path / "soup" / UNET)["conv_in.weight"].dtype == torch.float16
    cli.main(["info", str(tmp_path / "soup")])
    assert "50% tiny (add); 50% other (drifting)" in " ".join(capsys.readouterr().out.split())


def test_no_network_judges_that_any_of_them_was_trained_to_please(students: tuple[Path, Path], tmp_path: Path) -> None:
    """Through a second merger, too."""
    merge(list(map(str, students)), tmp_path / "soup")
    merge([str(tmp_path / "soup"), str(students[0])], tmp_path / "again")
    card = Card.read(tmp_path / "again")
    assert card.discriminators == ("efficientnet-lite0", "mobilenet-v2")
    assert card.styles == ("flat",)
    with pytest.raises(ValueError, match="mobilenet-v2 was the discriminator's network"):
        suite.check_judge(replace(suite.Options(), judge=("mobilenet-v2",)), card)


def test_a_copy_in_half_precision_has_the_same_latents(students: tuple[Path, Path], tmp_path: Path) -> None:
    half = other(students[0], tmp_path / "half")
    save_file({k: v.half() for k, v in load_file(half / VAE).items()}, half / VAE, metadata={"format": "pt"})
    merge([str(students[0]), str(half)], tmp_path / "soup")
    found, own = (load_file(folder / VAE) for folder in (tmp_path / "soup", students[0]))
    assert all(torch.equal(found[key], value) for key, value in own.items())


def test_files_that_are_alike_byte_for_byte_are_not_opened(
    students: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T5 twice in memory would be the dearest part of a mean."""
    monkeypatch.setattr(merging, "stored", lambda part: pytest.fail(f"{part} was read"))
    merge(list(map(str, students)), tmp_path / "soup")
    assert (tmp_path / "soup" / VAE).read_bytes() == (students[1] / VAE).read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{0}"], "takes two students or more"),
        (["{0}=0.5", "{1}"], "other has no weight: give every model one"),
        (["{0}=0.5", "{1}=-1"], "a weight is above 0"),
        (["{0}", "{teacher}"], "is a teacher, which is drawn otherwise"),
        (["{0}", "{times}"], "times 1, 0.75, 0.5, 0.25 and 1, 0.5; give students that are drawn alike"),
        (["{0}", "{sampler}"], "sampler ancestral and renoise"),
        (["{0}", "{vae}"], "the weights of their vae are others; give students of one teacher"),
        (["{0}", "{words}"], "the weights of their text_encoder are others; give students of one teacher"),
        (["{0}", "nowhere"], "there is no bundle 'nowhere'"),
    ],
)
def test_what_cannot_be_averaged_gets_one_sentence_and_nothing_is_written(
    students: tuple[Path, Path], tmp_path: Path, words: list[str], sentence: str
) -> None:
    first, second = students
    made = {
        "teacher": lambda: tiny_bundle(tmp_path / "t", "teacher"),
        "times": lambda: other(first, tmp_path / "times", times=(1.0, 0.5), steps=(1, 2)),
        "sampler": lambda: other(first, tmp_path / "sampler", sampler="renoise"),
        "vae": lambda: other(first, tmp_path / "vae", VAE),
        "words": lambda: tiny_bundle(tmp_path / "w", width=32),
    }
    named = {name: make() for name, make in made.items() if any(name in word for word in words)}
    with pytest.raises(ValueError, match=sentence):
        merge([word.format(first, second, **named) for word in words], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()
