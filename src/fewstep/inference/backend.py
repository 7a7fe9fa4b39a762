"""What runs a network: one file each in ``backends/``, named as its file is named. All are compared with eager.

A backend file offers two functions::

    def missing() -> str | None                       # what to install, as a sentence; None where it can be used
    def compile(module, example) -> Callable          # a function of tensors, for exactly the shapes of the example
    DEVICES = ("cpu",)                                # where it runs; may be left out if anywhere
    TOLERANCE = 1e-5                                  # relative error against eager that its tests allow; may be left out

Everything else is here: what of a denoiser is handed over, and whether what comes back may be trusted. The step from the
network's output to x0 is part of what is compiled, since a dozen small operations between two networks cost a
twentieth of a picture; its coefficients are computed here, in float64, so that no backend can get them wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from ..diffusion import prediction, sampler
from ..diffusion.schedule import CachedCoefficients
from ..parts.codec import Codec
from ..parts.denoiser import Denoiser
from ..plugin import Family
from ..tensors import Conditioning, Latents, Time, exactly

Compiled = Callable[..., Tensor]
Denoise = Callable[[Latents, Time, Conditioning], Latents]


@runtime_checkable
class Backend(Protocol):
    """The two functions of a backend file."""

    def missing(self) -> str | None:
        """One sentence about what has to be installed, or None where it can be used here."""

    def compile(self, module: nn.Module, example: Sequence[Tensor]) -> Compiled:
        """Make ``module`` ready for tensors of exactly the shapes and dtypes of ``example``."""


FAMILY = Family("fewstep.inference.backends", "backend", ("missing", "compile"))
"""What runs a network."""


def names() -> list[str]:
    """Every backend that has a file, eager first."""
    return sorted(FAMILY.names, key=lambda name: (name != "eager", name))


def load(name: str) -> Backend:
    """A backend by its file's name or, from outside, by a dotted path. Raises ValueError that lists what there is."""
    return cast(Backend, FAMILY.load(name))


def runs_on(backend: Backend, device: str) -> bool:
    """Whether it is made for a device: cpu, cuda or mps."""
    return device in getattr(backend, "DEVICES", ("cpu", "cuda", "mps"))


def usable(name: str, device: str = "cpu") -> Backend:
    """`load`, but a ValueError with what to do where it cannot run here, or not on this device."""
    backend = load(name)
    if (sentence := backend.missing()) is not None:
        raise ValueError(f"the backend {name!r} cannot run here: {sentence}")
    if not runs_on(backend, device):
        others = [n for n in names() if runs_on(load(n), device)]
        raise ValueError(f"the backend {name!r} does not run on {device}: use one of {', '.join(others)}")
    return backend


def installed() -> list[str]:
    """Backends that can be used here, eager first."""
    return [name for name in names() if load(name).missing() is None]


class Estimate(nn.Module):
    """x0 as a function of plain tensors: ``(x_t, t, c_x, c_out, *fields of cond that are there)``."""

    def __init__(self, denoiser: Denoiser, present: Sequence[str]) -> None:
        super().__init__()
        self.denoiser, self.present = denoiser, tuple(present)

    def forward(self, x_t: Tensor, t: Tensor, c_x: Tensor, c_out: Tensor, *cond: Tensor) -> Tensor:
        """``c_x x_t + c_out prediction`` (`prediction.coefficients`)."""
        out = self.denoiser.predict(x_t, t, Conditioning(**dict(zip(self.present, cond))))
        return prediction.combined(x_t, out.to(x_t.dtype), c_x, c_out)


class Decode(nn.Module):
    """A codec's decoder as a module."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Tensor:
        """Latents -> media."""
        return self.codec.decode(latents)


class Encode(nn.Module):
    """A codec's encoder as a module."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, media: Tensor) -> Tensor:
        """Media -> latents."""
        return self.codec.encode(media)


def fields_of(denoiser: Denoiser, cond: Conditioning) -> list[str]:
    """The fields of ``cond`` that this denoiser reads, where it says so; all that are there where it does not or finds none."""
    present = [f.name for f in fields(cond) if getattr(cond, f.name) is not None]
    return [name for name in present if name in getattr(denoiser, "reads", present)] or present


def compile_denoiser(backend: Backend, denoiser: Denoiser, x_t: Latents, cond: Conditioning) -> Denoise:
    """A drop-in for ``denoiser`` on inputs of exactly these shapes."""
    present = fields_of(denoiser, cond)
    schedule = denoiser.schedule
    coefficients = CachedCoefficients(
        lambda t: prediction.coefficients(denoiser.kind, schedule.alpha(t), schedule.sigma(t))
    )

    def inputs(x_t: Latents, t: Time, cond: Conditioning) -> tuple[Tensor, ...]:
        return (x_t, exactly(t), *coefficients(t), *(getattr(cond, name) for name in present))

    t = sampler.at(0.5, x_t)
    run = backend.compile(Estimate(denoiser, present).eval(), inputs(x_t, t, cond))
    return lambda x_t, t, cond: run(*inputs(x_t, t, cond))


def compile_decoder(backend: Backend, codec: Codec, latents: Latents) -> Compiled:
    """A drop-in for ``codec.decode`` on latents of exactly this shape."""
    return backend.compile(Decode(codec).eval(), (latents,))


def compile_encoder(backend: Backend, codec: Codec, media: Tensor) -> Compiled:
    """A drop-in for ``codec.encode`` on media of exactly this shape."""
    return backend.compile(Encode(codec).eval(), (media,))


def relative_error(answer: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    return float((answer - reference).norm() / reference.norm().clamp(min=1e-12))


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was asked for; a CPU always has."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def milliseconds(call: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of a call, after one that is not counted; what a GPU was asked for is waited for."""

    def finished() -> None:
        answer = call()
        if isinstance(answer, Tensor):
            wait_for(answer.device)

    finished()
    taken = []
    for _ in range(repeats):
        began = clock()
        finished()
        taken.append(1000 * (clock() - began))
    return sorted(taken)[len(taken) // 2]


TOLERANCE = 1e-3
"""Relative error up to which pictures are eager's pictures: far below what 8 bits show."""


@dataclass(frozen=True)
class Measured:
    """How a backend did on this machine with this network."""

    name: str
    ms: float
    """One evaluation."""
    error: float
    """Relative error of x0 against eager."""

    @property
    def exact(self) -> bool:
        """Whether its pictures are eager's."""
        return self.error <= TOLERANCE


NEARLY = 0.1
"""Relative error up to which a backend may be shed to: of bfloat16's order."""

CLEARLY = 1.2
"""How many times faster it must be for that."""


def choose(measured: Sequence[Measured]) -> tuple[Measured, ...]:
    """The fastest of those whose pictures are eager's pictures: speed alone never decides. Behind it, to be shed to, the
    fastest of those whose pictures nearly are, where that is clearly faster."""
    exact = [m for m in measured if m.exact]
    if not exact:
        raise ValueError(f"no backend comes within {TOLERANCE:g} of eager: use eager")
    best = min(exact, key=lambda m: m.ms)
    faster = [m for m in measured if not m.exact and m.error <= NEARLY and m.ms * CLEARLY <= best.ms]
    return (best, *sorted(faster, key=lambda m: m.ms)[:1])
