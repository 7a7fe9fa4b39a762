"""The watermark in a recording: some frames of it, decoded with PyAV, their evidence taken together.

The studio's camera tab shows a picture enlarged by a whole factor and records what it shows, so a frame is read at its own
size and at every whole fraction of it. Where that finds nothing, a few frames are searched for a crop or another size. However
long or broken a file is, a bounded number of its frames is decoded, from all over it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from fewstep import extras
from fewstep.pixels import Pixels
from fewstep.provenance.chips import SMALLEST_SIDE
from fewstep.provenance.detection import FALSE_POSITIVE_RATE, Detection, pool
from fewstep.provenance.search import search, searched_places
from fewstep.provenance.watermark import SpreadSpectrum, Watermark

CONTAINERS = {"video/webm": "matroska", "video/mp4": "mov"}
"""Which demuxer reads which type. It is named, so that no file can make ffmpeg read it as a list of other files to open."""
ENLARGED = (1, 2, 4, 8, 16)
"""Whole factors that a page may have enlarged pictures by."""
MOST_FRAMES = 240
MOST_PLACES = 12
"""Key frames, from all over the recording, that the frames follow."""
MOST_PIXELS = 2**29
"""Decoded in all: 250 frames of 1080p, about 5 s of one core."""
SEARCHED = 3
"""Frames that are searched together for a crop or a resize where the mark is not where it was put: about 5 s of one core."""
LARGEST_FRAME = 2**25
MOST_PACKETS = 500_000
"""Four hours at 30 frames a second; the rest is not read."""


@dataclass(frozen=True)
class Reading:
    """One frame, read at one size."""

    found: Detection
    key: bool
    """Whether it was encoded by itself, and not as its difference to others."""


def detect(data: bytes, mime: str, mark: Watermark) -> Detection | None:
    """Look for the mark in a recording of a type in `CONTAINERS`; None where its frames are too small to carry one.

    Raises ValueError where nothing can be decoded: a package is missing, or the file is broken.
    """
    heard: dict[tuple[int, int, int], list[Reading]] = {}
    seen = 0
    keys: list[Pixels] = []
    for picture, key in frames(data, mime):
        seen += 1
        if key and min(picture.shape[:2]) >= SMALLEST_SIDE and (not keys or picture.shape == keys[0].shape):
            keys.append(picture)
        for factor in ENLARGED:
            small = _reduced(picture, factor)
            if small is not None:
                reading = Reading(mark.detect(small, "aligned"), key)
                heard.setdefault((factor, *small.shape[:2]), []).append(reading)
    if not seen:
        raise ValueError("no frame of this recording can be decoded: get a whole copy of it")
    ours = isinstance(mark, SpreadSpectrum)
    rate = mark.options.false_positive_rate if isinstance(mark, SpreadSpectrum) else FALSE_POSITIVE_RATE
    verdicts = []
    for (factor, *_), readings in heard.items():
        one = _best(readings, rate, len(heard) * (2 if ours else 1))
        verdicts.append(replace(one, alignment=replace(one.alignment, scale=1 / factor)))
    best = min(verdicts, key=lambda one: one.p_value, default=None)
    if best is None or best.found or not isinstance(mark, SpreadSpectrum) or not keys:
        return best
    some = keys[:: -(-len(keys) // SEARCHED)]
    paid = 2 * searched_places(some[0].shape[0], some[0].shape[1], scales=True)
    found = search(mark.settings, some, best, scales=True, paid=paid)
    return found if found.found else best


def _best(readings: Sequence[Reading], rate: float, sizes: int) -> Detection:
    """The verdict over the frames read at one size, of which there were ``sizes`` to choose from.

    Where little is spared for it, a codec moves the mark along with what it was put on: the frames together then say less
    than the key frames alone, or than one of them. Every choice is paid for. The detections of another watermark can't be
    added up: of those it is the best one.
    """
    choices = [[reading.found] for reading in readings]
    if all(reading.found.evidence is not None for reading in readings):
        choices += [[one.found for one in readings], [one.found for one in readings if one.key]]
    hypotheses = sizes * len(choices)
    singles = min((one for (one, *_) in choices[: len(readings)]), key=lambda one: one.p_value)
    p_value = min(1.0, singles.p_value * hypotheses)
    found = p_value <= rate
    payload = singles.payload if found else None
    verdicts = [replace(singles, p_value=p_value, found=found, payload=payload, hypotheses=hypotheses)]
    verdicts += [pool(together, rate, hypotheses) for together in choices[len(readings) :] if together]
    return min(verdicts, key=lambda one: one.p_value)


def frames(data: bytes, mime: str) -> Iterator[tuple[Pixels, bool]]:
    """Some frames ``[H, W, 3]`` (uint8), each with whether it is a key frame; ends where the file breaks.

    They come in order, in runs that begin at key frames.
    """
    extras.require("the decoder of videos", extras.of("video"))
    import av

    try:
        keys = [number for number, packet in _packets(data, mime) if packet.is_keyframe and packet.size]
        chosen = keys[:: -(-len(keys) // MOST_PLACES)] if keys else []
        left = pixels = 0
        for number, packet in _packets(data, mime):
            context = packet.stream.codec_context
            if number in chosen:
                largest = max(1, context.width * context.height)
                left = max(1, min(MOST_FRAMES, MOST_PIXELS // largest) // len(chosen))
            for frame in packet.decode() if left else ():
                left = max(0, left - 1)
                pixels += frame.width * frame.height
                if pixels > MOST_PIXELS:  # they have grown on the way
                    return
                yield frame.to_ndarray(format="rgb24"), frame.key_frame
    except (av.FFmpegError, OverflowError, MemoryError):
        return


def _packets(data: bytes, mime: str) -> Iterator[tuple[int, Any]]:
    """The packets of the first video stream, numbered."""
    import av

    with av.open(io.BytesIO(data), "r", format=CONTAINERS[mime]) as container:
        for stream in container.streams.video[:1]:
            stream.codec_context.options = {"max_pixels": str(LARGEST_FRAME)}
            yield from islice(enumerate(container.demux(stream)), MOST_PACKETS)


def _reduced(picture: Pixels, factor: int) -> Pixels | None:
    """The picture that was enlarged by ``factor``, each pixel the mean of its square; None where that can't have been."""
    height, width = picture.shape[:2]
    if height % factor or width % factor or min(height, width) // factor < SMALLEST_SIDE:
        return None
    if factor == 1:
        return picture
    return np.asarray(Image.fromarray(picture).reduce(factor))
