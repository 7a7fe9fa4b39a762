"""The border to the two libraries says nothing untrue: what it cannot read it refuses by name, what it reads it reads whole."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import foreign
from fewstep import pretrained
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.parts.conditioner import Conditioner
from fewstep.pretrained.networks import VaeCodec
from fewstep.pretrained.safety import SafetyChecker
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from fewstep.training.data import prompt_table
from foreign import ASKED, SEEDS, numpy, stock, theirs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three teachers."""
    folder = tmp_path_factory.mktemp("border")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(folder / "cache"))
        for make in (foreign.sd1, foreign.sdxl, foreign.sd3):
            make(folder)
        yield folder


def copy(root: Path, target: Path, teacher: str, file: str = "", **changes: Any) -> Path:
    """A teacher's folder, with some lines of one of its configs changed."""
    shutil.copytree(root / teacher, target)
    if file:
        path = target / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


# the prompt cache


def one_letter(conditioner: Any) -> None:
    """Train the embedding of "z" alone: a causal encoder makes the same of the empty prompt as before."""
    vocabulary = conditioner.tokenizer.get_vocab()
    with torch.no_grad():
        conditioner.encoder.get_input_embeddings().weight[vocabulary["z</w>"]] += torch.arange(8)


def test_the_prompt_cache_never_serves_another_encoders_encodings(root, tmp_path):
    """Two encoders that agree on the empty prompt: told apart by their weights, not by what they make of nothing."""
    prompts, told = ["a red z", "a cat"], []

    def table(conditioner: Conditioner) -> Any:
        told.clear()
        return prompt_table(prompts, conditioner, tmp_path, lambda what, done, total: told.append(what))

    first = table(pretrained.load(root / "sd1").conditioner)
    assert told
    again = table(pretrained.load(root / "sd1").conditioner)
    assert not told, "the same encoder's encodings are kept"
    assert torch.equal(again.tokens, first.tokens)
    trained = pretrained.load(root / "sd1").conditioner
    one_letter(trained)
    assert torch.equal(trained([""]).tokens, pretrained.load(root / "sd1").conditioner([""]).tokens)
    other = table(trained)
    assert told
    wanted = trained(prompts)
    torch.testing.assert_close(other.tokens.float(), wanted.tokens, atol=1e-2, rtol=1e-2)
    assert (other.tokens - first.tokens).abs().max() > 0.1


def projection(conditioner: Any) -> None:
    conditioner.encoders[1].text_projection.weight.data *= 1.5


def letters_of_t5(conditioner: Any) -> None:
    conditioner.t5.get_input_embeddings().weight.data[5] += 1.0


def shorter(conditioner: Any) -> None:
    conditioner.tokenizer.model_max_length = 12


def unmasked(conditioner: Any) -> None:
    conditioner._masked = not conditioner._masked


def narrower(conditioner: Any) -> None:
    conditioner.width += 4


@pytest.mark.parametrize(
    ("teacher", "change"),
    [("sd1", one_letter), ("sd1", shorter), ("sd1", unmasked), ("sdxl", projection), ("sd3", letters_of_t5), ("sd3", narrower)],
)
def test_whatever_decides_an_encoding_is_in_its_key(root, teacher, change):
    conditioner: Any = pretrained.load(root / teacher).conditioner
    key = conditioner.key(["a z", "b"])
    assert key == pretrained.load(root / teacher).conditioner.key(["a z", "b"])
    assert key not in (conditioner.key(["b", "a z"]), conditioner.key(["a z"]))
    change(conditioner)
    assert conditioner.key(["a z", "b"]) != key


def test_a_conditioner_that_names_no_key_is_asked_every_time(tmp_path):
    class Own(Conditioner):
        def forward(self, prompts: Any) -> Conditioning:
            rows = torch.tensor([[float(len(p))] for p in prompts])
            return Conditioning(tokens=rows.unsqueeze(1), pooled=rows)

    assert prompt_table(["ab"], Own(), tmp_path).pooled.tolist() == [[2.0]]
    assert list(tmp_path.iterdir()) == []


# the VAE's statistics

MEAN, STD = [0.3, -0.2, 0.1, 0.4], [1.5, 0.7, 1.1, 0.9]


