"""Aspect buckets: sizes of about one area, so that pictures of many shapes are trained on with little cut off.

A picture goes to the bucket whose aspect ratio is nearest to its own (in the logarithm, so that 2:1 and 1:2 are equally far from
a square), and is resized and cropped to it there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fewstep.sizes import heard, like, spoken

WIDEST = 2.0
"""The automatic buckets reach from this aspect ratio to its inverse."""
MOST = 64


def read(words: str, size: tuple[int, int], multiple: int) -> tuple[tuple[int, int], ...]:
    """The buckets ``(height, width)`` that ``--buckets`` asks for: a count, or sizes with commas between. None for none.

    Raises ValueError with the fix.
    """
    words = words.strip()
    if not words:
        return ()
    if words.isdecimal():
        count = int(words)
        if not 3 <= count <= MOST:
            raise ValueError(f"--buckets {words}: use 3 to {MOST} buckets, or name their sizes, as 64x64,80x48,48x80")
        return automatic(size, count, multiple)
    found = tuple(heard(word) for word in words.split(","))
    if len(set(found)) < len(found) or len(found) > MOST:
        raise ValueError(f"--buckets {words}: name each size once, and at most {MOST} of them")
    for height, width in found:
        if height % multiple or width % multiple or not all(8 <= side <= 4096 for side in (height, width)):
            fix = spoken([min(4096 // multiple, max(1, round(side / multiple))) * multiple for side in (height, width)])
            raise ValueError(
                f"--buckets: the sides of {spoken((height, width))} have to be multiples of {multiple} from 8 to 4096 pixels; "
                f"the nearest is {fix}"
            )
    return found


def automatic(size: tuple[int, int], count: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """About ``count`` sizes of about the area of ``size``, it among them, from the tallest to the widest.

    Aspect ratios go evenly from 1:2 to 2:1 (in the logarithm), sides are multiples of ``multiple``; there are fewer where
    rounding makes two of them one.
    """
    side = math.sqrt(size[0] * size[1])
    spread = [WIDEST ** (2 * i / (count - 1) - 1) for i in range(count)]
    own = min(spread, key=lambda ratio: abs(math.log(ratio * size[0] / size[1])))
    found = [size if ratio == own else like((1000, 1000 * ratio), side, multiple, multiple) for ratio in spread]
    return tuple(dict.fromkeys((height, width) for height, width in found))


def nearest(shape: Sequence[int], buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket of nearest aspect ratio to a picture of ``(height, width)``; of two equally near, the one that is first."""
    return min(buckets, key=lambda own: abs(math.log(shape[1] * own[0] / (shape[0] * own[1]))))


def multiple_for(size: tuple[int, int]) -> int:
    """What sides are multiples of where nobody says so: 64, as Stable Diffusion's trainers have it, less for small pictures."""
    return max(8, min(64, 2 ** int(math.log2(min(size) / 8)))) if min(size) >= 64 else 8
