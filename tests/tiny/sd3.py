"""Stable Diffusion 3: three text encoders, a flow."""

from __future__ import annotations

import foreign
from tiny import Tiny

TINY = Tiny(
    foreign.sd3,
    without={
        "freeze": "no inner convolutions to freeze: use --student lora or --student full",
        "image to image": "the stock pipeline asks its scheduler for scale_noise, which those with trailing times have not",
    },
)
