"""What CONTRIBUTING says is done as it says: a stranger's file, outside the repository, made from the text itself."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import foreign
from fewstep import cli
from fewstep.bundle import Card
from fewstep.methods import add, ladd
from fewstep.recipes import distillation
from helpers import forget
from method_parts import LOSSES

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
SECTION = TEXT.split("## A method\n")[1].split("\n## ")[0]
BLOCKS = dict(reversed(re.findall(r"```(\w*)\n(.*?)```", SECTION, re.S)))
COMMANDS = [shlex.split(line)[1:] for line in BLOCKS[""].splitlines()]
TINY = "--teacher sd1 --data own --batch-size 4 --warm.steps 1 --warm.pairs 4 --warm.teacher-steps 1 --keep last --save-every 0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a stranger's, with a tiny teacher, pictures, and the file that the text shows under the name it tells."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (name,) = re.findall(r"save it as `(.*?)`", SECTION)
    forget("my_lab")
    (folder / name).parent.mkdir()
    (folder / name).write_text(BLOCKS["python"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        foreign.sd1(folder)
        foreign.pictures(folder / "own")
        yield folder
    forget("my_lab")
    distillation._options_type.cache_clear()


def fewstep(command: list[str], *more: str) -> None:
    cli.main([*command, *shlex.split(TINY), *more] if command[0] == "distill" else command)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("unet/*.safetensors")
    return load_file(file)


def test_a_stranger_adds_a_method_outside_the_repository(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of the text, one after the other: help, a run, the same run resumed, and what info tells of it."""
    help_, run, resume, info = COMMANDS
    assert resume == [*run, "--resume"]
    with pytest.raises(SystemExit):
        cli.main(help_)
    said = capsys.readouterr().out
    assert "--advice.weight" in said
    assert "Weight of the teacher's correction." in " ".join(said.split())
    assert "--student-learning-rate" in said
    assert "--features" not in said, "nothing that it does not ask for"
    fewstep(run, "--steps", "2")
    fewstep(resume, "--steps", "4")
    whole = [*run]
    whole[whole.index("runs/advice")] = "runs/whole"
    fewstep(whole, "--steps", "4")
    halves, at_once = weights(Path("runs/advice/bundle")), weights(Path("runs/whole/bundle"))
    assert all(torch.equal(halves[k], at_once[k]) for k in at_once)
    assert any(not torch.equal(at_once[k], v) for k, v in weights(place / "sd1").items()), "it was trained"

    card = Card.read(Path("runs/advice/bundle"))
    assert card.method == "advice"
    assert card.training["options"]["method"] == "my_lab.advice"
    assert card.training["options"]["advice"]["weight"] == 2
    assert card.training["taken"] == {"warm": 1, "advice": 4}
    capsys.readouterr()
    cli.main(info)
    said = " ".join(capsys.readouterr().out.split())
    assert "method advice" in said
    assert "fewstep distill --method my_lab.advice" in said
    assert "--advice.weight 2" in said


def test_info_tells_of_it_where_the_file_is_not(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("runs/whole").exists():
        fewstep(COMMANDS[1], "--steps", "1", "--out", "runs/whole")
    bundle = str(place / "runs" / "whole" / "bundle")
    monkeypatch.chdir(tmp_path)
    forget("my_lab")
    distillation._options_type.cache_clear()
    cli.main(["info", bundle])
    said = " ".join(capsys.readouterr().out.split())
    assert "--method my_lab.advice" in said
    assert "--advice.weight 2" in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--advice.weight", "0"], "give --advice.weight more"),
        (["--advice.weight", "-1"], "--advice.weight -1.0 is out of range: use from 0 to"),
        (["--add.r1", "1"], "--add.r1"),
    ],
)
def test_its_options_are_refused_before_any_work(
    place: Path, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        fewstep(COMMANDS[1], *more, "--out", "runs/refused")
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert sentence in " ".join((said.out + said.err).split())
    assert not Path("runs/refused").exists()


def test_a_resumed_run_is_held_against_its_options(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own are compared like all others: what is CHANGEABLE may change, and is written into the card."""
    if not Path("runs/held").exists():
        fewstep(COMMANDS[1], "--steps", "1", "--out", "runs/held")
    with pytest.raises(SystemExit) as ended:
        fewstep(COMMANDS[1], "--steps", "2", "--out", "runs/held", "--times", "1", "--resume")
    assert ended.value.code == 2
    assert "a resume may change" in (refused := " ".join(capsys.readouterr().err.split()))
    assert "--advice.weight" in refused
    fewstep(COMMANDS[1], "--steps", "2", "--out", "runs/held", "--advice.weight", "3", "--resume")
    card = Card.read(Path("runs/held/bundle"))
    assert card.training["changes"][0]["--advice.weight"] == [2.0, 3.0]


def test_the_two_files_differ_as_the_text_shows() -> None:
    """Every line that is shown stands in the file that it is said to stand in; LADD has a handful that ADD has not."""
    ours, theirs = (Path(str(module.__file__)).read_text().splitlines() for module in (add, ladd))
    lines = BLOCKS["diff"].splitlines()
    assert {line[:1] for line in lines} == {" ", "+", "-"}
    for line in lines:
        text = line[1:]
        assert (text in ours) == (line[0] in " -"), text
        assert (text in theirs) == (line[0] in " +"), text
    assert len(code(theirs) - code(ours)) <= 15


def code(lines: list[str]) -> set[str]:
    """The lines of a file without docstrings, comments and imports."""
    tree = ast.parse("\n".join(lines))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [
                part
                for part in node.body
                if not isinstance(part, ast.Import | ast.ImportFrom)
                and not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return set(ast.unparse(tree).splitlines())


def test_every_name_of_a_loss_is_explained() -> None:
    names = SECTION.split("**Names of losses**")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", names)) == LOSSES
