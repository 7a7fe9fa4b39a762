"""Figures of the README, the log and the shipped cards, taken from the result files; ``fewstep docs`` writes them.

A page marks a place for a whole file, ``<!-- table:emoji64 -->...<!-- /table:emoji64 -->``, one for two rows of it side by
side, ``<!-- paired:emoji64:add,1:teacher,50 -->...<!-- /paired -->``, and one for a single figure in a sentence,
``<!--=emoji64:add,1,fd:.0f-->289<!--=-->``: the file, what of it, and how it is written. What of it is a record's model, steps
and metric (with ``.low`` or ``.high`` for its bounds, and ``@`` and a judge's name where it is not the first's), or the name of
one of the ``figures`` of a benchmark, or a row's first cell and a column of the server's load (``10,p50_ms``) or of variants. Two
records with ``/`` between them are a ratio, with ``-`` a difference, where they may be compared; bounds of these are paired.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..bundle import CARD
from . import compare, realtime, record
from .record import MetricRecord, into_card, read_records

TABLE = ("fd", "kid", "kid_all_pairs", "precision", "recall", "retrieval_top5", "vendi_minus_1", "pairwise_distance",
         "highs_ratio", "latency_ms", "nfe")  # fmt: skip
"""The columns of a table of pictures."""
PAIRED = re.compile(r"(<!-- paired:(\w+):([^: ]+):([^: ]+) -->\n).*?(<!-- /paired -->)", re.S)
PLACE = re.compile(r"(<!--=(\w+):([^:]+):([^:]+?)-->).*?(<!--=-->)", re.S)


def filled(text: str, results: Mapping[str, Path]) -> str:
    """A page with the places of the result files, by name, filled anew; places of files that are not there are left alone."""
    for name, path in results.items():
        before, _, rest = text.partition(f"<!-- table:{name} -->")
        _, end, after = rest.partition(f"<!-- /table:{name} -->")
        if end:
            text = f"{before}<!-- table:{name} -->\n{shown(path)}\n{end}{after}"

    read = cache(held_by)

    def side_by_side(found: re.Match[str]) -> str:
        start, name, one, other, end = found.groups()
        if name not in results:
            return found[0]
        ours, theirs = (compare.row(f"{results[name]}:{which}")[1] for which in (one, other))
        return f"{start}{compare.table(compare.compare(ours, theirs), TABLE)}\n{end}"

    text = PAIRED.sub(side_by_side, text)

    def place(found: re.Match[str]) -> str:
        start, name, what, form, end = found.groups()
        if name not in results:
            return found[0]
        try:
            return f"{start}{written(figure(read(results[name]), what), form)}{end}"
        except KeyError:
            raise ValueError(
                f"{results[name]} holds no {what!r}: measure it, or correct the place that asks for it"
            ) from None

    return PLACE.sub(place, text)


def held_by(path: Path) -> Mapping[str, float] | list[MetricRecord]:
    """The records of a results file, or its figures by name: those of a table as ``ROW,COLUMN``."""
    held = json.loads(path.read_text(encoding="utf-8"))
    for key, first in (("load", "sessions"), ("variants", "variant")):
        if key in held:
            return {f"{row[first]},{name}": value for row in held[key] for name, value in row.items() if name != first}
    return held["figures"] if "figures" in held else read_records(path)


def figure(held: Mapping[str, float] | list[MetricRecord], what: str) -> float:
    """One figure of a results file, or the ratio of two. Raises KeyError for what it does not hold."""
    if not isinstance(held, list):
        return held[what]
    sign = next((s for s in ("/", "-") if re.search(rf"{s}[\w.]+,\d+,", what)), "")
    if not sign:
        one, field = find(held, what)
        value: float = getattr(one, field)
        return value
    above, _, below = what.partition(sign)
    (one, _), (other, field) = find(held, above), find(held, below)
    if field == "value":
        return record.ratio(one, other) if sign == "/" else record.difference(one, other)
    found = compare.paired(one, other)
    at = found.difference if sign == "-" else found.ratio
    if at is None:
        raise KeyError(what)
    bound: float = getattr(at, field)
    return bound


def written(value: float, form: str) -> str:
    """A figure in Python's format ``form``, without the nought before the point, as prose has it."""
    return re.sub(r"^(-?)0\.", r"\1.", format(value, form))


def find(records: list[MetricRecord], what: str) -> tuple[MetricRecord, str]:
    """The record of ``model,steps,metric`` and the field that is meant. Raises KeyError where there is none."""
    model, steps, metric = what.split(",")
    metric, _, field = metric.partition(".")
    metric, _, judge = metric.partition("@")
    for one in records:
        if (one.model, str(one.steps), one.metric) == (model, steps, metric) and one.features.startswith(judge):
            return one, field or "value"
    raise KeyError(what)


def fill_cards(models: Path, results: Path) -> None:
    """Give the card of every bundle in ``models`` the records whose command evaluates it by its name."""
    records = read_records(results)
    for card in sorted(models.glob(f"*/{CARD}")):
        measured = ["fewstep", "evaluate", card.parent.name]
        into_card(card.parent, [r for r in records if shlex.split(r.command)[:3] == measured])


def shown(path: Path) -> str:
    """A results file as Markdown; the key at its top says what it holds. Raises ValueError for one that holds nothing known."""
    kinds: dict[str, Callable[[], str]] = {
        "records": lambda: record.table(record.read_records(path), TABLE if path.stem.startswith("emoji") else None),
        "load": lambda: realtime.table(realtime.Realtime.read(path)),
        "variants": lambda: realtime.variants_table(path),
        "rows": lambda: rows_table(held["rows"], held["measured"]),
    }
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): measure again or remove it") from None
    kind = next((kind for kind in kinds if kind in held), None)
    if kind is None:
        raise ValueError(f"{path} is no results file: it should hold {' or '.join(kinds)} at its top")
    return kinds[kind]()


def rows_table(rows: Sequence[Mapping[str, Any]], measured: str) -> str:
    """Rows that a benchmark has put into words, as Markdown, and how they were measured; a cell that a row lacks stays empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([str(row.get(name, "")) for name in names] for row in rows)]
    return "\n".join([*("| " + " | ".join(cells) + " |" for cells in lines), "", measured])
