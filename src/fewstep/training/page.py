"""The page of a run: ``index.html`` in its folder, which opens offline and shows what the folder holds.

Everything on it is read off the disk - journals, sheets of evaluations, options, card - so that the page of an old run is made
in the same way as that of a running one. What is not there is said in words.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..bundle import CARD, Card
from ..files import whole
from ..report import page, plot
from ..report.page import Html, escape
from ..report.plot import Reference
from . import calls, checkpoint, curves
from .drawn import Drawn
from .health import Unhealthy
from .journal import Journal
from .log import Stopped

NAME = "index.html"
LOSSES = re.compile(
    "adversarial|distillation|regression|consistency|distribution_matching|denoising|r1|approximate_r1|mismatched|drift"
    "|reconstruction|perceptual|edges|latents"
)
"""The field's names of losses; a journal does not say which of its figures is one."""
HEALTH: Mapping[str, tuple[str, bool]] = {
    "Norm of the gradients": (r"gradient_norm$", True),
    "Gradient of each loss at the student's sample": (r"_gradient_at_x0$", True),
    "Discriminator's logits": (r"(real|fake)_logit$", False),
    "Discriminator's accuracy (share judged right)": (r"(real|fake)_right$", False),
    "Mean of the samples' channels, from the data's": (r"shift_\d+$", False),
    "Deviation of the channels over the data's": (r"spread_\d+$", False),
}
"""Plots of several figures: title, what their names match, and whether the axis is logarithmic."""
EVALUATIONS: Mapping[str, tuple[str, float | None]] = {
    "score": ("score (lower is better; the best state is kept by it)", None),
    "fd": ("Fréchet distance to the real pictures", None),
    "diversity": ("diversity over that of real pictures", 1.0),
    "edges": ("edges over those of real pictures", 1.0),
    "highs": ("high frequencies over those of real pictures", 1.0),
}
STYLE = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


@dataclass
class PhaseFiles:
    """One phase of a run, as it lies on disk."""

    folder: Path
    lines: list[dict[str, Any]]
    columns: dict[str, curves.Curve] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.folder.name

    @property
    def taken(self) -> int:
        """Steps that the journal knows."""
        return int(max((line["step"] for line in self.lines), default=0))

    def matching(self, pattern: str) -> dict[str, curves.Curve]:
        """The figures whose names match."""
        return {name: curve for name, curve in self.columns.items() if re.search(pattern, name)}


def phases(out: Path) -> list[PhaseFiles]:
    """The phases in a run's folder, the one that began first in front. Raises ValueError where there is no run."""
    journals = [path for path in out.glob("*/journal.jsonl") if Journal.wrote(path)]
    if not journals:
        raise ValueError(f"{out} holds no run: give the --out of `fewstep distill` or `fewstep teach`")
    found = []
    for path in sorted(journals, key=lambda path: (path.stat().st_mtime, path)):
        lines = Journal.read(path)
        found.append(PhaseFiles(path.parent, lines, curves.columns(lines)))
    return found


def check_place(out: Path) -> None:
    """Refuse a folder where somebody else's file stands where the run writes its page. Raises ValueError with the fix."""
    for path, own in ((out / NAME, page.wrote(out / NAME)), (out / calls.NAME, bool(calls.read(out)))):
        if path.exists() and not own:
            raise ValueError(
                f"{path} is damaged, or fewstep did not write it, and the run writes one there: move it elsewhere, or choose "
                "another --out"
            )


def write(out: Path, command: str = "") -> list[str]:
    """Write the page of the run in ``out``; ``command`` stands in where the run did not write down what was typed.

    Returns what is missing, in sentences. Raises ValueError where there is no run, or where a file that is not fewstep's own
    stands in the page's place.
    """
    check_place(out)
    path = out / NAME
    found, missing = phases(out), list[str]()
    sections: list[tuple[str, str]] = []
    for phase in found:
        sections += _phase(phase, many=len(found) > 1, missing=missing)
    card = _card(out, missing)
    sections += _figures(card, missing) + _made(out, card, command, missing)
    if missing:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in missing)
        sections.append(("What is missing", f"<ul>{items}</ul>"))
    told = ", ".join(f"{phase.name}: {phase.taken:,} steps" for phase in found)
    made = page.page(f"Run {out.resolve().name}", told, sections, STYLE.read_text("utf-8"), SCRIPT.read_text("utf-8"))
    with whole(path) as draft:
        draft.write_text(made, "utf-8")
    return missing


