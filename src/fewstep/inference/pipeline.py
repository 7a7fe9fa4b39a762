"""Prompt -> picture: opens a bundle and draws, with nothing on the path that is not needed for one network call."""

from __future__ import annotations

import math
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .. import pretrained
from ..bundle import Card, card_of
from ..diffusion import sampler
from ..diffusion.schedule import CachedSchedule
from ..parts.conditioner import Unread, UnreadWarning
from ..parts.denoiser import Student, noise_to
from ..ranges import Dtype, check_device
from ..rng import Reordered, Rng, check_seed
from ..sizes import spoken
from ..tensors import Conditioning, Latents, Media, Time
from .cache import Cache

__all__ = ["Pipeline", "Request", "blend"]
Denoise = Callable[[Latents, Time, Conditioning], Latents]
PROMPTS_BYTES = 256 * 2**20
"""Bytes that cached prompt encodings may take on the text encoder's device: 94 of Stable Diffusion 3's, which has 2.7 MB
each, and of a small model all that anybody types."""
UNREAD_BYTES = 2**20
"""The same for what was left unread of them."""


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
    """ancestral | renoise | ddim | heun (a teacher's); None takes the card's."""
    image: Media | None = None
    """Start from these pictures instead of from noise."""
    strength: float = 1.0
    """How far ``image`` may be changed, in (0, 1]: mapped onto the nearest time the model can start from."""
    mask: Float[Tensor, "B 1 *P"] | None = None
    """Where ``image`` is drawn anew: 1; where it is kept: 0; in between, both. None is everywhere."""
    size: tuple[int, ...] | None = None
    """Media size; None takes the native one, or that of ``image``."""
    cond: Conditioning | None = None
    """The prompts, encoded already (a blend of two, say); None encodes ``prompts``."""
    x0: Latents | None = None
    """``image``, encoded already; None encodes ``image``."""


DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the command line's word; auto is left to `Pipeline.open`."""


