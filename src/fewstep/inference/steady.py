"""Steadiness of a stream: how much it flickers, and a knob against it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..pixels import Pixels

STILL = 2
"""Grey levels an input pixel may move and still count as still."""
CUT = 0.2
"""Mean change of the input, of full scale, from which on a new scene has begun."""


def flicker(before_in: Pixels, now_in: Pixels, before_out: Pixels, now_out: Pixels) -> float | None:
    """Mean change of the output where the input stood still, of full scale: 0 is steady. None where nothing stood still.

    No optical flow is guessed: what moved is left out. On a static input every change is flicker.
    """
    still = ~_grown(_any_channel(_difference(now_in, before_in) > STILL))
    places = np.count_nonzero(still)
    if not places:
        return None
    change = _difference(now_out, before_out) * still[..., None]
    return float(change.sum()) / (3 * 255 * places)


def _difference(a: Pixels, b: Pixels) -> Pixels:
    """Absolute, without leaving bytes."""
    return np.maximum(a, b) - np.minimum(a, b)


def _any_channel(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``any(-1)``: numpy is slow along an axis of three."""
    return found[..., 0] | found[..., 1] | found[..., 2]


def _grown(moved: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With every pixel's eight neighbours."""
    wide = moved.copy()
    wide[1:] |= moved[:-1]
    wide[:-1] |= moved[1:]
    both = wide.copy()
    both[:, 1:] |= wide[:, :-1]
    both[:, :-1] |= wide[:, 1:]
    return both


@dataclass(frozen=True)
class Frame:
    """A frame that was shown, and the picture it was drawn from."""

    given: Pixels
    shown: Pixels

    def like(self, other: Frame) -> bool:
        """Whether every picture of both is of one size."""
        return self.given.shape == self.shown.shape == other.given.shape == other.shown.shape


class Smoother:
    """Exponential mean over frames: ``amount`` of what was shown stays. A cut in the input starts afresh, and so does another
    ``recipe``: a mean of two prompts, seeds or strengths would be a picture of neither."""

    def __init__(self) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._recipe: Hashable = None
        self._before: Frame | None = None
        self._now: Frame | None = None
        self.settled = True
        """Whether the newest frame is what was drawn, to the last bit. If not, the same input drawn again comes nearer."""
        self.flicker: float | None = None
        """Of the two frames that `measure` compared last."""

    def __call__(self, now_in: Pixels, now_out: Pixels, amount: float, recipe: Hashable = None) -> Pixels:
        """The frame to show for a new output, the input it was drawn from, and all else that it was drawn with."""
        drawn = Frame(now_in, now_out)
        if amount <= 0 or self._mean is None or recipe != self._recipe or self._other_scene(drawn):
            self._mean = now_out.astype(np.float32) if amount > 0 else None
            shown = now_out
        else:
            self._mean = amount * self._mean + (1 - amount) * now_out.astype(np.float32)
            shown = np.clip(np.rint(self._mean), 0, 255).astype(np.uint8)
        self._recipe, self.settled = recipe, np.array_equal(shown, now_out)
        self._before, self._now = self._now, Frame(now_in, shown)
        return shown

    def measure(self) -> None:
        """Find the flicker between the newest two frames: when the newest is on its way, nobody waits for this."""
        before, now = self._before, self._now
        if before is None or now is None or not now.like(before):
            self.flicker = None
        else:
            self.flicker = flicker(before.given, now.given, before.shown, now.shown)

    def _other_scene(self, drawn: Frame) -> bool:
        if self._now is None or not drawn.like(self._now):
            return True
        return float(_difference(drawn.given, self._now.given).mean()) > CUT * 255
