"""The adversary: heads on frozen features that learn to tell a student's samples from data, and tell it what gives them away.

One piece for every method that plays against one (ADD, LADD, GAN, DMD2). It owns what both sides see: the view of a sample,
the features, what is hidden from the heads; and the losses: the student's, the heads' and their penalties.

===================  ==============================================================================
paper                here
===================  ==============================================================================
F, phi               ``features`` (frozen), ``discriminator`` (the heads, which are trained)
c_text, c_img        ``cond.pooled``, ``cond.image``: what the heads are told
L_adv                `fool` for the student, ``adversarial`` of `judge` for the heads
gamma R1             ``r1`` of `judge`, on the heads' inputs (arXiv 2311.17042, Eq. 3)
===================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..diffusion import losses
from ..options import CHANGEABLE, SHARED
from ..ranges import Limit, Rate, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Conditioning, Features, Latents, Logits, match_dims
from . import discriminator
from .codec import Codec
from .discriminator import Discriminator
from .features import feature
from .features.feature import FeatureNetwork


@dataclass(frozen=True)
class Options(feature.Options):
    """Adversarial training against heads on frozen features."""

    adversarial_weight: Annotated[Weight, CHANGEABLE] = 1.0
    """Weight of L_adv in the student's loss; 0 leaves the adversary out."""
    ramp_start: Limit = 0
    """Steps at the beginning in which that weight is 0 and the heads learn alone: an adversary that judges a collapsed start
    freezes its layout."""
    ramp: Limit = 0
    """Steps over which the weight then rises in a straight line; 0 gives all of it at once."""
    loss: Literal["hinge", "softplus", "relativistic"] = "hinge"
    """Adversarial loss of both players."""
    r1: Annotated[Weight, CHANGEABLE] = 0.001
    """gamma of R1 on the inputs of the heads: of each head the gradient of the sum over its places, squared, and averaged over
    them. It belongs to features of unit variance; raw ones of variance s^2 take about s^2 of it. The paper's 1e-5 is of a sum
    whose terms it does not say."""
    approximate_r1: Weight = 0.0
    """Weight of ``||D(x) - D(x + 0.01 n)||^2`` on real input, averaged as R1 is: R1 on pixels without a second backward (APT)."""
    renoised_input: Weight = 0.0
    """Largest standard deviation of Gaussian noise added to what the features see, real and fake alike; 0 is off."""
    condition_dropout: Share = 0.1
    """Share of rows whose condition is hidden from the discriminator in its own turn. Not the paper's: 0 there."""
    mismatched: Weight = 0.0
    """Weight of real samples under another concept's prompt as additional fakes (SANA-Sprint, arXiv 2503.09641)."""
    reals_through_codec: bool = False
    """Decode the encoded reals rather than show raw pixels, so that the codec's fingerprint proves nothing."""
    heads_learning_rate: Annotated[Rate, SHARED, CHANGEABLE] = 1e-3
    """Adam's learning rate of the discriminator's heads."""
    heads: Annotated[discriminator.Options, SHARED] = field(default_factory=discriminator.Options)
    """The discriminator's heads."""

    def ramped(self, step: int) -> float:
        """The share of the adversarial weight at ``step``, counted from 0: 0 before ``ramp_start``, 1 from the ramp's end on."""
        return min(1.0, max(0, step - self.ramp_start + 1) / max(1, self.ramp))

    @property
    def used(self) -> bool:
        """Without the adversarial loss no features are needed."""
        return bool(self.adversarial_weight)

    @property
    def embeds(self) -> bool:
        """Do the heads see the embedding of the real picture (c_img)?"""
        return self.heads.image and self.features != "teacher"


