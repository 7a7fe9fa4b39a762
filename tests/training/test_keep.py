"""Looks at a running training: the best state is kept and survives anything, and the health rules reach real runs."""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import training_worker
from fewstep.evaluation.diversity import pairwise_distance
from fewstep.evaluation.progress import measure_with
from fewstep.parts.denoiser import freeze
from fewstep.tensors import Batch
from fewstep.training import checkpoint, probe
from fewstep.training import run as training_run
from fewstep.training.health import Course, Health, Unhealthy
from fewstep.training.journal import Journal
from fewstep.training.log import StepLog, Stopped
from fewstep.training.probe import Best, Probe
from fewstep.training.recipe import Phase, run_phases
from fewstep.training.run import Saving, run
from fewstep.training.trainer import Trainer
from helpers import Eyes, make_batch

STEPS = 6


COURSE = (5.0, 3.0, 4.0, 1.0, 2.0, 6.0, 7.0)
"""Scores of the states 0 to STEPS: the best is neither at an end of all of them nor of every second."""


def wandering(trainer: Trainer) -> Callable[[], dict[str, float]]:
    """A look that finds a run which gets better and then worse."""
    return lambda: {"score": COURSE[min(trainer.step, STEPS)], "diversity": 1.0}


def looked(trainer: Trainer, folder: Path, every: int = 1, **options: Any) -> list[StepLog]:
    """Run it, looking at every step; its logs."""
    logs: list[StepLog] = []
    run(trainer, training_worker.batches, Saving(folder, **options), logs.append, Probe(wandering(trainer), every))
    return logs


def same_state(a: Path, b: Path) -> bool:
    """Alike but for the time that it took."""
    (tensors_a, plain_a), (tensors_b, plain_b) = (checkpoint.flatten(checkpoint.load(f) | {"spent": 0.0}) for f in (a, b))
    return (
        plain_a == plain_b
        and tensors_a.keys() == tensors_b.keys()
        and all(torch.equal(v, tensors_b[k]) for k, v in tensors_a.items())
    )


# what is kept


def test_the_lowest_score_is_kept_with_its_averaged_weights(tmp_path: Path) -> None:
    trainer = training_worker.trainer(STEPS)
    steps: list[int] = []
    averages: dict[int, Any] = {}

    def note(log: StepLog) -> None:
        steps.append(log.step)
        averages[log.step] = {k: v.clone() for k, v in trainer.averages["student"].average.items()}

    run(trainer, training_worker.batches, Saving(tmp_path), note, probe=Probe(wandering(trainer), 1))
    assert steps == list(range(STEPS + 1)), "the first state is looked at too"
    best = COURSE.index(min(COURSE))
    kept = checkpoint.load(tmp_path / "best")
    assert (kept["step"], kept["score"]) == (best, min(COURSE))
    assert all(torch.equal(v, averages[best][k]) for k, v in kept["players"]["student"].items())
    assert Best(tmp_path / "best").adopt(trainer)
    assert all(torch.equal(v, averages[best][k]) for k, v in trainer.networks["student"].state_dict().items())


def test_looks_come_at_the_first_every_nth_and_the_last_step(tmp_path: Path) -> None:
    logs = looked(training_worker.trainer(STEPS + 1), tmp_path, every=3)
    assert [log.step for log in logs if "probe/score" in log.observations] == [0, 3, 6, 7]
    clock = iter(range(100))
    logs = looked(training_worker.trainer(50), tmp_path, every=30, seconds=4, clock=lambda: float(next(clock)))
    assert [log.step for log in logs if "probe/score" in log.observations] == [0, logs[-1].step], "also when time is up"


def test_looking_changes_nothing_in_the_training(tmp_path: Path) -> None:
    looked(training_worker.trainer(STEPS), tmp_path / "a")
    run(training_worker.trainer(STEPS), training_worker.batches, Saving(tmp_path / "b"))
    assert same_state(tmp_path / "a" / "checkpoint", tmp_path / "b" / "checkpoint")
    assert not (tmp_path / "b" / "best").exists()


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_never_kept(tmp_path: Path, score: float) -> None:
    trainer = training_worker.trainer(2)
    run(trainer, training_worker.batches, Saving(tmp_path), probe=Probe(lambda: {"score": score}, 1))
    assert not (tmp_path / "best").exists()
    assert not Best(tmp_path / "best").adopt(trainer), "the last state is what is left"


