"""One HTML document that opens offline, and the pieces that it is made of: tables, grids of pictures, folded details.

Text is escaped wherever it comes in; what is markup already is `Html`, as all pieces are that this room makes. Bodies of
sections are markup. A page asks for nothing elsewhere, and its own policy tells the browser to refuse it if it did.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..modality import image as images
from ..pixels import Pixels

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser's own word that nothing leaves: no request, no font, no form."""
MARK = '<meta name="generator" content="fewstep">'
"""What tells a page of ours from somebody else's file of that name."""
SIDE = 256
"""Pixels of a picture's longer side on a page."""


class Html(str):
    """Text that is markup already and is put in as it stands."""

    __slots__ = ()


def escape(text: object) -> Html:
    """Text as markup that shows it; what is `Html` stays."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], style: str = "", script: str = "") -> str:
    """One HTML document, light and dark as the reader's system is, for a phone, a screen and paper.

    ``sections`` are pairs of a heading (text, may be empty) and a body (markup); ``lead`` is text or `Html`. ``style`` and
    ``script`` stand in the document and are the caller's own.
    """
    body = "".join(
        f"<section>{f'<h2>{escape(head)}</h2>' if head else ''}{inner}</section>" for head, inner in sections
    )
    ending = f"<script>{script}</script>" if script else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="dark light">
{MARK}<title>{escape(title)}</title><link rel="icon" href="data:,">
<style>{STYLE.read_text("utf-8")}{style}</style></head>
<body><header><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>
<main>{body}</main>{ending}</body></html>
"""


def wrote(path: Path) -> bool:
    """Is this file a page of ours, or nothing that could be lost?"""
    try:
        with path.open("rb") as file:
            head = file.read(2000)
    except OSError:
        return False
    return not head or MARK.encode() in head


def paragraph(text: object, note: bool = False) -> Html:
    """A paragraph; a ``note`` is smaller."""
    return Html(f"<p{' class=note' if note else ''}>{escape(text)}</p>")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], label: str = "", kind: str = "") -> Html:
    """A table that scrolls by itself where it is too wide. The first cell of every row is the row's head.

    An empty head stands over no column of its own. ``label`` says to a screen reader what the table holds; ``kind`` are
    classes for the style sheet.
    """
    lines = []
    for first, *cells in rows:
        more = "".join(f"<td{' class=figure' if _figure(cell) else ''}>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{more}</tr>')
    return framed(heads, "".join(lines), label or " and ".join(head for head in heads if head), kind)


def framed(heads: Sequence[str], body: str, label: str, kind: str = "") -> Html:
    """A table of rows that are markup already, in a region that scrolls and that keys reach."""
    cells = "".join(f'<th scope="col">{escape(head)}</th>' if head else "<td></td>" for head in heads)
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}"><table class="{kind}">'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _figure(cell: object) -> bool:
    """Does a cell hold a number, which is never broken over lines?"""
    return not isinstance(cell, Html) and str(cell)[:1] in set("-+±0123456789.") and len(str(cell)) < 32


def grid(rows: Sequence[str], columns: Sequence[str], pictures: Sequence[Sequence[str]], label: str = "") -> Html:
    """Pictures (as `picture` makes them) in a table: ``pictures[row][column]``. The rows' heads stay in sight.

    Raises ValueError where a row has not one picture a column.
    """
    if len(rows) != len(pictures) or any(len(line) != len(columns) for line in pictures):
        raise ValueError("a grid needs one line of pictures a row, and one picture a column in each")
    body = "".join(
        f'<tr><th scope="row">{escape(head)}</th>{"".join(f"<td>{cell}</td>" for cell in line)}</tr>'
        for head, line in zip(rows, pictures)
    )
    return framed(["", *columns], body, label or "Pictures", "gallery")


def picture(image: Image.Image | Path | Pixels | Tensor, alt: str, side: int = SIDE) -> Html:
    """A picture as a data address, at most ``side`` pixels on its longer side.

    It is a PIL picture, a file, pixels uint8 ``[H, W, 3]`` or media float ``[3, H, W]`` in [-1, 1]. What lies beside it in
    words already may have an empty ``alt``. A file that is gone or is no picture leaves an empty place.
    """
    if isinstance(image, Path):
        try:
            with Image.open(image) as file:
                shown = images.flatten(file)
        except (OSError, SyntaxError):
            return Html(f'<img alt="{escape(alt)}" src="data:,">')
    elif isinstance(image, Image.Image):
        shown = images.flatten(image)
    else:
        shown = Image.fromarray(image) if isinstance(image, np.ndarray) else images.to_pil(image)
    if max(shown.size) > side:
        shown.thumbnail((side, side))
    return Html(f'<img alt="{escape(alt)}" src="{address(shown)}">')


def address(shown: Image.Image) -> str:
    """A picture's data address: WebP, without loss where it is as small as a thumbnail."""
    data = io.BytesIO()
    shown.convert("RGB").save(data, "webp", quality=88, lossless=max(shown.size) <= 64)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def details(summary: str, body: str) -> Html:
    """What a reader opens who wants to know more; ``body`` is markup."""
    return Html(f"<details><summary>{escape(summary)}</summary>{body}</details>")


def code(text: str) -> Html:
    """A command or a file, letter for letter."""
    return Html(f"<pre>{escape(text)}</pre>")
