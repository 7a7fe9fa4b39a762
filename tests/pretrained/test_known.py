"""Few-step models of others: recognised by configs and name, given a card, drawn as the stock pipeline draws them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import foreign
import known_table
from fewstep import adoption, bundle, cli, pretrained
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.pretrained import trainable
from foreign import ASKED, SEEDS, numpy, theirs

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS: dict[str, Any] = {
    "turbo": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "sample": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", "prediction_type": "sample"}),
    "leading": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "lcm": ("LCMScheduler", {"original_inference_steps": 50}),
    "tcd": ("TCDScheduler", {"original_inference_steps": 50}),
    "ddim": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny stock folders: Stable Diffusion, SDXL, and one whose UNet is told the guidance."""
    root = tmp_path_factory.mktemp("bases")
    made = {"sd1": foreign.sd1(root), "sdxl": foreign.sdxl(root), "told": root / "told"}
    shutil.copytree(made["sd1"], made["told"])
    shutil.rmtree(made["told"] / "unet")
    torch.manual_seed(0)
    network = foreign.unet(8, time_cond_proj_dim=6)
    torch.nn.init.normal_(network.time_embedding.cond_proj.weight)  # large enough to be seen
    network.save_pretrained(made["told"] / "unet")
    return made


def few(base: Path, folder: Path, scheduler: str, **index: Any) -> Path:
    """A copy of a base with another name and another scheduler."""
    shutil.copytree(base, folder)
    kind, options = SCHEDULERS[scheduler]
    shutil.rmtree(folder / "scheduler")
    getattr(diffusers, kind)(**BETAS, **options).save_pretrained(folder / "scheduler")
    facts = json.loads((folder / "model_index.json").read_text())
    facts |= {"scheduler": ["diffusers", kind], **index}
    (folder / "model_index.json").write_text(json.dumps(facts))
    return folder


DRAWN = [
    ("sdxl", "sdxl-turbo", "turbo", "SDXL-Turbo", (1, 2, 3, 4), "ancestral", {}),
    ("sd1", "sd-turbo", "euler", "SD-Turbo", (1, 2, 3, 4), "ddim", {}),
    ("sdxl", "SDXL-Lightning-4step", "euler", "SDXL-Lightning", (4,), "ddim", {}),
    ("sdxl", "sdxl_lightning_1step", "sample", "SDXL-Lightning", (1,), "ddim", {}),
    ("told", "LCM_Dreamshaper_v7", "lcm", "a latent consistency model (LCM)", (1, 2, 4, 8), "renoise", {"guidance_scale": 8.0}),
    ("sd1", "dreamshaper-lcm", "lcm", "a model with LCM-LoRA merged in", (2, 4, 8), "renoise", {}),
    ("sdxl", "sdxl-dmd2", "lcm", "DMD2", (4,), "renoise", {"timesteps": [999, 749, 499, 249]}),
    ("sdxl", "sdxl-tcd", "tcd", "a model with TCD-LoRA merged in", (2, 4, 8), "ddim", {"eta": 0.0}),
    ("sd1", "Hyper-SD15-8steps", "ddim", "Hyper-SD", (8,), "ddim", {}),
]  # fmt: skip


@pytest.mark.parametrize(("base", "name", "scheduler", "title", "steps", "sampler", "call"), DRAWN)
def test_a_known_model_is_drawn_as_its_stock_pipeline_draws_it(
    bases, tmp_path, base, name, scheduler, title, steps, sampler, call
):
    """Without a word about it: from the folder alone, at every step count that its card promises, from the same noises."""
    folder = few(bases[base], tmp_path / name, scheduler)
    with pytest.warns(UserWarning, match="is recognised as"):
        pipeline = Pipeline.open(folder)
    card = pipeline.card
    assert (card.role, card.steps, card.sampler) == ("student", steps, sampler)
    assert card.recognised.startswith(f"{title}, by ")
    kind = diffusers.StableDiffusionXLPipeline if base == "sdxl" else diffusers.StableDiffusionPipeline
    more = {"add_watermarker": False} if base == "sdxl" else {}
    with pretrained.quiet():
        pipe = kind.from_pretrained(folder, **more)
    pipe.set_progress_bar_config(disable=True)
    for n in steps:
        wanted = theirs(pipe, **{"num_inference_steps": n, "guidance_scale": 0.0, **call})
        assert wanted.std() > 0.01
        made = numpy(pipeline(Request(ASKED, SEEDS, n)))
        # stock TCDScheduler ends at timestep 0, with .03 of noise left in; fewstep ends clean
        np.testing.assert_allclose(made, wanted, atol=2e-2 if scheduler == "tcd" else 2e-3, err_msg=f"{n} steps")


