"""The contract of a judge: one file that says what it measures, with what, under which licence, and how.

A judge's file offers

- its docstring's first line: what it measures;
- ``KIND``: ``score``, one number a picture, of which the mean is reported; or ``features``, one row a picture, of which a
  distance to real pictures is;
- ``LICENCE``, of its code and weights;
- ``PINS``, what its environment holds, as pip spells it; None for a judge that runs in fewstep's own environment;
- ``load(asked)``, which runs in the judge's process and gives a callable from files and prompts to one value a picture, in
  order; its ``resizer`` and ``fingerprint`` are kept in the records;
- ``WEIGHTS`` (`kit.Weights`), where it reads files that somebody has to fetch;
- ``tiny(folder)``, which writes such files with small random weights of the real classes: the self-test runs with them;
- ``DIRECTION``, ``↑`` or ``↓``, where more is not better; a distance is always ``↓``;
- ``DISTANCE``, for features: ``frechet`` or ``mmd``;
- ``SEES_LIKE``, the feature network of fewstep that its own is kin to: a student trained against that one pleases it too easily;
- ``METRIC``, what its figure is called, where that is not the judge's name;
- ``PROGRAM``, the words of another program that speaks the protocol in place of Python: ``{python}`` and ``{folder}`` stand
  for the environment's Python and the file's folder;
- ``MEMBERS``, where one file holds several.

At its top it imports the standard library and ``fewstep.judges.kit``: its process may have nothing else.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from ..plugin import Family
from .kit import Weights

FAMILY = Family("fewstep.judges", "judge", ("KIND", "LICENCE", "PINS", "load"))
"""What measures pictures in a process of its own."""
Kind = Literal["score", "features"]
Distance = Literal["frechet", "mmd"]


@dataclass(frozen=True)
class Judge:
    """A judge's file, as this process sees it: nothing of its packages is imported here."""

    name: str
    module: ModuleType
    measures: str
    kind: Kind
    distance: Distance
    metric: str
    direction: str
    licence: str
    pins: tuple[str, ...] | None
    weights: Weights | None
    program: tuple[str, ...]
    sees_like: str

    @property
    def file(self) -> Path:
        """Where it stands."""
        assert self.module.__file__ is not None
        return Path(self.module.__file__).resolve()

    @property
    def has_tiny(self) -> bool:
        """Whether it can make small random weights for itself."""
        return hasattr(self.module, "tiny")

    @property
    def packages(self) -> dict[str, list[str]]:
        """For an environment of its own, the packages above the file and the kit, with their folders; else nothing."""
        if self.pins is None:
            return {}
        above = [self.module.__name__.split(".")[:-1], __name__.split(".")[:-1]]
        names = {".".join(parts[: i + 1]): None for parts in above for i in range(len(parts))}
        return {name: [str(path) for path in sys.modules[name].__path__] for name in names}

    @property
    def search_path(self) -> list[str]:
        """Where fewstep's own Python looks for modules, with the current folder last; nothing for an environment of its own."""
        return [str(Path(place).resolve()) for place in (*filter(None, sys.path), "")] if self.pins is None else []


def find(name: str) -> Judge:
    """A judge by its name, or by the dotted path of a file. Raises ValueError for what is none, with what would be right."""
    module = FAMILY.load(name)
    kind: Any = module.KIND
    distance: Any = getattr(module, "DISTANCE", "frechet")
    if kind not in get_args(Kind) or distance not in get_args(Distance):
        raise ValueError(
            f"the judge {name} gives {kind!r} by {distance!r}: KIND is score or features, DISTANCE frechet or mmd"
        )
    pins = module.PINS
    if pins is not None and (isinstance(pins, str) or not all(isinstance(pin, str) for pin in pins)):
        raise ValueError(f"the judge {name} has PINS {pins!r}: give a tuple of words for pip, or None")
    direction = getattr(module, "DIRECTION", "↓" if kind == "features" else "↑")
    if direction not in ("↑", "↓"):
        raise ValueError(f"the judge {name} has the DIRECTION {direction!r}: give ↑ or ↓")
    said = (module.__doc__ or "it does not say what").strip().splitlines()[0]
    return Judge(
        name, module, said, kind, distance, getattr(module, "METRIC", name), direction, module.LICENCE,
        None if pins is None else tuple(pins), getattr(module, "WEIGHTS", None), tuple(getattr(module, "PROGRAM", ())),
        getattr(module, "SEES_LIKE", ""),
    )  # fmt: skip
