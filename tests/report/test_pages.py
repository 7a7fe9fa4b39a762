"""Pages that open offline: everything is escaped once, nothing is asked for elsewhere, and plots tell what they leave out."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.report import page, plot
from fewstep.report.plot import Point, Reference, Series, points

EVIL = '<script>alert("x")</script> & co'
VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Every element is closed in order; the text and the elements that were met."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.met = "", []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.met.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.met.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_foreign_text_is_shown_and_never_obeyed():
    picture = page.picture(np.zeros((8, 8, 3), np.uint8), EVIL)
    pieces = [
        page.table([EVIL, EVIL], [[EVIL, EVIL]], EVIL), page.grid([EVIL], [EVIL], [[picture]]),
        page.details(EVIL, page.code(EVIL)), page.paragraph(EVIL),
        plot.lines([Series(EVIL, [Point(1, 2, label=EVIL), Point(2, 3)]), Series("b", [Point(1, 1)])], EVIL, EVIL, title=EVIL),
    ]  # fmt: skip
    made = page.page(EVIL, EVIL, [(EVIL, piece) for piece in pieces])
    read = Reader(made)
    assert "script" not in {tag for tag, _ in read.met}
    assert read.text.count(EVIL) >= 20
    assert "&amp;lt;" not in made, "nothing is escaped twice"
    assert [tag for tag, _ in read.met if tag == "h1"] == ["h1"]


def test_a_page_asks_for_nothing_and_tells_the_browser_so():
    made = page.page("A", "b", [("c", page.picture(np.zeros((4, 4, 3), np.uint8), ""))], script="0")
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import', made)
    assert "default-src 'none'" in made


def pixels_of(markup: str) -> np.ndarray:
    data = re.search(r"base64,([^\"]+)", markup).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_a_picture_is_the_same_from_pixels_media_pil_and_a_file(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    media = torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (pixels, media, Image.fromarray(pixels), tmp_path / "a.png"):
        assert (pixels_of(page.picture(source, "")) == pixels).all(), type(source)
    assert pixels_of(page.picture(np.zeros((600, 300, 3), np.uint8), "")).shape == (256, 128, 3)
    (tmp_path / "b.png").write_bytes(b"no picture")
    for gone in (tmp_path / "b.png", tmp_path / "c.png"):
        assert page.picture(gone, "gone") == '<img alt="gone" src="data:,">'


def test_a_grid_that_lacks_a_picture_is_refused():
    with pytest.raises(ValueError, match="one picture a column"):
        page.grid(["a", "b"], ["c"], [["x"]])


def heights(svg: str) -> list[float]:
    return [float(y) for y in re.findall(r'class="mark" transform="translate\([\d.]+ ([\d.]+)\)"', svg)]


def test_places_on_a_linear_and_on_a_logarithmic_axis():
    straight = heights(plot.lines([Series("a", points([1, 2, 3], [0, 5, 10]))], "x", "y"))
    assert straight[0] - straight[1] == pytest.approx(straight[1] - straight[2], abs=0.2)
    decades = heights(plot.lines([Series("a", points([1, 2, 3], [1, 10, 100]))], "x", "y", log_y=True))
    assert decades[0] - decades[1] == pytest.approx(decades[1] - decades[2], abs=0.2)
    assert decades[0] - decades[1] > 50


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (0.4, 1.05, False, [0.4, 0.6, 0.8, 1.0]),
        (-1e-4, 3e-4, False, [-1e-4, 0, 1e-4, 2e-4, 3e-4]),
        (0.9, 55, True, [1, 2, 5, 10, 20, 50]),
        (1e-3, 1e6, True, [1e-3, 1e-1, 1e1, 1e3, 1e5]),
        (900, 1000, True, [900, 920, 940, 960, 980, 1000]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, ticks: list[float]):
    assert plot.Axis(low, high, 0, 1, log).ticks() == pytest.approx(ticks)


def test_what_cannot_be_drawn_is_left_out_and_said():
    bad = [Point(1, 1), Point(2, math.nan), Point(3, math.inf), Point(0, 2), Point(4, 2, -1, math.inf)]
    made = plot.lines([Series("a", bad)], "x", "y", log_x=True, log_y=True)
    assert "3 values are left out" in made
    assert len(heights(made)) == 2
    assert not re.search("nan|inf", re.sub("<title>.*?</title>", "", made))
    line = re.search(r'class="line" d="([^"]+)"', made).group(1)
    assert line.count("M") == 2, "a gap stays a gap"
    assert "no finite value" in plot.dots([Series("a", [Point(1, math.nan)])], "x", "y")
    assert "no finite value" in plot.lines([], "x", "y")


def test_intervals_of_both_axes_are_drawn_and_references_named():
    made = plot.dots(
        [Series("a", [Point(1, 2, 1, 3, 0.5, 1.5)]), Series("b", [Point(2, 3)])], "x", "y", references=[Reference("floor", 0.2)]
    )
    bars = re.search(r'class="bars" d="([^"]+)"', made).group(1)
    assert bars.count("V") == bars.count("H") == 1
    assert made.count('class="level"') == 2
    assert "floor (0.2)" in Reader(made).text


def test_no_two_of_many_series_look_alike_and_labels_lie_on_nothing():
    rng = np.random.default_rng(3)
    made = plot.dots([Series(f"method {i}", [Point(*rng.uniform(1, 9, 2))]) for i in range(16)], "x", "y")
    looks = re.findall(r'<li class="(s\d)">.*?<path class="mark" d="([^"]+)"', made)
    assert len(looks) == len(set(looks)) == 16
    marks = np.array([(float(a), float(b)) for a, b in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", made)])
    labels = re.findall(r'class="label s\d" x="([\d.]+)" y="([\d.]+)" dy=".95em">([^<]+)<', made)
    assert len(labels) >= 10
    for x, y, text in labels:
        left, top = float(x), float(y)
        over = (marks > (left, top)).all(1) & (marks < (left + plot.LETTER * len(text), top + plot.LINE)).all(1)
        assert not over.any()


def test_figures_on_axes_are_short():
    assert [plot.figure(v) for v in (0, 0.05, 1200, 20_000, 3e6, 1e-6, -2.5e-7)] == [
        "0", "0.05", "1,200", "20k", "3M", "1e-6", "-2.5e-7",
    ]  # fmt: skip
