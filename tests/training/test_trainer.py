"""Trust in a run: exact resume, atomic checkpoints, bad steps, bad disks, and who may move when."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training_worker
from fewstep.data.dataset import Dataset, DatasetWriter, Item
from fewstep.methods.method import OnePlayer, Optimizer, Turn
from fewstep.parts.codec import IdentityCodec
from fewstep.parts.conditioner import Conditioner
from fewstep.parts.features.feature import MediaFeatures
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Features
from fewstep.training import checkpoint
from fewstep.training.data import PromptTable, TrainingSet, batch_indices
from fewstep.training.data import training_set as encode_training_set
from fewstep.training.ema import EMA
from fewstep.training.log import Stopped
from fewstep.training.run import Saving, run
from fewstep.training.trainer import Options, Trainer, only_trainable
from helpers import assert_same_state, disk_of, make_batch, make_game, optimizers, same_weights


def finish(trainer: Trainer) -> dict[str, Any]:
    for _ in trainer.steps(training_worker.batches):
        pass
    return trainer.state()


# exact resume


@pytest.mark.parametrize(
    "options", [{}, {"loss": "relativistic", "student_every": 2, "discriminator_turns": 2}], ids=["paper", "all"]
)
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = finish(training_worker.trainer(6, **options))
    assert {"student", "discriminator"} == set(whole["players"])
    assert whole["averages"]
    first = training_worker.trainer(6, **options)
    for log in first.steps(training_worker.batches):
        if log.step == 3:
            break
    first.save(tmp_path / "c")
    second = training_worker.trainer(6, seed=99, **options)  # other first weights: all must come from the file
    second.resume(tmp_path / "c")
    assert second.step == 3
    assert_same_state(whole, finish(second))


@pytest.mark.timeout(900)  # two starts of Python and torch, slow on a busy machine
def test_killed_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    """A real process, a real SIGKILL in the middle of training and saving, a new process, the same bits."""
    steps, out = 8, tmp_path / "run"
    command = [sys.executable, str(Path(training_worker.__file__)), str(out), str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 4:
            break
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    left = checkpoint.load(out / "checkpoint")
    assert 3 <= left["step"] < steps
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(resumed.stdout.split()[0]) == left["step"] + 1, "it went on, and did not begin again"
    assert_same_state(checkpoint.load(out / "checkpoint"), plainly(finish(training_worker.trainer(steps)), tmp_path))


def plainly(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Through a file and back."""
    return checkpoint.load(checkpoint.save(folder / "plain", state))


# atomic checkpoints


def some_state(value: float) -> dict[str, Any]:
    return {"step": int(value), "players": {"student": {"w": torch.full((4000,), value)}}, "rate": 0.1 * value}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    scalar, bf16 = torch.tensor(3.0, dtype=torch.float64), torch.randn(3).bfloat16()
    shared = torch.randn(4, 4)
    state = {
        "a": {"scalar": scalar, "bf16": bf16, "view": shared.T, "same": shared},
        "x": 0.1 + 0.2,
        "n": 7,
        "none": {},
    }
    loaded = checkpoint.load(checkpoint.save(tmp_path / "c", state))
    assert loaded.pop("x") == 0.1 + 0.2
    assert loaded["n"] == 7
    for name, value in state["a"].items():  # type: ignore[attr-defined]
        assert loaded["a"][name].dtype == value.dtype
        assert torch.equal(loaded["a"][name], value)
    with pytest.raises(ValueError, match="must not contain"):
        checkpoint.save(tmp_path / "c", {"a/b": 1})


@pytest.mark.parametrize("dies_at", ["fsync", "first rename", "second rename", "clean-up"])
def test_a_crash_at_any_moment_leaves_a_whole_state(tmp_path: Path, dies_at: str) -> None:
    """A child process dies at the named call inside a save. What is left is the old state or the new one, and is used."""
    folder = tmp_path / "c"
    checkpoint.save(folder, some_state(1))
    child = os.fork()
    if child == 0:
        renames, removals, rename, rmtree = [], [], os.rename, shutil.rmtree

        def counted_rename(a: Any, b: Any) -> None:
            renames.append(a)
            if len(renames) == {"first rename": 1, "second rename": 2}.get(dies_at):
                os._exit(9)
            rename(a, b)

        def counted_rmtree(path: Any, **options: Any) -> None:
            removals.append(path)
            if dies_at == "clean-up" and len(renames) == 2:
                os._exit(9)
            rmtree(path, **options)

        os.rename, shutil.rmtree = counted_rename, counted_rmtree  # type: ignore[assignment]
        if dies_at == "fsync":
            os.fsync = lambda fd: os._exit(9)  # type: ignore[assignment]
        try:
            checkpoint.save(folder, some_state(2))
        finally:
            os._exit(0)  # never back into pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, "it died where it should"
    assert checkpoint.exists(folder)
    survived = 2 if dies_at == "clean-up" else 1
    assert_same_state(checkpoint.load(folder), some_state(survived))
    checkpoint.save(folder, some_state(3))
    assert_same_state(checkpoint.load(folder), some_state(3))
    assert [p.name for p in tmp_path.iterdir()] == ["c"], "and nothing of the crash is left lying about"


