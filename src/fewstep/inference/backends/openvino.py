"""OpenVINO in float32. Its own default on CPUs that have it is bfloat16, fast and 4-5% off: here parity is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import graph

DEVICES = ("cpu",)


def missing() -> str | None:
    """What to install, if anything."""
    return graph.missing("openvino")


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A compiled model with as many threads as torch has."""
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph.exported(module, example)), "CPU", hints)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Tensor:
        results = request.infer([x.detach().contiguous().numpy() for x in inputs], share_inputs=True)
        return torch.from_numpy(np.array(results[0]))

    return run
