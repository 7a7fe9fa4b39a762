"""PickScore: how people who chose between pictures of a prompt would like this one (arXiv:2305.01569)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import kit

KIND = "score"
LICENCE = "MIT"
PINS = kit.NETWORK
WEIGHTS = kit.Weights(
    "hf download yuvalkirstain/PickScore_v1 config.json model.safetensors --local-dir {folder} && "
    "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K vocab.json merges.txt --local-dir {folder}",
    {"model.safetensors": "ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e"},
    ("config.json", "vocab.json", "merges.txt"),
)
tiny = kit.tiny_clip


class Score(kit.Clip):
    """The cosine times the model's own learned scale: about 20 with its own weights."""

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[float]:
        """One score a picture."""
        for cosines in self.cosines(pictures, prompts):
            yield from (self.model.logit_scale.exp() * cosines).tolist()


def load(asked: kit.Asked) -> Score:
    """A CLIP ViT-H/14 from its folder."""
    return Score(asked.weights, asked.device)
