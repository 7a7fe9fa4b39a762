"""An invisible mark in the pixels: keyed spread spectrum in the block transform, informed by the picture under it.

Embedding pushes low-corner DCT coefficients of the luminance towards keyed signs, only as far as each still counts for
the detector and only where a push pays; busy blocks take more, blocks at the white or black limit are driven harder
because half of their mark is clipped away. Detection is one self-normalised sum per hypothesis: for any picture made
without knowledge of the key, ``P(score > z) <= exp(-z^2 / 2)`` (Hoeffding), whatever the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.provenance.blocks import CORNER, SIDE, Bytes, Floats, backward_rgb, fold, forward_rgb, whole_blocks
from fewstep.provenance.chips import (
    SMALLEST_SIDE,
    Chips,
    Layout,
    blocks_of,
    decode,
    from_words,
    keyed_chips,
    layout_of,
    tiled_pattern,
)

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

    false_positive_rate: float = 1e-6
    """Upper bound on the chance that an unmarked picture is called marked, after everything that was searched."""
    psnr_db: float = 42.0
    """No picture of 128 px and up ends below this."""
    small_psnr_db: float = 41.0
    """The same under 128 px, where every chip is needed."""
    strength: float = 5.7
    """Push of one coefficient in a flat block, in grey levels of the orthonormal transform: 128 to 511 px."""
    small_strength: float = 6.4
    """The same under 128 px."""
    large_strength: float = 4.5
    """The same from 512 px on, where there are chips to spare."""
    masking: float = 0.02
    """Relative growth of the push for every grey level of activity in the block."""
    clipping_gain: float = 1.0
    """Extra push, relative, where a block sits at the white or black limit and half of the mark is cut off."""
    largest_push: float = 20.0
    """No coefficient is moved further than this, however busy its block."""
    target: float = 10.0
    """Pushing stops where a coefficient is this far on the right side: the peak of the detector's response."""
    reach: float = 22.0
    """The detector ignores coefficients beyond this: there the picture speaks, not the mark."""


class Force(NamedTuple):
    """How hard a picture is marked."""

    strength: float
    floor_db: float


@dataclass(frozen=True)
class Alignment:
    """Where the tile was found: aligned pictures have all zeros and scale 1."""

    dy: int = 0
    dx: int = 0
    tile_y: int = 0
    tile_x: int = 0
    scale: float = 1.0
    """Factor by which the picture was resized before it was read."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one or more pictures say, with the key's signs already taken out: evidence adds up over frames."""

    chips: Chips
    pilot: Floats
    data: Floats

    def __add__(self, other: Evidence) -> Evidence:
        if self.chips is not other.chips:
            raise ValueError("these detections come from different keys or picture sizes: pool frames of one stream only")
        return Evidence(self.chips, self.pilot + other.pilot, self.data + other.data)


