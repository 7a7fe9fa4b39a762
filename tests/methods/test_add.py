"""ADD itself: every switch played, every turn isolated, every random draw accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.diffusion import losses
from fewstep.diffusion.schedule import Cosine, RectifiedFlow, add_noise
from fewstep.methods.add import ADD, Options
from fewstep.methods.adversarial import colours
from fewstep.methods.method import Turn
from fewstep.methods.regression import Options as RegressionOptions
from fewstep.methods.regression import Regression
from fewstep.parts.adversary import Adversary, another_concept
from fewstep.parts.augment import Augment
from fewstep.parts.codec import IdentityCodec
from fewstep.parts.denoiser import Student, StudentInput, Teacher, freeze, to_trajectories
from fewstep.parts.discriminator import Discriminator
from fewstep.parts.discriminator import Options as HeadOptions
from fewstep.parts.features.feature import MediaFeatures
from fewstep.parts.features.teacher import TeacherFeatures
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Features, match_dims
from fewstep.training.trainer import Options as TrainerOptions
from fewstep.training.trainer import StepLog, Trainer
from helpers import (
    Gaussian,
    Recorded,
    flat_gradient,
    gradients,
    make_batch,
    make_game,
    optimizers,
    stable_diffusion,
    text_unet,
    tiny_vae,
    unet,
)

F64 = torch.float64

SWITCHES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "adversarial only": {"distillation_weight": 0},
    "distillation only": {"adversarial_weight": 0},
    "regression beside": {"regression_weight": 0.5},
    "regression everywhere": {"regression_weight": 0.5, "regression_steps": 2},
    "softplus": {"loss": "softplus"},
    "relativistic": {"loss": "relativistic"},
    "sds": {"weighting": "sds"},
    "nfsd": {"weighting": "nfsd"},
    "media space": {"space": "media"},
    "four teacher steps": {"teacher_steps": 4},
    "low teacher times": {"teacher_times": (0.1, 0.2)},
    "no r1": {"r1": 0.0},
    "strong r1": {"r1": 1.0},
    "approximate r1": {"r1": 0.0, "approximate_r1": 1.0},
    "renoised input": {"renoised_input": 0.3},
    "no image": {"heads": HeadOptions(image=False)},
    "no dropout": {"condition_dropout": 0.0},
    "mismatched": {"mismatched": 0.5},
    "reals through the codec": {"reals_through_codec": True},
    "backward": {"backward": 1.0},
    "sometimes backward": {"backward": 0.5},
    "two discriminator turns": {"discriminator_turns": 2},
    "student every third": {"student_every": 3},
    "guided": {"guidance_scale": 7.5},
    "only pure noise": {"student_options": {"times": (1.0,)}},
    "mostly pure noise": {"student_options": {"probabilities": (0.7, 0.1, 0.1, 0.1)}},
}


def train(steps: int = 4, **options: Any) -> tuple[list[StepLog], Any]:
    game = make_game(n=8, **options)
    start = {name: flat_weights(network) for name, network in game.networks.items()}
    still = {name: flat_weights(network) for name, network in game.frozen().items()}
    trainer = Trainer(game.add, TrainerOptions(steps=steps, optimizers=optimizers()))
    logs = list(trainer.steps(lambda step: game.batch))
    for name, network in game.networks.items():
        assert not torch.equal(start[name], flat_weights(network)), f"{name} did not move"
    for name, network in game.frozen().items():
        assert torch.equal(still[name], flat_weights(network)), f"{name} moved"
    return logs, game


def flat_weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([torch.zeros(1), *(p.detach().flatten() for p in network.parameters())])


@pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES.keys())
def test_every_switch_is_played(options: dict[str, Any]) -> None:
    logs, game = train(**options)
    assert not any(log.skipped for log in logs)
    o = game.add.options
    for i, log in enumerate(logs):
        assert all(torch.isfinite(torch.tensor(v)) for v in (log.losses | log.observations).values())
        moves = i % o.student_every == 0
        wanted = {
            "student/adversarial": moves and o.adversarial_weight,
            "student/distillation": moves and o.distillation_weight,
            "student/regression": moves and o.regression_weight,
            "discriminator/adversarial": o.adversarial_weight,
            "discriminator/r1": o.adversarial_weight and o.r1,
            "discriminator/approximate_r1": o.approximate_r1,
            "discriminator/mismatched": o.mismatched,
        }
        assert set(log.losses) == {name for name, on in wanted.items() if on}
        if moves and o.adversarial_weight and o.distillation_weight:
            assert log.observations["student/adversarial_gradient_at_x0"] > 0
            assert log.observations["student/distillation_gradient_at_x0"] > 0


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"backward": 1.0, "mismatched": 1.0, "loss": "relativistic"}], ids=["paper", "all"]
)
def test_sound_and_video_are_played_too(axes: int, options: dict[str, Any]) -> None:
    logs, _ = train(2, axes=axes, **options)
    assert not any(log.skipped for log in logs)


def test_ladd_is_add_on_the_teachers_own_features() -> None:
    logs, game = train(2, features=lambda eyes, denoiser: TeacherFeatures(denoiser))
    assert game.adversary.features.space == "latents"
    assert not any(log.skipped for log in logs)


def test_a_text_to_image_game_of_diffusers_own_parts() -> None:
    """Latents [4, 8, 8], media [3, 16, 16], cross-attention, NFSD with a negative prompt, decoded reals, augmentation."""
    from helpers import Eyes

    rng, eyes = Rng.of(0), freeze(Eyes(2, 3))
    cond = Conditioning(tokens=rng.normal((8, 5, 8)), pooled=rng.normal((8, 3)), image=rng.normal((8, 4)))
    null = Conditioning(*(torch.zeros_like(v) for v in (cond.tokens, cond.pooled, cond.image)))
    batch = Batch(rng.normal((8, 4, 8, 8)), cond, null, media=rng.uniform((8, 3, 16, 16), -1, 1))
    negative = Conditioning(tokens=rng.normal((1, 5, 8)), pooled=rng.normal((1, 3)), image=rng.normal((1, 4)))
    options = Options(weighting="nfsd", space="media", reals_through_codec=True)
    heads = Discriminator.over(eyes(batch.media), cond)
    add = ADD(
        Student(text_unet(seed=1)),
        Teacher(text_unet(seed=2), 7.5),
        tiny_vae(),
        Adversary(tiny_vae(), MediaFeatures(eyes, Augment()), heads, options),
        options,
        negative,
    )
    trainer = Trainer(add, TrainerOptions(steps=2, optimizers=optimizers()))
    logs = list(trainer.steps(lambda step: batch))
    assert [log.skipped for log in logs] == [False, False]


# isolation


@pytest.mark.parametrize(
    "options", [{}, {"backward": 1.0, "loss": "relativistic", "mismatched": 1.0, "approximate_r1": 1.0}]
)
def test_no_opponent_receives_a_gradient(options: dict[str, Any]) -> None:
    game = make_game(**options)
    for player, other in (("student", "discriminator"), ("discriminator", "student")):
        game.turn(player)
        assert gradients(game.networks[player])
        assert not gradients(game.networks[other])
        assert not any(gradients(network) for network in game.frozen().values())
        assert all(p.requires_grad for p in game.networks[other].parameters()), "and is free again afterwards"


def test_the_students_gradient_is_the_sum_of_both_losses() -> None:
    both = make_game(dtype=F64)
    both.turn("student")
    alone = []
    for name in ("adversarial", "distillation"):
        game = make_game(dtype=F64)
        game.add.losses("student", game.batch, Rng.of(0, "student"))[name].backward()
        alone.append(flat_gradient(game.student.denoiser))
    assert all(g.abs().max() > 0 for g in alone)
    torch.testing.assert_close(alone[0] + alone[1], flat_gradient(both.student.denoiser))


def test_the_observed_gradients_are_those_at_the_sample() -> None:
    """What the health monitor reads: the norm of each loss's gradient at x0, against autograd at a leaf."""
    game = make_game(n=4, dtype=F64, teacher_network=Gaussian(Cosine()), guidance_scale=1.0)
    game.turn("student")
    seen = game.add.observations()
    rng = Rng.of(0, "student")
    x_t, t, _ = StudentInput(game.student)(game.batch.x0, game.batch.cond, rng)
    sample = game.student.denoiser(x_t, t, game.batch.cond).detach().requires_grad_()
    (2.5 * game.add.distillation(sample, game.batch, rng)).backward()
    assert seen["distillation_gradient_at_x0"] == pytest.approx(float(sample.grad.norm()), rel=1e-9)
    assert game.add.observations().keys() == {"shift_0", "shift_1", "spread_0", "spread_1"}, "read once"


