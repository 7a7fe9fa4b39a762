"""CMMD: maximum mean discrepancy of CLIP embeddings to those of real pictures, by OpenAI's ViT-L/14 at 336 (arXiv:2401.09603)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from . import kit

KIND = "features"
DISTANCE = "mmd"
LICENCE = "MIT"
PINS = kit.NETWORK
CLASS = "CLIPVisionModelWithProjection"
WEIGHTS = kit.Weights(
    "hf download openai/clip-vit-large-patch14-336 --revision ce19dc912ca5cd21c8a653c79e251e808ccabcd1 "
    "config.json pytorch_model.bin --local-dir {folder}",
    {"pytorch_model.bin": "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801"},
    ("config.json",),
)
tiny = partial(kit.tiny_clip, kind=CLASS, safe=False)


class Embeddings:
    """Embeddings of length 1, from pictures resized as cmmd-pytorch does: bicubic without antialiasing, into the square."""

    resizer = "torch-bicubic-336"

    def __init__(self, asked: kit.Asked) -> None:
        self.model, self.device = kit.pretrained(CLASS, asked.weights, asked.device, safe=False), asked.device
        self.side = int(self.model.config.image_size)

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """One row a picture."""
        import torch

        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (kit.CLIP_MEAN, kit.CLIP_STD))
        for files, _ in kit.batches(pictures, prompts):
            for some in kit.media(files):
                shown = torch.nn.functional.interpolate((some + 1) / 2, (self.side, self.side), mode="bicubic")
                with torch.no_grad():
                    yield from kit.unit(self.model(((shown - mean) / std).to(self.device)).image_embeds)


load = Embeddings
