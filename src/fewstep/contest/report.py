"""``contest.json`` and ``contest.md``: what was trained, what was found, and what it took."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation import compare
from ..evaluation.record import METRICS, REAL, MetricRecord, entry, judges
from ..files import whole
from .plan import Plan, Run
from .results import COMPARED, Pairing, Trained, facts, means, nearest, pairings, variety_share
from .runs import Outcome

COLUMNS = ("fd", "kid", "recall", "retrieval_top1", "pairwise_distance", "highs_ratio", "latency_ms")
"""The columns of the tables."""


@dataclass(frozen=True)
class Found:
    """Everything that a contest has found so far."""

    plan: Plan
    teacher: Sequence[MetricRecord]
    """The teacher's rows and that of real pictures."""
    trained: Sequence[Trained]
    failed: Sequence[tuple[Run, Outcome]]
    machine: str
    command: str
    prompts: Sequence[str] = ()
    """Those whose pictures are shown."""
    exhaustive: bool = False
    """Whether all prompts that there are were drawn: then they are no sample of others."""
    starts: Sequence[Trained] = ()
    """Common warm starts, each once for every budget."""

    @property
    def judged(self) -> list[Trained]:
        """Every training, and the warm starts before them."""
        return [*self.starts, *self.trained]

    def of(self, start: str, budget: str) -> list[Trained]:
        """What was trained from one start with one budget, and the warm starts before it."""
        return [one for one in self.judged if (one.run.start, one.run.budget.name) == (start, budget)]

    @property
    def pairings(self) -> list[Pairing]:
        """Every entry beside ``--against``."""
        return pairings(self.judged, self.plan.options.against, exhaustive=self.exhaustive)

    @property
    def rows(self) -> list[MetricRecord]:
        """The mean of every entry, the teacher and real pictures."""
        return [*self.teacher, *means(self.judged)]

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Starts and budgets of which there is something."""
        return list(dict.fromkeys((one.run.start, one.run.budget.name) for one in self.trained))


def write(found: Found, out: Path) -> None:
    """Both files, whole or not at all."""
    with whole(out / "contest.json") as draft:
        draft.write_text(json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    with whole(out / "contest.md") as draft:
        draft.write_text(as_markdown(found), "utf-8")


def as_json(found: Found) -> dict[str, Any]:
    """For programs: the records of every row, of every training, its cost, and every comparison."""
    plan = found.plan
    return {
        "command": found.command,
        "machine": found.machine,
        "entries": {e.name: list(e.words) for e in plan.entries},
        "against": plan.options.against,
        "seeds": list(plan.seeds),
        "budgets": [budget.name for budget in plan.budgets],
        "starts": list(plan.options.starts),
        "records": [entry(r) for r in found.rows],
        "runs": [_as_json(one, plan) for one in found.trained],
        "warm_starts": [_as_json(one, plan) for one in found.starts],
        "failed": [{"run": f"{run.model}, seed {run.seed}", "why": outcome.failed, "command": outcome.command}
                   for run, outcome in found.failed],
        "comparisons": [dict(facts(p)) for p in found.pairings],
    }  # fmt: skip


def _as_json(one: Trained, plan: Plan) -> dict[str, Any]:
    return {
        "entry": one.run.entry.name, "start": one.run.start, "budget": one.run.budget.name, "seed": one.run.seed,
        "updates": one.outcome.updates, "cpu_s": one.outcome.cpu_s, "wall_s": one.outcome.wall_s,
        "memory_mib": one.outcome.memory_mib, "command": one.outcome.command,
        "bundle": one.run.bundle.relative_to(plan.options.out).as_posix(),
        "records": [entry(r) for r in one.records],
    }  # fmt: skip


def as_markdown(found: Found) -> str:
    """For people: verdicts first, then tables, then what it took."""
    plan, pairs = found.plan, found.pairings
    lines = ["# Contest", "", *introduction(found), ""]
    first = nearest_rows(found)
    lines += ["## Who is nearest", "", *markdown(nearest_heads(found), first), "", NEAREST, ""] if first else []
    for start, budget in found.groups:
        own = found.of(start, budget)
        beside = [p for p in pairs if p.entry.endswith(f"({start}, {budget})")]
        glance = markdown(glance_heads(found), glance_rows(found, own))
        lines += [f"## {titled(start, budget)}", "", *glance, "", *_tables(found, own), *_paired(beside), *_costs(own)]
    if plan.left_out:
        lines += ["## Left out", "", *(f"- {name}: {why}" for name, why in plan.left_out), ""]
    if found.failed:
        lines += ["## Trainings that failed", ""]
        lines += [f"- {run.model}, seed {run.seed}: {outcome.failed}" for run, outcome in found.failed] + [""]
    return "\n".join(lines).rstrip() + "\n"


def introduction(found: Found) -> list[str]:
    """What was asked, in a few sentences."""
    plan, o = found.plan, found.plan.options
    runs = f"{o.trainings} training{'s' * (o.trainings > 1)} each (seeds {', '.join(map(str, plan.seeds))})"
    n = next(
        (f"{r.n:,} pictures, {r.seeds} a prompt" for r in found.rows if r.features and r.model != REAL), "no pictures"
    )
    return [
        f"{len(plan.entries)} entries on {o.teacher} and {o.data}, {runs}; every figure is of {n}, all models from the same "
        f"noises. {len(found.trained)} of {len(plan.runs)} trainings have ended well, {len(found.failed)} failed.{_fewer(found)}",
        "",
        f"    {found.command}",
        "",
        f"Machine: {found.machine}.",
    ]  # fmt: skip


def _fewer(found: Found) -> str:
    """Which entries have fewer trainings than others; "" where all have as many."""
    ended = Counter(one.run.entry.name for one in found.trained)
    asked = Counter(run.entry.name for run in found.plan.runs)
    fewer = [
        f"{name} ({ended[name]} of {n})" for name, n in asked.items() if ended[name] < max(ended.values(), default=0)
    ]
    return f" Fewer than of others: {', '.join(fewer)}." if fewer else ""


def titled(start: str, budget: str) -> str:
    """A start and a budget as a heading."""
    number, _, unit = budget.partition("-")
    begun = "after a common warm start" if start == "warm" else "from the teacher's weights"
    return f"{number} {unit} {begun}"


NEAREST = (
    "By FD, the mean over trainings. Nearer: by how much, with its 95% interval, paired over trainings (and over prompts where "
    "their number stands beside it)."
)


def nearest_heads(found: Found) -> list[str]:
    """The heads of the table that comes first."""
    return [
        "",
        "judge",
        "steps",
        "nearest",
        "FD",
        "next",
        "FD",
        f"nearer than {found.plan.options.against}",
        "verdict",
        "over",
    ]


def nearest_rows(found: Found) -> list[list[str]]:
    """A line a start, budget, judge and step count: who is nearest, and what can be said of it."""
    rows = []
    for one in nearest(found.plan, found.judged, found.pairings):
        models = [r.model.partition(" (")[0] for r in (one.first, one.second)]
        values = [compare.shown(r.value, "fd") for r in (one.first, one.second)]
        beside = ["-", "-", "-"]
        if (p := one.beside) is not None:
            gain, low, high = (compare.shown(x, "fd") for x in (p.gain.value, p.gain.low, p.gain.high))
            over = f"{p.trainings} training{'s' * (p.trainings > 1)}"
            beside = [f"{gain} [{low}, {high}]", p.verdict, f"{over}, {p.prompts} prompts" if p.prompts else over]
        where = titled(one.start, one.budget)
        rows.append([where, one.judge, str(one.steps), models[0], values[0], models[1], values[1], *beside])
    return rows


def cell(record: MetricRecord | None) -> str:
    """A figure with its bounds."""
    if record is None:
        return "-"
    low, high = (compare.shown(x, record.metric) for x in (record.low, record.high))
    value = compare.shown(record.value, record.metric)
    return value if low == high else f"{value} [{low}, {high}]"


def table_rows(found: Found, own: Sequence[Trained], judge: str, steps: int) -> list[list[str]]:
    """Entries by FD at one step count, beside the teacher's most and the same steps, and real pictures."""
    rows = [r for r in [*found.teacher, *means(own)] if r.features in ("", judge)]
    cells: dict[tuple[str, int], dict[str, MetricRecord]] = {}
    for r in rows:
        cells.setdefault((r.model, r.steps), {})[r.metric] = r
    most = max((r.steps for r in found.teacher if r.model != REAL), default=0)
    chosen = {k: v for k, v in cells.items() if k[1] == steps or (k[0] == "teacher" and k[1] == most) or k[0] == REAL}

    def place(item: tuple[tuple[str, int], dict[str, MetricRecord]]) -> tuple[int, float]:
        (model, _), row = item
        group = 0 if model == REAL else 1 if model == "teacher" else 2
        return group, row["fd"].value if "fd" in row else math.inf

    out = []
    for (model, count), row in sorted(chosen.items(), key=place):
        named = "real pictures" if model == REAL else model.partition(" (")[0]
        figures = []
        for metric in COLUMNS:
            text = cell(row.get(metric))
            if metric in row and model not in (REAL, "teacher"):
                share = variety_share(row[metric], found.teacher)
                text += "" if math.isnan(share) else f" ({share:.0%})"
            figures.append(text)
        out.append([named, "-" if model == REAL else str(count), *figures])
    return out


