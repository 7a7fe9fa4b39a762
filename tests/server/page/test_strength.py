"""How far the result may leave what is given: the model's own times, in words."""

from __future__ import annotations

import numpy as np

from page.studio import Studio


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
