"""Every model family, found by its file, against its stock pipeline: the same numbers in, the same pictures out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import family_table
import foreign
from fewstep import bundle, cli, pretrained
from fewstep.diffusion import sampler
from fewstep.inference.pipeline import DTYPES, Pipeline, Request
from fewstep.parts import discriminator
from fewstep.pretrained.families import family
from fewstep.recipes import distillation
from fewstep.recipes.distillation import WarmStart, prepare
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from fewstep.training.recipe import run_phases
from fewstep.training.run import Saving
from foreign import numpy
from tiny import Tiny, tiny

FOUND = family.all_families()
NAMES = family.FAMILIES.names
TINIES = tiny()
SEEDS = (3, 4, 5)
STEPS = 6


def test_every_family_has_a_tiny_model_and_every_tiny_model_a_family():
    assert sorted(TINIES) == sorted(NAMES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("families")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def teachers(root: Path) -> dict[str, Path]:
    """Folders by family, made when they are asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = TINIES[name].make(root / name)
            return self[name]

    return Made()


def stock(folder: Path, auto: bool = False, **options: Any) -> Any:
    """A folder as stock diffusers opens it."""
    import diffusers

    kind = diffusers.AutoPipelineForText2Image if auto else diffusers.DiffusionPipeline
    with pretrained.quiet():
        pipe = kind.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class Step:
    """One step of a stock pipeline's scheduler, as it was handed to it."""

    output: Tensor
    """The network's, guided."""
    sample: Tensor
    timestep: float
    sigma: float | None
    """The scheduler's own, where it counts in sigmas."""


def first_order(pipe: Any, kind: str) -> None:
    """Give the pipeline the deterministic scheduler of first order that goes with its own config."""
    import diffusers

    config = pipe.scheduler.config
    if kind != "flow":
        options = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True, "thresholding": False}
        pipe.scheduler = diffusers.DDIMScheduler.from_config(config, **options)
    elif "solver_order" in config:
        pipe.scheduler = type(pipe.scheduler).from_config(config, solver_order=1)


def recorded(
    one: Tiny, pipe: Any, prompts: Sequence[str], steps: int, size: tuple[int, int], scale: float
) -> tuple[list[Step], Any]:
    """What a stock pipeline hands its scheduler in every step, and its pictures ``[B, H, W, 3]``."""
    seen: list[Step] = []
    scheduler, step = pipe.scheduler, pipe.scheduler.step

    def recording(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        known = getattr(scheduler, "sigmas", None)
        done = step(model_output, timestep, sample, *args, **options)
        at = None if known is None or len(known) == 0 else float(known[len(seen)])
        n = len(prompts)  # some hand on the guided rows twice
        seen.append(Step(model_output[:n], sample[:n], float(timestep), at))
        return done

    scheduler.step = recording
    generator = [torch.Generator().manual_seed(s) for s in SEEDS[: len(prompts)]]
    sized = {} if one.other is None else {"height": size[0], "width": size[1]}
    guided = {one.guided: one.stock_scale(scale)} if one.guided else {}
    asked = {**one.call(prompts), **one.extra, **sized, **guided, "num_inference_steps": steps}
    try:
        images = pipe(**asked, generator=generator, output_type="np").images
    finally:
        scheduler.step = step
    assert len(seen) == steps
    return seen, images


def their_x0(pipe: Any, kind: str, step: Step) -> Tensor:
    """The clean estimate that the stock scheduler makes of a step."""
    if kind == "flow":
        assert step.sigma is not None
        return step.sample - step.sigma * step.output
    alpha = pipe.scheduler.alphas_cumprod[int(step.timestep)].double()
    if kind == "eps" and not alpha:  # which says nothing of x0 there
        return step.output
    return pipe.scheduler.step(step.output, int(step.timestep), step.sample).pred_original_sample


def time_of(model: pretrained.Pretrained, step: Step) -> float:
    """The time in fewstep of a stock step: the table's own, or where sigma is as large, found by halving."""
    if step.sigma is None or model.denoiser.kind != "flow":
        return (step.timestep + 1) / model.denoiser.schedule.n_timesteps  # type: ignore[attr-defined]
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        above = float(model.denoiser.schedule.sigma(torch.tensor([middle], dtype=torch.float64))) > step.sigma
        low, high = (low, middle) if above else (middle, high)
    return high


def of_ours(model: pretrained.Pretrained, x_t: Tensor, t: Tensor, prompts: Sequence[str], scale: float) -> Tensor:
    """The guided estimate of fewstep's own adapter."""
    n = len(prompts)
    cond, null = model.conditioner(prompts), model.conditioner.null(n)
    if scale == 1:
        return model.denoiser(x_t, t, cond)
    both = model.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), Conditioning.cat([cond, null]))
    return model.denoiser.guide(x_t, t, *both.chunk(2), scale)


