"""Does a newcomer recognise what was drawn? A blind reading of a hundred pictures, in three calls.

    python benchmarks/recognition.py --out out/recognition                  # draws numbered.png; nothing on it tells the prompts
    python benchmarks/recognition.py --out out/recognition --answers answers.txt    # shows each answer beside its prompt
    python benchmarks/recognition.py --out out/recognition --answers answers.txt --verdicts verdicts.txt

``answers.txt`` holds a line ``number: what the reader saw`` for each picture, written before the second call.
``verdicts.txt`` holds a line ``number: right``, ``near`` (its kind: another fruit, another building) or ``wrong``. The third
call writes ``docs/results/recognition.json`` and the sheet with prompts, ``docs/pictures/teacher100.webp``.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw, ImageFont

from fewstep.bundle import Card, locate
from fewstep.inference.pipeline import Pipeline
from fewstep.modality.image import to_pil
from fewstep.sheet import CELLS, fitted, save
from fewstep.training.data import open_dataset

VERDICTS = ("right", "near", "wrong")
CELL, COLUMNS = 104, 10


@dataclass(frozen=True)
class Options:
    """What is read."""

    model: str = "emoji-64-teacher"
    """A shipped bundle's name, or a bundle's folder."""
    steps: int = 50
    """Steps."""
    data: str = "emoji"
    """Dataset whose training concepts are drawn."""
    n: int = 100
    """Pictures."""
    seed: int = 2026
    """Of the noises and of the order on the sheet."""
    out: Path = Path("out/recognition")
    """Folder of the blind sheet."""
    answers: Path | None = None
    """What the reader saw."""
    verdicts: Path | None = None
    """How near that was."""
    reader: str = "one reader"
    """Who read."""
    results: Path = Path("docs/results/recognition.json")
    """Result file."""
    sheet: Path = Path("docs/pictures/teacher100.webp")
    """The sheet with its prompts."""


def prompts(options: Options) -> list[str]:
    """Plain names of concepts spread evenly over the training split, in the middle between those that ``evaluate`` draws."""
    train = open_dataset(options.data).subset("train")
    names = list(dict.fromkeys(item.prompts[0] for item in train.items))
    chosen = [names[(2 * i + 1) * len(names) // (2 * options.n)] for i in range(options.n)]
    return [chosen[i] for i in np.random.default_rng(options.seed).permutation(options.n)]


def grid(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Ten in a row, a caption under each."""
    line = 18
    high = -(-len(pictures) // COLUMNS)
    canvas = Image.new("RGB", (COLUMNS * (CELL + 8) + 8, high * (CELL + line + 6) + 8), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    canvas.info[CELLS] = []
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        x, y = 8 + i % COLUMNS * (CELL + 8), 8 + i // COLUMNS * (CELL + line + 6)
        canvas.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        canvas.info[CELLS].append((x, y, x + CELL, y + CELL))
        draw.text((x + CELL / 2, y + CELL + 12), fitted(draw, caption, font, CELL), (60, 62, 70), font=font, anchor="ms")
    return canvas


def read_lines(path: Path, n: int) -> list[str]:
    """The part behind ``number:`` of every line, in the order of the numbers. ValueError unless all are there."""
    found = dict(line.split(":", 1) for line in path.read_text().splitlines() if line.strip())
    missing = [str(i + 1) for i in range(n) if str(i + 1) not in found]
    if missing:
        raise ValueError(f"{path} lacks the numbers {', '.join(missing)}")
    return [found[str(i + 1)].strip() for i in range(n)]


def wilson(k: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 1927)."""
    p, d = k / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / d, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return middle - half, middle + half


def drawn(options: Options) -> list[Image.Image]:
    """One picture a prompt."""
    pipeline, asked = Pipeline.open(locate(options.model)), prompts(options)
    pictures = []
    for i in range(0, options.n, 20):
        media = pipeline.draw(asked[i : i + 20], options.steps, options.seed + i)
        pictures += [to_pil(one) for one in media]
    return pictures


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.answers is None:
        numbered = grid(drawn(options), [str(i + 1) for i in range(options.n)])
        print(save(numbered, options.out / "numbered.png", Card.read(locate(options.model)), options.seed))
        return
    asked, answers = prompts(options), read_lines(options.answers, options.n)
    if options.verdicts is None:
        for i, (prompt, answer) in enumerate(zip(asked, answers)):
            print(f"{i + 1}: {prompt} | {answer}")
        return
    verdicts = read_lines(options.verdicts, options.n)
    if unknown := set(verdicts) - set(VERDICTS):
        raise ValueError(f"unknown verdicts {sorted(unknown)}: use {', '.join(VERDICTS)}")
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    low, high = wilson(counts["right"], options.n)
    facts = {
        "model": options.model, "steps": options.steps, "n": options.n, "seed": options.seed, "reader": options.reader,
        **counts, "right_low": low, "right_high": high,
        "command": shlex.join(["python", "benchmarks/recognition.py", *sys.argv[1:]]),
        "pictures": [{"prompt": p, "answer": a, "verdict": v} for p, a, v in zip(asked, answers, verdicts)],
    }  # fmt: skip
    options.results.write_text(json.dumps(facts, indent=1) + "\n")
    grid(drawn(options), asked).save(options.sheet, quality=88)
    print(counts, f"right {counts['right'] / options.n:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main(tyro.cli(Options))
