"""Decoder training: the decoder of a finished model alone, its latents unchanged, so that teacher and students draw sharper.

Autoencoders that decode with a feature distance and an adversary: VQGAN (arXiv 2012.09841), Stable Diffusion's (arXiv
2112.10752). There both halves are trained together; here the encoder is frozen, for every latent of the teacher and of its
students must stay what it is.

===================  =======================================================================================
paper                here
===================  =======================================================================================
G                    ``decode``; its weights that move are the player ``decoder``
z                    ``batch.x0``, jittered; or a student's latents
x, x^                ``batch.media``, ``shown``: the drawing, and what is decoded, clamped to [-1, 1]
L_rec                ``reconstruction``, ``edges``, ``perceptual``: against the drawing
phi, D               the ``adversary``'s frozen features and its heads
L_GAN                ``adversarial``
lambda               `balance`: ``share |grad_x L_rec| / |grad_x L_GAN|`` (arXiv 2012.09841, Eq. 7)
===================  =======================================================================================

``L = L_rec + overshoot |G(z) - x^| + lambda L_GAN``. Two things are not the paper's. Lambda is measured at the pixels, not at
the last layer. And all but ``overshoot`` see the clamped picture, as whoever looks at it does: nothing is asked of values
beyond white, where a plain squared error pulls a flat background to and fro; the overshoot leads back what the clamp hides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.losses import neighbour_differences
from ..diffusion.schedule import add_noise
from ..options import CHANGEABLE, SHARED
from ..parts import adversary, discriminator
from ..parts.adversary import Adversary
from ..parts.denoiser import Student
from ..parts.features.feature import FeatureNetwork
from ..ranges import Limit, Range, Rate, Share, Weight
from ..rng import Rng
from ..tensors import Batch, Latents, Media
from .method import Defaults, Optimizer, Player, Turn


@dataclass(frozen=True)
class Options(adversary.Options):
    """How a decoder is fine-tuned."""

    learning_rate: Annotated[Rate, SHARED, CHANGEABLE] = 1e-3
    """Adam's peak learning rate of the decoder; it falls to a tenth."""
    ema: Annotated[float, Range(0, 0.999999), SHARED, CHANGEABLE] = 0.99
    """Decay of the decoder's weight average, which is what is saved."""
    edges: Weight = 1.0
    """Weight of the error of neighbour differences beside that of the pixels, both absolute."""
    overshoot: Weight = 0.05
    """Weight of what lies beyond black and white."""
    perceptual: Weight = 0.1
    """Weight of the squared distance in the features that the discriminator looks through; 0 leaves it out."""
    adversarial_weight: Annotated[Weight, CHANGEABLE] = 2.0
    """How strong the adversary's gradient is at the pixels, where the drawing's is 1; 0 leaves the adversary out."""
    ramp_start: Limit = 100
    """Steps at the beginning in which that strength is 0 and the heads learn alone."""
    ramp: Limit = 100
    """Steps over which it then rises in a straight line; 0 gives all of it at once."""
    jitter: Weight = 0.05
    """Standard deviation of the noise added to the drawings' latents, so that the decoder forgives a student's small errors."""
    student_share: Share = 0.25
    """Share of a batch's rows that show the student's estimate of the drawing, noised to one of its later times; if there is
    a --student."""
    drawn_share: Share = 0.25
    """Share of the rows that the student draws from noise in one step: judged by the adversary alone; if there is a --student."""
    heads: Annotated[discriminator.Options, SHARED] = field(
        default_factory=lambda: discriminator.Options(text=False, image=False)
    )
    """The discriminator's heads."""

    @property
    def used(self) -> bool:
        """Without the adversarial and the perceptual loss no features are needed."""
        return bool(self.adversarial_weight or self.perceptual)


def check(o: Options, batch_size: int | None = None) -> None:
    """Refuse what cannot be trained. Raises ValueError with the fix."""
    adversary.check(o, batch_size)
    if o.used and o.features == "teacher":
        raise ValueError(
            "a decoder is judged by its pictures, which --features teacher does not see: give another network"
        )
    if o.student_share + o.drawn_share > 1:
        raise ValueError(
            f"student-share {o.student_share} and drawn-share {o.drawn_share} are more than the whole batch: use less of one"
        )


class Rows(NamedTuple):
    """Latents to decode, and what they show."""

    z: Latents
    paired: Tensor
    """Which rows have the drawing as their target, bool ``[B]``."""


def balance(reference: Tensor, other: Tensor) -> Tensor:
    """``|reference| / |other|``, of two gradients at one place; 0 where ``other`` is 0 (arXiv 2012.09841, Eq. 7)."""
    norm = other.norm()
    return torch.where(
        norm > 0, reference.norm() / norm.clamp(min=torch.finfo(norm.dtype).tiny), torch.zeros_like(norm)
    )


NEAR = 0.5
"""The latest time at which a student's estimate still shows the drawing that was noised."""


