"""The fifteen numerical identities that an implementation of ADD has to satisfy, in their usual order, in float64."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import losses, sampler
from fewstep.diffusion.schedule import EDM, Cosine, NoiseSchedule, RectifiedFlow, add_noise
from fewstep.methods.add import ADD, Options
from fewstep.parts.adversary import Adversary
from fewstep.parts.denoiser import Student, StudentInput, Teacher, noise_to
from fewstep.parts.discriminator import BatchNormLocal, Discriminator, Head
from fewstep.parts.discriminator import Options as HeadOptions
from fewstep.parts.features.feature import MediaFeatures
from fewstep.pretrained import to_timestep
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Features, match_dims
from fewstep.training import trainer
from helpers import (
    Cached,
    Gaussian,
    Recorded,
    flat_gradient,
    gradients,
    make_batch,
    make_game,
    stable_diffusion,
    text_unet,
    tiny_vae,
    unet,
)

F64 = torch.float64


def distillation_gradient(schedule: NoiseSchedule, kind: str, weighting: str, **options: object) -> tuple[Tensor, ...]:
    """Autograd's gradient of the distillation loss at a sample, and what it depends on, all drawn again by hand.

    Returns (gradient times the number of elements, x_t, t, noise, the guided prediction in the network's own kind).
    """
    game = make_game(dtype=F64, schedule=schedule, kind=kind, weighting=weighting, guidance_scale=3.0, **options)
    sample = Rng.of(1).normal_like(game.batch.x0).requires_grad_()
    rng = Rng.of(2)
    game.add.distillation(sample, game.batch, rng.copy()).backward()
    assert sample.grad is not None
    t = rng.uniform((len(sample),), *game.add.options.teacher_times).double()
    noise = rng.normal_like(sample)
    with torch.no_grad():
        x_t = match_dims(schedule.alpha(t), sample) * sample + match_dims(schedule.sigma(t), sample) * noise
        network = game.teacher.denoiser
        shown, hidden = network.predict(x_t, t, game.batch.cond), network.predict(x_t, t, game.batch.null)
    return sample.grad * sample.numel(), x_t, t, noise, hidden + 3.0 * (shown - hidden)


def eps_of(kind: str, x_t: Tensor, prediction: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noise that a variance preserving prediction speaks of, from the definitions and not from the code under test."""
    return prediction if kind == "eps" else sigma * x_t + alpha * prediction


VARIANCE_PRESERVING = [(stable_diffusion(), "eps"), (stable_diffusion(zero=True), "v"), (Cosine(), "v"), (EDM(), "eps")]


@pytest.mark.parametrize(("schedule", "kind"), VARIANCE_PRESERVING)
def test_identity_01_sds_weighting_gives_the_score_distillation_gradient(schedule: NoiseSchedule, kind: str) -> None:
    gradient, x_t, t, noise, prediction = distillation_gradient(schedule, kind, "sds")
    alpha, sigma = match_dims(schedule.alpha(t), x_t), match_dims(schedule.sigma(t), x_t)
    wanted = sigma**2 * (eps_of(kind, x_t, prediction, alpha, sigma) - noise)  # w(t) = sigma^2
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("schedule", "kind"), VARIANCE_PRESERVING)
def test_identity_02_exponential_weighting_gives_two_sigma(schedule: NoiseSchedule, kind: str) -> None:
    gradient, x_t, t, noise, prediction = distillation_gradient(schedule, kind, "exponential")
    alpha, sigma = match_dims(schedule.alpha(t), x_t), match_dims(schedule.sigma(t), x_t)
    wanted = 2 * sigma * (eps_of(kind, x_t, prediction, alpha, sigma) - noise)
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


