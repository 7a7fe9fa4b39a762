"""What the families share whose models are told a class, or nothing: names, and schedulers for pipelines that scale no noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...parts.conditioner import ClassConditioner, Conditioner, Unread
from ...tensors import Conditioning
from ..schedules import prediction_type
from .family import table_of


class NamedClasses(ClassConditioner):
    """A `ClassConditioner` whose classes have several names, of which the first is the one that is told."""

    def __init__(self, names: Sequence[Sequence[str]]) -> None:
        super().__init__([own[0] for own in names])
        self._first = {name: own[0] for own in reversed(names) for name in own}

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Look any of the names up."""
        return super().forward([self._first.get(prompt, prompt) for prompt in prompts])


def class_conditioner(index: Mapping[str, Any], classes: int) -> NamedClasses:
    """Names as ``model_index.json`` has them in ``id2label``, several with commas between; a class without is its number."""
    told = index.get("id2label")
    of: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    names = [[name.strip() for name in str(of.get(str(k), "")).split(",") if name.strip()] for k in range(classes)]
    return NamedClasses([own or [str(k)] for k, own in enumerate(names)])


@dataclass(frozen=True)
class Unheard(Unread):
    """A prompt that was given to a model which takes none."""

    @property
    def sentence(self) -> str:
        """For people."""
        return f"this model draws without a prompt: {self.told!r} changes nothing"


class Unconditional(Conditioner):
    """For models that are told nothing: every prompt is the empty one."""

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """One constant a prompt."""
        return Conditioning(pooled=torch.zeros(len(prompts), 1))

    def unread(self, prompts: Sequence[str]) -> list[Unread | None]:
        """Every prompt that asks for something."""
        return [Unheard(p, len(p.split()), 0, "", "") if p.strip() else None for p in prompts]


def without_scaling(role: str, config: Mapping[str, Any], usual: Callable[[str, Mapping[str, Any]], Any]) -> Any:
    """The scheduler to save for a pipeline that hands its noise on as it is: DDPM's for a student, ``usual`` for a teacher.

    DDPM's scheduler with small fixed variances is the ancestral sampler (arXiv 2006.11239, Eq. 6). Those of Euler's kind
    want their noise scaled first, which such a pipeline does not do.
    """
    import diffusers

    if role != "student":
        return usual(role, config)
    return diffusers.DDPMScheduler(
        prediction_type=prediction_type(dict(config)),
        timestep_spacing="trailing",
        variance_type="fixed_small",
        clip_sample=False,
        **table_of(config),
    )
