"""What a recipe returns: phases to train one after the other, and what to do with the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..tensors import Batch
from .journal import Journal
from .log import StepLog
from .probe import Best, Keep, Probe
from .run import Saving, alone, run
from .trainer import Trainer


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
    probe: Callable[[], Probe] | None = None
    """Makes what looks at the run on fixed prompts, once the phase begins; None looks at nothing."""
    keep: Keep = "best"
    """Which state the phase ends with, if it is looked at: the ``best`` of all looks, or the ``last``."""


Watch = Callable[[Phase, Trainer, StepLog], None]


def run_phases(phases: Sequence[Phase], saving: Saving, watch: Watch) -> dict[str, int]:
    """Train all phases in turn. With ``saving.resume`` a finished phase is read back, not trained again.

    At the end of a phase its averaged weights become the weights, those of its best look or the last ones, so the next phase
    starts from them. Returns, for every phase, the step whose weights these are. Raises ValueError where another
    process trains in the same folder.
    """
    kept = {}
    with alone(saving.out):
        for phase in phases:
            trainer, batches = phase.build()
            own = replace(saving, out=saving.out / phase.name)
            journal = Journal(own.out / "journal.jsonl")

            def listen(
                log: StepLog, phase: Phase = phase, trainer: Trainer = trainer, journal: Journal = journal
            ) -> None:
                journal.write(log)
                watch(phase, trainer, log)

            probe = phase.probe() if phase.probe else None
            run(trainer, batches, own, listen, seconds=phase.seconds, probe=probe, past=journal.before)
            trainer.adopt_averages()
            kept[phase.name] = trainer.step
            best = Best(own.best)
            if probe and phase.keep == "best" and best.adopt(trainer):
                kept[phase.name] = best.step
    return kept
