"""FD-DINOv2: Fréchet distance in DINOv2 ViT-L/14's features, which agrees best with people (arXiv:2306.04675)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import kit

KIND = "features"
LICENCE = "Apache-2.0"
PINS = kit.NETWORK
WEIGHTS = kit.Weights(
    "hf download facebook/dinov2-large config.json model.safetensors --local-dir {folder}",
    {"model.safetensors": "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23"},
    ("config.json",),
)
SEES_LIKE = "dinov2"
SIDE = 224


def tiny(folder: str) -> None:
    """A DINOv2 of a few thousand random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    shape: Any = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    transformers.Dinov2Model(transformers.Dinov2Config(**shape)).save_pretrained(folder)


class ClassToken:
    """The class token after the last normalisation, of pictures squeezed to 224 x 224, as dgm-eval has it by default."""

    resizer = "pil-bicubic-224"

    def __init__(self, asked: kit.Asked) -> None:
        self.model, self.device = kit.pretrained("Dinov2Model", asked.weights, asked.device), asked.device

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """One row a picture."""
        import torch

        for files, _ in kit.batches(pictures, prompts):
            seen = kit.pixels(files, SIDE, kit.IMAGENET_MEAN, kit.IMAGENET_STD)
            with torch.no_grad():
                yield from self.model(seen.to(self.device)).pooler_output


load = ClassToken
