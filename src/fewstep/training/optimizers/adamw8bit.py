"""AdamW whose two moments take a byte each: 2.03 bytes a weight instead of 8 (Dettmers et al., arXiv 2110.02861).

A moment is cut into blocks of 256 numbers. Of each block the largest magnitude is kept in float32; every number is the nearest of
256 values between -1 and 1, times that. The values lie dense around 0 (``dynamic``), for most of a moment is small beside its
largest. Small tensors, such as biases and norms, keep float32: they weigh nothing, and an error there costs most.

The states are plain tensors, so that a checkpoint holds them as they are and a run goes on bit for bit; the usual packages keep
them in classes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ...methods.method import Optimizer

BLOCK = 256
"""Numbers that share a scale."""
SMALLEST = 4096
"""Tensors of fewer numbers keep float32."""
DECADES = 7
"""Powers of ten between the smallest value and 1."""


def dynamic(signed: bool) -> Float[Tensor, "256"]:
    """The 256 values, rising: in each of seven decades twice as many as in the one below, evenly spaced; and 0 and 1.

    A signed moment spends half of them on negative ones (arXiv 2110.02861, section 2.1).
    """
    values = [0.0, 1.0]
    for k in range(DECADES):
        n = 2**k if signed else 2 ** (k + 1)
        edges = torch.linspace(0.1, 1, n + 1, dtype=torch.float64)
        middles = 10.0 ** (k + 1 - DECADES) * (edges[:-1] + edges[1:]) / 2
        values += middles.tolist() + ((-middles).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32)


TABLES = {True: dynamic(True), False: dynamic(False)}
"""The values of a first moment (signed) and of a second one."""


def packed(x: Tensor, signed: bool) -> tuple[UInt8[Tensor, " N"], Float[Tensor, " K"]]:
    """The nearest value's number of each number of x, and the scale of each block."""
    table = TABLES[signed].to(x.device)
    flat = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % BLOCK)).reshape(-1, BLOCK)
    scale = flat.abs().amax(1)
    ratio = flat / scale.clamp(min=1e-38)[:, None]
    code = torch.bucketize(ratio, (table[:-1] + table[1:]) / 2)
    return code.flatten()[: x.numel()].to(torch.uint8), scale


def unpacked(code: UInt8[Tensor, " N"], scale: Float[Tensor, " K"], signed: bool, like: Tensor) -> Tensor:
    """What `packed` kept, in the shape of ``like``, float32."""
    values = TABLES[signed].to(code.device)[code.int()]
    return (values * scale.repeat_interleave(BLOCK)[: len(code)]).reshape(like.shape)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW on moments of 8 bits; weights, gradients and arithmetic stay as they are."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient (arXiv 1711.05101, Algorithm 2)."""
        assert closure is None, "the trainer works out the losses itself"
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad.float(), group)

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state = self.state[p]
        step = state["step"] = state.get("step", torch.tensor(0.0)) + 1
        first = self._moment(p, "exp_avg").lerp_(gradient, 1 - beta1)
        second = self._moment(p, "exp_avg_sq").mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._keep(p, "exp_avg", first)
        self._keep(p, "exp_avg_sq", second)
        size = (second / (1 - beta2 ** float(step))).sqrt_().add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcdiv_(first.to(p.dtype), size.to(p.dtype), value=-group["lr"] / (1 - beta1 ** float(step)))

    def _moment(self, p: Tensor, name: str) -> Tensor:
        state = self.state[p]
        if name not in state:
            return torch.zeros_like(p, dtype=torch.float32)
        if f"{name}_scale" not in state:
            return state[name]
        return unpacked(state[name], state[f"{name}_scale"], name == "exp_avg", p)

    def _keep(self, p: Tensor, name: str, value: Tensor) -> None:
        state = self.state[p]
        if p.numel() < SMALLEST:
            state[name] = value
        else:
            state[name], state[f"{name}_scale"] = packed(value, name == "exp_avg")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put a state back; torch gives every tensor of it the weights' dtype, so bytes are made bytes again."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if f"{name}_scale" in state:
                    state[name] = state[name].to(torch.uint8)


def build(parameters: Iterable[Tensor], o: Optimizer) -> torch.optim.Optimizer:
    """For these weights."""
    return AdamW8bit(parameters, o.learning_rate, (o.beta1, o.beta2), o.weight_decay)
