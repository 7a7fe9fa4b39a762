"""Exponential moving average of a network's weights: the one that is kept, shown and shipped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """``average <- decay * average + (1 - decay) * weights``, with the warm-up ``min(decay, (1 + n) / (10 + n))``.

    The average's error from its start fades as ``decay^n``; the warm-up lets short runs forget their start too.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay {decay} must lie in [0, 1); 0 keeps the last weights")
        self.decay, self.updates = decay, 0
        self.average = copy.deepcopy({k: v.detach() for k, v in network.state_dict().items()})

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights; integer buffers are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged = [(a, v) for (k, v) in network.state_dict().items() if (a := self.average[k]).is_floating_point()]
        torch._foreach_lerp_([a for a, _ in averaged], [v.detach() for _, v in averaged], 1 - decay)
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                self.average[key].copy_(value)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[nn.Module]:
        """Lend the averaged weights to ``network`` and give the trained ones back, also after an error."""
        trained = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.average)
        try:
            yield network
        finally:
            network.load_state_dict(trained)
