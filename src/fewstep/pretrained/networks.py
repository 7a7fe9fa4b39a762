"""diffusers networks in fewstep's terms: a UNet or a transformer as a Denoiser, a VAE as a Codec."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.schedule import NoiseSchedule
from ..parts.codec import Codec
from ..parts.denoiser import Denoiser
from ..tensors import Conditioning, Features, Latents, Media, Time, valued
from .schedules import to_timestep


class NetworkDenoiser(Denoiser):
    """A diffusers network as a Denoiser. Subclasses say how it is called and which of its blocks are tapped."""

    reads: tuple[str, ...] = ("tokens",)
    """Fields of Conditioning that the network is given."""

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(schedule, kind)
        self.network = network
        self.guidance = 0.0
        """The guidance scale that the network is told, where it takes one."""

    def blocks(self) -> list[nn.Module]:
        """The network's blocks, in order: those that are tapped, checkpointed and sharded."""
        raise NotImplementedError("a NetworkDenoiser subclass gives blocks()")

    def tapped(self) -> Sequence[nn.Module]:
        """The blocks whose outputs are features."""
        return self.blocks()

    def told(self, t: Time) -> Tensor:
        """The timestep that the network is told, ``[B]``: in the units of its own table."""
        n = getattr(self.schedule, "n_timesteps", 1000)
        if self.kind != "flow":
            return to_timestep(t, n)
        last, shift = (getattr(self.schedule, name, 1.0) for name in ("last", "shift"))
        if last == 1:
            return (t if shift == 1 else self.schedule.sigma(t)) * n
        timestep = self.schedule.sigma(t).double() * n
        return valued(timestep, (timestep + 1e-6).floor())  # the multistep solvers' whole numbers

    def as_drawn(self, noise: Latents) -> Latents:
        """Fresh noise of a step with its numbers where the stock pipeline has them, whose scheduler may see packed latents."""
        return noise

    def _own(self, x_t: Latents, cond: Conditioning) -> tuple[Latents, Conditioning]:
        """The network's inputs, in its own precision."""
        dtype = next(self.network.parameters()).dtype
        return x_t.to(dtype), cond.to(dtype)

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        """Outputs of the tapped blocks (LADD, arXiv 2403.12015, taps its teacher likewise)."""
        taps: list[Tensor] = []
        handles = [block.register_forward_hook(lambda *a: taps.append(self._level(a[-1]))) for block in self.tapped()]
        try:
            self.predict(x_t, t, cond)
        finally:
            for handle in handles:
                handle.remove()
        return Features(tuple(taps), t=t)

    def _level(self, output: Any) -> Tensor:
        return output[0] if isinstance(output, tuple) else output


class UNetDenoiser(NetworkDenoiser):
    """A diffusers UNet (``UNet2DConditionModel``, or ``UNet2DModel`` with class labels) as a Denoiser."""

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(network, schedule, kind)
        self._has_text = "cross_attention_dim" in network.config
        self.reads = ("tokens",) if self._has_text else ("labels",)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The UNet's raw output."""
        timestep = self.told(t)
        x, cond = self._own(x_t, cond)
        if not self._has_text:
            return self.network(x, timestep, class_labels=cond.labels, return_dict=False)[0]
        added = self.added(x, cond)
        if width := self.network.config.get("time_cond_proj_dim"):
            added["timestep_cond"] = embedded_guidance(self.guidance, width, x)
        return self.network(x, timestep, encoder_hidden_states=cond.tokens, **added, return_dict=False)[0]

    def added(self, x_t: Latents, cond: Conditioning) -> dict[str, Any]:
        """What the network is told beside the time and the text."""
        return {}

    def blocks(self) -> list[nn.Module]:
        """The down blocks, the mid block and the up blocks."""
        return [*self.network.down_blocks, self.network.mid_block, *self.network.up_blocks]

    def tapped(self) -> Sequence[nn.Module]:
        """Every down block, and the mid block."""
        return [*self.network.down_blocks, self.network.mid_block]


def embedded_guidance(scale: float, width: int, like: Latents) -> Tensor:
    """``[B, width]``: sines and cosines of ``1000 (scale - 1)``, as diffusers' pipelines tell it (arXiv 2210.03142, section 4).

    LCM (arXiv 2310.04378, section 4.2) writes the guided score as ``(1 + w) conditional - w null``: w is ``scale - 1``.
    """
    half = width // 2
    step = math.log(10000.0) / (half - 1)
    angle = 1000.0 * (scale - 1) * torch.exp(torch.arange(half, device=like.device, dtype=torch.float32) * -step)
    told = torch.cat([angle.sin(), angle.cos()])
    return nn.functional.pad(told, (0, width % 2)).to(like.dtype).expand(len(like), -1)


