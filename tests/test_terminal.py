"""What a terminal is told: help by every spelling, colours, ASCII, completion in real shells."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from fewstep import __version__, cli, console
from fewstep.text import heard

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
COLOUR = re.compile(rb"\x1b\[[0-9;]*\b(?:3[0-9]|4[0-9]|9[0-7]|10[0-7])[;0-9]*m")
COMMANDS = [*cli.commands(""), *(f"data {name}" for name in cli.data_commands())]


def said_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Exit code and all output of a command whose terminal speaks ``encoding``."""
    out = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict", write_through=True)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", out)
        code: object = 0
        try:
            cli.main(list(words))
        except SystemExit as end:
            code = end.code or 0
    out.flush()
    assert isinstance(code, int)
    return code, out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def in_a_terminal(*words: str, **environment: str) -> tuple[int, bytes]:
    """Exit code and output of a process whose terminal is a real one."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "fewstep.cli", *words]
    env |= {"TERM": "xterm"} | environment
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as child:
        os.close(theirs)
        told = b""
        with contextlib.suppress(OSError):  # how a terminal's end reads
            while more := os.read(ours, 65536):
                told += more
        os.close(ours)
    return child.returncode, told


def test_the_version_by_both_spellings(capsys):
    for spelling in ("-V", "--version"):
        cli.main([spelling])
        assert capsys.readouterr().out == f"fewstep {__version__}\n"


@pytest.mark.parametrize("command", ["", "draw", "data", "data folder"])
def test_help_by_both_spellings(command, capsys):
    told = []
    for words in (["help", *command.split()], [*command.split(), "--help"]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert told[0].startswith(f"usage: fewstep {command}".strip())


def test_help_of_what_there_is_not(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["help", "paint"])
    assert end.value.code == 2
    assert "there is no command 'paint': use demo, data" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_in_an_ascii_and_a_latin_1_terminal(command, monkeypatch):
    for encoding in ("ascii", "latin-1"):
        code, told = said_in(encoding, monkeypatch, *command.split(), "--help")
        assert code == 0
        assert told.startswith(f"usage: fewstep {command}")
        assert "codec can't encode" not in told


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["help"], 0, "Frechet distance"),
        ([], 2, "* draw"),
        (["info"], 0, "emoji-64-teacher"),
        (["info", "emoji-64"], 0, "64x64"),
        (["info", "café→猫"], 2, "cafe->\\u732b"),
        (["draw", "x", "--model", "«naïve»"], 2, "naive"),
        (["draw", "x", "--stréngth", "1"], 2, "--strength"),
        (["compare", "é.json", "b"], 2, "e.json"),
        (["mâle"], 2, "male"),
    ],
)
def test_tables_and_errors_in_an_ascii_terminal(words, code, expected, monkeypatch):
    ended, told = said_in("ascii", monkeypatch, *words)
    assert (ended, "Traceback" in told) == (code, False), told
    assert expected in told


def test_what_moves_in_an_ascii_terminal(monkeypatch):
    """Panels, bars, sparks and spinners of a terminal, not of a pipe."""
    out = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict", write_through=True)
    console.encodable(out)
    terminal = console.Terminal(file=out, force_terminal=True, width=80)
    monkeypatch.setattr(console, "console", terminal)
    table = Table("a", title="Ünïcode")
    table.add_row(console.spark([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
    terminal.print(table)
    console.say_tables("| FD ↓ | × 1000 |\n|---|---|\n| 1 ± 2 | 3 − 4 |")
    with console.progress_bars() as report:
        report("pictures…", 1, 2)
    with terminal.status("measuring"):
        pass
    told = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "_.,-=+*#" in told
    assert "FD v" in told
    assert "1 +- 2" in told
    assert "pictures..." in told
    assert re.search(r"[|/\\-](?:\x1b\[0m)? measuring", told)
    assert "\\u" not in told


def test_an_output_that_can_write_it_is_left_as_it_is():
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    console.encodable(out, io.StringIO())
    assert out.errors == "strict"
    latin = io.TextIOWrapper(io.BytesIO(), "latin-1", write_through=True)
    console.encodable(latin)
    latin.write("é×→猫")
    assert latin.buffer.getvalue().decode("latin-1") == "é×->\\u732b"  # type: ignore[attr-defined]


def test_a_prompt_in_utf_8_is_read_where_the_locale_is_ascii(tmp_path):
    assert heard(os.fsdecode("é".encode())) == heard("é") == "é"
    assert heard("\udcff") == "\udcff"  # no UTF-8: refused later, in words
    command = [sys.executable, "-m", "fewstep.cli", "draw", "a naïve 猫", "-o", "x.png"]
    done = subprocess.run(command, env=os.environ | ASCII, cwd=tmp_path, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert b"'a naive \\u732b'" in done.stdout
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize("words", [["help", "draw"], ["draw", "x", "--strenght", "1"]])
def test_no_color_is_heeded(words):
    with_colour = in_a_terminal(*words)
    without = in_a_terminal(*words, NO_COLOR="1")
    assert with_colour[0] == without[0] == (0 if words[0] == "help" else 2)
    assert COLOUR.search(with_colour[1]), "else this test sees nothing"
    assert not COLOUR.search(without[1])


COMPLETED = {
    "fewstep dr": {"draw"},
    "fewstep draw --sam": {"--sampler"},
    "fewstep data em": {"emoji"},
    "fewstep data folder --follow-l": {"--follow-links"},
    "fewstep distill --warm.pa": {"--warm.pairs"},
    "fewstep distill --method lad": {"ladd"},
    "fewstep serve --bud": {"--budget"},
    "fewstep draw x --fit ": {"crop", "pad"},
}
BASH = """
source "$1"
complete -p fewstep >/dev/null || exit 1
while IFS= read -r line; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
  $(complete -p fewstep | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
  echo "${COMPREPLY[*]}"
done
"""
FISH = 'source $argv[1]; while read -l line; echo (complete -C "$line" | string replace -r "\\t.*" ""); end'
ZSH = r"""
zmodload zsh/zpty
while IFS= read -r line; do
  zpty shell zsh -f -i
  zpty -w shell "PS1=; fpath=(${1:h} \$fpath); autoload -U compinit; compinit -u -D
compadd () { builtin compadd -O found \"\$@\"; print -r -- \"<<\$found>>\" }; bindkey '^I' complete-word; print ready-now"
  zpty -r shell told '*ready-now*ready-now*'
  zpty -w -n shell "$line"$'\t'
  zpty -r shell told '*<<*>>*'
  print -r -- "${${told##*<<}%%>>*}"
  zpty -d shell
done
"""


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("fish", FISH), ("zsh", ZSH)], ids=["bash", "fish", "zsh"])
def test_a_shell_completes_commands_and_options(shell, script, tmp_path, capsys):
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here")
    with pytest.raises(SystemExit) as end:
        cli.main(["completion", shell])
    assert end.value.code in (0, None)
    written = tmp_path / "_fewstep"
    written.write_text(capsys.readouterr().out, "utf-8")
    bare = [program, *(["--norc"] if shell == "bash" else ["-f"] if shell == "zsh" else ["--no-config"]), "-c", script]
    given = [*bare, *(["shell"] if shell != "fish" else []), str(written)]
    lines = "\n".join(COMPLETED) + "\n"
    done = subprocess.run(given, input=lines, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    found = [set(line.split()) for line in done.stdout.splitlines()]
    assert found == list(COMPLETED.values()), done.stderr


def test_the_page_says_where_the_scripts_go():
    page = (Path(__file__).parents[1] / "docs" / "install.md").read_text("utf-8")
    for shell in ("bash", "zsh", "fish"):
        assert f"fewstep completion {shell}" in page


def test_the_budget_is_spelt_alike():
    cli.options_of("server.app", "ServeOptions")
    for command, place in (("serve", ("server.app", "ServeOptions")), ("budget", ("server.drawing.forecast", "ForecastOptions"))):
        assert cli.OPTIONS[command][1:] == place
        assert cli.tyro.cli(cli.options_of(*place), args=["--budget", "30fps"]).budget == "30fps"
    options = cli.options_of("server.drawing.forecast", "ForecastOptions")
    assert cli.tyro.cli(options, args=["--target", "30fps"]).budget == "30fps"
