"""Foreign text - a file's name, a prompt, what a stranger's credentials say, an error's words - made fit to be shown."""

from __future__ import annotations

import unicodedata
from pathlib import Path

JOINERS = "\u200c\u200d"
"""Format characters that steer nothing: Persian words and many emoji are written with them."""
HARMFUL = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what a terminal obeys, what turns a line around or is not seen, what cannot be encoded, and what breaks
a line."""
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
CUT = "..."


def plain(value: object, most: int | None = None, keep: str = "") -> str:
    """``value`` as text in one line that nothing obeys: control, bidirectional and line-break characters stand as escapes.

    ``keep`` are such characters that may stay, ``"\\n\\t"`` for a text of several lines. A text of more than ``most`` characters
    loses its middle.
    """
    text = str(value)
    endless = most is not None and len(text) > 2 * most
    if most is not None and endless:  # an endless string is not read from end to end
        text = text[:most] + text[-most:]
    if not text.isprintable():
        text = "".join(one if one.isprintable() or one in keep else _shown(one) for one in text)
    if most is None or (len(text) <= most and not endless):
        return text
    head = (most - len(CUT) + 1) // 2
    return text[:head] + CUT + text[len(text) - (most - len(CUT) - head) :]


def counted(n: int, thing: str) -> str:
    """``1 picture``, ``2,000 pictures``."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def spoken(log: Path) -> list[str]:
    """The lines of a log that say something, without the blanks around them; what is no UTF-8 stands as U+FFFD."""
    return [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]


def heard(argument: str) -> str:
    """A text of the command line, read as UTF-8 where Python knew no better and handed its bytes on as lone surrogates."""
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return argument


def _shown(one: str) -> str:
    """A character that is not printable: itself if it is harmless, as a no-break space, else its escape."""
    if one in JOINERS or unicodedata.category(one) not in HARMFUL:
        return one
    if one in SHORT:
        return SHORT[one]
    number = ord(one)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
