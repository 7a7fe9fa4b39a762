"""OpenVINO in bfloat16, for CPUs that compute in it (AVX-512 BF16, AMX): faster, and nearly eager's pictures, so never the
default. ``auto`` offers it to be shed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .. import graph, openvino_runtime

DEVICES = ("cpu",)
TOLERANCE = 0.1


def missing() -> str | None:
    """What to install, or that this CPU has no bfloat16."""
    if (sentence := graph.missing("openvino")) is not None:
        return sentence
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in able else "this CPU does not compute in bfloat16: use openvino"


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A compiled model with as many threads as torch has."""
    return openvino_runtime.compiled(module, example, "bf16")
