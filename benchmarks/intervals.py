"""How often do the 95% intervals hold what they should? Every metric, alone and as a difference of two models, by simulation.

    python benchmarks/intervals.py            # 400 simulations of 64 prompts, with 2 and 8 pictures each: eight minutes of a core

Two made-up models draw concepts of a made-up world, of which the reference is a sample; each simulation takes other prompts and
other noise, the same for both models, and measures them as ``fewstep evaluate`` does. What should be held is the mean over all
simulations: the figure at this number of pictures. Into ``docs/results/intervals.json``; ``fewstep docs`` makes the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.evaluation.compare import paired
from fewstep.evaluation.evaluate import EvaluateOptions, MeasuredModel, Reference, measure
from fewstep.evaluation.jackknife import Interval
from fewstep.evaluation.record import METRICS, MetricRecord
from fewstep.rng import Rng
from fewstep.tensors import Features

HOUSE = Path(__file__).resolve().parent.parent
SIDE = 8
LEAST, MOST = 0.90, 0.98
"""A share of held intervals that is as it should be."""


class Judge:
    """Rectified random projections of a picture."""

    name, fingerprint, resizer = "projections", "0", "none"

    def __init__(self, width: int = 48) -> None:
        self.weights = Rng.of(0, "judge").normal((SIDE * SIDE, width))

    def __call__(self, media: Tensor, /) -> Features:
        return Features((media,), torch.relu(media.flatten(1) @ self.weights / SIDE + 0.3))


class World:
    """So many concepts, each with drawings that differ; large forms have most of the power, as in pictures."""

    def __init__(self, concepts: int = 1000, drawings: int = 2) -> None:
        frequency = torch.fft.fftfreq(SIDE).abs()
        self.power = 1 / (0.1 + (frequency[:, None].square() + frequency.square()).sqrt())
        self.concepts = self.forms(Rng.of(0, "concepts"), concepts)
        of = torch.arange(concepts).repeat_interleave(drawings)
        media = self.concepts[of] + 0.5 * self.forms(Rng.of(0, "drawings"), len(of))
        self.judge = Judge()
        self.reference = Reference.build(media.clamp(-1, 1), of, self.judge, batch=500)

    def forms(self, rng: Rng, n: int) -> Tensor:
        """Random pictures ``[n, 1, 8, 8]``."""
        field = torch.fft.ifft2(torch.fft.fft2(rng.normal((n, 1, SIDE, SIDE))) * self.power).real
        return 0.5 * field / field.std()


@dataclass(frozen=True)
class Model:
    """What one model does to a concept."""

    name: str
    contrast: float
    """Of the concept."""
    variety: float
    """How much the seeds move it; real drawings have .5."""
    noise: float
    """What no concept has."""
    shift: float
    """In brightness: what keeps either from being perfect, as with emoji-64, however many pictures there are."""


STUDENT, TEACHER = Model("student", 0.8, 0.35, 0.3, 0.2), Model("teacher", 0.9, 0.45, 0.35, 0.15)


def simulated(world: World, prompts: int, seeds: int, turn: int) -> Iterator[dict[str, MetricRecord]]:
    """Every figure of both models on the same prompts, with the same noise, by metric."""
    rng = Rng.of(turn, "simulation")
    chosen = rng.uniform((len(world.concepts),)).argsort()[:prompts]
    of = chosen.repeat_interleave(seeds)
    moved, grain = world.forms(rng, len(of)), rng.normal((len(of), 1, SIDE, SIDE))
    names, options = [f"concept {int(c)}" for c in chosen], EvaluateOptions(seeds=tuple(range(seeds)), batch=len(of))
    for m in (STUDENT, TEACHER):
        media = (m.contrast * world.concepts[of] + m.variety * moved + m.noise * grain + m.shift).clamp(-1, 1)
        found = measure(media, names, chosen.tolist(), world.reference, world.judge, MeasuredModel(m.name, 1), options)
        yield {r.metric: r for r in found if r.left_out}


@dataclass(frozen=True)
class Held:
    """How good a metric's intervals are."""

    share: float
    """Of them, how many hold the mean of all simulations' values."""
    width: float
    """Their mean half width over 1.96 standard deviations of the values: 1 is as wide as need be."""

    @classmethod
    def of(cls, found: list[Interval]) -> Held:
        value, low, high = torch.tensor([(i.value, i.low, i.high) for i in found], dtype=torch.float64).T
        inside = (low <= value.mean()) & (value.mean() <= high)
        return cls(float(inside.double().mean()), float((high - low).mean() / 2 / (1.96 * value.std())))


def coverage(world: World, prompts: int, seeds: int, simulations: int) -> dict[str, tuple[Held, Held]]:
    """By metric: of the student's figure alone, and of its difference from the teacher's."""
    found: dict[str, tuple[list[Interval], list[Interval]]] = {}
    for turn in range(simulations):
        student, teacher = simulated(world, prompts, seeds, turn)
        for metric, one in student.items():
            alone, pairs = found.setdefault(metric, ([], []))
            alone.append(Interval(one.value, one.low, one.high))
            pairs.append(paired(one, teacher[metric]).difference)
    return {metric: (Held.of(found[metric][0]), Held.of(found[metric][1])) for metric in METRICS if metric in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 8], help="pictures of every prompt")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "results" / "intervals.json")
    o = parser.parse_args()
    torch.set_num_threads(1)
    world = World()
    rows: dict[str, dict[str, str]] = {}
    outside = []
    for seeds in o.seeds:
        for metric, both in coverage(world, o.prompts, seeds, o.simulations).items():
            row = rows.setdefault(metric, {"metric": METRICS[metric][0].format(judge="projections").replace(" × 1000", "")})
            for kind, held in zip(("alone", "paired"), both):
                row[f"{kind}, {seeds} a prompt"] = f"{held.share:.3f}".removeprefix("0") + f" ({held.width:.2f})"
                outside += [f"{row['metric']} {kind} {seeds}"] * (not LEAST <= held.share <= MOST)
            print(seeds, metric, both, flush=True)
    measured = (
        f"Share of 95% intervals that hold the mean over all simulations, and in brackets their half width over 1.96 standard "
        f"deviations: {o.simulations} simulations of {o.prompts} prompts; at .95 the share itself strays by "
        f"{1.96 * (0.95 * 0.05 / o.simulations) ** 0.5:.2f} either way. Outside .90 to .98: {', '.join(outside) or 'none'}. "
        "Measured by `python benchmarks/intervals.py`."
    )
    o.out.write_text(json.dumps({"rows": list(rows.values()), "measured": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
