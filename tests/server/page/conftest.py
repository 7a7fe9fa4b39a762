"""One browser and one host of servers for all files of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from page.studio import FLAGS, Host, Studio, find_browser, free_port, studio_in, wait_for


@pytest.fixture(scope="package")
def chromium() -> Iterator[tuple[Any, str]]:
    """Playwright's hold on Chromium, and where that is."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page tests need playwright: pip install playwright")
    with playwright.sync_playwright() as running:
        executable = find_browser(running.chromium.executable_path)
        if executable is None:
            pytest.skip("no browser here: install Debian's chromium, or run `playwright install chromium`")
        yield running.chromium, executable


@pytest.fixture(scope="package")
def host(chromium: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    made = Host(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


@pytest.fixture(scope="package")
def browser(chromium: tuple[Any, str], host: Host) -> Iterator[Any]:
    """It starts while the host imports."""
    made = chromium[0].launch(executable_path=chromium[1], args=FLAGS)
    yield made
    made.close()


@pytest.fixture(scope="package")
def address(host: Host) -> str:
    """A server that the tests share, patient enough to shed nothing: one drawing makes one picture, bit for bit."""
    port = free_port()
    host.serve(port, budget="60s")
    wait_for(f"http://localhost:{port}/")
    return f"http://localhost:{port}/"


@pytest.fixture
def studio(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Studio]:
    """The page, live on the shared server."""
    with studio_in(browser, request.node.name.removeprefix("test_"), accept_downloads=True) as made:
        yield made.open(address).live()


@pytest.fixture(scope="module")
def own_browser(chromium: tuple[Any, str]) -> Iterator[Any]:
    """For pages that no server of the studio's has."""
    made = chromium[0].launch(executable_path=chromium[1], args=["--no-sandbox"])
    yield made
    made.close()
