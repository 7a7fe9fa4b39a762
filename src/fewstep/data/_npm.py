"""Pinned npm packages as read-only archives: fetched once by the npm client, checked by hash, read in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 600


@dataclass(frozen=True)
class NpmPackage:
    """One release of one package, named by its content."""

    name: str
    version: str
    integrity: str
    """``sha512-<base64>``, as in a lock file."""

    @property
    def file_name(self) -> str:
        """What ``npm pack`` calls the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def fetch(self, cache: Path) -> NpmArchive:
        """The archive from ``<cache>/npm``, or from the registry the npm client is set up for."""
        path = cache / "npm" / self.file_name
        if not path.is_file():
            self._download(path)
        digest = hashlib.sha512(path.read_bytes()).digest()
        if f"sha512-{base64.b64encode(digest).decode()}" != self.integrity:
            raise ValueError(f"{path}: not the published {self.name} {self.version}; delete the file and try again")
        return NpmArchive(path)

    def _download(self, path: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError(
                f"{self.name} {self.version} is fetched by npm, which is not installed; install Node.js, "
                f"or put {self.file_name} into {path.parent}, or use --vendors twemoji, which needs no download"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path.parent}: cannot be made ({error.strerror}); pass another --cache") from error
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            command = [npm, "pack", f"{self.name}@{self.version}", "--loglevel=error", "--pack-destination", folder]
            try:
                subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=TIMEOUT_S, check=True)
                os.replace(Path(folder) / self.file_name, path)
            except (subprocess.SubprocessError, OSError) as error:
                said = (getattr(error, "stderr", None) or "").strip().splitlines() or [str(error)]
                raise ValueError(
                    f"npm could not fetch {self.name} {self.version} ({said[0]}); check the network, "
                    f"or put {self.file_name} into {path.parent}"
                ) from error


class NpmArchive:
    """Members of a package's tarball, read in memory: nothing is ever unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def json(self, member: str) -> Any:
        """Parse one JSON member, named without the leading ``package/``."""
        return json.loads(dict(self.files(member))[member])

    def files(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield (name, contents) of the regular files whose name begins with ``prefix``."""
        with tarfile.open(self._path, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("package/")
                if member.isfile() and name.startswith(prefix):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    yield name, stream.read()
