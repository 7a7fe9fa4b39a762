"""Your own pictures: a folder of image files with captions.

A caption stands beside its picture (``cat.png``, ``cat.txt``), or in a ``metadata.jsonl`` in the same folder or above,
as Hugging Face's ImageFolder has it (``{"file_name": "cat.png", "text": "a cat"}``); the latter wins. Sub-folders are
read too.

Nothing is dropped in silence and nothing crashes: ``report.json`` in the finished dataset names every file that was
skipped, with the reason; every file whose pixels had to be converted; and every file that is neither picture nor
caption.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.data.dataset import Dataset, DatasetWriter, Item, Progress, no_progress, split_of
from fewstep.modality import image

METADATA = "metadata.jsonl"
CAPTION_BYTES = 1_000_000
LICENCE = {"work": "pictures of a folder", "author": "unknown", "licence": "as their owner says", "url": "none"}
ATTRIBUTION = """# Attribution

These pictures and captions came from a folder of the user's. Their licences are the user's to know: write them here
before the dataset, or a model trained on it, is passed on.
"""


@dataclass(frozen=True)
class Options:
    """Your own pictures: a folder of image files with captions."""

    source: Path
    """The folder of pictures and captions."""
    size: int = 512
    """Side of the pictures in pixels: the middle square is cut out and resized."""
    heldout: float = 0.05
    """Share of the pictures kept out of training. Identical pictures stay on one side."""
    min_side: int | None = None
    """Pictures with a shorter side are skipped. Default: half of `size`, for more than doubling makes blur."""
    max_pixels: int = image.MAX_PIXELS
    """Pictures with more pixels are skipped, before they are decoded."""
    max_words: int = 256
    """Captions with more words are skipped: text encoders read 77 to 512 tokens and drop the rest in silence."""
    follow_links: bool = False
    """Read files through symbolic links, wherever they lead. Linked folders are never entered."""


@dataclass
class Report:
    """What became of every file. Paths are relative to the source."""

    read: int = 0
    """Pictures in the dataset."""
    skipped: dict[str, str] = field(default_factory=dict)
    """File -> what is wrong and what to do."""
    converted: dict[str, str] = field(default_factory=dict)
    """File -> what was done to its pixels."""
    ignored: list[str] = field(default_factory=list)
    """Files that are neither picture nor caption."""

    def text(self) -> str:
        """The report as ``report.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def refusals(self, most: int = 3) -> list[str]:
        """The first few refusals, each with its reason, and how many there are beyond."""
        lines = [f"{name}: {why}" for name, why in self.skipped.items()]
        return [*lines[:most], *([f"And {len(lines) - most} more"] if len(lines) > most else [])]


