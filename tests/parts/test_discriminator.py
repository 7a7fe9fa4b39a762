"""The heads, and what stands in front of them: augmentation, standardised features, the teacher's own features."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.data.dataset import spread
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import add
from fewstep.parts.augment import AUGMENTATIONS, Augment
from fewstep.parts.denoiser import Student, Teacher, freeze
from fewstep.parts.discriminator import Discriminator, Head, Options
from fewstep.parts.features import feature
from fewstep.parts.features.classifier import ConvClassifier
from fewstep.parts.features.efficientnet import ImageNetFeatures
from fewstep.parts.features.feature import FeatureNetwork, MediaFeatures, Standardised
from fewstep.parts.features.teacher import TeacherFeatures
from fewstep.parts.features.teacher import load as load_teacher
from fewstep.recipes import assembly, digits
from fewstep.rng import Rng
from fewstep.tensors import Conditioning, Features
from fewstep.training.data import PromptTable, TrainingSet, chunks
from helpers import SIZES, ConvDenoiser, Eyes, make_batch, text_unet, unet

F64 = torch.float64


def features(n: int = 8, axes: int = 2) -> Features:
    return Eyes(axes)(make_batch(n, axes).x0)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("norm", ["local", "group"])
@pytest.mark.parametrize("spectral", [True, False])
def test_one_logit_a_place_of_every_level(axes: int, norm: str, spectral: bool) -> None:
    seen, batch = features(8, axes), make_batch(8, axes)
    heads = Discriminator.over(seen, batch.cond, Options(norm=norm, spectral=spectral))  # type: ignore[arg-type]
    logits = heads(seen, batch.cond)
    assert logits.shape == (8, sum(level[0, 0].numel() for level in seen.levels))
    assert logits.isfinite().all()
    assert logits.std() > 0
    assert any("parametrizations" in name for name, _ in heads.named_parameters()) == spectral


@pytest.mark.parametrize(
    ("options", "width"),
    [(Options(), 8), (Options(text=False), 5), (Options(image=False), 3), (Options(text=False, image=False), 0)],
)
def test_the_condition_holds_what_was_asked_for(options: Options, width: int) -> None:
    seen, batch = features(), make_batch(8)
    heads = Discriminator.over(seen, batch.cond, options).eval()
    assert heads.width == width
    before = heads.eval()(seen, batch.cond)
    other = make_batch(8, seed=9).cond
    text = heads(seen, Conditioning(pooled=other.pooled, image=batch.cond.image))
    image = heads(seen, Conditioning(pooled=batch.cond.pooled, image=other.image))
    assert torch.equal(before, text) == (not options.text)
    assert torch.equal(before, image) == (not options.image)


def test_conditions_of_any_size_weigh_the_same_and_a_hidden_one_weighs_nothing() -> None:
    seen, batch = features(), make_batch(8)
    heads = Discriminator.over(seen, batch.cond).eval()
    assert batch.cond.pooled is not None
    louder = Conditioning(pooled=batch.cond.pooled * 100, image=batch.cond.image)
    torch.testing.assert_close(heads(seen, louder), heads(seen, batch.cond), rtol=1e-4, atol=1e-6)
    condition = heads.condition(louder)
    assert condition is not None
    torch.testing.assert_close(condition[:, :3].pow(2).mean(1), torch.ones(8))
    torch.testing.assert_close(condition[:, 3:].pow(2).mean(1), torch.ones(8))
    hidden = heads.condition(batch.null)
    assert hidden is not None
    assert not hidden.any()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_a_row_of_any_length_is_convolved_in_a_circle(length: int) -> None:
    head = Head(4, 1, 0, Options(norm="group", spectral=False)).double()
    x = Rng.of(0).normal((2, 4, length), F64)
    conv = head.around[0]
    index = (torch.arange(length)[:, None] + torch.arange(-4, 5)) % length
    windows = x[:, :, index]  # [B, C, L, 9]
    wanted = torch.einsum("bclk,ock->bol", windows, conv.weight) + conv.bias[:, None]
    found = head._around(x)  # norm and activation follow the convolution
    torch.testing.assert_close(found, head.around[2](head.around[1](wanted)), rtol=1e-9, atol=1e-9)
    assert head(x, None).shape == (2, length)


def test_group_norm_takes_any_batch_and_keeps_samples_apart() -> None:
    seen, batch = features(9), make_batch(9)
    heads = Discriminator.over(seen, batch.cond, Options(norm="group")).eval()
    together = heads(seen, batch.cond)
    alone = heads(Features(tuple(level[:1] for level in seen.levels)), batch.cond[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="or group norm in the heads"):
        Discriminator.over(seen, batch.cond)(seen, batch.cond)


def test_a_width_of_its_own() -> None:
    seen, batch = features(), make_batch(8)
    heads = Discriminator.over(seen, batch.cond, Options(width=16))
    assert [head.enter[0].out_channels for head in heads.heads] == [16, 16]
    assert heads(seen, batch.cond).shape[0] == 8


def test_heads_do_not_take_other_features_than_theirs() -> None:
    seen, batch = features(), make_batch(8)
    heads = Discriminator.over(seen, batch.cond)
    with pytest.raises(ValueError, match="shorter"):
        heads(Features(seen.levels[:1]), batch.cond)


def test_spectral_norm_bounds_every_convolution() -> None:
    head = Head(4, 2, 3, Options())
    with torch.no_grad():
        head.around[0].parametrizations.weight.original.mul_(50)
    for _ in range(30):
        head(torch.randn(4, 4, 5, 5), torch.randn(4, 3))
    assert float(torch.linalg.matrix_norm(head.around[0].weight.flatten(1), 2).detach()) == pytest.approx(1, abs=0.02)


# augmentation


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_augmentation_is_differentiable_and_treats_each_sample_on_its_own(name: str, axes: int) -> None:
    x = make_batch(4, axes, channels=3).x0.requires_grad_()
    out = Augment([name])(x, Rng.per_sample([1, 2, 3, 4]))
    out.sum().backward()
    assert out.shape == x.shape
    assert not torch.equal(out, x)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    if name != "translation":  # a shift on a tiny axis may leave a sample where it is
        assert all(not torch.equal(a, b) for a, b in zip(out, x))
    third = Augment([name])(x[2:3], Rng.per_sample([3]))
    torch.testing.assert_close(out[2:3], third)


def test_augmentations_do_what_they_say() -> None:
    x = make_batch(64, 2, channels=3).x0
    brighter = AUGMENTATIONS["color"](torch.zeros_like(x), Rng.of(0))
    flat = brighter.flatten(1)
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat), rtol=0, atol=1e-6)
    assert 0.4 < flat.abs().max() <= 0.5
    size = 32
    ramp = torch.arange(size).float().expand(200, 1, size, size)
    moved = AUGMENTATIONS["translation"](ramp, Rng.of(0))
    shifts = (moved - ramp)[:, 0, 0, size // 2]
    assert sorted(set(shifts.tolist())) == list(range(-4, 5)), "up to an eighth, both ways"
    assert moved.min() == 0
    assert moved.max() == size - 1
    holes = AUGMENTATIONS["cutout"](torch.ones(50, 2, 10, 10), Rng.of(0))
    assert ((holes == 0).flatten(1).sum(1) == 2 * 2 * 2).all(), "one box of a fifth of every axis, all channels"


def test_no_augmentation_is_the_identity_and_an_unknown_one_is_named() -> None:
    x = make_batch(2).x0
    assert torch.equal(Augment([])(x, Rng.of(0)), x)
    with pytest.raises(ValueError, match="color, translation, cutout"):
        Augment(["rotate"])


# feature networks


def test_standardised_features_have_mean_zero_and_deviation_one() -> None:
    batches = [(make_batch(16, seed=s).x0 * 2 + 1, Conditioning()) for s in range(4)]
    inner = MediaFeatures(Eyes(2))
    network = Standardised.fit(inner, batches, Rng.of(0))
    assert network.space == "media"
    levels = [network(x, cond, Rng.of(0)).levels for x, cond in batches]
    for k in range(2):
        flat = torch.cat([found[k] for found in levels]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), rtol=0, atol=1e-4)
        torch.testing.assert_close(flat.std(1), torch.ones(len(flat)), rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="at least one batch"):
        Standardised.fit(inner, [], Rng.of(0))


@pytest.mark.parametrize("size", [1, 7, 32, 33])
def test_standardised_features_have_the_moments_of_all_rows_however_they_are_cut(size: int) -> None:
    """33 rows, the last one far out: a short last batch counts by its rows. Numbers far from 0 lose nothing (float64)."""
    x = make_batch(33, channels=3).x0.double() * 1e-3 + 1e5
    x[-1] += 10

    class Raw(MediaFeatures):
        def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
            return Features((x, x[:, :1, 0]))

    network = Standardised.fit(Raw(lambda x: Features(())), ((x[at], Conditioning()) for at in chunks(33, size)), Rng.of(0))
    for level, seen in zip((x, x[:, :1, 0]), network(x, Conditioning(), Rng.of(0)).levels):
        flat = level.transpose(0, 1).flatten(1)
        wanted = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True)
        torch.testing.assert_close(seen.transpose(0, 1).flatten(1), wanted, rtol=1e-6, atol=1e-7)


TEACHER = TeacherFeatures(ConvDenoiser(channels=3))
LITE0 = ImageNetFeatures("efficientnet-lite0", 32)


@pytest.mark.parametrize(("eyes", "n"), [(TEACHER, 256), (LITE0, 512)], ids=["teacher", "eyes"])
def test_features_are_standardised_over_rows_from_all_over_a_sorted_dataset(eyes: assembly.Network, n: int) -> None:
    """The rows that are read are spread evenly: over ten classes, or four vendors, not the first of them."""
    asked: list[int] = []
    media = make_batch(1400, channels=3).x0 + torch.arange(1400).reshape(-1, 1, 1, 1) / 700
    cond = Conditioning(pooled=torch.zeros(1, 3))

    def read(rows: np.ndarray) -> Tensor:
        asked.extend(rows.tolist())
        return media[torch.from_numpy(rows)]

    data = TrainingSet(media, PromptTable(None, cond.pooled), [[0]] * 1400, cond, 8, media=read)
    setting = assembly.Setting(8, 0, "cpu")
    features = assembly.standardised(feature.Options(), eyes, data, setting)
    assert asked == spread(n, 1400)
    assert isinstance(features, Standardised)
    with torch.no_grad():
        seen = features(media[::7], cond[[0] * 200], Rng.of(0)).levels[0]
    assert seen.transpose(0, 1).flatten(1).mean(1).abs().max() < 0.2
    few = replace(data, latents=media[:37], choices=data.choices[:37])
    asked.clear()
    assembly.standardised(feature.Options(), eyes, few, setting)
    assert asked == list(range(37)), "all, where there are no more"


def test_digits_are_standardised_and_warmed_up_over_all_their_classes() -> None:
    """They lie sorted by class, four hundred of each."""
    labels = torch.arange(10).repeat_interleave(60)
    media = 0.1 * Rng.of(0).normal((600, 1, 16, 16)) + labels.reshape(-1, 1, 1, 1) / 5 - 0.9
    data = digits.training_set(media, labels, 16)
    network = ConvClassifier()
    student = Student(digits.denoiser(digits.unet()))
    with torch.no_grad():
        game = digits.add_method(student, Teacher(copy.deepcopy(student.denoiser)), data, network, add.Options())
        features = game.adversary.features
        assert features is not None
        seen = features(media, Conditioning(), Rng.of(0)).levels[0]
        assert seen.mean((0, 2, 3)).abs().max() < 0.02
        pairs = digits.pairs(Teacher(student.denoiser), data, n=20, steps=1)
    assert [rows[0] for rows in pairs.choices] == sorted(2 * list(range(10)))


def gradient_to_the_input_alone(
    network: FeatureNetwork, weights: list[Tensor], x: Tensor, cond: Conditioning
) -> Features:
    seen = network(x.requires_grad_(), cond, Rng.of(0))
    sum(level.pow(2).sum() for level in seen.levels).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(w.grad is None and not w.requires_grad for w in weights)
    return seen


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_frozen_eyes_pass_the_gradient_on(axes: int) -> None:
    eyes, batch = Eyes(axes), make_batch(4, axes)
    eyes.train()
    gradient_to_the_input_alone(MediaFeatures(eyes, Augment()), list(eyes.parameters()), batch.x0, batch.cond)
    assert not eyes.training, "in eval for ever"


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_teachers_own_features_carry_their_noise_level(axes: int) -> None:
    denoiser, batch = ConvDenoiser(axes), make_batch(4, axes)
    network = TeacherFeatures(denoiser)
    seen = gradient_to_the_input_alone(network, list(denoiser.parameters()), batch.x0, batch.cond)
    assert network.space == "latents"
    assert seen.t is not None
    assert len(seen.t.unique()) == 4
    assert seen.levels[1].shape[2:] == SIZES[axes]


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=["cosine", "flow"])
def test_the_noise_in_front_of_the_teacher_is_told_by_its_ratio_to_the_signal(schedule: NoiseSchedule) -> None:
    """On latents of 128 x 128 it is LADD's logit-normal time of a flow; a quarter of the side takes a quarter of it."""

    def ratios(side: int, o: feature.Options) -> Tensor:
        x = torch.zeros(1, 2, side, side).expand(400, -1, -1, -1)
        cond = make_batch(4, 2).cond[torch.zeros(400, dtype=torch.long)]
        with torch.no_grad():
            t = load_teacher(o, ConvDenoiser(2, schedule=schedule))(x, cond, Rng.of(0)).t
        assert t is not None
        return (schedule.sigma(t) / schedule.alpha(t)).log()

    told = feature.Options(noise_mean=0.5, noise_spread=0.7)
    small, tiny = ratios(32, told), ratios(8, told)
    assert float(small.mean()) == pytest.approx(0.5 - math.log(4), abs=0.12)
    assert float(small.std()) == pytest.approx(0.7, abs=0.08)
    torch.testing.assert_close(small - tiny, torch.full_like(small, math.log(4)), rtol=0, atol=1e-6)
    assert feature.Options().noise_mean == feature.Options().noise_spread == 1, "LADD's"


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_heads_that_are_told_the_noise_level_judge_the_same_maps_by_it(axes: int) -> None:
    """LADD's heads know at which t the features were taken; a batch in another order of times gets other logits. It is no
    prompt: a wrong one cannot be told by it."""
    batch = make_batch(4, axes)
    seen = TeacherFeatures(ConvDenoiser(axes))(batch.x0, batch.cond, Rng.of(0))
    assert seen.t is not None
    later = replace(seen, t=seen.t.flip(0))
    torch.manual_seed(0)
    for told in (False, True):
        options = Options(noise_level=told, text=False, image=False, norm="group")
        heads = Discriminator.over(seen, batch.cond, options).eval()
        assert not heads.prompted
        assert torch.equal(heads(seen, batch.cond), heads(later, batch.cond)) == (not told)
    assert Discriminator.over(seen, batch.cond, Options(noise_level=True)).prompted
    clean = replace(seen, t=None)
    assert Discriminator.over(clean, batch.cond, Options(noise_level=True, text=False, image=False)).width == 0


