"""Training samples of several sizes: every batch comes from one bucket, and is a pure function of its number.

Over e epochs bucket b, which holds n_b samples, gives floor(e n_b / B) batches of B: what is left at the end of an epoch is not
dropped, it is the beginning of the bucket's next batch. So each sample is seen once an epoch, but for fewer than B of a bucket,
whose turn comes first in the next. Within an epoch the buckets come in an order that depends on (seed, epoch) alone, and within a
bucket the samples in one that depends on (seed, bucket, epoch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Dataset, Progress, spread
from ..parts.codec import Codec
from ..parts.conditioner import Conditioner
from ..rng import fold
from ..tensors import Batch, Media
from .data import (
    TrainingSet,
    captions_of,
    chunks,
    latents_of,
    prompt_table,
    reader_of,
    tell_unread,
    training_set,
)


def before(counts: Sequence[int], batch_size: int, epoch: int) -> list[int]:
    """Batches that each bucket has given by the beginning of an epoch; ``counts`` are its samples."""
    return [epoch * n // batch_size for n in counts]


def epoch_of(counts: Sequence[int], batch_size: int, number: int) -> int:
    """The epoch that a batch belongs to."""
    low, high = 0, 1
    while sum(before(counts, batch_size, high)) <= number:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(before(counts, batch_size, middle)) <= number else (low, middle)
    return low


@lru_cache(maxsize=4)
def _order(counts: tuple[int, ...], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The bucket of every batch of an epoch."""
    own = np.subtract(before(counts, batch_size, epoch + 1), before(counts, batch_size, epoch))
    order = np.repeat(np.arange(len(counts)), own)
    return np.random.Generator(np.random.PCG64(fold(seed, "buckets", epoch))).permutation(order)


def bucket_of(counts: Sequence[int], batch_size: int, seed: int, number: int) -> tuple[int, int]:
    """Which bucket a batch comes from, and the how manieth of that bucket it is, both from 0."""
    epoch = epoch_of(counts, batch_size, number)
    first = before(counts, batch_size, epoch)
    order = _order(tuple(counts), batch_size, seed, epoch)
    at = number - sum(first)
    bucket = int(order[at])
    return bucket, first[bucket] + int((order[:at] == bucket).sum())


@dataclass(frozen=True)
class BucketedSet:
    """Training sets of one size each, as one. Samples are numbered through, bucket after bucket."""

    sets: tuple[TrainingSet, ...]
    """They share prompts, batch size and null condition."""
    seed: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @cached_property
    def firsts(self) -> list[int]:
        """The number of each bucket's first sample, and that behind the last."""
        return [0, *np.cumsum([len(one) for one in self.sets]).tolist()]

    def __call__(self, step: int) -> Batch:
        """The batch of this number."""
        one = self.sets[0]
        bucket, own = bucket_of([len(s) for s in self.sets], max(1, one.batch_size // one.group), self.seed, step)
        return self.sets[bucket](own)

    def near(self, device: torch.device | str) -> BucketedSet:
        """As `TrainingSet.near`, each bucket that is small enough; the prompts, which all share, are moved once."""
        first = self.sets[0].near(device)
        return replace(self, sets=(first, *(replace(s, prompts=first.prompts).near(device) for s in self.sets[1:])))

    def grouped(self, group: int) -> BucketedSet:
        """As `TrainingSet.grouped`: a group is of one size."""
        return replace(self, sets=tuple(s.grouped(group) for s in self.sets))

    def having(self, image: Tensor | None, media: bool, pairs: BucketedSet | TrainingSet | None) -> BucketedSet:
        """As `TrainingSet.having`; ``image`` has a row a sample, and ``pairs`` are in the same buckets."""
        own = [None] * len(self.sets) if not isinstance(pairs, BucketedSet) else pairs.sets
        rows = [None if image is None else image[i:j] for i, j in zip(self.firsts, self.firsts[1:])]
        return replace(self, sets=tuple(s.having(r, media, p) for s, r, p in zip(self.sets, rows, own)))

    def _own(self, indices: np.ndarray) -> tuple[TrainingSet, np.ndarray]:
        at = np.unique(np.searchsorted(self.firsts, indices, side="right") - 1)
        if len(at) != 1:
            raise ValueError("samples of several sizes have no batch: ask for those of one bucket")
        return self.sets[at[0]], indices - self.firsts[at[0]]

    def rows(self, indices: np.ndarray, prompt_seed: int = 0) -> Batch:
        """As `TrainingSet.rows`, of samples of one bucket."""
        own, at = self._own(indices)
        return own.rows(at, prompt_seed)

    @property
    def media(self) -> Callable[[np.ndarray], Media] | None:
        """Reads the pixels of samples of one bucket; None where there are none."""
        if self.sets[0].media is None:
            return None

        def read(indices: np.ndarray) -> Media:
            own, at = self._own(indices)
            assert own.media is not None
            return own.media(at)

        return read

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """Every sample once, in order, in pieces of one bucket."""
        for first, one in zip(self.firsts, self.sets):
            yield from (first + at for at in chunks(len(one), size))

    def spread(self, n: int, size: int) -> Iterator[np.ndarray]:
        """``n`` samples from all over, in pieces of one bucket, at most ``size`` at a time."""
        rows = np.array(spread(n, len(self)))
        for low, high in zip(self.firsts, self.firsts[1:]):
            own = rows[(low <= rows) & (rows < high)]
            yield from (own[at] for at in chunks(len(own), size))

    def alike(self, n: int) -> np.ndarray:
        """``n`` samples of one size from all over the largest bucket."""
        largest = int(np.argmax([len(one) for one in self.sets]))
        return self.firsts[largest] + np.array(spread(n, len(self.sets[largest])))


Samples = TrainingSet | BucketedSet
"""Training samples of one size, or in buckets."""


def training_samples(
    dataset: Dataset,
    codec: Codec,
    text: Conditioner,
    cache: Path,
    batch_size: int,
    seed: int = 0,
    media: bool = False,
    names_only: bool = False,
    progress: Progress | None = None,
) -> Samples:
    """As `training_set`, of a dataset in buckets too."""
    train = dataset.subset("train")
    if len(train.shapes) < 2:
        return training_set(dataset, codec, text, cache, batch_size, seed, media, names_only, progress)
    prompts, choices = captions_of(train, names_only)
    tell_unread(text, prompts)
    parts = train.buckets
    latents = [latents_of(part, codec, progress) for part in parts]
    table, null = prompt_table(prompts, text, cache, progress), text.null(1).to("cpu")
    sets, first = [], 0
    for part, encoded in zip(parts, latents):  # the items of a bucket stand together
        own = slice(first, first + len(part))
        read, concepts = reader_of(part) if media else None, train.concept_index[own]
        bucket = fold(seed, "bucket", *part.shape)
        sets.append(TrainingSet(encoded, table, choices[own], null, batch_size, bucket, read, concepts))
        first += len(part)
    return BucketedSet(tuple(sets), seed)
