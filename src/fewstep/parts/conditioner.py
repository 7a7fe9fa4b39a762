"""Conditioners: prompts or labels -> Conditioning. Text encoders stand in ``pretrained/``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..tensors import Conditioning


class Conditioner(nn.Module):
    """Turns what a person asks for into Conditioning. ``null(n)`` is what it says when nothing is asked for."""

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Encode n prompts."""
        raise NotImplementedError("a Conditioner subclass gives forward()")

    def null(self, n: int) -> Conditioning:
        """The unconditional Conditioning, n rows."""
        return self([""] * n)


class ClassConditioner(Conditioner):
    """Class names -> labels; ``pooled`` is the one-hot label, which the discriminator's projection uses."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Look names up; the empty string is the null class. Raises ValueError for an unknown name."""
        unknown = [p for p in prompts if p and p not in self.names]
        if unknown:
            raise ValueError(f"unknown class {unknown[0]!r}: this model draws {', '.join(self.names)}")
        labels = torch.tensor([self.names.index(p) if p else len(self.names) for p in prompts])
        return self.of_labels(labels)

    def of_labels(self, labels: torch.Tensor) -> Conditioning:
        """Conditioning of whole-number labels ``[B]``; the null class is ``len(names)``."""
        n = len(self.names)
        return Conditioning(labels=labels, pooled=F.one_hot(labels, n + 1)[:, :n].float())
