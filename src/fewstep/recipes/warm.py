"""The warm start: the student regresses onto the teacher's own trajectories before its method begins, whatever that is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..methods import regression
from ..methods.method import Optimizer
from ..options import CHANGEABLE, Mark
from ..parts.denoiser import Student, Teacher
from ..ranges import Limit, Range, Rate
from ..rng import Rng, fold
from ..sizes import spoken
from ..tensors import Batch, unfinite
from ..training.buckets import BucketedSet, Samples
from ..training.data import TrainingSet, chunks, in_parts, key_of, save_whole, wrote
from ..training.trainer import Options as TrainerOptions
from ..training.trainer import Trainer
from .assembly import Setting

LATER = Mark("later")
"""Marks an option that a warm start knows nothing of."""
METHOD = "regression"
"""What a student that has been warmed up and no more is called."""


@dataclass(frozen=True)
class Options:
    """Regression onto the teacher's own trajectories before the method begins."""

    steps: Annotated[Limit, LATER] = 300
    """Training steps; 0 leaves the warm start out. How many they are is fixed by what goes on from it."""
    pairs: Annotated[int, Range(1, 10**6)] = 1024
    """Noise-to-sample pairs that the teacher draws (cached beside the run), for the warm start and the method's regression."""
    teacher_steps: Annotated[int, Range(1, 1000)] = 16
    """DDIM steps of a pair."""
    regression_steps: Annotated[int, Range(0, 1000)] = 0
    """DDIM steps of the teacher from noised samples, so that the student follows it at every student time: rare modes stay at
    two and four steps (docs/variety.md). 0 denoises there, which costs no teacher."""
    learning_rate: Annotated[Rate, CHANGEABLE] = 5e-4
    """Peak learning rate."""
    optimizer: str = "adamw"
    """``adamw``; ``muon``, which pays at batches of 64 and above, since its own work a step is the same at any batch;
    ``adamw8bit``; or the dotted path of one of your own."""
    batch_size: Annotated[int, Range(1, 2**16), CHANGEABLE] = 32
    """Pairs a step."""


def warm_start(
    o: Options, setting: Setting, student: Student, teacher: Teacher, pairs: Callable[[int], Samples]
) -> tuple[Trainer, Callable[[int], Batch]]:
    """Regression onto the teacher's trajectories."""
    adam = Optimizer(o.learning_rate, beta1=0.9, warmup=20, decay=True, ema=0.98, kind=o.optimizer)
    options = TrainerOptions(o.steps, o.batch_size, setting.seed, setting.precision, setting.device, {"student": adam})
    following = regression.Options(regression_steps=o.regression_steps)
    return Trainer(regression.Regression(student, following, teacher), options), pairs(o.batch_size)


def trajectories(teacher: Teacher, data: TrainingSet, n: int, steps: int, at_once: int) -> TrainingSet:
    """Noise, and the samples that the guided teacher carries it to in so many ``steps``: ``n`` pairs, ``at_once`` of them drawn
    together. Their prompts come from all over ``data``, which may be sorted."""
    noise = Rng.of(data.seed, "pairs").normal((n, *data.latents.shape[1:]))
    rows = [data.choices[i * len(data) // n] for i in range(n)]
    drawn = []
    for at in chunks(n, at_once):
        cond = data.prompts[torch.tensor([rows[int(i)][0] for i in at])]
        drawn.append(teacher.draw(noise[at], cond, data.null[[0] * len(at)], steps))
    return replace(data, latents=torch.cat(drawn), choices=rows, noise=noise)


def check_pairs(folder: Path) -> None:
    """Refuse a folder where something else stands in place of the teacher's trajectories. Raises ValueError with the fix."""
    every = {*pairs_in(folder), *folder.glob("pairs-*.safetensors")}
    for path in sorted(every):
        if os.path.lexists(path) and not wrote(path):
            raise ValueError(
                f"{path} is not what fewstep wrote, and the teacher's trajectories go there: move it elsewhere, "
                "or choose another --out"
            )


def pairs_in(folder: Path, bucket: str = "") -> tuple[Path, Path]:
    """Where a run keeps the teacher's trajectories, of a bucket where there are several: all of them, and those drawn so far."""
    name = f"pairs-{bucket}" if bucket else "pairs"
    return folder / f"{name}.safetensors", folder / f"{name}-part.safetensors"


def draw_pairs(
    o: Options,
    setting: Setting,
    teacher: Teacher,
    data: Samples,
    folder: Path,
    origin: str,
    batch_size: int,
    bucket: str = "",
) -> Samples:
    """Noise, the guided teacher's sample from it, and the prompt row it was drawn for. Kept in ``folder``, drawn once.

    ``origin`` stands for the teacher and the prompts: pairs of another origin are drawn again.
    """
    if isinstance(data, BucketedSet):
        return _in_buckets(o, setting, teacher, data, folder, origin, batch_size)
    key = f"{origin}|{teacher.guidance_scale}|{o.teacher_steps}|{o.pairs}|{setting.seed}"
    path, part = pairs_in(folder, bucket)
    if key_of(path) == key:
        return _paired(setting, data, load_file(path), batch_size)
    rng = np.random.Generator(np.random.PCG64(setting.seed))
    rows = np.concatenate([rng.permutation(len(data)) for _ in range(-(-o.pairs // len(data)))])[: o.pairs]
    prompts = torch.tensor([int(rng.choice(list(data.choices[i]))) for i in rows])
    noise = Rng.of(setting.seed, "pairs").normal((len(rows), *data.latents.shape[1:]))

    def draw(at: np.ndarray) -> Tensor:
        cond = data.prompts[prompts[at].to(data.latents.device)].to(setting.device)
        null = data.null[[0] * len(at)].to(setting.device)
        return teacher.draw(noise[at].to(setting.device), cond, null, o.teacher_steps).half().cpu()

    what = "teacher's trajectories"
    drawn = in_parts(draw, len(rows), o.batch_size, part, key, what, setting.progress)
    saved = {"noise": noise.half(), "x0": drawn, "prompts": prompts}
    save_whole(saved, path, {"key": key})
    part.unlink(missing_ok=True)
    return _paired(setting, data, saved, batch_size)


def _in_buckets(
    o: Options, setting: Setting, teacher: Teacher, data: BucketedSet, folder: Path, origin: str, batch_size: int
) -> BucketedSet:
    """The pairs of every bucket, as many as its share of the samples, one at least."""
    sets = []
    for one in data.sets:
        share = max(1, round(o.pairs * len(one) / len(data)))
        size = spoken(one.latents.shape[2:])
        own = replace(setting, seed=fold(setting.seed, "bucket", size))
        drawn = draw_pairs(replace(o, pairs=share), own, teacher, one, folder, f"{origin}|{size}", batch_size, size)
        assert isinstance(drawn, TrainingSet)
        sets.append(drawn)
    return BucketedSet(tuple(sets), setting.seed)


def _paired(setting: Setting, data: TrainingSet, saved: dict[str, Tensor], batch_size: int) -> TrainingSet:
    if first := unfinite({name: saved[name] for name in ("noise", "x0")}):
        raise ValueError(
            f"the teacher's trajectories hold NaN or infinity (in {first}): remove pairs.safetensors from --out to draw them "
            "again, with --precision fp32, less --guidance-scale or another teacher"
        )
    choices = [[int(p)] for p in saved["prompts"]]
    return TrainingSet(
        saved["x0"], data.prompts, choices, data.null, batch_size, setting.seed, noise=saved["noise"]
    ).near(setting.device)
