"""The derivative of an estimate along a trajectory, by differences: what it tends to, where it ends, what it does not hear."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import meanflow, scm, tangents
from fewstep.parts.denoiser import Denoiser, Student, Teacher, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims
from helpers import Gaussian, slope, stable_diffusion

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = 0.5, 0.3


def found(denoiser: Denoiser, t: Tensor, difference: float) -> tangents.Along:
    schedule = denoiser.schedule
    x0 = MEAN + STD * Rng.of(0).normal((len(t), 1, 5), F64)
    x_t = noise_to(schedule, x0, Rng.of(1).normal_like(x0), t)
    at = tangents.scales(schedule, t, x_t)
    teacher = Teacher(Gaussian(schedule, MEAN, STD))
    return tangents.along(Student(denoiser, (1.0,)), teacher, x_t, t, at, Batch(x0, NOBODY, NOBODY), difference)


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), stable_diffusion()], ids=["cosine", "flow", "sd"])
def test_a_difference_tends_to_the_derivative(schedule: NoiseSchedule) -> None:
    """With its length; over none at all it is taken exactly."""
    t = torch.linspace(0.3, 0.97, 8, dtype=F64)
    exact = found(Gaussian(schedule, MEAN, STD), t, 0.0)
    lengths = [0.04, 0.02, 0.01]
    away = [float((found(Gaussian(schedule, MEAN, STD), t, h).dx0 - exact.dx0).abs().max()) for h in lengths]
    assert slope(lengths, away) == pytest.approx(1, abs=0.2)
    assert exact.dx0.abs().max() > 0.1


def test_a_difference_ends_at_clean_data_which_is_its_own_estimate() -> None:
    """Below its length it goes down to 0. There one step of the teacher has led to its estimate, whatever the student says."""
    t = torch.tensor([0.02, 0.05], dtype=F64)
    at = found(Gaussian(Cosine(), MEAN, 2 * STD), t, 0.1)
    torch.testing.assert_close(at.dx0, (at.x0 - at.guided) / match_dims(t, at.x0))


class Waves(Gaussian):
    """A Gaussian's denoiser that is told its time in a fast wave, a timestep of a thousand long."""

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        return super().predict(x_t, t, cond) + match_dims(0.01 * torch.sin(2 * torch.pi * 1000 * t), x_t)


def test_fast_waves_of_the_time_drown_the_exact_derivative_and_not_a_difference() -> None:
    """A wave of a hundredth has a slope of 63. Over fifty of its lengths nothing is left of it."""
    t = torch.linspace(0.3, 0.95, 14, dtype=F64) + 3e-4
    smooth, waves = Gaussian(Cosine(), MEAN, STD), Waves(Cosine(), MEAN, STD)
    exact = found(smooth, t, 0.0).dx0
    assert float((found(waves, t, 0.0).dx0 - exact).abs().mean()) > 10 * float(exact.abs().mean())
    assert float((found(waves, t, 0.05).dx0 - found(smooth, t, 0.05).dx0).abs().max()) < 1e-6


@pytest.mark.parametrize("method", [scm, meanflow])
def test_a_method_takes_the_derivative_as_it_is_told(method: object) -> None:
    """Waves make the target of the exact derivative large."""
    build = scm.ContinuousConsistency if method is scm else meanflow.MeanFlow
    batch = Batch(MEAN + STD * Rng.of(0).normal((64, 1, 2), F64), NOBODY, NOBODY)

    def size(difference: float) -> float:
        own = Student(Waves(Cosine(), MEAN, STD), (1.0, 0.5))
        own.denoiser.weight = torch.nn.Parameter(torch.zeros(()))
        made = build(own, Teacher(Gaussian(Cosine(), MEAN, STD)), method.Options(times=(0.3, 0.95), difference=difference))  # type: ignore[attr-defined]
        made.losses("student", batch, Rng.of(1))
        (value,) = made.observations().values()
        return value

    assert size(0.0) > 10 * size(0.05)
