"""The door between the two arms: what we save is what stock diffusers loads, and both draw the same picture."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bundles import tiny_bundle
from fewstep import bundle, pretrained
from fewstep.bundle import Card
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.pretrained.families import sd
from fewstep.recipes import emoji
from fewstep.rng import Rng


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("teacher"), "teacher")


def stock(folder: Path, **options) -> np.ndarray:
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(s) for s in (3, 4)]
    return pipe(["a red heart", "a blue house"], generator=generator, output_type="np", **options).images


def ours(folder: Path, steps: int, **options) -> np.ndarray:
    media = Pipeline.open(folder)(Request(["a red heart", "a blue house"], [3, 4], steps, **options))
    return (media.permute(0, 2, 3, 1).numpy() + 1) / 2


def test_stock_diffusers_draws_the_same_one_step_picture(student):
    theirs = stock(student, num_inference_steps=1, guidance_scale=0)
    assert theirs.shape == (2, 16, 16, 3)
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours(student, 1), theirs, atol=2e-3)  # their sigma of 4096 costs three digits


def test_stock_diffusers_draws_the_same_teacher_picture(teacher):
    theirs = stock(teacher, num_inference_steps=5, guidance_scale=3.0)
    np.testing.assert_allclose(ours(teacher, 5), theirs, atol=1e-4)
    assert np.abs(ours(teacher, 5, guidance_scale=1.0) - theirs).max() > 1e-3


def test_stock_loads_in_four_steps_with_trailing_times(student):
    from diffusers import AutoPipelineForText2Image

    pipe = AutoPipelineForText2Image.from_pretrained(student)
    pipe.scheduler.set_timesteps(4)
    assert pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert pipe.scheduler.config.prediction_type == "v_prediction"


def test_a_picture_does_not_depend_on_its_batch(student):
    pipeline = Pipeline.open(student)
    alone = pipeline.draw("a blue house", 4, seed=4)
    together = pipeline.draw(["a red heart", "a blue house"], 4, seed=[3, 4])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("strength", "steps", "times"), [(1.0, 4, [1, 0.75, 0.5, 0.25]), (0.5, 4, [0.5, 0.25]), (0.3, 1, [0.25]), (0.01, 2, [0.25])]
)
def test_image_to_image_starts_at_the_nearest_of_the_students_times(student, strength, steps, times):
    pipeline = Pipeline.open(student)
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        x_t, left, clean = pipeline.start(Request(["a cat"], [0], steps, image=picture, strength=strength), Rng.per_sample([0]))
        x0, noise = pipeline.model.codec.encode(picture), Rng.per_sample([0]).normal((1, 4, 8, 8))
    torch.testing.assert_close(clean, x0)
    assert list(left) == times  # "steps x strength < 1" cannot happen: there is always a time left
    schedule, t = pipeline.model.denoiser.schedule, torch.tensor([times[0]], dtype=torch.float64)
    torch.testing.assert_close(x_t, (schedule.alpha(t) * x0 + schedule.sigma(t) * noise).float())


@pytest.mark.parametrize("kind", ["ddim", "heun"])
@pytest.mark.parametrize("image", [None, torch.zeros(1, 3, 16, 16)], ids=["noise", "image"])
def test_what_a_picture_costs_and_which_times_it_visits(teacher, kind, image):
    """Counted at the network: two evaluations a step for Heun's rule but for the last step, twice that under guidance."""
    pipeline, visited = Pipeline.open(teacher), []
    pipeline.card = replace(pipeline.card, sampler=kind)
    network = pipeline.denoise
    pipeline.denoise = lambda x, t, cond: visited.extend(t.tolist()) or network(x, t, cond)
    request = Request(["a red heart"], [3], 5, guidance_scale=3.0, image=image, strength=0.5)
    pipeline(request)
    assert len(visited) == pipeline.evaluations(request)
    told = pipeline.times(5) if image is None else pipeline.times_from(5, 0.5)
    assert sorted(set(visited), reverse=True) == pytest.approx(told)
    assert len(visited) == 2 * (2 * len(told) - 1 if kind == "heun" else len(told))
    assert (min(visited) < 0.05) == (kind == "heun"), "Heun's last jump is a short one"


def test_heun_is_a_teachers(student):
    with pytest.raises(ValueError, match=r"knows only 1, 0\.75, 0\.5, 0\.25: draw it with ancestral, renoise or ddim"):
        Pipeline.open(student).draw("a blue house", 2, sampler="heun")


def test_strength_zero_is_refused(student):
    pipeline, start = Pipeline.open(student), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="strength 0 is out of range"):
        pipeline(Request(["a cat"], [0], 1, image=start, strength=0))