def test_identity_03_a_flow_teacher_gives_t_times_the_difference_of_velocities() -> None:
    schedule = RectifiedFlow()
    gradient, x_t, t, noise, velocity = distillation_gradient(schedule, "flow", "exponential")
    time = match_dims(t, x_t)
    x0 = (x_t - time * noise) / (1 - time)
    wanted = 2 * (1 - time) * time * (velocity - (noise - x0))
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weighting", ["exponential", "sds", "nfsd"])
def test_identity_04_the_teacher_is_a_constant(weighting: str) -> None:
    """The student's gradient stays bit for bit when the teacher's answers are played back from a recording."""
    live = make_game(dtype=F64, weighting=weighting, adversarial_weight=0)
    recorded = Recorded(live.teacher.denoiser)
    live.add.teacher = Teacher(recorded, 2.0)
    live.turn("student")
    wanted = flat_gradient(live.student.denoiser)
    live.add.teacher = Teacher(Cached(Cosine(), recorded.answers), 2.0)
    live.turn("student")
    assert wanted.abs().max() > 0
    assert torch.equal(wanted, flat_gradient(live.student.denoiser))
    target = live.teacher(
        live.batch.x0.requires_grad_(), torch.full((4,), 0.5, dtype=F64), live.batch.cond, live.batch.null
    )
    assert not target.requires_grad


def test_identity_04_teacher_and_features_are_frozen_for_ever() -> None:
    """In eval and without gradients, also after both players have been at their turns."""
    game = make_game()
    for player in ("student", "discriminator"):
        game.turn(player)
    for network in (game.teacher.denoiser, game.eyes):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert list(network.parameters())


@pytest.mark.parametrize("schedule", [stable_diffusion(), Cosine(), RectifiedFlow()])
def test_identity_05_a_perfect_teacher_of_a_point_never_pushes(schedule: NoiseSchedule) -> None:
    game = make_game(dtype=F64, teacher_network=Gaussian(schedule, 0.5, 0.0), guidance_scale=1.0)
    at_data = torch.full_like(game.batch.x0, 0.5).requires_grad_()
    beside = torch.full_like(game.batch.x0, 0.6).requires_grad_()
    for sample in (at_data, beside):
        game.add.distillation(sample, game.batch, Rng.of(3)).backward()
    assert at_data.grad is not None
    assert beside.grad is not None
    assert at_data.grad.abs().max() < 1e-12
    assert (beside.grad > 0).all(), "a sample above the point is pushed down"


def test_identity_05_a_perfect_teacher_of_a_gaussian_pushes_nowhere_on_average() -> None:
    mean, std, n = 0.5, 0.3, 512
    game = make_game(n=n, axes=1, dtype=F64, teacher_network=Gaussian(Cosine(), mean, std), guidance_scale=1.0)

    def push(shift: float) -> Tensor:
        shape = (n, 2, 200)
        sample = (mean + shift + std * Rng.of(4).normal(shape, F64)).requires_grad_()
        game.add.distillation(sample, game.batch, Rng.of(5)).backward()
        assert sample.grad is not None
        return (sample.grad * sample.numel()).flatten(1).mean(1)

    fair, high = push(0.0), push(0.1)
    error = fair.std() / math.sqrt(n)
    assert fair.mean().abs() < 4 * error
    assert high.mean() > 20 * error


def real_game(**options: object) -> tuple[ADD, Batch, dict[str, torch.nn.Module]]:
    """diffusers' own networks: a text UNet on the latents of a VAE, eyes on decoded pixels."""
    from helpers import Eyes, freeze

    student, teacher, codec = text_unet(seed=1), text_unet(seed=2), tiny_vae()
    eyes = freeze(Eyes(2, 3))
    rng = Rng.of(0)
    cond = Conditioning(tokens=rng.normal((2, 5, 8)), pooled=rng.normal((2, 3)), image=rng.normal((2, 4)))
    null = Conditioning(*(torch.zeros_like(v) for v in (cond.tokens, cond.pooled, cond.image)))
    batch = Batch(rng.normal((2, 4, 8, 8)), cond, null, media=rng.uniform((2, 3, 16, 16), -1, 1))
    heads = Discriminator.over(eyes(batch.media), cond)
    o = Options(**options)
    add = ADD(Student(student), Teacher(teacher, 3.0), codec, Adversary(codec, MediaFeatures(eyes), heads, o), o)
    return add, batch, {"teacher": teacher, "codec": codec, "features": eyes}


