"""What a model can do on this machine within a latency target, measured before anybody draws: ``fewstep budget``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from ... import bundle
from ...bundle import Card
from ...inference.backend import Measured
from ...inference.budget import Budget, Plan, PredictedLatency, latencies, milliseconds, plan
from ...inference.pipeline import Pipeline
from ...inference.timings import Timings
from ...ranges import Range, Sides, Threads
from ..wire.protocol import RAW, DrawRequest, Part
from .engine import Engine, EngineOptions, Report
from .provenance import Stamper


@dataclass(frozen=True)
class ForecastOptions:
    """What fits into a latency target on this machine."""

    budget: Annotated[str, tyro.conf.arg(aliases=["--target"])] = "100ms"
    """End to end, from the change on the screen to the new picture on it: 100ms, 0.1s or 30fps."""
    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    task: Literal["image", "text"] = "image"
    """image: a canvas or a camera is redrawn. text: every picture has a new prompt, which has to be encoded."""
    strength: Annotated[float, Range(0, 1, above=True)] = 0.5
    """How far a picture may be changed, in (0, 1]: less leaves fewer of the student's times."""
    wire: str = ""
    """Time to the user and back, such as 20ms; empty leaves it out."""
    sizes: Sides = ()
    """Widths of pictures to choose from, best first, in the model's own shape; default: its own alone."""
    backends: tuple[str, ...] = ("auto",)
    """What may run the network, best first; auto takes the fastest whose pictures equal eager's."""
    threads: Threads = 1
    """Threads of one network call."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda, cuda:1 or mps."""
    provenance: bool = True
    """Count the watermark in."""


@dataclass(frozen=True)
class Forecast:
    """What was found."""

    model: str
    """As it was given."""
    card: Card
    plan: Plan
    """What would be drawn with."""
    latencies: Sequence[PredictedLatency]
    """Every way, best first."""
    target_ms: float
    measured: Sequence[Measured]
    """The backends that were tried; empty where they were given."""
    left_out: Mapping[str, str]
    """Backends that could not be tried, and why."""
    shapes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """``(height, width)`` of the pictures of every size."""

    def pixels(self, size: int) -> str:
        """A size in words."""
        height, width = self.shapes.get(size, (size, size))
        return f"{width}x{height} px" if height != width else f"{size} px"

    @property
    def chosen(self) -> PredictedLatency:
        """The planned one."""
        return self.latencies[self.plan.level]

    @property
    def advice(self) -> str:
        """One sentence: whether the model was made for few steps, and what to do where it was not."""
        counts = ", ".join(map(str, sorted(self.card.steps)))
        if self.card.role == "student":
            return f"{self.card.name} was trained to draw in {counts} steps (by {self.card.method})"
        return (
            f"{self.card.name} was not trained for few steps: it needs {counts} of them, so distil it first: "
            f"fewstep distill --teacher {shlex.quote(self.model)}"
        )

    @property
    def refusal(self) -> str:
        """One sentence that says why the target cannot be met and which can; empty where it can."""
        if self.plan.fits:
            return ""
        best = min(self.latencies, key=lambda way: way.total_ms)
        said = (
            f"nothing fits into {self.target_ms:.3g} ms here: the quickest way (steps: {best.quality.steps}, "
            f"{self.pixels(best.quality.size)}, {best.quality.backend}, {best.quality.encoder}) takes {best.total_ms:.3g} ms"
        )
        if self.card.role != "student":
            return f"{said}, and {self.advice}"
        return f"{said}: give at least --budget {best.total_ms * 1.2:.0f}ms, smaller --sizes, or a faster machine"


def forecast(options: ForecastOptions, report: Report) -> Forecast:
    """Open the model, measure every stage of every choice, and plan. Raises ValueError for options that make no sense."""
    budget = Budget(milliseconds(options.budget))
    wire_ms = milliseconds(options.wire) if options.wire else 0.0
    if not 0 < options.strength <= 1:
        raise ValueError(f"strength {options.strength} is out of range: use more than 0 and at most 1")
    pipeline = Pipeline.open(bundle.locate(options.model), options.device)
    made = EngineOptions(options.backends, sizes=options.sizes, threads=options.threads)
    engine = Engine(pipeline, Stamper(pipeline.card, options.provenance), made)
    engine.warm_up(report)
    with_picture = options.task == "image"
    picture = Part("image", RAW, b"") if with_picture else None
    request = DrawRequest(0, options.task, image=picture, strength=options.strength)
    choices = replace(engine.choices, steps=engine.steps_for(request))
    wires = dict.fromkeys(engine.costs.sent, wire_ms)
    timings = Timings(engine.costs, wire_ms=wires, text_ms=0.0 if with_picture else engine.costs.text)
    planned = plan(budget, choices, timings, with_picture=with_picture)
    every = latencies(choices, timings, with_picture)
    found = (planned, every, budget.target_ms, engine.measured, engine.left_out, engine.shapes)
    return Forecast(options.model, pipeline.card, *found)
