"""Folders as they come: half-precision variants, weights in several files, odd configs, what is read and what is hashed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import foreign
from fewstep import bundle, pretrained
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