@dataclass(frozen=True)
class Detection:
    """What the detector says about a picture, or about the frames of a stream together."""

    score: float
    """Presence score of the pilot chips: about N(0, 1) on unmarked pictures at one alignment."""
    p_value: float
    """Upper bound on the chance of evidence this strong without a mark, all searched hypotheses counted."""
    found: bool
    """Whether ``p_value`` is at most the stated false positive rate."""
    payload: int | None
    """The embedded number; None where no mark was found, the check failed, or the picture is too small to carry one."""
    payload_bits: int
    """How many bits of payload a picture of this layout carries: 48, 16 or 0."""
    payload_confidence: float
    """Estimated chance that ``payload`` is right (1.0 where its CRC-16 agrees)."""
    frames: int = 1
    """Pictures pooled into this."""
    hypotheses: int = 1
    """Alignments, scales and layouts that were tried."""
    alignment: Alignment = Alignment()
    """Where the mark was read."""
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    """For pooling."""

    @property
    def confidence(self) -> float:
        """``1 - p_value``."""
        return 1.0 - self.p_value


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
        force = self._force(min(height, width))
        band = max(1, BAND_VALUES // blocks[0].size)
        for start in range(0, len(blocks), band):
            self._mark(blocks[start : start + band], signs[start : start + band], layout.row_step, force)
        return marked

    def _mark(self, blocks: Bytes, signs: Floats, row_step: int, force: Force) -> None:
        """Mark one band of block rows in place, within its own noise budget."""
        values = blocks.astype(np.float32)
        coefficients = forward_rgb(values)
        at_limit = np.abs(coefficients[:, 0, :, 0] - 127.5 * SIDE) > (127.5 - 4) * SIDE
        move = self._push(signs * coefficients, self._allowed(coefficients, at_limit, force))
        move *= signs
        move *= within_budget(move, at_limit, row_step * blocks.size // 3, force)
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
        from fewstep.provenance.search import search  # it stands on this module

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
        """All frames of a stream as one piece of evidence; see :func:`pool`."""
        return pool(detections, self.options.false_positive_rate)

    def _force(self, side: int) -> Force:
        """How hard to mark a picture whose shorter side is ``side``."""
        options = self.options
        if side < 128:
            return Force(options.small_strength, options.small_psnr_db)
        return Force(options.strength if side < 512 else options.large_strength, options.psnr_db)

    def _allowed(self, coefficients: Floats, at_limit: NDArray[np.bool_], force: Force) -> Floats:
        """The furthest that each coefficient may go: more in a busy block, more where clipping will take half of it."""
        options = self.options
        energy = np.abs(coefficients)
        energy[:, 0, :, 0] = at_limit * (options.clipping_gain / options.masking)
        rows, _, columns, _ = energy.shape
        down = np.matmul(ONES, energy.reshape(rows, CORNER, columns * CORNER))
        allowed = down.reshape(-1, CORNER) @ (ONES * (force.strength * options.masking))
        allowed += force.strength
        np.minimum(allowed, options.largest_push, out=allowed)
        return allowed.reshape(coefficients.shape)

    def _push(self, agreement: Floats, allowed: Floats) -> Floats:
        """How far to move each coefficient towards its sign: nothing where it is there already or beyond hope."""
        target = self.options.target
        push = np.clip(target - agreement, 0, allowed)
        push *= agreement > -(target + 0.4 * allowed)
        return push


def within_budget(move: Floats, at_limit: NDArray[np.bool_], pixels: int, force: Force) -> float:
    """Factor that keeps ``move`` within the PSNR over ``pixels``; 4% are left for rounding.

    Of what is added to a block at the white or black limit, clipping takes half.
    """
    allowed = 0.96 * pixels * 255.0**2 / 10 ** (force.floor_db / 10)
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


def respond(coefficients: Floats, reach: float) -> Floats:
    """Tukey's biweight: linear for coefficients of the mark's own size, nothing for those the picture made."""
    weight = np.square(coefficients)
    weight *= -1.0 / reach**2
    weight += 1.0
    np.maximum(weight, 0.0, out=weight)
    np.square(weight, out=weight)
    weight *= coefficients
    return weight


def despread(chips: Chips, heard: Floats) -> Evidence:
    """Take the key's signs out of a folded response ``[tile, CORNER, tile, 4]``."""
    flat = heard.reshape(-1) * chips.signs
    return Evidence(chips, flat[chips.pilot], flat[chips.data])


def self_normalised(total: float, squares: float) -> float:
    """``total / sqrt(squares)``: about N(0, 1) for keyed signs; nearly empty evidence counts as nothing."""
    return total / math.sqrt(squares + 1.0)


def decide(evidence: Evidence, false_positive_rate: float, hypotheses: int = 1) -> Detection:
    """Turn evidence into a verdict: the better of the pilot chips alone and all chips under the best payload."""
    layout = evidence.chips.layout
    squares = float(np.vdot(evidence.pilot, evidence.pilot))
    score = self_normalised(float(evidence.pilot.sum()), squares)
    log_p = tail(score)
    payload, confidence = None, 0.0
    if layout.words:
        words, correlations = decode(evidence.chips.symbols(evidence.data))
        squares += float(np.vdot(evidence.data, evidence.data))
        joint = self_normalised(float(evidence.pilot.sum() + correlations.max(1).sum()), squares)
        log_p = min(log_p, tail(joint) + layout.words * 8 * math.log(2)) + math.log(2)
        payload, confidence = read_payload(words, correlations, evidence, layout)
    p_value = math.exp(max(-700.0, min(0.0, log_p + math.log(hypotheses))))
    found = p_value <= false_positive_rate
    return Detection(
        score=score,
        p_value=p_value,
        found=found,
        payload=payload if found else None,
        payload_bits=layout.payload_bits,
        payload_confidence=confidence if found else 0.0,
        hypotheses=hypotheses,
        evidence=evidence,
    )


def tail(score: float) -> float:
    """Logarithm of Hoeffding's bound on ``P(score > z)`` for keyed signs."""
    return -0.5 * score**2 if score > 0 else 0.0


def read_payload(
    words: list[int], correlations: Floats, evidence: Evidence, layout: Layout
) -> tuple[int | None, float]:
    """The payload and how likely it is right: by its CRC, or by each word's lead over the 255 others."""
    payload = from_words(words, layout)
    if layout.checked:
        return payload, 0.0 if payload is None else 1.0
    noise = math.sqrt(float(np.vdot(evidence.data, evidence.data)) / layout.words + 1.0)
    scores = correlations.astype(np.float64) / noise
    best = scores.max(1, keepdims=True)
    confidence = float(np.prod(1.0 / np.exp(best * (scores - best)).sum(1)))
    return (payload, confidence) if confidence >= 0.99 else (None, confidence)


def pool(detections: Iterable[Detection], false_positive_rate: float = WatermarkOptions.false_positive_rate) -> Detection:
    """Decide over all frames of a stream together.

    Evidence is added chip by chip before it is normalised, so that a hundred copies of one frame say no more than one
    of them: only frames that differ add certainty. The frames must have been read at one alignment, without a search.
    """
    total: Evidence | None = None
    frames = 0
    for detection in detections:
        if detection.hypotheses != 1 or detection.evidence is None:
            raise ValueError('only detections made with effort "aligned" can be pooled: a search picks its luckiest place')
        total = detection.evidence if total is None else total + detection.evidence
        frames += detection.frames
    if total is None:
        raise ValueError("nothing to pool: give at least one detection")
    return replace(decide(total, false_positive_rate), frames=frames)


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
