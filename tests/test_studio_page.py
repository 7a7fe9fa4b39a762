"""The studio page in a real browser, against real servers in processes of their own. Pictures of it land in out/screens/."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from fewstep.bundle import Card, shipped
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.verify import VerifyOptions, verify
from fewstep.server.wire.protocol import pack, unpack

playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need playwright: pip install playwright")

ROOT = Path(__file__).parent.parent
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
            [sys.executable, str(ROOT / "tests" / "studio_host.py")],
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[tuple[Any, str]]:
    """Playwright's hold on Chromium, and where that is."""
    with playwright.sync_playwright() as running:
        executable = find_browser(running.chromium.executable_path)
        if executable is None:
            pytest.skip("no browser here: install Debian's chromium, or run `playwright install chromium`")
        yield running.chromium, executable


@pytest.fixture(scope="module")
def host(chromium: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(chromium: tuple[Any, str], host: Host) -> Iterator[Any]:
    """It starts while the host imports."""
    made = chromium[0].launch(executable_path=chromium[1], args=FLAGS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def address(host: Host) -> str:
    """A server that the tests share, patient enough to shed nothing: one drawing makes one picture, bit for bit."""
    port = free_port()
    host.serve(port, budget="60s")
    wait_for(f"http://localhost:{port}/")
    return f"http://localhost:{port}/"


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
        others = [url for url in asked if not re.match(r"(https?|ws)://localhost:\d+/|blob:|data:", url)]
        assert others == [], "the page asks nobody but its own server"
    finally:
        studio.screen(name)
        context.close()


@pytest.fixture
def studio(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Studio]:
    """The page, live on the shared server."""
    with studio_in(browser, request.node.name.removeprefix("test_"), accept_downloads=True) as made:
        yield made.open(address).live()


# drawing


def test_strokes_change_the_picture_and_can_be_taken_back(studio: Studio):
    assert studio.page.locator("#undo").is_disabled()
    empty = studio.pixels("#canvas")
    assert empty.min() == 255
    drawn = studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.3), (0.7, 0.8), (0.2, 0.7)))
    ink = studio.pixels("#canvas")
    assert (ink == (0xE5, 0x48, 0x4D)).all(-1).mean() > 0.03
    studio.page.get_by_role("radio", name="blue").click()
    studio.change(lambda: studio.stroke((0.5, 0.1), (0.5, 0.9)))
    studio.change(lambda: studio.page.locator("#undo").click())
    assert np.array_equal(studio.pixels("#canvas"), ink)
    assert np.array_equal(studio.pixels(), drawn), "the same drawing and the same seed make the same picture"
    studio.page.keyboard.press("Control+Shift+z")
    assert not np.array_equal(studio.pixels("#canvas"), ink)
    studio.page.keyboard.press("Control+z")
    studio.page.get_by_role("radio", name="Eraser").click()
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.3)))
    assert (studio.pixels("#canvas") == 255).all(-1).mean() > (ink == 255).all(-1).mean()
    studio.change(lambda: studio.page.locator("#layer-ink").click())
    assert studio.pixels("#canvas").min() == 255, "the layer is switched off"
    studio.page.locator("#layer-ink").click()
    studio.page.locator("#clear").click()
    assert studio.pixels("#canvas").min() == 255
    assert studio.page.locator("#layer-ink").is_disabled()
    studio.page.locator("#undo").click()
    assert studio.pixels("#canvas").min() < 255, "clearing can be taken back, too"


def test_a_picture_is_opened_and_a_region_of_it_redrawn(studio: Studio, tmp_path: Path):
    Image.fromarray(np.full((40, 60, 3), (20, 120, 220), np.uint8)).save(tmp_path / "blue.png")
    (tmp_path / "not.png").write_text("no picture at all")
    studio.change(lambda: studio.page.set_input_files("#file", tmp_path / "blue.png"))
    assert np.abs(studio.pixels("#canvas").astype(int) - (20, 120, 220)).max() < 4
    whole = studio.pixels().astype(int)
    studio.page.keyboard.press("r")
    studio.change(lambda: studio.stroke((0.3, 0.3), (0.5, 0.4)))
    part = studio.pixels().astype(int)
    outside = np.abs(part[40:] - (20, 120, 220)).mean()
    assert outside < 12 < np.abs(whole[40:] - (20, 120, 220)).mean(), "what is outside of the region stays"
    studio.change(lambda: studio.page.locator("#layer-region").click())
    studio.page.set_input_files("#file", tmp_path / "not.png")
    studio.until(lambda: "not a picture" in studio.page.locator("#toast").inner_text(), "a sentence that says so")
    paste = """bytes => { const given = new DataTransfer();
        given.items.add(new File([Uint8Array.from(bytes)], "a.png", {type: "image/png"}));
        dispatchEvent(new ClipboardEvent("paste", {clipboardData: given})) }"""
    Image.fromarray(np.full((16, 16, 3), (250, 200, 0), np.uint8)).save(tmp_path / "yellow.png")
    studio.page.locator("#tab-type").click()
    studio.page.evaluate(paste, list((tmp_path / "yellow.png").read_bytes()))
    studio.until(lambda: np.abs(studio.pixels("#canvas").astype(int) - (250, 200, 0)).max() < 4, "the pasted picture")
    assert studio.page.locator("#view-draw").is_visible(), "a pasted picture goes to the canvas, from every tab"


def test_strokes_do_not_wait_for_the_network(studio: Studio, host: Host):
    """With the server frozen, ink is on the canvas as soon as the pointer has moved, and the newest is drawn afterwards."""
    server = host.pids[0]
    number = studio.id
    os.kill(server, signal.SIGSTOP)
    try:
        studio.stroke((0.2, 0.2), (0.8, 0.8))
        assert (studio.pixels("#canvas") == (0xE5, 0x48, 0x4D)).all(-1).mean() > 0.03
        studio.until(lambda: studio.pill == "Drawing", "the page to say that it is busy")
        studio.stroke((0.8, 0.2), (0.2, 0.8))
        assert studio.id == number
    finally:
        os.kill(server, signal.SIGCONT)
    studio.until(lambda: studio.id > number and studio.state != "busy", "the picture of both strokes")


def test_steadiness_comes_to_the_picture_of_what_is_drawn_now(studio: Studio, tmp_path: Path):
    """At rest nothing of the old drawing, prompt or seed is left, on the screen or in a file, however steady it is."""
    page = studio.page

    def saved(name: str) -> np.ndarray:
        with page.expect_download() as download:
            page.locator("#save").click()
        download.value.save_as(tmp_path / name)
        return np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)

    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.3)))
    page.locator("#smoothing").fill("0.9")
    page.get_by_role("radio", name="blue").click()
    studio.change(lambda: studio.stroke((0.2, 0.8), (0.8, 0.7)))
    studio.change(lambda: page.locator("#prompt").fill("the moon"))
    studio.change(lambda: page.locator("#seed").fill("8"))
    studio.change(lambda: studio.stroke((0.5, 0.1), (0.5, 0.9)))
    steady, file = studio.pixels(), saved("steady.png")
    page.locator("#smoothing").fill("0")
    number = studio.id
    studio.until(lambda: studio.id > number, "the picture without steadiness")
    studio.settle()
    assert np.array_equal(steady, studio.pixels())
    assert np.abs(file - saved("plain.png")).max() <= 4, "both files are of one picture, each with its mark"


