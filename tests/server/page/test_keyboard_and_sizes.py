"""Without a pointer, on a phone, on a tablet."""

from __future__ import annotations

from typing import Any

from page.studio import STANDING_OUT, Studio, studio_in


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