def test_latents_mean_and_std_are_read_both_ways_as_sdxls_pipeline_reads_them(root, tmp_path):
    from diffusers import StableDiffusionXLImg2ImgPipeline

    pipe = stock(root / "sdxl")
    vae = foreign.kl_vae(2, 4, scaling_factor=0.5, latents_mean=MEAN, latents_std=STD)
    with torch.no_grad():  # a posterior so narrow that a draw from it is its mean
        vae.quant_conv.weight[4:].zero_()
        vae.quant_conv.bias[4:].fill_(-60.0)
    pipe.vae = vae
    folder = tmp_path / "sdxl"
    pipe.save_pretrained(folder, safe_serialization=True)
    codec = pretrained.load(folder).codec.double()
    pipe = stock(folder).to(torch.float64)
    call = {"num_inference_steps": 2, "guidance_scale": 0.0}
    latents = torch.as_tensor(theirs(pipe, **call, latents=Rng.of(1).normal((2, 4, 8, 8)).double(), output_type="latent"))
    assert latents.dtype == torch.float64
    wanted = theirs(pipe, **call, latents=Rng.of(1).normal((2, 4, 8, 8)).double())
    made = numpy(codec.decode(latents).clamp(-1, 1).detach())
    assert wanted.std() > 0.01
    np.testing.assert_allclose(made, wanted, atol=1e-6)  # theirs becomes float32 on its way to numpy
    pictures = Rng.of(2).normal((2, 3, 16, 16)).double().tanh()
    again = StableDiffusionXLImg2ImgPipeline(**pipe.components)
    stocks = again.prepare_latents(pictures, torch.tensor([999]), 2, 1, torch.float64, torch.device("cpu"), None, False)
    torch.testing.assert_close(codec.encode(pictures), stocks, atol=1e-5, rtol=1e-5)  # their draw is 3e-7 wide
    plain = pretrained.VaeCodec(foreign_vae_without(vae)).double()
    assert (plain.encode(pictures) - stocks).abs().max() > 0.1


def foreign_vae_without(vae: Any) -> Any:
    plain = foreign.kl_vae(2, 4, scaling_factor=0.5).double()
    plain.load_state_dict(vae.state_dict())
    return plain


@pytest.mark.parametrize(("name", "value"), [("scaling_factor", "x"), ("shift_factor", [0.1]), ("scaling_factor", math.inf)])
def test_a_factor_that_is_no_number_is_named_with_its_file(name, value):
    vae = foreign.kl_vae(2, 4)
    vae.register_to_config(**{name: value})
    with pytest.raises(ValueError, match=rf"the VAE's {name} is .*: write a number in vae/config.json"):
        VaeCodec(vae)


@pytest.mark.parametrize(("teacher", "idle"), [("sd1", {"latents_mean": MEAN, "latents_std": STD, "shift_factor": 0.1}),
                                               ("sd3", {"latents_mean": MEAN, "latents_std": STD})])  # fmt: skip
def test_statistics_that_the_stock_pipeline_leaves_alone_are_left_alone_with_a_word(root, tmp_path, teacher, idle):
    folder = copy(root, tmp_path / teacher, teacher, "vae/config.json", **idle)
    with pytest.warns(UserWarning, match=f"{list(idle)[-1] if teacher == 'sd3' else 'shift_factor'}.*not used here either"):
        codec = pretrained.load(folder).codec
    latents = Rng.of(0).normal((1, 4, 8, 8))
    torch.testing.assert_close(codec.decode(latents), pretrained.load(root / teacher).codec.decode(latents))
    pipe = stock(folder)
    made = theirs(pipe, num_inference_steps=1, guidance_scale=0.0, output_type="latent")
    wanted = theirs(pipe, num_inference_steps=1, guidance_scale=0.0)
    with torch.no_grad():
        np.testing.assert_allclose(numpy(codec.decode(torch.as_tensor(made)).clamp(-1, 1)), wanted, atol=1e-5)


def test_statistics_of_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match="latents_std has 3 numbers for 4 channels"):
        pretrained.VaeCodec(foreign.kl_vae(2, 4, latents_mean=MEAN, latents_std=STD[:3]))


# times


@pytest.mark.parametrize("n", [100, 1000])
def test_a_flow_network_is_told_the_time_in_the_units_of_its_own_table(root, tmp_path, n):
    folder = copy(root, tmp_path / "sd3", "sd3", "scheduler/scheduler_config.json", num_train_timesteps=n)
    wanted = theirs(stock(folder), num_inference_steps=1, guidance_scale=3.0)
    with pytest.warns(UserWarning, match=r"has no student_card"):
        pipeline = Pipeline.open(folder)
    np.testing.assert_allclose(numpy(pipeline(Request(ASKED, SEEDS, 1, guidance_scale=3.0))), wanted, atol=1e-4)
    told: list[float] = []
    pipeline.model.denoiser.network.register_forward_pre_hook(
        lambda module, args, kwargs: told.extend(kwargs["timestep"].tolist()), with_kwargs=True
    )
    pipeline(Request(ASKED, SEEDS, 4, guidance_scale=1.0))
    shifted = [3 * t / (1 + 2 * t) for t in (1, 0.75, 0.5, 0.25)]  # by its scheduler's shift of 3
    assert told == pytest.approx([n * sigma for sigma in shifted for _ in ASKED], rel=1e-6)


