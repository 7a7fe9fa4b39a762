"""What a recipe returns: phases to train one after the other, and what to do with the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..tensors import Batch
from .journal import Journal
from .run import Saving, run
from .trainer import StepLog, Trainer


@dataclass(frozen=True)
class Phase:
    """One stretch of training. ``build`` is called when the phase begins, after the phases before it have ended."""

    name: str
    """Folder of its checkpoint, and what progress calls it."""
    steps: int
    """Training steps."""
    build: Callable[[], tuple[Trainer, Callable[[int], Batch]]]
    """Makes the trainer and its batches."""
    seconds: float = 0.0
    """End the phase after this long even if steps are left: for a demo on a machine of unknown speed; 0 never does."""


Watch = Callable[[Phase, Trainer, StepLog], None]


def run_phases(phases: Sequence[Phase], saving: Saving, watch: Watch) -> None:
    """Train all phases in turn. With ``saving.resume`` a finished phase is read back, not trained again.

    At the end of a phase its averaged weights become the weights, so the next one starts from them.
    """
    for phase in phases:
        trainer, batches = phase.build()
        journal = Journal(saving.out / phase.name / "journal.jsonl")

        def listen(log: StepLog, phase: Phase = phase, trainer: Trainer = trainer, journal: Journal = journal) -> None:
            journal.write(log)
            watch(phase, trainer, log)

        run(trainer, batches, replace(saving, out=saving.out / phase.name), listen, seconds=phase.seconds)
        trainer.adopt_averages()
