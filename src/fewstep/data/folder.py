"""Your own pictures: a folder of image files with captions.

A caption stands beside its picture (``cat.png``, ``cat.txt`` or ``cat.caption``, one caption a line), or in a
``metadata.jsonl`` or ``metadata.csv`` in the same folder or above, as Hugging Face's ImageFolder has it
(``{"file_name": "cat.png", "text": "a cat"}``); the latter wins. Sub-folders are read too.

Nothing is dropped in silence and nothing crashes: ``report.json`` in the finished dataset names every file once, with what
happened to it and, where that was nothing, what to do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from fewstep.data import _buckets, _captions
from fewstep.data._captions import Names, Refused, normal
from fewstep.data._report import Report, percent, told
from fewstep.data.dataset import Dataset, DatasetWriter, Item, Progress, no_progress, split_of
from fewstep.modality import image
from fewstep.ranges import Range
from fewstep.sizes import Size, pair, shape_of, spoken

MAX_WORDS = 256
__all__ = ["Options", "Report", "build", "build_with_report", "told"]
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
    size: Size = 512
    """Size of the pictures in pixels: their side where they are to be square, else width and height, as 768x512."""
    buckets: str = ""
    """Keep pictures near their own shapes, in sizes of about the area of `size`: how many, as 5, or which, as
    512x512,640x448,448x640 (the width first). Each picture goes where the aspect ratio is nearest. Default: one size."""
    multiple: Annotated[int, Range(0, 512)] = 0
    """Sides of the buckets are multiples of this: of what the model's codec shrinks by, at least. Default: 64, and 8 to 32 for
    pictures of less than 512 pixels."""
    fit: image.Fit = "crop"
    """A picture of another shape than `size`: ``crop`` takes its middle, ``pad`` puts borders around it (white where it was
    transparent, the colour of its own edge where that is plain, else white)."""
    caption_column: str = ""
    """Column of the captions in ``metadata.jsonl`` or ``metadata.csv``. Default: text, caption or prompt, the first there is."""
    teacher: Path | None = None
    """The model that the captions are for, a bundle or a diffusers folder: the report then says what its text encoder will not
    read of them, in its own tokens."""
    heldout: float = 0.05
    """Share of the pictures kept out of training. Identical pictures stay on one side."""
    min_side: int | None = None
    """Pictures with a shorter side are skipped; with ``--fit pad``, those whose longer side is shorter. Default: half of `size`,
    for more than doubling makes blur."""
    max_pixels: int = image.MAX_PIXELS
    """Pictures with more pixels are skipped, before they are decoded."""
    max_words: Annotated[int, Range(1, 10**6)] | None = None
    """Captions with more words are left out (in Chinese, Japanese, Thai and their like every character counts as one). Default:
    256, or none with ``--teacher``, whose tokens are counted instead."""
    follow_links: bool = False
    """Read files through symbolic links, wherever they lead. Linked folders are never entered."""


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Read the source into ``folder``; the report lies there as ``report.json``."""
    return build_with_report(options, folder, progress)[0]


def build_with_report(options: Options, folder: Path, progress: Progress | None = None) -> tuple[Dataset, Report]:
    """`build`, and the report in hand."""
    progress = progress or no_progress
    _check(options)
    sizes = sizes_of(options)
    reader = Reader(options, Report())
    report = reader.report
    progress("folder: listing", 0, 1)
    reader.survey()
    pictures = reader.pictures
    writer = DatasetWriter(
        folder,
        name=f"folder-{options.size if isinstance(options.size, int) else spoken(options.size)}",
        shape=(3, *pair(options.size)),
        licences=[LICENCE],
        attribution=ATTRIBUTION,
        build={"builder": "folder", "size": options.size, "heldout": options.heldout, "max_words": options.max_words,
               "fit": options.fit} | ({"buckets": options.buckets} if options.buckets else {}),
        buckets=[(3, *size) for size in sizes] if options.buckets else (),
    )  # fmt: skip
    with writer:
        for i, name in enumerate(pictures):
            try:
                writer.add(*reader.read(name))
            except Refused as refusal:
                report.skipped[name] = str(refusal)
            progress("folder: reading", i + 1, len(pictures))
        if not report.read:
            found = f"none of its {len(pictures)} pictures can be used" if pictures else "no pictures in it"
            why = ". ".join(report.refusals()) or "pass a folder with PNG, JPEG or WebP files and captions"
            raise ValueError(f"{options.source}: {found}; {why}")
        writer.add_text("report.json", report.text())
    return Dataset.open(folder), report


