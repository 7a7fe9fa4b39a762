"""``fewstep adopt``: a card for a few-step model of somebody else's, kept beside its folder, which is left as it is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import bundle, pretrained
from .bundle import CARD, Card
from .diffusion.sampler import trailing_times
from .pretrained import Configs, Known, Recognised, VaeCodec, consistency_times, loras

TEACHER = "teacher"
"""What ``--as`` is given for a model of many steps."""
SAMPLERS = {"EulerAncestralDiscreteScheduler": "ancestral", "LCMScheduler": "renoise"}
"""The sampler that a folder's scheduler stands for, where that is not ``ddim``."""


def adopt(
    folder: Path,
    key: str = "",
    steps: Sequence[int] = (),
    sampler: str = "",
    guidance_scale: float | None = None,
    licence: str = "",
) -> tuple[Card, Path]:
    """Write the card of somebody else's model, and say where it is. What is not given is recognised (`pretrained.KNOWN`).

    ``guidance_scale`` is what the network is told, if it is told one. Raises ValueError with the fix for a folder that has a
    card of its own, for one that nothing is known of, and for what no model can be drawn with.
    """
    if (folder / CARD).is_file():
        raise ValueError(f"{folder} has a card of its own: there is nothing to adopt")
    size = pretrained.native_size(folder)
    if key == TEACHER:
        if steps or sampler or guidance_scale is not None:
            raise ValueError(
                "a teacher is drawn in any number of steps: leave out --steps, --sampler and --guidance-scale"
            )
        card = bundle.teacher_card(folder, size)
    else:
        found = meant(folder, key, tuple(sorted(set(steps))))
        if sampler:
            found = replace(found, model=replace(found.model, sampler=sampler))
        if guidance_scale is not None:
            found = replace(found, model=replace(found.model, embedded_guidance=told(folder, guidance_scale)))
        card = bundle.recognised(folder, found, size)
    if licence:
        card = replace(card, licence=licence)
    return card, write(card, folder)


def merge(
    folder: Path, lora: Path, out: Path, key: str, steps: Sequence[int] = (), weight: float = 1.0, licence: str = ""
) -> Card:
    """Write a bundle to ``out``: a base with a few-step LoRA merged in, and the scheduler that it is drawn with.

    ``licence`` is the LoRA's. Raises ValueError with the fix, before any weight is read, where nothing is to be merged.
    """
    if key in ("", TEACHER):
        raise ValueError("what a LoRA makes of a model it does not say: give --as, such as lcm-lora, with --lora")
    if "at timesteps" in pretrained.known(key).scheduler:
        raise ValueError(
            f"stock pipelines space {key}'s times otherwise unless they are told, so a bundle cannot promise it: load the "
            "LoRA in diffusers, save the pipeline, and adopt that folder"
        )
    bundle.check_place(out)
    loras.loras_of([f"{lora}:{weight!r}"], "--lora")
    found = meant(folder, key, tuple(sorted(set(steps))), aloud=False)
    model = pretrained.load(folder)
    loras.merge(model.denoiser.network, model.family, [f"{lora}:{weight!r}"], "--lora", whole=True)
    base = pretrained.read_terms(folder).licence or "not stated"
    card = replace(
        bundle.recognised(folder, found, model.native_size),
        name=out.name,
        teacher=folder.name,
        licence=f"base: {base}; LoRA: {licence or found.model.licence or 'not stated'}",
        recognised=f"{found.model.title}: {lora.name} on {folder.name}, {weight:g} times",
    )
    vae = model.codec.vae if isinstance(model.codec, VaeCodec) else None
    return bundle.save(
        out,
        card,
        family=model.family,
        network=model.denoiser.network,
        vae=vae,
        scheduler=scheduler_of(found.model, folder),
        text=folder,
        origin=folder,
    )


def scheduler_of(model: Known, folder: Path) -> Any:
    """The scheduler that a known model is drawn with, on a folder's own noise."""
    import diffusers

    name = model.scheduler.split()[0].rstrip(",")
    spaced = {"timestep_spacing": "trailing"} if "trailing" in model.scheduler else {}
    return getattr(diffusers, name).from_config(dict(Configs.read(folder).scheduler), **spaced)


def meant(folder: Path, key: str, steps: tuple[int, ...], aloud: bool = True) -> Recognised:
    """The model that is meant by a key and step counts, or by the folder itself."""
    configs = Configs.read(folder)
    if key:
        model = pretrained.known(key)
        if aloud and not model.fits(configs):
            warnings.warn(f"the configs of {folder} do not say {model.config}: adopted on your word", stacklevel=3)
        found: Recognised | None = Recognised(model, model.steps, "your word")
    else:
        found = pretrained.recognise(folder)
        if found is None and steps:
            found = Recognised(by_scheduler(configs), steps, "your word, and the folder's scheduler")
    if found is None or not (steps or found.steps):
        keys = ", ".join((*(model.key for model in pretrained.KNOWN), TEACHER))
        raise ValueError(f"for how many steps {folder} was made is not known: give --steps, or --as with one of {keys}")
    counts = steps or found.steps
    for n in counts:
        if not 1 <= n <= MOST:
            raise ValueError(f"a few-step model has 1 to {MOST} steps, not {n}: give other --steps")
    return replace(found, steps=counts)


MOST = 16
"""Steps that a few-step model has at most: Hyper-SD's LoRAs for Stable Diffusion 3 have so many."""


def by_scheduler(configs: Configs) -> Known:
    """A model that nothing else is known of: it is drawn as its folder's scheduler draws, at trailing times where it has none."""
    kind = configs.kind("scheduler")
    consistent = kind in ("LCMScheduler", "TCDScheduler")
    return Known(
        "told",
        "a few-step model",
        "",
        "",
        lambda _: True,
        (),
        SAMPLERS.get(kind, "ddim"),
        kind,
        consistency_times if consistent else trailing_times,
        unit_start=not kind.startswith("Euler"),
    )


def told(folder: Path, scale: float) -> float:
    """The guidance scale, for a network that is told one. Raises ValueError for another, and for a scale of 1 or less."""
    if not Configs.read(folder).of("unet").get("time_cond_proj_dim"):
        raise ValueError(
            "a few-step model is drawn without guidance, and this one is told none: leave out --guidance-scale"
        )
    if not 1 < scale < 100:
        raise ValueError(f"a network is told a guidance scale above 1, not {scale:g}: 8 is usual")
    return scale


def write(card: Card, folder: Path) -> Path:
    """Write the card where `bundle.card_file` looks for it: beside the folder; in the cache where that cannot be."""
    *beside, kept = bundle.card_places(folder)
    for path in beside:
        try:
            card.write_file(path)
        except OSError:
            continue
        return path
    kept.parent.mkdir(parents=True, exist_ok=True)
    card.write_file(kept)
    return kept
