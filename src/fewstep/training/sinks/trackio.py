"""trackio, Hugging Face's local tracker: a run a phase, in the project ``fewstep``; ``trackio show`` opens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import LoggedRun, Tracker


def needs() -> tuple[str, ...]:
    """Its package."""
    return ("trackio",)


def open(run: LoggedRun, config: Mapping[str, Any]) -> Tracker:
    """Go on in the run of this name, or begin one."""
    import trackio

    made = trackio.init(project="fewstep", name=run.name, config=dict(config), resume="allow" if run.step else "never")
    return Tracker(made, run, trackio.Image, trackio.finish)
