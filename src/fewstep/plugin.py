"""Families: what is found by its name on the command line, one file a member, and files of somebody's own by a dotted path."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Family:
    """The files of a package that offer something, by name: adding one is one file."""

    package: str
    """Where the files stand, such as ``fewstep.methods``."""
    offers: str
    """What each of them has to offer."""
    kind: str
    """What one of them is, for sentences."""

    @cached_property
    def modules(self) -> dict[str, ModuleType]:
        """Every member, by name."""
        root = importlib.import_module(self.package)
        names = [m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.startswith("_")]
        found = {name: importlib.import_module(f"{self.package}.{name}") for name in names}
        return {name: module for name, module in found.items() if hasattr(module, self.offers)}

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(self.modules)

    def load(self, name: str) -> Any:
        """A member by its name, or a file of somebody's own by its dotted path, looked for in the current folder, too.

        Raises ValueError, with the names that there are, where it is neither.
        """
        if name in self.modules:
            return self.modules[name]
        known = f"use {', '.join(self.names)}, or the dotted path of a file of your own"
        if "." not in name.strip("."):
            raise ValueError(f"there is no {self.kind} {name!r}: {known}")
        module = imported(name, f"{self.kind} {name!r}", known)
        if not hasattr(module, self.offers):
            raise ValueError(f"{name} is no {self.kind}, for it offers no {self.offers}: {known}")
        return module


def imported(name: str, what: str, fix: str) -> ModuleType:
    """A module of somebody's own. Raises ValueError with the ``fix`` where there is none of this name."""
    added = "" not in sys.path
    if added:
        sys.path.append("")  # last: nothing that is installed is hidden by it
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot load the {what} ({error}): {fix}") from None
    finally:
        if added:
            sys.path.remove("")


def load(name: str, protocol: type, what: str) -> Any:
    """What a dotted path to a class or function makes. ValueError where it is none, or makes no ``protocol``.

    ``what`` says in a sentence what would be right, as "a filter has the methods prompt(text) and picture(pixels)".
    """
    module, _, attribute = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot load {name!r} ({error}): give a dotted path; {what}") from None
    if not isinstance(made, protocol):
        raise ValueError(f"{name} makes something else: {what}")
    return made
