"""TensorBoard: event files in ``tensorboard/`` beside the journal. ``tensorboard --logdir RUN`` shows all phases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ... import extras, files
from . import LoggedRun


def needs() -> tuple[str, ...]:
    """tensorboard itself, or tensorboardX in its place."""
    return () if extras.installed("tensorboardX") else ("tensorboard",)


def open(run: LoggedRun, config: Mapping[str, Any]) -> TensorBoard:
    """Go on in the same folder: steps that come again take the place of those that were logged."""
    folder = run.folder / "tensorboard"
    if not run.step:
        files.remove(folder, ("events.out.tfevents.*",))
    kind = importlib.import_module("torch.utils.tensorboard" if extras.installed("tensorboard") else "tensorboardX")
    writer = kind.SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else None)
    if not run.step:
        lines = "".join(f"| {key} | {value} |\n" for key, value in config.items())
        writer.add_text("options", f"| option | value |\n|---|---|\n{lines}", 0)
    return TensorBoard(writer)


class TensorBoard:
    """Every step is on disk before the next one begins, so that a kill loses none that the journal has."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A curve a figure."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """A picture of the step."""
        self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
