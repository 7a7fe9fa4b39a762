"""A diffusers pipeline folder -> Denoiser, Codec and Conditioner: the family that fits its configs says how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..parts.codec import Codec
from ..parts.conditioner import Conditioner, Unread
from .families import Configs, ModelFamily, family_of
from .networks import NetworkDenoiser, VaeCodec
from .quiet import quiet
from .reading import Parts, refuse_pickles, refuse_quantised
from .schedules import kind_of, schedule_of
from .text import unread


@dataclass
class Pretrained:
    """A model from disk, in fewstep's own terms."""

    family: ModelFamily
    denoiser: NetworkDenoiser
    codec: Codec
    conditioner: Conditioner
    folder: Path
    factor: int
    """Pixels a latent, along each side."""

    @property
    def multiple(self) -> int:
        """Sides of its media are multiples of this: of the codec's factor, and of the network's patches."""
        return self.factor * self.patch

    @property
    def patch(self) -> int:
        """Latents a token of the network, along each side."""
        return self.family.patch(self.denoiser.network.config)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample's latents, ``(C, *S)``."""
        return self.family.latent_shape(self.denoiser.network.config)

    @property
    def native_size(self) -> tuple[int, ...]:
        """Size of one sample's media, ``S``: what the latents decode to."""
        return tuple(self.factor * side for side in self.latent_shape[1:])

    @property
    def longest(self) -> float:
        """The longest side of its media, in pixels."""
        places = self.family.longest(self.denoiser.network.config)
        return self.factor * places if places else math.inf

    def to(self, device: torch.device | str) -> Pretrained:
        """Move every part; returns self."""
        for part in (self.denoiser, self.codec, self.conditioner):
            part.to(device)
        return self


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Pretrained:
    """A diffusers folder -> Denoiser, Codec and Conditioner; raises ValueError with the fix on bad input."""
    configs, family = looked_at(folder)
    parts = Parts(folder, dict(configs.index), dtype)
    with quiet():
        network = parts(family.component)
        codec = family.codec(parts)
        conditioner = family.conditioner(parts, network)
    kind = kind_of(dict(configs.scheduler))
    denoiser = family.denoiser(network, family.schedule(configs), kind, codec)
    factor = codec.factor if isinstance(codec, VaeCodec) else 1
    return Pretrained(family, denoiser, codec, conditioner, folder, factor)


def looked_at(folder: Path) -> tuple[Configs, ModelFamily]:
    """A folder's configs and its family, all refused that the files themselves tell: no weights are read."""
    configs = Configs.read(folder)
    refuse_pickles(folder)
    refuse_quantised(folder)
    schedule_of(dict(configs.scheduler))
    family = family_of(configs)
    family.check(configs)
    if not all(family.latent_shape(configs.of(family.component))[1:]):
        raise ValueError(
            f"{folder}/{family.component}/config.json has no sample_size, so nothing says what size its pictures are: write "
            "the side of its latents there (64 for pictures of 512 pixels)"
        )
    channels, kept = family.latent_shape(configs.of(family.component))[0], configs.of("vae").get("latent_channels", 0)
    if kept and kept != channels:
        raise ValueError(
            f"the VAE keeps {kept} channels of latents, the {family.component} draws {channels}: use the VAE that it was "
            "trained with"
        )
    return configs, family


def native_size(folder: Path) -> tuple[int, ...]:
    """Size of the media that a folder's model draws, ``S``, by its configs alone: no weights are read."""
    configs, family = looked_at(folder)
    return family.native_size(configs)


def reader_of(folder: Path) -> Callable[[Sequence[str]], list[Unread | None]]:
    """Says of prompts what the text encoders of a diffusers folder would not read of them; their tokenizers alone are loaded."""
    configs = Configs.read(folder)
    with quiet():
        found = family_of(configs).reading(Parts(folder, dict(configs.index), torch.float32))
    if not found:
        raise ValueError(f"{folder} has no tokenizer: give a text-to-image pipeline folder")
    return partial(unread, found)