class Pipeline:
    """A bundle ready to draw. Calling it gives media in [-1, 1]; ``estimates`` yields every step's x0 on the way."""

    def __init__(self, model: pretrained.Pretrained, card: Card, denoise: Denoise | None = None) -> None:
        self.model, self.card = model, card
        self.denoise: Denoise = denoise or model.denoiser
        self._encoded: Cache[str, Conditioning] = Cache(PROMPTS_BYTES)
        self._null: Conditioning | None = None
        self._schedule = CachedSchedule(model.denoiser.schedule, card.unit_start)
        weight = next(model.denoiser.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        """Where it draws, and the numbers of its networks."""
        self._looked_at: Cache[str, tuple[Unread | None]] = Cache(UNREAD_BYTES)
        if card.embedded_guidance:
            model.denoiser.guidance = card.embedded_guidance
        if card.role == "student":
            self._student = Student(model.denoiser, card.times or (1.0,))

    @classmethod
    def open(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype | Dtype | None = None
    ) -> Pipeline:
        """Load a bundle, or any diffusers text-to-image folder. Raises ValueError with the fix if it is not one.

        ``dtype`` is the networks'; None or auto is float16 on a GPU, float32 elsewhere. Samplers stay in float32 and float64.
        """
        check_device(str(device))
        folder = Path(folder)
        usual = torch.float32 if torch.device(device).type == "cpu" else torch.float16
        numbers = DTYPES.get(dtype, usual) if isinstance(dtype, str) else dtype or usual
        if numbers == torch.bfloat16 and torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError(f"{device} has no units for bf16: use --dtype fp16 or fp32")
        model = pretrained.load(folder, numbers)
        return cls(model.to(device), card_of(folder, model))

    @property
    def machine(self) -> str:
        """What it draws on, to stand beside timings: the processor's name, and the precision if not fp32."""
        named = platform.processor() or platform.machine()
        place = {"cpu": f"{named} CPU", "mps": f"{named} GPU (mps)"}.get(self.device.type)
        place = place or torch.cuda.get_device_name(self.device)
        return place if self.dtype == torch.float32 else f"{place}, {str(self.dtype).removeprefix('torch.')}"

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts; each distinct prompt is encoded once and remembered."""
        found = {p: self._encoded.get(p) for p in dict.fromkeys(prompts)}
        missing = [p for p, known in found.items() if known is None]
        if missing:
            fresh = self.model.conditioner(missing)
            for i, prompt in enumerate(missing):
                found[prompt] = row = fresh[[i]]
                self._encoded.put(prompt, row, bytes_of(row) + sys.getsizeof(prompt))
        rows = [row for p in prompts if (row := found[p]) is not None]
        return rows[0] if len(rows) == 1 else Conditioning.cat(rows)

    def unread(self, prompt: str) -> Unread | None:
        """The part of a prompt that the text encoder does not read; None where it reads it whole."""
        known = self._looked_at.get(prompt)
        if known is None:
            known = (self.model.conditioner.unread([prompt])[0],)
            self._looked_at.put(prompt, known, 2 * sys.getsizeof(prompt) + 1000)
        return known[0]

    def _encode_aloud(self, prompts: Sequence[str]) -> Conditioning:
        """`encode`; an UnreadWarning says once of each prompt what was not read of it."""
        fresh = [p for p in dict.fromkeys(prompts) if p not in self._encoded]
        cond = self.encode(prompts)
        for prompt in fresh:
            if (left := self.unread(prompt)) is not None:
                warnings.warn(left.sentence, UnreadWarning, stacklevel=2)
        return cond

    def times(self, steps: int) -> Sequence[float]:
        """The times that ``steps`` steps visit."""
        if own := self.card.times_by_steps.get(str(steps)):
            return own
        if self.card.role == "student":
            return self._student.times_for(steps)
        return sampler.visited(self.card.sampler, sampler.trailing_times(steps))

    def times_from(self, steps: int, strength: float) -> Sequence[float]:
        """The times that ``steps`` steps visit from a picture on: from the known time nearest to ``strength``, never none."""
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength} is out of range: use more than 0 and at most 1")
        every = self.times(max(self.card.steps) if self.card.role == "student" else steps)
        nearest = min(every, key=lambda t: abs(t - strength))
        return sampler.visited(self.card.sampler, [t for t in every if t <= nearest][:steps])

    def latent_shape(self, size: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Shape of one sample's latents for a media size. Raises ValueError for one that the codec or the network cannot make."""
        channels, *native = self.model.latent_shape
        if size is None:
            return (channels, *native)
        factors = [m // n for m, n in zip(self.card.native_size, native)]
        multiples = [f * self.model.patch for f in factors]
        if len(size) != len(native) or any(s % m or s <= 0 for s, m in zip(size, multiples)):
            raise ValueError(_unfit(size, multiples))
        if max(size) > self.model.longest:
            raise ValueError(
                f"cannot draw {spoken(size)} (width first): {self.card.name} has places for sides of at most "
                f"{self.model.longest} pixels"
            )
        return (channels, *(s // f for s, f in zip(size, factors)))

    def start(self, request: Request, rng: Rng) -> tuple[Latents, Sequence[float], Latents | None]:
        """Where sampling begins: noise and times; or a noised picture, the times that are left, and its clean latents."""
        x0 = request.x0
        if x0 is None and request.image is not None:
            x0 = self.model.codec.encode(request.image.to(self.device))
        if x0 is None:
            noise = rng.normal((len(request.seeds), *self.latent_shape(request.size)))
            return noise, self.times(request.steps), None
        times = self.times_from(request.steps, request.strength)
        return noise_to(self._schedule, x0, rng.normal_like(x0), sampler.at(times[0], x0)), times, x0

    def estimates(self, request: Request) -> Iterator[Latents]:
        """Yield the x0 estimate of every step, as latents."""
        if len(request.prompts) != len(request.seeds) or not request.prompts:
            raise ValueError(
                f"{len(request.prompts)} prompts and {len(request.seeds)} seeds: give as many seeds as prompts, at least one"
            )
        for seed in request.seeds:
            check_seed(seed)
        self.card.check_use(request.steps, request.guidance_scale, request.size)
        cond = self._encode_aloud(request.prompts) if request.cond is None else request.cond
        rng = Rng.per_sample(request.seeds, self.device)
        x_t, times, x0 = self.start(request, rng)
        kind = request.sampler or self.card.sampler
        if self.card.role == "student":
            self._student.check_sampler(kind)
        denoise = self._bind(cond, request)
        rng = Reordered(rng, self.model.denoiser.as_drawn)
        if x0 is None:
            return sampler.sample(denoise, x_t, times, self._schedule, rng, kind)
        if request.mask is not None:
            denoise = keeping(denoise, x0, request.mask)
        return sampler.sample_from(denoise, x_t, times, self._schedule, rng, kind)

    def _bind(self, cond: Conditioning, request: Request) -> Callable[[Latents, Tensor], Latents]:
        scale = self.card.guidance_scale if request.guidance_scale is None else request.guidance_scale
        if self.card.role == "student" or scale in (0, 1):
            return lambda x, t: self.denoise(x, t, cond)
        if self._null is None:
            self._null = self.model.conditioner.null(1)
        both = Conditioning.cat([cond, self._null[[0] * len(cond)]])

        def guided(x: Latents, t: Tensor) -> Latents:
            conditional, null = self.denoise(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
            return self.model.denoiser.guide(x, t, conditional, null, scale)

        return guided

    def latents(self, request: Request) -> Latents:
        """Draw, short of decoding."""
        return sampler.last(self.estimates(request))

    @torch.inference_mode()
    def __call__(self, request: Request) -> Media:
        """Draw: media ``[B, 3, H, W]`` in [-1, 1]."""
        media = self.model.codec.decode(self.latents(request)).clamp(-1, 1)
        if request.image is None or request.mask is None:
            return media
        return torch.lerp(request.image.to(media), media, request.mask.to(media))

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
        noise = request.image is None and request.x0 is None
        steps = request.steps if noise else len(self.times_from(request.steps, request.strength))
        return guided * (2 * steps - 1 if (request.sampler or self.card.sampler) == "heun" else steps)


def _unfit(size: Sequence[int], factors: Sequence[int]) -> str:
    """Why a media size cannot be drawn, and the nearest that can; ``factors`` are what each axis is a multiple of."""
    if len(size) != len(factors):
        return f"cannot draw {spoken(size)}: this model's media have {len(factors)} axes, not {len(size)}"
    nearest = spoken([max(1, round(side / factor)) * factor for side, factor in zip(size, factors)])
    every = f"a multiple of {factors[0]}" if len(set(factors)) == 1 else f"multiples of {spoken(factors)}"
    return f"cannot draw {spoken(size)} (width first): every side must be {every}, the nearest is {nearest}"


def keeping(
    denoise: Callable[[Latents, Tensor], Latents], x0: Latents, mask: Float[Tensor, "B 1 *P"]
) -> Callable[[Latents, Tensor], Latents]:
    """Inpainting: the estimate of every step is ``x0`` itself wherever ``mask`` (media-sized) is 0."""
    change = F.interpolate(mask.to(x0), size=x0.shape[2:], mode="area")
    return lambda x, t: torch.lerp(x0, denoise(x, t), change)


def bytes_of(cond: Conditioning) -> int:
    """Bytes that an encoded prompt keeps in memory, also where its tensors are views of larger ones."""
    tensors = [value for f in fields(cond) if isinstance(value := getattr(cond, f.name), Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def blend(parts: Sequence[Conditioning], weights: Sequence[float]) -> Conditioning:
    """Weighted mean of encoded prompts, weights made to add up to 1. Raises ValueError for weights that cannot."""
    total = math.fsum(weights)
    if len(parts) != len(weights) or not parts or min(weights) < 0 or not total > 0:
        raise ValueError("give one weight of 0 or more for each prompt, at least one above 0")
    if parts[0].labels is not None:
        raise ValueError("classes cannot be blended: this model takes one class name")

    def mean(name: str) -> Tensor | None:
        if getattr(parts[0], name) is None:
            return None
        return torch.stack([getattr(part, name) * (weight / total) for part, weight in zip(parts, weights)]).sum(0)

    masks = [part.mask for part in parts if part.mask is not None]
    mask = torch.stack(masks).amax(0) if masks else None
    return Conditioning(tokens=mean("tokens"), pooled=mean("pooled"), image=mean("image"), mask=mask)
