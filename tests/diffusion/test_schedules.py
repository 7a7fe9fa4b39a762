"""Schedules, predictions, weightings and guidance: against diffusers' tables, the papers' numbers, and their own algebra."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from fewstep import pretrained
from fewstep.diffusion import prediction
from fewstep.diffusion.guidance import guide
from fewstep.diffusion.sampler import trailing_times
from fewstep.diffusion.schedule import (
    EDM,
    CachedSchedule,
    Cosine,
    NoiseSchedule,
    RectifiedFlow,
    VariancePreserving,
    add_noise,
    time_of,
)
from fewstep.diffusion.weighting import WEIGHTINGS
from fewstep.pretrained.schedules import schedule_of, settled
from fewstep.rng import Rng
from fewstep.tensors import match_dims
from helpers import stable_diffusion

F64 = torch.float64
SCHEDULES = {
    "sd": stable_diffusion(),
    "sd, zero terminal SNR": stable_diffusion(zero=True),
    "ddpm": VariancePreserving.from_range(1e-4, 0.02, kind="linear"),
    "cosine": Cosine(),
    "edm": EDM(),
    "flow": RectifiedFlow(),
    "flow, shifted": RectifiedFlow(shift=3.0),
    "flow, shifted by the size": RectifiedFlow(shift=math.exp(0.83)),
}
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def knots(n: int = 1000) -> torch.Tensor:
    """The times that the table's timesteps 0 to n - 1 stand at."""
    return (torch.arange(n, dtype=F64) + 1) / n


@each_schedule
def test_a_schedule_falls_from_clean_to_noise(schedule: NoiseSchedule) -> None:
    t = torch.linspace(0, 1, 4001, dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert alpha.dtype == sigma.dtype == F64
    assert alpha[0] == 1
    assert sigma[0] == 0
    assert (alpha.diff() <= 0).all()
    assert (sigma.diff() >= 0).all()
    if isinstance(schedule, RectifiedFlow):
        assert torch.equal(alpha + sigma, torch.ones_like(t))
    else:
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=1e-12, atol=0)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("kind", "start", "end"), [("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02)])
def test_tables_are_diffusers_own(kind: str, start: float, end: float, zero: bool) -> None:
    """diffusers builds its table in float32, hence 1e-6 on alpha^2."""
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_start=start, beta_end=end, beta_schedule=kind, rescale_betas_zero_snr=zero)
    ours = pretrained.schedule_of(dict(theirs.config))
    alpha_squared = ours.alpha(knots()) ** 2
    np.testing.assert_allclose(alpha_squared.numpy(), theirs.alphas_cumprod.numpy(), rtol=1e-5, atol=1e-6)
    assert (alpha_squared[-1] == 0) == zero, "pure noise is exact, not nearly so"


def test_a_float32_time_stands_for_its_knot() -> None:
    schedule, t = stable_diffusion(), knots()
    assert torch.equal(schedule.alpha(t.float()), schedule.alpha(t))
    timesteps = pretrained.to_timestep(t.float())
    assert torch.equal(timesteps, torch.arange(1000).float())
    assert pretrained.to_timestep(torch.tensor([0.0, 1.0, 0.0355])).tolist() == [0, 999, 34.5]


def test_the_papers_numbers() -> None:
    """add_spec A4: c(t) on Stable Diffusion's table, and the demo's sigma_0 = 14.61."""
    schedule = stable_diffusion()
    t = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    np.testing.assert_allclose(WEIGHTINGS["exponential"](alpha, sigma), [0.068, 0.238, 0.527, 0.822], atol=6e-4)
    np.testing.assert_allclose(WEIGHTINGS["sds"](alpha, sigma), [0.034, 0.116, 0.224, 0.234], atol=6e-4)
    assert WEIGHTINGS["nfsd"] is WEIGHTINGS["sds"]
    assert float(sigma[0] / alpha[0]) == pytest.approx(14.6146, abs=1e-3)


def test_zero_terminal_snr_moves_the_end_and_keeps_the_beginning() -> None:
    plain, rescaled = stable_diffusion(), stable_diffusion(zero=True)
    first = torch.tensor([0.001], dtype=F64)
    torch.testing.assert_close(plain.alpha(first), rescaled.alpha(first), rtol=1e-12, atol=0)
    assert rescaled.alpha(torch.ones(1)) == 0
    assert rescaled.sigma(torch.ones(1)) == 1


def test_edm_follows_karras_ramp() -> None:
    schedule, n = EDM(), 18
    i = np.arange(n)
    karras = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    t = torch.linspace(1, 0, n, dtype=F64)
    np.testing.assert_allclose(schedule.ratio(t)[:-1], karras[:-1], rtol=1e-9)
    assert schedule.ratio(torch.tensor([1e-12], dtype=F64)).item() == pytest.approx(0.002)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64])
