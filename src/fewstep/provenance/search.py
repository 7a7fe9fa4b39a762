"""Finding the mark again after a crop, a shift or a resize: every grid offset, every place in the tile, some scales.

All hypotheses are counted: the p-value of what is found is multiplied by how many places could have been tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from fewstep.pixels import Pixels
from fewstep.provenance.blocks import CORNER, SIDE, Floats, fold, forward_grey, luminance
from fewstep.provenance.chips import IDENTIFIER, LAYOUTS, Chips, Layout, echo, keyed_chips
from fewstep.provenance.detection import Alignment, Detection, DetectorSettings, Orientation, decide, despread, respond

DISPLAY_SCALES = (
    1 / 2,
    2 / 3,
    4 / 5,
    3 / 4,
    8 / 9,
    10 / 11,
    10 / 9,
    5 / 4,
    4 / 3,
    3 / 2,
    2.0,
    1 / 3,
    1 / 4,
    3.0,
    1 / 8,
)
"""Undoing the zooms of browsers and screens: 200%, 150%, 125%, 133%, 112%, 110%, 90%, 80%, 75%, 67%, 50% ..."""
COMMON_SIDES = (64, 128, 256, 384, 512, 640, 768, 1024)
"""Sides that a whole picture may have had before somebody resized it to an odd size."""
LARGEST_AT_OWN_SCALE = 2048
"""At most this many pixels a side are read where only offsets are searched, from the middle of the picture."""
LARGEST_RESIZED = 640
"""The same for every other scale. It bounds the time for a picture without a mark."""
ORIENTATIONS = tuple(Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4))[1:]
"""The seven other ways in which a whole picture can lie."""
LARGEST_ENLARGED = 2400
"""Pictures are not enlarged beyond this when a mark is searched."""


@dataclass(frozen=True)
class Attempt:
    """One scale to search, and the layouts that may be found at it."""

    height: int
    width: int
    scale: float
    layouts: tuple[Layout, ...]

    @property
    def hypotheses(self) -> int:
        """Grid offsets times places in the tile."""
        return SIDE * SIDE * sum(layout.tile**2 for layout in self.layouts)


@dataclass(frozen=True)
class Candidate:
    """The best place of one layout at one scale."""

    score: float
    alignment: Alignment
    chips: Chips
    heard: Floats


def oriented(picture: Pixels, orientation: Orientation) -> Pixels:
    """``picture [H, W, 3]`` turned by quarters, then mirrored."""
    turned = np.rot90(picture, orientation.quarter_turns)
    return np.ascontiguousarray(turned[:, ::-1] if orientation.mirrored else turned)


def searched_places(height: int, width: int, scales: bool) -> int:
    """How many hypotheses :func:`search` tries in a picture of this size."""
    return sum(attempt.hypotheses for attempt in _plan(height, width, scales))


def search(
    mark: DetectorSettings, pictures: Sequence[Pixels], aligned: Detection, scales: bool, paid: int
) -> Detection:
    """Try all offsets, then (with ``scales``) other scales; stop where a mark is found and its payload can be read.

    Of several ``pictures`` (frames of a film, all of one size) the evidence is added up at every place. The p-value
    counts all hypotheses of the plan and those tried before it, ``paid``, so that stopping early gives no advantage.
    """
    greys = [luminance(picture) for picture in pictures]
    best = replace(aligned, hypotheses=paid)
    for attempt in _plan(pictures[0].shape[0], pictures[0].shape[1], scales):
        for candidate in _best_places(mark, greys, attempt):
            found = decide(despread(candidate.chips, candidate.heard), mark.false_positive_rate, paid)
            if found.p_value < best.p_value:
                place = replace(candidate.alignment, inverted=found.alignment.inverted)
                best = replace(
                    found, alignment=place, frames=len(pictures), identifier=_identifier(mark, candidate, found)
                )
        if best.found and (best.payload is not None or not best.payload_bits):
            break
    return best


def _identifier(mark: DetectorSettings, candidate: Candidate, found: Detection) -> int | None:
    """The picture's own number, in the rows of blocks between those where the mark was found."""
    if not found.found or candidate.chips.layout.tile != IDENTIFIER.tile:
        return None
    evidence = despread(keyed_chips(mark.key, IDENTIFIER), candidate.heard)
    return decide(evidence, mark.false_positive_rate, inverted=found.alignment.inverted).payload


