"""Forms with files as browsers and API clients send them: ``multipart/form-data`` (RFC 7578), read whole from memory."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from email.parser import BytesHeaderParser

from ..wire.protocol import ProtocolError

MOST_FIELDS = 64
"""A request of ours has a quarter of these."""
MOST_HEADER_BYTES = 8192
"""Headers of one field."""
Form = Sequence[tuple[str, str | bytes]]
"""Names and values in order: text, or the bytes of a file."""


def _broken(why: str) -> ProtocolError:
    return ProtocolError("form", f"the form {why}: send multipart/form-data, as `curl -F image=@photo.png` does")


def boundary_of(content_type: str) -> bytes | None:
    """What parts the fields of a form with this Content-Type; None for what is no such form. Raises ProtocolError without one."""
    head = Message()
    head["content-type"] = content_type
    if head.get_content_type() != "multipart/form-data":
        return None
    boundary = head.get_boundary("")
    if not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise _broken("names no boundary")
    return boundary.encode()


def read_form(body: bytes, boundary: bytes) -> Form:
    """The fields of a form. Raises ProtocolError for one that is cut short, broken, or has too many."""
    line = b"\r\n--" + boundary
    _, *pieces = (b"\r\n" + body).split(line, MOST_FIELDS + 1)
    if not pieces or not pieces[-1].startswith(b"--"):
        raise _broken(f"has more than {MOST_FIELDS} fields" if len(pieces) > MOST_FIELDS else "is cut short")
    return [_field(piece) for piece in pieces[:-1]]


def _field(piece: bytes) -> tuple[str, str | bytes]:
    head, found, value = piece.partition(b"\r\n\r\n")
    if not found or len(head) > MOST_HEADER_BYTES:
        raise _broken("has a field without a head")
    said = BytesHeaderParser().parsebytes(head.lstrip(b" \t").removeprefix(b"\r\n") + b"\r\n\r\n")
    name = said.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise _broken("has a field without a name")
    if said.get_param("filename", header="content-disposition") is not None:
        return name, value
    try:
        return name, value.decode()
    except UnicodeDecodeError:
        raise ProtocolError("form", f"the field {name!r:.40} is not in UTF-8: send text in UTF-8") from None