def test_every_channel_of_the_samples_is_held_against_the_data() -> None:
    """Shifts that cancel in the mean of all channels are seen each for itself, in the data's standard deviations."""
    game = make_game(n=4, dtype=F64)
    x0 = game.batch.x0
    tint = match_dims(torch.tensor([0.5, -0.5], dtype=F64), x0.transpose(0, 1)).transpose(0, 1)
    std = x0.transpose(0, 1).flatten(1).std(1)
    seen = colours(2 * x0 - x0.mean((0, 2, 3), keepdim=True) + tint, x0)
    assert [seen["shift_0"], seen["shift_1"]] == pytest.approx([0.5 / float(std[0]), -0.5 / float(std[1])], rel=1e-5)
    assert [seen["spread_0"], seen["spread_1"]] == pytest.approx([2, 2], rel=1e-5)
    assert colours(x0, x0) == pytest.approx({"shift_0": 0, "shift_1": 0, "spread_0": 1, "spread_1": 1}, abs=1e-6)

    drawn = []
    game.student.denoiser.register_forward_hook(lambda network, given, sample: drawn.append(sample.detach()))
    game.turn("student")
    seen = {k: v for k, v in game.add.observations().items() if k.startswith(("shift", "spread"))}
    assert seen == colours(drawn[0], x0)