def test_a_folder_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"could not write the checkpoint .*choose another --out"):
        checkpoint.save(tmp_path / "file" / "c", some_state(1))
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="could not write"):
            checkpoint.save(tmp_path / "closed" / "c", some_state(1))


@pytest.mark.parametrize("bytes_left", [0, 100, 9000])
def test_a_full_disk_leaves_the_old_state_intact(tmp_path: Path, bytes_left: int) -> None:
    folder = tmp_path / "c"
    checkpoint.save(folder, some_state(1))
    with disk_of(bytes_left), pytest.raises(ValueError, match=r"free space .*previous checkpoint is intact"):
        checkpoint.save(folder, some_state(2))
    assert_same_state(checkpoint.load(folder), some_state(1))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_run_ends_with_a_sentence_on_a_full_disk(tmp_path: Path) -> None:
    trainer = training_worker.trainer(3)
    run(trainer, training_worker.batches, Saving(tmp_path))
    kept = checkpoint.load(tmp_path / "checkpoint")
    again = training_worker.trainer(5)
    with disk_of(2000), pytest.raises(ValueError, match="previous checkpoint is intact"):
        run(again, training_worker.batches, Saving(tmp_path, resume=True))
    assert_same_state(checkpoint.load(tmp_path / "checkpoint"), kept)


def test_a_damaged_state_gets_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(ValueError, match="run without --resume first"):
        checkpoint.load(folder)
    weights, facts = folder / "state.safetensors", folder / "state.json"
    for damage in (
        lambda: weights.write_bytes(weights.read_bytes()[:-100]),
        lambda: weights.write_bytes(b"\x80\x04pickle"),
        lambda: weights.unlink(),
        lambda: facts.write_text(facts.read_text()[:-5]),
        lambda: facts.write_text(json.dumps({"format": 99})),
    ):
        checkpoint.save(folder, some_state(1))
        damage()
        with pytest.raises(ValueError, match="remove it, and --resume goes on without it"):
            checkpoint.load(folder)


# resuming something else


def test_a_state_of_another_run_gets_a_sentence() -> None:
    state = training_worker.trainer(2).state()
    for options, sentence in (
        ({"adversarial_weight": 0}, "this run trains"),
        ({"heads": {"width": 8}}, "does not fit this network"),
        ({"axes": 1}, "does not fit this network"),
    ):
        other = options.pop("heads", None)  # type: ignore[attr-defined]
        from fewstep.parts.discriminator import Options as HeadOptions

        game = make_game(n=8, heads=HeadOptions(**other) if other else None, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=sentence):
            Trainer(game.add, Options(optimizers=optimizers())).load_state(state)
    with pytest.raises(ValueError, match="with --seed 0"):
        Trainer(make_game(n=8).add, Options(seed=1, optimizers=optimizers())).load_state(state)
    with pytest.raises(ValueError, match="another --ema"):
        Trainer(make_game(n=8).add, Options(optimizers=optimizers(ema=0.0))).load_state(state)


def test_a_trainer_that_cannot_train_gets_a_sentence() -> None:
    add = make_game().add
    with pytest.raises(ValueError, match="use fp32 or bf16"):
        Trainer(add, Options(precision="fp16", optimizers=optimizers()))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        Trainer(add, Options(optimizers=optimizers(ema=1.0)))


# bad steps


