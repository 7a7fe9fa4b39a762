"""Codecs: media <-> latents. The pretrained ones stand in ``pretrained/``."""

from __future__ import annotations

from torch import nn

from ..tensors import Latents, Media


class Codec(nn.Module):
    """``encode`` and ``decode``; both differentiable, both shape-preserving in the batch."""

    def encode(self, media: Media) -> Latents:
        """Media in [-1, 1] -> latents of about unit variance."""
        raise NotImplementedError("a Codec subclass gives encode()")

    def decode(self, latents: Latents) -> Media:
        """Latents -> media, about [-1, 1]; callers clamp when they write a file."""
        raise NotImplementedError("a Codec subclass gives decode()")


class IdentityCodec(Codec):
    """For models that work on the media themselves."""

    def encode(self, media: Media) -> Latents:
        """The media."""
        return media

    def decode(self, latents: Latents) -> Media:
        """The latents."""
        return latents