def test_card_survives_the_disk_and_hashes_tell_tampering(student, tmp_path):
    card = Card.read(student)
    assert card.steps == (1, 2, 4)
    networks = {f"{p}/diffusion_pytorch_model.safetensors" for p in ("unet", "vae")}
    assert set(card.hashes) == networks | {"text_encoder/model.safetensors"}
    bundle.verify(student)
    copy = tmp_path / "copy"
    shutil.copytree(student, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is not the file its card describes"):
        bundle.verify(copy)


@pytest.mark.parametrize("steps", [0, 3, 5, -1])
def test_steps_outside_the_card_are_refused_by_name(student, steps):
    with pytest.raises(ValueError, match=r"1, 2, 4 steps"):
        Pipeline.open(student).draw("a cat", steps)


def test_guidance_and_size_misuse_warn_with_the_right_values(student):
    card = Card.read(student)
    with pytest.warns(UserWarning, match="use guidance_scale=0, not 7.5"):
        card.check_use(1, 7.5)
    with pytest.warns(UserWarning, match="16x16, not 512x512"):
        card.check_use(1, size=(512, 512))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card.check_use(1, 0.0, (16, 16))


def broken(source: Path, target: Path, name: str, change) -> Path:
    shutil.copytree(source, target)
    path = target / name
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return target


def test_unknown_prediction_type_is_named(student, tmp_path):
    folder = broken(student, tmp_path / "b", "scheduler/scheduler_config.json", lambda c: c.update(prediction_type="magic"))
    with pytest.raises(ValueError, match=r"unknown prediction_type 'magic'.*epsilon"):
        pretrained.load(folder)


def test_a_text_encoder_of_the_wrong_width_is_named(tmp_path):
    folder = tiny_bundle(tmp_path, width=16)
    other = tiny_bundle(tmp_path / "other", width=16)
    shutil.rmtree(folder / "text_encoder")
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=14, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
              ).save_pretrained(folder / "text_encoder")  # fmt: skip
    with pytest.raises(ValueError, match="gives 24 numbers a token, the UNet takes 16"):
        pretrained.load(folder)
    assert pretrained.load(other).latent_shape == (4, 8, 8)


def test_pickled_weights_are_refused(student, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(student, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), folder / "unet" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"is a pickle.*safe_serialization=True"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request(["x" * 100_000], [0]), "100,000 characters is too long"),
        (Request(["a"], [2**70]), "out of range: use a whole number from 0"),
        (Request(["a"], [-1]), "out of range"),
        (Request(["a", "b"], [0]), "as many seeds as prompts"),
        (Request(["a"], [0], sampler="magic"), "unknown sampler 'magic'"),
    ],
)
def test_bad_requests_get_one_sentence(student, request_, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pipeline.open(student)(request_)


def test_a_missing_bundle_lists_what_there_is():
    with pytest.raises(ValueError, match="there is no bundle 'nothing'"):
        bundle.locate("nothing")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("adapter_config.json", "a folder with a LoRA, which is a part of a model"),
        ("pytorch_lora_weights.safetensors", "--lora FILE"),
        ("dataset.json", "'{}', a dataset: give a folder with model_index.json"),
        ("bundle/model_index.json", "a run (its model is {}/bundle)"),
        ("cat.png", "a folder without a model"),
    ],
)
def test_a_folder_that_is_no_model_is_called_what_it_is(tmp_path: Path, file: str, said: str) -> None:
    (tmp_path / "it" / file).parent.mkdir(parents=True)
    (tmp_path / "it" / file).touch()
    with pytest.raises(ValueError, match=re.escape(said.format(tmp_path / "it"))):
        bundle.locate(tmp_path / "it")


def test_a_lora_in_one_file_is_called_one(tmp_path: Path) -> None:
    save_file({"unet.up.lora_A.weight": torch.zeros(1)}, tmp_path / "cat.safetensors")
    with pytest.raises(ValueError, match=r"cat\.safetensors is a LoRA, which is a part of a model: `fewstep adopt"):
        bundle.locate(tmp_path / "cat.safetensors")


@pytest.mark.parametrize(("value", "dtype"), [(math.nan, torch.float32), (-math.inf, torch.bfloat16), (1e5, torch.float16)])
def test_a_model_that_is_no_number_as_it_is_saved_is_refused(student, tmp_path, value, dtype):
    """1e5 is one in fp32, and infinity in fp16."""
    model = pretrained.load(student)
    network = model.denoiser.network
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = value
    scheduler = sd.FAMILY.scheduler("student", {"prediction_type": "v_prediction", **emoji.BETAS})
    with pytest.raises(ValueError, match="unet holds NaN or infinity in torch"):
        bundle.save(tmp_path / "b", Card.read(student), family=sd.FAMILY, network=network, vae=model.codec.vae,
                    scheduler=scheduler, dtype=dtype)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_an_interrupted_save_leaves_the_old_bundle(student, tmp_path, monkeypatch):
    folder = tiny_bundle(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(bundle, "file_hash", fail)
    model = pretrained.load(folder)
    with pytest.raises(OSError, match="No space"):
        bundle.save(folder, Card.read(folder), family=sd.FAMILY, network=model.denoiser.network, vae=model.codec.vae,
                    scheduler=sd.FAMILY.scheduler("student", {"prediction_type": "v_prediction"}))  # fmt: skip
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_finished_model_is_readable_by_others_too(student):
    for path in (student, *student.rglob("*")):
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_a_thin_bundle_is_completed_anew_when_its_card_changes(student, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text"
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(student / part, text / part)
    monkeypatch.setattr(pretrained, "sentence_encoder_folder", lambda cache: text)
    thin = tmp_path / "thin"
    shutil.copytree(student, thin, ignore=shutil.ignore_patterns("tokenizer", "text_encoder"))
    card = replace(Card.read(thin), text_encoder="sentence", guidance_scale=3.0)
    card.write(thin)
    first = bundle.locate(thin)
    assert bundle.locate(thin) == first
    replace(card, guidance_scale=1.5).write(thin)
    assert Card.read(bundle.locate(thin)).guidance_scale == 1.5
    assert Card.read(first).guidance_scale == 3.0


def test_a_saved_model_does_not_say_where_it_was_read_from(student, tmp_path):
    model = pretrained.load(student)
    card = replace(Card.read(student), name="again")
    scheduler = sd.FAMILY.scheduler("student", {"prediction_type": "v_prediction"})
    parts = {"network": model.denoiser.network, "vae": model.codec.vae, "scheduler": scheduler}
    bundle.save(tmp_path / "again", card, family=sd.FAMILY, **parts)
    for path in (tmp_path / "again").rglob("*.json"):
        assert str(student) not in path.read_text(), path
