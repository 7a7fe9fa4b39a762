"""Stable Diffusion 3 and 3.5: three text encoders, a flow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import foreign
from tiny import Tiny, Variant, scaled

BY_SIZE = {"use_dynamic_shifting": True, "base_shift": 0.4, "max_shift": 1.3}
NO_T5 = {"text_encoder_3": None, "tokenizer_3": None}


def make(root: Path, **options: Any) -> Path:
    """A teacher that listens."""
    return scaled(foreign.sd3(root, **options), "transformer", 8, "context_embedder.weight", "norm_out.linear.weight")


TINY = Tiny(
    make,
    variants={
        "3.5 large": Variant(partial(make, qk_norm="rms_norm")),
        "3.5 medium": Variant(partial(make, qk_norm="rms_norm", dual_attention_layers=(0, 1))),
        "without T5": Variant(partial(make, with_t5=False), NO_T5),
        "shift by the size": Variant(partial(make, shift=BY_SIZE)),
    },
    without={
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
        "image to image": "the stock pipeline asks its scheduler for scale_noise, which those with trailing times have not",
    },
)