@pytest.mark.parametrize("make", [unet, text_unet])
def test_a_unets_features_are_its_down_blocks_and_its_middle(make) -> None:  # type: ignore[no-untyped-def]
    network = make()
    channels = network.network.config.in_channels
    cond = Conditioning(labels=torch.tensor([0, 1]), tokens=torch.randn(2, 5, 8))
    seen = network.features(torch.randn(2, channels, 8, 8), torch.tensor([0.3, 0.9]), cond)
    assert [level.shape[1] for level in seen.levels] == [8, 16, 16]
    assert not network.network.mid_block._forward_hooks, "no hook stays behind"


def test_a_denoiser_without_features_says_so() -> None:
    from fewstep.diffusion.schedule import Cosine
    from fewstep.parts.denoiser import Denoiser

    with pytest.raises(ValueError, match="choose another feature network"):
        Denoiser(Cosine(), "v").features(torch.zeros(1, 1, 2), torch.zeros(1), Conditioning())


def test_the_small_classifier_learns_and_stays_frozen() -> None:
    rng = Rng.of(0)
    labels = rng.integers((96,), 2)
    media = rng.normal((96, 1, 8, 8)) * 0.3
    media[:, :, :, 4:] += (labels * 2 - 1).reshape(-1, 1, 1, 1).float()
    network = ConvClassifier(1, 2, width=8).fit(media, labels, Rng.of(1), steps=40, batch=32)
    assert (network.classify(media).argmax(1) == labels).float().mean() > 0.95
    assert F.cross_entropy(network.classify(media), labels) < 0.5
    assert not any(p.requires_grad for p in freeze(network).parameters())
