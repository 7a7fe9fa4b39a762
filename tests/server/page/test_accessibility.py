"""The page for everybody: axe-core's rules in every tab, theme and width, and what axe does not see. Pictures in out/screens/."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concept_lists import NAMES, far_and_near, with_list
from page.studio import AXE, STANDING_OUT, Host, Studio, free_port, studio_in

TABS = ("draw", "camera", "type")
WIDTHS = ((360, 740), (768, 1024), (1366, 650), (1920, 1080))


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Studio]:
    """One page for all of it: what is looked at changes nothing but the tab and the theme."""
    with studio_in(browser, "access", reduced_motion="no-preference") as made:
        made.open(address).live()
        made.stroke((0.3, 0.3), (0.7, 0.6))
        yield made


def show(page: Studio, tab: str, width: int = 1366, height: int = 768, **media: Any) -> None:
    """Open a tab at a size, in a theme, and wait until nothing moves."""
    page.page.set_viewport_size({"width": width, "height": height})
    page.page.emulate_media(**({"color_scheme": "light", "forced_colors": "none", "reduced_motion": "reduce"} | media))
    page.page.locator(f"#tab-{tab}").click()
    page.page.mouse.move(1, 1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_any_tab_at_any_width(page: Studio, scheme: str):
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm install --prefix .venv/node axe-core")
    if not page.get("'axe' in window"):
        page.get(AXE.read_text())
    found = []
    for tab in TABS:
        for width, height in WIDTHS:
            show(page, tab, width, height, color_scheme=scheme)
            for rule in page.get("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"):
                found += [f"{tab} {width}: {rule['id']}: {n['target']} {n['failureSummary']}" for n in rule["nodes"]]
    assert found == []


CONTROLS = """[...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")].filter(e =>
    e.checkVisibility() && !e.matches(":disabled, .skip, [type=file]") && e.getBoundingClientRect().width)"""
"""What a person can work with in the open tab."""
NAME = "e.id || e.getAttribute('aria-label') || e.textContent.trim() || e.tagName"
TARGETS = f"""() => {{
    const all = {CONTROLS}.map(e => [{NAME}, e.getBoundingClientRect()]);
    const small = ([, b]) => Math.min(b.width, b.height) < 23.99;
    const mid = b => [b.x + b.width / 2, b.y + b.height / 2];
    const gap = ([x, y], b) => Math.hypot(Math.max(b.left - x, 0, x - b.right), Math.max(b.top - y, 0, y - b.bottom));
    const apart = ([x, y], [u, v]) => Math.hypot(x - u, y - v);
    const crowds = (a, b) => gap(mid(a), b) < 11.99 || (small([0, b]) && apart(mid(a), mid(b)) < 23.99);
    return all.filter(one => small(one) && all.some(other => other !== one && crowds(one[1], other[1])))
        .map(([name, b]) => `${{name}} ${{b.width}}x${{b.height}}`) }}"""
"""WCAG 2.5.8: targets under 24 pixels that also lie within 12 pixels of another."""


def test_targets_are_24_pixels(page: Studio):
    found = {}
    for tab in TABS:
        for width, height in ((320, 568), *WIDTHS, (683, 325)):
            show(page, tab, width, height)
            if small := page.get(TARGETS):
                found[tab, width] = small
    assert found == {}


def test_no_width_scrolls_sideways(page: Studio):
    found = {}
    for tab in TABS:
        for width in (*range(320, 1920, 96), 700, 701, 758, 811, 1100, 1101, 1920):
            for height in (900, 400) if width < 1100 else (900,):
                show(page, tab, width, height)
                wide = page.get("document.documentElement.scrollWidth > innerWidth")
                if out := page.get(STANDING_OUT) or wide:
                    found[tab, width, height] = out
    assert found == {}


OVERLAPPING = f"""() => {{ const all = {CONTROLS}.filter(e => !e.closest("nav, header, .chips, .history"));
    const common = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
    const over = (a, b) => common(a, b, "left", "right") > 1 && common(a, b, "top", "bottom") > 1;
    const box = new Map(all.map(e => [e, e.getBoundingClientRect()]));
    return all.flatMap((e, i) => all.slice(i + 1).filter(o => !e.contains(o) && !o.contains(e) && over(box.get(e), box.get(o)))
        .map(o => [e, o].map(e => {NAME}).join(" over "))) }}"""


def test_nothing_lies_over_anything_else(page: Studio):
    found = {}
    for tab in TABS:
        for width, height in ((320, 568), *WIDTHS, (640, 360), (704, 900), (812, 375)):
            show(page, tab, width, height)
            if out := page.get(OVERLAPPING):
                found[tab, width] = out
    assert found == {}


def inside(page: Studio, *names: str) -> list[str]:
    """What of these does not lie in the window as it is."""
    script = """names => names.filter(id => { const b = document.getElementById(id).getBoundingClientRect();
        return b.top < 0 || b.bottom > innerHeight || b.left < 0 || b.right > innerWidth })"""
    return page.get(script, list(names))


def test_a_laptop_shows_all_that_is_worked_with(page: Studio):
    show(page, "draw", 1366, 650)
    page.get("scrollTo(0, 0)")
    assert inside(page, "prompt", "canvas", "result", "strength", "seed", "save", "brush", "layer-region") == []
    sides = page.get("['canvas', 'result'].map(id => document.getElementById(id).getBoundingClientRect().width)")
    assert min(sides) > 320, "and the pictures are not given up for it"


@pytest.mark.parametrize(("width", "height"), [(683, 325), (640, 360), (960, 540), (812, 375)])
def test_a_window_at_200_percent_shows_canvas_and_result_together(page: Studio, width: int, height: int):
    """1366x650, 1280x720 and 1920x1080 at 200%, and a phone that lies on its side."""
    show(page, "draw", width, height)
    page.get("scrollTo(0, 0)")
    assert inside(page, "canvas", "result") == []
    assert page.get("document.getElementById('canvas').getBoundingClientRect().width") >= 170


def test_every_control_has_a_name(page: Studio):
    """Read from the browser's own accessibility tree: axe takes a label for its control's that belongs to another."""
    client = page.page.context.new_cdp_session(page.page)
    client.send("Accessibility.enable")
    working = {
        "button",
        "slider",
        "textbox",
        "combobox",
        "spinbutton",
        "radio",
        "tab",
        "link",
        "ColorWell",
        "application",
        "DisclosureTriangle",
    }
    seen = set()
    for tab in TABS:
        show(page, tab)
        nodes = client.send("Accessibility.getFullAXTree")["nodes"]
        named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
        assert [role for role, name in named if role in working and not name.strip()] == []
        seen |= {name for role, name in named if role == "slider"}
    assert any(name.startswith("Strength") for name in seen), seen
    assert "Brush size" in seen


FOCUS = """() => { const e = document.activeElement, s = getComputedStyle(e), b = e.getBoundingClientRect();
    e.setAttribute("data-reached", "");
    const ring = (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2) || s.boxShadow !== "none";
    const seen = b.bottom > 0 && b.top < innerHeight && e.checkVisibility();
    return [e === document.body, e.id || e.getAttribute("aria-label") || e.textContent, ring && seen] }"""


@pytest.mark.parametrize("tab", TABS)
def test_tab_reaches_every_control_and_shows_where_it_is(page: Studio, tab: str):
    show(page, tab, 1024, 900)
    page.get("document.querySelectorAll('[data-reached]').forEach(e => e.removeAttribute('data-reached'))")
    page.get("document.querySelector('.skip').focus()")
    unseen = []
    for _ in range(80):
        page.page.keyboard.press("Tab")
        nowhere, name, visible = page.get(FOCUS)
        if nowhere:
            break
        if not visible:
            unseen.append(name)
    assert unseen == []
    left = f"""{CONTROLS}.filter(e => !e.hasAttribute("data-reached") && !(e.matches("[role=radio], [role=tab], [role=option]")
        && e.parentElement.querySelector("[data-reached]"))).map(e => {NAME})"""
    assert page.get(left) == [], "Tab, or the arrows of its group, come to everything"


def test_forced_colours_leave_every_control_to_be_seen(page: Studio):
    """Swatches keep their colours, sliders have a track and a thumb, what is chosen differs from what is not."""
    show(page, "draw", forced_colors="active")
    assert page.get("matchMedia('(forced-colors: active)').matches")
    colours = "[...document.querySelectorAll('#swatches button')].map(e => getComputedStyle(e).backgroundColor)"
    assert len(set(page.get(colours))) == 10
    for slider in ("strength", "brush", "target", "blend"):
        image = Image.open(io.BytesIO(page.page.locator(f"#{slider}").screenshot())).convert("RGB")
        shades = np.asarray(image).reshape(-1, 3)
        common = {tuple(map(int, c)) for c, n in zip(*np.unique(shades, axis=0, return_counts=True)) if n > 20}
        assert len(common) >= 3, f"{slider}: ground, track and thumb, not {common}"
    pairs = "['#tab-draw', '#tab-type', '[data-tool=brush]', '[data-tool=eraser]']"
    chosen = page.get(f"{pairs}.map(s => getComputedStyle(document.querySelector(s)).backgroundColor)")
    assert chosen[0] != chosen[1]
    assert chosen[2] != chosen[3]
    dots = page.get("[...document.querySelectorAll('#legend li i')].map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(dots)) == len(dots) > 2


PARTS = """() => {
    const lin = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = p => .2126 * lin(p[0]) + .7152 * lin(p[1]) + .0722 * lin(p[2]);
    const c = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const mixed = (over, under) => {
        for (c.fillStyle of [under, over]) c.fillRect(0, 0, 1, 1);
        return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const ground = e => {
        const under = e.parentElement ? ground(e.parentElement) : "#fff";
        return `rgb(${mixed(getComputedStyle(e).backgroundColor, under)})`;
    };
    const ratio = (over, under, opacity = 1) => {
        const u = mixed(under, under), o = mixed(over, under).map((v, i) => opacity * v + (1 - opacity) * u[i]);
        const [x, y] = [light(o), light(u)].sort((p, q) => q - p);
        return (x + .05) / (y + .05);
    };
    const seen = query => [...document.querySelectorAll(query)].filter(e => e.checkVisibility());
    const icons = seen("button:not(:disabled) svg").map(e => [e.parentElement, getComputedStyle(e)])
        .map(([b, s]) => [b.id || b.title, ratio(s.stroke, ground(b), s.opacity)]);
    const fields = seen(".row input[type=text], .row input[type=number], #swatches button, #prompt")
        .map(e => [e.id || e.title, ratio(getComputedStyle(e).borderBottomColor, ground(e.parentElement))]);
    const probe = document.querySelector(".knobs").appendChild(document.createElement("i"));
    probe.style.background = "var(--edge)";
    const track = ["track", ratio(getComputedStyle(probe).backgroundColor, ground(probe.parentElement))];
    probe.remove();
    return [...icons, ...fields, track].filter(([, r]) => r < 3);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_parts_of_controls_stand_out_3_to_1(page: Studio, scheme: str):
    """WCAG 1.4.11, which axe leaves out: icons, the edges of fields and swatches, the tracks of sliders."""
    for tab in TABS:
        show(page, tab, color_scheme=scheme)
        assert page.get(PARTS) == []


def test_nothing_moves_for_who_asked_for_that(page: Studio):
    moving = "document.getAnimations().filter(a => a.playState === 'running').map(a => a.animationName ?? a.transitionProperty)"
    show(page, "type", reduced_motion="no-preference")
    page.get("document.querySelector('#variations').firstElementChild.className = 'thumb waiting'")
    assert page.get(moving) != [], "a picture that is waited for shimmers"
    show(page, "type", reduced_motion="reduce")
    assert page.get(moving) == []


def test_what_is_said_is_said_aloud(page: Studio):
    """Errors at once, states politely, and a picture that is still being drawn is known to be."""
    show(page, "draw")
    assert page.get("['toast', 'said'].map(id => document.getElementById(id).getAttribute('role'))") == [
        "alert",
        "status",
    ]
    assert page.get("document.getElementById('said').checkVisibility()"), (
        "a live region that is not rendered is not heard"
    )
    assert page.get("document.getElementById('result').hasAttribute('aria-busy')")
    page.settle()
    assert page.get("document.getElementById('result').getAttribute('aria-label')").startswith("Picture of")


def test_what_the_model_knows_is_offered_and_a_prompt_far_from_it_told(browser: Any, host: Host, tmp_path: Path):
    folder = with_list(tmp_path / "bundle")
    far, near = far_and_near(folder)
    port = free_port()
    host.serve(port, model=str(folder), budget="60s")
    with studio_in(browser, "concepts") as studio:
        studio.open(f"http://localhost:{port}/").live()
        prompt, page = studio.page.locator("#prompt"), studio.page
        studio.until(lambda: prompt.get_attribute("role") == "combobox", "the list")
        prompt.fill("")
        prompt.press_sequentially("the mo")
        options = page.locator("#concepts [role=option]")
        assert options.all_inner_texts()[0] == "red moon", "an article is no part of a name; the shortest come first"
        assert "the moon with a face" in options.all_inner_texts()
        assert prompt.get_attribute("aria-expanded") == "true"
        page.keyboard.press("ArrowDown")
        chosen = page.locator(f"#{prompt.get_attribute('aria-activedescendant')}")
        assert chosen.get_attribute("aria-selected") == "true"
        page.keyboard.press("Enter")
        assert prompt.input_value() == "red moon"
        assert prompt.get_attribute("aria-expanded") == "false"
        studio.until(lambda: page.locator("#ideas").is_visible(), "the ideas")
        prompt.press_sequentially(" z")
        assert options.count() == 0
        prompt.fill("green")
        assert options.count() == 6
        page.keyboard.press("Escape")
        assert options.count() == 0
        assert prompt.input_value() == "green"
        prompt.fill("green")
        options.nth(1).click()
        assert prompt.input_value().startswith("green ")
        prompt.fill(far)
        studio.until(lambda: page.locator("#far-names button").count() == 3, "the nearest names")
        assert page.locator("#far-said").inner_text() == "New to this model. Nearest:"
        page.locator("#far-names button").first.click()
        assert prompt.input_value() in NAMES
        studio.until(
            lambda: page.locator("#far-names button").count() == 0 and page.locator("#ideas").is_visible(), "the ideas"
        )
        assert near in NAMES
