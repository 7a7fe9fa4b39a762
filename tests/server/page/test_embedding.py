"""The wire on a page of somebody else."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fewstep.provenance.verify import VerifyOptions, verify
from page.studio import ROOT, Host, free_port, studio_in, wait_for


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the origin that it is served from: not the studio's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(ROOT / "src" / "fewstep" / "server" / "web" / "wire.js", folder)
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *said: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as serving:
        (folder / "favicon.ico").touch()
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield folder, f"http://localhost:{serving.server_port}"
        serving.shutdown()


def example(address: str) -> str:
    """The page of docs/protocol.md, for a server at this address."""
    page = (ROOT / "docs" / "protocol.md").read_text().split("```html\n")[1].split("```")[0]
    assert "http://localhost:7860" in page
    return "<!doctype html>" + page.replace("http://localhost:7860", address)


def test_a_strangers_page_draws_where_it_was_allowed(browser: Any, host: Host, elsewhere: tuple[Path, str]):
    folder, origin = elsewhere
    port = free_port()
    host.serve(port, budget="60s", origins=[origin], token="secret")
    address = f"http://localhost:{port}"
    page = example(f"{address}#token=secret")
    (folder / "index.html").write_text(page.replace("./wire.js", f"{address}/web/wire.js"))
    with studio_in(browser, "elsewhere") as studio:

        def drawn() -> bool:
            studio.page.locator("#go").click()
            return studio.get("picture.naturalWidth") == 32

        wait_for(address)  # the page takes wire.js from there
        studio.open(origin)
        studio.until(lambda: studio.get("Boolean(go.onclick)"), "the page to have read its script")
        studio.until(drawn, "a picture on the stranger's page")
        studio.get(
            """async address => { const { connect } = await import("./wire.js");
                window.link = await connect(address, { token: "secret" }) }""",
            address,
        )
        asked = """async () => { const image = new ImageData(new Uint8ClampedArray(4 * 32 * 32).fill(200), 32, 32);
            const all = await Promise.all([
                ...[1, 2, 3, 4].map(seed => link.draw({ prompt: "a cat", seed })),
                link.draw({ prompt: "a cat", seed: 5, image, strength: 0.5 }),
                link.draw({ prompt: "a cat", seed: 6, image: new Blob(["nonsense"], { type: "image/png" }) }).catch(e => e.code),
                link.draw({ prompt: "a cat", steps: 3 }).catch(e => `${e.name}: ${e.message}`),
                link.draw({ prompt: "a dog", seed: 7, encoder: "png" }),
                link.draw({ prompt: "a cat", image: new Blob([new Uint8Array(9 << 20)], { type: "image/png" }) })
                    .catch(e => `${e.code}: ${e.message}`)]);
            const file = await link.file(all[7].id, { prompt: true });
            return { seeds: all.map(p => p.seed ?? p), type: all[7].blob.type, inside: (await link.stats()).room.inside,
                     file: [...new Uint8Array(await file.arrayBuffer())] } }"""
        said = studio.get(asked)
        assert said["seeds"][:6] + said["seeds"][7:8] == [1, 2, 3, 4, 5, "picture", 7], "each gets its own answer"
        assert re.match("ServerError: .*trained for 1, 2, 4 steps", said["seeds"][6])
        assert re.match("picture: .*943\\d{4} bytes, too large .* --limits.message-bytes", said["seeds"][8])
        assert (said["type"], said["inside"]) == ("image/png", 2)
        (folder / "file.png").write_bytes(bytes(said["file"]))
        assert verify(folder / "file.png", VerifyOptions(home=host.home)).credentials.facts["prompt"] == "a dog"
        ended = """async () => { const open = link.draw({ prompt: "never" }).catch(e => e.code); link.close(); link.close();
            return [link.state, await open, await link.draw({}).catch(e => e.code)] }"""
        assert studio.get(ended) == ["closed", "closed", "closed"]
        assert studio.get("link.stats().catch(e => e.message)") == "this session is closed: connect again"


def test_a_strangers_page_is_told_why_it_may_not(browser: Any, address: str, elsewhere: tuple[Path, str]):
    folder, origin = elsewhere
    (folder / "index.html").write_text(example(address.rstrip("/")))
    with studio_in(browser, "not_allowed") as studio:
        studio.open(origin)
        said = studio.page.locator("#said")
        studio.until(lambda: said.inner_text(), "a sentence")
        sentence = f"pages from {origin} may not use this server: start it with --origins {origin} to allow them"
        assert said.inner_text() == sentence
        nobody = f"http://localhost:{free_port()}"
        (folder / "nobody.html").write_text(example(nobody))
        studio.open(f"{origin}/nobody.html")
        studio.until(lambda: said.inner_text(), "another sentence")
        assert "fewstep serve" in said.inner_text()


def test_a_page_of_another_version_is_told_to_reload(browser: Any, address: str):
    """Such as one that stayed open while the server under it was updated."""
    wire = (ROOT / "src" / "fewstep" / "server" / "web" / "wire.js").read_text()
    old = wire.replace("export const VERSION = 1;", "export const VERSION = 0;")
    assert old != wire
    with studio_in(browser, "old_page") as studio:
        studio.page.route("**/web/*/wire.js", lambda route: route.fulfill(body=old, content_type="text/javascript"))
        studio.open(address)
        studio.until(lambda: studio.pill == "No access", "the page to be told")
        told = studio.page.locator("#cover-text").inner_text()
        assert "version 0 of the protocol, the server version 1: reload the page, or update the client" in told


def test_a_draw_survives_the_server(browser: Any, host: Host, elsewhere: tuple[Path, str]):
    """What was asked for while a server died is drawn by the next one."""
    folder, origin = elsewhere
    (folder / "index.html").write_text("<!doctype html><title>somebody's page</title>")
    port = free_port()
    server = host.serve(port, origins=[origin])
    join = """async address => { const { connect } = await import("./wire.js");
        return connect(address).then(link => Boolean(window.link = link), () => false) }"""
    with studio_in(browser, "survived") as studio:
        studio.open(origin)
        studio.until(lambda: studio.get(join, f"http://localhost:{port}"), "the server")
        os.kill(server, signal.SIGSTOP)
        studio.get("window.asked = link.draw({ prompt: 'a cat', seed: 3 }), 0")
        os.kill(server, signal.SIGKILL)
        studio.until(lambda: studio.get("link.state") == "lost", "the page to notice")
        host.serve(port, origins=[origin])
        assert studio.get("asked.then(picture => picture.seed)") == 3
