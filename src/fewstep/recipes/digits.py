"""digits-16: the first level with real data, class-conditional 16x16 digits. Minutes on one core, end to end.

Clothes (``fewstep data fashion --size 16``) are the same level once more: ten other classes, and harder to tell apart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..methods import add
from ..methods.method import Optimizer
from ..parts import discriminator
from ..parts.adversary import Adversary
from ..parts.codec import Codec, IdentityCodec
from ..parts.conditioner import ClassConditioner
from ..parts.denoiser import Denoiser, Student, Teacher, freeze
from ..parts.discriminator import Discriminator
from ..parts.features import feature
from ..parts.features.classifier import ConvClassifier
from ..parts.features.feature import FeatureNetwork, MediaFeatures, Standardised
from ..parts.features.teacher import load as load_teacher
from ..pretrained import UNetDenoiser, schedule_of
from ..rng import Rng
from ..tensors import Conditioning, Media
from ..training.data import PromptTable, TrainingSet, spread_chunks
from ..training.drawn import SHOWN
from ..training.probe import Keep, Measure, Probe, RememberingDraw
from ..training.recipe import Phase
from ..training.trainer import Options, Trainer
from .warm import trajectories

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
}
GUIDANCE_SCALE = 1.5
STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25)
HEADS = discriminator.Options()
LOOKS = feature.Options()


def unet(channels: tuple[int, ...] = (24, 48, 96), size: int = 16, classes: int = 10) -> Any:
    """A class-conditional UNet; the extra class is the null one."""
    from diffusers import UNet2DModel

    n = len(channels)
    return UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * n,
        up_block_types=("UpBlock2D",) * n,
        add_attention=False,
        norm_num_groups=8,
        num_class_embeds=classes + 1,
    )


def denoiser(network: nn.Module) -> Denoiser:
    """The UNet as a Denoiser: v-prediction, zero terminal SNR."""
    return UNetDenoiser(network, schedule_of(dict(BETAS)), "v")


def codec() -> IdentityCodec:
    """Pixels are the latents."""
    return IdentityCodec()


def conditioner(names: Sequence[str] = CLASSES) -> ClassConditioner:
    """Digit names, or those of ten other classes."""
    return ClassConditioner(names)


def training_set(
    media: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int = 0, names: Sequence[str] = CLASSES
) -> TrainingSet:
    """Pictures ``[N, 1, 16, 16]`` in [-1, 1] and their classes ``[N]`` as batches."""
    classes = conditioner(names)
    table = PromptTable.encode(names, classes)
    return TrainingSet(media, table, [[int(k)] for k in labels], classes.null(1), batch_size, seed)


def teacher_options(steps: int = 3000, batch_size: int = 64, **options: Any) -> Options:
    """How the teacher is trained."""
    adam = Optimizer(learning_rate=2e-3, beta1=0.9, beta2=0.99, weight_decay=0.01, warmup=100, decay=True, ema=0.998)
    return Options(steps=steps, batch_size=batch_size, optimizers={"teacher": adam}, **options)


def add_options(steps: int = 600, batch_size: int = 32, **options: Any) -> Options:
    """How the student and its heads are trained (two-time-scale: heads faster, no momentum)."""
    student = Optimizer(learning_rate=3e-4, beta1=0.0, beta2=0.99, warmup=50, max_gradient_norm=1.0, ema=0.99)
    heads = Optimizer(learning_rate=1e-3, beta1=0.0, beta2=0.99, warmup=0, max_gradient_norm=0.0)
    return Options(
        steps=steps, batch_size=batch_size, optimizers={"student": student, "discriminator": heads}, **options
    )


def warm_options(steps: int = 300, batch_size: int = 32, **options: Any) -> Options:
    """How the student is warmed up on ``pairs``, before distillation (method ``regression``)."""
    adam = Optimizer(learning_rate=5e-4, beta1=0.9, beta2=0.99, warmup=20, decay=True, ema=0.98)
    return Options(steps=steps, batch_size=batch_size, optimizers={"student": adam}, **options)


def pairs(teacher: Teacher, data: TrainingSet, n: int = 512, steps: int = 8) -> TrainingSet:
    """Noise and the digits that the guided teacher carries it to, ``n`` of them."""
    return trajectories(teacher, data, n, steps, at_once=64)


def classifier(media: torch.Tensor, labels: torch.Tensor, seed: int, width: int = 32) -> ConvClassifier:
    """A small classifier trained on real digits (``media [N, 1, 16, 16]``): features for a discriminator or a judge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvClassifier(1, len(CLASSES), width).fit(media, labels, Rng.of(seed, "classifier"))