# the stash


class Counting(MediaFeatures):
    """Feature network that counts how often it looks."""

    looks = 0

    def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        self.looks += 1
        return super().__call__(x, cond, rng)


def test_the_discriminator_judges_what_was_just_drawn() -> None:
    """Its turn takes the features of this very step's sample: the student is not run, and only the real is looked at."""
    game = make_game(features=lambda eyes, denoiser: Counting(eyes))
    calls: list[int] = []
    game.student.denoiser.register_forward_hook(lambda *_: calls.append(1))
    game.adversary.features.looks = 0  # type: ignore[attr-defined]
    game.turn("student")
    assert (len(calls), game.adversary.features.looks) == (1, 1)  # type: ignore[attr-defined]
    game.turn("discriminator")
    assert (len(calls), game.adversary.features.looks) == (1, 2)  # type: ignore[attr-defined]
    game.add.after_step(0)
    game.turn("discriminator")
    assert (len(calls), game.adversary.features.looks) == (2, 4), "a new step, or a resting student: drawn afresh"  # type: ignore[attr-defined]
    other = replace(game.batch)
    game.turn("student")
    game.add.losses("discriminator", other, Rng.of(0))
    assert len(calls) == 4, "and never for another batch"


def test_stashed_features_are_the_students_own_and_carry_no_graph() -> None:
    game = make_game(dtype=F64)
    game.turn("student", seed=3)
    (stash,) = game.adversary._samples
    assert not any(level.requires_grad for level in stash.features.levels)
    rng = Rng.of(3, "student")
    x_t, t, _ = StudentInput(game.student)(game.batch.x0, game.batch.cond, rng)
    wanted = game.eyes(game.student.denoiser(x_t, t, game.batch.cond))
    for found, level in zip(stash.features.levels, wanted.levels, strict=True):
        torch.testing.assert_close(found, level)


# what is shown


def test_the_students_input_is_real_data_noised_to_one_of_its_times() -> None:
    game = make_game(n=8, dtype=F64, student_options={"probabilities": (0.25, 0.25, 0.25, 0.25)})
    times = set()
    for seed in range(8):
        rng = Rng.of(seed)
        x_t, t, seen = StudentInput(game.student)(game.batch.x0, game.batch.cond, rng.copy())
        again = game.student.draw_times(8, rng)
        noise = rng.normal_like(game.batch.x0)
        schedule = game.student.denoiser.schedule
        wanted = (
            match_dims(schedule.alpha(again), noise) * game.batch.x0 + match_dims(schedule.sigma(again), noise) * noise
        )
        torch.testing.assert_close(x_t, wanted)
        assert torch.equal(seen, t < 1)
        times |= set(t.tolist())
    assert times == {1.0, 0.75, 0.5, 0.25}


