"""Weights & Biases: one of its runs a phase, in the project ``fewstep``. WANDB_MODE=offline keeps it on this machine."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from PIL import Image

from . import LoggedRun


def needs() -> tuple[str, ...]:
    """Its package."""
    return ("wandb",)


def open(run: LoggedRun, config: Mapping[str, Any]) -> Wandb:
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
    return Wandb(made, run.logged if run.step else -1)


class Wandb:
    """Steps that were logged before are not logged twice."""

    def __init__(self, run: Any, logged: int) -> None:
        self._run, self._logged = run, logged

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A curve a figure."""
        if step > self._logged:
            self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """A picture of the step."""
        import wandb

        if step > self._logged:
            self._run.log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Hand in what is left."""
        self._run.finish()
