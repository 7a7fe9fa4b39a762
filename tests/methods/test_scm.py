"""Continuous-time consistency against a Gaussian, whose consistency function is known."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import sampler
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import scm, tangents
from fewstep.methods.dmd2 import DMD2
from fewstep.methods.method import Turn
from fewstep.methods.scm import ContinuousConsistency, Options
from fewstep.parts.denoiser import Denoiser, Student, Teacher, noise_to
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, Time, match_dims
from helpers import Gaussian, assert_same_state, flat_gradient, gradients, same_weights, stable_diffusion
from method_parts import built, trainer

NOBODY, F64 = Conditioning(), torch.float64
MEAN, STD = 0.5, 0.3
EXACT = Options(difference=0.0, warmup=0)
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
    method = ContinuousConsistency(Student(student, (1.0,)), Teacher(Gaussian(schedule, MEAN, STD)), EXACT)
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
    method = ContinuousConsistency(student, Teacher(Gaussian(Cosine(), MEAN, STD)), replace(EXACT, normalise=False))
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
    """At pure noise the exact tangent is nothing; a difference is none."""
    student, teacher = Student(Map(Cosine()), (1.0, 0.5)), Teacher(Gaussian(Cosine(), MEAN, STD))
    o = Options(times=(0.1, 0.3), own_times=0.5)
    t = ContinuousConsistency(student, teacher, o).draw_times(2000, Rng.of(0))
    assert float((t == 1).double().mean()) == pytest.approx(0.25, abs=0.04)
    t = ContinuousConsistency(student, teacher, replace(o, difference=0.0)).draw_times(2000, Rng.of(0))
    assert float((t == 0.5).double().mean()) == pytest.approx(0.5, abs=0.04)
    rest = t[t != 0.5]
    assert 0.1 <= float(rest.min()) < float(rest.max()) <= 0.3
    with pytest.raises(ValueError, match="must rise"):
        scm.check(Options(times=(0.9, 0.1)))


# the learned weight


def test_the_weight_of_a_time_learns_to_make_every_times_error_count_alike() -> None:
    """Least of ``e^w error - w`` is ``e^-w = E[error | t]``: the weighted error is 1 on average, wherever t lies."""
    schedule, o = Cosine(), replace(EXACT, learned_weight=True, normalise=False)
    student = Student(Gaussian(schedule, MEAN, STD), (1.0,))
    student.denoiser.weight = torch.nn.Parameter(torch.zeros(()))
    method = ContinuousConsistency(student, Teacher(Gaussian(schedule, MEAN, STD)), o)
    assert method.turns(0) == (Turn("student"), Turn("weight"))
    adam = torch.optim.Adam(method.players["weight"].network.parameters(), 0.03)
    batches = [Batch(MEAN + STD * Rng.of(k).normal((64, 1, 2), F64), NOBODY, NOBODY) for k in range(8)]
    for step in range(400):
        method.losses("student", batches[step % 8], Rng.of(100 + step))
        adam.zero_grad()
        method.losses("weight", batches[step % 8], Rng.of(0))["consistency"].backward()
        adam.step()
        method.after_step(step)
    late = [method.errors(batch, Rng.of(900 + k)) for k, batch in enumerate(batches * 8)]
    error, x = (torch.cat(v).detach() for v in zip(*late))
    weight = method.players["weight"].network(x).detach().exp()
    thirds = torch.quantile(x, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])).tolist()
    inside = [(x >= a) & (x <= b) for a, b in itertools.pairwise(thirds)]
    plain = [float(error[i].mean()) for i in inside]
    assert max(plain) > 3 * min(plain), "times differ before"
    assert [float((weight * error)[i].mean()) for i in inside] == pytest.approx([1, 1, 1], abs=0.25)


def test_the_students_loss_is_weighed_and_has_no_say_in_the_weight() -> None:
    method, parts = built("scm", learned_weight=True)
    plain, _ = built("scm")
    assert isinstance(method, ContinuousConsistency)
    assert method.weight is not None
    found = [m.losses("student", parts.data(0), Rng.of(0))["consistency"] for m in (plain, method)]
    assert found[0] == found[1], "it begins at exp(0)"
    with torch.no_grad():
        method.weight.series.bias.fill_(0.7)
    loss = method.losses("student", parts.data(0), Rng.of(0))["consistency"]
    torch.testing.assert_close(loss, found[0] * math.exp(0.7))
    loss.backward()
    assert not gradients(method.weight)


# rCM


def test_rcms_regulariser_is_dmd2s_gradient_at_the_students_own_roll_out() -> None:
    """The same samples, noises and two networks; .25 of it. A fake score that is the teacher leaves the student alone."""
    rcm, parts = built("scm", score_weight=0.25, score_times=(0.1, 0.9))
    dmd, _ = built("dmd2", adversarial_weight=0.0, times=(0.1, 0.9))
    assert isinstance(rcm, ContinuousConsistency)
    assert isinstance(dmd, DMD2)
    assert rcm.fake_score is not None
    with torch.no_grad():
        for network in (rcm.fake_score, dmd.fake_score):
            for p in network.parameters():
                p.mul_(1.3)
    batch, slopes = parts.data(0), []
    for method, weight in ((rcm, 0.25), (dmd, 1.0)):
        loss = weight * method.matching(batch, Rng.of(3)).mean() if method is rcm else dmd.losses("student", batch, Rng.of(3))[
            "distribution_matching"
        ]
        loss.backward()
        slopes.append(flat_gradient(method.student.denoiser) / weight)
    torch.testing.assert_close(slopes[0], slopes[1])
    assert slopes[0].norm() > 0
    alone = built("scm", score_weight=0.25)[0]
    assert isinstance(alone, ContinuousConsistency)
    alone.teacher.guidance_scale = 1.0
    alone.matching(batch, Rng.of(3)).mean().backward()
    assert flat_gradient(alone.student.denoiser).norm() < 1e-7


@pytest.mark.parametrize("own", [{"learned_weight": True}, {"score_weight": 0.01, "fake_score_turns": 2}, {}])
def test_with_its_options_a_run_in_parts_goes_on_as_it_was(own: dict[str, Any], tmp_path: Path) -> None:
    """Every player that is asked for moves, on parts of a batch too, and comes back out of a file."""
    whole, data = trainer("scm", 4, own=own, gradient_accumulation=2)
    first = copy.deepcopy(whole.networks)
    for log in whole.steps(data):
        assert not log.skipped
        if log.step == 2:
            whole.save(tmp_path / "half")
    asked = {"learned_weight": "weight", "score_weight": "fake_score"}
    assert set(whole.networks) == {"student", *(asked[o] for o in own if o in asked)}
    assert not [name for name, network in whole.networks.items() if same_weights(network, first[name])]
    other, data = trainer("scm", 4, seed=1, own=own, gradient_accumulation=2)
    other.resume(tmp_path / "half")
    list(other.steps(data))
    assert_same_state(whole.state(), other.state())


def test_what_rcm_lacks_is_said() -> None:
    teacher = Teacher(Gaussian(Cosine(), MEAN, STD))
    with pytest.raises(ValueError, match="give one, or set score_weight to 0"):
        ContinuousConsistency(Student(Map(Cosine()), (1.0,)), teacher, Options(score_weight=0.01))
    with pytest.raises(ValueError, match=r"score times 0\.9 0\.1 must rise"):
        scm.check(Options(score_times=(0.9, 0.1)))
