"""The page of a run in a browser, opened from the disk: its slider, its button, no request, for everybody."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.training import calls, drawn, page
from page.studio import studio_in, unfit_for

SHOWN = "[...document.querySelectorAll('.frames figure')].filter(f => f.checkVisibility()).map(f => f.textContent)"
BRIGHTNESS = """() => {
    const image = document.querySelector(".frames figure:not([hidden]) img"), c = new OffscreenCanvas(1, 1).getContext("2d");
    c.drawImage(image, 0, 0, 1, 1);
    return c.getImageData(0, 0, 1, 1).data[0];
}"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of four evaluations, as it lies on disk; its pictures grow brighter."""
    folder = tmp_path / "add"
    kept, lines = drawn.Drawn(folder), []
    for step in range(301):
        line: dict[str, Any] = {"step": step, "student/distillation": math.exp(-step / 100), "discriminator/r1": 1e-4 * step}
        line |= {"student/gradient_norm": 1 + math.sin(step)}
        line |= {"discriminator/real_logit": step / 300, "discriminator/fake_logit": -step / 300}
        if step % 100 == 0:
            line |= {"probe/score": 400 - step, "probe/edges": 0.9}
            image = drawn.sheet(torch.full((4, 3, 32, 32), step / 200 - 0.75))
            assert image is not None
            kept.keep(step, image)
        lines.append(line)
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    calls.note(tmp_path, "fewstep distill --out 'runs/my run'")
    page.write(tmp_path)
    return tmp_path / page.NAME


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_slider_moves_through_training_and_axe_finds_nothing(own_browser: Any, run: Path, scheme: str):
    with studio_in(own_browser, f"run-{scheme}", color_scheme=scheme, bypass_csp=True) as tab:
        tab.page.goto(run.as_uri())
        assert tab.get(SHOWN) == ["step 300"]
        seen = [tab.get(BRIGHTNESS)]
        tab.page.get_by_role("slider", name="Step").focus()
        for step in (200, 100, 0):
            tab.page.keyboard.press("ArrowLeft")
            assert tab.get(SHOWN) == [f"step {step}"]
            seen.append(tab.get(BRIGHTNESS))
        assert seen == sorted(seen, reverse=True)
        assert len(set(seen)) == 4
        assert unfit_for(tab) == []


def test_the_command_is_copied_or_selected(own_browser: Any, run: Path):
    with studio_in(own_browser, "run-copy") as tab:
        tab.page.goto(run.as_uri())
        button = tab.page.locator(".command button")
        button.click()
        tab.until(lambda: button.inner_text() != "Copy", "an answer of the button")
        if "Selected" in button.inner_text():
            assert tab.get("getSelection().toString()") == "fewstep distill --out 'runs/my run'"


def test_without_a_script_every_picture_is_shown(own_browser: Any, run: Path):
    with studio_in(own_browser, "run-plain", java_script_enabled=False) as tab:
        tab.page.goto(run.as_uri())
        figures = tab.page.locator(".frames figure")
        assert [figures.nth(i).is_visible() for i in range(figures.count())] == [True] * 4
        assert not tab.page.locator(".control").is_visible()
        assert not tab.page.locator(".command button").is_visible()
