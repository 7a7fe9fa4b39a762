"""The panel shows where the time goes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from page.studio import STANDING_OUT, Studio, studio_in


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
        pill, shed, steps = studio.get(
            """[document.querySelector("#state span").innerText, document.querySelector("#shed").checkVisibility(),
                document.querySelector("#fact-steps").innerText]"""
        )
        return pill in ("Over target", "Live, lighter") and shed and steps == "1"

    studio.until(late, "a warning, and fewer steps, while strokes are late")
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
    studio.until(lambda: "codec in" not in legend.inner_text(), "them to go")
    assert "codec in" not in page.locator("#bar").get_attribute("aria-label")
    studio.change(lambda: page.locator("#tab-draw").click())
    studio.until(lambda: "codec in" in legend.inner_text(), "them to come back")
    shown = studio.get(
        """async () => { const panel = new (await import("/web/panel.js")).Panel(() => {});
            const header = { ...panel.last, shed: [], encoder: "png", server_ms: 20 };
            panel.note({ ...header, stages_ms: { decode: 9, codec_in: 5, network: 6 } }, 30, "image");
            panel.note({ ...header, stages_ms: { decode: 0.01, network: 20 } }, 40, "text");
            const shown = await new Promise(done => requestAnimationFrame(() => done(legend.innerText)));
            return shown.split(/\\s+/) }"""
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
