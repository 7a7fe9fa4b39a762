"""Where the mark's chips lie, what sign each carries, and how a payload becomes signs and comes back.

A *layout* is a square tile of 8x8 blocks that repeats over the picture. Every low coefficient but the mean is one chip with a
keyed sign. Some chips are *pilot*: always the same, they say "a mark is here". The others carry the payload,
eight bits a word in the first-order Reed-Muller code RM(1, 7): 256 words of 128 symbols, any two of which differ in at
least half of their symbols, decoded softly with one 128 x 128 Hadamard product.
"""

from __future__ import annotations

import hashlib
from binascii import crc_hqx
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fewstep.provenance.blocks import CORNER, SIDE, Floats

SYMBOLS = 128
WORD_BITS = 8


@dataclass(frozen=True)
class Layout:
    """One way of spreading a payload over a picture."""

    name: str
    """Part of what the key is mixed with, so that two layouts never share signs."""
    min_side: int
    """Smallest picture side, in pixels, that takes this layout."""
    tile: int
    """Side of the repeating pattern, in blocks."""
    row_step: int
    """Mark every ``row_step``-th row of blocks: a large picture has chips to spare, and half the rows cost half the time."""
    words: int
    """Number of eight-bit code words: payload and check together."""
    payload_bits: int
    """Bits for the caller; the rest of the words is a CRC-16."""
    pilots: int
    """Chips spent on presence alone."""
    first_row: int = 0
    """The first row of blocks that is marked."""
    echoed: bool = False
    """Whether every row of chips is put down a second time, `row_step` / 2 rows below and half a tile to the side."""

    @property
    def checked(self) -> bool:
        """Whether the words hold a CRC-16 beside the payload."""
        return self.words * WORD_BITS > self.payload_bits

    @property
    def stride(self) -> int:
        """Every how many rows of blocks one is marked, echoes counted."""
        return self.row_step // 2 if self.echoed else self.row_step


LAYOUTS = (
    Layout("large", min_side=512, tile=32, row_step=4, words=8, payload_bits=48, pilots=512, echoed=True),
    Layout("medium", min_side=256, tile=32, row_step=2, words=8, payload_bits=48, pilots=1024, echoed=True),
    Layout("short", min_side=64, tile=8, row_step=1, words=2, payload_bits=16, pilots=128),
    Layout("presence", min_side=32, tile=8, row_step=1, words=0, payload_bits=0, pilots=512),
)
IDENTIFIER = Layout("identifier", min_side=512, tile=32, row_step=2, words=8, payload_bits=48, pilots=0, first_row=1)
"""The second layer: a number of one picture's own, in the rows of blocks that the largest layout leaves free."""
SMALLEST_SIDE = LAYOUTS[-1].min_side


def layout_of(height: int, width: int) -> Layout:
    """The layout that a picture of this size is marked with."""
    for layout in LAYOUTS:
        if min(height, width) >= layout.min_side:
            return layout
    raise ValueError(f"a {width}x{height} picture is too small to mark: its shorter side needs {SMALLEST_SIDE} pixels")


def identifier_bits(height: int, width: int) -> int:
    """How many bits of an identifier of its own a picture of this size carries beside the payload: 48, or 0."""
    return IDENTIFIER.payload_bits if min(height, width) >= IDENTIFIER.min_side else 0


