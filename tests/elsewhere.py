"""A GPU for machines without one: tensors on the ``meta`` device have shapes and a place, but no values.

``elsewhere()`` lets a whole training run there. Whoever asks for a value gets a made-up one, and whoever lets tensors of
two devices meet in one operation, as a GPU would not, gets an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = {"_to_copy", "copy_", "_foreach_copy_", "zeros_like", "ones_like", "empty_like", "full_like", "new_tensor"}


class Values(TorchFunctionMode):
    """Answers for tensors that have none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            name = getattr(function, "__name__", "")
            if name in ("item", "__float__"):
                return 0.5
            if name in ("__bool__", "__int__", "__index__"):
                return False if name == "__bool__" else 0
            if name == "isfinite":
                return torch.ones(first.shape, dtype=torch.bool)
            leaves = [str(a) for a in tree_leaves((args[1:], kwargs)) if isinstance(a, str | torch.device)]
            if name in ("cpu", "numpy", "tolist") or (name == "to" and leaves[:1] == ["cpu"]):
                here = torch.zeros(first.shape, dtype=first.dtype)
                return here if name in ("cpu", "to") else getattr(here, name)()
        return function(*args, **kwargs)


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of two devices, but for copies and numbers in a tensor, as CUDA does."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        found = {str(x.device) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and (x.dim() or x.is_meta)}
        if len(found) > 1 and name not in COPIES:
            raise RuntimeError(f"{function} is given tensors on {' and '.join(sorted(found))}")
        return function(*args, **(kwargs or {}))


@contextmanager
def elsewhere() -> Iterator[str]:
    """Yields the name of the device."""
    foreach = "torch.nn.utils.clip_grad._device_has_foreach_support"  # says no to meta, whose kernels are there
    with Values(), OneDevice(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreach, lambda device: True)
        yield "meta"
