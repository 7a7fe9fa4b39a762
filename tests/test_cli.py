"""The command line, as a stranger meets it: real commands in real processes, one sentence for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bundles import tiny_bundle
from fewstep import cli


def fewstep(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    if home is not None:
        environment["FEWSTEP_CACHE"] = str(home)
    command = [sys.executable, "-m", "fewstep.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("cli"))


def test_draw_writes_the_picture_it_says(student, tmp_path):
    heart = str(tmp_path / "sub" / "heart.png")
    done = fewstep("draw", "a red heart", "--model", str(student), "--seed", "7", "--scale", "4", "-o", heart)
    assert done.returncode == 0, done.stderr
    assert Image.open(heart).size == (64, 64)
    assert "1 steps, seed 7" in done.stdout
    told = fewstep("verify", heart)
    assert "with tiny" in told.stdout, told.stderr
    assert "steps 1, seed 7" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "9"], "trained for 1, 2, 3, 4 steps, not 9"),
        (["--seed", str(2**70)], "out of range"),
        (["-o", "heart.gif"], "give a name that ends in .png, .jpg or .webp"),
        (["--n", "0"], "use --n 1 or more"),
        (["--image", "nowhere.png"], "nowhere.png"),
    ],
)
def test_bad_input_gets_one_sentence_and_a_non_zero_exit(student, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "a cat", "--model", str(student), *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


def test_commands_are_found_by_their_files(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in ("demo", "data:emoji", "data:digits", "data:folder", "teach", "distill", "draw", "evaluate", "info",
                 "verify", "serve", "budget", "docs"):  # fmt: skip
        assert name in shown


def test_distill_then_resume_then_draw(tmp_path):
    """The whole distil arm on a tiny teacher and eight pictures of its own, stopped and continued."""
    teacher = tiny_bundle(tmp_path, "teacher")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, name in enumerate(["a red heart", "a blue house", "a cat", "a dog"] * 3):
        Image.new("RGB", (40, 40), (20 * i, 255 - 20 * i, 100)).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(name)
    home = tmp_path / "home"
    out = str(tmp_path / "set")
    made = fewstep("data", "folder", "--source", str(pictures), "--size", "16", "--heldout", "0.1", "--out", out)
    assert made.returncode == 0, made.stderr
    common = ["distill", "--teacher", str(teacher), "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"),
              "--features", "teacher", "--batch-size", "4", "--warm.steps", "3", "--warm.pairs", "4", "--warm.teacher-steps", "2",
              "--warm.batch-size", "4"]  # fmt: skip
    first = fewstep(*common, "--steps", "2", home=home)
    assert first.returncode == 0, first.stderr
    bundle = tmp_path / "run" / "bundle"
    drawn = fewstep("draw", "a cat", "--model", str(bundle), "--steps", "4", "-o", str(tmp_path / "cat.png"))
    assert drawn.returncode == 0, drawn.stderr
    again = fewstep(*common, "--steps", "4", "--resume", home=home)
    assert again.returncode == 0, again.stderr
    assert "add 4/4" in again.stdout
    assert "warm" not in again.stdout.replace("warm.", "")
    shown = fewstep("info", str(bundle))
    assert "student" in shown.stdout
    assert "every hash as the card has it" in shown.stdout
