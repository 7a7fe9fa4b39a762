"""What the README tells a stranger to type works as it stands there."""

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

from fewstep import bundle, cli
from fewstep.evaluation.sharpness import sharpness
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.methods import add
from fewstep.modality.image import from_uint8
from fewstep.recipes import distillation

README = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
TYPED = "".join(re.findall(r"^```\w*\n(.*?)^```", README, re.S | re.M))  # the commands of code blocks, not of sentences
COMMANDS = [line.split("#")[0].split() for line in TYPED.splitlines() if re.match(r"fewstep [a-z]", line)]


def test_the_code_in_your_own_code_draws_what_it_says():
    (snippet,) = [s for s in SNIPPETS if "Pipeline.open" in s]
    names: dict[str, object] = {}
    exec(snippet, names)
    media = names["media"]
    assert tuple(media.shape) == (2, 3, 64, 64)
    assert float(media.abs().max()) <= 1


def test_the_student_needs_no_fewstep():
    (snippet,) = [s for s in SNIPPETS if "AutoPipeline" in s]
    assert "fewstep" not in snippet
    names: dict[str, object] = {}
    exec(snippet.replace("runs/student/bundle", str(bundle.locate("emoji-64"))), names)
    assert names["picture"].size == (64, 64)


def test_the_papers_recipe_is_the_command_that_is_said_to_be_it():
    """All that the section calls different is as the paper has it, and nothing else is changed."""
    section = README.split("## ADD here, and in the paper")[1].split("\n## ")[0]
    (command,) = re.findall(r"```\n(fewstep distill .*?)```", section, re.S)
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
    assert apart(made, sketch) < 0.95 * apart(own, sketch), "it follows the sketch"


ASKED = """
import contextlib, sys
from fewstep import cli
for command in sys.stdin.read().splitlines():
    print("\\f" + command)
    with contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
"""


def known(words: list[str]) -> str:
    """The command that a line's options belong to."""
    return " ".join(words[1:3] if words[1] == "data" else words[1:2])


@cache
def helps() -> dict[str, str]:
    """Of every command, asked in a process apart: the shape checks of tests hide signatures."""
    commands = "\n".join(sorted({known(words) for words in COMMANDS}))
    asked = [sys.executable, "-c", ASKED]
    told = subprocess.run(asked, input=commands, capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(page.split("\n", 1) for page in told.split("\f")[1:])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_in_the_readme_is_one_of_its_command(words):
    text = helps()[known(words)]
    for option in (w for w in words if w.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}\b", text), f"{option} is no option of {known(words)}"
