"""The verdict of ``fewstep check``: what is really running underneath, by a rule with named thresholds.

``check.py`` measures; this file only judges. `Evidence` holds shares of what the model reaches at its best: 1 is as good as its
best, 0 is as far from it as the mean picture is. ``benchmarks/check.py`` chose `REACHED` on one half of
38 cases and tested it on the other, and `OF_DATA` was tried likewise: docs/check.md has the tables. The other thresholds were set
by looking at the shipped pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REACHED = 0.85
"""A step count reaches the best where it has this share of it, or more."""
NEAR = 0.9
"""The share from which a step count is as good as the best: what a model "needs" to be drawn in."""
CLEARLY = 0.15
"""By how much another setting has to be better, as a share of its own best, before what was asked for is to blame."""
SMALL = 0.5
"""A model is small beside another with this share of its parameters, or less."""
OF_DATA = 0.6
"""A model's best is poor where it has less than this share of real pictures. It was set by looking, and then tried on 21 models
of digits (docs/check.md): lines from 56 to 62% are right most often on one half of them, and this one is right on the other."""
FEW_STEP, BROKEN, UNDERTRAINED, SMALL_ONLY, MANY_STEPS = "few-step", "broken", "undertrained", "small", "not few-step"
KINDS = (FEW_STEP, BROKEN, UNDERTRAINED, SMALL_ONLY, MANY_STEPS)
"""What the verdict can be."""


@dataclass(frozen=True)
class Evidence:
    """What the verdict is made from. Shares by step count, in rising order of the counts."""

    student: bool
    """Whether its card says that it is made for few steps."""
    few: int
    """The fewest steps that its card promises; 1 for a teacher."""
    best: int
    """The step count that stands for its best."""
    own: Mapping[int, float]
    """Of what was asked for: the card's settings, or others in their place."""
    own_name: str = ""
    """What was asked for, in words, where it is not what the card says."""
    others: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Under each other setting, against the best of that setting."""
    reference: Mapping[int, float] = field(default_factory=dict)
    """Of what was asked for, but against a reference: a teacher's pictures. Empty where there is none."""
    data: Mapping[str, float] = field(default_factory=dict)
    """Of its best, by its card's settings, against real pictures: figures by their names in words. Empty where there are none."""
    data_share: float = 1.0
    """The share that those figures make."""
    data_name: str = ""
    """What the real pictures are called."""
    parameters: int = 0
    """Of the denoising network."""
    usual: int = 0
    """The parameters that it is held against; 0: nothing to hold them against."""
    usual_name: str = ""
    """Whose they are."""

    @property
    def reached(self) -> float:
        """The share of its best that it reaches in the fewest steps, by itself and by the reference: the lower of both."""
        alone = self.own.get(self.few, 0.0)
        top = max(self.reference.values(), default=0.0)
        return min(alone, self.reference.get(self.few, 0.0) / top) if top > 0 else alone

    @property
    def poor(self) -> bool:
        """Whether its best is itself far from real pictures, or much softer or sharper."""
        return bool(self.data) and self.data_share < OF_DATA

    @property
    def needed(self) -> int:
        """The fewest steps that are as good as the best."""
        return next((n for n, share in self.own.items() if share >= NEAR), self.best)

    @property
    def size(self) -> float:
        """Its parameters as a share of what they are held against; 1 where that is nothing."""
        return self.parameters / self.usual if self.usual else 1.0


@dataclass(frozen=True)
class Verdict:
    """What it is, and why."""

    kind: str
    """One of `KINDS`."""
    headline: str
    """One line: the kind and its first evidence."""
    reasons: tuple[str, ...]
    """Sentences."""

    @property
    def paragraph(self) -> str:
        """All of it."""
        return " ".join([f"{self.headline[0].upper()}{self.headline[1:]}.", *self.reasons])


def judge(e: Evidence, reached: float = REACHED) -> Verdict:
    """The verdict.

    In this order: it reaches ``reached`` of its best in its fewest steps, so it is few-step; or undertrained, where real pictures
    say that even its best is poor. Else, under another setting it
    would: it is broken by what was asked for. Else, its card says that it is a student: it is undertrained. Else it has at most
    `SMALL` of the parameters that are usual: it is fast because it is small. Else it is not few-step.
    """
    steps, best = counted(e.few), counted(e.best)
    share = f"{max(0.0, e.reached):.0%}"
    beside = f"It has {e.size:.0%} of the parameters of {e.usual_name}." if e.usual else ""
    needs = f"It needs {counted(e.needed)} for {NEAR:.0%} of its best." if e.needed > e.few else ""
    reaches = f"{steps} reach{'es' * (e.few == 1)} {share} of its best ({best})"
    real = _beside_data(e)
    if e.reached >= reached and e.poor:
        best_of_all = f"that best reaches {max(0.0, e.data_share):.0%} of the real pictures of {e.data_name}"
        return Verdict(UNDERTRAINED, f"undertrained: {reaches}, but {best_of_all}", said(real, beside))
    if e.reached >= reached:
        return Verdict(FEW_STEP, f"few-step: {reaches}", said(needs, real, beside))
    at_least = max(reached, e.reached + CLEARLY)
    working = {name: rows[e.few] for name, rows in e.others.items() if rows.get(e.few, 0.0) >= at_least}
    if working:
        name = max(working, key=lambda n: working[n])
        what = e.own_name or "what its card says"
        return Verdict(
            BROKEN,
            f"few-step, but broken by these settings: {what}",
            said(
                f"As asked, {steps} keep{'s' * (e.few == 1)} {share} of its best; with {name} it is {working[name]:.0%}.",
                real,
                beside,
            ),
        )
    keeps = f"{steps} keep{'s' * (e.few == 1)} {share} of its best ({best})"
    if e.student:
        return Verdict(UNDERTRAINED, f"undertrained: a student by its card, but {keeps}", said(needs, real, beside))
    if e.usual and e.size <= SMALL:
        headline = f"merely small: {e.size:.0%} of the parameters of {e.usual_name}, needs {counted(e.needed)}"
        return Verdict(SMALL_ONLY, headline, said(f"Not few-step: {keeps}.", real))
    return Verdict(MANY_STEPS, f"not few-step: {keeps}", said(needs, real, beside))


def _beside_data(e: Evidence) -> str:
    """How its best compares with real pictures; "" where there are none."""
    if not e.data:
        return ""
    figures = ", ".join(f"{name} {value:.2f}" for name, value in e.data.items())
    found = f"reaches {max(0.0, e.data_share):.0%} of the real pictures of {e.data_name} ({figures})"
    return f"Its best is poor: it {found}." if e.poor else f"Its best {found}."


def said(*sentences: str) -> tuple[str, ...]:
    """Those that say something."""
    return tuple(sentence for sentence in sentences if sentence)


def counted(steps: int) -> str:
    """``one step``, ``4 steps``."""
    return "one step" if steps == 1 else f"{steps} steps"
