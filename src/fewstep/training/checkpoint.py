"""Training state on disk: safetensors and JSON only, written whole or not at all, bit-exact when read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .. import files

FORMAT = 1
FILES = ("state.safetensors", "state.json")


def flatten(tree: dict[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested dicts into tensors and plain values, keyed by their path joined with ``/``."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        if "/" in str(key):
            raise ValueError(f"checkpoint key {key!r} must not contain '/'")
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            inner, rest = flatten(value, path + "/")
            tensors |= inner
            plain |= rest
        elif isinstance(value, Tensor):
            tensors[path] = value.detach().cpu().contiguous()
        else:
            plain[path] = value
    return tensors, plain


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Inverse of ``flatten``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def save(folder: Path, state: dict[str, Any], keep: Path | None = None) -> Path:
    """Write ``state`` to ``folder`` atomically: a reader sees the old state or the new one, never a mixture.

    The old state is kept at ``keep``, if that is given. Raises ValueError, with the old state intact, when the disk is full
    or the folder cannot be written.
    """
    tensors, plain = flatten(state)
    plain["format"] = FORMAT
    try:
        with files.replaced(folder, FILES, previous(folder), keep) as draft:
            save_file({k: v.clone() for k, v in tensors.items()}, draft / "state.safetensors")
            (draft / "state.json").write_text(json.dumps(plain, indent=1, sort_keys=True), "utf-8")
            for name in FILES:
                with open(draft / name, "rb") as file:
                    os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"could not write the checkpoint {folder}: {error}; free space or choose another --out "
            "(the previous checkpoint is intact)"
        ) from error
    return folder


def previous(folder: Path) -> Path:
    """Where the state before this one waits while the new one takes its place."""
    return folder.with_name(folder.name + ".old")


def exists(folder: Path) -> bool:
    """Is there a checkpoint here (or one that a crash left half renamed)?"""
    return any((f / "state.json").is_file() for f in (folder, previous(folder)))


def remove(folder: Path) -> None:
    """Leave no state here, nor one that a crash left half renamed; what fewstep did not write stays."""
    for stale in (folder, previous(folder)):
        files.remove(stale, FILES)


def check_own(folder: Path) -> None:
    """Refuse to save states at a place where something else stands. Raises ValueError with the fix."""
    for place in (folder, previous(folder)):
        if others := files.foreign(place, FILES):
            what = "a file" if others == ["."] else others[0]
            raise ValueError(
                f"{place} holds what fewstep did not write ({what}), and states of the run go there: choose another --out, "
                "or move that elsewhere"
            )


def load(folder: Path) -> dict[str, Any]:
    """Read what ``save`` wrote. Raises ValueError with the fix if it is missing, damaged or from another format."""
    return unflatten(_read(folder, lambda at: load_file(at / "state.safetensors")))


def step_of(folder: Path) -> int:
    """The steps behind a state, without reading its tensors. Raises ValueError as ``load`` does."""
    return int(_read(folder, lambda at: {}).get("step", 0))


def _read(folder: Path, tensors: Callable[[Path], dict[str, Tensor]]) -> dict[str, Any]:
    """Plain values and ``tensors`` of a state, by path."""
    if not exists(folder):
        raise ValueError(f"no checkpoint in {folder}: run without --resume first, or give the right folder")
    at = folder if (folder / "state.json").is_file() else previous(folder)
    try:
        flat = json.loads((at / "state.json").read_text("utf-8"))
        if not isinstance(flat, dict):
            raise ValueError("state.json holds no facts")
        if not isinstance(flat.get("step", 0), int):
            raise ValueError("state.json counts no steps")
        flat |= tensors(at)
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(at, error) from error
    if flat.pop("format", None) != FORMAT:
        raise ValueError(f"the checkpoint {at} is of another format: remove it, and --resume goes on without it")
    return flat


def damaged(folder: Path, error: Exception) -> ValueError:
    """What to raise for a state that can't be read."""
    why = f"{error} is missing" if isinstance(error, KeyError) else str(error).strip().partition("\n")[0]
    return ValueError(f"the checkpoint {folder} is damaged ({why}): remove it, and --resume goes on without it")


def optimizer_state(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Any]:
    """An optimiser's state by parameter name, so that it survives a change of parameter order."""
    state = optimizer.state_dict()["state"]
    return {
        name.replace("/", "."): {k: (v if isinstance(v, Tensor) else torch.tensor(v)) for k, v in state[i].items()}
        for i, name in enumerate(names)
        if i in state
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, names: list[str], saved: dict[str, Any]) -> None:
    """Put ``optimizer_state`` back."""
    state = optimizer.state_dict()
    state["state"] = {i: saved[name] for i, name in enumerate(names) if name in saved}
    optimizer.load_state_dict(state)
