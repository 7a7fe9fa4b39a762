"""The page of table1.py: six small tables and the seed claim, the paper's figures beside ours, and what can be said of both.

Figures of the paper are those of Sauer et al. 2023 (arXiv 2311.17042), Table 1: FID-5k and CLIP score on COCO, one step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fewstep.evaluation.compare import over_trainings
from fewstep.evaluation.jackknife import Interval
from fewstep.evaluation.record import of_entry
from fewstep.report import page

CLASSIFIER, PIXELS = "digits-classifier", "pixels"
SHOWN = (("fd", CLASSIFIER, "FD, classifier ↓"), ("fd", PIXELS, "FD, pixels ↓"), ("accuracy", CLASSIFIER, "drawn as asked ↑"),
         ("pairwise_distance", CLASSIFIER, "variety ↑"))  # fmt: skip
Values = dict[tuple[str, int, str, str], dict[int, float]]
"""By model, steps, metric and judge: a figure of every training, by its seed."""


@dataclass(frozen=True)
class Line:
    """One setting: the paper's, ours, or both."""

    paper: str = ""
    fid: float = math.nan
    clip: float = math.nan
    row: str = ""
    """Our row, of ablation.py."""
    ours: str = ""
    """It in words, where the paper's don't serve."""
    emoji: str = ""
    """The same question on emoji-64 (emoji_ablation.py)."""


@dataclass(frozen=True)
class Part:
    """One of the six tables."""

    letter: str
    title: str
    chosen: str
    """Our row of the setting that the paper settles on."""
    lines: tuple[Line, ...]
    tie: bool = False
    """The paper finds no difference here."""
    reason: str = ""
    """Why ours is like that or otherwise, and the run that tests it; it quotes `facts`."""


PARTS = (
    Part("a", "Feature networks", "add", (
        Line("DINOv1 ViT-S", 21.5, 0.312),
        Line("DINOv2 ViT-S", 20.6, 0.319, "add", "a small classifier", "add"),
        Line("DINOv2 ViT-L", 24.0, 0.302, "wide_features", "one of twice the width", "lite2_features"),
        Line("CLIP ViT-L", 23.3, 0.308),
        Line(row="teacher_features", ours="the teacher's own features", emoji="teacher_features"),
        Line(row="untrained_features", ours="a classifier that was never trained"),
    ), reason="Twice the width changes nothing, and a run tests the likely reason: a classifier that was never trained serves as "
       "well as either, so at 16 pixels it isn't what a network has learned that decides. The teacher's own features are worse."),
    Part("b", "What the discriminator is told", "text_and_image", (
        Line("nothing", 21.2, 0.302, "without_conditioning", emoji="without_conditioning"),
        Line("text", 21.2, 0.307, "add"),
        Line("image", 21.1, 0.316, "image_only"),
        Line("text and image", 20.6, 0.319, "text_and_image", emoji="add"),
    ), reason="The picture's embedding is what helps, as in the paper: with it the student is nearer than with the class or with "
       "nothing. The class beside it adds nothing here. A run agrees with the likely reason, that the embedding of a digit tells "
       "its class already: told the picture alone, all are drawn as asked."),
    Part("c", "Where the student begins", "add", (
        Line("random weights", 293.6, 0.065, "random_init", emoji="random_init"),
        Line("the teacher's weights", 20.6, 0.319, "add", emoji="add"),
    ), reason="On digits a random start is not fatal: the game brings 1.4 million fresh weights there within 150 updates. The "
       "likely reason is that so small a task can be learned anew, and a run tests it: on emoji-64, with the same method and 160 "
       "updates, the same start is as fatal as in the paper, in FD and in what was asked for."),
    Part("d", "Losses", "add", (
        Line("adversarial alone", 20.8, 0.315, "adversarial_only", emoji="adversarial_only"),
        Line("distillation alone", 315.6, 0.076, "distillation_only", emoji="distillation_only"),
        Line("both, exponential weighting", 20.6, 0.319, "add", emoji="add"),
        Line("both with SDS", 22.3, 0.325, "add_sds", emoji="sds"),
        Line("both with NFSD", 21.8, 0.327, "add_nfsd", emoji="nfsd"),
    ), reason="The adversary alone does nearly as well as both, in the paper and here. Distillation alone is the worst, too, but "
       "blurred where the paper's is lost; on emoji-64 it is as near as both. Is it that 150 updates are too few to lose what "
       "the teacher knew, where the paper made 4,000? A run tests it: after {longer} updates of distillation alone the FD is "
       "{distillation_longer}, after 150 {distillation}. So time alone doesn't lose it."),
    Part("e", "Students and teachers of different size", "whole_from_whole", (
        Line("SD 2.1 from SD 2.1", 20.6, 0.319, "whole_from_whole", "whole from whole"),
        Line("SD 2.1 from SDXL", 21.3, 0.321, "whole_from_double", "whole from double"),
        Line("SDXL from SD 2.1", 29.3, 0.314, "double_from_whole", "double from whole"),
        Line("SDXL from SDXL", 28.41, 0.325, "double_from_double", "double from double"),
        Line(row="half_from_whole", ours="half from whole"),
        Line(row="whole_from_half", ours="whole from half"),
        Line(row="half_from_half", ours="half from half"),
    ), reason="The means stand in the paper's order, within less than trainings differ. It isn't that teachers are too much "
       "alike: at 8 steps half, whole and double have FDs of {teacher_half}, {teacher_whole} and {teacher_double}. Is it that "
       "75 updates bring none of the students far? A run tests it: after {sized_longer} updates whole from whole has an FD of "
       "{whole_from_whole_longer}, whole from double {whole_from_double_longer} and double from whole "
       "{double_from_whole_longer}, and variety is {whole_from_whole_longer_varies}, {whole_from_double_longer_varies} and "
       "{double_from_whole_longer_varies}. So it isn't time. The likely reason is that every student comes to draw one picture "
       "a class, for which a larger network has no use."),
    Part("f", "Steps of the teacher", "add", (
        Line("1", 20.6, 0.319, "add", emoji="add"),
        Line("2", 20.8, 0.321, "teacher_steps_2"),
        Line("4", 20.3, 0.317, "teacher_steps_4", emoji="teacher_steps_4"),
    ), tie=True),
)  # fmt: skip


