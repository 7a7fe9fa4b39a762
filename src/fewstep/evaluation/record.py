"""The metric record: a figure with everything that decides what it may be compared with.

Results files hold ``{"records": [...]}``, one flat object a figure and a line. ``check_alike`` refuses unlike records by name
of what differs, and ``table`` refuses to put them into one column: a table is a comparison too.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..bundle import Card
from ..files import whole


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
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""
    n: int
    """Pictures drawn (or calls timed)."""
    seeds: int
    """Pictures for every prompt."""
    features: str = ""
    """The judge, as ``name@fingerprint``; empty where no judge was used."""
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
    interval: str = "bootstrap"
    """How the bounds were found: ``jackknife`` over prompts, ``bootstrap``, or ``none``. Files of before 2026-11-28 do not say,
    and hold bootstrap intervals."""
    left_out: tuple[float, ...] = ()
    """The figure without each prompt in turn, of recall what stands for it (see `jackknife.py`): two models on the same prompts
    are compared by it. In results files only, not on cards."""
    better: str = ""
    """Where the figure should go, ↑ or ↓, of a metric that ``METRICS`` does not have."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError(
                f"{self.metric} of {self.model} at {self.steps} steps is not finite: check its pictures first"
            )

    @property
    def title(self) -> str:
        """The metric's name in print: a Fréchet distance carries its judge's name, for it is not FID."""
        return METRICS.get(self.metric, (self.metric, ""))[0].format(judge=self.features.split("@")[0])

    @property
    def direction(self) -> str:
        """Where the figure should go: ↑, ↓ or → 1; empty where nobody has said."""
        return METRICS.get(self.metric, ("", self.better))[1]


METRICS: dict[str, tuple[str, str]] = {
    "fd": ("FD-{judge}", "↓"),
    "kid": ("KID-{judge} × 1000", "↓"),
    "kid_all_pairs": ("KID-{judge} × 1000, pairs of one prompt too", "↓"),
    "precision": ("precision", "↑"),
    "recall": ("recall", "↑"),
    "density": ("density", "↑"),
    "coverage": ("coverage", "↑"),
    "retrieval_top1": ("retrieval top 1", "↑"),
    "retrieval_top5": ("retrieval top 5", "↑"),
    "vendi_minus_1": ("Vendi − 1", "↑"),
    "modes": ("modes reached", "↑"),
    "on_mode": ("points on a mode", "↑"),
    "accuracy": ("drawn as asked", "↑"),
    "pairwise_distance": ("pairwise distance", "↑"),
    "edges_ratio": ("edges", "→ 1"),
    "midgreys_ratio": ("mid-greys", "→ 1"),
    "highs_ratio": ("high frequencies", "→ 1"),
    "fid": ("FID", "↓"),
    "fd_dinov2": ("FD-DINOv2", "↓"),
    "cmmd": ("CMMD", "↓"),
    "clip_score": ("CLIP score", "↑"),
    "pickscore": ("PickScore", "↑"),
    "hpsv2": ("HPSv2.1", "↑"),
    "hpsv3": ("HPSv3", "↑"),
    "image_reward": ("ImageReward", "↑"),
    "fd_infinity": ("FD∞-{judge}", "↓"),
    "fid_infinity": ("FID∞", "↓"),
    "fd_dinov2_infinity": ("FD∞-DINOv2", "↓"),
    "latency_ms": ("ms a picture", "↓"),
    "nfe": ("NFE", "↓"),
}
"""Name in print and the good direction of every metric, in the order of the table's columns."""

BEFORE = {"vendi": ("vendi_minus_1", -1.0), "kid": ("kid_all_pairs", 0.0)}
"""Names in older files, their names today, and the number to add to the value. Vendi of pictures that are all alike
was 1, which reads as if they were varied; KID paired pictures of one prompt, and may not be compared with one that does not."""

