"""Every refusal of the machine, really brought about, is one sentence with its own fix."""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep import failures
from fewstep.console import spark
from fewstep.ranges import Range
from helpers import disk_of


def full(folder: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("x" * 100_000)


def full_for_weights(folder: Path) -> None:
    with disk_of(1000):
        save_file({"a": torch.zeros(10_000)}, folder / "a.safetensors")


def full_for_a_folder(folder: Path) -> None:
    (folder / "from").mkdir()
    (folder / "from" / "big").write_bytes(bytes(10_000))
    with disk_of(1000):
        shutil.copytree(folder / "from", folder / "to")


def forbidden(folder: Path) -> None:
    """Root may do anything, so somebody else tries; others are forbidden it as they are."""
    (folder / "locked").mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        (folder / "locked" / "a").write_text("")
    finally:
        if root:
            os.seteuid(0)


def below_a_file(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "file" / "a").write_text("")


def a_folder_where_a_file_is(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "file").mkdir(exist_ok=True)


def into_a_folder(folder: Path) -> None:
    folder.write_text("")


def long_name(folder: Path) -> None:
    (folder / ("x" * 300)).write_text("")


def nowhere(folder: Path) -> None:
    (folder / "nowhere").read_text()


def taken(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("")
    os.rename(folder / "a", folder / "b")


def too_many(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    held = []
    try:
        while True:
            held.append(TemporaryFile(dir=folder))  # noqa: SIM115
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in held:
            file.close()


def a_device(folder: Path) -> None:
    load_file("/dev/null")


def a_circle(folder: Path) -> None:
    (folder / "a").symlink_to(folder / "a")
    (folder / "a").read_text()


def not_said(folder: Path) -> None:
    raise OSError(errno.ECOMM, os.strerror(errno.ECOMM))


def memory(folder: Path) -> None:
    torch.empty(2**50)


@pytest.mark.parametrize(
    ("provoke", "fix"),
    [
        (full, "free space, or choose another folder"),
        (full_for_weights, "free space, or choose another folder"),
        (full_for_a_folder, "to/big: no room for it; free space, or choose another folder"),
        (forbidden, "locked/a: not allowed; choose a folder you may write to"),
        (below_a_file, "file/a: a file stands where a folder is needed"),
        (a_folder_where_a_file_is, "file: a file stands where a folder is needed"),
        (into_a_folder, "a folder stands where a file is needed"),
        (long_name, "xxx: the name is too long; choose a shorter one"),
        (nowhere, "nowhere: not there; check the path"),
        (taken, "b: something else is writing there"),
        (too_many, "too many open files"),
        (a_device, "a file: a device or a pipe stands where a file is needed; choose another path"),
        (a_circle, "a: links that lead in a circle; choose another path"),
        (not_said, "a file: Communication error on send; check the path and the disk"),
        (memory, "not enough memory"),
    ],
)
def test_each_refusal_has_its_own_fix(tmp_path: Path, provoke: Callable[[Path], None], fix: str) -> None:
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    with pytest.raises(failures.OURS) as refused:
        provoke(tmp_path)
    said = failures.sentence(refused.value)
    assert fix in said
    assert "\n" not in said
    assert len(said) < 250


def test_an_error_of_our_own_is_not_explained_away() -> None:
    with pytest.raises(RuntimeError) as wrong:
        torch.ones(2) @ torch.ones(3)
    assert failures.sentence(wrong.value) == ""


def test_a_range_says_what_it_holds() -> None:
    share, above = Range(0, 1), Range(0, above=True)
    assert [share.holds(x) for x in (-0.1, 0, 0.5, 1, 1.1, math.nan, math.inf)] == [False, True, True, True, False, False, False]
    assert [above.holds(x) for x in (0, 1e-9, 1e9, math.inf)] == [False, True, True, False]
    assert (str(share), str(above), str(Range(1, 1000))) == ("from 0 to 1", "more than 0", "from 1 to 1,000")


def test_a_loss_that_is_not_finite_does_not_end_the_display() -> None:
    """The run has its own rule for it, a streak of five."""
    assert spark([1.0, math.nan, 2.0, math.inf]) == spark([1.0, 2.0])
    assert spark([math.nan]) == ""
