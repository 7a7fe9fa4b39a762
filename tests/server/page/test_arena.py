"""The arena's page in a browser: two raters of known preference vote until all is judged; and the page for everybody."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arena_helpers import NAMES, folders
from fewstep.arena import command
from fewstep.arena.app import LIMITS, Arena, build
from fewstep.arena.report import report
from fewstep.arena.votes import VoteStore
from fewstep.data.dataset import no_progress
from fewstep.ranges import USUAL
from fewstep.server.access import address
from fewstep.server.app import listen, server
from page.studio import AXE, STANDING_OUT, Studio, studio_in

SIZES = ((320, 568), (390, 844), (640, 360), (1280, 800))
JUDGED = """() => {
    const of = id => {
        const c = new OffscreenCanvas(64, 64).getContext("2d"), s = { red: 0, green: 0, blue: 0, squares: 0 };
        c.drawImage(document.getElementById(id), 0, 0, 64, 64);
        const d = c.getImageData(0, 0, 64, 64).data;
        for (let p = 0; p < d.length; p += 4) {
            s.red += d[p] / 4096; s.green += d[p + 1] / 4096; s.blue += d[p + 2] / 4096; s.squares += d[p + 1] ** 2 / 4096;
        }
        return { ...s, noise: s.squares - s.green ** 2 };
    };
    return [of("left"), of("right"), ...["prompt", "question"].map(id => document.getElementById(id).textContent)];
}"""


@contextlib.contextmanager
def served(home: Path, **more: Any) -> Iterator[tuple[Path, dict[str, str], VoteStore]]:
    """An arena of the coloured pictures on a free port; the run, each rater's address, and the votes."""
    models = tuple(str(folder) for folder in folders(home))
    o = command.Options(**{"models": models, "out": home / "run", "trials": 24, "seed": 7} | more)
    plan = command.prepare(o, USUAL, "fewstep arena", no_progress)
    store = VoteStore(o.out, plan)
    tokens = store.admit(("anna", "ben"))
    taken = listen("127.0.0.1", 0)
    running = server(build(Arena(o.out, plan, store)), LIMITS)
    thread = threading.Thread(target=running.run, args=([taken],), daemon=True)
    thread.start()
    try:
        yield o.out, {name: address("127.0.0.1", taken.getsockname()[1], token) for name, token in tokens.items()}, store
    finally:
        running.should_exit = True
        thread.join(20)
        store.close()


def ready(tab: Studio) -> bool:
    """A pair is here, or the end."""
    shown = "document.querySelector('#pair').getAttribute('aria-busy') === 'false'"
    return tab.get(f"!document.querySelector('#end').hidden || {shown}")


def wish(tab: Studio) -> str:
    """Redder looks better, noise looks worse, and the blue that the prompt names is what was asked for."""
    left, right, prompt, question = tab.get(JUDGED)
    noisy = left["noise"] - right["noise"]
    if "follows" in question and abs(noisy) < 25:
        wanted = 20 + 40 * (ord(prompt[-1]) - 97)
        better = abs(right["blue"] - wanted) - abs(left["blue"] - wanted)
    else:
        better = -noisy if abs(noisy) > 25 else left["red"] - right["red"]
    return "tie" if abs(better) < 5 else "left" if better > 0 else "right"


def judge(tab: Studio, touch: bool) -> bool:
    """Answer both questions of a pair; False at the end."""
    tab.until(lambda: ready(tab), "a pair")
    if tab.page.locator("#end").is_visible():
        return False
    done = tab.page.locator("#count").inner_text()
    for n in range(2):
        tab.until(lambda n=n: f"question {n + 1}" in tab.page.inner_text("#question"), "the question")
        side = wish(tab)
        if touch:
            tab.page.locator(f"#answers [data-side={side}]").tap()
        else:
            tab.page.keyboard.press({"left": "ArrowLeft", "tie": "2", "right": "ArrowRight"}[side])
    tab.until(lambda: tab.page.locator("#count").inner_text() != done, "the vote to be kept")
    return True


