"""A diffusers pipeline folder -> Denoiser, Codec and Conditioner: Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..parts.codec import Codec
from ..parts.conditioner import Conditioner, Unread
from .networks import STATISTICS, NetworkDenoiser, TransformerDenoiser, UNetDenoiser, VaeCodec, is_sdxl
from .quiet import quiet
from .schedules import kind_of, schedule_of
from .text import T5_TOKENS, SD3Conditioner, SDXLConditioner, TextConditioner, load_tokenizer, unread
from .weights import load_network

TOKENIZERS = {"tokenizer": None, "tokenizer_2": None, "tokenizer_3": T5_TOKENS}
"""Where a folder has them, and how many tokens each is given; None is as many as it takes."""


@dataclass
class Pretrained:
    """A model from disk, in fewstep's own terms."""

    denoiser: NetworkDenoiser
    codec: Codec
    conditioner: Conditioner
    folder: Path
    factor: int
    """Pixels a latent, along each side."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample's latents, ``(C, *S)``."""
        config: Any = self.denoiser.network.config
        size = config.sample_size
        return (config.in_channels, *((size, size) if isinstance(size, int) else size))

    @property
    def native_size(self) -> tuple[int, ...]:
        """Size of one sample's media, ``S``: what the latents decode to."""
        return tuple(self.factor * side for side in self.latent_shape[1:])

    def to(self, device: torch.device | str) -> Pretrained:
        """Move every part; returns self."""
        for part in (self.denoiser, self.codec, self.conditioner):
            part.to(device)
        return self


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


def refuse_pickles(folder: Path) -> None:
    """Only safetensors are read: a folder whose weights are pickles is refused, since loading one runs its code."""
    for part in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        sub = folder / part
        pickles = [*sub.glob("*.bin"), *sub.glob("*.pt"), *sub.glob("*.ckpt"), *sub.glob("*.pkl")]
        if pickles and not list(sub.glob("*.safetensors")):
            raise ValueError(
                f"{pickles[0]} is a pickle, which can run code when it is read: save the pipeline again with "
                "safe_serialization=True"
            )


@dataclass
class Parts:
    """Reads the parts that ``model_index.json`` names."""

    folder: Path
    index: dict[str, Any]
    dtype: torch.dtype

    def has(self, name: str) -> bool:
        """Whether the folder has this part."""
        entry = self.index.get(name)
        return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None

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


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Pretrained:
    """A diffusers text-to-image folder -> Denoiser, Codec and Conditioner; raises ValueError with the fix on bad input."""
    part = Parts(folder, read_config(folder / "model_index.json"), dtype)
    refuse_pickles(folder)
    config = read_config(folder / "scheduler" / "scheduler_config.json")
    schedule, kind = schedule_of(config), kind_of(config)
    with quiet():
        if part.has("transformer") and not part.has("unet"):
            return _sd3(part, schedule, kind)
        unet = part("unet")
        codec = _codec(part, ("latents_mean", "latents_std") if is_sdxl(unet) else ())
        conditioner = _text(part)
    if unet.config.get("time_cond_proj_dim"):
        raise ValueError(
            f"{folder}/unet is told the guidance beside the time (time_cond_proj_dim), as a latent consistency model is: "
            "that is not known here, give the model it was distilled from"
        )
    if conditioner.width != (wanted := unet.config.cross_attention_dim):
        raise ValueError(
            f"the text encoder gives {conditioner.width} numbers a token, the UNet takes {wanted}: "
            "use the encoder it was trained with"
        )
    if unet.config.in_channels != unet.config.out_channels:
        raise ValueError(
            f"the UNet takes {unet.config.in_channels} channels and gives {unet.config.out_channels}: an inpainting or "
            "depth model cannot be distilled, give the text-to-image model it was made from"
        )
    return Pretrained(UNetDenoiser(unet, schedule, kind, codec.factor), codec, conditioner, folder, codec.factor)


def reader_of(folder: Path) -> Callable[[Sequence[str]], list[Unread | None]]:
    """Says of prompts what the text encoders of a diffusers folder would not read of them; their tokenizers alone are loaded."""
    part = Parts(folder, read_config(folder / "model_index.json"), torch.float32)
    with quiet():
        used = [name for name in TOKENIZERS if part.has(name) and part.has(name.replace("tokenizer", "text_encoder"))]
        found = [(part(name), TOKENIZERS[name]) for name in used]
    if not found:
        raise ValueError(f"{folder} has no tokenizer: give a text-to-image pipeline folder")
    return partial(unread, found)


def _codec(part: Parts, reads: Sequence[str]) -> VaeCodec:
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


def _text(part: Parts) -> TextConditioner | SDXLConditioner:
    if not part.has("text_encoder_2"):
        return TextConditioner(part("tokenizer"), part("text_encoder"))
    tokenizers = [part("tokenizer"), part("tokenizer_2")]
    zero_null = bool(part.index.get("force_zeros_for_empty_prompt", True))
    return SDXLConditioner(tokenizers, [part("text_encoder"), part("text_encoder_2")], zero_null)


def _sd3(part: Parts, schedule: Any, kind: str) -> Pretrained:
    if part.index["transformer"][1] != "SD3Transformer2DModel" or kind != "flow":
        raise ValueError(
            f"{part.folder} has a {part.index['transformer'][1]} ({kind}): give a Stable Diffusion 1, 2, XL or 3 folder"
        )
    network, codec = part("transformer"), _codec(part, ("shift_factor",))
    t5 = (part("tokenizer_3"), part("text_encoder_3")) if part.has("text_encoder_3") else None
    tokenizers = [part("tokenizer"), part("tokenizer_2")]
    encoders = [part("text_encoder"), part("text_encoder_2")]
    conditioner = SD3Conditioner(tokenizers, encoders, network.config.joint_attention_dim, t5)
    return Pretrained(TransformerDenoiser(network, schedule, kind), codec, conditioner, part.folder, codec.factor)
