"""What a contest found, as a page and a results file of the documentation."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from PIL import Image, ImageDraw, ImageFont

from fewstep.contest import report
from fewstep.contest.command import SAME
from fewstep.contest.measuring import TEACHER, picture
from fewstep.contest.plan import FLAT, Entry, Options, Plan, Run
from fewstep.contest.results import Pairing, Trained, mean_gain, pairings
from fewstep.contest.runs import Outcome
from fewstep.evaluation import jackknife
from fewstep.evaluation.jackknife import Interval
from fewstep.evaluation.record import REAL, MetricRecord, of_entry

HOUSE = Path(__file__).resolve().parent.parent
KEPT = ("fd", "pairwise_distance", "retrieval_top1")
ELSEWHERE = (
    "Trainings of seed {seeds} were made on another machine than the others: nothing is paired across machines. Where figures "
    "were kept without what pairs them prompt by prompt anew, their error over prompts is added as if prompts erred alike in "
    "every training, which can only widen the interval."
)
SHOWN = "Eight prompts, a row each; the teacher's most steps first, then an entry a column: above in one step, below in four"


def shortened(text: str) -> str:
    """``contest.md`` without its long tables: who is nearest, and the first table of every start and budget."""
    head, *parts = re.split(r"(?m)^(?=## )", text)
    kept = [re.split(r"(?m)^### ", part)[0].rstrip() for part in parts]
    return "\n\n".join([head.rstrip(), *kept]) + "\n"


def slim(found: dict[str, Any], every: bool = False) -> dict[str, Any]:
    """``contest.json`` with what pairs entries by the figures of `KEPT` alone; of single trainings, too, unless ``every``."""
    for name in ("comparisons", "paired_before"):
        if name in found:
            found[name] = [c for c in found[name] if c["metric"] in KEPT]
    trained = found["runs"] + found.get("warm_starts", [])
    for run in trained:
        run["records"] = [r for r in run["records"] if every or r["metric"] in KEPT]
    for record in [*found["records"], *(record for run in trained for record in run["records"])]:
        record.pop("device", None)
        record["command"] = ""
        left = record.pop("left_out", [])
        if left and record["metric"] in KEPT:
            record["left_out"] = [float(f"{x:.6g}") for x in left]
    for record in found["records"]:
        record.pop("left_out", None)
    return found


@dataclass(frozen=True)
class Joined(report.Found):
    """Trainings of one contest on several machines, each with its own seeds."""

    paired_before: tuple[Pairing, ...] = ()
    """Entries in pairs, of trainings whose figures were kept without what pairs them anew: one training each."""

    @property
    def pairings(self) -> list[Pairing]:
        """Every entry beside ``--against``, over all trainings."""
        whole = [replace(one, records=tuple(r for r in one.records if r.left_out)) for one in self.judged]
        now = pairings([one for one in whole if one.records], self.plan.options.against, exhaustive=self.exhaustive)
        before = {_key(p): p for p in self.paired_before}
        return [together(p, before[_key(p)]) if _key(p) in before else p for p in now] + [
            p for key, p in before.items() if key not in set(map(_key, now))
        ]


def _key(p: Pairing) -> tuple[str, str, str, int]:
    return p.entry, p.metric, p.judge, p.steps


def together(a: Pairing, b: Pairing) -> Pairing:
    """Two pairings of one training each as one of two.

    The error over prompts of a mean is at most the mean of both errors, which it is where prompts err alike in both trainings.
    Raises ValueError where they are of more trainings, of other prompts, or of prompts that are all there are.
    """
    if {a.trainings, b.trainings} != {1} or a.prompts != b.prompts or a.prompts < 2:
        raise ValueError(f"{a.entry}: only two pairings of one training each over the same prompts can be put together")
    t = jackknife.student_t(jackknife.LEVEL, a.prompts - 1)
    errors = [(p.gain.high - p.gain.low) / 2 / t for p in (a, b)]
    gain = mean_gain([a.gain.value, b.gain.value], sum(errors) / 2, a.prompts)
    return replace(a, trainings=2, mean=(a.mean + b.mean) / 2, other=(a.other + b.other) / 2, gain=gain)


def _figure(r: MetricRecord) -> tuple[str, int, str]:
    return r.metric, r.steps, r.features


def options_of(facts: dict[str, Any]) -> Options:
    """The options that a contest was started with."""
    words = shlex.split(facts["command"])
    return tyro.cli(Annotated[Options, FLAT], args=words[words.index("contest") + 1 :])


def read(facts: dict[str, Any], out: Path) -> Joined:
    """What ``contest.json``, whole or `slim`, says, as it was before it was written. Raises ValueError for failed trainings."""
    if facts["failed"]:
        raise ValueError(f"trainings failed: {facts['failed'][0]['run']}; train them again, with --redo")
    plan = Plan.of(replace(options_of(facts), out=out))
    budgets = {budget.name: budget for budget in plan.budgets}

    every = [of_entry(r) for r in facts["records"]]
    once = len({run["seed"] for run in facts["runs"]}) == 1  # then an entry's mean is its only training's

    def trained(run: dict[str, Any]) -> Trained:
        words = tuple(facts["entries"].get(run["entry"], ()))
        at = out / Path(run["bundle"]).parent
        one = Run(Entry(run["entry"], words), run["start"], budgets[run["budget"]], run["seed"], at)
        outcome = Outcome(run["command"], run["cpu_s"], run["wall_s"], run["memory_mib"], run["updates"], done=True)
        own = {_figure(r): r for r in every if once and r.model == one.model}
        return Trained(one, outcome, tuple((own | {_figure(r): r for r in map(of_entry, run["records"])}).values()))

    teacher = [r for r in every if r.model in ("teacher", REAL)]
    before = tuple(
        Pairing(c["entry"], c["against"], c["metric"], c["judge"], c["steps"], c["trainings"], c["prompts"], c["mean"],
                c["other"], Interval(c["gain"], c["low"], c["high"]), c["margin"])
        for c in facts.get("paired_before", facts["comparisons"])
    )  # fmt: skip
    if "paired_before" not in facts and any(r.get("left_out") for run in facts["runs"] for r in run["records"]):
        before = ()  # they are paired anew
    return Joined(
        plan, teacher, [trained(run) for run in facts["runs"]], [], facts["machine"], facts["command"],
        exhaustive=bool(facts["comparisons"]) and not any(c["prompts"] for c in facts["comparisons"]),
        starts=[trained(run) for run in facts.get("warm_starts", [])], paired_before=before,
    )  # fmt: skip


def joined(now: Joined, before: Joined) -> Joined:
    """Both, with the seeds of both. Raises ValueError where they are not one contest, or share a training."""
    ours, theirs = now.plan.options, before.plan.options
    if other := [name for name in SAME if getattr(ours, name) != getattr(theirs, name)]:
        raise ValueError(f"the results of before are another contest's: {', '.join(other)}")
    seeds = sorted({one.run.seed for one in (*now.trained, *before.trained)})
    if {one.run.seed for one in now.trained} & {one.run.seed for one in before.trained}:
        raise ValueError("both hold trainings of one seed: which of them count?")
    options = replace(ours, first_seed=seeds[0], trainings=len(seeds))
    sides = [[r.metric for one in side.trained for r in one.records] for side in (now, before)]
    both = set(sides[0]) & set(sides[1])  # a mean is one of all trainings

    def alike(trained: Iterable[Trained]) -> list[Trained]:
        return [replace(one, records=tuple(r for r in one.records if r.metric in both)) for one in trained]

    words = re.sub(r" --(first-seed|trainings|jobs) \d+", "", now.command)
    return replace(
        now, plan=Plan.of(options), command=f"{words} --trainings {len(seeds)}", trained=alike([*before.trained, *now.trained]),
        starts=alike([*before.starts, *now.starts]), paired_before=(*before.paired_before, *now.paired_before),
    )  # fmt: skip


SIDE = 64
"""Of a picture on the sheet, in pixels."""


def sheet(found: report.Found, counts: Sequence[int]) -> Image.Image | None:
    """A prompt a row, an entry a column, all from the same noises, a block a step count; None where no picture is."""
    out, most = found.plan.options.out, max((r.steps for r in found.teacher), default=1)
    folders = {f"teacher, {most}": out / TEACHER}
    for one in found.trained:
        if picture(one.run.folder, counts[0], 0).is_file():
            folders.setdefault(one.run.entry.name.replace("_", " "), one.run.folder)
    rows = sum(picture(out / TEACHER, most, i).is_file() for i in range(100))
    if len(folders) < 2 or not rows:
        return None
    font, head, cell = ImageFont.load_default(10), 40, SIDE + 4
    made = Image.new("RGB", (len(folders) * cell, len(counts) * (head + rows * cell)), "white")
    draw = ImageDraw.Draw(made)
    for block, steps in enumerate(counts):
        top = block * (head + rows * cell)
        for column, (name, folder) in enumerate(folders.items()):
            said = name.replace(" ", "\n") if column else f"{name}\nothers: {steps}"
            draw.multiline_text((column * cell + cell / 2, top + head - 4), said, "black", font, "md", align="center")
            for i in range(rows):
                with Image.open(picture(folder, steps if column else most, i)) as one:
                    small = one.convert("RGB").resize((SIDE, SIDE))
                made.paste(small, (column * cell + 2, top + head + i * cell + 2))
    return made


def write(name: str, title: str, out: Path) -> None:
    """``docs/contest_NAME.md`` and ``docs/results/contest_NAME.json`` from the folder of a contest.

    Where it has pictures, ``docs/pictures/contest_NAME.webp`` shows them. Trainings that the results file holds and the folder
    does not are kept: they were made on another machine.
    """
    page, results = HOUSE / "docs" / f"contest_{name}.md", HOUSE / "docs" / "results" / f"contest_{name}.json"
    facts, text = json.loads((out / "contest.json").read_text("utf-8")), (out / "contest.md").read_text("utf-8")
    known = json.loads(results.read_text("utf-8")) if results.is_file() else {"runs": []}
    elsewhere = sorted({run["seed"] for run in known["runs"]} - {run["seed"] for run in facts["runs"]})
    if elsewhere:
        before = read(known, out)
        kept = [[one for one in ones if one.run.seed in elsewhere] for ones in (before.trained, before.starts)]
        found = joined(read(facts, out), replace(before, trained=kept[0], starts=kept[1]))
        facts, text = report.as_json(found), report.as_markdown(found)
        said = ELSEWHERE.format(seeds=", ".join(map(str, elsewhere)))
        text = text.replace(f"Machine: {found.machine}.", f"Machine: {found.machine}. {said}", 1)
        facts["paired_before"] = [dict(report.facts(p)) for p in found.paired_before]
    text = shortened(text).replace("# Contest", f"<!-- written by benchmarks/{name}_contest.py -->\n# {title}", 1)
    if shown := sheet(read(facts, out), (1, 4)):
        (HOUSE / "docs" / "pictures").mkdir(exist_ok=True)
        shown.save(HOUSE / "docs" / "pictures" / f"contest_{name}.webp", quality=90, method=6)
        text += f"\n## Pictures from the same noises\n\n![{SHOWN}](pictures/contest_{name}.webp)\n"
    page.write_text(text, "utf-8")
    made = slim(facts, every=bool(elsewhere))
    results.write_text(json.dumps(made, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