def test_a_new_run_forgets_the_best_of_the_one_before(tmp_path: Path) -> None:
    trainer = training_worker.trainer(1)
    run(trainer, training_worker.batches, Saving(tmp_path), probe=Probe(lambda: {"score": -5.0}, 1))
    run(trainer, training_worker.batches, Saving(tmp_path), probe=Probe(lambda: {"score": 7.0}, 1))
    assert Best(tmp_path / "best").score == 7.0


# through phases, and through death


def phases(keep: probe.Keep = "best", before: Callable[[], None] = lambda: None) -> tuple[list[Phase], list[Trainer]]:
    """Two phases of one game, each looked at; ``before`` is called between them."""
    made: list[Trainer] = []

    def build(name: str) -> tuple[Trainer, Callable[[int], Batch]]:
        if made:
            before()
        trainer = training_worker.trainer(STEPS, backward=0.0)
        if made:
            trainer.load_weights(made[-1].weights())
        made.append(trainer)
        return trainer, training_worker.batches

    looks = lambda: Probe(wandering(made[-1]), 2)  # noqa: E731
    return [Phase(n, STEPS, lambda n=n: build(n), probe=looks, keep=keep) for n in ("one", "two")], made  # type: ignore[misc]


def holds(trainer: Trainer, folder: Path) -> bool:
    student = checkpoint.load(folder)["players"]["student"]
    return all(torch.equal(v, student[k]) for k, v in trainer.networks["student"].state_dict().items())


def test_a_phase_ends_with_its_best_state_or_with_its_last(tmp_path: Path) -> None:
    todo, made = phases()
    assert run_phases(todo, Saving(tmp_path / "best"), lambda *_: None) == {"one": 4, "two": 4}
    for name, trainer in zip(("one", "two"), made):
        lines = Journal.read(tmp_path / "best" / name / "journal.jsonl")
        assert {x["step"]: x["probe/score"] for x in lines if "probe/score" in x} == {i: COURSE[i] for i in (0, 2, 4, 6)}
        assert holds(trainer, tmp_path / "best" / name / "best")
    todo, made = phases("last")
    assert run_phases(todo, Saving(tmp_path / "last"), lambda *_: None) == {"one": STEPS, "two": STEPS}
    average = made[0].averages["student"].average
    assert all(torch.equal(v, average[k]) for k, v in made[0].networks["student"].state_dict().items())
    assert not holds(made[0], tmp_path / "last" / "one" / "best")
    assert (tmp_path / "last" / "one" / "best").exists(), "kept beside it all the same"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def press_twice() -> None:
    press()
    press()


def fill_the_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


MOMENTS = {
    "in a checkpoint": (),
    "in the best": (),
    "between phases": (),
    **{f"{when} look {n} of {phase}": (phase, n, when)
       for phase, n, when in (("one", 0, "in"), ("one", 0, "before"), ("one", 0, "after"), ("one", 2, "in"), ("one", 4, "before"),
                              ("two", 0, "in"), ("two", 0, "after"), ("two", 2, "after"), ("two", 4, "in"), ("two", 6, "in"),
                              ("two", 6, "before"), ("two", 6, "after"))},
}  # fmt: skip
"""When a run is interrupted: ``in`` a look, ``before`` what it found is kept or ``after`` that, its line not yet written."""