class RunPage:
    """Keeps a run's page up to date while it trains. A page that cannot be written is told once and ends no training."""

    def __init__(self, out: Path) -> None:
        self.out, self._told = out, False

    def write(self) -> None:
        """Write it anew, with what the folder holds by now."""
        self.attempt(lambda: write(self.out))

    def attempt(self, do: Callable[[], object]) -> None:
        """Do something beside the training; if it cannot be done, whatever the reason, that is told once."""
        try:
            do()
        except Exception as error:
            if not self._told:
                self._told = True
                said = str(error) or type(error).__name__
                warnings.warn(f"the run's page is not up to date ({said}): the training goes on", stacklevel=3)

    @contextmanager
    def at_the_end(self) -> Iterator[None]:
        """Write it when what is inside ends by itself, is stopped, or is found unhealthy."""
        try:
            yield
        except (Stopped, Unhealthy):
            self.write()
            raise
        self.write()


def _phase(phase: PhaseFiles, many: bool, missing: list[str]) -> list[tuple[str, str]]:
    """Pictures, evaluations, losses and health of one phase."""
    of = f" ({phase.name})" if many else ""
    looked = phase.matching(r"^probe/")
    found: list[tuple[str, str]] = []
    sheets = Drawn(phase.folder).sheets()
    if sheets:
        found.append((f"Pictures over training{of}", _slider(phase, sheets)))
    if looked:
        found.append((f"Evaluations{of}", _evaluations(phase, looked)))
        if not sheets:
            missing.append(f"{phase.name}: the pictures of its evaluations were not kept")
    else:
        missing.append(f"{phase.name}: no evaluation was made")
    losses = {
        name: c for name, c in phase.columns.items() if name not in looked and LOSSES.fullmatch(name.rpartition("/")[2])
    }
    if losses:
        note = "Smoothed over a fortieth of the training; the raw values are faint behind." * (phase.taken > curves.FEW)
        if phase.taken > curves.MOST:
            note += f" Of {phase.taken:,} steps {curves.MOST:,} points are drawn: of every stretch the lowest and the highest."
        found.append((f"Losses{of}", page.paragraph(note, note=True) * bool(note) + _small(losses)))
    if health := _health(phase):
        found.append((f"Health{of}", health))
    seen = {*looked, *losses, *(name for pattern, _ in HEALTH.values() for name in phase.matching(pattern))}
    if rest := {name: curve for name, curve in phase.columns.items() if name not in seen}:
        found.append((f"Other figures{of}", page.details(f"{len(rest)} more", _small(rest))))
    return found


def _small(found: Mapping[str, curves.Curve]) -> str:
    """A small plot a figure, side by side where there is room."""
    drawn = "".join(plot.lines(curves.series(name, curve), "step", name) for name, curve in found.items())
    return f'<div class="several">{drawn}</div>'


def _short(name: str) -> str:
    """A figure's name without what its plot's title says already."""
    return name.removesuffix("/gradient_norm").removesuffix("_gradient_at_x0")


def _health(phase: PhaseFiles) -> str:
    """Alarms, skipped steps, and the plots of `HEALTH`."""
    alarms = [(int(line["step"]), str(rule)) for line in phase.lines for rule in line.get("alarms", [])]
    skipped = sum(bool(line.get("skipped")) for line in phase.lines)
    said = [f"{rule} after step {step:,}" for step, rule in alarms[:20]]
    if len(alarms) > 20:
        said.append(f"{len(alarms) - 20:,} more alarms")
    if skipped:
        said.append(f"{skipped:,} steps were skipped, for their gradients were no numbers")
    body = (
        "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in said) + "</ul>" if said else "<p>No rule has fired.</p>"
    )
    drawn = ""
    for title, (pattern, log) in HEALTH.items():
        found = phase.matching(pattern)
        series = [one for i, (name, curve) in enumerate(found.items()) for one in curves.series(_short(name), curve, i)]
        if series:
            drawn += plot.lines(series, "step", title, log_y=log, markers=False)
    return body + f'<div class="several">{drawn}</div>' if drawn or said else ""


def _evaluations(phase: PhaseFiles, looked: Mapping[str, curves.Curve]) -> str:
    """A plot of every figure over the steps, and which state was the best."""
    said = ""
    best = phase.folder / "best"
    if checkpoint.exists(best):
        said = page.paragraph(f"The best state by score was seen after step {checkpoint.step_of(best):,}.")
    drawn = ""
    for name, curve in looked.items():
        short = name.removeprefix("probe/")
        title, level = EVALUATIONS.get(short, (short, None))
        references = [] if level is None else [Reference("real pictures", level)]
        drawn += plot.lines(curves.series(short, curve, smooth=False), "step", title, references=references)
    return f'{said}<div class="several">{drawn}</div>'


