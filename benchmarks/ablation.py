"""Which part of ADD does what: every part left out in turn, on digits or on clothes (level 1), by one command.

    python benchmarks/ablation.py --seeds 0 1 --updates 300
    python benchmarks/ablation.py --data fashion

The teacher of digits is the one in ``tests/assets``; that of clothes is trained first, and kept as ``--teacher``. The judge is
a classifier that took no part in any training. Every run goes into ``docs/results/digits_ablation.json`` (or fashion's) as
soon as it ends, and a run that stands there is not made again: stop and continue at will. ``fewstep docs`` makes the table.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fewstep.data import digits as digits_data
from fewstep.data import fashion as fashion_data
from fewstep.evaluation.evaluate import EvaluateOptions, MeasuredModel, Reference, check_impartial, draw_all, measure
from fewstep.evaluation.pixel_features import PixelFeatures
from fewstep.evaluation.record import MetricRecord, entry, of_entry, over_trainings
from fewstep.methods import add
from fewstep.methods.denoising import Denoising
from fewstep.methods.regression import Options as Following
from fewstep.methods.regression import Regression
from fewstep.parts.denoiser import Denoiser, Student, Teacher
from fewstep.parts.discriminator import Options as HeadOptions
from fewstep.parts.features.classifier import ConvClassifier
from fewstep.recipes import digits
from fewstep.recipes.distillation import METHODS
from fewstep.rng import Rng
from fewstep.tensors import Features, Media
from fewstep.training.data import save_whole
from fewstep.training.trainer import Options as TrainerOptions
from fewstep.training.trainer import Trainer

HOUSE = Path(__file__).resolve().parent.parent
MOST = 10_000
"""Pictures that are trained on; there are 60,000 of clothes."""
SHOWN = ("fd", "accuracy", "pairwise_distance", "edges_ratio", "midgreys_ratio")


@dataclass(frozen=True)
class Row:
    """One line of the table: what is different from ADD as it is."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Options of the method."""
    method: str = "add"
    """Another method is made of `digits.Parts`, with its own options and its own rates of learning."""
    init: str = "teacher"
    """Where the student begins: ``teacher``, ``random``, ``warm`` (after regression onto the teacher's trajectories), or
    ``warm everywhere`` (the same at every student time, docs/variety.md)."""
    heads: HeadOptions = field(default_factory=HeadOptions)
    pictures: bool = False
    """The data come with the embedding of every picture (c_img), which heads are told unless they leave it out."""
    features: str = "classifier"
    """What the discriminator looks through: ``classifier``, ``wide classifier`` (of twice the width), ``untrained classifier``,
    or ``teacher``."""
    width: str = ""
    """The student's width, of `WIDTHS`, begun from a teacher of that width; none: that of the usual teacher."""
    teacher_width: str = ""
    """The teacher's width, of `WIDTHS`; none: the usual teacher."""
    plays: bool = True
    """False leaves the game out: the student as it begins."""
    averaged: bool = True
    """False draws with the last weights, not with their average."""


WIDTHS = {"half": (16, 24, 48), "whole": (24, 48, 96), "double": (48, 96, 192)}
"""Channels of teachers and students of different size; groups of eight allow no narrower one. Teachers of all three are
trained here, alike, and briefly: the usual teacher had more updates than the widest could be given."""
TEACHERS = {"teacher": ""} | {f"teacher_{width}": width for width in WIDTHS}
EVERYWHERE: dict[str, Any] = {"regression_weight": 10.0, "regression_steps": 8}
EXACT: dict[str, Any] = {"difference": 0.0, "target_decay": 0.0}
"""Continuous-time methods as their papers have them."""

