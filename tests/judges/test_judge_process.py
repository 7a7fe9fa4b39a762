"""A judge's process: what it may answer, and what becomes of one that crashes, hangs or answers nonsense."""

import json
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.judges import environment, running, trial
from fewstep.judges.judge import Judge, find
from fewstep.judges.running import features
from serving_helpers import until

Write = Callable[..., Judge]
HEAD = '"""Says what it is told to."""\nLICENCE = "none"\nPINS = None\n'


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A judge of somebody's own, by its dotted path: the body of what it yields for pictures, or the whole file's rest."""
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    package = f"lab_{os.urandom(4).hex()}"

    def write(body: str, kind: str = "score", rest: str = "") -> Judge:
        (tmp_path / package).mkdir(exist_ok=True)
        inner = "\n".join("        " + line for line in body.splitlines())
        load = f"def load(asked):\n    def judge(pictures, prompts):\n{inner}\n    return judge\n"
        text = f'{HEAD}KIND = "{kind}"\n{rest}\n\n{load}'
        (tmp_path / package / "own.py").write_text(text)
        return find(f"{package}.own")

    return write


def judged(judge: Judge, folder: Path, timeout: float = 60) -> tuple[float, ...]:
    pictures = trial.made_up(folder, 3)
    against = pictures if judge.kind == "features" else ()
    return trial.run(judge, pictures, ["a", "b", "c"], against, environment.Found(), timeout).scores


def test_a_judge_of_ones_own_answers_from_its_own_process(written: Write, tmp_path: Path) -> None:
    judge = written(
        "import os\nprint('a word of its own')\nfor path, prompt in zip(pictures, prompts):\n"
        "    yield float(ord(prompt)) if os.path.isfile(path) else 0\nassert os.getpid() != " + str(os.getpid())
    )
    assert judged(judge, tmp_path) == (97.0, 98.0, 99.0)
    assert "a word of its own" in (tmp_path / "home" / "judges" / judge.name / "judge.log").read_text()


WRONG = {
    "raise RuntimeError('no more memory')\nyield": "ended with exit code 1 before it was done: RuntimeError: no more memory",
    "import os\nos.abort()\nyield": "was killed by SIGABRT",
    "yield 1.0\nimport os\nos._exit(0)": "ended with exit code 0 before it was done",
    "raise ValueError('a picture is too small')\nyield": "refuses: a picture is too small",
    "yield from (1.0, float('nan'), 2.0)": "1.png the score nan: no number",
    "yield from (1.0, float('inf'), 2.0)": "1.png the score inf: no number",
    "yield from (1.0, 2.0)": "judged 2 of 3 pictures and says that it is done",
    "yield from range(5)": "answered for picture 3 where picture 3 of 3 was next",
    "yield 'good'": "refuses: could not convert string to float",
}


@pytest.mark.parametrize("body", WRONG)
def test_what_goes_wrong_is_said_in_one_sentence(written: Write, tmp_path: Path, body: str) -> None:
    with pytest.raises(ValueError, match=re.escape(WRONG[body])) as said:
        judged(written(body), tmp_path)
    assert "judge.log" in str(said.value)
    assert "\n" not in str(said.value)


def program(line: str) -> str:
    return f"PROGRAM = ('{{python}}', '-c', {line!r})"


PROGRAMS = {
    "print('Loading checkpoint shards: 100%')": "answered no JSON object but 'Loading checkpoint shards: 100%",
    "print('[1, 2, 3]')": "answered no JSON object",
    "print('[' * 60000)": "answered no JSON object",
    "print('x' * 10**7)": "answered no JSON object",
    "print('{\"secret\": 1}')": "answered what the protocol does not know",
    'print(\'{"picture": 2, "score": 1}\')': "answered for picture 2 where picture 0 of 3 was next",
    'print(\'{"picture": 0, "score": true}\')': "the score True: no number",
    "print('{\"picture\": 0}')": "the score None: no number",
    "print('{\"done\": 0}')": "judged 0 of 3 pictures",
    'while True: print(\'{"doing": "this and that"}\')': "answered 1,004 lines about 3 pictures",
    "pass": "ended with exit code 0 before it was done",
    "import sys, os; os.close(1); sys.stderr.write('y' * 10**7)": "before it was done",
}


@pytest.mark.parametrize("line", PROGRAMS)
def test_a_program_that_answers_nonsense_is_refused(written: Write, tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(PROGRAMS[line])) as said:
        judged(written("yield", rest=program(line)), tmp_path)
    assert len(str(said.value)) < 1000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import sys; sys.exit('the weights are torn')", "exit code 1 before it was done: the weights are torn ("),
        ("pass", "exit code 0 before it was done ("),
    ],
)
def test_the_last_words_are_told_however_late_they_are_read(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    keep = running.keep_words

    def late(*told: Any) -> None:
        time.sleep(0.3)
        keep(*told)

    monkeypatch.setattr(running, "keep_words", late)
    with pytest.raises(ValueError, match=re.escape(said)):
        judged(written("yield", rest=program(line)), tmp_path)


def test_a_judge_that_closes_its_output_and_runs_on_is_stopped(
    written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "GRACE_S", 0.2)
    judge = written("yield", rest=program("import os, time; os.close(1); time.sleep(10000)"))
    with pytest.raises(ValueError, match="closed its output and runs on; it was stopped"):
        judged(judge, tmp_path)


def test_a_judge_that_hangs_is_stopped_with_all_that_it_started(written: Write, tmp_path: Path) -> None:
    judge = written(
        "import subprocess, sys, time\n"
        "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(10000)'])\n"
        "open('started', 'w').write(str(one.pid))\nyield 1.0\ntime.sleep(10000)"
    )
    with pytest.raises(ValueError, match=r"said nothing for 5 seconds and was stopped: --timeout"):
        judged(judge, tmp_path, timeout=5)
    if (tmp_path / "started").is_file():  # a machine under load may have been stopped before it got there
        pid = (tmp_path / "started").read_text()
        until(lambda: not alive(pid))


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] not in "ZX"
    except OSError:
        return False


def test_features_are_read_from_a_safetensors_file_that_any_program_can_write(written: Write, tmp_path: Path) -> None:
    judge = written("for i, path in enumerate(pictures):\n    yield [i, i * i, 0.5]", "features")
    pictures = trial.made_up(tmp_path, 3)
    found = trial.run(judge, pictures, ["a"] * 3, pictures[:2], environment.Found(), 60).features
    assert found is not None
    assert found.tolist() == [[i, i * i, 0.5] for i in range(5)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("for path in pictures:\n    yield [1.0, float('nan')]", "row 0 is not finite"),
        (
            "for i, path in enumerate(pictures):\n    yield [1.0] * (i + 1)",
            "refuses: a row of 2 features follows rows of 1",
        ),
    ],
)
def test_features_that_cannot_be_used_are_refused(written: Write, tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judged(written(body, "features"), tmp_path)


def test_a_features_file_of_something_else_is_refused(tmp_path: Path) -> None:
    def safetensors(dtype: str, shape: list[int], size: int, name: str = "features") -> bytes:
        head = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
        return struct.pack("<Q", len(head)) + head + bytes(size)

    at = tmp_path / "f.safetensors"
    for content, words in (
        (safetensors("F32", [3, 2], 24, "weights"), "holds weights"),
        (safetensors("F32", [2, 2], 16), r"\[2, 2\]"),
        (safetensors("I32", [3, 2], 24), "int32"),
        (b"\x80\x04pickle", "no safetensors file"),
        (bytes(3 * 2**18 + 2**16 + 1), "more than 65536 numbers"),
    ):
        at.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            features(at, 3)
    with pytest.raises(ValueError, match="no such file"):
        features(tmp_path / "none", 3)
