"""Every method on digits, by one command: makes the teacher's folder, then holds a ``fewstep contest``.

    fewstep data digits
    python benchmarks/digits_contest.py --trainings 5

The teacher is the one in ``tests/assets``, written as a diffusers folder. Further options are those of ``fewstep contest``.
Afterwards ``docs/contest_digits.md`` and ``docs/results/contest_digits.json`` are what it found.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import contest_docs
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from fewstep.bundle import Card
from fewstep.cli import main
from fewstep.recipes import digits

HOUSE = Path(__file__).resolve().parent.parent
TEACHER = Path("runs/digits-teacher")
CONTEST = [
    "--teacher", str(TEACHER), "--data", "digits", "--out", "runs/digits-contest", "--recipe=--batch-size 16",
    "--warm=--warm.steps 100 --warm.pairs 512 --warm.teacher-steps 8 --warm.batch-size 32", "--updates", "150",
    "--seconds", "20", "--judge", "benchmarks.digits_judge", "pixels", "--prompts", "10", "--seeds", *map(str, range(50)),
    "--teacher-steps", "25", "8", "4", "2", "1", "--grid", "10",
]  # fmt: skip
THROUGH = "--features benchmarks.digits_networks"
OWN = {
    "drifting_adversary": f"--method drifting --drifting.through features --drifting.adversarial-weight 1 {THROUGH}",
    "progressive": "--method progressive --progressive.halvings 3 --progressive.each 50",
}
"""Entries with other options than a method's defaults."""
PLAIN = ("add", "gan", "ladd", "lcm", "dmd2", "sida", "drifting", "scm", "regression")


def write_teacher() -> None:
    """The UNet of ``tests/assets`` as a folder that diffusers knows, with a card that tells its guidance."""
    network = digits.unet()
    weights = load_file(HOUSE / "tests" / "assets" / "digits_teacher.safetensors")
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    network.save_pretrained(TEACHER / "unet")
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
        set_alpha_to_one=True, **digits.BETAS,
    )  # fmt: skip
    scheduler.save_pretrained(TEACHER / "scheduler")
    index = {
        "_class_name": "DDPMPipeline", "_diffusers_version": "0.36.0", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "id2label": dict(enumerate(digits.CLASSES)),
    }  # fmt: skip
    (TEACHER / "model_index.json").write_text(json.dumps(index, indent=1) + "\n", "utf-8")
    Card(
        name="digits-teacher", role="teacher", method="denoising", steps=(25, 8, 4, 2, 1), sampler="ddim",
        guidance_scale=digits.GUIDANCE_SCALE, native_size=(16, 16), licence="CC-BY-SA-3.0", data="digits",
    ).write(TEACHER)  # fmt: skip


def entries() -> list[str]:
    """Every method, those with an adversary or features through the classifier."""
    from fewstep.methods.method import FAMILY
    from fewstep.parts.features import feature

    named = []
    for name in [m for m in PLAIN if m in FAMILY.names] + [m for m in FAMILY.names if m not in PLAIN and m not in OWN]:
        looks = issubclass(FAMILY.load(name).Options, feature.Options)
        own = FAMILY.load(name).Options()
        fixed = not looks or getattr(own, "features", "") == "teacher"
        named.append(f"{name}=--method {name}" + ("" if fixed else f" {THROUGH}"))
    return named + [f"{name}={words}" for name, words in OWN.items()]


if __name__ == "__main__":
    if not (TEACHER / "model_index.json").is_file():
        write_teacher()
    sys.argv[1:] = ["contest", *CONTEST, "--entries", *entries(), *sys.argv[1:]]  # the command that the results name
    main()
    contest_docs.write("digits", "Every method on digits", Path("runs/digits-contest"))
