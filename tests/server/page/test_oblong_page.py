"""The page for a model whose pictures are no squares, lying (48x32) and standing (32x48), at a desk and on a phone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundles import tiny_bundle
from page.studio import STANDING_OUT, Host, Studio, free_port, studio_in

SIZES = {"lying": (32, 48), "standing": (48, 32)}
"""Height and width."""
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module", params=list(SIZES))
def oblong(request: pytest.FixtureRequest, host: Host, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Its name, and the address of a server of such a model."""
    model = tiny_bundle(tmp_path_factory.mktemp("oblong"), native_size=SIZES[request.param])
    port = free_port()
    host.serve(port, budget="60s", model=str(model))
    return request.param, f"http://localhost:{port}/"


@pytest.fixture
def studio(browser: Any, oblong: tuple[str, str]) -> Iterator[Studio]:
    with studio_in(browser, f"oblong_{oblong[0]}", accept_downloads=True) as made:
        yield made.open(oblong[1]).live()


def test_canvas_and_picture_have_the_models_shape_and_both_are_in_sight(browser: Any, oblong: tuple[str, str]):
    name, address = oblong
    height, width = SIZES[name]
    for screen, view in (("desk", DESK), ("phone", PHONE)):
        with studio_in(browser, f"oblong_{name}_{screen}", viewport=view) as studio:
            studio.open(address).live()
            studio.change(lambda s=studio: s.stroke((0.1, 0.1), (0.9, 0.9)))
            studio.screen(f"oblong_{name}_{screen}")
            assert studio.get(f"() => {STANDING_OUT}") == []
            for canvas in ("#canvas", "#result"):
                box = studio.page.locator(canvas).bounding_box()
                assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
                size = studio.get(f"() => {{ const c = document.querySelector('{canvas}'); return [c.width, c.height] }}")
                assert size[0] / size[1] == pytest.approx(width / height, rel=0.01)
                assert box["y"] + box["height"] <= view["height"], "the whole of it, without scrolling"


def test_what_is_drawn_lies_under_the_pointer_in_the_request_and_in_the_picture(studio: Studio, oblong: tuple[str, str]):
    """Another picture comes back in the region alone, and that is where the pointer was, along both axes."""
    height, width = SIZES[oblong[0]]
    studio.stroke((0.75, 0.25), (0.76, 0.26))
    across, down = studio.get(f"() => {WHOLE}")
    pixels = np.array(studio.get(f"() => {PIXELS}('#canvas', {across}, {down})")).reshape(down, across, 4)
    rows, columns = np.nonzero(pixels[..., 2] < 200)
    ink = [columns.mean() / pixels.shape[1], rows.mean() / pixels.shape[0], len(rows)]
    assert ink[:2] == pytest.approx([0.755, 0.255], abs=0.02)
    assert ink[2] == pytest.approx(np.pi * 18 * 18, rel=0.3), "the brush is round, not stretched"
    studio.page.locator("#clear").click()
    noise = np.random.default_rng(0).integers(0, 255, (3 * height, 5 * width, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "PNG")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": data.getvalue()}
    studio.change(lambda: studio.page.set_input_files("#file", file))
    given = studio.get(f"() => {PIXELS}('#canvas', {width}, {height})")
    studio.page.keyboard.press("r")
    studio.change(lambda: studio.stroke((0.2, 0.8), (0.3, 0.8)))
    drawn = studio.get(f"() => {PIXELS}('#result', {width}, {height})")
    away = np.abs(np.subtract(given, drawn, dtype=float)).reshape(height, width, 4)[..., :3].max(-1) > 60
    rows, columns = np.nonzero(away)
    assert len(rows)
    assert columns.mean() / width == pytest.approx(0.25, abs=0.08)
    assert rows.mean() / height == pytest.approx(0.8, abs=0.08)


WHOLE = """(c => [c.width, c.height])(document.querySelector("#canvas"))"""
PIXELS = """((canvas, width, height) => { const small = new OffscreenCanvas(width, height).getContext("2d");
    small.imageSmoothingQuality = "high";
    small.drawImage(document.querySelector(canvas), 0, 0, width, height);
    return [...small.getImageData(0, 0, width, height).data] })"""


def test_files_have_the_size_that_was_drawn_and_enlarged_ones_its_shape(studio: Studio, oblong: tuple[str, str], tmp_path: Path):
    height, width = SIZES[oblong[0]]
    studio.change(lambda: studio.stroke((0.1, 0.1), (0.9, 0.9)))
    with studio.page.expect_download() as saved:
        studio.page.locator("#save").click()
    assert Image.open(saved.value.path()).size == (width, height)
    studio.page.locator("#more").click()
    with studio.page.expect_download() as saved:
        studio.page.locator("#more-large").click()
    assert Image.open(saved.value.path()).size == (512, round(512 * height / width))
    assert f"-{width}px-enlarged-512" in saved.value.suggested_filename


def test_a_drawing_survives_a_reload_in_its_shape(studio: Studio):
    studio.change(lambda: studio.stroke((0.02, 0.03), (0.98, 0.97)))
    before = studio.pixels("#canvas")
    studio.page.reload()
    studio.live()
    studio.until(lambda: not np.all(studio.pixels("#canvas") == 255), "the drawing")
    assert np.abs(studio.pixels("#canvas").astype(int) - before).mean() < 2


def test_the_camera_is_seen_in_the_models_shape_and_not_stretched(studio: Studio, oblong: tuple[str, str]):
    height, width = SIZES[oblong[0]]
    studio.page.locator("#tab-camera").click()
    before = studio.id
    studio.page.locator("#camera-start").click()
    studio.until(lambda: studio.id > before, "a picture of the camera's")
    box = studio.page.locator("#video").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
    part = """async () => { const video = document.querySelector("#video");
        const { middle } = await import(new URL("web/camera.js", location).href);
        return [video.videoWidth, video.videoHeight, ...middle(video, %d, %d)] }"""
    wide, high, left, top, seen_wide, seen_high = studio.get(part % (width, height))
    assert seen_wide / seen_high == pytest.approx(width / height)
    assert (2 * left + seen_wide, 2 * top + seen_high) == pytest.approx((wide, high)), "the middle"
    assert min(wide - seen_wide, high - seen_high) == pytest.approx(0), "and as much as there is of it"
