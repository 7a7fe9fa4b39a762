"""Closed forms that the whole machine has to meet, and level 0: a game in the plane whose right answer is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import losses
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, RectifiedFlow
from fewstep.methods import drifting
from fewstep.methods.denoising import Denoising
from fewstep.methods.denoising import Options as DenoisingOptions
from fewstep.methods.dmd2 import DMD2
from fewstep.methods.lcm import Consistency
from fewstep.methods.meanflow import MeanFlow
from fewstep.methods.method import Method
from fewstep.methods.progressive import Options as ProgressiveOptions
from fewstep.methods.progressive import Progressive
from fewstep.methods.regression import Options as RegressionOptions
from fewstep.methods.regression import Regression
from fewstep.methods.scm import ContinuousConsistency
from fewstep.methods.scm import Options as ScmOptions
from fewstep.methods.sida import SiDA
from fewstep.parts.denoiser import Student, Teacher, freeze
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Options, Trainer
from helpers import Gaussian, make_game

F64 = torch.float64
NOBODY = Conditioning()


# the analytic denoiser


def density(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """Of x_t, from the definition of the mixture."""
    variance = alpha**2 * mixture.STD**2 + sigma**2
    away = (x.unsqueeze(1) - alpha * mixture.ring()).pow(2).sum(2)
    return (-away / (2 * variance)).exp().mean(1) / (2 * math.pi * variance)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow()], ids=["cosine", "flow"])
def test_the_mixtures_denoiser_obeys_tweedie(t: float, schedule: NoiseSchedule) -> None:
    """``alpha E[x0 | x_t] = x_t + sigma^2 grad log p(x_t)``, the gradient taken by autograd."""
    time = torch.full((50,), t, dtype=F64)
    a, s = float(schedule.alpha(time)[0]), float(schedule.sigma(time)[0])
    x = (1.5 * Rng.of(0).normal((50, 2), F64)).requires_grad_()
    (score,) = torch.autograd.grad(density(x, a, s).log().sum(), x)
    exact = mixture.Mixture(mixture.ring(), schedule=schedule)(x.detach(), time, NOBODY)
    torch.testing.assert_close(a * exact, x.detach() + s**2 * score, rtol=1e-8, atol=1e-10)


def test_the_mixtures_denoiser_at_its_ends() -> None:
    teacher, x = mixture.denoiser(), Rng.of(0).normal((20, 2), F64)
    torch.testing.assert_close(teacher(x, torch.ones(20, dtype=F64), NOBODY), torch.zeros_like(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(teacher(x, torch.zeros(20, dtype=F64), NOBODY), x)
    one = mixture.Mixture(torch.tensor([[0.5, 0.5]], dtype=F64), 0.3)
    t = torch.linspace(0.05, 0.95, 20, dtype=F64)
    torch.testing.assert_close(one(x, t, NOBODY), Gaussian(Cosine(), 0.5, 0.3)(x, t, NOBODY))


def test_a_perfect_teacher_draws_the_data() -> None:
    noise = Rng.of(0).normal((1500, 2), F64)
    points = Teacher(mixture.denoiser()).draw(noise, NOBODY, NOBODY, 60, "heun")
    reached, on = mixture.modes_reached(points)
    assert reached == mixture.MODES
    assert on > 0.98
    nearest = torch.cdist(points, mixture.ring()).min(1)
    spread = points - mixture.ring()[nearest.indices]
    assert float(spread[nearest.values < 4 * mixture.STD].std()) == pytest.approx(mixture.STD, rel=0.06)
    assert mixture.modes_reached(mixture.draw_data(1500)) == (mixture.MODES, pytest.approx(1, abs=2e-3))
    assert mixture.modes_reached(torch.zeros(10, 2)) == (0, 0)
    assert mixture.modes_reached(mixture.ring()[:5].repeat(4, 1)) == (5, 1)


# what the distillation loss does to a student that is already right


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_distillation_alone_narrows_a_perfect_student(t: float) -> None:
    """Data N(m, s^2), student m + theta z, teacher exact. At theta = s, ``dL/dtheta = 2 c(t) s sigma^2 / v`` with
    ``v = alpha^2 s^2 + sigma^2``: zero for the mean (identity 5), positive for the spread. Only the adversarial loss
    keeps a student from shrinking onto the mode, which is the paper's Table 1d."""
    mean, std, n = 0.5, 0.3, 600
    game = make_game(
        n=n, axes=1, dtype=F64, teacher_network=Gaussian(Cosine(), mean, std), guidance_scale=1.0, teacher_times=(t, t)
    )
    z = Rng.of(0).normal((n, 2, 100), F64)
    theta, shift = torch.tensor(std, dtype=F64, requires_grad=True), torch.tensor(0.0, dtype=F64, requires_grad=True)
    game.add.distillation(mean + shift + theta * z, game.batch, Rng.of(1)).backward()
    time = torch.tensor([t], dtype=torch.float32).double()
    a, s = float(Cosine().alpha(time)), float(Cosine().sigma(time))
    wanted = 2 * a * std * s**2 / (a**2 * std**2 + s**2)
    assert theta.grad is not None
    assert shift.grad is not None
    assert float(theta.grad) == pytest.approx(wanted, rel=0.03)
    assert abs(float(shift.grad)) < 0.02 * wanted