ROWS: dict[str, Row] = {
    "add": Row(),
    "without_ema": Row(averaged=False),  # the same training as the row above
    "distillation_only": Row({"adversarial_weight": 0.0}),
    "adversarial_only": Row({"distillation_weight": 0.0}),
    "random_init": Row(init="random"),
    "regression": Row(init="warm", plays=False),
    "regression_then_add": Row(init="warm"),
    "without_r1": Row({"r1": 0.0}),
    "without_conditioning": Row(heads=HeadOptions(text=False, image=False)),
    "teacher_features": Row(features="teacher"),
    "backward": Row({"backward": 0.5}),
    "softplus": Row({"loss": "softplus"}),
    "relativistic": Row({"loss": "relativistic"}),
    "discriminator_turns_2": Row({"discriminator_turns": 2}),
    "teacher_steps_4": Row({"teacher_steps": 4}),
    "distillation_only_sds": Row({"adversarial_weight": 0.0, "weighting": "sds"}),
    "distillation_only_nfsd": Row({"adversarial_weight": 0.0, "weighting": "nfsd"}),
    "regression_everywhere": Row(init="warm everywhere", plays=False),
    "regression_everywhere_then_add": Row(init="warm everywhere"),
    "regression_everywhere_and_add": Row(EVERYWHERE, init="warm everywhere"),
    "regression_everywhere_and_add_lightly": Row(EVERYWHERE | {"regression_weight": 1.0}, init="warm everywhere"),
    "regression_then_adversarial": Row({"distillation_weight": 0.0}, init="warm"),
    "ladd": Row(method="ladd"),
    "lcm": Row(method="lcm"),
    "dmd2": Row(method="dmd2"),
    "regression_then_ladd": Row(method="ladd", init="warm"),
    "regression_then_lcm": Row(method="lcm", init="warm"),
    "regression_then_dmd2": Row(method="dmd2", init="warm"),
    "ladd_on_the_teachers_samples": Row({"reals": "teacher"}, method="ladd"),
    "regression_then_ladd_on_the_teachers_samples": Row({"reals": "teacher"}, method="ladd", init="warm"),
    "regression_then_ladd_and_regression": Row(
        {"regression_weight": 1.0, "ramp_start": 50, "ramp": 50}, method="ladd", init="warm"
    ),
    "regression_then_add_ramped": Row({"ramp_start": 50, "ramp": 50}, init="warm"),
    "sida": Row(method="sida"),
    "regression_then_sida": Row(method="sida", init="warm"),
    "regression_then_sid": Row({"adversarial_weight": 0.0, "alpha": 1.2}, method="sida", init="warm"),
    "dmd2_forward_kl": Row({"divergence": "forward_kl", "loss": "softplus"}, method="dmd2"),
    "dmd2_decoupled": Row({"decoupled": True}, method="dmd2"),
    "dmd2_anchored": Row({"anchor": 1.0}, method="dmd2"),
    "scm": Row({"warmup": 50} | EXACT, method="scm"),
    "regression_then_scm": Row({"warmup": 50} | EXACT, method="scm", init="warm"),
    "scm_by_differences": Row(method="scm"),
    "regression_then_scm_by_differences": Row(method="scm", init="warm"),
    "meanflow": Row(EXACT, method="meanflow"),
    "meanflow_by_differences": Row(method="meanflow"),
    "regression_then_meanflow": Row(EXACT, method="meanflow", init="warm"),
    "regression_then_meanflow_by_differences": Row(method="meanflow", init="warm"),
    "progressive": Row({"halvings": 3, "each": 50}, method="progressive"),
    "drifting": Row(method="drifting"),
    "regression_then_drifting": Row(method="drifting", init="warm"),
    "regression_then_drifting_through_features": Row({"through": "features"}, method="drifting", init="warm"),
    "regression_then_drifting_and_adversarial": Row(
        {"through": "features", "adversarial_weight": 1.0}, method="drifting", init="warm"
    ),
    "regression_then_drifting_without_anchor": Row({"regression_weight": 0.0}, method="drifting", init="warm"),
}


ROWS |= {
    "wide_features": Row(features="wide classifier"),
    "untrained_features": Row(features="untrained classifier"),
    "image_only": Row(heads=HeadOptions(text=False), pictures=True),
    "text_and_image": Row(pictures=True),
    "add_sds": Row({"weighting": "sds"}),
    "add_nfsd": Row({"weighting": "nfsd"}),
    "teacher_steps_2": Row({"teacher_steps": 2}),
}
ROWS |= {
    f"{student}_from_{teacher}": Row(width=student, teacher_width=teacher)
    for student, teacher in (("whole", "whole"), ("half", "whole"), ("whole", "half"), ("half", "half"),
                             ("double", "whole"), ("whole", "double"), ("double", "double"))
}  # fmt: skip


@dataclass
class Judge:
    """The classifier as ``evaluate`` wants it."""

    network: ConvClassifier
    name: str
    resizer: str = "none"

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for value in self.network.state_dict().values():
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()[:12]

    def __call__(self, media: Media, /) -> Features:
        return self.network(media)