def test_at_rest_the_picture_gets_better_and_is_what_is_saved(studio: Studio, tmp_path: Path):
    """What had to be given up for a target is drawn after all once nothing newer is asked for; the clock does not count it."""
    page = studio.page
    page.locator("#format").select_option("png")
    page.locator("#strength").fill("2")
    best = studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.3), (0.7, 0.8)))
    assert page.locator("#fact-steps").inner_text() == "3"
    with page.expect_download() as whole:
        page.locator("#save").click()
    page.locator("#target").fill("0")
    studio.until(lambda: page.locator("#fact-steps").inner_text() == "1", "fewer steps, which make another picture")
    studio.until(lambda: page.locator("#fact-steps").inner_text() == "3", "all of them, at rest")
    assert page.locator("#shed").is_hidden()
    assert page.locator("#fact-encoder").inner_text() == "PNG"
    studio.until(lambda: studio.pill == "Live", "no warning of a picture that came by waiting")
    assert np.array_equal(studio.pixels(), best)
    with page.expect_download() as again:
        page.locator("#save").click()
    files = [np.asarray(Image.open(one.value.path()).convert("RGB")).astype(int) for one in (whole, again)]
    assert np.abs(files[0] - files[1]).max() <= 4, "each with its mark"


# how far the result may leave what is given


def test_strength_is_the_models_own_times_in_words(studio: Studio):
    """Every stop is another picture; every tab begins where it follows, and keeps what was chosen there."""
    page = studio.page
    out, note = page.locator("#strength-out"), page.locator("#view-draw .ignored")
    assert page.locator("#strength").get_attribute("max") == "3", "the model has four times"
    assert out.inner_text() == "follow my drawing"
    studio.stroke((0.2, 0.2), (0.8, 0.3), (0.7, 0.8))
    studio.settle()
    made, said = [studio.pixels()], [out.inner_text()]
    for stop in ("1", "2", "3"):
        assert note.is_hidden()
        made.append(studio.change(lambda stop=stop: page.locator("#strength").fill(stop)))
        said.append(out.inner_text())
    assert said == ["follow my drawing", "keep some of it", "take a hint of it", "ignore it"]
    assert page.locator("#strength").get_attribute("aria-valuetext") == "ignore it"
    assert page.locator("#fact-steps").inner_text() == "4", "at strength 1 all of them"
    assert note.is_visible()
    assert "counts for nothing" in note.inner_text()
    assert len({picture.tobytes() for picture in made}) == 4
    number = studio.id
    studio.stroke((0.1, 0.9), (0.9, 0.9))
    studio.until(lambda: studio.id > number, "the picture of another drawing")
    studio.settle()
    assert np.array_equal(studio.pixels(), made[3]), "that is what it says"
    page.locator("#tab-camera").click()
    assert out.inner_text() == "follow the camera"
    assert page.locator("#view-camera .ignored").is_hidden()
    page.locator("#tab-draw").click()
    assert out.inner_text() == "ignore it", "what was chosen in this tab"


def test_models_with_other_times_offer_theirs(studio: Studio):
    """Times that lie unevenly, many of them, and none that are told."""
    found = studio.get(
        """async () => { const { Follow } = await import("./web/follow.js");
            const slider = document.querySelector("#strength"), out = document.querySelector("#strength-out");
            const follow = new Follow(() => {});
            return [[0.1, 0.35, 1], [0.9, 0.85, 0.1, 0.2, 1], []].map(times => { follow.meet({ model: { times } });
                return [...Array(Number(slider.max) + 1).keys()].map(stop => { slider.value = stop;
                    slider.dispatchEvent(new Event("input")); return `${follow.strength}: ${out.textContent}` }) }) }"""
    )
    assert found[0] == ["0.1: follow my drawing", "0.35: keep some of it", "1: ignore it"]
    assert found[1][:2] == ["0.1: follow my drawing, 0.10", "0.2: follow my drawing, 0.20"], "two that follow are told apart"
    assert [one.split(":")[0] for one in found[1]] == ["0.1", "0.2", "0.85", "0.9", "1"]
    assert [one.split(":")[0] for one in found[2]] == ["0.2", "0.4", "0.6", "0.8", "1"]


def test_the_camera_proposes_a_prompt_that_can_follow_until_one_is_typed(studio: Studio):
    page = studio.page
    prompt = page.locator("#prompt")
    page.locator("#tab-camera").click()
    assert prompt.input_value() == "a robot"
    page.locator("#tab-draw").click()
    assert prompt.input_value() == "a red heart"
    prompt.fill("the sun")
    page.locator("#tab-camera").click()
    assert prompt.input_value() == "the sun"


# what outlives a reload