# level 0: which students reach every mode in one step


def trained(method: Method, options: Options, data: TrainingSet) -> None:
    trainer = Trainer(method, options)
    assert not any(log.skipped for log in trainer.steps(data))
    trainer.adopt_averages()


def reached(student: Student) -> tuple[int, float]:
    with torch.no_grad():
        return mixture.modes_reached(student.draw(Rng.of(99).normal((2000, 2)), NOBODY, 1, Rng.of(98)))


def played(student: Student, steps: int = 150, **options: float) -> tuple[int, float]:
    """ADD from a copy of this student; what it reaches."""
    own = Student(copy.deepcopy(student.denoiser), student.times)
    chosen = replace(mixture.ADD, **options)
    data = mixture.training_set()
    if chosen.regression_weight:
        data = replace(data, pairs=mixture.pairs())
    trained(mixture.add_method(own, chosen), mixture.add_options(steps), data)
    return reached(own)


@pytest.fixture(scope="module")
def diffusion() -> Student:
    """A student that has learned to denoise: where ADD begins."""
    torch.set_num_threads(1)
    student = mixture.student()
    options = mixture.teacher_options()
    trained(Denoising(student.denoiser, DenoisingOptions(label_dropout=0.0)), options, mixture.training_set(batch_size=256))
    return student


@pytest.fixture(scope="module")
def warm(diffusion: Student) -> Student:
    student = Student(copy.deepcopy(diffusion.denoiser), diffusion.times)
    trained(Regression(student), mixture.warm_options(), mixture.pairs())
    return student


def test_a_diffusion_models_own_one_step_is_the_mean_of_everything(diffusion: Student) -> None:
    modes, on = reached(diffusion)
    assert modes == 0
    assert on < 0.05


def test_warmed_up_add_holds_every_mode_in_one_step(warm: Student) -> None:
    modes, on = played(warm)
    assert modes == mixture.MODES
    assert on > 0.5


def test_add_with_regression_beside_it_finds_every_mode_without_a_warm_start(diffusion: Student) -> None:
    assert played(diffusion)[0] <= 4, "the game alone pushes all samples the same way"
    modes, on = played(diffusion, regression_weight=2.5)
    assert modes == mixture.MODES
    assert on > 0.45


def accuracy(student: Student, steps: int) -> float:
    """The share of its samples that lies on a mode."""
    with torch.no_grad():
        return mixture.modes_reached(student.draw(Rng.of(99).normal((2000, 2)), NOBODY, steps, Rng.of(98)))[1]


def discrete(student: Student, teacher: Teacher) -> Method:
    return Consistency(student, teacher, freeze(copy.deepcopy(student.denoiser)))


def continuous(student: Student, teacher: Teacher) -> Method:
    return ContinuousConsistency(student, teacher, ScmOptions(warmup=100, difference=0.0))


def regularised(student: Student, teacher: Teacher) -> Method:
    options, own = ScmOptions(score_weight=0.1, fake_score_turns=1), student.denoiser
    return ContinuousConsistency(student, teacher, options, copy.deepcopy(own), freeze(copy.deepcopy(own)))


