"""Below a path of a reverse proxy: a real nginx in front, TLS included, by the file that deploy/ ships, and the server alone."""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import re
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urljoin

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from PIL import Image

import fewstep
from fewstep.provenance.content_credentials import read as read_credentials
from fewstep.server.http.prefix import checked
from serving_helpers import PATIENCE_S, SIZE, TOKEN, Server, running, until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "deploy" / "nginx.conf"
NAME = "studio.example.org"
get = partial(httpx.get, timeout=PATIENCE_S)  # by itself it gives up after 5 seconds, which a busy machine may take
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
WHOLE = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{servers}
}}
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def certificate(folder: Path) -> Path:
    """A certificate for this machine's address that signs itself, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    meant = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1))
    made = made.add_extension(meant, False).add_extension(x509.BasicConstraints(True, None), True)
    pem = folder / "certificate.pem"
    pem.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    return pem


@contextlib.contextmanager
def nginx(folder: Path, server: Server, change: dict[str, str], plain: int = 0) -> Iterator[str]:
    """nginx in front of a server, by the file of deploy/ with a test's ports and certificate: the address of the studio."""
    if NGINX is None:
        pytest.skip("no nginx here: install Debian's nginx-light")
    pem, servers, port = certificate(folder), CONFIG.read_text("utf-8"), free_port()
    ours = {
        "listen 80;": f"listen 127.0.0.1:{plain or free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(pem),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(folder / "key.pem"),
    }
    for old, new in {**ours, **change, "127.0.0.1:7860": server.url.removeprefix("http://")}.items():
        assert old in servers
        servers = servers.replace(old, new)
    config = folder / "nginx.conf"
    config.write_text(WHOLE.format(folder=folder, servers=servers))
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(command, stderr=said)

    def answers() -> bool:
        assert process.poll() is None, (folder / "said").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        until(answers)
        yield f"https://127.0.0.1:{port}/studio/"
    finally:
        process.terminate()
        process.wait(20)


def check_studio(url: str) -> None:
    """Everything that has an address, from the page on: at ``url``, which ends with a slash."""
    page = get(url)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
    assert len(links) >= 3
    for link in links:
        assert not link.startswith("/"), "an address from the root is not the studio's"
        assert get(urljoin(url, link)).status_code == 200, link
    script = get(urljoin(url, "web/studio.js")).text
    for link in set(re.findall(r'from "([^"]+)"', script)):
        assert get(urljoin(url, f"web/{link}")).status_code == 200, link
    without = get(url.rstrip("/"))
    assert without.status_code in (301, 308)
    assert urljoin(url.rstrip("/"), without.headers["location"]) == url
    with fewstep.connect(url, TOKEN) as studio:
        picture = studio.draw("a red heart", seed=7, steps=4)
        assert picture.pixels.shape == (SIZE, SIZE, 3)
        studio.download(picture, path := Path(studio.hello["session"] + ".png"))
        data = path.read_bytes()
        path.unlink()
    assert read_credentials(data, "image/png").facts["seed"] == 7
    asked = {"prompt": "a red heart", "seed": 7, "steps": 4, "response_format": "url"}
    handed_out = httpx.post(f"{url}v1/images/generations", json=asked, headers=SHOWN, timeout=60).json()["data"][0]["url"]
    assert handed_out.startswith(f"{url}v1/files/")
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(d))) for d in (data, get(handed_out).content)))
    assert get(f"{url}v1/models/", headers=SHOWN, follow_redirects=True).status_code in (200, 404)
    assert get(f"{url}openapi.json", headers=SHOWN).json()["servers"] == [{"url": "/studio"}]
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)).save(photo, "PNG")
    assert len(photo.getvalue()) > 2**20, "more than nginx takes by itself"
    form = {"data": {"prompt": "a cat"}, "files": {"image": ("photo.png", photo.getvalue())}}
    assert httpx.post(f"{url}v1/images/edits", headers=SHOWN, timeout=60, **form).status_code == 200


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"root_path": "/studio"}, {}),
        ({"root_path": "/studio/"}, {";  # kept": "/;  #"}),
        ({}, {"proxy_set_header Host": "proxy_set_header X-Forwarded-Prefix /studio; proxy_set_header Host"}),
    ],
    ids=["the path is kept", "the path is cut off", "the proxy names it"],
)
def test_the_studio_below_a_path_of_nginx(tmp_path, monkeypatch, options: dict, change: dict):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))  # every client here trusts this one alone
    plain = free_port()
    with running(trusted_proxies=("127.0.0.1",), token=TOKEN, **options) as server, nginx(tmp_path, server, change, plain) as url:
        check_studio(url)
        page = get(url)
        assert page.headers["strict-transport-security"] == "max-age=31536000"
        assert get(urljoin(url, "/elsewhere")).status_code == 404
        for path in ("/studio/", "/studio/v1/models?a=b"):
            moved = get(f"http://127.0.0.1:{plain}{path}")
            assert (moved.status_code, moved.headers["location"]) == (308, f"https://127.0.0.1{path}")


