"""Distribution matching against what can be worked out: two Gaussians, whose scores are known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from fewstep.diffusion.schedule import add_noise
from fewstep.methods import dmd2, scores
from fewstep.methods.dmd2 import DMD2, Options
from fewstep.methods.method import Turn
from fewstep.parts.denoiser import Student, Teacher
from fewstep.recipes.mixture import Mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents, exactly
from method_parts import built

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
    of.matching(sample, batch(len(sample)), Rng.of(5)).mean().backward()
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


# f-divergences, guidance apart, the anchor


def test_weights_of_the_divergences_are_their_formulas() -> None:
    """``f''(r) r^2`` for r = 1/2, 1 and 4, of mean 1; a ratio beyond ten counts as ten."""
    logits = torch.tensor([0.5, 1.0, 4.0], dtype=F64).log()[:, None].repeat(1, 3)
    for name, wanted in {"reverse_kl": [1, 1, 1], "forward_kl": [0.5, 1, 4], "jensen_shannon": [1 / 3, 1 / 2, 4 / 5]}.items():
        of = torch.tensor(wanted, dtype=F64)
        torch.testing.assert_close(scores.weights_of(name, logits), of / of.mean())
    far = torch.tensor([[0.0], [9.0]], dtype=F64)
    assert scores.weights_of("forward_kl", far).tolist() == pytest.approx([2 / 11, 20 / 11])


@pytest.mark.parametrize("name", ["dmd2", "sida"])
def test_a_divergence_weighs_samples_by_what_the_discriminator_says(name: str) -> None:
    def loss(**options: Any) -> dict[str, float]:
        method, parts = built(name, loss="softplus", adversarial_weight=1.0, **options)
        found = method.losses("student", parts.data(0), Rng.of(0))
        return {key: float(value.detach()) for key, value in found.items()}

    plain, weighed = loss(), loss(divergence="forward_kl")
    assert plain["adversarial"] == weighed["adversarial"]
    assert plain["distribution_matching"] != weighed["distribution_matching"]
    with pytest.raises(ValueError, match="give an adversarial_weight, and loss softplus"):
        dmd2.check(Options(divergence="forward_kl"))


def test_guidance_that_is_asked_apart_is_the_same_at_the_same_time() -> None:
    """Only the unit is another: how far the unguided teacher would move the sample."""
    found = []
    for decoupled in (False, True):
        own, parts = built("dmd2", times=(0.4, 0.4), guidance_times=(0.4, 0.4), decoupled=decoupled)
        assert isinstance(own, DMD2)
        data = parts.data(0)
        sample = data.x0.clone().requires_grad_()
        own.matching(sample, data, Rng.of(5)).sum().backward()
        assert sample.grad is not None
        found.append(sample.grad.flatten(1))
    assert torch.nn.functional.cosine_similarity(*found).min() > 1 - 1e-5
    with pytest.raises(ValueError, match=r"guidance times 0\.9 0\.1 must rise"):
        dmd2.check(Options(guidance_times=(0.9, 0.1)))


def test_an_anchor_holds_the_first_step_and_the_later_ones_are_matched() -> None:
    own, parts = built("dmd2", anchor=2.0, backward=0.0, adversarial_weight=0.0)
    assert isinstance(own, DMD2)
    t = torch.tensor([1.0, 0.75, 1.0, 0.25])
    assert own.kept(torch.ones(4), t).tolist() == [0, 1, 0, 1]
    losses = own.losses("student", parts.data(0), Rng.of(0))
    assert losses.keys() == {"distribution_matching", "regression"}
    plain, _ = built("dmd2", backward=0.0, adversarial_weight=0.0)
    assert isinstance(plain, DMD2)
    assert plain.kept(torch.ones(4), t).tolist() == [1, 1, 1, 1]
