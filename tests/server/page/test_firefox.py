"""The studio page in Firefox, as Debian ships it, over the browser's own remote protocol: nothing else has to be installed.

WebDriver BiDi (w3.org/TR/webdriver-bidi) is JSON over a WebSocket, which Firefox opens for ``--remote-debugging-port``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_helpers import PATIENCE_S, running, until

websockets = pytest.importorskip("websockets.sync.client", reason="Firefox is asked over a WebSocket: pip install websockets")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = pytest.mark.skipif(FIREFOX is None, reason="no Firefox here: install Debian's firefox-esr")
LIVE = "['ready', 'busy', 'shed', 'over'].includes(state.dataset.state)"
SETTLED = f"{LIVE} && document.querySelector('#result').getAttribute('aria-busy') === 'false'"
INK = "[...document.querySelector('#canvas').getContext('2d').getImageData(0, 0, 512, 512).data].some(v => v < 100)"


class Firefox:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._ids, self.said = socket, itertools.count(1), []
        self.name = self.ask("session.new", capabilities={})["capabilities"]["browserName"]
        self.ask("session.subscribe", events=["log.entryAdded"])
        self._tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] in ("error", "warn"):
                self.said.append(answer["params"]["text"])
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, address: str) -> None:
        self.ask("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def get(self, script: str) -> Any:
        code = f"(async () => JSON.stringify(await (async () => ({script}))() ?? null))()"
        found = self.ask("script.evaluate", expression=code, target={"context": self._tab}, awaitPromise=True)
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    def until(self, script: str) -> None:
        until(lambda: self.get(script))

    def act(self, **source: Any) -> None:
        self.ask("input.performActions", context=self._tab, actions=[source])

    def stroke(self, *points: tuple[float, float]) -> None:
        """With the mouse, in parts of the canvas."""
        box = self.get("document.querySelector('#canvas').getBoundingClientRect().toJSON()")
        at = [{"x": round(box["x"] + x * box["width"]), "y": round(box["y"] + y * box["height"])} for x, y in points]
        moves = [{"type": "pointerMove", **place} for place in at]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self.act(type="pointer", id="mouse", parameters={"pointerType": "mouse"}, actions=actions)

    def press(self, *keys: str) -> None:
        """One key while the ones before it are held."""
        actions = [{"type": "keyDown", "value": key} for key in keys]
        self.act(type="key", id="keys", actions=[*actions, *({"type": "keyUp", "value": key} for key in reversed(keys))])

    def put(self, field: str, value: str) -> None:
        self.get(f"""(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event("input", {{bubbles: true}})) }})(
            document.getElementById({json.dumps(field)}))""")


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Firefox]:
    assert FIREFOX is not None
    arguments = [FIREFOX, "--headless", "--no-remote", "--profile", str(tmp_path), "--remote-debugging-port", "0"]
    size = {"MOZ_HEADLESS_WIDTH": "1366", "MOZ_HEADLESS_HEIGHT": "800"}
    browser = subprocess.Popen(
        arguments, env=os.environ | size | {"HOME": str(tmp_path)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    patience = threading.Timer(2 * PATIENCE_S, browser.kill)
    patience.start()
    try:
        assert browser.stderr is not None
        address = next((found[0] for line in browser.stderr if (found := re.search(r"ws://\S+", line))), None)
        assert address is not None, "Firefox did not start"
        with websockets.connect(f"{address}/session", max_size=None) as socket:
            yield Firefox(socket)
            with contextlib.suppress(Exception):
                socket.send(json.dumps({"id": 10**6, "method": "browser.close", "params": {}}))
    finally:
        patience.cancel()
        browser.terminate()
        browser.wait(PATIENCE_S)


def test_firefox_draws_keeps_and_takes_back(firefox: Firefox):
    with running(budget="60s") as server:
        firefox.open(server.url)
        firefox.until(f"Boolean(document.querySelector('#result').dataset.id) && {LIVE}")
        firefox.stroke((0.2, 0.2), (0.8, 0.3), (0.6, 0.8))
        firefox.until(INK)
        firefox.until(SETTLED)
        assert firefox.get("document.querySelector('#strength-out').textContent") == "follow my drawing"
        firefox.put("smoothing", "0.9")
        firefox.stroke((0.2, 0.8), (0.8, 0.7))
        firefox.until(SETTLED)
        firefox.put("prompt", "my own words")
        firefox.get("document.querySelectorAll('#ideas button')[1].click()")
        assert firefox.get("document.querySelector('#prompt').value") != "my own words"
        firefox.get("document.querySelector('#ideas button').focus()")
        firefox.press("\ue009", "z")
        assert firefox.get("document.querySelector('#prompt').value") == "my own words"
        firefox.until(SETTLED)
        firefox.open(server.url)
        firefox.until(INK)
        firefox.until(SETTLED)
        kept = firefox.get("['prompt', 'smoothing'].map(id => document.getElementById(id).value)")
        assert kept == ["my own words", "0.9"], "after a reload"
        for tab in ("type", "camera", "draw"):
            firefox.get(f"document.querySelector('#tab-{tab}').click()")
            assert firefox.get(f"document.querySelector('#view-{tab}').checkVisibility()")
            assert firefox.get("document.documentElement.scrollWidth <= innerWidth"), tab
    assert firefox.name == "firefox"
    assert firefox.said == []