def heads(judge: str) -> list[str]:
    """The heads of the columns."""
    titles = [METRICS[m][0].format(judge=judge.split("@")[0]) + f" {METRICS[m][1]}" for m in COLUMNS]
    return ["", "steps", *titles]


def glance_heads(found: Found) -> list[str]:
    """The heads of the short table."""
    counts = " / ".join(map(str, found.plan.options.steps))
    distances = [f"{METRICS['fd'][0].format(judge=_short(judge))} at {counts} ↓" for judge in _judges(found)]
    varied = [f"variety by {_short(judge)}" for judge in _judges(found)[:1]]
    return ["", *distances, *varied, "processor s"]


def glance_rows(found: Found, own: Sequence[Trained]) -> list[list[str]]:
    """One line an entry, by the mean of its ranks by all judges: distances, variety as a share of the teacher's, time."""
    steps, judges_ = found.plan.options.steps, _judges(found)
    rows = {(r.model, r.steps, r.metric, r.features): r for r in [*found.teacher, *means(own)]}
    models = list(dict.fromkeys(one.run.model for one in own))
    spent = {m: [one.outcome.cpu_s for one in own if one.run.model == m] for m in models}

    def distance(model: str, count: int, judge: str) -> float:
        found_ = rows.get((model, count, "fd", judge))
        return found_.value if found_ else math.inf

    def rank(model: str) -> float:
        places = [
            sorted(models, key=lambda m: distance(m, count, judge)).index(model) for judge in judges_ for count in steps
        ]
        return sum(places) / len(places)

    def line(model: str, counts: Sequence[int]) -> list[str]:
        cells = []
        for judge in judges_:
            values = [rows.get((model, count, "fd", judge)) for count in counts]
            cells.append(" / ".join("-" if r is None else compare.shown(r.value, "fd") for r in values))
        for judge in judges_[:1]:
            values = [rows.get((model, count, "pairwise_distance", judge)) for count in counts]
            shares = [math.nan if r is None else variety_share(r, found.teacher) for r in values]
            cells.append(" / ".join("-" if math.isnan(share) else f"{share:.0%}" for share in shares))
        took = spent.get(model, [])
        return [model.partition(" (")[0], *cells, f"{sum(took) / len(took):,.0f}" if took else "-"]

    most = max((r.steps for r in found.teacher if r.model != REAL), default=0)
    real = [next((compare.shown(r.value, "fd") for r in found.teacher
                  if (r.model, r.metric, r.features) == (REAL, "fd", judge)), "-") for judge in judges_]  # fmt: skip
    teacher = [
        [f"teacher, {most} step{'s' * (most > 1)}", *line("teacher", [most])[1:]],
        ["teacher", *line("teacher", steps)[1:]],
    ]
    return [["real pictures", *real, "-", "-"], *teacher, *(line(model, steps) for model in sorted(models, key=rank))]


