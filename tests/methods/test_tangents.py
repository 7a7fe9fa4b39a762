"""An estimate along a trajectory: its derivative and differences, what they tend to and do not hear; the average that says it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import meanflow, scm, tangents
from fewstep.parts.denoiser import Denoiser, Student, Teacher, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims
from helpers import Gaussian, gradients, slope, stable_diffusion
from method_parts import built

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = 0.5, 0.3


BUILD = {scm: scm.ContinuousConsistency, meanflow: meanflow.MeanFlow}
BOTH = pytest.mark.parametrize("method", [scm, meanflow])
SCHEDULES = pytest.mark.parametrize(
    "schedule", [Cosine(), RectifiedFlow(), stable_diffusion()], ids=["cosine", "flow", "sd"]
)


def points(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Teacher, Batch]:
    """Noised samples of a Gaussian, its exact teacher, and the samples."""
    x0 = MEAN + STD * Rng.of(0).normal((len(t), 1, 5), F64)
    x_t = noise_to(schedule, x0, Rng.of(1).normal_like(x0), t)
    return x_t, Teacher(Gaussian(schedule, MEAN, STD)), Batch(x0, NOBODY, NOBODY)


def exact(denoiser: Denoiser, t: Tensor) -> tangents.Along:
    x_t, teacher, batch = points(denoiser.schedule, t)
    return tangents.along(denoiser, teacher, x_t, t, tangents.scales(denoiser.schedule, t, x_t), batch)


def difference(denoiser: Denoiser, t: Tensor, length: float) -> Tensor:
    """The same derivative over so much of the time."""
    x_t, teacher, batch = points(denoiser.schedule, t)
    under = tangents.below(denoiser, teacher, x_t, t, t - length, batch)
    return (denoiser(x_t, t, NOBODY) - under) / length


@SCHEDULES
def test_a_difference_tends_to_the_derivative(schedule: NoiseSchedule) -> None:
    """With its length."""
    t, denoiser = torch.linspace(0.3, 0.97, 8, dtype=F64), Gaussian(schedule, MEAN, STD)
    whole = exact(denoiser, t).dx0
    lengths = [0.04, 0.02, 0.01]
    away = [float((difference(denoiser, t, h) - whole).abs().max()) for h in lengths]
    assert slope(lengths, away) == pytest.approx(1, abs=0.2)
    assert whole.abs().max() > 0.1


class Off(Gaussian):
    """Says one more of everything, of clean data too."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        return super().predict(x_t, t, cond) + 1


def test_clean_data_is_its_own_estimate() -> None:
    """One step of the teacher down to 0 leads to its estimate, whatever the student says."""
    t = torch.tensor([0.02, 0.05], dtype=F64)
    x_t, teacher, batch = points(Cosine(), t)
    under = tangents.below(Off(Cosine(), MEAN, STD), teacher, x_t, t, 0 * t, batch)
    torch.testing.assert_close(under, teacher(x_t, t, NOBODY, NOBODY))


class Waves(Gaussian):
    """A Gaussian's denoiser that is told its time in a fast wave, a timestep of a thousand long."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        return super().predict(x_t, t, cond) + match_dims(0.01 * torch.sin(2 * torch.pi * 1000 * t), x_t)


def test_fast_waves_of_the_time_drown_the_exact_derivative_and_not_a_difference() -> None:
    """A wave of a hundredth has a slope of 63. Over fifty of its lengths nothing is left of it."""
    t = torch.linspace(0.3, 0.95, 14, dtype=F64) + 3e-4
    smooth, waves = Gaussian(Cosine(), MEAN, STD), Waves(Cosine(), MEAN, STD)
    whole = exact(smooth, t).dx0
    assert float((exact(waves, t).dx0 - whole).abs().mean()) > 10 * float(whole.abs().mean())
    assert float((difference(waves, t, 0.05) - difference(smooth, t, 0.05)).abs().max()) < 1e-6


@BOTH
def test_fast_waves_make_the_target_of_the_exact_derivative_large(method: Any) -> None:
    batch = Batch(MEAN + STD * Rng.of(0).normal((64, 1, 2), F64), NOBODY, NOBODY)

    def error(**options: Any) -> float:
        own = Student(Waves(Cosine(), MEAN, STD), (1.0, 0.5))
        own.denoiser.weight = torch.nn.Parameter(torch.zeros(()))
        o = method.Options(times=(0.3, 0.95), own_times=0.0, **options)
        made = BUILD[method](own, Teacher(Gaussian(Cosine(), MEAN, STD)), o)
        made.losses("student", batch, Rng.of(1))
        return float(made.observations()["error"])

    raw = {"normalise": False} if method is scm else {}
    assert error(difference=0.0, **raw) > 10 * error(difference=0.05)


class Map(Denoiser):
    """Where a trajectory of the Gaussian ends."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        a, s = (match_dims(f(t), x_t) for f in (self.schedule.alpha, self.schedule.sigma))
        return MEAN + STD * (x_t - a * MEAN) / (a * a * STD * STD + s * s).sqrt()


