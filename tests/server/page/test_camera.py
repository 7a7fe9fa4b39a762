"""The camera's stream, its recording, and the recording's mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewstep.bundle import Card, shipped
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.verify import VerifyOptions, verify
from page.studio import Host, Studio, free_port, studio_in


def test_the_camera_streams_pauses_and_records(studio: Studio, host: Host, tmp_path: Path):
    page = studio.page
    page.locator("#tab-camera").click()
    page.get_by_role("button", name="Start the camera").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 4, "a stream of pictures")
    assert page.locator("#video").get_attribute("class") == "mirrored"
    with page.expect_download() as recorded:
        page.locator("#record").click()
        first = studio.id
        studio.until(lambda: studio.id > first + 4, "pictures to record")
        page.locator("#record").click()
    video = Path(recorded.value.path())
    assert video.read_bytes()[:4] == b"\x1a\x45\xdf\xa3", "a WebM file"
    assert video.stat().st_size > 1000
    assert "file beside them" in page.locator("#camera-note").inner_text()
    with page.expect_download() as signed:
        page.locator("#record-credentials").click()
    film, beside = (tmp_path / given.value.suggested_filename for given in (recorded, signed))
    recorded.value.save_as(film)
    signed.value.save_as(beside)
    assert beside == film.with_suffix(".c2pa")
    verdict = verify(film, VerifyOptions(home=host.home))
    assert (verdict.credentials.state, verdict.credentials.sidecar) == ("trusted", True)
    assert verdict.credentials.ai_generated
    film.write_bytes(film.read_bytes() + b"more")
    assert verify(film, VerifyOptions(home=host.home)).credentials.state == "tampered"
    studio.until(lambda: page.locator("#record-time").inner_text() == "Record", "the clock to stand")
    page.keyboard.press("Escape")
    page.locator("#camera-pause").click()
    studio.settle()
    assert studio.get("document.querySelector('#video').paused")
    page.locator("#camera-pause").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 2, "the stream to go on")
    page.locator("#tab-draw").click()
    assert studio.get("document.querySelector('#video').srcObject === null"), "the camera goes off with its tab"
    page.locator("#tab-camera").click()
    first = studio.id
    studio.until(lambda: studio.id > first + 2, "and comes back with it")


def test_a_recording_is_known_by_its_mark(browser: Any, host: Host, tmp_path: Path):
    """Of a real model, through the page's enlargement and the browser's codec."""
    pytest.importorskip("av", reason="videos are decoded by PyAV: pip install 'fewstep[video]'")
    port = free_port()
    host.serve(port, model="emoji-64", budget="60s")
    with studio_in(browser, "recording", accept_downloads=True) as studio:
        page = studio.open(f"http://localhost:{port}/").live().page
        page.locator("#tab-camera").click()
        page.get_by_role("button", name="Start the camera").click()
        first = studio.id
        studio.until(lambda: studio.id > first, "a picture of the camera")
        with page.expect_download() as recorded:
            page.locator("#record").click()
            first = studio.id
            studio.until(lambda: studio.id > first + 8, "pictures to record")
            page.locator("#record").click()
        recorded.value.save_as(tmp_path / "film.webm")
    verdict = verify(tmp_path / "film.webm", VerifyOptions(home=host.home))
    assert verdict.made_by_fewstep, str(verdict)
    assert verdict.watermark is not None
    named = mark_payload(Card.read(shipped()["emoji-64"]).fingerprint) & 0xFFFF
    assert verdict.watermark.payload in (named, None), "few frames leave its 16 bits in doubt"
