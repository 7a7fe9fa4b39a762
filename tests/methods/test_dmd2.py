"""Distribution matching against what can be worked out: two Gaussians, whose scores are known."""

from __future__ import annotations

import copy

import pytest
import torch

from fewstep.diffusion.schedule import add_noise
from fewstep.methods.dmd2 import DMD2, Options
from fewstep.methods.method import Turn
from fewstep.parts.denoiser import Student, Teacher
from fewstep.recipes.mixture import Mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, exactly

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = torch.tensor([[0.7, -0.4]], dtype=F64), 0.3


def method(apart: torch.Tensor, turns: int = 5) -> DMD2:
    """The exact scores of two Gaussians whose means lie ``apart``."""
    real, fake = Mixture(MEAN, STD), Mixture(MEAN + apart, STD)
    return DMD2(Student(copy.deepcopy(real), (1.0,)), Teacher(real), fake, options=Options(fake_score_turns=turns))


def batch(n: int = 64) -> Batch:
    return Batch(MEAN + STD * Rng.of(0).normal((n, 2), F64), NOBODY, NOBODY)


def gradient(of: DMD2, sample: Latents) -> torch.Tensor:
    sample = sample.clone().requires_grad_()
    of.matching(sample, batch(len(sample)), Rng.of(5)).backward()
    assert sample.grad is not None
    return sample.grad


def test_the_gradient_is_the_difference_of_the_two_scores() -> None:
    """Between ``N(m, s^2)`` and ``N(m + d, s^2)`` the estimates differ by ``sigma^2 / (alpha^2 s^2 + sigma^2) d``, wherever x_t
    lies. The loss averages over ``B C`` elements and divides by how far the teacher would move the sample."""
    apart = torch.tensor([0.2, -0.5], dtype=F64)
    dmd, sample = method(apart), batch().x0
    schedule, rng = dmd.teacher.schedule, Rng.of(5)
    t = exactly(rng.uniform((len(sample),), 0.02, 0.98))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    real = dmd.teacher(add_noise(schedule, sample, rng.normal_like(sample), t), t, NOBODY, NOBODY)
    size = (sample - real).abs().mean(1).clamp(min=1e-4)
    wanted = (sigma**2 / (alpha**2 * STD**2 + sigma**2) / size)[:, None] * apart / sample.numel()
    torch.testing.assert_close(gradient(dmd, sample), wanted, rtol=1e-9, atol=1e-12)
    assert (gradient(dmd, sample) * apart).sum(1).min() > 0  # descending moves the samples back, against d


def test_a_student_that_draws_as_the_teacher_does_is_left_alone() -> None:
    assert gradient(method(torch.zeros(2, dtype=F64)), batch().x0).abs().max() < 1e-12


def test_the_fake_score_learns_from_the_students_samples_and_nobody_elses() -> None:
    """Its loss, at the exact denoiser of what the student draws, has no slope; the data are not asked."""
    torch.manual_seed(0)
    dmd = method(torch.zeros(2, dtype=F64))
    moved = Batch(batch(4096).x0 + 9, NOBODY, NOBODY)
    losses = [float(dmd.losses("fake_score", b, Rng.of(3))["denoising"]) for b in (batch(4096), moved)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("turns", [1, 5])
def test_the_fake_score_moves_more_often_and_on_new_batches(turns: int) -> None:
    wanted = (Turn("student"), *(Turn("fake_score", k) for k in range(turns)))
    assert method(torch.zeros(2), turns).turns(0) == wanted
