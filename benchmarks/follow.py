"""Does the result follow the hand? Drawings and a camera's figure are moved by known shifts, and the result's shift is measured.

    python benchmarks/follow.py [bundle] [seeds] [results file]

At each of the student's own times, in pixels of the studio's canvas of 512: how far the result moved for a drawing that moved
by 29 and by 58; the correlation, over the pixels, of the input's change with the result's; and how far the result lies from
what was given and from what the prompt alone gives (RMS, of full scale): following costs exactly that. A figure before a
camera, a head before a room that stands still, says the same, less the shift, for prompts that a camera could have. Figures go
into docs/results/follow.json, and the first seed's pictures into out/, to be looked at.

Intervals are bootstrapped over the pairs of prompt and seed: shifts of one pair are not independent.
"""

from __future__ import annotations

import functools
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from fewstep.bundle import locate
from fewstep.evaluation.bootstrap import bootstrap
from fewstep.evaluation.record import write_figures
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.modality.image import to_uint8
from fewstep.pixels import Pixels
from fewstep.rng import Rng

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "follow.json"
CANVAS = 512
SHIFTS = ((29, 0), (-29, 0), (0, 29), (0, -29), (58, 0), (-58, 0), (0, 58), (0, -58))
"""Of the drawing, in pixels of the canvas; the first four are 29 px long."""
FINE = 8
"""Parts of a pixel that shifts are measured in."""
CAMERA_PROMPTS = (
    "a smiling face", "a face", "a portrait of a person", "a person", "a man with a beard", "a woman", "a baby", "a clown",
    "an alien", "a robot", "a smiling cat", "the moon with a face", "a red heart",
)  # fmt: skip
Drawing = Callable[[float, float], Image.Image]


def _paper(paint: Callable[[ImageDraw.ImageDraw, Callable[[float, float], tuple[float, float]]], None]) -> Drawing:
    """A crude drawing on white paper, of its place's shift."""

    def drawn(dx: float, dy: float) -> Image.Image:
        image = Image.new("RGB", (CANVAS, CANVAS), "white")
        paint(ImageDraw.Draw(image), lambda x, y: (CANVAS * x + dx, CANVAS * y + dy))
        return image

    return drawn


def _round(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: str, tall: float = 1.0) -> None:
    x, y, r = *centre, CANVAS * radius
    pen.ellipse((x - r, y - tall * r, x + r, y + tall * r), colour)


def _heart(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    pen.polygon(
        [at(0.5 + 0.018 * 16 * math.sin(a) ** 3,
            0.48 - 0.018 * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a))) for a in turns],
        "#e5484d",
    )  # fmt: skip