ASKED = [(3, False, 1.0), (3, False, 7.5), (1, True, 3.0), (3, True, 7.5), (1, False, 3.0)]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_x0_is_what_the_stock_scheduler_makes_of_the_same_input(teachers, name):
    """Six times down to the last, one and three prompts, two sizes, three guidances."""
    hold_x0(TINIES[name], teachers[name], ASKED)


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in NAMES for variant in TINIES[name].variants])
@torch.no_grad()
def test_x0_of_a_familys_other_models_is_the_stock_schedulers(root, name, variant):
    """SD3.5 beside SD3, with and without T5 ...: every guidance, one size each."""
    other = TINIES[name].variants[variant]
    hold_x0(TINIES[name], other.make(root / name / variant), ASKED[:3], **other.opened)


def hold_x0(one: Tiny, folder: Path, asked: Sequence[tuple[int, bool, float]], **opened: Any) -> None:
    """The adapter's x0 is the stock scheduler's, step by step, for so many prompts, the other size or not, the guidance."""
    model, pipe = pretrained.load(folder), stock(folder, **opened)
    first_order(pipe, model.denoiser.kind)
    for n, other, weight in asked:
        prompts, scale = one.prompts[:n], weight if one.guided else 1.0
        size = one.size(model.native_size, other)
        steps, _ = recorded(one, pipe, prompts, STEPS, size, scale)
        stretched = pipe.scheduler.config.get("shift_terminal")  # by the number of steps, which fewstep's times don't follow
        if model.family.sampler == "renoise" and not other and not stretched:  # its shift is that of the native size
            np.testing.assert_allclose([time_of(model, step) for step in steps], sampler.trailing_times(STEPS), atol=1e-5)
        for step in steps:
            x_t = one.spatial(pipe, step.sample, size).float()
            theirs = one.spatial(pipe, their_x0(pipe, model.denoiser.kind, step), size)
            t = torch.full((n,), time_of(model, step), dtype=torch.float64)
            made = of_ours(model, x_t, t, prompts, scale)
            assert theirs.std() > 1e-2
            worst = float((made - theirs).abs().max() / theirs.abs().max())
            assert worst < 1e-5, (n, size, scale, step.timestep, worst)
    given, empty = (of_ours(model, x_t, t, p, 1.0) for p in (prompts, [one.prompts[-1]] * n))
    assert "prompts" in one.without or (given - empty).abs().max() > 1e-4 * theirs.abs().max(), "the prompt is heard"


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_guided_draws_end_in_the_stock_pictures_given_the_same_sigmas(teachers, name):
    one, model = TINIES[name], pretrained.load(teachers[name])
    pipe = stock(teachers[name])
    first_order(pipe, model.denoiser.kind)
    size, prompts, scale = one.size(model.native_size), one.prompts[:2], 3.0 if one.guided else 1.0
    for n in (1, 5, 25):
        steps, pictures = recorded(one, pipe, prompts, n, size, scale)
        times = [time_of(model, step) for step in steps]
        start = one.spatial(pipe, steps[0].sample, size).float()
        denoise = lambda x, t: of_ours(model, x, t, prompts, scale)  # noqa: E731
        drawn = sampler.sample_from(denoise, start, times, model.denoiser.schedule, Rng.of(0), "ddim")
        made = numpy(model.codec.decode(sampler.last(drawn)).clamp(-1, 1))
        assert pictures.std() > 0.01
        np.testing.assert_allclose(made, pictures, atol=2e-3, err_msg=f"{n} steps")