def test_coefficients_are_cast_where_they_are_applied(dtype: torch.dtype) -> None:
    x0 = torch.ones(2, 3, 4, dtype=dtype)
    x_t = add_noise(stable_diffusion(), x0, x0, torch.tensor([0.2, 0.9]))
    assert x_t.dtype == dtype
    exact = (stable_diffusion().alpha(torch.tensor([0.2])) + stable_diffusion().sigma(torch.tensor([0.2]))).to(dtype)
    assert x_t[0, 0, 0].item() == pytest.approx(exact.item(), rel=1e-2 if dtype == torch.bfloat16 else 1e-6)


# v wants alpha^2 + sigma^2 = 1, flow wants alpha + sigma = 1
MATCHES = [(n, k) for n in SCHEDULES for k in prediction.KINDS if k != ("v" if n.startswith("flow") else "flow")]


@pytest.mark.parametrize(("name", "kind"), MATCHES)
def test_every_prediction_goes_to_x0_and_back(name: str, kind: str) -> None:
    schedule = SCHEDULES[name]
    rng = Rng.of(0)
    x0, noise = rng.normal((5, 2, 3), F64), rng.normal((5, 2, 3), F64)
    t = torch.tensor([0.05, 0.3, 0.6, 0.9, 0.99], dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t = add_noise(schedule, x0, noise, t)
    said = prediction.target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(prediction.to_x0(kind, x_t, said, alpha, sigma), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(prediction.from_x0(kind, x_t, x0, alpha, sigma), said, rtol=1e-8, atol=1e-8)
    a, s = match_dims(alpha, x0), match_dims(sigma, x0)
    definition = {"eps": noise, "v": a * noise - s * x0, "x0": x0, "flow": noise - x0}[kind]
    torch.testing.assert_close(said, definition)


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow"])
def test_guiding_x0_guides_what_the_network_says(kind: str) -> None:
    schedule = RectifiedFlow() if kind == "flow" else stable_diffusion()
    rng, t = Rng.of(0), torch.tensor([0.3, 0.8], dtype=F64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t, shown, hidden = (rng.normal((2, 1, 4), F64) for _ in range(3))
    to_x0 = lambda said: prediction.to_x0(kind, x_t, said, alpha, sigma)  # noqa: E731
    torch.testing.assert_close(guide(to_x0(shown), to_x0(hidden), 7.5), to_x0(hidden + 7.5 * (shown - hidden)))
    torch.testing.assert_close(guide(shown, hidden, 1.0), shown)
    torch.testing.assert_close(guide(shown, hidden, 0.0), hidden)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"beta_schedule": "laplace"}, "use linear, scaled_linear, squaredcos_cap_v2 or sigmoid"),
    ({"prediction_type": "velocity"}, "epsilon, v_prediction"),
]


@pytest.mark.parametrize(("config", "sentence"), CONFIGS)
def test_an_unknown_config_gets_a_sentence(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        (pretrained.schedule_of if "beta_schedule" in config else pretrained.kind_of)(config)


def test_configs_are_read_as_diffusers_means_them() -> None:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "prediction_type": "epsilon"}
    assert isinstance(pretrained.schedule_of(flow), RectifiedFlow)
    assert pretrained.kind_of(flow) == "flow"
    assert [pretrained.kind_of({"prediction_type": name}) for name in ("epsilon", "v_prediction", "sample")] == [
        "eps",
        "v",
        "x0",
    ]
    assert pretrained.kind_of({}) == "eps"
    betas = [0.1, 0.2, 0.3]
    table = pretrained.schedule_of({"trained_betas": betas})
    wanted = list(itertools.accumulate((1 - b for b in betas), lambda a, b: a * b))
    np.testing.assert_allclose(table.alpha(knots(3)) ** 2, wanted, rtol=1e-12)


