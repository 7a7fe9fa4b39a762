"""Does ``fewstep check`` tell models apart? Some thirty of them, thresholds chosen on one half and tested on the other.

    python benchmarks/check.py

Digits (level 1): teachers of full width and of less, students of three methods after 5 to 150 updates, all of them under right
and wrong settings; and the shipped pair. What is true of each is said by another measurement, which was stated here before any of
the digits' models was looked at: a classifier that took no part in any training sees 400 digits of its one step. A model is
few-step where its Fréchet distance is nearer (in logarithms) to that of the teacher's 25 steps than to that of the teacher's one.
A student that is not is undertrained. One that is, and is not as it was asked to draw, is broken. Narrow teachers are small.

The line of ``--data`` has a trial of its own: every model of digits in each of its step counts. What is true is said by the same
classifier, here at that step count; the line is chosen on one half of the models and tested on the other.

Every model that is finished is kept in ``--runs`` and every case in ``--out`` and ``--data-out``: stop and continue at will.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ablation import ROWS, Bench, Row

from fewstep import bundle
from fewstep.evaluation import check, genuine
from fewstep.evaluation._drawing import OWN, Options
from fewstep.evaluation.check_data import RealData
from fewstep.evaluation.check_data import chosen as real_pictures
from fewstep.evaluation.genuine import Evidence
from fewstep.files import whole
from fewstep.inference.pipeline import Pipeline
from fewstep.methods.denoising import Denoising
from fewstep.parts.denoiser import Denoiser, Student, Teacher
from fewstep.pretrained.families import unet
from fewstep.recipes import digits
from fewstep.rng import Rng
from fewstep.training.data import open_dataset
from fewstep.training.trainer import Trainer

HOUSE = Path(__file__).resolve().parent.parent
SNAPSHOTS = (5, 20, 60, 150)
"""Updates after which a student is kept."""
RUNS = (("add", "add", 0), ("add", "add", 1), ("warm", "regression_then_add", 0), ("lcm", "lcm", 0))
"""Name, row of ``ablation.py``, seed."""
HALF = (16, 24, 48)
NARROW = (8, 16, 32)
QUICK = Options(steps=(1, 2, 4, 25), wrong_steps=(1,), n=10, noises=4, calls=3)


@dataclass(frozen=True)
class Case:
    """A model, and how it was asked to draw."""

    model: str
    guidance_scale: float | None = None
    as_teacher: bool = False
    """A student whose card was lost: it is taken for a teacher of guidance 7.5."""

    @property
    def name(self) -> str:
        told = f", guidance {self.guidance_scale:g}" if self.guidance_scale is not None else ""
        return f"{self.model}{told}{', taken for a teacher' * self.as_teacher}"


def cases() -> list[Case]:
    students = [f"{name}-{seed}-{n}" for name, _, seed in RUNS for n in (0, *SNAPSHOTS) if n or name == "warm"]
    trained = [s for s in students if s.endswith("-150")]
    teachers = ["teacher", "half-0", "half-1", "narrow-0"]
    found = [Case(model) for model in (*teachers, *students, "emoji-64", "emoji-64-teacher")]
    found += [Case("teacher", 1.0), Case("teacher", 3.0), Case("half-0", 3.0), Case("narrow-0", 1.0)]
    found += [Case("emoji-64-teacher", 3.0)]
    found += [Case(s, 7.5) for s in (*trained, "emoji-64")] + [Case(s, None, True) for s in (*trained, "emoji-64")]
    return found


class Models:
    """Makes each model once, as a diffusers folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        facts: dict[str, Any] = {
            "data": "digits", "updates": 150, "warm": 100, "pairs": 512, "batch": 16, "pictures": 40, "r1": None,
            "sizes": 400, "judges": ["classifier"],
        }  # fmt: skip
        teacher = HOUSE / "tests" / "assets" / "digits_teacher.safetensors"
        self.bench = Bench(Namespace(**facts, teacher=teacher, command="python benchmarks/check.py"))

    def folder(self, name: str) -> Path:
        """The model's folder, made where it is not there yet."""
        if name.startswith("emoji"):
            return bundle.locate(name)
        folder = self.runs / name
        if not (folder / bundle.CARD).is_file():
            self.make(name)
        return folder

    def save(self, name: str, network: Any, student: bool) -> None:
        card = bundle.Card(
            name, "student" if student else "teacher", "digits", (1, 2, 4) if student else (25,),
            times=digits.STUDENT_TIMES if student else (), guidance_scale=1.0 if student else digits.GUIDANCE_SCALE,
            sampler="ancestral" if student else "ddim", native_size=(16, 16),
        )  # fmt: skip
        family = unet.FAMILY
        scheduler = family.scheduler(card.role, {**digits.BETAS, "prediction_type": "v_prediction"})
        bundle.save(self.runs / name, card, family=family, network=network, vae=None, scheduler=scheduler)

    def make(self, name: str) -> None:
        if name == "teacher":
            return self.save(name, self.bench.teacher.denoiser.network, False)
        kind, seed, *_ = name.split("-")
        if kind in ("half", "narrow"):
            return self.save(name, self.small(HALF if kind == "half" else NARROW, int(seed)), False)
        row = ROWS[next(of for n, of, s in RUNS if (n, s) == (kind, int(seed)))]
        self.train(kind, row, int(seed))

    def small(self, channels: tuple[int, ...], seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = digits.unet(channels)
        trainer = Trainer(Denoising(digits.denoiser(network)), digits.teacher_options(600, seed=seed))
        for _ in trainer.steps(self.bench.data(seed, batch=64)):
            pass
        trainer.adopt_averages()
        return network

    def train(self, kind: str, row: Row, seed: int) -> None:
        """One training; the averaged weights are kept after each of `SNAPSHOTS`."""
        student = Student(self.bench.begin(row.init, seed), digits.STUDENT_TIMES)
        if row.init == "warm":
            self.save(f"{kind}-{seed}-0", student.denoiser.network, True)
        trainer, data = self.bench.begun(row, student, seed)
        for number, _ in enumerate(trainer.steps(data), 1):
            if number in SNAPSHOTS:
                kept = copy.deepcopy(student.denoiser)
                kept.load_state_dict(trainer.averages["student"].average)
                self.save(f"{kind}-{seed}-{number}", kept.network, True)


class Truth:
    """What is true of a case, by the classifier's Fréchet distance at one step; of the shipped pair by docs/results.md."""

    def __init__(self, models: Models) -> None:
        self.bench = models.bench
        teacher = self.bench.teacher
        null = digits.conditioner().null
        most = self.distance(lambda cond, noise, rng: teacher.draw(noise, cond, null(len(noise)), 25))
        self.ends = self.one_step(teacher.denoiser, digits.GUIDANCE_SCALE), most

    def distance(self, draw: Any, steps: int = 1) -> float:
        found = self.bench.measure("model", draw, steps)
        return next(record.value for record in found if record.metric == "fd")

    def one_step(self, denoiser: Any, scale: float) -> float:
        """The Fréchet distance of one step, whatever the sampler: they all end with the first estimate."""

        def draw(cond: Any, noise: torch.Tensor, _: Rng) -> torch.Tensor:
            t = torch.ones(len(noise), dtype=torch.float64)
            null = digits.conditioner().null(len(noise))
            return denoiser.guide(noise, t, denoiser(noise, t, cond), denoiser(noise, t, null), scale)

        return self.distance(draw)

    def drawn(self, denoiser: Denoiser, steps: int, student: bool) -> float:
        """The Fréchet distance of ``steps`` steps, as its card says that it is drawn."""
        null = digits.conditioner().null
        if student:
            few = Student(denoiser, digits.STUDENT_TIMES)
            return self.distance(lambda cond, noise, rng: few.draw(noise, cond, steps, rng), steps)
        teacher = Teacher(denoiser, digits.GUIDANCE_SCALE)
        return self.distance(lambda cond, noise, rng: teacher.draw(noise, cond, null(len(noise)), steps), steps)

    def few(self, distance: float) -> bool:
        return distance < math.sqrt(self.ends[0] * self.ends[1])

    def of(self, case: Case, pipeline: Pipeline, student: bool) -> tuple[str, float | None]:
        asked = 7.5 if case.as_teacher else case.guidance_scale
        if case.model.startswith("emoji"):
            usual = genuine.FEW_STEP if student else genuine.SMALL_ONLY
            return (genuine.BROKEN if student and asked else usual), None
        own = 1.0 if student else digits.GUIDANCE_SCALE
        distance = self.one_step(pipeline.model.denoiser, asked or own)
        if self.few(distance):
            return genuine.FEW_STEP, distance
        if not student:
            return (genuine.MANY_STEPS if case.model == "teacher" else genuine.SMALL_ONLY), distance
        good = self.few(self.one_step(pipeline.model.denoiser, own))
        poor = genuine.MANY_STEPS if case.as_teacher else genuine.UNDERTRAINED
        return (genuine.BROKEN if good else poor), distance


def looked_at(case: Case, models: Models, truth: Truth) -> dict[str, Any]:
    """One line of the results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = Pipeline.open(models.folder(case.model))
        student = pipeline.card.role == "student"
        said, distance = truth.of(case, pipeline, student)
        if case.as_teacher:
            lost = replace(pipeline.card, role="teacher", steps=(25,), times=(), guidance_scale=7.5, sampler="ddim")
            pipeline = Pipeline(pipeline.model, lost)
        emoji = case.model.startswith("emoji")
        teacher = None if emoji else Pipeline.open(models.folder("teacher"))
        o = replace(QUICK, guidance_scale=case.guidance_scale, **({"n": 6, "noises": 3} if emoji else {}))
        found = check.check(pipeline, o, teacher=teacher if case.model != "teacher" else None)
    e = found.evidence
    kept = {"student": e.student, "few": e.few, "best": e.best, "own": e.own, "own_name": e.own_name, "others": e.others,
            "reference": e.reference, "parameters": e.parameters, "usual": e.usual, "usual_name": e.usual_name}  # fmt: skip
    return {"case": case.name, "truth": said, "fd_one_step": distance, "evidence": kept}


BESIDE = Options(steps=(1, 2, 4, 25), wrong_steps=(), n=10, noises=4, calls=1)


def beside_data(name: str, models: Models, truth: Truth, real: RealData) -> list[dict[str, Any]]:
    """Lines of the trial of ``--data``: the share of real digits in each step count, and the classifier's distance there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = Pipeline.open(models.folder(name))
        student = pipeline.card.role == "student"
        found = check.check(pipeline, replace(BESIDE, steps=BESIDE.steps[: 3 if student else 4]), real=real)
    lines = []
    for row in found.rows:
        if row.setting == OWN and row.data is not None:
            distance = truth.drawn(pipeline.model.denoiser, row.steps, student)
            lines.append({"model": name, "steps": row.steps, "share": row.data.share, "fd": distance})
    return lines


def line_of_data(lines: list[dict[str, Any]], ends: tuple[float, float]) -> dict[str, Any]:
    """How often a share tells what is near real digits from what is not: the line chosen on one half, tested on the other."""
    names = sorted({line["model"] for line in lines})
    first = {names[i] for i in Rng.of(0, "halves of data").uniform((len(names),)).argsort().tolist()[: len(names) // 2]}
    near = math.sqrt(ends[0] * ends[1])
    one, other = ([x for x in lines if (x["model"] in first) == own] for own in (True, False))

    def right(of: list[dict[str, Any]], line: float) -> int:
        return sum((x["share"] >= line) == (x["fd"] < near) for x in of)

    grid = [n / 100 for n in range(30, 100)]
    scores = [right(one, line) for line in grid]
    best = [line for line, score in zip(grid, scores) if score == max(scores)]
    figures = {
        "models": len(names), "cases": len(lines), "near": sum(x["fd"] < near for x in lines), "first_half": len(one),
        "second_half": len(other), "lowest_best": best[0], "highest_best": best[-1], "right_on_first": max(scores),
        "right_on_second_lowest": right(other, best[0]), "right_on_second_highest": right(other, best[-1]),
        "line": genuine.OF_DATA, "line_right_on_first": right(one, genuine.OF_DATA),
        "line_right_on_second": right(other, genuine.OF_DATA), "fd_one_step": ends[0], "fd_25_steps": ends[1],
    }  # fmt: skip
    told = [{**x, "half": "first" if x["model"] in first else "second", "near": x["fd"] < near} for x in lines]
    return {"figures": figures, "cases": told}


def evidence_of(line: dict[str, Any]) -> Evidence:
    """As it was before JSON made words of the step counts."""

    def counts(of: dict[str, float]) -> dict[int, float]:
        return {int(n): share for n, share in of.items()}

    e = line["evidence"]
    others = {name: counts(of) for name, of in e["others"].items()}
    return Evidence(**(e | {"own": counts(e["own"]), "reference": counts(e["reference"]), "others": others}))


def halves(lines: list[dict[str, Any]], seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two halves with as many of each truth, as far as that goes."""
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []
    for kind in genuine.KINDS:
        own = [line for line in lines if line["truth"] == kind]
        order = Rng.of(seed, "halves", kind).uniform((max(1, len(own)),)).argsort().tolist()
        turn = len(first) > len(second)  # the odd one goes where there are fewer
        for place, i in enumerate(order[: len(own)]):
            (second if (place % 2 == 0) == turn else first).append(own[i])
    return first, second


def right(lines: list[dict[str, Any]], reached: float) -> int:
    return sum(genuine.judge(evidence_of(line), reached).kind == line["truth"] for line in lines)


def chosen(lines: list[dict[str, Any]]) -> float:
    """The threshold with the most right verdicts; of several the middle of the widest stretch, in hundredths."""
    grid = [n / 100 for n in range(30, 100)]
    scores = [right(lines, reached) for reached in grid]
    runs: list[list[float]] = [[]]
    for reached, score in zip(grid, scores):
        if score == max(scores):
            runs[-1].append(reached)
        elif runs[-1]:
            runs.append([])
    widest = max(runs, key=len)
    return widest[len(widest) // 2]


def confusion(lines: list[dict[str, Any]], reached: float) -> list[dict[str, Any]]:
    """Rows of truth, columns of verdicts."""
    seen = Counter((line["truth"], genuine.judge(evidence_of(line), reached).kind) for line in lines)
    return [{"true": t, **{f"said {k}": seen[t, k] for k in genuine.KINDS}} for t in genuine.KINDS]


def judged(lines: list[dict[str, Any]]) -> dict[str, Any]:
    one, other = halves(lines)
    best = chosen(one)
    told = [{**line, "half": "first" if line in one else "second", "verdict": genuine.judge(evidence_of(line)).kind,
             "reached": evidence_of(line).reached} for line in lines]  # fmt: skip
    figures = {
        "models": len(lines), "first_half": len(one), "second_half": len(other), "chosen_on_first": best,
        "right_on_first": right(one, best), "right_on_second_with_it": right(other, best),
        "reached": genuine.REACHED, "right_on_second": right(other, genuine.REACHED),
    }  # fmt: skip
    measured = (
        f"{len(other)} cases that the threshold was not chosen by; `python benchmarks/check.py`. What is true is said by a "
        "classifier's Fréchet distance at one step (emoji-64: by how it was made)."
    )
    return {"figures": figures, "rows": confusion(other, genuine.REACHED), "measured": measured, "cases": told}


def todo(known: list[dict[str, Any]]) -> Iterator[Case]:
    done = {line["case"] for line in known}
    yield from (case for case in cases() if case.name not in done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/check"), help="where models are kept")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "results" / "check.json")
    parser.add_argument("--data-out", type=Path, default=HOUSE / "docs" / "results" / "check_data.json")
    o = parser.parse_args()
    torch.set_num_threads(1)
    lines = json.loads(o.out.read_text())["cases"] if o.out.exists() else []
    models = Models(o.runs)
    truth = Truth(models)
    print(f"teacher: FD {truth.ends[0]:.2f} at one step, {truth.ends[1]:.2f} at 25", flush=True)
    for case in todo(lines):
        began = time.process_time()
        lines = [*lines, looked_at(case, models, truth)]
        write(o.out, judged(lines))
        line = json.loads(o.out.read_text())["cases"][-1]
        distance = f"FD {line['fd_one_step']:.2f}" if line["fd_one_step"] is not None else ""
        print(f"{case.name}: true {line['truth']}, said {line['verdict']} ({line['reached']:.0%}) {distance} "
              f"{time.process_time() - began:.0f} s", flush=True)  # fmt: skip
    seen = json.loads(o.data_out.read_text())["cases"] if o.data_out.exists() else []
    real = None
    for name in dict.fromkeys(case.model for case in cases() if not case.model.startswith("emoji")):
        if name not in {line["model"] for line in seen}:
            real = real or real_pictures(open_dataset("digits"), Pipeline.open(models.folder("teacher")), BESIDE.n)
            seen = [*seen, *beside_data(name, models, truth, real)]
            write(o.data_out, line_of_data(seen, truth.ends))
            shown = ", ".join(f"{x['share']:.0%} (FD {x['fd']:.2f})" for x in seen if x["model"] == name)
            print(f"{name} beside the data: {shown}", flush=True)
    print(json.dumps(json.loads(o.data_out.read_text())["figures"]), flush=True)


def write(file: Path, found: dict[str, Any]) -> None:
    """All of it or nothing."""
    with whole(file) as draft:
        draft.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
