"""Which numbers an option takes: written into its type, beside its owner, and checked in one place before anything begins.

``steps: Count = 1000`` is an ``int`` to everybody else. A number that is not finite is out of every range, and so is a whole
number that no 64 bits hold, whether the option has a range of its own or not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``above`` leaves ``low`` out."""

    low: float
    high: float = math.inf
    above: bool = False
    said: str = ""
    """Its words, where the numbers are none for people."""

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in it; NaN and infinity lie in none."""
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.said:
            return self.said
        if self.high == math.inf:
            return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'more than' if self.above else 'from'} {self.low:,.10g} to {self.high:,.10g}"


ANY = Range(-(2**63), 2**63 - 1, said="a finite number of at most 64 bits")
SEEDS = Range(0, 2**63 - 1, said="a whole number from 0 to 2^63 - 1")
Count = Annotated[int, Range(1, 10**9)]
"""How many of something that there must be."""
Counts = Annotated[tuple[int, ...], Range(1, 10**9)]
Limit = Annotated[int, Range(0, 10**9)]
"""How many of something; 0 is none, or no limit."""
Share = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0, 1e9)]
"""A weight of a loss, or seconds: 0 switches it off."""
Rate = Annotated[float, Range(0, 1e9, above=True)]
"""A learning rate. Beyond its range a step overflows."""
Seed = Annotated[int, SEEDS]
Seeds = Annotated[tuple[int, ...], SEEDS]
Threads = Annotated[int, Range(1, 256)]
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
"""Numbers that networks are counted in; auto is fp16 on a GPU and fp32 on a CPU."""


@dataclass(frozen=True)
class Placement:
    """Where networks run, and in which numbers: the same two options wherever pictures are drawn."""

    device: str = "cpu"
    """Where the networks run: cpu, cuda or cuda:1 for an NVIDIA GPU, mps for Apple's (which no test of ours has seen)."""
    dtype: Dtype = "auto"
    """Numbers of the networks; auto is fp16 on a GPU, fp32 on a CPU. Seeds give the same noise everywhere."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """What a training on it is counted in: bf16 where that is asked for, else fp32."""
        return "bf16" if self.dtype == "bf16" else "fp32"


USUAL = Placement()
"""Where no other place is given."""
Sides = Annotated[tuple[int, ...], Range(1, 65536)]
"""Sizes of pictures, in pixels."""


@dataclass(frozen=True)
class Place:
    """Marks a path that is written to: it ends in a name."""

    def holds(self, value: Path) -> bool:
        """Whether something can be made there: not at an empty path, a blank one, ``.``, ``..`` or ``/``."""
        return value.name.strip() not in ("", "..")


NewPath = Annotated[Path, Place()]
"""Where something is written."""


def check_device(device: str) -> None:
    """Refuse a device that is not known or not here. Raises ValueError with the fix."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", device):
        raise ValueError(f"unknown device {device!r}: use cpu, cuda, cuda:1 (the second GPU) or mps")
    if device == "cpu":
        return
    import torch

    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("torch sees no Apple GPU (mps) here: use --device cpu, or cuda for an NVIDIA GPU")
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ValueError(f"torch sees no GPU {device} here: use --device cpu, or install a torch with CUDA")


def check_devices(devices: Sequence[str]) -> None:
    """Refuse devices that are not known, not here, or not of one kind. Raises ValueError with the fix."""
    if len({device.partition(":")[0] for device in devices}) != 1:
        raise ValueError(f"--device {' '.join(devices)}: name one or several of one kind, as cuda:0 cuda:1")
    for device in devices:
        check_device(device)


def checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which refuses arguments that are out of their ranges before it begins."""

    @wraps(command)
    def check_first(*args: Any, **kwargs: Any) -> Any:
        given = signature(command).bind(*args, **kwargs).arguments
        hints = get_type_hints(command, include_extras=True)
        for name, value, range_ in numbers(hints, given):
            if not range_.holds(value):
                raise ValueError(f"--{name.replace('_', '-')} {value} is out of range: use {range_}")
        for name, value, told in values(hints, given):
            if isinstance(value, Path) and not all(extra.holds(value) for extra in told if isinstance(extra, Place)):
                raise ValueError(
                    f"--{name.replace('_', '-')} {value} is no place to write to: give a path that ends in a name"
                )
        return command(*args, **kwargs)

    return check_first


def numbers(hints: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float, Range]]:
    """Every number among the values, those of option dataclasses and rows included: its option's name, itself, its range."""
    for name, value, told in values(hints, given, prefix):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value, next((extra for extra in told if isinstance(extra, Range)), ANY)


def values(
    hints: Mapping[str, Any], given: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Every value, one by one where there are rows of them: its option's name, itself, and what its type is marked with."""
    for name, value in given.items():
        told = getattr(hints.get(name), "__metadata__", ())
        if is_dataclass(value):
            own = {f.name: getattr(value, f.name) for f in fields(value)}
            flat = any(getattr(extra, "name", None) == "" for extra in told)  # tyro's word for fields without a prefix
            inside = prefix if flat else f"{before(prefix, told)}{name}."
            yield from values(get_type_hints(type(value), include_extras=True), own, inside)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            yield f"{before(prefix, told)}{name}", one, told


def before(prefix: str, told: Sequence[Any]) -> str:
    """What stands before an option's name: nothing where it is marked as ``options.SHARED``."""
    return "" if any(getattr(extra, "prefix_name", None) is False for extra in told) else prefix


def path_options(hints: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The options that take a path, by name, those of option dataclasses included."""
    for name, hint in hints.items():
        told = getattr(hint, "__metadata__", ())
        inner = hint.__origin__ if told else hint
        if is_dataclass(inner) and isinstance(inner, type):
            flat = any(getattr(extra, "name", None) == "" for extra in told)
            yield from path_options(
                get_type_hints(inner, include_extras=True), prefix if flat else f"{before(prefix, told)}{name}."
            )
        elif inner is Path or Path in get_args(inner):
            yield f"{before(prefix, told)}{name}"
