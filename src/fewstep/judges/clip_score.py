"""CLIP score: 100 times the cosine of a picture with its prompt, at least 0, by OpenAI's ViT-L/14 (arXiv:2104.08718)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import kit

KIND = "score"
LICENCE = "MIT"
PINS = kit.NETWORK
WEIGHTS = kit.Weights(
    "hf download openai/clip-vit-large-patch14 --revision 32bd64288804d66eefd0ccbe215aa642df71cc41 "
    "config.json model.safetensors vocab.json merges.txt --local-dir {folder}",
    {"model.safetensors": "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"},
    ("config.json", "vocab.json", "merges.txt"),
)
tiny = kit.tiny_clip


class Score(kit.Clip):
    """CLIPScore as torchmetrics has it by default: no weight of 2.5, in hundredths."""

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[float]:
        """One score a picture."""
        for cosines in self.cosines(pictures, prompts):
            yield from (100 * cosines.clamp(min=0)).tolist()


def load(asked: kit.Asked) -> Score:
    """CLIP from its folder."""
    return Score(asked.weights, asked.device)
