"""Somebody's own model: a stock folder comes in, is distilled, and what is saved is what stock diffusers draws with."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import foreign
from elsewhere import elsewhere
from fewstep import bundle, cli, pretrained
from fewstep.bundle import Card
from fewstep.evaluation.diversity import pairwise_distance
from fewstep.evaluation.progress import measure_with
from fewstep.evaluation.record import read_records
from fewstep.inference import backend as backends
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.methods import add
from fewstep.modality.image import to_pil
from fewstep.parts import discriminator
from fewstep.parts.conditioner import UnreadWarning
from fewstep.parts.denoiser import freeze
from fewstep.parts.features.dinov2 import DinoFeatures
from fewstep.parts.features.efficientnet import ImageNetFeatures
from fewstep.parts.features.feature import Standardised
from fewstep.pretrained import trainable
from fewstep.recipes import assembly, distillation
from fewstep.recipes.distillation import Distillation, WarmStart, prepare
from fewstep.rng import Rng
from fewstep.server import app
from fewstep.server.drawing import safety
from fewstep.tensors import Conditioning
from fewstep.training.log import Stopped
from fewstep.training.recipe import run_phases
from fewstep.training.run import Saving
from fewstep.training.trainer import Trainer
from foreign import ASKED as PROMPTS
from foreign import SEEDS, numpy, stock, theirs
from helpers import Eyes

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three teachers and a dataset, and a cache of their own."""
    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(folder / "cache"))
        for make in (foreign.sd1, foreign.sdxl, foreign.sd3):
            make(folder)
        foreign.pictures(folder / "own")
        yield folder


def options(root: Path, teacher: str, **changes: Any) -> distillation.Options:
    rate = 0.1 if changes.get("student") == "lora" else 0.02  # two steps have to show
    fixed = {
        "teacher": str(root / teacher), "data": str(root / "own"), "steps": 2, "batch_size": 8, "ema": 0.5,
        "student_learning_rate": rate, "warm": WarmStart(steps=0), "heads": discriminator.Options(width=8),
    }  # fmt: skip
    return distillation.options(**(fixed | changes))


def distil(root: Path, out: Path, teacher: str, **changes: Any) -> tuple[Distillation, Path]:
    work = prepare(options(root, teacher, **changes), out)
    run_phases(work.phases, Saving(out), lambda phase, trainer, log: _moved(log))
    work.save(out / "bundle", work.options.steps)
    return work, out / "bundle"


def _moved(log: Any) -> None:
    assert not log.skipped


@pytest.fixture(scope="module")
def students(root: Path) -> dict[str, tuple[Distillation, Path]]:
    """One student of each teacher and of each kind."""
    return {
        "sd1-full": distil(root, root / "full", "sd1", warm=WarmStart(steps=1, pairs=8, teacher_steps=2, batch_size=8)),
        "sd1-lora": distil(root, root / "lora", "sd1", student="lora", rank=2, features="teacher"),
        "sd1-freeze": distil(root, root / "freeze", "sd1", student="freeze", features="teacher"),
        "sdxl-lora": distil(root, root / "lora-xl", "sdxl", student="lora", rank=2, precision="bf16", checkpointing=True),
        "sd3-lora": distil(root, root / "lora-3", "sd3", student="lora", rank=2, features="teacher"),
    }


def ours(pipeline: Pipeline, steps: int, **request: Any) -> np.ndarray:
    return numpy(pipeline(Request(PROMPTS, SEEDS, steps, **request)))


def opened(root: Path, teacher: str) -> Pipeline:
    with pytest.warns(UserWarning, match=r"has no student_card.json: taken for a teacher"):
        return Pipeline.open(root / teacher)


# the teacher, as it comes


@pytest.mark.parametrize("teacher", ["sd1", "sdxl"])
def test_a_teacher_draws_what_stock_diffusers_draws(root, teacher):
    """Both text encoders, SDXL's sizes and its zeros for the empty prompt are in this. Euler's steps are DDIM's."""
    from diffusers import EulerDiscreteScheduler

    pipe = stock(root / teacher, scheduler=EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS))
    wanted = theirs(pipe, num_inference_steps=5, guidance_scale=3.0)
    pipeline = opened(root, teacher)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(ours(pipeline, 5, guidance_scale=3.0), wanted, atol=2e-3)
    assert np.abs(ours(pipeline, 5, guidance_scale=1.0) - wanted).max() > 0.01


def test_the_command_line_takes_a_stock_folder_as_it_comes(root, tmp_path, capsys):
    """Drawn as its teacher's facts say, signed with the hash of its own weights, measured and shown."""
    picture, metrics = tmp_path / "heart.png", tmp_path / "metrics.json"
    model = str(root / "sd1")
    cli.main(["draw", "a red heart", "--model", model, "--steps", "3", "--seed", "5", "-o", str(picture), "--no-provenance"])
    wanted = to_pil(opened(root, "sd1").draw("a red heart", 3, seed=5)[0])
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(wanted))
    cli.main(["evaluate", model, "--data", str(root / "own"), "--prompts", "4", "--resamples", "2", "--calls", "1",
              "-o", str(metrics)])  # fmt: skip
    assert {r.model for r in read_records(metrics)} == {"teacher", "real"}
    cli.main(["info", model])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("has no student_card.json: taken for a teacher") == 3
    assert "native size 16×16" in said
    assert "3 files, no card to compare them with" in said


