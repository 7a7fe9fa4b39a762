"""Strokes, opened pictures, regions, steadiness, and what is drawn at rest."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from page.studio import Between, Host, Studio, studio_in


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


def test_at_rest_the_picture_gets_better_and_is_what_is_saved(browser: Any, address: str, tmp_path: Path):
    """What had to be given up for a target is drawn after all once nothing newer is asked for; the clock does not count it."""
    with studio_in(browser, "at_rest", accept_downloads=True) as studio:
        between = Between(studio.page)
        better_at_rest(studio.open(address).live(), between, tmp_path)


def better_at_rest(studio: Studio, between: Between, tmp_path: Path) -> None:
    page = studio.page
    page.locator("#format").select_option("png")
    page.locator("#strength").fill("2")
    best = studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.3), (0.7, 0.8)))
    assert page.locator("#fact-steps").inner_text() == "3"
    with page.expect_download() as whole:
        page.locator("#save").click()
    between.heard.clear()
    page.locator("#target").fill("0")
    studio.until(lambda: between.heard and between.heard[-1].get("refined"), "another picture, at rest")
    assert [header["steps"] for header in between.heard] == [1, 3], "first with fewer steps, then with all of them"
    studio.until(lambda: page.locator("#fact-steps").inner_text() == "3", "the panel to say so")
    assert page.locator("#shed").is_hidden()
    assert page.locator("#fact-encoder").inner_text() == "PNG"
    studio.until(lambda: studio.pill == "Live", "no warning of a picture that came by waiting")
    assert np.array_equal(studio.pixels(), best)
    with page.expect_download() as again:
        page.locator("#save").click()
    files = [np.asarray(Image.open(one.value.path()).convert("RGB")).astype(int) for one in (whole, again)]
    assert np.abs(files[0] - files[1]).max() <= 4, "each with its mark"