def read(files: Iterable[Path]) -> Values:
    """Every training's figures. Where a training stands in two files, the first one's count."""
    values: Values = {}
    for file in files:
        runs = json.loads(file.read_text("utf-8")).get("runs", []) if file.is_file() else []
        for run in runs:
            for record in map(of_entry, run["records"]):
                key = (record.model, record.steps, record.metric, record.features.split("@")[0])
                values.setdefault(key, {}).setdefault(run["seed"], record.value)
    return values


def beside(values: Values, row: str, other: str, steps: int = 1, metric: str = "fd", judge: str = CLASSIFIER) -> list[float]:
    """``row`` less ``other``, training by training."""
    a, b = (values.get((name, steps, metric, judge), {}) for name in (row, other))
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def interval(differences: Sequence[float]) -> Interval | None:
    return over_trainings(differences) if len(differences) > 1 else None


def agreement(part: Part, line: Line, found: Interval | None) -> str:
    """What our difference from the chosen setting says of the paper's: ``as in the paper``, ``against it``, or ``open``."""
    if found is None:
        return "open"
    if part.tie:
        return "as in the paper" if found.low <= 0 <= found.high else "against it"
    chosen = next(one for one in part.lines if one.row == part.chosen)
    sign = 1 if line.fid > chosen.fid else -1
    low, high = sorted((sign * found.low, sign * found.high))
    return "as in the paper" if low > 0 else "against it" if high < 0 else "open"


def verdict(part: Part, values: Values) -> str:
    """A sentence on the whole table."""
    both = [one for one in part.lines if one.row and one.row != part.chosen and not math.isnan(one.fid)]
    found = {one.row: beside(values, one.row, part.chosen) for one in both}
    missing = [one.ours or one.paper for one in both if not found[one.row]]
    both = [one for one in both if found[one.row]]
    if not both:
        return "Not run yet."
    trainings = min(len(found[one.row]) for one in both)
    return _verdict(part, both, found, trainings) + (f" Not run yet: {', '.join(missing)}." if missing else "")


