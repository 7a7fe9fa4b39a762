"""How many operations a network takes: a multiplication and an addition are two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of attention between tensors of these shapes, ``[B, heads, tokens, width]``: of its two products."""
    return int(sdpa_flop_count(query, key, value))


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_attention_math_for_mps: attention,
}
"""Attention on a CPU and on Apple's mps: torch's counter knows that of CUDA alone, and counts these as nothing."""


def operations(call: Callable[[], object]) -> int:
    """Those of one ``call``: matrix products, convolutions and attention, on every device alike; nothing else is counted."""
    # no inference_mode: the counter fails in it where a module is given a parameter, as Sana's last norm is
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        call()
    return int(counter.get_total_flops())
