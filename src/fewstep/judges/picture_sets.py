"""What is judged and what it is held against: pictures as files, with their prompts. Models are drawn here, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from .. import files
from ..arena.pictures import Contender, files_in, of_folders, opened
from ..arena.plan import Plan
from ..bundle import Card, card_file, locate
from ..data.dataset import Dataset, Progress
from ..evaluation.evaluate import EvaluateOptions, draw_all, fingerprint
from ..evaluation.suite import of_size
from ..inference.pipeline import Pipeline, Request
from ..modality.image import to_pil, to_uint8
from ..ranges import Placement
from ..tensors import Media

AT_ONCE = 8
"""Prompts that are drawn, with all their seeds, before their pictures are written."""


@dataclass(frozen=True)
class PictureSet:
    """One row: a model's pictures, prompt by prompt."""

    model: str
    steps: int
    """0 where nobody says how they were drawn."""
    pictures: tuple[Path, ...]
    prompts: tuple[str, ...]
    """One a picture; empty words where there is none."""
    guidance: float = 1.0

    @property
    def clusters(self) -> torch.Tensor:
        """Which pictures share a prompt; without prompts every picture stands for itself."""
        if not any(self.prompts):
            return torch.arange(len(self.pictures))
        names = {text: i for i, text in enumerate(dict.fromkeys(self.prompts))}
        return torch.tensor([names[text] for text in self.prompts])

    @property
    def seeds(self) -> int:
        """Pictures a prompt; 0 where they are not equally many."""
        counts = torch.bincount(self.clusters)
        return int(counts[0]) if bool((counts == counts[0]).all()) else 0

    @property
    def hashed(self) -> str:
        """Hash of the prompts, as `evaluate` makes it; empty without any."""
        once = list(dict.fromkeys(self.prompts))
        return hashlib.sha256("\n".join(once).encode()).hexdigest()[:12] if any(once) else ""


class Real(NamedTuple):
    """The pictures that drawn ones are held against."""

    pictures: tuple[Path, ...]
    concepts: torch.Tensor
    """What each of them shows."""
    fingerprint: str


def of_arena(folder: Path) -> list[PictureSet]:
    """The models of an arena's run."""
    plan, found = Plan.read(folder), []
    for name, pictures in plan.models:
        steps = name.rpartition(",")[2]
        known = steps.isascii() and steps.isdigit()
        at = tuple(folder / file for file in pictures)  # an absolute one stays as it is
        found.append(
            PictureSet(name.rpartition(",")[0] if known else name, int(steps) if known else 0, at, plan.prompts)
        )
    return found


def of_pictures(given: Sequence[Contender], prompts: Sequence[str]) -> list[PictureSet]:
    """Folders of pictures, of the same names in each. Their prompts are the n-th of ``prompts`` by name, or the names."""
    entries, texts = of_folders(given, prompts)
    return [
        PictureSet(_bare(one), one.steps or 0, tuple(map(Path, entry.pictures)), tuple(texts))
        for one, entry in zip(given, entries)
    ]


def _bare(one: Contender) -> str:
    """The name without the steps, which records have a field for."""
    return one.name.removesuffix(f",{one.steps}") if one.steps else one.name


def of_model(
    one: Contender, placement: Placement, prompts: Sequence[str], seeds: Sequence[int], keep: Path,
    progress: Progress | None = None,
) -> PictureSet:  # fmt: skip
    """Draw a model as `fewstep evaluate` does, from the same noises; pictures that are there already are not drawn again."""
    pipeline, steps = opened(one, placement, None)
    card = pipeline.card
    guidance = 1.0 if card.role == "student" else card.guidance_scale
    o = EvaluateOptions(seeds=tuple(seeds))
    told = repr((card.fingerprint, steps, tuple(prompts), tuple(seeds), str(pipeline.dtype)))
    folder = keep / hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    size = (3, *card.native_size)

    def draw(texts: list[str], numbers: list[int]) -> Media:
        return pipeline(Request(texts, numbers, steps, cond=pipeline.encode(texts))).float().cpu()

    pictures = [folder / f"{i:05}-{seed}.png" for i in range(len(prompts)) for seed in seeds]
    for start in range(0, len(prompts), AT_ONCE):
        here = pictures[start * len(seeds) : (start + AT_ONCE) * len(seeds)]
        if not all(path.is_file() for path in here):
            media = draw_all(draw, prompts[start : start + AT_ONCE], o, size)
            write_all(media, here)
        if progress:
            progress(f"drawing with {one.name}", start + len(here) // len(seeds), len(prompts))
    texts = tuple(text for text in prompts for _ in seeds)
    return PictureSet(_bare(one), steps, tuple(pictures), texts, guidance)


def write_all(media: Media, at: Sequence[Path]) -> None:
    """Media in [-1, 1] as PNG files, each whole or not at all; pixels alone."""
    for picture, path in zip(media, at):
        with files.whole(path) as draft:
            to_pil(picture).save(draft, "png", compress_level=1)


def real_pictures(folder: Path) -> Real:
    """A folder of real pictures. Raises ValueError where it holds none, or one that cannot be read."""
    found = files_in(folder)
    if len(found) < 2:
        raise ValueError(f"{folder} holds {len(found)} pictures: give a folder of two or more, or a data set's name")
    digest = hashlib.sha256()
    for path in found:
        try:
            with Image.open(path) as picture:
                picture.verify()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no picture that can be read ({error}): leave it out") from None
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Real(tuple(found), torch.arange(len(found)), digest.hexdigest()[:12])


def of_dataset(dataset: Dataset, size: Sequence[int] | None, keep: Path, progress: Progress | None = None) -> Real:
    """The train split of a data set as files, written once; hashed as `fewstep evaluate` hashes it."""
    train = (dataset if size is None else of_size(dataset, size)).subset("train")
    media = train.media(slice(None))
    hashed = fingerprint(to_uint8(media), train.concept_index.long())
    pictures = [keep / f"real-{hashed}" / f"{i:06}.png" for i in range(len(media))]
    for i, path in enumerate(pictures):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_all(media[i : i + 1], [path])
        if progress and i % 100 == 0:
            progress("writing real pictures", i, len(pictures))
    return Real(tuple(pictures), train.concept_index.long(), hashed)


def card_of(model: Contender) -> Card:
    """What a model says of itself; it is opened only where no card lies in its folder."""
    folder = locate(model.place)
    file = card_file(folder)
    return Card.read_file(file) if file else Pipeline.open(folder).card
