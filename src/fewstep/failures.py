"""Failures of the machine - a full disk, a read-only folder, no memory - as one sentence with the fix."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import re
import shutil
from typing import Any

from safetensors import SafetensorError

from . import extras
from .files import NAMED
from .text import plain

FIXES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "no room for it; free space, or choose another folder",
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ): "not allowed; choose a folder you may write to, or change its permissions",
    (errno.ENOTDIR, errno.EEXIST): "a file stands where a folder is needed; choose another path",
    (errno.EISDIR,): "a folder stands where a file is needed; choose another path",
    (errno.ENOTEMPTY,): "something else is writing there; let it finish, or choose another path",
    (errno.ENAMETOOLONG,): "the name is too long; choose a shorter one",
    (errno.ENOENT,): "not there; check the path",
    (
        errno.ENODEV,
        errno.ENXIO,
        errno.ESPIPE,
        errno.EINVAL,
    ): "a device or a pipe stands where a file is needed; choose another path",
    (errno.ELOOP,): "links that lead in a circle; choose another path",
    (errno.EIO, errno.ESTALE): "the disk or the connection to it failed; check it, or choose another folder",
    (errno.EBUSY, errno.ETXTBSY): "in use; let whoever uses it end, or choose another path",
    (errno.EMFILE, errno.ENFILE): "too many open files; close some, or raise the limit (ulimit -n)",
}
"""By the system's error number: what is wrong, and what to do."""
OURS = (OSError, SafetensorError, MemoryError, RuntimeError, ImportError)
"""Exceptions of which ``sentence`` can explain some."""
NO_MEMORY = re.compile("can't allocate memory|out of memory|DefaultCPUAllocator", re.IGNORECASE)


def sentence(error: Exception) -> str:
    """The sentence for an error of the machine; empty for any other, which is a bug and wants its traceback."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        return "there is not enough memory for this: ask for less at once (a smaller batch, picture or count)"
    if isinstance(error, ImportError):
        return of_import(error)
    if not isinstance(error, OSError | SafetensorError):
        return ""
    number = number_of(error)
    fix = next((said for numbers, said in FIXES.items() if number in numbers), None)
    if isinstance(error, shutil.Error):  # a whole folder's copy: the first file that failed stands for all
        named: Any = error.args[0][0][1]
    else:
        named = getattr(error, "filename2", None) or getattr(error, "filename", None)
        named = named or ("a file of weights" if isinstance(error, SafetensorError) else "a file")
    if fix is None:
        said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        fix = f"{said}; check the path and the disk"
    return f"{plain(os.fsdecode(named), NAMED)}: {fix}"


def of_import(error: ImportError) -> str:
    """A package that is missing or broken; empty where it is this one, which is a bug."""
    module = error.name or ""
    top = module.partition(".")[0]
    if not top or top == __package__:
        return ""
    if not extras.installed(top):
        return f"{module} is not installed: {extras.install([top])}"
    package = importlib.metadata.packages_distributions().get(top, [top])[0]
    reason = str(error).splitlines()[0]
    return f"{module} cannot be imported ({reason}): pip install --upgrade --force-reinstall {package}"


def number_of(error: OSError | SafetensorError) -> int | None:
    """The system's error number; safetensors, which is Rust, and the copy of a folder have it in their text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"(?:os error |Errno )(\d+)", str(error))
    return int(found[1]) if found else None
