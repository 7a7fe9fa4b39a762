"""An invisible mark in the pixels: keyed spread spectrum in the block transform, shaped by the picture that hides it.

Embedding pushes low-corner DCT coefficients of the luminance towards keyed signs, only as far as each still counts for
the detector and only where a push pays. Busy blocks take more; in smooth blocks few coefficients are pushed, and those far
enough for a codec to keep them, while no pixel there moves by more than three levels. What a detection means stands in
:mod:`fewstep.provenance.detection`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fewstep.pixels import Pixels
from fewstep.provenance.blocks import (
    CORNER,
    SIDE,
    Floats,
    backward_rgb,
    fold,
    forward_rgb,
    over_pixels,
    texture,
    whole_blocks,
)
from fewstep.provenance.chips import (
    IDENTIFIER,
    SMALLEST_SIDE,
    Layout,
    blocks_of,
    identifier_bits,
    keyed_chips,
    layout_of,
    tiled_pattern,
    turns,
)
from fewstep.provenance.detection import (
    FALSE_POSITIVE_RATE,
    Detection,
    DetectorSettings,
    Evidence,
    decide,
    despread,
    pool,
    respond,
)
from fewstep.provenance.search import ORIENTATIONS, oriented, search, searched_places

PUBLIC_KEY = b"fewstep public watermark key 1"
"""The default key. It is public on purpose: anybody can check a mark made with it, and anybody can forge one."""
ONES = np.ones((CORNER, CORNER), np.float32)
PAYLOAD_LIMIT = 1 << 48
BAND_VALUES = 1 << 17
"""Channel values marked at a time: more than this leaves the cache, and the allocator, in which the work is quick."""
Effort = Literal["aligned", "offsets", "scales"]


@dataclass(frozen=True)
class Shape:
    """How the smooth areas of a picture are marked: not seen, and yet kept by a codec."""

    plain_step: float = 3.0
    """No pixel of a smooth area moves further than this, in grey levels: about one just noticeable difference."""
    smooth_push: float = 10.0
    """Push of one coefficient in a smooth block, in grey levels of the orthonormal transform: JPEG 50 forgets less."""
    smooth_chips: int = 4
    """How many of the eight coefficients of a smooth block are pushed."""
    limit_push: float = 18.0
    """The push in a block at the white or black limit, where half of it is clipped away."""
    limit_chips: int = 1
    """How many are pushed there."""


@dataclass(frozen=True)
class WatermarkOptions:
    """How strong the mark is and how sure a finding must be."""

    false_positive_rate: float = FALSE_POSITIVE_RATE
    """Upper bound on the chance that an unmarked picture is called marked, after everything that was searched."""
    psnr_db: float = 42.0
    """No picture of 128 px and up ends below this."""
    small_psnr_db: float = 41.0
    """The same under 128 px, where every chip is needed."""
    small: Shape = Shape(plain_step=1.9, smooth_chips=3, smooth_push=7.0, limit_chips=3, limit_push=12.0)
    """The mark in smooth areas under 128 px: such pictures are shown enlarged."""
    middle: Shape = Shape(smooth_chips=6, limit_chips=2)
    """The same from 128 to 255 px: every chip is needed."""
    large: Shape = Shape()
    """The same from 256 to 511 px: there are chips to spare, and fewer are pushed."""
    largest: Shape = Shape(smooth_chips=6, smooth_push=12.0)
    """The same from 512 px up, where half of the rows of blocks is left alone."""
    hiding: float = 1.5
    """How much further a pixel may move for every grey level by which its neighbourhood bends."""
    staircase: float = 1.0
    """A bend of this many grey levels is a slope's own rounding, and hides nothing."""
    furthest_step: float = 24.0
    """No pixel moves further than this, in grey levels, however busy its neighbourhood."""
    busy_push: float = 6.5
    """Push of every coefficient in a busy block."""
    masking: float = 0.13
    """Growth of the push for every grey level of activity in the block."""
    quiet: float = 2.0
    """Activity below this, in one coefficient, hides nothing."""
    rise: float = 0.4
    """Every coefficient is pushed by up to this for a grey level of activity, until ``busy_push`` is reached."""
    largest_push: float = 20.0
    """No coefficient is moved further than this, however busy its block."""
    target: float = 10.0
    """Pushing stops where a coefficient is this far on the right side: the peak of the detector's response."""
    reach: float = 22.0
    """The detector ignores coefficients beyond this: there the picture speaks, not the mark."""

    def shape(self, shorter: int) -> Shape:
        """The mark in smooth areas of a picture whose shorter side is this long."""
        shapes = ((128, self.small), (256, self.middle), (512, self.large))
        return next((shape for side, shape in shapes if shorter < side), self.largest)


