"""``fewstep merge``: one student whose weights are the mean of several students' (model soups, arXiv 2203.05482).

Students that began from one teacher lie in one valley of the loss, so their mean draws, too, and often has the better of each. It
costs as much to draw as one of them. What cannot be averaged is refused before a network is read: networks of other shapes,
other times, other latents, another text encoder.
"""

from __future__ import annotations

import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import bundle, pretrained
from ..bundle import Card
from ..pretrained.reading import Parts, has_part
from .decoder import alike, stored

METHOD = "merge"
"""What a card calls the method of such a student; its ``training`` names those of the parts."""
DRAWN = ("times", "sampler", "guidance_scale", "native_size", "times_by_steps", "unit_start", "embedded_guidance")
"""What cards have to agree on: how a student is drawn."""


@dataclass(frozen=True)
class Share:
    """A student, and how much of it goes in."""

    folder: Path
    weight: float
    """Of all weights together, which add up to 1."""
    card: Card


def merge(given: Sequence[str], out: Path, dtype: torch.dtype | None = None) -> Card:
    """Write the weighted mean of students, ``MODEL`` or ``MODEL=WEIGHT``, as a bundle to ``out``; returns its card.

    ``dtype`` is what it is stored in; None is what the first is stored in. Raises ValueError with the fix for what cannot be
    averaged.
    """
    bundle.check_place(out)
    shares = shares_of(given)
    check_alike(shares)
    first = shares[0].folder
    model = pretrained.load(first)
    network = model.denoiser.network
    network.load_state_dict(mean_of(network.state_dict(), shares, model.family.component))
    import diffusers

    configs = pretrained.Configs.read(first)
    scheduler = getattr(diffusers, configs.kind("scheduler")).from_pretrained(first / "scheduler")
    return bundle.save(
        out,
        card_of(shares, out),
        family=model.family,
        network=network,
        vae=model.codec.vae if isinstance(model.codec, pretrained.VaeCodec) else None,
        scheduler=scheduler,
        text=first if "text_encoder" in configs.index else None,
        dtype=dtype or pretrained.stored_dtype(first / model.family.component),
        notices="\n".join(dict.fromkeys(filter(None, (bundle.notices_of(share.folder) for share in shares)))),
        origin=first,
    )


def shares_of(given: Sequence[str]) -> list[Share]:
    """``MODEL=WEIGHT`` of every student, the weights made to add up to 1; without weights all alike.

    Raises ValueError for fewer than two, for a weight that is none, and for a teacher.
    """
    if len(given) < 2:
        raise ValueError("a mean takes two students or more: fewstep merge A B --out FOLDER, or A=0.7 B=0.3")
    names, weights = zip(*(_split(word) for word in given))
    if None in weights and any(weights):
        raise ValueError(f"{names[weights.index(None)]} has no weight: give every model one, MODEL=0.5, or none")
    numbers = [1.0 if weight is None else weight for weight in weights]
    folders = [bundle.locate(name) for name in names]
    cards = [bundle.card_of(folder) for folder in folders]
    for name, card in zip(names, cards):
        if card.role != "student":
            raise ValueError(f"{name} is a teacher, which is drawn otherwise than a student: give students alone")
    return [Share(folder, n / sum(numbers), card) for folder, n, card in zip(folders, numbers, cards)]


def _split(word: str) -> tuple[str, float | None]:
    name, sign, number = word.rpartition("=")
    if not sign or Path(word).exists():
        return word, None
    try:
        weight = float(number)
    except ValueError:
        return word, None
    if not 0 < weight < float("inf"):
        raise ValueError(f"{word}: a weight is above 0, and their sum is made 1: {name}=0.5, say")
    return name, weight


