"""Draw with the shipped student: one step, two and four, beside its teacher's fifty.

    python examples/draw.py "a red heart" "a blue house"

Writes one sheet, out/draw.png; its pictures carry the invisible watermark, the file signed content credentials.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from fewstep import bundle, sheet
from fewstep.inference.pipeline import Pipeline
from fewstep.modality.image import to_pil

PROMPTS = ["a red heart", "a blue house", "a cat", "pizza"]


def pictures(pipeline: Pipeline, prompts: list[str], steps: int) -> list[Image.Image]:
    """One picture a prompt, all from seed 7."""
    media = pipeline.draw(prompts, steps=steps, seed=[7] * len(prompts))  # [B, 3, 64, 64] in [-1, 1]
    return [to_pil(picture) for picture in media]


def main() -> None:
    """Draw, and say where the sheet is."""
    prompts = sys.argv[1:] or PROMPTS
    student, teacher = (Pipeline.open(bundle.locate(name)) for name in ("emoji-64", "emoji-64-teacher"))
    rows = [(f"student, {n} step{'s' * (n > 1)}", "no guidance", pictures(student, prompts, n)) for n in (1, 2, 4)]
    rows.append(("teacher, 50 steps", f"guidance {teacher.card.guidance_scale}", pictures(teacher, prompts, 50)))
    print(sheet.save(sheet.sheet(rows, prompts), Path("out/draw.png"), student.card, seed=7))


if __name__ == "__main__":
    main()
