"""When the connection or the server is not what it should be."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.provenance.verify import VerifyOptions, verify
from page.studio import LIVE, Between, Host, free_port, studio_in


def test_a_network_that_goes_away_is_noticed_at_once(browser: Any, address: str):
    with studio_in(browser, "offline") as studio:
        studio.open(address).live()
        watch = "new MutationObserver(() => seen.push(state.dataset.state)).observe(state, {attributes: true})"
        later = "addEventListener('offline', () => setTimeout(() => seen.push('long after')))"
        studio.get(f"window.seen = [], {watch}, {later}, 0")
        studio.page.context.set_offline(True)
        studio.until(lambda: "long after" in studio.get("seen"), "the browser to say so")
        assert "lost" in studio.get("seen.slice(0, seen.indexOf('long after'))"), "at once, no ping has to be missed for it"
        studio.page.context.set_offline(False)
        studio.until(lambda: studio.state in LIVE, "the way back")
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        studio.wrong[:] = [text for text in studio.wrong if "ERR_INTERNET_DISCONNECTED" not in text]


def test_a_page_without_a_token_has_a_place_to_paste_one(browser: Any, host: Host):
    port = free_port()
    host.serve(port, token="secret", budget="60s")
    with studio_in(browser, "token") as studio:
        page = studio.open(f"http://localhost:{port}/").page
        field = page.locator("#token")
        studio.until(field.is_visible, "a place for it")
        studio.screen("token_form")
        field.fill("not it")
        field.press("Enter")
        studio.until(lambda: studio.pill == "No access" and field.is_visible() and not field.input_value(), "another try")
        field.fill(f"http://localhost:{port}/#token=secret")
        page.locator("#token-form button").click()
        studio.live()
        assert field.is_hidden()
        assert "secret" not in page.url
        page.reload()
        studio.live()
    with studio_in(browser, "token_not_asked_for") as studio:
        studio.open(f"http://localhost:{port}/#token=secret").live()
        assert studio.page.locator("#token").is_hidden()


def test_a_server_killed_in_mid_stroke_is_found_again(browser: Any, host: Host):
    port = free_port()
    server = host.serve(port)
    with studio_in(browser, "recovered") as studio:
        studio.open(f"http://localhost:{port}/").live()
        studio.stroke((0.1, 0.2), (0.5, 0.4), release=False)
        os.kill(server, signal.SIGKILL)
        studio.until(lambda: studio.pill == "Reconnecting", "the page to notice")
        studio.screen("lost")
        before, number = studio.pixels("#canvas"), studio.id
        box = studio.page.locator("#canvas").bounding_box()
        studio.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
        assert not np.array_equal(studio.pixels("#canvas"), before), "the stroke goes on while nobody answers"
        studio.page.keyboard.press("Control+s")
        studio.until(lambda: "cannot be reached" in studio.page.locator("#toast").inner_text(), "a download to say so")
        studio.wrong[:] = [text for text in studio.wrong if "ERR_CONNECTION_REFUSED" not in text]
        host.serve(port)
        studio.until(lambda: studio.id > number and studio.state in LIVE, "a picture of the whole stroke, by itself")
        studio.page.mouse.up()
        studio.change(lambda: studio.stroke((0.9, 0.1), (0.1, 0.9)))
        number = studio.id
        os.kill(host.pids[-1], signal.SIGKILL)
        studio.until(lambda: studio.pill == "Reconnecting", "the page to notice again")
        host.serve(port)
        studio.until(lambda: studio.id > number, "the picture to be drawn anew, though nobody moves")
        with studio.page.expect_download():  # the new server has it
            studio.page.locator("#save").click()


def test_a_server_that_says_nothing_is_waited_for(browser: Any, address: str):
    with studio_in(browser, "connecting") as studio:
        studio.page.route_web_socket("**/v1/stream", lambda socket: None)  # opened, and never answered
        studio.page.clock.install(time=0)
        studio.page.clock.pause_at(1000)
        studio.open(address)
        studio.page.clock.run_for(1000)
        cover = studio.page.locator("#cover-text")
        studio.until(lambda: cover.inner_text() == "Connecting …", "the page's own words")
        assert studio.pill == "Connecting"
        studio.stroke((0.2, 0.2), (0.8, 0.8))
        assert studio.pixels("#canvas").min() < 255, "who waits can draw already"
        studio.page.clock.run_for(15_000)
        assert studio.pill == "Reconnecting", "its patience has an end"


def test_a_target_that_cannot_be_kept_shows_and_so_does_what_is_given_up_for_it(browser: Any, address: str):
    """What the server finds out about a picture is put into its mouth: how fast this machine is decides nothing."""
    with studio_in(browser, "target") as studio:
        page, between = studio.page, Between(studio.page)
        studio.open(address).live()
        shed = page.locator("#shed")
        page.locator("#tab-camera").click()
        page.get_by_role("button", name="Start the camera").click()
        for fits, given_up, pill, said in (
            (False, [], "Over target", "over target"),
            (True, ["encoder", "steps"], "Live, lighter", "a lighter format, fewer steps"),
            (True, [], "Live", ""),
        ):
            facts = {"fits": fits, "shed": given_up}
            between.word = lambda header, facts=facts: header | (facts if header["type"] == "picture" else {})

            def shown() -> list[str]:
                """The pill and the panel, at one moment."""
                return studio.get("""["#state span", "#shed"].map(what => document.querySelector(what))
                    .map(e => e.hidden ? "" : e.innerText)""")

            studio.until(lambda pill=pill, said=said: shown() == [pill, said], f"{pill}, and what is given up")
            if given_up:
                assert shed.get_attribute("title") == f"Given up to come nearer to the target: {said}."
                studio.screen("shed")


@pytest.mark.parametrize("stated", [True, False])
def test_a_picture_too_large_for_the_server_comes_smaller_or_not_at_all(
    browser: Any, host: Host, tmp_path: Path, stated: bool
):
    """Bare pixels of 32 px are over this limit, as a file they are not, except of noise. No frame ends two connections."""
    port = free_port()
    host.serve(port, budget="60s", limits={"message_bytes": 2000}, narrow=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "noise.png")
    with studio_in(browser, f"too_large_{'stated' if stated else 'found_out'}") as studio:
        page = studio.page
        between = Between(page)
        if not stated:  # the page is to find the limit out by itself
            between.word = lambda header: header | ({"limits": {}} if header["type"] == "hello" else {})
        sockets = between.sockets
        studio.open(f"http://localhost:{port}/").live()
        studio.change(lambda: studio.stroke((0.2, 0.2), (0.8, 0.8)))
        assert len(sockets) == (1 if stated else 2)
        page.set_input_files("#file", tmp_path / "noise.png")
        toast = page.locator("#toast")
        studio.until(lambda: "--limits.message-bytes" in toast.inner_text(), "a sentence with the fix")
        assert re.match("This picture makes a message of [34]\\d{3} bytes, too large", toast.inner_text())
        studio.settle()
        assert len(sockets) == (1 if stated else 3)
        number = studio.id
        page.locator("#layer-photo").click()
        studio.until(lambda: studio.id > number, "the picture of what is not too large")
        assert len(sockets) == (1 if stated else 3), "the connection is still the same"
        # the route notices a closed connection later than a page of its own would, and sends on it meanwhile
        studio.wrong[:] = [text for text in studio.wrong if "CLOSING or CLOSED" not in text]


def test_who_asks_for_nothing_rests_and_comes_back_with_the_next_stroke(browser: Any, host: Host):
    """The page's own pings and questions keep nobody's place."""
    port = free_port()
    host.serve(port, limits={"idle_s": 3.0})
    with studio_in(browser, "resting") as studio:
        studio.open(f"http://localhost:{port}/").live()
        studio.until(lambda: studio.pill == "Resting", "the page to rest")
        assert "comes back" in studio.page.locator("#state").get_attribute("title")
        number = studio.id
        studio.stroke((0.2, 0.2), (0.8, 0.8))
        studio.until(lambda: studio.id > number, "the stroke's picture")


def test_a_model_that_cannot_be_opened_shows(browser: Any, host: Host, tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    port = free_port()
    host.serve(port, hold=str(gate), limits={"picture_pixels": 100})
    with studio_in(browser, "failed") as studio:
        studio.open(f"http://localhost:{port}/")
        studio.until(lambda: studio.pill == "Warming up", "the server to begin")
        studio.get(
            """window.shown = []; new MutationObserver(() => shown.push(document.querySelector(".right").innerText,
                document.querySelector("#cover").innerText)).observe(document.body, {subtree: true, characterData: true,
                childList: true}), 0"""
        )
        gate.unlink()
        studio.until(lambda: studio.pill == "Reconnecting", "the server to end")
        shown = " ".join(studio.get("shown"))
        assert "Out of order" in shown
        assert "use --limits.picture-pixels 1024" in shown, "and why"


def test_a_full_house_shows_the_place_in_the_queue(browser: Any, host: Host):
    port = free_port()
    host.serve(port, limits={"sessions": 1, "queue": 1})
    address = f"http://localhost:{port}/"
    with studio_in(browser, "moved_up") as second, studio_in(browser, "full") as third:
        with studio_in(browser, "inside") as first:
            first.open(address).live()
            second.open(address)
            second.until(lambda: second.pill == "In the queue", "the queue")
            assert second.page.locator("#cover-title").inner_text() == "You are number 1"
            second.stroke((0.1, 0.2), (0.5, 0.4))
            assert second.pixels("#canvas").min() < 255, "who waits can draw already"
            second.screen("queue")
            third.open(address)
            third.until(lambda: third.pill == "Full", "the refusal of a full server")
            assert third.page.locator("#cover-title").inner_text() == "Everything is taken"
            third.screen("full_cover")
        second.live()
        third.until(lambda: third.pill == "In the queue", "a free place in the queue")


def test_a_token_a_slow_start_and_no_provenance_all_show(browser: Any, host: Host, tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    port = free_port()
    host.serve(port, token="secret", provenance=False, hold=str(gate))
    for wrong in ("", "#token=not it, m%C3%BCller"):  # also one that no subprotocol can be made of
        with studio_in(browser, "no_access") as stranger:
            stranger.open(f"http://localhost:{port}/{wrong}")
            stranger.until(lambda: stranger.pill == "No access", "the stranger to be told")
            assert "token is missing or wrong" in stranger.page.locator("#cover-text").inner_text()
    with studio_in(browser, "no_provenance") as studio:
        studio.open(f"http://localhost:{port}/#token=secret")
        studio.until(lambda: studio.pill == "Warming up", "the server to say what it does")
        studio.until(lambda: "large model" in studio.page.locator("#cover-text").inner_text(), "and what it opens")
        assert "secret" not in studio.page.url
        studio.screen("warming")
        gate.unlink()
        studio.live()
        assert studio.page.locator("#cover").is_hidden()
        assert studio.page.locator("#badge").inner_text() == "No provenance"
        assert studio.page.locator("#with-prompt").is_disabled(), "there are no credentials to write it into"
        assert "beside" not in studio.page.locator("#camera-note").text_content()
        with studio.page.expect_download() as download:
            studio.page.locator("#save").click()
        assert verify(download.value.path(), VerifyOptions(home=host.home)).credentials.state == "absent"
