"""ADD in the plane, in seconds: a teacher that is exact, a student that begins with its mean, and what each loss makes of it.

    python examples/distil_points.py            # some ten seconds of one core
    python examples/distil_points.py --quick    # a few steps of each

The data are eight small clouds on a ring. One step of a diffusion model lands in the middle of them, where no data are: that is
the mean of all that the noise could become. Writes out/points.png, and says how many of the eight clouds each student reaches.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from fewstep.methods import denoising, regression
from fewstep.methods.denoising import Denoising
from fewstep.methods.method import Method
from fewstep.methods.regression import Regression
from fewstep.parts.denoiser import Student, Teacher
from fewstep.recipes import mixture
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from fewstep.training.data import TrainingSet
from fewstep.training.trainer import Options, Trainer


def trained(method: Method, options: Options, data: TrainingSet) -> None:
    """The whole training loop: methods own the losses, the trainer the optimisers."""
    trainer = Trainer(method, options)
    for _ in trainer.steps(data):
        pass
    trainer.adopt_averages()


def students(share: float = 1.0) -> dict[str, Student]:
    """A diffusion model, and two students of the exact teacher that began as its copies; ``share`` of the usual steps."""
    steps = [max(2, round(share * n)) for n in (800, 500, 150)]
    diffusion = mixture.student()
    plain = denoising.Options(label_dropout=0.0)
    trained(Denoising(diffusion.denoiser, plain), mixture.teacher_options(steps[0]), mixture.training_set(batch_size=256))

    teacher, pairs = Teacher(mixture.denoiser()), mixture.pairs(n=2048 if share == 1 else 128)
    warm = Student(copy.deepcopy(diffusion.denoiser), diffusion.times)
    trained(Regression(warm, regression.Options(), teacher), mixture.warm_options(steps[1]), pairs)

    added = Student(copy.deepcopy(warm.denoiser), warm.times)
    game = mixture.add_method(added, replace(mixture.ADD, regression_weight=2.5))
    trained(game, mixture.add_options(steps[2]), replace(mixture.training_set(), pairs=pairs))
    return {"diffusion model": diffusion, "regression": warm, "and then ADD": added}


def points_of(student: Student, n: int = 1024) -> torch.Tensor:
    """``[n, 2]`` points of one step from pure noise."""
    noise = Rng.of(1, "shown").normal((n, 2))
    with torch.inference_mode():
        return student.denoiser(noise, torch.ones(n), Conditioning())


def scatter(clouds: dict[str, torch.Tensor], side: int = 220) -> Image.Image:
    """Every cloud in a square of its own, from -2.2 to 2.2 on both axes, three times as fine."""
    picture = Image.new("RGB", (len(clouds) * side, side + 24), "white")
    for column, (name, points) in enumerate(clouds.items()):
        fine = Image.new("RGB", (3 * side, 3 * side), "white")
        draw = ImageDraw.Draw(fine)
        for x, y in ((points.double().clamp(-2.2, 2.2) / 4.4 + 0.5) * (3 * side - 1)).tolist():
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), (38, 96, 214))
        draw.rectangle((0, 0, 3 * side - 1, 3 * side - 1), outline=(200, 200, 210), width=3)
        picture.paste(fine.resize((side, side), Image.Resampling.LANCZOS), (column * side, 24))
        ImageDraw.Draw(picture).text((column * side + 8, 6), name, (28, 30, 38))
    return picture


def main() -> None:
    """Train, count, draw."""
    made = students(0.01 if "--quick" in sys.argv else 1.0)
    clouds = {"data": mixture.draw_data(1024)} | {f"{name}, 1 step": points_of(student) for name, student in made.items()}
    for name, points in clouds.items():
        reached, on = mixture.modes_reached(points)
        print(f"{name:<24} {reached} of 8 clouds reached, {on:.0%} of the points in one")
    path = Path("out/points.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    scatter(clouds).save(path)
    print(path)


if __name__ == "__main__":
    main()
