"""Keeps the two libraries' chatter off the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the two libraries' own progress bars and remarks off the terminal; errors still come as exceptions."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    levels = ours.get_verbosity(), theirs.get_verbosity()
    bars = [library for library in (ours, theirs) if library.is_progress_bar_enabled()]
    ours.set_verbosity_error()
    theirs.set_verbosity_error()
    for library in bars:
        library.disable_progress_bar()
    try:
        yield
    finally:
        ours.set_verbosity(levels[0])
        theirs.set_verbosity(levels[1])
        for library in bars:
            library.enable_progress_bar()
