"""mixture: the smallest experiment. Points in the plane, an exact teacher, a training that takes seconds.

Eight Gaussians on a ring, or three of unequal weights. The posterior mean is known in closed form, so the teacher makes no
error and whatever fails is the student's, the discriminator's or the code's. Distillation alone seeks modes or their mean;
the adversarial loss finds all of them: the order of the paper's Table 1d, in two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..diffusion import prediction
from ..diffusion.schedule import Cosine, NoiseSchedule
from ..methods import add
from ..methods.method import Optimizer
from ..parts import discriminator
from ..parts.adversary import Adversary
from ..parts.codec import IdentityCodec
from ..parts.denoiser import Denoiser, Student, Teacher
from ..parts.discriminator import Discriminator
from ..parts.features.feature import MediaFeatures
from ..rng import Rng
from ..tensors import Conditioning, Features, Latents, Media, Time, match_dims
from ..training.data import PromptTable, TrainingSet
from ..training.trainer import Options
from .warm import trajectories

MODES = 8
STD = 0.1
STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25)
HEADS = discriminator.Options(norm="group", width=32)
ADD = add.Options(r1=1.0, condition_dropout=0.0)


def ring(modes: int = MODES, radius: float = 1.4) -> Float[Tensor, "K 2"]:
    """Centres on a circle; the radius gives the data unit variance an axis."""
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    return radius * torch.stack([angle.cos(), angle.sin()], 1)


class Mixture(Denoiser):
    """The exact denoiser of a mixture of K round Gaussians: no weights to train.

    ``E[x0 | x_t] = sum_k r_k (m_k + g_k (x_t - alpha m_k))`` with ``v_k = alpha^2 s_k^2 + sigma^2``, gain
    ``g_k = alpha s_k^2 / v_k`` and responsibilities ``r = softmax(log w_k - C/2 log v_k - |x_t - alpha m_k|^2 / 2 v_k)``.
    """

    def __init__(
        self,
        centres: Float[Tensor, "K C"],
        std: float | Sequence[float] = STD,
        schedule: NoiseSchedule | None = None,
        weights: Sequence[float] | None = None,
        kind: str = "x0",
    ) -> None:
        """``std``: one for all, or one a mode. ``weights``: the modes' shares; None is equal ones."""
        super().__init__(schedule or Cosine(), kind)
        modes = len(centres)
        self.register_buffer("centres", centres)
        self.register_buffer(
            "stds", torch.tensor(std if isinstance(std, Sequence) else [std] * modes, dtype=torch.float64)
        )
        shares = torch.tensor(weights or [1.0] * modes, dtype=torch.float64)
        self.register_buffer("shares", shares / shares.sum())

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """Posterior mean of x0 worked out in float64, then said in the prediction's own terms."""
        alpha, sigma = self.schedule.alpha(t).double(), self.schedule.sigma(t).double()
        a, s = (match_dims(scale, x_t) for scale in (alpha, sigma))
        x, centres, std = x_t.double(), self.get_buffer("centres").double(), self.get_buffer("stds")
        variance = (a**2 * std**2 + s**2).clamp(min=1e-12)  # [B, K]
        away = x.unsqueeze(1) - a.unsqueeze(2) * centres  # [B, K, C]
        log = self.get_buffer("shares").log() - x.shape[1] / 2 * variance.log() - away.pow(2).sum(2) / (2 * variance)
        gain = (a * std**2 / variance).unsqueeze(2)
        x0 = (torch.softmax(log, 1).unsqueeze(2) * (centres + gain * away)).sum(1)
        return prediction.from_x0(self.kind, x, x0, alpha, sigma).to(x_t.dtype)


@dataclass(frozen=True)
class Modes:
    """What a mixture in the plane is made of."""

    centres: tuple[tuple[float, float], ...]
    stds: tuple[float, ...]
    """Standard deviation of each mode, alike in both directions."""
    weights: tuple[float, ...]
    """Share of the points that each mode holds; they add up to 1."""

    def denoiser(self) -> Mixture:
        """The exact denoiser."""
        return Mixture(torch.tensor(self.centres, dtype=torch.float64), self.stds, weights=self.weights)

    def draw(self, n: int, seed: int = 0) -> Float[Tensor, "N 2"]:
        """n points."""
        rng = Rng.of(seed, "modes")
        which = rng.choice(torch.arange(len(self.weights)), n, torch.tensor(self.weights))
        centres, stds = torch.tensor(self.centres)[which], torch.tensor(self.stds)[which, None]
        return centres + stds * rng.normal((n, 2))

    def share_and_spread(self, points: Float[Tensor, "N 2"]) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
        """The share of the points that lies on each mode, within four standard deviations of its centre (the shares add up
        to less than 1 where some lie on none), and how widely they lie there, in the mode's standard deviations (nan: none).
        """
        centres, stds = torch.tensor(self.centres).double(), torch.tensor(self.stds).double()
        away = points.double().unsqueeze(1) - centres
        distance = away.pow(2).sum(2).sqrt() / stds  # [N, K]
        nearest = distance.argmin(1)
        on = (torch.nn.functional.one_hot(nearest, len(stds)) * (distance < 4)).double()
        spread = ((away.pow(2).mean(2) * on).sum(0) / on.sum(0)).sqrt() / stds
        return on.mean(0), spread


UNEVEN = Modes(((-1.6, 0.5), (0.2, -1.2), (1.0, 0.9)), (0.08, 0.25, 0.15), (0.1, 0.3, 0.6))
"""A rare mode, a common one and a very common one, of about unit variance: what becomes of a tenth of the data?"""