def test_probabilities_of_the_times_are_kept() -> None:
    student = Student(unet(), probabilities=(0.7, 0.1, 0.2, 0.0))
    drawn = student.draw_times(5000, Rng.of(0))
    shares = [float((drawn == t).double().mean()) for t in student.times]
    assert shares == pytest.approx([0.7, 0.1, 0.2, 0.0], abs=0.03)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        StudentInput(student, backward=1.5)


class Listening(Discriminator):
    """Heads that write down the conditions they were given."""

    def forward(self, features: Features, cond: Conditioning) -> Tensor:
        self.heard = [*getattr(self, "heard", []), cond]
        return super().forward(features, cond)


def listen(**options: Any) -> tuple[list[Conditioning], Any]:
    """The conditions of one student turn (first) and one discriminator turn (real, fake, then extras)."""
    game = make_game(n=8, condition_dropout=options.pop("condition_dropout", 0.0), **options)
    game.discriminator.__class__ = Listening
    game.turn("student")
    game.turn("discriminator")
    return game.discriminator.heard, game  # type: ignore[return-value]


def test_the_real_pictures_embedding_is_hidden_where_the_student_saw_nothing_of_it() -> None:
    heard, game = listen(student_options={"probabilities": (0.5, 0.5, 0.0, 0.0)})
    hidden = [~cond.image.any(1) for cond in heard]
    assert 0 < int(hidden[0].sum()) < 8, "rows of both kinds"
    assert all(torch.equal(h, hidden[0]) for h in hidden), "on the real and on the fake side alike"
    _, t, _ = StudentInput(game.student)(game.batch.x0, game.batch.cond, Rng.of(0, "student"))
    assert torch.equal(hidden[0], t == 1)
    heard, _ = listen(backward=1.0, student_options={"probabilities": (0.0, 0.0, 0.0, 1.0)})
    assert not any(cond.image.any() for cond in heard), "a roll-out has seen nothing, whatever its time"


def test_conditions_are_dropped_in_the_discriminators_turn_only() -> None:
    heard, game = listen(condition_dropout=0.5, student_options={"probabilities": (0.0, 1.0, 0.0, 0.0)})
    student, real, fake = heard
    assert torch.equal(student.pooled, game.batch.cond.pooled)
    dropped = ~real.pooled.any(1)
    assert 0 < int(dropped.sum()) < 8
    assert torch.equal(dropped, ~real.image.any(1)), "text and image together"
    assert torch.equal(real.pooled, fake.pooled), "the same for real and fake"


def test_mismatched_prompts_are_a_neighbours_and_never_hidden_ones() -> None:
    heard, game = listen(condition_dropout=0.5, mismatched=1.0, student_options={"probabilities": (0.0, 1.0, 0.0, 0.0)})
    wrong = heard[-1]
    assert torch.equal(wrong.pooled, game.batch.cond.pooled.roll(1, 0))
    assert torch.equal(wrong.image, game.batch.cond.image.roll(1, 0))


def crowd(concepts: Sequence[int], prompts: Sequence[int] | None = None, known: bool = True) -> Batch:
    """Samples of these concepts, asked for by these prompts; one prompt a sample where none are given."""
    own = torch.tensor(list(range(len(concepts))) if prompts is None else prompts)
    cond = Conditioning(pooled=torch.eye(9)[own])
    told = torch.tensor(concepts) if known else None
    return Batch(torch.zeros(len(concepts), 2, 6, 6), cond, cond, concepts=told)


@pytest.mark.parametrize(
    ("batch", "other", "found"),
    [
        (crowd([0, 1, 2]), [2, 0, 1], [1, 1, 1]),
        (crowd([5, 5, 7, 5]), [2, 2, 1, 2], [1, 1, 1, 1]),
        (crowd([0, 1, 2, 3], prompts=[4, 4, 4, 6]), [3, 3, 3, 2], [1, 1, 1, 1]),
        (crowd([0, 0, 0], prompts=[1, 2, 3], known=False), [2, 0, 1], [1, 1, 1]),
        (crowd([0, 1, 2], prompts=[3, 3, 5], known=False), [2, 2, 1], [1, 1, 1]),
        (crowd([3, 3, 3]), [0, 1, 2], [0, 0, 0]),
        (crowd([0, 1, 1], prompts=[2, 2, 3]), [2, 1, 0], [1, 0, 1]),
    ],
    ids=["all others", "one concept, other prompts", "one prompt, other concepts", "prompts alone", "two alike", "all one",
         "one row without"],
)  # fmt: skip
def test_a_wrong_prompt_is_another_concepts(batch: Batch, other: list[int], found: list[int]) -> None:
    where, there = another_concept(batch)
    assert there.tolist() == [bool(f) for f in found]
    assert where.tolist() == other