def test_a_browser_draws_and_saves_below_a_path_of_nginx(tmp_path):
    """The page, its scripts, its WebSocket and its download, with the token behind the address as it is printed."""
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("no browser here: install Debian's chromium")
    with (
        running(trusted_proxies=("127.0.0.1",), token=TOKEN, root_path="/studio") as server,
        nginx(tmp_path, server, {}) as url,
        playwright.sync_playwright() as started,
    ):
        browser = started.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(ignore_https_errors=True, accept_downloads=True).new_page()
        page.set_default_timeout(60_000)
        asked: list[tuple[int, str]] = []
        page.on("response", lambda answer: asked.append((answer.status, answer.url)))
        page.goto(f"{url}#token={TOKEN}")
        page.fill("#prompt", "a red heart")
        page.wait_for_selector("#save:not([disabled])")
        with page.expect_download() as saved:
            page.click("#save")
        assert read_credentials(Path(saved.value.path()).read_bytes(), "image/png").ai_generated
        assert server.studio.metrics.total("sent") > 0
        assert [one for one in asked if one[0] >= 400] == []
        assert all(where.startswith((url, "blob:")) for _, where in asked)
        browser.close()


def test_the_page_shows_the_location_that_is_shipped():
    snippet = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "protocol.md").read_text("utf-8"), re.S)
    assert snippet is not None
    assert textwrap.indent(snippet[1], "    ") in CONFIG.read_text("utf-8")


def test_a_server_below_a_path_answers_with_and_without_it():
    with running(root_path="/studio") as server:
        for place in ("/", "/studio/"):
            assert "<h1>" in get(server.url + place).text
            assert get(f"{server.url}{place}health").status_code == 200
        to = get(f"{server.url}/studio")
        assert (to.status_code, to.headers["location"]) == (308, "/studio/")
        for elsewhere in ("/studiox/", "/studio/studio/"):
            assert get(server.url + elsewhere).status_code == 404


def test_a_prefix_is_believed_of_a_trusted_proxy_alone():
    told = {"X-Forwarded-Prefix": "/studio"} | SHOWN
    asked = {"prompt": "a cat", "response_format": "url"}
    for proxies, found in (((), "/v1/files/"), (("127.0.0.2",), "/v1/files/"), (("127.0.0.0/8",), "/studio/v1/files/")):
        with running(trusted_proxies=proxies, token=TOKEN) as server:
            answer = httpx.post(f"{server.url}/v1/images/generations", json=asked, headers=told, timeout=60)
            assert httpx.URL(answer.json()["data"][0]["url"]).path.startswith(found)
            if proxies == ("127.0.0.0/8",):
                for odd in ("//evil.org", "/a/../b", "/v1", "javascript:x"):
                    answer = httpx.post(
                        f"{server.url}/v1/images/generations", json=asked, headers=SHOWN | {"X-Forwarded-Prefix": odd}, timeout=60
                    )
                    assert httpx.URL(answer.json()["data"][0]["url"]).path.startswith("/v1/files/")


def test_a_token_is_wanted_below_a_path_too():
    with running(root_path="/studio", token=TOKEN) as server:
        for place in ("/v1/models", "/studio/v1/models"):
            assert get(server.url + place).status_code == 401
            assert get(server.url + place, headers=SHOWN).status_code == 200
        for place in ("/studio/", "/studio/health", "/studio/web/studio.css"):
            assert get(server.url + place).status_code == 200


@pytest.mark.parametrize("path", ["studio", "//evil.org", "/a/../b", "/a b", "/a?b", "/v1", "/web/x", "/.hidden"])
def test_what_is_no_prefix_is_refused(path: str):
    with pytest.raises(ValueError, match=r"--root-path .*such as /studio"):
        checked(path)


def test_prefixes():
    assert [checked(path) for path in ("", "/", "/studio", "/studio/", "/a/b-c_d~1.x/")] == [
        "", "", "/studio", "/studio", "/a/b-c_d~1.x",
    ]  # fmt: skip
