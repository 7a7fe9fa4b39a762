"""torch.compile, for GPUs: on a CPU its first call takes a minute and gains little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

DEVICES = ("cuda",)


def missing() -> str | None:
    """A GPU."""
    return (
        None if torch.cuda.is_available() else "torch.compile pays on a GPU only, and there is none: use onnx or eager"
    )


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """The module compiled for one shape; traced here, not at the first user's first picture."""
    run = torch.compile(module, mode="reduce-overhead", dynamic=False)
    with torch.no_grad():
        for _ in range(3):
            run(*example)
    return lambda *inputs: run(*inputs).clone()
