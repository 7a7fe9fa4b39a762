"""Prompt -> picture: opens a bundle and draws, with nothing on the path that is not needed for one network call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import pretrained
from ..bundle import Card
from ..diffusion import sampler
from ..diffusion.guidance import guide
from ..parts.denoiser import Student, noise_to
from ..rng import Rng, check_seed
from ..tensors import Conditioning, Latents, Media, Time

Denoise = Callable[[Latents, Time, Conditioning], Latents]


@dataclass(frozen=True)
class Request:
    """What to draw. ``prompts`` and ``seeds`` go together, one picture each."""

    prompts: Sequence[str]
    """What the pictures should show."""
    seeds: Sequence[int]
    """One seed a picture: the same seed gives the same picture in any batch."""
    steps: int = 1
    """Network evaluations a picture (a guided teacher needs two a step)."""
    guidance_scale: float | None = None
    """Guidance for a teacher; None takes the card's. Students need none."""
    sampler: str | None = None
    """ancestral | renoise | ddim | heun; None takes the card's."""
    image: Media | None = None
    """Start from these pictures instead of from noise."""
    strength: float = 1.0
    """How far ``image`` may be changed, in (0, 1]: mapped onto the nearest time the model can start from."""


class Pipeline:
    """A bundle ready to draw. Calling it gives media in [-1, 1]; ``estimates`` yields every step's x0 on the way."""

    def __init__(self, model: pretrained.Pretrained, card: Card, denoise: Denoise | None = None) -> None:
        self.model, self.card = model, card
        self.denoise: Denoise = denoise or model.denoiser
        self._encoded: OrderedDict[str, Conditioning] = OrderedDict()
        self._schedule = model.denoiser.schedule
        if card.role == "student":
            self._student = Student(model.denoiser, card.times or (1.0,))

    @classmethod
    def open(cls, folder: Path | str) -> Pipeline:
        """Load a bundle folder. Raises ValueError with the fix if it is not one."""
        folder = Path(folder)
        card = Card.read(folder)
        return cls(pretrained.load(folder), card)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts; each distinct prompt is encoded once and remembered."""
        missing = [p for p in dict.fromkeys(prompts) if p not in self._encoded]
        if missing:
            fresh = self.model.conditioner(missing)
            for i, prompt in enumerate(missing):
                self._encoded[prompt] = fresh[[i]]
        rows = [self._encoded[p] for p in prompts]
        for prompt in prompts:
            self._encoded.move_to_end(prompt)
        while len(self._encoded) > 4096:
            self._encoded.popitem(last=False)
        return rows[0] if len(rows) == 1 else Conditioning.cat(rows)

    def times(self, steps: int) -> Sequence[float]:
        """The times that ``steps`` steps visit."""
        if self.card.role == "student":
            return self._student.times_for(steps)
        return sampler.trailing_times(steps)

    def start(self, request: Request, rng: Rng) -> tuple[Latents, Sequence[float]]:
        """Where sampling begins: pure noise and all times, or the noised picture and the times that are left."""
        times = self.times(request.steps)
        noise = rng.normal((len(request.prompts), *self.model.latent_shape))
        if request.image is None:
            return noise, times
        if not 0 < request.strength <= 1:
            raise ValueError(f"strength {request.strength} is out of range: use more than 0 and at most 1")
        every = self.times(max(self.card.steps)) if self.card.role == "student" else times
        nearest = min(every, key=lambda t: abs(t - request.strength))
        left = [t for t in every if t <= nearest][: request.steps]
        x0 = self.model.codec.encode(request.image)
        t = sampler.at(left[0], x0)
        return noise_to(self._schedule, x0, noise, t), left

    def estimates(self, request: Request) -> Iterator[Latents]:
        """Yield the x0 estimate of every step, as latents."""
        if len(request.prompts) != len(request.seeds) or not request.prompts:
            raise ValueError(
                f"{len(request.prompts)} prompts and {len(request.seeds)} seeds: give as many seeds as prompts, at least one"
            )
        for seed in request.seeds:
            check_seed(seed)
        self.card.check_use(request.steps, request.guidance_scale)
        cond = self.encode(request.prompts)
        rng = Rng.per_sample(request.seeds)
        x_t, times = self.start(request, rng)
        kind = request.sampler or self.card.sampler
        denoise = self._bind(cond, request)
        if request.image is None:
            return sampler.sample(denoise, x_t, times, self._schedule, rng, kind)
        return sampler.sample_from(denoise, x_t, times, self._schedule, rng, kind)

    def _bind(self, cond: Conditioning, request: Request) -> Callable[[Latents, Tensor], Latents]:
        scale = self.card.guidance_scale if request.guidance_scale is None else request.guidance_scale
        if self.card.role == "student" or scale in (0, 1):
            return lambda x, t: self.denoise(x, t, cond)
        both = Conditioning.cat([cond, self.encode([""] * len(cond))])

        def guided(x: Latents, t: Tensor) -> Latents:
            conditional, null = self.denoise(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return guide(conditional, null, scale)

        return guided

    @torch.inference_mode()
    def __call__(self, request: Request) -> Media:
        """Draw: media ``[B, 3, H, W]`` in [-1, 1]."""
        return self.model.codec.decode(sampler.last(self.estimates(request))).clamp(-1, 1)

    def draw(
        self, prompt: str | Sequence[str], steps: int = 1, seed: int | Sequence[int] = 0, **options: object
    ) -> Media:
        """Shorthand: one prompt or many, one seed (counted up for the rest) or many."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        return self(Request(prompts, seeds, steps, **options))  # type: ignore[arg-type]

    def evaluations(self, request: Request) -> int:
        """Network evaluations (NFE) that one picture of this request costs."""
        scale = self.card.guidance_scale if request.guidance_scale is None else request.guidance_scale
        guided = 2 if self.card.role != "student" and scale not in (0, 1) else 1
        kind = request.sampler or self.card.sampler
        return guided * (2 * request.steps - 1 if kind == "heun" else request.steps)