def test_a_reload_keeps_drawing_prompt_settings_and_history(studio: Studio, tmp_path: Path):
    page = studio.page
    Image.fromarray(np.full((40, 40, 3), (20, 120, 220), np.uint8)).save(tmp_path / "blue.png")
    page.set_input_files("#file", tmp_path / "blue.png")
    page.get_by_role("radio", name="green").click()
    page.locator("#brush").fill("60")
    studio.stroke((0.2, 0.2), (0.8, 0.8))
    page.keyboard.press("r")
    studio.stroke((0.5, 0.2), (0.5, 0.6))
    for field, value in (("prompt", "the moon"), ("seed", "12"), ("strength", "2"), ("smoothing", "0.3"), ("blend", "0.4"),
                         ("blend-prompt", "a cat"), ("target", "80")):  # fmt: skip
        page.locator(f"#{field}").fill(value)
    page.locator("#pin-steps").select_option("2")
    page.locator("#format").select_option("webp")
    page.locator("#lock").click()
    page.locator("#lock").click()
    page.locator("#with-prompt").click()
    page.locator("#tab-type").click()
    strip = page.locator("#history .thumb")
    studio.until(lambda: strip.first.get_attribute("title") == "the moon, seed 12", "the strip to keep it")
    page.locator("#prompt").fill("the sun")
    studio.until(lambda: strip.first.get_attribute("title") == "the sun, seed 12", "the strip to keep that, too")
    page.locator("#tab-draw").click()
    studio.settle()
    canvas, result, number = studio.pixels("#canvas"), studio.pixels(), studio.get("history.length")

    def state() -> list[Any]:
        ids = ["prompt", "seed", "strength", "smoothing", "blend", "blend-prompt", "brush", "format", "pin-steps", "target"]
        return [
            *studio.get("ids => ids.map(id => document.getElementById(id).value)", ids),
            *studio.get("""["lock", "with-prompt"].map(id => document.getElementById(id).ariaPressed)"""),
            page.get_by_role("radio", name="green").get_attribute("aria-checked"),
            page.locator("#target-out").inner_text(),
            [strip.nth(i).get_attribute("title") for i in range(strip.count())],
        ]

    was = state()
    page.reload()
    studio.wrong.clear()
    studio.live()
    studio.until(lambda: np.abs(studio.pixels("#canvas").astype(int) - canvas).max() < 8, "the drawing")
    assert np.array_equal((studio.pixels("#canvas") == (0x46, 0xA7, 0x58)).all(-1), (canvas == (0x46, 0xA7, 0x58)).all(-1))
    assert not page.locator("#layer-region").is_disabled()
    assert state() == was
    assert studio.get("history.length") == number
    studio.settle()
    studio.until(lambda: np.abs(studio.pixels().astype(int) - result).mean() < 4, "its picture: a photo is kept nearly as it was")
    page.locator("#tab-type").click()
    studio.until(lambda: strip.first.locator("img").evaluate("i => i.naturalWidth") > 0, "the strip's pictures")
    studio.change(lambda: strip.nth(1).click())
    assert page.locator("#prompt").input_value() == "the moon"
    page.locator("#tab-draw").click()
    page.locator("#clear").click()
    page.reload()
    studio.live()
    assert studio.pixels("#canvas").min() == 255, "what was cleared stays away"


@pytest.mark.parametrize("trouble", ["switched off", "full"])
def test_a_page_that_can_keep_nothing_works_and_says_so(browser: Any, address: str, trouble: str):
    broken = {
        "switched off": "for (const store of ['localStorage', 'sessionStorage']) Object.defineProperty(window, store, "
        "{ get() { throw new DOMException('no', 'SecurityError') } })",
        "full": "Storage.prototype.setItem = () => { throw new DOMException('no', 'QuotaExceededError') }",
    }
    with studio_in(browser, f"keeps_nothing_{trouble.replace(' ', '_')}") as studio:
        studio.page.add_init_script(broken[trouble])
        studio.open(address).live()
        toast = studio.page.locator("#toast")
        assert toast.is_hidden(), "nothing is lost yet"
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        studio.until(lambda: "a reload loses the drawing" in toast.inner_text(), "a sentence that says so")
        studio.page.locator("#theme").click()


def test_what_somebody_else_left_in_the_storage_harms_nothing(studio: Studio):
    for nonsense in ("[1, {]", "7", '{"layers": {"ink": "data:image/png;base64,AAAA", "photo": 4}, "fields": 3, "brush": [], '
                     '"strength": {"draw": "x"}, "tab": "__proto__", "toggles": {"lock": 1}, "targetMs": "x"}'):  # fmt: skip
        studio.get(
            """nonsense => { for (const name of ["settings", "drawing", "history"]) {
                localStorage.setItem(`fewstep ${location.pathname} ${name}`, nonsense) } }""",
            nonsense,
        )
        studio.get("addEventListener('pagehide', e => e.stopImmediatePropagation(), true)")
        studio.page.reload()
        studio.live()
        assert studio.page.locator("#strength-out").inner_text() == "follow my drawing"
        assert studio.page.locator("#view-draw").is_visible()
    assert studio.wrong == []


# what was not drawn, and other small truths


def test_no_old_picture_stands_for_a_refused_prompt(browser: Any, host: Host, tmp_path: Path):
    (tmp_path / "words.txt").write_text("moon\n")
    port = free_port()
    host.serve(port, budget="60s", safety=str(tmp_path / "words.txt"))
    with studio_in(browser, "refused") as studio:
        page = studio.open(f"http://localhost:{port}/").live().page
        page.locator("#prompt").fill("the moon")
        cover = page.locator("#cover")
        studio.until(cover.is_visible, "the old picture to go")
        assert page.locator("#cover-title").inner_text() == "Not drawn"
        assert page.locator("#save").is_disabled(), "there is nothing to save"
        assert studio.get("""(c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some(v => v))(
            document.querySelector("#result"))""") is False  # fmt: skip
        assert page.locator("#result").get_attribute("aria-label").startswith("No picture: ")
        assert studio.pill == "Live"
        studio.screen("refused_cover")
        page.locator("#prompt").fill("the sun")
        studio.until(cover.is_hidden, "the picture of what is not refused")
        assert page.locator("#save").is_enabled()
        page.locator("#tab-type").click()
        studio.until(lambda: page.locator("#variations .thumb:not(.waiting)").count() == 4, "its variations")
        assert page.locator("#history .thumb").count() == 1, "and nothing refused among what is kept"


def test_a_network_that_goes_away_is_noticed_at_once(browser: Any, address: str):
    with studio_in(browser, "offline") as studio:
        studio.open(address).live()
        watch = "new MutationObserver(() => seen.push(state.dataset.state)).observe(state, {attributes: true})"
        studio.get(f"window.seen = [], {watch}, 0")
        studio.page.context.set_offline(True)
        studio.until(lambda: "lost" in studio.get("seen"), "the page to notice, long before a ping is missed", seconds=10)
        studio.page.context.set_offline(False)
        studio.until(lambda: studio.state in LIVE, "the way back")
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        studio.wrong[:] = [text for text in studio.wrong if "ERR_INTERNET_DISCONNECTED" not in text]


def test_a_seed_that_is_none_is_put_right_and_said(studio: Studio):
    page = studio.page
    for typed, used in (("99999999999", "2147483647"), ("-4", "0"), ("3.7", "3"), ("", "0")):
        page.locator("#seed").fill(typed)
        page.locator("#seed").blur()
        assert page.locator("#seed").input_value() == used
        assert f"this one is now {used}" in page.locator("#toast").inner_text()
    page.locator("#toast").evaluate("toast => toast.textContent = ''")
    page.locator("#seed").fill("12")
    page.locator("#seed").blur()
    assert page.locator("#toast").text_content() == ""


def test_control_z_gives_a_typed_prompt_back(studio: Studio):
    page = studio.page
    prompt = page.locator("#prompt")
    prompt.fill("my very own words")
    page.locator("#ideas button").nth(1).click()
    idea = prompt.input_value()
    assert idea != "my very own words"
    page.keyboard.press("Control+z")
    assert prompt.input_value() == "my very own words"
    page.keyboard.press("Control+Shift+z")
    assert prompt.input_value() == idea
    prompt.click()
    page.keyboard.press("Control+z")
    assert prompt.input_value() == "my very own words", "also from the field itself"
    studio.settle()
    page.locator("#ideas button").nth(2).click()
    studio.stroke((0.2, 0.2), (0.8, 0.8))
    page.keyboard.press("Control+z")
    assert studio.pixels("#canvas").min() == 255, "what was done last goes first"
    assert prompt.input_value() != "my very own words"
    page.locator("#tab-type").click()
    page.keyboard.type("!")
    changed = prompt.input_value()
    page.keyboard.press("Control+z")
    assert prompt.input_value() in (changed, changed.rstrip("!")), "typing is the browser's own to take back"


