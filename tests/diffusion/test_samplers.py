"""Samplers against diffusers' own schedulers on real networks, and against the exact solution for Gaussian data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import sampler
from fewstep.diffusion.schedule import EDM, Cosine, NoiseSchedule, RectifiedFlow, add_noise
from fewstep.parts.denoiser import Student, Teacher
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from helpers import ConvDenoiser, Gaussian, make_batch, slope, stable_diffusion, text_unet, unet

F64 = torch.float64
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LABELS = Conditioning(labels=torch.tensor([0, 2]))
NOBODY = Conditioning(labels=torch.tensor([3, 3]))


def exact_table(zero: bool) -> Tensor:
    """diffusers' own recipe for its table, carried out in float64."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2
    return (1 - (rescale_zero_terminal_snr(betas) if zero else betas)).cumprod(0)


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize(
    ("kind", "name", "zero"), [("v", "v_prediction", True), ("eps", "epsilon", False), ("x0", "sample", True)]
)
def test_ddim_is_diffusers_ddim(steps: int, kind: str, name: str, zero: bool) -> None:
    """Same UNet, same noise, guidance 3: equal to 1e-9 in float64, once diffusers is handed its table in float64."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        **BETAS, prediction_type=name, timestep_spacing="trailing", clip_sample=False, rescale_betas_zero_snr=zero
    )
    theirs.alphas_cumprod = exact_table(zero)
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=F64)
    theirs.set_timesteps(steps)
    network = unet(kind, stable_diffusion(zero)).double()
    noise = Rng.of(0).normal((2, 1, 8, 8), F64)
    x = noise.clone() if zero else noise * (1 - theirs.alphas_cumprod[-1]).sqrt()
    with torch.no_grad():
        for timestep in theirs.timesteps:
            shown, hidden = (network.network(x, timestep, class_labels=c.labels).sample for c in (LABELS, NOBODY))
            x = theirs.step(hidden + 3.0 * (shown - hidden), timestep, x).prev_sample
    ours = Teacher(network, 3.0).draw(noise, LABELS, NOBODY, steps)
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("kind", "name", "zero"), [("v", "v_prediction", True), ("eps", "epsilon", False)])
def test_ancestral_is_diffusers_euler_ancestral(steps: int, kind: str, name: str, zero: bool) -> None:
    """Same seeds, same noise in between. diffusers works in float32 with sigmas up to 4096 at zero terminal SNR (its
    alpha there is 2^-12, not 0), where the last digits of x0 are worth 4096 * 2^-24 = 2.4e-4: hence 5e-3; 1e-4 without."""
    from diffusers import EulerAncestralDiscreteScheduler

    theirs = EulerAncestralDiscreteScheduler(
        **BETAS, prediction_type=name, timestep_spacing="trailing", rescale_betas_zero_snr=zero
    )
    theirs.set_timesteps(steps)
    network, seeds = text_unet(kind, stable_diffusion(zero)), [11, 12]
    cond = Conditioning(tokens=Rng.of(1).normal((2, 5, 8)))
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    noise = torch.cat([torch.randn((1, 4, 8, 8), generator=g) for g in generators])
    x = noise * theirs.init_noise_sigma
    with torch.no_grad():
        for timestep in theirs.timesteps:
            scaled = theirs.scale_model_input(x, timestep)
            said = network.network(scaled, timestep, encoder_hidden_states=cond.tokens).sample
            x = theirs.step(said, timestep, x, generator=generators).prev_sample
        rng = Rng.per_sample(seeds)
        ours = Student(network).draw(rng.normal((2, 4, 8, 8)), cond, steps, rng)
    tolerance = 5e-3 if zero else 1e-4
    torch.testing.assert_close(ours, x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_ddim_on_a_straight_path_is_diffusers_flow_match_euler(steps: int) -> None:
    """diffusers steps in float32: 1e-5."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=sampler.trailing_times(steps))
    network = unet("flow", RectifiedFlow())
    noise = Rng.of(0).normal((2, 1, 8, 8))
    x = noise.clone()
    with torch.no_grad():
        for timestep in theirs.timesteps:
            x = theirs.step(network.network(x, timestep, class_labels=LABELS.labels).sample, timestep, x).prev_sample
    ours = Teacher(network).draw(noise, LABELS, NOBODY, steps)
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


# against the exact solution: data N(mean, std^2), whose probability flow carries pure noise z to mean + std z


def solve(kind: str, schedule: NoiseSchedule, steps: int) -> float:
    """Largest error of a sampler's result."""
    gaussian = Gaussian(schedule, mean=0.5, std=0.3)
    z = torch.linspace(-3, 3, 25, dtype=F64).reshape(1, 1, 25)
    denoise = lambda x, t: gaussian(x, t, Conditioning())  # noqa: E731
    found = sampler.last(sampler.sample(denoise, z, sampler.trailing_times(steps), schedule, Rng.of(0), kind))
    return float((found - (0.5 + 0.3 * z)).abs().max())


