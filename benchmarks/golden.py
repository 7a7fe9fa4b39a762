"""Golden losses: does a redesign leave every training as it was, bit for bit?

    python benchmarks/golden.py --record out/golden.json     # before
    python benchmarks/golden.py --compare out/golden.json    # after every step of it

Denoising, regression and ADD in its variants run on points in the plane (float32 and float64) and on digits (float32): their
losses and observations of every step, and a hash of the weights and averages that they end with. The last digits differ
between processors and releases of torch, so the two calls belong to one machine: no figures are kept in the repository.
Exit code 1 where anything differs; the first step that does is named.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fewstep.data import digits as digits_data
from fewstep.methods import add, regression
from fewstep.methods.denoising import Denoising
from fewstep.methods.regression import Regression
from fewstep.parts.denoiser import Denoiser, Student, Teacher
from fewstep.recipes import digits, mixture
from fewstep.tensors import Batch
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Trainer

HOUSE = Path(__file__).resolve().parent.parent
GAMES: dict[str, dict[str, Any]] = {
    "add": {}, "backward": {"backward": 0.5}, "student_every_2": {"student_every": 2}, "turns_2": {"discriminator_turns": 2},
    "relativistic": {"loss": "relativistic"}, "softplus_approximate_r1": {"loss": "softplus", "r1": 0.0, "approximate_r1": 1.0},
    "adversarial_only": {"distillation_weight": 0.0}, "distillation_only": {"adversarial_weight": 0.0},
    "nfsd": {"weighting": "nfsd"},
    "regression_everywhere": {"regression_weight": 10.0, "regression_steps": 8}, "teacher_steps_4": {"teacher_steps": 4},
    "renoised": {"renoised_input": 0.1},
}  # fmt: skip
ON_DIGITS: dict[str, dict[str, Any]] = {"add": {}, "dropout_mismatched": {"condition_dropout": 0.2, "mismatched": 0.5}}


def told(trainer: Trainer, data: Callable[[int], Any]) -> dict[str, Any]:
    """Losses and observations of every step, exact, and a hash of what is saved at the end."""
    steps = [{k: v.hex() for k, v in (log.losses | log.observations).items()} for log in trainer.steps(data)]
    digest = hashlib.sha256()
    state = trainer.state()
    for kind in ("players", "averages"):
        for name, held in sorted(state[kind].items()):
            for key, value in sorted((held if kind == "players" else held["weights"]).items()):
                digest.update(f"{kind}/{name}/{key}".encode() + value.contiguous().numpy().tobytes())
    return {"steps": steps, "weights": digest.hexdigest()}


def in_dtype(data: TrainingSet, dtype: torch.dtype) -> Callable[[int], Batch]:
    def batch(number: int) -> Batch:
        found = data(number)
        noise = None if found.noise is None else found.noise.to(dtype)
        return replace(found, x0=found.x0.to(dtype), noise=noise)

    return batch


def in_the_plane(steps: int, dtype: torch.dtype) -> dict[str, Callable[[], dict[str, Any]]]:
    start = mixture.student(0)
    start.denoiser.to(dtype)
    data, pairs = in_dtype(mixture.training_set(2048), dtype), in_dtype(mixture.pairs(1024), dtype)
    teacher = Teacher(mixture.denoiser())
    list(Trainer(Denoising(start.denoiser), mixture.teacher_options(200, 64)).steps(data))

    def played(options: dict[str, Any]) -> dict[str, Any]:
        game = mixture.add_method(copy.deepcopy(start), replace(mixture.ADD, **options))
        for player in game.players.values():
            player.network.to(dtype)
        return told(Trainer(game, mixture.add_options(steps)), data)

    def warmed(every: int) -> dict[str, Any]:
        method = Regression(copy.deepcopy(start), regression.Options(regression_steps=every), teacher)
        return told(Trainer(method, mixture.warm_options(steps)), pairs)

    def denoised() -> dict[str, Any]:
        network = mixture.student(1).denoiser.to(dtype)
        return told(Trainer(Denoising(network), mixture.teacher_options(steps, 64)), data)

    made: dict[str, Callable[[], dict[str, Any]]] = {
        "denoising": denoised, "regression": lambda: warmed(0), "regression_everywhere": lambda: warmed(8)
    }  # fmt: skip
    return made | {f"add: {name}": lambda o=o: played(o) for name, o in GAMES.items()}


def on_digits(steps: int) -> dict[str, Callable[[], dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        media = digits_data.build(digits_data.Options(size=16), Path(folder) / "digits").subset("train")
        pictures = media.media(slice(None, None, 8))
    labels = torch.tensor([item.label for item in media.items[::8]])
    network = digits.unet()
    network.load_state_dict(
        {k: v.float() for k, v in load_file(HOUSE / "tests" / "assets" / "digits_teacher.safetensors").items()}
    )
    teacher = Teacher(digits.denoiser(network), digits.GUIDANCE_SCALE)
    data = digits.training_set(pictures, labels, 16)
    eyes = digits.classifier(pictures, labels, seed=1)

    def played(options: dict[str, Any], looks: Any) -> dict[str, Any]:
        denoiser: Denoiser = copy.deepcopy(teacher.denoiser).requires_grad_(True)
        game = digits.add_method(Student(denoiser, digits.STUDENT_TIMES), teacher, data, looks, add.Options(**options))
        return told(Trainer(game, digits.add_options(steps, 16)), data)

    made = {f"digits: {name}": lambda o=o: played(o, eyes) for name, o in ON_DIGITS.items()}
    return made | {"digits: through the teacher": lambda: played({}, teacher.denoiser)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, help="write what is found")
    what.add_argument("--compare", type=Path, help="hold what is found against what was written")
    parser.add_argument("--steps", type=int, default=200, help="steps in the plane; a tenth of them on digits")
    o = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(o.compare.read_text()) if o.compare else {}
    found: dict[str, Any] = {}
    differ = 0
    kinds = {f"{str(d).removeprefix('torch.')} ": in_the_plane(o.steps, d) for d in (torch.float32, torch.float64)}
    for kind, made in (kinds | {"": on_digits(max(1, o.steps // 10))}).items():
        for name, make in made.items():
            now = found[kind + name] = make()
            then = before.get(kind + name)
            if o.compare and now != then:
                differ += 1
                at = [i for i, (a, b) in enumerate(zip(now["steps"], then["steps"] if then else [])) if a != b]
                print(
                    f"{kind}{name}: "
                    + (f"other from step {at[0]} on" if at else "other weights" if then else "not recorded")
                )
    if o.record:
        o.record.parent.mkdir(parents=True, exist_ok=True)
        o.record.write_text(json.dumps(found))
    print(
        f"{len(found)} trainings, "
        + (f"recorded in {o.record}" if o.record else f"{differ} of them other than {o.compare}")
    )
    sys.exit(bool(differ))


if __name__ == "__main__":
    main()
