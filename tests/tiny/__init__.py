"""Tiny folders of every model family, one file each: real classes of diffusers and transformers, a few thousand random weights.

``TINY[name]`` goes with ``fewstep.pretrained.families.NAME``; tests/pretrained/test_families.py holds both to each other.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

PROMPTS = ("a red heart", "a blue house", "a cat")

ONE_LONG = ("a red heart", "a blue house with wings " * 40, "a cat")
"""The second is longer than language models read: where it is cut has to be where the stock pipeline cuts it."""


def by_prompt(prompts: Sequence[str]) -> dict[str, Any]:
    """What most stock pipelines are asked with."""
    return {"prompt": list(prompts)}


def as_they_are(pipe: Any, latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents that the stock pipeline keeps as ``[B, C, H, W]``."""
    return latents


class Variant(NamedTuple):
    """Another model of a family."""

    make: Callable[[Path], Path]
    """Writes its folder below the one that is given, and says where."""
    opened: Mapping[str, Any] = {}
    """Arguments that stock diffusers opens it with."""


@dataclass(frozen=True)
class Tiny:
    """A family's smallest model, and how its stock pipeline is asked."""

    make: Callable[[Path], Path]
    """Writes a teacher's folder below the one that is given, and says where."""
    prompts: tuple[str, ...] = PROMPTS
    """Three."""
    call: Callable[[Sequence[str]], Mapping[str, Any]] = by_prompt
    """The stock pipeline's own arguments for prompts."""
    guided: str = "guidance_scale"
    """Its argument that weighs classifier-free guidance; empty where it has none."""
    stock_scale: Callable[[float], float] = float
    """Weight of guidance, 1 for none -> the value of that argument: some pipelines count from 0."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that are always given."""
    other: tuple[int, int] | None = (24, 16)
    """Another size that it can draw, (H, W) in pixels; None where its stock pipeline draws one size alone."""
    spatial: Callable[[Any, Tensor, tuple[int, int]], Tensor] = as_they_are
    """``(pipe, latents, (H, W))`` -> the stock pipeline's latents as ``[B, C, H, W]``; the size is in pixels."""
    auto: bool = True
    """Whether ``AutoPipelineForText2Image`` opens it; else ``DiffusionPipeline`` does."""
    student: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the stock pipeline that its student is drawn with, beside ``guidance_scale=0``."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that the stock teacher needs beside, to be drawn without guidance."""
    variants: Mapping[str, Variant] = field(default_factory=dict)
    """The family's other models, by what they are: each is held to its own stock pipeline's x0."""
    refused: Sequence[tuple[str, Mapping[str, Any], str]] = ()
    """Config files, lines that are changed in them, and the sentence, as a pattern, that refuses the folder then."""
    without: Mapping[str, str] = field(default_factory=dict)
    """Checks of the suite that cannot be held, and why, as docs/models.md says it: "image to image", "prompts", "fp16". For
    "lora" and "freeze" it is the sentence, as a pattern, that refuses them."""

    @property
    def no_guidance(self) -> dict[str, float]:
        """``guidance_scale=0``, as a student is drawn, where the pipeline has the argument."""
        return {"guidance_scale": 0} if self.guided else {}

    def size(self, native: Sequence[int], other: bool = False) -> tuple[int, int]:
        """(H, W) of the native size, or of the other one."""
        height, width = self.other if other and self.other else native
        return (height, width)


def tiny() -> dict[str, Tiny]:
    """Every family's, by the family's name."""
    names = [m.name for m in pkgutil.iter_modules(__path__)]
    return {name: importlib.import_module(f"{__name__}.{name}").TINY for name in names}


def scaled(folder: Path, component: str, factor: float, *names: str) -> Path:
    """Multiply the weights whose names hold one of ``names``: random networks hardly look at their text, some hardly draw."""
    path = folder / component / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    assert any(part in name for name in state for part in names)
    state = {name: value * (factor if any(part in name for part in names) else 1) for name, value in state.items()}
    save_file(state, path, metadata={"format": "pt"})
    return folder


def byte_pairs(text: Sequence[str], size: int, special: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of ``size`` byte pairs, ``special`` ones first, and its merges: letters, and what a text has often."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.normalizer = normalizers.Replace(" ", "▁")  # type: ignore[assignment]
    model.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # type: ignore[assignment]
    letters = ["▁", "\n", *map(chr, range(33, 127))]
    model.train_from_iterator(text, trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=letters))
    found = json.loads(model.to_str())["model"]
    return found["vocab"], [(a, b) for a, b in found["merges"]]


def gemma(width: int, text: Sequence[str]) -> tuple[Any, Any]:
    """A Gemma tokenizer that has tokens for what is frequent in a text, and a Gemma 2 of two layers."""
    from tokenizers.processors import TemplateProcessing
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    vocabulary, merges = byte_pairs(text, 300, ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    config = Gemma2Config(
        vocab_size=len(vocabulary), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, sliding_window=64,
    )  # fmt: skip
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=merges)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return tokenizer, Gemma2Model(config).eval()


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if not enable_thinking %}<think>{% endif %}"
)
"""What matters of Qwen3's own template."""


def qwen(width: int) -> tuple[Any, Any]:
    """A Qwen tokenizer of single bytes with a chat's marks, and a Qwen3 of three layers."""
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocabulary = {word: i for i, word in enumerate([*bytes_to_unicode().values(), "<|endoftext|>"])}
    marks = ["<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=marks, chat_template=CHAT)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return tokenizer, Qwen3Model(config).eval()