@pytest.mark.parametrize("name", NAMES)
def test_sides_that_its_codec_or_its_patches_do_not_fit_are_refused(teachers, name):
    with pytest.warns(UserWarning, match="taken for a teacher"):
        pipeline = Pipeline.open(teachers[name])
    model, native = pipeline.model, pipeline.model.native_size
    configs = family.Configs.read(teachers[name])
    component, vae = configs.of(FOUND[name].component), configs.of("vae")
    assert model.multiple == FOUND[name].factor(vae) * FOUND[name].patch(component) > 1
    assert pipeline.latent_shape((native[0] + model.multiple, native[1]))[1:] == (
        (native[0] + model.multiple) // model.factor, native[1] // model.factor,
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"every side must be a multiple of {model.multiple}, the nearest is"):
        pipeline.latent_shape((native[0] + model.multiple // 2, native[1]))


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_takes_the_folder_as_it_comes(teachers, name, tmp_path, capsys):
    one, folder = TINIES[name], str(teachers[name])
    with pytest.warns(UserWarning, match="taken for a teacher"):
        pipeline = Pipeline.open(Path(folder))
    cli.main(["draw", one.prompts[0], "--model", folder, "--steps", "3", "--seed", "5", "-o", str(tmp_path / "a.png"),
              "--no-provenance"])  # fmt: skip
    drawn = np.asarray(Image.open(tmp_path / "a.png")) / 255
    np.testing.assert_allclose(drawn, numpy(pipeline.draw(one.prompts[0], 3, seed=5))[0], atol=1 / 255)
    cli.main(["info", folder])
    said = " ".join(capsys.readouterr().out.split())
    assert f"native size {'×'.join(map(str, pipeline.model.native_size))}" in said


# the student


def options(root: Path, folder: Path, native: Sequence[int], **changes: Any) -> distillation.Options:
    data = root / f"pictures-{'x'.join(map(str, native))}"
    if not data.exists():
        foreign.pictures(data, side=native[0])
    rate = 0.1 if changes.get("student") == "lora" else 0.02  # two steps have to show
    fixed: dict[str, Any] = {
        "teacher": str(folder), "data": str(data), "steps": 2, "batch_size": 8, "ema": 0.5, "features": "teacher",
        "student_learning_rate": rate, "warm": WarmStart(steps=0), "heads": discriminator.Options(width=8),
    }  # fmt: skip
    return distillation.options(**(fixed | changes))


@pytest.fixture(scope="module")
def students(root: Path, teachers: dict[str, Path]) -> dict[tuple[str, str], Path]:
    """Bundles by family and by what is trained, made when they are asked for."""

    class Made(dict[tuple[str, str], Path]):
        def __missing__(self, key: tuple[str, str]) -> Path:
            name, what = key
            out = root / name / what
            native = pretrained.native_size(teachers[name])
            work = prepare(options(root, teachers[name], native, student=what, rank=2), out)
            with torch.enable_grad():  # whoever asks
                run_phases(work.phases, Saving(out), lambda phase, trainer, log: None)
            work.save(out / "bundle", 2)
            self[key] = out / "bundle"
            return self[key]

    return Made()


ALONE = """
import copy, json, sys
import diffusers, numpy as np, torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
randn, randn_like = torch.randn, torch.randn_like
def drawn(*shape, dtype=None, **options):  # the same noise in every precision
    return randn(*shape, dtype=torch.float32, **options).to(dtype or torch.float32)
torch.randn = drawn
torch.randn_like = lambda x, **options: randn(x.shape).to(x.dtype)
DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()  # of a posterior its mean, as fewstep
made = {}
for name, kind, folder, dtype, call, seed, counts in json.loads(sys.argv[1]):
    pipe = getattr(diffusers, kind).from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    pipe.set_progress_bar_config(disable=True)
    if "image" in call:
        call["image"] = torch.tensor(call["image"])
    for n, words in counts.items():
        torch.manual_seed(seed)
        made[f"{name} {n}"] = pipe(**copy.deepcopy(call), **words, output_type="np").images  # Z-Image writes into its prompts
assert not any(name.partition(".")[0] == "fewstep" for name in sys.modules)
np.savez(sys.argv[2], **made)
"""
"""What anybody writes who has never heard of fewstep."""


def alone(asked: Sequence[Sequence[Any]], target: Path) -> dict[str, np.ndarray]:
    """What stock diffusers draws in a process without fewstep; keys are name and step count."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, json.dumps(asked), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(np.load(target))


CLOSE = {"fp32": (1e-3, 1e-3), "bf16": (0.2, 0.03), "fp16": (0.05, 0.004)}
"""How far two pictures in [0, 1] may lie apart at their worst pixel, and in the mean: both libraries round in other places, and
processors differ."""


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def start_of(folder: Path) -> Tensor:
    """The picture that image-to-image starts from."""
    return Rng.of(0).normal((1, 3, *pretrained.native_size(folder))).tanh()


@pytest.fixture(scope="module")
def pictures(root: Path, students: dict[tuple[str, str], Path]) -> dict[str, dict[str, np.ndarray]]:
    """What stock diffusers draws with a family's student, in one process each, by family; keys as "bf16 2" and "image 1"."""

    class Made(dict[str, dict[str, np.ndarray]]):
        def __missing__(self, name: str) -> dict[str, np.ndarray]:
            one, folder = TINIES[name], students[name, "full"]
            call = {**one.call(one.prompts[:1]), **one.extra, **one.no_guidance, **one.student}
            counts = {n: {"num_inference_steps": n} for n in bundle.Card.read(folder).steps}
            kind = "AutoPipelineForText2Image" if one.auto else "DiffusionPipeline"
            numbers = [d for d in PRECISIONS if d not in one.without]
            asked: list[Any] = [(d, kind, str(folder), PRECISIONS[d], call, SEEDS[0], counts) for d in numbers]
            if "image to image" not in one.without:
                from_picture = call | {"image": ((start_of(folder) + 1) / 2).tolist(), "strength": 0.5}
                two = {1: {"num_inference_steps": 2}}  # of which one is left
                asked.append(("image", "AutoPipelineForImage2Image", str(folder), "float32", from_picture, SEEDS[0], two))
            self[name] = alone(asked, root / f"{name}.npz")
            return self[name]

    return Made()


@pytest.mark.parametrize("name", NAMES)
def test_stock_diffusers_draws_the_students_picture_at_every_count_in_every_precision(students, pictures, name):
    """In a process that never imports fewstep; noise drawn in single precision in both, for torch draws other in half."""
    one, folder = TINIES[name], students[name, "full"]
    counts = bundle.Card.read(folder).steps
    assert counts == (1, 2, 4)
    for d in (d for d in PRECISIONS if d not in one.without):
        pipeline = Pipeline.open(folder, dtype=DTYPES[d])
        made = {n: numpy(pipeline(Request(one.prompts[:1], SEEDS[:1], n)).float()) for n in counts}
        for n, own in made.items():
            assert own.std() > 0.01
            worst, mean = CLOSE[d]
            np.testing.assert_allclose(own, pictures[name][f"{d} {n}"], atol=worst, err_msg=f"{name}, {n} steps, {d}")
            assert np.abs(own - pictures[name][f"{d} {n}"]).mean() < mean, f"{name}, {n} steps, {d}"
            for other in counts:
                assert other == n or np.abs(own - pictures[name][f"{d} {other}"]).max() > 5e-3, "another count, another picture"


@pytest.mark.parametrize("name", [name for name in NAMES if "image to image" not in TINIES[name].without])
def test_stock_diffusers_draws_from_a_picture_as_the_student_does(students, pictures, name):
    one, folder = TINIES[name], students[name, "full"]
    start = start_of(folder)
    made = numpy(Pipeline.open(folder)(Request(one.prompts[:1], SEEDS[:1], 1, image=start, strength=0.5)))
    np.testing.assert_allclose(made, pictures[name]["image 1"], atol=2e-3)
    assert np.abs(made - numpy(start)).max() > 0.05


@pytest.mark.parametrize("what", ["full", "lora", "freeze"])
@pytest.mark.parametrize("name", NAMES)
def test_a_student_is_made_or_refused_with_the_reason(students, name, what):
    if reason := TINIES[name].without.get(what):
        with pytest.raises(ValueError, match=reason):
            students[name, what]
        return
    card = bundle.Card.read(students[name, what])
    assert card.role == "student"
    assert 0 < card.training["trained_share"] <= 1
    bundle.verify(students[name, what])
    arguments = FOUND[name].arguments(card.native_size)
    page = pretrained.page_of(card.name, card.teacher, card.steps, {}, arguments)
    assert all(f", {key}={value!r}" in page for key, value in arguments.items())
    assert arguments.items() <= {**TINIES[name].extra, **TINIES[name].student}.items(), "its students are drawn so here"


@pytest.mark.parametrize("name", [name for name in NAMES if "lora" not in TINIES[name].without])
@torch.no_grad()
def test_the_lora_alone_makes_the_stock_teacher_the_student(teachers, students, name):
    one, folder = TINIES[name], students[name, "lora"]
    component = FOUND[name].component
    merged, pipe, base = stock(folder), stock(teachers[name]), stock(teachers[name])
    pipe.load_lora_weights(folder / "lora")
    size = one.size(pretrained.native_size(folder))
    sized = {} if one.other is None else {"height": size[0], "width": size[1]}
    drawn = []
    networks = [getattr(merged, component), getattr(pipe, component), getattr(base, component)]
    for network, told in zip(networks, ({}, one.told, one.told)):
        setattr(merged, component, network)
        asked = {**one.call(one.prompts[:1]), **one.extra, **one.no_guidance, **one.student, **sized}
        torch.manual_seed(3)
        drawn.append(merged(**(asked | told), num_inference_steps=1, output_type="np").images)
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-3)
    assert np.abs(drawn[2] - drawn[0]).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_no_code_that_a_folder_brings_is_executed(teachers, name, tmp_path):
    """Files where custom pipelines and ``trust_remote_code`` would look for code, and configs that name them."""
    folder, marker = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(teachers[name], folder)
    code = f"open({str(marker)!r}, 'a').write(__name__)\nclass Own: pass\n"
    parts = [path for path in folder.iterdir() if path.is_dir()]
    for path in (folder, *parts):
        for file in ("pipeline.py", "modeling_own.py", "tokenization_own.py", "__init__.py", "own.py", f"{path.name}.py"):
            (path / file).write_text(code)
    for path in (file for part in parts for file in part.glob("*config.json")):
        told = {"AutoModel": "modeling_own.Own", "AutoConfig": "own.Own", "AutoTokenizer": ["tokenization_own.Own", None]}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": told, "custom_pipeline": "own"}))
    model = pretrained.load(folder)
    with torch.no_grad():
        cond = model.conditioner(TINIES[name].prompts[:1])
        model.codec.decode(model.denoiser(torch.zeros(1, *model.latent_shape), torch.ones(1), cond))
    assert not marker.exists()
    index = folder / "model_index.json"
    component = FOUND[name].component
    index.write_text(json.dumps(json.loads(index.read_text()) | {component: ["own", "Own"]}))
    with pytest.raises(ValueError, match="which no model family takes"):
        pretrained.load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_blocks_are_tapped(teachers, name):
    one, model = TINIES[name], pretrained.load(teachers[name])
    assert all(isinstance(block, torch.nn.Module) for block in model.denoiser.blocks())
    cond, x = model.conditioner(one.prompts[:2]), Rng.of(0).normal((2, *model.latent_shape))
    found = model.denoiser.features(x, torch.tensor([0.5, 0.9]), cond)
    assert len(found.levels) == len(model.denoiser.tapped()) >= 1
    assert all(level.shape[0] == 2 and level.ndim >= 3 and level.std() > 0 for level in found.levels)
    alone = model.denoiser.features(x[1:], torch.tensor([0.9]), cond[1:])
    for level, own in zip(found.levels, alone.levels):
        torch.testing.assert_close(level[1:], own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))  # whoever else is drawn