def _plan(height: int, width: int, scales: bool) -> list[Attempt]:
    """The picture's own scale first, then the zooms of displays, then the sizes that pictures commonly have."""
    own = tuple(one for one in LAYOUTS if one.payload_bits or min(height, width) < 2 * one.min_side)
    attempts = [Attempt(height, width, 1.0, own)]
    for scale in _scales(height, width) if scales else ():
        high, wide = round(height * scale), round(width * scale)
        layouts = tuple(one for one in LAYOUTS if one.payload_bits and max(high, wide) >= one.min_side // 2)
        if layouts and min(high, wide) >= SIDE * SIDE and max(high, wide) <= LARGEST_ENLARGED:
            attempts.append(Attempt(high, wide, scale, layouts))
    return attempts


def _scales(height: int, width: int) -> list[float]:
    """Every scale worth trying, once; those within half a pixel of another are the same."""
    longest = max(height, width)
    fits = [side / longest for side in COMMON_SIDES if 1 / 8 <= side / longest <= 3]
    kept: list[float] = [1.0]
    for scale in [*DISPLAY_SCALES, *fits]:
        if all(abs(scale - other) * longest > 0.75 for other in kept):
            kept.append(scale)
    return kept[1:]


def _best_places(mark: DetectorSettings, greys: Sequence[Floats], attempt: Attempt) -> list[Candidate]:
    """The best place of each layout: all 64 offsets at the own scale, else half of them and then the neighbours."""
    if attempt.scale == 1.0:
        greys = [_middle(grey, LARGEST_AT_OWN_SCALE) for grey in greys]
        return list(_scan(mark, greys, attempt, product(range(SIDE), range(SIDE))).values())
    size = (attempt.width, attempt.height)
    resized = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC), np.float32) for one in greys]
    greys = [_middle(one, LARGEST_RESIZED) for one in resized]
    board = [(dy, dx) for dy, dx in product(range(SIDE), range(SIDE)) if (dy + dx) % 2 == 0]
    coarse = _scan(mark, greys, attempt, board)
    near = {
        ((found.alignment.dy + dy) % SIDE, (found.alignment.dx + dx) % SIDE)
        for found in coarse.values()
        for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    }
    return list(_scan(mark, greys, attempt, sorted(near)).values())


def _middle(grey: Floats, side: int) -> Floats:
    height, width = grey.shape
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    return grey[top : top + side, left : left + side]


def _scan(
    mark: DetectorSettings, greys: Sequence[Floats], attempt: Attempt, offsets: Iterable[tuple[int, int]]
) -> dict[str, Candidate]:
    """The best place of each layout over these grid offsets and all places in the tile."""
    best: dict[str, Candidate] = {}
    for dy, dx in offsets:
        responses = [respond(forward_grey(grey, dy, dx), mark.reach) for grey in greys]
        sides = {layout.tile for layout in attempt.layouts}
        tiles = {side: np.sum([fold(one, side, side) for one in responses], axis=0) for side in sides}
        spectra = {side: _spectra(heard) for side, heard in tiles.items()}
        for layout in attempt.layouts:
            score, tile_y, tile_x = _best_place(mark.key, layout, *spectra[layout.tile])
            if layout.name not in best or score > best[layout.name].score:
                rolled = np.roll(tiles[layout.tile], (-tile_y, -tile_x), (0, 2))
                place = Alignment(dy, dx, tile_y, tile_x, attempt.scale)
                best[layout.name] = Candidate(score, place, keyed_chips(mark.key, layout), rolled)
    return best


def _planes(tile: Floats) -> Floats:
    """One plane a coefficient, the mean left out: ``[tile, 3, tile, 3]`` to ``[8, tile, tile]``."""
    return tile.transpose(1, 3, 0, 2).reshape(CORNER * CORNER, tile.shape[0], tile.shape[2])[1:]


def _spectra(heard: Floats) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transforms of what was heard, and of its squares."""
    planes = _planes(heard)
    return np.fft.rfft2(planes), np.fft.rfft2(np.square(planes))


def _best_place(key: bytes, layout: Layout, heard: np.ndarray, squared: np.ndarray) -> tuple[float, int, int]:
    """Presence score of the pilot chips at every cyclic shift of the tile at once, by Fourier transform.

    Of a picture and of its negative: the score's sign doesn't matter.
    """
    signs, mask = _pilot_spectra(key, layout)
    shape = (layout.tile, layout.tile)
    totals = np.fft.irfft2(np.einsum("kyx,kyx->yx", heard, signs), shape)
    squares = np.fft.irfft2(np.einsum("kyx,kyx->yx", squared, mask), shape)
    scores = np.abs(totals) / np.sqrt(np.maximum(squares, 0.0) + 1.0)
    place = int(scores.argmax())
    return float(scores.flat[place]), place // layout.tile, place % layout.tile


@lru_cache(maxsize=16)
def _pilot_spectra(key: bytes, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Conjugate spectra of the pilot's signs and of its places, one plane a coefficient (the mean left out)."""
    chips = keyed_chips(key, layout)
    pilot = np.zeros(len(chips.signs), np.float32)
    pilot[chips.pilot] = chips.signs[chips.pilot]
    planes = _planes(echo(pilot.reshape(layout.tile, CORNER, layout.tile, CORNER), layout))
    return np.conj(np.fft.rfft2(planes)), np.conj(np.fft.rfft2(np.abs(planes)))