def test_two_fingers_do_not_draw(browser: Any, address: str):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with studio_in(browser, "two_fingers", **phone) as studio:
        page = studio.open(address).live().page
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        touch = page.context.new_cdp_session(page)

        def fingers(kind: str, *places: tuple[float, float]) -> None:
            at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(at)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", (0.3, 0.3))
        fingers("touchMove", (0.35, 0.35))
        studio.until(lambda: studio.pixels("#canvas").min() < 255, "one finger to draw")
        fingers("touchStart", (0.35, 0.35), (0.7, 0.7))
        fingers("touchMove", (0.3, 0.3), (0.75, 0.75))
        fingers("touchMove", (0.25, 0.25), (0.8, 0.8))
        fingers("touchEnd", (0.25, 0.25))
        fingers("touchMove", (0.4, 0.2))
        fingers("touchEnd")
        studio.until(lambda: studio.pixels("#canvas").min() == 255, "two to leave nothing behind")
        page.locator("#redo").tap()
        assert studio.pixels("#canvas").min() < 255, "and what was drawn before the second came can be had back"


def test_a_page_without_a_token_has_a_place_to_paste_one(browser: Any, host: Host):
    port = free_port()
    host.serve(port, token="secret", budget="60s")
    with studio_in(browser, "token") as studio:
        page = studio.open(f"http://localhost:{port}/").page
        field = page.locator("#token")
        studio.until(field.is_visible, "a place for it")
        studio.screen("token_form")
        field.fill("not it")
        field.press("Enter")
        studio.until(lambda: studio.pill == "No access" and field.is_visible() and not field.input_value(), "another try")
        field.fill(f"http://localhost:{port}/#token=secret")
        page.locator("#token-form button").click()
        studio.live()
        assert field.is_hidden()
        assert "secret" not in page.url
        page.reload()
        studio.live()
    with studio_in(browser, "token_not_asked_for") as studio:
        studio.open(f"http://localhost:{port}/#token=secret").live()
        assert studio.page.locator("#token").is_hidden()


# typing


def test_every_keystroke_is_a_picture_and_a_pause_brings_variations(studio: Studio):
    studio.page.locator("#tab-type").click()
    studio.page.locator("#prompt").fill("")
    studio.settle()
    for word in ("red heart", " with face"):
        studio.change(lambda word=word: studio.page.keyboard.type(word))
    variations = studio.page.locator("#variations .thumb:not(.waiting)")
    studio.until(lambda: variations.count() == 4, "four variations")
    strip = studio.page.locator("#history .thumb")
    studio.until(lambda: strip.first.get_attribute("title") == "red heart with face, seed 7", "the strip to keep it")
    studio.page.locator("#prompt").fill("a blue moon")
    studio.until(lambda: strip.first.get_attribute("title") == "a blue moon, seed 7", "the strip to keep that, too")
    studio.until(lambda: variations.count() == 4, "four others")
    studio.change(lambda: variations.nth(1).click())
    assert studio.page.locator("#seed").input_value() == "9"
    strip.last.click()
    assert studio.page.locator("#prompt").input_value() != "a blue moon"


# camera


def test_the_camera_streams_pauses_and_records(studio: Studio, host: Host, tmp_path: Path):
    page = studio.page
    page.locator("#tab-camera").click()
    page.get_by_role("button", name="Start the camera").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 4, "a stream of pictures")
    assert page.locator("#video").get_attribute("class") == "mirrored"
    with page.expect_download() as recorded:
        page.locator("#record").click()
        first = studio.id
        studio.until(lambda: studio.id > first + 4, "pictures to record")
        page.locator("#record").click()
    video = Path(recorded.value.path())
    assert video.read_bytes()[:4] == b"\x1a\x45\xdf\xa3", "a WebM file"
    assert video.stat().st_size > 1000
    assert "file beside them" in page.locator("#camera-note").inner_text()
    with page.expect_download() as signed:
        page.locator("#record-credentials").click()
    film, beside = (tmp_path / given.value.suggested_filename for given in (recorded, signed))
    recorded.value.save_as(film)
    signed.value.save_as(beside)
    assert beside == film.with_suffix(".c2pa")
    verdict = verify(film, VerifyOptions(home=host.home))
    assert (verdict.credentials.state, verdict.credentials.sidecar) == ("trusted", True)
    assert verdict.credentials.ai_generated
    film.write_bytes(film.read_bytes() + b"more")
    assert verify(film, VerifyOptions(home=host.home)).credentials.state == "tampered"
    studio.until(lambda: page.locator("#record-time").inner_text() == "Record", "the clock to stand")
    page.keyboard.press("Escape")
    page.locator("#camera-pause").click()
    studio.settle()
    assert studio.get("document.querySelector('#video').paused")
    page.locator("#camera-pause").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 2, "the stream to go on")
    page.locator("#tab-draw").click()
    assert studio.get("document.querySelector('#video').srcObject === null"), "the camera goes off with its tab"
    page.locator("#tab-camera").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 2, "and comes back with it")


def test_a_recording_is_known_by_its_mark(browser: Any, host: Host, tmp_path: Path):
    """Of a real model, through the page's enlargement and the browser's codec."""
    pytest.importorskip("av", reason="videos are decoded by PyAV: pip install 'fewstep[video]'")
    port = free_port()
    host.serve(port, model="emoji-64", budget="60s")
    with studio_in(browser, "recording", accept_downloads=True) as studio:
        page = studio.open(f"http://localhost:{port}/").live().page
        page.locator("#tab-camera").click()
        page.get_by_role("button", name="Start the camera").click()
        first = studio.id
        studio.until(lambda: studio.id > first, "a picture of the camera")
        with page.expect_download() as recorded:
            page.locator("#record").click()
            first = studio.id
            studio.until(lambda: studio.id > first + 8, "pictures to record")
            page.locator("#record").click()
        recorded.value.save_as(tmp_path / "film.webm")
    verdict = verify(tmp_path / "film.webm", VerifyOptions(home=host.home))
    assert verdict.made_by_fewstep, str(verdict)
    assert verdict.watermark is not None
    named = mark_payload(Card.read(shipped()["emoji-64"]).fingerprint) & 0xFFFF
    assert verdict.watermark.payload in (named, None), "few frames leave its 16 bits in doubt"


# downloads


