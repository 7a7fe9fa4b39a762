"""What a step leaves behind: its log, and the alarms that it set off."""

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
