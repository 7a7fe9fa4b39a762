"""The parts of a run, made for any method: each when it is asked for, once, on the run's device."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import bundle, pretrained
from ..data.dataset import Dataset, cache_dir
from ..parts import discriminator
from ..parts.augment import Augment
from ..parts.denoiser import Denoiser, Student, Teacher, freeze
from ..parts.discriminator import Discriminator
from ..parts.features import feature
from ..parts.features.feature import FeatureNetwork, MediaFeatures, Standardised
from ..pretrained import trainable
from ..rng import Rng
from ..sizes import spoken
from ..tensors import Conditioning, Features, Media, unfinite
from ..training.buckets import Samples
from ..training.data import Progress, tell_unread

Network = Callable[[Media], Features] | FeatureNetwork
"""A frozen network on pictures, or one that sees latents, too."""
Looking = TypeVar("Looking", bound=feature.Options)


@dataclass(frozen=True)
class Setting:
    """Where and how a run's parts are made."""

    batch_size: int
    """Samples a step."""
    seed: int
    """Seed of everything that is drawn."""
    device: str
    """Where the parts lie."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What is counted in while training."""
    progress: Progress | None = None
    """Told of what takes long."""


class Parts:
    """`fewstep.methods.method.Parts` of a pretrained model and its data."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        model: pretrained.Pretrained,
        data: Samples,
        draw_pairs: Callable[[int], Samples],
        setting: Setting,
        network: Network | None = None,
        what: trainable.What = "full",
        rank: int = 64,
    ) -> None:
        """``draw_pairs`` makes the teacher's trajectories, for a batch size. ``network``: the feature network that
        `load_network` has read. ``what`` of a second denoiser is trained, as of the student."""
        self.student, self.teacher, self.codec = student, teacher, model.codec
        self._conditioner, self._data, self._draw_pairs = model.conditioner, data, draw_pairs
        self._setting, self._network, self._what, self._rank = setting, network, what, rank
        self._targets = model.family.targets
        self._image: Tensor | None = None
        self._media = False
        self._pairs: Samples | None = None
        self._features: dict[feature.Options, FeatureNetwork] = {}

    @property
    def data(self) -> Samples:
        """Batches by number, with media, embeddings and pairs where a part that was asked for wants them."""
        pairs: Any = self._pairs  # in buckets where the data are
        return self._data.having(self._image, self._media, pairs).near(self._setting.device)

    def features(self, o: feature.Options) -> FeatureNetwork:
        """The feature network, standardised over rows from all over the data; with it, where the options say so, the embedding
        of every training picture (c_img)."""
        if o not in self._features:
            network = load_network(o, self.teacher.denoiser) if self._network is None else self._network
            assert network is not None, "who asks for features needs them"
            self._features[o] = found = standardised(o, network, self._data, self._setting)
            self._media |= found.space == "media"
            if o.embeds and not isinstance(network, FeatureNetwork):
                self._image = embed(network, self._data, self._setting)
        return self._features[o]

    def heads(self, features: FeatureNetwork, o: discriminator.Options) -> Discriminator:
        """Fresh heads that fit the features and the conditioning of the data."""
        seed, device = self._setting.seed, self._setting.device
        example = self.data.rows(next(self._data.chunks(8))).to(device)
        view = example.media if features.space == "media" else example.x0
        assert view is not None, "a feature network on media comes with media"
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            seen = features(view, example.cond, Rng.of(seed, "example", device=device))
            return Discriminator.over(seen, example.cond, o).to(device)

    def denoiser(self) -> Denoiser:
        """A trainable copy of the teacher, as much of it as of the student."""
        made = copy.deepcopy(self.teacher.denoiser).requires_grad_(True)
        trainable.choose(made.network, self._what, self._rank, self._setting.seed, self._targets)  # type: ignore[arg-type]
        return made

    def follower(self, of: nn.Module) -> nn.Module:
        """A frozen copy."""
        return freeze(copy.deepcopy(of))

    def pairs(self) -> None:
        """Draw the teacher's trajectories, once for a run: from now on batches come with them."""
        self._pairs = self._draw_pairs(self._setting.batch_size)

    def group(self, samples: int) -> None:
        """From now on batches come in groups of one condition."""
        self._data = self._data.grouped(samples)

    def encode(self, prompt: str) -> Conditioning:
        """A prompt as one row; what the text encoder does not read of it is told."""
        tell_unread(self._conditioner, [prompt])
        return self._conditioner([prompt]).to(self._setting.device)


def on_pictures(o: feature.Options, network: Callable[[Media], Features], setting: Setting) -> MediaFeatures:
    """A network on pictures where the run is, behind the augmentation that is asked for."""
    if isinstance(network, nn.Module):
        network.to(setting.device)
    return MediaFeatures(network, Augment(o.augment) if o.augment else None)


def standardised(o: feature.Options, network: Network, data: Samples, setting: Setting) -> FeatureNetwork:
    """The feature network, standardised over rows from all over the data."""
    samples: Iterable[tuple[Tensor, Conditioning]]
    inner = network if isinstance(network, FeatureNetwork) else on_pictures(o, network, setting)
    if inner.space == "latents":
        some = (data.rows(at).to(setting.device) for at in data.spread(256, 32))
        samples = ((b.x0, b.cond) for b in some)
    else:
        samples = ((_media(data, at).to(setting.device), Conditioning()) for at in data.spread(512, 32))
    rng = Rng.of(setting.seed, "fit", device=setting.device)
    return Standardised.fit(inner, samples, rng) if o.standardise else inner


def _media(data: Samples, rows: np.ndarray) -> Media:
    assert data.media is not None, "prepare() reads the media"
    return data.media(rows)