def _judges(found: Found) -> list[str]:
    return judges([r for one in found.trained for r in one.records])


def _short(judge: str) -> str:
    return judge.split("@")[0].rpartition(".")[2]


def _tables(found: Found, own: Sequence[Trained]) -> list[str]:
    lines = []
    for judge in judges([r for one in own for r in one.records]):
        for steps in found.plan.options.steps:
            lines += [f"### {steps} step{'s' * (steps > 1)}, judged by {judge.split('@')[0]}", "",
                      *markdown(heads(judge), table_rows(found, own, judge, steps)), ""]  # fmt: skip
    runs = max(sum(other.run.entry == one.run.entry for other in own) for one in own)
    usual = "95% jackknife intervals over prompts"
    what = (
        f"the least and the greatest of the trainings; of models that were trained once, {usual}" if runs > 1 else usual
    )
    return [*lines, f"In brackets: {what}; in parentheses: variety as a share of the teacher's most steps.", ""]


def _paired(pairs: Sequence[Pairing]) -> list[str]:
    if not pairs:
        return []
    lines = [f"### In pairs against {pairs[0].against.partition(' (')[0]}", ""]
    table = markdown(["", "steps", "figure", "entry's", "the other's", "gain", "verdict"], pair_rows(pairs))
    first = pairs[0]
    return [
        *lines, *table, "",
        f"Gain: by how much the entry is better, with its 95% interval over trainings (paired by seed)"
        f"{f' and over the same {first.prompts} prompts' if first.prompts else ''}, each for itself, so that one row in twenty "
        f"may err. The margin is {first.margin:.0%}.",
        "",
    ]  # fmt: skip


