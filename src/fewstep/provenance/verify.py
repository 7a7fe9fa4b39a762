"""``fewstep verify FILE``: what a picture's (or a recording's) credentials and its watermark say together, in plain sentences."""

from __future__ import annotations

import contextlib
import io
import math
import mimetypes
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fewstep import extras
from fewstep.files import NAMED, content
from fewstep.pixels import Pixels
from fewstep.provenance import recording, store
from fewstep.provenance.chips import SMALLEST_SIDE
from fewstep.provenance.content_credentials import CREATED, EDITED, Credentials, read, read_recovered
from fewstep.provenance.detection import Detection
from fewstep.provenance.identity import MODULES, load_anchors, own_root
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.watermark import Effort, SpreadSpectrum, Watermark
from fewstep.text import plain

SIDECAR = ".c2pa"
MOST_PIXELS = 50_000_000
REASONS_SHOWN = 3
MOST_BYTES, MOST_SIDECAR = 2**30, 2**26
"""How much is read of a file, and of the credentials beside it."""
ANOTHERS = "they are another picture's, under this one's name"
PNG, PNG_WORDS = b"\x89PNG\r\n\x1a\n", (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
FIRST_ALONE = "It has several frames, or pages: a watermark was looked for in the first alone."
MADE = {CREATED: "a trained model made the whole picture", EDITED: "a trained model made part of the picture"}
DRAWN_FROM = {"image": ", from a picture", "inpaint": ": a region of a picture drawn anew"}


@dataclass(frozen=True)
class VerifyOptions:
    """How a file is verified."""

    mark: Watermark = field(default_factory=SpreadSpectrum)
    """The watermark to search for; with the public key unless the pictures were marked with a key of your own."""
    trust_anchors: tuple[Path, ...] = ()
    """PEM files of roots to trust, beside the one that this machine made for itself."""
    effort: Effort = "scales"
    """``aligned`` reads the mark where it was put, ``offsets`` finds it after a crop too, ``scales`` after a resize too."""
    store: Path | None = None
    """Folder of :mod:`fewstep.provenance.store` in which the credentials are searched that a picture lost."""
    home: Path | None = None
    """Where fewstep keeps its identity; default ``$FEWSTEP_HOME``, else ``~/.config/fewstep``."""


DEFAULTS = VerifyOptions()


@dataclass(frozen=True)
class Recovered:
    """Credentials from a store."""

    credentials: Credentials
    """The credentials; their state is that of the statement alone, not of this file's bytes."""
    by_identifier: bool
    """Whether the number in the watermark named them; else the picture looks like the one that they are about."""
    differing: int
    """Bits of the fingerprint that differ, of 256."""


@dataclass(frozen=True)
class Verdict:
    """What is known about where a picture came from."""

    credentials: Credentials
    """What the content credentials say."""
    watermark: Detection | None
    """What the watermark says; None where the picture is too small to carry one."""
    mark_alone: bool
    """The watermark is there and no credentials are: it never had any, as a streamed frame, or they were stripped."""
    same_bundle: bool | None
    """Whether the watermark names the bundle that the credentials name; None where one of them is silent."""
    sentences: tuple[str, ...]
    """All of this for a person."""
    unread: str = ""
    """Why the watermark could not be searched; empty where it was, and where the picture is too small."""
    recovered: Recovered | None = None
    """The credentials that a store has for this picture, whose own are missing or not valid."""

    @property
    def made_by_fewstep(self) -> bool:
        """Whether intact credentials or the watermark say so."""
        return (self._intact and bool(self.credentials.facts)) or (self.watermark is not None and self.watermark.found)

    @property
    def looked_at(self) -> bool:
        """Whether there was anything to conclude from: not in a recording that can't be decoded and has no credentials."""
        return not self.unread or self.credentials.state not in ("absent", "unreadable", "unchecked")

    @property
    def ai_generated(self) -> bool:
        """Whether intact credentials or the watermark say that a model, whosever, made it or a part of it."""
        return (self._intact and self.credentials.ai_generated) or self.made_by_fewstep

    @property
    def _intact(self) -> bool:
        return self.credentials.state in ("trusted", "valid") and self.credentials.made_intact

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def table(self) -> dict[str, Any]:
        """The same for programs, of JSON's own types; docs/provenance.md describes every field."""
        told, mark = self.credentials, self.watermark
        return {
            "ai_generated": self.ai_generated if self.looked_at else None,
            "made_by_fewstep": self.made_by_fewstep,
            "credentials": {
                "state": told.state,
                "sidecar": told.sidecar,
                "signer": told.signer,
                "signed_at": told.when,
                "time_trusted": told.when_trusted,
                "software": told.software,
                "source_type": told.source_type,
                "edited_by": told.edited_by,
                "identifier": told.identifier,
                "facts": dict(told.facts),
                "reasons": list(told.reasons),
            },
            "watermark": None
            if mark is None
            else {
                "found": mark.found,
                "p_value": mark.p_value,
                "bundle_mark": None if mark.payload is None else f"{mark.payload:0{mark.payload_bits // 4}x}",
                "confidence": mark.payload_confidence,
            },
            "not_looked_for": self.unread or None,
            "recovered": None
            if self.recovered is None
            else {
                "by_identifier": self.recovered.by_identifier,
                "differing_bits": self.recovered.differing,
                "state": self.recovered.credentials.state,
                "signer": self.recovered.credentials.signer,
                "signed_at": self.recovered.credentials.when,
                "software": self.recovered.credentials.software,
                "facts": dict(self.recovered.credentials.facts),
            },
            "mark_alone": self.mark_alone,
            "same_bundle": self.same_bundle,
            "sentences": list(self.sentences),
        }


def verify(path: Path | str, options: VerifyOptions = DEFAULTS) -> Verdict:
    """Check the credentials and the watermark of a picture file, or of a WebM or MP4 video; another file is a ValueError."""
    path = Path(path)
    try:
        data = content(path, MOST_BYTES, "cut a piece out of it and verify that")
    except OSError as error:
        raise ValueError(
            f"can't read {plain(path, NAMED)} ({error.strerror or plain(error, NAMED)}): give the file of a picture or of a video"
        ) from error
    film = video_type(data)
    broken: ValueError | None = None
    picture: Pixels | None = None
    mime = film or ""
    if not film:
        try:
            picture, mime = decode(data, path.name)
        except ValueError as error:  # the statement may be whole where the pixels are not
            broken, mime = error, media_type(data, path.name)
    anchors = _anchors(options)
    credentials = read(data, mime, anchors) if mime else Credentials("absent")
    if credentials.state == "absent" and os.path.lexists(beside := path.with_suffix(SIDECAR)):
        credentials = _beside(beside, data, mime or "application/octet-stream", anchors)
    if broken and credentials.state in ("absent", "unreadable", "unchecked"):
        raise broken
    found, unread = None, str(broken or "")
    if film:
        try:
            found = recording.detect(data, mime, options.mark)
        except ValueError as error:
            unread = plain(error, 2 * NAMED)
    elif picture is not None and min(picture.shape[:2]) >= SMALLEST_SIDE:
        found = options.mark.detect(picture, options.effort)
    recovered = None
    if options.store and picture is not None and credentials.state not in ("trusted", "valid", "unchecked"):
        number = getattr(found, "identifier", None) if found is not None and found.found else None
        if held := store.find(options.store, picture, number):
            told = read_recovered(data, mime, held.manifest, anchors)
            if told.identifier != held.bound and told.state in ("trusted", "valid"):
                told = replace(told, state="invalid", reasons=(ANOTHERS,))
            recovered = Recovered(told, held.by_identifier, held.differing)
    verdict = conclude(credentials, found, film is not None, unread, recovered)
    if picture is not None and _is_animated(data):
        verdict = replace(verdict, sentences=(*verdict.sentences, FIRST_ALONE))
    return verdict


PICTURES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".bmp",
    ".avif",
    ".heic",
    ".jxl",
    ".webm",
    ".mp4",
)
"""Endings of the files that are read in a folder."""


