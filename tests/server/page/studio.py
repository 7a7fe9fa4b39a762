"""Chromium's tab on the page with what a test asks of it, and the process that servers are forked from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from fewstep.server.wire.protocol import pack, unpack

ROOT = Path(__file__).parents[3]
SCREENS = ROOT / "out" / "screens"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
PATIENCE_S = 60
LOST = re.compile(r"WebSocket connection to 'ws://localhost:\d+/v1/stream.*' failed")
"""What Chromium itself writes to the console when nobody answers."""
STANDING_OUT = """[...document.querySelectorAll("body *")].filter(e => {
    for (let p = e; p; p = p.parentElement) if (p.matches(".sprite, .sr, .skip, .chips, .history")) return false;
    const box = e.getBoundingClientRect();
    return box.width && e.checkVisibility() && (box.left < -0.5 || box.right > document.documentElement.clientWidth + 0.5);
}).map(e => e.id || e.outerHTML.slice(0, 80))"""
"""What reaches over the page's edge; a page that cuts it off does not scroll, and would hide it from `scrollWidth`."""
AXE = ROOT / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"
OFFLINE_SIZES = ((320, 568), (390, 844), (1280, 800))
"""Widths and heights that pages which open offline are looked at in."""
LIVE = ("ready", "busy", "shed", "over")


def find_browser(own: str) -> str | None:
    """The system's Chromium, or the one that Playwright downloaded."""
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    return system or (own if Path(own).exists() else None)