def denoiser(modes: Modes | None = None) -> Mixture:
    """The teacher: the exact denoiser of the ring, or of ``modes``."""
    return Mixture(ring()) if modes is None else modes.denoiser()


class Points(Denoiser):
    """A small network on points ``[B, 2]`` that predicts v: the student."""

    def __init__(self, width: int = 128, schedule: NoiseSchedule | None = None) -> None:
        super().__init__(schedule or Cosine(), "v")
        self.layers = nn.Sequential(
            nn.Linear(2 + 8, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """v, told the time by four frequencies."""
        phase = t[:, None].double() * torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64, device=t.device)
        told = torch.cat([phase.sin(), phase.cos()], 1).to(x_t.dtype)
        return self.layers(torch.cat([x_t, told], 1))


def student(seed: int = 0) -> Student:
    """A fresh student; train its denoiser on the data first (method ``denoising``): ADD starts from a diffusion model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(Points(), STUDENT_TIMES)


class Waves(nn.Module):
    """Frozen random Fourier features of a point, coarse and fine: one level, a map of one place."""

    def __init__(self, channels: int = 64, scales: tuple[float, ...] = (1.0, 3.0), seed: int = 0) -> None:
        super().__init__()
        rng = Rng.of(seed, "waves")
        scale = torch.tensor(scales).repeat_interleave(channels // len(scales))
        self.register_buffer("frequencies", scale * rng.normal((2, len(scale))))
        self.register_buffer("phases", rng.uniform((len(scale),), 0, 2 * math.pi))

    def forward(self, media: Media) -> Features:
        """``sqrt(2) cos(x W + b)``: about unit variance."""
        angle = media @ self.get_buffer("frequencies").to(media) + self.get_buffer("phases").to(media)
        return Features((math.sqrt(2) * angle.cos().reshape(len(media), -1, 1, 1),))


def features() -> MediaFeatures:
    """The discriminator's feature network."""
    return MediaFeatures(Waves())


def heads(seed: int = 0) -> Discriminator:
    """Heads that fit the features, unconditional."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = features()(torch.zeros(8, 2), Conditioning(), Rng.of(0))
        return Discriminator.over(seen, Conditioning(), HEADS)


def codec() -> IdentityCodec:
    """Points are their own latents."""
    return IdentityCodec()


def add_method(
    student: Student,
    options: add.Options = ADD,
    seed: int = 0,
    modes: Modes | None = None,
    kind: type[add.ADD] = add.ADD,
) -> add.ADD:
    """ADD, or a variant of it, with the exact teacher of the ring, or of ``modes``; ``seed`` is that of the heads."""
    against = Adversary(codec(), features(), heads(seed), options)
    return kind(student, Teacher(denoiser(modes)), codec(), against, options)


def draw_data(n: int, seed: int = 0, modes: int = MODES, std: float = STD) -> Float[Tensor, "N 2"]:
    """n points of the ring."""
    rng = Rng.of(seed, "mixture")
    return (ring(modes)[rng.integers((n,), modes)] + std * rng.normal((n, 2), torch.float64)).float()


def training_set(n: int = 8192, batch_size: int = 64, seed: int = 0, modes: Modes | None = None) -> TrainingSet:
    """Points of the ring, or of ``modes``, as batches; nothing is asked for."""
    points = draw_data(n, seed) if modes is None else modes.draw(n, seed)
    return TrainingSet(points, PromptTable(None, None), [[0]] * n, Conditioning(), batch_size, seed)


def pairs(
    n: int = 2048, batch_size: int = 64, seed: int = 0, steps: int = 24, modes: Modes | None = None
) -> TrainingSet:
    """Noise and where the teacher carries it: what the warm start (method ``regression``) learns from."""
    return trajectories(Teacher(denoiser(modes)), training_set(n, batch_size, seed, modes), n, steps, at_once=n)


def modes_reached(points: Float[Tensor, "N 2"], modes: int = MODES, std: float = STD) -> tuple[int, float]:
    """How many modes hold at least a third of their fair share of the points, and the share of points that lie on a mode.

    A point lies on a mode within four standard deviations of its centre.
    """
    distance, nearest = torch.cdist(points.double(), ring(modes)).min(1)
    on = distance < 4 * std
    counts = torch.bincount(nearest[on], minlength=modes)
    return int((counts >= len(points) / modes / 3).sum()), float(on.double().mean())


def teacher_options(steps: int = 800, batch_size: int = 256, **options: Any) -> Options:
    """How the student's denoiser is trained on the data, before distillation."""
    adam = Optimizer(learning_rate=3e-3, beta1=0.9, beta2=0.99, warmup=20, decay=True, ema=0.98)
    return Options(steps=steps, batch_size=batch_size, optimizers={"teacher": adam}, **options)


def warm_options(steps: int = 500, batch_size: int = 64, **options: Any) -> Options:
    """How the student is warmed up on ``pairs``: without it ADD leaves most modes out (docs/log.md)."""
    adam = Optimizer(learning_rate=1e-3, beta1=0.9, beta2=0.99, warmup=20, decay=True, ema=0.98)
    return Options(steps=steps, batch_size=batch_size, optimizers={"student": adam}, **options)


def add_options(steps: int = 150, batch_size: int = 64, **options: Any) -> Options:
    """How the student and its heads are trained."""
    adam = Optimizer(learning_rate=3e-4, beta1=0.0, beta2=0.99, warmup=20, ema=0.98)
    fast = Optimizer(learning_rate=3e-3, beta1=0.0, beta2=0.99, warmup=0, max_gradient_norm=0.0)
    return Options(steps=steps, batch_size=batch_size, optimizers={"student": adam, "discriminator": fast}, **options)
