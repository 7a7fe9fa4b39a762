"""A judge's process, from outside: what it is told, what it may answer, how long it may be silent, and what went wrong.

Nothing that it writes is trusted: lines and files have a greatest length, numbers are finite, pictures answered in order. Only
JSON and safetensors are read, which hold numbers and never code.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.dataset import Progress
from ..text import plain, spoken
from .judge import Judge

MOST_LINE = 2**16
"""Bytes of an answer's line."""
MOST_LOG = 2**24
"""Bytes that are kept of what a judge says on its stderr; the rest is dropped."""
MOST_FEATURES = 2**16
"""Numbers in a picture's row."""
MOST_WORDS = 1000
"""Lines of an answer beside those that are about a picture."""
GRACE_S = 10.0
"""How long a judge that has answered may take to end."""


@dataclass(frozen=True)
class Request:
    """What a judge is asked, as its process reads it: one JSON object on stdin."""

    name: str
    module: str
    pictures: Sequence[str]
    prompts: Sequence[str]
    against: Sequence[str] = ()
    weights: str = ""
    device: str = "cpu"
    features: str = ""
    """Where rows of features are to be written; empty for scores."""
    tiny: bool = False
    """Write small random weights into the folder first: a self-test."""
    packages: dict[str, list[str]] = field(default_factory=dict)
    path: Sequence[str] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a judge said: a number a picture, or a row a picture."""

    scores: tuple[float, ...]
    features: Tensor | None
    resizer: str
    fingerprint: str


def words(judge: Judge, python: Path) -> list[str]:
    """The command line of a judge's process."""
    if judge.program:
        return [
            word.replace("{python}", str(python)).replace("{folder}", str(judge.file.parent)) for word in judge.program
        ]
    alone = ["-I"] if judge.pins is not None else []
    return [str(python), *alone, "-B", str(Path(__file__).with_name("_harness.py"))]


def ask(
    judge: Judge, python: Path, request: Request, told: Path, log: Path, timeout: float, progress: Progress | None = None
) -> Judgement:  # fmt: skip
    """Run a judge's process to its end and check what it answers; ``told`` is the file that holds the request.

    ``timeout`` is the longest that it may be silent, in seconds. Raises ValueError in one sentence where it crashes, hangs,
    refuses or answers what cannot be right; its own words are in ``log``.
    """
    telling = Telling(judge, request, log)
    with process(words(judge, python), told, log) as (lines, running, keeper):
        while not telling.done:
            try:
                line = lines.get(timeout=timeout)
            except queue.Empty:
                telling.fail(f"said nothing for {timeout:g} seconds and was stopped: --timeout gives it longer")
            if line is None:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(GRACE_S)
                    keeper.join(GRACE_S)  # its last words may still be on their way
                telling.fail(ended(running.returncode, log))
            telling.hear(line)
            if progress:
                progress(f"{judge.name} judges", telling.heard, len(request.pictures))
    return telling.answer()


class Telling:
    """What a judge has said so far, checked line by line."""

    def __init__(self, judge: Judge, request: Request, log: Path) -> None:
        self.judge, self.request, self.log = judge, request, log
        self.scores: list[float] = []
        self.lines, self.heard, self.done, self.facts = 0, 0, False, {"resizer": "", "fingerprint": ""}

    def fail(self, what: str) -> NoReturn:
        """Raise ValueError: the judge's name, what happened, and where its own words are."""
        raise ValueError(f"the judge {self.judge.name} {what} (its own words: {self.log})")

    def hear(self, line: bytes) -> None:
        """Take in one line. Raises ValueError where it can't be right."""
        self.lines += 1
        if self.lines > len(self.request.pictures) + MOST_WORDS:
            self.fail(f"answered {self.lines:,} lines about {len(self.request.pictures)} pictures")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            self.fail(f"answered no JSON object but {plain(line[:80].decode('utf-8', 'replace'))!r}")
        if "error" in said:
            self.fail(f"refuses: {plain(str(said['error'])[:500])}")
        if "picture" in said:
            self.picture(said)
        elif "done" in said:
            if said["done"] != self.heard or self.heard != len(self.request.pictures):
                self.fail(f"judged {self.heard} of {len(self.request.pictures)} pictures and says that it is done")
            self.done = True
        elif set(said) <= set(self.facts):
            self.facts |= {key: plain(str(value)[:200]) for key, value in said.items()}
        elif "doing" not in said:
            self.fail(f"answered what the protocol does not know: {plain(line[:80].decode('utf-8', 'replace'))!r}")

    def picture(self, said: dict[str, Any]) -> None:
        """One picture's answer."""
        if said["picture"] != self.heard or self.heard >= len(self.request.pictures):
            self.fail(
                f"answered for picture {plain(str(said['picture'])[:20])} where picture {self.heard} of "
                f"{len(self.request.pictures)} was next"
            )
        self.heard += 1
        if self.request.features:
            return
        score = said.get("score")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            self.fail(f"gave {self.request.pictures[self.heard - 1]} the score {plain(str(score)[:20])}: no number")
        self.scores.append(float(score))

    def answer(self) -> Judgement:
        """All of it. Raises ValueError where the features' file is not as it should be."""
        rows = None
        if self.request.features:
            try:
                rows = features(Path(self.request.features), len(self.request.pictures))
            except ValueError as error:
                self.fail(f"wrote features that cannot be used: {error}")
        return Judgement(tuple(self.scores), rows, self.facts["resizer"], self.facts["fingerprint"])