def test_a_download_carries_its_credentials(studio: Studio, host: Host, tmp_path: Path):
    assert studio.page.locator("#badge").inner_text() == "Signed on download"
    for format, name in (("png", "fewstep-7.png"), ("jpeg", "fewstep-7.jpg"), ("webp", "fewstep-7.webp")):
        studio.page.locator("#format").select_option(format)
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
        verdict = verify(tmp_path / name, VerifyOptions(home=host.home))
        assert verdict.credentials.state == "trusted"
        assert verdict.made_by_fewstep
        assert (verdict.credentials.facts["seed"], verdict.credentials.facts["steps"]) == (7, 4)
        assert "prompt" not in verdict.credentials.facts
    toast = studio.page.locator("#toast")
    studio.until(lambda: "content credentials" in toast.inner_text(), "a word about it")
    assert "prompt" not in toast.inner_text()
    for wanted, told in ((True, "a red heart"), (False, None)):
        studio.page.locator("#with-prompt").click()
        assert studio.page.locator("#with-prompt").get_attribute("aria-pressed") == str(wanted).lower()
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        download.value.save_as(tmp_path / "again.webp")
        verdict = verify(tmp_path / "again.webp", VerifyOptions(home=host.home))
        assert verdict.credentials.facts.get("prompt") == told
        assert ("prompt 'a red heart'" in str(verdict)) == wanted
        studio.until(lambda wanted=wanted: ("the prompt" in toast.inner_text()) == wanted, "a word about that, too")


# the budget


def test_the_panel_shows_where_the_time_goes(studio: Studio):
    page = studio.page
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
    assert studio.pill == "Live"
    assert page.locator("#fact-steps").inner_text() == "1", "of 4, since it starts from a drawing, near to it"
    assert page.locator("#fact-size").inner_text() == "32 px"
    assert float(page.locator("#glass").inner_text()) > 0
    assert "network" in page.locator("#bar").get_attribute("aria-label")
    assert page.locator("#segments i").count() == page.locator("#legend li").count() >= 4
    studio.until(lambda: re.match(r"\d+ of 8", page.locator("#fact-people").inner_text()), "the people who are here")
    page.locator("#target").fill("0")
    assert page.locator("#target-out").inner_text() == "10 ms"

    def late() -> bool:
        """While something is asked for; at rest nothing is late."""
        studio.stroke((0.3, 0.2), (0.8, 0.7))
        return studio.pill in ("Over target", "Live, lighter")

    studio.until(late, "a warning while strokes are late")
    studio.until(lambda: page.locator("#fact-steps").inner_text() == "1", "fewer steps")
    assert page.locator("#shed").is_visible()
    studio.until(lambda: studio.pill == "Live", "the warning to go when nothing is asked for")
    page.locator("#strength").fill("3")
    page.locator("#pin-steps").select_option("2")
    studio.until(lambda: page.locator("#fact-steps").inner_text() == "2", "the steps that were pinned")


def test_the_panel_forgets_the_stages_of_another_kind_of_picture(studio: Studio):
    """A picture of words alone comes out of no decoder and goes into no codec."""
    page, legend = studio.page, studio.page.locator("#legend")
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
    studio.until(lambda: "codec in" in legend.inner_text(), "the stages of a drawing")
    studio.change(lambda: page.locator("#tab-type").click())
    studio.until(lambda: "codec in" not in legend.inner_text(), "them to go", seconds=5)
    assert "codec in" not in page.locator("#bar").get_attribute("aria-label")
    studio.change(lambda: page.locator("#tab-draw").click())
    studio.until(lambda: "codec in" in legend.inner_text(), "them to come back")
    shown = studio.get(
        """async () => { const panel = new (await import("/web/panel.js")).Panel(() => {});
            const header = { ...panel.last, shed: [], encoder: "png", server_ms: 20 };
            panel.note({ ...header, stages_ms: { decode: 9, codec_in: 5, network: 6 } }, 30, "image");
            panel.note({ ...header, stages_ms: { decode: 0.01, network: 20 } }, 40, "text");
            panel._show();
            return legend.innerText.split(/\\s+/) }"""
    )
    assert shown == ["network", "20", "travel", "20"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("phone", {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "color_scheme": "light"}),
     ("desk", {"viewport": {"width": 1600, "height": 1000}})],
)  # fmt: skip
def test_the_percentiles_of_every_stage_are_at_hand(browser: Any, address: str, name: str, options: dict[str, Any]):
    with studio_in(browser, f"percentiles_{name}", **options) as studio:
        page = studio.open(address).live().page
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        rows = page.locator("#tails-rows")
        assert rows.is_visible() == (name == "desk"), "where there is room they are open"
        if not rows.is_visible():
            page.locator("#tails summary").click()
        studio.until(lambda: rows.locator("tr").filter(has_text="to the eye").count(), "the server's own numbers")
        stages = {row[0]: [float(ms) for ms in row[1:]] for row in
                  (line.split() for line in rows.inner_text().splitlines()) if len(row) == 4}  # fmt: skip
        assert {"waiting", "network", "encode", "travel"} <= set(stages)
        for p50, p95, p99 in stages.values():
            assert 0 <= p50 <= p95 <= p99
        assert stages["network"][0] > 0
        assert studio.get(STANDING_OUT) == []
        page.locator("#tails").scroll_into_view_if_needed()
        studio.screen(f"percentiles_{name}_open", whole=True)


# without a pointer, and on a phone