class Line(OnePlayer):
    """Fit ``w`` to the batch; at some steps the loss or its gradient is not finite."""

    def __init__(self, bad: str = "") -> None:
        super().__init__("line", nn.Linear(1, 1))
        self.bad, self.at = bad, 1

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        weight = self.players["line"].network.weight
        loss = (weight - batch.x0).pow(2).mean()
        if self.bad == "gradient" and float(batch.x0.flatten()[0]) == self.at:
            loss = loss + (0 * weight).sum().sqrt()  # finite, with an infinite slope
        return {"fit": loss}


def line_batch(step: int, bad: float | None = None) -> Batch:
    value = float(step) if bad is None or step != 1 else bad
    return Batch(torch.full((2, 1, 1), value), Conditioning(), Conditioning())


@pytest.mark.parametrize("bad", [math.nan, math.inf, None], ids=["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(bad: float | None) -> None:
    method = Line("gradient" if bad is None else "")
    trainer = Trainer(method, Options(steps=4, optimizers={"line": Optimizer(warmup=0, ema=0.9)}))
    states = [json.dumps({k: v.tolist() for k, v in checkpoint.flatten(trainer.state())[0].items()})]
    logs = []
    for log in trainer.steps(lambda step: line_batch(step, bad)):
        logs.append(log)
        states.append(json.dumps({k: v.tolist() for k, v in checkpoint.flatten(trainer.state())[0].items()}))
    assert [log.skipped for log in logs] == [False, True, False, False]
    assert states[1] == states[2], "weights, average and the optimiser's memory are left alone"
    assert len(set(states)) == 4, "and the next step moves again"


def test_a_bad_batch_poisons_neither_player() -> None:
    trainer = training_worker.trainer(3, backward=0.0)  # the student reads the batch

    def batches(step: int) -> Batch:
        batch = make_batch(8, seed=step)
        if step == 1:
            batch.x0[0, 0, 0, 0] = math.nan
        return batch

    seen = []
    for log in trainer.steps(batches):
        seen.append(
            (log.skipped, [{k: v.clone() for k, v in m.named_parameters()} for m in trainer.networks.values()])
        )
    assert [skipped for skipped, _ in seen] == [False, True, False]
    for before, after, later in zip(seen[0][1], seen[1][1], seen[2][1]):
        assert all(torch.equal(before[k], after[k]) for k in before)
        assert any(not torch.equal(after[k], later[k]) for k in before)
        assert all(bool(v.isfinite().all()) for v in later.values())


# the contract of methods


class Follow(Line):
    """A target that follows the line half of the way after every step, and is what the line is fitted to."""

    def __init__(self) -> None:
        super().__init__()
        self.target = copy.deepcopy(self.players["line"].network).requires_grad_(False)
        self.followers = {"target": self.target}

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        apart = self.players[player].network.weight - self.target.weight
        return super().losses(player, batch, rng) | {"near": apart.pow(2).sum()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.target.weight.lerp_(self.players["line"].network.weight, 0.5)


def begun(method: type[Line] = Line) -> Trainer:
    torch.manual_seed(0)
    return Trainer(method(), Options(steps=6, optimizers={"line": Optimizer(0.1, warmup=0, beta1=0.9)}))


def test_what_follows_is_saved_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = begun(Follow)
    list(whole.steps(line_batch))
    half = begun(Follow)
    for log in half.steps(line_batch):
        if log.step == 3:
            break
    half.save(tmp_path / "checkpoint")
    again = begun(Follow)
    with torch.no_grad():
        again.method.target.weight.fill_(9.0)  # as where the run began elsewhere
    again.resume(tmp_path / "checkpoint")
    assert torch.equal(again.method.target.weight, half.method.target.weight)
    list(again.steps(line_batch))
    assert torch.equal(again.method.target.weight, whole.method.target.weight)
    assert same_weights(again.networks["line"], whole.networks["line"])
    with pytest.raises(ValueError, match=r"holds the followers \['target'\], this run has \[\]"):
        begun().resume(tmp_path / "checkpoint")


def test_a_state_of_before_followers_goes_on() -> None:
    trainer = begun()
    next(iter(trainer.steps(line_batch)))
    state = {k: v for k, v in trainer.state().items() if k != "followers"}
    again = begun()
    again.load_state(state)
    assert again.step == 1
    with pytest.raises(ValueError, match=r"holds the followers \[\], this run has \['target'\]"):
        begun(Follow).load_state(state)


def test_a_follower_that_is_not_finite_is_seen() -> None:
    trainer = begun(Follow)
    assert trainer.finite()
    trainer.method.target.weight.data.fill_(math.nan)
    assert not trainer.finite()


def test_turns_on_one_batch_share_it_and_others_have_their_own() -> None:
    class Several(Line):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Batch] = []

        def turns(self, step: int) -> list[Turn]:
            return [Turn("line", at) for at in (0, 2, 0, 1)]

        def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
            self.seen.append(batch)
            return super().losses(player, batch, rng)

    trainer = begun(Several)
    asked: list[int] = []

    def batches(number: int) -> Batch:
        asked.append(number)
        return line_batch(number)

    list(trainer.steps(batches))
    assert asked == [n for step in range(6) for n in (3 * step, 3 * step + 2, 3 * step + 1)], "each once, and none twice in a run"
    for step in range(6):
        first, second, third, fourth = trainer.method.seen[4 * step : 4 * step + 4]
        assert first is third
        assert len({id(b) for b in (first, second, fourth)}) == 3


# gradient accumulation


class Fit(OnePlayer):
    """A line through points, in float64; nothing is drawn."""

    def __init__(self, bad: float | None = None) -> None:
        self.line, self.bad, self.rows = nn.Linear(1, 1).double(), bad, list[int]()
        nn.init.constant_(self.line.weight, 0.5)
        nn.init.zeros_(self.line.bias)
        super().__init__("line", self.line, Optimizer(0.1, beta1=0.5, warmup=0, max_gradient_norm=0.7, ema=0.5))

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        self.rows.append(len(batch))
        loss = (self.line(batch.x0) - batch.x0.pow(2)).pow(2).mean()
        return {"square": loss * math.nan if self.bad in batch.x0.flatten().tolist() else loss}

    def observations(self) -> dict[str, float]:
        return {"rows": float(self.rows[-1])}


def points(number: int) -> Batch:
    return Batch(Rng.of(number).normal((6, 1), torch.float64), Conditioning(), Conditioning())


@pytest.mark.parametrize(("parts", "rows"), [(2, [3, 3]), (3, [2, 2, 2]), (4, [2, 2, 1, 1]), (6, [1] * 6)])
def test_a_batch_in_parts_moves_a_player_as_the_whole_does(parts: int, rows: list[int]) -> None:
    """Each part counts by its rows: weights, average, Adam's moments, losses and gradient norm are the whole batch's."""
    whole, split = (Trainer(Fit(), Options(5, 6, gradient_accumulation=n)) for n in (1, parts))
    for a, b in zip(whole.steps(points), split.steps(points), strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-6)
        assert b.observations["line/gradient_norm"] == pytest.approx(a.observations["line/gradient_norm"], rel=1e-6)
        assert b.observations["line/rows"] == pytest.approx(sum(r * r for r in rows) / 6)
    assert split.method.rows == rows * 5
    (tensors, _), (others, _) = checkpoint.flatten(whole.state()), checkpoint.flatten(split.state())
    for name, value in tensors.items():
        torch.testing.assert_close(others[name], value, rtol=1e-6, atol=1e-9)


def test_a_part_that_is_not_finite_spoils_its_whole_batch() -> None:
    """Adding up what was good before it would be a step on other data than was asked for."""
    method = Fit(bad=float(points(2).x0[4]))
    trainer = Trainer(method, Options(4, 6, gradient_accumulation=3))
    places, skipped = [], []
    for log in trainer.steps(points):
        places.append(method.line.weight.item())
        skipped.append(log.skipped)
    assert skipped == [False, False, True, False]
    assert places[1] == places[2] != places[3]


def test_every_part_has_draws_of_its_own_and_finds_the_sample_that_was_made_on_it(tmp_path: Path) -> None:
    """ADD in two parts: the heads judge the very samples that the student's turn drew, and resume is exact."""
    drawn: list[int] = []

    def counted(steps: int) -> Trainer:
        trainer = training_worker.trainer(steps, gradient_accumulation=2, backward=0.0)
        trainer.networks["student"].register_forward_hook(lambda *a: drawn.append(len(a[1][0])))
        return trainer

    trainer = counted(4)
    half = training_worker.batches(0).split(2)
    assert [len(part) for part in half] == [len(training_worker.batches(0)) / 2] * 2
    for log in trainer.steps(training_worker.batches):
        if log.step == 2:
            trainer.save(tmp_path / "c")
    assert drawn == [len(half[0])] * 2 * 4, "two parts a step, and none drawn again"
    again = counted(4)
    again.resume(tmp_path / "c")
    assert_same_state(finish(trainer), finish(again))


def test_pairs_are_dealt_out_with_the_rows_they_come_with() -> None:
    own = Batch(torch.arange(6.0).reshape(6, 1), Conditioning(pooled=torch.arange(6.0).reshape(6, 1)), Conditioning())
    pairs = Batch(torch.arange(4.0).reshape(4, 1), Conditioning(), Conditioning(), noise=torch.arange(4.0).reshape(4, 1))
    parts = replace(own, pairs=pairs).split(4)
    assert [p.x0.flatten().tolist() for p in parts] == [[0, 1], [2, 3], [4], [5]]
    assert [p.cond.pooled.flatten().tolist() for p in parts] == [[0, 1], [2, 3], [4], [5]]
    assert [p.pairs.noise.flatten().tolist() for p in parts] == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match=r"^4 pairs cannot be dealt out to 5 parts of a batch: take fewer parts$"):
        replace(own, pairs=pairs).split(5)


@pytest.mark.parametrize("parts", [0, 9])
def test_parts_that_a_batch_does_not_have_get_a_sentence(parts: int) -> None:
    with pytest.raises(ValueError, match=rf"^a batch of 6 cannot be worked through in {parts} parts: choose .* 1 to the"):
        Trainer(Fit(), Options(4, 6, gradient_accumulation=parts))


def test_a_fresh_optimiser_forgets_what_it_has_seen() -> None:
    """Its first move has Adam's size, the learning rate, whatever came before; and the state goes on."""

    class Again(Line):
        def turns(self, step: int) -> list[Turn]:
            return [Turn("line", 0, fresh_optimizer=step == 3)]

    moved = {}
    for method in (Line, Again):
        trainer = begun(method)
        places = [trainer.networks["line"].weight.item()]
        for _ in trainer.steps(line_batch):
            places.append(trainer.networks["line"].weight.item())
        moved[method] = [b - a for a, b in itertools.pairwise(places)]
    assert moved[Line][:3] == moved[Again][:3]
    assert abs(moved[Again][3]) == pytest.approx(0.1, rel=1e-3)
    assert abs(moved[Line][3]) != pytest.approx(0.1, rel=1e-3)


def test_a_method_says_how_its_players_move_where_the_run_does_not() -> None:
    game = make_game(n=8)
    trainer = Trainer(game.add, Options(steps=1, optimizers={"student": Optimizer(0.5, ema=0.0)}))
    assert trainer.optimizer_of("student").learning_rate == 0.5
    assert trainer.optimizer_of("discriminator") == game.add.players["discriminator"].optimizer
    assert not trainer.averages
    assert set(Trainer(game.add, Options(steps=1)).averages) == {"student"}, "ADD averages the student"


# who may move


def test_only_the_player_at_its_turn_can_be_trained() -> None:
    shared = nn.Linear(2, 2)
    players = {"a": nn.Sequential(shared, nn.Linear(2, 2)), "b": nn.Sequential(shared, nn.Linear(2, 3))}
    players["b"][1].bias.requires_grad_(False)
    with only_trainable(players, "a"):
        assert all(p.requires_grad for p in players["a"].parameters()), "also what it shares"
        assert not any(p.requires_grad for p in players["b"][1].parameters())
    assert [p.requires_grad for p in players["b"].parameters()] == [True, True, True, False], "the frozen stays frozen"
    with pytest.raises(RuntimeError), only_trainable(players, "b"):
        raise RuntimeError
    assert players["a"][1].weight.requires_grad, "also after an error"


def test_a_partly_frozen_student_keeps_its_frozen_part() -> None:
    game = make_game(n=8)
    game.student.denoiser.enter.requires_grad_(False)
    before = {k: v.clone() for k, v in game.student.denoiser.state_dict().items()}
    trainer = Trainer(game.add, Options(steps=2, optimizers=optimizers()))
    finish(trainer)
    after = game.student.denoiser.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {k for k in before if not k.startswith("enter")}


def test_the_two_turns_of_one_step_draw_differently() -> None:
    """Two discriminator turns on a resting student see two samples, the same in every run."""
    seen = []

    def watch() -> list[float]:
        game = make_game(n=8, student_every=2, discriminator_turns=2)
        trainer = Trainer(game.add, Options(steps=2, optimizers=optimizers()))
        trainer.step = 1
        original = game.add.losses

        def losses(player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
            seen.append(float(rng.copy().normal((1,))))
            return original(player, batch, rng)

        game.add.losses = losses  # type: ignore[method-assign]
        finish(trainer)
        return seen[-2:]

    assert watch() == watch()
    assert seen[0] != seen[1]


@pytest.mark.parametrize(("turns", "every"), [(1, 1), (2, 1), (3, 2)])
def test_every_turn_of_the_discriminator_has_new_samples_and_new_fakes(turns: int, every: int) -> None:
    """The student's turn and the first of the heads share a batch; every sample is still seen once an epoch."""
    steps, numbers, reals, fakes = 4, [], [], []
    data = mixture.training_set(n=64 * turns * steps)

    class Seen(MediaFeatures):
        def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
            (fakes if x.requires_grad or len(fakes) == len(reals) else reals).append(x.detach())
            return super().__call__(x, cond, rng)

    def batches(number: int) -> Batch:
        numbers.append(number)
        return data(number)

    game = mixture.add_method(mixture.student(), replace(mixture.ADD, discriminator_turns=turns, student_every=every))
    game.adversary.features = Seen(mixture.Waves())
    for _ in Trainer(game, mixture.add_options(steps=steps)).steps(batches):
        pass
    assert numbers == list(range(turns * steps)), "with one turn, the batch of step i is batch i"
    assert len(torch.cat(reals).unique(dim=0)) == len(data) == len(torch.cat(reals))
    assert len(torch.cat(fakes).unique(dim=0)) == len(data)


# optimisers and averages


def test_learning_rates_follow_their_shape() -> None:
    plain = Optimizer(learning_rate=1e-3, warmup=4)
    assert [plain.rate(i, 100) for i in (0, 1, 3, 50, 100)] == pytest.approx([2.5e-4, 5e-4, 1e-3, 1e-3, 1e-3])
    falling = Optimizer(learning_rate=1.0, warmup=0, decay=True)
    assert [falling.rate(i, 100) for i in (0, 50, 100, 200)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_gradients_are_clipped_and_each_player_has_its_rate() -> None:
    logs, rates = [], {}
    game = make_game(n=8)
    slow = optimizers(max_gradient_norm=1e-12, ema=0.0)
    trainer = Trainer(game.add, Options(steps=1, optimizers=slow))
    before = game.student.denoiser.leave.weight.detach().clone()
    for log in trainer.steps(training_worker.batches):
        logs.append(log)
        rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.items()}
    assert rates == pytest.approx({"student": 1e-3 / 3, "discriminator": 3e-3})
    assert logs[0].observations["student/gradient_norm"] > 1e-3, "what is logged is the norm before clipping"
    # Adam divides by the gradient's own size, up to its epsilon of 1e-8: far below it almost nothing moves
    assert (game.student.denoiser.leave.weight - before).abs().max() < 1e-6


def test_averages_warm_up_and_are_lent_and_given_back() -> None:
    network = nn.BatchNorm1d(1)
    average = EMA(network, 0.9)
    network.weight.data.fill_(3.0)
    network.num_batches_tracked.fill_(5)
    average.update(network)
    decay = min(0.9, 2 / 11)
    assert float(average.average["weight"]) == pytest.approx(decay * 1 + (1 - decay) * 3)
    assert int(average.average["num_batches_tracked"]) == 5
    for _ in range(500):
        average.update(network)
    assert float(average.average["weight"]) == pytest.approx(3.0)
    network.weight.data.fill_(-1.0)
    with average.applied(network):
        assert float(network.weight.detach()) == pytest.approx(3.0)
    with pytest.raises(RuntimeError), average.applied(network):
        raise RuntimeError
    assert float(network.weight.detach()) == -1.0


def test_further_averages_are_those_of_runs_with_their_decay(tmp_path: Path) -> None:
    """Three averages of one run are the single averages of three; only the first is lent and adopted; all are resumed."""

    def averaged(ema: float, *further_ema: float) -> Trainer:
        method = Fit()
        o = Optimizer(0.1, beta1=0.5, warmup=0, ema=ema, further_ema=further_ema)
        return Trainer(method, Options(6, 6, optimizers={"line": o}))

    several = averaged(0.5, 0.9, 0.0)
    for log in several.steps(points):
        if log.step == 3:
            several.save(tmp_path / "c")
    assert list(several.averages) == ["line", "line@0.9", "line@0"]
    for decay, name in ((0.5, "line"), (0.9, "line@0.9")):
        alone = averaged(decay)
        list(alone.steps(points))
        assert torch.equal(several.averages[name].average["weight"], alone.averages["line"].average["weight"])
    last = several.networks["line"].weight.clone()
    assert torch.equal(several.averages["line@0"].average["weight"], last)
    again = averaged(0.5, 0.9, 0.0)
    again.resume(tmp_path / "c")
    list(again.steps(points))
    assert_same_state(several.state(), again.state())
    several.adopt_averages()
    assert torch.equal(several.networks["line"].weight, several.averages["line"].average["weight"])
    assert not torch.equal(several.networks["line"].weight, last)


def test_averages_are_lent_to_the_whole_game_or_adopted() -> None:
    trainer = training_worker.trainer(3)
    finish(trainer)
    student = trainer.networks["student"]
    trained = {k: v.clone() for k, v in student.state_dict().items()}
    average = trainer.averages["student"].average
    with trainer.averaged():
        assert all(torch.equal(v, average[k]) for k, v in student.state_dict().items())
    assert all(torch.equal(v, trained[k]) for k, v in student.state_dict().items())
    assert any(not torch.equal(average[k], trained[k]) for k in trained)
    trainer.adopt_averages()
    assert all(torch.equal(v, average[k]) for k, v in student.state_dict().items())


def test_bf16_trains_too() -> None:
    game = make_game(n=8)
    trainer = Trainer(game.add, Options(steps=2, precision="bf16", optimizers=optimizers()))
    logs = list(trainer.steps(training_worker.batches))
    assert not any(log.skipped for log in logs)
    assert all(p.dtype == torch.float32 for p in game.student.denoiser.parameters())


# data


def test_every_sample_is_seen_once_an_epoch_whatever_the_batch() -> None:
    for batch_size in (1, 3, 7, 10, 23):
        steps = -(-30 // batch_size)
        seen = [int(i) for step in range(steps) for i in batch_indices(10, batch_size, 0, step)][:30]
        assert [sorted(seen[e * 10 : e * 10 + 10]) for e in range(3)] == [list(range(10))] * 3
        assert seen[:10] != seen[10:20], "shuffled anew"
    assert batch_indices(10, 4, 0, 2).tolist() == batch_indices(10, 4, 0, 2).tolist()
    assert batch_indices(10, 10, 0, 0).tolist() != batch_indices(10, 10, 1, 0).tolist()
    with pytest.raises(ValueError, match="the training set is empty"):
        batch_indices(0, 4, 0, 0)


def training_set(**changes: Any) -> TrainingSet:
    latents = torch.arange(12.0).reshape(12, 1, 1)
    table = PromptTable(tokens=torch.randn(5, 3, 2).half(), pooled=torch.arange(5.0)[:, None].half())
    choices = [[i % 5, (i + 1) % 5] for i in range(12)]
    null = Conditioning(tokens=torch.zeros(1, 3, 2), pooled=torch.zeros(1, 1))
    return TrainingSet(latents, table, choices, null, batch_size=4, **changes)


def test_batches_are_a_pure_function_of_the_step() -> None:
    data = training_set(image=torch.arange(12.0)[:, None].half(), noise=-torch.arange(12.0).reshape(12, 1, 1))
    a, b = data(5), data(5)
    assert torch.equal(a.x0, b.x0)
    assert torch.equal(a.cond.pooled, b.cond.pooled)
    rows = a.x0.flatten().long().tolist()
    assert all(int(p) in data.choices[i] for i, p in zip(rows, a.cond.pooled.flatten()))
    assert a.cond.image.flatten().tolist() == rows, "everything of a row belongs together"
    assert a.noise.flatten().tolist() == [-i for i in rows]
    assert not a.null.image.any()
    assert a.x0.dtype == a.cond.tokens.dtype == a.cond.image.dtype == torch.float32
    prompts = {
        float(p)
        for step in range(30)
        for p, i in zip(data(step).cond.pooled.flatten(), data(step).x0.flatten())
        if i == 0
    }
    assert prompts == {0.0, 1.0}, "each of its prompts in turn"


def described() -> TrainingSet:
    """Twelve samples in four concepts of three; each has its concept's prompt, and one that all have."""
    table = PromptTable(None, torch.eye(5))
    null = Conditioning(pooled=torch.zeros(1, 5))
    return TrainingSet(torch.arange(12.0).reshape(12, 1), table, [[i // 3, 4] for i in range(12)], null, batch_size=12, seed=3)


@pytest.mark.parametrize("group", [2, 3, 4, 6])
def test_groups_of_one_condition_stand_side_by_side(group: int) -> None:
    data = described().grouped(group)
    firsts = []
    for step in range(2 * group):  # two epochs of leaders
        batch = data(step)
        assert torch.equal(batch.x0, data(step).x0), "a function of its number"
        prompts = batch.cond.pooled.argmax(1).reshape(-1, group)
        samples = batch.x0.int().reshape(-1, group)
        firsts += samples[:, 0].tolist()
        for prompt, members in zip(prompts.tolist(), samples.tolist(), strict=True):
            assert len(set(prompt)) == 1
            fitting = set(range(12)) if prompt[0] == 4 else set(range(3 * prompt[0], 3 * prompt[0] + 3))
            assert set(members) <= fitting
            assert len(set(members)) == min(group, len(fitting)), "none twice before all that fit were there"
    assert sorted(firsts) == sorted([*range(12)] * 2), "every sample leads once an epoch"


def test_groups_that_do_not_fill_a_batch_get_a_sentence() -> None:
    said = r"^a batch of 12 cannot be filled with groups of 5: choose a multiple of 5$"
    with pytest.raises(ValueError, match=said):
        described().grouped(5)(0)
    assert torch.equal(described().grouped(1)(4).x0, described()(4).x0)


def test_every_row_of_a_batch_knows_its_concept(tmp_path: Path) -> None:
    """As the dataset has it: two pictures of one concept under two prompts share a number, and so do their rows."""
    with DatasetWriter(
        tmp_path / "set", name="own", shape=(3, 4, 4), licences=[], attribution="", build={}
    ) as writer:
        for i, concept in enumerate(["cat", "dog", "cat", "bird"]):
            writer.add(np.full((3, 4, 4), 60 * i, np.uint8), Item(str(i), concept, (f"prompt {i}",)))

    class Named(Conditioner):
        def forward(self, prompts: Sequence[str]) -> Conditioning:
            told = torch.tensor([float(p[7:] or -1) for p in prompts])[:, None]
            return Conditioning(tokens=told[:, None], pooled=told)

    data = encode_training_set(Dataset.open(tmp_path / "set"), IdentityCodec(), Named(), tmp_path, batch_size=4)
    for step in range(3):
        batch = data(step)
        wanted = [{"bird": 0, "cat": 1, "dog": 2}[["cat", "dog", "cat", "bird"][int(p)]] for p in batch.cond.pooled[:, 0]]
        assert batch.concepts is not None
        assert batch.concepts.tolist() == wanted


# the run around it


def test_ctrl_c_stops_between_steps_with_the_state_saved(tmp_path: Path) -> None:
    whole = finish(training_worker.trainer(5))
    for number in (signal.SIGINT, signal.SIGTERM):
        out = tmp_path / number.name

        def press(log: Any, number: int = number) -> None:
            if log.step == 2:
                os.kill(os.getpid(), number)

        with pytest.raises(Stopped, match=r"after step 2 of 5; .*continue with --resume"):
            run(training_worker.trainer(5), training_worker.batches, Saving(out), press)
        again = training_worker.trainer(5, seed=3)
        run(again, training_worker.batches, Saving(out, resume=True))
        assert_same_state(whole, again.state())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler is given back"


def test_the_clock_decides_when_to_save_and_when_to_stop(tmp_path: Path) -> None:
    clock = iter(range(0, 10_000, 7))
    saved: list[int] = []
    trainer = training_worker.trainer(20)
    original = trainer.save
    trainer.save = lambda *places: (saved.append(trainer.step), original(*places))[0]  # type: ignore[method-assign,assignment]
    with pytest.raises(Stopped):
        run(
            trainer,
            training_worker.batches,
            Saving(tmp_path, every_seconds=30, until=120, clock=lambda: float(next(clock))),
        )
    assert saved[-1] == trainer.step < 20
    assert 1 < len(saved) < trainer.step
    again = training_worker.trainer(20)
    again.resume(tmp_path / "checkpoint")
    assert again.step == trainer.step
    assert same_weights(again.networks["student"], trainer.networks["student"])
