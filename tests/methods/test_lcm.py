"""Latent consistency distillation against what can be worked out: one Gaussian, whose trajectories are known."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from fewstep.diffusion.schedule import Cosine
from fewstep.methods.lcm import Consistency, Options
from fewstep.parts.denoiser import Denoiser, Student, Teacher, freeze
from fewstep.recipes.mixture import Mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims

NOBODY = Conditioning()
MEAN, STD = (0.7, -0.4), 0.3


class TrajectoryEnd(Denoiser):
    """Where the probability-flow ODE of one Gaussian carries a point: its distance from the mean keeps its rank.

    ``x_0 = m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2)``, moved by ``shift`` where a wrong answer is wanted.
    """

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__(Cosine(), "x0")
        self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        alpha, sigma = (match_dims(f(t), x_t) for f in (self.schedule.alpha, self.schedule.sigma))
        mean = torch.tensor(MEAN, dtype=x_t.dtype)
        rank = (x_t - alpha * mean) / (alpha**2 * STD**2 + sigma**2).sqrt()
        return mean + STD * rank + self.shift * match_dims(t, x_t)


def consistency(intervals: int, shift: float = 0.0, times: tuple[float, ...] = (1.0, 0.5)) -> Consistency:
    teacher = Teacher(Mixture(torch.tensor([MEAN], dtype=torch.float64), STD))
    student = Student(TrajectoryEnd(shift), times)
    return Consistency(student, teacher, freeze(copy.deepcopy(student.denoiser)), Options(intervals=intervals, huber=1e-9))


def loss(of: Consistency) -> float:
    with torch.no_grad():
        return float(of.losses("student", batch(), Rng.of(1))["consistency"])


def batch(n: int = 4096) -> Batch:
    noise = Rng.of(0).normal((n, 2), torch.float64)
    return Batch(torch.tensor(MEAN, dtype=torch.float64) + STD * noise, NOBODY, NOBODY)


def test_the_end_of_the_trajectory_is_consistent_up_to_the_solvers_error() -> None:
    """One DDIM step is wrong by the square of its length, so half the length leaves a quarter of the loss."""
    losses = [loss(consistency(n)) for n in (8, 16, 32)]
    assert losses[0] < 0.02
    for coarse, fine in itertools.pairwise(losses):
        assert 3 < coarse / fine < 5


def test_what_is_wrong_by_a_slope_costs_the_slope() -> None:
    """A student that is off by ``c t`` differs from its target, one interval further down, by c over the number of them."""
    off, n = 3.0, 64
    assert loss(consistency(n, off)) == pytest.approx(off / n, rel=0.02)


def test_the_students_times_are_on_the_grid_whatever_its_spacing() -> None:
    grid = consistency(10, times=(1.0, 0.75, 0.5)).grid
    assert grid.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1])


def test_the_target_follows_the_student_and_gets_no_gradient() -> None:
    method = consistency(16, 0.0)
    with torch.no_grad():
        method.student.denoiser.shift.fill_(1.0)  # type: ignore[union-attr, operator]
    sum(method.losses("student", batch(8), Rng.of(0)).values(), torch.zeros(())).backward()
    assert method.target.shift.grad is None  # type: ignore[union-attr]
    seen = []
    for step in range(3):
        method.after_step(step)
        seen.append(float(method.target.shift))  # type: ignore[arg-type]
    assert seen == pytest.approx([0.05, 1 - 0.95**2, 1 - 0.95**3])
