"""The teacher's recipe: going on from narrower weights, and which noise it is trained at."""

from __future__ import annotations

import pytest
import torch

from fewstep.diffusion.schedule import RectifiedFlow
from fewstep.methods.denoising import Denoising, Options
from fewstep.parts.denoiser import Denoiser
from fewstep.recipes import emoji
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning

NARROW = emoji.Size(channels=(16, 32, 32))


def outputs(network: torch.nn.Module) -> torch.Tensor:
    rng = Rng.of(0)
    x, told = rng.normal((4, 4, 16, 16)), rng.normal((4, 24, 384))
    with torch.no_grad():
        return network.eval()(x, torch.tensor([1.0, 300.0, 700.0, 999.0]), encoder_hidden_states=told)[0]


def test_a_wider_embedding_begins_as_the_same_function():
    torch.manual_seed(0)
    narrow, wide = emoji.unet(NARROW), emoji.unet(emoji.Size(channels=(16, 32, 32), embedding=192))
    before = outputs(narrow)
    away = (outputs(wide) - before).norm() / before.norm()
    emoji.take_over(wide, narrow)
    assert (outputs(wide) - before).norm() / before.norm() < 0.06 < away
    readers = wide.mid_block.resnets[0].time_emb_proj.weight
    assert not torch.equal(readers[:, :64], readers[:, 64:128]), "copies that are equal would stay equal for ever"


def test_the_same_size_is_taken_over_to_the_bit():
    torch.manual_seed(0)
    one, two = emoji.unet(NARROW), emoji.unet(NARROW)
    emoji.take_over(two, one)
    assert torch.equal(outputs(one), outputs(two))


def test_another_network_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"--init .* give a teacher of the same --size"):
        emoji.take_over(emoji.unet(NARROW), emoji.unet(emoji.Size(channels=(16, 48, 32))))
    with pytest.raises(ValueError, match="other blocks"):
        emoji.take_over(emoji.unet(NARROW), emoji.unet(emoji.Size(channels=(16, 32, 32), layers=2)))


def test_high_noise_is_asked_for_as_often_as_its_share_says():
    class Times(Denoiser):
        def __init__(self):
            super().__init__(emoji.schedule_of(dict(emoji.BETAS)), "v")
            self.seen = []

        def predict(self, x_t, t, cond):
            self.seen.append(t)
            return x_t

    told = Conditioning(pooled=torch.zeros(4096, 1))
    batch = Batch(torch.zeros(4096, 1, 2), told, told)
    for share, expected in ((0.0, 0.4), (0.5, 0.7)):
        times = Times()
        Denoising(times, Options(high_noise=share, pure_noise=0.0)).losses("teacher", batch, Rng.of(1))
        assert abs(float((times.seen[0] > 0.6).double().mean()) - expected) < 0.03


def test_a_flow_model_is_refused_under_a_weighting_that_it_has_none_of() -> None:
    flow = Denoiser(RectifiedFlow(), "flow")
    with pytest.raises(ValueError, match=r"min_snr_gamma 5 weighs .* set min_snr_gamma to 0"):
        Denoising(flow, Options(min_snr_gamma=5))
    assert torch.equal(Denoising(flow).weight(torch.ones(3), torch.ones(3)), torch.ones(3)), "the usual is for it, too"
    assert Denoising(Denoiser(RectifiedFlow(), "x0")).weight(torch.ones(1), torch.full((1,), 0.1)).item() == 5.0
    assert torch.equal(Denoising(flow, Options(min_snr_gamma=0)).weight(torch.ones(3), torch.ones(3)), torch.ones(3))