def files_in(paths: Sequence[Path]) -> list[Path]:
    """The files that are meant: themselves, and all pictures and recordings in folders, at any depth, by name.

    Raises ValueError for a path where nothing stands, a folder without any, and no path at all.
    """
    if not paths:
        raise ValueError("give one file or more, or a folder of pictures")
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not os.path.lexists(path):
                raise ValueError(
                    f"can't read {plain(path, NAMED)} (nothing is there): give the file of a picture or of a video"
                )
            found.append(path)
            continue
        inside = [
            Path(at) / name
            for at, _, names in os.walk(path)
            for name in names
            if Path(name).suffix.lower() in PICTURES and not name.startswith(".")
        ]
        if not inside:
            raise ValueError(
                f"can't read {plain(path, NAMED)} (it is a folder without pictures): give one that holds some"
            )
        found += sorted(inside)
    return found


def media_type(data: bytes, name: str) -> str:
    """The media type of a picture that can't be decoded, by its first bytes, else by its name; empty where nobody can tell."""
    starts = {
        b"\x89PNG": "image/png",
        b"\xff\xd8": "image/jpeg",
        b"GIF8": "image/gif",
        b"II*\0": "image/tiff",
        b"MM\0*": "image/tiff",
    }
    by_start = next((mime for start, mime in starts.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        by_start = "image/webp"
    if data[4:8] == b"ftyp":
        by_start = "image/avif" if data[8:12] in (b"avif", b"avis") else "image/heic"
    return by_start or mimetypes.guess_type(name)[0] or ""


def _beside(sidecar: Path, data: bytes, mime: str, anchors: bytes) -> Credentials:
    """What a sidecar says about ``data``. One that can't be read does not keep the watermark from being read."""
    try:
        return read(data, mime, anchors, sidecar=content(sidecar, MOST_SIDECAR))
    except OSError as error:
        why = f"can't read {plain(sidecar.name, NAMED)} ({error.strerror or type(error).__name__})"
    except ValueError as error:
        why = plain(error, 2 * NAMED)
    return Credentials("unreadable", sidecar=True, reasons=(why,))


def video_type(data: bytes) -> str | None:
    """The media type of a recording, from its first bytes: WebM or MP4; None for anything else."""
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "video/webm"
    still = data[8:12] in (b"avif", b"avis", b"heic", b"mif1")
    return "video/mp4" if data[4:8] == b"ftyp" and not still else None


def decode(data: bytes, name: str = "this file") -> tuple[Pixels, str]:
    """Read a picture's pixels ``[H, W, 3]`` (transparency ignored) and its media type; anything else is a ValueError."""
    name = plain(name, NAMED)
    try:
        with _opened(data) as image:
            if image.width * image.height <= MOST_PIXELS:
                mime = Image.MIME.get(image.format or "", "application/octet-stream")
                return _rgb(image), mime
            size = f"{image.width}x{image.height}"
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read: give a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is far too large: at most {MOST_PIXELS:,} pixels are read") from error
    except Exception as error:  # a decoder may raise anything at all over a stranger's bytes
        why = plain(error, NAMED) or type(error).__name__
        raise ValueError(f"{name} is broken ({why}): get a whole copy of it") from error
    raise ValueError(f"{name} has {size} pixels: at most {MOST_PIXELS:,} are read")


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """A picture with its decoder, whose remarks about the file are no news: they would stand between the lines of ``--json``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(_without_words(data))) as image:
            yield image


def _without_words(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile: Pillow gives the whole picture up where one of them is huge, and
    whoever wants a mark not to be found could put one there."""
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] not in PNG_WORDS:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _rgb(image: Image.Image) -> Pixels:
    """The pixels of a picture of any mode; of 16 bits the upper 8, which Pillow would clip."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    return np.asarray(image.convert("RGB"), np.uint8)


def _is_animated(data: bytes) -> bool:
    """Whether a picture has more frames, or pages, than the one that is read."""
    try:
        with _opened(data) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # it was read once: what follows its first frame is broken
        return True


def conclude(
    credentials: Credentials,
    found: Detection | None,
    film: bool = False,
    unread: str = "",
    recovered: Recovered | None = None,
) -> Verdict:
    """Put all evidence together; ``unread`` says why the mark could not be searched."""
    marked = found is not None and found.found
    bundle = credentials.facts.get("bundle_hash")
    same = None
    if marked and found is not None and found.payload is not None and bundle is not None:
        mask = (1 << found.payload_bits) - 1
        same = found.payload == mark_payload(str(bundle)) & mask
    alone = marked and credentials.state == "absent"
    said = f"Watermark: not looked for; {unread}." if unread else _about_watermark(found, film, alone)
    sentences = [
        _about_credentials(credentials, alone, film),
        *_made_how(credentials),
        *_signed_when(credentials),
        said,
    ]
    if recovered:
        sentences += _about_recovered(recovered)
    if same is False:
        sentences.append("The watermark and the credentials name different bundles: one of them was put there later.")
    return Verdict(credentials, found, alone, same, tuple(sentences), unread, recovered)


def _anchors(options: VerifyOptions) -> bytes:
    """Every trusted root, as one PEM text."""
    given = [load_anchors(path) for path in options.trust_anchors]
    own = own_root(options.home)
    return b"\n".join([*given, *([own] if own else [])])


def _about_credentials(credentials: Credentials, alone: bool, film: bool) -> str:
    by = f"signed by {_quoted(credentials.signer)}" if credentials.signer else "signed"
    why = ", ".join(_reasons(credentials)[:REASONS_SHOWN])
    absent = "Content credentials: none."
    if film:
        absent = "Content credentials: none; a recording's would be in a .c2pa file of the same name beside it."
    elif alone:
        absent = (
            "Content credentials: none, but the watermark is there: a frame as it was streamed, and a picture saved without, "
            "never had any; else they were stripped, as by another program that saved the picture again."
        )
    return {
        "trusted": f"Content credentials: intact and trusted, {by}.",
        "valid": f"Content credentials: intact, {by}, who is not on your trust list.",
        "tampered": f"Content credentials: TAMPERED; the file was changed after it was signed ({why}).",
        "invalid": f"Content credentials: not valid ({why}).",
        "unreadable": f"Content credentials: unreadable ({why}).",
        "unchecked": f"Content credentials: not checked; to read them: {extras.install(MODULES)}.",
        "absent": absent,
    }[credentials.state]


def _about_recovered(recovered: Recovered) -> list[str]:
    """The credentials from a store, and how sure it is that they belong to this picture."""
    told = recovered.credentials
    if told.state not in ("trusted", "valid"):
        why = ANOTHERS if told.reasons == (ANOTHERS,) else f"they are {told.state}"
        return [f"Store: it holds credentials for this picture, and {why}: they count for nothing."]
    how = f"{recovered.differing} of 256 bits of the fingerprints differ"
    if recovered.by_identifier:
        how = f"named by the identifier in the watermark, {how}"
    else:
        how = f"looks like this one, {how}; that is a likeness, and no proof"
    who = f"signed by {_quoted(told.signer)}" if told.signer else "signed"
    who += "" if told.state == "trusted" else ", who is not on your trust list"
    return [
        f"Store: it holds intact credentials of a picture ({how}), {who}.",
        *_made_how(told),
        *_signed_when(told),
    ]


def _signed_when(credentials: Credentials) -> list[str]:
    """The time of signing, by a time stamp; nothing without one, and nothing where the signed statement is not intact."""
    if not credentials.when or credentials.state not in ("trusted", "valid"):
        return []
    whose = "is on your trust list" if credentials.when_trusted else "is not on your trust list"
    return [f"They were signed at {credentials.when}, by a time stamp whose authority {whose}."]


def _reasons(credentials: Credentials) -> list[str]:
    """C2PA's codes, each with its words where there are any."""
    words = credentials.explanations or credentials.reasons
    return [code if code == said else f"{code}: {said}" for code, said in zip(credentials.reasons, words)]


def _made_how(credentials: Credentials) -> list[str]:
    """The statement of the credentials, worded as a claim where they are not intact."""
    if not credentials.software:
        return []
    intact = credentials.state in ("trusted", "valid")
    verb = "say" if intact else "claimed"
    sentence = f"They {verb} it was made by {_named(credentials.software)}"
    if credentials.edited_by:
        said = "was" if credentials.made_intact else "was, by credentials that were not intact,"
        sentence = f"They {verb} {_named(credentials.edited_by)} altered it; the picture it began from {said} made by "
        sentence += _named(credentials.software)
    facts = credentials.facts
    if facts:
        sentence += f" with {_named(facts.get('model'))} (bundle {_named(str(facts.get('bundle_hash'))[:12])})"
        told = {"steps": facts.get("steps"), "seed": facts.get("seed"), "prompt": facts.get("prompt")}
        sentence += "".join(f", {name} {_quoted(value)}" for name, value in told.items() if value is not None)
    if made := MADE.get(str(credentials.source_type)):
        sentence += f"; {made if not credentials.edited_by else made.replace('the', 'that', 1)}{_drawn_from(facts)}"
    return [sentence + "."]


def _named(value: Any) -> str:
    """A foreign name; in quotes if it could be read as a part of the sentence, or as another one."""
    return str(value) if re.fullmatch(r"[\w+/()-]+([ .][\w+/()-]+){,6}", str(value)) else _quoted(str(value))


def _quoted(value: Any) -> str:
    """A number as it is, a text in quotes: its escapes are those of :func:`~fewstep.text.plain`, and stand once."""
    return f"'{value}'" if isinstance(value, str) else repr(value)


def _drawn_from(facts: Mapping[str, Any]) -> str:
    """The picture that drawing started from, and how far it could be changed; nothing for pictures drawn from text alone."""
    given, strength = DRAWN_FROM.get(str(facts.get("task")), ""), facts.get("strength")
    return given + (f", strength {strength:.3g}" if given and isinstance(strength, int | float) else "")


def _about_watermark(found: Detection | None, film: bool, alone: bool) -> str:
    if found is None:
        return f"Watermark: none possible; a side under {SMALLEST_SIDE} pixels carries no mark."
    where = f" in {found.frames} of its frames" if film else ""
    if not found.found:
        return f"Watermark: not found{where}; that proves nothing, since heavy editing or another key looks the same."
    chance = "under 1e-300" if found.p_value < 1e-300 else f"at most 1e{math.ceil(math.log10(found.p_value))}"
    sentence = (
        f"Watermark: found{where}; the chance of this in an unmarked {'recording' if film else 'picture'} is {chance}"
    )
    sentence += found.alignment.told()
    if found.payload is not None:
        sentence += f"; it names bundle mark {found.payload:0{found.payload_bits // 4}x}"
        sentence += "" if found.payload_confidence == 1.0 else f" ({found.payload_confidence:.1%} sure)"
    hint = "; by itself that is a hint and no proof, since a mark can be copied onto any picture, without the key too"
    return f"{sentence}{hint if alone else ''}."