def check(o: Options, batch_size: int | None = None, concepts: int | None = None) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix.

    ``batch_size`` samples of so many ``concepts`` a batch; what is not known yet is None.
    """
    feature.check(o)
    if not o.adversarial_weight:
        return
    if o.heads.norm == "local" and batch_size is not None:
        discriminator.check_groups(batch_size)
    if not o.mismatched:
        return
    if not (o.heads.text or o.embeds):
        raise ValueError(
            "mismatched shows the heads a wrong prompt, but they are shown none: leave out --heads.no-text, or mismatched"
        )
    if batch_size == 1:
        raise ValueError("mismatched takes its wrong prompts from the batch: use --batch-size 2 or more")
    if concepts is not None and concepts < 2:
        raise ValueError(
            "mismatched shows the heads another concept's prompt, but all that is trained on shows one concept: leave "
            "it out, or give data of more"
        )


Draw = Callable[[Batch, Rng], tuple[Latents, Bool[Tensor, " B"]]]
"""Draws a sample for a batch; the second says which rows saw something of the batch's data."""


@dataclass
class _Sample:
    """What the student drew in this step, kept so that the discriminator's turn need not draw it again."""

    batch: Batch
    seen: Bool[Tensor, " B"]
    features: Features


class Adversary:
    """Heads over a feature network, and the losses of both sides. Raises ValueError for options that the heads cannot follow."""

    def __init__(
        self, codec: Codec, features: FeatureNetwork, discriminator: Discriminator, options: Options = Options()
    ) -> None:
        if options.mismatched and not discriminator.prompted:
            raise ValueError("heads that see no condition cannot tell a mismatched one: set mismatched to 0")
        self.codec, self.features, self.discriminator, self.options = codec, features, discriminator, options
        self.observed: dict[str, float] = {}
        """Logits of the last `judge`, and the share of samples on the right side of 0."""
        self._discriminator_loss, self._student_loss = losses.ADVERSARIAL[options.loss]
        self.fooled: Logits = torch.zeros(0)
        """Logits of the last sample that was to `fool`, without a gradient."""
        self._samples: list[_Sample] = []
        self._share = 1.0

    def begin(self, step: int) -> None:
        """Told of every step before its losses: the weight may rise with the steps."""
        self._share = self.options.ramped(step)

    @property
    def weight(self) -> float:
        """The weight of L_adv in this step."""
        return self._share * self.options.adversarial_weight

    # -- the student's turn

    def fool(self, sample: Latents, seen: Bool[Tensor, " B"], batch: Batch, rng: Rng) -> Tensor:
        """L_adv of the student, weighted; the features are kept for `judge`. ``seen``: rows that saw some of ``batch.x0``."""
        features = self._features_of(self._view(sample), batch.cond, rng)
        shown = self._shown(batch.cond, seen)
        real = None
        if self.options.loss == "relativistic":
            with torch.no_grad():
                real = self.discriminator(self._features_of(self._reals(batch), batch.cond, rng), shown)
        logits = self.discriminator(features, shown)
        self._samples.append(_Sample(batch, seen, features.detach()))
        self.fooled = logits.detach()
        return self.weight * self._student_loss(real, logits)

    # -- the heads' turn

    def judge(self, batch: Batch, draw: Draw, rng: Rng) -> dict[str, Tensor]:
        """Losses of the heads: ``adversarial`` and, where they are asked for, ``r1``, ``approximate_r1`` and ``mismatched``.

        The fakes are those that `fool` saw on this very batch in this step, or else are drawn with ``draw``.
        """
        o = self.options
        seen, fake_features = self._fake(batch, draw, rng)
        shown = self._shown(batch.cond, seen)
        cond = self._dropped(shown, rng)
        with torch.no_grad():
            real_media = self._reals(batch)
            again = rng.copy()  # approximate R1 compares features under one augmentation
            real_features = self._features_of(real_media, batch.cond, rng)
        inputs = [level.detach().requires_grad_(bool(o.r1)) for level in real_features.levels]
        real = self.discriminator(Features(tuple(inputs), t=real_features.t), cond)
        fake = self.discriminator(fake_features, cond)
        out = {"adversarial": self._discriminator_loss(real, fake)}
        if o.r1:
            out["r1"] = o.r1 * losses.r1(real, inputs)
        if o.approximate_r1:
            with torch.no_grad():
                nearby = self._features_of(real_media + 0.01 * rng.normal_like(real_media), batch.cond, again)
            heads = [losses.places(level) for level in nearby.levels]
            slope = losses.approximate_r1(real, self.discriminator(nearby, cond), heads)
            out["approximate_r1"] = o.approximate_r1 * slope
        if o.mismatched:
            out["mismatched"] = o.mismatched * self._mismatched(batch, shown, real, real_features)
        self.observed = {
            "real_logit": float(real.detach().mean()),
            "fake_logit": float(fake.detach().mean()),
            "real_right": float((real.detach() > 0).float().mean()),
            "fake_right": float((fake.detach() < 0).float().mean()),
        }
        return out

    def forget(self) -> None:
        """Let go of this step's samples: the next one draws its own."""
        self._samples = []

    def _fake(self, batch: Batch, draw: Draw, rng: Rng) -> tuple[Bool[Tensor, " B"], Features]:
        """The sample of this step's student turn, or a new one if the student did not move."""
        for drawn in reversed(self._samples):
            if drawn.batch is batch:
                return drawn.seen, drawn.features
        with torch.no_grad():
            sample, seen = draw(batch, rng)
            return seen, self._features_of(self._view(sample), batch.cond, rng)

    def _mismatched(self, batch: Batch, shown: Conditioning, real: Logits, features: Features) -> Tensor:
        """Real samples under another concept's condition are fakes, too; 0 in a batch where all show the same concept.

        ``shown`` is what no dropout has hidden from: a hidden condition is not a wrong one.
        """
        other, found = another_concept(batch)
        wrong = self.discriminator(features.detach(), shown[other])
        if not found.any():
            return 0 * wrong.sum()
        return self._discriminator_loss(real.detach()[found], wrong[found])

    # -- what the features see, and what the heads are told

    def _view(self, latents: Latents) -> Tensor:
        return self.codec.decode(latents) if self.features.space == "media" else latents

    def _reals(self, batch: Batch) -> Tensor:
        if self.features.space == "latents":
            return batch.x0
        if self.options.reals_through_codec or batch.media is None:
            return self.codec.decode(batch.x0)
        return batch.media

    def _features_of(self, x: Tensor, cond: Conditioning, rng: Rng) -> Features:
        if self.options.renoised_input:
            x = x + match_dims(rng.uniform((len(x),), 0, self.options.renoised_input), x) * rng.normal_like(x)
        return self.features(x, cond, rng)

    def _shown(self, cond: Conditioning, seen: Bool[Tensor, " B"]) -> Conditioning:
        """Hide the real picture's embedding where the student could not have seen it: else a mismatch gives fakes away."""
        if cond.image is None:
            return cond
        return replace(cond, image=cond.image * seen.to(cond.image.dtype).unsqueeze(1))

    def _dropped(self, cond: Conditioning, rng: Rng) -> Conditioning:
        if not self.options.condition_dropout:
            return cond
        keep = rng.uniform((len(cond),)) >= self.options.condition_dropout
        hide = lambda v: None if v is None else v * keep.to(v.dtype).unsqueeze(1)  # noqa: E731
        return replace(cond, pooled=hide(cond.pooled), image=hide(cond.image))


def another_concept(batch: Batch) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """For each row the nearest row before it, round and round, that shows another concept under another prompt; and whether
    there is one. A row without stands for itself.

    Where nothing says which concept a row shows, its prompt alone tells: the pooled vector, else the label, else the tokens.
    """
    cond, n = batch.cond, len(batch)
    kinds = [v for v in (cond.pooled, cond.labels, cond.tokens) if v is not None][:1]
    kinds += [batch.concepts] if batch.concepts is not None else []
    alike = torch.eye(n, dtype=torch.bool, device=batch.x0.device)
    for kind in kinds:
        alike |= (kind.reshape(n, 1, -1) == kind.reshape(1, n, -1)).all(2)
    place = torch.arange(n, device=alike.device)
    back = (place[:, None] - place) % n  # how far before row i row j lies
    nearest = torch.where(alike, n, back).min(1)
    return torch.where(nearest.values < n, nearest.indices, place), nearest.values < n
