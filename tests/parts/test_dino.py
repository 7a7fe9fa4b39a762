"""DINOv2 as a feature network, with random weights: what is tapped, how it is loaded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import foreign
from fewstep.parts.features.dinov2 import DinoFeatures, suitable
from fewstep.parts.features.feature import MediaFeatures, Standardised
from fewstep.rng import Rng
from fewstep.tensors import Conditioning

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("dino")
    return folder, foreign.dino(folder)


def media(n: int = 2, side: int = 56) -> torch.Tensor:
    return Rng.of(0).normal((n, 3, side, side)).tanh()


def test_levels_are_patch_tokens_with_the_class_token_added_after_the_embedding_and_blocks_2_5_8_11(saved):
    folder, network = saved
    eyes = DinoFeatures.load(folder)
    x = media()
    inside: list[torch.Tensor] = []
    pixels = ((x + 1) / 2 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    with torch.no_grad():  # by hand: embeddings, then block after block
        hidden = network.embeddings(pixels)
        inside.append(hidden)
        for i, block in enumerate(network.encoder.layer):
            hidden = block(hidden)
            if i in (2, 5, 8, 11):
                inside.append(hidden)
        pooled = network.layernorm(hidden)[:, 0]
        seen = eyes(x)
    assert eyes.taps == (2, 5, 8, 11)
    assert [tuple(level.shape) for level in seen.levels] == [(2, 16, 16)] * 5  # 4 x 4 patches
    for level, tokens in zip(seen.levels, inside):
        torch.testing.assert_close(level, (tokens[:, 1:] + tokens[:, :1]).transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_positions_are_interpolated_bicubically_to_the_resolution(saved):
    folder, network = saved
    eyes = DinoFeatures.load(folder, resolution=84)
    x = media(side=84)
    with torch.no_grad():
        level = eyes(x).levels[0]
        pixels = ((x + 1) / 2 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        patches = network.embeddings.patch_embeddings.projection(pixels)
        table = network.embeddings.position_embeddings
        grid = table[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
        places = F.interpolate(grid, (6, 6), mode="bicubic", align_corners=False)
        first = network.embeddings.cls_token[0, 0] + table[0, 0]
    wanted = (patches + places).flatten(2) + first.view(1, -1, 1)
    torch.testing.assert_close(level, wanted, atol=1e-5, rtol=1e-5)


def test_pictures_are_resized_to_the_resolution(saved):
    eyes = DinoFeatures.load(saved[0])
    small = media(side=20)
    large = F.interpolate(small, (56, 56), mode="bicubic", antialias=True)
    torch.testing.assert_close(eyes(small).pooled, eyes(large).pooled)


@pytest.mark.parametrize("size", [(40, 60), (60, 40)], ids=["lying", "standing"])
def test_oblong_pictures_keep_their_shape(saved, size):
    eyes = DinoFeatures.load(saved[0], resolution=84)
    oblong = Rng.of(0).normal((2, 3, *size)).tanh()
    large = F.interpolate(oblong, (70, 98) if size == (40, 60) else (98, 70), mode="bicubic", antialias=True)
    torch.testing.assert_close(eyes(oblong).pooled, eyes(large).pooled)
    assert eyes(oblong).levels[0].shape == (2, 16, 5 * 7)


def test_it_is_frozen_for_ever_and_gradients_reach_the_pictures(saved):
    eyes = DinoFeatures.load(saved[0])
    look = Standardised.fit(MediaFeatures(eyes), [(media(8), Conditioning())], Rng.of(0))
    eyes.train()
    assert not any(module.training for module in eyes.modules())
    x = media().requires_grad_(True)
    sum(level.pow(3).sum() for level in look(x, Conditioning(), Rng.of(0)).levels).backward()
    assert x.grad.abs().flatten(1).sum(1).min() > 0
    assert all(p.grad is None and not p.requires_grad for p in eyes.parameters())


OLD = (("q_proj", "attention.query"), ("k_proj", "attention.key"), ("v_proj", "attention.value"), ("o_proj", "output.dense"))


def of_old(name: str) -> str:
    for new, old in OLD:
        name = name.replace(f".attention.{new}.", f".attention.{old}.")
    return name


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 has the old names")
def test_the_layout_of_the_hub_loads_and_a_state_of_the_old_names_is_refused(saved, tmp_path):
    """transformers 5 renamed the attention's keys: with strict=False the attention would stay random without a word."""
    folder, network = saved
    state = network.state_dict()
    old = {of_old(name): value for name, value in state.items()}
    assert sum(name not in state for name in old) == 12 * 4 * 2
    lax = type(network)(network.config)
    lax.load_state_dict(old, strict=False)
    assert (lax(media()).pooler_output - network(media()).pooler_output).abs().max() > 0.01  # the trap
    with pytest.raises(ValueError, match=r"not the weights of this DINOv2: 192 keys differ"):
        DinoFeatures.from_state(network.config, old)
    right = DinoFeatures.from_state(network.config, state)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file({k: v.clone() for k, v in old.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    hub = DinoFeatures.load(tmp_path)  # a file, whose names transformers translates
    torch.testing.assert_close(hub(media()).pooled, right(media()).pooled)
    assert hub.fingerprint == right.fingerprint


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_with_one_wrong_weight_is_refused(saved, tmp_path, change):
    folder, _ = saved
    state = load_file(folder / "model.safetensors")
    name = "encoder.layer.3.mlp.fc1.weight"
    if change == "missing":
        del state[name]
    elif change == "extra":
        state["encoder.layer.3.mlp.fc9.weight"] = state[name].clone()
    else:
        state[name] = state[name][:5].clone()
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"not the weights of this DINOv2: 1 keys differ.*fc"):
        DinoFeatures.load(tmp_path)


def test_a_grey_picture_is_seen_as_the_same_in_colour(saved):
    dino = DinoFeatures.load(saved[0])
    grey = torch.linspace(-1, 1, 2 * 56 * 56).reshape(2, 1, 56, 56).sin().requires_grad_()
    shown, colour = dino(grey).pooled, dino(grey.repeat(1, 3, 1, 1)).pooled
    assert torch.equal(shown, colour)
    shown.sum().backward()
    assert grey.grad.abs().max() > 0


def test_what_cannot_be_looked_at_gets_one_sentence(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(ValueError, match=r"download facebook/dinov2-small.*--features-folder"):
        DinoFeatures.load(tmp_path)
    with pytest.raises(ValueError, match="multiple of its patch size 14, such as --resolution 70"):
        DinoFeatures.load(folder, resolution=64)
    with pytest.raises(ValueError, match=r"or grey \[B, 1, H, W\], not at \[1, 2, 56, 56\]"):
        DinoFeatures.load(folder)(torch.zeros(1, 2, 56, 56))
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="holds a vit, not DINOv2"):
        DinoFeatures.load(tmp_path)


@pytest.mark.parametrize(("side", "wanted"), [(512, 518), (1024, 518), (64, 70), (16, 28), (224, 224), (500, 504)])
def test_the_resolution_for_a_side_is_a_multiple_of_the_patch(side, wanted):
    assert suitable(side) == wanted
