"""Measure a bundle on a dataset: which prompts, which reference, which judge. ``evaluate.py`` does the measuring."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import nn

from .. import extras
from ..bundle import Card
from ..data.dataset import Dataset, spread
from ..inference.pipeline import Pipeline, Request
from ..parts.conditioner import UnreadWarning, summary
from ..parts.denoiser import freeze
from ..parts.features import efficientnet, feature
from ..parts.features.efficientnet import ImageNetFeatures
from ..ranges import Count, Counts, Range, Seeds
from ..sizes import spoken
from ..tensors import Features, Media
from .evaluate import (
    EvaluateOptions,
    Judge,
    MeasuredModel,
    Progress,
    Reference,
    check_enough,
    check_impartial,
    draw_all,
    floor,
    measure,
)
from .pixel_features import PixelFeatures
from .progress import Measure, measure_with
from .record import REAL, MetricRecord, merge


@dataclass(frozen=True)
class Options:
    """How a model is measured."""

    prompts: Count = 64
    """How many concepts of the train split are drawn, spread evenly; each is asked for by its plain name."""
    apart_from: Counts = ()
    """Leave out every concept that something was chosen by: those that ``--prompts`` of these numbers would draw, and those
    of as many pictures of the train split, spread evenly, as a distillation is evaluated on to keep its best state."""
    seeds: Seeds = tuple(range(8))
    """Every prompt is drawn with each of these seeds; diversity needs two or more."""
    judge: tuple[str, ...] = ("mobilenet-v2",)
    """What measures, at the same pictures: mobilenet-v2, efficientnet-lite2, pixels (principal components, unlike any network),
    or the dotted path of a feature network of your own; never the one the student was trained against."""
    resolution: Annotated[int, Range(32, 1024)] = 128
    """Side that pictures are resized to for the judge."""
    resamples: Annotated[int, Range(1, 10**5)] = 200
    """Bootstrap resamples behind the interval of the time a picture takes; all others leave out one prompt at a time."""
    calls: Annotated[int, Range(1, 1000)] = 9
    """Single-picture calls that are timed; the median is reported."""

    def needs(self) -> tuple[str, ...]:
        """The modules that measuring takes. Raises ValueError for a judge that does not exist, or that no extra installs."""
        networks = [efficientnet.network_called(name) for name in self.judge if name != PIXELS and not is_own(name)]
        own = [feature.FAMILY.load(name) for name in self.judge if is_own(name)]
        away = [network for network in networks if extras.absent([network.module])]
        if any(network.module in extras.ALONE for network in away):
            other = efficientnet.NETWORKS[IN_ITS_PLACE]
            ready = "" if extras.installed(other.module) else f" ({other.install})"
            raise ValueError(
                f"a judge is not installed: {extras.install([network.module for network in away])}, or take "
                f"--judge {IN_ITS_PLACE}{ready}, whose records are compared with their own kind only"
            )
        asked = (
            getattr(module, "needs", lambda name: ())(name) for module, name in zip(own, filter(is_own, self.judge))
        )
        return (*(network.module for network in away), *(module for modules in asked for module in modules))


PIXELS = PixelFeatures.name
"""The judge that is no network."""


def is_own(judge: str) -> bool:
    """Whether this is the dotted path of somebody's own file."""
    return "." in judge.strip(".")


