"""Captions as people have them: beside a picture (``NAME.txt``, ``NAME.caption``), or in a table (``metadata.jsonl``, ``.csv``).

A text beside a picture holds one caption a line; a table one a row, or a list of them. Several are alternatives: training
asks for the picture by any of them.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
"""Names of tables, in any case; of two in one folder the first in this order wins."""
BESIDE = (".txt", ".caption")
"""Suffixes of texts beside a picture, in any case; the first in this order wins."""
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path")
CAPTION_COLUMNS = ("text", "caption", "prompt", "captions", "prompts")
"""Names that the columns may have, in upper or lower case; the first in this order wins."""
MOST_BYTES = 1_000_000
MOST_CAPTIONS = 100
"""As many captions of one picture are used."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Chinese and Japanese."""


class Refused(ValueError):
    """One file, or one row, cannot be used; the sentence says why, without its name."""


def normal(name: str) -> str:
    """One spelling of a file name: macOS stores ``é`` as two characters, tables as one."""
    return unicodedata.normalize("NFC", name)


class Names:
    """File names that are found in any case, where only one fits."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, list[str]] = {}
        self._folded: dict[str, list[str]] = {}
        for name in names:
            self.add(name, name)

    def add(self, key: str, name: str) -> None:
        """Have ``name`` found by ``key``, too."""
        for table, known in ((self._exact, key), (self._folded, key.casefold())):
            table.setdefault(known, []).append(name)

    def all(self, key: str) -> list[str]:
        """Every name of this key, as it is written or else in any case."""
        return self._exact.get(key) or self._folded.get(key.casefold(), [])

    def exact(self, key: str) -> bool:
        """Whether there is a name of this key as it is written."""
        return key in self._exact

    def one(self, key: str) -> str | None:
        """The only name with this key; None if there is none, or more than one."""
        found = self.all(key)
        return found[0] if len(found) == 1 else None


def decoded(data: bytes) -> str:
    """Text in UTF-8, or in what its byte order mark says (Windows' "Unicode" is UTF-16). Raises UnicodeDecodeError."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"),
                           (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
                           (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-8")


def beside(path: Path) -> list[str]:
    """The captions in a text beside a picture, one a line. Raises Refused."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Refused(f"its caption {path.name} has over {MOST_BYTES} bytes; shorten it")
        text = decoded(path.read_bytes())
    except UnicodeDecodeError as error:
        raise Refused(f"its caption {path.name} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise Refused(f"its caption {path.name} cannot be read ({error.strerror}); check its permissions") from error
    return re.split(r"\r\n|\n|\r", text)


Row = tuple[int, Mapping[str, Any] | Refused]
"""(number of the line, what stands in it or why it cannot be read)."""


def rows(path: Path) -> Iterator[Row]:
    """Every row of a table, numbered as its lines are. Raises Refused where the file as a whole cannot be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror}); check its permissions") from error
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.removeprefix(codecs.BOM_UTF8).decode(
            "utf-8", "surrogateescape"
        )  # one bad row is no reason to lose all
    else:
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise Refused("is neither UTF-8 nor UTF-16; save it as UTF-8") from error
    yield from _json_rows(text) if path.suffix.lower() == ".jsonl" else _csv_rows(text)


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.encode("utf-8", "surrogateescape").decode("utf-8"))
            yield number, entry if isinstance(entry, dict) else {}
        except (ValueError, RecursionError) as error:
            yield number, Refused(f"not JSON in UTF-8 ({type(error).__name__}); correct the line")


def _csv_rows(text: str) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; between them stand commas, semicolons or tabs."""
    head = text.partition("\n")[0]
    split = {sign: [_plain(name) for name in next(csv.reader([head], delimiter=sign), [])] for sign in ",;\t"}
    fitting = [sign for sign, names in split.items() if set(names) & set(FILE_COLUMNS)]
    if not fitting:
        raise Refused("its first line does not name the columns; write file_name,text there")
    sign = fitting[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
    while True:
        began = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield began, Refused(f"not CSV ({error}); correct its quotation marks: nothing from here on was read")
            return
        if began == 1 or not any(values):
            continue
        if len(values) != len(split[sign]):
            yield began, Refused(f"has {len(values)} values for {len(split[sign])} columns; put quotation marks around "
                                 f"a caption with {'tabs' if sign == chr(9) else repr(sign)} in it")  # fmt: skip
        elif any(0xD800 <= ord(c) < 0xE000 for value in values for c in value):
            yield began, Refused("is not UTF-8; save the table as UTF-8")
        else:
            yield began, dict(zip(split[sign], values))


def _plain(name: str) -> str:
    return name.strip().lower()


def entry(values: Mapping[str, Any], table: str, column: str = "") -> tuple[str, list[str]]:
    """(picture's name relative to the source, its captions) of one row; ``column`` is where they stand, "" finds it."""
    known = {_plain(name): value for name, value in values.items()}
    file_name = next((known[name] for name in FILE_COLUMNS if name in known), None)
    wanted = (_plain(column),) if column else CAPTION_COLUMNS
    text = next((known[name] for name in wanted if name in known), None)
    texts = [text] if isinstance(text, str) else text
    if not isinstance(file_name, str) or not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        named = text is None and file_name is not None
        here = f"its columns are {', '.join(values)}; name the captions' with --caption-column, or " if named else ""
        raise Refused(f'has no "file_name" and "{column or "text"}" strings; {here}'
                      f'write {{"file_name": "cat.png", "{column or "text"}": "a cat"}}')  # fmt: skip
    if not any(text.strip() for text in texts):
        raise Refused(f"has an empty caption for {file_name!r}; write one")
    parts = file_name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise Refused(f"names {file_name!r}, outside its folder; name files in the folder or below")
    inside = [part for part in parts if part not in ("", ".")]
    return normal("/".join([*table.split("/")[:-1], *inside])), texts


def usable(texts: Sequence[str], max_words: int | None) -> tuple[tuple[str, ...], list[str]]:
    """The captions that can be used, each in one line and once, and why others were left out. Raises Refused if none is left."""
    good: list[str] = []
    wrong: list[str] = []
    for text in texts:
        try:
            if caption := one_line(text, max_words):
                good.append(caption)
        except Refused as refusal:
            wrong.append(str(refusal))
    if not good:
        raise Refused(wrong[0] if wrong else "its caption is empty; write one")
    good = list(dict.fromkeys(good))
    if len(good) > MOST_CAPTIONS:
        wrong.append(f"only the first {MOST_CAPTIONS} of its {len(good)} captions are used")
    return tuple(good[:MOST_CAPTIONS]), wrong


def one_line(text: str, max_words: int | None) -> str:
    """A caption without line breaks and needless spaces; "" for an empty one."""
    text = " ".join(text.split())
    words = words_in(text)
    if max_words is not None and words > max_words:
        raise Refused(f"its caption has {words} words; shorten it to {max_words}, or raise --max-words")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise Refused("its caption holds control characters; write plain text")
    return text


def words_in(text: str) -> int:
    """Words between spaces; where a script has none, every character is one."""
    return len(UNSPACED.findall(text)) + len(UNSPACED.sub(" ", text).split())