def test_rows_that_find_no_other_concept_are_not_called_fakes() -> None:
    """The loss by hand. Row 1 has the prompt of row 0 and the concept of the others: it is left out. Of one concept, all are."""
    game = make_game(
        dtype=F64, mismatched=2.0, condition_dropout=0.0, heads=HeadOptions(norm="group"),
        student_options={"probabilities": (0.0, 1.0, 0.0, 0.0)},
    )  # fmt: skip
    game.discriminator.eval()
    pooled = game.batch.cond.pooled[[0, 0, 2, 3]]
    cond = replace(game.batch.cond, pooled=pooled)
    game.batch = replace(game.batch, cond=cond, concepts=torch.tensor([0, 1, 1, 1]))
    found = game.turn("discriminator")["mismatched"].detach()
    with torch.no_grad():
        real, wrong = (game.discriminator(game.eyes(game.batch.x0), c) for c in (cond, cond[[3, 1, 0, 0]]))
    rows = [0, 2, 3]
    torch.testing.assert_close(found, 2 * losses.hinge_discriminator(real[rows], wrong[rows]), rtol=1e-9, atol=0)
    game.batch = replace(game.batch, concepts=torch.zeros(4, dtype=torch.long))
    assert game.turn("discriminator")["mismatched"] == 0


def test_reals_are_raw_pixels_or_decoded_latents() -> None:
    from helpers import Eyes

    codec, rng = tiny_vae(), Rng.of(0)
    shown: list[Tensor] = []

    class Seeing(MediaFeatures):
        def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
            shown.append(x)
            return super().__call__(x, cond, rng)

    eyes, denoiser = freeze(Eyes(2, 3)), text_unet()
    cond = Conditioning(tokens=rng.normal((4, 5, 8)), pooled=rng.normal((4, 3)))
    batch = Batch(rng.normal((4, 4, 8, 8)), cond, cond, media=rng.uniform((4, 3, 16, 16), -1, 1))
    heads = Discriminator.over(eyes(batch.media), cond)
    for through in (False, True):
        options = Options(distillation_weight=0, reals_through_codec=through)
        add = ADD(Student(denoiser), None, codec, Adversary(codec, Seeing(eyes), heads, options), options)
        shown.clear()
        add.losses("discriminator", batch, Rng.of(0))
        wanted = codec.decode(batch.x0) if through else batch.media
        assert torch.equal(shown[-1], wanted)


def test_r1_is_taken_at_the_heads_inputs_on_real_data() -> None:
    """``gamma sum_k ||grad_{F_k} sum_n D_kn||^2 / N_k`` by hand, a head at a time: not at the pixels, where it would grow
    with the features' slope, and not on what the student drew."""
    game = make_game(n=8, dtype=F64, r1=3.0, condition_dropout=0.0, student_options={"probabilities": (0.0, 1.0, 0.0, 0.0)})
    game.discriminator.eval()  # spectral norm keeps its vectors
    found = game.turn("discriminator")["r1"]
    wanted = torch.zeros((), dtype=F64)
    condition = game.discriminator.condition(game.batch.cond)
    for head, level in zip(game.discriminator.heads, game.eyes(game.batch.x0).levels):
        level = level.detach().requires_grad_()
        (slope,) = torch.autograd.grad(head(level, condition).sum(), level)
        wanted += 3.0 * slope.pow(2).sum(1).mean()  # over channels, then the mean over places and samples
    torch.testing.assert_close(found.detach(), wanted)
    assert found > 0


def test_the_teacher_meets_a_new_noise_at_every_turn_and_at_every_row() -> None:
    asked: list[Tensor] = []

    class Asked(Gaussian):
        def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            asked.append(x_t)
            return super().predict(x_t, t, cond)

    game = make_game(n=8, teacher_network=Asked(Cosine()), guidance_scale=1.0, teacher_times=(0.5, 0.5))
    sample = torch.zeros_like(game.batch.x0)
    rng = Rng.of(0)
    for _ in range(2):
        game.add.distillation(sample, game.batch, rng)
    game.add.distillation(sample, game.batch, Rng.of(1))
    noises = torch.cat(asked).flatten(1)
    alike = torch.corrcoef(noises).fill_diagonal_(0).abs()
    assert len(noises) == 24
    assert alike.max() < 0.7, "72 numbers each: chance gives 0.4"