class Refused(ValueError):
    """One file cannot be used; the sentence says why, without the file's name."""


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Read the source into ``folder``; the report lies there as ``report.json``."""
    return build_with_report(options, folder, progress)[0]


def build_with_report(options: Options, folder: Path, progress: Progress | None = None) -> tuple[Dataset, Report]:
    """`build`, and the report in hand."""
    progress = progress or no_progress
    _check(options)
    report = Report()
    progress("folder: listing", 0, 1)
    pictures, captions = _survey(options, report)
    writer = DatasetWriter(
        folder,
        name=f"folder-{options.size}",
        shape=(3, options.size, options.size),
        licences=[LICENCE],
        attribution=ATTRIBUTION,
        build={"builder": "folder", "size": options.size, "heldout": options.heldout, "max_words": options.max_words},
    )
    with writer:
        for i, (name, path) in enumerate(pictures.items()):
            try:
                writer.add(*_read(name, path, captions, options, report))
                report.read += 1
            except Refused as refusal:
                report.skipped[name] = str(refusal)
            progress("folder: reading", i + 1, len(pictures))
        if not report.read:
            found = f"none of its {len(pictures)} pictures can be used" if pictures else "no pictures in it"
            why = ". ".join(report.refusals()) or "pass a folder with PNG, JPEG or WebP files and captions"
            raise ValueError(f"{options.source}: {found}; {why}")
        writer.add_text("report.json", report.text())
    return Dataset.open(folder), report


def told(folder: Path) -> str:
    """What the report of the finished dataset in ``folder`` says, in a few lines."""
    report = Report(**json.loads((folder / "report.json").read_text("utf-8")))
    counts = {"skipped": report.skipped, "converted": report.converted, "neither picture nor caption": report.ignored}
    counted = ", ".join(f"{len(files):,} {what}" for what, files in counts.items())
    return "\n".join([f"{counted}: see {folder / 'report.json'}", *(f"  {line}" for line in report.refusals())])


def _check(options: Options) -> None:
    if not options.source.is_dir():
        raise ValueError(f"{options.source}: no such folder; pass --source with the folder that holds the pictures")
    if not 8 <= options.size <= 4096:
        raise ValueError(f"--size {options.size}: use 8 to 4096 pixels")
    if not 0 <= options.heldout < 1:
        raise ValueError(f"--heldout {options.heldout}: use a share from 0 up to, but not, 1")


# ------------------------------------------------------------------------------------------------------ files


def normal(name: str) -> str:
    """One spelling of a file name: macOS stores ``é`` as two characters, metadata as one."""
    return unicodedata.normalize("NFC", name)


def _survey(options: Options, report: Report) -> tuple[dict[str, Path], dict[str, str]]:
    """(pictures by name, captions by the picture's name); refusals go to the report."""
    pictures: dict[str, Path] = {}
    texts: dict[str, Path] = {}
    metadata: dict[str, Path] = {}
    for name, path in _files(options, report):
        suffix = path.suffix.lower()
        kind = pictures if suffix in image.SUFFIXES else texts if suffix == ".txt" else None
        kind = metadata if path.name == METADATA else kind
        if kind is None:
            report.ignored.append(name)
        elif normal(name) in kind:
            report.skipped[name] = "another file has the same name in another Unicode spelling; rename one"
        else:
            kind[normal(name)] = path
    captions: dict[str, str] = {}
    for name, path in metadata.items():
        captions.update(_metadata(name, path, pictures, captions, report))
    _beside(pictures, texts, captions, report)
    return pictures, captions


def _files(options: Options, report: Report) -> Iterator[tuple[str, Path]]:
    """Every visible file in a fixed order, as (name relative to the source, path)."""

    def closed(error: OSError) -> None:
        name = Path(error.filename).relative_to(options.source).as_posix()
        report.skipped[name] = f"a folder that cannot be listed ({error.strerror}); check its permissions"

    for top, folders, files in os.walk(options.source, onerror=closed):
        linked = [folder for folder in folders if os.path.islink(os.path.join(top, folder))]
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")) and f not in linked)
        for entry in sorted([*files, *linked]):
            path = Path(top, entry)
            name = path.relative_to(options.source).as_posix()
            readable = os.fsencode(name).decode("utf-8", "backslashreplace")
            if entry.startswith("."):
                continue
            if readable != name:
                report.skipped[readable] = "its name is not UTF-8; rename it"
            elif entry in linked:
                report.skipped[name] = "a linked folder, which is never entered; pass that folder itself, or copy it"
            elif path.is_symlink() and not options.follow_links:
                report.skipped[name] = "a symbolic link; pass --follow-links if you trust where it leads"
            elif not path.is_file():
                report.skipped[name] = "not a file, or a link that leads nowhere; remove it"
            else:
                yield name, path


# --------------------------------------------------------------------------------------------------- captions


def _metadata(
    name: str, path: Path, pictures: dict[str, Path], known: dict[str, str], report: Report
) -> dict[str, str]:
    """Captions of one ``metadata.jsonl``; each faulty line is reported by its number."""
    captions: dict[str, str] = {}
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        report.skipped[name] = f"cannot be read ({error.strerror}); check its permissions"
        return captions
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            target, text = _entry(line, name)
            if target not in pictures:
                raise Refused(f"names {target}, which is not there or cannot be used; correct file_name")
            if target in captions or target in known:
                raise Refused(f"names {target} a second time; keep one line, the first was used")
            captions[target] = text
        except Refused as refusal:
            report.skipped[f"{name}:{number}"] = str(refusal)
    return captions


def _entry(line: bytes, metadata: str) -> tuple[str, str]:
    """(picture's name relative to the source, its text) of one line."""
    try:
        entry: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"not JSON in UTF-8 ({type(error).__name__}); correct the line") from error
    file_name, text = (entry.get("file_name"), entry.get("text")) if isinstance(entry, dict) else (None, None)
    if not isinstance(file_name, str) or not isinstance(text, str):
        raise Refused('has no "file_name" and "text" strings; write {"file_name": "cat.png", "text": "a cat"}')
    parts = file_name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise Refused(f"names {file_name!r}, outside its folder; name files in the folder or below")
    inside = [part for part in parts if part not in ("", ".")]
    return normal("/".join([*metadata.split("/")[:-1], *inside])), text


def _beside(pictures: dict[str, Path], texts: dict[str, Path], captions: dict[str, str], report: Report) -> None:
    """Captions from ``name.txt``, where the metadata has none; a text serves one picture."""
    served: dict[str, str] = {}
    for name in list(pictures):
        beside = name.rsplit(".", 1)[0] + ".txt"
        if beside not in texts:
            continue
        first = served.setdefault(beside, name)
        if name in captions:
            continue
        try:
            if first != name:
                raise Refused(f"shares {beside} with {first}; give each picture its own name and caption")
            captions[name] = _text(texts[beside])
        except Refused as refusal:
            report.skipped[name] = str(refusal)
            del pictures[name]
    report.ignored.extend(sorted(texts.keys() - served.keys()))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > CAPTION_BYTES:
            raise Refused(f"its caption {path.name} has over {CAPTION_BYTES} bytes; shorten it")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"its caption {path.name} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise Refused(f"its caption {path.name} cannot be read ({error.strerror}); check its permissions") from error


def _caption(name: str, captions: dict[str, str], max_words: int) -> str:
    """The caption in one line, or the reason why there is none."""
    if name not in captions:
        raise Refused(f"no caption; write one into {Path(name).with_suffix('.txt').name} or {METADATA}")
    words = captions[name].split()
    if not words:
        raise Refused("its caption is empty; write one")
    if len(words) > max_words:
        raise Refused(f"its caption has {len(words)} words; shorten it to {max_words}, or raise --max-words")
    text = " ".join(words)
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise Refused("its caption holds control characters; write plain text")
    return text


# --------------------------------------------------------------------------------------------------- pictures


def _read(name: str, path: Path, captions: dict[str, str], options: Options, report: Report) -> tuple[np.ndarray, Item]:
    """Pixels ``[3, size, size]`` and item of one picture."""
    caption = _caption(name, captions, options.max_words)
    smallest = options.size // 2 if options.min_side is None else options.min_side
    try:
        loaded = image.load(path, min_side=smallest, max_pixels=options.max_pixels)
    except ValueError as error:
        raise Refused(str(error).removeprefix(f"{path}: ")) from error
    pixels = image.to_uint8(loaded.media(options.size)).numpy()
    concept = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
    if loaded.notes:
        report.converted[name] = ", ".join(loaded.notes)
    return pixels, Item(name, concept, (caption,), None, None, split_of(concept, options.heldout))