def test_other_weights_have_another_fingerprint(root, tmp_path):
    shutil.copytree(root / "sd1", tmp_path / "sd1")
    same = opened(tmp_path, "sd1").card.fingerprint
    assert same == opened(root, "sd1").card.fingerprint
    change_weights(tmp_path / "sd1")
    assert opened(tmp_path, "sd1").card.fingerprint != same


def change_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * 1.5 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


def test_a_flow_teacher_draws_what_stock_diffusers_draws(root):
    pipe = stock(root / "sd3")  # as it comes: at one step its own scheduler starts at sigma 1 too
    wanted = theirs(pipe, num_inference_steps=1, guidance_scale=3.0)
    pipeline = opened(root, "sd3")
    assert pipeline.model.denoiser.kind == "flow"
    np.testing.assert_allclose(ours(pipeline, 1, guidance_scale=3.0), wanted, atol=1e-4)
    assert np.abs(ours(pipeline, 1, guidance_scale=1.0) - wanted).max() > 0.01


def test_the_size_that_sdxl_is_told_is_the_size_that_is_drawn(root):
    denoiser = opened(root, "sdxl").model.denoiser
    assert denoiser.sizes(torch.zeros(2, 4, 8, 12)).tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    cond = opened(root, "sdxl").encode(PROMPTS)
    assert backends.fields_of(denoiser, cond) == ["tokens", "pooled"]
    x_t, t = Rng.of(0).normal((2, 4, 8, 8)), torch.tensor([0.5, 1.0])
    deaf = replace(cond, pooled=torch.zeros_like(cond.pooled))
    assert (denoiser(x_t, t, cond) - denoiser(x_t, t, deaf)).abs().max() > 1e-3
    run = backends.compile_denoiser(backends.load("eager"), denoiser, x_t, cond)
    torch.testing.assert_close(run(x_t, t, cond), denoiser(x_t, t, cond))


def test_a_folder_without_a_card_gets_one_from_its_own_facts(tmp_path):
    folder = foreign.sd1(tmp_path, levels=3)  # a VAE that shrinks by 4, not by 8
    model = pretrained.load(folder)
    with pytest.warns(UserWarning, match="--steps 1 --guidance-scale 1"):
        card = bundle.card_of(folder, model)
    assert (card.native_size, card.guidance_scale, card.role) == ((32, 32), 7.5, "teacher")
    assert model.codec.encode(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 8, 8)
    foreign.pictures(tmp_path / "own")
    with pytest.raises(ValueError, match=r"the pictures are 16x16, sd1 draws 32x32 \(width first\): build .* --size 32"):
        prepare(distillation.options(teacher=str(folder), data=str(tmp_path / "own")), tmp_path)


