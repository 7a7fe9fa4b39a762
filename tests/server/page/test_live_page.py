"""The page of examples/ that draws live in sixty lines, in a real browser, on another origin than the server's."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fences import blocks
from serving_helpers import PATIENCE_S, running

PAGE = Path(__file__).parents[3] / "examples" / "live_page.html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """Where `python -m http.server` would serve the examples."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=PAGE.parent))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(20)
    server.server_close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    yield page
    page.close()


def test_its_script_is_as_short_as_is_said():
    script = PAGE.read_text().split('<script type="module">\n')[1].split("</script>")[0]
    assert len(script.splitlines()) <= 65


def test_the_tutorial_shows_lines_of_the_page():
    shown = [block.text for block in blocks("docs/tutorials/live_page.md") if block.language == "js"]
    assert shown
    assert all(text in PAGE.read_text() for text in shown)


def test_a_stroke_becomes_a_picture_and_a_newer_stroke_another(tab: Any, origin: str):
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    with running(origins=(origin,)) as server:
        tab.goto(f"{origin}/{PAGE.name}?server={server.url}")
        tab.wait_for_function("picture.naturalWidth === 32")
        white = tab.evaluate("picture.src")
        x, y, width, height = tab.locator("#canvas").bounding_box().values()
        tab.mouse.move(x + width / 4, y + height / 2)
        tab.mouse.down()
        tab.mouse.move(x + 3 * width / 4, y + height / 2, steps=5)
        tab.mouse.up()
        inked = """[.3, .5, .7].every(at => {
            const [r, g] = canvas.getContext("2d").getImageData(256 * at, 128, 1, 1).data; return r > 200 && g < 100 })"""
        assert tab.evaluate(inked), "a line without gaps"
        tab.wait_for_function("white => picture.src !== white && picture.naturalWidth === 32", arg=white)
        tab.wait_for_function("/^\\d+ ms from the change|at its best/.test(said.textContent)")
        assert server.studio.metrics.total("sent") >= 2
        before = tab.evaluate("picture.src")
        tab.fill("#prompt", "a blue cat")
        tab.wait_for_function("before => picture.src !== before", arg=before)
    assert wrong == []


def test_a_page_that_is_not_let_in_says_what_lets_it_in(tab: Any, origin: str):
    with running() as server:
        tab.goto(f"{origin}/{PAGE.name}?server={server.url}")
        tab.wait_for_function("/--origins/.test(said.textContent)")
        assert re.search(rf"fewstep serve --origins {re.escape(origin)}$", tab.evaluate("said.textContent"))
