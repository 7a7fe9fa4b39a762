"""Every keystroke is a picture."""

from __future__ import annotations

from page.studio import Studio


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
