"""Files and folders come whole, whoever is killed, and nothing that fewstep did not write is removed or replaced."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep import files
from fewstep.training import checkpoint


def fill(folder: Path, text: str) -> None:
    with files.replaced(folder) as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "a").write_text(text)
        (draft / "b").write_text(text)


def write(path: Path, text: str) -> None:
    with files.whole(path) as draft:
        draft.write_text(text)


def in_a_child(work: Callable[[], None]) -> int:
    """How a process of its own ended that did this work: 9 where it was made to die in it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)  # never back into pytest
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(module: Any, name: str, call: int, after: bool = False) -> None:
    """From now on, die in this call of a function, before or after it has done its work."""
    true, calls = getattr(module, name), []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == call and not after:
            os._exit(9)
        result = true(*args, **options)
        if len(calls) == call:
            os._exit(9)
        return result

    setattr(module, name, counted)


FOLDER = [("tempfile.mkdtemp", 1, True), ("os.rename", 1, False), ("os.rename", 1, True), ("os.rename", 2, True),
          ("shutil.rmtree", 1, False), ("shutil.rmtree", 2, False)]  # fmt: skip
FILE = [("tempfile.mkdtemp", 1, True), ("Path.write_text", 1, True), ("Path.replace", 1, False), ("Path.replace", 1, True),
        ("shutil.rmtree", 1, False)]  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("call", "number", "after"), FOLDER)
def test_a_writer_that_dies_at_any_call_leaves_nothing_for_long(
    tmp_path: Path, call: str, number: int, after: bool, known: bool
) -> None:
    """What stood there stands there or is put back, and the next writer of the place clears up, whether the folder was marked
    or was of a version that left no marks."""
    place = tmp_path / "model"
    fill(place, "old")
    (place / "mine").write_text("mine")
    if not known:
        (place / files.MARK).unlink()

    def work() -> None:
        module, name = call.split(".")
        dying_at({"os": os, "shutil": shutil, "tempfile": files.tempfile}[module], name, number, after)
        with files.replaced(place, ("b", "deep/a")) as draft:
            (draft / "b").write_text("new")

    assert in_a_child(work) == 9, "it died where it should"
    files.sweep(place)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (place / "b").read_text() in ("old", "new")
    assert (place / "mine").read_text() == "mine"
    fill(place, "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (place / "b").read_text() == (place / "deep" / "a").read_text() == "newer"
    assert (place / "mine").read_text() == "mine"


@pytest.mark.parametrize(("call", "number", "after"), FILE)
def test_a_file_whose_writer_dies_is_the_old_one_or_the_new_one(tmp_path: Path, call: str, number: int, after: bool) -> None:
    path = tmp_path / "a.json"
    write(path, "old")

    def work() -> None:
        module, name = call.split(".")
        dying_at({"os": os, "shutil": shutil, "tempfile": files.tempfile, "Path": Path}[module], name, number, after)
        write(path, "new")

    assert in_a_child(work) == 9, "it died where it should"
    assert path.read_text() in ("old", "new")
    write(path, "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "newer"


def test_what_a_living_writer_makes_is_left_to_it(tmp_path: Path) -> None:
    """Two of them at one place: neither sweeps the other's draft away, the later one's stands."""
    reading, writing = os.pipe()
    go_on, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with files.replaced(tmp_path / "model") as draft:
                (draft / "b").write_text("theirs")
                os.write(writing, b"x")
                os.read(go_on, 1)
            os._exit(0)
        finally:
            os._exit(1)
    os.read(reading, 1)
    files.sweep(tmp_path / "model")
    fill(tmp_path / "model", "ours")
    assert (tmp_path / "model" / "b").read_text() == "ours"
    os.write(told, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "model" / "b").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_only_looks_like_a_leftover_stays(tmp_path: Path) -> None:
    for name in (".model.partial-mybackup", ".model.previous-mybackup", ".model.backup", ".checkpoint.of2026x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis").write_text("mine")
    (tmp_path / ".model.partial-somefile").write_text("mine")
    fill(tmp_path / "model", "new")
    checkpoint.save(tmp_path / "checkpoint", {"step": 1})
    assert sorted(p.read_text() for p in tmp_path.glob(".*/thesis")) == ["mine"] * 4
    assert (tmp_path / ".model.partial-somefile").read_text() == "mine"


def test_a_name_that_is_needed_is_given_back_with_a_tilde(tmp_path: Path) -> None:
    fill(tmp_path / "m", "old")
    (tmp_path / "m" / "notes").mkdir()
    (tmp_path / "m" / "notes" / "c").write_text("mine")
    (tmp_path / "m" / "c").write_text("mine too")
    (tmp_path / "m" / "c~").write_text("and this")
    (tmp_path / "m" / "away").symlink_to(tmp_path)
    assert files.foreign(tmp_path / "m") == ["away", "c", "c~", "notes/c"]
    with files.replaced(tmp_path / "m") as draft:
        (draft / "c").write_text("ours")
    found = {name: (tmp_path / "m" / name).read_text() for name in ("c", "c~", "c~~", "notes/c")}
    assert found == {"c": "ours", "c~": "mine too", "c~~": "and this", "notes/c": "mine"}
    assert (tmp_path / "m" / "away").is_symlink()
    assert not (tmp_path / "m" / "deep").exists(), "what fewstep wrote before is replaced"
    files.remove(tmp_path / "m")
    assert files.names(tmp_path / "m") == ["away", "c~", "c~~", "notes/c"]


def test_a_state_is_replaced_and_forgotten_without_its_neighbours(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, {"step": 1})
    for place in (folder, checkpoint.previous(folder)):
        place.mkdir(exist_ok=True)
        (place / "notes.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"notes\.txt.*choose another --out"):
            checkpoint.check_own(folder)
        if place == folder:
            checkpoint.save(folder, {"step": 2})
            assert checkpoint.load(folder)["step"] == 2
        checkpoint.remove(folder)
        assert (place / "notes.txt").read_text() == "mine"
        shutil.rmtree(place)
    assert not checkpoint.exists(folder)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """A big disk's folder, linked to from the project."""
    (tmp_path / "big").mkdir()
    for name, make in (("model", fill), ("a.json", write)):
        make(tmp_path / "big" / name, "old")
        (tmp_path / name).symlink_to(tmp_path / "big" / name)
        make(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "big" / "model" / "b").read_text() == (tmp_path / "big" / "a.json").read_text() == "new"


def test_what_is_no_file_is_never_replaced_by_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match="is a device or a pipe, not a file: choose another path"):
            write(path, "x")
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()
    with pytest.raises(IsADirectoryError):
        write(tmp_path, "x")


@pytest.mark.parametrize("place", ["", ".", "/", "..", "a/.."])
@pytest.mark.parametrize("make", [fill, write])
def test_a_place_without_a_name_is_refused(tmp_path: Path, place: str, make: Callable[[Path, str], None]) -> None:
    with pytest.raises(ValueError, match="is no place to write to: give a path that ends in a name"):
        make(Path(place), "x")


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "x" * 250])
def test_the_longest_names_that_a_disk_takes_can_be_written(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        write(tmp_path / name, "x")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="too long") as refused:
        write(tmp_path / (name + "x" * 50), "x")
    assert refused.value.filename == str(tmp_path / (name + "x" * 50))


def test_a_killed_writer_is_swept_away_in_real_life_too(tmp_path: Path) -> None:
    def killed() -> None:
        with files.replaced(tmp_path / "model") as draft:
            (draft / "weights").write_bytes(bytes(1000))
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        assert in_a_child(killed) == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1, "each clears up after the one before"
    fill(tmp_path / "model", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
