"""Drifting: samples move towards data and away from one another in feature space (Deng et al., arXiv 2602.04770).

==================  ================================================================================
paper               here
==================  ================================================================================
f_theta             ``student``
x                   ``sample``: a group of samples of one condition
y+                  positives: the group's data, or samples of the teacher (``Options.positives``)
y-                  the group's other samples
phi                 ``levels_of``: levels of a frozen network, averaged over windows of 4
R                   ``Options.radii``
V                   `field`
==================  ================================================================================

The student regresses onto where it stands plus V, held fixed: ``mean ||phi(x) - sg(phi(x) + V)||^2``. V is 0 where samples and
positives are distributed alike. It is no gradient of an adversary and needs none; one may stand beside it. Without an anchor, the
regression onto the teacher's trajectories, samples of a prompt come to look alike (arXiv 2605.07327).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..diffusion import sampler
from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE, SHARED
from ..parts import discriminator
from ..parts.adversary import Adversary
from ..parts.codec import Codec
from ..parts.denoiser import Denoiser, Student, Teacher
from ..parts.features.feature import FeatureNetwork, Space
from ..ranges import Range, Weight
from ..rng import Rng
from ..tensors import Batch, Conditioning, Features, Latents, Time, full_precision
from . import adversarial
from .adversarial import Adversarial, Reals, adversary_of, followed
from .method import UNKNOWN, Facts, Parts

WINDOW = 4
"""Places of a feature map along each axis that are averaged into one."""
SELF = 1e6
"""Added to a sample's distance from itself, so that it does not push itself away."""


@dataclass(frozen=True)
class Options(adversarial.Options):
    """Drifting and its switches."""

    drift_weight: Annotated[Weight, CHANGEABLE] = 0.1
    """Weight of the drift."""
    radii: Annotated[tuple[float, ...], Range(0, above=True)] = (0.02, 0.05, 0.2)
    """Temperatures R of the affinity, in units of the mean distance: small ones see the nearest positive only."""
    group: Annotated[int, Range(2, 4096)] = 8
    """Samples of one condition that are compared with one another; the batch is made of such groups."""
    positives: Reals = "data"
    """What samples drift to: the data, or the teacher's samples of the same prompt, of which there can be more
    (``--warm.pairs``)."""
    through: Literal["teacher", "features"] = "teacher"
    """Where distances are measured: in the teacher's own features, or in those of the discriminator's network
    (``--features``)."""
    noise_level: Annotated[float, Range(0, 1)] = 0.1
    """Time that samples are noised to before the teacher sees them, 0 clean and 1 pure noise. Of ``through teacher`` only."""
    regression_weight: Annotated[Weight, CHANGEABLE] = 1.0
    """Weight of the anchor: regression onto the teacher's trajectories, which keeps every mode. 0 needs no trajectories.
    ``regression_steps`` makes it one at every student time."""
    adversarial_weight: Annotated[Weight, CHANGEABLE] = 0.0
    """Weight of an adversarial loss beside it; 0 leaves the adversary out."""
    heads: Annotated[discriminator.Options, SHARED] = field(default_factory=lambda: discriminator.Options(image=False))
    """The discriminator's heads."""

    @property
    def used(self) -> bool:
        """The feature network, by the adversary or by the drift."""
        return bool(self.adversarial_weight) or self.through == "features"


def check(o: Options, facts: Facts = UNKNOWN) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    adversarial.check(o, facts)
    if not o.drift_weight:
        raise ValueError("the drift has weight 0, so nothing would drift: give --drifting.drift-weight more")
    if not o.radii:
        raise ValueError("the drift needs a radius: give --drifting.radii 0.02 0.05 0.2")
    if o.positives == "teacher" and o.embeds and o.adversarial_weight:
        raise ValueError("the teacher's samples come without the embedding of a picture: give --heads.no-image")
    if facts.batch_size is not None and facts.batch_size % o.group:
        raise ValueError(
            f"{facts.batch_size} samples that are looked at together cannot be filled with groups of {o.group}: choose a "
            f"batch size that is a multiple of it, or another --drifting.group"
        )