def averaged(student: Student, teacher: Teacher) -> Method:
    return MeanFlow(student, teacher, target=freeze(copy.deepcopy(student.denoiser)))


def halved(student: Student, teacher: Teacher) -> Method:
    former = freeze(copy.deepcopy(student.denoiser))
    return Progressive(student, teacher, former, ProgressiveOptions(halvings=4, each=100))


@pytest.mark.parametrize("kind", [discrete, continuous, regularised, averaged, halved])
def test_one_step_is_brought_to_the_ends_of_the_teachers_trajectories(
    kind: Callable[[Student, Teacher], Method], diffusion: Student
) -> None:
    """A diffusion model's one step is the mean of everything, 1.4 from there; half of the way is gone in 500 steps."""
    own, teacher = Student(copy.deepcopy(diffusion.denoiser), diffusion.times), Teacher(mixture.denoiser())
    trained(kind(own, teacher), mixture.warm_options(500), mixture.training_set())
    noise = Rng.of(7).normal((500, 2))
    ends = teacher.draw(noise, NOBODY, NOBODY, 50)
    with torch.no_grad():
        away, before = (float((s.draw(noise, NOBODY, 1, Rng.of(0)) - ends).norm(dim=1).mean()) for s in (own, diffusion))
    assert before > 1.2
    assert away < 0.55 * before