def bombs(at: str, monkeypatch: pytest.MonkeyPatch, bomb: Callable[[], None] = die) -> Callable[[], None]:
    """Lay a bomb; returns what is to be called between the phases."""
    move, look, offer, state = os.rename, probe.evaluate_now, Best.offer, {"renames": 0}
    which = MOMENTS[at]

    def here(best: Best, trainer: Trainer, when: str) -> bool:
        return (best.folder.parent.name, trainer.step, when) == which

    def rename(a: Any, b: Any) -> None:
        move(a, b)
        state["renames"] += Path(b).parent.name == "two"
        if at == "in a checkpoint" and Path(b).name == "checkpoint.old" and state["renames"] > 5:
            bomb()
        if at == "in the best" and Path(b).name == "best.old":
            bomb()

    def taken(trainer: Trainer, probe: Probe, best: Best) -> dict[str, float]:
        figures = probe.evaluate

        def interrupted() -> Any:
            if here(best, trainer, "in"):
                bomb()
            return figures()

        return look(trainer, Probe(interrupted, probe.every), best)

    def offered(self: Best, trainer: Trainer, figures: Any) -> bool:
        if here(self, trainer, "before"):
            bomb()
        found = offer(self, trainer, figures)
        if here(self, trainer, "after"):
            bomb()
        return found

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(training_run, "evaluate_now", taken)
    monkeypatch.setattr(Best, "offer", offered)
    return bomb if at == "between phases" else lambda: None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int], list[Trainer]]:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    todo, made = phases()
    return folder, run_phases(todo, Saving(folder, every_seconds=-1), lambda *_: None), made


def interruptions() -> list[Any]:
    """Killed at every moment; stopped, stopped twice and without a disk at those that differ."""
    killed = [(at, die, math.inf if " look " in at else -1) for at in MOMENTS]
    killed += [("in look 4 of two", die, -1), ("after look 2 of two", die, -1)]
    told = [(at, bomb, math.inf) for at in ("in look 0 of one", "after look 0 of two", "in look 4 of two")
            for bomb in (press, press_twice, fill_the_disk)]  # fmt: skip
    return [pytest.param(*all_, id="-".join((all_[1].__name__, all_[0], str(all_[2])))) for all_ in (*killed, *told)]


