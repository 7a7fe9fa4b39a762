"""What outlives a reload, and storage that is switched off, full or somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from page.studio import Studio, studio_in


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
    page.locator("#with-prompt").click()
    page.locator("#tab-type").click()
    strip = page.locator("#history .thumb")
    studio.until(lambda: strip.first.get_attribute("title") == "the moon, seed 12", "the strip to keep it")
    page.locator("#prompt").fill("the sun")
    studio.until(lambda: strip.first.get_attribute("title") == "the sun, seed 12", "the strip to keep that, too")
    loaded = "[...document.querySelectorAll('#history img')].every(i => i.naturalWidth)"
    studio.until(lambda: studio.get(loaded), "its pictures")
    page.locator("#tab-draw").click()
    studio.settle()
    canvas, result, number = studio.pixels("#canvas"), studio.pixels(), studio.get("history.length")

    def state() -> list[Any]:
        ids = ["prompt", "seed", "strength", "smoothing", "blend", "blend-prompt", "brush", "format", "pin-steps", "target"]
        return [
            *studio.get("ids => ids.map(id => document.getElementById(id).value)", ids),
            page.locator("#with-prompt").get_attribute("aria-pressed"),
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


def test_a_seed_that_is_let_go_changes_by_itself_also_after_a_reload(studio: Studio):
    page, seed, lock = studio.page, studio.page.locator("#seed"), studio.page.locator("#lock")
    lock.click()
    studio.until(lambda: seed.input_value() != "7", "another seed")
    page.reload()
    studio.live()
    assert lock.get_attribute("aria-pressed") == "false"
    was = seed.input_value()
    studio.until(lambda: seed.input_value() != was, "yet another")
    lock.click()
    assert lock.get_attribute("aria-pressed") == "true"


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
