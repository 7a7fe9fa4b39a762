"""Families: what the command line finds by a name. A member is a file of a package; one of your own has a dotted path.

Methods, backends, datasets and feature networks are files (`Family`); safety filters and watermarks are objects that a class
or function makes (`load`). Both look in the current folder, too, after all that is installed.
"""

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
    """The files of a package that offer the same, by name: adding one is one file. Their ``MEMBERS``, if they have some, are
    what they are called; else the file's name is. A name with an underscore in front is no member."""

    package: str
    """Where the files stand, such as ``fewstep.methods``."""
    kind: str
    """What one of them is, for sentences."""
    offers: tuple[str, ...]
    """What each of them has to offer."""

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The names of the package's files, members or not: nothing is imported for them."""
        root = importlib.import_module(self.package)
        return tuple(m.name for m in pkgutil.iter_modules(root.__path__) if not m.name.startswith("_"))

    @cached_property
    def members(self) -> dict[str, ModuleType]:
        """Every member, by name."""
        modules = {name: importlib.import_module(f"{self.package}.{name}") for name in self.files}
        return {
            own: module
            for name, module in modules.items()
            if self.missing(module) is None
            for own in getattr(module, "MEMBERS", (name,))
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(self.members)

    def missing(self, module: ModuleType) -> str | None:
        """The first thing that a member offers and this module does not."""
        return next((name for name in self.offers if not hasattr(module, name)), None)

    def load(self, name: str) -> Any:
        """A member by its name, or a file of somebody's own by its dotted path.

        Raises ValueError where it is neither, with the names that there are.
        """
        if "." not in name.strip("."):
            if name not in self.members:
                raise ValueError(
                    f"there is no {self.kind} {name!r}: use {', '.join(self.names)}, or a dotted path to your own"
                )
            return self.members[name]
        module = imported(name, f"the {self.kind} {name!r}", "give a dotted path to a file of yours")
        if missing := self.missing(module):
            raise ValueError(f"{name} is no {self.kind}, for it has no {missing}: it needs {', '.join(self.offers)}")
        return module


def imported(name: str, what: str, fix: str) -> ModuleType:
    """A module by its dotted path. Raises ValueError with the ``fix`` where there is none."""
    added = "" not in sys.path
    if added:
        sys.path.append("")  # the current folder, last: it hides nothing that is installed
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot load {what} ({error}): {fix}") from None
    finally:
        if added:
            sys.path.remove("")


def load(name: str, protocol: type, what: str) -> Any:
    """What a dotted path to a class or function makes. ValueError where it is none, or makes no ``protocol``.

    ``what`` says in a sentence what would be right, as "a filter has the methods prompt(text) and picture(pixels)".
    """
    module, _, attribute = name.rpartition(".")
    fix = f"give a dotted path; {what}"
    try:
        made = getattr(imported(module, repr(name), fix), attribute)()
    except AttributeError as error:
        raise ValueError(f"cannot load {name!r} ({error}): {fix}") from None
    if not isinstance(made, protocol):
        raise ValueError(f"{name} makes something else: {what}")
    return made