def residual(method: Any, denoiser: Denoiser, length: float) -> Tensor:
    """How far the target lies from the student's own velocity, at pure noise too."""
    t = torch.tensor([0.3, 0.45, 0.6, 0.8, 0.95, 1.0], dtype=F64)
    x_t, teacher, batch = points(denoiser.schedule, t)
    at = tangents.scales(denoiser.schedule, t, x_t)
    made = BUILD[method](Student(denoiser, (1.0,)), teacher, method.Options(difference=length))
    own = method.velocity(scm.angle(at) if method is scm else meanflow.path(at), x_t, denoiser(x_t, t, NOBODY))
    return own - made.wanted(x_t, t, at, batch)


@BOTH
@SCHEDULES
def test_the_true_map_is_its_own_target_up_to_one_step_of_the_teacher(schedule: NoiseSchedule, method: Any) -> None:
    """Which is wrong by the square of its length. Another map, the teacher itself, is further from its own."""
    lengths = [0.08, 0.04, 0.02]
    away = [float(residual(method, Map(schedule, "x0"), h)[:-1].abs().max()) for h in lengths]
    assert slope(lengths, away) == pytest.approx(2, abs=0.3)
    assert away[-1] < 0.1 * float(residual(method, Gaussian(schedule, MEAN, STD), lengths[-1]).abs().max())


@SCHEDULES
def test_the_target_of_meanflow_is_alpha_flows(schedule: NoiseSchedule) -> None:
    """``alpha v + (1 - alpha) u(z_s)`` (arXiv 2510.20771), for ``alpha`` the share of the way that is one step with v."""
    t, denoiser = torch.tensor([0.3, 0.6, 0.95], dtype=F64), Gaussian(schedule, MEAN, 2 * STD)
    x_t, teacher, batch = points(schedule, t)
    here, down = (meanflow.path(tangents.scales(schedule, s, x_t)) for s in (t, t - 0.1))
    made = meanflow.MeanFlow(Student(denoiser, (1.0,)), teacher, meanflow.Options(difference=0.1))
    v = meanflow.velocity(here, x_t, teacher(x_t, t, NOBODY, NOBODY))
    x_s = down.scale * (x_t / here.scale + (down.tau - here.tau) * v)
    u = meanflow.velocity(down, x_s, denoiser(x_s, t - 0.1, NOBODY))
    alpha = 1 - down.tau / here.tau
    wanted = made.wanted(x_t, t, tangents.scales(schedule, t, x_t), batch)
    torch.testing.assert_close(wanted, alpha * v + (1 - alpha) * u)
    assert float((v - u).abs().max()) > 0.05


@pytest.mark.parametrize("difference", [0.0, 0.1])
@pytest.mark.parametrize("name", ["scm", "meanflow"])
def test_the_target_is_a_moving_average_of_the_student(name: str, difference: float) -> None:
    """It alone says where the student is to go, gets no gradient, and is drawn towards the student after every step."""
    made, parts = built(name, target_decay=0.75, difference=difference)
    (target,) = made.followers.values()
    batch, own = parts.data(0), made.players["student"].network

    def error() -> float:
        made.losses("student", batch, Rng.of(0))["consistency"].backward()
        return float(made.observations()["error"])

    before, first = error(), [p.clone() for p in target.parameters()]
    assert not gradients(target)
    with torch.no_grad():
        for p in target.parameters():
            p.mul_(1.5)
    assert error() != pytest.approx(before, rel=0.01)
    with torch.no_grad():
        for p, q, was in zip(target.parameters(), own.parameters(), first, strict=True):
            p.copy_(was)
            q.add_(1.0)
    made.after_step(0)
    for p, was in zip(target.parameters(), first, strict=True):
        torch.testing.assert_close(p, was + 0.25)
    assert not built(name, target_decay=0.0)[0].followers
