"""Parts of somebody's own, named on the command line by a dotted path."""

from __future__ import annotations

import importlib
from typing import Any


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