class Bench:
    """Data, teacher, the discriminator's network and the judge: the same for every row."""

    def __init__(self, o: argparse.Namespace) -> None:
        self.o = o
        self.base: dict[str, Any] = {} if o.r1 is None else {"r1": o.r1}
        with tempfile.TemporaryDirectory() as folder:
            source: Any = fashion_data if o.data == "fashion" else digits_data
            train = source.build(source.Options(size=16), Path(folder) / o.data).subset("train")
            some = slice(None, None, max(1, len(train) // MOST))
            self.media = train.media(some)
        self.labels = torch.tensor([item.label for item in train.items[some]])
        self.names: tuple[str, ...] = source.WORDS
        self._teachers = {"": self.teacher_of(self.teacher_network())}
        self.teacher = self._teachers[""]
        self._eyes: dict[str, Any] = {}
        self.eyes = digits.classifier(self.media, self.labels, seed=1)
        self.judge = Judge(digits.classifier(self.media, self.labels, seed=2, width=24), f"{o.data}-classifier")
        real = slice(None, None, max(4, len(self.media) // 1000))  # digits come sorted by class
        judges = [self.judge, PixelFeatures.fit(self.media)] if "pixels" in o.judges else [self.judge]
        self.references = [(j, Reference.build(self.media[real], self.labels[real], j, batch=250)) for j in judges]
        self._warm: dict[tuple[str, int], Denoiser] = {}
        self._last: tuple[Row, int, Trainer] | None = None

    def teacher_network(self, width: str = "") -> Any:
        """A teacher's UNet, trained here where its file is not there yet."""
        o = self.o
        file = Path("runs") / f"{o.data}_teacher_{width}_{o.sizes}.safetensors" if width else o.teacher
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = digits.unet(WIDTHS[width]) if width else digits.unet()
        if not file.is_file():
            batches = self.data(0, batch=64)
            options = digits.teacher_options(steps=o.sizes) if width else digits.teacher_options()
            trainer = Trainer(Denoising(digits.denoiser(network)), options)
            finish(trainer, batches)
            trainer.adopt_averages()
            file.parent.mkdir(parents=True, exist_ok=True)
            save_whole({k: v.contiguous() for k, v in network.state_dict().items()}, file)
        network.load_state_dict({k: v.float() for k, v in load_file(file).items()})
        return network

    @staticmethod
    def teacher_of(network: Any) -> Teacher:
        return Teacher(digits.denoiser(network), digits.GUIDANCE_SCALE)

    def teacher_at(self, width: str) -> Teacher:
        """The usual teacher, or one of another width."""
        if width not in self._teachers:
            self._teachers[width] = self.teacher_of(self.teacher_network(width))
        return self._teachers[width]

    def network(self, row: Row) -> Any:
        """What the row's discriminator looks through."""
        if row.features == "teacher":
            return self.teacher_at(row.teacher_width).denoiser
        if row.features == "classifier":
            return self.eyes
        if row.features not in self._eyes:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                untrained = ConvClassifier(1, len(self.names), 32)
            wide = partial(digits.classifier, self.media, self.labels, seed=3, width=64)
            self._eyes[row.features] = wide() if row.features == "wide classifier" else untrained
        return self._eyes[row.features]

    def begin(self, init: str, seed: int, width: str = "") -> Denoiser:
        """The student's denoiser before the game."""
        if init == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return digits.denoiser(digits.unet())
        if init == "teacher":
            return copy.deepcopy(self.teacher_at(width).denoiser).requires_grad_(True)
        if (init, seed) not in self._warm:
            following = Following(regression_steps=8 if init == "warm everywhere" else 0)
            student = Student(self.begin("teacher", seed), digits.STUDENT_TIMES)
            data = digits.pairs(self.teacher, self.data(seed), self.o.pairs)
            options = digits.warm_options(self.o.warm, self.o.batch, seed=seed)
            trainer = Trainer(Regression(student, following, self.teacher), options)
            finish(trainer, data)
            trainer.adopt_averages()
            self._warm[init, seed] = student.denoiser
        return copy.deepcopy(self._warm[init, seed])

    def data(self, seed: int, batch: int = 0) -> Any:
        return digits.training_set(self.media, self.labels, batch or self.o.batch, seed, self.names)

    def student(self, row: Row, seed: int) -> tuple[Student, dict[str, float]]:
        """Train one row's student; returns it with the last losses."""
        trained = replace(row, averaged=True)
        if self._last is None or self._last[:2] != (trained, seed):
            student = Student(self.begin(row.init, seed, row.width), digits.STUDENT_TIMES)
            if not row.plays:
                return student, {}
            trainer, data = self.begun(row, student, seed)
            self._last = (trained, seed, trainer)
            self._losses = finish(trainer, data)
        trainer = self._last[2]
        student = copy.deepcopy(trainer.method.student)
        if row.averaged:
            student.denoiser.load_state_dict(trainer.averages["student"].average)
        return student, self._losses

    def begun(self, row: Row, student: Student, seed: int) -> tuple[Trainer, Any]:
        """The row's run, and its data."""
        data = self.data(seed)
        if row.pictures:
            data = data.having(self.eyes(self.media).pooled.half(), media=False, pairs=None)
        if row.method == "add":
            teacher, options = self.teacher_at(row.teacher_width), add.Options(**(self.base | row.changes))
            game = digits.add_method(student, teacher, data, self.network(row), options, row.heads)
            return Trainer(game, digits.add_options(self.o.updates, self.o.batch, seed=seed)), data
        module, parts = METHODS.load(row.method), digits.Parts(student, self.teacher, data, self.eyes)
        method = module.build(module.Options(**row.changes), parts)
        return Trainer(method, TrainerOptions(self.o.updates, self.o.batch, seed)), parts.data

    def measure(self, model: str, draw: Callable[[Any, torch.Tensor, Rng], Media], steps: int) -> list[MetricRecord]:
        """Every figure of one model at one step count, by every judge."""
        classes = digits.conditioner(self.names)
        right: list[torch.Tensor] = []

        @torch.no_grad()
        def drawn(prompts: list[str], seeds: list[int]) -> Media:
            cond, rng = classes(prompts), Rng.per_sample(seeds)
            media = draw(cond, rng.normal((len(prompts), 1, 16, 16)), rng).clamp(-1, 1)
            right.append(self.judge.network.classify(media).argmax(1) == cond.labels)
            return media

        options = EvaluateOptions(seeds=tuple(range(self.o.pictures)), batch=100)
        concepts = list(range(len(self.names)))
        guidance = digits.GUIDANCE_SCALE if model in TEACHERS else 1.0
        subject = MeasuredModel(model, steps, guidance, self.o.command)
        for judge, _ in self.references:
            check_impartial(judge.name, f"{self.o.data}-eyes")
        media = draw_all(drawn, self.names, options, self.references[0][1].size, None)
        found: list[MetricRecord] = []
        for judge, reference in self.references:
            seen = measure(media, self.names, concepts, reference, judge, subject, options)
            # by pixels, variety would be that of strokes; sharpness has no judge
            found += seen if judge is self.judge else [r for r in seen if r.metric == "fd"]
        share = float(torch.cat(right).double().mean())
        found.append(replace(found[0], metric="accuracy", value=share))
        # the ten classes are all there are, no sample of prompts: bounds are for what other trainings give (`summary`)
        return [replace(r, low=r.value, high=r.value, left_out=()) for r in found if r.metric in SHOWN]


def finish(trainer: Trainer, data: Any) -> dict[str, float]:
    """Train to the end; mean losses of the last fifth, and the share of steps that were not finite."""
    logs = list(trainer.steps(data))
    late = logs[-max(1, len(logs) // 5) :]
    names = {name for log in late for name in log.losses}
    means = {n: sum(log.losses.get(n, 0.0) for log in late) / len(late) for n in sorted(names)}
    return means | {"skipped": sum(log.skipped for log in logs) / len(logs)}


def jobs(bench: Bench, wanted: list[str]) -> Iterator[tuple[str, int, Callable[[], list[dict[str, Any]]]]]:
    """Every run that is asked for: its model, its seed, and how to make it. All rows of one seed come first."""
    for name, width in TEACHERS.items():
        if name in wanted:
            draw = partial(teacher_draw, bench, width)
            yield name, 0, lambda name=name, draw=draw: lines(bench, name, 0, draw(), bench.o.teacher_steps, {})
    for seed in bench.o.seeds:
        for model, row in ROWS.items():
            if model in wanted:
                yield model, seed, lambda model=model, row=row, seed=seed: made(bench, model, row, seed)


def teacher_draw(bench: Bench, width: str) -> Callable[[int], Any]:
    null, teacher = digits.conditioner(bench.names).null, bench.teacher_at(width)
    return lambda steps: lambda cond, noise, rng: teacher.draw(noise, cond, null(len(noise)), steps)


def made(bench: Bench, model: str, row: Row, seed: int) -> list[dict[str, Any]]:
    student, losses = bench.student(row, seed)
    steps = bench.o.steps
    return lines(bench, model, seed, lambda n: lambda cond, noise, rng: student.draw(noise, cond, n, rng), steps, losses)


def lines(
    bench: Bench, model: str, seed: int, draw: Callable[[int], Any], steps: Sequence[int], losses: dict[str, float]
) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "losses": losses, "records": [entry(r) for r in bench.measure(model, draw(n), n)]}
        for n in steps
    ]


def summary(runs: list[dict[str, Any]]) -> list[MetricRecord]:
    """One record a figure: the mean over the trainings, and between which values they lie."""
    groups: dict[tuple[str, int, str, str], list[MetricRecord]] = {}
    for run in runs:
        for facts in run["records"]:
            record = of_entry(facts)
            groups.setdefault((record.model, record.steps, record.metric, record.features), []).append(record)
    order = [*TEACHERS, *ROWS]
    return sorted(map(over_trainings, groups.values()), key=lambda r: (order.index(r.model), r.steps))


def main(words: Sequence[str] | None = None, bench: Bench | None = None) -> Bench:
    """Make what is asked for and is not there yet; without ``words`` by the command line.

    Returns the bench: given to another call for the same data and judges, it trains no classifier once more.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=["digits", "fashion"], help="digits, or clothes")
    parser.add_argument("--teacher", type=Path, help="the teacher's weights; trained, and kept there, where they are not yet")
    parser.add_argument("--rows", nargs="+", default=["teacher", *ROWS], choices=[*TEACHERS, *ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of the trainings")
    parser.add_argument("--updates", type=int, default=300, help="updates of the game")
    parser.add_argument("--warm", type=int, default=150, help="updates of the warm start")
    parser.add_argument("--pairs", type=int, default=512, help="noise-to-sample pairs of the warm start")
    parser.add_argument("--batch", type=int, default=16, help="samples an update")
    parser.add_argument("--r1", type=float, help="weight of R1 in every row that has none of its own; default: the method's")
    parser.add_argument("--pictures", type=int, default=50, help="pictures of each class that are judged")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4], help="steps that a student is measured at")
    parser.add_argument("--teacher-steps", nargs="+", type=int, default=[1, 2, 4, 25], help="steps that a teacher is measured at")
    parser.add_argument("--sizes", type=int, default=400, help="updates of teachers of other widths, at batch 64")
    parser.add_argument("--judges", nargs="+", default=["classifier"], choices=["classifier", "pixels"], help="who judges")
    parser.add_argument("--out", type=Path, help="the results; default: docs/results/DATA_ablation.json")
    o = parser.parse_args(words)
    o.out = o.out or HOUSE / "docs" / "results" / f"{o.data}_ablation.json"
    own = HOUSE / "tests" / "assets" / "digits_teacher.safetensors"
    o.teacher = o.teacher or (own if o.data == "digits" else Path("runs") / f"{o.data}_teacher.safetensors")
    torch.set_num_threads(1)
    settings = {k: getattr(o, k) for k in ("updates", "warm", "pairs", "batch", "pictures")}
    settings |= {} if o.r1 is None else {"r1": o.r1}
    for name in ("steps", "teacher_steps", "sizes", "judges"):  # results of before they could be chosen don't name them
        if (value := getattr(o, name)) != parser.get_default(name):
            settings[name.replace("_", "-")] = value if isinstance(value, int) else " ".join(map(str, value))
    other = [] if o.data == "digits" else [f"--data {o.data}"]
    o.command = " ".join(["python benchmarks/ablation.py", *other, *(f"--{k} {v}" for k, v in settings.items())])
    before = json.loads(o.out.read_text()) if o.out.exists() else {}
    if before and before["settings"] != settings:
        raise SystemExit(f"{o.out} was made with {before['settings']}: use the same, or another --out")
    runs = before.get("runs", [])
    done = {(run["records"][0]["model"], run["seed"]) for run in runs}
    if bench is None:
        bench = Bench(o)
    bench.o = o
    for model, seed, make in jobs(bench, o.rows):
        if (model, seed) in done:
            continue
        began = time.process_time()
        new = make()
        runs = runs + new
        records = summary(runs)
        part = o.out.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        text = {"records": [entry(r) for r in records], "settings": settings, "runs": runs}
        part.write_text(json.dumps(text, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        os.replace(part, o.out)
        distances = [f"{r['value']:.2f}" for run in new for r in run["records"] if r["metric"] == "fd"]
        print(f"{model} seed {seed}: FD {' '.join(distances)}, {time.process_time() - began:.0f} s of CPU", flush=True)
    return bench


if __name__ == "__main__":
    main()
