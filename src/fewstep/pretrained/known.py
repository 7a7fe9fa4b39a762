"""Few-step models of others, recognised by what their folders' configs say, and by their names where configs leave it open.

A wrong recognition is worse than none: the configs must fit in every case, and a name alone never decides. Nothing is read but
JSON and the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..diffusion.sampler import trailing_times
from .families import Configs
from .reading import hub_name
from .terms import README

LCM_STEPS = 50
"""Timesteps that a latent consistency model was distilled at: LCMScheduler's ``original_inference_steps``."""


def consistency_times(steps: int, table: int = 1000, original: int = LCM_STEPS) -> list[float]:
    """Times of LCMScheduler and TCDScheduler: every ``original / steps``-th of the distilled ones, from pure noise down.

    For 4 steps the timesteps 999, 759, 499, 259 of a table of 1000 (LCM, arXiv 2310.04378, section 4.3).
    """
    k = table // original
    return [(table - k * (i * original // steps)) / table for i in range(steps)]


@dataclass(frozen=True)
class Known:
    """A few-step model that is known, or a group of them."""

    key: str
    """What ``fewstep adopt --as`` calls it."""
    title: str
    """What people call it."""
    named: str
    """Regular expression for its name, in lower case with hyphens between the words."""
    config: str
    """What its configs say, in words."""
    fits: Callable[[Configs], bool]
    """Whether a folder's configs say that."""
    steps: tuple[int, ...]
    """Step counts it was made for; empty: its name says how many."""
    sampler: str
    """fewstep's sampler that draws as the recommended scheduler does."""
    scheduler: str
    """The recommended scheduler of diffusers."""
    times: Callable[[int], list[float]] = trailing_times
    """The times that so many steps visit."""
    method: str = "unknown"
    """The method that made it."""
    alone: bool = False
    """Whether its configs decide without a name."""
    unit_start: bool = False
    """Whether the recommended scheduler starts from noise of scale 1, not of sigma(1)."""
    embedded_guidance: float = 0.0
    """The guidance scale that its network is told as an input; 0: it is told none."""
    licence: str = ""
    """Licence by its makers' page, where the folder says none; "" where it is not known here."""


@dataclass(frozen=True)
class Recognised:
    """What a folder was recognised as."""

    model: Known
    steps: tuple[int, ...]
    """Its step counts."""
    reason: str
    """What decided, in words."""


def _xl(configs: Configs) -> bool:
    return configs.of("unet").get("addition_embed_type") == "text_time"


def _unet(configs: Configs) -> bool:
    return configs.kind("unet") == "UNet2DConditionModel"


def _scheduler(configs: Configs, *names: str, trailing: bool = False) -> bool:
    spaced = not trailing or configs.scheduler.get("timestep_spacing") == "trailing"
    return configs.kind("scheduler") in names and spaced


def _told(configs: Configs) -> bool:
    """Whether the UNet is told the guidance beside the time."""
    return bool(_unet(configs) and configs.of("unet").get("time_cond_proj_dim"))


def _pipeline(configs: Configs, name: str) -> bool:
    return configs.index.get("_class_name") == name


KNOWN: tuple[Known, ...] = (
    Known(
        "sdxl-turbo", "SDXL-Turbo", r"sdxl-turbo", "an SDXL UNet and EulerAncestral at trailing timesteps",
        lambda c: _xl(c) and not _told(c) and _scheduler(c, "EulerAncestralDiscreteScheduler", trailing=True),
        (1, 2, 3, 4), "ancestral", "EulerAncestralDiscreteScheduler, trailing", method="add",
        licence="sai-nc-community",
    ),
    Known(
        "sd-turbo", "SD-Turbo", r"sd-turbo", "a Stable Diffusion UNet and Euler at trailing timesteps",
        lambda c: _unet(c) and not _xl(c) and not _told(c) and _scheduler(c, "EulerDiscreteScheduler", trailing=True),
        (1, 2, 3, 4), "ddim", "EulerDiscreteScheduler, trailing", method="add", licence="sai-nc-community",
    ),
    Known(
        "lcm", "a latent consistency model (LCM)", r".*\blcm\b.*", "a UNet that is told the guidance (time_cond_proj_dim)",
        _told, (1, 2, 4, 8), "renoise", "LCMScheduler", consistency_times, "lcm", alone=True, unit_start=True,
        embedded_guidance=8.0,
    ),
    Known(
        "lcm-lora", "a model with LCM-LoRA merged in", r".*\blcm\b.*", "a UNet that is told no guidance, and LCMScheduler",
        lambda c: _unet(c) and not _told(c) and _scheduler(c, "LCMScheduler"),
        (2, 4, 8), "renoise", "LCMScheduler", consistency_times, "lcm", unit_start=True,
    ),
    Known(
        "lightning", "SDXL-Lightning", r"sdxl-lightning\b.*", "an SDXL UNet and Euler at trailing timesteps",
        lambda c: _xl(c) and not _told(c) and _scheduler(c, "EulerDiscreteScheduler", trailing=True),
        (), "ddim", "EulerDiscreteScheduler, trailing", method="lightning", licence="openrail++",
    ),
    Known(
        "hyper-sd", "Hyper-SD", r"hyper-?sd(xl|15)?\b(?!.*\bunet).*", "a UNet and DDIM at trailing timesteps",
        lambda c: _unet(c) and not _told(c) and _scheduler(c, "DDIMScheduler", trailing=True),
        (), "ddim", "DDIMScheduler, trailing", method="hyper-sd", unit_start=True,
    ),
    Known(
        "dmd2", "DMD2", r".*\bdmd2\b.*", "an SDXL UNet and LCMScheduler",
        lambda c: _xl(c) and not _told(c) and _scheduler(c, "LCMScheduler"),
        (4,), "renoise", "LCMScheduler at timesteps 999, 749, 499, 249", method="dmd2", unit_start=True,
        licence="cc-by-nc-4.0",
    ),
    Known(
        "tcd", "a model with TCD-LoRA merged in", r".*\btcd\b.*", "a UNet and TCDScheduler",
        lambda c: _unet(c) and not _told(c) and _scheduler(c, "TCDScheduler"),
        (2, 4, 8), "ddim", "TCDScheduler with eta 0", consistency_times, "tcd", unit_start=True, licence="mit",
    ),
    Known(
        "schnell", "FLUX.1 schnell", r"flux\.?1?-schnell", "FluxPipeline and a transformer that is told no guidance",
        lambda c: _pipeline(c, "FluxPipeline") and not c.of("transformer").get("guidance_embeds"),
        (1, 2, 3, 4), "ddim", "FlowMatchEulerDiscreteScheduler", method="ladd", licence="apache-2.0",
    ),
    Known(
        "sana-sprint", "SANA-Sprint", r"sana-sprint\b.*", "SanaSprintPipeline and SCMScheduler",
        lambda c: _pipeline(c, "SanaSprintPipeline") and _scheduler(c, "SCMScheduler"),
        (1,), "renoise", "SCMScheduler", method="sana-sprint", alone=True, embedded_guidance=4.5,
    ),
    Known(
        "z-image-turbo", "Z-Image-Turbo", r"z-image-turbo", "ZImagePipeline and FlowMatchEulerDiscreteScheduler",
        lambda c: _pipeline(c, "ZImagePipeline") and _scheduler(c, "FlowMatchEulerDiscreteScheduler"),
        (8,), "ddim", "FlowMatchEulerDiscreteScheduler", method="dmd2", licence="apache-2.0",
    ),
    Known(
        "klein", "FLUX.2 klein", r"flux\.?2-klein\b.*", "Flux2KleinPipeline and is_distilled",
        lambda c: _pipeline(c, "Flux2KleinPipeline") and c.index.get("is_distilled") is True,
        (4,), "ddim", "FlowMatchEulerDiscreteScheduler", alone=True,
    ),
)  # fmt: skip
"""The models that are known."""


def known(key: str) -> Known:
    """A model by its key. Raises ValueError with the keys that there are."""
    found = next((model for model in KNOWN if model.key == key), None)
    if found is None:
        raise ValueError(f"there is no few-step model {key!r}: use {', '.join(model.key for model in KNOWN)}")
    return found


def names_of(configs: Configs) -> dict[str, str]:
    """What the model is called, in lower case with hyphens, and where that stands."""
    folder = Path(configs.folder)
    of_hub = hub_name(folder)
    found = {of_hub: "its name on the hub"} if of_hub else {folder.name: "its folder's name"}
    network = next((configs.of(part) for part in ("unet", "transformer") if configs.has(part)), {})
    for config, place in ((configs.index, "model_index.json"), (network, "its network's config")):
        if isinstance(path := config.get("_name_or_path"), str) and path:
            found.setdefault(re.split(r"[/\\]|--", path.rstrip("/\\"))[-1], f"_name_or_path in {place}")
    page = folder / README
    if page.is_file() and (title := re.search(r"^# +(.+)$", page.read_text("utf-8", "replace")[: 2**16], re.MULTILINE)):
        found.setdefault(re.split(r"[/\\]", title[1].split(" Model Card")[0].strip())[-1], "the title of its page")
    return {re.sub(r"[\s_]+", "-", name.strip().lower()): place for name, place in found.items()}


def recognise(folder: Path) -> Recognised | None:
    """What few-step model a folder holds; None where its configs fit none, or its name is not that of one.

    Raises ValueError where two of them fit.
    """
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        return None
    configs = Configs.read(folder)
    names = names_of(configs)
    found: list[Recognised] = []
    for model in KNOWN:
        if not model.fits(configs):
            continue
        at = next((name for name in names if re.fullmatch(NAME.format(model.named), name)), None)
        if at is None and not model.alone:
            continue
        steps = model.steps or steps_of(configs, at or "")
        if not steps:
            continue
        said = f", and {names[at]} ({at})" if at else ""
        found.append(Recognised(model, steps, f"{model.config}{said}"))
    if len(found) > 1:
        raise ValueError(
            f"{folder} may be {' or '.join(one.model.title for one in found)}: say which with "
            f"`fewstep adopt {folder} --as {found[0].model.key}`"
        )
    return found[0] if found else None


NAME = r"({})(-(v?\d+(\.\d+)*|fp16|fp32|bf16|diffusers))*"
"""A known name with a version or a precision behind it, and nothing else: a fine-tune of another name is another model."""


def steps_of(configs: Configs, name: str) -> tuple[int, ...]:
    """For how many steps a checkpoint was made that is of use in one number only: its name says it, as in "4step".

    A network that predicts the sample itself is SDXL-Lightning's for one step (arXiv 2402.13929, section 3.4).
    """
    if configs.scheduler.get("prediction_type") == "sample":
        return (1,)
    found = re.search(r"(\d+)-?steps?\b", name)
    return (int(found[1]),) if found else ()


def hint(folder: Path) -> str:
    """The keys of the models that a folder's configs would fit, as an option of ``fewstep adopt``; "" for none."""
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        return ""
    configs = Configs.read(folder)
    fitting = [model.key for model in KNOWN if model.fits(configs)]
    return f" --as {fitting[0]}" if len(fitting) == 1 else ""