def test_everything_is_within_reach_of_the_keyboard(studio: Studio):
    page = studio.page
    reached, ring = [], set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name = "e.id || e.dataset.tool || e.title || e.textContent"
        seen = studio.get(f"(e => [{name}, getComputedStyle(e).outlineStyle])(document.activeElement)")
        if reached and seen[0] == reached[0]:
            break
        reached.append(seen[0])
        ring.add(seen[1])
    wanted = {
        "tab-draw", "theme", "prompt", "brush", "open", "canvas", "red", "save", "format", "crisp", "strength",
        "blend-prompt", "dice", "lock", "target", "pin-steps",
    }  # fmt: skip
    assert wanted <= set(reached), wanted - set(reached)
    assert "auto" not in ring, "the page draws its own rings"
    page.locator("[data-tool=brush]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.locator("[data-tool=brush]").get_attribute("aria-checked") == "true"
    page.locator("#canvas").focus()

    def draw() -> None:
        for key in ("Space", *["ArrowRight"] * 8, *["ArrowDown"] * 8, "Space"):
            page.keyboard.press(key)

    studio.change(draw)
    assert (studio.pixels("#canvas") == (0xE5, 0x48, 0x4D)).all(-1).mean() > 0.02
    page.locator("#tab-draw").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#view-type").is_visible()
    with page.expect_download():
        page.keyboard.press("Control+s")


def test_tabs_and_brush_are_ruled_by_keys(studio: Studio):
    page = studio.page
    focus = "document.activeElement.id || document.activeElement.ariaLabel"
    page.locator("#tab-draw").focus()
    for key, name in (("ArrowRight", "camera"), ("ArrowRight", "type"), ("ArrowRight", "draw"), ("ArrowLeft", "type")):
        page.keyboard.press(key)
        assert studio.get(focus) == f"tab-{name}"
        assert page.locator(f"#view-{name}").is_visible()
        assert page.locator(f"#tab-{name}").get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("radio", name="red", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert studio.get(focus) == "orange"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert studio.get(focus) == "brush", "past the colour of one's own to the size"
    for key, size in (("End", "120"), ("[", "114"), ("Home", "4"), ("ArrowRight", "5"), ("]", "11"), ("]", "17")):
        page.keyboard.press(key)
        assert page.locator("#brush").input_value() == size
    page.locator("[data-tool=brush]").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("[data-tool=eraser]").get_attribute("aria-checked") == "true"
    page.keyboard.press("b")
    page.locator("#canvas").focus()
    for key in ("Space", *["ArrowRight"] * 8, "Space"):
        page.keyboard.press(key)
    ink = studio.pixels("#canvas")
    line = (ink < 250).any(-1).sum()
    assert 0 < line < 96, "a thin line"
    assert (ink == (0xF5, 0xA5, 0x24)).all(-1).any(), "in the new colour"
    for button in ("undo", "redo", "undo"):
        page.locator(f"#{button}").focus()
        page.keyboard.press("Enter")
    assert studio.pixels("#canvas").min() == 255


def test_a_phone_shows_both_pictures_at_once(browser: Any, address: str):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "light"}
    with studio_in(browser, "phone_draw", **phone) as studio:
        studio.open(address).live()
        page = studio.page
        page.locator("#tab-camera").tap()
        page.get_by_role("button", name="Start the camera").tap()
        page.locator("#record").tap()
        with page.expect_download():
            page.locator("#record").tap()
        studio.until(page.locator("#record-credentials").is_visible, "the recording's credentials")
        page.locator("#tab-type").tap()
        studio.until(lambda: page.locator("#variations .thumb:not(.waiting)").count() == 4, "four variations")
        for name in ("camera", "type", "draw"):
            page.locator(f"#tab-{name}").tap()
            assert studio.get("(e => e.scrollWidth <= e.clientWidth)(document.documentElement)")
            assert studio.get(STANDING_OUT) == [], f"nothing stands out of the {name} tab"
            studio.screen(f"phone_{name}", whole=True)
        boxes = [studio.page.locator(place).bounding_box() for place in ("#result", "#canvas", "#swatches", "nav")]
        tops = [box["y"] for box in boxes]
        assert tops == sorted(tops)
        assert all(box["y"] + box["height"] <= 844 for box in boxes), "all in sight, one under the other"
        buttons = "[...document.querySelectorAll('#view-draw .rail button, nav button')].map(b => b.getBoundingClientRect())"
        assert min(min(b["width"], b["height"]) for b in studio.get(f"{buttons}.map(b => b.toJSON())")) >= 34


def test_the_colours_keep_to_their_box(studio: Studio):
    page = studio.page
    for width, height in ((320, 640), (360, 740), (390, 844), (1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        box, size, *colours = studio.get("[swatches, brush, ...swatches.children].map(e => e.getBoundingClientRect().toJSON())")
        assert len(colours) == 11
        for colour in colours:
            assert box["left"] < colour["left"] < colour["right"] < box["right"], f"at {width} px"
            assert colour["width"] >= 18
        assert size["left"] >= box["right"] or size["top"] >= box["bottom"], "the brush is beside or below them"
        assert size["width"] >= 60
        assert studio.get(STANDING_OUT) == []
        studio.screen(f"colours_{width}", whole=True)


def test_light_and_dark_on_a_laptop_and_a_tablet(studio: Studio):
    assert studio.get("document.documentElement.scrollHeight") <= 800, "everything fits one laptop screen"
    studio.screen("laptop_dark")
    dark = studio.get("getComputedStyle(document.querySelector('.panel')).backgroundColor")
    studio.page.locator("#theme").click()
    assert studio.get("getComputedStyle(document.querySelector('.panel')).backgroundColor") != dark
    studio.screen("laptop_light")
    studio.page.reload()
    assert studio.get("document.documentElement.dataset.theme") == "light", "the choice is kept"
    studio.live()
    studio.page.set_viewport_size({"width": 900, "height": 1000})
    assert studio.get(STANDING_OUT) == []


# on a page of somebody else


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the origin that it is served from: not the studio's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(ROOT / "src" / "fewstep" / "server" / "web" / "wire.js", folder)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *said: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as serving:
        (folder / "favicon.ico").touch()
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://localhost:{serving.server_port}"
        serving.shutdown()


def example(address: str) -> str:
    """The page of docs/protocol.md, for a server at this address."""
    page = (ROOT / "docs" / "protocol.md").read_text().split("```html\n")[1].split("```")[0]
    assert "http://localhost:7860" in page
    return "<!doctype html>" + page.replace("http://localhost:7860", address)


def test_a_strangers_page_draws_where_it_was_allowed(browser: Any, host: Host, elsewhere: tuple[Path, str]):
    folder, origin = elsewhere
    port = free_port()
    host.serve(port, budget="60s", origins=[origin], token="secret")
    address = f"http://localhost:{port}"
    page = example(f"{address}#token=secret")
    (folder / "index.html").write_text(page.replace("./wire.js", f"{address}/web/wire.js"))
    with studio_in(browser, "elsewhere") as studio:

        def drawn() -> bool:
            studio.page.locator("#go").click()
            return studio.get("picture.naturalWidth") == 32

        wait_for(address)  # the page takes wire.js from there
        studio.open(origin)
        studio.until(lambda: studio.get("Boolean(go.onclick)"), "the page to have read its script")
        studio.until(drawn, "a picture on the stranger's page")
        studio.get(
            """async address => { const { connect } = await import("./wire.js");
                window.link = await connect(address, { token: "secret" }) }""",
            address,
        )
        asked = """async () => { const image = new ImageData(new Uint8ClampedArray(4 * 32 * 32).fill(200), 32, 32);
            const all = await Promise.all([
                ...[1, 2, 3, 4].map(seed => link.draw({ prompt: "a cat", seed })),
                link.draw({ prompt: "a cat", seed: 5, image, strength: 0.5 }),
                link.draw({ prompt: "a cat", seed: 6, image: new Blob(["nonsense"], { type: "image/png" }) }).catch(e => e.code),
                link.draw({ prompt: "a cat", steps: 3 }).catch(e => `${e.name}: ${e.message}`),
                link.draw({ prompt: "a dog", seed: 7, encoder: "png" }),
                link.draw({ prompt: "a cat", image: new Blob([new Uint8Array(9 << 20)], { type: "image/png" }) })
                    .catch(e => `${e.code}: ${e.message}`)]);
            const file = await link.file(all[7].id, { prompt: true });
            return { seeds: all.map(p => p.seed ?? p), type: all[7].blob.type, inside: (await link.stats()).room.inside,
                     file: [...new Uint8Array(await file.arrayBuffer())] } }"""
        said = studio.get(asked)
        assert said["seeds"][:6] + said["seeds"][7:8] == [1, 2, 3, 4, 5, "picture", 7], "each gets its own answer"
        assert re.match("ServerError: .*trained for 1, 2, 4 steps", said["seeds"][6])
        assert re.match("picture: .*943\\d{4} bytes, too large .* --limits.message-bytes", said["seeds"][8])
        assert (said["type"], said["inside"]) == ("image/png", 2)
        (folder / "file.png").write_bytes(bytes(said["file"]))
        assert verify(folder / "file.png", VerifyOptions(home=host.home)).credentials.facts["prompt"] == "a dog"
        ended = """async () => { const open = link.draw({ prompt: "never" }).catch(e => e.code); link.close(); link.close();
            return [link.state, await open, await link.draw({}).catch(e => e.code)] }"""
        assert studio.get(ended) == ["closed", "closed", "closed"]
        assert studio.get("link.stats().catch(e => e.message)") == "this session is closed: connect again"


def test_a_strangers_page_is_told_why_it_may_not(browser: Any, address: str, elsewhere: tuple[Path, str]):
    folder, origin = elsewhere
    (folder / "index.html").write_text(example(address.rstrip("/")))
    with studio_in(browser, "not_allowed") as studio:
        studio.open(origin)
        said = studio.page.locator("#said")
        studio.until(lambda: said.inner_text(), "a sentence")
        sentence = f"pages from {origin} may not use this server: start it with --origins {origin} to allow them"
        assert said.inner_text() == sentence
        nobody = f"http://localhost:{free_port()}"
        (folder / "nobody.html").write_text(example(nobody))
        studio.open(f"{origin}/nobody.html")
        studio.until(lambda: said.inner_text(), "another sentence")
        assert "fewstep serve" in said.inner_text()


def test_a_page_of_another_version_is_told_to_reload(browser: Any, address: str):
    """Such as one that stayed open while the server under it was updated."""
    wire = (ROOT / "src" / "fewstep" / "server" / "web" / "wire.js").read_text()
    old = wire.replace("export const VERSION = 1;", "export const VERSION = 0;")
    assert old != wire
    with studio_in(browser, "old_page") as studio:
        studio.page.route("**/web/*/wire.js", lambda route: route.fulfill(body=old, content_type="text/javascript"))
        studio.open(address)
        studio.until(lambda: studio.pill == "No access", "the page to be told")
        told = studio.page.locator("#cover-text").inner_text()
        assert "version 0 of the protocol, the server version 1: reload the page, or update the client" in told


def test_a_draw_survives_the_server(browser: Any, host: Host, elsewhere: tuple[Path, str]):
    """What was asked for while a server died is drawn by the next one."""
    folder, origin = elsewhere
    (folder / "index.html").write_text("<!doctype html><title>somebody's page</title>")
    port = free_port()
    server = host.serve(port, origins=[origin])
    join = """async address => { const { connect } = await import("./wire.js");
        return connect(address).then(link => Boolean(window.link = link), () => false) }"""
    with studio_in(browser, "survived") as studio:
        studio.open(origin)
        studio.until(lambda: studio.get(join, f"http://localhost:{port}"), "the server")
        os.kill(server, signal.SIGSTOP)
        studio.get("window.asked = link.draw({ prompt: 'a cat', seed: 3 }), 0")
        os.kill(server, signal.SIGKILL)
        studio.until(lambda: studio.get("link.state") == "lost", "the page to notice")
        host.serve(port, origins=[origin])
        assert studio.get("asked.then(picture => picture.seed)") == 3


# when the connection is not what it should be


def test_a_server_killed_in_mid_stroke_is_found_again(browser: Any, host: Host):
    port = free_port()
    server = host.serve(port)
    with studio_in(browser, "recovered") as studio:
        studio.open(f"http://localhost:{port}/").live()
        studio.stroke((0.1, 0.2), (0.5, 0.4), release=False)
        os.kill(server, signal.SIGKILL)
        studio.until(lambda: studio.pill == "Reconnecting", "the page to notice")
        studio.screen("lost")
        before, number = studio.pixels("#canvas"), studio.id
        box = studio.page.locator("#canvas").bounding_box()
        studio.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
        assert not np.array_equal(studio.pixels("#canvas"), before), "the stroke goes on while nobody answers"
        studio.page.keyboard.press("Control+s")
        studio.until(lambda: "cannot be reached" in studio.page.locator("#toast").inner_text(), "a download to say so")
        studio.wrong[:] = [text for text in studio.wrong if "ERR_CONNECTION_REFUSED" not in text]
        host.serve(port)
        studio.until(lambda: studio.id > number and studio.state in LIVE, "a picture of the whole stroke, by itself")
        studio.page.mouse.up()
        studio.change(lambda: studio.stroke((0.9, 0.1), (0.1, 0.9)))
        number = studio.id
        os.kill(host.pids[-1], signal.SIGKILL)
        studio.until(lambda: studio.pill == "Reconnecting", "the page to notice again")
        host.serve(port)
        studio.until(lambda: studio.id > number, "the picture to be drawn anew, though nobody moves")
        with studio.page.expect_download():  # the new server has it
            studio.page.locator("#save").click()


def test_a_server_that_says_nothing_is_waited_for(browser: Any, address: str):
    with studio_in(browser, "connecting") as studio:
        studio.page.route_web_socket("**/v1/stream", lambda socket: None)  # opened, and never answered
        studio.open(address)
        cover = studio.page.locator("#cover-text")
        studio.until(lambda: cover.inner_text() == "Connecting …", "the page's own words")
        assert studio.pill == "Connecting"
        studio.stroke((0.2, 0.2), (0.8, 0.8))
        assert studio.pixels("#canvas").min() < 255, "who waits can draw already"
        studio.until(lambda: studio.pill == "Reconnecting", "the page to lose its patience")


def test_a_target_that_cannot_be_kept_shows_and_so_does_what_is_given_up_for_it(browser: Any, host: Host):
    port = free_port()
    host.serve(port)
    with studio_in(browser, "target") as studio:
        studio.open(f"http://localhost:{port}/").live()
        page = studio.page
        page.locator("#tab-camera").click()
        page.get_by_role("button", name="Start the camera").click()

        def said() -> list[str]:
            """The pill, and what the panel gives up: it follows the pill by a frame."""
            return studio.get(
                """["#state span", "#shed"].map(what => document.querySelector(what)).map(e => e.hidden ? "" : e.innerText)"""
            )

        def aim(target_ms: float, pill: str, given_up: str) -> bool:
            page.locator("#target").fill(str(min(100, max(0, round(50 * math.log10(target_ms / 10))))))
            deadline = time.monotonic() + 1
            while not (met := re.fullmatch(f"{pill}\n{given_up}", "\n".join(said()))) and time.monotonic() < deadline:
                page.wait_for_timeout(30)
            return bool(met)

        studio.until(lambda: aim(10, "Over target", "over target"), "10 ms to be too few")
        above = itertools.cycle(1 + 0.06 * i for i in range(20))  # the slowest tenth of the way counts, not the middle

        def scarce() -> bool:
            return aim(next(above) * float(page.locator("#glass").inner_text()), "Live, lighter", ".+")

        studio.until(scarce, "a target that can be kept by giving something up")
        studio.screen("shed")
        studio.until(lambda: aim(1000, "Live", ""), "a second to be enough")


@pytest.mark.parametrize("stated", [True, False])
def test_a_picture_too_large_for_the_server_comes_smaller_or_not_at_all(
    browser: Any, host: Host, tmp_path: Path, stated: bool
):
    """Bare pixels of 32 px are over this limit, as a file they are not, except of noise. No frame ends two connections."""
    port = free_port()
    host.serve(port, budget="60s", limits={"message_bytes": 2000}, narrow=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "noise.png")
    sockets: list[Any] = []

    def through(page: Any) -> None:
        """To the server and back, without its word on the limit where the page is to find out by itself."""
        sockets.append(page)
        server = page.connect_to_server()

        def back(frame: bytes) -> None:
            header = dict(unpack(frame).header)
            page.send(pack(header | {"limits": {}}) if header["type"] == "hello" and not stated else frame)

        server.on_message(back)

    with studio_in(browser, f"too_large_{'stated' if stated else 'found_out'}") as studio:
        page = studio.page
        page.route_web_socket("**/v1/stream**", through)
        studio.open(f"http://localhost:{port}/").live()
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        assert len(sockets) == (1 if stated else 2)
        page.set_input_files("#file", tmp_path / "noise.png")
        toast = page.locator("#toast")
        studio.until(lambda: "--limits.message-bytes" in toast.inner_text(), "a sentence with the fix")
        assert re.match("This picture makes a message of [34]\\d{3} bytes, too large", toast.inner_text())
        studio.settle()
        assert len(sockets) == (1 if stated else 3)
        number = studio.id
        page.locator("#layer-photo").click()
        studio.until(lambda: studio.id > number, "the picture of what is not too large")
        assert len(sockets) == (1 if stated else 3), "the connection is still the same"
        # the route notices a closed connection later than a page of its own would, and sends on it meanwhile
        studio.wrong[:] = [text for text in studio.wrong if "CLOSING or CLOSED" not in text]


def test_who_asks_for_nothing_rests_and_comes_back_with_the_next_stroke(browser: Any, host: Host):
    """The page's own pings and questions keep nobody's place."""
    port = free_port()
    host.serve(port, limits={"idle_s": 3.0})
    with studio_in(browser, "resting") as studio:
        studio.open(f"http://localhost:{port}/").live()
        studio.until(lambda: studio.pill == "Resting", "the page to rest")
        assert "comes back" in studio.page.locator("#state").get_attribute("title")
        number = studio.id
        studio.stroke((0.2, 0.2), (0.8, 0.8))
        studio.until(lambda: studio.id > number and studio.state in LIVE, "the stroke's picture")


def test_a_model_that_cannot_be_opened_shows(browser: Any, host: Host, tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    port = free_port()
    host.serve(port, hold=str(gate), limits={"picture_pixels": 100})
    with studio_in(browser, "failed") as studio:
        studio.open(f"http://localhost:{port}/")
        studio.until(lambda: studio.pill == "Warming up", "the server to begin")
        studio.get(
            """window.shown = []; new MutationObserver(() => shown.push(document.querySelector(".right").innerText,
                document.querySelector("#cover").innerText)).observe(document.body, {subtree: true, characterData: true,
                childList: true}), 0"""
        )
        gate.unlink()
        studio.until(lambda: studio.pill == "Reconnecting", "the server to end")
        shown = " ".join(studio.get("shown"))
        assert "Out of order" in shown
        assert "use --limits.picture-pixels 1024" in shown, "and why"


def test_a_full_house_shows_the_place_in_the_queue(browser: Any, host: Host):
    port = free_port()
    host.serve(port, limits={"sessions": 1, "queue": 1})
    address = f"http://localhost:{port}/"
    with studio_in(browser, "moved_up") as second, studio_in(browser, "full") as third:
        with studio_in(browser, "inside") as first:
            first.open(address).live()
            second.open(address)
            second.until(lambda: second.pill == "In the queue", "the queue")
            assert second.page.locator("#cover-title").inner_text() == "You are number 1"
            second.stroke((0.1, 0.2), (0.5, 0.4))
            assert second.pixels("#canvas").min() < 255, "who waits can draw already"
            second.screen("queue")
            third.open(address)
            third.until(lambda: third.pill == "Full", "the sign at the door")
            assert third.page.locator("#cover-title").inner_text() == "Everything is taken"
            third.screen("full_cover")
        second.live()
        third.until(lambda: third.pill == "In the queue", "a free place in the queue")


def test_a_token_a_slow_start_and_no_provenance_all_show(browser: Any, host: Host, tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    port = free_port()
    host.serve(port, token="secret", provenance=False, hold=str(gate))
    for wrong in ("", "#token=not it, m%C3%BCller"):  # also one that no subprotocol can be made of
        with studio_in(browser, "no_access") as stranger:
            stranger.open(f"http://localhost:{port}/{wrong}")
            stranger.until(lambda: stranger.pill == "No access", "the stranger to be told", seconds=20)
            assert "token is missing or wrong" in stranger.page.locator("#cover-text").inner_text()
    with studio_in(browser, "no_provenance") as studio:
        studio.open(f"http://localhost:{port}/#token=secret")
        studio.until(lambda: studio.pill == "Warming up", "the server to say what it does")
        studio.until(lambda: "large model" in studio.page.locator("#cover-text").inner_text(), "and what it opens")
        assert "secret" not in studio.page.url
        studio.screen("warming")
        gate.unlink()
        studio.live()
        assert studio.page.locator("#cover").is_hidden()
        assert studio.page.locator("#badge").inner_text() == "No provenance"
        assert studio.page.locator("#with-prompt").is_disabled(), "there are no credentials to write it into"
        assert "beside" not in studio.page.locator("#camera-note").text_content()
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        assert verify(download.value.path(), VerifyOptions(home=host.home)).credentials.state == "absent"
