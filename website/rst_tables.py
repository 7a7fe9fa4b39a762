"""Turns the tables of our docstrings, drawn with rows of ``=`` as reStructuredText has them, into Markdown's."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r"=+(?: +=+)+$")


def markdown(text: str) -> str:
    """A docstring's text with its tables turned."""
    lines, out = text.split("\n"), list[str]()
    starts: list[int] = []
    rules = 0
    for line in lines:
        if RULE.match(line.strip()) and line == line.lstrip():
            rules = 1 if not starts else rules + 1
            if rules == 1:
                starts = [found.start() for found in re.finditer("=+", line)]
                out.append("")
            elif rules == 2:
                out.append("| " + " | ".join(["---"] * len(starts)) + " |")
            else:
                starts = []
                out.append("")
        elif starts and line.strip():
            cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None])]
            out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        else:
            out.append(line)
    return "\n".join(out)


class Tables(griffe.Extension):
    """Called by griffe for every module, class, function and attribute that it has read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite its docstring in place."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
