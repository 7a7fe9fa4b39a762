"""What was typed for a run, when, and on which machine: ``run.json`` in its folder, an entry a call."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from ..files import whole
from ..version import __version__

NAME = "run.json"
MOST = 200
"""Calls that are kept, the latest."""


def read(out: Path) -> list[dict[str, Any]]:
    """Every call that is written down, the first one first; none where the file is missing or is not fewstep's own."""
    try:
        found = json.loads((out / NAME).read_text("utf-8"))["calls"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def note(out: Path, command: str, device: str = "cpu", fresh: bool = False) -> None:
    """Write a call down beside those before it; a ``fresh`` run begins the list anew. A file that is not ours is left alone."""
    before = read(out)
    if (out / NAME).exists() and not before:
        return
    call = {
        "command": command,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": {"fewstep": __version__, "torch": torch.__version__, "Python": platform.python_version()},
    }
    with whole(out / NAME) as draft:
        draft.write_text(json.dumps({"calls": [*([] if fresh else before), call][-MOST:]}, indent=1) + "\n", "utf-8")


def machine(device: str) -> str:
    """The machine in words: system, processor, cores, threads, and the accelerator where one is used."""
    kind = torch.device(device).type
    own = (
        f", {torch.cuda.get_device_name(device)}"
        if kind == "cuda" and torch.cuda.is_available()
        else f", {kind}" * (kind != "cpu")
    )
    cores = os.cpu_count() or 1
    named = platform.processor() or platform.machine()
    return f"{platform.system()} {named}, {cores} core{'s' * (cores > 1)}, {torch.get_num_threads()} threads{own}"