def test_two_raters_one_by_keyboard_one_by_touch_recover_what_was_planted(own_browser: Any, tmp_path: Path):
    with (
        served(tmp_path) as (run, addresses, store),
        studio_in(own_browser, "arena-anna") as anna,
        studio_in(own_browser, "arena-ben", viewport={"width": 320, "height": 568}, has_touch=True, is_mobile=True) as ben,
    ):
        anna.open(addresses["anna"])
        ben.open(addresses["ben"])
        assert "#" not in anna.page.url, "the token does not stay in the history"
        judge(anna, False)
        anna.until(lambda: ready(anna), "the next pair")
        anna.page.keyboard.press("Backspace")
        anna.until(lambda: anna.page.inner_text("#count").startswith("0 "), "the vote to be taken back")
        left = {"anna": True, "ben": True}
        while any(left.values()):
            left = {"anna": left["anna"] and judge(anna, False), "ben": left["ben"] and judge(ben, True)}
        assert "Thank you, anna" in anna.page.inner_text("#thanks")
        votes = store.votes()
        report(run)
        found = json.loads((run / "results.json").read_text())
        looks = {row["model"]: row["rating"] for row in found["questions"]["looks"]["models"]}
        assert looks[NAMES[0]] > looks[NAMES[1]] > looks[NAMES[2]]
        assert {vote.rater for vote in votes} == {"anna", "ben"}
        for rater in found["raters"]:
            assert rater["catch_right"] == rater["catch"] > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_stands_out(own_browser: Any, tmp_path: Path, scheme: str):
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm install --prefix .venv/node axe-core")
    looks = {"color_scheme": scheme, "bypass_csp": True}
    with served(tmp_path) as (run, addresses, _), studio_in(own_browser, f"arena-{scheme}", **looks) as tab:
        tab.open(addresses["anna"])
        judge(tab, False)
        tab.until(lambda: ready(tab), "a pair")
        report(run)
        found: list[str] = []
        for place in ("vote", "results", "enter"):
            if place == "results":
                tab.page.goto("about:blank")
                tab.page.set_content((run / "results.html").read_text("utf-8"))
            if place == "enter":
                tab.page.goto(addresses["anna"].partition("#")[0] + "#token=wrong")
                tab.until(lambda: tab.page.locator("#enter").is_visible(), "the field for a token")
            tab.get(AXE.read_text())
            for width, height in SIZES:
                tab.page.set_viewport_size({"width": width, "height": height})
                for rule in tab.get("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"):
                    said = [f"{rule['id']}: {n['target']} {n['failureSummary']}" for n in rule["nodes"]]
                    found += [f"{place} {width}: {sentence}" for sentence in said]
                if tab.get("document.documentElement.scrollWidth > innerWidth"):
                    found.append(f"{place} {width}: scrolls sideways: {tab.get(STANDING_OUT)}")
                if place == "vote" and tab.get("document.documentElement.scrollHeight > innerHeight"):
                    found.append(f"{place} {width}x{height}: not all in sight")
        tab.wrong.clear()  # the browser reports the 401 of the wrong token
        assert found == []


def test_keys_reach_everything_and_a_lost_server_loses_no_answer(own_browser: Any, tmp_path: Path):
    with served(tmp_path, trials=6, catch=0.0) as (_, addresses, store), studio_in(own_browser, "arena-keys") as tab:
        tab.open(addresses["anna"])
        tab.until(lambda: ready(tab), "a pair")
        reached = []
        for _ in range(4):
            tab.page.keyboard.press("Tab")
            of = "[document.activeElement.textContent.trim()[0], getComputedStyle(document.activeElement).outlineStyle]"
            reached.append(tab.get(of))
        assert [r for r in reached if r[0] in "AB" and r[1] == "solid"], reached
        tab.page.keyboard.press("1")
        tab.until(lambda: "question 2" in tab.page.inner_text("#question"), "the second question")
        tab.page.context.set_offline(True)
        tab.page.keyboard.press("3")
        tab.until(lambda: tab.page.locator("#toast").is_visible(), "the word that nothing is lost")
        assert store.votes() == []
        tab.page.context.set_offline(False)
        tab.until(lambda: tab.page.inner_text("#count").startswith("1 "), "the vote, once the server is back")
        (vote,) = store.votes()
        assert (vote.looks, vote.follows) == ("left", "right")
        tab.wrong.clear()