VARIETY = ("vendi_minus_1", "pairwise_distance")
"""How unlike the pictures of one prompt are: these are shown as shares of the teacher's too."""

REAL = "real"
"""The model of a row of real pictures, compared with other real pictures: the figures of a perfect model."""

LIKE = ("metric", "n", "seeds", "features", "resizer", "prompts", "dataset", "device")
"""Fields that have to agree before two figures may be compared. Model, steps, guidance and command may differ."""


def check_alike(a: MetricRecord, b: MetricRecord) -> None:
    """Raise a ValueError that names the first thing in which the two measurements differ, if one does."""
    for field in LIKE:
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            raise ValueError(
                f"{a.model} at {a.steps} and {b.model} at {b.steps} steps cannot be compared: "
                f"{field} is {ours!r} in one and {theirs!r} in the other; measure both alike"
            )


def ratio(a: MetricRecord, b: MetricRecord) -> float:
    """``a`` over ``b``, nan where ``b`` is 0; a ValueError where they were measured unlike."""
    check_alike(a, b)
    return a.value / b.value if b.value else math.nan


def difference(a: MetricRecord, b: MetricRecord) -> float:
    """``a`` less ``b``; a ValueError where they were measured unlike."""
    check_alike(a, b)
    return a.value - b.value


def beside_last(records: Sequence[MetricRecord]) -> list[MetricRecord]:
    """The last row and whatever may stand in one table with it: a file may hold rows that were measured otherwise."""
    models = [r for r in records if r.model != REAL]
    last = {(r.metric, r.features): r for r in models if _row(r) == _row(models[-1])}

    def fits(r: MetricRecord) -> bool:
        base = last.get((r.metric, r.features))
        if r.model == REAL:
            return base is None or base.dataset == r.dataset
        return base is None or all(getattr(r, field) == getattr(base, field) for field in LIKE)

    other = {_row(r) for r in models if r.features and not fits(r)}
    return [r for r in records if fits(r) and _row(r) not in other]


def _row(r: MetricRecord) -> tuple[str, int, float]:
    return r.model, r.steps, r.guidance


