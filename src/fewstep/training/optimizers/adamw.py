"""AdamW (arXiv 1711.05101), as torch has it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...methods.method import Optimizer


def build(parameters: Iterable[Tensor], o: Optimizer) -> torch.optim.Optimizer:
    """For these weights, all of them at once."""
    return torch.optim.AdamW(
        parameters, lr=o.learning_rate, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, foreach=True
    )
