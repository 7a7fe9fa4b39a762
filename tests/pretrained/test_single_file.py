"""One file in the layout that ComfyUI, A1111 and Forge read, out and in, judged by diffusers' own reader of such files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import foreign
from fewstep import bundle, cli, pretrained
from fewstep.pretrained.unpacked import hold_against


def sdxl(root: Path) -> Path:
    """A tiny SDXL with a VAE of the usual kind and, as OpenCLIP's have it, a projection as wide as the encoder."""
    from diffusers import EulerDiscreteScheduler

    torch.manual_seed(0)
    network = foreign.unet(
        24, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 16
    )
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return foreign.write(
        root / "sdxl", "StableDiffusionXLPipeline", vae=foreign.kl_vae(), text_encoder=foreign.clip_encoder(8),
        text_encoder_2=foreign.clip_encoder(16, 16), tokenizer=foreign.clip_tokenizer(root / "w1"),
        tokenizer_2=foreign.clip_tokenizer(root / "w2"), unet=network, scheduler=EulerDiscreteScheduler(**noise),
        add_watermarker=False,
    )  # fmt: skip


MAKE = {"StableDiffusionPipeline": foreign.sd1, "StableDiffusionXLPipeline": sdxl}


@pytest.fixture(scope="module", params=MAKE)
def folder(request, tmp_path_factory):
    return MAKE[request.param](tmp_path_factory.mktemp("single"))


def stored(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """The weights of a part as they are on disk, without the beginning that transformers 5 drops."""
    files = (folder / part).glob("*.safetensors")
    return {n.removeprefix("text_model."): v for file in files for n, v in load_file(file).items()}


def test_diffusers_reads_back_every_weight(folder, tmp_path, capsys):
    import diffusers

    out = tmp_path / "made.safetensors"
    cli.main(["export", str(folder), "--output", str(out)])
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    with pretrained.quiet():
        pipe = getattr(diffusers, kind).from_single_file(str(out), config=str(folder), local_files_only=True)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (folder / part).is_dir():
            wanted = stored(folder, part)
            found = {n.removeprefix("text_model."): v for n, v in getattr(pipe, part).state_dict().items()}
            assert found.keys() >= wanted.keys()
            assert all(torch.equal(found[name], value) for name, value in wanted.items()), part
    assert str(out) in capsys.readouterr().out.replace("\n", "")


def test_sd2_has_its_encoder_as_openclip_keeps_it(tmp_path):
    from diffusers import StableDiffusionPipeline

    folder = foreign.sd1(tmp_path)
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"quick_gelu"', '"gelu"'))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}))
    out = tmp_path / "made.safetensors"
    bundle.export(folder, out)
    names = load_file(out).keys()
    assert {"v_pred", "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"} <= names
    assert "ztsnr" not in names
    with pretrained.quiet():
        pipe = StableDiffusionPipeline.from_single_file(str(out), config=str(folder), local_files_only=True)
    found = {n.removeprefix("text_model."): v for n, v in pipe.text_encoder.state_dict().items()}
    assert all(torch.equal(found[name], value) for name, value in stored(folder, "text_encoder").items())


def change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_what_has_no_place_in_one_file_is_refused_before_a_weight_is_read(tmp_path):
    folder, out = foreign.sd1(tmp_path), tmp_path / "made.safetensors"
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"not to be read")
    change(folder / "scheduler" / "scheduler_config.json", beta_end=0.02)
    with pytest.raises(ValueError, match=r"other noise .*0.02.*use it as a folder"):
        bundle.export(folder, out)
    change(folder / "scheduler" / "scheduler_config.json", beta_end=0.012, prediction_type="sample")
    with pytest.raises(ValueError, match="predicts x0, which no reader"):
        bundle.export(folder, out)
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    with pytest.raises(ValueError, match=r"the vae of .* is AutoencoderTiny, .* place for the class AutoencoderKL"):
        bundle.export(folder, out)
    change(folder / "model_index.json", _class_name="SanaPipeline")
    with pytest.raises(ValueError, match="a SanaPipeline has no layout in a single file"):
        bundle.export(folder, out)
    with pytest.raises(ValueError, match=r"is no \.safetensors file"):
        bundle.export(folder, tmp_path / "made.ckpt")
    assert not out.exists()


@pytest.fixture
def file(folder, tmp_path):
    out = tmp_path / "cat.safetensors"
    bundle.export(folder, out)
    return out


def test_a_file_becomes_the_folder_it_was_made_of(folder, file, tmp_path):
    bare = tmp_path / "configs"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    cli.main(["export", str(file), "--config", str(bare), "--output", str(tmp_path / "cat")])
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (folder / part).is_dir():
            wanted, found = stored(folder, part), stored(tmp_path / "cat", part)
            assert wanted.keys() == found.keys()
            assert all(torch.equal(found[name], value) for name, value in wanted.items()), part
    assert pretrained.load(tmp_path / "cat").native_size == pretrained.native_size(folder)


def test_a_model_option_takes_a_file_where_the_hubs_cache_has_its_configs(folder, file, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match=r"hf download (stab.*xl-base-1.0|.*v1-5) --include .*fewstep export .*--config"):
        bundle.locate(str(file))
    name = pretrained.usual_configs(file).replace("/", "--")
    snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    made = bundle.locate(str(file))
    assert made.name == "cat"
    before = (made / "unet" / "config.json").stat().st_mtime_ns
    assert bundle.locate(file) == made
    assert (made / "unet" / "config.json").stat().st_mtime_ns == before


def test_a_file_that_is_no_whole_model_of_its_configs_is_refused(folder, file, tmp_path):
    whole, out = load_file(file), tmp_path / "out"
    some = {name: value for name, value in whole.items() if "middle_block.1" not in name}
    cases = {
        "lacks|does not fit": some,
        "no text encoder": {n: v for n, v in whole.items() if n.startswith("model.")},
        "no UNet": {n: v for n, v in whole.items() if not n.startswith("model.")},
        "no place for": {**whole, "model.diffusion_model.input_blocks.99.0.weight": torch.zeros(2)},
    }
    for said, weights in cases.items():
        save_file(weights, file)
        with pytest.raises(ValueError, match=said):
            pretrained.unpack(file, folder, out)
        assert not out.exists()
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        pretrained.unpack(file, folder, out)
    with pytest.raises(ValueError, match="a pickle"):
        pretrained.unpack(file.with_suffix(".ckpt"), folder, out)


def test_weights_that_came_out_other_than_they_went_in_are_refused(tmp_path):
    ones, zeros = torch.ones(2), torch.zeros(2)
    hold_against(tmp_path, {"a": ones, "logit_scale": ones}, {"a": ones, "v_pred": zeros}, ones.dtype)
    for made in ({"a": zeros}, {"a": ones, "b": ones}):
        with pytest.raises(ValueError, match=r"lacks 1 weights .*fetch a whole checkpoint"):
            hold_against(tmp_path, {"a": ones}, made, ones.dtype)
    with pytest.raises(ValueError, match="1 weights that its configs have no place for"):
        hold_against(tmp_path, {"a": ones, "first_stage_model.b": ones}, {"a": ones}, ones.dtype)


def test_unpacking_says_one_line(folder, file, tmp_path):
    words = ["export", str(file), "--config", str(folder), "--output", str(tmp_path / "cat")]
    program = [sys.executable, "-c", "from fewstep import cli; cli.main()"]
    done = subprocess.run([*program, *words], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the model is in" in done.stdout
