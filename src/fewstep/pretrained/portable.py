"""Tokenizers and text encoders on disk so that transformers 4 and 5 both read them, whichever of the two wrote them.

transformers 5 keeps a tokenizer in ``tokenizer.json`` alone, and CLIP's text weights without their ``text_model.``. The
classes that transformers 4 and its diffusers open a pipeline with want the vocabulary beside it, and draw weights of
other names at random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

CLIP_PREFIX = "text_model."
MERGES_HEAD = "#version: 0.2"


def make_portable(folder: Path) -> None:
    """Complete every tokenizer and text encoder of a pipeline's folder in place; what is there already stays as it is."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if part.name.startswith("tokenizer"):
            write_vocabulary(part)
        elif part.name.startswith("text_encoder"):
            name_clip_weights(part)


def write_vocabulary(tokenizer: Path) -> None:
    """Beside ``tokenizer.json``: ``vocab.txt`` for word pieces (BERT), ``vocab.json`` and ``merges.txt`` for pairs (CLIP)."""
    if not (source := tokenizer / "tokenizer.json").is_file():
        return
    model: dict[str, Any] = json.loads(source.read_text("utf-8")).get("model") or {}
    kind, vocabulary = model.get("type"), model.get("vocab")
    if not isinstance(vocabulary, dict):  # a unigram model's file (T5) cannot be made from it
        return
    if kind == "WordPiece" and not (own := tokenizer / "vocab.txt").exists():
        words = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[word] for word in words] == list(range(len(words))):  # a line's number is its token
            own.write_text("".join(f"{word}\n" for word in words), "utf-8", newline="\n")
    if kind == "BPE" and not (own := tokenizer / "vocab.json").exists():
        own.write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8", newline="\n")
    if kind == "BPE" and not (own := tokenizer / "merges.txt").exists():
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
        own.write_text("".join(f"{line}\n" for line in (MERGES_HEAD, *pairs)), "utf-8", newline="\n")


def name_clip_weights(encoder: Path) -> None:
    """Give a CLIP text encoder's weights the names that transformers 4 expects; transformers 5 reads those too."""
    config, weights = encoder / "config.json", encoder / "model.safetensors"
    if not (config.is_file() and weights.is_file()):
        return
    if json.loads(config.read_text("utf-8")).get("model_type") != "clip_text_model":
        return
    with safe_open(weights, "pt") as file:
        names = list(file.keys())
    bare = [name for name in names if name.startswith(("embeddings.", "encoder.", "final_layer_norm."))]
    if bare:
        state = {CLIP_PREFIX * (name in bare) + name: value for name, value in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
