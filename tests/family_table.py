"""docs/models.md, from the families and what the suite holds them to: ``python tests/family_table.py > docs/models.md``."""

from __future__ import annotations

from collections.abc import Mapping

from fewstep.pretrained.families import ModelFamily, all_families
from tiny import Tiny, tiny

HEAD = """# Models

fewstep opens a diffusers folder by its *family*: one file of `src/fewstep/pretrained/families/`, found by what the folder's
configs say. A folder that no family takes is refused by name; CONTRIBUTING.md in the repository tells how one is added.

A tick stands for a test on a tiny model of the family's real classes, against the stock pipeline in diffusers
(`tests/pretrained/test_families.py`, single precision unless said):

- **same x0**: for the same noised latents, time, prompt and guidance the estimate is the stock scheduler's, within 1e-5 of its
  largest value: one and three prompts, guidance 1, 3 and 7.5, six times down to the last, and guided draws of 1, 5 and 25 steps.
- **student in stock**: a student is drawn by stock diffusers, in a process that never imports fewstep, as fewstep draws it, at
  every step count of its card.
- **image to image**: the same, from a picture.
- **LoRA**: the student's LoRA alone on the stock teacher is the student. **freeze**: `--student freeze` trains.
- **sizes**: another size than the native one, and not a square.

"""
FOOT = """
*Other people's tiny weights are random: the table says that the numbers are the same, not that pictures are good.*

This page is written by `python tests/family_table.py > docs/models.md`; a test holds it to the families.
"""
COLUMNS = ("family", "models", "stock pipeline", "same x0", "student in stock", "image to image", "LoRA", "freeze", "sizes")


def row(name: str, family: ModelFamily, one: Tiny, notes: list[str]) -> list[str]:
    """A family's line; what it cannot do gets a note."""

    def tick(check: str, what: str = "✓") -> str:
        if check not in one.without:
            return what
        note = one.without[check].replace("\\", "")
        if note not in notes:
            notes.append(note)
        return f"no [{notes.index(note) + 1}]"

    precisions = ", ".join(tick(d, d) for d in ("fp32", "bf16", "fp16"))
    return [
        f"`{name}`",
        family.title,
        family.pipeline.removesuffix("Pipeline"),
        "✓",
        precisions,
        tick("image to image"),
        tick("lora"),
        tick("freeze"),
        "one" if one.other is None else "✓",
    ]


def page(families: Mapping[str, ModelFamily], tinies: Mapping[str, Tiny]) -> str:
    """The whole page."""
    notes: list[str] = []
    rows = [row(name, families[name], tinies[name], notes) for name in sorted(families)]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    said = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))
    return f"{HEAD}{table}\n" + (f"\nNotes:\n\n{said}\n" if notes else "") + FOOT


if __name__ == "__main__":
    print(page(all_families(), tiny()), end="")
