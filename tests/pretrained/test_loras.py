"""LoRAs on the teacher: merged as stock diffusers fuses them, part of the run's key, of the card and of the licence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import foreign
from fewstep import pretrained
from fewstep.methods import add
from fewstep.parts import discriminator
from fewstep.pretrained import loras, trainable
from fewstep.recipes import distillation
from fewstep.recipes.distillation import WarmStart, prepare


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return foreign.sd1(tmp_path_factory.mktemp("lora"))


def lora(teacher: Path, folder: Path, seed: int, **metadata: str) -> Path:
    """A LoRA for the teacher with random weights, as diffusers writes one."""
    network = pretrained.load(teacher).denoiser.network
    trainable.add_lora(network, 2, seed)
    torch.manual_seed(seed)
    weights = {n: 0.3 * torch.randn_like(v) for n, v in trainable.lora_weights(network, "unet").items()}
    file = folder / f"style{seed}.safetensors"
    save_file(weights, file, metadata={"format": "pt", **metadata})
    return file


def kohya(file: Path) -> Path:
    """The same in kohya's names, with an alpha of half its rank: it is half as strong."""
    made = {}
    for name, value in load_file(file).items():
        start, which = name.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        start = "lora_unet_" + start.replace(".", "_")
        made[f"{start}.{'lora_down' if which == 'lora_A' else 'lora_up'}.weight"] = value
        made[f"{start}.alpha"] = torch.tensor(1.0)
    save_file(made, out := file.with_name(f"kohya_{file.name}"))
    return out


def test_several_are_merged_as_stock_diffusers_fuses_them(teacher, tmp_path):
    from diffusers import StableDiffusionPipeline

    first, second = lora(teacher, tmp_path, 1), lora(teacher, tmp_path, 2)
    model = pretrained.load(teacher)
    own = {n: v.clone() for n, v in model.denoiser.network.state_dict().items()}
    loras.merge(model.denoiser.network, model.family, (f"{first}:0.8", str(second)))
    found = model.denoiser.network.state_dict()
    with pretrained.quiet():
        pipe = StableDiffusionPipeline.from_pretrained(teacher, local_files_only=True)
        for file, weight in ((first, 0.8), (second, 1.0)):
            pipe.load_lora_weights(str(file), adapter_name=file.stem)
            pipe.fuse_lora(lora_scale=weight, adapter_names=[file.stem])
            pipe.unload_lora_weights()
    assert found.keys() == own.keys()
    for name, value in pipe.unet.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert max((found[n] - v).abs().max() for n, v in own.items()) > 0.1


def test_kohyas_alpha_counts(teacher, tmp_path):
    plain = lora(teacher, tmp_path, 1)
    model, other = pretrained.load(teacher), pretrained.load(teacher)
    loras.merge(model.denoiser.network, model.family, (f"{plain}:0.5",))
    loras.merge(other.denoiser.network, other.family, (str(kohya(plain)),))
    for name, value in other.denoiser.network.state_dict().items():
        torch.testing.assert_close(model.denoiser.network.state_dict()[name], value, rtol=0, atol=1e-6)


def test_a_run_is_held_against_it_and_the_card_names_it(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    foreign.pictures(tmp_path / "own")
    file = lora(teacher, tmp_path, 3, **{"modelspec.license": "cc-by-nc-4.0"})
    given = {
        "teacher": str(teacher), "data": str(tmp_path / "own"), "steps": 1, "batch_size": 8,
        "warm": WarmStart(steps=0), "heads": discriminator.Options(width=8), "add": add.Options(adversarial_weight=0.0),
    }  # fmt: skip
    run = prepare(distillation.options(**given, teacher_lora=(f"{file}:0.5",)), tmp_path / "out")
    plain = pretrained.load(teacher).denoiser.network.state_dict()
    assert any(not torch.equal(plain[n], v) for n, v in run.model.denoiser.network.state_dict().items())
    for name, value in run.student.denoiser.network.state_dict().items():
        assert torch.equal(value, run.model.denoiser.network.state_dict()[name])
    assert run.card(0).teacher == "sd1 + style3:0.5"
    assert run.card(0).licence == "style3:0.5: cc-by-nc-4.0"
    assert loras.contents([f"{file}:0.5"]) != loras.contents([str(file)])
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(ValueError, match=r"--teacher-lora .* may not be used commercially"):
        prepare(distillation.options(**given, teacher_lora=(str(file),), require_commercial=True), tmp_path / "out")


def test_what_is_no_lora_of_this_teacher_is_refused_before_any_work(teacher, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 8), "unet.nowhere.lora_B.weight": torch.zeros(8, 2)}, other)
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    model = pretrained.load(teacher)
    with pytest.raises(ValueError, match="does not fit this unet"):
        loras.merge(model.denoiser.network, model.family, (str(other),))
    for word, said in {"plain.safetensors": "holds no LoRA", "none.safetensors": "give FILE or", "x:inf": "no weight"}.items():
        with pytest.raises(ValueError, match=said):
            loras.loras_of([str(tmp_path / word)])
