"""Do raters agree? Cohen's kappa for two, Krippendorff's alpha for any number of them and any gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Difference = Callable[[Float[Tensor, " V"], Float[Tensor, " V"]], Float[Tensor, "V V"]]
"""Squared difference ``delta^2 [V, V]`` of all values, given them and how often each was said."""


def cohen_kappa(table: Sequence[Sequence[float]]) -> float:
    """Agreement beyond chance of two raters: ``(p_o - p_e) / (1 - p_e)`` (Cohen 1960); nan where chance explains everything.

    ``table[i][j]`` counts what the one called i and the other j.
    """
    counts = torch.tensor(table, dtype=torch.float64)
    total = float(counts.sum())
    if not total:
        return math.nan
    seen = float(counts.trace()) / total
    chance = float(counts.sum(0) @ counts.sum(1)) / total**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


def nominal(values: Float[Tensor, " V"], said: Float[Tensor, " V"]) -> Float[Tensor, "V V"]:
    """1 for unlike values."""
    return (values[:, None] != values).double()


def interval(values: Float[Tensor, " V"], said: Float[Tensor, " V"]) -> Float[Tensor, "V V"]:
    """The square of what lies between: a tie is nearer to either side than the sides are to each other."""
    return (values[:, None] - values) ** 2


def krippendorff_alpha(units: Sequence[Sequence[float]], difference: Difference = nominal) -> float:
    """``1 - D_o / D_e``: 1 is agreement, 0 is what chance gives (Krippendorff 2011, "Computing Krippendorff's alpha").

    ``units`` holds for every thing that was judged the values it was given, however many; one alone says nothing of
    agreement and is left out. nan where fewer than two values were ever said: nothing could have differed.
    """
    judged = [list(unit) for unit in units if len(unit) > 1]
    values = sorted({value for unit in judged for value in unit})
    if len(values) < 2:
        return math.nan
    place = {value: v for v, value in enumerate(values)}
    together = torch.zeros(len(values), len(values), dtype=torch.float64)
    for unit in judged:
        said = torch.zeros(len(values), dtype=torch.float64)
        for value in unit:
            said[place[value]] += 1
        together += (torch.outer(said, said) - said.diag()) / (len(unit) - 1)
    said = together.sum(1)
    apart = difference(torch.tensor(values, dtype=torch.float64), said)
    expected = float((torch.outer(said, said) * apart).sum()) / (float(said.sum()) - 1)
    return 1 - float((together * apart).sum()) / expected