# the student, as it leaves


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("name", ["sd1-full", "sd1-lora", "sd1-freeze", "sdxl-lora"])
def test_stock_diffusers_draws_the_students_picture_in_1_2_and_4_steps(students, name, steps):
    """The teacher predicts eps and keeps a little signal at t = 1: its student's scheduler config must say so too."""
    _, folder = students[name]
    wanted = theirs(stock(folder), num_inference_steps=steps, guidance_scale=0)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(ours(Pipeline.open(folder), steps), wanted, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stock_diffusers_draws_the_flow_students_picture(students, steps):
    """Its sigmas end at .999 and are read so; its steps' noise comes from the global generator: one picture, one stream."""
    _, folder = students["sd3-lora"]
    pipe = stock(folder)
    torch.manual_seed(3)
    wanted = pipe(PROMPTS[:1], num_inference_steps=steps, guidance_scale=0, output_type="np").images
    made = numpy(Pipeline.open(folder)(Request(PROMPTS[:1], [3], steps)))
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    other = numpy(Pipeline.open(folder)(Request(PROMPTS[:1], [4], steps)))
    assert np.abs(other - wanted).max() > 0.05


UNION = (1.0, 0.75, 0.667, 0.5, 0.333, 0.25)


@pytest.fixture(scope="module")
def others(root: Path) -> dict[str, Path]:
    """Students of other tables, predictions and times, as they are before their first step."""
    foreign.sd1(root / "v", num_train_timesteps=500, prediction_type="v_prediction", beta_end=0.02)
    shutil.copytree(root / "sd3", root / "short")
    config = root / "short" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_train_timesteps": 100}))
    made = {}
    for name, teacher, times in (
        ("v-500", "v/sd1", UNION), ("flow-100", "short", (1.0, 0.5)), ("thirds", "sd1", (1.0, 0.6667, 0.3333)),
    ):  # fmt: skip
        work = prepare(options(root, teacher, times=times), root / name)
        work.save(root / name / "bundle", 0)
        made[name] = root / name / "bundle"
    return made


def test_stock_diffusers_draws_every_promised_count_where_fewstep_was_never_imported(root, students, others, tmp_path):
    """The card's promise: `from_pretrained(path)(prompt, num_inference_steps=n, guidance_scale=0)`, for every n on it."""
    folders = {name: str(folder) for name, (_, folder) in students.items()} | {name: str(f) for name, f in others.items()}
    counts = {name: Card.read(Path(folder)).steps for name, folder in folders.items()}
    assert counts["sd1-full"] == counts["sdxl-lora"] == counts["sd3-lora"] == (1, 2, 4)
    assert (counts["v-500"], counts["flow-100"], counts["thirds"]) == ((1, 2, 3, 4), (1, 2), (1, 3))
    seed, prompt = 3, PROMPTS[0]
    asked = {name: (folder, prompt, seed, counts[name]) for name, folder in folders.items()}
    alone = foreign.drawn_alone(asked, tmp_path / "drawn.npz")
    assert len(alone) == sum(map(len, counts.values()))
    for name, folder in folders.items():
        pipeline = Pipeline.open(folder)
        made = {n: numpy(pipeline(Request([prompt], [seed], n))) for n in counts[name]}
        for n, own in made.items():
            assert own.std() > 0.01
            np.testing.assert_allclose(own, alone[f"{name} {n}"], atol=5e-4, err_msg=f"{name} in {n} steps")
            for other in counts[name]:
                assert other == n or np.abs(own - alone[f"{name} {other}"]).max() > 5e-3, "another count, another picture"


def test_times_that_no_promised_count_visits_are_told_before_training(root, tmp_path):
    with pytest.warns(UserWarning, match=r"time 0\.1.*drawn in 1, 2 steps.*--times 1 0\.75 0\.5 0\.25 gives 1, 2, 4"):
        work = prepare(options(root, "sd1", times=(1.0, 0.5, 0.1)), tmp_path)
    assert work.card(0).steps == (1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distillation.tell_idle_times((1.0, 0.75, 0.5, 0.25))
        distillation.tell_idle_times(UNION)


def test_an_earlier_cards_third_step_is_promised_no_more(students, tmp_path):
    _, folder = students["sd1-full"]
    shutil.copytree(folder, tmp_path / "old")
    card = tmp_path / "old" / bundle.CARD
    card.write_text(json.dumps(json.loads(card.read_text()) | {"steps": [1, 2, 3, 4]}))
    with pytest.raises(ValueError, match="was trained for 1, 2, 4 steps, not 3"):
        Pipeline.open(tmp_path / "old").draw("a cat", 3)


@pytest.mark.parametrize("name", ["sd1-lora", "sdxl-lora"])
def test_the_lora_alone_makes_the_teacher_the_student(root, students, name):
    """`pipe.load_lora_weights`, with the student's scheduler: what every tool of the ecosystem does."""
    from diffusers import EulerAncestralDiscreteScheduler

    _, folder = students[name]
    scheduler = EulerAncestralDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    pipe = stock(root / name.split("-")[0], scheduler=scheduler)
    bare = theirs(pipe, num_inference_steps=2, guidance_scale=0)
    pipe.load_lora_weights(folder / "lora")
    wanted = ours(Pipeline.open(folder), 2)
    np.testing.assert_allclose(theirs(pipe, num_inference_steps=2, guidance_scale=0), wanted, atol=2e-3)
    assert np.abs(bare - wanted).max() > 0.02
    card = Card.read(folder / "lora")
    assert (card.teacher, card.role) == (name.split("-")[0], "student")
    bundle.verify(folder)
    bundle.verify(folder / "lora")


def test_the_flow_lora_alone_makes_the_teacher_the_student(root, students):
    _, folder = students["sd3-lora"]
    network = stock(root / "sd3")
    network.load_lora_weights(folder / "lora")
    x, t = Rng.of(0).normal((2, 4, 8, 8)), torch.tensor([1.0, 0.5])
    model = pretrained.load(folder)
    cond = model.conditioner(PROMPTS)
    with torch.no_grad():
        wanted = model.denoiser.predict(x, t, cond)
        made = network.transformer(x, cond.tokens, cond.pooled, torch.tensor([999, 749]), return_dict=False)[0]  # shift 3
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sd1-lora", "sd1-freeze", "sdxl-lora", "sd3-lora"])
def test_frozen_weights_are_bit_identical_and_the_card_says_how_much_was_trained(students, root, name):
    work, folder = students[name]
    network = work.student.denoiser.network
    before = pretrained.load(root / name.split("-")[0]).denoiser.network.state_dict()
    after = {k.replace(".base_layer", ""): p for k, p in network.named_parameters()}
    frozen = {k for k, p in after.items() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(after[k], before[k]) for k in frozen)
    trained = {k: p for k, p in after.items() if k not in frozen}
    moved = [not torch.equal(p, before[k]) if k in before else bool(p.abs().sum() > 0) for k, p in trained.items()]
    assert sum(moved) > 0.9 * len(moved)
    share = sum(p.numel() for p in trained.values()) / sum(p.numel() for p in after.values())
    assert Card.read(folder).training["trained_share"] == pytest.approx(share)
    assert 0.01 < share < 0.6
    if "lora" in name:
        assert all(".lora_" in k for k in trained)
    else:
        assert all(".conv" in k for k in frozen)
        assert {"conv_in.weight", "conv_out.weight"} <= trained.keys()


def test_a_merged_bundle_has_its_teachers_names_and_the_low_rank_change(students, root):
    _, folder = students["sd1-lora"]
    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    before, after = load_file(root / "sd1" / file), load_file(folder / file)
    assert before.keys() == after.keys()
    low = load_file(folder / "lora" / trainable.LORA_FILE)
    name = "mid_block.resnets.0.conv1"
    a, b = low[f"unet.{name}.lora_A.weight"], low[f"unet.{name}.lora_B.weight"]
    assert a.shape[0] == b.shape[1] == 2
    change = torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    torch.testing.assert_close(after[f"{name}.weight"] - before[f"{name}.weight"], change, atol=1e-6, rtol=1e-4)
    assert change.abs().max() > 1e-4


def test_sdxl_draws_from_a_picture_as_stock_diffusers_does(students):
    from diffusers import AutoPipelineForImage2Image

    _, folder = students["sdxl-lora"]
    with pretrained.quiet():
        pipe = AutoPipelineForImage2Image.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    start = Rng.of(0).normal((2, 3, 16, 16)).tanh()
    wanted = theirs(pipe, image=(start + 1) / 2, num_inference_steps=2, strength=0.5, guidance_scale=0)
    made = ours(Pipeline.open(folder), 1, image=start, strength=0.5)
    np.testing.assert_allclose(made, wanted, atol=2e-3)
    assert np.abs(made - numpy(start)).max() > 0.05


# training


def game(root: Path, out: Path, teacher: str = "sd1", **changes: Any) -> tuple[Distillation, Trainer, Any]:
    work = prepare(options(root, teacher, **changes), out)
    trainer, batches = work.phases[-1].build()
    return work, trainer, batches


def test_a_lora_run_keeps_only_what_moves_and_resumes_bit_for_bit(root, tmp_path):
    changes: dict[str, Any] = {"student": "lora", "rank": 2, "steps": 4, "features": "teacher"}
    _, whole, batches = game(root, tmp_path, **changes)
    list(whole.steps(batches))
    _, cut, batches = game(root, tmp_path, **changes)
    for log in cut.steps(batches):
        if log.step == 2:
            break
    cut.save(tmp_path / "state")
    student = cut.state()["players"]["student"]
    assert student
    assert all(".lora_" in name for name in student)
    assert cut.averages["student"].average.keys() == student.keys()
    assert list(cut._names["student"]) == list(student)  # what the optimiser moves
    _, resumed, batches = game(root, tmp_path, **changes)
    resumed.resume(tmp_path / "state")
    list(resumed.steps(batches))
    for trainer in (whole, resumed):
        trainer.adopt_averages()
    a, b = (t.state()["players"] for t in (whole, resumed))
    assert all(torch.equal(a[p][k], b[p][k]) for p in a for k in a[p])
    assert any(v.abs().sum() > 0 for k, v in a["student"].items() if "lora_B" in k)


def test_a_negative_prompt_that_is_not_read_whole_is_told(root, tmp_path):
    nfsd = add.Options(weighting="nfsd", adversarial_weight=0.0, teacher_times=(0.5, 0.9))
    with pytest.warns(UnreadWarning, match=r"such as 'unrealistic, blurry'.*reads 14 tokens"):
        game(root, tmp_path, add=nfsd, negative="unrealistic, blurry", features="teacher")


def test_the_negative_prompt_reaches_nfsd(root, tmp_path):
    nfsd = add.Options(weighting="nfsd", adversarial_weight=0.0, teacher_times=(0.5, 0.9))
    losses = []
    for negative in ("unrealistic, blurry", ""):
        work, trainer, batches = game(root, tmp_path, add=nfsd, negative=negative, features="teacher")
        method = trainer.method
        if negative:
            wanted = work.model.conditioner([negative])
            assert len(method.negative) == 1
            torch.testing.assert_close(method.negative.tokens, wanted.tokens)
        else:
            assert method.negative is None
        losses.append(float(method.losses("student", batches(0), Rng.of(0))["distillation"].detach()))
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_checkpointing_computes_twice_and_changes_no_gradient(root, tmp_path, kind):
    gradients, calls = [], []
    for checkpointing in (False, True):
        changes: dict[str, Any] = {"student": kind, "rank": 2, "features": "teacher", "checkpointing": checkpointing}
        work, trainer, batches = game(root, tmp_path, add=add.Options(space="media"), **changes)
        network, decoder = work.student.denoiser.network, work.model.codec.vae.decoder
        seen = {"student": 0, "decoder": 0}

        def count(name: str, seen: dict[str, int] = seen) -> Any:
            return lambda *_: seen.__setitem__(name, seen[name] + 1)

        network.up_blocks[-1].resnets[-1].register_forward_pre_hook(count("student"))
        decoder.mid_block.resnets[0].register_forward_pre_hook(count("decoder"))
        trainer.networks["student"].train()
        losses = trainer.method.losses("student", batches(0), Rng.of(0))
        torch.stack(list(losses.values())).sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.requires_grad])
        calls.append(seen)
    # one pass of the student; two decodings: of its sample, and of the target, which has no graph to compute again
    assert calls == [{"student": 1, "decoder": 2}, {"student": 2, "decoder": 3}]
    for plain, recomputed in zip(*gradients):
        torch.testing.assert_close(recomputed, plain, atol=1e-6, rtol=1e-4)


