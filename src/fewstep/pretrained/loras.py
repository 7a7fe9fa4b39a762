"""LoRAs that are merged into a teacher, as other people's tools write them: diffusers' layout, or kohya's. Nothing is fetched."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from .. import extras
from .families import ModelFamily
from .quiet import quiet
from .terms import RESEARCH_ONLY, check_commercial

ADAPTER = "teacher"


class Lora(NamedTuple):
    """A file and how much of it is added."""

    file: Path
    weight: float

    @property
    def name(self) -> str:
        """What a card calls it."""
        return self.file.stem + f":{self.weight:g}" * (self.weight != 1)

    @property
    def licence(self) -> str:
        """What its metadata state; "" where they say nothing."""
        with safe_open(self.file, "pt") as found:
            return (found.metadata() or {}).get("modelspec.license", "")


def loras_of(given: Sequence[str], option: str = "--teacher-lora") -> list[Lora]:
    """``FILE`` or ``FILE:weight``, as ``option`` was given them, read. Raises ValueError with the fix for what is no LoRA."""
    made = []
    for word in given:
        start, colon, end = word.rpartition(":")
        try:
            lora = Lora(Path(start), float(end)) if colon and not Path(word).is_file() else Lora(Path(word), 1.0)
        except ValueError:
            lora = Lora(Path(word), 1.0)
        if not math.isfinite(lora.weight):
            raise ValueError(f"{option} {word} has no weight to add with: give FILE:0.8, or FILE for 1")
        if lora.file.suffix != ".safetensors" or not lora.file.is_file():
            raise ValueError(f"{option} {word} is no .safetensors file: give FILE or FILE:weight")
        try:
            with safe_open(lora.file, "pt") as found:
                names = list(found.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{option} {lora.file} cannot be read ({error}): fetch it again") from None
        if not any("lora" in name for name in names):
            raise ValueError(
                f"{option} {lora.file} holds no LoRA (its first weight is {names[0] if names else 'none'})"
            )
        made.append(lora)
    return made


def contents(given: Sequence[str]) -> list[str]:
    """What these stand for: a hash of each file, and its weight."""
    return [f"{hashlib.sha256(lora.file.read_bytes()).hexdigest()[:12]}:{lora.weight:g}" for lora in loras_of(given)]


def check_licences(given: Sequence[str]) -> None:
    """Refuse LoRAs whose metadata allow no commercial use, or say nothing."""
    for lora in loras_of(given):
        licence = lora.licence
        check_commercial(f"--teacher-lora {lora.file}", licence, licence * bool(RESEARCH_ONLY.search(licence)))


def merge(
    network: Any, family: ModelFamily, given: Sequence[str], option: str = "--teacher-lora", whole: bool = False
) -> None:
    """Add LoRAs to a network's own weights, in their order; a warning tells of those for text encoders, which are left out.

    Raises ValueError with the fix where one does not fit the network; with ``whole``, too, where one has such others.
    """
    if not given:
        return
    import diffusers

    extras.require(option, extras.of("lora"))
    with quiet():  # the class is imported now, and its library talks
        reader = getattr(getattr(diffusers, family.pipeline), "lora_state_dict", None)
    if reader is None or not hasattr(network, "load_lora_adapter"):
        raise ValueError(f"stock diffusers loads no LoRA onto a {type(network).__name__}: leave {option} out")
    for lora in loras_of(given, option):
        try:
            with quiet():
                state, own = added(network, family.component, reader, lora.file)
                if whole and len(own) < len(state):
                    raise ValueError(
                        f"it holds {next(k for k in state if k not in own)}, and the network's alone is merged"
                    )
            network.fuse_lora(lora_scale=lora.weight, adapter_names=[ADAPTER])
            network.unload_lora()
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{option} {lora.file} does not fit this {family.component} ({str(error).splitlines()[0]:.200}): give one "
                "that was made for it"
            ) from None
        if len(own) < len(state):
            warnings.warn(
                f"{lora.file.name} holds {len(state) - len(own)} weights for text encoders, which are not merged: the prompts "
                "are read as without it",
                stacklevel=3,
            )


def added(network: Any, component: str, reader: Any, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hang a LoRA onto a network; its weights in diffusers' layout, all of them and those that are the network's.

    Raises ValueError where the network has not all of the layers that it is for.
    """
    options = {"unet_config": network.config} if component == "unet" else {}
    state, *more = reader(str(file), local_files_only=True, **options)
    own = {n: v for n, v in state.items() if n.startswith(f"{component}.")}
    if not own:
        raise ValueError(f"it holds nothing for the {component}")
    alphas = {n: a for n, a in ((more[0] if more else None) or {}).items() if n.startswith(f"{component}.")}
    network.load_lora_adapter(own, prefix=component, network_alphas=alphas or None, adapter_name=ADAPTER)
    taken = sum(hasattr(m, "lora_A") for m in network.modules())
    held = sum("lora_A." in k or "lora.down." in k or "lora_down." in k for k in own)
    if taken != held:
        raise ValueError(f"it is for {held} layers, of which {taken} are here")
    return state, own
