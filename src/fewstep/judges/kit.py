"""What a judge's file may import, in fewstep's process and in its own: the standard library at the top, nothing else.

A judge's environment holds the judge's packages, of the releases that it pins, and no fewstep. Everything here runs on any
Python of 3.9 or later.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

AT_ONCE = 16
"""Pictures that a network sees in one call."""
NETWORK = (
    "transformers==5.23.0",
    "torch==2.13.0",
    "numpy==2.4.6",
    "pillow==13.0.0",
    "safetensors==0.8.0",
    "ftfy==6.3.1",
)
"""Pins of the judges that stand on transformers' own classes: the releases that the tests run these judges with."""


@dataclass(frozen=True)
class Weights:
    """Files that a judge reads and that nobody but the user fetches."""

    fetch: str
    """What to type to get them; ``{folder}`` is where they are looked for."""
    files: Mapping[str, str]
    """By the name of each file that decides a score: how its SHA-256 begins, 8 hex digits or more. Empty digits: not known
    here, so the figure is said to be of unverified weights."""
    beside: Sequence[str] = ()
    """What is read beside them, as a configuration and a vocabulary."""


@dataclass(frozen=True)
class Asked:
    """What a judge is loaded for."""

    name: str
    """The judge's name: a file may hold several."""
    weights: str = ""
    """The folder of its weights; empty for a judge that has none."""
    device: str = "cpu"
    """Where it computes."""
    against: Sequence[str] = ()
    """Files of the real pictures."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the judge was told."""


def batches(
    pictures: Sequence[str], prompts: Sequence[str], size: int = AT_ONCE
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Files and their prompts, ``size`` at a time; the last may be fewer."""
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size], prompts[start : start + size]


def rgb(path: str) -> Any:
    """A picture as PIL has it, in colour; a transparent one on white."""
    from PIL import Image

    with Image.open(path) as file:
        if "A" in file.getbands() or "transparency" in file.info:
            clear = file.convert("RGBA")
            ground = Image.new("RGBA", clear.size, "white")
            return Image.alpha_composite(ground, clear).convert("RGB")
        return file.convert("RGB")


def media(files: Sequence[str]) -> Iterator[Any]:
    """Pictures as tensors ``[n, 3, H, W]`` in [-1, 1]: all in one where they are of one size, else one by one."""
    import numpy
    import torch

    read = [torch.from_numpy(numpy.array(rgb(path))).permute(2, 0, 1).float() / 127.5 - 1 for path in files]
    if len({picture.shape for picture in read}) == 1:
        yield torch.stack(read)
    else:
        yield from (picture[None] for picture in read)


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(files: Sequence[str], side: int, mean: Sequence[float], std: Sequence[float], crop: str = "") -> Any:
    """Pictures as a network wants them, ``[n, 3, side, side]``: resized by PIL's bicubic, in 8 bits, and standardised.

    ``crop`` makes the shorter side fit and takes the middle, as CLIP does; without it the picture is squeezed into the square.
    Of an odd number of pixels too many, transformers (``"floor"``) cuts the smaller half first, torchvision (``"even"``) the
    even one.
    """
    import numpy
    import torch
    from PIL import Image

    found = []
    for path in files:
        picture = rgb(path)
        if crop:
            wide, high = picture.size
            short = min(wide, high)
            picture = picture.resize((int(side * wide / short), int(side * high / short)), Image.Resampling.BICUBIC)
            left, top = (
                (length - side) // 2 if crop == "floor" else round((length - side) / 2) for length in picture.size
            )
            picture = picture.crop((left, top, left + side, top + side))
        else:
            picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        found.append(torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 255)
    scale = [torch.tensor(values).view(3, 1, 1) for values in (mean, std)]
    return (torch.stack(found) - scale[0]) / scale[1]


def pretrained(
    kind: str, folder: str, device: str, safe: bool = True, state: Mapping[str, Any] | None = None, config: Any = None
) -> Any:
    """A frozen model of transformers' class ``kind`` from a folder, in float32; or from a ``state`` of weights, in theirs.

    Raises ValueError where a weight of its own is missing, unknown or of another shape: it would be random without a word.
    Without ``safe`` weights are a pickle, of which torch reads numbers alone. A ``state`` needs a ``config``, and ``folder``
    only says where it came from.
    """
    import torch
    import transformers

    made = getattr(transformers, kind)
    how: dict[str, Any] = {"output_loading_info": True}
    if state is None:
        how |= {"local_files_only": True, "use_safetensors": safe, "dtype": torch.float32}
    else:
        how |= {"state_dict": dict(state), "config": config, "dtype": next(iter(state.values())).dtype}
    if not safe:
        how["weights_only"] = True
    model, found = made.from_pretrained(None if state is not None else folder, **how)
    buffers = ("position_ids",)  # older files hold them; they are counted, not learned
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in map(str, found[kind])]
    _refuse([key for key in wrong if not key.endswith(buffers)], kind, folder)
    return model.requires_grad_(False).eval().to(device)


def tensors(path: str) -> Any:
    """The tensors in a file of ``torch.save`` by their names, in float32; those under ``state_dict`` where there is that.

    Raises ValueError for a file that holds anything but numbers and words, or is none of torch's.
    """
    import torch

    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.float() for key, value in held.get("state_dict", held).items()}
    except Exception as error:  # torch has no class of its own for what it does not read
        raise ValueError(
            f"{path} is no file of weights that torch reads without running code ({type(error).__name__}): fetch it again"
        ) from None


def filled(model: Any, state: Mapping[str, Any], source: str, device: str) -> Any:
    """The model with these weights, frozen. Raises ValueError where one is missing, unknown or of another shape."""
    own = model.state_dict()
    _refuse(
        [key for key in {**own, **state} if getattr(own.get(key), "shape", 0) != getattr(state.get(key), "shape", 1)],
        type(model).__name__,
        source,
    )
    model.load_state_dict(state)
    return model.requires_grad_(False).eval().to(device)


def _refuse(wrong: Sequence[str], kind: str, source: str) -> None:
    if wrong:
        raise ValueError(
            f"{source} does not hold the weights of this {kind}: {len(wrong)} differ, first {sorted(wrong)[0]}"
        )


class Clip:
    """A CLIP of transformers: embeddings of length 1, with the prompts' where they are asked for."""

    resizer = "pil-bicubic-224-center-crop"

    def __init__(self, folder: str, device: str) -> None:
        from transformers import CLIPTokenizer

        self.model, self.device = self.network(folder, device), device
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        self.side = int(self.model.config.vision_config.image_size)
        self.longest = int(self.model.config.text_config.max_position_embeddings)

    def network(self, folder: str, device: str) -> Any:
        """Its network, from its folder."""
        return pretrained("CLIPModel", folder, device)

    def pixels(self, files: Sequence[str]) -> Any:
        """Pictures as the network wants them."""
        return pixels(files, self.side, CLIP_MEAN, CLIP_STD, "floor")

    def pictures(self, files: Sequence[str]) -> Any:
        """Embeddings of pictures."""
        seen = self.model.vision_model(pixel_values=self.pixels(files).to(self.device))
        return unit(self.model.visual_projection(seen.pooler_output))

    def prompts(self, texts: Sequence[str]) -> Any:
        """Embeddings of prompts; what is longer than the text encoder reads is cut."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.device)
        read = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return unit(self.model.text_projection(read.pooler_output))

    def cosines(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """The cosine of every picture with its prompt, a batch at a time."""
        import torch

        for files, texts in batches(pictures, prompts):
            with torch.no_grad():
                yield (self.pictures(files) * self.prompts(texts)).sum(1)


def unit(rows: Any) -> Any:
    """Rows of length 1."""
    return rows / rows.norm(dim=1, keepdim=True)


def drawn(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Small random weights of these shapes, the same every time; those of a normalisation, of one axis, about 1."""
    import torch

    make = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tuple(shape), generator=make) * 0.1 + (name.endswith(".weight") and len(shape) == 1)
        for name, shape in shapes.items()
    }


