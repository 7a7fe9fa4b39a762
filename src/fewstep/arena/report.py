"""The result on disk: JSON, two CSV files, and one HTML page that opens offline. And as tables for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import whole
from ..report import page as html
from ..report.page import escape
from ..text import counted
from .plan import Plan
from .results import CAREFUL, DOUBT, FEWEST, results
from .votes import FILE, Vote, VoteStore

TITLES = {"looks": "Which looks better?", "follows": "Which follows the prompt better?"}
SAMPLES = 5
"""Prompts whose pictures stand on the page."""
STYLE = Path(__file__).with_name("report.css")


def report(folder: Path, everyone: bool = False) -> str:
    """Write ``results.json``, ``ratings.csv``, ``votes.csv`` and ``results.html`` into a run; the tables, as Markdown.

    Raises ValueError for a folder that is no run, or has no votes.
    """
    plan = Plan.read(folder)
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} has no votes yet: serve the arena and vote")
    store = VoteStore(folder, plan)
    try:
        votes = store.votes()
    finally:
        store.close()
    found = results(plan, votes, everyone)
    _write(folder / "results.json", json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / "votes.csv", _csv(_vote_rows(plan, votes)))
    ratings = [{"question": q, **row} for q, part in found["questions"].items() for row in part["models"]]
    _write(folder / "ratings.csv", _csv(ratings))
    _write(folder / "results.html", page(folder, plan, found))
    return "\n\n".join(
        [*(table(found, q) for q in found["questions"]), notes(found), f"written to {folder}/results.html"]
    )


def _write(path: Path, text: str) -> None:
    with whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _vote_rows(plan: Plan, votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """A row a vote, of catch pairs and repeated ones too; looks and follows are 1 where a was chosen, .5 for a tie."""
    return [
        {
            "rater": v.rater,
            "number": v.number,
            "kind": v.trial.kind,
            "a": plan.models[v.trial.a].name,
            "b": plan.models[v.trial.b].name,
            "prompt": plan.prompts[v.trial.item],
            "category": plan.categories[v.trial.item] if plan.categories else "",
            "item": v.trial.item,
            "a_stood": "right" if v.trial.flipped else "left",
            "looks": v.score("looks"),
            "follows": v.score("follows"),
            "at": v.at,
        }
        for v in votes
    ]


def table(found: dict[str, Any], question: str) -> str:
    """The ratings by one question, best first, in Markdown."""
    part = found["questions"][question]
    lines = [f"{TITLES[question]} ({_votes(part)}, {part['ties']:.0%} ties)", ""]
    lines += ["| model | rating (95%) | Elo, K = 1 | win rate (95%) |", "|---|--:|--:|--:|"]
    for row in sorted(part["models"], key=lambda row: -row["rating"]):
        lines.append(
            f"| {row['model']} | {row['rating']:.0f} ({row['low']:.0f} to {row['high']:.0f}) | {row['elo']:.1f} | {_rate(row)} |"
        )
    lines += ["", "| pair | votes | share of the first (95%) | |", "|---|--:|--:|---|"]
    for pair in part["pairs"]:
        share = "-" if pair["share"] is None else _span(pair["share"], pair["low"], pair["high"])
        lines.append(f"| {pair['a']} against {pair['b']} | {pair['votes']} | {share} | {verdict(pair)} |")
    return "\n".join(lines)


def _rate(row: dict[str, Any]) -> str:
    return "-" if row["win_rate"] is None else _span(row["win_rate"], row["win_low"], row["win_high"])


def _span(value: float, low: float, high: float) -> str:
    return f"{value:.0%} ({low:.0%} to {high:.0%})"


def verdict(pair: dict[str, Any]) -> str:
    """What the votes on a pair of models have settled, or how many are missing."""
    if pair["settled"]:
        return f"{pair['a'] if pair['share'] > 0.5 else pair['b']} is preferred"
    if not pair["votes"]:
        return "no votes yet"
    more = pair["further_votes"]
    if more is None:
        return "open: level so far"
    return (
        f"open: about {more:,} more votes, on new prompts"
        if more < 100_000
        else "open: level, as far as votes can tell"
    )


def notes(found: dict[str, Any]) -> str:
    """What stands below the tables: the paper's figure, agreement, and raters."""
    mean = ", ".join(f"{name} {value:.1f}" for name, value in sorted(found["elo_mean"].items(), key=lambda x: -x[1]))
    lines = [f"Elo, mean of the questions: {mean}"]
    for question, part in found["questions"].items():
        agreed = part["agreement"]
        if agreed["alpha"] is not None:
            lines.append(
                f"Raters agree ({question}): Krippendorff's alpha {agreed['alpha']:.2f} over {agreed['shared']} shared pairs"
            )
    lines += [rater_line(rater) for rater in found["raters"]]
    if found["left_out"]:
        lines.append(f"Left out as careless: {', '.join(found['left_out'])} (--everyone counts them)")
    return "\n".join(lines)


def rater_line(rater: dict[str, Any]) -> str:
    """One rater in a sentence."""
    said = f"{rater['rater']}: {rater['votes']} pairs, {rater['catch_right']} of {rater['catch']} catch pairs right"
    if rater["same"] is not None:
        said += f", {rater['same']:.0%} of {rater['repeated_answers']} repeated answers the same"
    return said + (": careless" if rater["careless"] else "")


