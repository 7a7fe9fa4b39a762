"""Options as a person types them: how they are spelled, what a run is held against when it goes on, and how they are told.

Three marks stand beside a field, in its type: ``steps: Annotated[Limit, FREE] = 1000``.

============  ==================================================================================================
mark          meaning
============  ==================================================================================================
SHARED        spelled alike whatever the method: ``--features``, not ``--add.features``
FREE          a run may go on with another value: it says how far the run goes, where, or which state is taken
CHANGEABLE    a run may go on with another value, and is told so: what helps one that has exploded
StandsFor     names something: a run is held against what the name stands for
============  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

import tyro

SHARED = tyro.conf.arg(prefix_name=False)
"""Marks an option of a method, or a group of them, that is spelled without the method's name."""


@dataclass(frozen=True)
class Mark:
    """Something that is said of an option."""

    name: str


FREE = Mark("free")
"""Marks an option that a run may go on with another value of."""
CHANGEABLE = Mark("changeable")
"""Marks an option that a run which has exploded may go on with another value of."""


@dataclass(frozen=True)
class StandsFor:
    """Marks an option that names something, such as a file: a run is held against ``content(value)``, not the name. Without
    ``content``, the run finds out itself what it stands for."""

    content: Callable[[Any], Any] | None = None


class Option(NamedTuple):
    """One option: its name on the command line, its value, and what its type is marked with, that of its groups included."""

    name: str
    value: Any
    marks: tuple[Any, ...]


def spelled(options: Any, prefix: str = "--", marks: tuple[Any, ...] = ()) -> Iterator[Option]:
    """Every option as it is typed, nested ones as ``--add.r1``."""
    hints = get_type_hints(type(options), include_extras=True)
    for option in fields(options):
        value = getattr(options, option.name)
        told = (*marks, *getattr(hints[option.name], "__metadata__", ()))
        own = "--" if SHARED in told[len(marks) :] else prefix
        name = own + option.name.replace("_", "-")
        if is_dataclass(value):
            yield from spelled(value, f"{name}.", tuple(m for m in told if m != SHARED))
        else:
            yield Option(name, value, told)


def resume_key(options: Any, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the weights of a run depend on, by option: all but what is ``FREE``, in values that JSON holds.

    ``found`` holds, by name, what the run knows better than the options: what a name stood for, what was decided on the way.
    """
    key: dict[str, Any] = {}
    for name, value, marks in spelled(options):
        if FREE in marks:
            continue
        if found and name in found:
            value = found[name]
        else:
            for mark in marks:
                if isinstance(mark, StandsFor):
                    assert mark.content is not None, f"what {name} stands for has not been found out"
                    value = mark.content(value)
        key[name] = list(value) if isinstance(value, tuple) else value
    return key


def marked(options: Any, mark: Any) -> tuple[str, ...]:
    """The names of the options with this mark; for a class, of all marks that are of it."""
    wanted = (lambda m: isinstance(m, mark)) if isinstance(mark, type) else (lambda m: m == mark)
    return tuple(name for name, _, marks in spelled(options) if any(wanted(m) for m in marks))


def as_typed(options: Any) -> dict[str, Any]:
    """All options, nested as they are typed: what a card keeps."""
    table: dict[str, Any] = {}
    for name, value, _ in spelled(options):
        *groups, last = name.removeprefix("--").replace("-", "_").split(".")
        inner = table
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return table


def words(given: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What to type for options, nested as `as_typed` or JSON has them: all that are not as they are by default.

    Those that ``default`` does not know, of an older version perhaps, are left out.
    """
    typed: list[str] = []
    for name, usual in default.items():
        value, dashed = given.get(name, usual), name.replace("_", "-")
        if isinstance(usual, Mapping):
            typed += words(value, usual, f"{prefix}{dashed}.")
            continue
        values, usually = (list(x) if isinstance(x, list | tuple) else [x] for x in (value, usual))
        if values == usually:
            continue
        if isinstance(value, bool):
            typed.append(f"--{prefix}{'' if value else 'no-'}{dashed}")
        else:
            typed += [f"--{prefix}{dashed}", *map(str, values)]
    return typed
