"""The page's files as a browser gets them: versioned, packed, and asked for once."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fewstep.server.app import WEB
from fewstep.server.http.assets import FOREVER, Assets
from serving_helpers import running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running() as server, httpx.Client(base_url=server.url) as made:
        yield made


def links(client: httpx.Client) -> list[str]:
    return re.findall(r'(?:href|src)="(web/[^"#]+)"', client.get("/").text)


def test_everything_that_the_page_links_is_there_for_ever(client: httpx.Client):
    page = client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    found = links(client)
    assert {Path(link).name for link in found} >= {"studio.js", "studio.css", "icon.svg", "wire.js", "dom.js"}
    for link in found:
        answer = client.get(f"/{link}")
        assert answer.status_code == 200, link
        assert answer.headers["cache-control"] == FOREVER
        assert answer.content == (WEB / Path(link).name).read_bytes()
    kinds = {Path(link).suffix: client.get(f"/{link}").headers["content-type"] for link in found}
    assert kinds == {
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
    }


def test_every_module_is_loaded_ahead_and_imports_from_beside_itself(client: httpx.Client):
    page = client.get("/").text
    ahead = {Path(link).name for link in re.findall(r'<link rel="modulepreload" href="(web/[^"]+)">', page)}
    modules = {path.name for path in WEB.glob("*.js")}
    assert ahead == modules
    for name in modules:
        for imported in re.findall(r'from "([^"]+)"', (WEB / name).read_text()):
            assert imported.startswith("./"), f"{name}: {imported} would leave the version's folder"
            assert imported[2:] in modules


def test_text_is_packed_for_who_takes_it(client: httpx.Client):
    link = next(link for link in links(client) if link.endswith("studio.css"))
    raw = (WEB / "studio.css").read_bytes()
    for accepted, packed in (
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
    ):
        with client.stream("GET", f"/{link}", headers={"accept-encoding": accepted}) as answer:
            sent = b"".join(answer.iter_raw())
            assert (answer.headers.get("content-encoding") == "gzip") == packed, accepted
            assert answer.headers["vary"] == "Accept-Encoding"
            assert (gzip.decompress(sent) if packed else sent) == raw
            assert len(sent) < len(raw) / 3 or not packed


def test_what_a_browser_has_is_not_sent_again(client: httpx.Client):
    for path in ("/", "/web/wire.js"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": f'"other", W/{first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")


def test_no_other_version_and_no_other_file_is_served(client: httpx.Client):
    for path in ("/web/000000000000/studio.js", "/web/none.js", "/web/index.html", "/web/..%2fapp.py", "/web/"):
        assert client.get(path).status_code == 404, path
        assert "error" in client.get(path).json()


def test_the_version_stands_for_the_content(tmp_path: Path):
    (tmp_path / "index.html").write_text('<script type="module" src="web/a.js"></script>')
    (tmp_path / "a.js").write_text("1")
    first, same = Assets(tmp_path).version, Assets(tmp_path).version
    (tmp_path / "a.js").write_text("2")
    assert first == same != Assets(tmp_path).version
