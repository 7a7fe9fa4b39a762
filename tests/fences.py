"""The fenced blocks of a page: what a reader is told to type, and what the tests do with it.

A block runs as it stands, unless a comment stands in the line before it::

    <!-- not run: REASON -->
    <!-- run with: WORDS = OTHERS; WORDS = OTHERS -->     these words are replaced first
    <!-- saved as: NAME.py -->                            it is a file, which later blocks use
    <!-- run by: tests/test_x.py::test_y -->              a test of its own runs it
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md") if p.name != "log.md"))
"""The pages whose blocks all run or say why not: all that a reader types from. CONTRIBUTING has a test of its own."""
BLOCK = re.compile(r"^(?:<!-- ([a-z ]+): ((?:[^\n])*?) -->\n)?( *)```(\w*)[^\n]*\n(.*?)^\3```$", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """One of them: its mark (``not run``, ``run with``, ``saved as``, ``run by`` or nothing) and what the mark says."""

    mark: str
    said: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """The lines of a shell block as words, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines() if self.language in ("", "bash") else []
        return [words for line in lines if (words := shlex.split(line, comments=True))]

    def swapped(self, known: Mapping[str, Callable[[], str]]) -> Block:
        """With the words replaced that its mark replaces; what ``known`` names among the new ones is asked for first."""
        text = self.text
        for pair in self.said.split("; ") if self.mark == "run with" else ():
            old, new = pair.split(" = ")
            assert old in text, f"{old!r} is not in this block: {text}"
            for name, asked in known.items():
                new = new.replace(name, asked()) if name in new else new
            text = text.replace(old, new)
        return Block(self.mark, self.said, self.language, text)


def blocks(page: str) -> Iterator[Block]:
    """All of a page, in order."""
    whole = (ROOT / page).read_text()
    found = BLOCK.findall(whole)
    assert 2 * len(found) == len(re.findall("^ *```", whole, re.M)), f"{page} holds a block that is not read"
    for mark, said, _, language, text in found:
        yield Block(mark, said, language, text)
