"""Progressive distillation: the target in closed form, the phases, what a phase hands on."""

from __future__ import annotations

import copy

import pytest
import torch

from fewstep.diffusion import sampler
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import progressive
from fewstep.methods.method import Facts
from fewstep.methods.progressive import Options, Progressive
from fewstep.parts.denoiser import Student, Teacher, freeze, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning
from helpers import Gaussian, same_weights, stable_diffusion
from method_parts import built

NOBODY, F64 = Conditioning(), torch.float64


@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), stable_diffusion()], ids=["cosine", "flow", "sd"])
def test_one_step_to_the_target_lands_where_two_steps_do(schedule: NoiseSchedule) -> None:
    """From pure noise and from below, to the middle and to the end."""
    teacher = Gaussian(schedule, 0.5, 0.3)
    t = torch.tensor([1.0, 1.0, 0.75, 0.5, 0.1], dtype=F64)
    end = torch.tensor([0.5, 0.0, 0.5, 0.0, 0.05], dtype=F64)
    x0, mid = 0.5 + 0.3 * Rng.of(0).normal((5, 1, 4), F64), (t + end) / 2
    x_t = noise_to(schedule, x0, Rng.of(1).normal_like(x0), t)
    x_mid = sampler.ddim_step(schedule, x_t, teacher(x_t, t, NOBODY), t, mid)
    x_end = sampler.ddim_step(schedule, x_mid, teacher(x_mid, mid, NOBODY), mid, end)
    wanted = progressive.target(schedule, x_t, t, x_end, end)
    torch.testing.assert_close(sampler.ddim_step(schedule, x_t, wanted, t, end), x_end, rtol=1e-8, atol=1e-9)


def test_weights_are_the_papers() -> None:
    alpha, sigma = torch.tensor([0.6, 0.8], dtype=F64), torch.tensor([0.8, 0.6], dtype=F64)
    assert progressive.weight_of("truncated_snr", alpha, sigma).tolist() == pytest.approx([1, 16 / 9])
    assert progressive.weight_of("snr_plus_one", alpha, sigma).tolist() == pytest.approx([25 / 16, 25 / 9])


def test_a_student_that_already_leaps_as_its_teacher_steps_has_no_loss() -> None:
    """Of data at one point every estimate is that point, in two steps as in one."""
    point = Gaussian(Cosine(), 0.5, 1e-9)
    method = Progressive(Student(copy.deepcopy(point)), Teacher(point), freeze(copy.deepcopy(point)), Options(halvings=3))
    batch = Batch(torch.full((64, 1, 2), 0.5, dtype=F64), NOBODY, NOBODY)
    assert float(method.losses("student", batch, Rng.of(0))["distillation"]) == pytest.approx(0, abs=1e-12)


def test_the_steps_are_halved_and_the_student_becomes_the_teacher() -> None:
    """Three phases of two steps; the optimiser begins each anew, and the last goes on."""
    method, parts = built("progressive", halvings=3, each=2)
    assert isinstance(method, Progressive)
    seen = []
    for step in range(8):
        (turn,) = method.turns(step)
        before = copy.deepcopy(method.former)
        with torch.no_grad():
            next(method.student.denoiser.parameters()).add_(0.01)
        method.losses("student", parts.data(step), Rng.of(step))
        method.after_step(step)
        handed = same_weights(method.former, method.student.denoiser)
        assert handed or same_weights(method.former, before)
        seen.append((int(method.observations()["steps"]), turn.fresh_optimizer, handed))
    assert [s for s, _, _ in seen] == [4, 4, 2, 2, 1, 1, 1, 1]
    assert [i for i, (_, fresh, _) in enumerate(seen) if fresh] == [2, 4]
    assert [i for i, (_, _, handed) in enumerate(seen) if handed] == [1, 3]


def test_a_run_that_ends_before_its_last_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="4 halvings of 200 steps need --steps 601 or more, not 600"):
        progressive.check(Options(), Facts(steps=600))
    progressive.check(Options(), Facts(steps=601))
