"""diffusers networks in fewstep's terms: a UNet or a transformer as a Denoiser, a VAE as a Codec."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    def tapped(self) -> Sequence[nn.Module]:
        """The blocks whose outputs are features."""
        raise NotImplementedError("a NetworkDenoiser subclass gives tapped()")

    def told(self, t: Time) -> Tensor:
        """The timestep that the network is told, ``[B]``: in the units of its own table."""
        n = getattr(self.schedule, "n_timesteps", 1000)
        if self.kind != "flow":
            return to_timestep(t, n)
        last = getattr(self.schedule, "last", 1.0)
        if last == 1:
            return t * n
        timestep = t.double() * last * n
        return valued(timestep, (timestep + 1e-6).floor())  # the multistep solvers' whole numbers

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


def is_sdxl(network: Any) -> bool:
    """Whether a UNet is told the picture's size and a pooled text beside the time: the stock pipeline is then SDXL's."""
    return network.config.get("addition_embed_type") == "text_time"


class UNetDenoiser(NetworkDenoiser):
    """A diffusers UNet (``UNet2DConditionModel``, SDXL's too, or ``UNet2DModel`` with class labels) as a Denoiser."""

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str, factor: int = 8) -> None:
        """``factor`` pixels a latent: SDXL's network is told the picture's size (arXiv 2307.01952, section 2.2)."""
        super().__init__(network, schedule, kind)
        self._has_text = "cross_attention_dim" in network.config
        self._has_size = is_sdxl(network)
        self._factor = factor
        self._sizes: dict[tuple[Any, ...], Tensor] = {}
        self.reads = ("tokens", "pooled") if self._has_size else ("tokens",) if self._has_text else ("labels",)

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The UNet's raw output."""
        timestep = self.told(t)
        x, cond = self._own(x_t, cond)
        if not self._has_text:
            return self.network(x, timestep, class_labels=cond.labels, return_dict=False)[0]
        added = {"text_embeds": cond.pooled, "time_ids": self.sizes(x)} if self._has_size else None
        return self.network(x, timestep, encoder_hidden_states=cond.tokens, added_cond_kwargs=added, return_dict=False)[
            0
        ]

    def sizes(self, x_t: Latents) -> Tensor:
        """SDXL's size conditioning ``[B, 6]``: the original size, the crop's corner and the target size, in pixels.

        As the stock pipeline fills it in: the picture that is drawn is its own original, uncropped.
        """
        key = (*x_t.shape[2:], x_t.dtype, x_t.device)
        if key not in self._sizes:  # made once: a CUDA graph may not wait for numbers from the host
            height, width = (side * self._factor for side in x_t.shape[2:])
            self._sizes[key] = x_t.new_tensor([height, width, 0, 0, height, width])
        return self._sizes[key].expand(len(x_t), -1)

    def tapped(self) -> Sequence[nn.Module]:
        """Every down block, and the mid block."""
        return [*self.network.down_blocks, self.network.mid_block]


class TransformerDenoiser(NetworkDenoiser):
    """Stable Diffusion 3's transformer (``SD3Transformer2DModel``, arXiv 2403.03206) as a Denoiser."""

    reads = ("tokens", "pooled")

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The transformer's raw output: the flow ``noise - x0``."""
        x, cond = self._own(x_t, cond)
        return self.network(
            hidden_states=x,
            timestep=self.told(t).to(x_t.dtype),
            encoder_hidden_states=cond.tokens,
            pooled_projections=cond.pooled,
            return_dict=False,
        )[0]

    def tapped(self) -> Sequence[nn.Module]:
        """Every third of the blocks, and the last."""
        blocks = list(self.network.transformer_blocks)
        return [*blocks[2:-1:3], blocks[-1]]

    def _level(self, output: Any) -> Tensor:
        return output[-1].transpose(1, 2)  # (text, picture) tokens [B, N, C] -> [B, C, N]


STATISTICS = ("shift_factor", "latents_mean", "latents_std")
"""Keys of a VAE's config that describe its latents, apart from ``scaling_factor``."""


class VaeCodec(Codec):
    """A diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, with the statistics of its latents folded in.

    ``latents = (own - mean) * scaling_factor / std``, by channel; ``mean`` is ``latents_mean``, or else ``shift_factor``.
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
            if both and len(values) != vae.config.latent_channels:
                raise ValueError(
                    f"the VAE's latents_{name} has {len(values)} numbers for {vae.config.latent_channels} channels: "
                    "give one for each in vae/config.json"
                )
            self.register_buffer(f"_{name}", torch.tensor(values).float() if both else None, persistent=False)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels a latent, along each side."""

    def encode(self, media: Media) -> Latents:
        """Deterministic: the mean of the posterior where there is one. The media are moved to where the VAE is."""
        own = next(self.vae.parameters())
        out = self.vae.encode(media.to(own.device, own.dtype))
        latents = (out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents).to(media.dtype)
        if self._mean is None or self._std is None:
            return (latents - self._shift) * self._scale
        return (latents - by_channel(self._mean, latents)) * (self._scale / by_channel(self._std, latents))

    def decode(self, latents: Latents) -> Media:
        """Latents -> media, in the latents' dtype whatever the VAE's is."""
        if self._mean is None or self._std is None:
            own = latents / self._scale + self._shift
        else:
            own = latents * (by_channel(self._std, latents) / self._scale) + by_channel(self._mean, latents)
        return self.vae.decode(own.to(next(self.vae.parameters()).dtype), return_dict=False)[0].to(latents.dtype)


def _number(config: Any, name: str) -> float:
    """A number of the VAE's config, 0 where it has none. Raises ValueError for anything else."""
    value = getattr(config, name, None) or 0.0
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"the VAE's {name} is {value!r}: write a number in vae/config.json")
    return float(value)


def by_channel(values: Tensor, latents: Latents) -> Tensor:
    """``[C]`` so that it meets ``[B, C, *S]``, in its dtype."""
    return values.to(latents.dtype).reshape(-1, *[1] * (latents.dim() - 2))