@dataclass(frozen=True)
class OwnJudge:
    """A feature network of somebody's own, as `feature.FAMILY` finds it, as a judge."""

    name: str
    network: Callable[[Media], Features]
    fingerprint: str
    resizer: str = "its own"

    @classmethod
    def load(cls, name: str, resolution: int) -> OwnJudge:
        """Raises ValueError where there is none, or where it does not look at pictures or has no embedding to judge by."""
        network = feature.FAMILY.load(name).load(feature.Options(features=name, resolution=resolution), None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"{name} cannot judge: its load() has to give a torch module that looks at pictures")
        digest = hashlib.sha256()
        for key, value in sorted(network.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return cls(name, freeze(network), digest.hexdigest()[:12])

    def __call__(self, media: Media, /) -> Features:
        """Features whose ``pooled`` is the embedding. Raises ValueError for a network that gives none."""
        with torch.no_grad():
            found = self.network(media)
        if found.pooled is None:
            raise ValueError(f"{self.name} cannot judge: its features have no pooled embedding")
        return found


def judge_called(name: str, resolution: int, media: Media) -> Judge:
    """A judge by its name; ``media`` are the real pictures, to whose components the judge of pixels is fitted."""
    if name == PIXELS:
        return PixelFeatures.fit(media)
    return OwnJudge.load(name, resolution) if is_own(name) else ImageNetFeatures.load(name, resolution)


IN_ITS_PLACE = "efficientnet-lite2"
"""The judge of a running training where the usual one is not installed: an extra brings it."""


def while_training(features: str = "") -> Measure:
    """Evaluation of a running training, by the judge that ``evaluate`` has by default.

    If that judge is not installed, another takes its place, and a warning says so. Raises ValueError if that other one is
    the discriminator's own feature network, ``features``.
    """
    judge = Options.judge[0]
    usual = efficientnet.NETWORKS[judge]
    if not extras.installed(usual.module):
        if features == IN_ITS_PLACE:
            raise ValueError(f"no impartial judge is left for the training: {usual.install}, or take --keep last")
        warnings.warn(
            f"{IN_ITS_PLACE} judges the training, since {judge} is not installed: {usual.install}", stacklevel=2
        )
        judge = IN_ITS_PLACE
    return measure_with(ImageNetFeatures.load(judge, Options.resolution))


def asked(train: Dataset, options: Options) -> list[int]:
    """Where the first pictures of the concepts that are drawn stand. Raises ValueError if none is left to draw."""
    of = [item.concept for item in train.items]
    first = {concept: i for i, concept in reversed(list(enumerate(of)))}
    every = [first[concept] for concept in train.concepts]
    seen = {
        of[i] for n in options.apart_from for i in (*(every[k] for k in spread(n, len(every))), *spread(n, len(of)))
    }
    left = [i for i in every if of[i] not in seen]
    if not left:
        raise ValueError("--apart-from leaves no concept to draw: give smaller numbers, or fewer")
    return [left[k] for k in spread(options.prompts, len(left))]


def of_size(dataset: Dataset, size: Sequence[int]) -> Dataset:
    """The pictures of the size that a model draws, of a dataset in buckets; with a warning that says how many they are.

    Raises ValueError where there are none.
    """
    train = dataset.subset("train")
    if len(train.shapes) < 2:
        return dataset
    found = next((bucket for bucket in dataset.buckets if bucket.shape[1:] == tuple(size)), None)
    if found is None:
        has = ", ".join(spoken(shape[1:]) for shape in dataset.shapes)
        raise ValueError(
            f"{dataset.name} has pictures of {has}, and none of {spoken(size)}, which the model draws: give data of that size"
        )
    n = len(found.subset("train"))
    warnings.warn(f"the model is measured beside the {n:,} pictures of {spoken(size)} alone", stacklevel=2)
    return found


class Evaluator:
    """Judges, and the features of real pictures: computed once, used for every model."""

    def __init__(self, dataset: Dataset, options: Options = Options(), progress: Progress | None = None) -> None:
        if not options.seeds:
            raise ValueError("there is nothing to draw: give one of --seeds or more, diversity needs two")
        if not options.judge:
            raise ValueError("there is no judge: give one --judge or more")
        train = dataset.subset("train")
        chosen = asked(train, options)
        check_enough(len(chosen), len(options.seeds), len(train.items))
        self.options = options
        self._told: set[str] = set()
        self.prompts = [train.items[i].prompts[0] for i in chosen]
        self.concepts = [int(train.concept_index[i]) for i in chosen]
        media = train.media(slice(None))
        judges = [judge_called(name, options.resolution, media) for name in dict.fromkeys(options.judge)]
        self.judges = [(one, Reference.build(media, train.concept_index, one, progress=progress)) for one in judges]

    def floor(self, known: Sequence[MetricRecord] = (), progress: Progress | None = None) -> list[MetricRecord]:
        """The figures of real pictures, by each judge whose row is not among the ``known``."""
        n = len(self.prompts) * len(self.options.seeds)
        found = []
        for judge, reference in self.judges:
            new = (f"{judge.name}@{judge.fingerprint}", reference.fingerprint, min(n, len(reference.features) // 2))
            if not any((r.features, r.dataset, r.n) == new for r in known if r.model == REAL and r.metric == "fd"):
                found += floor(reference, n, progress)
        return merge([], found)

    def _tell_unread(self, pipeline: Pipeline) -> None:
        """An UnreadWarning says once how many prompts a model does not read whole."""
        pipeline.encode(self.prompts[:1])  # which is timed alone, and would be told of once more
        said = summary([pipeline.unread(prompt) for prompt in self.prompts])
        if said and said not in self._told:
            self._told.add(said)
            warnings.warn(said, UnreadWarning, stacklevel=3)

    def measure(
        self,
        pipeline: Pipeline,
        steps: int,
        name: str = "",
        command: str = "",
        progress: Progress | None = None,
    ) -> list[MetricRecord]:
        """Draw, judge, time: one record a metric and judge."""
        self._tell_unread(pipeline)
        card = pipeline.card
        check_judge(self.options, card)
        guidance = 1.0 if card.role == "student" else card.guidance_scale
        subject = MeasuredModel(
            model=name or card.method if card.role == "student" else name or "teacher",
            steps=steps,
            guidance=guidance,
            command=command,
            nfe=pipeline.evaluations(Request(["x"], [0], steps)),
            latency_ms=latency(pipeline, steps, self.prompts[0], self.options.calls),
            device=pipeline.machine,
        )

        def draw(prompts: list[str], seeds: list[int]) -> Media:
            return (
                pipeline(Request(prompts, seeds, steps, cond=pipeline.encode(prompts))).float().cpu()
            )  # as judges are

        o = replace(EvaluateOptions(), seeds=self.options.seeds, resamples=self.options.resamples)
        media = draw_all(draw, self.prompts, o, self.judges[0][1].size, progress)
        found = [
            measure(media, self.prompts, self.concepts, reference, judge, subject, o, progress=progress)
            for judge, reference in self.judges
        ]
        return merge([], (record for records in found for record in records))


def check_judge(options: Options, card: Card) -> None:
    """Raise ValueError where this model was trained to please one of these judges."""
    for judge in options.judge:
        for discriminator in card.discriminators:
            check_impartial(judge, discriminator)


def latency(pipeline: Pipeline, steps: int, prompt: str, calls: int) -> Sequence[float]:
    """Milliseconds of single-picture calls, prompt already encoded, two warm-up calls not counted."""
    times = []
    for i in range(calls + 2):
        began = time.perf_counter()
        pipeline.draw(prompt, steps, seed=i).cpu()
        times.append((time.perf_counter() - began) * 1000)
    return times[2:]