def _verdict(part: Part, both: Sequence[Line], found: Mapping[str, Sequence[float]], trainings: int) -> str:
    count = f"{trainings} training{'s' * (trainings != 1)}"
    said = [agreement(part, one, interval(found[one.row])) for one in both]
    known = [(one, fmean(found[one.row])) for one in both]
    if "against it" in said:
        names = ", ".join(one.ours or one.paper for one, word in zip(both, said) if word == "against it")
        return f"**Not reproduced**: {names} goes the other way, and not by chance ({count})."
    if all(word == "as in the paper" for word in said):
        return f"**Reproduced** ({count})."
    if part.tie:
        return f"**Open** ({count}): the paper finds no difference, and so far neither do we."
    chosen = next(one for one in part.lines if one.row == part.chosen)
    same = sum((one.fid > chosen.fid) == (mean > 0) for one, mean in known)
    sure = said.count("as in the paper")
    return (
        f"**Open** ({count}): {sure} of {len(both)} differences are the paper's beyond chance, and the means of "
        f"{same} of {len(known)} point its way."
    )


def cell(numbers: Mapping[int, float], digits: int) -> str:
    """A mean over trainings, and how many they are."""
    return f"{fmean(numbers.values()):.{digits}f} ({len(numbers)})" if numbers else "-"


def spread(found: Sequence[float]) -> str:
    """A paired difference with its interval."""
    at = interval(found)
    return "-" if not found else f"{found[0]:+.2f} (1)" if at is None else f"{at.value:+.2f} [{at.low:.2f}, {at.high:.2f}]"


