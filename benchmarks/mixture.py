"""Rung 0: which way of training reaches every mode of a ring of eight in one step. About four minutes of one core.

    python benchmarks/mixture.py --seeds 0 1 2 3 4

The teacher is exact, so what fails is the student's or the method's. Settings are those of ``tests/test_oracles.py``. Writes
``docs/results/mixture.json``; ``fewstep docs`` makes the table.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fewstep.evaluation.record import MetricRecord, over_trainings, write_records
from fewstep.methods import denoising
from fewstep.methods.denoising import Denoising
from fewstep.methods.method import Method
from fewstep.methods.regression import Regression
from fewstep.parts.denoiser import Student
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Options, Trainer

HOUSE = Path(__file__).resolve().parent.parent
N = 2000


def trained(method: Method, options: Options, data: TrainingSet) -> None:
    wanted = {name: options.optimizers[name] for name in method.players}
    trainer = Trainer(method, replace(options, optimizers=wanted))
    for _ in trainer.steps(data):
        pass
    trainer.adopt_averages()


class Bench:
    """The students of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = mixture.student(seed)
        self.diffusion = self.copy(self.random)
        options = denoising.Options(label_dropout=0.0)
        data = mixture.training_set(batch_size=256, seed=seed)
        trained(Denoising(self.diffusion.denoiser, options), mixture.teacher_options(seed=seed), data)
        self.pairs = mixture.pairs(seed=seed)
        self.warm = self.copy(self.diffusion)
        trained(Regression(self.warm), mixture.warm_options(seed=seed), self.pairs)

    @staticmethod
    def copy(student: Student) -> Student:
        return Student(copy.deepcopy(student.denoiser), student.times)

    def played(self, student: Student, **changes: float) -> Student:
        """ADD from a copy of this student."""
        own, data = self.copy(student), mixture.training_set(seed=self.seed)
        options = replace(mixture.GAME, **changes)
        if options.regression_weight:
            data = replace(data, pairs=self.pairs)
        trained(mixture.game(own, options, self.seed), mixture.add_options(seed=self.seed), data)
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


def measure(model: str, student: Student, command: str) -> list[MetricRecord]:
    """Modes that hold a third of their fair share in one step, and the share of points on a mode."""
    with torch.no_grad():
        points = student.draw(Rng.of(99).normal((N, 2)), Conditioning(), 1, Rng.of(98))
    found = dict(zip(("modes", "on_mode"), map(float, mixture.modes_reached(points))))
    return [
        MetricRecord(model, 1, name, value, value, value, N, N, "distance to the centres", command=command, runs=1)
        for name, value in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds of the trainings")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "results" / "mixture.json")
    o = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python benchmarks/mixture.py", *sys.argv[1:]])
    groups: dict[tuple[str, str], list[MetricRecord]] = {}
    for seed in o.seeds:
        bench = Bench(seed)
        for model, make in ROWS.items():
            found = measure(model, make(bench), command)
            print(f"seed {seed}: {model}: {found[0].value:.0f} modes, {found[1].value:.2f} on a mode", flush=True)
            for record in found:
                groups.setdefault((model, record.metric), []).append(record)
    write_records(o.out, map(over_trainings, groups.values()))


if __name__ == "__main__":
    main()