def test_a_network_that_is_told_the_guidance_is_told_it(bases, tmp_path):
    """In stock LatentConsistencyModelPipeline's words; another scale is another picture."""
    folder = few(bases["told"], tmp_path / "any", "lcm", _class_name="LatentConsistencyModelPipeline")
    with pytest.warns(UserWarning, match="is recognised as"):
        pipeline = Pipeline.open(folder)
    with pretrained.quiet():
        pipe = diffusers.LatentConsistencyModelPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    eight, two = (theirs(pipe, num_inference_steps=4, guidance_scale=scale) for scale in (8.0, 2.0))
    made = numpy(pipeline(Request(ASKED, SEEDS, 4)))
    np.testing.assert_allclose(made, eight, atol=2e-3)
    assert np.abs(eight - two).max() > 0.01


@pytest.mark.parametrize(
    ("base", "name", "scheduler"),
    [
        ("sdxl", "sdxl-turbo", "leading"),  # a name against the config
        ("sdxl", "sdxl", "turbo"),  # a config that a student of anybody's has, and no name
        ("sd1", "sdxl-turbo", "turbo"),
        ("sdxl", "sdxl-turbo-anime-finetune", "turbo"),
        ("sdxl", "sdxl-lightning", "euler"),  # for how many steps, nothing says
        ("sd1", "lcm-studies", "leading"),
        ("sdxl", "Hyper-SDXL-1step-Unet", "ddim"),  # starts at timestep 800
    ],
)
def test_what_is_not_surely_known_is_a_teacher_with_a_hint(bases, tmp_path, base, name, scheduler):
    folder = few(bases[base], tmp_path / name, scheduler)
    assert pretrained.recognise(folder) is None
    with pytest.warns(UserWarning, match="taken for a teacher.*fewstep adopt"):
        assert bundle.card_of(folder).role == "teacher"


def test_names_are_read_where_they_stand(bases, tmp_path):
    snapshot = tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / "71153311d3dbb46851df1931d3ca6e939de83304"
    few(bases["sdxl"], snapshot, "turbo")
    told = few(bases["sdxl"], tmp_path / "a", "turbo", _name_or_path="stabilityai/sdxl-turbo")
    titled = few(bases["sdxl"], tmp_path / "b", "turbo")
    (titled / "README.md").write_text("---\nlicense: mit\n---\n\n# SDXL-Turbo Model Card\n")
    for folder, place in ((snapshot, "its name on the hub"), (told, "model_index.json"), (titled, "title of its page")):
        found = pretrained.recognise(folder)
        assert found is not None
        assert (found.model.key, place in found.reason) == ("sdxl-turbo", True)


def test_two_that_fit_are_an_error(bases, tmp_path):
    folder = few(bases["sdxl"], tmp_path / "sdxl-dmd2-lcm", "lcm")
    with pytest.raises(ValueError, match=r"may be .* or DMD2: say which with `fewstep adopt"):
        bundle.card_of(folder)


def index_of(folder: Path, index: dict[str, Any], transformer: dict[str, Any], scheduler: dict[str, Any]) -> Path:
    """A folder of nothing but configs."""
    for part, config in (("transformer", transformer), ("scheduler", scheduler)):
        (folder / part).mkdir(parents=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(config))
    kind = scheduler["_class_name"]
    (folder / "model_index.json").write_text(
        json.dumps({"scheduler": ["diffusers", kind], "transformer": ["diffusers", "T"], **index})
    )
    return folder


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


