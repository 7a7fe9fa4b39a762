"""docs/few_step_models.md, from the table of models that are known: ``python tests/known_table.py > docs/few_step_models.md``."""

from __future__ import annotations

from fewstep.pretrained import KNOWN, Known

HEAD = """# Few-step models of others

You have SDXL-Turbo, a latent consistency model or another model that draws in a few steps already. fewstep draws, serves
and measures it as it comes: no training, no card to write.

<!-- not run: it needs a model of several gigabytes -->
```bash
fewstep serve --model path/to/sdxl-turbo
```

A folder is recognised by what its configs say. Where configs leave it open, its name has to say so, too: the folder's name,
the name of a hub's snapshot, `_name_or_path`, or the title of its page. A name alone never decides, and a folder that fits
two models is an error. fewstep tells what decided; `fewstep info FOLDER` shows it.

| model | `--as` | recognised by its configs | by name | steps | drawn as | guidance told | licence, if its folder says none |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
FOOT = """
Every model is drawn without classifier-free guidance. A latent consistency model's network is *told* a guidance scale as an
input.

What stock diffusers draws with the scheduler of the column "drawn as", fewstep draws from the same noises: a test holds
every UNet of this table to it, on tiny weights. Two things differ. `TCDScheduler` leaves the noise of its table's first
timestep in the picture, and fewstep does not. Its random part (`eta`) is not drawn. Hyper-SD's one-step UNet starts at
timestep 800, which fewstep does not draw: it is not recognised. A model that no family of [models](models.md) takes is
known here, and refused where it is loaded.

## When nothing is recognised

A folder that is not recognised is taken for a teacher, with a warning. Say what it is once:

<!-- not run: it needs a model of several gigabytes -->
```bash
fewstep adopt path/to/model --as lightning --steps 4
```

The card is written beside the folder, as `NAME.student_card.json`: the folder stays as it is. It goes into fewstep's cache
where nothing can be written there, and for a hub's snapshot. `--as teacher` takes back a recognition.

## A LoRA that makes a model few-step

<!-- not run: it needs a model of several gigabytes -->
```bash
fewstep adopt path/to/sdxl --lora lcm_lora.safetensors --as lcm-lora --steps 4 --licence openrail++ --out models/sdxl-lcm
```

LCM-LoRA, Lightning's and Hyper-SD's LoRAs are merged into a copy of the base, which gets the scheduler of the table and a
card with both licences. Stock diffusers draws it as it stands. A LoRA of the UNet alone is taken, in diffusers' or kohya's
layout.

This page is written by `python tests/known_table.py > docs/few_step_models.md`; a test holds it to the code.
"""


def row(model: Known) -> str:
    """A model's line."""
    steps = ", ".join(map(str, model.steps)) or "its name says"
    told = f"{model.embedded_guidance:g}" if model.embedded_guidance else "none"
    name = "" if model.alone else f"`{model.named}`".replace("|", "\\|")
    known = (model.title, f"`{model.key}`", model.config, name or "not needed")
    cells = (*known, steps, model.scheduler, told, model.licence or "-")
    return f"| {' | '.join(cells)} |\n"


def page() -> str:
    """The whole page."""
    return HEAD + "".join(map(row, KNOWN)) + FOOT


if __name__ == "__main__":
    print(page(), end="")
