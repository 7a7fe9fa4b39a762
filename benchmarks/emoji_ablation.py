"""Which part of ADD does what on emoji (levels 2 and 3): one short game, a row for each thing changed about it.

    python benchmarks/emoji_ablation.py                     # every row, one training each: about an hour of one core
    python benchmarks/emoji_ablation.py --rows random_init without_r1 --seeds 0 1
    python benchmarks/emoji_ablation.py --teacher runs/teacher-32/bundle --data runs/emoji-32 --rows teacher add \
        --runs runs/emoji32_ablation --out docs/results/emoji32_ablation.json

A row is a ``fewstep distill`` command, and its command stands beside its figures in ``docs/results/emoji_ablation.json``. A
row that stands in ``--runs`` is not made again, and a training that was stopped goes on: stop and continue at will. With
several seeds a row's figure is the mean over its trainings and the bracket holds the least and the greatest; with one it is
the interval over prompts. ``fewstep docs`` makes the table. All rows are drawn from the same 128 prompts with two seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro

from fewstep.bundle import locate
from fewstep.cli import flat
from fewstep.evaluation.record import MetricRecord, merge, over_trainings, read_records, write_records
from fewstep.evaluation.suite import Evaluator
from fewstep.evaluation.suite import Options as Judging
from fewstep.inference.pipeline import Pipeline
from fewstep.recipes import distillation
from fewstep.training.data import open_dataset
from fewstep.training.recipe import run_phases
from fewstep.training.run import Saving

HOUSE = Path(__file__).resolve().parent.parent
RECIPE = (
    "--captions name --warm.steps 0 --steps 160 --keep last --student-learning-rate 1e-4 "
    "--heads-learning-rate 1e-3 --batch-size 16 --probabilities 0.4 0.2 0.2 0.2"
)
"""A short game, from the teacher's weights: the row called add."""

ROWS = {
    "add": "",
    "adversarial_only": "--add.distillation-weight 0",
    "distillation_only": "--add.adversarial-weight 0",
    "random_init": "--init random",
    "without_r1": "--add.r1 0",
    "without_conditioning": "--heads.no-text --heads.no-image",
    "without_ema": "--ema 0",
    "backward": "--add.backward 0.5",
    "teacher_features": "--features teacher",
    "lite2_features": "--features efficientnet-lite2",
    "media_space": "--add.space media",
    "softplus": "--add.loss softplus",
    "relativistic": "--add.loss relativistic",
    "lambda_0.5": "--add.distillation-weight 0.5",
    "discriminator_turns_2": "--add.discriminator-turns 2",
    "student_every_2": "--add.student-every 2 --steps 320",
    "approximate_r1": "--add.r1 0 --add.approximate-r1 0.1",
    "renoised_input": "--add.renoised-input 0.3",
    "reals_through_codec": "--add.reals-through-codec",
    "mismatched": "--add.mismatched 0.5",
    "lora": "--student lora",
    "freeze": "--student freeze",
    "sds": "--add.weighting sds",
    "nfsd": "--add.weighting nfsd --negative 'unrealistic, blurry, low quality'",
    "teacher_steps_4": "--add.teacher-steps 4",
    "augmented": "--augment color translation cutout",
}
"""What each row changes about add, by options that follow the recipe's own. The student moves as often in every row."""
DRAWN = "--prompts 128 --seeds 0 1"
JUDGING = Judging(prompts=128, seeds=(0, 1))
TEACHER = "teacher"
"""The row of the teacher itself, drawn in all these steps."""
TEACHER_STEPS = (50, 25, 8, 4, 2, 1)
SHOWN = ("fd", "kid", "precision", "recall", "retrieval_top1", "retrieval_top5", "vendi_minus_1", "pairwise_distance",
         "highs_ratio", "edges_ratio")  # fmt: skip


def recipe(o: argparse.Namespace, row: str, seed: int) -> str:
    """The options of ``fewstep distill`` for one row."""
    return " ".join(filter(None, [f"--teacher {o.teacher} --data {o.data}", RECIPE, ROWS[row], f"--seed {seed}"]))


def command(o: argparse.Namespace, row: str, seed: int, steps: int) -> str:
    """What to type to make and measure one row."""
    if row == TEACHER:
        return f"fewstep evaluate {o.teacher} --data {o.data} --steps {steps} {DRAWN}"
    folder = f"runs/{row}-{seed}"
    return (
        f"fewstep distill {recipe(o, row, seed)} --out {folder} && "
        f"fewstep evaluate {folder}/bundle --data {o.data} --steps {steps} --name {row} {DRAWN}"
    )


def train(o: argparse.Namespace, row: str, seed: int, folder: Path) -> Path:
    """Train one row's student, or go on where it was stopped; returns its bundle."""
    if row == TEACHER:
        return locate(o.teacher)
    options = tyro.cli(flat(distillation.options_type()), args=shlex.split(recipe(o, row, seed)))
    run = distillation.prepare(options, folder)
    began = time.process_time()
    kept = run_phases(run.phases, Saving(folder, resume=True), lambda phase, trainer, log: None)
    run.save(folder / "bundle", kept["add"], thin=True)
    print(f"{row} seed {seed}: trained in {time.process_time() - began:.0f} s of CPU", flush=True)
    return folder / "bundle"


def gathered(runs: dict[str, list[MetricRecord]]) -> list[MetricRecord]:
    """One record a figure from the records of every training of a row, by seed."""
    groups: dict[tuple[int, str], list[MetricRecord]] = {}
    for records in runs.values():
        for r in records:
            groups.setdefault((r.steps, r.metric), []).append(r)
    return [group[0] if len(group) == 1 else over_trainings(group) for group in groups.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="emoji-64-teacher", help="a bundle's name or folder")
    parser.add_argument("--data", default="emoji", help="dataset folder, or the name of one that was built")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=[TEACHER, *ROWS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of the trainings")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4], help="steps that are measured")
    parser.add_argument("--runs", type=Path, default=Path("runs/emoji_ablation"), help="folder of the trainings")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "results" / "emoji_ablation.json")
    o = parser.parse_args()
    torch.set_num_threads(1)
    evaluator = None
    for seed in o.seeds:
        for row in o.rows:
            if row == TEACHER and seed != o.seeds[0]:
                continue
            folder = o.runs / f"{row}-{seed}"
            found = folder / "records.json"
            if not found.is_file():
                pipeline = Pipeline.open(locate(str(train(o, row, seed, folder))))
                evaluator = evaluator or Evaluator(open_dataset(o.data), replace(JUDGING, calls=0))
                new = [
                    r
                    for n in (TEACHER_STEPS if row == TEACHER else o.steps)
                    for r in evaluator.measure(pipeline, n, row, command(o, row, seed, n))
                    if r.metric in SHOWN
                ]
                folder.mkdir(parents=True, exist_ok=True)
                write_records(found, new)
                shown = {r.metric: round(r.value, 3) for r in new if r.steps == 1}
                print(f"{row} seed {seed}: {json.dumps(shown)}", flush=True)
            runs = {str(p): read_records(p) for p in sorted(o.runs.glob(f"{row}-*/records.json"))}
            write_records(o.out, merge(read_records(o.out) if o.out.is_file() else [], gathered(runs)))


if __name__ == "__main__":
    main()