def test_approximate_r1_looks_twice_under_one_augmentation() -> None:
    """Else it would punish the augmentation, not the slope: without a slope in sight it has to be nearly zero."""
    plain = {"r1": 0.0, "approximate_r1": 1.0, "condition_dropout": 0.0, "dtype": F64}
    bare = make_game(**plain).turn("discriminator")["approximate_r1"]
    augmented = make_game(features=lambda eyes, denoiser: MediaFeatures(eyes, Augment()), **plain).turn("discriminator")[
        "approximate_r1"
    ]
    assert 0 < bare < 1e-4
    assert 0 < augmented < 1e-4
    noisy = make_game(renoised_input=0.5, **plain).turn("discriminator")["approximate_r1"]
    assert 0 < noisy < 1e-4


def test_approximate_r1_in_the_game_is_taken_a_head_at_a_time() -> None:
    """``(sum_n D_kn(x) - D_kn(x + .01 n))^2 / N_k`` by hand: its scale is R1's, whatever the number of places."""
    game = make_game(
        dtype=F64, r1=0.0, approximate_r1=7.0, condition_dropout=0.0, student_options={"probabilities": (0.0, 1.0, 0.0, 0.0)}
    )
    game.discriminator.eval()
    game.turn("student")
    found = game.turn("discriminator")["approximate_r1"].detach()
    noise = Rng.of(0, "discriminator").normal_like(game.batch.x0)
    condition, wanted = game.discriminator.condition(game.batch.cond), 0.0
    with torch.no_grad():
        real, near = (game.eyes(x).levels for x in (game.batch.x0, game.batch.x0 + 0.01 * noise))
        for head, a, b in zip(game.discriminator.heads, real, near):
            apart = head(a, condition) - head(b, condition)
            wanted += 7.0 * float(apart.sum(1).pow(2).mean() / apart.shape[1])
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_renoised_input_blurs_real_and_fake_alike() -> None:
    shown: list[Tensor] = []

    class Seeing(MediaFeatures):
        def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
            shown.append(x.detach())
            return super().__call__(x, cond, rng)

    game = make_game(n=8, renoised_input=0.5, distillation_weight=0, features=lambda eyes, denoiser: Seeing(eyes))
    shown.clear()
    game.turn("discriminator")
    extra = shown[-1] - game.batch.x0
    widths = extra.flatten(1).std(1)
    assert float(widths.min()) > 0
    assert float(widths.max()) < 0.65
    assert len(shown) == 2


# distillation


def test_media_space_is_latent_space_where_the_codec_does_nothing() -> None:
    found = [make_game(dtype=F64, space=space).turn("student")["distillation"] for space in ("latents", "media")]
    torch.testing.assert_close(found[0], found[1])


def test_media_space_weighs_decoded_differences() -> None:
    class Doubling(IdentityCodec):
        def decode(self, latents: Tensor) -> Tensor:
            return 2 * latents

    here = make_game(dtype=F64).turn("student")["distillation"]
    there = make_game(dtype=F64, space="media", codec=Doubling()).turn("student")["distillation"]
    torch.testing.assert_close(there, 4 * here)


def nfsd_game(**options: Any) -> Any:
    return make_game(
        dtype=F64, weighting="nfsd", guidance_scale=3.0, schedule=stable_diffusion(), kind="eps", **options
    )