def check_output(path: Path) -> None:
    """See that results can be written to ``path``, before anything takes long; nothing is left of the attempt but its folder.

    Raises OSError as the system does, and ValueError for what is neither a file nor nothing.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file (but a device or a pipe), and cannot hold results: give another path")
    with suppress(_Tried), whole(path) as draft:
        draft.write_bytes(bytes(2**16))
        raise _Tried


class _Tried(Exception):
    """All went well, and nothing is to be kept."""


def write_records(path: Path | str, records: Iterable[MetricRecord]) -> None:
    """Write ``{"records": [...]}``, atomically."""
    rows = (json.dumps(entry(r), ensure_ascii=False, allow_nan=False) for r in records)
    with whole(Path(path)) as draft:
        draft.write_text('{"records": [\n ' + ",\n ".join(rows) + "\n]}\n", encoding="utf-8")


def entry(record: MetricRecord) -> dict[str, Any]:
    """A record as JSON has it; defaults are left out, except those that older readers need."""
    usual = {f.name: f.default for f in fields(MetricRecord)}
    kept = {
        k: v for k, v in asdict(record).items() if v != usual[k] or k in ("features", "guidance", "command", "interval")
    }
    return kept | ({"left_out": [float(f"{x:.10g}") for x in record.left_out]} if record.left_out else {})


def of_entry(entry: Mapping[str, Any]) -> MetricRecord:
    """The record of a JSON object, of an older file too. Raises TypeError for fields that it lacks."""
    facts = {**entry, "left_out": tuple(entry.get("left_out", ()))}
    if "interval" not in entry and (now := BEFORE.get(facts.get("metric", ""))):
        facts |= {"metric": now[0]} | {k: facts[k] + now[1] for k in ("value", "low", "high")}
    return MetricRecord(**facts)


def write_figures(
    path: Path | str, figures: Mapping[str, float], command: str, each: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write ``{"figures": {...}}``, what a benchmark found that is no record of a model, with its command and the machine.

    ``each`` holds what single runs found, where the figures are of several.
    """
    facts: dict[str, Any] = {
        "figures": figures,
        "command": command,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if each:
        facts["each"] = each
    with whole(Path(path)) as draft:
        draft.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_records(path: Path | str) -> list[MetricRecord]:
    """Read what ``write_records`` wrote; a field too few or too many is a ValueError that names it."""
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))["records"]
        unknown = {key for entry in entries for key in entry} - {f.name for f in fields(MetricRecord)}
        if unknown:
            raise ValueError(f"{path} has the unknown field {sorted(unknown)[0]!r}: measure again or remove it")
        return [of_entry(entry) for entry in entries]
    except KeyError as error:
        raise ValueError(
            f'{path} is no results file (no {error} in it): it should hold {{"records": [...]}}'
        ) from error
    except (TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is no results file ({error}): it should hold {{"records": [...]}}') from error


def of_card(folder: Path) -> list[MetricRecord]:
    """The records in the card of the bundle in ``folder``."""
    return [of_entry(entry) for entry in Card.read(folder).metrics]


def into_card(folder: Path, records: Iterable[MetricRecord]) -> None:
    """Make ``records`` those of the card of the bundle in ``folder``; its fingerprint, which is the weights', stays as it is."""
    replace(Card.read(folder), metrics=[entry(replace(r, left_out=())) for r in records]).write(folder)


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
    ways = " or ".join(dict.fromkeys(r.interval for r in records))
    return replace(
        records[0], value=mean, low=low, high=high, runs=len(records), command=command, interval=ways, left_out=()
    )


def judges(records: Iterable[MetricRecord]) -> list[str]:
    """The judges of these records, in order, as ``name@fingerprint``."""
    return list(dict.fromkeys(r.features for r in records if r.features))


def table(records: Sequence[MetricRecord], metrics: Sequence[str] | None = None) -> str:
    """A Markdown table: models down, metrics across, every figure with its interval, the measurement named below.

    Several judges give a table each. ``metrics`` chooses the columns. A row of real pictures has other
    circumstances, which stand below too. Raises a ValueError where one column would hold figures that were measured unlike.
    """
    if len(several := judges(records)) > 1:
        own = ([r for r in records if r.features in ("", judge)] for judge in several)
        return "\n\n".join(table(part, metrics) for part in own)
    present = list(dict.fromkeys(r.metric for r in records))
    order = [m for m in METRICS if m in present] + [m for m in present if m not in METRICS]
    columns = [m for m in metrics if m in present] if metrics is not None else order
    cells: dict[tuple[str, int, float], dict[str, MetricRecord]] = {}
    for record in records:
        cells.setdefault(_row(record), {})[record.metric] = record
    first: dict[str, MetricRecord] = {}
    for (model, _, _), row in cells.items():
        for metric in columns:
            if metric in row and model != REAL:
                check_alike(first.setdefault(metric, row[metric]), row[metric])
    titles = {r.metric: f"{r.title} {r.direction}".strip() for r in records}
    teacher = _teacher(cells)
    told = {m for m in VARIETY if m in teacher and any(m in row and row is not teacher for row in cells.values())}
    head = [titles.get(m, m) + " (of the teacher's)" * (m in told) for m in columns]
    lines = ["| model | steps | guidance | " + " | ".join(head) + " |", "|---|--:|--:|" + "--:|" * len(columns)]
    for (model, steps, guidance), row in cells.items():
        figures = [_cell(row[m]) if m in row else "-" for m in columns]
        if row is not teacher:
            figures = [
                f + _share(row[m], teacher[m]) if m in told and m in row else f for m, f in zip(columns, figures)
            ]
        drawn = "- | -" if model == REAL else f"{steps} | {guidance:g}"
        lines.append(f"| {model} | {drawn} | " + " | ".join(figures) + " |")
    shown = [r for r in records if r.metric in columns]
    return "\n".join([*lines, "", _footnote([first[m] for m in columns if m in first], shown)])


def _teacher(cells: Mapping[tuple[str, int, float], dict[str, MetricRecord]]) -> dict[str, MetricRecord]:
    """The teacher's row of most steps."""
    rows = [(steps, row) for (model, steps, _), row in cells.items() if model == "teacher"]
    return max(rows, key=lambda found: found[0])[1] if rows else {}


def _share(record: MetricRecord, whole_: MetricRecord) -> str:
    """``record`` in hundredths of another; empty where that is nothing, or where Vendi is that of another number of pictures."""
    fair = record.seeds == whole_.seeds or record.metric == "pairwise_distance"
    return f" ({record.value / whole_.value:.0%})" if whole_.value > 0 and fair else ""


def sentences(records: Sequence[MetricRecord], metrics: Sequence[str]) -> dict[str, str]:
    """``metrics`` of every step count in one line, by how many steps and pictures they are of."""
    lines: dict[str, list[str]] = {}
    for r in records:
        if r.metric in metrics:
            lines.setdefault(f"{r.steps} step{'s' * (r.steps > 1)}", []).append(f"{r.title} {_cell(r)}")
    return {where: ", ".join(said) for where, said in lines.items()}


def _cell(record: MetricRecord) -> str:
    scale = 1000 if record.metric.startswith("kid") else 1
    value, low, high = (f"{x * scale:.3g}" if abs(x * scale) < 1000 else f"{x * scale:.0f}"
                        for x in (record.value, record.low, record.high))  # fmt: skip
    return value if low == high else f"{value} [{low}, {high}]"


def _footnote(records: Sequence[MetricRecord], shown: Sequence[MetricRecord]) -> str:
    judged = [r for r in records if r.features]
    if not judged:
        return ""
    r = judged[0]
    named = [f"{name} {value}" for name, value in (("prompts", r.prompts), ("reference", r.dataset)) if value]
    judge = ", ".join(filter(None, [f"judge {r.features}", r.resizer]))
    circumstances = f"n = {r.n}, {r.seeds} a prompt; " + "; ".join([judge, ", ".join(named)]).rstrip("; ") + "."
    real = {x.metric: x for x in shown if x.model == REAL}
    floor = ""
    if real:
        of_sets = next((x for name, x in real.items() if name not in VARIETY), None)
        of_one = next((x for name, x in real.items() if name in VARIETY), None)
        floor = " real, the floor: " + "; ".join(
            [*([f"{of_sets.n} real pictures held against all others"] if of_sets else []),
             *([f"variety is that of the {of_one.seeds} drawings of one concept, {of_one.n} in all"] if of_one else [])]
        ) + "."  # fmt: skip
    return f"In brackets: {_spread(shown)}. {circumstances}{floor}"


def _spread(records: Sequence[MetricRecord]) -> str:
    """What the brackets hold."""
    ways = {r.interval for r in records if r.features and r.low < r.high}
    jackknife, older = any("jackknife" in way for way in ways), any("bootstrap" in way for way in ways)
    one = "95% jackknife intervals over prompts"
    if older and jackknife:
        new = ", ".join(dict.fromkeys(r.model for r in records if r.features and r.interval == "jackknife"))
        one += f" ({new}), the others by the older bootstrap, too wide for FD and too narrow for recall"
    elif older:
        one = "95% bootstrap intervals over prompts (an older way, too wide for FD and too narrow for recall)"
    runs = max((r.runs for r in records), default=0)
    once = list(dict.fromkeys(r.model for r in records if not r.runs))
    if runs and once:
        return f"{one}, of up to {runs} trainings the outermost ends; trained once: {', '.join(once)}"
    return f"least and greatest of up to {runs} trainings" if runs else one
