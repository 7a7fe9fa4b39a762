"""Your own pictures, a teacher of them, and a student of it: the whole way, on a CPU.

    python examples/distil_shapes.py            # some three minutes of one core; out/shapes/sheet.png shows what came of it
    python examples/distil_shapes.py --quick    # a few steps of each, to see that all of it runs here

The teacher goes on from the shipped one, whose VAE and text encoder it keeps. With a teacher of your own leave that line out,
and name your folder in the second command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shapes

from fewstep import sheet
from fewstep.cli import main as fewstep
from fewstep.inference.pipeline import Pipeline
from fewstep.modality.image import to_pil

PROMPTS = ["a red circle", "a blue square", "a green ring", "a yellow triangle", "a purple circle"]


def main() -> None:
    """Make the data, the teacher, the student; draw all three."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--quick", action="store_true", help="a few steps only")
    asked.add_argument("--out", type=Path, default=Path("out/shapes"), help="folder to write to")
    asked.add_argument("--features", default="auto", help="what the discriminator looks through; examples.own_features is here")
    given = asked.parse_args()
    out, teach, warm, game = given.out, *((2, 2, 2) if given.quick else (120, 120, 60))
    data = shapes.build(shapes.Options(of_each=2 if given.quick else 24), out / "data")

    begin = "--init emoji-64-teacher --codec emoji-64-teacher --size told"
    fewstep(f"teach --data {out}/data {begin} --steps {teach} --batch-size 32 --learning-rate 5e-4 --out {out}/teacher".split())
    warm_start = f"--warm.steps {warm} --warm.pairs {max(64, 2 * warm)} --warm.teacher-steps 8 --warm.batch-size 32"
    fewstep(
        f"distill --teacher {out}/teacher/bundle --data {out}/data --features {given.features} --steps {game} --batch-size 16 "
        f"{warm_start} --out {out}/student".split()
    )

    teacher, student = (Pipeline.open(out / role / "bundle") for role in ("teacher", "student"))
    first = [next(i for i, item in enumerate(data.items) if item.concept == prompt) for prompt in PROMPTS]
    real = [to_pil(picture) for picture in data.media(first)]
    rows = [("data", "one of many", real)]
    for name, pipeline, steps in (("teacher", teacher, 25), ("student", student, 1), ("student", student, 4)):
        media = pipeline.draw(PROMPTS, steps=steps, seed=3)
        rows.append((f"{name}, {steps} step{'s' * (steps > 1)}", "seed 3", [to_pil(picture) for picture in media]))
    print(sheet.save(sheet.sheet(rows, PROMPTS), out / "sheet.png", student.card, seed=3))


if __name__ == "__main__":
    main()
