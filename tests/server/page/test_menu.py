"""Behind the page's small menu: full screen, comparing, going on, copies, enlarged files, links, films, variations anywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from fewstep.provenance import content_credentials
from page.studio import AXE, STANDING_OUT, Studio, studio_in
from page.test_accessibility import TARGETS
from serving_helpers import SIZE


@pytest.fixture
def studio(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Studio]:
    allowed = ["clipboard-read", "clipboard-write"]
    with studio_in(
        browser, request.node.name.removeprefix("test_"), accept_downloads=True, permissions=allowed
    ) as made:
        yield made.open(address).live()


def choose(studio: Studio, name: str) -> None:
    studio.page.locator("#more").click()
    studio.page.locator(f"#more-{name}").click()


def told(studio: Studio, words: str) -> None:
    studio.until(lambda: words in studio.page.locator("#toast").inner_text(), words)


def test_the_menu_is_ruled_by_keys(studio: Studio):
    page = studio.page
    page.locator("#more").focus()
    page.keyboard.press("Enter")
    studio.until(lambda: studio.get("document.activeElement.id") == "more-full", "the first item")
    assert page.locator("#more").get_attribute("aria-expanded") == "true"
    page.keyboard.press("End")
    assert studio.get("document.activeElement.id") == "more-link"
    page.keyboard.press("ArrowDown")
    assert studio.get("document.activeElement.id") == "more-full"
    page.keyboard.press("ArrowUp")
    assert studio.get("document.activeElement.id") == "more-link"
    page.keyboard.press("Escape")
    assert not page.locator("#more-menu").is_visible()
    assert studio.get("document.activeElement.id") == "more"
    for width, height in ((320, 568), (1366, 650), (683, 325)):
        page.set_viewport_size({"width": width, "height": height})
        studio.until(lambda width=width: studio.get("innerWidth") == width, "the new size")
        page.locator("#more").click()
        studio.until(lambda: studio.get("document.activeElement.closest('#more-menu') !== null"), "the menu in its place")
        box = page.locator("#more-menu").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] >= 0
        page.keyboard.press("Escape")


def test_the_result_fills_the_screen(studio: Studio):
    choose(studio, "full")
    studio.until(lambda: studio.get("document.fullscreenElement?.id") == "result-frame", "the full screen")
    box = studio.page.locator("#result").bounding_box()
    seen = studio.get("[innerWidth, innerHeight]")
    assert box["width"] == box["height"] == min(seen)
    assert box["x"] == (seen[0] - min(seen)) / 2
    studio.get("document.exitFullscreen()")
    studio.until(lambda: not studio.get("document.fullscreenElement"), "the page")


def test_input_and_result_are_compared_by_a_slider(studio: Studio):
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.4, 0.3), (0.3, 0.8)))
    choose(studio, "compare")
    slider = studio.page.locator("#compare-at")
    assert studio.get("document.activeElement.id") == "compare-at"
    assert np.array_equal(studio.pixels("#compare"), studio.pixels("#canvas"))
    cut = "getComputedStyle(document.querySelector('#compare')).clipPath"
    assert studio.get(cut) == "inset(0px 50% 0px 0px)"
    studio.page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "100 % of the input"
    assert studio.get(cut) == "inset(0px)" or "0%" in studio.get(cut)
    studio.change(lambda: studio.stroke((0.6, 0.2), (0.8, 0.8)))
    assert np.array_equal(studio.pixels("#compare"), studio.pixels("#canvas")), "it follows the drawing"
    studio.page.locator("#tab-type").click()
    studio.until(lambda: not slider.is_visible(), "no input, nothing to compare")


def test_the_result_goes_onto_the_canvas_and_undo_brings_the_drawing_back(studio: Studio):
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
    drawn, shown = studio.pixels("#canvas"), studio.pixels().astype(int)
    choose(studio, "onto")
    studio.until(lambda: np.abs(studio.pixels("#canvas").astype(int) - shown).max() < 8, "the result on the canvas")
    assert studio.page.locator("#layer-ink").is_disabled()
    studio.page.locator("#undo").click()
    studio.page.locator("#undo").click()
    assert np.array_equal(studio.pixels("#canvas"), drawn)


def test_a_picture_is_copied_and_it_is_said_what_stays(studio: Studio):
    studio.settle()
    choose(studio, "copy")
    told(studio, "Copied. A clipboard drops credentials")
    kind = "navigator.clipboard.read().then(items => items[0].getType('image/png')).then(b => b.arrayBuffer())"
    data = studio.get(f"{kind}.then(b => [...new Uint8Array(b)])")
    copied = Image.open(io.BytesIO(bytes(data)))
    assert copied.size == (SIZE, SIZE)


def test_an_enlarged_file_says_so_in_its_name_and_its_credentials(studio: Studio, tmp_path: Path):
    studio.settle()
    with studio.page.expect_download() as started, studio.page.expect_request("**/pictures/*") as asked:
        choose(studio, "large")
    name = started.value.suggested_filename
    assert name == f"fewstep-7-{SIZE}px-enlarged-512.png"
    started.value.save_as(tmp_path / name)
    told(studio, f"512 px, enlarged from the {SIZE} px that the model drew")
    assert Image.open(tmp_path / name).size == (512, 512)
    read = content_credentials.read((tmp_path / name).read_bytes(), "image/png")
    if read.state != "unchecked":
        assert read.facts["drawn_side"] == SIZE
    for side in (SIZE - 1, 5000, -64):
        answer = httpx.get(asked.value.url.replace("side=512", f"side={side}"))
        assert answer.status_code == 400
        assert (
            answer.json()["error"]["message"] == f"cannot enlarge {SIZE} pixels to {side}: use {SIZE} to 1024, or none"
        )
    same = httpx.get(asked.value.url.replace("side=512", f"side={SIZE}"))
    assert "enlarged" not in same.headers["content-disposition"]


def test_a_link_carries_prompt_and_seed_and_nothing_else(studio: Studio, address: str):
    studio.page.locator("#prompt").fill("a blue cat & a red dog #1")
    studio.page.locator("#seed").fill("42")
    choose(studio, "link")
    told(studio, "Link copied")
    link = studio.get("navigator.clipboard.readText()")
    assert link == f"{address}#prompt=a+blue+cat+%26+a+red+dog+%231&seed=42"
    studio.page.goto("about:blank")
    studio.page.goto(link)
    studio.live()
    assert studio.page.locator("#prompt").input_value() == "a blue cat & a red dog #1"
    assert studio.page.locator("#seed").input_value() == "42"
    assert studio.page.url == address, "what stood in the address is taken out of it"
    studio.get(f"location.hash = '#prompt={quote('the sun')}&seed=99999999999'")
    studio.until(lambda: studio.page.locator("#prompt").input_value() == "the sun", "a link followed within the page")
    told(studio, "The link's seed is none")
    assert studio.page.locator("#seed").input_value() == "42"


def test_a_drawing_becomes_a_film(studio: Studio, tmp_path: Path):
    for x in (0.2, 0.4, 0.6):
        studio.change(lambda x=x: studio.stroke((x, 0.2), (x, 0.8)))
    with studio.page.expect_download() as started:
        choose(studio, "lapse")
    film = tmp_path / started.value.suggested_filename
    started.value.save_as(film)
    assert film.read_bytes()[:4] == b"\x1aE\xdf\xa3", "a WebM"
    length = """async bytes => { const film = document.createElement("video");
        film.src = URL.createObjectURL(new Blob([Uint8Array.from(bytes)], {type: "video/webm"}));
        await film.play(); await new Promise(r => film.onended = r); return [film.currentTime, film.videoWidth] }"""
    seconds, side = studio.get(length, list(film.read_bytes()))
    assert side == 512
    assert seconds > 0.9, "the last result stays for a second"


def test_a_film_keeps_a_bounded_number_of_pictures_evenly(studio: Studio):
    script = """async () => { const film = new (await import("/web/lapse.js")).Lapse();
        for (let i = 1; i <= 2000; i++) film.add(i, {name: String(i)});
        const kept = film.parts.map(p => Number(p.name)), gaps = kept.slice(1).map((n, i) => n - kept[i]);
        film.add(1, {name: "new"});
        return [kept.length, kept[kept.length - 1], [...new Set(gaps)], film.parts.length] }"""
    n, last, gaps, after = studio.get(script)
    assert 100 < n <= 240
    assert last > 1980
    assert len(gaps) == 1, "evenly"
    assert after == 1, "a new session is a new film"


def test_variations_and_earlier_results_stand_in_every_tab(studio: Studio, tmp_path: Path):
    """Of a picture, which is there at once: of a stroke a slow machine keeps the result of its first half, too."""
    across = np.linspace(0, 255, SIZE, dtype=np.uint8)
    Image.fromarray(np.stack([*np.meshgrid(across, across), np.full((SIZE, SIZE), 90, np.uint8)], -1)).save(tmp_path / "a.png")
    studio.change(lambda: studio.page.set_input_files("#file", tmp_path / "a.png"))
    choose(studio, "shelf")
    thumbs = studio.page.locator("#shelf-variations .thumb")
    studio.until(lambda: thumbs.count() == 4, "four variations")
    studio.until(lambda: studio.page.locator("#shelf-earlier .thumb").count() == 1, "what stood still")
    shown = studio.pixels()
    studio.change(lambda: thumbs.nth(1).click())
    assert studio.page.locator("#seed").input_value() == "9"
    assert not np.array_equal(shown, studio.pixels())
    studio.page.locator("#tab-type").click()
    studio.until(lambda: not studio.page.locator("#shelf").is_visible(), "the Type tab has its own")
    studio.page.locator("#tab-draw").click()
    studio.until(lambda: studio.page.locator("#shelf").is_visible(), "the shelf")
    studio.page.locator("#shelf-earlier .thumb").last.click()
    studio.until(
        lambda: np.abs(studio.pixels("#canvas").astype(int) - shown).max() < 12, "the earlier result on the canvas"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_is_opened(studio: Studio, scheme: str):
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm install --prefix .venv/node axe-core")
    studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
    choose(studio, "shelf")
    studio.until(lambda: studio.page.locator("#shelf-variations .thumb").count() == 4, "four variations")
    choose(studio, "compare")
    studio.page.emulate_media(color_scheme=scheme)
    studio.get(AXE.read_text())
    found = []
    for width in (320, 683, 1366):
        studio.page.set_viewport_size({"width": width, "height": 700})
        assert studio.get(STANDING_OUT) == []
        studio.page.locator("#more").click()
        for rule in studio.get("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"):
            found += [f"{width}: {rule['id']}: {node['target']} {node['failureSummary']}" for node in rule["nodes"]]
        assert studio.get(TARGETS) == []
        studio.page.keyboard.press("Escape")
    assert found == []