def _cat(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    for side in (-1, 1):
        pen.polygon([at(0.5 + side * 0.24, 0.2), at(0.5 + side * 0.06, 0.34), at(0.5 + side * 0.25, 0.45)], "#f5a524")
    _round(pen, at(0.5, 0.52), 0.26, "#f5a524")
    for side in (-1, 1):
        _round(pen, at(0.5 + side * 0.1, 0.48), 0.04, "#1d1b22")
    pen.line([at(0.42, 0.63), at(0.5, 0.67), at(0.58, 0.63)], "#1d1b22", 12)


def _fish(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    _round(pen, at(0.46, 0.5), 0.24, "#3b82f6", tall=0.62)
    pen.polygon([at(0.64, 0.5), at(0.84, 0.34), at(0.84, 0.66)], "#3b82f6")
    _round(pen, at(0.34, 0.46), 0.03, "#1d1b22")


def _moon(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    _round(pen, at(0.48, 0.5), 0.28, "#ffd84d")
    _round(pen, at(0.6, 0.44), 0.24, "white")


def _tree(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    pen.rectangle((*at(0.45, 0.55), *at(0.55, 0.82)), "#8b5e3c")
    _round(pen, at(0.5, 0.4), 0.22, "#46a758")


def _house(pen: ImageDraw.ImageDraw, at: Callable[[float, float], tuple[float, float]]) -> None:
    pen.rectangle((*at(0.3, 0.45), *at(0.7, 0.78)), "#f5a524")
    pen.polygon([at(0.24, 0.46), at(0.5, 0.22), at(0.76, 0.46)], "#e5484d")
    pen.rectangle((*at(0.45, 0.58), *at(0.55, 0.78)), "#8b5e3c")


DRAWINGS: dict[str, Drawing] = {
    "a red heart": _paper(_heart), "a smiling cat": _paper(_cat), "a blue fish": _paper(_fish),
    "the moon with a face": _paper(_moon), "a green tree": _paper(_tree), "a house": _paper(_house),
}  # fmt: skip


@functools.cache
def _room() -> Image.Image:
    """A blurred room: what stands still behind the figure."""
    coarse = np.random.default_rng(7).integers(120, 170, (8, 8, 1), np.uint8).repeat(3, -1) + np.array([8, 3, 0], np.uint8)
    return Image.fromarray(coarse).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)


def camera(dx: float, dy: float) -> Image.Image:
    """A head with hair, eyes and a mouth on shoulders, before a room; all but the room is moved."""
    image = _room().copy()
    pen = ImageDraw.Draw(image)

    def at(x: float, y: float) -> tuple[float, float]:
        return CANVAS * x + dx, CANVAS * y + dy

    _round(pen, at(0.5, 1.02), 0.34, "#3c5a78", tall=0.8)
    pen.rectangle((*at(0.43, 0.6), *at(0.57, 0.8)), "#c8906e")
    _round(pen, at(0.5, 0.4), 0.24, "#3a2a22", tall=1.1)
    _round(pen, at(0.5, 0.44), 0.2, "#d8a07c", tall=1.22)
    for side in (-1, 1):
        _round(pen, at(0.5 + side * 0.08, 0.41), 0.025, "#ffffff")
        _round(pen, at(0.5 + side * 0.08, 0.41), 0.014, "#222222")
    pen.arc((*at(0.42, 0.46), *at(0.58, 0.6)), 20, 160, "#8c3b38", 9)
    return image.filter(ImageFilter.GaussianBlur(2))


def small(image: Image.Image, size: int) -> Pixels:
    """As the page sends it: at the model's size."""
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def moved(before: Pixels, after: Pixels) -> tuple[float, float]:
    """By how much ``after`` is shifted against ``before``, in pixels: the peak of their cross-correlation, in `FINE` parts."""
    a, b = (np.pad(x.astype(float).mean(-1) - x[:2].mean(), (0, x.shape[0])) for x in (before, after))
    n, big = len(a), FINE * len(a)
    spectrum = np.fft.fftshift(np.fft.fft2(b) * np.conj(np.fft.fft2(a)))
    fine = np.zeros((big, big), complex)
    start = (big - n) // 2
    fine[start : start + n, start : start + n] = spectrum
    found = np.real(np.fft.ifft2(np.fft.ifftshift(fine)))
    y, x = np.unravel_index(found.argmax(), found.shape)
    signed = [(int(v) if v < big // 2 else int(v) - big) / FINE for v in (x, y)]
    return signed[0], signed[1]


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's, over the pixels; 0 where one of them does not change at all."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    size = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size else 0.0


def change(a: Pixels, b: Pixels) -> NDArray[np.float64]:
    """Of each pixel, its channels' mean."""
    return np.abs(a.astype(float) - b.astype(float)).mean(-1)


def rms(a: Pixels, b: Pixels) -> float:
    return float(np.sqrt(((a.astype(float) - b.astype(float)) ** 2).mean())) / 255


@dataclass(frozen=True)
class Found:
    """Of one pair of prompt and seed, over its shifts."""

    followed_29: float
    """Share of a shift of 29 px that the result made along the shift's way."""
    followed_58: float
    correlation: float
    from_given: float
    from_prompt: float


class Bench:
    """A pipeline, asked as the studio asks it: all its steps, one seed, a picture."""

    def __init__(self, name: str) -> None:
        self.pipeline = Pipeline.open(locate(name))
        self.steps = max(self.pipeline.card.steps)
        self.size = self.pipeline.card.native_size[0]
        self.times = sorted(self.pipeline.times(self.steps))

    @torch.inference_mode()
    def draw(self, prompt: str, seed: int, given: Sequence[Pixels] = (), strength: float = 1.0) -> list[Pixels]:
        n = max(1, len(given))
        request = Request([prompt] * n, [seed] * n, self.steps)
        if given:
            media = torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).float() / 127.5 - 1
            request = Request([prompt] * n, [seed] * n, self.steps, image=media, strength=strength)
        return list(to_uint8(self.pipeline(request)).permute(0, 2, 3, 1).numpy())

    def pair(self, prompt: str, seed: int, drawing: Drawing, strength: float) -> tuple[Found, list[Pixels]]:
        inputs = [small(drawing(0, 0), self.size), *(small(drawing(*shift), self.size) for shift in SHIFTS)]
        results = self.draw(prompt, seed, inputs, strength)
        scale = CANVAS / self.size
        shares: dict[int, list[float]] = {29: [], 58: []}
        for (dx, dy), result in zip(SHIFTS, results[1:]):
            x, y = moved(results[0], result) if drawing is not camera else (math.nan, math.nan)
            length = abs(dx) + abs(dy)
            shares[length].append(scale * (x * dx + y * dy) / length**2)
        alike = [correlation(change(inputs[0], a), change(results[0], b)) for a, b in zip(inputs[1:], results[1:])]
        away = rms(inputs[0], results[0]), rms(self.draw(prompt, seed)[0], results[0])
        return Found(*(float(np.mean(v)) for v in (shares[29], shares[58], alike)), *away), [*inputs[:2], *results[:2]]


def told(values: Sequence[float], rng: Rng) -> tuple[float, str]:
    """Mean with its interval of 95%."""
    v = torch.tensor(values, dtype=torch.float64)
    at = bootstrap(lambda w: float((w * v).sum() / w.sum()), len(v), rng, resamples=1000)
    return at.value, f"{at.value:.2f} [{at.low:.2f}, {at.high:.2f}]"


COLUMNS = {
    "followed_29": ("shift of 29 px, px", 29), "followed_58": ("of 58 px, px", 58), "correlation": ("correlation", 1),
    "from_given": ("from what was given", 1), "from_prompt": ("from the prompt's own", 1),
}  # fmt: skip


def table(title: str, found: dict[str, list[Found]], columns: Sequence[str]) -> dict[str, float]:
    """Print a table of named rows; its figures."""
    print(f"\n| {title} | {' | '.join(COLUMNS[name][0] for name in columns)} |\n|--:|{'--:|' * len(columns)}")
    figures: dict[str, float] = {}
    for row, every in found.items():
        cells = []
        for name in columns:
            value, text = told([COLUMNS[name][1] * getattr(one, name) for one in every], Rng.of(0, title, name))
            figures[f"{title}, {row}, {name}"] = round(value, 4)
            cells.append(text)
        print(f"| {row} | {' | '.join(cells)} |", flush=True)
    return figures


def sheet(pictures: Sequence[Sequence[Pixels]], path: Path, across: int) -> None:
    """Given, given moved, and the two results below; a line a time."""
    tiles = [np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)], 0) for four in map(list, pictures)]
    lines = [np.concatenate(tiles[i : i + across], 1) for i in range(0, len(tiles), across)]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(lines, 0)).save(path)