@pytest.mark.parametrize("options", [{"distillation_weight": 0}, {"space": "media"}, {"adversarial_weight": 1e-9}])
def test_identity_06_gradients_reach_the_player_at_its_turn_and_nobody_else(options: dict[str, object]) -> None:
    add, batch, frozen = real_game(**options)
    networks = {name: player.network for name, player in add.players.items()}
    for player in ("student", "discriminator"):
        with trainer.only_trainable(networks, player):
            torch.stack(list(add.losses(player, batch, Rng.of(1)).values())).sum().backward()
        other = "discriminator" if player == "student" else "student"
        moved = gradients(networks[player])
        assert len(moved) == len(list(networks[player].parameters()))
        assert sum(float(g.norm()) for g in moved) > 0
        assert all(bool(g.isfinite().all()) for g in moved)
        assert not gradients(networks[other])
        assert not any(gradients(network) for network in frozen.values())
        networks[player].zero_grad(set_to_none=True)


# 7. The head


@pytest.mark.parametrize("shape", [(11,), (3, 5), (2, 3, 4)])
def test_identity_07_a_head_is_what_the_paper_describes(shape: tuple[int, ...]) -> None:
    """The whole forward, written again from the description with the head's own weights."""
    head = Head(6, len(shape), 5, HeadOptions()).double().eval()  # eval: spectral norm keeps its vectors
    rng = Rng.of(0)
    x, c = rng.normal((4, 6, *shape), F64), rng.normal((4, 5), F64)

    def normalised(y: Tensor) -> Tensor:
        over = (0, *range(2, y.dim()))
        return (y - y.mean(over, keepdim=True)) / (y.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()

    leaky: Callable[[Tensor], Tensor] = lambda y: torch.where(y > 0, y, 0.2 * y)  # noqa: E731
    first = leaky(normalised(head.enter[0](x)))
    second = (leaky(normalised(head.around[0](first))) + first) / math.sqrt(2)
    projected = c @ head.condition.weight.T / math.sqrt(5)
    wanted = torch.einsum("bcn,bc->bn", head.leave(second).flatten(2), projected) / 8  # sqrt(64)
    out = head(x, c)
    assert out.shape == (4, math.prod(shape))
    torch.testing.assert_close(out, wanted, rtol=1e-10, atol=1e-12)
    assert head.leave(second).shape[1] == 64
    for conv in (head.enter[0], head.around[0], head.leave):
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2) < 1.5, "spectrally normalised"


def test_identity_07_groups_of_eight_are_independent_and_real_never_meets_fake() -> None:
    heads = Discriminator([(4, 2)], 3).double().eval()
    batch, rng = make_batch(16, dtype=F64), Rng.of(1)
    level, cond = rng.normal((16, 4, 5, 5), F64), Conditioning(pooled=batch.cond.pooled)
    before = heads(Features((level,)), cond)
    level = level.clone()
    level[8] += 1
    after = heads(Features((level,)), cond)
    assert torch.equal(before[:8], after[:8])
    assert all(not torch.equal(before[i], after[i]) for i in range(8, 16)), "and within a group they are one batch"

    seen = []
    for seed in (0, 1):
        game = make_game(dtype=F64)
        with torch.no_grad():
            for p in game.student.denoiser.parameters():
                p.add_(seed)
        game.turn("discriminator")
        seen.append(game.add.observations())
    assert seen[0]["real_logit"] == seen[1]["real_logit"]
    assert seen[0]["fake_logit"] != seen[1]["fake_logit"]


def test_identity_07_local_norm_uses_no_memory_and_names_its_fix() -> None:
    norm = BatchNormLocal(3)
    assert set(dict(norm.named_buffers())) == set()
    with pytest.raises(ValueError, match="multiple of 8"):
        norm(torch.zeros(9, 3, 2))