@each_schedule
def test_a_remembered_schedule_is_the_schedule_and_of_use_in_any_mode(schedule: NoiseSchedule) -> None:
    cached = CachedSchedule(schedule)
    with torch.inference_mode():
        for t in (torch.tensor([0.25, 1.0], dtype=F64), torch.tensor([0.25], dtype=F64)):
            for _ in range(2):
                assert torch.equal(cached.alpha(t), schedule.alpha(t))
                assert torch.equal(cached.sigma(t), schedule.sigma(t))
    assert cached.alpha(t) is cached.alpha(t.clone())
    x = torch.ones(1, 2, dtype=F64, requires_grad=True)
    add_noise(cached, x, torch.zeros_like(x), t).sum().backward()  # a tensor of inference mode would refuse
    assert x.grad is not None
    for i in range(1000):
        cached.alpha(torch.tensor([i / 1000], dtype=F64))
    assert len(cached.at) <= 256


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="eps, v, x0, flow"):
        prediction.check_kind("epsilon")


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.4])
def test_a_shifted_flow_visits_the_sigmas_of_stock_schedulers(shift: float) -> None:
    import diffusers

    times = torch.tensor(trailing_times(4), dtype=F64)
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    euler.set_timesteps(sigmas=trailing_times(4))
    found = schedule_of({**euler.config, "_class_name": type(euler).__name__})
    torch.testing.assert_close(found.sigma(times), euler.sigmas[:-1].double(), rtol=1e-6, atol=0)
    many = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift, final_sigmas_type="zero"
    )
    many.set_timesteps(4)
    found = schedule_of(dict(many.config))
    torch.testing.assert_close(found.sigma(times), many.sigmas[:-1].double(), rtol=1e-6, atol=0)
    assert found.start(times)[0] == 1, "its noise is not scaled"


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096])
def test_a_shift_by_the_size_is_that_of_the_stock_pipeline(kind: str, tokens: int) -> None:
    import diffusers
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    options = {"base_shift": 0.4, "max_shift": 1.3, "time_shift_type": kind}
    stock = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options)
    mu = calculate_shift(tokens, base_shift=0.4, max_shift=1.3)
    stock.set_timesteps(sigmas=trailing_times(5), mu=mu)
    config = {**stock.config, "_class_name": type(stock).__name__}
    fixed = settled(config, tokens)
    times = torch.tensor(trailing_times(5), dtype=F64)
    torch.testing.assert_close(schedule_of(fixed).sigma(times), stock.sigmas[:-1].double(), rtol=1e-6, atol=0)
    assert schedule_of(config).shift == 1, "of no size it has none"
    assert settled(fixed, 7) == fixed


@pytest.mark.parametrize("shift", [0, -1.0, math.inf, math.nan, "3"])
def test_a_shift_that_is_none_is_refused(shift: object) -> None:
    with pytest.raises(ValueError, match="give a number above 0, 1 for none"):
        schedule_of({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift})


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_time_of_a_ratio_of_noise_to_signal_is_found(name: str) -> None:
    """On every schedule; on a flow, whose sigma is the time and alpha the rest, it is the ratio's logistic."""
    schedule, ratio = SCHEDULES[name], torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0], dtype=F64)
    t = time_of(schedule, ratio)
    torch.testing.assert_close((schedule.sigma(t) / schedule.alpha(t)).log(), ratio, rtol=1e-6, atol=1e-6)
    if name == "flow":
        torch.testing.assert_close(t, ratio.sigmoid(), rtol=0, atol=1e-9)
    assert float(time_of(schedule, torch.tensor([-50.0], dtype=F64))) < 1e-4
