"""How a model is drawn to be looked at: under which settings, in how many steps, from which noises.

A student may be drawn in step counts that its card does not list. It has no times for them. It is then drawn as any diffusion
model is: at trailing times, by its own sampler, without guidance. That is said wherever such a row is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..bundle import Card
from ..data.dataset import spread
from ..inference.pipeline import Pipeline, Request
from ..parts.conditioner import ClassConditioner
from ..ranges import Count, Range
from ..rng import fold

STEPS = (1, 2, 4, 8, 25, 50)
PROMPTS = (
    "a red heart",
    "a green leaf",
    "a yellow sun",
    "a blue fish",
    "a brown dog",
    "a pink flower",
    "a black cat",
    "a house",
)
"""What is drawn where no list is given: words that the shipped model knows."""
OWN = "its card's settings"
AT_ONCE = 16
"""Pictures that are drawn in one call; which others there are changes none of them."""
STRONG = 7.5
"""The guidance that stock tools use where nobody says another."""


@dataclass(frozen=True)
class Options:
    """How a model is looked at."""

    steps: Annotated[tuple[int, ...], Range(1, 1000)] = STEPS
    """Step counts that it is drawn in."""
    wrong_steps: Annotated[tuple[int, ...], Range(1, 1000)] = (1, 4, 25)
    """Those of them that it is drawn in under other settings than its own, its fewest and its best beside them."""
    n: Count = 8
    """Prompts that are drawn, at most."""
    noises: Annotated[int, Range(2, 64)] = 4
    """Pictures of each prompt."""
    guidance_scale: float | None = None
    """Look at it with this guidance, and not with what its card says."""
    sampler: Literal["ancestral", "renoise", "ddim", "heun"] | None = None
    """Look at it with this sampler."""
    teacher: str = ""
    """A model to hold it against: its pictures, its parameters and its speed."""
    data: str = ""
    """A dataset to hold it against, by folder or name: its captions are drawn, and its real pictures looked at."""
    calls: Annotated[int, Range(1, 1000)] = 9
    """Calls of the network that are timed; the median is reported."""


@dataclass(frozen=True)
class Setting:
    """A way to draw a model."""

    name: str
    """In words."""
    guidance_scale: float | None = None
    """None is the card's."""
    sampler: str | None = None
    """None is the card's."""
    leading: bool = False
    """Whether the times begin short of pure noise, as stock tools have them without trailing spacing."""

    @property
    def plain(self) -> bool:
        """Whether it is what the card says."""
        return self.guidance_scale is None and self.sampler is None and not self.leading

    def card(self, card: Card, steps: int) -> Card:
        """A card that has a model drawn so. A student's own counts stay as they are; beyond them, and with guidance, it is
        drawn as any diffusion model is: at trailing times, which it was not trained at."""
        own = self.guidance_scale in (None, 0, 1) and self.sampler in (None, card.sampler) and not self.leading
        if card.role == "student" and own and steps in card.steps:
            return card
        scale = self.guidance_scale if self.guidance_scale is not None else card.guidance_scale
        times = {str(steps): leading_times(steps)} if self.leading else {}
        given = {} if self.sampler == "heun" else card.times_by_steps
        return replace(
            card, role="teacher", guidance_scale=1.0 if scale == 0 else scale, sampler=self.sampler or card.sampler,
            times_by_steps={**given, **times}, sizes=(),
        )  # fmt: skip


def leading_times(steps: int, n: int = 1000) -> tuple[float, ...]:
    """Times that end where clean data begins, and so begin short of pure noise: stock ``timestep_spacing="leading"`` with an
    offset of 1 (arXiv 2305.08891, table 2)."""
    return tuple((i * (n // steps) + 2) / n for i in reversed(range(steps)))


def settings_of(card: Card, o: Options) -> tuple[Setting, ...]:
    """What was asked for first; then the card's own, if that is another; then the usual wrong ones."""
    named = [f"guidance {o.guidance_scale:g}"] if o.guidance_scale is not None else []
    named += [f"the {o.sampler} sampler"] if o.sampler is not None else []
    said = " and ".join(named)
    others = [Setting(OWN)] if said else []
    scale = 1.0 if card.role == "student" else card.guidance_scale
    if scale != 1:
        others.append(Setting("guidance 1", guidance_scale=1.0))
    if scale != STRONG:
        others.append(Setting(f"guidance {STRONG:g}", guidance_scale=STRONG))
    other = "ddim" if card.sampler != "ddim" else "ancestral"
    others.append(Setting(f"the {other} sampler", sampler=other))
    if scale != 1:  # as a student would have it that was taken for a teacher
        others.append(Setting(f"guidance 1 and the {other} sampler", 1.0, other))
    others.append(Setting("leading times", leading=True))
    asked = Setting(said or OWN, o.guidance_scale, o.sampler)
    kept = [s for s in others if (s.guidance_scale, s.sampler, s.leading) != (o.guidance_scale, o.sampler, False)]
    return (asked, *kept)


def prompts_of(pipeline: Pipeline, given: Sequence[str], n: int) -> list[str]:
    """What is drawn: of a list that is given, spread evenly; else the names of its classes, or `PROMPTS`."""
    conditioner = pipeline.model.conditioner
    known = conditioner.names if isinstance(conditioner, ClassConditioner) else PROMPTS
    every = list(dict.fromkeys(given)) or list(known)
    return [every[i] for i in spread(n, len(every))]


def drawn_shape(pipeline: Pipeline) -> tuple[int, ...]:
    """Shape ``(C, *S)`` of what a model draws, from one call of its codec."""
    latents = torch.zeros((1, *pipeline.latent_shape()), device=pipeline.device)
    with torch.inference_mode():
        return tuple(pipeline.model.codec.decode(latents).shape[1:])


class Drawing:
    """Draws a model under any setting, always from the same noises."""

    def __init__(self, pipeline: Pipeline, prompts: Sequence[str], noises: int) -> None:
        self.pipeline, self.prompts, self.noises = pipeline, tuple(prompts), noises
        self.cond = pipeline.encode(self.prompts)

    @torch.inference_mode()
    def __call__(self, setting: Setting, steps: int) -> Float[Tensor, "N C *S"]:
        """``noises`` pictures of every prompt, prompt by prompt, in [-1, 1]. Raises ValueError where they are not finite."""
        card = setting.card(self.pipeline.card, steps)
        drawn = Pipeline(self.pipeline.model, card, self.pipeline.denoise)
        of = [i for i in range(len(self.prompts)) for _ in range(self.noises)]
        seeds = [fold(seed, prompt) for prompt in self.prompts for seed in range(self.noises)]
        parts = []
        for first in range(0, len(of), AT_ONCE):
            rows = of[first : first + AT_ONCE]
            asked = [self.prompts[i] for i in rows]
            request = Request(asked, seeds[first : first + AT_ONCE], steps, cond=self.cond[rows])
            parts.append(drawn(request).float().cpu())
        media = torch.cat(parts)
        if not media.isfinite().all():
            raise ValueError(
                f"{card.name} draws pictures that are not finite ({setting.name}, {steps} steps): it is broken"
            )
        return media