@pytest.mark.parametrize(("kind", "order"), [("ddim", 1), ("heun", 2)])
@pytest.mark.parametrize("schedule", [Cosine(), RectifiedFlow(), EDM()], ids=["cosine", "flow", "edm"])
def test_order_of_convergence(kind: str, order: int, schedule: NoiseSchedule) -> None:
    """On the way from t = 0.9 to 0.2, where nothing is singular: the global error falls as steps to the minus order."""
    mean, std, ends = 0.5, 0.3, torch.tensor([0.9, 0.2], dtype=F64)
    gaussian = Gaussian(schedule, mean, std)
    denoise = lambda x, t: gaussian(x, t, Conditioning())  # noqa: E731
    z = torch.linspace(-3, 3, 7, dtype=F64).reshape(1, 1, 7)
    a, s = schedule.alpha(ends), schedule.sigma(ends)
    first, final = (a[i] * mean + (a[i] ** 2 * std**2 + s[i] ** 2).sqrt() * z for i in (0, 1))
    wanted = denoise(final, ends[1:])

    def error(n: int) -> float:
        times = [0.9 - 0.7 * i / n for i in range(n + 1)]
        found = sampler.last({"ddim": sampler.ddim, "heun": sampler.heun}[kind](denoise, first, times, schedule))
        return float((found - wanted).abs().max())

    steps = [16, 32, 64]
    assert -slope(steps, [error(n) for n in steps]) == pytest.approx(order, abs=0.15)


def test_ddim_is_first_order_down_to_the_data() -> None:
    steps = [16, 32, 64]
    assert -slope(steps, [solve("ddim", RectifiedFlow(), n) for n in steps]) == pytest.approx(1, abs=0.15)


START = Rng.of(0).normal((100, 2), F64)