@dataclass(frozen=True, eq=False)
class Chips:
    """The keyed chips of one layout, as flat places in the tile ``[tile, 3, tile, 3]``."""

    layout: Layout
    signs: Floats
    """``[tile * 3 * tile * 3]``: -1 or 1 at a chip, 0 elsewhere."""
    pilot: NDArray[np.intp]
    """Places of the pilot chips."""
    data: NDArray[np.intp]
    """Places of the payload chips; chip ``i`` carries symbol ``i`` modulo the number of symbols."""

    def pattern(self, payload: int) -> Floats:
        """The signs to embed for ``payload``: ``[tile, 3, tile, 3]``."""
        signs = self.signs.copy()
        if self.layout.words:
            symbols = encode(payload, self.layout).reshape(-1)
            signs[self.data] *= np.resize(symbols, len(self.data))
        side = self.layout.tile
        return signs.reshape(side, CORNER, side, CORNER)

    def symbols(self, despread: Floats) -> Floats:
        """Add up the chips of each symbol: ``[words, 128]``."""
        count = self.layout.words * SYMBOLS
        padded = np.zeros(-(-len(despread) // count) * count, np.float32)
        padded[: len(despread)] = despread
        return padded.reshape(-1, self.layout.words, SYMBOLS).sum(0)


@lru_cache(maxsize=32)
def keyed_chips(key: bytes, layout: Layout) -> Chips:
    """Derive places and signs from ``key`` with SHAKE-256: the same on every machine and numpy version."""
    chosen = np.zeros((layout.tile, CORNER, layout.tile, CORNER), bool)
    chosen[layout.first_row :: layout.row_step] = True
    chosen[:, 0, :, 0] = False
    places = np.flatnonzero(chosen)
    stream = hashlib.shake_256(b"fewstep watermark 1|" + layout.name.encode() + b"|" + key).digest(9 * len(places))
    order = np.argsort(np.frombuffer(stream, "<u8", len(places)), kind="stable")
    coins = np.frombuffer(stream, np.uint8, offset=8 * len(places)) & 1
    signs = np.zeros(chosen.size, np.float32)
    signs[places] = coins * 2.0 - 1.0
    shuffled = places[order]
    return Chips(layout, signs, shuffled[: layout.pilots], shuffled[layout.pilots :])


def echo(tile: Floats, layout: Layout) -> Floats:
    """A tile ``[tile, 3, tile, 3]`` with every row of chips put down where its echo belongs, too."""
    return tile + np.roll(tile, (layout.row_step // 2, layout.tile // 2), (0, 2)) if layout.echoed else tile


def gather(heard: Floats, layout: Layout) -> Floats:
    """Add the echoes in a folded response to what they are echoes of: the transpose of :func:`echo`."""
    return heard + np.roll(heard, (-(layout.row_step // 2), -(layout.tile // 2)), (0, 2)) if layout.echoed else heard


def across(tile: Floats, layout: Layout, rows: int, columns: int) -> Floats:
    """A tile over a picture of ``rows x columns`` blocks, marked rows only: ``[marked rows, 3, columns, 3]``, read-only."""
    repeats = (-(-rows // layout.tile), 1, -(-columns // layout.tile), 1)
    whole = np.ascontiguousarray(np.tile(tile, repeats)[layout.first_row : rows : layout.stride, :, :columns])
    whole.setflags(write=False)
    return whole


@lru_cache(maxsize=8)
def tiled_pattern(key: bytes, layout: Layout, payload: int, rows: int, columns: int) -> Floats:
    """The signs for a whole picture of ``rows x columns`` blocks, marked rows only: ``[marked rows, 3, columns, 3]``."""
    return across(echo(keyed_chips(key, layout).pattern(payload), layout), layout, rows, columns)


@lru_cache(maxsize=16)
def turns(layout: Layout, count: int, rows: int, columns: int) -> Floats:
    """Which ``count`` of the eight chips of a smooth block are pushed: 1 or 0, ``[marked rows, 3, columns, 3]``.

    They take turns from one repeat of the tile to the next, so that no chip is left out of a picture with repeats.
    """
    side = layout.tile
    shuffled = np.frombuffer(hashlib.shake_256(b"turns").digest(8 * side * side), np.uint8)
    rank = shuffled.reshape(side, side, 8).argsort(2, kind="stable").argsort(2, kind="stable")
    down, right = np.arange(rows)[layout.first_row :: layout.stride], np.arange(columns)
    repeat = (
        down[:, None] // side + 2 * (right[None] // side) + 3 * (down[:, None] % layout.row_step != layout.first_row)
    )
    mine = rank[down[:, None] % side, right[None] % side] + (repeat * count)[..., None]
    chosen = np.zeros((len(down), columns, CORNER * CORNER), np.float32)
    chosen[..., 1:] = mine % 8 < count
    whole = np.ascontiguousarray(chosen.reshape(len(down), columns, CORNER, CORNER).transpose(0, 2, 1, 3))
    whole.setflags(write=False)
    return whole


@lru_cache(maxsize=1)
def hadamard() -> Floats:
    """The 128 x 128 Hadamard matrix: RM(1, 7) is its rows and their negatives."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < SYMBOLS:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def to_words(payload: int, layout: Layout) -> list[int]:
    """Split ``payload`` (its low ``payload_bits``) into bytes, the CRC-16 of those bytes behind them."""
    body = (payload & ((1 << layout.payload_bits) - 1)).to_bytes(layout.payload_bits // 8, "big")
    return list(body + crc_hqx(body, 0xFFFF).to_bytes(2, "big")) if layout.checked else list(body)


def from_words(words: list[int], layout: Layout) -> int | None:
    """Put the bytes together again; None where the CRC-16 disagrees."""
    size = layout.payload_bits // 8
    body, check = bytes(words[:size]), bytes(words[size:])
    if layout.checked and crc_hqx(body, 0xFFFF) != int.from_bytes(check, "big"):
        return None
    return int.from_bytes(body, "big")


def encode(payload: int, layout: Layout) -> Floats:
    """Code words of ``payload``: signs ``[words, 128]``."""
    rows = [hadamard()[word & 0x7F] * (-1.0 if word & 0x80 else 1.0) for word in to_words(payload, layout)]
    return np.stack(rows).astype(np.float32)


def decode(symbols: Floats) -> tuple[list[int], Floats]:
    """Most likely bytes of ``symbols [words, 128]``, and the correlations ``[words, 256]`` they were chosen from."""
    halves = symbols @ hadamard()
    correlations = np.concatenate([halves, -halves], axis=1)
    return [int(word) for word in correlations.argmax(1)], correlations


def blocks_of(height: int, width: int) -> tuple[int, int]:
    """Whole blocks down and across."""
    return height // SIDE, width // SIDE