def features(path: Path, n: int) -> Tensor:
    """The rows of ``n`` pictures in a safetensors file. Raises ValueError where it holds anything else."""
    try:
        if path.stat().st_size > n * MOST_FEATURES * 4 + 2**16:
            raise ValueError(f"more than {MOST_FEATURES} numbers a picture")
        with safe_open(path, "pt") as file:
            if list(file.keys()) != ["features"]:
                raise ValueError(f"the file holds {', '.join(map(plain, list(file.keys())[:5])) or 'nothing'}")
            rows: Tensor = file.get_tensor("features")
    except OSError as error:
        raise ValueError(f"there is no such file ({error.strerror or error})") from None
    except SafetensorError as error:
        raise ValueError(f"the file is no safetensors file ({error})") from None
    if rows.dim() != 2 or rows.shape[0] != n or not 1 <= rows.shape[1] <= MOST_FEATURES or not rows.is_floating_point():
        raise ValueError(f"they are {list(rows.shape)} of {rows.dtype}, not {n} rows of numbers")
    if not bool(rows.isfinite().all()):
        bad = int((~rows.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"row {bad} is not finite")
    return rows.double()


def ended(code: int | None, log: Path) -> str:
    """How a process ended that should not have, with its last words."""
    last = "".join(f": {plain(line[:300])}" for line in spoken(log)[-1:])
    if code is None:
        return f"closed its output and runs on; it was stopped{last}"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"was killed by {name}{last}"
    return f"ended with exit code {code} before it was done{last}"


@contextmanager
def process(
    command: Sequence[str], told: Path, log: Path
) -> Iterator[tuple[queue.Queue[bytes | None], subprocess.Popen[bytes], threading.Thread]]:
    """A judge's process, the lines that it answers with None at their end, and the thread that keeps its words in ``log``.

    It and all that it started are killed afterwards.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")  # nothing of an earlier time, however soon it is read
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    with open(told, "rb") as stdin:
        try:
            running = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | quiet,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"cannot start {command[0]} ({error.strerror}): give the command again with --setup"
            ) from None
    assert running.stdout is not None
    assert running.stderr is not None
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
    keeper = threading.Thread(target=keep_words, args=(running.stderr, log), daemon=True)
    readers = (threading.Thread(target=_answers, args=(running.stdout, lines), daemon=True), keeper)
    for reader in readers:
        reader.start()
    try:
        yield lines, running, keeper
        with suppress(subprocess.TimeoutExpired):
            running.wait(GRACE_S)
    finally:
        kill(running)
        for reader in readers:
            while reader.is_alive():  # it may wait for room among the lines
                with suppress(queue.Empty):
                    while True:
                        lines.get_nowait()
                reader.join(0.01)


def kill(running: subprocess.Popen[bytes]) -> None:
    """End a process with all of its group."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(running.pid, signal.SIGKILL)
        else:
            running.kill()
    running.wait()


def _answers(stdout: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    """Hand over line by line; one that is too long is cut, and no JSON any more."""
    while line := stdout.readline(MOST_LINE):
        lines.put(line)
    lines.put(None)


def keep_words(stderr: IO[bytes], log: Path) -> None:
    """Write what a judge says into its log, as far as there is room."""
    room = MOST_LOG
    with open(log, "wb") as file:
        while part := stderr.read1(2**16):  # type: ignore[attr-defined]
            file.write(part[:room])
            file.flush()
            room -= min(room, len(part))
