"""Real pictures for ``fewstep check``: which captions of a dataset are drawn, and what they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..data.dataset import Dataset, Item, spread
from ..inference.pipeline import Pipeline
from ..parts.conditioner import ClassConditioner
from ..sizes import spoken
from ..text import counted
from ._drawing import drawn_shape
from .suite import of_size

MOST = 64
"""Real pictures of a caption that are looked at, spread evenly over all of them."""
LEAST = 2
"""Captions that there have to be: with one alone nothing tells what belongs to the caption."""


@dataclass(frozen=True)
class RealData:
    """Captions, and real pictures of each."""

    name: str
    prompts: tuple[str, ...]
    media: tuple[Float[Tensor, "_ C *S"], ...]
    """Of each prompt, in [-1, 1]."""

    @property
    def by_prompt(self) -> bool:
        """Whether every caption has several, so that pictures are held against each other caption by caption."""
        return min(map(len, self.media)) > 1

    @property
    def pictures(self) -> int:
        """How many there are in all."""
        return sum(map(len, self.media))

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, "pictures": self.pictures, "by_prompt": self.by_prompt}

    @property
    def explained(self) -> str:
        """What pictures are held against, in a sentence."""
        how = "caption by caption" if self.by_prompt else "all as one set, for some captions have one alone"
        return f"The data are {self.pictures} real pictures of these prompts in {self.name}, held against {how}."


def chosen(dataset: Dataset, pipeline: Pipeline, n: int, given: Sequence[str] = ()) -> RealData:
    """``n`` captions, spread evenly, or those that are ``given``, and their pictures of the train split.

    A picture's caption is its plain name, the first one. Where enough captions have two pictures or more, others are left out:
    so pictures are held against each other caption by caption. Raises ValueError, before anything is drawn, for data of another
    size, without captions, or of too few; and for a given prompt that no picture has.
    """
    train = of_size(dataset, pipeline.card.native_size).subset("train")
    _check_shape(train, pipeline)
    conditioner = pipeline.model.conditioner
    names = conditioner.names if isinstance(conditioner, ClassConditioner) else ()
    rows: dict[str, list[int]] = {}
    for i, item in enumerate(train.items):
        if caption := caption_of(item, names):
            rows.setdefault(caption, []).append(i)
    if not rows:
        raise ValueError(
            f"the {len(train)} pictures of {dataset.name} have no captions: a model cannot be asked for them; give data with some"
        )
    if unknown := next((prompt for prompt in given if prompt not in rows), None):
        raise ValueError(
            f"{dataset.name} has no picture of {unknown!r}: leave out --prompts, and its own captions are drawn, or --data"
        )
    several = [prompt for prompt, at in rows.items() if len(at) > 1]
    every = list(dict.fromkeys(given)) or (several if len(several) >= min(n, len(rows)) else list(rows))
    if len(every) < LEAST:
        raise ValueError(
            f"one caption alone tells nothing of what belongs to it ({every[0]!r}, in {dataset.name}): take {LEAST} or more"
        )
    prompts = [every[i] for i in spread(n, len(every))]
    if len(prompts) < LEAST:
        raise ValueError(f"--n {n} leaves one caption to draw: give --n {LEAST} or more with --data")
    media = tuple(train.media([rows[p][i] for i in spread(MOST, len(rows[p]))]) for p in prompts)
    return RealData(dataset.name, tuple(prompts), media)


def caption_of(item: Item, names: Sequence[str]) -> str:
    """What a model is asked for to draw this: the plain caption, or of a model of classes called ``names``, which does not know
    that word, the name of its class. "" where there is none."""
    plain = item.prompts[0].strip() if item.prompts else ""
    if plain in names or item.label is None or not 0 <= item.label < len(names):
        return plain
    return names[item.label]


def _check_shape(train: Dataset, pipeline: Pipeline) -> None:
    if not len(train):
        raise ValueError(f"{train.name} has no pictures of the train split: there is nothing to hold a model against")
    channels, *size = drawn_shape(pipeline)
    if (channels, *size) != train.shape:
        has, *sides = train.shape
        raise ValueError(
            f"the pictures of {train.name} are {spoken(sides)} in {counted(has, 'channel')}, and the model draws "
            f"{spoken(size)} in {counted(channels, 'channel')}: give data of that size"
        )
