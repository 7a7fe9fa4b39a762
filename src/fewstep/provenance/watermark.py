"""An invisible mark in the pixels: keyed spread spectrum in the block transform, informed by the picture under it.

Embedding pushes low-corner DCT coefficients of the luminance towards keyed signs, only as far as each still counts for
the detector and only where a push pays; busy blocks take more, and blocks at the white or black limit are driven harder,
because half of their mark is clipped away. What a detection means stands in :mod:`fewstep.provenance.detection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fewstep.provenance.blocks import CORNER, SIDE, Bytes, Floats, backward_rgb, fold, forward_rgb, whole_blocks
from fewstep.provenance.chips import SMALLEST_SIDE, blocks_of, keyed_chips, layout_of, tiled_pattern
from fewstep.provenance.detection import FALSE_POSITIVE_RATE, Detection, Evidence, decide, despread, pool, respond
from fewstep.provenance.search import search

PUBLIC_KEY = b"fewstep public watermark key 1"
"""The default key. It is public on purpose: anybody can check a mark made with it, and anybody can forge one."""
ONES = np.ones((CORNER, CORNER), np.float32)
PAYLOAD_LIMIT = 1 << 48
BAND_VALUES = 1 << 17
"""Channel values marked at a time: more than this leaves the cache, and the allocator, in which the work is quick."""
Effort = Literal["aligned", "offsets", "scales"]


@dataclass(frozen=True)
class WatermarkOptions:
    """How strong the mark is and how sure a finding must be."""

    false_positive_rate: float = FALSE_POSITIVE_RATE
    """Upper bound on the chance that an unmarked picture is called marked, after everything that was searched."""
    psnr_db: float = 42.0
    """No picture of 128 px and up ends below this."""
    small_psnr_db: float = 41.0
    """The same under 128 px, where every chip is needed."""
    strength: float = 6.5
    """Push of one coefficient in a flat block, in grey levels of the orthonormal transform: WebP 75 forgets less."""
    masking: float = 0.02
    """Relative growth of the push for every grey level of activity in the block."""
    clipping_gain: float = 0.6
    """Extra push, relative, where a block sits at the white or black limit and half of the mark is cut off."""
    largest_push: float = 20.0
    """No coefficient is moved further than this, however busy its block."""
    target: float = 10.0
    """Pushing stops where a coefficient is this far on the right side: the peak of the detector's response."""
    reach: float = 22.0
    """The detector ignores coefficients beyond this: there the picture speaks, not the mark."""


@runtime_checkable
class Watermark(Protocol):
    """The one interface: ours below, TrustMark or another behind a small adapter."""

    def embed(self, picture: Bytes, payload: int) -> Bytes:
        """Return a marked copy of ``picture [H, W, 3]`` (uint8)."""
        ...

    def detect(self, picture: Bytes, effort: Effort = "aligned") -> Detection:
        """Say whether ``picture`` carries the mark, searching as hard as ``effort`` allows."""
        ...


DEFAULTS = WatermarkOptions()


