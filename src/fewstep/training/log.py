"""What a step leaves behind: its log, the alarms that it set off, and what is raised when it was the last for now."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """Steps taken so far, this one included; 0 is a look before the first."""
    losses: dict[str, float]
    """Weighted losses as ``player/loss``."""
    observations: dict[str, float]
    """Gradient norms, whatever the method observed, and the figures of a probe as ``probe/figure``."""
    skipped: bool = False
    """A loss or gradient was not finite, so the weights were left alone."""
    alarms: list[Alarm] = field(default_factory=list)
    """Health rules that fired at this step."""


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, time limit); its state is saved."""
