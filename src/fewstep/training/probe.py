"""Evaluation of a running training, on fixed prompts; the best state by it is kept.

Training knows no metric: a recipe hands in ``evaluate``, which draws and measures. It is called at fixed step numbers, with the
averaged weights, so what is kept is the same in a run that was killed and resumed as in one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..tensors import Media
from . import checkpoint
from .trainer import Trainer

Evaluation = Callable[[], Mapping[str, float]]
"""Figures of the players as they stand. ``score`` decides what is kept, the lowest; ``diversity`` is watched by the health
rules; any others are written down. A pure function of the players' weights: its draws come from its own seed."""
Measure = Callable[[Callable[[], Media], Media, int], Evaluation]
"""Makes an evaluation of ``draw() -> media``, fixed prompts from fixed noise; of the real media to compare with; and of how many
pictures of every prompt are drawn, round by round: 2 or more."""
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class Probe:
    """An evaluation, and when it is made."""

    evaluate: Evaluation
    """Draws and measures."""
    every: int = 100
    """Steps between evaluations; the first and the last state are evaluated as well."""
    pictures: Callable[[], Media | None] = lambda: None
    """Some of what the last evaluation drew, to be looked at."""

    def due(self, step: int, last: bool) -> bool:
        """Is an evaluation due after this step?"""
        return last or step % self.every == 0


class RememberingDraw:
    """Draws, and remembers the samples at a few ``places`` of what was drawn last."""

    def __init__(self, draw: Callable[[], Media], places: Sequence[int]) -> None:
        self._draw, self._places = draw, list(places)
        self._last: Media | None = None

    def __call__(self) -> Media:
        """All that is drawn ``[B, C, *S]``."""
        media = self._draw()
        self._last = media[self._places].detach().cpu()
        return media

    def pictures(self) -> Media | None:
        """The remembered samples."""
        return self._last


class Best:
    """The best state so far, in a folder beside the checkpoint. What lies there survives whatever happens to the run."""

    def __init__(self, folder: Path) -> None:
        """Take over what the folder holds. Raises ValueError if it is damaged."""
        self.folder = folder
        self.score, self.step = math.inf, -1
        if checkpoint.exists(folder):
            found = checkpoint.load(folder)
            try:
                self.score, self.step = float(found["score"]), int(found["step"])
            except (KeyError, TypeError, ValueError) as error:
                raise checkpoint.damaged(folder, error) from error

    def offer(self, trainer: Trainer, figures: Mapping[str, float]) -> bool:
        """Keep the players' weights as they stand if they score lower than any before; a score that is not finite never does."""
        score = float(figures["score"])
        if not score < self.score:
            return False
        checkpoint.save(self.folder, {"step": trainer.step, "score": score, "players": trainer.weights()})
        self.score, self.step = score, trainer.step
        return True

    def adopt(self, trainer: Trainer) -> bool:
        """Give the players the kept weights; False if nothing was kept."""
        if not checkpoint.exists(self.folder):
            return False
        trainer.load_weights(checkpoint.load(self.folder)["players"])
        return True


def evaluate_now(trainer: Trainer, probe: Probe, best: Best) -> dict[str, float]:
    """The figures of the averaged players, as observations; the best state is kept on the way."""
    with trainer.averaged():
        for network in trainer.networks.values():
            network.eval()  # the trainer sets the mode anew before every turn
        figures = probe.evaluate()
        best.offer(trainer, figures)
    return {f"probe/{name}": float(value) for name, value in figures.items()}
