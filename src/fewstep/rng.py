"""Randomness is an argument. One seed per sample, so that picture i never depends on the batch it is drawn in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .tensors import exact_dtype


def fold(seed: int, *path: object) -> int:
    """Derive a 63-bit seed from a seed and a path of names or numbers: same path, same seed, on every machine."""
    digest = hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_seed(seed: int) -> int:
    """Return ``seed`` if torch can take it, else raise a ValueError that names the range."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is out of range: use a whole number from 0 to 2^63 - 1")
    return seed


class Rng:
    """A stream of draws. Built per sample (``Rng.per_sample``) or for a whole batch (``Rng.of``)."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device | str = "cpu") -> None:
        self._generators = list(generators)
        self._device = torch.device(device)

    @classmethod
    def of(cls, seed: int, *path: object, device: torch.device | str = "cpu") -> Rng:
        """One stream for a whole batch, named by ``(seed, *path)``: the trainer uses ``(seed, step, player)``."""
        return cls([torch.Generator().manual_seed(fold(seed, *path))], device)

    @classmethod
    def per_sample(cls, seeds: Sequence[int], device: torch.device | str = "cpu") -> Rng:
        """One stream a sample, seeded as diffusers seeds a generator list: same seed, same noise as a stock pipeline."""
        return cls([torch.Generator().manual_seed(check_seed(s)) for s in seeds], device)

    def copy(self) -> Rng:
        """A second stream that will draw what this one is about to draw."""
        return Rng([g.clone_state() for g in self._generators], self._device)

    def _draw(self, shape: Sequence[int], draw) -> Tensor:  # type: ignore[no-untyped-def]
        if len(self._generators) == 1:
            return draw(tuple(shape), self._generators[0]).to(self._device)
        if shape[0] != len(self._generators):
            raise ValueError(f"asked for {shape[0]} samples, but this Rng holds {len(self._generators)} seeds")
        return torch.cat([draw((1, *shape[1:]), g) for g in self._generators]).to(self._device)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard Gaussian of ``shape [B, ...]``."""
        return self._draw(shape, lambda s, g: torch.randn(s, generator=g, dtype=dtype))

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard Gaussian with the shape and dtype of ``x``."""
        return self.normal(x.shape, x.dtype)

    def uniform(self, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform in ``[low, high)``."""
        return self._draw(shape, lambda s, g: torch.rand(s, generator=g)) * (high - low) + low

    def integers(self, shape: Sequence[int], high: int) -> Tensor:
        """Uniform whole numbers in ``[0, high)``."""
        return self._draw(shape, lambda s, g: torch.randint(high, s, generator=g))

    def choice(self, values: Tensor, n: int, probabilities: Tensor | None = None) -> Tensor:
        """Draw ``n`` of ``values [K]`` with replacement; ``probabilities [K]`` default to equal."""
        p = torch.ones(len(values)) if probabilities is None else probabilities
        cdf = (p.double() / p.sum()).cumsum(0)
        picks = torch.searchsorted(cdf, self.uniform((n,)).cpu().double(), right=True).clamp(max=len(values) - 1)
        chosen = values.cpu()[picks]
        if chosen.dtype == torch.float64:
            chosen = chosen.to(exact_dtype(self._device))
        return chosen.to(self._device)


class Reordered(Rng):
    """The stream of another Rng, whose Gaussians are laid out in another order."""

    def __init__(self, rng: Rng, order: Callable[[Tensor], Tensor]) -> None:
        """``order`` puts the numbers of a draw ``[B, ...]`` elsewhere, row by row."""
        super().__init__(rng._generators, rng._device)
        self._order = order

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard Gaussian of ``shape [B, ...]``."""
        return self._order(super().normal(shape, dtype))