def page(folder: Path, plan: Plan, found: dict[str, Any]) -> str:
    """One HTML page without anything from elsewhere."""
    raters = "".join(
        f"<li{' class=bad' if r['careless'] else ''}>{escape(rater_line(r))}</li>" for r in found["raters"]
    )
    left_out = (
        f"<p><strong>Left out as careless: {escape(', '.join(found['left_out']))}.</strong></p>"
        if found["left_out"]
        else ""
    )
    raters_of, prompts = counted(len(found["raters"]), "rater"), counted(found["prompts"], "prompt")
    lead = f"""{counted(found["votes"], "vote")} of {raters_of} on {prompts}. Pairs were shown
without names; sides and order were random."""
    careful = f"""A careful rater is right in {CAREFUL:.0%} of the catch pairs or more. Whoever is right so seldom that such a
rater would be with a probability under {DOUBT:.0%}, in {FEWEST} of them at least, is called careless."""
    sections = [
        ("", _gallery(folder, plan, found)),
        *((TITLES[question], _question(found, question)) for question in found["questions"]),
        ("Raters", f"{left_out}<ul>{raters}</ul>{html.paragraph(careful, note=True)}"),
        ("How to read this", html.paragraph(READING, note=True) + html.code(found["command"])),
    ]
    return html.page("Which model do people prefer?", lead, sections, STYLE.read_text("utf-8"))


READING = """The rating is Bradley-Terry's with ties (Davidson 1970), mean 1000: 400 points
more mean ten wins for one loss. Elo is the paper's (K = 1, start 1000, mean over 1,000 orders of the votes). Win rates count a
tie half. Intervals are 95%, by a bootstrap that draws prompts, for votes on one prompt go together; each holds for itself, not
for all at once. The votes that are missing are those after which a difference as large as the one seen shows in four cases of
five. Repeated pairs and catch pairs do not count in any rating."""


def _votes(part: dict[str, Any]) -> str:
    return f"{counted(part['votes'], 'vote')} on {counted(part['prompts'], 'prompt')}"


def _question(found: dict[str, Any], question: str) -> str:
    part = found["questions"][question]
    rows = sorted(part["models"], key=lambda row: -row["rating"])
    low, high = min(r["low"] for r in rows), max(r["high"] for r in rows)
    pad = max(5.0, (high - low) * 0.06)
    low, high = low - pad, high + pad
    body = ""
    for row in rows:
        x, y, at = (100 * (row[k] - low) / (high - low) for k in ("low", "high", "rating"))
        bar = f'<i class="span" style="left:{x:.2f}%;width:{y - x:.2f}%"></i><i class="dot" style="left:{at:.2f}%"></i>'
        body += (
            f'<tr><th scope="row">{escape(row["model"])}</th><td class="figure">{row["rating"]:.0f} '
            f'<small>{row["low"]:.0f} to {row["high"]:.0f}</small></td><td class="plot" aria-hidden="true"><div>{bar}</div></td>'
            f'<td class="figure">{row["elo"]:.1f}</td><td class="figure">{_rate(row)}</td></tr>'
        )
    pairs = "".join(
        f'<tr class="{"settled" if p["settled"] else "open"}">'
        f'<th scope="row">{escape(p["a"])} <span>against</span> {escape(p["b"])}</th>'
        f'<td class="figure">{p["won"]} : {p["tied"]} : {p["lost"]}</td>'
        f'<td class="figure">{"-" if p["share"] is None else _span(p["share"], p["low"], p["high"])}</td>'
        f"<td>{escape(verdict(p))}</td></tr>"
        for p in part["pairs"]
    )
    agreed, alpha = part["agreement"], ""
    if agreed["alpha"] is not None:
        both = f"{agreed['alpha']:.2f} ({agreed['alpha_interval']:.2f} with ties between the sides)"
        alpha = f" Raters agree with alpha {both} over {agreed['shared']} shared pairs."
    said = f"{_votes(part)}, {part['ties']:.0%} ties.{alpha}"
    title = TITLES[question]
    ratings = html.framed(("Model", "Rating", "", "Elo", "Win rate"), body, f"Ratings: {title}")
    sides = html.framed(("Pair", "Won : tied : lost", "Share of the first", "Verdict"), pairs, f"Pairs: {title}")
    return html.paragraph(said) + ratings + sides


def _gallery(folder: Path, plan: Plan, found: dict[str, Any]) -> str:
    """The same few prompts drawn by every model, best first."""
    first = found["questions"][plan.questions[0]]["models"]
    order = sorted(range(len(plan.models)), key=lambda m: -first[m]["rating"])
    every = sorted({prompt: i for i, prompt in reversed(list(enumerate(plan.prompts)))}.values())
    items = every[:: max(1, len(every) // SAMPLES)][:SAMPLES]
    drawn = html.grid(
        [plan.models[m].name for m in order],
        [plan.prompts[i] for i in items],
        [[html.picture(folder / plan.models[m].pictures[i], "") for i in items] for m in order],
        "Pictures of every model",
    )
    said = "Every column is one prompt and one noise. All pictures were made by models."
    return drawn + html.paragraph(said, note=True)
