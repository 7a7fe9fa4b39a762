"""Between the pixels of the wire and latents: bytes in, bytes out, and every half compiled and timed.

The way from bytes to [-1, 1] and back is part of what is compiled. As torch operations of their own, met with caches that a
network has just emptied, these few took a twentieth of a 64 px picture's time.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import UInt8
from torch import Tensor

from ...inference import backend as backends
from ...inference.backend import Backend, Compiled
from ...modality import image
from ...parts.codec import Codec
from ...tensors import Latents

Pictures = UInt8[Tensor, "B H W 3"]


class PixelCodec(Codec):
    """A picture codec that takes and gives bytes."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def encode(self, pixels: Pictures) -> Latents:
        """Pixels -> latents."""
        return self.codec.encode(image.from_uint8(pixels).movedim(-1, 1))

    def decode(self, latents: Latents) -> Pictures:
        """Latents -> pixels."""
        return image.to_uint8(self.codec.decode(latents)).movedim(1, -1).contiguous()


class TimedCodec:
    """A PixelCodec whose halves are compiled for known shapes and timed."""

    def __init__(self, codec: Codec, spend: Callable[[str, float], None], clock: Callable[[], float]) -> None:
        self.codec, self._spend, self._clock = PixelCodec(codec), spend, clock
        self._decoders: dict[tuple[int, ...], Compiled] = {}
        self._encoders: dict[tuple[int, ...], Compiled] = {}

    def compile(self, backend: Backend, latents: Latents, pixels: Pictures) -> None:
        """Make both halves ready for these shapes."""
        self._decoders[tuple(latents.shape)] = backends.compile_decoder(backend, self.codec, latents)
        self._encoders[tuple(pixels.shape)] = backends.compile_encoder(backend, self.codec, pixels)

    def encode(self, pixels: Pictures) -> Latents:
        """Pixels -> latents."""
        began = self._clock()
        latents = self._encoders.get(tuple(pixels.shape), self.codec.encode)(pixels)
        self._spend("codec_in", began)
        return latents

    def decode(self, latents: Latents) -> Pictures:
        """Latents -> pixels."""
        began = self._clock()
        pixels = self._decoders.get(tuple(latents.shape), self.codec.decode)(latents).cpu()
        self._spend("codec_out", began)
        return pixels
