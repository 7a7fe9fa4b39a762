"""The pictures of the studio page in docs/pictures, taken anew from the shipped model.

    python benchmarks/studio_screens.py [model] [prompt]

The figures in the panel are those of this machine while the picture was taken: take it on an idle one.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
VIEWS: dict[str, dict[str, Any]] = {
    "studio": {"viewport": {"width": 1280, "height": 760}, "color_scheme": "dark"},
    "studio_phone": {
        "viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True,
    },
}  # fmt: skip
Point = tuple[float, float]


def heart() -> Iterator[list[Point]]:
    """Strokes that fill a heart, in parts of the canvas."""
    for scale in (1.0, 0.86, 0.72, 0.58, 0.44, 0.3, 0.16):
        yield [
            (0.5 + 0.021 * scale * 16 * math.sin(a) ** 3,
             0.47 - 0.021 * scale * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)))
            for a in (2 * math.pi * i / 40 for i in range(41))
        ]  # fmt: skip


def stroke(page: Page, points: list[Point]) -> None:
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()


def settle(page: Page, seconds: float = 120) -> None:
    """Until the picture of all that was asked for is here."""
    deadline = time.monotonic() + seconds
    while not page.evaluate("(r => r.dataset.id && r.getAttribute('aria-busy') === 'false')(document.querySelector('#result'))"):
        if time.monotonic() > deadline:
            raise SystemExit("no picture came")
        page.wait_for_timeout(100)


def take(browser: Any, address: str, name: str, prompt: str) -> Path:
    page = browser.new_page(**VIEWS[name])
    page.goto(address)
    settle(page)
    page.locator("#prompt").fill(prompt)
    page.locator("#brush").fill("32")
    for points in heart():
        stroke(page, points)
    page.get_by_role("radio", name="white").click()
    page.locator("#brush").fill("26")
    stroke(page, [(0.31, 0.34), (0.34, 0.29), (0.38, 0.27)])
    page.evaluate("scrollTo(0, 0)")
    page.locator("h1").hover()
    settle(page)
    page.wait_for_timeout(2500)  # the people who are here are told every two seconds
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    page.close()
    coarser = Image.open(path).convert("RGB").point(lambda level: min(255, (level + 1) // 3 * 3))  # unseen, and a third smaller
    coarser.save(path, optimize=True)
    return path


def main() -> None:
    model, prompt = [*sys.argv[1:3], *("emoji-64", "a red heart")[len(sys.argv) - 1 :]]
    serve = [sys.executable, "-m", "fewstep.cli", "serve", "--port", "0", "--model", model, "--budget", "200ms"]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        address = re.search(r"http://\S+", first)
        if address is None:
            raise SystemExit(f"the server did not start: {first}")
        with sync_playwright() as running:
            system = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = running.chromium.launch(executable_path=system, args=FLAGS)
            for name in VIEWS:
                path = take(browser, address[0], name, prompt)
                print(f"{path}  {path.stat().st_size // 1000} kB")
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main()