def distances(a: Float[Tensor, "*G N D"], b: Float[Tensor, "*G M D"]) -> Float[Tensor, "*G N M"]:
    """Euclidean distances, by differences: exact where two points coincide."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def affinity(
    x: Float[Tensor, "*G N D"], positives: Float[Tensor, "*G M D"], radius: float
) -> tuple[Float[Tensor, "*G N M"], Float[Tensor, "*G N N"]]:
    """How much each sample is drawn to each positive, and pushed by each other sample (arXiv 2602.04770, Algorithm 2).

    The geometric mean of the softmax of ``-distance / radius`` over both kinds together (rows) and over the samples (columns).
    Each kind is weighed by the other's mass: both have the same mass in the end, and a sample that nobody is near to is
    drawn to its positives and pushed little.
    """
    itself = SELF * torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    closeness = -torch.cat([distances(x, positives), distances(x, x) + itself], -1) / radius
    shared = (closeness.softmax(-1) * closeness.softmax(-2)).sqrt()
    pull, push = shared.split([positives.shape[-2], x.shape[-2]], -1)
    return pull * push.sum(-1, keepdim=True), push * pull.sum(-1, keepdim=True)


def drift(
    x: Float[Tensor, "*G N D"], positives: Float[Tensor, "*G M D"], radii: Sequence[float]
) -> Float[Tensor, "*G N D"]:
    """V, for features scaled to a mean distance of ``sqrt(D)``: for each radius, in units of that distance, a field scaled to
    a root mean square of 1; their sum.

    The root mean square is of all groups together: a place where all samples are alike, such as a plain background, is not
    made loud. A field that is nothing but rounding stays as small as it is.
    """
    total = torch.zeros_like(x)
    for radius in radii:
        pull, push = affinity(x, positives, radius * x.shape[-1] ** 0.5)
        moved = pull @ positives - push @ x
        total = total + moved / moved.pow(2).mean().sqrt().clamp(min=1e-6)
    return total


def levels_of(seen: Features, group: int) -> list[Float[Tensor, "P G N C"]]:
    """Every level averaged over windows of 4 places along each axis, place by place, and averaged over all places."""
    made = []
    for level in seen.levels:
        pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[level.dim() - 3]
        small = pool(level, [max(1, side // WINDOW) for side in level.shape[2:]]).flatten(2)
        for places in (small, small.mean(2, keepdim=True)):
            made.append(places.permute(2, 0, 1).unflatten(1, (-1, group)))
    return made


class NoisedFeatures:
    """The teacher's features at one noise level, low enough to see detail."""

    space: Space = "latents"

    def __init__(self, denoiser: Denoiser, t: float) -> None:
        self.denoiser, self.t = denoiser, t

    def __call__(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        """Features of ``x`` under new noise; gradients reach ``x``."""
        t = sampler.at(self.t, x)
        return self.denoiser.features(add_noise(self.denoiser.schedule, x, rng.normal_like(x), t), t, cond)


class Drifting(Adversarial):
    """A student whose samples drift, with an anchor and an adversary if asked."""

    def __init__(
        self,
        student: Student,
        see: FeatureNetwork,
        codec: Codec,
        adversary: Adversary | None,
        options: Options = Options(),
        teacher: Teacher | None = None,
    ) -> None:
        """``see`` is the network that distances are measured in. ``teacher`` may be None where ``regression_steps`` is 0."""
        check(options)
        super().__init__(student, adversary, options, options.positives, teacher)
        self.options: Options = options
        self.see, self.codec = see, codec

    def beside(self, sample: Latents, shown: tuple[Latents, Time], batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``drift`` and ``regression``."""
        o = self.options
        out = {"drift": o.drift_weight * self.drift(self.tap(sample, "drift"), batch, rng)}
        return out | super().beside(sample, shown, batch, rng)

    def drift(self, sample: Latents, batch: Batch, rng: Rng) -> Tensor:
        """``sum over levels of mean ||phi(x) - sg(phi(x) + V)||^2``, in full precision; distances are divided by their mean."""
        o = self.options
        with full_precision(sample):
            own = levels_of(self._seen(sample.float(), batch, rng), o.group)
            with torch.no_grad():
                positives = levels_of(self._seen(batch.x0.float(), batch, rng), o.group)
            total = sample.new_zeros((), dtype=torch.float32)
            for x, y in zip(own, positives, strict=True):
                with torch.no_grad():
                    unit = (distances(x, y).mean() / x.shape[-1] ** 0.5).clamp(min=1e-12)
                    target = x / unit + drift(x / unit, y / unit, o.radii)
                total = total + (x / unit - target).pow(2).mean()
            self._observed |= self._variety(own, positives)
        return total / len(own)

    def _seen(self, x: Latents, batch: Batch, rng: Rng) -> Features:
        return self.see(self.codec.decode(x) if self.see.space == "media" else x, batch.cond, rng)

    @torch.no_grad()
    def _variety(self, own: list[Tensor], positives: list[Tensor]) -> dict[str, float]:
        """``group_distance``: samples of a group from one another, in units of positives from one another."""
        pairs = own[0].shape[-2] - 1
        among = [torch.stack([distances(v, v).sum(-1).mean() / pairs for v in kind]) for kind in (own, positives)]
        return {"group_distance": float((among[0] / among[1].clamp(min=1e-12)).mean())}


def build(o: Options, parts: Parts) -> Drifting:
    """Drifting of a run's parts, in groups of one condition."""
    parts.group(o.group)
    teacher = followed(o, parts, o.positives)
    see: FeatureNetwork = NoisedFeatures(parts.teacher.denoiser, o.noise_level)
    if o.through == "features":
        see = parts.features(o)
    return Drifting(parts.student, see, parts.codec, adversary_of(o, parts), o, teacher)
