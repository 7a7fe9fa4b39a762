"""A single file of Stable Diffusion or SDXL, as people share them, unpacked into a diffusers folder. Nothing is fetched."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..files import replaced
from .families import Configs
from .quiet import quiet
from .reading import PICKLES
from .schedules import kind_of
from .single_file import SDXL, check_single_file, single_file

CONFIGS = ("*.json", "*.txt", "*.model")
"""Files of a folder that say what the weights in a single file are."""
LEFT = (
    "model_ema.",
    "logit_scale",
    "position_ids",
    "alphas_",
    "betas",
    "sigmas",
    "log_one_minus",
    "posterior_",
    "sqrt_",
)
"""Parts of names in such files that no diffusers pipeline has a place for."""
KNOWN = {
    "conditioner.embedders.1.": "stabilityai/stable-diffusion-xl-base-1.0",
    "cond_stage_model.model.": "stabilityai/stable-diffusion-2-1",
    "cond_stage_model.transformer.": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""The hub's folder whose configs fit a single file, by names that are in it."""


LORA_IS_A_PART = "`fewstep adopt BASE --lora FILE --as KIND --out FOLDER` puts it into its base"
"""What to do with a LoRA where a model is asked for."""


def usual_configs(file: Path) -> str:
    """The model on the hub whose configs fit a single file, by the names of its weights; they alone are read.

    Raises ValueError with the fix for a file that is no whole model of Stable Diffusion or SDXL.
    """
    if file.suffix != ".safetensors":
        if file.suffix in PICKLES:
            raise ValueError(
                f"{file} is a pickle, which can run code when it is read: convert it to .safetensors first"
            )
        raise ValueError(
            f"{file} is no model: give a bundle's name, a folder with model_index.json, or a .safetensors file"
        )
    try:
        with safe_open(file, "pt") as found:
            names = list(found.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}): fetch it again") from None
    if any("lora_" in name or name.endswith(".lora.up.weight") for name in names):
        raise ValueError(f"{file} is a LoRA, which is a part of a model: {LORA_IS_A_PART}")
    if not any(name.startswith("model.diffusion_model.input_blocks.") for name in names):
        raise ValueError(f"{file} holds no UNet of Stable Diffusion or SDXL: give a diffusers folder of its model")
    for start, name in KNOWN.items():
        if any(one.startswith(start) for one in names):
            return name
    raise ValueError(f"{file} holds no text encoder: give a whole checkpoint, or a diffusers folder")


def unpack(file: Path, configs: Path, out: Path) -> None:
    """Write a single file as a diffusers folder; ``configs`` is one of the same kind of model, whose weights are not read.

    diffusers converts it; the folder is then read as a single file again and held against the first: each of its weights must
    be there, equal bit for bit. Raises ValueError where it is not, and where the file holds weights that would be lost.
    """
    usual_configs(file)
    told = Configs.read(configs)
    check_single_file(told)
    import diffusers

    given = load_file(file)
    if ("v_pred" in given) != (kind_of(dict(told.scheduler)) == "v") and told.index["_class_name"] == SDXL:
        raise ValueError(
            f"{file} and {configs} differ in what the network predicts (eps or v): give the configs of its model"
        )
    with quiet():  # the class is imported now, and its library talks
        kind = getattr(diffusers, str(told.index["_class_name"]))
    plain: dict[str, None] = {name: None for name in ("safety_checker", "feature_extractor") if name in told.index}
    dtype = given[next(name for name in given if name.startswith("model.diffusion_model."))].dtype
    with quiet(), replaced(out) as draft:
        try:
            pipe = kind.from_single_file(
                str(file), config=str(configs), local_files_only=True, torch_dtype=dtype, **plain
            )
            pipe.save_pretrained(draft, safe_serialization=True)
            del pipe
        except (NotImplementedError, RuntimeError, ValueError, OSError, KeyError) as error:
            raise ValueError(
                f"{file} does not fit the configs of {configs} ({str(error).splitlines()[0]}): give those of its own model"
            ) from None
        shutil.copyfile(configs / "scheduler" / "scheduler_config.json", draft / "scheduler" / "scheduler_config.json")
        hold_against(file, given, single_file(Configs.read(draft)), dtype)
        write_page(file, draft)


def hold_against(file: Path, given: dict[str, torch.Tensor], made: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Raise ValueError where a weight that was made is not in the file, or one of the file is lost."""
    markers = {"v_pred", "ztsnr"}
    wrong = [
        n for n, v in made.items() if n not in markers and (n not in given or not torch.equal(given[n].to(dtype), v))
    ]
    if wrong:
        raise ValueError(f"{file} lacks {len(wrong)} weights of its model (first {wrong[0]}): fetch a whole checkpoint")
    lost = [
        name for name in given if name not in made and name not in markers and not any(part in name for part in LEFT)
    ]
    lost = [name for name in lost if not name.startswith("model_ema")]
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in lost):
        raise ValueError(
            f"{file} holds {len(lost)} weights that its configs have no place for (first {lost[0]}): give others"
        )


def write_page(file: Path, folder: Path) -> None:
    """The licence that a single file's metadata state, as the front matter of the folder's page."""
    with safe_open(file, "pt") as found:
        stated = (found.metadata() or {}).get("modelspec.license", "")
    if stated:
        (folder / "README.md").write_text(f"---\nlicense: {json.dumps(stated)}\n---\n# {file.stem}\n", "utf-8")


def unpacked_at(file: Path, configs: Path, cache: Path) -> Path:
    """Where a single file is unpacked: by its place, size and time of change, and by what the configs say."""
    state = file.stat()
    facts = f"{file.resolve()}|{state.st_size}|{state.st_mtime_ns}".encode()
    facts += b"".join(path.read_bytes() for pattern in CONFIGS for path in sorted(configs.rglob(pattern)))
    return cache / "single-files" / hashlib.sha256(facts).hexdigest()[:12] / file.stem