@cache
def runge_kutta(top: float) -> Tensor:
    """Where the probability flow of three unequal modes carries START, by the classical fourth-order rule.

    In the noise angle f, where ``x = cos f x0 + sin f eps`` and ``dx/df = cos f eps - sin f x0``: nothing of ours but the
    exact x0.
    """
    exact = mixture.UNEVEN.denoiser()  # on the cosine schedule, whose time is the angle over pi / 2

    def slope_at(x: Tensor, angle: float) -> Tensor:
        x0 = exact(x, sampler.at(2 * angle / math.pi, x), Conditioning())
        return math.cos(angle) * (x - math.cos(angle) * x0) / math.sin(angle) - math.sin(angle) * x0

    x, angles = math.sin(top) * START, [top * (1 - i / 400) ** 2 for i in range(400)]
    for now, after in itertools.pairwise(angles):
        h = after - now
        k1 = slope_at(x, now)
        k2 = slope_at(x + h / 2 * k1, now + h / 2)
        k3 = slope_at(x + h / 2 * k2, now + h / 2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope_at(x + h * k3, after))
    return exact(x, sampler.at(2 * angles[-1] / math.pi, x), Conditioning())


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        *((stable_diffusion(zero=False), kind) for kind in ("eps", "v", "x0")),
        *((stable_diffusion(zero=True), kind) for kind in ("v", "x0")),
        *((Cosine(), kind) for kind in ("v", "x0")),
        *((RectifiedFlow(), kind) for kind in ("flow", "x0")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_heun_is_second_order_down_to_the_data_and_beats_ddim(schedule: NoiseSchedule, kind: str) -> None:
    """Three unequal modes, exact denoiser of any parametrisation, reference by another rule in other coordinates."""
    modes, one = mixture.UNEVEN, torch.ones(1, dtype=F64)
    exact = mixture.Mixture(torch.tensor(modes.centres, dtype=F64), modes.stds, schedule, modes.weights, kind)
    wanted = runge_kutta(float(torch.atan2(schedule.sigma(one), schedule.alpha(one))))
    denoise = lambda x, t: exact(x, t, Conditioning())  # noqa: E731

    def error(name: str, n: int) -> float:
        found = sampler.last(sampler.sample(denoise, START, sampler.trailing_times(n), schedule, Rng.of(0), name))
        return float((found - wanted).norm(dim=1).median())

    steps = [32, 64, 128]
    heun = [error("heun", n) for n in steps]
    assert 1.75 < -slope(steps, heun) < 2.2
    assert heun[0] < 0.25 * error("ddim", 2 * 32 - 1), "at as many evaluations"
    assert error("heun", 8) < error("ddim", 2 * 8 - 1)


def test_the_times_that_heun_places() -> None:
    """From the same first one, falling, never 0; like trailing ones at the noisy end, where guided networks need them."""
    for first, steps in ((1.0, 1), (1.0, 25), (0.3, 7), (1.0, 1000)):
        times = sampler.visited("heun", [first * t for t in sampler.trailing_times(steps)])
        assert times[0] == first
        assert len(times) == steps
        assert all(a > b > 0 for a, b in itertools.pairwise([*times, times[-1] / 2]))
    assert sampler.visited("heun", sampler.trailing_times(1000))[1] == pytest.approx(0.999, abs=5e-6)
    for kind in ("ancestral", "renoise", "ddim"):
        assert sampler.visited(kind, (1.0, 0.7, 0.1)) == [1.0, 0.7, 0.1]


@pytest.mark.parametrize("kind", ["ddim", "heun"])
@pytest.mark.parametrize("schedule", [stable_diffusion(zero=True), EDM()], ids=["sd", "edm"])
def test_every_schedule_arrives(kind: str, schedule: NoiseSchedule) -> None:
    """DDIM's step from 1/n to 0 is long in noise there, which costs 7% of the spread at its 3 sigma edge."""
    assert solve(kind, schedule, 120) < (0.06 if kind == "ddim" else 4e-3)


def test_one_step_of_the_exact_denoiser_is_the_mean() -> None:
    assert solve("ddim", Cosine(), 1) == pytest.approx(0.9)  # x0 estimate 0.5 everywhere: 3 std off at the edge


def moments(kind: str, steps: int, schedule: NoiseSchedule) -> tuple[float, float]:
    gaussian = Gaussian(schedule, mean=0.5, std=0.3)
    denoise = lambda x, t: gaussian(x, t, Conditioning())  # noqa: E731
    rng = Rng.of(0)
    start = rng.normal((1, 1, 40_000), F64)
    drawn = sampler.last(sampler.sample(denoise, start, sampler.trailing_times(steps), schedule, rng, kind))
    return float(drawn.mean()), float(drawn.std())


@pytest.mark.parametrize("kind", ["ddim", "heun"])
def test_many_steps_reproduce_the_moments_of_the_data(kind: str) -> None:
    mean, std = moments(kind, 80, Cosine())
    assert mean == pytest.approx(0.5, abs=0.01)
    assert std == pytest.approx(0.3, abs=0.01)


def test_ancestral_sampling_reproduces_them_to_first_order() -> None:
    """It draws too narrowly at few steps, as DDPM's smaller variance does; twice the steps take some 40% off the lack."""
    (mean, some), (_, more) = moments("ancestral", 50, Cosine()), moments("ancestral", 100, Cosine())
    assert mean == pytest.approx(0.5, abs=0.01)
    assert 0.26 < some < more < 0.3
    assert 0.45 < (0.3 - more) / (0.3 - some) < 0.75


def test_ancestral_steps_are_draws_from_the_posterior() -> None:
    """Exactly Gaussian at every time: x_t keeps the schedule's moments along the whole chain, x0 known."""
    schedule, rng = Cosine(), Rng.of(0)
    x0 = torch.full((1, 1, 100_000), 0.7, dtype=F64)
    t = torch.ones(1, dtype=F64)
    x_t = rng.normal_like(x0)
    for after in (0.8, 0.5, 0.2):
        t_next = torch.tensor([after], dtype=F64)
        x_t = sampler.ancestral(schedule, x_t, x0, t, t_next, rng)
        t = t_next
        assert float(x_t.std()) == pytest.approx(float(schedule.sigma(t)), rel=0.01)
        assert float(x_t.mean()) == pytest.approx(float(0.7 * schedule.alpha(t)), abs=0.015)


@pytest.mark.parametrize("kind", ["ancestral", "renoise"])
def test_every_step_between_has_its_own_noise(kind: str) -> None:
    """With an x0 of zero the inputs of renoise are nothing but noise; ancestral keeps a share of the old one and no more."""
    schedule, seen = Cosine(), []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((x_t / schedule.sigma(t)[0]).flatten())
        return torch.zeros_like(x_t)

    rng = Rng.of(0)
    times = [1.0, 0.75, 0.5, 0.25]
    sampler.last(sampler.sample(denoise, rng.normal((1, 1, 20_000), F64), times, schedule, rng, kind))
    found = torch.corrcoef(torch.stack(seen))
    t = torch.tensor(times, dtype=F64)
    ratio = schedule.sigma(t) / schedule.alpha(t).clamp(min=1e-9)
    kept = ratio[None, :] / ratio[:, None]  # of the noise at the row's time, at the column's later one
    wanted = torch.triu(kept, 1) if kind == "ancestral" else torch.zeros(4, 4, dtype=F64)
    torch.testing.assert_close(torch.triu(found, 1), wanted, rtol=0, atol=0.03)


# any shape, any sampler


@pytest.mark.parametrize("kind", sampler.KINDS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_any_number_of_axes_and_an_estimate_for_every_step(kind: str, axes: int) -> None:
    torch.manual_seed(axes)
    denoiser, batch, calls = ConvDenoiser(axes), make_batch(3, axes), []
    denoise: Callable[[Tensor, Tensor], Tensor] = lambda x, t: calls.append(1) or denoiser(x, t, batch.cond)  # noqa: E731
    times = sampler.trailing_times(4)
    estimates = list(sampler.sample(denoise, torch.randn_like(batch.x0), times, denoiser.schedule, Rng.of(0), kind))
    assert [e.shape for e in estimates] == [batch.x0.shape] * 4
    assert all(e.isfinite().all() for e in estimates)
    assert len(calls) == (7 if kind == "heun" else 4)


@pytest.mark.parametrize("kind", sampler.KINDS)
def test_a_picture_does_not_depend_on_its_batch(kind: str) -> None:
    """To the last digits only: convolutions of another batch size may sum in another order."""
    network, seeds = unet(), [3, 1, 4]
    cond = Conditioning(labels=torch.tensor([0, 1, 2]))

    def draw(rows: list[int]) -> Tensor:
        rng = Rng.per_sample([seeds[i] for i in rows])
        denoise = lambda x, t: network(x, t, cond[rows])  # noqa: E731
        start = rng.normal((len(rows), 1, 8, 8))
        with torch.no_grad():
            return sampler.last(sampler.sample(denoise, start, sampler.trailing_times(3), network.schedule, rng, kind))

    together = draw([0, 1, 2])
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], draw([i]), rtol=1e-4, atol=1e-5)


