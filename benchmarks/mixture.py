"""Level 0: which way of training reaches every mode, and which keeps a rare one.

    python benchmarks/mixture.py                        # a ring of eight, in one step; about four minutes of one core
    python benchmarks/mixture.py --modes uneven         # weights .1/.3/.6, in one, two and four steps; about fifteen
    python benchmarks/mixture.py --modes uneven --tried # what did not keep the rare mode; about ten

The teacher is exact, so what fails is the student's or the method's. Settings are those of
``tests/methods/test_oracles.py``. Writes
``docs/results/mixture.json``, ``rare_mode.json``, ``rare_mode_tried.json``; ``fewstep docs`` makes the tables.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from fewstep.evaluation.record import MetricRecord, over_trainings, write_records
from fewstep.files import whole
from fewstep.methods import add, denoising, regression
from fewstep.methods.denoising import Denoising
from fewstep.methods.method import Method
from fewstep.methods.regression import Regression
from fewstep.parts.denoiser import Student, Teacher, to_trajectories
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Latents
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Options, Trainer

HOUSE = Path(__file__).resolve().parent.parent
N = 2000
RARE, STEPS = mixture.UNEVEN, (1, 2, 4)
MORE = {"shares apart": "apart", "spread": "spread"}
LONG_WARM = 2000
PLAIN, EVERY = regression.Options(), regression.Options(regression_steps=8)
"""The warm start that denoises at student times below 1, and the one that follows the teacher there."""


def trained(method: Method, options: Options, data: TrainingSet) -> None:
    trainer = Trainer(method, options)
    for _ in trainer.steps(data):
        pass
    trainer.adopt_averages()


class Bench:
    """The students of one seed, before the game."""

    def __init__(self, seed: int, modes: mixture.Modes | None = None) -> None:
        self.seed, self.modes = seed, modes
        self.random = mixture.student(seed)
        self.diffusion = self.copy(self.random)
        options = denoising.Options(label_dropout=0.0)
        data = mixture.training_set(batch_size=256, seed=seed, modes=modes)
        trained(Denoising(self.diffusion.denoiser, options), mixture.teacher_options(seed=seed), data)
        self.teacher = Teacher(mixture.denoiser(modes))
        self.pairs = mixture.pairs(seed=seed, modes=modes)
        self.warm = self.warmed() if modes is None else self.warmed(LONG_WARM)

    @staticmethod
    def copy(student: Student) -> Student:
        return Student(copy.deepcopy(student.denoiser), student.times)

    def warmed(self, steps: int = 500, options: regression.Options = PLAIN) -> Student:
        """The warm start."""
        own = self.copy(self.diffusion)
        trained(Regression(own, options, self.teacher), mixture.warm_options(steps, seed=self.seed), self.pairs)
        return own

    def played(self, student: Student, steps: int = 150, kind: type[add.ADD] = add.ADD, **changes: object) -> Student:
        """ADD from a copy of this student."""
        own = self.copy(student)
        data = replace(mixture.training_set(seed=self.seed, modes=self.modes), pairs=self.pairs)
        own.probabilities = changes.pop("probabilities", own.probabilities)
        game = mixture.add_method(own, replace(mixture.ADD, **changes), self.seed, self.modes, kind)
        trained(game, mixture.add_options(steps, seed=self.seed), data)
        return own


ROWS: dict[str, Callable[[Bench], Student]] = {
    "diffusion student": lambda b: b.diffusion,
    "warm start": lambda b: b.warm,
    "warm start, then ADD": lambda b: b.played(b.warm),
    "warm start, then ADD with regression beside it": lambda b: b.played(b.warm, regression_weight=2.5),
    "ADD": lambda b: b.played(b.diffusion),
    "ADD with regression beside it": lambda b: b.played(b.diffusion, regression_weight=2.5),
    "adversarial loss alone": lambda b: b.played(b.diffusion, distillation_weight=0.0),
    "distillation alone": lambda b: b.played(b.diffusion, adversarial_weight=0.0),
    "warm start, then distillation alone": lambda b: b.played(b.warm, adversarial_weight=0.0),
    "random weights, then ADD": lambda b: b.played(b.random),
}


class FromNothing(add.ADD):
    """The adversarial weight grows from 0 over the first 100 steps."""

    step = 0

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        out = super()._student(batch, rng)
        return out | {"adversarial": min(1.0, self.step / 100) * out["adversarial"]}

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.step = step + 1


class Denoised(add.ADD):
    """Regression at every student time as the plain warm start has it: the pairs' samples denoised from fresh noise."""

    def regression(self, sample: Latents, shown: tuple[Latents, Tensor], batch: Batch, rng: Rng) -> Tensor:
        return to_trajectories(self.student, batch.pairs, self.student.draw_times(len(batch.pairs), rng), rng)