def test_a_folders_own_safety_checker_looks_at_the_pictures(tmp_path: Path):
    """As diffusers' pipelines have it look, in the moderation thread."""
    picture, other = (np.random.default_rng(seed).integers(0, 256, (48, 48, 3), np.uint8) for seed in (1, 2))
    foreign.safety_checker(tmp_path, Image.fromarray(picture))
    with pytest.raises(ValueError, match=r"model_index\.json"):
        app.make_studio(app.ServeOptions(model=str(tmp_path), safety="checker"))
    (tmp_path / "model_index.json").write_text("{}")
    studio = app.make_studio(app.ServeOptions(model=str(tmp_path), safety="checker"))
    moderation = studio.worker.moderation
    assert "safety checker" in (moderation.picture(picture) or "")
    assert moderation.picture(other) is None
    assert [moderation.judge_prompts(text).result(10) is None for text in ("nsfw", "a cat")] == [False, True]
    assert studio.metrics.snapshot()["stages_ms"]["safety_picture"][0] > 0
    (tmp_path / "safety_checker" / "model.safetensors").rename(tmp_path / "safety_checker" / "model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        safety.load("checker", str(tmp_path))
    moderation.close()


def test_dinov2_is_taken_where_its_folder_is_given(root, tmp_path):
    foreign.dino(tmp_path / "dino")
    changes: dict[str, Any] = {"features_folder": str(tmp_path / "dino"), "steps": 1}
    work, trainer, batches = game(root, tmp_path, **changes)
    assert (work.options.own.features, work.options.own.resolution) == ("dinov2", 28)
    network = trainer.method.adversary.features.inner.network
    assert isinstance(network, DinoFeatures)
    assert batches(0).cond.image.shape == (8, 16)  # c_img is the class embedding
    before = {k: v.clone() for k, v in network.state_dict().items()}
    (log,) = trainer.steps(batches)
    assert not log.skipped
    assert log.observations["student/adversarial_gradient_at_x0"] > 0
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert work.card(1).training["options"]["features"] == "dinov2"


def test_features_are_chosen_by_what_there_is(root):
    o = options(root, "sd1")
    assert assembly.decided(o.own, (512, 512)).features == "efficientnet-lite0"
    assert assembly.decided(o.own, (512, 512)).resolution == 224
    assert assembly.decided(o.own, (64, 64)).resolution == 64
    folder = root / "cache" / "dinov2"
    foreign.dino(folder)
    try:
        large, small = (assembly.decided(o.own, (side, side)) for side in (512, 64))
        assert (large.features, large.features_folder, large.resolution) == ("dinov2", str(folder), 518)
        assert small.features == "efficientnet-lite0"
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"student": "lora", "rank": 0}, "use --rank 1 or more"),
        ({"student": "lora", "init": "random"}, "use --init teacher or --student full"),
        ({"device": "cuda"}, "use --device cpu"),
        ({"device": "tpu"}, "unknown device 'tpu': use cpu, cuda"),
        ({"negative": "blurry"}, "add --add.weighting nfsd"),
        ({"features": "dinov2"}, r"download facebook/dinov2-small.*--features-folder"),
        ({"features": "teacher", "features_folder": "somewhere"}, "use --features dinov2 instead of teacher"),
        ({"teacher": "nowhere"}, "there is no bundle 'nowhere'"),
    ],
)
def test_options_that_cannot_be_met_get_one_sentence(root, tmp_path, changes, sentence):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")

    def begin() -> None:
        o = options(root, "sd1", **{k: v for k, v in changes.items() if k != "teacher"})
        prepare(replace(o, teacher=changes.get("teacher", o.teacher)), tmp_path).phases[-1].build()

    with pytest.raises(ValueError, match=sentence):
        begin()