def features_of(network: ConvClassifier | Denoiser, data: TrainingSet, o: feature.Options = LOOKS) -> FeatureNetwork:
    """A classifier's features, or those of the teacher's denoiser of re-noised digits (LADD), standardised over real digits."""
    inner: FeatureNetwork = load_teacher(o, network) if isinstance(network, Denoiser) else MediaFeatures(network)
    real = [data.rows(rows) for rows in spread_chunks(512, len(data), 64)]
    return Standardised.fit(inner, [(b.x0, b.cond) for b in real], Rng.of(0, "fit"))


def heads_over(features: FeatureNetwork, data: TrainingSet, o: discriminator.Options = HEADS) -> Discriminator:
    """Fresh heads; their first weights follow the data's seed."""
    example = data.rows(next(iter(spread_chunks(512, len(data), 64))))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        seen = features(example.x0, example.cond, Rng.of(0, "example"))
        return Discriminator.over(seen, example.cond, o)


def add_method(
    student: Student,
    teacher: Teacher | None,
    data: TrainingSet,
    network: ConvClassifier | Denoiser,
    options: add.Options,
    heads: discriminator.Options = HEADS,
) -> add.ADD:
    """ADD on pixels: heads over a frozen network's features."""
    features = features_of(network, data, options)
    adversary = Adversary(codec(), features, heads_over(features, data, heads), options)
    return add.ADD(student, teacher, codec(), adversary, options)


@dataclass
class Parts:
    """`fewstep.methods.method.Parts` of a run on digits: latents are pixels, seen by a classifier or by the teacher."""

    student: Student
    teacher: Teacher
    data: TrainingSet
    network: ConvClassifier
    codec: Codec = field(default_factory=codec)

    def features(self, o: feature.Options) -> FeatureNetwork:
        """The classifier's, or the teacher's own where the method asks for those."""
        return features_of(self.teacher.denoiser if o.features == "teacher" else self.network, self.data, o)

    def heads(self, features: FeatureNetwork, o: discriminator.Options) -> Discriminator:
        """Fresh heads."""
        return heads_over(features, self.data, o)

    def denoiser(self) -> Denoiser:
        """A trainable copy of the teacher."""
        return copy.deepcopy(self.teacher.denoiser).requires_grad_(True)

    def follower(self, of: nn.Module) -> nn.Module:
        """A frozen copy."""
        return freeze(copy.deepcopy(of))

    def pairs(self) -> None:
        """From now on batches come with the teacher's trajectories."""
        self.data = replace(self.data, pairs=pairs(self.teacher, self.data).grouped(self.data.group))

    def group(self, samples: int) -> None:
        """From now on batches come in groups of one class."""
        self.data = self.data.grouped(samples)

    def encode(self, prompt: str) -> Conditioning:
        """A class by its name, as one row."""
        return conditioner()([prompt])


def add_phase(
    method: add.ADD,
    data: TrainingSet,
    options: Options,
    measure: Measure | None = None,
    keep: Keep = "best",
    every: int = 50,
) -> Phase:
    """Adversarial training as a phase of a run. ``measure`` evaluates every ``every`` steps; the best state by it is kept."""
    evaluation = partial(probe, method.student, data, measure, every) if measure else None
    return Phase("add", options.steps, lambda: (Trainer(method, options), data), probe=evaluation, keep=keep)


def probe(student: Student, data: TrainingSet, measure: Measure, every: int, each: int = 10) -> Probe:
    """``each`` one-step pictures of every digit, always from the same noise, against four times as many real ones."""
    cond = conditioner().of_labels(torch.arange(each * len(CLASSES)) % len(CLASSES))
    noise = Rng.of(0, "probe").normal((len(cond), *data.latents.shape[1:]))
    rows = np.arange(4 * len(cond)) * len(data) // (4 * len(cond))

    @torch.no_grad()
    def draw() -> Media:
        return student.draw(noise, cond, 1, Rng.of(0))

    shown = RememberingDraw(draw, range(min(SHOWN, len(cond))))
    return Probe(measure(shown, data.latents[torch.from_numpy(rows)], each), every, shown.pictures)
