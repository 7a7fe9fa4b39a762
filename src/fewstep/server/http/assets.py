"""The page's own files: read once, packed once, and named after their content, so that a browser asks for each once."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE = "index.html"
FOREVER = "public, max-age=31536000, immutable"
SCRIPT = '<script type="module"'


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    data: bytes
    packed: bytes
    """With gzip."""
    mime: str
    etag: str

    @classmethod
    def of(cls, name: str, data: bytes) -> Asset:
        """A file by its name."""
        mime = (
            "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "application/octet-stream"
        )
        kind = f"{mime}; charset=utf-8" if mime.startswith("text/") else mime
        return cls(data, gzip.compress(data, 9, mtime=0), kind, f'"{hashlib.sha256(data).hexdigest()[:24]}"')

    def answer(self, request: Request, cache: str) -> Response:
        """The file, compressed if the client takes gzip; a 304 without a body if the client has it already."""
        headers = {"cache-control": cache, "etag": self.etag, "vary": "Accept-Encoding"}
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(None, 304, headers)
        body = self.data
        if len(self.packed) < len(body) and _takes_gzip(request.headers.get("accept-encoding", "")):
            body = self.packed
            headers["content-encoding"] = "gzip"
        return Response(body, 200, headers, self.mime)


class Assets:
    """A folder of them.

    `version` stands for all of the content. The page links its files below ``web/<version>/``, where they may be kept for ever,
    and so do the modules that they import; under ``web/`` itself, for other pages, they are asked for anew.
    """

    def __init__(self, folder: Path) -> None:
        read = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        self._files = {name: Asset.of(name, data) for name, data in read.items() if name != PAGE}
        self.version = hashlib.sha256("".join(asset.etag for asset in self._files.values()).encode()).hexdigest()[:12]
        text = read[PAGE].decode()
        first = "".join(f'<link rel="modulepreload" href="web/{name}">\n' for name in read if name.endswith(".js"))
        text = text.replace(SCRIPT, first + SCRIPT, 1).replace('"web/', f'"web/{self.version}/')
        self._page = Asset.of(PAGE, text.encode())

    async def page(self, request: Request) -> Response:
        """The page; it is asked for anew at every visit, and sent only where it changed."""
        return self._page.answer(request, "no-cache")

    async def file(self, request: Request) -> Response:
        """One file, of the version in its path if there is one; 404 for another version's, which is not here."""
        asset = self._files.get(request.path_params["name"])
        version = request.path_params.get("version")
        if asset is None or version not in (None, self.version):
            raise HTTPException(404)
        return asset.answer(request, FOREVER if version else "no-cache")

    def routes(self) -> list[Route]:
        """All of them, for GET and HEAD."""
        return [
            Route("/", self.page),
            Route("/web/{name}", self.file),
            Route("/web/{version}/{name}", self.file),
        ]


def _takes_gzip(accepted: str) -> bool:
    for one in accepted.lower().split(","):
        coding, _, weight = one.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
