"""Score identity against what can be worked out: two Gaussians, whose scores are known."""

from __future__ import annotations

import copy

import pytest
import torch

from fewstep.methods import sida
from fewstep.methods.sida import Options, SiDA
from fewstep.parts.denoiser import Student, Teacher
from fewstep.recipes.mixture import Mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD, N = 0.7, 0.3, 200_000


def gradient(mean: float, std: float, alpha: float, t: float = 0.5, weighed: bool = False) -> tuple[float, float]:
    """Of the loss with respect to the mean and the spread of a student ``mean + std z`` whose fake score is exact."""
    real, fake = (Mixture(torch.full((1, 1), m, dtype=F64), s) for m, s in ((MEAN, STD), (mean, std)))
    o = Options(alpha=alpha, times=(t, t), adversarial_weight=0.0)
    method = SiDA(Student(copy.deepcopy(real), (1.0,)), Teacher(real), fake, options=o)
    own = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (mean, std)]
    z = Rng.of(0).normal((N, 1), F64)
    sample = own[0] + own[1] * z
    batch = Batch(sample.detach(), NOBODY, NOBODY)
    if weighed:
        loss = method.matching(sample, batch, Rng.of(1)).mean()
    else:
        time = torch.full((N,), t, dtype=F64)
        schedule = real.schedule
        x_t = float(schedule.alpha(time)[0]) * sample + float(schedule.sigma(time)[0]) * Rng.of(2).normal((N, 1), F64)
        estimates = method.teacher.differentiable(x_t, time, NOBODY, NOBODY), fake(x_t, time, NOBODY)
        loss = sida.identity(sample, *estimates, alpha).mean()
    a, b = torch.autograd.grad(loss, own)
    return float(a), float(b)


def scales(t: float) -> tuple[float, float]:
    schedule, time = Mixture(torch.zeros(1, 1)).schedule, torch.tensor([t], dtype=F64)
    return float(schedule.alpha(time)[0]), float(schedule.sigma(time)[0])


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_the_gradient_to_the_mean_is_its_closed_form(alpha: float) -> None:
    """``-(sigma^2 / v)^2 (m - a)`` with ``v = alpha_t^2 s^2 + sigma^2``, whatever alpha is: descending moves a to m."""
    a, s = scales(0.5)
    k = s**2 / (a**2 * STD**2 + s**2)
    assert gradient(0.4, STD, alpha)[0] == pytest.approx(-(k**2) * (MEAN - 0.4), rel=0.02)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
def test_the_gradient_to_the_spread_is_its_closed_form(alpha: float) -> None:
    """With gains ``g = alpha_t s^2 / v`` of the teacher and of the student's own, G their difference and the weight taken off."""
    a, s = scales(0.5)
    for b in (0.15, 0.5):
        own, theirs = (a * w**2 / (a**2 * w**2 + s**2) for w in (b, STD))
        apart = theirs - own
        wanted = 2 * a * b * apart * ((1 - alpha) * apart * a + a * own - 1)
        found = gradient(MEAN, b, alpha)[1]
        assert found == pytest.approx(wanted, rel=0.05)
        assert (found > 0) == (b > STD), "descending moves the spread to the teacher's"


def test_a_student_that_draws_as_the_teacher_does_is_left_alone() -> None:
    assert gradient(MEAN, STD, 1.2, weighed=True) == pytest.approx((0, 0), abs=1e-12)
    assert gradient(0.4, STD, 1.0, weighed=True)[0] < 0
