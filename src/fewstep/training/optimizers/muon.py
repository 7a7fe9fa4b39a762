"""Muon: momentum whose update of a matrix is made orthogonal, with AdamW for everything that is not a matrix.

Adam moves a matrix along a few dominant directions; an orthogonalised update moves it equally along all of them, which
learns rare associations (this prompt, that drawing) in fewer samples (arXiv 2502.16982; see docs/log.md for what it
brought here). A convolution counts as the matrix ``[C_out, C_in * kernel]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adamw import adamw

from ...methods.method import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: steep at 0, so that small singular values reach 1 in five rounds, roughly."""
SMALLEST = 32, 64
"""A matrix whose sides are shorter than these (a network's first and last layer) is left to AdamW."""


def orthogonalised(matrices: Float[Tensor, "K M N"], rounds: int = 5) -> Float[Tensor, "K M N"]:
    """About ``U V^T`` of each ``U S V^T``: every singular value brought to within .7 to 1.2 by Newton-Schulz."""
    a, b, c = NEWTON_SCHULZ
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, b * gram + c * gram @ gram, x, beta=a)
    return x if wide is matrices else x.mT


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon moves this parameter."""
    if parameter.dim() < 2:
        return False
    sides = sorted((parameter.shape[0], parameter[0].numel()))
    return sides[0] >= SMALLEST[0] and sides[1] >= SMALLEST[1]


def by_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    """Matrices of one shape together: a GPU then multiplies them at once rather than one small product after another."""
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for p in matrices:
        groups.setdefault((p.shape[0], p[0].numel()), []).append(p)
    return list(groups.values())


class Muon(torch.optim.Optimizer):
    """One optimiser for a whole network: Muon for its matrices, AdamW for the rest, one learning rate for both.

    A matrix moves by ``-lr * 0.2 sqrt(max(M, N)) * orthogonalised(momentum)``: the root mean square of an AdamW update, so
    that AdamW's learning rate and weight decay carry over (arXiv 2502.16982, Eq. 4). Momentum is Nesterov's.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "momentum": momentum, "eps": eps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None, "the trainer works out the losses itself"
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None and is_matrix(p)]
            others = [p for p in group["params"] if p.grad is not None and not is_matrix(p)]
            for alike in by_shape(matrices):
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                update = orthogonalised(torch.stack([self._momentum(p, group["momentum"]).flatten(1) for p in alike]))
                scale = 0.2 * max(update.shape[1:]) ** 0.5
                moves = [u.reshape(p.shape) for u, p in zip(update, alike)]
                torch._foreach_add_(alike, moves, alpha=-group["lr"] * scale)
            if others:
                self._adam(others, group)

    def _momentum(self, p: Tensor, decay: float) -> Tensor:
        assert p.grad is not None, "step() looks"
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(p.grad, 1 - decay)
        return p.grad.lerp(state["momentum"], decay)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] |= {"step": torch.tensor(0.0)} | {
                    k: torch.zeros_like(p) for k in ("exp_avg", "exp_avg_sq")
                }
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def build(parameters: Iterable[Tensor], o: Optimizer) -> torch.optim.Optimizer:
    """For these weights."""
    return Muon(parameters, o.learning_rate, (o.beta1, o.beta2), o.weight_decay)