@pytest.mark.parametrize("name", [name for name in NAMES if TINIES[name].refused])
def test_models_that_no_student_can_be_made_of_are_refused_before_any_weight_is_read(teachers, name, tmp_path):
    for i, (part, changes, sentence) in enumerate(TINIES[name].refused):
        folder = tmp_path / str(i)
        shutil.copytree(teachers[name], folder, ignore=shutil.ignore_patterns("*.safetensors"))
        named = {"": "model_index.json", "scheduler": "scheduler_config.json"}
        config = folder / part / named.get(part, "config.json")
        config.write_text(json.dumps(json.loads(config.read_text()) | dict(changes)))
        with pytest.raises(ValueError, match=sentence):
            pretrained.load(folder)


def test_the_page_of_models_is_that_of_the_families():
    page = Path(__file__).parents[2] / "docs" / "models.md"
    made = family_table.page({name: FOUND[name] for name in NAMES}, TINIES)
    assert page.read_text("utf-8") == made, "python tests/family_table.py > docs/models.md"


OWN = '''
from fewstep.pretrained.families import sd

class Own(sd.StableDiffusion):
    title = "mine"

    def fits(self, configs):
        return configs.of("unet").get("mine") is True

FAMILY = Own()
'''


def test_a_family_of_somebodys_own_is_found_by_its_dotted_path(teachers, tmp_path, monkeypatch):
    """Nothing is edited: the folder is opened by it as soon as the environment names it."""
    (tmp_path / "own_lab").mkdir()
    (tmp_path / "own_lab" / "mine.py").write_text(OWN)
    folder = tmp_path / "mine"
    shutil.copytree(teachers["sd"], folder)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mine": True, "addition_embed_type": "text_time"}))
    configs = family.Configs.read(folder)
    assert family.family_of(configs).title == "SDXL"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSTEP_FAMILIES", "own_lab.mine")
    with pytest.raises(ValueError, match=r"which sdxl and own_lab\.mine both take"):
        family.family_of(configs)
    monkeypatch.setenv("FEWSTEP_FAMILIES", "no_lab.mine")
    with pytest.raises(ValueError, match=r"cannot load the model family 'no_lab\.mine'"):
        family.family_of(configs)