def _slider(phase: PhaseFiles, sheets: Mapping[int, Path]) -> str:
    """The sheets one after the other under a slider; without a script all of them."""
    best = checkpoint.step_of(phase.folder / "best") if checkpoint.exists(phase.folder / "best") else -1
    shown = ""
    for step, path in sheets.items():
        with Image.open(path) as file:
            drawn = page.picture(file, f"Pictures after step {step:,}", side=1024)
        shown += f"<figure>{drawn}<figcaption>step {step:,}{', the best' * (step == best)}</figcaption></figure>"
    said = page.paragraph(
        f"{len(sheets)} evaluations: always the same prompts from the same noise, in one step, by the averaged weights.",
        note=True,
    )
    last = len(sheets) - 1
    control = (
        '<p class="control" hidden><span>Step <output></output></span><input type="range" aria-label="Step" min="0" '
        f'max="{last}" value="{last}" step="1"></p>'
    )
    return f'{said}<div class="slider">{control}<div class="frames">{shown}</div></div>'


def _card(out: Path, missing: list[str]) -> Card | None:
    """The finished bundle's card."""
    if not (out / "bundle" / CARD).is_file():
        missing.append("no bundle was written yet: the run has not come to its end")
        return None
    try:
        return Card.read(out / "bundle")
    except ValueError as error:
        missing.append(f"the card cannot be read: {error}")
        return None


def _figures(card: Card | None, missing: list[str]) -> list[tuple[str, str]]:
    """What `fewstep evaluate` measured, and the card."""
    if card is None:
        return []
    found = []
    rows = [
        (f"{r['metric']}, {_steps(r['steps'])}", plot.figure(r["value"]), f"{plot.figure(r['low'])} to {plot.figure(r['high'])}",
         f"{r['n']:,}", str(r.get("features", "")).partition("@")[0] or "-")
        for r in card.metrics
        if {"metric", "steps", "value", "low", "high", "n"} <= r.keys()
    ]  # fmt: skip
    if rows:
        found.append(("Figures", page.table(["metric", "value", "95%", "pictures or calls", "judge"], rows, "Figures")))
    else:
        missing.append("the bundle was not evaluated: `fewstep evaluate` writes its figures into the card")
    facts = {
        "Name": card.name, "Role": card.role, "Method": card.method, "Steps": ", ".join(map(str, card.steps)),
        "Times": ", ".join(f"{t:g}" for t in card.times), "Sampler": card.sampler, "Guidance": f"{card.guidance_scale:g}",
        "Size": " x ".join(map(str, card.native_size)), "Teacher": card.teacher, "Licence": card.licence, "Data": card.data,
        "fewstep": card.version,
    }  # fmt: skip
    shown = page.table(["Fact", "Value"], [(name, value) for name, value in facts.items() if value], "Card")
    options = card.training.get("options")
    more = page.details("All options", _nested(options)) if isinstance(options, dict) else ""
    return [*found, ("Card", shown + more)]


def _steps(n: int) -> str:
    return f"{n} step{'s' * (n != 1)}"


def _nested(options: Mapping[str, Any], prefix: str = "--") -> str:
    """Options as they are typed, in a table."""

    def flat(given: Mapping[str, Any], before: str) -> list[tuple[str, str]]:
        rows: list[tuple[str, str]] = []
        for name, value in given.items():
            dashed = before + str(name).replace("_", "-")
            if isinstance(value, Mapping):
                rows += flat(value, f"{dashed}.")
            else:
                rows.append((dashed, " ".join(map(str, value)) if isinstance(value, list) else str(value)))
        return rows

    return page.table(["option", "value"], flat(options, prefix), "Options")


def _made(out: Path, card: Card | None, command: str, missing: list[str]) -> list[tuple[str, str]]:
    """The command, the machine and the versions of every call."""
    typed = calls.read(out)
    given = [str(call.get("command", "")) for call in typed] or [command] * bool(command)
    if not typed:
        missing.append(
            "the machine and the versions were not written down, and neither was the command as it was typed"
        )
    body = ""
    if given:
        body += _copied(given[0])
    if not typed and command:
        body += page.paragraph("As the card's options give it.", note=True)
    rows = [
        (
            str(call.get("began", "")),
            str(call.get("machine", "")),
            ", ".join(f"{k} {v}" for k, v in dict(call.get("versions", {})).items()),
        )
        for call in typed
    ]
    if rows:
        body += page.table(["began", "machine", "versions"], rows, "Machine and versions")
    if len(given) > 1:
        body += page.details(f"{len(given) - 1} more calls", "".join(page.code(one) for one in given[1:]))
    return [("Command", body)] if body else []


def _copied(command: str) -> Html:
    """A command with a button that copies it, which stands there only where a script runs."""
    return Html(f'<div class="command">{page.code(command)}<button type="button" hidden>Copy</button></div>')
