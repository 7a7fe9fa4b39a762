"""Folders as they come: half-precision variants, weights in several files, odd configs, what is read and what is hashed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import foreign
from fewstep import bundle, cli, pretrained
from fewstep.diffusion.schedule import beta_table
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.recipes import distillation
from fewstep.recipes.distillation import prepare
from fewstep.rng import Rng

BIG = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    foreign.sd1(folder)
    foreign.sd3(folder)
    return folder


def copy(root: Path, target: Path, name: str = "sd1") -> Path:
    shutil.copytree(root / name, target / name)
    return target / name


def x0(folder: Path) -> torch.Tensor:
    model = pretrained.load(folder)
    x, t = Rng.of(0).normal((1, *model.latent_shape)), torch.tensor([0.7])
    with torch.no_grad():
        return model.codec.decode(model.denoiser(x, t, model.conditioner(["a cat"])))


def as_variant(folder: Path, name: str) -> None:
    """Every network's file under a variant's name, and no other."""
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.{name}.safetensors"))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "own"])
def test_a_folder_of_one_variant_alone_is_read(root, tmp_path, variant):
    folder = copy(root, tmp_path)
    wanted = x0(folder)
    as_variant(folder, variant)
    assert torch.equal(x0(folder), wanted)
    hashed = bundle.part_hashes(folder)
    assert set(hashed) == {str(p.relative_to(folder)) for p in folder.glob("*/*.safetensors")}
    assert len(hashed) == 3


def test_the_usual_file_is_read_and_hashed_where_a_variant_stands_beside_it(root, tmp_path):
    folder = copy(root, tmp_path)
    wanted, before = x0(folder), bundle.part_hashes(folder)
    file = folder / "unet" / BIG
    save_file({k: v.half() + 1 for k, v in load_file(file).items()}, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(x0(folder), wanted)
    assert bundle.part_hashes(folder) == before, "what is not read is not hashed"


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_weights_in_several_files_are_read_and_all_hashed(root, tmp_path, variant):
    folder = copy(root, tmp_path)
    wanted = x0(folder)
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / "unet" / BIG).unlink()
    network.save_pretrained(folder / "unet", max_shard_size="20KB", variant=variant or None)
    shards = sorted(p.name for p in (folder / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    torch.testing.assert_close(x0(folder), wanted)
    assert {f"unet/{name}" for name in shards} < set(bundle.part_hashes(folder))
    first = folder / "unet" / shards[0]
    save_file({k: v + 1 for k, v in load_file(first).items()}, first, metadata={"format": "pt"})
    assert (x0(folder) - wanted).abs().max() > 1e-4


def test_a_hubs_name_is_looked_up_in_its_cache_and_nothing_is_fetched(root, tmp_path, monkeypatch):
    """A snapshot is links to files that are named by their contents, in a folder that is named by a commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=r"`hf download me/red-hearts --include"):
        bundle.locate("me/red-hearts")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--me--red-hearts"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    blobs.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(p for p in (root / "sd1").rglob("*") if p.is_file())):
        shutil.copyfile(path, blobs / str(number))
        link = snapshot / path.relative_to(root / "sd1")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    found = bundle.locate("me/red-hearts")
    assert found == snapshot
    with pytest.warns(UserWarning, match="taken for a teacher"):
        assert bundle.card_of(found).name == "red-hearts"
    assert torch.equal(x0(found), x0(root / "sd1"))


def test_a_model_is_called_by_its_run_not_by_the_word_bundle():
    names = {"runs/cat/bundle": "cat", "runs/cat/bundle-ema-0.999": "cat-ema-0.999", "models/own": "own", "bundles": "bundles"}
    assert {place: bundle.name_of(Path(place)) for place in names} == names


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_student_is_stored_as_its_teacher_is(root, tmp_path, dtype):
    folder = copy(root, tmp_path)
    for part in ("unet", "vae"):
        save_file({k: v.to(dtype) for k, v in load_file(folder / part / BIG).items()}, folder / part / BIG)
    assert pretrained.stored_dtype(folder / "unet") == dtype
    foreign.pictures(tmp_path / "own")
    work = prepare(distillation.options(teacher=str(folder), data=str(tmp_path / "own"), steps=0), tmp_path / "run")
    card = work.save(tmp_path / "run" / "bundle", 0)
    assert card.name == "run"
    stored = load_file(tmp_path / "run" / "bundle" / "unet" / BIG)
    assert {v.dtype for v in stored.values()} == {dtype}
    work.save(tmp_path / "run" / "bundle", 0, dtype=torch.float32)
    assert {v.dtype for v in load_file(tmp_path / "run" / "bundle" / "unet" / BIG).values()} == {torch.float32}