class Drifting(add.ADD):
    """A drift term beside the game (arXiv 2602.04770): samples are drawn to the data and pushed away from each other."""

    def _student(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        x_t, t, _ = self.input(batch.x0, batch.cond, rng)
        sample = self.student.denoiser(x_t, t, batch.cond)
        goal = (sample + drift(sample, batch.x0)).detach()
        return super()._student(batch, rng) | {"drift": 0.1 * (sample - goal).pow(2).sum(1).mean()}


@torch.no_grad()
def drift(own: Tensor, real: Tensor, scales: tuple[float, ...] = (0.05, 0.2, 0.5)) -> Tensor:
    """Towards the real points near each sample, away from its own kind, of unit root mean square."""
    distance = torch.cdist(own, torch.cat([real, own]))
    mean = distance.mean()
    distance[:, len(real) :].fill_diagonal_(math.inf)
    total = torch.zeros_like(own)
    for scale in scales:
        logits = -distance / (scale * mean)
        near = (logits.softmax(1) * logits.softmax(0)).sqrt()
        to, off = near[:, : len(real)], near[:, len(real) :]
        force = (to * off.sum(1, keepdim=True)) @ real - (off * to.sum(1, keepdim=True)) @ own
        total += force / force.square().mean().sqrt().clamp(min=1e-8)
    return total / total.square().mean().sqrt().clamp(min=1e-8)


Draw = Callable[[int], Tensor]
NOISE = Rng.of(99).normal((2 * N, 2))


def few(student: Student) -> Draw:
    """Points of a student by its steps."""
    return lambda steps: student.draw(NOISE, Conditioning(), steps, Rng.of(98))


def rare_rows(b: Bench) -> dict[str, Callable[[], Draw]]:
    """What keeps a rare mode. Every student after the same 2,000 steps of a warm start of its kind."""
    every = b.warmed(LONG_WARM, EVERY)
    strong = {"regression_weight": 10.0, "regression_steps": 8}
    return {
        "the teacher itself, 24 DDIM steps": lambda: lambda steps: b.teacher.draw(NOISE, *[Conditioning()] * 2, 24),
        "the teacher itself, in few steps": lambda: few(Student(b.teacher.denoiser, mixture.STUDENT_TIMES)),
        "warm start": lambda: few(b.warm),
        "warm start, ADD": lambda: few(b.played(b.warm)),
        "warm start, ADD of 600 steps": lambda: few(b.played(b.warm, 600)),
        "warm start, ADD and regression on pairs": lambda: few(b.played(b.warm, regression_weight=2.5)),
        "warm start, ADD and regression at every time": lambda: few(b.played(b.warm, **strong)),
        "warm start at every time": lambda: few(every),
        "warm start at every time, ADD": lambda: few(b.played(every)),
        "warm start at every time, ADD of 600 steps": lambda: few(b.played(every, 600)),
        "**warm start and ADD with regression at every time**": lambda: few(b.played(every, **strong)),
        "the same, ADD of 600 steps": lambda: few(b.played(every, 600, **strong)),
        "the same, without distillation": lambda: few(b.played(every, distillation_weight=0.0, **strong)),
    }


def tried_rows(b: Bench) -> dict[str, Callable[[], Draw]]:
    """What does not keep it, from the same warm start."""
    return {
        "ADD": lambda: few(b.played(b.warm)),
        "adversarial weight grown from 0": lambda: few(b.played(b.warm, kind=FromNothing)),
        "backward simulation, all batches": lambda: few(b.played(b.warm, backward=1.0)),
        "and regression on pairs": lambda: few(b.played(b.warm, backward=1.0, regression_weight=2.5)),
        "regression at every time, by denoising": lambda: few(b.played(b.warm, kind=Denoised, regression_weight=2.5)),
        "without distillation": lambda: few(b.played(b.warm, distillation_weight=0.0)),
        "drift beside ADD": lambda: few(b.played(b.warm, kind=Drifting)),
        "drift in place of distillation": lambda: few(b.played(b.warm, kind=Drifting, distillation_weight=0.0)),
        "R1 of 100": lambda: few(b.played(b.warm, r1=100.0)),
        "relativistic loss": lambda: few(b.played(b.warm, loss="relativistic")),
        "seven in ten of the batches from pure noise": lambda: few(b.played(b.warm, probabilities=(0.7, 0.1, 0.1, 0.1))),
    }


def rare(draw: Draw) -> dict[str, float]:
    """``share_n`` of the rare mode, ``apart_n`` half the sum of all shares' errors (points on no mode are one more share, of
    0), ``spread_n`` the mean width of the modes in their own widths, at n steps."""
    found: dict[str, float] = {}
    for steps in STEPS:
        with torch.no_grad():
            share, spread = RARE.share_and_spread(draw(steps))
        apart = (share - torch.tensor(RARE.weights)).abs().sum() + 1 - share.sum()
        values = {"share": share[0], "apart": apart / 2, "spread": spread.nanmean()}
        found |= {f"{name}_{steps}": float(value) for name, value in values.items()}
    return found


def interval(values: list[float]) -> str:
    """The mean of trainings and its 95% interval, by Student's t."""
    mean, digits = statistics.fmean(values), lambda x: f"{x:.3f}".replace("0.", ".", 1)
    if not math.isfinite(mean):
        return "-"
    if len(set(values)) < 2:
        return digits(mean)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{digits(mean)} [{digits(max(0.0, mean - half))}, {digits(mean + half)}]"


def write_rare(path: Path, found: dict[str, list[dict[str, float]]], command: str) -> None:
    """The table of all rows, and every mean by ``row, figure`` for sentences."""
    columns = {f"rare mode's share, {n} step{'s' * (n > 1)}": f"share_{n}" for n in STEPS}
    columns |= {f"{name}, {n} step{'s' * (n > 1)}": f"{key}_{n}" for name, key in MORE.items() for n in (1, 4)}
    rows = [
        {"": name} | {title: interval([one[key] for one in all_]) for title, key in columns.items()}
        for name, all_ in found.items()
    ]
    runs = max(map(len, found.values()))
    measured = (
        f"Measured by `{command}`: weights .1/.3/.6, {2 * N} points; means of {runs} trainings and their 95% intervals (by "
        "Student's t). Shares apart: half the sum of the errors of the modes' shares. Spread: 1 is the modes' own."
    )
    means = {
        f"{name.strip('*')};{key}": statistics.fmean(one[key] for one in all_) for name, all_ in found.items() for key in all_[0]
    }
    figures = {what: value for what, value in means.items() if math.isfinite(value)}
    with whole(path) as draft:
        held = {"rows": rows, "measured": measured, "figures": figures, "command": command}
        draft.write_text(json.dumps(held, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def measure(model: str, student: Student, command: str) -> list[MetricRecord]:
    """Modes that hold a third of their fair share in one step, and the share of points on a mode."""
    with torch.no_grad():
        points = student.draw(Rng.of(99).normal((N, 2)), Conditioning(), 1, Rng.of(98))
    found = dict(zip(("modes", "on_mode"), map(float, mixture.modes_reached(points))))
    return [
        MetricRecord(model, 1, name, value, value, value, N, N, "distance to the centres", command=command, runs=1)
        for name, value in found.items()
    ]


def ring(seeds: list[int], out: Path, command: str) -> None:
    """Every row on the ring of eight."""
    groups: dict[tuple[str, str], list[MetricRecord]] = {}
    for seed in seeds:
        bench = Bench(seed)
        for model, make in ROWS.items():
            found = measure(model, make(bench), command)
            print(f"seed {seed}: {model}: {found[0].value:.0f} modes, {found[1].value:.2f} on a mode", flush=True)
            for record in found:
                groups.setdefault((model, record.metric), []).append(record)
    write_records(out, map(over_trainings, groups.values()))


def uneven(seeds: list[int], out: Path, command: str, rows: Callable[[Bench], dict[str, Callable[[], Draw]]]) -> None:
    """Every row on the three unequal modes."""
    found: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for name, make in rows(Bench(seed, RARE)).items():
            found.setdefault(name, []).append(rare(make()))
            print(f"seed {seed}: {name}: {({k: round(v, 3) for k, v in found[name][-1].items()})}", flush=True)
        write_rare(out, found, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the trainings")
    parser.add_argument("--modes", choices=["ring", "uneven"], default="ring", help="eight equal modes, or three unequal ones")
    parser.add_argument("--tried", action="store_true", help="with uneven modes: what did not keep the rare one")
    parser.add_argument("--out", type=Path, help="the results file")
    o = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python benchmarks/mixture.py", *sys.argv[1:]])
    name = "mixture" if o.modes == "ring" else "rare_mode_tried" if o.tried else "rare_mode"
    out = o.out or HOUSE / "docs" / "results" / f"{name}.json"
    if o.modes == "ring":
        ring(o.seeds, out, command)
    else:
        uneven(o.seeds, out, command, tried_rows if o.tried else rare_rows)


if __name__ == "__main__":
    main()