# 8. R1


def linear_heads(places: Sequence[int]) -> tuple[list[Tensor], list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
    """A linear head on each of several levels ``[4, 3, N]``: their weights ``[3]``, the levels, and the logits of levels."""
    rng = Rng.of(0)
    weights = [rng.normal((3,), F64).requires_grad_() for _ in places]
    levels = [rng.normal((4, 3, n), F64).requires_grad_() for n in places]
    ask = lambda found: torch.cat([torch.einsum("c,bcn->bn", w, v) for w, v in zip(weights, found)], 1)  # noqa: E731
    return weights, levels, ask


@pytest.mark.parametrize("places", [4, 16, 1024])
def test_identity_08_r1_of_a_linear_head_is_the_norm_of_its_weight_at_any_number_of_places(places: int) -> None:
    weights, levels, ask = linear_heads([places, 16])
    penalty = losses.r1(ask(levels), levels)
    torch.testing.assert_close(penalty, weights[0].pow(2).sum() + weights[1].pow(2).sum(), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(penalty, weights[0])
    torch.testing.assert_close(gradient, 2 * weights[0], rtol=1e-12, atol=0)
    alone = losses.r1(ask(levels)[:, :places], levels[:1])
    torch.testing.assert_close(alone, weights[0].pow(2).sum(), rtol=1e-12, atol=0)
    constant = ask(levels).detach() + 0 * sum(v.sum() for v in levels)
    assert losses.r1(constant, levels) == 0


@pytest.mark.parametrize("places", [4, 16, 1024])
def test_identity_08_approximate_r1_has_the_scale_of_r1(places: int) -> None:
    """White noise on the levels: the mean over many draws is ``s^2`` R1, whatever the number of places."""
    _, levels, ask = linear_heads([places, 16])
    rng, s, found = Rng.of(1), 0.01, []
    for _ in range(400):
        noisy = [v + s * rng.normal_like(v) for v in levels]
        found.append(losses.approximate_r1(ask(levels), ask(noisy), [places, 16]).detach() / s**2)
    assert float(torch.stack(found).mean() / losses.r1(ask(levels), levels).detach()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("size", [9, 36])
def test_identity_08_approximate_r1_tends_to_r1(size: int) -> None:
    """Over all directions of one sample, one after the other, it is R1 itself: of real heads, which look at neighbours."""
    heads = Discriminator([(4, 1), (2, 1)], 0, HeadOptions(norm="group", text=False, image=False)).double().eval()
    rng, each = Rng.of(0), [size, 5]
    levels = [rng.normal((1, c, n), F64).requires_grad_() for c, n in zip((4, 2), each)]
    ask = lambda found: heads(Features(tuple(found)), Conditioning())  # noqa: E731
    wanted, logits = losses.r1(ask(levels), levels).detach(), ask(levels).detach()

    def total(s: float) -> Tensor:
        found = []
        for k, level in enumerate(levels):
            for direction in torch.eye(level.numel(), dtype=F64).reshape(-1, *level.shape):
                moved = [v.detach() + s * direction if i == k else v.detach() for i, v in enumerate(levels)]
                found.append(losses.approximate_r1(logits, ask(moved).detach(), each))
        return torch.stack(found).sum() / s**2

    assert wanted > 0
    assert abs(float(total(1e-5) / wanted) - 1) < 1e-3
    assert abs(float(total(1e-5) / wanted) - 1) < abs(float(total(1e-1) / wanted) - 1)


# 9 to 11. Times and samplers


@pytest.mark.parametrize(
    ("kind", "schedule"), [("eps", stable_diffusion()), ("v", stable_diffusion(zero=True)), ("flow", RectifiedFlow())]
)
def test_identity_09_pure_noise_gives_a_finite_picture(kind: str, schedule: NoiseSchedule) -> None:
    network, noise = unet(kind, schedule), Rng.of(0).normal((3, 1, 8, 8))
    t, cond = torch.ones(3, dtype=F64), Conditioning(labels=torch.tensor([0, 1, 3]))
    x_t = noise_to(schedule, torch.full_like(noise, 7.0), noise, t)
    scale = schedule.sigma(t).float().reshape(3, 1, 1, 1)  # what every sampler starts from: .9977 for SD's table, else 1
    assert torch.equal(x_t, scale * noise), "nothing of x0 is left at t = 1, also where the table keeps a little"
    x0 = network(x_t, t, cond)
    assert x0.isfinite().all()
    if kind == "eps":  # the native alpha, 0.0683, stands in the conversion
        alpha, sigma = 0.068265, 0.997667
        wanted = (x_t - sigma * network.predict(x_t, t, cond)) / alpha
        torch.testing.assert_close(x0, wanted, rtol=2e-5, atol=2e-4)


def test_identity_09_eps_without_a_native_alpha_says_what_to_do() -> None:
    network = unet("eps", stable_diffusion(zero=True))
    with pytest.raises(ValueError, match="v or flow model"):
        network(torch.zeros(1, 1, 8, 8), torch.ones(1), Conditioning(labels=torch.tensor([0])))


def test_identity_10_the_few_times_are_the_known_timesteps() -> None:
    def timesteps(times: object) -> list[int]:
        return [int(v) for v in to_timestep(torch.tensor(times, dtype=F64))]

    assert timesteps(sampler.trailing_times(1)) == [999]
    assert timesteps(sampler.trailing_times(2)) == [999, 499]
    assert timesteps(sampler.trailing_times(4)) == [999, 749, 499, 249]
    student = Student(unet(), (1.0, 0.75, 0.5, 0.25))
    assert [timesteps(student.times_for(n)) for n in (1, 2, 4)] == [[999], [999, 499], [999, 749, 499, 249]]
    assert timesteps(Student(unet(), (1.0, 0.9, 0.8, 0.7)).times_for(4)) == [999, 899, 799, 699]


ALL_SCHEDULES = [stable_diffusion(), stable_diffusion(zero=True), Cosine(), RectifiedFlow(), EDM()]


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_identity_11_an_ancestral_step_splits_the_noise_without_loss(schedule: NoiseSchedule) -> None:
    """In the sigma notation: sig_up^2 + sig_down^2 = sig_to^2, each read off the step itself."""
    for now, after in ((1.0, 0.75), (0.75, 0.5), (0.9, 0.1), (0.5, 0.25)):
        t, t_next = torch.tensor([now], dtype=F64), torch.tensor([after], dtype=F64)
        a, s, a2, s2 = (f(u) for u in (t, t_next) for f in (schedule.alpha, schedule.sigma))
        one, zero, rng = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64), Rng.of(0)
        z = rng.copy().normal_like(one)
        step = lambda x_t, x0: sampler.ancestral(schedule, x_t, x0, t, t_next, rng.copy())  # noqa: B023, E731
        up = step(zero, zero) / z
        keep, of_x0 = step(one, zero) - up * z, step(zero, one) - up * z
        down = keep * s  # what is left of the old noise
        torch.testing.assert_close(up**2 + down**2, (s2**2)[None], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(of_x0 + keep * a, a2[None], rtol=1e-9, atol=1e-12)
        if a > 0:  # the same three numbers as k-diffusion and diffusers write them
            sig_from, sig_to = s / a, s2 / a2
            sig_up = (sig_to**2 * (sig_from**2 - sig_to**2) / sig_from**2).sqrt()
            torch.testing.assert_close(up[0], a2 * sig_up, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(down[0], a2 * sig_to**2 / sig_from, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_identity_11_renoising_has_the_variance_of_the_schedule(schedule: NoiseSchedule) -> None:
    x0, t = torch.full((2, 1, 200, 200), 0.7, dtype=F64), torch.tensor([0.75, 0.25], dtype=F64)
    x_t = sampler.renoise(schedule, x0, t, Rng.of(0))
    torch.testing.assert_close(x_t.flatten(1).std(1), schedule.sigma(t), rtol=0.02, atol=1e-6)
    torch.testing.assert_close(x_t.flatten(1).mean(1), 0.7 * schedule.alpha(t), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["ancestral", "renoise"])
def test_identity_11_one_step_is_the_networks_own_estimate(kind: str) -> None:
    game = make_game(dtype=F64)
    noise = Rng.of(1).normal_like(game.batch.x0)
    x0 = game.student.denoiser(noise, torch.ones(4, dtype=F64), game.batch.cond)
    drawn = game.student.draw(noise, game.batch.cond, 1, Rng.of(2), kind)
    assert torch.equal(drawn, x0)


# 12. Backward simulation


def test_identity_12_backward_simulation_never_reads_the_data() -> None:
    game = make_game(dtype=F64)
    simulate = StudentInput(game.student, backward=1.0)
    for seed in range(6):
        (a, t_a, seen), (b, t_b, _) = (
            simulate(v, game.batch.cond, Rng.of(seed)) for v in (game.batch.x0, game.batch.x0 * 9 + 1)
        )
        assert torch.equal(a, b)
        assert torch.equal(t_a, t_b), "the step index hangs on the stream alone, so every rank draws the same"
        assert len(t_a.unique()) == 1
        assert not seen.any(), "no row of a roll-out has seen x0"


@pytest.mark.parametrize(("sampler_kind", "forgets"), [("ancestral", False), ("renoise", True)])
def test_identity_12_a_roll_out_goes_on_as_the_student_is_drawn(sampler_kind: str, forgets: bool) -> None:
    """By its own sampler, as `Student.draw` without a word: what ``renoise`` shows is the last estimate under new noise."""
    game = make_game(dtype=F64, student_options={"probabilities": (0.0, 0.0, 1.0, 0.0), "sampler_kind": sampler_kind})
    student, schedule, like = game.student, game.student.denoiser.schedule, game.batch.x0
    seen: list[Tensor] = []
    student.denoiser.register_forward_hook(lambda *a: seen.append(a[-1]))
    x_t, t = StudentInput(student, backward=1.0).simulate(like, game.batch.cond, Rng.of(5))
    stream = Rng.of(5)
    stream.uniform((1,))  # which step
    *_, noise = (stream.normal_like(like) for _ in range(3))
    assert torch.allclose(x_t, add_noise(schedule, seen[-1], noise, t), atol=1e-12) is forgets
    start = Rng.of(1).normal_like(like)
    own, named = (student.draw(start, game.batch.cond, 4, Rng.of(9), kind) for kind in ("", sampler_kind))
    assert torch.equal(own, named)


@pytest.mark.parametrize(("kind", "zero"), [("eps", False), ("v", True)])
def test_identity_12_a_roll_out_starts_where_every_sampler_starts(kind: str, zero: bool) -> None:
    """From ``sigma(1) z``: .9977 z on Stable Diffusion's own table, z where nothing of the data is left at t = 1."""
    schedule = stable_diffusion(zero=zero)
    pure = {"probabilities": (1.0, 0.0, 0.0, 0.0)}
    game = make_game(dtype=F64, kind=kind, schedule=schedule, backward=1.0, student_options=pure)
    x_t, t, _ = game.add.input(game.batch.x0, game.batch.cond, Rng.of(3))
    stream = Rng.of(3)
    stream.uniform((1,)), stream.uniform((1,))  # backward or not, and which step
    noise, started = stream.normal_like(game.batch.x0), []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        started.append(x)
        return x

    sampler.last(sampler.sample(denoise, noise, (1.0,), schedule, Rng.of(0)))
    assert torch.equal(x_t, started[0])
    scale = 1.0 if zero else 0.997667
    torch.testing.assert_close(x_t, scale * noise, rtol=1e-6, atol=0)
    assert (t == 1).all()


def test_identity_12_only_the_last_pass_of_a_roll_out_has_a_gradient() -> None:
    game = make_game(backward=1.0, student_options={"probabilities": (0.0, 0.0, 0.0, 1.0)})
    calls: list[bool] = []
    game.student.denoiser.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    game.turn("student")
    assert calls == [False, False, False, True]
    assert sum(float(g.norm()) for g in gradients(game.student.denoiser)) > 0


# 13. Losses


def test_identity_13_losses_at_their_landmarks() -> None:
    zero, some = torch.zeros(3, 7, dtype=F64), Rng.of(0).normal((3, 7), F64)
    assert losses.hinge_discriminator(zero, zero) == 2
    assert losses.hinge_generator(None, zero) == 0
    torch.testing.assert_close(losses.softplus_discriminator(zero, zero), torch.tensor(2 * math.log(2), dtype=F64))
    torch.testing.assert_close(losses.relativistic_discriminator(some, some), torch.tensor(math.log(2), dtype=F64))
    torch.testing.assert_close(losses.relativistic_generator(some, some), torch.tensor(math.log(2), dtype=F64))
    assert losses.hinge_discriminator(zero + 2, zero - 2) == 0, "both sides of the margin"
    assert losses.hinge_discriminator(zero - 2, zero + 2) == 6, "swapped: the loss is at its worst"


# 14 and 15. The whole


@pytest.mark.parametrize("loss", ["hinge", "softplus", "relativistic"])
@pytest.mark.parametrize("player", ["discriminator", "student"])
def test_identity_14_each_player_moves_its_own_way(player: str, loss: str) -> None:
    """A small step down its gradient: the heads pull real above fake, the student pulls fake up. A swap fails here."""
    game = make_game(dtype=F64, loss=loss, distillation_weight=0, r1=0.0, condition_dropout=0.0)
    game.discriminator.eval()

    def judged() -> tuple[float, float]:
        for name in ("student", "discriminator"):  # the same draws every time; the second judges the first's sample
            game.add.losses(name, game.batch, Rng.of(0, name))
        seen = game.add.observations()
        return seen["real_logit"], seen["fake_logit"]

    real_before, fake_before = judged()
    game.turn(player)
    network = game.networks[player]
    size = flat_gradient(network).norm()
    with torch.no_grad():
        for p in network.parameters():
            p.sub_(1e-3 * p.grad / size)
    real_after, fake_after = judged()
    if player == "discriminator":
        assert real_after - fake_after > real_before - fake_before
    else:
        assert fake_after > fake_before
        assert real_after == real_before


ELSEWHERE = {
    "14, reaching the target within a budget; a wrong sign misses it": (
        "test_end_to_end.py",
        "test_a_student_that_plays_with_the_wrong_sign_runs_away",
    ),
    "15, FD of two halves of the real": (
        "evaluation/test_sets.py",
        "test_frechet_of_two_halves_is_small_and_of_a_shifted_set_is_the_shift",
    ),
    "15, Vendi of identical and of orthogonal": (
        "evaluation/test_samples.py",
        "test_vendi_counts_different_samples",
    ),
    "15, a planted ranking recovered by Elo and Bradley-Terry": (
        "evaluation/test_preference.py",
        "test_a_planted_ranking_is_recovered_by_both",
    ),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_identity_15_stands_in_another_file(what: str) -> None:
    """A pointer that cannot go stale."""
    file, name = ELSEWHERE[what]
    tree = ast.parse((Path(__file__).parents[1] / file).read_text())
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in functions


def test_add_noise_is_the_definition() -> None:
    """What identities 1 to 3 stand on."""
    x0, noise, t = (
        torch.ones(2, 1, 2, dtype=F64),
        torch.full((2, 1, 2), 3.0, dtype=F64),
        torch.tensor([0.25, 0.5], dtype=F64),
    )
    x_t = add_noise(RectifiedFlow(), x0, noise, t)
    assert x_t[:, 0, 0].tolist() == [1.5, 2.0]
