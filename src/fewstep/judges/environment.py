"""A judge's environment, its weights and its name: what is ready, how it is made, whether the weights are the canonical ones.

Environments stand below ``$FEWSTEP_HOME/judges/environments``, each named by the pins that it holds, so that judges of the same
pins share one; weights below
``$FEWSTEP_HOME/judges/weights/NAME``. Nothing is fetched but packages, and those only by ``--setup``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import extras, files
from ..provenance.identity import home
from ..text import plain, spoken
from .judge import Judge

PYTHON = Path("Scripts/python.exe") if os.name == "nt" else Path("bin/python")


@dataclass(frozen=True)
class Found:
    """The weights that a judge will read, and what it is called with them."""

    folder: str = ""
    """Empty for a judge that has no files."""
    others: str = ""
    """Stands behind the judge's name and its figure's, and says so, where these are not the canonical weights, or nobody here
    knows the hash of those."""
    fingerprint: str = ""
    """The first 12 hex digits of a SHA-256 over the files that decide; empty where there are none."""


def place(judge: Judge) -> Path:
    """Where what a judge says is kept."""
    return home() / "judges" / judge.name


def folder(judge: Judge) -> Path:
    """Where its environment stands: the same pins are the same place, and so is the same Python."""
    pins = "\n".join((*(judge.pins or ()), sys.version.split()[0]))
    return home() / "judges" / "environments" / hashlib.sha256(pins.encode()).hexdigest()[:12]


def python_of(judge: Judge) -> Path | None:
    """The judge's Python; fewstep's own for a judge that has no pins, None where its environment was not made yet."""
    if judge.pins is None:
        return Path(sys.executable)
    python = folder(judge) / PYTHON
    return python if python.exists() else None


def make(judge: Judge, say: Callable[[str], None]) -> Path:
    """The judge's Python; its environment is made where it is missing, whole or not at all.

    Raises ValueError where packages cannot be installed, with what the installer said last.
    """
    if (ready := python_of(judge)) is not None:
        return ready
    whole = folder(judge)
    log = place(judge) / "setup.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(whole) as draft, open(log, "wb") as said:
        say(f"making the environment of {judge.name}: {', '.join(judge.pins or ()) or 'no packages'}")
        for command in installing(judge.pins or (), draft):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, check=False)
            if done.returncode:
                last = spoken(log)[-1:]
                raise ValueError(
                    f"the environment of {judge.name} could not be made ({plain(last[0][:300]) if last else 'no word why'}); "
                    f"nothing was left behind; all that was said: {log}"
                )
        (draft / "pins.json").write_text(json.dumps(judge.pins), "utf-8")
    return whole / PYTHON


def installing(pins: Sequence[str], folder: Path) -> list[list[str]]:
    """What makes an environment with these packages: uv where it is there, else venv with this process's pip, or its own."""
    python = str(folder / PYTHON)
    if uv := shutil.which("uv"):
        made = [uv, "venv", "--quiet", "--python", sys.executable, str(folder), "--allow-existing"]
        install = [uv, "pip", "install", "--python", python, "--compile-bytecode"]
    else:
        lent = not pins or extras.installed("pip")
        made = [sys.executable, "-m", "venv", *["--without-pip"] * lent, str(folder)]
        pip = [sys.executable, "-m", "pip", "--python", python] if lent else [python, "-m", "pip"]
        install = [*pip, "install", "--no-input", "--disable-pip-version-check"]
    return [made, [*install, *pins]] if pins else [made]


def usual_folder(judge: Judge) -> Path:
    """Where a judge's weights are looked for."""
    return home() / "judges" / "weights" / judge.name


def missing(judge: Judge, given: Path | None = None) -> str:
    """One sentence about the weights that are not there, with what to type; empty where all are.

    Raises ValueError for a folder that is given to a judge without weights.
    """
    if judge.weights is None:
        if given is not None:
            raise ValueError(f"the judge {judge.name} reads no weights from a folder: leave out --weights")
        return ""
    at = given or usual_folder(judge)
    lacking = [name for name in (*judge.weights.files, *judge.weights.beside) if not (at / name).is_file()]
    fetch = judge.weights.fetch.format(folder=at)
    where = f"not in {at} ({', '.join(lacking)})" if at.is_dir() else f"not here: there is no folder {at}"
    return f"the weights of {judge.name} are {where}; to get them, type: {fetch}" if lacking else ""


def weights(judge: Judge, given: Path | None = None) -> Found:
    """The weights in the ``given`` folder or the usual one. Raises ValueError where a file is missing, with what to type."""
    if said := missing(judge, given):
        raise ValueError(said)
    if judge.weights is None:
        return Found()
    at = given or usual_folder(judge)
    found = {name: _sha256(at / name) for name in judge.weights.files}
    pins = judge.weights.files
    fits = all(found[name].startswith(pin) for name, pin in pins.items())
    known = all(len(pin) >= 8 for pin in pins.values())
    total = hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(found.items())).encode()).hexdigest()
    others = "" if fits and known else f" ({'unverified' if fits else 'other'} weights: {total[:8]})"
    return Found(str(at), others, total[:12])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