@pytest.mark.parametrize(
    ("name", "index", "transformer", "scheduler", "key"),
    [
        ("FLUX.1-schnell", {"_class_name": "FluxPipeline"}, {"guidance_embeds": False}, FLOW, "schnell"),
        ("FLUX.1-schnell", {"_class_name": "FluxPipeline"}, {"guidance_embeds": True}, FLOW, None),
        ("FLUX.1-dev", {"_class_name": "FluxPipeline"}, {"guidance_embeds": False}, FLOW, None),
        ("x", {"_class_name": "SanaSprintPipeline"}, {}, {"_class_name": "SCMScheduler"}, "sana-sprint"),
        ("Z-Image-Turbo", {"_class_name": "ZImagePipeline"}, {}, FLOW, "z-image-turbo"),
        ("Z-Image", {"_class_name": "ZImagePipeline"}, {}, FLOW, None),
        ("x", {"_class_name": "Flux2KleinPipeline", "is_distilled": True}, {}, FLOW, "klein"),
        ("FLUX.2-klein-base-4B", {"_class_name": "Flux2KleinPipeline", "is_distilled": False}, {}, FLOW, None),
    ],
)
def test_transformers_are_known_by_their_configs(tmp_path, name, index, transformer, scheduler, key):
    found = pretrained.recognise(index_of(tmp_path / name, index, transformer, scheduler))
    assert (found and found.model.key) == key


def test_the_times_are_lcm_schedulers():
    for n in range(1, 9):
        scheduler = diffusers.LCMScheduler(original_inference_steps=50)
        scheduler.set_timesteps(n)
        assert [round(1000 * t) - 1 for t in pretrained.consistency_times(n)] == scheduler.timesteps.tolist()


def test_a_fewstep_bundle_is_never_asked(bases, tmp_path):
    """Its own card counts."""
    folder = few(bases["sdxl"], tmp_path / "sdxl-turbo", "turbo")
    bundle.teacher_card(folder, (16, 16)).write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bundle.card_of(folder).role == "teacher"


def test_the_page_of_few_step_models_is_the_tables():
    page = Path(__file__).parents[2] / "docs" / "few_step_models.md"
    assert page.read_text("utf-8") == known_table.page(), "python tests/known_table.py > docs/few_step_models.md"


# fewstep adopt


def test_a_card_is_kept_beside_the_folder_and_counts(bases, tmp_path, capsys):
    """Nothing is written into the folder; `info` and drawing know the card, without a word of recognition."""
    folder = few(bases["sdxl"], tmp_path / "mine", "euler")
    before = sorted(folder.rglob("*"))
    cli.main(["adopt", str(folder), "--as", "lightning", "--steps", "2", "--licence", "openrail++"])
    assert sorted(folder.rglob("*")) == before
    assert (tmp_path / "mine.student_card.json").is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline = Pipeline.open(folder)
    assert (pipeline.card.role, pipeline.card.steps, pipeline.card.licence) == ("student", (2,), "openrail++")
    assert pipeline.times(2) == (1.0, 0.5)
    cli.main(["info", str(folder)])
    assert "recognised as SDXL-Lightning, by your word" in " ".join(capsys.readouterr().out.split())
    next(folder.glob("unet/*.safetensors")).write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the file its card describes"):
        bundle.verify(folder)


