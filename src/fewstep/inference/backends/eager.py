"""torch as it is: the reference that every other backend is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


def missing() -> str | None:
    """Nothing: torch is always here."""
    return None


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The module itself."""
    return module
