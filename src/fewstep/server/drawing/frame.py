"""One frame on its way: the decoded input, the job for the engine, and the drawn picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...inference.steady import Smoother
from ...parts.conditioner import Unread
from ...pixels import Pixels
from ..wire.protocol import DrawRequest, ProtocolError


@dataclass(frozen=True)
class Given:
    """What a request brings, decoded: nothing, a picture, or a picture and a mask."""

    pictures: tuple[Pixels, ...] = ()
    ms: float = 0.0
    """Milliseconds that decoding took, in another thread than the one that draws."""


@dataclass(frozen=True)
class Job:
    """One request of a batch."""

    request: DrawRequest
    encoder: str
    smoother: Smoother = field(default_factory=Smoother)
    given: Given | ProtocolError | None = None
    """The decoded input; None has the engine decode it when it draws."""


@dataclass(frozen=True)
class Drawn:
    """One picture."""

    pixels: Pixels
    """As drawn: without a watermark, and without the older frames that `Smoother` mixes in. Saved files are made from it."""
    data: bytes
    """As sent: smoothed, watermarked and encoded."""
    encoder: str
    steps: int
    """Steps that were taken."""
    strength: float
    """How far a picture could be changed: the student's time that is nearest to the strength in the request."""
    stages: dict[str, float]
    """Milliseconds."""
    unread: Mapping[str, Unread] = field(default_factory=dict)
    """Which of ``prompt`` and ``blend_prompt`` were not read whole."""
    given_ms: float = 0.0
    """The part of the stage ``decode`` that was done before its turn came, in milliseconds."""
    settled: bool = True
    """Whether the picture sent is the picture drawn; false while older frames still show in it."""
    far: tuple[str, ...] = ()
    """The nearest concepts, if the prompt is far from every concept that the model knows by name; else none."""

    def other_ms(self, served_ms: float) -> float:
        """Milliseconds of the time served that belong to no stage."""
        return max(0.0, served_ms + self.given_ms - sum(self.stages.values()))
