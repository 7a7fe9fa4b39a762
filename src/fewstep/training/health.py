"""Is my run healthy? Named rules over the step logs, each with a threshold, a reason and a remedy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

from ..ranges import Count, Range, Share, Weight
from .log import Alarm, StepLog


@dataclass(frozen=True)
class Options:
    """Thresholds of the rules."""

    window: Count = 50
    """Steps that a rule looks back over."""
    saturated: Share = 0.985
    """Share of places judged right, on real and on fake alike, above which the discriminator teaches nothing more."""
    gradient_ratio: Annotated[tuple[float, float], Range(0)] = (1e-3, 1e2)
    """Healthy range of the distillation gradient's norm over the adversarial one's, at the student's sample."""
    nan_streak: Count = 5
    """Steps in a row without finite gradients after which the run stops, its last good state on disk."""
    drift: Weight = 0.35
    """Distance of the samples' mean from the data's in any channel, in the data's standard deviations."""
    diversity: Share = 0.5
    """Share of the most diversity there was on fixed prompts below which it counts as lost."""
    alike: Share = 0.9
    """Distance of a group's samples from one another, in that of the real ones, below which they are too much alike
    (drifting)."""
    varied: Share = 0.05
    """Diversity that there must have been, of that between real pictures: a student that drew one picture a prompt from the
    start has none to lose."""


class Unhealthy(Exception):
    """A fatal alarm: the run is back at its last good state, which is on disk, and stops."""


REMEDY = "lower the learning rate, or use --precision fp32"
EXPLODED = 100.0
"""Times the median of the last sound steps beyond which a loss or a gradient's norm has exploded."""
SETTLED = 50
"""Steps whose median that is, and after which a new level is taken for the usual one."""


@dataclass
class Course:
    """Tells a step after which the weights are worth keeping from one at which they fly apart."""

    _seen: dict[str, deque[float]] = field(default_factory=dict)
    _wild: int = 0

    def sound(self, log: StepLog) -> bool:
        """Is every player's loss, and every gradient's norm, a number of the size that it had before?"""
        sums: dict[str, float] = {}
        for name, value in log.losses.items():
            player = name.partition("/")[0]
            sums[player] = sums.get(player, 0.0) + abs(value)
        norms = {name: value for name, value in log.observations.items() if name.endswith("/gradient_norm")}
        figures = sums | norms
        seen = {name: self._seen.setdefault(name, deque(maxlen=SETTLED)) for name in figures}
        finite = not log.skipped and all(math.isfinite(value) for value in figures.values())
        usual = [not seen[name] or value <= EXPLODED * max(median(seen[name]), 1e-6) for name, value in figures.items()]
        sound = finite and all(usual)
        self._wild = 0 if sound else self._wild + 1
        if sound or (finite and self._wild > SETTLED):
            for name, value in figures.items():
                seen[name].append(value)
        return sound


