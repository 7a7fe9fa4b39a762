"""The files of a diffusers pipeline's folder: its configs, and its parts as ``model_index.json`` names them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .networks import STATISTICS, VaeCodec
from .text import load_tokenizer
from .weights import load_network


def read_config(path: Path) -> dict[str, Any]:
    """A JSON config, or a ValueError that says which file is missing or damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give a diffusers pipeline folder (with model_index.json)") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): save the pipeline again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a JSON {type(found).__name__}, not an object: save the pipeline again")
    return found


PICKLES = (".bin", ".pt", ".ckpt", ".pkl", ".pth")
"""How the names of files end that hold pickles."""


def refuse_pickles(folder: Path) -> None:
    """Only safetensors are read: a folder whose weights are pickles is refused, since loading one runs its code."""
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        sub = folder / part
        pickles = [path for suffix in PICKLES for path in sub.glob(f"*{suffix}")]
        if pickles and not list(sub.glob("*.safetensors")):
            raise ValueError(
                f"{pickles[0]} is a pickle, which can run code when it is read: save the pipeline again with "
                "safe_serialization=True"
            )


SNAPSHOT = re.compile(r"models--(?:.+--)?(.+)")
"""A model's folder in the hub's cache, whose snapshots are named by commits."""


def hub_name(folder: Path) -> str:
    """What a snapshot in the hub's cache is called, without its owner; "" for any other folder."""
    found = SNAPSHOT.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    return found[1] if found else ""


def has_part(index: Mapping[str, Any], name: str) -> bool:
    """Whether ``model_index.json`` names this part."""
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def refuse_quantised(folder: Path) -> None:
    """Refuse weights that are stored in few bits: no gradient passes them, and what stock tools save of them is another model."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (found := sorted(part.glob("*.gguf"))) and not list(part.glob("*.safetensors")):
            raise ValueError(
                f"{found[0]} is a GGUF file, quantised: give the folder of the model that it was made from"
            )
        config = part / "config.json"
        told = read_config(config).get("quantization_config") if config.is_file() else None
        if told:
            how = told.get("quant_method", "some method") if isinstance(told, dict) else told
            raise ValueError(
                f"{part} is stored quantised ({how}): give the folder of the model that it was made from, in fp32, bf16 or fp16"
            )


@dataclass
class Parts:
    """Reads the parts that ``model_index.json`` names."""

    folder: Path
    index: dict[str, Any]
    dtype: torch.dtype

    def has(self, name: str) -> bool:
        """Whether the folder has this part."""
        return has_part(self.index, name)

    def __call__(self, name: str) -> Any:
        """Load the part. Raises ValueError if there is none, or if its class is unknown."""
        import diffusers
        import transformers

        if not self.has(name):
            raise ValueError(f"{self.folder} has no {name}: give a text-to-image pipeline folder")
        library: Any = transformers if name.startswith(("tokenizer", "text_encoder")) else diffusers
        kind = getattr(library, self.index[name][1], None)
        if kind is None:
            raise ValueError(f"{self.folder}/{name} is a {self.index[name][1]}, which this version does not know")
        try:
            if name.startswith("tokenizer"):
                return load_tokenizer(kind, self.folder / name)
            dtype = "dtype" if library is transformers else "torch_dtype"
            return load_network(kind, self.folder / name, **{dtype: self.dtype})
        except OSError as error:
            raise ValueError(
                f"{self.folder}/{name} cannot be read ({str(error).splitlines()[0]}): fetch or save the pipeline again"
            ) from error


def codec_of(part: Parts, reads: Sequence[str]) -> VaeCodec:
    """The VAE, with the statistics that the stock pipeline reads; a warning names those that it leaves alone.

    One whose config says that half precision overflows (SDXL's ``force_upcast``) stays in single.
    """
    vae = part("vae").eval()
    idle = [name for name in STATISTICS if name not in reads and any(_numbers(getattr(vae.config, name, None)))]
    if idle:
        warnings.warn(
            f"{part.folder}/vae has {' and '.join(idle)}, which the stock pipeline of this model does not read: "
            "not used here either",
            stacklevel=4,
        )
    return VaeCodec(vae.float() if part.dtype == torch.float16 and vae.config.get("force_upcast") else vae, reads)


def _numbers(value: Any) -> list[float]:
    return list(value) if isinstance(value, list | tuple) else [value or 0.0]
