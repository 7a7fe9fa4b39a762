"""The metric record: a figure with everything that decides what it may be compared with.

Results files hold ``{"records": [...]}``, one flat object a figure. ``compare`` refuses unlike records by name of what
differs, and ``table`` refuses to put them into one column: a table is a comparison too.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..bundle import Card
from ..data.dataset import whole


@dataclass(frozen=True)
class MetricRecord:
    """One measured figure."""

    model: str
    """What was measured: teacher, add, adversarial_only, ..."""
    steps: int
    """Network evaluations a picture (guidance not counted twice)."""
    metric: str
    """fd, kid, precision, recall, retrieval_top5, vendi, latency_ms, ... (see ``METRICS``)."""
    value: float
    low: float
    """Lower end of the 95% bootstrap interval."""
    high: float
    """Upper end of the 95% bootstrap interval."""
    n: int
    """Pictures drawn (or calls timed)."""
    seeds: int
    """Pictures for every prompt."""
    features: str = ""
    """The judge, as ``name@fingerprint``; empty where none looked."""
    resizer: str = ""
    """How pictures were brought to the judge's size."""
    prompts: str = ""
    """Hash of the prompts, in order."""
    dataset: str = ""
    """Hash of the reference pictures and their concepts."""
    guidance: float = 1.0
    """Classifier-free guidance used for drawing; 1 is none."""
    command: str = ""
    """What to type to measure it again."""
    device: str = ""
    """The machine that was timed; empty for everything but times."""
    runs: int = 0
    """Trainings behind the figure: it is their mean, and the bounds enclose the intervals of all. 0: one model's."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(
                f"{self.metric} of {self.model} at {self.steps} steps is not finite: look at its pictures first"
            )

    @property
    def title(self) -> str:
        """The metric's name in print: a Fréchet distance carries its judge's name, for it is not FID."""
        return METRICS.get(self.metric, (self.metric, ""))[0].format(judge=self.features.split("@")[0])


METRICS: dict[str, tuple[str, str]] = {
    "fd": ("FD-{judge}", "↓"),
    "kid": ("KID-{judge} × 1000", "↓"),
    "precision": ("precision", "↑"),
    "recall": ("recall", "↑"),
    "density": ("density", "↑"),
    "coverage": ("coverage", "↑"),
    "retrieval_top1": ("retrieval top 1", "↑"),
    "retrieval_top5": ("retrieval top 5", "↑"),
    "vendi": ("Vendi", "↑"),
    "modes": ("modes reached", "↑"),
    "on_mode": ("points on a mode", "↑"),
    "accuracy": ("drawn as asked", "↑"),
    "pairwise_distance": ("pairwise distance", "↑"),
    "edges_ratio": ("edges", "→ 1"),
    "midgreys_ratio": ("mid-greys", "→ 1"),
    "highs_ratio": ("high frequencies", "→ 1"),
    "latency_ms": ("ms a picture", "↓"),
    "nfe": ("NFE", "↓"),
}
"""Name in print and the good direction of every metric, in the order of the table's columns."""

LIKE = ("metric", "n", "seeds", "features", "resizer", "prompts", "dataset", "device")
"""Fields that have to agree before two figures may be compared. Model, steps, guidance and command may differ."""


@dataclass(frozen=True)
class Comparison:
    """Two like figures side by side."""

    difference: float
    """``a - b``"""
    ratio: float
    """``a / b``; nan where b is 0."""
    apart: bool
    """Whether the intervals do not touch. If they do, the difference may be chance."""


def compare(a: MetricRecord, b: MetricRecord) -> Comparison:
    """Set ``a`` against ``b``, or raise a ValueError that names the first thing in which the measurements differ."""
    for field in LIKE:
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            raise ValueError(
                f"{a.model} at {a.steps} and {b.model} at {b.steps} steps cannot be compared: "
                f"{field} is {ours!r} in one and {theirs!r} in the other; measure both alike"
            )
    ratio = a.value / b.value if b.value else math.nan
    return Comparison(a.value - b.value, ratio, a.low > b.high or b.low > a.high)