class SpreadSpectrum:
    """The mark of this house. Cheap enough for every streamed frame; see ``docs/provenance.md`` for what it survives."""

    def __init__(self, key: bytes = PUBLIC_KEY, options: WatermarkOptions = DEFAULTS) -> None:
        if not key:
            raise ValueError("the watermark key is empty: give any bytes, or leave it out for the public key")
        self.key = key
        self.options = options

    def capacity(self, height: int, width: int) -> int:
        """Payload bits that a picture of this size carries."""
        return layout_of(height, width).payload_bits

    def embed(self, picture: Bytes, payload: int) -> Bytes:
        """Return a marked copy; a picture that carries fewer than 48 bits takes the low bits of ``payload``."""
        check_picture(picture)
        if not 0 <= payload < PAYLOAD_LIMIT:
            raise ValueError(f"watermark payload {payload} is out of range: use a whole number from 0 to 2^48 - 1")
        height, width = picture.shape[:2]
        layout = layout_of(height, width)
        payload &= (1 << layout.payload_bits) - 1
        signs = tiled_pattern(self.key, layout, payload, *blocks_of(height, width))
        marked = np.array(picture, order="C")
        blocks = whole_blocks(marked, layout.row_step)
        floor_db = self.options.small_psnr_db if min(height, width) < 128 else self.options.psnr_db
        band = max(1, BAND_VALUES // blocks[0].size)
        for start in range(0, len(blocks), band):
            self._mark(blocks[start : start + band], signs[start : start + band], layout.row_step, floor_db)
        return marked

    def _mark(self, blocks: Bytes, signs: Floats, row_step: int, floor_db: float) -> None:
        """Mark one band of block rows in place, within its own noise budget."""
        values = blocks.astype(np.float32)
        coefficients = forward_rgb(values)
        at_limit = np.abs(coefficients[:, 0, :, 0] - 127.5 * SIDE) > (127.5 - 4) * SIDE
        move = self._push(signs * coefficients, self._allowed(coefficients, at_limit))
        move *= signs
        move *= within_budget(move, at_limit, row_step * blocks.size // 3, floor_db)
        values += backward_rgb(move)
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
        np.copyto(blocks, values, casting="unsafe")

    def detect(self, picture: Bytes, effort: Effort = "aligned") -> Detection:
        """Read the mark where :meth:`embed` put it; with "offsets" after any crop, with "scales" after a resize too."""
        check_picture(picture)
        found = self.read(picture, looks=1 if effort == "aligned" else 2)
        if found.found or effort == "aligned":
            return found
        return search(self, picture, found, scales=effort == "scales")

    def read(self, picture: Bytes, looks: int = 1) -> Detection:
        """The mark as it was embedded in a picture of this size: the first of ``looks`` that must share the error rate."""
        chips = keyed_chips(self.key, layout_of(*picture.shape[:2]))
        layout = chips.layout
        blocks = whole_blocks(np.ascontiguousarray(picture), layout.row_step)
        response = respond(forward_rgb(blocks.astype(np.float32)), self.options.reach)
        heard = np.zeros((layout.tile, CORNER, layout.tile, CORNER), np.float32)
        heard[:: layout.row_step] = fold(response, layout.tile // layout.row_step, layout.tile)
        return decide(despread(chips, heard), self.options.false_positive_rate, hypotheses=looks)

    def pool(self, detections: Iterable[Detection]) -> Detection:
        """All frames of a stream as one piece of evidence; see :func:`fewstep.provenance.detection.pool`."""
        return pool(detections, self.options.false_positive_rate)

    def _allowed(self, coefficients: Floats, at_limit: NDArray[np.bool_]) -> Floats:
        """The furthest that each coefficient may go: more in a busy block, more where clipping will take half of it."""
        options = self.options
        energy = np.abs(coefficients)
        energy[:, 0, :, 0] = at_limit * (options.clipping_gain / options.masking)
        rows, _, columns, _ = energy.shape
        down = np.matmul(ONES, energy.reshape(rows, CORNER, columns * CORNER))
        allowed = down.reshape(-1, CORNER) @ (ONES * (options.strength * options.masking))
        allowed += options.strength
        np.minimum(allowed, options.largest_push, out=allowed)
        return allowed.reshape(coefficients.shape)

    def _push(self, agreement: Floats, allowed: Floats) -> Floats:
        """How far to move each coefficient towards its sign: nothing where it is there already or beyond hope."""
        target = self.options.target
        push = np.clip(target - agreement, 0, allowed)
        push *= agreement > -(target + 0.4 * allowed)
        return push


def within_budget(move: Floats, at_limit: NDArray[np.bool_], pixels: int, floor_db: float) -> float:
    """Factor that keeps ``move`` within the PSNR over ``pixels``; 4% are left for rounding.

    Of what is added to a block at the white or black limit, clipping takes half.
    """
    allowed = 0.96 * pixels * 255.0**2 / 10 ** (floor_db / 10)
    spent = float(np.vdot(move, move))
    if at_limit.any():
        spent -= 0.5 * float(np.square(move).sum((1, 3))[at_limit].sum())
    return min(1.0, math.sqrt(allowed / spent)) if spent else 1.0


def check_picture(picture: Bytes) -> None:
    """Raise a ValueError unless ``picture`` is uint8 ``[H, W, 3]`` and large enough."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture to mark is uint8 [H, W, 3], this is {picture.dtype} {list(picture.shape)}")
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        layout_of(*picture.shape[:2])


class StreamDetector:
    """Pools a stream as it comes: give it frames, ask for the verdict so far. Every look counts as a hypothesis."""

    def __init__(self, watermark: SpreadSpectrum) -> None:
        self._watermark = watermark
        self._evidence: Evidence | None = None
        self._frames = 0

    def add(self, frame: Bytes) -> Detection:
        """Read one more frame and return the verdict over all of them."""
        evidence = self._watermark.read(frame).evidence
        assert evidence is not None
        self._evidence = evidence if self._evidence is None else self._evidence + evidence
        self._frames += 1
        rate = self._watermark.options.false_positive_rate
        return replace(decide(self._evidence, rate, hypotheses=self._frames), frames=self._frames)