@pytest.mark.parametrize("times", [(0.05, 0.19), (0.25, 0.9)], ids=["low", "high"])
@pytest.mark.parametrize("negative", [True, False])
def test_nfsd_is_the_noise_free_direction(times: tuple[float, float], negative: bool) -> None:
    """Gradient ``w(t)(delta_D + s delta_C)`` with w = sigma^2, from the network's own eps (Katzir et al., 2310.17590)."""
    away = (
        Conditioning(pooled=torch.full((1, 3), 2.0, dtype=F64), image=torch.zeros(1, 5, dtype=F64))
        if negative
        else None
    )
    game = nfsd_game(teacher_times=times, negative=away)
    sample = Rng.of(1).normal_like(game.batch.x0).requires_grad_()
    rng = Rng.of(2)
    game.add.distillation(sample, game.batch, rng.copy()).backward()
    t = rng.uniform((4,), *times).double()
    noise, network = rng.normal_like(sample), game.teacher.denoiser
    a, s = (match_dims(f(t), sample) for f in (network.schedule.alpha, network.schedule.sigma))
    with torch.no_grad():
        x_t = a * sample + s * noise
        ask = lambda cond: network.predict(x_t, t, cond)  # noqa: E731
        shown, null = ask(game.batch.cond), ask(game.batch.null)
        domain = null if times[1] < 0.2 else (null - ask(away[[0] * 4]) if away is not None else torch.zeros_like(null))
        wanted = s**2 * (domain + 3.0 * (shown - null)) / sample.numel()
    torch.testing.assert_close(sample.grad, wanted, rtol=1e-7, atol=1e-12)


def test_more_teacher_steps_ask_the_teacher_more_often() -> None:
    """And the target is its refined estimate: a different one."""
    targets = []
    for steps in (1, 3):
        game = make_game(dtype=F64, teacher_steps=steps, guidance_scale=1.0)
        recorded = Recorded(game.teacher.denoiser)
        game.add.teacher = Teacher(recorded, 1.0)
        game.turn("student")
        assert len(recorded.answers) == steps
        targets.append(recorded.answers[-1])
    assert not torch.equal(*targets)


def test_lambda_weighs_the_distillation_loss() -> None:
    one, two = (make_game(dtype=F64, distillation_weight=w).turn("student") for w in (2.5, 5.0))
    torch.testing.assert_close(two["distillation"], 2 * one["distillation"])
    torch.testing.assert_close(two["adversarial"], one["adversarial"])
    half = make_game(dtype=F64, adversarial_weight=0.5).turn("student")
    torch.testing.assert_close(2 * half["adversarial"], one["adversarial"])


