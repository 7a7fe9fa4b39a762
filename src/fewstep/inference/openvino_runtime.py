"""OpenVINO on the CPU in a given precision, for the backends that are named after one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import graph


def compiled(module: nn.Module, example: Sequence[Tensor], precision: str) -> Callable[..., Tensor]:
    """A compiled model with as many threads as torch has; ``precision`` is f32 or bf16.

    OpenVINO lends the compiling thread a stack for its signal handlers and takes it back when the model goes; of two
    models that go in the order they came, the second leaves a freed stack behind, and the next Ctrl-C is a crash. So
    each is compiled in a thread that ends with it.
    """
    import openvino

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as aside:
        request = aside.submit(_compile, graph.exported(module, example), threads, precision).result()

    lent = [
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in example
    ]  # bound once: binding costs more
    for i, place in enumerate(lent):
        request.set_input_tensor(i, openvino.Tensor(place.numpy(), shared_memory=True))
    result = torch.from_numpy(request.get_output_tensor(0).data)

    def run(*inputs: Tensor) -> Tensor:
        for place, x in zip(lent, inputs, strict=True):
            if x.shape != place.shape:
                raise ValueError(
                    f"compiled for an input of {list(place.shape)}, not {list(x.shape)}: compile it for that shape"
                )
            place.copy_(x)
        request.infer(share_outputs=True)
        return result.clone()

    return run


def _compile(path: Path, threads: int, precision: str) -> Any:
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    return core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()
