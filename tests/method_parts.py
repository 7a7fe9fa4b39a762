"""A run's parts at tiny size, for any method, over any number of axes; and a process that trains every method and can be killed.

``python method_parts.py OUT ROUNDS``
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.methods.method import Method
from fewstep.parts.codec import IdentityCodec
from fewstep.parts.denoiser import Denoiser, Student, Teacher, freeze
from fewstep.parts.discriminator import Discriminator
from fewstep.parts.discriminator import Options as HeadOptions
from fewstep.parts.features import feature
from fewstep.parts.features.feature import FeatureNetwork, MediaFeatures
from fewstep.parts.features.teacher import TeacherFeatures
from fewstep.recipes.distillation import METHODS
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning
from fewstep.training.trainer import Options, Trainer
from helpers import ConvDenoiser, Eyes, make_batch

N = 4
LOSSES = {
    "adversarial", "distillation", "regression", "r1", "approximate_r1", "mismatched", "consistency", "distribution_matching",
    "denoising", "drift",
}  # fmt: skip
"""The names that a loss may bear in a log (CONTRIBUTING says what each stands for)."""


SMALL: dict[str, dict[str, Any]] = {"drifting": {"group": 2}, "progressive": {"halvings": 2, "each": 1}}
"""Options of a method that needs others than its own in two steps of four samples, worked through in two parts."""


class TinyParts:
    """`fewstep.methods.method.Parts`: every part is real, and small. ``seed`` is that of the players' first weights alone."""

    def __init__(self, axes: int = 2, seed: int = 0) -> None:
        torch.manual_seed(0)
        self._axes, self._pairs, self._group = axes, False, 1
        self.codec = IdentityCodec()
        network = ConvDenoiser(axes)
        self.teacher = Teacher(network, guidance_scale=2.0)
        self.eyes = freeze(Eyes(axes))
        torch.manual_seed(1 + seed)
        moved = copy.deepcopy(network).requires_grad_(True)
        with torch.no_grad():  # equal to its teacher some gradients would vanish
            for p in moved.parameters():
                p.add_(0.1 * torch.randn_like(p))
        self.student = Student(moved)
        self.frozen: dict[str, nn.Module] = {"teacher": network, "eyes": self.eyes}
        """Whatever must never receive a gradient."""

    def data(self, number: int) -> Batch:
        """A batch is a function of its number; pairs beside it once they were asked for."""
        batch = self._batch(2 * number)
        if not self._pairs:
            return batch
        ends = self._batch(2 * number + 1)
        return replace(batch, pairs=replace(ends, noise=Rng.of(number, "start").normal_like(ends.x0)))

    def _batch(self, seed: int) -> Batch:
        """In groups of one condition, where they were asked for."""
        batch = make_batch(N, self._axes, seed=seed)
        return replace(batch, cond=batch.cond[torch.arange(N) // self._group * self._group])

    def features(self, o: feature.Options) -> FeatureNetwork:
        return TeacherFeatures(self.teacher.denoiser) if o.features == "teacher" else MediaFeatures(self.eyes)

    def heads(self, features: FeatureNetwork, o: HeadOptions) -> Discriminator:
        batch = self.data(0)
        return Discriminator.over(features(batch.x0, batch.cond, Rng.of(0)), batch.cond, o)

    def denoiser(self) -> Denoiser:
        return copy.deepcopy(self.teacher.denoiser).requires_grad_(True)

    def follower(self, of: nn.Module) -> nn.Module:
        made = freeze(copy.deepcopy(of))
        self.frozen[f"follower {len(self.frozen)}"] = made
        return made

    def pairs(self) -> None:
        self._pairs = True

    def group(self, samples: int) -> None:
        self._group = samples

    def encode(self, prompt: str) -> Conditioning:
        return self.data(0).cond[:1]


def built(name: str, axes: int = 2, seed: int = 0, **options: Any) -> tuple[Method, TinyParts]:
    """A method by its name, on tiny parts."""
    module, parts = METHODS.load(name), TinyParts(axes, seed)
    return module.build(module.Options(**SMALL.get(name, {}) | options), parts), parts


def trainer(
    name: str, steps: int, seed: int = 0, own: dict[str, Any] | None = None, **options: Any
) -> tuple[Trainer, Callable[[int], Batch]]:
    """A run of the method with options of its ``own``; another ``seed`` gives its players other first weights."""
    method, parts = built(name, seed=seed, **own or {})
    return Trainer(method, Options(steps, N, **options)), parts.data


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, rounds = Path(sys.argv[1]), int(sys.argv[2])
    runs = {name: trainer(name, rounds) for name in METHODS.names}
    for name, (run, _) in runs.items():
        if (out / name).exists():
            run.resume(out / name)
    steps = {name: run.steps(data) for name, (run, data) in runs.items()}
    for number in range(rounds):
        for name, (run, _) in runs.items():
            if run.step == number:
                next(steps[name])
                run.save(out / name)
                print(number, name, flush=True)