def test_regression_beside_the_game_ties_pure_noise_to_the_teachers_samples() -> None:
    """Weighted, from the very noise that the teacher began with, and without a trace in the other losses."""
    alone, beside = make_game(dtype=F64), make_game(dtype=F64, regression_weight=0.5)
    network, pairs = beside.student.denoiser, beside.batch.pairs
    assert pairs is not None
    before, after = alone.turn("student"), beside.turn("student")
    assert {k: v for k, v in after.items() if k != "regression"} == before
    with torch.no_grad():
        apart = network(pairs.noise, torch.ones(len(pairs), dtype=F64), pairs.cond) - pairs.x0
    wanted = 0.5 * ((apart.square().flatten(1).mean(1) + 0.01).sqrt() - 0.1).mean()
    torch.testing.assert_close(after["regression"].detach(), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backward", [0.0, 1.0])
def test_regression_at_every_student_time_follows_the_teacher_from_there(backward: float) -> None:
    """From what the student was shown, three guided DDIM steps written out by hand; nothing else in the game moves."""
    alone, everywhere = (
        make_game(n=8, dtype=F64, backward=backward, **o) for o in ({}, {"regression_weight": 2.0, "regression_steps": 3})
    )
    everywhere.batch = replace(everywhere.batch, pairs=None)
    before, after = alone.turn("student"), everywhere.turn("student")
    assert {k: v for k, v in after.items() if k != "regression"} == before
    student, batch, schedule = everywhere.student.denoiser, everywhere.batch, everywhere.teacher.schedule
    x_s, s, _ = everywhere.add.input(batch.x0, batch.cond, Rng.of(0, "student"))
    assert backward or len(set(s.tolist())) > 1
    guided = lambda x, t: everywhere.teacher(x, t, batch.cond, batch.null)  # noqa: E731
    with torch.no_grad():
        x, sample = x_s, student(x_s, s, batch.cond)
        for now, after_it in ((s, s * 2 / 3), (s * 2 / 3, s / 3)):
            x0 = guided(x, now)
            noise = (x - match_dims(schedule.alpha(now), x) * x0) / match_dims(schedule.sigma(now), x)
            x = match_dims(schedule.alpha(after_it), x) * x0 + match_dims(schedule.sigma(after_it), x) * noise
        apart = sample - guided(x, s / 3)
    wanted = 2.0 * ((apart.square().flatten(1).mean(1) + 0.01).sqrt() - 0.1).mean()
    torch.testing.assert_close(after["regression"].detach(), wanted, rtol=1e-9, atol=0)
    assert everywhere.add.observations()["regression_gradient_at_x0"] > 0


@pytest.mark.parametrize("steps", [0, 2])
def test_the_warm_start_denoises_at_later_times_or_follows_the_teacher(steps: int) -> None:
    """From pure noise onto the pair's own sample in any case."""
    game, t = make_game(n=6, dtype=F64), torch.tensor([1.0, 0.75, 0.5, 0.25, 1.0, 0.5], dtype=F64)
    network, pairs, rng = game.student.denoiser, game.batch.pairs, Rng.of(5)
    assert pairs is not None
    assert pairs.noise is not None
    with torch.no_grad():
        found = to_trajectories(game.student, pairs, t, Rng.of(5), teacher=game.teacher if steps else None, steps=steps)
        noise = rng.normal_like(pairs.x0)
        total = 0.0
        for i, time in enumerate(t):
            row, at = pairs.x0[[i]], time[None]
            start = pairs.noise[[i]] if time == 1 else add_noise(network.schedule, row, noise[[i]], at)
            if steps and time < 1:
                row = game.teacher.refine(start, at, pairs.cond[[i]], pairs.null[[i]], steps)
            apart = network(start, at, pairs.cond[[i]]) - row
            total += float((apart.square().mean() + 0.01).sqrt() - 0.1) / len(t)
    assert float(found) == pytest.approx(total, rel=1e-9)


# turns and bad requests


def test_turns() -> None:
    """The student and the first turn of the heads share a batch; each further turn has its own."""
    student, *heads = (Turn("student"), Turn("discriminator", 0), Turn("discriminator", 1))
    assert list(make_game().add.turns(0)) == [student, heads[0]]
    two = make_game(discriminator_turns=2, student_every=2).add
    assert [list(two.turns(i)) for i in range(3)] == [[student, *heads], heads, [student, *heads]]
    alone = make_game(adversarial_weight=0).add
    assert list(alone.turns(0)) == [student]
    assert set(alone.players) == {"student"}


def test_every_part_of_a_batch_finds_the_sample_that_was_drawn_on_it() -> None:
    """Where gradients of several parts are added up, the student moves on all of them before the heads look at any."""
    game, parts = make_game(n=8), [make_batch(8, seed=seed) for seed in range(3)]
    drawn = []
    for seed, part in enumerate(parts):
        with torch.no_grad():
            game.add.losses("student", part, Rng.of(seed))
        drawn.append(game.adversary._samples[-1].features.levels[0])
    calls = []
    game.student.denoiser.register_forward_hook(lambda *_: calls.append(1))
    for part, wanted in zip(reversed(parts), reversed(drawn)):
        _, found = game.adversary._fake(part, game.add.draw, Rng.of(9))
        assert torch.equal(found.levels[0], wanted)
    assert not calls, "nothing was drawn again"
    game.add.after_step(0)
    game.adversary._fake(parts[0], game.add.draw, Rng.of(9))
    assert calls, "the next step draws its own"


def test_a_game_that_cannot_be_played_gets_a_sentence() -> None:
    game = make_game()
    with pytest.raises(ValueError, match="set distillation_weight to 0"):
        ADD(game.student, None, game.codec, game.adversary)
    everywhere = Options(distillation_weight=0.0, regression_weight=1.0, regression_steps=2)
    with pytest.raises(ValueError, match="set regression_steps to 0"):
        ADD(game.student, None, game.codec, game.adversary, everywhere)
    with pytest.raises(ValueError, match="its noise schedule is another one"):
        make_game(regression_weight=1.0, regression_steps=2, teacher_network=Gaussian(RectifiedFlow()))
    with pytest.raises(ValueError, match="regression_weight is 0: give it a weight"):
        make_game(regression_steps=2)
    with pytest.raises(ValueError, match="set regression_steps to 0"):
        Regression(game.student, RegressionOptions(regression_steps=2))
    lonely = make_game(regression_weight=1.0)
    with pytest.raises(ValueError, match="give batches with pairs"):
        lonely.add.losses("student", replace(lonely.batch, pairs=None), Rng.of(0))
    nothing = Options(adversarial_weight=0.0, distillation_weight=0.0)
    with pytest.raises(ValueError, match="nothing would be trained"):
        ADD(game.student, game.teacher, game.codec, game.adversary, nothing)
