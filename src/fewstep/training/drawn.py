"""What the evaluations of a run drew: a sheet of pictures each, beside the journal, bounded in number and in bytes.

The pictures are those that an evaluation measures anyway, from fixed prompts and fixed noise: nothing is drawn for a sheet, so no
random number and no weight of the training is touched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import files
from ..modality.image import to_uint8
from ..tensors import Media

FOLDER = "evaluations"
"""Beside the journal."""
SHOWN = 16
"""Pictures on a sheet."""
SIDE = 96
"""Pixels of a picture's longer side on a sheet, at most; smaller ones stay as they are."""
MOST = 64
"""Sheets of a phase on disk. One more, and the one goes without which the others still lie closest together."""
NAMES = "[0-9]*.webp"


def sheet(media: Media, columns: int = 4) -> Image.Image | None:
    """The first `SHOWN` pictures ``[B, 1 or 3, H, W]`` in a grid; of video ``[B, 3, T, H, W]`` the middle frames. None for what
    is no picture, as sound, and for numbers that are not finite."""
    media = media[:SHOWN].detach().float().cpu()
    if media.dim() == 5:
        media = media[:, :, media.shape[2] // 2]
    if media.dim() != 4 or media.shape[1] not in (1, 3) or not len(media) or not media.isfinite().all():
        return None
    if max(media.shape[2:]) > SIDE:
        share = SIDE / max(media.shape[2:])
        size = [max(1, round(side * share)) for side in media.shape[2:]]
        media = torch.nn.functional.interpolate(media, size=size, mode="bilinear", antialias=True)
    pixels = to_uint8(media.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).numpy()
    (many, high, wide, _), gap = pixels.shape, 2
    columns = min(columns, many)
    rows = -(-many // columns)
    canvas = np.full((rows * (high + gap) - gap, columns * (wide + gap) - gap, 3), 128, np.uint8)
    for i, one in enumerate(pixels):
        top, left = (i // columns) * (high + gap), (i % columns) * (wide + gap)
        canvas[top : top + high, left : left + wide] = one
    return Image.fromarray(canvas)


class Drawn:
    """The sheets of one phase. Its folder lists them in ``.fewstep``: no other file in it is ever removed."""

    def __init__(self, phase: Path) -> None:
        self.folder = phase / FOLDER

    def sheets(self) -> dict[int, Path]:
        """Every sheet by its step, in order."""
        found = {int(path.stem): path for path in self.folder.glob(NAMES) if path.stem.isdecimal()}
        return {step: found[step] for step in sorted(found) if found[step].name in self._own()}

    def keep(self, step: int, image: Image.Image) -> None:
        """Write the sheet of a step. Raises OSError where it cannot be written, or where somebody else's file stands there."""
        path = self.folder / f"{step:06d}.webp"
        if path.exists() and path.name not in self._own():
            raise FileExistsError(f"{path} is not fewstep's own: move it elsewhere")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._list([*self._own(), path.name])  # first: what is killed in between leaves no file that nobody owns
        with files.whole(path) as draft:
            image.save(draft, "webp", quality=85)
        while len(sheets := self.sheets()) > MOST:
            steps = list(sheets)
            gaps = [after - before for before, after in zip(steps, steps[2:])]
            self._remove([sheets[steps[1 + gaps.index(min(gaps))]]])

    def cut(self, step: int) -> None:
        """Forget what was drawn after a step: these evaluations are made again."""
        self._remove([path for at, path in self.sheets().items() if at > step])

    def forget(self) -> None:
        """Remove every sheet, and the folder where nothing else is left in it."""
        if self.folder.is_dir() and self._own():
            files.remove(self.folder, ())

    def _own(self) -> list[str]:
        try:
            own = json.loads((self.folder / files.MARK).read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in own if isinstance(name, str)] if isinstance(own, list) else []

    def _list(self, own: Sequence[str]) -> None:
        (self.folder / files.MARK).write_text(json.dumps(sorted(set(own)), indent=0), "utf-8")

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
        if paths:
            gone = {path.name for path in paths}
            self._list([name for name in self._own() if name not in gone])
