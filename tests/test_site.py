"""What the documentation's site is made of; `make site` builds it and ends at a link that leads nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("mkdocs", reason="no mkdocs here: pip install '.[docs]'")
griffe = pytest.importorskip("griffe")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "website" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for inner in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(inner)


def test_every_public_module_has_one_page_and_nothing_else_has(tmp_path: Path):
    hooks = script("hooks")
    pages = hooks.modules()
    listed = list(leaves(hooks.tree("fewstep", pages)))
    assert sorted(listed) == sorted(pages.values())
    for name in ("fewstep.cli", "fewstep.methods.add", "fewstep.parts.features", "fewstep.inference.pipeline"):
        assert pages[name] in listed
    assert pages["fewstep.parts.features"] == "reference/fewstep/parts/features/index.md"
    for path in ("house/__init__.py", "house/_hidden.py", "house/a.py", "house/_room/__init__.py", "house/_room/b.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert list(hooks.modules(tmp_path / "house")) == ["house", "house.a"]


def test_a_table_of_a_docstring_becomes_markdowns():
    turned = script("rst_tables").markdown(
        "Words.\n\n=====  ======\npaper  here\n=====  ======\nx_t    ``x_t``\n|x|    a norm\n=====  ======\n\n"
        "``L = L_adv``.\n=== no table"
    )
    assert turned.split("\n") == [
        "Words.", "", "", "| paper | here |", "| --- | --- |", "| x_t | ``x_t`` |", "| \\|x\\| | a norm |",
        "", "", "``L = L_adv``.", "=== no table",
    ]  # fmt: skip


def test_sections_of_other_pages_that_pages_show_are_there():
    hooks = script("hooks")
    lines = [(name, line) for name in ("README", "CONTRIBUTING") for line in (ROOT / f"{name}.md").read_text().splitlines()]
    headings = {(name, line.removeprefix("## ")) for name, line in lines if line.startswith("## ")}
    asked = {name for page in (ROOT / "docs").rglob("*.md") for name in hooks.SECTION.findall(page.read_text())}
    assert {name for name, _ in asked} == {"README", "CONTRIBUTING"}
    assert asked <= headings


def test_the_makefiles_command_ends_at_a_link_that_leads_nowhere(tmp_path: Path):
    """Told to be quiet, mkdocs counts no warnings, and nothing ends it."""
    found = re.search(r"-m (mkdocs build.*)", (ROOT / "Makefile").read_text())
    assert found is not None
    (tmp_path / "docs").mkdir()
    (tmp_path / "mkdocs.yml").write_text("site_name: a\ntheme: mkdocs\nplugins: []\n")
    for text, code in (("[a](index.md)", 0), ("[a](nowhere.md)", 1)):
        (tmp_path / "docs" / "index.md").write_text(text)
        done = subprocess.run([sys.executable, "-m", *found[1].split()], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
