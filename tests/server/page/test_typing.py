"""Every keystroke is a picture."""

from __future__ import annotations

from typing import Any

from page.studio import Between, Studio, studio_in


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


def test_a_picture_that_a_busy_server_sends_late_is_shown_and_kept(browser: Any, address: str):
    """The page waits no more for it and asks for nothing newer: it must not lie there with an older picture for ever."""
    with studio_in(browser, "late") as studio:
        page = studio.page
        page.clock.install()
        between = Between(page)
        studio.open(address).live()
        page.locator("#tab-type").click()
        studio.settle()
        between.holding = True
        page.locator("#prompt").fill("the moon")
        studio.until(lambda: between.held, "the server's answer, which nobody hands on")
        page.clock.fast_forward(9000)
        assert page.locator("#result").get_attribute("aria-busy") == "false", "the page has waited long enough"
        between.let_go()
        result, strip = page.locator("#result"), page.locator("#history .thumb")
        studio.until(lambda: result.get_attribute("aria-label") == "Picture of the moon", "its picture")
        studio.until(lambda: strip.first.get_attribute("title") == "the moon, seed 7", "the strip to keep it")


def test_a_variation_takes_no_turn_of_what_the_person_wants(browser: Any, address: str):
    """Steps are chosen three times while a variation is being decoded: the last choice waits for room, and is drawn."""
    with studio_in(browser, "no_turn") as studio:
        page = studio.page
        between = Between(page)
        studio.open(address).live()
        between.holding = True
        page.locator("#tab-type").click()
        studio.until(lambda: between.held, "the picture")
        between.let_go(1)
        studio.until(lambda: between.held, "its first variation")
        studio.get("""window.open_ = createImageBitmap;
            window.createImageBitmap = (...given) => new Promise(done => { window.go = () => done(open_(...given)) }); 0""")
        between.let_go(1)
        studio.until(lambda: studio.get("Boolean(window.go)"), "the page to decode it")
        for steps in ("2", "4", "1"):
            page.locator("#pin-steps").select_option(steps)
        studio.get("window.createImageBitmap = open_, go(), 0")
        between.let_go()
        studio.until(lambda: page.locator("#variations .thumb:not(.waiting)").count() == 4, "all variations")
        chosen = [asked["steps"] for asked in between.asked if asked["type"] == "draw" and asked["refine"]]
        assert chosen[-3:] == [2, 4, 1]