def changed(folder: Path, file: str, **changes: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        ("unet/config.json", {"sample_size": None}, r"has no sample_size.*write the side of its latents there"),
        ("vae/config.json", {"latent_channels": 16}, "the VAE keeps 16 channels of latents, the unet draws 4"),
        ("unet/config.json", {"addition_embed_type": "image"}, "more than the time and a text .addition_embed_type 'image'"),
        ("unet/config.json", {"num_class_embeds": 10}, "more than the time and a text .num_class_embeds 10"),
        ("unet/config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "unet is stored quantised .bitsandbytes"),
        ("text_encoder/config.json", {"quantization_config": {"quant_method": "quanto"}}, "stored quantised .quanto"),
    ],
)  # fmt: skip
def test_what_the_configs_tell_is_refused_before_any_weight_is_read(root, tmp_path, monkeypatch, file, changes, sentence):
    folder = changed(copy(root, tmp_path), file, **changes)
    monkeypatch.setattr(pretrained.reading, "load_network", lambda *_, **__: pytest.fail("weights are read"))
    with pytest.raises(ValueError, match=sentence):
        pretrained.load(folder)
    with pytest.raises(ValueError, match=sentence):
        bundle.card_of(folder)


def test_quantised_files_are_refused_by_name(root, tmp_path):
    folder = copy(root, tmp_path)
    (folder / "unet" / BIG).rename(folder / "unet" / "model-Q4_K_M.gguf")
    with pytest.raises(ValueError, match=r"model-Q4_K_M\.gguf is a GGUF file, quantised"):
        pretrained.load(folder)
    with pytest.raises(ValueError, match=r"x\.gguf is a GGUF file, quantised"):
        bundle.locate(tmp_path / "x.gguf")


def test_a_model_is_shown_without_reading_a_weight(root, tmp_path, monkeypatch, capsys):
    """Its files are hashed, and nothing of them is loaded."""
    folder = copy(root, tmp_path)
    monkeypatch.setattr(pretrained.reading, "load_network", lambda *_, **__: pytest.fail("weights are read"))
    cli.main(["info", str(folder)])
    assert "native size 16×16" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("n", [1000, 100])
def test_tables_of_betas_are_diffusers_own(kind, n):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_schedule=kind, beta_start=0.001, beta_end=0.02, num_train_timesteps=n).betas.double()
    torch.testing.assert_close(beta_table(0.001, 0.02, n, kind), theirs, atol=1e-6, rtol=2e-6)  # theirs are single


def test_a_student_of_a_sigmoid_table_is_drawn_by_stock_tools_as_by_fewstep(root, tmp_path):
    folder = changed(copy(root, tmp_path), "scheduler/scheduler_config.json", beta_schedule="sigmoid")
    foreign.pictures(tmp_path / "own")
    work = prepare(distillation.options(teacher=str(folder), data=str(tmp_path / "own"), steps=0), tmp_path / "run")
    work.save(tmp_path / "run" / "bundle", 0)
    wanted = foreign.theirs(foreign.stock(tmp_path / "run" / "bundle"), num_inference_steps=2, guidance_scale=0)
    made = foreign.numpy(Pipeline.open(tmp_path / "run" / "bundle")(Request(foreign.ASKED, foreign.SEEDS, 2)))
    np.testing.assert_allclose(made, wanted, atol=2e-3)


def test_an_encoder_without_a_pooler_gives_the_mean_of_its_tokens(root):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 600}
    encoder = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    cond = pretrained.TextConditioner(pretrained.load(root / "sd1").conditioner.tokenizer, encoder)(["a cat"])
    assert cond.pooled.shape == (1, 8)
    assert torch.isfinite(cond.pooled).all()


def test_a_thin_student_is_refused_where_nothing_could_complete_it(root, tmp_path):
    """Before anything is trained: the teacher's text encoder is its own, and no package has it."""
    foreign.pictures(tmp_path / "own")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", "--teacher", str(root / "sd1"), "--data", str(tmp_path / "own"), "--thin", "--steps", "0",
                  "--out", str(tmp_path / "run")])  # fmt: skip
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"sd1 has one of its own: leave out --thin"):
        bundle.check_thin(root / "sd1")
    bundle.check_thin(bundle.locate("emoji-64-teacher"))