@runtime_checkable
class Watermark(Protocol):
    """The one interface: ours below, TrustMark or another behind a small adapter."""

    def embed(self, picture: Pixels, payload: int) -> Pixels:
        """Return a marked copy of ``picture [H, W, 3]`` (uint8)."""
        ...

    def detect(self, picture: Pixels, effort: Effort = "aligned") -> Detection:
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

    @property
    def settings(self) -> DetectorSettings:
        """What a search for this mark needs to know."""
        return DetectorSettings(self.key, self.options.reach, self.options.false_positive_rate)

    def capacity(self, height: int, width: int) -> int:
        """Payload bits that a picture of this size carries."""
        return layout_of(height, width).payload_bits

    def identifier_bits(self, height: int, width: int) -> int:
        """Bits of a picture's own identifier that one of this size carries beside the payload: 48 from 512 px up, else 0."""
        return identifier_bits(height, width)

    def embed(self, picture: Pixels, payload: int, identifier: int | None = None) -> Pixels:
        """Return a marked copy; a picture that carries fewer than 48 bits takes the low bits of ``payload``.

        ``identifier`` is a number of this picture's own, ``0 <= identifier < 2^48``, read again as `Detection.identifier`.
        ValueError where the picture is too small for one (:meth:`identifier_bits` is 0).
        """
        check_picture(picture)
        for name, number in (("payload", payload), ("identifier", identifier or 0)):
            if not 0 <= number < PAYLOAD_LIMIT:
                raise ValueError(f"watermark {name} {number} is out of range: use a whole number from 0 to 2^48 - 1")
        height, width = picture.shape[:2]
        layout = layout_of(height, width)
        marked = np.array(picture, order="C")
        layers = 1 if identifier is None else 2
        self._put(marked, layout, payload & ((1 << layout.payload_bits) - 1), layout.stride / layers)
        if identifier is not None:
            if not identifier_bits(height, width):
                raise ValueError(
                    f"a {width}x{height} picture carries no identifier: its shorter side needs {IDENTIFIER.min_side} pixels"
                )
            self._put(marked, IDENTIFIER, identifier, IDENTIFIER.stride / layers)
        return marked

    def _put(self, marked: Pixels, layout: Layout, number: int, share: float) -> None:
        """Mark a picture in place with one number in one layout's rows of blocks, which take ``share`` times the mean noise."""
        height, width = marked.shape[:2]
        shorter, options = min(height, width), self.options
        floor_db = options.small_psnr_db if shorter < 128 else options.psnr_db
        shape = options.shape(shorter)
        rows, columns = blocks_of(height, width)
        signs = tiled_pattern(self.key, layout, number, rows, columns)
        smooth = turns(layout, shape.smooth_chips, rows, columns)
        limit = turns(layout, shape.limit_chips, rows, columns)
        blocks = whole_blocks(marked, layout.stride, layout.first_row)
        band = 2 * max(
            1, BAND_VALUES // blocks[0].size // 2
        )  # even, so that a band begins with chips and not with an echo
        for start in range(0, len(blocks), band):
            one = slice(start, start + band)
            allowance = share * 255.0**2 / 10 ** (floor_db / 10)
            echoes = slice(1, None, 2) if layout.echoed else slice(0, 0)
            self._mark(blocks[one], signs[one], smooth[one], limit[one], echoes, shape, allowance)

    def _mark(
        self,
        blocks: Pixels,
        signs: Floats,
        smooth: Floats,
        limit: Floats,
        echoes: slice,
        shape: Shape,
        allowance: float,
    ) -> None:
        """Mark one band of block rows in place; ``allowance`` is how much noise a value may take in the mean, squared."""
        values = blocks.astype(np.float32)
        coefficients = forward_rgb(values)
        at_limit = np.abs(coefficients[:, :1, :, :1] - 127.5 * SIDE) > (127.5 - 4) * SIDE
        least = np.where(at_limit, limit * shape.limit_push, smooth * shape.smooth_push)
        allowed = self._allowed(coefficients, least, echoes)
        move = self._push(signs * coefficients, allowed, at_limit)
        move *= signs
        change = backward_rgb(move)
        hidden = texture(values)
        hidden -= self.options.staircase
        np.maximum(hidden, 0, out=hidden)
        hidden *= self.options.hiding
        hidden += shape.plain_step
        hidden = over_pixels(np.minimum(hidden, self.options.furthest_step, out=hidden))
        np.minimum(change, hidden, out=change)
        np.negative(hidden, out=hidden)
        np.maximum(change, hidden, out=change)
        within(change, values, allowance * values.size, out=hidden)
        np.copyto(blocks, hidden, casting="unsafe")

    def detect(self, picture: Pixels, effort: Effort = "aligned") -> Detection:
        """Read the mark where :meth:`embed` put it; with "offsets" after any crop, with "scales" after a resize too.

        The negative of a picture is read at every effort; with more than "aligned", whole pictures that were mirrored or
        turned by quarters as well.
        """
        check_picture(picture)
        found = self.read(picture, 1 if effort == "aligned" else 2)
        if found.found or effort == "aligned":
            return found
        scales = effort == "scales"
        paid = 2 * (len(ORIENTATIONS) + searched_places(picture.shape[0], picture.shape[1], scales))
        for orientation in ORIENTATIONS:
            other = self.read(oriented(picture, orientation), paid)
            if other.found:
                return replace(other, alignment=replace(other.alignment, orientation=orientation))
        return search(self.settings, [picture], found, scales, paid)

    def read(self, picture: Pixels, hypotheses: int = 1) -> Detection:
        """Read the mark where a picture of this size has it. The error rate is shared by so many ``hypotheses``."""
        layout = layout_of(*picture.shape[:2])
        picture = np.ascontiguousarray(picture)
        rate = self.options.false_positive_rate
        found = decide(self._heard(picture, layout), rate, hypotheses=hypotheses)
        if found.found and identifier_bits(*picture.shape[:2]):
            own = decide(self._heard(picture, IDENTIFIER), rate, inverted=found.alignment.inverted)
            found = replace(found, identifier=own.payload)
        return found

    def _heard(self, picture: Pixels, layout: Layout) -> Evidence:
        """The evidence in one layout's rows of blocks, where an untouched picture has them."""
        blocks = whole_blocks(picture, layout.stride, layout.first_row)
        response = respond(forward_rgb(blocks.astype(np.float32)), self.options.reach)
        heard = np.zeros((layout.tile, CORNER, layout.tile, CORNER), np.float32)
        heard[layout.first_row :: layout.stride] = fold(response, layout.tile // layout.stride, layout.tile)
        return despread(keyed_chips(self.key, layout), heard)

    def pool(self, detections: Iterable[Detection]) -> Detection:
        """All frames of a stream as one piece of evidence; see :func:`fewstep.provenance.detection.pool`."""
        return pool(detections, self.options.false_positive_rate)

    def _allowed(self, coefficients: Floats, least: Floats, echoes: slice) -> Floats:
        """The furthest that each coefficient may go: all in a busy block, some in a smooth one, which take ``least``.

        Echoes are put down in smooth blocks alone: there a mark has to be faint, and busy ones have enough of it already.
        """
        options = self.options
        energy = np.abs(coefficients)
        energy -= options.quiet
        np.maximum(energy, 0, out=energy)
        energy[:, 0, :, 0] = 0
        rows, _, columns, _ = energy.shape
        down = np.matmul(ONES, energy.reshape(rows, CORNER, columns * CORNER))
        activity = (down.reshape(-1, CORNER) @ ONES).reshape(coefficients.shape)
        allowed = np.minimum(activity * options.rise, options.busy_push)
        np.maximum(allowed, least, out=allowed)
        activity *= options.masking
        allowed += activity
        np.minimum(allowed, options.largest_push, out=allowed)
        echoed = energy[echoes]
        bends = echoed[:, 0, :, 2] + echoed[:, 1, :, 1] + echoed[:, 2, :, 0]  # an even slope has none of these
        np.copyto(allowed[echoes], least[echoes] * (bends < options.quiet)[:, None, :, None])
        return allowed

    def _push(self, agreement: Floats, allowed: Floats, at_limit: NDArray[np.bool_]) -> Floats:
        """How far to move each coefficient towards its sign: nothing where it is there already or beyond hope."""
        target = self.options.target * (1 + at_limit.astype(np.float32))
        push = np.clip(target - agreement, 0, allowed)
        push *= agreement > -(target + 0.4 * allowed)
        return push


def within(change: Floats, values: Floats, allowed: float, out: Floats) -> None:
    """Put ``values`` with as much of ``change`` into ``out`` as its squared error, after rounding and clipping, may be."""
    while True:
        np.add(values, change, out=out)
        np.rint(out, out=out)
        np.clip(out, 0, 255, out=out)
        error = out - values
        spent = float(np.vdot(error, error))
        if spent <= allowed:
            return
        change *= 0.98 * math.sqrt(allowed / spent)


def check_picture(picture: Pixels) -> None:
    """Raise a ValueError unless ``picture`` is uint8 ``[H, W, 3]`` and large enough."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture to mark is uint8 [H, W, 3], this is {picture.dtype} {list(picture.shape)}")
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        layout_of(*picture.shape[:2])


class StreamDetector:
    """Pools a stream as it comes: give it frames, ask for the verdict so far. Every frame counts as a hypothesis."""

    def __init__(self, watermark: SpreadSpectrum) -> None:
        self._watermark = watermark
        self._evidence: Evidence | None = None
        self._frames = 0

    def add(self, frame: Pixels) -> Detection:
        """Read one more frame and return the verdict over all of them."""
        evidence = self._watermark.read(frame).evidence
        assert evidence is not None
        self._evidence = evidence if self._evidence is None else self._evidence + evidence
        self._frames += 1
        rate = self._watermark.options.false_positive_rate
        return replace(decide(self._evidence, rate, hypotheses=self._frames), frames=self._frames)