def linear(name: str, wide: int, high: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a linear layer's weights."""
    return {f"{name}.weight": (high, wide), f"{name}.bias": (high,)}


def norms(wide: int, *names: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of layers that normalise."""
    return {f"{name}.{part}": (wide,) for name in names for part in ("weight", "bias")}


def tiny_words(folder: str) -> int:
    """A tokenizer of CLIP's of single letters, as files in a folder. Returns how many words it knows, the two ends last."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (Path(folder) / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    (Path(folder) / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return len(words)


def tiny_clip(folder: str, kind: str = "CLIPModel", safe: bool = True) -> None:
    """A CLIP of a few thousand random weights, with a tokenizer of single letters, as a folder."""
    import torch
    import transformers

    last = tiny_words(folder) - 1
    shape: Any = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text: Any = {
        **shape,
        "vocab_size": last + 1,
        "bos_token_id": last - 1,
        "eos_token_id": last,
        "pad_token_id": last,
    }
    vision: Any = {**shape, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    both: Any = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    if kind != "CLIPModel":
        both = transformers.CLIPVisionConfig(**vision, projection_dim=8)
    model = getattr(transformers, kind)(both)
    if safe:
        model.save_pretrained(folder)
    else:
        both.save_pretrained(folder)
        torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")


class OnMedia:
    """A map from media ``[n, 3, H, W]`` in [-1, 1] to features with ``pooled [n, D]``, on files; float32, no gradients."""

    def __init__(self, features: Any) -> None:
        self.features, self.resizer, self.fingerprint = features, features.resizer, features.fingerprint

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """The embeddings."""
        import torch

        for files, _ in batches(pictures, prompts):
            for some in media(files):
                with torch.no_grad():
                    yield from self.features(some).pooled


class FeaturesFile:
    """Rows of numbers as a safetensors file with the one tensor ``features [N, D]`` in float32, written row by row."""

    def __init__(self, path: Path | str, n: int) -> None:
        self._path, self._n, self._width = Path(path), n, 0
        self._file: BinaryIO | None = None

    def add(self, row: Any) -> None:
        """One picture's row: any sequence of numbers. Raises ValueError where it is of another length than the first."""
        values = array("f", [float(x) for x in getattr(row, "tolist", lambda: row)()])
        if self._file is None:
            self._width, self._file = len(values), open(self._path, "wb")  # noqa: SIM115
            size = self._n * self._width * values.itemsize
            head = {"features": {"dtype": "F32", "shape": [self._n, self._width], "data_offsets": [0, size]}}
            text = json.dumps(head).encode()
            text += b" " * (-len(text) % 8)
            self._file.write(struct.pack("<Q", len(text)) + text)
        if len(values) != self._width:
            raise ValueError(f"a row of {len(values)} features follows rows of {self._width}")
        self._file.write(values.tobytes())

    def close(self) -> None:
        """Have everything on disk."""
        if self._file is not None:
            self._file.close()
