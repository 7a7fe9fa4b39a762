"""Prompt lists: one prompt a line, or a table as PartiPrompts has it (arXiv 2206.10789), with Prompt, Category and Challenge."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..files import content

MOST_BYTES = 64 * 2**20


class Prompt(NamedTuple):
    """One prompt of a list."""

    text: str
    category: str = ""
    challenge: str = ""


def read(path: Path, categories: Sequence[str] = (), without: Sequence[str] = ()) -> list[Prompt]:
    """The prompts of a file, in its order, each once. With ``categories`` those alone; never those ``without``.

    A file that ends in .tsv or .csv is a table with a column Prompt. A category is a word of either column, Category or
    Challenge: ADD's study left out ``Basic``, which is a challenge. Raises ValueError for what is no such file, or is empty.
    """
    try:
        text = content(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save the prompts as UTF-8, one a line or as a TSV") from None
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".csv"):
        found = _table(path, text, "\t" if suffix == ".tsv" else ",")
    else:
        found = [Prompt(line.strip()) for line in text.splitlines()]
    once: dict[str, Prompt] = {}
    for prompt in found:
        if prompt.text:
            once.setdefault(prompt.text, prompt)
    found = list(once.values())
    if not found:
        raise ValueError(f"{path} holds no prompts: write one a line, or a TSV with a column Prompt")
    known = {word.lower() for prompt in found for word in (prompt.category, prompt.challenge) if word}
    for word in (*categories, *without):
        if word.lower() not in known:
            said = ", ".join(sorted(known)) or "none: it has no columns Category and Challenge"
            raise ValueError(f"{path} has no category {word!r}: it has {said}")
    wanted, unwanted = ({word.lower() for word in words} for words in (categories, without))

    def fits(prompt: Prompt) -> bool:
        own = {prompt.category.lower(), prompt.challenge.lower()}
        return (not wanted or bool(own & wanted)) and not own & unwanted

    kept = [prompt for prompt in found if fits(prompt)]
    if not kept:
        raise ValueError(f"no prompt of {path} is left: ask for other --categories, or leave out fewer")
    return kept


def _table(path: Path, text: str, delimiter: str) -> list[Prompt]:
    lines = text.splitlines()
    bare = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)  # PartiPrompts' own file has bare quotes
    rows = list(csv.reader(lines) if delimiter == "," else bare)
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if "prompt" not in head:
        raise ValueError(
            f"{path} has no column Prompt in its first line: name it so, or give one prompt a line as .txt"
        )
    place = {name: head.index(name) for name in ("prompt", "category", "challenge") if name in head}

    def cell(row: list[str], name: str) -> str:
        return row[place[name]].strip() if name in place and place[name] < len(row) else ""

    return [Prompt(cell(row, "prompt"), cell(row, "category"), cell(row, "challenge")) for row in rows[1:]]