@pytest.mark.parametrize(("at", "bomb", "every"), interruptions())
def test_interrupted_anywhere_and_resumed_is_the_uninterrupted_run(
    tmp_path: Path, at: str, bomb: Callable[[], None], every: float,
    whole: tuple[Path, dict[str, int], list[Trainer]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A child is killed, asked to stop once or twice, or has no disk left at the named moment; whoever resumes ends with the
    same bits, the best included, whether the state was saved after every step or only at the beginning."""
    folder, wanted, trainers = whole
    child = os.fork()
    if child == 0:
        ended = 3
        try:
            with monkeypatch.context() as patch:
                todo, _ = phases(before=bombs(at, patch, bomb))
                run_phases(todo, Saving(tmp_path / "cut", every_seconds=every), lambda *_: None)
            ended = 0
        except (Stopped, KeyboardInterrupt, ValueError, OSError):
            ended = 1
        finally:
            os._exit(ended)  # never back into pytest
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == (-signal.SIGKILL if bomb is die else 1), "it ended where it should"
    todo, again = phases()
    assert run_phases(todo, Saving(tmp_path / "cut", every_seconds=-1, resume=True), lambda *_: None) == wanted
    for name, a, b in zip(("one", "two"), trainers, again):
        for state in ("checkpoint", "best"):
            assert same_state(folder / name / state, tmp_path / "cut" / name / state), (name, state)
        (left, _), (right, _) = checkpoint.flatten(a.weights()), checkpoint.flatten(b.weights())
        assert all(torch.equal(v, right[k]) for k, v in left.items())
        journals = [Journal.read(f / name / "journal.jsonl") for f in (folder, tmp_path / "cut")]
        assert journals[0] == journals[1], "and every line of the journal stands once"


# health in a real run


def test_a_streak_of_nan_rolls_back_and_stops(tmp_path: Path) -> None:
    trainer = training_worker.trainer(14, backward=0.0)
    seen: list[StepLog] = []

    def batches(step: int) -> Batch:
        batch = make_batch(8, seed=step)
        return batch if step < 7 else Batch(batch.x0 * math.nan, batch.cond, batch.null)

    with pytest.raises(Unhealthy, match=r"nan_streak: 5 steps in a row .* of step 6, is in .*--resume"):
        run(trainer, batches, Saving(tmp_path, every_seconds=-1), seen.append)
    assert [log.step for log in seen if log.skipped] == [8, 9, 10, 11], "the fifth is fatal"
    kept = checkpoint.load(tmp_path / "checkpoint")
    assert kept["step"] == trainer.step == 6, "the last one that a sound step followed"
    weights, _ = checkpoint.flatten(trainer.weights())
    assert all(bool(v.isfinite().all()) for v in weights.values())
    run(trainer, training_worker.batches, Saving(tmp_path, resume=True))  # with good data it goes on from there
    assert trainer.step == 14


def rated(rate: float, steps: int) -> Trainer:
    """A run whose student moves at this rate, at once."""
    trainer = training_worker.trainer(steps, backward=0.0)
    student = replace(trainer.options.optimizers["student"], learning_rate=rate, warmup=0)
    players = {**trainer.options.optimizers, "student": student}
    trainer.options = replace(trainer.options, optimizers=players)
    return trainer


@pytest.mark.parametrize("every", [-1, math.inf])
def test_after_an_explosion_a_run_goes_on_from_before_it(tmp_path: Path, every: float) -> None:
    """Five calm steps, an explosion, and calm again: the same bits as ten calm steps, whatever was saved on the way."""
    calm = rated(1e-3, 10)
    run(calm, training_worker.batches, Saving(tmp_path / "calm"))
    run(rated(1e-3, 5), training_worker.batches, Saving(tmp_path / "cut", every))
    with pytest.raises(Unhealthy, match=r"nan_streak.* of step 5, is in"):
        run(rated(1e30, 40), training_worker.batches, Saving(tmp_path / "cut", every, resume=True))
    again = rated(1e-3, 10)
    run(again, training_worker.batches, Saving(tmp_path / "cut", every, resume=True))
    assert same_state(tmp_path / "calm" / "checkpoint", tmp_path / "cut" / "checkpoint")
    assert not (tmp_path / "cut" / "good").exists(), "a finished run keeps one state"


def test_a_stop_in_the_middle_of_an_explosion_does_not_cost_the_state_before_it(tmp_path: Path) -> None:
    clock = iter(range(100))
    logs: list[StepLog] = []
    with pytest.raises(Stopped):
        run(rated(1e4, 40), training_worker.batches, Saving(tmp_path, -1, until=9, clock=lambda: float(next(clock))), logs.append)
    assert checkpoint.step_of(tmp_path / "checkpoint") == logs[-1].step > 2
    assert logs[0].losses["student/distillation"] < 1 < 1e6 < logs[-1].losses["student/distillation"]
    with pytest.raises(Unhealthy, match="of step 0, is in"):
        run(rated(1e30, 40), training_worker.batches, Saving(tmp_path, -1, resume=True), past=lambda step: logs)


@pytest.mark.parametrize("where", ["weights", "average"])
def test_a_run_never_ends_well_with_weights_that_are_no_numbers(tmp_path: Path, where: str) -> None:
    trainer = training_worker.trainer(4)

    def overflow(log: StepLog) -> None:
        if log.step == 4:
            values = trainer.averages["student"].average if where == "average" else trainer.weights()["student"]
            next(iter(values.values())).fill_(math.inf)

    with pytest.raises(Unhealthy, match="not_finite: after step 4 the weights hold NaN or infinity: lower the learning rate"):
        run(trainer, training_worker.batches, Saving(tmp_path, -1), overflow)
    assert trainer.finite()
    assert trainer.step == checkpoint.step_of(tmp_path / "checkpoint") < 4


def test_an_explosion_is_told_from_a_rough_course() -> None:
    course = Course()
    calm = [course.sound(StepLog(i, {"student/a": 1.0 + i % 7, "student/b": -2.0}, {"student/gradient_norm": 0.1 * (1 + i % 9)}))
            for i in range(60)]  # fmt: skip
    assert all(calm)
    for bad in (StepLog(0, {"student/a": 1e4}, {}), StepLog(0, {}, {"student/gradient_norm": 1e3}),
                StepLog(0, {"student/a": math.nan}, {}), StepLog(0, {"student/a": 1.0}, {}, skipped=True)):  # fmt: skip
        assert not course.sound(bad)
    assert course.sound(StepLog(0, {"student/a": 30.0}, {"student/gradient_norm": 5.0}))


def test_lost_diversity_is_told_in_the_run_and_remembered_over_a_resume(tmp_path: Path) -> None:
    course = {0: 1.0, 2: 1.2, 4: 0.7, 6: 0.5}
    rules: list[tuple[int, list[str]]] = []

    def phase(steps: int) -> Phase:
        trainer = training_worker.trainer(steps)
        look = lambda: {"score": 1.0, "diversity": course[trainer.step]}  # noqa: E731
        return Phase("add", steps, lambda: (trainer, training_worker.batches), probe=lambda: Probe(look, 2))

    def watch(phase: Phase, trainer: Trainer, log: StepLog) -> None:
        rules.append((log.step, [a.rule for a in log.alarms]))

    run_phases([phase(4)], Saving(tmp_path), watch)
    run_phases([phase(6)], Saving(tmp_path, resume=True), watch)
    assert [(step, found) for step, found in rules if found] == [(6, ["diversity_lost"])], "0.5 of 1.2, 1.2 seen earlier"
    assert Journal.read(tmp_path / "add" / "journal.jsonl")[-1]["alarms"] == ["diversity_lost"]


def test_an_unwritable_folder_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    taken: list[StepLog] = []
    with pytest.raises(ValueError, match="choose another --out"):
        run(training_worker.trainer(3), training_worker.batches, Saving(tmp_path / "file" / "run"), taken.append)
    assert taken == []


# the figures


def test_a_look_tells_blur_collapse_and_noise_from_the_real_thing() -> None:
    network = freeze(Eyes(2, 3))
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(64, 3, 12, 12, generator=generator).sign() * 0.8
    other = torch.randn(64, 3, 12, 12, generator=generator).sign() * 0.8
    blurred = torch.nn.functional.avg_pool2d(other, 3, 1, 1)
    shown = {"alike": other, "blurred": blurred, "one for all": other[:1].expand(64, -1, -1, -1), "grey": other * 0.2}
    measure = measure_with(network)
    found = {name: measure(lambda media=media: media, real, 2)() for name, media in shown.items()}
    scores = {name: figures["score"] for name, figures in found.items()}
    assert min(scores, key=scores.__getitem__) == "alike"
    assert all(scores[name] > 3 * scores["alike"] for name in ("blurred", "one for all", "grey"))
    assert found["alike"]["diversity"] == pytest.approx(1, abs=0.25)
    assert found["one for all"]["diversity"] < 0.01
    assert found["blurred"]["edges"] < 0.6
    same = measure(lambda: real, real, 2)()
    assert same["score"] == pytest.approx(0, abs=1e-9)
    assert measure(lambda: real * math.nan, real, 2)() == {"score": math.inf}


def test_a_collapse_within_every_prompt_is_lost_diversity_however_unlike_the_prompts_are() -> None:
    network = freeze(Eyes(2, 3))
    generator = torch.Generator().manual_seed(0)
    prompts, seeds = (torch.randn(n, 3, 12, 12, generator=generator).sign() * 0.5 for n in (16, 64))
    varied = prompts.repeat(4, 1, 1, 1) + seeds * 0.8
    collapsed = (prompts + seeds[:16] * 0.8).repeat(4, 1, 1, 1)
    measure, health = measure_with(network), Health()

    def rules(step: int, media: Tensor) -> list[str]:
        figures = measure(lambda: media, varied[:16], 4)()
        return [a.rule for a in health.check(StepLog(step, {}, {f"probe/{k}": v for k, v in figures.items()}))]

    assert [rules(0, varied), rules(100, collapsed)] == [[], ["diversity_lost"]]
    over_prompts = [pairwise_distance(network(media[:16]).pooled) for media in (varied, collapsed)]
    assert over_prompts[1] > 0.8 * over_prompts[0], "which a distance between the prompts does not show"
