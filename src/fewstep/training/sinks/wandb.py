"""Weights & Biases: one of its runs a phase, in the project ``fewstep``. WANDB_MODE=offline keeps it on this machine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from . import LoggedRun, Tracker


def needs() -> tuple[str, ...]:
    """Its package."""
    return ("wandb",)


def open(run: LoggedRun, config: Mapping[str, Any]) -> Tracker:
    """Go on in the same run of theirs, by the id in ``wandb_id`` beside the journal."""
    import wandb

    known = run.folder / "wandb_id"
    if not run.step or not known.is_file():
        known.write_text(uuid.uuid4().hex[:12], "utf-8")
    made = wandb.init(
        project="fewstep",
        name=run.name,
        id=known.read_text("utf-8"),
        resume="allow",
        dir=str(run.folder),
        config=dict(config),
    )
    return Tracker(made, run, wandb.Image, made.finish)