def test_a_hubs_snapshot_has_its_card_in_the_cache(bases, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    folder = few(bases["sdxl"], tmp_path / "models--a--b" / "snapshots" / "abc", "turbo")
    card, path = adoption.adopt(folder, steps=(2, 1))
    assert path.parent == tmp_path / "cache" / "cards"
    assert (card.steps, card.sampler, card.unit_start) == ((1, 2), "ancestral", False)
    assert bundle.card_of(folder) == card


def test_what_is_told_overrides_what_is_recognised(bases, tmp_path):
    folder = few(bases["told"], tmp_path / "own", "lcm")
    card, _ = adoption.adopt(folder, steps=(4,), guidance_scale=3.0)
    assert (card.steps, card.embedded_guidance, card.method) == ((4,), 3.0, "lcm")
    assert adoption.adopt(folder, "teacher")[0].role == "teacher"
    assert bundle.card_of(folder).role == "teacher"
    with pytest.warns(UserWarning, match="do not say an SDXL UNet and LCMScheduler: adopted on your word"):
        assert adoption.adopt(few(bases["sdxl"], tmp_path / "x", "leading"), "dmd2")[0].steps == (4,)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "for how many steps .* is not known: give --steps, or --as with one of sdxl-turbo"),
        ({"key": "lightning"}, "for how many steps"),
        ({"key": "sdxl"}, "there is no few-step model 'sdxl'"),
        ({"steps": (0,)}, "has 1 to 16 steps, not 0"),
        ({"steps": (2,), "guidance_scale": 3.0}, "this one is told none"),
        ({"key": "teacher", "steps": (2,)}, "a teacher is drawn in any number of steps"),
    ],
)
@pytest.mark.filterwarnings("ignore:the configs of")
def test_what_cannot_be_adopted_is_refused(bases, asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        adoption.adopt(bases["sdxl"], **asked)


# LoRAs


def lora_file(base: Path, folder: Path) -> Path:
    """A LoRA for a base's UNet, of random weights large enough to be seen."""
    with pytest.warns(UserWarning, match="taken for a teacher"):
        network = Pipeline.open(base).model.denoiser.network
    trainable.add_lora(network, 2)
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    trainable.save_lora(network, "unet", folder)
    return folder / trainable.LORA_FILE


@pytest.mark.parametrize(
    ("base", "key", "steps", "scheduler"),
    [("sd1", "lcm-lora", 4, "LCMScheduler"), ("sdxl", "lightning", 2, "EulerDiscreteScheduler")],
)
def test_a_lora_is_merged_into_a_bundle(bases, tmp_path, capsys, base, key, steps, scheduler):
    """It is drawn as stock diffusers draws the base with the LoRA on top, and by stock diffusers as it stands."""
    file, out = lora_file(bases[base], tmp_path / "lora"), tmp_path / "out"
    cli.main(["adopt", str(bases[base]), "--as", key, "--steps", str(steps), "--lora", str(file), "--lora-weight", ".5",
              "--licence", "mit", "--out", str(out)])  # fmt: skip
    assert "LoRA: mit" in " ".join(capsys.readouterr().out.split())
    kind = diffusers.StableDiffusionXLPipeline if base == "sdxl" else diffusers.StableDiffusionPipeline
    more = {"add_watermarker": False} if base == "sdxl" else {}
    with pretrained.quiet():
        pipe, alone = kind.from_pretrained(bases[base], **more), kind.from_pretrained(out, **more)
        spaced = {"timestep_spacing": "trailing"} if key == "lightning" else {}
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **spaced)
        bare = theirs(pipe, num_inference_steps=steps, guidance_scale=0)
        pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="it")
        pipe.set_adapters(["it"], [0.5])
    wanted = theirs(pipe, num_inference_steps=steps, guidance_scale=0)
    assert np.abs(wanted - bare).max() > 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline = Pipeline.open(out)
    bundle.verify(out)
    np.testing.assert_allclose(theirs(alone, num_inference_steps=steps, guidance_scale=0), wanted, atol=2e-3)
    np.testing.assert_allclose(numpy(pipeline(Request(ASKED, SEEDS, steps))), wanted, atol=2e-3)


def test_a_lora_that_does_not_fit_is_refused(bases, tmp_path):
    file = lora_file(bases["sd1"], tmp_path / "lora")
    with pytest.raises(ValueError, match=r"give another|made for it"):
        adoption.merge(bases["sdxl"], file, tmp_path / "out", "lcm-lora")
    with pytest.raises(ValueError, match="give --as"):
        adoption.merge(bases["sdxl"], file, tmp_path / "out", "")
    with pytest.raises(ValueError, match="a bundle cannot promise it"):
        adoption.merge(bases["sdxl"], file, tmp_path / "out", "dmd2")
    assert not (tmp_path / "out").exists()
