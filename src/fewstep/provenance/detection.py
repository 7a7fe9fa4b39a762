"""The detector: evidence for a mark, and the decision that follows from it.

Evidence is one number a chip with the key's sign taken out. Keyed signs make it fair: for any picture made without
knowledge of the key, the self-normalised sum of the evidence has ``P(sum > z) <= exp(-z^2 / 2)`` (Hoeffding), whatever
the picture. Every verdict is that bound, times the number of places that were searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from fewstep.provenance.blocks import Floats
from fewstep.provenance.chips import Chips, Layout, decode, from_words, gather

FALSE_POSITIVE_RATE = 1e-6
SURE_PAYLOAD = 0.99
"""A payload without a CRC is only reported when it is at least this likely to be right."""


class DetectorSettings(NamedTuple):
    """What the search needs to know of a mark."""

    key: bytes
    """The key it was made with."""
    reach: float
    """Coefficients beyond this are ignored, in grey levels."""
    false_positive_rate: float
    """Upper bound on the chance that an unmarked picture is called marked."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a picture can lie: quarter turns counterclockwise, then left for right."""

    quarter_turns: int = 0
    mirrored: bool = False


@dataclass(frozen=True)
class Alignment:
    """Where the tile was found: aligned pictures have all zeros and scale 1."""

    dy: int = 0
    dx: int = 0
    tile_y: int = 0
    tile_x: int = 0
    scale: float = 1.0
    """Factor by which the picture was resized before it was read."""
    orientation: Orientation = Orientation()
    """How it was turned before it was read."""
    inverted: bool = False
    """Whether it was read as the negative of a marked picture."""

    def told(self) -> str:
        """For a person, how the picture had to be read, each part behind a comma; nothing where it lay as it was marked."""
        told = f", read after resizing by {self.scale:.3g}" if self.scale != 1.0 else ""
        if self.dy or self.dx or self.tile_y or self.tile_x:
            told += ", on a shifted grid (cropped or pasted)"
        if self.orientation.quarter_turns:
            told += f", turned by {90 * self.orientation.quarter_turns} degrees"
        if self.orientation.mirrored:
            told += ", mirrored"
        return told + (", as a negative" if self.inverted else "")


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence of one or more pictures, with the key's signs already taken out. It adds up over frames."""

    chips: Chips
    pilot: Floats
    data: Floats
    without_echoes: Evidence | None = None
    """The evidence without the echoes, in a layout that has them. Echoes help in smooth pictures and hurt in busy ones."""

    def __add__(self, other: Evidence) -> Evidence:
        if self.chips is not other.chips:
            raise ValueError("these come from different keys or kinds of picture: pool frames of one stream only")
        alone = self.without_echoes and other.without_echoes and self.without_echoes + other.without_echoes
        return Evidence(self.chips, self.pilot + other.pilot, self.data + other.data, alone)


@dataclass(frozen=True)
class Detection:
    """The detector's result for one picture, or for all frames of a stream together."""

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
    identifier: int | None = None
    """The picture's own number, where one was embedded beside the payload and its check agrees."""
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    """For pooling."""

    @property
    def confidence(self) -> float:
        """``1 - p_value``."""
        return 1.0 - self.p_value


def respond(coefficients: Floats, reach: float) -> Floats:
    """What each coefficient says: Tukey's biweight, less its mean over the picture.

    The biweight is linear for coefficients of the mark's own size and nothing for those that the picture made. The mean
    goes because smooth pictures repeat one value in every block: they would score by how even the key's signs happen
    to be. Neither step knows the key, so the bound stands.
    """
    weight = np.square(coefficients)
    weight *= -1.0 / reach**2
    weight += 1.0
    np.maximum(weight, 0.0, out=weight)
    np.square(weight, out=weight)
    weight *= coefficients
    rows = len(weight)
    down = np.full(rows, 1.0 / rows, np.float32) @ weight.reshape(rows, -1)
    weight -= down.reshape(weight.shape[1:]).mean(1, keepdims=True)
    return weight


