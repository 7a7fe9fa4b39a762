"""Exponential moving average of a network's weights: the one that is kept, shown and shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def moving(network: nn.Module) -> dict[str, Tensor]:
    """The part of a network's state that training moves: its trainable weights and its buffers, not its frozen weights."""
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def load_moving(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put back what ``moving`` gave."""
    network.load_state_dict({**network.state_dict(), **values})


class EMA:
    """``average <- decay * average + (1 - decay) * weights``, with the warm-up ``min(decay, (1 + n) / (10 + n))``.

    The average's error from its start fades as ``decay^n``; the warm-up lets short runs forget their start too. Frozen
    weights are neither averaged nor kept: of a LoRA only the low-rank weights are.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay {decay} must lie in [0, 1); 0 keeps the last weights")
        self.decay, self.updates = decay, 0
        self.average = {k: v.detach().clone() for k, v in moving(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights; integer buffers are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = network.state_dict()
        averaged = [(a, state[k]) for k, a in self.average.items() if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in averaged], [v.detach() for _, v in averaged], 1 - decay)
        for key, average in self.average.items():
            if not average.is_floating_point():
                average.copy_(state[key])

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[nn.Module]:
        """Lend the averaged weights to ``network`` and give the trained ones back, also after an error."""
        state = network.state_dict()
        trained = {k: state[k].detach().clone() for k in self.average}
        load_moving(network, self.average)
        try:
            yield network
        finally:
            load_moving(network, trained)
