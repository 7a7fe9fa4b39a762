"""The form every dataset takes on disk, its reader and its writer.

====================  ==============================================================================================
``media.npy``         uint8 ``[N, C, *S]``, read as a memory map: media at ``2 * value / 255 - 1``
``items.jsonl``       one `Item` a line, in the order of ``media.npy``
``dataset.json``      name, size, count, licences, hashes, format version, the options it was built with
``ATTRIBUTION.md``    who made the media, and under which licence
====================  ==============================================================================================

Pictures of several sizes lie in buckets: one ``media-WxH.npy`` each in place of ``media.npy``, the items of a bucket one after
the other, and ``dataset.json`` lists them (format version 2).

A folder is written beside its destination and renamed into place: a dataset is whole or absent, never half.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import files
from ..plugin import Family
from ..sizes import spoken

FORMAT = "fewstep-dataset"
ATTRIBUTION = "ATTRIBUTION.md"
"""The page of a dataset, and of a model, that names the works it is made from."""
VERSION, BUCKETS_VERSION = 1, 2
"""Of a dataset of one size, and of one in buckets."""
USUAL = ("media.npy", "items.jsonl", "dataset.json", ATTRIBUTION, "report.json")
"""Files of a dataset that was written by a version that left no list of them."""

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""
Split = Literal["train", "heldout"]


FAMILY = Family("fewstep.data", "dataset", ("Options", "build"))
"""Where pictures come from. A file offers ``Options`` and ``build(options, folder, progress) -> Dataset``."""


def cache_dir() -> Path:
    """Where downloads and built datasets live: ``$FEWSTEP_CACHE``, or ``~/.cache/fewstep``."""
    return Path(os.environ.get("FEWSTEP_CACHE") or Path.home() / ".cache" / "fewstep").expanduser()


def no_progress(what: str, done: int, total: int) -> None:
    """Say nothing: the default of every ``build``."""


@dataclass(frozen=True)
class Item:
    """What is known about one picture."""

    key: str
    """Unique in its dataset: ``noto/1f600``."""
    concept: str
    """What the picture shows. Where drawings of one concept are near-copies, they are never on both sides of the split."""
    prompts: tuple[str, ...]
    """Training captions; the first is the plain name."""
    style: str | None = None
    """The style word its captions may end in, where the dataset has several hands."""
    label: int | None = None
    """Class index, for class-conditional models."""
    split: Split = "train"

    @staticmethod
    def from_json(line: str) -> Item:
        """Read one line of ``items.jsonl``."""
        fields = json.loads(line)
        return Item(**{**fields, "prompts": tuple(fields["prompts"])})


def split_of(group: str, heldout: float) -> Split:
    """Side of the split of everything that shares ``group``: a hash, so adding a group never moves another."""
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    return "heldout" if int.from_bytes(digest, "little") < heldout * 2**64 else "train"


def spread(n: int, total: int) -> list[int]:
    """``n`` whole numbers below ``total``, spread evenly; all of them where there are no more."""
    n = min(n, total)
    return [i * total // n for i in range(n)]


class Stored(NamedTuple):
    """Media of one size: where they lie."""

    file: str
    shape: tuple[int, ...]
    """Of one item, ``(C, *S)``."""
    first: int
    """Row of the first."""
    n: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset on disk, or some rows of one (`subset`). Media are read when asked for."""

    folder: Path
    info: Mapping[str, Any]
    """The contents of ``dataset.json``."""
    items: tuple[Item, ...]
    rows: np.ndarray
    """Where each item stands in ``media.npy``, or in the files of the buckets, one after the other."""

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Open a dataset folder. Sizes are checked; `verify` reads every byte."""
        folder = Path(folder)
        if not os.path.isfile(folder / "dataset.json"):  # false, not an error, where it may not even be looked for
            raise ValueError(f"{folder}: no dataset here; build one with `fewstep data emoji`, or pass another folder")
        with _damage_explained(folder):
            info = json.loads((folder / "dataset.json").read_text("utf-8"))
            version = BUCKETS_VERSION if "buckets" in info else VERSION
            if (info.get("format"), info.get("version")) != (FORMAT, version):
                raise ValueError(f"format {info.get('format')} {info.get('version')} instead of {FORMAT} {version}")
            lines = (folder / "items.jsonl").read_text("utf-8").split("\n")
            items = tuple(Item.from_json(line) for line in lines if line)
            dataset = cls(folder, info, items, np.arange(len(items)))
            for stored, media in zip(dataset._stored, dataset._media):
                expected = (stored.n, *stored.shape)
                if media.dtype != np.uint8 or media.shape != expected or len(items) != info["count"]:
                    raise ValueError(
                        f"{stored.file} is {media.dtype} {media.shape} and items.jsonl has {len(items)} lines, where "
                        f"dataset.json says uint8 {expected}"
                    )
        return dataset

    @cached_property
    def _stored(self) -> tuple[Stored, ...]:
        if "buckets" not in self.info:
            return (Stored("media.npy", tuple(self.info["shape"]), 0, int(self.info["count"])),)
        found, first = [], 0
        for bucket in self.info["buckets"]:
            found.append(Stored(bucket["media"], tuple(bucket["shape"]), first, int(bucket["count"])))
            first += found[-1].n
        return tuple(found)

    @cached_property
    def _media(self) -> tuple[np.ndarray, ...]:
        return tuple(np.load(self.folder / s.file, mmap_mode="r", allow_pickle=False) for s in self._stored)

    @cached_property
    def _bucket(self) -> np.ndarray:
        """In which bucket each item lies ``[N]``."""
        return np.searchsorted([s.first for s in self._stored], self.rows, side="right") - 1

    def verify(self, progress: Progress = no_progress) -> Dataset:
        """Read every byte against the hashes in ``dataset.json``; return self, or say what is damaged."""
        hashes, n = self.info.get("sha256"), int(self.info["count"])

        def tell(share: float) -> None:
            progress("pictures checked", round(share * n), n)

        for name in (*(s.file for s in self._stored), "items.jsonl"):
            found = _sha256(self.folder / name, tell if name == "media.npy" else no_share)
            if not isinstance(hashes, Mapping) or found != hashes.get(name):
                raise ValueError(
                    f"{self.folder}: {name} is not the file that was built, it was changed since; build the dataset again"
                )
        return self

    def __len__(self) -> int:
        return len(self.items)

    @property
    def name(self) -> str:
        """The dataset's name, such as ``emoji-64``."""
        return str(self.info["name"])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item, ``(C, *S)``. Raises ValueError where they have several."""
        if len(shapes := self.shapes) > 1:
            sizes = ", ".join(spoken(size) for _, *size in shapes)
            raise ValueError(
                f"{self.name} has pictures of {len(shapes)} sizes ({sizes}), where one is needed: build it without --buckets"
            )
        return shapes[0]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Every shape ``(C, *S)`` that items have, in the order of the buckets."""
        used = np.unique(self._bucket) if len(self) else [0]
        return tuple(self._stored[int(at)].shape for at in used)

    @property
    def buckets(self) -> tuple[Dataset, ...]:
        """The items of each shape; all together where they have one."""
        return tuple(self._picked(np.flatnonzero(self._bucket == at)) for at in np.unique(self._bucket))

    @property
    def licences(self) -> tuple[str, ...]:
        """The licences of the works it is made from, each once."""
        return tuple(dict.fromkeys(str(work["licence"]) for work in self.info["licences"]))

    @property
    def attribution(self) -> str:
        """The page that whatever is trained on it passes on."""
        path = self.folder / ATTRIBUTION
        return path.read_text("utf-8") if path.is_file() else ""

    def describe(self, styles: Sequence[str] = ()) -> str:
        """Name and number of training samples, for a model's card; ``styles`` are those that it was narrowed to."""
        return f"{self.name} ({', '.join(styles) or 'all styles'}), {len(self.subset('train'))} pictures"

    def media(self, indices: Sequence[int] | np.ndarray | Int[Tensor, " B"] | slice) -> Float[Tensor, "B C *S"]:
        """Media of the items at ``indices``, float32 in [-1, 1]. Raises ValueError where they are not all of one shape."""
        picked = np.asarray(indices, dtype=np.int64) if not isinstance(indices, slice) else indices
        at = np.unique(self._bucket[picked])
        if len(at) > 1:
            raise ValueError(
                f"{self.name}: these pictures have {len(at)} sizes, and a batch has one: read each bucket alone"
            )
        one = int(at[0]) if len(at) else 0
        rows = self.rows[picked] - self._stored[one].first
        return torch.from_numpy(self._media[one][rows]).float().div_(127.5).sub_(1)

    def subset(self, split: Split | None = None, where: Callable[[Item], bool] | None = None) -> Dataset:
        """The items of one split, or those that ``where`` keeps."""
        keep = [
            i for i, item in enumerate(self.items) if split in (None, item.split) and (where is None or where(item))
        ]
        return self._picked(np.array(keep, dtype=np.int64))

    def _picked(self, at: np.ndarray) -> Dataset:
        return Dataset(self.folder, self.info, tuple(self.items[i] for i in at), self.rows[at])

    @cached_property
    def concepts(self) -> tuple[str, ...]:
        """The concepts of these items, sorted, each once."""
        return tuple(sorted({item.concept for item in self.items}))

    @cached_property
    def concept_index(self) -> Int[Tensor, " N"]:
        """For each item, where its concept stands in `concepts`."""
        place = {concept: i for i, concept in enumerate(self.concepts)}
        return torch.tensor([place[item.concept] for item in self.items], dtype=torch.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of media, items and the rows in view: equal fingerprints mean equal training data."""
        hashes = self.info["sha256"]
        text = " ".join(hashes[name] for name in (*(s.file for s in self._stored), "items.jsonl")).encode()
        return hashlib.sha256(text + self.rows.astype("<i8").tobytes()).hexdigest()


@dataclass
class _Bucket:
    """Media of one shape that are being written, and their items."""

    file: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    items: list[Item] = field(default_factory=list)

    def header(self) -> None:
        """(Re)write the .npy header; numpy pads it so that a growing first axis never moves the data."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.items), *self.shape)}
        self.stream.seek(0)
        np.lib.format.write_array_header_1_0(self.stream, header)


class DatasetWriter:
    """Writes a dataset item by item; the folder appears, whole, when the ``with`` block ends without an error.

    ::

        with DatasetWriter(folder, name="emoji-64", shape=(3, 64, 64), ...) as writer:
            writer.add(pixels, Item(...))
        dataset = Dataset.open(folder)
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str,
        shape: Sequence[int],
        licences: Sequence[Mapping[str, str]],
        attribution: str,
        build: Mapping[str, Any],
        buckets: Sequence[Sequence[int]] = (),
    ) -> None:
        """``shape`` is that of every item, ``(C, *S)``; where they have several, ``buckets`` are those, each once."""
        self.folder = files.place_of(Path(folder))
        self.shape = tuple(shape)
        self._shapes = tuple(map(tuple, buckets)) or (self.shape,)
        self._in_buckets = bool(buckets)
        version = BUCKETS_VERSION if buckets else VERSION
        self._info = {"format": FORMAT, "version": version, "name": name, "size": self.shape[-1]}
        self._about = {"licences": [dict(licence) for licence in licences], "build": dict(build)}
        self._texts = {ATTRIBUTION: attribution}
        self._buckets: dict[tuple[int, ...], _Bucket] = {}
        self._keys: set[str] = set()

    def __enter__(self) -> DatasetWriter:
        with self._failure_explained():
            if others := files.foreign(self.folder, USUAL if _is_dataset(self.folder) else ()):
                what = "it is a file" if others == ["."] else others[0]
                raise ValueError(
                    f"{self.folder}: holds something that is not a dataset of fewstep's ({what}); "
                    "pass an empty or a new folder"
                )
            with ExitStack() as writing:
                self._temporary = writing.enter_context(files.replaced(self.folder, USUAL))
                for shape in self._shapes:
                    file = f"media-{spoken(shape[1:])}.npy" if self._in_buckets else "media.npy"
                    stream = writing.enter_context(open(self._temporary / file, "wb"))
                    self._buckets[shape] = _Bucket(file, stream, shape)
                    self._buckets[shape].header()
                self._writing = writing.pop_all()
        return self

    def add(self, pixels: np.ndarray, item: Item) -> None:
        """Append one item; ``pixels`` are uint8 ``[C, *S]`` of the shape, or of one of the buckets'."""
        assert pixels.dtype == np.uint8, pixels.dtype
        assert pixels.shape in self._buckets, f"{item.key}: {pixels.shape} in a dataset of {self._shapes}"
        bucket = self._buckets[pixels.shape]
        if item.key in self._keys:
            raise ValueError(f"{item.key}: two items have this key; give each its own")
        with self._failure_explained():
            bucket.stream.write(np.ascontiguousarray(pixels).tobytes())
        self._keys.add(item.key)
        bucket.items.append(item)

    def add_text(self, name: str, text: str) -> None:
        """Put a further text file, such as a report, into the folder."""
        self._texts[name] = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # of a stream that can't be flushed any more
                self._writing.__exit__(kind, error, trace)
            return
        with self._failure_explained(), self._writing:
            self._finish()

    def _finish(self) -> None:
        items = [item for bucket in self._buckets.values() for item in bucket.items]
        if not items:
            raise ValueError(f"{self.folder}: not one item to write; check the source and the filters")
        for bucket in self._buckets.values():
            bucket.header()
            bucket.stream.close()
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
        texts = {**self._texts, "items.jsonl": lines}
        for name, text in texts.items():
            (self._temporary / name).write_text(text, "utf-8", newline="\n")
        media = [bucket.file for bucket in self._buckets.values()]
        hashes = {name: _sha256(self._temporary / name) for name in (*media, "items.jsonl")}
        counts: dict[str, Any] = {"shape": self.shape, "count": len(items), "sha256": hashes}
        if self._in_buckets:
            counts["buckets"] = [
                {"media": b.file, "shape": b.shape, "count": len(b.items)} for b in self._buckets.values()
            ]
        info = json.dumps({**self._info, **counts, **self._about}, indent=2, ensure_ascii=False) + "\n"
        (self._temporary / "dataset.json").write_text(info, "utf-8")

    @contextmanager
    def _failure_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"{self.folder}: cannot write the dataset ({error.strerror or error}); "
                "free some disk space or pass a folder you may write to"
            ) from error


@contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: the dataset is damaged ({error}); build it again") from error


def _is_dataset(folder: Path) -> bool:
    """Did fewstep build a dataset here, in whichever version?"""
    try:
        facts = json.loads((folder / "dataset.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def no_share(share: float) -> None:
    """Tell nobody how far the reading of a file is."""


def _sha256(path: Path, told: Callable[[float], None] = no_share) -> str:
    """Hash of a file, read piece by piece; ``told`` hears which share of it is done."""
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with open(path, "rb") as stream:
        while piece := stream.read(2**24):
            digest.update(piece)
            done += len(piece)
            told(done / size)
    return digest.hexdigest()
