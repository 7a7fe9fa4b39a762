"""What the README tells a stranger to type works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import bundle

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


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_in_the_readme_is_one_of_its_command(words):
    _, *words = words
    known = words[:2] if words[0] == "data" else words[:1]
    command = [sys.executable, "-m", "fewstep.cli", *known, "--help"]  # apart: the shape checks of tests hide signatures
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    for option in (w for w in words if w.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}\b", text), f"{option} is no option of {' '.join(known)}"
