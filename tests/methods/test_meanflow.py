"""MeanFlow against a Gaussian, whose flow map is known between any two times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import prediction
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import meanflow, tangents
from fewstep.methods.meanflow import MeanFlow, Options
from fewstep.parts.denoiser import Denoiser, Student, Teacher, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims
from helpers import Gaussian, stable_diffusion

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = 0.5, 0.3
KINDS = pytest.mark.parametrize(
    ("schedule", "kind"),
    [(Cosine(), "v"), (stable_diffusion(zero=True), "v"), (stable_diffusion(), "eps"), (RectifiedFlow(), "flow")],
    ids=["cosine v", "zero snr v", "eps", "flow"],
)


class Map(Denoiser):
    """Where a trajectory of the Gaussian ends: ``m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2)``, plus w."""

    def __init__(self, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(schedule, kind)
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, s = (match_dims(v, x_t) for v in (alpha, sigma))
        x0 = MEAN + STD * (x_t - a * MEAN) / (a * a * STD * STD + s * s).sqrt() + self.weight
        return prediction.from_x0(self.kind, x_t, x0, alpha, sigma)


def points(schedule: NoiseSchedule, first: float = 0.05) -> tuple[Tensor, Tensor]:
    """Noised samples, at pure noise too."""
    t = torch.cat([torch.linspace(first, 0.97, 12, dtype=F64) + 3e-4, torch.tensor([0.5, 0.75, 1.0], dtype=F64)])
    x0 = MEAN + STD * Rng.of(0).normal((len(t), 1, 5), F64)
    return noise_to(schedule, x0, Rng.of(1).normal_like(x0), t), t


@KINDS
def test_the_true_maps_average_velocity_is_its_own_target(schedule: NoiseSchedule, kind: str) -> None:
    """The identity has no residual at the solution, at pure noise neither; at another map, the teacher itself, it has."""
    x_t, t = points(schedule)
    at = tangents.scales(schedule, t, x_t)
    teacher = Teacher(Gaussian(schedule, MEAN, STD, kind))

    def residual(denoiser: Denoiser) -> Tensor:
        method = MeanFlow(Student(denoiser, (1.0,)), teacher, Options(difference=0.0))
        with torch.no_grad():
            wanted = method.wanted(x_t, t, at, Batch(x_t, NOBODY, NOBODY))
            return meanflow.velocity(meanflow.path(at), x_t, denoiser(x_t, t, NOBODY)) - wanted

    assert residual(Map(schedule, kind)).abs().max() < 1e-8
    assert residual(Gaussian(schedule, MEAN, STD, kind)).abs().max() > 0.01


@pytest.mark.parametrize("end", [0.0, 0.3, 0.9])
def test_the_target_is_the_average_velocity_between_any_two_times_of_a_flow(end: float) -> None:
    """``z_r = r-scaled Gaussian``: the map of a Gaussian keeps a point's place, ``(z_t - a_t m) / std_t``; u is the difference
    of the ends over the time between them, its derivative along the flow by automatic differentiation."""
    t = torch.linspace(0.05, 1, 12, dtype=F64).reshape(-1, 1)
    r, place = end * t, Rng.of(0).normal((12, 5), F64)
    spread = lambda s: ((1 - s) ** 2 * STD**2 + s**2).sqrt()  # noqa: E731
    follow = lambda s: (1 - s) * MEAN + spread(s) * place  # noqa: E731

    def average(z: Tensor, s: Tensor) -> Tensor:
        return (z - (1 - r) * MEAN - spread(r) * (z - (1 - s) * MEAN) / spread(s)) / (s - r)

    z, v = torch.func.jvp(follow, (t,), (torch.ones_like(t),))  # type: ignore[misc]
    u, du = torch.func.jvp(average, (z, t), (v, torch.ones_like(t)))  # type: ignore[misc]
    torch.testing.assert_close(meanflow.target(v, du, t - r), u, rtol=1e-8, atol=1e-8)
    assert (u - v).abs().max() > 0.01


def test_the_weight_adapts_and_gets_no_gradient() -> None:
    error = torch.tensor([0.5, 2.0], dtype=F64, requires_grad=True)
    for power, wanted in ((0.0, [1.0, 1.0]), (1.0, [1 / 0.6, 1 / 2.1]), (0.5, [0.6**-0.5, 2.1**-0.5])):
        (slope,) = torch.autograd.grad(meanflow.adaptive(error, power, 0.1).sum(), error)
        assert slope.tolist() == pytest.approx(wanted)


def test_a_map_that_is_off_is_drawn_to_where_trajectories_end() -> None:
    """A constant w more than the true map has no slope along a trajectory, so its target is itself, w included: the loss moves
    nothing. One that fades towards the data, w tau, is pulled back; the true map stays."""

    class Fading(Map):
        def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
            at = meanflow.path(tangents.scales(self.schedule, t, x_t))
            extra = self.weight * at.tau
            alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
            true = prediction.to_x0(self.kind, x_t, super().predict(x_t, t, cond), alpha, sigma) - self.weight
            return prediction.from_x0(self.kind, x_t, true + extra, alpha, sigma)

    batch = Batch(MEAN + STD * Rng.of(0).normal((256, 1, 2), F64), NOBODY, NOBODY)

    def slope(denoiser: Map, w: float) -> float:
        o, teacher = Options(power=0.0, difference=0.0), Teacher(Gaussian(Cosine(), MEAN, STD))
        method = MeanFlow(Student(denoiser, (1.0, 0.5)), teacher, o)
        with torch.no_grad():
            denoiser.weight.fill_(w)
        loss = method.losses("student", batch, Rng.of(2))["consistency"]
        (g,) = torch.autograd.grad(loss, [denoiser.weight])
        return float(g)

    assert slope(Map(Cosine(), "x0"), 0.5) == pytest.approx(0, abs=1e-9)
    assert slope(Fading(Cosine(), "x0"), 0.0) == pytest.approx(0, abs=1e-9)
    assert slope(Fading(Cosine(), "x0"), 0.5) > 0.1
    assert slope(Fading(Cosine(), "x0"), -0.5) < -0.1


def test_points_lie_at_the_students_own_times_pure_noise_among_them() -> None:
    student, teacher = Student(Map(Cosine(), "x0"), (1.0, 0.5)), Teacher(Gaussian(Cosine(), MEAN, STD))
    t = MeanFlow(student, teacher, Options(times=(0.1, 0.3), own_times=0.5)).draw_times(4000, Rng.of(0))
    for own in student.times:
        assert float((t == own).double().mean()) == pytest.approx(0.25, abs=0.03)
    rest = t[t < 0.5]
    assert 0.1 <= float(rest.min()) < float(rest.max()) <= 0.3
    assert float(rest.median()) == pytest.approx(0.1 + 0.2 / (1 + 2.718281828**0.4), abs=0.004)
