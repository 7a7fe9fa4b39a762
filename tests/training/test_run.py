"""What happens around the steps: batches, saving, stopping, health, the journal."""

from __future__ import annotations

import contextlib
import math
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fewstep.parts.denoiser import Denoiser
from fewstep.tensors import Batch, Conditioning
from fewstep.training import checkpoint
from fewstep.training.data import PromptTable, TrainingSet, batch_indices, in_parts
from fewstep.training.health import Health, Unhealthy
from fewstep.training.health import Options as HealthOptions
from fewstep.training.journal import Journal
from fewstep.training.log import Stopped
from fewstep.training.recipe import Phase, run_phases
from fewstep.training.run import Saving, check_free, run
from fewstep.training.trainer import Options, StepLog, Trainer
from helpers import make_game, optimizers, same_weights


def trainer(steps: int = 6) -> tuple[Trainer, Batch]:
    game = make_game()
    return Trainer(game.add, Options(steps=steps, optimizers=optimizers())), game.batch


def test_every_sample_is_seen_once_an_epoch_whatever_the_batch_size():
    seen = np.concatenate([batch_indices(10, 4, seed=3, step=s) for s in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert not (seen[:10] == seen[10:]).all()
    np.testing.assert_array_equal(batch_indices(10, 4, 3, 2), seen[8:12])
    assert not (batch_indices(10, 4, 4, 2) == seen[8:12]).all()


def test_a_batch_is_a_function_of_its_step_and_pairs_prompt_with_picture():
    table = PromptTable(torch.arange(6.0).reshape(6, 1, 1).half(), torch.arange(6.0).reshape(6, 1).half())
    null = Conditioning(tokens=torch.zeros(1, 1, 1), pooled=torch.zeros(1, 1))
    data = TrainingSet(torch.arange(3.0).reshape(3, 1), table, [[0, 1], [2, 3], [4, 5]], null, batch_size=2, seed=1)
    for step in range(20):
        batch, again = data(step), data(step)
        torch.testing.assert_close(batch.x0, again.x0)
        torch.testing.assert_close(batch.cond.pooled, again.cond.pooled)
        torch.testing.assert_close((batch.cond.pooled // 2).floor(), batch.x0)  # rows 2i and 2i+1 describe sample i
        assert float(batch.null.pooled.abs().sum()) == 0
    asked = {float(p) for step in range(40) for p in data(step).cond.pooled.flatten()}
    assert asked == set(range(6))


def test_ctrl_c_saves_and_resume_goes_on_bit_for_bit(tmp_path):
    whole, batch = trainer()
    run(whole, lambda step: batch, Saving(tmp_path / "whole"))
    first, _ = trainer()

    def interrupt(log: StepLog) -> None:
        if log.step == 3:
            signal.raise_signal(signal.SIGINT)  # to this thread: native pools of other tests must not catch it

    with pytest.raises(Stopped, match=r"after step 3 of 6.*continue with --resume"):
        run(first, lambda step: batch, Saving(tmp_path / "cut"), interrupt)
    second, _ = trainer()
    run(second, lambda step: batch, Saving(tmp_path / "cut", resume=True))
    a, b = (checkpoint.flatten(checkpoint.load(tmp_path / n / "checkpoint"))[0] for n in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_asks_a_run_to_stop_saves_it(tmp_path, number):
    one, batch = trainer()
    with pytest.raises(Stopped, match="after step 2 of 6"):
        run(one, lambda step: batch, Saving(tmp_path), lambda log: log.step == 2 and signal.raise_signal(number))
    assert checkpoint.step_of(tmp_path / "checkpoint") == 2


def test_a_run_under_nohup_goes_on_when_the_terminal_is_gone(tmp_path):
    one, batch = trainer()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(one, lambda step: batch, Saving(tmp_path), lambda log: signal.raise_signal(signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoint.step_of(tmp_path / "checkpoint") == 6


def test_a_run_whose_terminal_goes_away_saves_its_state(tmp_path):
    """In a session of its own on a pseudo-terminal, whose other end is closed after the second step."""
    code = "import contextlib, sys, torch\nsys.path.insert(0, sys.argv[2])\nimport training_worker as w\n" \
           "from pathlib import Path\n" \
           "from fewstep.training.run import Saving, run\nfrom fewstep.training.log import Stopped\n" \
           "def said(log):\n    print(log.step, flush=True)\n" \
           "    with contextlib.suppress(OSError):  # waits until the other end is gone; some reads then end in an error\n" \
           "        log.step == 2 and sys.stdin.read(1)\n" \
           "try:\n    run(w.trainer(500), w.batches, Saving(Path(sys.argv[1])), said)\n" \
           "except Stopped:\n    print('stopped', flush=True)\n    sys.exit(130)"  # fmt: skip
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parents[1])])
    said = b""
    while b"2" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert 2 <= checkpoint.step_of(tmp_path / "checkpoint") < 500


def test_a_time_limit_stops_with_the_state_saved(tmp_path):
    clock = iter(range(0, 10_000, 45))
    one, batch = trainer(100)
    with pytest.raises(Stopped):
        run(one, lambda step: batch, Saving(tmp_path, until=120, clock=lambda: float(next(clock))))
    assert 0 < int(checkpoint.load(tmp_path / "checkpoint")["step"]) < 10


def test_phases_follow_each_other_and_a_finished_one_is_not_trained_again(tmp_path):
    game = make_game()
    taken: list[str] = []

    def phase(name: str) -> Phase:
        return Phase(name, 3, lambda: (Trainer(game.add, Options(steps=3, optimizers=optimizers())), lambda s: game.batch))

    run_phases([phase("one"), phase("two")], Saving(tmp_path), lambda p, t, log: taken.append(p.name))
    assert taken == ["one"] * 3 + ["two"] * 3
    after = {k: v.clone() for k, v in game.student.denoiser.state_dict().items()}
    run_phases([phase("one"), phase("two")], Saving(tmp_path, resume=True), lambda p, t, log: taken.append(p.name))
    assert len(taken) == 6
    assert all(torch.equal(v, after[k]) for k, v in game.student.denoiser.state_dict().items())
    assert [line["step"] for line in Journal.read(tmp_path / "two" / "journal.jsonl")] == [1, 2, 3]


def test_the_seconds_of_a_phase_count_over_all_its_parts(tmp_path):
    """A step takes a second. Stopped and gone on with, it has as many as in one go; then no more, unless more are given."""

    def steps(seconds: float, resume: bool = True, stop: int = 0) -> list[int]:
        game, taken = make_game(), []

        def build() -> tuple[Trainer, Callable[[int], Batch]]:
            return Trainer(game.add, Options(steps=20, optimizers=optimizers())), lambda step: game.batch

        def watch(phase: Phase, trainer: Trainer, log: StepLog) -> None:
            taken.append(log.step)
            if log.step == stop:
                signal.raise_signal(signal.SIGINT)

        saving = Saving(tmp_path, resume=resume, every_seconds=1e9, timer=lambda: 100.0 + len(taken))
        with contextlib.suppress(Stopped):
            run_phases([Phase("one", 20, build, seconds)], saving, watch)
        students.append(game.student.denoiser)
        return taken

    students: list[Denoiser] = []
    assert steps(6.5, resume=False) == list(range(1, 9)), "the step that is over is told before it is counted"
    assert steps(6.5, resume=False, stop=3) == [1, 2, 3]
    assert steps(6.5) == list(range(4, 9))
    assert same_weights(students[0], students[2])
    assert steps(6.5) == []
    assert same_weights(students[0], students[3])
    assert checkpoint.load(tmp_path / "one" / "checkpoint")["spent"] == 8
    assert steps(9.5) == [9, 10, 11], "with more time it goes on"
    assert steps(0.0) == list(range(12, 21)), "and without a limit to the end"


def test_a_state_of_an_older_version_that_its_seconds_ended_is_done(tmp_path):
    one, batch = trainer(steps=3)
    run(one, lambda step: batch, Saving(tmp_path))
    state = one.state()
    del state["spent"]
    other, _ = trainer(steps=3)
    other.load_state(state | {"ended_after": 60.0})
    assert other.spent == 60.0
    other.load_state(state)
    assert other.spent == 0.0


def in_phases(folder: Path, resume: bool = False, stop: int = 0, steps: int = 3, rate: float = 1e-3,
              seconds: float = 0.0, **made_with: Any) -> tuple[list[tuple[str, int]], Denoiser]:  # fmt: skip
    """Two phases of one student, stopped after the first one's step ``stop``; the steps that were taken, and the student."""
    game, taken = make_game(), []

    def build(steps: int) -> tuple[Trainer, Callable[[int], Batch]]:
        return Trainer(game.add, Options(steps=steps, optimizers=optimizers(learning_rate=rate))), lambda s: game.batch

    def watch(phase: Phase, trainer: Trainer, log: StepLog) -> None:
        taken.append((phase.name, log.step))
        if stop == log.step:
            signal.raise_signal(signal.SIGINT)

    one = Phase("one", 3, lambda: build(3), seconds, made_with={k: v for k, v in made_with.items() if k != "--game"})
    phases = [one, Phase("two", steps, lambda: build(steps), made_with=made_with)]
    try:
        run_phases(phases, Saving(folder, resume=resume), watch)
    except Stopped:
        assert stop
    return taken, game.student.denoiser


ALL = [("one", 1), ("one", 2), ("one", 3), ("two", 1), ("two", 2), ("two", 3)]


def test_a_run_that_begins_anew_keeps_nothing_of_any_phase_of_the_one_before(tmp_path):
    """Stopped in its first phase and resumed, it trains its own second one."""
    _, wanted = in_phases(tmp_path / "clean", rate=1e-2)
    in_phases(tmp_path / "used")
    assert in_phases(tmp_path / "used", rate=1e-2, stop=1)[0] == ALL[:1]
    assert not (tmp_path / "used" / "two" / "checkpoint").exists()
    assert not (tmp_path / "used" / "two" / "journal.jsonl").exists()
    taken, student = in_phases(tmp_path / "used", rate=1e-2, resume=True)
    assert taken == ALL[1:]
    assert same_weights(student, wanted)


def test_a_folder_in_which_steps_were_taken_is_not_free(tmp_path):
    check_free(tmp_path)
    trainer(0)[0].save(tmp_path / "one" / "checkpoint")  # a run that took no step has nothing to lose
    check_free(tmp_path)
    in_phases(tmp_path, stop=2)
    for name in ("checkpoint", "checkpoint.old"):  # as it is, and as a crash in the middle of a save leaves it
        (tmp_path / "one" / "checkpoint").rename(tmp_path / "one" / name)
        with pytest.raises(ValueError, match=r"2 steps into its phase one: go on with --resume, choose another --out"):
            check_free(tmp_path)


def test_other_options_are_refused_before_a_step_is_taken_and_both_values_are_named(tmp_path):
    options = {"--rate": 0.5, "--styles": ["flat", "3d"], "--game": 1.0}
    in_phases(tmp_path, **options)
    saved = {path: path.read_bytes() for path in tmp_path.rglob("state.*")}
    for change, sentence in (
        ({"--rate": 0.25}, r"one was made with --rate 0.5, not with --rate 0.25: resume with the options it was started with"),
        ({"--styles": []}, r"--styles flat 3d, not with --styles \(none\)"),
        ({"--game": 2.0}, r"two was made with --game 1.0, not with --game 2.0"),
        ({"--rate": 1, "--styles": ["3d"]}, r"with --rate 0.5, --styles flat 3d, not with --rate 1, --styles 3d: "),
    ):
        with pytest.raises(ValueError, match=sentence):
            in_phases(tmp_path, resume=True, steps=5, **options | change)
    assert saved == {path: path.read_bytes() for path in tmp_path.rglob("state.*")}
    assert in_phases(tmp_path, resume=True, steps=4, **options | {"--later": 1})[0] == [("two", 4)]
    for own in tmp_path.glob("*/made_with.json"):  # as older versions left it
        own.unlink()
    assert in_phases(tmp_path, resume=True, steps=5, **options | {"--rate": 9})[0] == [("two", 5)]


def test_a_phase_that_has_not_begun_takes_any_options(tmp_path):
    in_phases(tmp_path, stop=3, **{"--game": 1.0})
    assert in_phases(tmp_path, resume=True, **{"--game": 2.0})[0] == ALL[3:]
    with pytest.raises(ValueError, match=r"--game 2\.0, not with --game 1\.0"):
        in_phases(tmp_path, resume=True, **{"--game": 1.0})


def test_a_phase_that_another_one_went_on_from_takes_no_further_step(tmp_path):
    taken, student = in_phases(tmp_path, seconds=1e-9)
    assert taken == [ALL[0], *ALL[3:]]
    again, same = in_phases(tmp_path, resume=True, seconds=0.0)
    assert again == []
    assert same_weights(student, same)


def test_parts_are_written_by_the_clock_and_belong_to_their_key(tmp_path):
    asked: list[int] = []
    path = tmp_path / "part.safetensors"

    def draw(rows: np.ndarray) -> torch.Tensor:
        asked.append(int(rows[0]))
        if len(asked) == 4:
            raise RuntimeError("killed")
        return torch.from_numpy(rows).float()

    def drawn(key: str = "a", size: int = 2) -> list[float]:
        clock = iter(range(0, 1000, 40))  # a second part is due every minute
        return in_parts(draw, 9, size, path, key, "rows", now=lambda: float(next(clock))).tolist()

    with pytest.raises(RuntimeError):
        drawn()
    assert load_file(path)["drawn"].tolist() == [0, 1, 2, 3]
    kept = path.read_bytes()
    for key, size, again in (("a", 2, [4, 6, 8]), ("b", 2, [0, 2, 4, 6, 8]), ("a", 3, [0, 3, 6])):
        path.write_bytes(kept)
        asked[:] = [-1] * 9
        assert drawn(key, size) == list(range(9))
        assert asked[9:] == again
    path.write_bytes(kept[:-3])
    assert drawn() == list(range(9)), "what is damaged is drawn again"


def test_the_journal_forgets_steps_that_are_taken_again(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for step in (1, 2, 3, 4):
        journal.write(StepLog(step, {"a": step / 10}, {}))
    path.write_text(path.read_text() + '{"step": 5, "a"')  # a crash in the middle of a line
    resumed = Journal(path)
    resumed.write(StepLog(3, {"a": 9.0}, {}))
    assert [(x["step"], x["a"]) for x in Journal.read(path)] == [(1, 0.1), (2, 0.2), (3, 9.0)]


def logs(n: int, **observations: float) -> list[StepLog]:
    return [StepLog(i + 1, {}, dict(observations)) for i in range(n)]


@pytest.mark.parametrize(
    ("rule", "observations"),
    [
        ("discriminator_saturated", {"discriminator/real_right": 0.99, "discriminator/fake_right": 1.0}),
        ("gradient_ratio", {"student/adversarial_gradient_at_x0": 1e-6, "student/distillation_gradient_at_x0": 1.0}),
    ],
)
def test_health_rules_fire_once_a_window_and_only_when_they_should(rule, observations):
    health = Health(HealthOptions(window=5))
    found = [a.rule for log in logs(12, **observations) for a in health.check(log)]
    assert found == [rule, rule]
    fine = {"discriminator/real_right": 0.7, "discriminator/fake_right": 0.6}
    fine |= {"student/adversarial_gradient_at_x0": 1.0, "student/distillation_gradient_at_x0": 0.3}
    fine |= {"student/shift_0": 0.2, "student/shift_1": -0.2}
    assert [a for log in logs(30, **fine) for a in Health(HealthOptions(window=5)).check(log)] == []


def test_colour_drift_and_lost_diversity_are_named():
    health = Health(HealthOptions(window=4))
    moved = [StepLog(i, {}, {"student/shift_0": 0.09 * i, "student/shift_1": -0.1 * i}) for i in range(9)]
    (found,) = [a for log in moved for a in health.check(log)][:1]
    assert found.rule == "colour_drift"
    assert "is -0.45 standard deviations from the data's in channel 1: lower" in found.message, "mean of steps 3 to 6"
    health = Health()

    def look(step: int, diversity: float) -> list[str]:
        return [a.rule for a in health.check(StepLog(step, {}, {"probe/diversity": diversity}))]

    assert [look(0, 0.04), look(50, 0.01)] == [[], []], "next to nothing was there to lose"
    assert [look(100, 0.6), look(150, 1.0), look(200, 0.6), look(250, 0.4)] == [[], [], [], ["diversity_lost"]]


def test_figures_that_are_not_finite_set_off_nothing_but_the_streak():
    health = Health(HealthOptions(window=3, nan_streak=100))
    broken = {"student/adversarial_gradient_at_x0": math.nan, "student/distillation_gradient_at_x0": math.nan}
    broken |= {"student/shift_0": math.nan}
    assert [a for i in range(9) for a in health.check(StepLog(i, {}, broken, skipped=True))] == []


def test_a_streak_of_nan_stops_the_run_and_one_bad_step_does_not():
    health = Health(HealthOptions(nan_streak=3))
    for bad in (True, True, False, True, True):
        health.check(StepLog(1, {}, {}, skipped=bad))
    with pytest.raises(Unhealthy, match="3 steps in a row"):
        health.check(StepLog(2, {}, {}, skipped=True))


def test_a_state_of_other_players_or_another_seed_is_refused(tmp_path):
    one, batch = trainer(2)
    run(one, lambda step: batch, Saving(tmp_path))
    game = make_game()
    with pytest.raises(ValueError, match="--seed 0: resume with the same seed"):
        Trainer(game.add, Options(steps=2, seed=5, optimizers=optimizers())).resume(tmp_path / "checkpoint")
    alone = make_game(adversarial_weight=0.0)
    with pytest.raises(ValueError, match="this run trains \\['student'\\]"):
        Trainer(alone.add, Options(steps=2, optimizers=optimizers())).resume(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="no checkpoint in"):
        checkpoint.load(Path(tmp_path / "nowhere"))