def despread(chips: Chips, heard: Floats) -> Evidence:
    """Take the key's signs out of a folded response ``[tile, CORNER, tile, CORNER]``, echoes gathered."""
    alone = heard.reshape(-1) * chips.signs
    evidence = Evidence(chips, alone[chips.pilot], alone[chips.data])
    if not chips.layout.echoed:
        return evidence
    both = gather(heard, chips.layout).reshape(-1) * chips.signs
    return Evidence(chips, both[chips.pilot], both[chips.data], evidence)


def self_normalised(total: float, squares: float) -> float:
    """``total / sqrt(squares)``: about N(0, 1) for keyed signs; nearly empty evidence counts as nothing."""
    return total / math.sqrt(squares + 1.0)


def decide(
    evidence: Evidence, false_positive_rate: float, hypotheses: int = 1, inverted: bool | None = None
) -> Detection:
    """Turn evidence into a verdict: the better of the pilot chips alone and all chips under the best payload.

    The negative of a picture turns every sign over: unless ``inverted`` says which it is, both are tried, and paid for.
    """
    if evidence.without_echoes:
        ways = (replace(evidence, without_echoes=None), evidence.without_echoes)
        verdicts = [decide(one, false_positive_rate, 2 * hypotheses, inverted) for one in ways]
        best = min(verdicts, key=lambda one: (one.p_value, one.payload is None))
        return replace(best, hypotheses=hypotheses, evidence=evidence)
    layout = evidence.chips.layout
    heard = float(evidence.pilot.sum())
    turned = heard < 0 if inverted is None else inverted
    sign = -1.0 if turned else 1.0
    log_tries = math.log(hypotheses) + (math.log(2) if inverted is None else 0.0)
    squares = float(np.vdot(evidence.pilot, evidence.pilot))
    score = self_normalised(heard, squares)
    log_p = tail(sign * score)
    payload, confidence = None, 0.0
    if layout.words:
        words, correlations = decode(sign * evidence.chips.symbols(evidence.data))
        squares += float(np.vdot(evidence.data, evidence.data))
        joint = self_normalised(sign * heard + float(correlations.max(1).sum()), squares)
        log_p = min(log_p, tail(joint) + layout.words * 8 * math.log(2)) + math.log(2)
        payload, confidence = read_payload(words, correlations, evidence, layout)
        if not layout.checked and inverted is None:
            payload, confidence = sure(payload, confidence / (1.0 + math.exp(-2.0 * score**2)))
    p_value = math.exp(max(-700.0, min(0.0, log_p + log_tries)))
    found = p_value <= false_positive_rate
    return Detection(
        score=score,
        p_value=p_value,
        found=found,
        payload=payload if found else None,
        payload_bits=layout.payload_bits,
        payload_confidence=confidence if found else 0.0,
        hypotheses=hypotheses,
        alignment=Alignment(inverted=found and turned),
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
    return sure(payload, confidence)


def sure(payload: int | None, confidence: float) -> tuple[int | None, float]:
    """A payload that is likely enough to be right, or None."""
    return (payload, confidence) if confidence >= SURE_PAYLOAD else (None, confidence)


def pool(
    detections: Iterable[Detection], false_positive_rate: float = FALSE_POSITIVE_RATE, hypotheses: int = 1
) -> Detection:
    """Decide over all frames of a stream together.

    Evidence is added chip by chip before it is normalised, so that a hundred copies of one frame say no more than one
    of them: only frames that differ add certainty. The frames must have been read at one alignment, without a search;
    ``hypotheses`` is how many such readings of the stream there were to choose from.
    """
    total: Evidence | None = None
    frames = 0
    for detection in detections:
        if detection.hypotheses != 1 or detection.evidence is None:
            raise ValueError(
                'only detections made with effort "aligned" can be pooled: a search picks its luckiest place'
            )
        total = detection.evidence if total is None else total + detection.evidence
        frames += detection.frames
    if total is None:
        raise ValueError("nothing to pool: give at least one detection")
    return replace(decide(total, false_positive_rate, hypotheses), frames=frames)