def test_a_flow_unet_counts_its_time_by_its_schedule():
    network = foreign.unet(8)
    denoiser = pretrained.UNetDenoiser(network, pretrained.schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler",
                                                                        "num_train_timesteps": 50}), "flow")  # fmt: skip
    assert denoiser.told(torch.tensor([1.0, 0.5])).tolist() == [50, 25]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"timestep_type": "continuous", "prediction_type": "v_prediction"}, "told the logarithm of the noise"),
        ({"invert_sigmas": True, "_class_name": "FlowMatchEulerDiscreteScheduler"}, "counts its time backwards"),
        ({"snr_shift_scale": 3.0}, "betas are shifted"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler", "sigma_data": 1.0}, "give an eps, v or flow model"),
        ({"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.002}, "give an eps, v or flow model"),
        ({"_class_name": "IPNDMScheduler", "num_train_timesteps": 1000}, "holds no betas"),
    ],
)
def test_a_schedulers_other_times_are_refused(config, sentence):
    """What a stock scheduler tells or scales in another way would be drawn wrong without a word."""
    with pytest.raises(ValueError, match=sentence):
        pretrained.schedule_of(config)


def test_continuous_timesteps_of_an_eps_model_are_its_discrete_ones():
    """As in diffusers, where they are another thing for v alone."""
    from diffusers import EulerDiscreteScheduler

    config = {"timestep_type": "continuous", "beta_start": 0.00085, "beta_end": 0.012}
    assert EulerDiscreteScheduler(**config).timesteps[0] == 999
    pretrained.schedule_of(config)
    assert EulerDiscreteScheduler(**config, prediction_type="v_prediction").timesteps[0] < 2


# weights

WEIGHTS = {
    "unet": "diffusion_pytorch_model", "transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
    "text_encoder": "model", "text_encoder_2": "model", "text_encoder_3": "model",
}  # fmt: skip


def change_weights(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / part / f"{WEIGHTS.get(part, 'model')}.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Take away the first weight whose name holds this one."""
    return lambda state: state.pop(next(key for key in sorted(state) if name in key))


def cut(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    """Make that weight one row shorter."""

    def change(state: dict[str, torch.Tensor]) -> None:
        key = next(key for key in sorted(state) if name in key)
        state[key] = state[key][:-1].clone()

    return change


@pytest.mark.parametrize("harm", [drop, cut])
@pytest.mark.parametrize(
    ("teacher", "part", "name"),
    [
        ("sd1", "unet", "mid_block.resnets.0.conv1.weight"),
        ("sd1", "vae", "decoder.conv_out.weight"),
        ("sd1", "text_encoder", "layers.1.mlp.fc1.weight"),
        ("sdxl", "text_encoder_2", "text_projection.weight"),
        ("sd3", "transformer", "transformer_blocks.2.attn.to_q.weight"),
        ("sd3", "text_encoder_3", "SelfAttention.q.weight"),
        ("sd3", "text_encoder_3", "shared.weight"),
    ],
)
def test_a_weight_that_would_be_random_is_refused_by_name(root, tmp_path, teacher, part, name, harm):
    folder = copy(root, tmp_path / "b", teacher)
    change_weights(folder, part, harm(name))
    with pytest.raises(ValueError, match=rf"b/{part} lacks \d weight.*{name.split('.')[-2]}.*would be random"):
        pretrained.load(folder)


def test_the_safety_checkers_weights_are_whole_too(tmp_path):
    foreign.safety_checker(tmp_path, Image.new("RGB", (16, 16)))
    SafetyChecker(tmp_path)
    change_weights(tmp_path, "safety_checker", drop("visual_projection"))
    with pytest.raises(ValueError, match=r"safety_checker lacks 1 weight \(visual_projection\.weight\)"):
        SafetyChecker(tmp_path)


def test_the_sentence_encoders_weights_are_whole_too(tmp_path):
    from bundles import text_folder

    folder = text_folder(tmp_path)
    change_weights(folder, "text_encoder", drop("layer.1.output.dense.weight"))
    with pytest.raises(ValueError, match=r"lacks 1 weight \(encoder\.layer\.1\.output\.dense\.weight\)"):
        pretrained.text_conditioner(folder)


def test_weights_that_nothing_reads_are_told_and_those_that_are_counted_anew_are_not(root, tmp_path):
    folder = copy(root, tmp_path / "b", "sd1")
    change_weights(folder, "text_encoder", lambda s: s.update({"text_model.embeddings.position_ids": torch.arange(16)[None]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pretrained.load(folder)
    change_weights(folder, "text_encoder", lambda s: s.update({"head.\x1b[2Jweight": torch.zeros(2)}))
    with pytest.warns(UserWarning, match=r"holds 1 weight \(head\.\\x1b\[2Jweight\) that its config has no place for"):
        pretrained.load(folder)


def test_a_tied_weight_is_there_if_either_of_its_names_is():
    from fewstep.pretrained.weights import random_ones

    network = nn.Module()
    network.a, network.b = nn.Linear(2, 2), nn.Linear(2, 2)
    network.b.weight = network.a.weight
    network.register_buffer("position_ids", torch.arange(2))
    assert random_ones(network, ["b.weight", "position_ids"]) == []
    assert random_ones(network, ["a.weight", "b.weight"]) == ["a.weight", "b.weight"]
    assert random_ones(network, ["a.bias"]) == ["a.bias"]