def load_network(o: feature.Options, teacher: Denoiser) -> Network | None:
    """The feature network that these options name; None where none is needed.

    Raises ValueError with the fix if it is not there.
    """
    return feature.FAMILY.load(o.features).load(o, teacher) if o.used else None


def needs(o: feature.Options) -> tuple[str, ...]:
    """The modules that features take, as far as the options tell."""
    name = o.features
    if name == "auto":  # the network is certain where DINOv2's weights are not to be had
        name = "dinov2" if o.features_folder or dino_at_hand(cache_dir() / "dinov2") else "efficientnet-lite0"
    own = getattr(feature.FAMILY.load(name), "needs", None)
    return own(name) if own and o.used else ()


@torch.no_grad()
def embed(network: Callable[[Media], Features], data: Samples, setting: Setting) -> Tensor:
    """Pooled features of every picture ``[N, P]``, float16. Raises ValueError where the network gives none."""
    parts = []
    for at in data.chunks(32):
        pooled = network(_media(data, at).to(setting.device)).pooled
        if pooled is None:
            raise ValueError(
                "the feature network gives no embedding of a picture, which the heads are told: give --heads.no-image"
            )
        parts.append(pooled.half().cpu())
        if setting.progress:
            setting.progress("image embeddings", int(at[-1]) + 1, len(data))
    return torch.cat(parts)


def dino_at_hand(folder: Path) -> bool:
    """Whether the folder holds DINOv2's weights."""
    return (folder / "model.safetensors").is_file()


def decided(o: Looking, native_size: tuple[int, ...]) -> Looking:
    """The options with the feature network, its folder and its resolution decided."""
    folder = Path(o.features_folder) if o.features_folder else cache_dir() / "dinov2"
    features = o.features
    if features == "auto":
        real = min(native_size) >= 128
        to_be_had = bool(o.features_folder) or (real and dino_at_hand(folder))
        features = "dinov2" if to_be_had else "efficientnet-lite0"
    elif o.features_folder and features != "dinov2" and features in feature.FAMILY.names:
        raise ValueError(f"--features-folder is DINOv2's: leave it out, or use --features dinov2 instead of {features}")
    side = round(math.prod(native_size) ** (1 / len(native_size)))
    suitable = getattr(feature.FAMILY.load(features), "suitable", lambda side: min(max(side, 64), 224))
    given = str(folder) if features == "dinov2" else o.features_folder
    return replace(o, features=features, features_folder=given, resolution=o.resolution or suitable(side))


def student_of(
    model: pretrained.Pretrained, init: str, what: trainable.What, rank: int, seed: int
) -> tuple[Denoiser, float]:
    """The denoiser that is trained, and the share of its weights that is: the teacher's, those of the student that ``init``
    names, or fresh ones (``random``)."""
    denoiser = copy.deepcopy(model.denoiser)
    if init not in ("teacher", "random"):
        train_on(denoiser.network, init)
    share = trainable.choose(denoiser.network, what, rank, seed, model.family.targets)
    if init == "random":
        randomise(denoiser, seed)
    return denoiser, share


def check_size(dataset: Dataset, card: bundle.Card, multiple: int = 1) -> None:
    """Refuse pictures of another size than the model draws, with the fix."""
    if "buckets" in dataset.info:
        check_buckets(dataset, card, multiple)
    elif tuple(dataset.shape[1:]) != tuple(card.native_size):
        given, wanted = (spoken(size) for size in (dataset.shape[1:], card.native_size))
        side = wanted if len(set(card.native_size)) > 1 else card.native_size[0]
        raise ValueError(
            f"the pictures are {given}, {card.name} draws {wanted} (width first): build the data again with --size {side}"
        )


def check_buckets(dataset: Dataset, card: bundle.Card, multiple: int) -> None:
    """Refuse buckets that the teacher cannot draw; tell how far they are from the size it was trained at."""
    for _, *size in dataset.shapes:
        if any(side % multiple for side in size):
            raise ValueError(
                f"{dataset.name} has pictures of {spoken(size)}, and {card.name} draws sides that are multiples of {multiple}: "
                f"build the data again with --multiple {multiple}, or a multiple of it"
            )
    pixels = math.prod(card.native_size)
    away = [s for _, *s in dataset.shapes if not 2 / 3 < math.prod(s) / pixels < 3 / 2]
    if away:
        warnings.warn(
            f"{card.name} draws {spoken(card.native_size)}, and buckets such as {spoken(away[0])} have "
            f"{math.prod(away[0]) / pixels:.1f} times as many pixels: --size {spoken(card.native_size)} makes them alike",
            stacklevel=3,
        )


def check_numbers(owner: str, parts: Mapping[str, Any]) -> None:
    """Refuse networks whose weights hold NaN or infinity, by name: every step of a training on them would be lost."""
    for part, network in parts.items():
        if isinstance(network, nn.Module) and (first := unfinite(network.state_dict())):
            raise ValueError(
                f"the {part} of {owner} holds NaN or infinity (first in {first}): fetch it again, or take another one"
            )


def train_on(network: nn.Module, name: str) -> None:
    """Give the student the weights of another one. Raises ValueError where that is a network of another shape."""
    given = pretrained.load(bundle.locate(name)).denoiser.network.state_dict()
    own = network.state_dict()
    wrong = [k for k in {**own, **given} if k not in own or k not in given or own[k].shape != given[k].shape]
    if wrong:
        raise ValueError(
            f"--init {name} has another network than the teacher (first at {wrong[0]}): give one of its students"
        )
    if first := unfinite(given):
        raise ValueError(
            f"--init {name} holds NaN or infinity (first in {first}): give another student, or make it again"
        )
    network.load_state_dict(given)


def randomise(network: nn.Module, seed: int) -> None:
    """Fresh weights (the paper's random-init ablation)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
