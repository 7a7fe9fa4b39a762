"""Sizes of pictures as people say them, width first: ``48x32``. Inside they are shapes, as tensors have them: (32, 48).

This is the only place where the two are turned into each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

LARGEST = 65_536
"""The longest side that is taken, in pixels."""


def shape_of(size: Sequence[int]) -> str:
    """What a picture is made where it gets this size: "square", or its size in words."""
    return "square" if len(set(size)) == 1 else spoken(size)


def spoken(size: Sequence[int]) -> str:
    """A media size ``S`` in words: ``(32, 48)`` is 48x32, ``(16000,)`` is 16000, a video's ``(T, H, W)`` is WxHxT."""
    return "x".join(map(str, reversed(size)))


def heard(words: str) -> tuple[int, int]:
    """``48x32``, the width first, as ``(height, width)``; one number is a square's side. Raises ValueError with the fix."""
    found = re.fullmatch(r"([0-9]{1,6})(?:[xX×]([0-9]{1,6}))?", words.strip())
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(1 <= side <= LARGEST for side in sides):
        raise ValueError(f"{words!r} is no size: give WIDTHxHEIGHT in pixels, as 768x512, or one number for a square")
    return sides[-1], sides[0]


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """``(height, width)`` of a size; one number is a square's side."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def like(size: Sequence[float], side: float, multiple: int = 1, least: int = 1) -> tuple[int, ...]:
    """The shape of ``size`` with about the area of a square of ``side``: every side a ``multiple``, and at least ``least``."""
    scale = side / math.prod(size) ** (1 / len(size))
    return tuple(max(round(own * scale / multiple) * multiple, -(-least // multiple) * multiple) for own in size)


def _option(own: str = "") -> PrimitiveConstructorSpec[int | tuple[int, int] | None]:
    """How a size is typed; ``own`` is the word for None."""

    def instance(words: Sequence[str]) -> int | tuple[int, int] | None:
        if own and words[0] == own:
            return None
        height, width = heard(words[0])
        return height if height == width else (height, width)

    def words(value: int | tuple[int, int] | None) -> list[str]:
        return [own if value is None else spoken(pair(value))] if not isinstance(value, int) else [str(value)]

    def fits(value: object) -> bool:
        return isinstance(value, int | tuple) or (bool(own) and value is None)

    metavar = f"WIDTHxHEIGHT|{own}" if own else "WIDTHxHEIGHT"
    return PrimitiveConstructorSpec(
        nargs=1, metavar=metavar, instance_from_str=instance, is_instance=fits, str_from_instance=words
    )


Size = Annotated[int | tuple[int, int], _option()]
"""An option: ``(height, width)``, or one number for a square. It is typed width first: ``--size 768x512``."""
OwnSize = Annotated[int | tuple[int, int] | None, _option("own")]
"""The same, or None, typed ``own``: the model's own size."""
