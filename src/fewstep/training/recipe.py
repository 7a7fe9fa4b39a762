"""What a recipe returns: phases to train one after the other, and what to do with the result."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..files import whole
from ..options import as_typed
from ..tensors import Batch
from . import calls, checkpoint, sinks
from .drawn import Drawn, sheet
from .health import Health
from .health import Options as HealthOptions
from .journal import Journal
from .log import StepLog
from .page import RunPage
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
    made_with: Mapping[str, Any] = field(default_factory=dict)
    """What its weights depend on, by the names of options; values are what JSON holds. Goes on with no others."""
    changeable: Sequence[str] = ()
    """Those of ``made_with`` that it may go on with others of all the same: what helps a run that has exploded."""
    counted: str = ""
    """The option that says how many steps it takes."""
    contents: Sequence[str] = ()
    """Those of ``made_with`` that name files, whose values are hashes of what the files hold."""


Watch = Callable[[Phase, Trainer, StepLog], None]


CHANGES = "changes"
"""Key of ``made_with.json`` under which stands which options were changed on the way, and after which step."""
THREADS = "threads"
"""Key of ``made_with.json`` for the number of threads that a state was made with."""


def check_same(phase: Phase, own: Saving) -> dict[str, list[Any]]:
    """Refuse to go on with a state that other options made. Raises ValueError that names them.

    Options that only one of the two knows are let pass: the other one is of another version. Returns the changeable ones
    whose values differ: what they were, and what they are.
    """
    then = made_with(own) if own.goes_on else {}
    other = [name for name, value in phase.made_with.items() if name in then and then[name] != value]
    changed = {name: [then[name], phase.made_with[name]] for name in other if name in phase.changeable}
    other = [name for name in other if name not in changed]
    if other:
        was, given = (", ".join(_said(phase, name, made[name]) for name in other) for made in (then, phase.made_with))
        may = f"; a resume may change {', '.join(phase.changeable)}" if phase.changeable else ""
        raise ValueError(
            f"{own.out} was made with {was}, not with {given}: resume with the options it was started with, or choose "
            f"another --out{may}"
        )
    return changed


def _said(phase: Phase, name: str, value: Any) -> str:
    """An option as the sentence has it; of files its value is a hash, which tells that they are others, or changed."""
    return f"{name} {'of the content ' if name in phase.contents else ''}{_typed(value)}"


def made_with(own: Saving) -> dict[str, Any]:
    """The options that stand beside a state; none beside one of an older version. Raises ValueError if they are damaged."""
    if not own.made_with.is_file():
        return {}
    try:
        found = json.loads(own.made_with.read_text("utf-8"))
        if isinstance(found, dict):
            return found
        why = "it holds no options"
    except (OSError, ValueError) as error:
        why = str(error)
    raise ValueError(f"{own.made_with} is damaged ({why}): remove it, and --resume goes on without comparing options")


def write_down(phase: Phase, own: Saving, changed: Mapping[str, list[Any]]) -> None:
    """Put beside the state that is about to be made what it depends on; beside one that goes on, what has changed."""
    threads = torch.get_num_threads()
    written: dict[str, Any] = {**phase.made_with, THREADS: threads}
    if own.goes_on:
        then, step = made_with(own), checkpoint.step_of(own.checkpoint)
        if step >= phase.steps:
            return
        if changed:
            said = ", ".join(f"{name} {_typed(now)} (before: {_typed(was)})" for name, (was, now) in changed.items())
            warnings.warn(f"{phase.name} goes on from step {step} with {said}", stacklevel=2)
        if threads != (before := then.get(THREADS, threads)):
            warnings.warn(
                f"{phase.name} was made with {before} threads and goes on with {threads}: its last digits will be others than "
                f"without the stop (OMP_NUM_THREADS={before} gives the same)",
                stacklevel=2,
            )
        if not changed and threads == before:
            return
        changes = [*then.get(CHANGES, []), {"after": step, **changed}] if changed else then.get(CHANGES, [])
        written = {**then, **written} | ({CHANGES: changes} if changes else {})
    with whole(own.made_with) as draft:
        draft.write_text(json.dumps(written, indent=1), "utf-8")


def history(options: Any, phases: Sequence[Phase], out: Path) -> dict[str, Any]:
    """What a run in ``out`` did, for the card: the ``options`` as they were used, the steps that every phase has taken, the
    threads, and which options were changed on the way."""
    used = json.loads(json.dumps(as_typed(options), default=str))
    taken: dict[str, int] = {}
    changes: list[dict[str, Any]] = []
    threads: list[int] = []
    for phase in phases:
        own = Saving(out / phase.name)
        if not checkpoint.exists(own.checkpoint):
            continue
        written, taken[phase.name] = made_with(own), checkpoint.step_of(own.checkpoint)
        for name in phase.changeable:
            if name in written:
                _set(used, name, written[name])
        if phase.counted and taken[phase.name] > phase.steps:
            _set(used, phase.counted, taken[phase.name])
        changes += [{"phase": phase.name, **change} for change in written.get(CHANGES, [])]
        threads += [written[THREADS]] if THREADS in written else []
    more = {"changes": changes} if changes else {}
    return {"options": used, "taken": taken} | ({"threads": threads[-1]} if threads else {}) | more


def _set(used: dict[str, Any], name: str, value: Any) -> None:
    """Give an option, named as it is typed, another value in what `as_typed` made of all of them."""
    *groups, last = name.removeprefix("--").replace("-", "_").split(".")
    for group in groups:
        used = used[group]
    used[last] = value


def _typed(value: Any) -> str:
    """A value as it is typed; ``(none)`` where nothing is."""
    return (" ".join(map(str, value)) if isinstance(value, list) else str(value)) or "(none)"


def run_phases(
    phases: Sequence[Phase], saving: Saving, watch: Watch, health: HealthOptions | None = None
) -> dict[str, int]:
    """Train all phases in turn. With ``saving.resume`` a finished phase is read back, not trained again: one that took all its
    steps, or that another phase has gone on from. Without it, all that an earlier run left of any of them is forgotten first.

    At the end of a phase its averaged weights become the weights, those of its best evaluation or the last, so the next phase
    starts from them. ``health`` holds the thresholds of every phase's rules. Returns, for every phase, the step whose weights
    these are. Raises ValueError where another process trains in the same folder, or where other options made what would be
    gone on with.
    """
    sinks.check(saving.log)
    kept, shown = {}, RunPage(saving.out)
    folders = [replace(saving, out=saving.out / phase.name, seconds=phase.seconds) for phase in phases]
    with alone(saving.out):
        changed = {}
        for phase, own in zip(phases, folders):
            own.check_own()
            changed[phase.name] = check_same(phase, own)
            if not saving.resume:
                own.forget()
        fresh = not any(own.goes_on for own in folders)
        for i, (phase, own) in enumerate(zip(phases, folders)):
            trainer, batches = phase.build()
            if not i and saving.command:
                calls.note(saving.out, saving.command, trainer.options.device, fresh)

            probe = phase.probe() if phase.probe else None
            if own.goes_on and any(later.goes_on for later in folders[i + 1 :]):
                trainer.resume(own.checkpoint)
            else:
                write_down(phase, own, changed[phase.name])
                if own.goes_on:
                    shown.attempt(partial(Drawn(own.out).cut, checkpoint.step_of(own.checkpoint)))
                rules = Health(health or HealthOptions())
                logged = sinks.Sinks(saving.log, _logged_run(saving.out.resolve().name, own), phase.made_with)
                listen = partial(
                    _listen, Journal(own.journal), Drawn(own.out), shown, logged, partial(watch, phase, trainer)
                )
                with shown.at_the_end(), closing(logged):
                    run(trainer, batches, own, listen, probe, rules, Journal(own.journal).before)
            trainer.adopt_averages()
            kept[phase.name] = trainer.step
            best = Best(own.best)
            if probe and phase.keep == "best" and best.adopt(trainer):
                kept[phase.name] = best.step
    return kept


def _logged_run(name: str, own: Saving) -> sinks.LoggedRun:
    """What a sink is told of a phase."""
    if not own.goes_on:
        return sinks.LoggedRun(f"{name}/{own.out.name}", own.out, 0)
    last = max((line["step"] for line in Journal.read(own.journal)), default=-1) if own.journal.exists() else -1
    return sinks.LoggedRun(f"{name}/{own.out.name}", own.out, checkpoint.step_of(own.checkpoint), last)


def _listen(
    journal: Journal, drawn: Drawn, shown: RunPage, logged: sinks.Sinks, watch: Callable[[StepLog], None], log: StepLog
) -> None:
    """Write a step down, and hand it to the sinks; after an evaluation keep what it drew, and bring the run's page up to date."""
    journal.write(log)
    values = log.losses | log.observations
    logged.scalars(log.step, {name.replace("probe/", "evaluation/"): value for name, value in values.items()})
    if log.pictures is not None and (image := sheet(log.pictures)) is not None:
        shown.attempt(partial(drawn.keep, log.step, image))
        logged.picture(log.step, "evaluation", image)
    watch(log)
    if any(name.startswith("probe/") for name in log.observations):
        shown.write()
