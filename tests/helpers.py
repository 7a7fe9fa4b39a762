"""Tiny real components: networks of a few hundred weights that stand where the large ones stand. Nothing here is a mock."""

from __future__ import annotations

import copy
import itertools
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion import prediction
from fewstep.diffusion.schedule import Cosine, NoiseSchedule, VariancePreserving
from fewstep.methods.add import ADD, Options
from fewstep.parts.adversary import Adversary
from fewstep.parts.codec import Codec, IdentityCodec
from fewstep.parts.denoiser import Denoiser, Student, Teacher, freeze
from fewstep.parts.discriminator import Discriminator
from fewstep.parts.discriminator import Options as HeadOptions
from fewstep.parts.features.feature import FeatureNetwork, MediaFeatures
from fewstep.pretrained import UNetDenoiser, VaeCodec
from fewstep.rng import Rng
from fewstep.tensors import Batch, Conditioning, Features, Latents, Media, Time, match_dims
from fewstep.training import checkpoint, trainer

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZES = {1: (12,), 2: (6, 6), 3: (3, 4, 4)}


def stable_diffusion(zero: bool = False) -> VariancePreserving:
    """Stable Diffusion's table of betas."""
    return VariancePreserving.from_range(zero_terminal_snr=zero)


class ConvDenoiser(Denoiser):
    """Two convolutions over any number of axes, told the time and, where there is one, the pooled condition."""

    def __init__(
        self, axes: int = 2, channels: int = 2, pooled: int = 3, kind: str = "v", schedule: NoiseSchedule | None = None
    ) -> None:
        super().__init__(schedule or Cosine(), kind)
        conv, width = CONVS[axes], 8
        self.enter = conv(channels, width, 3, padding=1)
        self.told = nn.Linear(2 + pooled, width)
        self.leave = conv(width, channels, 3, padding=1)

    def _inside(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        assert cond.pooled is not None
        facts = torch.cat([torch.stack([t, t * t], 1).to(x_t), cond.pooled.to(x_t)], 1)
        hidden = self.enter(x_t)
        return torch.tanh(hidden + self.told(facts).reshape(*hidden.shape[:2], *([1] * (x_t.dim() - 2))))

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        return self.leave(self._inside(x_t, t, cond))

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        inside = self._inside(x_t, t, cond)
        return Features((inside, self.leave(inside)), t=t)


class Gaussian(Denoiser):
    """The exact posterior mean for data N(mean, std^2): no weights, any kind of prediction, any shape."""

    def __init__(self, schedule: NoiseSchedule, mean: float = 0.5, std: float = 0.3, kind: str = "x0") -> None:
        super().__init__(schedule, kind)
        self.mean, self.std = mean, std

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        a = match_dims(alpha, x_t)
        x0 = self.mean + match_dims(gain, x_t) * (x_t - a * self.mean)
        return prediction.from_x0(self.kind, x_t, x0, alpha, sigma)


class Cached(Denoiser):
    """Says again, in order, what was recorded: a teacher whose answers cannot depend on anything."""

    def __init__(self, schedule: NoiseSchedule, answers: Sequence[Tensor]) -> None:
        super().__init__(schedule, "x0")
        self._answers = iter(answers)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        return next(self._answers)


class Recorded(Denoiser):
    """Another denoiser, whose answers are written down."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.schedule, "x0")
        self.inner, self.answers = inner, []

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        self.answers.append(self.inner(x_t, t, cond).detach().clone())
        return self.answers[-1]


class Eyes(nn.Module):
    """A frozen random network: two levels, the second at half the size, and a pooled vector."""

    def __init__(self, axes: int = 2, channels: int = 2) -> None:
        super().__init__()
        conv = CONVS[axes]
        self.near = conv(channels, 4, 3, padding=1)
        self.far = conv(4, 6, 3, stride=2, padding=1)

    def forward(self, media: Media) -> Features:
        near = torch.tanh(self.near(media))
        far = torch.tanh(self.far(near))
        return Features((near, far), pooled=far.flatten(2).mean(2))


def unet(kind: str = "v", schedule: NoiseSchedule | None = None, seed: int = 0) -> UNetDenoiser:
    """diffusers' UNet2DModel, class-conditional (three classes and the null one), one channel."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False,
        norm_num_groups=4, num_class_embeds=4,
    )  # fmt: skip
    return UNetDenoiser(network, schedule or stable_diffusion(zero=True), kind)


def text_unet(kind: str = "v", schedule: NoiseSchedule | None = None, seed: int = 0) -> UNetDenoiser:
    """diffusers' UNet2DConditionModel with cross-attention to tokens of eight numbers, four channels."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    network = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip
    return UNetDenoiser(network, schedule or stable_diffusion(zero=True), kind)


def tiny_vae(seed: int = 0) -> VaeCodec:
    """diffusers' AutoencoderTiny: media [3, 2h, 2w] <-> latents [4, h, w]."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    return VaeCodec(freeze(vae))