class TransformerDenoiser(NetworkDenoiser):
    """A transformer as a Denoiser. Subclasses say how it is called, and how its blocks' outputs become features."""

    def blocks(self) -> list[nn.Module]:
        """Its blocks, in order."""
        return list(self.network.transformer_blocks)

    def tapped(self) -> Sequence[nn.Module]:
        """Every third of the blocks, and the last."""
        return every_third(self.blocks())


def every_third(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Every third of the blocks, and the last."""
    return [*blocks[2:-1:3], blocks[-1]]


STATISTICS = ("shift_factor", "latents_mean", "latents_std")
"""Keys of a VAE's config that describe its latents, apart from ``scaling_factor``."""


class VaeCodec(Codec):
    """A diffusers ``AutoencoderKL``, ``AutoencoderTiny`` or ``AutoencoderDC``, with the statistics of its latents folded in.

    ``latents = (own - mean) * scaling_factor / std``, by channel; ``mean`` is ``latents_mean``, or else ``shift_factor``.
    An autoencoder of videos (``AutoencoderKLQwenImage``) sees a picture as a video of one frame.
    """

    _mean: Tensor | None
    _std: Tensor | None

    def __init__(self, vae: Any, reads: Sequence[str] = STATISTICS) -> None:
        """``reads`` names the `STATISTICS` that the model's stock pipeline reads: the others are left alone, as there.

        Raises ValueError for a mean or deviation that has not one number a channel, for a factor that is none.
        """
        super().__init__()
        self.vae = vae
        self._scale = _number(vae.config, "scaling_factor") or 1.0
        told: list[Any] = [getattr(vae.config, name, None) if name in reads else None for name in STATISTICS]
        shift, mean, std = told
        self._shift = _number(vae.config, "shift_factor") if shift else 0.0
        both = mean is not None and std is not None  # the stock pipelines read both or neither
        for name, values in (("mean", mean), ("std", std)):
            channels = vae.config.get("latent_channels") or vae.config.get("z_dim")
            if both and len(values) != channels:
                raise ValueError(
                    f"the VAE's latents_{name} has {len(values)} numbers for {channels} channels: "
                    "give one for each in vae/config.json"
                )
            self.register_buffer(f"_{name}", torch.tensor(values).float() if both else None, persistent=False)
        self.factor = factor_of(vae.config)
        """Pixels a latent, along each side."""
        self._of_videos = OF_VIDEOS in vae.config

    def encode(self, media: Media) -> Latents:
        """Deterministic: the mean of the posterior where there is one. The media are moved to where the VAE is."""
        own = next(self.vae.parameters())
        given = media.to(own.device, own.dtype)
        out = self.vae.encode(given.unsqueeze(2) if self._of_videos else given)
        found = out.latent_dist.mean if hasattr(out, "latent_dist") else out[0]  # some have no posterior
        latents = (found[:, :, 0] if self._of_videos else found).to(media.dtype)
        if self._mean is None or self._std is None:
            return (latents - self._shift) * self._scale
        return (latents - by_channel(self._mean, latents)) * (self._scale / by_channel(self._std, latents))

    def decode(self, latents: Latents) -> Media:
        """Latents -> media, in the latents' dtype whatever the VAE's is."""
        if self._mean is None or self._std is None:
            own = latents / self._scale + self._shift
        else:
            own = latents * (by_channel(self._std, latents) / self._scale) + by_channel(self._mean, latents)
        own = own.to(next(self.vae.parameters()).dtype)
        if self._of_videos:
            return self.vae.decode(own.unsqueeze(2), return_dict=False)[0][:, :, 0].to(latents.dtype)
        return self.vae.decode(own, return_dict=False)[0].to(latents.dtype)


OF_VIDEOS = "temperal_downsample"
"""The line of a VAE's config, spelled so, that stands for an autoencoder of videos: which of its halvings are in time, too."""


def factor_of(config: Mapping[str, Any]) -> int:
    """Pixels a latent, along each side, from a VAE's config: it halves between its levels."""
    if OF_VIDEOS in config:
        return int(2 ** len(config[OF_VIDEOS]))
    levels = config.get("block_out_channels") or config.get("encoder_block_out_channels") or ()
    return int(2 ** max(0, len(levels) - 1))


def _number(config: Any, name: str) -> float:
    """A number of the VAE's config, 0 where it has none. Raises ValueError for anything else."""
    value = getattr(config, name, None) or 0.0
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"the VAE's {name} is {value!r}: write a number in vae/config.json")
    return float(value)


def by_channel(values: Tensor, latents: Latents) -> Tensor:
    """``[C]`` so that it meets ``[B, C, *S]``, in its dtype."""
    return values.to(latents.dtype).reshape(-1, *[1] * (latents.dim() - 2))
