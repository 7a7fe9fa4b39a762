"""OpenVINO in float32. Its own default on CPUs that have it is bfloat16, fast and 4-5% off: here parity is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .. import graph, openvino_runtime

DEVICES = ("cpu",)


def missing() -> str | None:
    """What to install, if anything."""
    return graph.missing("openvino")


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A compiled model with as many threads as torch has."""
    return openvino_runtime.compiled(module, example, "f32")
