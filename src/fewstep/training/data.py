"""Training batches as a pure function of the step number: encoded once, shuffled by seed, nothing to save on resume."""

from __future__ import annotations

import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.dataset import FAMILY as SOURCES
from ..data.dataset import Dataset, Progress, cache_dir, spread
from ..files import whole
from ..parts.codec import Codec
from ..parts.conditioner import Conditioner, UnreadWarning, summary
from ..rng import fold
from ..tensors import Batch, Conditioning, Latents, Media, unfinite
from .log import Stopped
from .run import stop_flag

SMALL = 2**30
"""Bytes of encoded samples and prompts that may be kept in a GPU's memory."""


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of n samples that depends on nothing but (seed, epoch)."""
    return np.random.Generator(np.random.PCG64(fold(seed, "epoch", epoch))).permutation(n)


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Which samples step number ``step`` sees: every sample once an epoch, whatever the batch size."""
    if n < 1:
        raise ValueError("the training set is empty: build it first (fewstep data)")
    first = step * batch_size
    positions = np.arange(first, first + batch_size)
    orders = {e: epoch_order(n, seed, int(e)) for e in np.unique(positions // n)}
    return np.array([orders[int(p // n)][p % n] for p in positions])


@dataclass(frozen=True)
class PromptTable:
    """Every distinct training prompt, encoded once (float16 on disk and in memory)."""

    tokens: Tensor | None
    pooled: Tensor | None
    labels: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def encode(cls, prompts: Sequence[str], conditioner: Conditioner, progress: Progress | None = None) -> PromptTable:
        """Encode in chunks; the text encoder is not needed afterwards."""
        parts: list[Conditioning] = []
        for i in range(0, len(prompts), 64):
            parts.append(conditioner(prompts[i : i + 64]))
            if progress:
                progress("prompts", min(i + 64, len(prompts)), len(prompts))

        def gather(name: str) -> Tensor | None:
            values = [getattr(p, name) for p in parts]
            if values[0] is None:
                return None
            table = torch.cat(values).cpu()
            return table.half() if table.is_floating_point() else table

        return cls(**{field.name: gather(field.name) for field in fields(cls)})

    @property
    def present(self) -> dict[str, Tensor]:
        """The tensors that there are, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def to(self, device: torch.device | str) -> PromptTable:
        """The table on a device."""
        return replace(self, **{name: value.to(device) for name, value in self.present.items()})

    def __getitem__(self, rows: Tensor) -> Conditioning:
        chosen = {name: value[rows] for name, value in self.present.items()}
        return Conditioning(**{name: v.float() if v.is_floating_point() else v for name, v in chosen.items()})


@dataclass(frozen=True)
class TrainingSet:
    """Encoded samples and the prompts that each may be asked for with. Called with a step number, it gives a Batch."""

    latents: Latents
    prompts: PromptTable
    choices: Sequence[Sequence[int]]
    """For each sample, the rows of the prompt table that describe it."""
    null: Conditioning
    """One row: the null condition."""
    batch_size: int
    seed: int = 0
    media: Callable[[np.ndarray], Media] | None = None
    """Reads the pixels of samples by index; None where no part of the method looks at them."""
    concepts: Tensor | None = None
    """Which concept each sample shows ``[N]``, as a number; None where it is not known."""
    image: Tensor | None = None
    """Embedding of each sample's picture ``[N, I]``: the discriminator's c_img."""
    noise: Latents | None = None
    """The start of the teacher's trajectory that ends in each sample (noise-to-sample pairs)."""
    pairs: TrainingSet | None = None
    """Noise-to-sample pairs that come with every batch."""
    group: int = 1
    """Samples of one condition that stand side by side in a batch: what methods need that compare a group with itself."""

    def __len__(self) -> int:
        return len(self.latents)

    def near(self, device: torch.device | str) -> TrainingSet:
        """All that is encoded kept on the device, where it is small, so that no step waits for it. Pixels stay on disk."""
        optional = {name: getattr(self, name) for name in ("image", "noise") if getattr(self, name) is not None}
        tables = [self.latents, *self.prompts.present.values(), *optional.values()]
        if sum(t.nbytes for t in tables) > SMALL:
            return self
        moved = {name: value.to(device) for name, value in optional.items()}
        return replace(
            self, latents=self.latents.to(device), prompts=self.prompts.to(device), null=self.null.to(device), **moved
        )

    def __call__(self, step: int) -> Batch:
        """The batch of this step. Raises ValueError where groups do not fill it."""
        if self.batch_size % self.group:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be filled with groups of {self.group}: choose a multiple of {self.group}"
            )
        seed = fold(self.seed, "prompt", step)
        rows = batch_indices(len(self), self.batch_size // self.group, self.seed, step)
        batch = self.rows(rows, seed) if self.group == 1 else self._grouped(rows, seed)
        return batch if self.pairs is None else replace(batch, pairs=self.pairs(step))

    def grouped(self, group: int) -> TrainingSet:
        """The same samples, ``group`` of one condition side by side in every batch; in the pairs that come with it, too."""
        return replace(self, group=group, pairs=None if self.pairs is None else self.pairs.grouped(group))

    def having(self, image: Tensor | None, media: bool, pairs: TrainingSet | None) -> TrainingSet:
        """The same samples with the embeddings ``image`` of their pictures, without their pixels unless ``media``, with pairs,
        which are grouped as they are."""
        own = None if pairs is None else pairs.grouped(self.group)
        return replace(self, image=image, media=self.media if media else None, pairs=own)

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """Every sample once, in order, at most ``size`` at a time."""
        return chunks(len(self), size)

    def spread(self, n: int, size: int) -> Iterator[np.ndarray]:
        """``n`` samples from all over, at most ``size`` at a time."""
        return spread_chunks(n, len(self), size)

    def alike(self, n: int) -> np.ndarray:
        """``n`` samples of one size from all over."""
        return np.array(spread(n, len(self)))

    @cached_property
    def _described(self) -> dict[int, list[int]]:
        """The samples that each row of the prompt table describes."""
        found = defaultdict[int, list[int]](list)
        for sample, prompts in enumerate(self.choices):
            for prompt in prompts:
                found[int(prompt)].append(sample)
        return found

    def _grouped(self, first: np.ndarray, seed: int) -> Batch:
        """For each sample a group under one of its prompts: itself and others that the prompt describes, again from the start
        where there are too few."""
        draw = np.random.Generator(np.random.PCG64(seed))
        samples, prompts = [], []
        for leader in first:
            own = self.choices[int(leader)]
            prompt = int(own[int(draw.integers(len(own)))])
            others = [i for i in draw.permutation(self._described[prompt]) if i != leader]
            samples += [i for _, i in zip(range(self.group), cycle([leader, *others]))]
            prompts += [prompt] * self.group
        return self.rows(np.array(samples), prompts=prompts)

    def rows(self, indices: np.ndarray, prompt_seed: int = 0, prompts: Sequence[int] | None = None) -> Batch:
        """The batch of these samples, asked for with ``prompts``, rows of the prompt table. None draws one of its own for each
        sample, from ``prompt_seed``."""
        draw = np.random.Generator(np.random.PCG64(prompt_seed))
        device = self.latents.device
        if prompts is None:
            own = [self.choices[int(i)] for i in indices]
            prompts = [rows[int(draw.integers(len(rows)))] for rows in own]
        chosen = torch.tensor(prompts).to(device)
        at = torch.from_numpy(indices).to(device)
        cond = self.prompts[chosen]
        if self.image is not None:
            cond = replace(cond, image=self.image[at].float())
        null = self.null[torch.zeros_like(at)]
        if self.image is not None:
            null = replace(null, image=torch.zeros_like(self.image[at]).float())
        return Batch(
            x0=self.latents[at].float(),
            cond=cond,
            null=null,
            media=None if self.media is None else self.media(indices),
            concepts=None if self.concepts is None else self.concepts[torch.from_numpy(indices)].to(device),
            noise=None if self.noise is None else self.noise[at].float(),
        )


def chunks(n: int, size: int) -> Iterator[np.ndarray]:
    """Index ranges of at most ``size``."""
    for i in range(0, n, size):
        yield np.arange(i, min(i + size, n))


def spread_chunks(n: int, total: int, size: int) -> Iterator[np.ndarray]:
    """``n`` rows of ``total``, spread evenly (a dataset lies sorted: by vendor, by class), at most ``size`` at a time."""
    rows = np.array(spread(n, total))
    for at in chunks(len(rows), size):
        yield rows[at]


@torch.no_grad()
def encode_all(
    n: int, media: Callable[[np.ndarray], Media], codec: Codec, progress: Progress | None = None, size: int = 64
) -> Latents:
    """Latents of every sample, float16."""
    parts = []
    for rows in chunks(n, size):
        parts.append(codec.encode(media(rows)).half().cpu())
        if not parts[-1].isfinite().all():
            raise ValueError(
                f"the VAE makes NaN or infinity of one of the pictures {rows[0]} to {rows[-1]}, or more than float16 holds: "
                "take another teacher, or fetch its VAE again"
            )
        if progress:
            progress("latents", int(rows[-1]) + 1, n)
    return torch.cat(parts)


def is_built(name: str) -> bool:
    """Whether a dataset stands in that folder, or was built under that name."""
    return any((folder / "dataset.json").is_file() for folder in (Path(name), cache_dir() / "data" / name))


def data_needs(name: str) -> tuple[str, ...]:
    """The modules that building the dataset of that name will take, where it is not built yet."""
    if is_built(name) or name not in SOURCES.files:
        return ()
    options: Any = getattr(SOURCES.load(name), "Options", None)
    return options().needs() if hasattr(options, "needs") else ()


def open_dataset(name: str, styles: tuple[str, ...] = ()) -> Dataset:
    """A built dataset, by folder or by the name it was built under; ``styles`` keeps only these style words.

    Raises ValueError with the command that builds it.
    """
    if not name:
        raise ValueError(
            "--data is empty: give the folder of a dataset, or the name of one that `fewstep data` has built"
        )
    folder = Path(name)
    if not (folder / "dataset.json").is_file():
        folder = cache_dir() / "data" / name
    if not (folder / "dataset.json").is_file() and Path(name).is_dir():
        raise ValueError(
            f"{name} is a folder, but no dataset: build one of its pictures with `fewstep data folder --source {name} --out "
            "FOLDER`, and give that"
        )
    if not (folder / "dataset.json").is_file():
        raise ValueError(f"there is no dataset {name!r}: build it with `fewstep data {name}`, or give its folder")
    dataset = Dataset.open(folder)
    if not styles:
        return dataset
    chosen = dataset.subset(where=lambda item: item.style in styles)
    if not len(chosen):
        known = sorted({item.style for item in dataset.items if item.style})
        has = f"has the styles {', '.join(known)}" if known else "has no styles at all: leave out --styles"
        raise ValueError(f"no picture of {dataset.name} has the style {', '.join(styles)}: the dataset {has}")
    return chosen


def prompt_table(prompts: list[str], text: Conditioner, cache: Path, progress: Progress | None = None) -> PromptTable:
    """Encoded prompts, from the cache if the same weights read the same tokens before (about 10 ms a prompt otherwise)."""
    key = text.key(prompts)
    path = cache / f"prompts-{key[:16]}.safetensors"
    if key and key_of(path) == key:
        return PromptTable(**{"tokens": None, "pooled": None, **load_file(path)})
    table = PromptTable.encode(prompts, text, progress)
    if unfinite({name: value for name, value in table.present.items() if value.is_floating_point()}):
        raise ValueError(
            "the text encoder makes NaN or infinity of the prompts, or more than float16 holds: take another teacher, or "
            "fetch its text encoder again"
        )
    if key:
        save_whole(table.present, path, {"key": key})
    return table


def tell_unread(text: Conditioner, prompts: Sequence[str]) -> None:
    """An UnreadWarning says how many of the prompts the text encoder does not read whole, if there are any."""
    if said := summary(text.unread(prompts)):
        warnings.warn(said, UnreadWarning, stacklevel=2)


def save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all, whoever else is writing the same one."""
    with whole(path) as draft:
        save_file(tensors, draft, metadata)


def wrote(path: Path) -> bool:
    """Is this a file that ``save_whole`` wrote with a key, be it damaged since? Its header says so, in its first bytes."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 2**20)))
        return "key" in header["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def key_of(path: Path) -> str:
    """What the tensors in a file were made from, as ``save_whole`` was told; empty if there is none, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("key", "")
    except (FileNotFoundError, SafetensorError):
        return ""


def in_parts(
    draw: Callable[[np.ndarray], Tensor],
    n: int,
    size: int,
    path: Path,
    key: str,
    what: str,
    progress: Progress | None = None,
    every_seconds: float = 60.0,
    now: Callable[[], float] = time.monotonic,
) -> Tensor:
    """``draw(rows)`` of n rows, ``size`` at a time, one below the other; what was interrupted goes on, to the same bits.

    Until all are there, they are written to ``path`` every so many seconds, and when a stop is asked for: then Stopped is
    raised. ``key`` stands for all that they depend on but ``size``: parts under another key are drawn again.
    """
    own = {"key": f"{key}|{size}"}
    drawn = [load_file(path)["drawn"]] if key_of(path) == own["key"] else []
    saved, done = now(), len(drawn[0]) if drawn else 0
    with stop_flag() as asked:
        for rows in chunks(n, size):
            if rows[0] < done:
                continue
            drawn.append(draw(rows))
            if progress:
                progress(what, int(rows[-1]) + 1, n)
            if (stop := asked()) or now() - saved > every_seconds:
                drawn, saved = [torch.cat(drawn)], now()
                save_whole({"drawn": drawn[0]}, path, own)
            if stop:
                raise Stopped(f"stopped after {rows[-1] + 1} of {n} {what}; they are in {path}: continue with --resume")
    return torch.cat(drawn)


def training_set(
    dataset: Dataset,
    codec: Codec,
    text: Conditioner,
    cache: Path,
    batch_size: int,
    seed: int = 0,
    media: bool = False,
    names_only: bool = False,
    progress: Progress | None = None,
) -> TrainingSet:
    """The train split, encoded: latents in memory, every distinct prompt once. ``media`` also hands out the pixels.

    Half of the time a sample is asked for by its first prompt, its plain name; else by any of its prompts.
    """
    train = dataset.subset("train")
    prompts, choices = captions_of(train, names_only)
    tell_unread(text, prompts)
    return TrainingSet(
        latents=latents_of(train, codec, progress),
        prompts=prompt_table(prompts, text, cache, progress),
        choices=choices,
        null=text.null(1).to("cpu"),
        batch_size=batch_size,
        seed=seed,
        media=reader_of(train) if media else None,
        concepts=train.concept_index,
    )


def captions_of(train: Dataset, names_only: bool) -> tuple[list[str], list[list[int]]]:
    """Every distinct prompt, and for each sample the rows of those that it may be asked for with."""
    captions = [item.prompts[:1] if names_only else item.prompts for item in train.items]
    prompts = sorted({p for own in captions for p in own})
    row = {p: i for i, p in enumerate(prompts)}
    return prompts, [[row[own[0]]] * len(own) + [row[p] for p in own] for own in captions]


def reader_of(train: Dataset) -> Callable[[np.ndarray], Media]:
    """Reads the pixels of samples by index."""
    return lambda rows: train.media(torch.from_numpy(rows))


def latents_of(train: Dataset, codec: Codec, progress: Progress | None = None) -> Latents:
    """Latents of pictures of one size, a megapixel at a time: encoders of large pictures are hungry."""
    at_once = max(1, min(64, 2**20 // int(np.prod(train.shape[1:]))))
    return encode_all(len(train), reader_of(train), codec, progress, at_once)
