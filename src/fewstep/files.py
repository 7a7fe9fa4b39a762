"""Files and folders that are written whole or not at all, and never at the cost of somebody else's.

What is to stand at a place is made in a private folder beside it, ``.NAME.partial-XXXXXXXX``, and renamed. That folder
holds a mark, ``.fewstep``, which its writer keeps locked as long as it lives: so what a killed writer left is told from
what a living one makes, and the next writer of the same place removes it. In a finished folder the mark names every file
that fewstep wrote there, so that no other is ever removed or replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import IO

from fewstep.text import plain

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: nothing is locked there, and what was left is left
    fcntl = None

NAMED = 200
"""The longest name that a sentence holds."""
MARK = ".fewstep"
"""Beside a draft: locked while it is made. In a finished folder: the names of its files, as a JSON list."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write in place of ``path``, which it becomes if all goes well: whole or not at all, whoever else writes it.

    A link is followed. Raises ValueError where something stands that is no file to replace: a device, a pipe, a socket.
    """
    path = place_of(path)
    if odd(path):
        raise ValueError(f"{path} is a device or a pipe, not a file: choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft(path) as draft:
        try:
            yield draft
            draft.replace(path)
        except OSError as error:
            if error.filename == str(draft):  # whoever hears of it asked for the other name
                error.filename = str(path)
            raise


@contextmanager
def replaced(
    folder: Path, usual: Sequence[str] = (), previous: Path | None = None, keep: Path | None = None
) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``folder`` if all goes well. A reader sees the old one or the new one.

    Files in the old one that fewstep did not write are carried over, one whose name is needed as ``NAME~``. ``usual`` are
    patterns of what versions without a mark wrote there. Between two renames the old folder stands at ``previous``, by
    itself a hidden name that the next writer puts back; afterwards it is removed, or kept at ``keep``.
    """
    folder = place_of(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _draft(folder) as draft:
        draft.mkdir()
        yield draft
        (draft / MARK).write_text(json.dumps(names(draft), indent=0), "utf-8")
        token = draft.parent.name[-8:]
        aside = previous or folder.with_name(f"{_prefix(folder)}.previous-{token}")
        moved = os.path.lexists(folder)
        if moved:
            _claim(folder, usual)
            if previous:
                _drop(previous, usual)
            os.rename(folder, aside)
        try:
            os.rename(draft, folder)
        except OSError:
            if moved:
                os.rename(aside, folder)
            raise
        if moved or previous:
            _carry(aside, folder, usual)
        if moved and keep:
            _drop(keep, usual)
            os.rename(aside, keep)
        elif moved or previous:
            shutil.rmtree(aside, ignore_errors=True)


def odd(path: Path) -> bool:
    """Does something stand there that is neither a file nor a folder? Whoever reads a device or a pipe may wait for ever."""
    return path.exists() and not path.is_file() and not path.is_dir()


def content(path: Path, most: int, fix: str = "that much is not read") -> bytes:
    """The bytes of a file that a person or a stranger names: at most ``most`` of them, and no waiting.

    Raises ValueError, before anything is read, for a device, a pipe and what is larger (with the ``fix``), and OSError for what
    cannot be read.
    """
    strange = ValueError(f"{plain(path, NAMED)} is a device or a pipe, not a file: choose another path")
    if odd(path):
        raise strange
    # what stood there may have been replaced by a pipe: neither opening nor reading it may wait
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise strange
        data = file.read(most + 1) if about.st_size <= most else b""
    if max(about.st_size, len(data)) > most:
        limit = f"{most >> 20} MiB" if most >> 20 else f"{most:,} bytes"
        raise ValueError(f"{plain(path, NAMED)} is larger than {limit}: {fix}")
    return data


def place_of(path: Path) -> Path:
    """Where ``path`` really is, links followed. Raises ValueError for a place that has no name: empty, ``/`` or ``..``."""
    if not path.name or path.name == "..":
        raise ValueError(f"{str(path)!r} is no place to write to: give a path that ends in a name")
    return Path(os.path.realpath(path))


def names(folder: Path) -> list[str]:
    """Every file in a folder but the mark, links included, by its path in it; sorted."""
    found = [
        (Path(at) / name).relative_to(folder).as_posix()
        for at, folders, inside in os.walk(folder)
        for name in (*inside, *(f for f in folders if (Path(at) / f).is_symlink()))
    ]
    return sorted(name for name in found if name != MARK)


def foreign(folder: Path, usual: Sequence[str] = ()) -> list[str]:
    """Files in ``folder`` that fewstep did not write, by their paths in it.

    ``usual`` are patterns of those that it wrote before it kept a list. What is no folder is foreign itself.
    """
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        return ["."]
    known = _marked(folder)
    if known is None:
        return [name for name in names(folder) if not any(fnmatchcase(name, pattern) for pattern in usual)]
    return sorted(set(names(folder)) - known)


def remove(folder: Path, usual: Sequence[str] = ()) -> None:
    """Remove what fewstep wrote in ``folder``, and the folder where nothing else is left in it."""
    if not folder.is_dir():
        return
    others = foreign(folder, usual)
    if not others:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in set(names(folder)) - set(others):
        (folder / name).unlink(missing_ok=True)
    (folder / MARK).unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it, and put back what one of them had moved aside.

    What a living writer is filling, and what has no mark, stays.
    """
    if fcntl is None:
        return
    for left in _beside(path, "partial"):
        with suppress(OSError):
            if not any(left.iterdir()):
                left.rmdir()  # killed before it could leave its mark
            elif (lock := _lock(left / MARK)) is not None:
                with lock:
                    shutil.rmtree(left, ignore_errors=True)
    for left in _beside(path, "previous"):
        if left.with_name(left.name.replace(".previous-", ".partial-")).exists() or not (left / MARK).is_file():
            continue
        with suppress(OSError):
            if not os.path.lexists(path):
                os.rename(left, path)
            else:
                _carry(left, path)
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Where to make what is to stand at ``path``: its name in a private folder beside it, which is locked meanwhile."""
    sweep(path)
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{_prefix(path)}.partial-", dir=path.parent))
        except OSError as error:
            error.filename = str(path)  # whoever hears of it asked for this name
            raise
        with suppress(FileNotFoundError):  # somebody swept it away while it was empty
            (folder / MARK).touch()
            if (lock := _lock(folder / MARK, own=True)) is not None and (folder / MARK).exists():
                break
    with lock:
        try:
            yield folder / path.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _prefix(path: Path) -> str:
    """The hidden name that drafts of ``path`` begin with, short enough for what is added to it."""
    return "." + path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")


def _beside(path: Path, kind: str) -> list[Path]:
    """Folders that writers of ``path`` made beside it; the name ends in the eight characters that tempfile draws."""
    start = f"{_prefix(path)}.{kind}-"
    try:
        inside = sorted(os.listdir(path.parent))
    except OSError:
        return []
    found = [path.parent / name for name in inside if name.startswith(start) and len(name) == len(start) + 8]
    return [folder for folder in found if folder.is_dir() and not folder.is_symlink()]


def _lock(mark: Path, own: bool = False) -> IO[str] | None:
    """The mark of a folder, open and locked; None where a living process holds it.

    Where nothing can be locked, it is open all the same for its ``own`` writer, and None for everybody else.
    """
    file = open(mark, "r+", encoding="utf-8")  # noqa: SIM115
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if not own or isinstance(error, BlockingIOError):
            file.close()
            return None
    return file


def _marked(folder: Path) -> set[str] | None:
    """The files that a mark names; None if the mark cannot be read."""
    try:
        own = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return set(own) if isinstance(own, list) and all(isinstance(name, str) for name in own) else None


def _claim(folder: Path, usual: Sequence[str]) -> None:
    """Put a mark into a folder of a version that left none, so that it is known for what it is if we die now."""
    if _marked(folder) is None and folder.is_dir():
        own = set(names(folder)) - set(foreign(folder, usual))
        (folder / MARK).write_text(json.dumps(sorted(own)), "utf-8")


def _carry(old: Path, new: Path, usual: Sequence[str] = ()) -> None:
    """Move what fewstep did not write from the old folder to the new one."""
    for name in foreign(old, usual):
        there = new / name if name != "." else new / new.name
        while os.path.lexists(there):
            there = there.with_name(there.name + "~")
        there.parent.mkdir(parents=True, exist_ok=True)
        os.rename(old / name, there)


def _drop(folder: Path, usual: Sequence[str]) -> None:
    """Make a place free of a folder of ours. Raises OSError where something else is left in it."""
    remove(folder, usual)
    if os.path.lexists(folder):
        raise OSError(f"{folder} holds files that fewstep did not write: move them elsewhere")