@pytest.mark.parametrize("kind", [DMD2, SiDA])
def test_matching_the_teachers_distribution_brings_a_student_onto_the_modes(
    kind: type[DMD2] | type[SiDA], diffusion: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a short warm-up: no mode is given up, and of two steps' samples far more lie on one (.54 -> .65). With its sign
    turned the student leaves them."""
    warm = Student(copy.deepcopy(diffusion.denoiser), diffusion.times)
    trained(Regression(warm), mixture.warm_options(100), mixture.pairs())

    def matched() -> Student:
        own = Student(copy.deepcopy(warm.denoiser), warm.times)
        method = kind(own, Teacher(mixture.denoiser()), copy.deepcopy(diffusion.denoiser))
        trained(method, mixture.add_options(200), mixture.training_set())
        return own

    own = matched()
    assert reached(own)[0] == mixture.MODES
    assert accuracy(own, 2) > accuracy(warm, 2) + 0.05
    towards = kind.matching
    monkeypatch.setattr(kind, "matching", lambda *args: -towards(*args))
    assert accuracy(matched(), 1) < 0.5 * accuracy(warm, 1)


def test_drifting_alone_brings_one_step_onto_every_mode(diffusion: Student) -> None:
    """No teacher, no adversary, no anchor: 64 samples and 64 points of the data, and their distances."""

    def drifted(**changes: Any) -> Student:
        own = Student(copy.deepcopy(diffusion.denoiser), diffusion.times)
        o = drifting.Options(group=64, through="features", regression_weight=0.0, **changes)
        method = drifting.Drifting(own, mixture.features(), mixture.codec(), None, o)
        trained(method, mixture.warm_options(250), mixture.training_set())
        return own

    modes, on = reached(drifted())
    assert modes == mixture.MODES
    assert on > 0.4


def test_distillation_alone_gives_every_mode_up(diffusion: Student, warm: Student) -> None:
    """Also where all of them were reached already: the teacher's estimate pulls every sample inwards."""
    for student in (diffusion, warm):
        modes, on = played(student, adversarial_weight=0.0)
        assert modes <= 1
        assert on < 0.15


def test_random_weights_reach_few_modes() -> None:
    assert played(mixture.student())[0] <= 4


def test_a_wrong_sign_and_swapped_sides_lose_what_was_reached(warm: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, play = losses.ADVERSARIAL["hinge"]
    broken = {"sign": (judge, lambda real, fake: fake.mean()), "swap": (lambda real, fake: judge(fake, real), play)}
    for pair in broken.values():
        monkeypatch.setitem(losses.ADVERSARIAL, "hinge", pair)
        modes, on = played(warm, steps=100)
        assert modes <= 2
        assert on < 0.3


# a rare mode: three of weights .1, .3 and .6


def test_the_denoiser_of_unequal_modes_obeys_tweedie() -> None:
    """``alpha E[x0 | x_t] = x_t + sigma^2 grad log p(x_t)``, the density written from its definition."""
    modes, time = mixture.UNEVEN, torch.full((50,), 0.4, dtype=F64)
    a, s = float(Cosine().alpha(time)[0]), float(Cosine().sigma(time)[0])
    x = (1.5 * Rng.of(0).normal((50, 2), F64)).requires_grad_()
    density = torch.zeros(50, dtype=F64)
    for centre, std, weight in zip(modes.centres, modes.stds, modes.weights):
        v = a**2 * std**2 + s**2
        away = (x - a * torch.tensor(centre, dtype=F64)).pow(2).sum(1)
        density = density + weight * (-away / (2 * v)).exp() / (2 * math.pi * v)
    (score,) = torch.autograd.grad(density.log().sum(), x)
    torch.testing.assert_close(
        a * modes.denoiser()(x.detach(), time, NOBODY), x.detach() + s**2 * score, rtol=1e-6, atol=1e-8
    )
    share, spread = modes.share_and_spread(modes.draw(20_000))
    torch.testing.assert_close(share, torch.tensor(modes.weights, dtype=F64), rtol=0, atol=0.01)
    torch.testing.assert_close(spread, torch.ones(3, dtype=F64), rtol=0, atol=0.03)
    share, _ = modes.share_and_spread(torch.tensor([*modes.centres, (9.0, 9.0)]))
    assert share.tolist() == [0.25, 0.25, 0.25]


@pytest.fixture(scope="module")
def rare() -> dict[str, Student]:
    """Two warm starts from one student that has learned to denoise a little: by denoising at times below 1, and by following
    the teacher there."""
    torch.set_num_threads(1)
    modes, student = mixture.UNEVEN, mixture.student()
    data = mixture.training_set(batch_size=256, modes=modes)
    trained(Denoising(student.denoiser, DenoisingOptions(label_dropout=0.0)), mixture.teacher_options(300), data)
    pairs, teacher, made = mixture.pairs(modes=modes), Teacher(modes.denoiser()), {}
    for name, steps in (("denoised", 0), ("followed", 4)):
        made[name] = Student(copy.deepcopy(student.denoiser))
        method = Regression(made[name], RegressionOptions(regression_steps=steps), teacher)
        trained(method, mixture.warm_options(800), pairs)
    return made


def kept(student: Student, steps: int) -> float:
    """The rare mode's share of the points."""
    with torch.no_grad():
        share, _ = mixture.UNEVEN.share_and_spread(student.draw(Rng.of(99).normal((4000, 2)), NOBODY, steps, Rng.of(98)))
    return float(share[0])


def then_add(student: Student, **options: float) -> Student:
    """ADD from a copy of this student, on the unequal modes."""
    own = Student(copy.deepcopy(student.denoiser))
    game = mixture.add_method(own, replace(mixture.ADD, **options), modes=mixture.UNEVEN)
    trained(game, mixture.add_options(100), mixture.training_set(modes=mixture.UNEVEN))
    return own


def test_four_steps_of_denoising_lose_the_rare_mode_even_with_an_exact_denoiser() -> None:
    """So a student that has learned to denoise at its later times cannot keep it, however well it learned."""
    exact = Student(mixture.UNEVEN.denoiser())
    assert kept(exact, 2) < 0.01
    assert 0.03 < kept(exact, 4) < 0.06
    drawn = Teacher(mixture.UNEVEN.denoiser()).draw(Rng.of(99).normal((4000, 2)), NOBODY, NOBODY, 24)
    assert float(mixture.UNEVEN.share_and_spread(drawn)[0][0]) == pytest.approx(0.095, abs=0.005)


def test_following_the_teacher_at_every_time_keeps_the_rare_mode_in_four_steps(rare: dict[str, Student]) -> None:
    """In the warm start and beside the game; without the second it shrinks, without both it is nearly gone."""
    followed, denoised = kept(rare["followed"], 4), kept(rare["denoised"], 4)
    assert denoised < 0.5 * followed
    assert followed > 0.05
    remedy = {"regression_weight": 10.0, "regression_steps": 4}
    both = kept(then_add(rare["followed"], **remedy), 4)
    assert both > 0.05
    assert kept(then_add(rare["followed"]), 4) < 0.75 * both
    assert kept(then_add(rare["denoised"]), 4) < 0.015