def make_batch(
    n: int = 4, axes: int = 2, channels: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Batch:
    """Random samples, each with a pooled condition and an image embedding."""
    rng = Rng.of(seed, "batch")
    cond = Conditioning(pooled=rng.normal((n, 3), dtype), image=rng.normal((n, 5), dtype))
    null = Conditioning(pooled=torch.zeros(n, 3, dtype=dtype), image=torch.zeros(n, 5, dtype=dtype))
    return Batch(rng.normal((n, channels, *SIZES[axes]), dtype).tanh(), cond, null)


@dataclass
class Game:
    """An ADD game and everything in it."""

    add: ADD
    adversary: Adversary
    student: Student
    teacher: Teacher
    codec: Codec
    eyes: nn.Module
    discriminator: Discriminator
    batch: Batch

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every player's network."""
        return {name: player.network for name, player in self.add.players.items()}

    def frozen(self) -> dict[str, nn.Module]:
        """Whatever must never receive a gradient."""
        return {"teacher": self.teacher.denoiser, "features": self.eyes, "codec": self.codec}

    def turn(self, player: str, seed: int = 0, total: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
        """One turn without an optimiser: the losses, their gradients left in ``.grad``. Isolation is the trainer's own."""
        for network in self.networks.values():
            network.zero_grad(set_to_none=True)
        with trainer.only_trainable(self.networks, player):
            losses = self.add.losses(player, self.batch, Rng.of(seed, player))
            torch.stack(list(losses.values())).sum().backward()
        return losses


def make_game(
    axes: int = 2,
    n: int = 4,
    dtype: torch.dtype = torch.float32,
    heads: HeadOptions | None = None,
    guidance_scale: float = 2.0,
    student_options: dict[str, Any] | None = None,
    features: Callable[[nn.Module, Denoiser], FeatureNetwork] | None = None,
    codec: Codec | None = None,
    negative: Conditioning | None = None,
    schedule: NoiseSchedule | None = None,
    kind: str = "v",
    teacher_network: Denoiser | None = None,
    seed: int = 0,
    **options: Any,
) -> Game:
    """A whole game of tiny networks; ``options`` go to ``add.Options``."""
    torch.manual_seed(seed)
    student_network = ConvDenoiser(axes, kind=kind, schedule=schedule).to(dtype)
    if teacher_network is None:
        teacher_network = copy.deepcopy(student_network)
    with torch.no_grad():  # a student that has moved: equal to its teacher some gradients would vanish
        for p in student_network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    batch = make_batch(n, axes, seed=seed, dtype=dtype)
    trajectories = make_batch(n, axes, seed=seed + 1, dtype=dtype)
    start = Rng.of(seed, "start").normal_like(trajectories.x0)
    batch = replace(batch, pairs=replace(trajectories, noise=start))
    eyes = freeze(Eyes(axes).to(dtype))
    looking = MediaFeatures(eyes) if features is None else features(eyes, teacher_network)
    seen = looking(batch.x0, batch.cond, Rng.of(0))
    discriminator = Discriminator.over(seen, batch.cond, heads or HeadOptions()).to(dtype)
    student, teacher = Student(student_network, **(student_options or {})), Teacher(teacher_network, guidance_scale)
    codec = codec or IdentityCodec()
    against = Adversary(codec, looking, discriminator, Options(**options))
    add = ADD(student, teacher, codec, against, Options(**options), negative)
    return Game(add, against, student, teacher, codec, eyes, discriminator, batch)


def optimizers(**changes: Any) -> dict[str, trainer.Optimizer]:
    """One optimiser for each player of ADD."""
    student = trainer.Optimizer(learning_rate=1e-3, warmup=3, ema=0.9)
    return {
        "student": replace(student, **changes),
        "discriminator": trainer.Optimizer(learning_rate=3e-3, warmup=0, max_gradient_norm=0.0),
    }


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients a module holds."""
    return [p.grad for p in module.parameters() if p.grad is not None]


def flat_gradient(module: nn.Module) -> Tensor:
    """All of a module's gradients in one row, zeros where there is none."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    return torch.cat([p.flatten() for p in parts])


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y over log x: an order of convergence."""
    log_x, log_y = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    log_x, log_y = log_x - log_x.mean(), log_y - log_y.mean()
    return float((log_x * log_y).sum() / log_x.pow(2).sum())


def forget(package: str) -> None:
    """A package of somebody's own is no longer imported, so that the next test finds its own one of that name."""
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[module]


def pairs(values: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Neighbours."""
    return list(itertools.pairwise(values))


@contextmanager
def disk_of(bytes_left: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond this: what a full disk does, to this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Every tensor and every number, bit for bit, but for the time that it took."""
    (tensors_a, plain_a), (tensors_b, plain_b) = (checkpoint.flatten(state | {"spent": 0.0}) for state in (a, b))
    assert plain_a == plain_b
    assert tensors_a.keys() == tensors_b.keys()
    different = [k for k in tensors_a if not torch.equal(tensors_a[k], tensors_b[k])]
    assert not different, different[:5]
