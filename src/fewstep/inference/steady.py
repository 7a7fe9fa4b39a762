"""Steadiness of a stream: how much it flickers, and a knob against it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
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


class Smoother:
    """Exponential mean over frames: ``amount`` of what was shown stays. A cut in the input starts afresh."""

    def __init__(self) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._input: Pixels | None = None
        self._output: Pixels | None = None
        self.flicker: float | None = None
        """Of the newest frame against the one before it."""

    def __call__(self, now_in: Pixels, now_out: Pixels, amount: float) -> Pixels:
        """The frame to show for a new output and the input it was drawn from."""
        shown = self._smoothed(now_in, now_out, amount)
        self.flicker = None
        if self._input is not None and self._output is not None and self._comparable(now_in, shown):
            self.flicker = flicker(self._input, now_in, self._output, shown)
        self._input, self._output = now_in, shown
        return shown

    def _comparable(self, now_in: Pixels, now_out: Pixels) -> bool:
        same_in = self._input is not None and self._input.shape == now_in.shape
        same_out = self._output is not None and self._output.shape == now_out.shape
        return same_in and same_out and now_in.shape == now_out.shape

    def _smoothed(self, now_in: Pixels, now_out: Pixels, amount: float) -> Pixels:
        known = self._mean is not None and self._mean.shape == now_out.shape and self._comparable(now_in, now_out)
        if amount <= 0 or not known or self._cut(now_in):
            self._mean = now_out.astype(np.float32) if amount > 0 else None
            return now_out
        assert self._mean is not None
        self._mean = amount * self._mean + (1 - amount) * now_out.astype(np.float32)
        return np.clip(np.rint(self._mean), 0, 255).astype(np.uint8)

    def _cut(self, now_in: Pixels) -> bool:
        assert self._input is not None
        return float(_difference(now_in, self._input).mean()) > CUT * 255
