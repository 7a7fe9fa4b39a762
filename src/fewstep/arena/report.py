"""The result on disk: JSON, two CSV files, and one HTML page that opens offline. And as tables for a terminal."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import whole
from .plan import Plan
from .results import CAREFUL, DOUBT, FEWEST, results
from .votes import FILE, Vote, VoteStore

TITLES = {"looks": "Which looks better?", "follows": "Which follows the prompt better?"}
SAMPLES = 5
"""Prompts whose pictures stand on the page."""
STYLE = Path(__file__).parents[1] / "report" / "page.css"


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
    lines = [f"{TITLES[question]} ({part['votes']} votes on {part['prompts']} prompts, {part['ties']:.0%} ties)", ""]
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
    parts = "".join(_section(found, question) for question in found["questions"])
    many = "s" * (len(found["raters"]) != 1)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light"><title>fewstep arena: result</title>
<style>{STYLE.read_text("utf-8")}</style></head>
<body><header><h1>Which model do people prefer?</h1>
<p>{found["votes"]} votes of {len(found["raters"])} rater{many} on {found["prompts"]} prompts. Pairs were shown without
names; sides and order were random.</p></header>
<main>{_gallery(folder, plan, found)}{parts}
<section><h2>Raters</h2>{left_out}<ul>{raters}</ul>
<p class="note">A careful rater is right in {CAREFUL:.0%} of the catch pairs or more. Whoever is right so seldom that such a rater
would be with a probability under {DOUBT:.0%}, in {FEWEST} of them at least, is called careless.</p></section>
<section><h2>How to read this</h2><p class="note">The rating is Bradley-Terry's with ties (Davidson 1970), mean 1000: 400 points
more mean ten wins for one loss. Elo is the paper's (K = 1, start 1000, mean over 1,000 orders of the votes). Win rates count a
tie half. Intervals are 95%, by a bootstrap that draws prompts, for votes on one prompt go together; each holds for itself, not
for all at once. The votes that are missing are those after which a difference as large as the one seen shows in four cases of
five. Repeated pairs and catch pairs do not count in any rating.</p>
<pre>{escape(found["command"])}</pre></section></main></body></html>
"""


def _section(found: dict[str, Any], question: str) -> str:
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
    title = TITLES[question]
    said = f"{part['votes']} votes on {part['prompts']} prompts, {part['ties']:.0%} ties.{alpha}"
    ratings = _table(f"Ratings: {title}", ("Model", "Rating", "", "Elo", "Win rate"), body)
    sides = _table(f"Pairs: {title}", ("Pair", "Won : tied : lost", "Share of the first", "Verdict"), pairs)
    return f"<section><h2>{title}</h2><p>{said}</p>{ratings}{sides}</section>"


def _table(label: str, head: Sequence[str], body: str, kind: str = "") -> str:
    """A table that scrolls by itself where it is too wide."""
    cells = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in head)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _gallery(folder: Path, plan: Plan, found: dict[str, Any]) -> str:
    """The same few prompts drawn by every model, best first."""
    first = found["questions"][plan.questions[0]]["models"]
    order = sorted(range(len(plan.models)), key=lambda m: -first[m]["rating"])
    every = sorted({prompt: i for i, prompt in reversed(list(enumerate(plan.prompts)))}.values())
    items = every[:: max(1, len(every) // SAMPLES)][:SAMPLES]
    rows = ""
    for m in order:
        entry = plan.models[m]
        cells = "".join(f'<td><img alt="" src="{_inline(folder / entry.pictures[i])}"></td>' for i in items)
        rows += f'<tr><th scope="row">{escape(entry.name)}</th>{cells}</tr>'
    drawn = _table("Pictures of every model", ["", *(plan.prompts[i] for i in items)], rows, "gallery")
    said = "Every column is one prompt and one noise. All pictures were made by models."
    return f'<section>{drawn}<p class="note">{said}</p></section>'


def _inline(path: Path) -> str:
    """A picture as a data address; empty where its file is gone."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError):
        return "data:,"
    picture.thumbnail((256, 256))
    data = io.BytesIO()
    picture.save(data, "webp", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
