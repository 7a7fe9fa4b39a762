"""ONNX Runtime in float32 on the CPU: 1.3 to 1.8 times eager on a quiet core, more on a busy one; the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import graph

DEVICES = ("cpu",)


def missing() -> str | None:
    """What to install, if anything."""
    return graph.missing("onnxruntime")


def compile(module: nn.Module, example: Sequence[Tensor]) -> Callable[..., Tensor]:
    """A session with as many threads as torch has; they sleep while they wait, so that a busy machine stays usable."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    data = graph.exported(module, example).read_bytes()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: x.detach().contiguous().numpy() for name, x in zip(names, inputs)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run