class Decoding(Defaults):
    """A decoder against the drawings, a feature network and an adversary."""

    def __init__(
        self,
        decode: Callable[[Latents], Media],
        decoder: nn.Module,
        options: Options = Options(),
        features: FeatureNetwork | None = None,
        adversary: Adversary | None = None,
        student: Student | None = None,
    ) -> None:
        """``decoder``: what of ``decode`` is trained. ``adversary`` sees media: its codec is the identity. ``student``: frozen.

        Raises ValueError where the options ask for a part that is not given.
        """
        for weight, part, name in (
            (options.perceptual, features, "features"),
            (options.adversarial_weight, adversary, "adversary"),
        ):
            if weight and part is None:
                raise ValueError(
                    f"a loss of this decoder needs the part {name}: give it, or set the loss's weight to 0"
                )
        self.decode, self.decoder, self.options = decode, decoder, options
        self.features, self.student = features, student
        self.adversary = adversary if options.adversarial_weight else None
        self._later = [t for t in student.times if t <= NEAR] if student else []
        self._observed: dict[str, float] = {}

    @property
    def players(self) -> Mapping[str, Player]:
        """``decoder``, with half of the usual momentum, and, if it is asked, ``discriminator``, with none (StyleGAN-T)."""
        o = self.options
        moves = Optimizer(o.learning_rate, beta1=0.5, warmup=20, decay=True, ema=o.ema)
        decoder = Player(self.decoder, moves)
        if self.adversary is None:
            return {"decoder": decoder}
        heads = Optimizer(o.heads_learning_rate, warmup=0, max_gradient_norm=0.0)
        return {"decoder": decoder, "discriminator": Player(self.adversary.discriminator, heads)}

    def turns(self, step: int) -> Sequence[Turn]:
        """The decoder first, so that the discriminator judges what was just decoded."""
        if self.adversary is None:
            return (Turn("decoder"),)
        self.adversary.begin(step)
        return Turn("decoder"), Turn("discriminator")

    def losses(self, player: str, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """``reconstruction``, ``edges``, ``perceptual``, ``overshoot``, ``adversarial`` of the decoder; those of the heads."""
        if player == "decoder":
            return self._decoder(batch, rng)
        assert self.adversary is not None, "without an adversary there is no such player"
        out = self.adversary.judge(batch, self.draw, rng)
        self._observed = self.adversary.observed
        return out

    def observations(self) -> dict[str, float]:
        """Lambda at the decoder's turn; logits at the heads'."""
        return self._observed

    def after_step(self, step: int) -> None:
        """Forget the pictures: the next step decodes its own."""
        if self.adversary is not None:
            self.adversary.forget()

    def draw(self, batch: Batch, rng: Rng) -> tuple[Media, Tensor]:
        """What is decoded of a batch, and which rows have the drawing as their target."""
        rows = self.rows(batch, rng)
        return self.decode(rows.z).clamp(-1, 1), rows.paired

    @torch.no_grad()
    def rows(self, batch: Batch, rng: Rng) -> Rows:
        """The drawings' latents, jittered; in some rows a student's estimates of them, in others its draws from noise."""
        z = batch.x0 + self.options.jitter * rng.normal_like(batch.x0)
        paired = torch.ones(len(z), dtype=torch.bool, device=z.device)
        if self.student is None:
            return Rows(z, paired)
        n, o = len(z), self.options
        order = rng.uniform((n,)).argsort()  # groups of the heads' batch norm hold rows of every kind
        near = order[: round(o.student_share * n)] if self._later else order[:0]
        drawn = order[n - round(o.drawn_share * n) :]
        noise = rng.normal_like(z)
        if len(near):
            t = rng.choice(torch.tensor(self._later, dtype=torch.float64), len(near))
            x_t = add_noise(self.student.denoiser.schedule, batch.x0[near], noise[near], t)
            z[near] = self.student.denoiser(x_t, t, batch.cond[near]).to(z)
        if len(drawn):
            z[drawn] = self.student.draw(noise[drawn], batch.cond[drawn], 1, rng).to(z)
        paired[drawn] = False
        return Rows(z, paired)

    def _decoder(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        assert batch.media is not None, "decoder training needs the pixels"
        rows, o = self.rows(batch, rng), self.options
        decoded = self.decode(rows.z)
        shown = decoded.clamp(-1, 1)
        out = self.against(shown[rows.paired], batch.media[rows.paired], batch, rng) if rows.paired.any() else {}
        self._observed = {}
        if self.adversary is not None:
            fooled = self.adversary.fool(shown, rows.paired, batch, rng)
            by_drawing = _at(shown, torch.stack(list(out.values())).sum()) if out else torch.zeros_like(shown)
            scale = balance(by_drawing, _at(shown, fooled))
            out["adversarial"] = self.adversary.weight * scale * fooled
            self._observed = {"lambda": float(self.adversary.weight * scale)}
        return out | {"overshoot": o.overshoot * (decoded - shown).abs().mean()}

    def against(self, shown: Media, media: Media, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """L_rec of pictures ``[B, C, *S]`` against their drawings, weighted and by term; axes add up, levels are averaged."""
        pairs = zip(neighbour_differences(shown), neighbour_differences(media))
        edges = torch.stack([(a - b).abs().mean() for a, b in pairs]).sum()
        out = {"reconstruction": (shown - media).abs().mean(), "edges": self.options.edges * edges}
        if self.options.perceptual:
            assert self.features is not None, "the constructor asks for it"
            again = rng.copy()  # both are seen under one augmentation
            with torch.no_grad():
                wanted = self.features(media, batch.cond, again).levels
            found = self.features(shown, batch.cond, rng).levels
            apart = torch.stack([(a - b).pow(2).mean() for a, b in zip(found, wanted)]).mean()
            out["perceptual"] = self.options.perceptual * apart
        return out


def _at(pixels: Tensor, loss: Tensor) -> Tensor:
    """The gradient of a loss at the pixels; the graph stays."""
    return torch.autograd.grad(loss, pixels, retain_graph=True)[0]
