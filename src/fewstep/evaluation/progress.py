"""How good is a student while it is being trained? Cheap figures of pictures drawn from fixed prompts and fixed noise.

The same prompts, the same noise and the same real pictures every time, so that what changes is the student. Too few pictures
for a Fréchet distance that may be reported, enough to tell one state of one run from another.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..tensors import Features, Media
from . import diversity, frechet
from . import sharpness as pixels

Network = Callable[[Media], Features]
Evaluation = Callable[[], dict[str, float]]
Measure = Callable[[Callable[[], Media], Media, int], Evaluation]
"""Makes an evaluation of ``draw() -> media``, of the real media to compare with, and of the number of rounds that are drawn:
every round has one picture of every prompt, in the same order."""
SHARPNESS = {"edges": pixels.edges, "highs": pixels.highs}


def measure_with(network: Network, batch: int = 32) -> Measure:
    """A ``measure(draw, real, rounds)`` through a frozen network, which must not be the discriminator's.

    It returns a function that draws pictures and gives their figures:

    * ``fd``: Fréchet distance of the network's features from those of ``real``;
    * ``edges``, ``highs``: sharpness over that of ``real``, if it has any; feature distances hardly punish blur;
    * ``score``: ``fd (1 + (|ln edges| + |ln highs|) / 2)``, the lower the better: half as sharp counts as 69% further away;
    * ``diversity``: mean feature distance between pictures of one prompt, over that between all of ``real``.
    """

    @torch.no_grad()
    def seen(media: Media) -> Tensor:
        found = [network(part).pooled for part in media.split(batch)]
        return torch.cat([f.double().cpu() for f in found if f is not None])

    def measure(draw: Callable[[], Media], real: Media, rounds: int) -> Evaluation:
        wanted = seen(real)
        unlike = diversity.pairwise_distance(wanted)
        sharp = {name: float(of(real).mean()) for name, of in SHARPNESS.items()}

        def evaluated() -> dict[str, float]:
            media = draw().float().cpu().clamp(-1, 1)
            if not media.isfinite().all():
                return {"score": math.inf}
            features = seen(media)
            ratios = {name: float(of(media).mean()) / sharp[name] for name, of in SHARPNESS.items() if sharp[name] > 0}
            blur = sum(abs(math.log(max(ratio, 1e-6))) for ratio in ratios.values()) / len(SHARPNESS)
            distance = frechet.frechet(features, wanted)
            prompts = torch.arange(len(features) // rounds).repeat(rounds)
            varied = float(diversity.per_prompt(features, prompts)[1].mean())
            return {
                "score": distance * (1 + blur),
                "fd": distance,
                **ratios,
                "diversity": varied / unlike if unlike > 0 else 1.0,
            }

        return evaluated

    return measure