def rows(part: Part, values: Values, emoji: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of one table."""
    heads = ["", "paper: FID", "CLIP", *(title for _, _, title in SHOWN), "FD less the paper's choice", "emoji-64: FD", "top 5"]
    lines = []
    for one in part.lines:
        name = one.paper + (f" (ours: {one.ours})" if one.paper and one.ours else one.ours)
        paper = ["-", "-"] if math.isnan(one.fid) else [f"{one.fid:.1f}", f"{one.clip:.3f}"]
        figures = [cell(values.get((one.row, 1, metric, judge), {}), 3 if metric != "fd" else 2) for metric, judge, _ in SHOWN]
        less = "the paper's choice" if one.row == part.chosen else spread(beside(values, one.row, part.chosen))
        lines.append([name, *paper, *figures, less, *(emoji.get(one.emoji) or ("-", "-"))])
    return heads, lines


def emoji_figures(file: Path) -> dict[str, tuple[str, str]]:
    """FD and retrieval on emoji-64 at one step, with the trainings behind them."""
    records = [r for r in map(of_entry, json.loads(file.read_text("utf-8"))["records"]) if r.steps == 1]
    found: dict[str, tuple[str, str]] = {}
    for model in {r.model for r in records}:
        by = {r.metric: r for r in records if r.model == model}
        if {"fd", "retrieval_top5"} <= by.keys():
            found[model] = (f"{by['fd'].value:.0f} ({by['fd'].runs})", f"{by['retrieval_top5'].value:.2f}")
    return found


LEAD = (
    "Sauer et al. (2023) settle what ADD is made of by six small tables, with FID and CLIP score on COCO at one step. Here the "
    "same questions are asked of digits, in minutes of one core, and of emoji-64 where its rows answer them. Numbers in "
    "parentheses count trainings. A difference is taken training by training, and its brackets are Student's 95% over "
    "trainings: where they hold 0, nothing is known of the order. Heads on digits are told the class alone, except in part (b). "
    "The classifier took part in no training, pixels are no network, and variety is the distance between pictures of one class."
)
CLAIM = (
    "The paper's claim of the few steps: ADD beats a GAN and latent consistency, in the eyes of people. Nobody looked here; "
    "these are judges that no student was trained against. GAN is the same adversary without a teacher's distillation."
)

PAIRED = (
    "These are pictures at 64 pixels after a common warm start and twenty minutes of one core. Brackets are 95% over trainings "
    "and prompts together, as the contest pairs them. Read variety beside retrieval: pictures that show nothing differ, too."
)


@dataclass(frozen=True)
class Sheet:
    """The page before it is Markdown or HTML: headings with what was found, and a table each."""

    sections: list[tuple[str, list[str], list[str], list[list[str]]]]
    commands: list[str]

    def markdown(self) -> str:
        lines = ["# The paper's Table 1, beside ours", "", LEAD, "", "Made by", "", *(f"    {c}" for c in self.commands), ""]
        for head, said, heads, cells in self.sections:
            lines += [f"## {head}", "", *(line for one in said for line in (one, "")), f"| {' | '.join(heads)} |"]
            lines += ["|---|" + "--:|" * (len(heads) - 1), *(f"| {' | '.join(row)} |" for row in cells), ""]
        return "\n".join(lines).rstrip() + "\n"

    def html(self) -> str:
        bodies = [
            (head, "".join(page.paragraph(one.replace("**", "")) for one in said) + page.table(heads, cells, head))
            for head, said, heads, cells in self.sections
        ]
        bodies.append(("The commands", "".join(page.code(command) for command in self.commands)))
        return page.page("The paper's Table 1, beside ours", LEAD, bodies)


LONGER = 600
"""Updates of a training that asks whether time alone would have changed a row."""
SIZED = ("whole_from_whole", "double_from_whole", "whole_from_double", "double_from_double")
"""The paper's rows of part (e)."""
SIZED_LONGER = 300
"""As `LONGER`, for these."""


def facts(found: Values, longer: Values, sized_longer: Values) -> dict[str, str]:
    """What the reasons quote."""
    quoted = {f"teacher_{width}": (found, f"teacher_{width}", 8) for width in ("half", "whole", "double")}
    quoted |= {"distillation": (found, "distillation_only", 1), "distillation_longer": (longer, "distillation_only", 1)}
    quoted |= {f"{row}_longer": (sized_longer, row, 1) for row in SIZED}
    told = {}
    for name, (values, row, steps) in quoted.items():
        told[name] = cell(values.get((row, steps, "fd", CLASSIFIER), {}), 2)
        told[f"{name}_varies"] = cell(values.get((row, steps, "pairwise_distance", CLASSIFIER), {}), 3)
    return told | {"longer": str(LONGER), "sized_longer": str(SIZED_LONGER)}


def sheet(results: Path, commands: Sequence[str]) -> Sheet:
    """The page of the results files in a folder."""
    found = read(results / f"{name}.json" for name in ("table1_digits", "table1_sizes", "digits_ablation"))
    emoji = emoji_figures(results / "emoji_ablation.json")
    told = facts(found, *(read([results / f"table1_{name}.json"]) for name in ("longer", "sizes_longer")))
    sections = [
        (f"({p.letter}) {p.title}", [verdict(p, found), *([p.reason.format(**told)] if p.reason else [])], *rows(p, found, emoji))
        for p in PARTS
    ]
    cold = of_rows(found, {"add": "add", "adversarial_only": "gan", "lcm": "lcm"})
    for title, values in (
        ("ADD over GAN and LCM: after a common warm start", of_contest(results / "contest_digits.json", "warm", "150-updates")),
        ("ADD over GAN and LCM: from the teacher's weights", cold),
    ):
        heads, cells, said = claim(values)
        sections.append((title, [CLAIM, *(said or ["Not run yet."])], heads, cells))
    heads, cells, said = claim_of_pairs(results / "contest_emoji.json")
    sections.append(("ADD over GAN and LCM: on emoji-64", [CLAIM, PAIRED, *(said or ["Not run yet."])], heads, cells))
    return Sheet(sections, list(commands))


CLAIMED = (("fd", "classifier"), ("fd", "pixels"), ("accuracy", "classifier"), ("retrieval_top1", "classifier"),
           ("pairwise_distance", "classifier"))  # fmt: skip
UP = ("accuracy", "retrieval_top1", "pairwise_distance")
WORDS = {"fd": "FD", "accuracy": "drawn as asked", "retrieval_top1": "retrieval top 1", "pairwise_distance": "variety"}


def of_contest(file: Path, start: str, budget: str) -> Values:
    """The trainings of a contest (``contest.json``) of one start and budget; empty where there is no such file yet."""
    values: Values = {}
    runs = json.loads(file.read_text("utf-8"))["runs"] if file.is_file() else []
    for run in runs:
        if (run["start"], run["budget"]) != (start, budget):
            continue
        for record in map(of_entry, run["records"]):
            judge = "pixels" if record.features.startswith("pixels@") else "classifier"
            values.setdefault((run["entry"], record.steps, record.metric, judge), {})[run["seed"]] = record.value
    return values


def of_rows(values: Values, names: Mapping[str, str]) -> Values:
    """Rows of ablation.py under the names of their methods."""
    judges = {CLASSIFIER: "classifier", PIXELS: "pixels"}
    return {
        (names[model], steps, metric, judges.get(judge, judge)): numbers
        for (model, steps, metric, judge), numbers in values.items()
        if model in names
    }


def claim(values: Values) -> tuple[list[str], list[list[str]], list[str]]:
    """ADD beside GAN and LCM at one, two and four steps: heads, cells, and a sentence for each of the two."""
    lines, better = [], {"gan": dict[str, int](), "lcm": dict[str, int]()}
    trainings = 0
    for metric, judge in CLAIMED:
        sign = 1 if metric in UP else -1
        for steps in (1, 2, 4):
            numbers = [values.get((name, steps, metric, judge), {}) for name in ("add", "gan", "lcm")]
            if not numbers[0]:
                continue
            gains = {n: [sign * d for d in beside(values, "add", n, steps, metric, judge)] for n in better}
            for name, gain in gains.items():
                trainings = max(trainings, len(gain))
                word = _better(interval(gain))
                better[name][word] = better[name].get(word, 0) + 1
            digits = 2 if metric == "fd" else 3
            cells = [cell(n, digits) for n in numbers]
            lines.append([f"{WORDS[metric]}, {judge}", str(steps), *cells, *(_gain(g, digits) for g in gains.values())])
    return CLAIM_HEADS, lines, _counted(better, trainings)


def claim_of_pairs(file: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """The same of a contest whose results hold entries in pairs with ADD: pairs over trainings and prompts."""
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {"comparisons": [], "against": "add"}
    pairs = {
        (c["metric"], c["judge"], c["steps"], c["entry"].partition(" (")[0]): c
        for c in found["comparisons"]
        if found["against"] == "add"
    }
    better = {"gan": dict[str, int](), "lcm": dict[str, int]()}
    lines, trainings = [], 0
    order = list(WORDS)
    for metric, judge, steps in sorted({key[:3] for key in pairs}, key=lambda key: (order.index(key[0]), *key[1:])):
        two = [pairs.get((metric, judge, steps, name)) for name in better]
        if None in two:
            continue
        digits = 3 if metric in UP else 2
        trainings = min(c["trainings"] for c in two)
        numbers = [two[0]["other"], *(c["mean"] for c in two)]
        gains = [Interval(-c["gain"], -c["high"], -c["low"]) for c in two]
        for name, gain in zip(better, gains):
            better[name][_better(gain)] = better[name].get(_better(gain), 0) + 1
        shown = [f"{g.value:+.{digits}f} [{g.low:.{digits}f}, {g.high:.{digits}f}]" for g in gains]
        cells = [f"{n:.{digits}f} ({trainings})" for n in numbers]
        lines.append([f"{WORDS[metric]}, {judge}", str(steps), *cells, *shown])
    return CLAIM_HEADS, lines, _counted(better, trainings)


CLAIM_HEADS = ["figure", "steps", "ADD", "GAN", "LCM", "ADD is better than GAN by", "ADD is better than LCM by"]


def _counted(better: Mapping[str, Mapping[str, int]], trainings: int) -> list[str]:
    """A sentence for each of the two methods."""
    count = f"{trainings} training{'s' * (trainings != 1)}"
    return [
        f"**ADD against {name.upper()}** ({count}): better beyond chance in {words.get('better', 0)} of "
        f"{sum(words.values())} figures, worse in {words.get('worse', 0)}, open in {words.get('open', 0)}."
        for name, words in better.items()
        if words
    ]


def _better(at: Interval | None) -> str:
    return "open" if at is None else "better" if at.low > 0 else "worse" if at.high < 0 else "open"


def _gain(found: Sequence[float], digits: int) -> str:
    at = interval(found)
    if at is None:
        return f"{found[0]:+.{digits}f} (1)" if found else "-"
    return f"{at.value:+.{digits}f} [{at.low:.{digits}f}, {at.high:.{digits}f}]"
