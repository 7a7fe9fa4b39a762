"""Continuous-time consistency against a Gaussian, whose consistency function is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import sampler
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import scm, tangents
from fewstep.methods.scm import ContinuousConsistency, Options
from fewstep.parts.denoiser import Denoiser, Student, Teacher, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims
from helpers import Gaussian, stable_diffusion

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = 0.5, 0.3
SCHEDULES = pytest.mark.parametrize(
    "schedule", [Cosine(), RectifiedFlow(), stable_diffusion()], ids=["cosine", "flow", "sd"]
)


class Map(Denoiser):
    """Where a trajectory of the Gaussian ends: ``m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2)``."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(schedule, "x0")
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        a, s = (match_dims(f(t), x_t) for f in (self.schedule.alpha, self.schedule.sigma))
        return MEAN + STD * (x_t - a * MEAN) / (a * a * STD * STD + s * s).sqrt() + self.weight


def found(schedule: NoiseSchedule, student: Denoiser, warmed: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, times, the student's estimates and g."""
    method = ContinuousConsistency(Student(student, (1.0,)), Teacher(Gaussian(schedule, MEAN, STD)), Options(warmup=0))
    method.turns(0)
    if warmed < 1:
        method.options = replace(method.options, warmup=100)
        method.turns(round(100 * warmed) - 1)
    t = torch.linspace(0.1, 0.97, 12, dtype=F64) + 3e-4
    x0 = MEAN + STD * Rng.of(0).normal((12, 1, 5), F64)
    x_t = noise_to(schedule, x0, Rng.of(1).normal_like(x0), t)
    with torch.no_grad():
        x0_hat, g = method.tangent(x_t, t, tangents.scales(schedule, t, x_t), Batch(x0, NOBODY, NOBODY))
    return x_t, t, x0_hat, g


@SCHEDULES
def test_the_consistency_function_has_no_tangent(schedule: NoiseSchedule) -> None:
    _, _, _, g = found(schedule, Map(schedule))
    assert g.abs().max() < 1e-8


@SCHEDULES
def test_the_tangent_is_how_the_estimate_changes_along_a_trajectory(schedule: NoiseSchedule) -> None:
    """``cos(angle) df / d angle`` by central differences of DDIM steps of the exact teacher, both ways."""
    denoiser, h = Gaussian(schedule, MEAN, STD), 1e-4
    x_t, t, _, g = found(schedule, denoiser)
    x0 = denoiser(x_t, t, NOBODY)
    ends = [denoiser(sampler.ddim_step(schedule, x_t, x0, t, t + d), t + d, NOBODY) for d in (h, -h)]
    angles = [torch.atan2(schedule.sigma(t + d), schedule.alpha(t + d)) for d in (h, -h)]
    cos = torch.cos(torch.atan2(schedule.sigma(t), schedule.alpha(t)))
    wanted = match_dims(cos / (angles[0] - angles[1]), x_t) * (ends[0] - ends[1])
    torch.testing.assert_close(g, wanted, rtol=2e-3, atol=1e-5)


def test_before_it_is_warmed_up_the_tangent_is_the_difference_of_two_velocities() -> None:
    """r = 1/2 lies halfway between ``-cos^2 (F - dx/dt)``, nothing for a student that is the teacher, and the whole."""
    denoiser = Gaussian(Cosine(), MEAN, STD)
    whole, half = (found(Cosine(), denoiser, warmed)[3] for warmed in (1.0, 0.5))
    torch.testing.assert_close(half, whole / 2)
    assert whole.abs().max() > 0.01


def test_the_loss_moves_an_estimate_against_its_tangent() -> None:
    """A consistent student has no slope; one that is off by a constant w keeps it: only where trajectories end is it pulled
    to the data."""
    student = Student(Map(Cosine()), (1.0,))
    method = ContinuousConsistency(student, Teacher(Gaussian(Cosine(), MEAN, STD)), Options(warmup=0, normalise=False))
    batch = Batch(MEAN + STD * Rng.of(0).normal((256, 1, 2), F64), NOBODY, NOBODY)
    method.turns(0)

    def slope(w: float) -> float:
        with torch.no_grad():
            student.denoiser.weight.fill_(w)  # type: ignore[operator, union-attr]
        loss = method.losses("student", batch, Rng.of(2))["consistency"]
        (g,) = torch.autograd.grad(loss, list(student.denoiser.parameters()))
        return float(g)

    assert slope(0.0) == pytest.approx(0, abs=1e-9)
    assert slope(0.5) == pytest.approx(0, abs=1e-9)


def test_points_lie_at_the_students_own_times_too() -> None:
    method = ContinuousConsistency(
        Student(Map(Cosine()), (1.0, 0.5)), Teacher(Gaussian(Cosine(), MEAN, STD)), Options(times=(0.1, 0.3), own_times=0.5)
    )
    t = method.draw_times(2000, Rng.of(0))
    assert float((t == 0.5).double().mean()) == pytest.approx(0.5, abs=0.04)
    rest = t[t != 0.5]
    assert 0.1 <= float(rest.min()) < float(rest.max()) <= 0.3
    with pytest.raises(ValueError, match="must rise"):
        scm.check(Options(times=(0.9, 0.1)))
