"""What a step leaves behind: its log, the alarms that it set off, and what is raised when it was the last for now."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Alarm:
    """A health rule that fired."""

    rule: str
    """Name of the rule."""
    message: str
    """What was seen, and what to try."""
    fatal: bool = False
    """The run must stop."""


@dataclass
class StepLog:
    """What happened in one step."""

    step: int
    """Steps taken so far, this one included; 0 is an evaluation before the first."""
    losses: dict[str, float]
    """Weighted losses as ``player/loss``."""
    observations: dict[str, float]
    """Gradient norms, whatever the method observed, and the figures of a probe as ``probe/figure``."""
    skipped: bool = False
    """A loss or gradient was not finite, so the weights were left alone."""
    alarms: list[Alarm] = field(default_factory=list)
    """Health rules that fired at this step."""
    pictures: Any = None
    """Media ``[B, C, *S]`` that an evaluation drew after this step, the first few; None where there are none."""


STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a run to stop: Ctrl-C, a machine that shuts down, a terminal or a connection that is gone."""


def ignored(number: int) -> bool:
    """Is this signal one that whoever started us wants ignored, as ``nohup`` does?"""
    return signal.getsignal(number) == signal.SIG_IGN


def leave_terminal(number: int) -> None:
    """After SIGHUP the terminal is gone: what is printed goes nowhere, instead of ending the run with an error."""
    if number != getattr(signal, "SIGHUP", None):
        return
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, time limit); its state is saved."""
