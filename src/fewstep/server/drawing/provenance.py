"""Provenance of what is served: an invisible mark in every streamed frame, content credentials in every saved picture."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TypeVar, cast

import numpy as np

from ... import provenance
from ...bundle import Card
from ...pixels import Pixels
from ...provenance import Format, GenerationFacts, StampOptions, mark_payload
from ...provenance.chips import SMALLEST_SIDE
from ...provenance.content_credentials import Task
from ..wire.images import encode
from ..wire.protocol import MIMES, DrawRequest, Part

log = logging.getLogger("fewstep.server")
T = TypeVar("T")
SILENT_S = 60.0
"""A time authority that failed is left alone for so long: every picture would wait for it."""


@dataclass(frozen=True)
class PictureFacts:
    """What is said about one saved picture."""

    steps: int
    seed: int
    prompt: str
    task: Task = "text"
    strength: float | None = None
    drawn_side: int | None = None
    """Pixels across as drawn, of a file that was enlarged."""

    @classmethod
    def of(cls, request: DrawRequest, steps: int, strength: float) -> PictureFacts:
        """What is true of a picture that was drawn for a request in so many ``steps`` from this ``strength``."""
        return cls(
            steps, request.seed, request.prompt, cast(Task, request.task), strength if request.with_picture else None
        )


class Stamper:
    """Marks frames and stamps files for one bundle; switched off it passes pixels through and says so in the log."""

    def __init__(
        self,
        card: Card,
        on: bool = True,
        stamping: StampOptions = provenance.DEFAULTS,
    ) -> None:
        self.card, self.on, self._stamping = card, on, stamping
        self.hash = card.fingerprint
        self._payload = mark_payload(self.hash)
        self.missing = provenance.missing() if on else None
        self._answering, self._silent_until_s, self._lock = True, 0.0, threading.Lock()
        if not on:
            log.warning("provenance is switched off: pictures carry neither a watermark nor content credentials")
        elif self.missing:
            log.warning("saved pictures carry a watermark but %s", self.missing)

    @property
    def state(self) -> dict[str, bool]:
        """For the page's badge; whether time stamps are put on is told where an authority was named."""
        signs = self._stamping.credentials and self.on and self.missing is None
        clock = {"time_stamps": signs and self._answering} if self._stamping.time_authority else {}
        return {"watermark": self.on, "credentials": signs} | clock

    def frame(self, pixels: Pixels) -> Pixels:
        """A frame with the mark in it; pictures too small to carry one pass through."""
        if not self.on:
            return pixels
        if self._stamping.visible_mark:
            pixels = provenance.labelled(pixels)
        if min(pixels.shape[:2]) < SMALLEST_SIDE:
            return pixels
        return self._stamping.mark.embed(pixels, self._payload)

    def file(
        self,
        pixels: Pixels,
        facts: PictureFacts,
        encoder: str = "png",
        include_prompt: bool = False,
        quality: int | None = None,
        given: Part | None = None,
    ) -> bytes:
        """A picture to save, from unmarked pixels: marked, encoded and signed. ``quality``, 0 to 100, of a JPEG or a WebP.

        Of a ``given`` file, which drawing began from, the credentials are kept, where it has some: they hold no pixels of it.
        """
        if encoder not in MIMES:
            raise ValueError(f"unknown format {encoder!r}: use one of {', '.join(MIMES)}")
        stamping = self._stamping if quality is None else replace(self._stamping, quality=quality)
        if not self.on:
            kept = quality is None or encoder == "png"
            return encode(pixels, encoder) if kept else provenance.encode(pixels, encoder.upper(), stamping.quality)
        said = GenerationFacts(self.card.name, self.hash, **asdict(facts))
        kind = cast(Format, encoder.upper())
        before = None
        if given is not None and given.mime in MIMES.values() and self.state["credentials"]:
            before = provenance.ingredient_of(bytes(given.data), given.mime)
        stamping = replace(stamping, format=kind, include_prompt=include_prompt)
        return self._stamped(lambda how: provenance.stamp(pixels, said, how, before), stamping)

    def recording(self, data: bytes, mime: str) -> bytes | None:
        """The ``.c2pa`` sidecar of a recording of this model's pictures; None where nobody can sign. It looks into nothing."""
        if not (self.on and self._stamping.credentials):
            return None
        facts = GenerationFacts(self.card.name, self.hash)
        return self._stamped(lambda how: provenance.stamp_beside(data, mime, facts, how), self._stamping)

    def _stamped(self, make: Callable[[StampOptions], T], stamping: StampOptions) -> T:
        """What ``make`` signs. A time authority that fails costs its stamp alone: it is told once, and asked again later."""
        with _said_at_the_start():
            if not stamping.time_authority:
                return make(stamping)
            without = replace(stamping, time_authority=None)
            if time.monotonic() < self._silent_until_s:
                return make(without)
            try:
                data = make(stamping)
            except ValueError as error:
                data = make(without)  # where this fails, too, it was not the clock
                self._clock_is(False, error)
                return data
            self._clock_is(True)
            return data

    def _clock_is(self, answering: bool, error: ValueError | None = None) -> None:
        with self._lock:
            changed, self._answering = self._answering != answering, answering
            self._silent_until_s = 0.0 if answering else time.monotonic() + SILENT_S
        if changed and answering:
            log.warning("the time authority answers again: pictures carry its time stamps")
        elif changed:
            log.warning("saved pictures are signed without a time stamp until it is there again: %s", error)


def try_out(stamping: StampOptions) -> None:
    """Mark and sign one small picture. Raises ValueError with what to do where that fails: better now than at every picture."""
    if not (stamping.watermark or stamping.credentials):
        return
    grey = np.full((SMALLEST_SIDE, SMALLEST_SIDE, 3), 128, np.uint8)
    try:
        with _said_at_the_start():
            provenance.stamp(grey, GenerationFacts("trial", "0" * 64), stamping)
    except Exception as error:
        why = str(error) or type(error).__name__
        raise ValueError(
            f"pictures cannot be signed here: {why}; or serve with the mark alone: --no-credentials"
        ) from error


@contextlib.contextmanager
def _said_at_the_start() -> Iterator[None]:
    """Without the warnings that `Stamper` has logged already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", provenance.ProvenanceWarning)
        yield