def sizes_of(options: Options) -> tuple[tuple[int, int], ...]:
    """The sizes ``(height, width)`` that pictures get, the buckets' or the one. Raises ValueError with the fix."""
    own = pair(options.size)
    return _buckets.read(options.buckets, own, options.multiple or _buckets.multiple_for(own)) or (own,)


def _check(options: Options) -> None:
    if not options.source.is_dir():
        raise ValueError(f"{options.source}: no such folder; pass --source with the folder that holds the pictures")
    size = pair(options.size)
    if not all(8 <= side <= 4096 for side in size):
        given = options.size if isinstance(options.size, int) else spoken(size)
        raise ValueError(f"--size {given}: use 8 to 4096 pixels")
    if not 0 <= options.heldout < 1:
        raise ValueError(f"--heldout {options.heldout}: use a share from 0 up to, but not, 1")


@dataclass
class Captions:
    """Of one picture."""

    texts: list[str]
    source: str
    """The file they stand in."""
    unused: list[str] = field(default_factory=list)
    """Further files that have some."""


class Reader:
    """One reading of a folder: `survey` finds pictures and captions, `read` reads a picture; the report says all."""

    def __init__(self, options: Options, report: Report) -> None:
        self.options, self.report = options, report
        self.pictures: dict[str, Path] = {}
        """By name; also those that cannot be read, for which see `_why_not`."""
        self.captions: dict[str, Captions] = {}
        """By the picture's name."""
        self._why_not: dict[str, str] = {}
        """Why a picture without captions has none."""
        self._advised = _captions.TABLES[0]
        """The table to write captions into: the one that is there."""
        self._unread: Callable[[Sequence[str]], Sequence[Any]] | None = None
        if options.teacher is not None:
            from fewstep.pretrained import reader_of

            self._unread = reader_of(options.teacher)
        self._sizes = sizes_of(options)
        self._max_words = options.max_words if options.max_words or options.teacher else MAX_WORDS

    # ---------------------------------------------------------------------------------------------------- files

    def survey(self) -> None:
        """Sort every file by what it is for."""
        texts: dict[str, Path] = {}
        tables: dict[str, Path] = {}
        for name, path in self._files():
            suffix, called = path.suffix.lower(), path.name.lower()
            if suffix in image.SUFFIXES or image.unread(suffix):
                kind = self.pictures
            elif called in _captions.TABLES:
                kind = tables
            elif suffix in _captions.BESIDE:
                kind = texts
            else:
                self.report.ignored[name] = _taken_for(called)
                continue
            if normal(name) in kind:  # the spelling that is normal already is read
                other = kind[normal(name)].relative_to(self.options.source).as_posix()
                why = "another file has the same name in another Unicode spelling; rename one"
                self.report.skipped[other if name == normal(name) else name] = why
                if name != normal(name):
                    continue
            kind[normal(name)] = path
        known = Names(self.pictures)
        if self.options.caption_column and not tables:
            raise ValueError(
                f"--caption-column {self.options.caption_column} names a column, but {self.options.source} holds no table: "
                f"leave it out, or put the captions into {' or '.join(_captions.TABLES[:2])}"
            )
        self._advised = min(
            tables, default=_captions.TABLES[0], key=lambda n: (n.count("/"), _rank(n, _captions.TABLES))
        )
        for name in sorted(tables, key=lambda n: (n.count("/"), n.rpartition("/")[0], _rank(n, _captions.TABLES))):
            self._table(name, tables[name], known)
        self._beside(texts)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Every visible file in a fixed order, as (name relative to the source, path)."""
        source, report = self.options.source, self.report

        def closed(error: OSError) -> None:
            name = Path(error.filename).relative_to(source).as_posix()
            report.skipped[name] = f"a folder that cannot be listed ({error.strerror}); check its permissions"

        for top, folders, files in os.walk(source, onerror=closed):
            linked = [folder for folder in folders if os.path.islink(os.path.join(top, folder))]
            hidden = [f for f in folders if f.startswith((".", "__MACOSX")) and f not in linked]
            folders[:] = sorted(f for f in folders if f not in hidden and f not in linked)
            for entry in sorted([*files, *linked, *hidden]):
                path = Path(top, entry)
                name = path.relative_to(source).as_posix()
                readable = os.fsencode(name).decode("utf-8", "backslashreplace")
                if entry in hidden:
                    report.ignored[f"{readable}/"] = "a hidden folder, which is not entered"
                elif entry.startswith("."):
                    report.ignored[readable] = "a hidden file, for its name begins with a dot"
                elif readable != name:
                    report.skipped[readable] = "its name is not UTF-8; rename it"
                elif entry in linked:
                    why = "a linked folder, which is never entered; pass that folder itself, or copy it"
                    report.skipped[name] = why
                elif path.is_symlink() and not self.options.follow_links:
                    report.skipped[name] = "a symbolic link; pass --follow-links if you trust where it leads"
                elif not path.is_file():
                    report.skipped[name] = "not a file, or a link that leads nowhere; remove it"
                else:
                    yield name, path

    # ------------------------------------------------------------------------------------------------- captions

    def _table(self, name: str, path: Path, known: Names) -> None:
        """Captions of one table; each faulty row is reported by its number."""
        used = 0
        try:
            for number, row in _captions.rows(path):
                try:
                    if isinstance(row, Refused):
                        raise row
                    self._row(row, name, known)
                    used += 1
                except Refused as refusal:
                    self.report.skipped[f"{name}:{number}"] = str(refusal)
                    self.report.counts["rows_skipped"] += 1
        except Refused as refusal:
            self.report.skipped[name] = str(refusal)
            return
        self.report.captions[name] = f"{used:,} of its rows used" if used else "none of its rows could be used"

    def _row(self, row: Any, table: str, known: Names) -> None:
        target, texts = _captions.entry(row, table, self.options.caption_column)
        picture = known.one(target)
        if picture is None:
            raise Refused(f"names {target}, which is not there or cannot be used; correct file_name")
        before = self.captions.setdefault(picture, Captions([], table))
        if before.source != table:
            if table not in before.unused:
                before.unused.append(table)
            raise Refused(f"names {picture}, whose caption {before.source} has already; keep one of the two")
        if not set(texts) - set(before.texts):
            raise Refused(f"names {picture} a second time, with the same caption; keep one row, the first was used")
        before.texts += texts

    def _beside(self, texts: dict[str, Path]) -> None:
        """Captions from texts beside the pictures, where no table has them; a text serves one picture."""
        called = Names(())
        for name in sorted(
            self.pictures, key=lambda n: (bool(image.unread(Path(n).suffix)), n)
        ):  # a photograph before its raw file
            for key in (name.rsplit(".", 1)[0], name):
                called.add(key, name)

        def closest(name: str) -> tuple[int, bool, bool, str]:
            """Of texts that differ in case alone, the one that is spelled as its picture is comes first."""
            rank = _rank(name, _captions.BESIDE)
            return rank, not called.exact(name.rsplit(".", 1)[0]), not name.endswith(_captions.BESIDE), name

        for text in sorted(texts, key=closest):
            first, *others = called.all(text.rsplit(".", 1)[0]) or [""]
            if not first:
                self.report.ignored[text] = "a text without a picture of its name"
                continue
            for other in others:
                self._why_not.setdefault(
                    other, f"shares {text} with {first}; give each picture its own name and caption"
                )
            if (before := self.captions.get(first)) is not None:
                before.unused.append(text)
                self.report.captions[text] = f"not used: {first} has its caption from {before.source}"
                continue
            try:
                self.captions[first] = Captions(_captions.beside(texts[text]), text)
                self.report.captions[text] = f"of {first}"
            except Refused as refusal:
                self._why_not[first] = str(refusal)
                self.report.captions[text] = (
                    f"not used: {str(refusal).removeprefix(f'its caption {texts[text].name} ')}"
                )

    def _prompts(self, name: str) -> tuple[tuple[str, ...], list[str]]:
        """The picture's captions, and what there is to say about them."""
        found = self.captions.get(name)
        if found is None:
            beside = Path(name).with_suffix(".txt").name
            raise Refused(self._why_not.get(name) or f"no caption; write one into {beside} or {self._advised}")
        prompts, left_out = _captions.usable(found.texts, self._max_words)
        what = "caption" if len(prompts) == 1 else f"{len(prompts)} captions"
        notes = [f"{what} from {found.source}" + (f" (not used: {', '.join(found.unused)})" if found.unused else "")]
        notes += [f"left out: {why}" for why in left_out]
        unread = [left.sentence for left in self._unread(prompts) if left is not None] if self._unread else []
        notes += unread[:1]
        for kind, so in (
            ("several_captions", len(prompts) > 1),
            ("captions_left_out", left_out),
            ("not_read_whole", unread),
        ):
            self.report.counts[kind] += bool(so)
        return prompts, notes

    # ------------------------------------------------------------------------------------------------- pictures

    def read(self, name: str) -> tuple[np.ndarray, Item]:
        """Pixels ``[3, H, W]`` of one of the sizes and item of one picture. Raises Refused."""
        options, path = self.options, self.pictures[name]
        if why := image.unread(path.suffix):
            raise Refused(why)
        prompts, notes = self._prompts(name)
        loaded, size = self._load(path)
        pixels = image.to_uint8(loaded.media(size, options.fit)).numpy()
        notes += loaded.notes
        self.report.counts["converted"] += bool(loaded.notes)
        cropped, beyond = options.fit == "crop", loaded.beyond(size)
        if beyond:
            notes.append(
                f"{percent(beyond)} cut off to make it {shape_of(size)}" if cropped else "borders put around it"
            )
            self.report.counts["cropped" if cropped else "padded"] += 1
            self.report.most_cut_off = max(self.report.most_cut_off, beyond * cropped)
        if options.buckets:
            self.report.placed(spoken(size), beyond * cropped)
        concept = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
        self.report.read[name] = "; ".join(notes)
        return pixels, Item(name, concept, prompts, None, None, split_of(concept, options.heldout))

    def _load(self, path: Path) -> tuple[image.Loaded, tuple[int, int]]:
        """The picture, and the size that it gets."""
        options = self.options
        least = min(min(size) for size in self._sizes)
        smallest = least // 2 if options.min_side is None else options.min_side
        padded = options.fit == "pad"
        try:
            loaded = image.load(path, min_side=2 if padded else smallest, max_pixels=options.max_pixels)
        except ValueError as error:
            raise Refused(str(error).removeprefix(f"{path}: ")) from error
        wide, high = loaded.image.size
        size = _buckets.nearest((high, wide), self._sizes)
        if padded and max(wide, high) < smallest:
            raise Refused(f"{wide}x{high} pixels, less than {smallest} on its longer side; use a larger picture")
        scale = (min if padded else max)(size[1] / wide, size[0] / high)
        if options.min_side is None and scale > 2 and (options.buckets or size[0] != size[1]):
            raise Refused(
                f"{wide}x{high} pixels, which {spoken(size)} would enlarge {scale:.1f} times; use a larger picture"
            )
        return loaded, size


def _rank(name: str, order: Sequence[str]) -> int:
    """Which ending of ``order`` a name has."""
    return next(i for i, end in enumerate(order) if name.lower().endswith(end))


def _taken_for(called: str) -> str:
    """Name a file that is neither picture nor caption, and how it could become one."""
    stem, _, suffix = called.rpartition(".")
    if stem in ("metadata", "captions", "prompts") and suffix in ("json", "jsonl", "csv", "tsv", "parquet", "xlsx"):
        return f"not read as captions; write them into {' or '.join(_captions.TABLES[:2])}"
    return "neither picture nor caption"