def check_alike(shares: Sequence[Share]) -> None:
    """Refuse students whose weights do not mean the same. Raises ValueError that names the first difference."""
    first, *others = shares
    for other in others:
        pair = f"{first.card.name} ({first.folder}) and {other.card.name} ({other.folder}) cannot be averaged"
        for name in DRAWN:
            a, b = getattr(first.card, name), getattr(other.card, name)
            if a != b:
                raise ValueError(
                    f"{pair}: {name.replace('_', ' ')} {_shown(a)} and {_shown(b)}; give students that are drawn alike"
                )
        one, two = (pretrained.Configs.read(share.folder) for share in (first, other))
        parts, theirs = (sorted(name for name in of.index if has_part(of.index, name)) for of in (one, two))
        if parts != theirs:
            raise ValueError(f"{pair}: they are pipelines of other parts; give students of one teacher")
        component = pretrained.family_of(one).component
        for part in parts:
            if differs := _first_difference(_config(first.folder / part), _config(other.folder / part)):
                raise ValueError(f"{pair}: their {part} have another {differs}; give students of one teacher")
            if part != component and not _same_weights(first.folder / part, other.folder / part):
                raise ValueError(f"{pair}: the weights of their {part} are others; give students of one teacher")


def _shown(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


def _config(folder: Path) -> dict[str, Any]:
    """What a part's config says of it, without notes of who wrote it; {} for one that has none, such as a tokenizer."""
    files = [folder / name for name in ("config.json", "scheduler_config.json")]
    found = next((pretrained.read_config(file) for file in files if file.is_file()), {})
    return {key: value for key, value in found.items() if not key.startswith("_") and key not in UNREAD}


UNREAD = ("transformers_version", "torch_dtype", "dtype")
"""Keys of configs that change nothing about what a part computes."""


def _first_difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return next((key for key in sorted({*a, *b}) if a.get(key) != b.get(key)), "")


def _same_weights(a: Path, b: Path) -> bool:
    """Whether two parts hold the same weights, in the coarser of their numbers; files alike byte for byte are not opened."""
    files = [pretrained.weight_files(part)[1] for part in (a, b)]
    if [one.name for one in files[0]] == [one.name for one in files[1]] and all(
        filecmp.cmp(one, other, shallow=False) for one, other in zip(*files)
    ):
        return True
    own, theirs = stored(a), stored(b)
    return own.keys() == theirs.keys() and all(alike(own[key], theirs[key]) for key in own)


def mean_of(first: Mapping[str, Tensor], shares: Sequence[Share], component: str) -> dict[str, Tensor]:
    """The weighted mean of the networks' weights, in float32; what is no floating-point number stays the first's.

    ``first`` are the weights of the first share; the other networks are read one at a time. Raises ValueError where weights
    have other names or shapes.
    """
    own, *others = shares
    total = {key: value * own.weight if value.is_floating_point() else value for key, value in first.items()}
    for share in others:
        configs = pretrained.Configs.read(share.folder)
        with pretrained.quiet():
            state = Parts(share.folder, dict(configs.index), torch.float32)(component).state_dict()
        for key, value in state.items():
            if key not in total or total[key].shape != value.shape:
                raise ValueError(f"{share.card.name} ({share.folder}) has another {key}: give students of one teacher")
            if value.is_floating_point():
                total[key] += value * share.weight
    return total


def card_of(shares: Sequence[Share], out: Path) -> Card:
    """The first's card, with all that went in, and nothing that was measured of it."""
    cards = [share.card for share in shares]

    def joined(name: str, by: str) -> str:
        return by.join(dict.fromkeys(filter(None, (getattr(card, name) for card in cards))))

    merged = [
        {"weight": share.weight, "name": share.card.name, "method": share.card.method, "fingerprint": share.card.fingerprint,
         "training": share.card.training}
        for share in shares
    ]  # fmt: skip
    return replace(
        cards[0],
        name=bundle.name_of(out),
        method=METHOD,
        steps=tuple(n for n in cards[0].steps if all(n in card.steps for card in cards)),
        teacher=joined("teacher", "; "),
        licence=joined("licence", "; "),
        data=joined("data", "; "),
        training={"merged": merged} | {key: cards[0].training[key] for key in ("decoder",) if key in cards[0].training},
        metrics=[],
        recognised="",
        text_encoder="",
    )