def write_records(path: Path | str, records: Iterable[MetricRecord]) -> None:
    """Write ``{"records": [...]}``, atomically."""
    path = Path(path)
    text = json.dumps({"records": [asdict(r) for r in records]}, indent=1, ensure_ascii=False, allow_nan=False)
    with whole(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def write_figures(path: Path | str, figures: Mapping[str, float], command: str) -> None:
    """Write ``{"figures": {...}}``, what a benchmark found that is no record of a model, with its command and the machine."""
    facts = {"figures": figures, "command": command, "machine": f"{platform.system()} {platform.machine()}"}
    with whole(Path(path)) as draft:
        draft.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_records(path: Path | str) -> list[MetricRecord]:
    """Read what ``write_records`` wrote; a field too few or too many is a ValueError that names it."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))["records"]
        unknown = {key for entry in entries for key in entry} - {f.name for f in fields(MetricRecord)}
        if unknown:
            raise ValueError(f"{path} has the unknown field {sorted(unknown)[0]!r}: measure again or remove it")
        return [MetricRecord(**entry) for entry in entries]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no results file ({error}): it should hold {{"records": [...]}}') from error


def of_card(folder: Path) -> list[MetricRecord]:
    """The records in the card of the bundle in ``folder``."""
    return [MetricRecord(**entry) for entry in Card.read(folder).metrics]


def into_card(folder: Path, records: Iterable[MetricRecord]) -> None:
    """Make ``records`` those of the card of the bundle in ``folder``; its fingerprint, which is the weights', stays as it is."""
    replace(Card.read(folder), metrics=[asdict(r) for r in records]).write(folder)


def merge(old: Iterable[MetricRecord], new: Iterable[MetricRecord]) -> list[MetricRecord]:
    """Old records with the new ones, which take the place of an older measurement of the very same thing."""
    subject = ("model", "steps", "guidance", *LIKE)
    by_key = {tuple(getattr(r, f) for f in subject): r for r in (*old, *new)}
    return list(by_key.values())


def over_trainings(records: Sequence[MetricRecord]) -> MetricRecord:
    """One figure of several trainings as one record: their mean, bounds that enclose the interval of each, every command.

    So the bounds hold both what another training and what other prompts would change.
    """
    mean = math.fsum(r.value for r in records) / len(records)
    low, high = min(r.low for r in records), max(r.high for r in records)
    command = " && ".join(dict.fromkeys(r.command for r in records))
    return replace(records[0], value=mean, low=low, high=high, runs=len(records), command=command)


def table(records: Sequence[MetricRecord], metrics: Sequence[str] | None = None) -> str:
    """A Markdown table: models down, metrics across, every figure with its interval, the measurement named below.

    ``metrics`` chooses the columns. Raises a ValueError where one column would hold figures that were measured unlike.
    """
    present = list(dict.fromkeys(r.metric for r in records))
    order = [m for m in METRICS if m in present] + [m for m in present if m not in METRICS]
    columns = [m for m in metrics if m in present] if metrics is not None else order
    cells: dict[tuple[str, int, float], dict[str, MetricRecord]] = {}
    for record in records:
        cells.setdefault((record.model, record.steps, record.guidance), {})[record.metric] = record
    first: dict[str, MetricRecord] = {}
    for row in cells.values():
        for metric in columns:
            if metric in row:
                compare(first.setdefault(metric, row[metric]), row[metric])
    head = [f"{first[m].title} {METRICS.get(m, ('', ''))[1]}".strip() if m in first else m for m in columns]
    lines = ["| model | steps | guidance | " + " | ".join(head) + " |", "|---|--:|--:|" + "--:|" * len(columns)]
    for (model, steps, guidance), row in cells.items():
        figures = [_cell(row[m]) if m in row else "-" for m in columns]
        lines.append(f"| {model} | {steps} | {guidance:g} | " + " | ".join(figures) + " |")
    runs = max((r.runs for r in records), default=0)
    once = list(dict.fromkeys(r.model for r in records if not r.runs))
    return "\n".join([*lines, "", _footnote([first[m] for m in columns if m in first], runs, once)])


def sentences(records: Sequence[MetricRecord], metrics: Sequence[str]) -> dict[str, str]:
    """``metrics`` of every step count in one line, by how many steps and pictures they are of."""
    lines: dict[str, list[str]] = {}
    for r in records:
        if r.metric in metrics:
            lines.setdefault(f"{r.steps} step{'s' * (r.steps > 1)}", []).append(f"{r.title} {_cell(r)}")
    return {where: ", ".join(said) for where, said in lines.items()}


def _cell(record: MetricRecord) -> str:
    scale = 1000 if record.metric == "kid" else 1
    value, low, high = (f"{x * scale:.3g}" if abs(x * scale) < 1000 else f"{x * scale:.0f}"
                        for x in (record.value, record.low, record.high))  # fmt: skip
    return value if low == high else f"{value} [{low}, {high}]"


def _footnote(records: Sequence[MetricRecord], runs: int, once: Sequence[str]) -> str:
    judged = [r for r in records if r.features]
    if not judged:
        return ""
    r = judged[0]
    bootstrapped = "95% bootstrap intervals over prompts"
    spread = f"least and greatest of up to {runs} trainings" if runs else bootstrapped
    if runs and once:
        spread = f"{bootstrapped}, of up to {runs} trainings the outermost ends; trained once: {', '.join(once)}"
    named = [f"{name} {value}" for name, value in (("prompts", r.prompts), ("reference", r.dataset)) if value]
    judge = ", ".join(filter(None, [f"judge {r.features}", r.resizer]))
    return (
        f"In brackets: {spread}. n = {r.n}, {r.seeds} a prompt; "
        + "; ".join([judge, ", ".join(named)]).rstrip("; ")
        + "."
    )