class Host:
    """The process that servers are forked from."""

    def __init__(self, home: Path) -> None:
        self.home = home
        source = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        self._host = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("servers.py"))],
            env=os.environ | {"PYTHONPATH": source, "FEWSTEP_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._up = False
        self.pids: list[int] = []

    def serve(self, port: int, **order: Any) -> int:
        """Start a server on this port; its process id."""
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        if not self._up:
            assert self._host.stdout.readline() == "up\n", "the host has imported everything"
            self._up = True
        self._host.stdin.write(json.dumps({"port": port} | order) + "\n")
        self._host.stdin.flush()
        self.pids.append(int(self._host.stdout.readline()))
        return self.pids[-1]

    def close(self) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._host.stdin is not None
        self._host.stdin.close()
        self._host.wait(PATIENCE_S)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def wait_for(address: str) -> None:
    """Until somebody listens at an address."""
    url, deadline = urlsplit(address), time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((url.hostname, url.port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"waited in vain for a server at {address}"
            time.sleep(0.05)
        else:
            return


class Studio:
    """One tab of the browser, with what a test asks of it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(1000 * PATIENCE_S)
        self.wrong: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text))

    def open(self, address: str) -> Studio:
        """Go there once the server answers: Chromium's page for a refused connection tries again by itself, into our way."""
        wait_for(address)
        self.page.goto(address)
        self.wrong.clear()
        return self

    def live(self) -> Studio:
        """Until the first picture is here."""
        self.until(lambda: self.id and self.state in LIVE, "a picture")
        return self

    def until(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> None:
        """Wait for a condition; the browser goes on meanwhile."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for: {what}; the page says {self.said!r}"
            self.page.wait_for_timeout(50)

    def get(self, script: str, given: Any = None) -> Any:
        return self.page.evaluate(script, given)

    @property
    def state(self) -> str:
        return self.page.locator("#state").get_attribute("data-state")

    @property
    def said(self) -> str:
        """The state, or on a stranger's page whatever stands there."""
        return self.pill if self.page.locator("#state").count() else self.page.inner_text("body")

    @property
    def pill(self) -> str:
        return self.page.locator("#state span").inner_text()

    @property
    def id(self) -> int:
        return int(self.get("document.querySelector('#result').dataset.id ?? 0"))

    def pixels(self, canvas: str = "#result") -> np.ndarray:
        """What is on a canvas, uint8 [64, 64, 3]."""
        data = self.get(
            f"""() => {{ const small = new OffscreenCanvas(64, 64).getContext("2d");
                small.drawImage(document.querySelector("{canvas}"), 0, 0, 64, 64);
                return [...small.getImageData(0, 0, 64, 64).data] }}"""
        )
        return np.array(data, np.uint8).reshape(64, 64, 4)[..., :3]

    def change(self, act: Callable[[], Any]) -> np.ndarray:
        """Do something, and wait for the picture of it, which must be another; the picture."""
        self.settle()
        before, number = self.pixels(), self.id
        act()
        self.until(lambda: self.id > number, "a new picture")
        self.settle()
        after = self.pixels()
        assert not np.array_equal(before, after), "the picture has changed"
        return after

    def settle(self) -> None:
        """Until the picture of all that was asked for is here."""
        idle = "document.querySelector('#result').getAttribute('aria-busy') === 'false'"
        self.until(lambda: self.get(idle) and self.state in LIVE, "the picture to settle")

    def stroke(self, *points: tuple[float, float], release: bool = True) -> None:
        """Move the pointer over the canvas, in parts of its side."""
        box = self.page.locator("#canvas").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        if release:
            self.page.mouse.up()

    def screen(self, name: str, whole: bool = False) -> None:
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENS / f"{name}.png", full_page=whole)


class Between:
    """Stands between a page that is to be opened and its server: hears all, holds pictures back, and words the server's facts."""

    def __init__(self, page: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        """Headers of what the page sent."""
        self.heard: list[dict[str, Any]] = []
        """Headers of the pictures that the server sent."""
        self.sockets: list[Any] = []
        """One for each connection that the page made."""
        self.holding = False
        """Keep pictures until `let_go`."""
        self.word: Callable[[dict[str, Any]], dict[str, Any]] = dict
        """What the page is told in place of a header."""
        self._held: list[tuple[Any, bytes]] = []
        page.route_web_socket("**/v1/stream**", self._through)

    def _through(self, page: Any) -> None:
        self.sockets.append(page)
        server = page.connect_to_server()

        def there(frame: bytes) -> None:
            self.asked.append(dict(unpack(frame).header))
            server.send(frame)

        def back(frame: bytes) -> None:
            said = unpack(frame)
            header = self.word(dict(said.header))
            if header["type"] == "picture":
                self.heard.append(header)
            if header != said.header:
                frame = pack(header, list(said.parts.values()))
            if self.holding and header["type"] == "picture":
                self._held.append((page, frame))
            else:
                page.send(frame)

        page.on_message(there)
        server.on_message(back)

    @property
    def held(self) -> int:
        """Pictures that wait here."""
        return len(self._held)

    def let_go(self, many: int | None = None) -> None:
        """Let the page have the first ``many`` of what was held back; all of it, and hold no more, by default."""
        going, self._held = self._held[:many], self._held[many:] if many is not None else []
        self.holding = many is not None
        for page, frame in going:
            page.send(frame)


@contextlib.contextmanager
def studio_in(browser: Any, name: str, **options: Any) -> Iterator[Studio]:
    """A fresh tab; afterwards nothing may have gone wrong in it, and it may have talked to nobody but its server."""
    usual = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark", "reduced_motion": "reduce"}
    context = browser.new_context(**(usual | options))
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.on("websocket", lambda socket: asked.append(socket.url))
    studio = Studio(page)
    try:
        yield studio
        assert [sentence for sentence in studio.wrong if not LOST.search(sentence)] == []
        others = [url for url in asked if not re.match(r"(https?|ws)://localhost:\d+/|blob:|data:|file:", url)]
        assert others == [], "the page asks nobody but its own server"
    finally:
        studio.screen(name)
        context.close()


def unfit_for(tab: Studio) -> list[str]:
    """What a page is no good for at every size: what axe-core finds, where it is installed, and scrolling sideways."""
    found: list[str] = []
    if AXE.exists():
        tab.get(AXE.read_text())
    for width, height in OFFLINE_SIZES:
        tab.page.set_viewport_size({"width": width, "height": height})
        if AXE.exists():
            for rule in tab.get("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"):
                found += [f"{width}: {rule['id']}: {n['target']} {n['failureSummary']}" for n in rule["nodes"]]
        if tab.get("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{width}: scrolls sideways: {tab.get(STANDING_OUT)}")
    return found
