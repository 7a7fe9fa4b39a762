"""The low corner of the 8x8 block transform: pixels to 3x3 coefficients a block, and back.

Only the coefficients with both frequencies below 3 are ever computed: the mark lives there, because they are what JPEG
75 keeps and what halving a picture keeps. Arrays are ``[block row, u, block column, v]``, orthonormal, in grey levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fewstep.pixels import Pixels

SIDE = 8
CORNER = 3
Floats = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def _dct_rows() -> Floats:
    """The first ``CORNER`` rows of the orthonormal 8-point cosine transform."""
    u, j = np.arange(CORNER)[:, None], np.arange(SIDE)[None]
    rows = np.cos((2 * j + 1) * u * np.pi / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


DOWN = _dct_rows()
UP = np.ascontiguousarray(DOWN.T)
ACROSS = UP
ACROSS_RGB = np.ascontiguousarray((ACROSS[:, None, :] * LUMINANCE[None, :, None]).reshape(SIDE * 3, CORNER))
BACK_RGB = np.ascontiguousarray(np.repeat(DOWN[:, :, None], 3, axis=2).reshape(CORNER, SIDE * 3))

CELL_DOWN = np.kron(np.eye(SIDE // 2), [[0.5, 0.5]]).astype(np.float32)
CELL_ACROSS = np.ascontiguousarray(np.tile(LUMINANCE, 2)[:, None] / 2)


def whole_blocks(picture: Pixels, row_step: int = 1, first_row: int = 0) -> NDArray[np.uint8]:
    """View ``picture [H, W, 3]`` as ``[block row, 8, pixels x 3]``, without the odd edge, every ``row_step``-th row."""
    rows, columns = picture.shape[0] // SIDE, picture.shape[1] // SIDE
    inner = picture[: rows * SIDE, : columns * SIDE]
    return inner.reshape(rows, SIDE, columns * SIDE * 3)[first_row::row_step]


def forward_rgb(values: Floats) -> Floats:
    """Luminance coefficients of ``values`` (:func:`whole_blocks` as float32): ``[rows, 3, columns, 3]``."""
    down = np.matmul(DOWN, values)
    rows, columns = down.shape[0], down.shape[2] // (SIDE * 3)
    return (down.reshape(-1, SIDE * 3) @ ACROSS_RGB).reshape(rows, CORNER, columns, CORNER)


def backward_rgb(coefficients: Floats) -> Floats:
    """The same grey change in all three channels, as ``[rows, 8, pixels x 3]``."""
    rows, _, columns, _ = coefficients.shape
    across = coefficients.reshape(-1, CORNER) @ BACK_RGB
    return np.matmul(UP, across.reshape(rows, CORNER, columns * SIDE * 3))


def texture(values: Floats) -> Floats:
    """How much each 2 x 2 cell of ``values [rows, 8, pixels x 3]`` bends away from its neighbours: ``[rows, 4, pixels / 2]``.

    In grey levels of luminance, nothing on plains and on even slopes. The neighbours are those in the same row of blocks.
    """
    rows, _, width = values.shape
    cells = (np.matmul(CELL_DOWN, values).reshape(-1, 6) @ CELL_ACROSS).reshape(rows, SIDE // 2, width // 6)
    bend = np.zeros_like(cells)
    step = cells[:, :, 1:] - cells[:, :, :-1]
    np.abs(step[:, :, 1:] - step[:, :, :-1], out=bend[:, :, 1:-1])
    step = cells[:, 1:] - cells[:, :-1]
    inner = np.abs(step[:, 1:] - step[:, :-1])
    np.abs(step, out=step)
    bend[:, 1:-1] += inner
    bend[:, 0] += np.minimum(inner[:, 0], step[:, 0])
    bend[:, -1] += np.minimum(inner[:, -1], step[:, -1])
    return bend


def over_pixels(cells: Floats) -> Floats:
    """A number for each 2 x 2 cell, put down at its twelve values: ``[rows, 4, cells]`` to ``[rows, 8, cells x 6]``."""
    return np.repeat(np.repeat(cells, 6, axis=2), 2, axis=1)


def luminance(picture: Pixels) -> Floats:
    """Grey levels ``[H, W]`` of ``picture [H, W, 3]``."""
    return picture.astype(np.float32) @ LUMINANCE


def forward_grey(grey: Floats, dy: int, dx: int) -> Floats:
    """Coefficients of ``grey [H, W]`` on the block grid that starts at ``(dy, dx)``."""
    rows, columns = (grey.shape[0] - dy) // SIDE, (grey.shape[1] - dx) // SIDE
    inner = np.ascontiguousarray(grey[dy : dy + rows * SIDE, dx : dx + columns * SIDE])
    down = np.matmul(DOWN, inner.reshape(rows, SIDE, columns * SIDE))
    return (down.reshape(-1, SIDE) @ ACROSS).reshape(rows, CORNER, columns, CORNER)


def fold(responses: Floats, high: int, wide: int) -> Floats:
    """Add up all repeats of a pattern of ``high x wide`` blocks: ``[high, 3, wide, 3]``; uncovered places stay zero."""
    rows, _, columns, _ = responses.shape
    down, across = -(-rows // high), -(-columns // wide)
    if (rows, columns) != (down * high, across * wide):
        padded = np.zeros((down * high, CORNER, across * wide, CORNER), np.float32)
        padded[:rows, :, :columns] = responses
        responses = padded
    return responses.reshape(down, high, CORNER, across, wide, CORNER).sum((0, 3))