def test_sampling_goes_on_from_a_noised_picture() -> None:
    schedule = Cosine()
    gaussian = Gaussian(schedule, mean=0.5, std=0.3)
    x0, noise, t = (
        torch.full((1, 1, 5), 1.1, dtype=F64),
        torch.zeros(1, 1, 5, dtype=F64),
        torch.tensor([0.3], dtype=F64),
    )
    denoise = lambda x, time: gaussian(x, time, Conditioning())  # noqa: E731
    x_t = add_noise(schedule, x0, noise, t)
    times = [0.3 * (60 - i) / 60 for i in range(60)]
    found = sampler.last(sampler.sample_from(denoise, x_t, times, schedule, Rng.of(0), "heun"))
    a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
    wanted = 0.5 + 0.3 * (a * 1.1 - a * 0.5) / math.sqrt(a * a * 0.09 + s * s)  # the flow keeps the standardised place
    assert found[0, 0, 0].item() == pytest.approx(wanted, abs=1e-3)


def test_teachers_go_down_the_rest_of_the_way_row_by_row() -> None:
    """``refine`` from rows at different times: more steps come nearer to the exact flow."""
    schedule = Cosine()
    teacher = Teacher(Gaussian(schedule, mean=0.5, std=0.3))
    t = torch.tensor([0.9, 0.4], dtype=F64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    z = torch.tensor([1.5, -2.0], dtype=F64)
    x_t = (a * 0.5 + (a**2 * 0.09 + s**2).sqrt() * z).reshape(2, 1, 1)
    wanted = (0.5 + 0.3 * z).reshape(2, 1, 1)
    errors = [
        (teacher.refine(x_t, t, Conditioning(), Conditioning(), n) - wanted).abs().max().item() for n in (1, 4, 16, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02
    torch.testing.assert_close(
        teacher.refine(x_t, t, Conditioning(), Conditioning(), 1), teacher(x_t, t, Conditioning(), Conditioning())
    )


def test_bad_requests_get_a_sentence() -> None:
    network = unet()
    with pytest.raises(ValueError, match="1 or more"):
        sampler.trailing_times(0)
    with pytest.raises(ValueError, match=r"knows only 1, 0\.75, 0\.5, 0\.25: draw it with ancestral, renoise or ddim"):
        Student(network).draw(torch.zeros(1, 1, 8, 8), Conditioning(labels=torch.tensor([0])), 2, Rng.of(0), "heun")
    with pytest.raises(ValueError, match="ancestral, renoise, ddim, heun"):
        sampler.sample(lambda x, t: x, torch.zeros(1, 1, 2), [1.0], Cosine(), Rng.of(0), "euler")
    for steps in (0, 5):
        with pytest.raises(ValueError, match="trained for 1 to 4 steps"):
            Student(network).times_for(steps)
    for times in ((), (0.9, 0.5), (1.0, 0.5, 0.5), (1.0, 0.0)):
        with pytest.raises(ValueError, match=r"must fall from 1\.0"):
            Student(network, times)
    with pytest.raises(ValueError, match="2 probabilities for 4"):
        Student(network, probabilities=(0.5, 0.5))
