"""What the README and the tutorials tell a stranger to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image, ImageDraw

import foreign
from fences import PAGES, ROOT, blocks
from fewstep import bundle, cli
from fewstep.evaluation.sharpness import sharpness
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.methods import add
from fewstep.modality.image import from_uint8
from fewstep.recipes import distillation
from helpers import forget

FEWSTEP = [words for page in PAGES for block in blocks(page) for words in block.commands if words[0] == "fewstep"]


def test_the_readme_is_short_enough_to_be_read():
    shown = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(shown.split()) <= 1500


def test_no_figure_of_the_readme_is_marked_within_a_sentence():
    """They stand in the table; what is marked elsewhere makes the source hard to read."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if "<!--=" in line and not line.startswith("| ")] == []
    assert sum("<!--=" in line for line in lines) > 5


def exit_code(words: list[str]) -> object:
    try:
        cli.main(words)
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs_or_says_why_not(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    """One after the other in one folder, as a reader does."""
    monkeypatch.chdir(tmp_path)
    forget("my_lab")
    names: dict[str, object] = {}
    known = {
        "the tests' server": lambda: request.getfixturevalue("served").url,
        "a tiny teacher": lambda: str(foreign.sd1(tmp_path)) if not (tmp_path / "sd1").exists() else "sd1",
        "tiny pictures": lambda: "own" if (tmp_path / "own").exists() else str(foreign.pictures(tmp_path / "own").folder),
        "the shipped student": lambda: str(bundle.locate("emoji-64")),
    }
    for block in blocks(page):
        named = re.findall(r"tests/[\w/]+\.py", block.said)
        assert [path for path in named if not (ROOT / path).exists()] == [], "tests that are not there"
        if block.mark == "not run":
            assert len(block.said.split()) > 3, f"why not? {block.text}"
            assert all((ROOT / path).is_file() for path in re.findall(r"tests/[\w/]+\.py", block.said)), block.said
            continue
        if block.mark == "run by":
            path, _, name = block.said.partition("::")
            assert f"def {name}(" in (ROOT / path).read_text()
            continue
        if block.mark == "saved as":
            (tmp_path / block.said).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.said).write_text(block.text)
            continue
        assert block.mark in ("", "run with"), f"{block.mark}: {block.said}"
        block = block.swapped(known)
        if block.language == "python":
            exec(compile(block.text, page, "exec"), names)
            continue
        assert block.language == "bash", f"neither bash nor python, and not marked: {block.text}"
        for program, *words in block.commands:
            assert program == "fewstep", f"a command that the tests do not run, and not marked: {block.text}"
            assert not exit_code(words), words
    if page == "README.md":
        assert tuple(names["media"].shape) == (2, 3, 64, 64)
        assert float(names["media"].abs().max()) <= 1
        assert names["picture"].size == (64, 64)
        assert Image.open("heart.png").size[0] > 1


def test_a_block_without_a_mark_is_one_that_runs(tmp_path: Path):
    """The words that marks are read from, in every form that a page has."""
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```bash\nfewstep draw \"a b\" \\\n  --steps 1  # one\n# two\n```\n"
        "<!-- not run: no time for it -->\n```python\nx\n```\n"
        "<!-- run with: x = 1; u = the tests' server -->\n```python\ny(x, u)\n```\n"
        "<!-- another comment: y -->\n\n```text\nz\n```\n"
    )
    found = list(blocks(str(page)))
    assert [(one.mark, one.language) for one in found] == [
        ("", "bash"), ("not run", "python"), ("run with", "python"), ("", "text"),
    ]  # fmt: skip
    assert found[0].commands == [["fewstep", "draw", "a b", "--steps", "1"]]
    assert found[2].swapped({"the tests' server": lambda: "http://x"}).text == "y(1, http://x)\n"


def test_the_papers_recipe_is_the_command_that_is_said_to_be_it():
    """All that the section calls different is as the paper has it, and nothing else is changed."""
    page = (ROOT / "docs" / "add.md").read_text()
    (command,) = re.findall(r"```\n(fewstep distill .*?)```", page, re.S)
    words = shlex.split(command.replace("\\\n", " "))[2:]
    o = tyro.cli(cli.flat(distillation.options_type()), args=words)
    paper = {"features": "dinov2", "standardise": False, "augment": ("color", "translation", "cutout"), "keep": "last"}
    game = add.Options(r1=0.01, condition_dropout=0.0, space="media")
    assert o == distillation.options(warm=distillation.WarmStart(steps=0), add=game, **paper)


def test_a_crude_sketch_becomes_a_picture_of_its_prompt():
    """Nearer to what the prompt alone draws than the sketch is, in colours and edges, and still the sketch's."""
    drawn = Image.new("RGB", (64, 64), "white")
    brush = ImageDraw.Draw(drawn)
    brush.ellipse((8, 12, 34, 38), (229, 72, 77))
    brush.ellipse((30, 12, 56, 38), (229, 72, 77))
    brush.polygon([(10, 32), (54, 32), (32, 58)], (229, 72, 77))
    sketch = from_uint8(torch.from_numpy(np.asarray(drawn).copy())).movedim(-1, 0)[None]
    pipeline = Pipeline.open(bundle.locate("emoji-64"))
    prompts = ["a red heart"] * 3
    own = pipeline(Request(prompts, [0, 1, 2], 1))
    made = pipeline(Request(prompts, [10, 11, 12], 1, image=sketch.expand(3, -1, -1, -1), strength=0.75))

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        """RMS over pixels, mean over pairs."""
        return float((one[:, None] - other[None]).square().mean((2, 3, 4)).sqrt().mean())

    def edges(pictures: torch.Tensor) -> float:
        return float(sharpness(pictures)["edges"].mean())

    assert apart(made, own) < 0.5 * apart(sketch, own)
    assert abs(edges(made) - edges(own)) < 0.5 * abs(edges(sketch) - edges(own))
    assert apart(made, sketch) < 0.97 * apart(own, sketch), "it follows the sketch"


ASKED = """
import contextlib, sys
from fewstep import cli
for command in sys.stdin.read().splitlines():
    print("\\f" + command)
    with contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
"""


def known(words: list[str]) -> str:
    """The command that a line's options belong to, with what decides on them: a method of ours, and ``--decoder-only``."""
    decides = ["--decoder-only"] * ("--decoder-only" in words)
    if "--method" in words[:-1] and "." not in (method := words[words.index("--method") + 1]):
        decides += ["--method", method]
    return " ".join([*(words[1:3] if words[1] == "data" else words[1:2]), *decides])


@cache
def helps() -> dict[str, str]:
    """Of every command, asked in a process apart: the shape checks of tests hide signatures."""
    commands = "\n".join(sorted({known(words) for words in FEWSTEP}))
    asked = [sys.executable, "-c", ASKED]
    told = subprocess.run(asked, input=commands, capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(page.split("\n", 1) for page in told.split("\f")[1:])


@pytest.mark.parametrize("words", [w for w in FEWSTEP if not known(w).startswith("data my_lab.")], ids=" ".join)
def test_every_option_in_a_page_is_one_of_its_command(words):
    text = helps()[known(words)]
    for option in (w for w in words if w.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}\b", text), f"{option} is no option of {known(words)}"