@dataclass
class Health:
    """Checks every StepLog; ``check`` returns the alarms that fire at this step (each rule speaks once a window)."""

    options: Options = field(default_factory=Options)
    _logs: deque[StepLog] = field(default_factory=deque)
    _streak: int = 0
    _most_diversity: float = 0.0
    _spoke: dict[str, int] = field(default_factory=dict)

    def check(self, log: StepLog) -> list[Alarm]:
        """Alarms of this step, fatal ones raised as Unhealthy."""
        self._logs.append(log)
        if len(self._logs) > self.options.window:
            self._logs.popleft()
        rules: list[Callable[[], Alarm | None]] = [self.nan_streak, self.diversity_lost]
        if len(self._logs) == self.options.window:
            rules += [self.discriminator_saturated, self.gradient_ratio, self.colour_drift, self.alike_in_a_group]
        return self._speak([rule() for rule in rules], log.step)

    def recall(self, logs: Iterable[StepLog]) -> None:
        """Check the steps before a resume again, silently: the rules then stand where they stood."""
        for log in logs:
            self.check(log)

    def _speak(self, found: list[Alarm | None], step: int) -> list[Alarm]:
        fresh = []
        for alarm in found:
            if alarm and step - self._spoke.get(alarm.rule, -self.options.window) >= self.options.window:
                self._spoke[alarm.rule] = step
                fresh.append(alarm)
        for alarm in fresh:
            if alarm.fatal:
                raise Unhealthy(f"{alarm.rule}: {alarm.message}")
        return fresh

    def _mean(self, name: str) -> float | None:
        seen = [v for log in self._logs if (v := log.observations.get(name)) is not None and math.isfinite(v)]
        return sum(seen) / len(seen) if seen else None

    # -- the rules

    def nan_streak(self) -> Alarm | None:
        """Losses or gradients that are not finite, step after step."""
        self._streak = self._streak + 1 if self._logs[-1].skipped else 0
        if self._streak < self.options.nan_streak:
            return None
        return Alarm(
            "nan_streak",
            f"{self._streak} steps in a row had no finite gradient: {REMEDY}",
            fatal=True,
        )

    def diversity_lost(self) -> Alarm | None:
        """Pictures of one prompt, drawn from fixed noise, grow alike."""
        diversity = self._logs[-1].observations.get("probe/diversity")
        if diversity is None:
            return None
        self._most_diversity = max(self._most_diversity, diversity)
        if self._most_diversity < self.options.varied:
            return None
        left = diversity / self._most_diversity
        if left >= self.options.diversity:
            return None
        return Alarm(
            "diversity_lost",
            f"fixed prompts keep {left:.0%} of the diversity they had: stop here, keep the best checkpoint, "
            "raise R1 or the distillation weight",
        )

    def discriminator_saturated(self) -> Alarm | None:
        """The discriminator is right nearly everywhere, so its gradient says nothing."""
        real, fake = self._mean("discriminator/real_right"), self._mean("discriminator/fake_right")
        if real is None or fake is None or min(real, fake) < self.options.saturated:
            return None
        return Alarm(
            "discriminator_saturated",
            f"it is right on {real:.1%} of real and {fake:.1%} of fake places: lower its learning rate, raise R1, "
            "standardise the features or warm-start the student",
        )

    def gradient_ratio(self) -> Alarm | None:
        """One of the two losses drowns the other at the student's sample."""
        adversarial = self._mean("student/adversarial_gradient_at_x0")
        distillation = self._mean("student/distillation_gradient_at_x0")
        if not adversarial or not distillation:
            return None
        ratio, (low, high) = distillation / adversarial, self.options.gradient_ratio
        if low <= ratio <= high:
            return None
        return Alarm(
            "gradient_ratio",
            f"the distillation gradient is {ratio:.2g} times the adversarial one: change distillation_weight by about "
            f"{1 / ratio:.2g}",
        )

    def colour_drift(self) -> Alarm | None:
        """The mean of the samples lies apart from the data's, in one channel or another."""
        channels = {name for log in self._logs for name in log.observations if name.startswith("student/shift_")}
        shifts = {name: mean for name in sorted(channels) if (mean := self._mean(name)) is not None}
        furthest = max(shifts, key=lambda name: abs(shifts[name]), default=None)
        if furthest is None or abs(shifts[furthest]) <= self.options.drift:
            return None
        return Alarm(
            "colour_drift",
            f"the samples' mean is {shifts[furthest]:+.2f} standard deviations from the data's in channel "
            f"{furthest.rpartition('_')[2]}: lower the student's learning rate or raise distillation_weight",
        )

    def alike_in_a_group(self) -> Alarm | None:
        """Samples of one prompt lie nearer to one another than real ones do."""
        distance = self._mean("student/group_distance")
        if distance is None or distance >= self.options.alike:
            return None
        return Alarm(
            "alike_in_a_group",
            f"the samples of a prompt lie {distance:.0%} as far from one another as the real ones: raise the regression "
            "weight, or lower the adversarial one",
        )
