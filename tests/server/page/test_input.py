"""Refused prompts, seeds that are none, Ctrl Z, two fingers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page.studio import Host, Studio, free_port, studio_in


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
