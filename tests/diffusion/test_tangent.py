"""Derivatives in time: of the schedules and of the networks, on the table's timesteps as between them."""

from __future__ import annotations

import pytest
import torch

from fewstep.diffusion.schedule import EDM, Cosine, NoiseSchedule, RectifiedFlow, VariancePreserving
from fewstep.parts.denoiser import Denoiser
from fewstep.pretrained.families.sd3 import SD3Denoiser
from fewstep.recipes.mixture import Points
from fewstep.rng import Rng
from fewstep.tensors import Conditioning, full_precision, snapped
from helpers import stable_diffusion, text_unet

F64 = torch.float64
H = 2e-4
"""A fifth of a table's timestep: two of them lie between two knots, where alpha is a straight line."""
TIMES = torch.tensor([0.25, 0.5, 0.7502, 1.0], dtype=F64)


def onward(t: torch.Tensor) -> torch.Tensor:
    """Which way to step without leaving [0, 1]."""
    return torch.where(t + 2 * H <= 1, H, -H)


@pytest.mark.parametrize(
    "schedule",
    [stable_diffusion(), stable_diffusion(zero=True), VariancePreserving.from_range(n=50), Cosine(), EDM(), RectifiedFlow()],
    ids=["sd", "zero", "fifty", "cosine", "edm", "flow"],
)
@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_a_schedule_has_its_slope_at_the_tables_own_timesteps_too(schedule: NoiseSchedule, name: str) -> None:
    f, h = getattr(schedule, name), onward(TIMES)
    wanted = (4 * f(TIMES + h) - f(TIMES + 2 * h) - 3 * f(TIMES)) / (2 * h)
    value, slope = torch.func.jvp(f, (TIMES,), (torch.ones_like(TIMES),))
    assert torch.equal(value, f(TIMES))
    kept = slice(None, -1 if name == "sigma" and isinstance(schedule, Cosine) else None)  # sin is flat at t = 1
    torch.testing.assert_close(slope[kept], wanted[kept], rtol=2e-3, atol=1e-6)
    t = TIMES.clone().requires_grad_()
    f(t).sum().backward()
    assert t.grad is not None
    torch.testing.assert_close(t.grad, slope)


def test_what_is_snapped_has_the_whole_numbers_bits_and_its_own_slope() -> None:
    x = torch.tensor([0.0004, 1.9991, 2.3, 998.99999], dtype=F64, requires_grad=True)
    assert snapped(x).tolist() == [0, 2, 2.3, 999]
    snapped(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1] * 4


def sd3() -> Denoiser:
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=8, caption_projection_dim=32, pooled_projection_dim=6, out_channels=4, pos_embed_max_size=16,
    )  # fmt: skip
    return SD3Denoiser(network.eval(), RectifiedFlow(), "flow")


@pytest.mark.parametrize(
    "make",
    [
        Points,
        lambda: text_unet("v"),
        lambda: text_unet("eps", stable_diffusion()),
        sd3,
    ],
    ids=["points", "sd v", "sd eps", "sd3"],
)
@pytest.mark.parametrize("t", [0.25, 0.75])
def test_the_tangent_is_the_slope_of_the_estimate(make, t: float) -> None:
    """Against differences of fourth order, along a direction of x_t and of t at once: attention, embeddings and schedule.

    Halfway between two timesteps: a table's alpha is a straight line only from one to the next.
    """
    denoiser = make().double().requires_grad_(False)
    rng, points = Rng.of(0), isinstance(denoiser, Points)
    shape = (2, 2) if points else (2, 4, 8, 8)
    x, dx = rng.normal(shape, F64), rng.normal(shape, F64)
    cond = Conditioning(tokens=rng.normal((2, 3, 8), F64), pooled=rng.normal((2, 6), F64))
    times, dt = torch.full((2,), t + 0.0005, dtype=F64), torch.tensor([1.0, -0.5], dtype=F64)
    x0, slope = denoiser.tangent(x, times, cond, dx, dt)
    torch.testing.assert_close(x0, denoiser(x, times, cond), rtol=0, atol=1e-12)
    near, far = (
        denoiser(x + h * dx, times + h * dt, cond) - denoiser(x - h * dx, times - h * dt, cond) for h in (H, 2 * H)
    )
    assert ((8 * near - far) / (12 * H) - slope).norm() < 1e-3 * slope.norm()
    assert slope.norm() > 0


def test_a_networks_timestep_has_its_slope_where_it_is_rounded_too() -> None:
    """A multistep solver's whole numbers, and a table's: 900 and 1000 timesteps from clean to noise."""
    t = torch.tensor([0.5, 0.7502], dtype=F64)
    for denoiser, n, values in (
        (text_unet("flow", RectifiedFlow(1000, last=0.9)), 900, [450, 675]),
        (text_unet("v"), 1000, [499, 749.2]),
    ):
        told, slope = torch.func.jvp(denoiser.told, (t,), (torch.ones_like(t),))
        assert told.tolist() == pytest.approx(values)
        assert slope.tolist() == [n, n]


def test_autocast_is_off_where_full_precision_is_asked_for() -> None:
    x = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
