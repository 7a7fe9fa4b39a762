"""Logs beside the journal, for whoever looks at many runs elsewhere: TensorBoard, wandb, trackio, or a file of your own.

A sink is one file that offers ``open(run, config) -> Sink``; ``needs() -> tuple[str, ...]``, the modules that it takes, may be
left out. The journal stays the truth: a sink that fails is told once and left alone, and the training goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ... import extras
from ...plugin import Family

FAMILY = Family("fewstep.training.sinks", "log", ("open",))
"""The files of this folder, and your own by a dotted path."""


@dataclass(frozen=True)
class LoggedRun:
    """One phase of a run, as a sink is told of it."""

    name: str
    """The run's folder and the phase: ``student/add``."""
    folder: Path
    """The phase's folder, where the journal lies; what a sink writes to disk goes into a folder of its own in it."""
    step: int
    """Steps that the state has taken from which the phase goes on; 0 where it begins anew and forgets what was there."""
    logged: int = -1
    """The last step that was logged before, -1 for none. Those after ``step`` come again, with the same values."""


class Sink(Protocol):
    """Where a phase is logged to, opened."""

    def scalars(self, step: int, values: Mapping[str, float], /) -> None:
        """Losses and observations after a step."""
        ...

    def picture(self, step: int, name: str, image: Image.Image, /) -> None:
        """What an evaluation drew."""
        ...

    def close(self) -> None:
        """The phase has ended, or was stopped."""
        ...


class Tracker:
    """A run of a tracker that takes dictionaries by step, as wandb's and trackio's do. Steps that were logged before are not
    logged twice."""

    def __init__(
        self, run: Any, begun: LoggedRun, image: Callable[[Image.Image], Any], finish: Callable[[], None]
    ) -> None:
        """``image`` makes the tracker's own picture, ``finish`` hands in what is left."""
        self._run, self._logged, self._image = run, begun.logged if begun.step else -1, image
        self.close = finish

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A curve a figure."""
        self._log(step, dict(values))

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """A picture of the step."""
        if step > self._logged:
            self._log(step, {name: self._image(image)})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step > self._logged:
            self._run.log(values, step=step)


def needs(names: Sequence[str]) -> tuple[str, ...]:
    """The modules that these sinks take. Raises ValueError for a sink that there is not."""
    found = (FAMILY.load(name) for name in names)
    return tuple(module for sink in found for module in getattr(sink, "needs", tuple)())


def check(names: Sequence[str]) -> None:
    """Refuse a sink that there is not, or whose package is not installed. Raises ValueError with the fix."""
    extras.require(" and ".join(f"--log {name}" for name in names), needs(names))


class Sinks:
    """The sinks of one phase. Whatever fails in one of them is told once; it is then left alone."""

    def __init__(self, names: Sequence[str], run: LoggedRun, config: Mapping[str, Any]) -> None:
        """``config`` are the options that the phase's weights depend on."""
        self._open: dict[str, Sink] = {}
        for name in names:
            self._try(name, partial(self._begin, name, run, config))

    def _begin(self, name: str, run: LoggedRun, config: Mapping[str, Any]) -> None:
        self._open[name] = FAMILY.load(name).open(run, config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Hand a step on."""
        for name, sink in list(self._open.items()):
            self._try(name, partial(sink.scalars, step, values))

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Hand a picture on."""
        for own, sink in list(self._open.items()):
            self._try(own, partial(sink.picture, step, name, image))

    def close(self) -> None:
        """Close them all."""
        for name, sink in list(self._open.items()):
            self._try(name, sink.close)
        self._open.clear()

    def _try(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            self._open.pop(name, None)
            said = str(error) or type(error).__name__
            warnings.warn(
                f"--log {name} failed ({said}): nothing more goes there, the journal and the training go on",
                stacklevel=3,
            )
