"""Which pair comes next: a pure function of the plan, its seed and the votes so far."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..evaluation.preference import pairs
from ..files import whole
from ..rng import fold

Question = Literal["looks", "follows"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
"""Which looks better; which follows the prompt better."""
Kind = Literal["pair", "repeat", "damaged", "other_prompt"]
"""Two models; two that this rater has seen; a picture beside itself, damaged; a picture beside one of another prompt."""
CATCHES: dict[Kind, Question] = {"damaged": "looks", "other_prompt": "follows"}
"""Catch pairs, of which one side is plainly right, and the question that it is right in."""
PLAN = "arena.json"
APART = 5
"""A pair is not repeated before the rater has seen so many others."""


class Entry(NamedTuple):
    """One model."""

    name: str
    """Its name in the results; the page never has it."""
    pictures: tuple[str, ...]
    """A file for every item, below the run's folder or absolute."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how it is shown."""

    models: tuple[Entry, ...]
    """At least two; item i of all of them has one prompt and was drawn from one noise."""
    prompts: tuple[str, ...]
    """The prompt of every item; several items may have one."""
    categories: tuple[str, ...] = ()
    """The category of every item, or none."""
    questions: tuple[Question, ...] = QUESTIONS
    """What is asked."""
    catch: float = 0.1
    """Share of catch pairs."""
    repeat: float = 0.1
    """Share of repeated pairs."""
    trials: int = 100
    """Pairs that each rater is shown."""
    seed: int = 0
    """Order and sides hang on it."""
    command: str = ""
    """What made it."""

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError("an arena needs two models: name another, or the same one with other steps (emoji-64,4)")
        names = [entry.name for entry in self.models]
        if double := sorted(name for name, n in Counter(names).items() if n > 1):
            raise ValueError(f"two models are both called {double[0]!r}: give one of them another name, as NAME=PATH")
        if self.catch + self.repeat > 0.8:
            raise ValueError("--catch and --repeat together may take 0.8 of the pairs at most: lower one of them")

    def write(self, folder: Path) -> None:
        """Keep it in the run's folder."""
        with whole(folder / PLAN) as draft:
            draft.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a run. Raises ValueError for a folder that holds none."""
        if not (folder / PLAN).is_file():
            raise ValueError(f"{folder} is no run of an arena (no {PLAN} in it): name the folder given to --out")
        try:
            facts = json.loads((folder / PLAN).read_text("utf-8"))
            models = tuple(Entry(str(name), tuple(files)) for name, files in facts.pop("models"))
            rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
            return cls(models, **rest)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{folder / PLAN} cannot be read ({error}): start the arena anew in another --out"
            ) from None


class Trial(NamedTuple):
    """One pair as a rater is shown it."""

    kind: Kind
    a: int
    """Model of the first picture; of a catch pair, of both."""
    b: int
    item: int
    other: int
    """Item of the second picture: the same one, but where it is of another prompt."""
    flipped: bool
    """Whether the first picture stands on the right."""


def units(plan: Plan) -> Iterable[tuple[int, int, int]]:
    """Everything that can be compared: models ``a < b`` and item."""
    return ((a, b, item) for a, b in pairs(len(plan.models)) for item in range(len(plan.prompts)))


def next_trial(plan: Plan, rater: str, shown: Sequence[Trial], votes: Counter[tuple[int, int, int]]) -> Trial | None:
    """The next pair for a rater who has seen ``shown``; None where he is done. ``votes`` counts all raters' votes by unit.

    The pair with the fewest votes comes first, then that of the models, and of the prompt, with the fewest: so every
    pair of models has as many votes as any other, to one, at any time. Chance, which the seed decides, breaks ties.
    """
    number = len(shown)
    if number >= plan.trials:
        return None
    dice = [fold(plan.seed, rater, number, what) / 2**63 for what in ("kind", "which", "side", "other")]
    flipped = dice[2] < 0.5
    if number and dice[0] < plan.catch:
        return _catch(plan, dice, flipped)
    seen = [trial for trial in shown if trial.kind == "pair"]
    again = {(trial.a, trial.b, trial.item) for trial in shown if trial.kind == "repeat"}
    old = [trial for trial in seen[:-APART] if (trial.a, trial.b, trial.item) not in again]
    if old and dice[0] < plan.catch + plan.repeat:
        return old[int(dice[1] * len(old))]._replace(kind="repeat", flipped=flipped)
    known = {(trial.a, trial.b, trial.item) for trial in seen}
    of_models: Counter[tuple[int, int]] = Counter()
    of_item: Counter[int] = Counter()
    for (a, b, item), n in votes.items():
        of_models[a, b] += n
        of_item[item] += n

    def votes_of(unit: tuple[int, int, int]) -> tuple[int, int, int]:
        a, b, item = unit
        return of_models[a, b], votes[unit], of_item[item]

    left = {unit: votes_of(unit) for unit in units(plan) if unit not in known}
    if not left:
        return None
    fewest = min(left.values())
    a, b, item = min((u for u, n in left.items() if n == fewest), key=lambda unit: fold(plan.seed, rater, unit))
    return Trial("pair", a, b, item, item, flipped)


def _catch(plan: Plan, dice: Sequence[float], flipped: bool) -> Trial:
    """A pair with one plainly right side: the first picture, in the question that its kind is for."""
    item, model = int(dice[1] * len(plan.prompts)), int(dice[3] * len(plan.models))
    elsewhere = [i for i, prompt in enumerate(plan.prompts) if prompt != plan.prompts[item]]
    if elsewhere and "follows" in plan.questions and ("looks" not in plan.questions or int(dice[1] * 1e6) % 2):
        other = elsewhere[int(dice[3] * 1e6) % len(elsewhere)]
        return Trial("other_prompt", model, model, item, other, flipped)
    return Trial("damaged", model, model, item, item, flipped)