def pair_rows(pairs: Sequence[Pairing]) -> list[list[str]]:
    """Comparisons as rows, by judge, figure and steps."""
    return [
        [p.entry.partition(" (")[0], str(p.steps), f"{METRICS[p.metric][0].format(judge=p.judge)} ({p.judge})"
         if "{judge}" not in METRICS[p.metric][0] else METRICS[p.metric][0].format(judge=p.judge),
         compare.shown(p.mean, p.metric), compare.shown(p.other, p.metric),
         " ".join([compare.shown(p.gain.value, p.metric),
                   f"[{compare.shown(p.gain.low, p.metric)}, {compare.shown(p.gain.high, p.metric)}]"]), p.verdict]
        for p in sorted(pairs, key=lambda p: (p.judge, COMPARED.index(p.metric), p.steps, p.entry))
    ]  # fmt: skip


def _costs(own: Sequence[Trained]) -> list[str]:
    table = markdown(["", "trainings", "updates", "processor s", "clock s", "memory MiB"], cost_rows(own))
    return ["### What a training took", "", *table, "", "Whole processes: reading, warm data and saving are in it.", ""]


def cost_rows(own: Sequence[Trained]) -> list[list[str]]:
    """What trainings took, the mean of every entry's."""
    groups: dict[str, list[Outcome]] = {}
    for one in own:
        groups.setdefault(one.run.entry.name, []).append(one.outcome)

    def mean(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):,.0f}"

    return [
        [name, str(len(found)), mean([x.updates for x in found]), mean([x.cpu_s for x in found]),
         mean([x.wall_s for x in found]), mean([x.memory_mib for x in found])]
        for name, found in groups.items()
    ]  # fmt: skip


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
