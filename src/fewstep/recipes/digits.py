"""digits-16: the ladder's first rung with real data, class-conditional 16x16 digits. Minutes on one core, end to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..methods import add
from ..parts.codec import IdentityCodec
from ..parts.conditioner import ClassConditioner
from ..parts.denoiser import Denoiser, Student, Teacher
from ..parts.discriminator import Discriminator
from ..parts.features import ConvClassifier, OfMedia, Standardised
from ..pretrained import UNetDenoiser, schedule_of
from ..rng import Rng
from ..training.data import PromptTable, TrainingSet, chunks
from ..training.trainer import Optimizer, Options

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
}
GUIDANCE_SCALE = 1.5
STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25)


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


def conditioner() -> ClassConditioner:
    """Digit names."""
    return ClassConditioner(CLASSES)


def training_set(media: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int = 0) -> TrainingSet:
    """Pictures ``[N, 1, 16, 16]`` in [-1, 1] and their digits ``[N]`` as batches."""
    classes = conditioner()
    table = PromptTable.encode(CLASSES, classes)
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


def eyes(media: torch.Tensor, labels: torch.Tensor, seed: int, width: int = 32) -> ConvClassifier:
    """A small classifier trained on real digits (``media [N, 1, 16, 16]``): what a discriminator, or a judge, looks through."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvClassifier(1, len(CLASSES), width).fit(media, labels, Rng.of(seed, "classifier"))


def game(
    student: Student, teacher: Teacher | None, data: TrainingSet, network: ConvClassifier, options: add.Options
) -> add.ADD:
    """ADD on pixels: heads over the classifier's features, standardised over real digits."""
    real = [data.rows(rows) for rows in chunks(min(512, len(data)), 64)]
    features = Standardised.fit(OfMedia(network), [(b.x0, b.cond) for b in real], Rng.of(0, "fit"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        example = features(real[0].x0, real[0].cond, Rng.of(0, "example"))
        heads = Discriminator.over(example, real[0].cond)
    return add.ADD(student, teacher, codec(), features, heads, options)