def main() -> None:
    torch.set_num_threads(1)
    name, seeds = (sys.argv[1:] or ["emoji-64"])[0], int((sys.argv[2:] or ["8"])[0])
    bench = Bench(name)
    start = small(DRAWINGS["a house"](0, 0), bench.size)
    assert moved(start, small(DRAWINGS["a house"](24, 0), bench.size)) == (3 * bench.size / 64, 0), "the ruler is straight"
    figures: dict[str, float] = {"seeds": seeds, "drawings": len(DRAWINGS), "camera_prompts": len(CAMERA_PROMPTS)}
    everything = tuple(COLUMNS)
    kinds = {"drawing": DRAWINGS, "camera": dict.fromkeys(CAMERA_PROMPTS, camera)}
    for kind, rows in kinds.items():
        asked = [(prompt, seed) for prompt in rows for seed in range(seeds)]
        made = {t: [bench.pair(prompt, seed, rows[prompt], t) for prompt, seed in asked] for t in bench.times}
        columns = everything if kind == "drawing" else everything[2:]
        figures |= table(f"{kind}, from time", {f"{t:g}": [found for found, _ in every] for t, every in made.items()}, columns)
        sheet([shown for every in made.values() for _, shown in every[::seeds]], ROOT / "out" / f"follow_{kind}.png", len(rows))
        if kind == "camera":
            for t in bench.times[:2]:
                by_prompt: dict[str, list[Found]] = {}
                for (prompt, _), (found, _) in zip(asked, made[t]):
                    by_prompt.setdefault(prompt, []).append(found)
                figures |= table(f"camera from time {t:g}", by_prompt, columns)
    path = Path(sys.argv[3]) if sys.argv[3:] else RESULTS
    write_figures(path, figures, shlex.join(["python", "benchmarks/follow.py", *sys.argv[1:3]]))


if __name__ == "__main__":
    main()
