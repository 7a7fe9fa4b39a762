"""The pictures of an arena: drawn beforehand, every model from the same noises, or taken from folders; and as they are shown."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from .. import bundle
from .. import provenance as marks
from ..data.dataset import Progress
from ..inference.pipeline import Pipeline, Request
from ..ranges import Placement
from ..text import counted
from .plan import CATCHES, Entry, Kind

AT_ONCE = 8
"""Pictures drawn in one call; which others there are changes none of them."""
FOLDER = "pictures"
CONTEST = "contest.json"
"""What ``fewstep contest`` writes; its folder stands for all its students."""
READ = (".png", ".jpg", ".jpeg", ".webp")
SHOWN = 768
"""Longer side, in pixels, that all pictures are shown with: their own size would tell the models apart."""


class Contender(NamedTuple):
    """A model as it was named on the command line."""

    name: str
    place: str
    steps: int | None

    @property
    def is_folder_of_pictures(self) -> bool:
        """Whether its pictures are there already."""
        return bool(files_in(Path(self.place)))


def contender(word: str) -> Contender:
    """``[NAME=]MODEL[,STEPS]``: a bundle by name or folder, or a folder of pictures. Raises ValueError for another form."""
    found = re.fullmatch(r"(?:(?P<name>[^=/\\]+)=)?(?P<place>[^=]+?)(?:,(?P<steps>[1-9][0-9]{0,3}))?", word)
    if found is None:
        raise ValueError(f"{word!r} names no model: write MODEL, MODEL,STEPS or NAME=MODEL,STEPS, as emoji-64,4")
    steps = int(found["steps"]) if found["steps"] else None
    usual = Path(found["place"]).name + (f",{steps}" if steps else "")
    return Contender(found["name"] or usual, found["place"], steps)


def opened_up(words: Sequence[str]) -> list[str]:
    """The words with the folder of a contest, ``RUN`` or ``RUN,STEPS``, replaced by its students: one of every entry.

    Raises ValueError for a contest whose file cannot be read, or that has no student yet.
    """
    found: list[str] = []
    for word in words:
        place, _, steps = word.partition(",")
        if not (file := Path(place) / CONTEST).is_file():
            found.append(word)
            continue
        try:
            runs = json.loads(file.read_text("utf-8"))["runs"]
            names = {(run["entry"], run["start"], run["budget"]): run["bundle"] for run in reversed(runs)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({error}): give the contest's command once more") from None
        if not names:
            raise ValueError(f"{place} has no student yet: go on with the contest first")
        several = len({key[1:] for key in names}) > 1
        for (entry, start, budget), bundle_ in reversed(names.items()):
            name = f"{entry} {start} {budget}" if several else entry
            found.append(f"{name}={place}/{bundle_}" + (f",{steps}" if steps else ""))
    return found


def files_in(folder: Path) -> list[Path]:
    """The pictures that lie in a folder itself, by name; none where a model lies there."""
    if not folder.is_dir() or (folder / "model_index.json").is_file():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in READ and path.is_file())


def of_folders(given: Sequence[Contender], prompts: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Entries of folders of pictures with the same names in each, and the items' prompts: the n-th of ``prompts``, or the names.

    Raises ValueError where the folders do not hold the same names, or a file is no picture.
    """
    held = {one.name: {path.stem: path for path in files_in(Path(one.place))} for one in given}
    first, *others = held.items()
    for name, pictures in others:
        if odd := sorted(set(pictures) ^ set(first[1])):
            raise ValueError(
                f"the pictures of {first[0]} and {name} do not go together ({odd[0]!r} is in one of them alone): "
                f"give the picture of one prompt the same name in every folder"
            )
    stems = sorted(first[1])
    if prompts and len(prompts) != len(stems):
        raise ValueError(
            f"there are {counted(len(stems), 'picture')} and {counted(len(prompts), 'prompt')}: give one prompt for each picture"
        )
    for pictures in held.values():
        for path in pictures.values():
            try:
                with Image.open(path) as picture:
                    picture.verify()
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(
                    f"{path} is no picture that can be read ({error}): leave it out of all folders"
                ) from None
    entries = [Entry(name, tuple(str(held[name][stem].resolve()) for stem in stems)) for name in held]
    return entries, list(prompts) or [re.sub(r"[-_ ]+", " ", re.sub(r"[-_ ]*\d+$", "", stem)).strip() for stem in stems]


def opened(one: Contender, placement: Placement, steps: int | None) -> tuple[Pipeline, int]:
    """A model and the steps it draws in: its own, or those of all; a student's 1 and a teacher's most by itself."""
    pipeline = Pipeline.open(bundle.locate(one.place), placement.device, placement.dtype)
    usual = 1 if pipeline.card.role == "student" else max(pipeline.card.steps)
    chosen = one.steps or steps or usual
    pipeline.card.check_use(chosen)
    return pipeline, chosen


def places(pipeline: Pipeline, steps: int, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[str, ...]:
    """Where a model's pictures lie, below the run's folder: a name is a hash of all that its picture hangs on.

    So a run goes on where it was stopped, and no picture of another model is ever taken for this one's.
    """
    told = [repr((pipeline.card.fingerprint, steps, p, seed, str(pipeline.dtype))) for p, seed in zip(prompts, seeds)]
    return tuple(f"{FOLDER}/{hashlib.blake2b(one.encode(), digest_size=12).hexdigest()}.png" for one in told)


def draw(
    pipeline: Pipeline, steps: int, prompts: Sequence[str], seeds: Sequence[int], out: Path, name: str, report: Progress
) -> None:
    """A picture of every prompt with its seed, below ``out``; those that are there already are not drawn again.

    They carry the watermark and credentials as every picture of fewstep does; the page shows pixels alone.
    """
    files = places(pipeline, steps, prompts, seeds)
    facts = marks.GenerationFacts(pipeline.card.name, pipeline.card.fingerprint, steps)
    left = [i for i, file in enumerate(files) if not (out / file).is_file()]
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for first in range(0, len(left), AT_ONCE):
        report(f"drawing with {name}", len(files) - len(left) + first, len(files))
        batch = left[first : first + AT_ONCE]
        media = pipeline(Request([prompts[i] for i in batch], [seeds[i] for i in batch], steps)).float().cpu()
        for i, picture in zip(batch, media):
            marks.write(out / files[i], picture, facts)
    report(f"drawing with {name}", len(files), len(files))


def shown(path: Path, kind: Kind, second: bool) -> bytes:
    """A picture as PNG, pixels alone, its longer side `SHOWN`; the second of a damaged pair is damaged.

    Raises ValueError for a file that is gone or is no picture.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the picture {path.name} cannot be read ({error}): draw it again") from None
    if kind in CATCHES and CATCHES[kind] == "looks" and second:
        picture = damaged(picture)
    longest = max(picture.size)
    wide, high = (max(1, round(side * SHOWN / longest)) for side in picture.size)
    whole = SHOWN % longest == 0 and longest <= 128
    sampling = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    data = io.BytesIO()
    picture.resize((wide, high), sampling).save(data, "png", compress_level=1)
    return data.getvalue()


def damaged(picture: Image.Image) -> Image.Image:
    """So blurred and so noisy that nobody who looks takes it for the better one; always the same."""
    blurred = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 12))
    half = (max(1, picture.height // 2), max(1, picture.width // 2), 3)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, half, np.uint8)).resize(picture.size)
    return Image.blend(blurred, noise, 0.5)