def test_a_transformer_has_no_convolutions_to_freeze(root, tmp_path):
    with pytest.raises(ValueError, match="no inner convolutions to freeze: use --student lora"):
        prepare(options(root, "sd3", student="freeze"), tmp_path)


def test_peft_is_asked_for_where_it_is_missing(root, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[lora\]'"):
        prepare(options(root, "sd1", student="lora"), tmp_path)


def broken(root: Path, target: Path, teacher: str, file: str, **changes: Any) -> Path:
    shutil.copytree(root / teacher, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


@pytest.mark.parametrize(
    ("teacher", "file", "changes", "sentence"),
    [
        ("sdxl", "model_index.json", {"text_encoder_2": [None, None]}, "has no text_encoder_2"),
        ("sd1", "model_index.json", {"vae": [None, None]}, "has no vae: give a text-to-image pipeline folder"),
        ("sd1", "model_index.json", {"unet": ["diffusers", "MagicNet"]}, r"no model family takes \(.*sd, sd3, sdxl"),
        ("sd1", "scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "give an eps, v or flow model"),
        ("sd3", "model_index.json", {"transformer": ["diffusers", "MagicTransformer"]}, "CONTRIBUTING.md, A model family"),
        ("sd1", "model_index.json", {"vae": "AutoencoderKL"}, "has no vae: give a text-to-image pipeline folder"),
        ("sd1", "scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "give a whole number from 1 on"),
        ("sd3", "scheduler/scheduler_config.json", {"num_train_timesteps": "1000"}, "give a whole number from 1 on"),
        ("sd1", "scheduler/scheduler_config.json", {"beta_end": "0.012"}, "give numbers from 0 to 1"),
        ("sd1", "scheduler/scheduler_config.json", {"trained_betas": []}, "give numbers from 0 to 1"),
    ],
)
def test_folders_that_cannot_be_used_get_one_sentence(root, tmp_path, teacher, file, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        pretrained.load(broken(root, tmp_path / "broken", teacher, file, **changes))


def test_a_missing_weight_file_is_named(root, tmp_path):
    shutil.copytree(root / "sd1", tmp_path / "b")
    (tmp_path / "b" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b/unet cannot be read.*fetch or save the pipeline again"):
        pretrained.load(tmp_path / "b")


@pytest.mark.parametrize("file", ["model_index.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_no_object_is_named(root, tmp_path, file):
    shutil.copytree(root / "sd1", tmp_path / "b")
    (tmp_path / "b" / file).write_text("[1]")
    with pytest.raises(ValueError, match=f"{Path(file).name} holds a JSON list, not an object"):
        pretrained.load(tmp_path / "b")


@pytest.mark.parametrize(("teacher", "part"), [("sd1", "tokenizer"), ("sdxl", "tokenizer_2"), ("sd3", "tokenizer")])
def test_a_tokenizer_without_its_vocabulary_is_refused(root, tmp_path, teacher, part):
    """transformers 5 makes one that knows no word: every prompt would draw the same picture."""
    shutil.copytree(root / teacher, tmp_path / "b")
    for file in (tmp_path / "b" / part).iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(ValueError, match=f"b/{part}.*fetch or save the pipeline again"):
        pretrained.load(tmp_path / "b")
    with pytest.raises(ValueError, match=f"b/{part}.*fetch or save the pipeline again"):
        pretrained.reader_of(tmp_path / "b")


EVERYTHING = add.Options(
    space="media", weighting="nfsd", renoised_input=0.1, approximate_r1=1.0, mismatched=0.5, backward=0.5,
    reals_through_codec=True, regression_weight=1.0,
)  # fmt: skip


def test_a_whole_run_takes_place_on_its_device(root, tmp_path, monkeypatch):
    """No tensor is made elsewhere and left there: every operation sees tensors of one device, as on a GPU."""
    monkeypatch.setattr(distillation, "check_device", lambda device: None)
    foreign.dino(tmp_path / "dino", num_hidden_layers=4)
    warm = WarmStart(steps=1, pairs=2, teacher_steps=2, batch_size=8)
    changes: dict[str, Any] = {
        "add": EVERYTHING, "warm": warm, "steps": 1, "negative": "blurry", "augment": ("color", "translation", "cutout"),
        "features_folder": str(tmp_path / "dino"), "student": "lora", "rank": 2, "checkpointing": True,
    }  # fmt: skip
    with elsewhere() as device:
        work = prepare(options(root, "sdxl", device=device, **changes), tmp_path / "out")
        for phase in work.phases:
            trainer, batches = phase.build()
            assert batches(0).x0.device.type == device  # what is small is kept there
            assert [log.skipped for log in trainer.steps(batches)] == [False]
            trainer.adopt_averages()
    assert [phase.name for phase in work.phases] == ["warm", "add"]
    moved = {p.device.type for network in trainer.networks.values() for p in network.parameters()}
    assert moved == {"meta"}


def pairs_of(teacher: Path, data: Path, out: Path, n: int = 4, at_once: int = 4, **changes: Any) -> tuple[Tensor, bool]:
    """The samples of a warm start's pairs, and whether they were drawn anew."""
    warm = WarmStart(steps=1, pairs=n, teacher_steps=2, batch_size=at_once)
    drawn: list[str] = []
    o = distillation.options(teacher=str(teacher), data=str(data), steps=0, warm=warm, **changes)
    work = prepare(o, out, lambda what, done, total: drawn.append(what))
    work.phases[0].build()
    return load_file(out / "pairs.safetensors")["x0"], "teacher's trajectories" in drawn


def test_pairs_of_a_teacher_whose_weights_changed_are_drawn_again(root, tmp_path):
    """The same folder's name, the same number of pictures: what is kept belongs to weights and prompts, not to names."""
    teacher = shutil.copytree(root / "sd1", tmp_path / "sd1")
    first, drawn = pairs_of(teacher, root / "own", tmp_path)
    assert drawn
    again, drawn = pairs_of(teacher, root / "own", tmp_path)
    assert torch.equal(first, again)
    assert not drawn
    change_weights(teacher)
    other, drawn = pairs_of(teacher, root / "own", tmp_path)
    assert drawn
    assert (other - first).abs().max() > 0.01
    assert pairs_of(teacher, root / "own", tmp_path, captions="name")[1]
    path = tmp_path / "pairs.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert pairs_of(teacher, root / "own", tmp_path, captions="name")[1], "what is damaged is drawn again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_pairs_that_were_stopped_go_on_to_the_same_bits(root, tmp_path, number):
    whole, _ = pairs_of(root / "sd1", root / "own", tmp_path / "whole", n=6, at_once=2)
    warm = WarmStart(steps=1, pairs=6, teacher_steps=2, batch_size=2)
    o = distillation.options(teacher=str(root / "sd1"), data=str(root / "own"), steps=0, warm=warm)
    told: list[int] = []

    def press(what: str, done: int, total: int) -> None:
        if what == "teacher's trajectories":
            told.append(done)
            if len(told) == 2:
                signal.raise_signal(number)

    work = prepare(o, tmp_path, press)
    with pytest.raises(Stopped, match=r"stopped after 4 of 6 teacher's trajectories; .*continue with --resume"):
        work.phases[0].build()
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["pairs-part.safetensors"]
    prepare(o, tmp_path, press).phases[0].build()
    assert told == [2, 4, 6]
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["pairs.safetensors"]
    assert torch.equal(load_file(tmp_path / "pairs.safetensors")["x0"], whole)


def test_distillation_alone_needs_no_eyes_and_no_heads(root, tmp_path, monkeypatch):
    """Nothing is loaded, embedded or read for a discriminator that is not there, and the student learns the same."""
    alone = add.Options(adversarial_weight=0.0)
    _, looking, batches = game(root, tmp_path, add=replace(alone, adversarial_weight=1e-30))
    next(looking.steps(batches))
    monkeypatch.setattr(ImageNetFeatures, "load", lambda *_: pytest.fail("the feature network is loaded"))
    told: list[str] = []
    work = prepare(options(root, "sd1", add=alone), tmp_path, lambda what, done, total: told.append(what))
    trainer, batches = work.phases[-1].build()
    assert "image embeddings" not in told
    assert trainer.method.adversary is None
    assert (batches(0).media, batches(0).cond.image) == (None, None)
    assert set(next(trainer.steps(batches)).losses) == {"student/distillation"}
    a, b = (t.weights()["student"] for t in (looking, trainer))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=1e-5, rtol=1e-4)


def test_features_are_standardised_unless_that_is_off(root, tmp_path):
    levels = []
    for standardise in (True, False):
        _, trainer, batches = game(root, tmp_path, features="efficientnet-lite0", standardise=standardise)
        assert isinstance(trainer.method.adversary.features, Standardised) == standardise
        (log,) = itertools.islice(trainer.steps(batches), 1)
        assert not log.skipped
        levels.append(trainer.method.adversary.features(batches.media(np.arange(16)), Conditioning(), Rng.of(0)).levels)
    assert all(float(level.mean((0, 2, 3)).abs().max()) < 1e-3 for level in levels[0])
    assert any(float(level.mean((0, 2, 3)).abs().max()) > 0.1 for level in levels[1])


def test_the_game_goes_on_with_the_warm_starts_pairs(root, tmp_path):
    """Drawn once for both; without a warm start the game draws its own, in batches of its own size."""
    changes: dict[str, Any] = {"features": "teacher", "add": add.Options(regression_weight=1.0)}
    for steps, kept in ((1, tmp_path / "both"), (0, tmp_path / "game")):
        drawn: list[str] = []
        warm = WarmStart(steps=steps, pairs=4, teacher_steps=2, batch_size=4)
        o = options(root, "sd1", warm=warm, **changes)
        work = prepare(o, kept, lambda what, done, total, drawn=drawn: drawn.append(what))
        *_, (trainer, batches) = [phase.build() for phase in work.phases]
        assert drawn.count("teacher's trajectories") == 1
        ends, seen = load_file(kept / "pairs.safetensors")["x0"], batches(0).pairs
        assert len(seen) == o.batch_size
        assert all((ends.float() - sample).abs().amax((1, 2, 3)).min() == 0 for sample in seen.x0)
        assert "student/regression" in next(trainer.steps(batches)).losses


def test_the_teachers_features_are_seen_on_their_device(root, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "check_device", lambda device: None)
    with elsewhere() as device:
        _, trainer, _ = game(root, tmp_path, device=device, features="teacher")
    assert {p.device.type for p in trainer.method.adversary.discriminator.parameters()} == {"meta"}


def test_two_devices_in_one_operation_are_noticed():
    with elsewhere() as device:
        there = torch.zeros(2, 3, device=device)
        assert (there + 1).device.type == device
        with pytest.raises(RuntimeError, match="tensors on cpu and meta"):
            there * torch.ones(2, 3)


def test_a_student_is_trained_on_from_another_ones_weights(root, tmp_path):
    _, first = distil(root, tmp_path / "first", "sd1", features="teacher")
    work, _, _ = game(root, tmp_path / "second", features="teacher", init=str(first))
    began = pretrained.load(first).denoiser
    same = [torch.equal(a, b) for a, b in zip(work.student.denoiser.parameters(), began.parameters(), strict=True)]
    assert all(same)
    teacher = pretrained.load(root / "sd1").denoiser
    assert not all(torch.equal(a, b) for a, b in zip(teacher.parameters(), began.parameters(), strict=True))


def test_a_network_of_another_shape_is_no_place_to_begin(root, tmp_path):
    with pytest.raises(ValueError, match="give one of its students"):
        game(root, tmp_path, features="teacher", init=str(root / "sdxl"))


def test_half_precision_draws_what_single_precision_draws(root):
    """In float16 on this machine too: what a GPU does by default."""
    for teacher in ("sd1", "sdxl", "sd3"):
        model = pretrained.load(root / teacher)
        card = bundle.card_of(root / teacher, model)
        request = Request(PROMPTS, SEEDS, 25)
        single = Pipeline(model, card)(request)
        half = Pipeline(pretrained.load(root / teacher, torch.float16), card)(request)
        assert half.dtype == torch.float32
        assert (half - single).abs().mean() < 0.02
        assert not torch.equal(half, single)


@pytest.mark.parametrize("student", ["full", "lora"])
def test_a_blend_lies_between_the_weights_before_the_game_and_after_it(root, tmp_path, student):
    """Saved twice, it is the same; the network itself keeps the weights of the game, and a resumed run blends the same."""
    changes: dict[str, Any] = {"features": "teacher", "student": student, "rank": 2, "keep": "last"}

    def weights(name: str, share: float) -> dict[str, Tensor]:
        work, folder = distil(root, tmp_path / name, "sd1", blend=share, **changes)
        work.save(folder, 2)
        return pretrained.load(folder).denoiser.network.state_dict()

    before = pretrained.load(root / "sd1").denoiser.network.state_dict()
    after, half = weights("whole", 1.0), weights("half", 0.5)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    if student == "full":
        for name in before:
            torch.testing.assert_close(half[name], (before[name] + after[name]) / 2, atol=1e-6, rtol=1e-5)
    else:  # half of both low-rank factors: the first one stood at its start, so the product is less than the whole
        assert all(0 < float((half[k] - before[k]).norm()) < float((after[k] - before[k]).norm()) for k in moved)
    work = prepare(options(root, "sd1", blend=0.5, **changes), tmp_path / "half")
    run_phases(work.phases, Saving(tmp_path / "half", resume=True), lambda phase, trainer, log: None)
    work.save(tmp_path / "again", 2)
    again = pretrained.load(tmp_path / "again").denoiser.network.state_dict()
    assert all(torch.equal(again[name], half[name]) for name in half)


def test_looks_draw_every_prompt_twice_and_see_a_student_that_ignores_its_noise(root, tmp_path):
    pictures: list[Tensor] = []

    def measure(draw: Callable[[], Tensor], real: Tensor, rounds: int) -> Callable[[], dict[str, float]]:
        pictures.append(real)
        return measure_with(freeze(Eyes(2, 3)))(lambda: pictures.append(draw()) or pictures[-1], real, rounds)

    work = prepare(options(root, "sd1", features="teacher"), tmp_path, measure=measure)
    look = work.phases[-1].probe().evaluate
    healthy = look()["diversity"]
    heard = work.student.draw
    work.student.draw = lambda noise, *more: heard(torch.ones_like(noise), *more)
    assert healthy > 1e-4 > 1e-9 > look()["diversity"]
    real, varied, collapsed = pictures
    assert len(varied) == len(collapsed) == 2 * len(real)
    one, two = collapsed.chunk(2)
    torch.testing.assert_close(one, two)
    assert pairwise_distance(one.flatten(1)) > 1e-6, "and every prompt has its own"
