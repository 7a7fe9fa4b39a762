"""Draw pictures, measure them with a judge, and write down every figure with its interval.

``draw`` is any callable from prompts and seeds to media: this file knows nothing of pipelines. Pictures are judged as a
person would get them: clamped and rounded to 8 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fewstep.data.dataset import Progress
from fewstep.evaluation import alignment, diversity, frechet, jackknife, kernel, manifold
from fewstep.evaluation import sharpness as pixels
from fewstep.evaluation.bootstrap import median_interval
from fewstep.evaluation.jackknife import SHARE, Interval
from fewstep.evaluation.record import REAL, VARIETY, MetricRecord
from fewstep.rng import Rng, fold
from fewstep.tensors import Features

Draw = Callable[[list[str], list[int]], Tensor]


@runtime_checkable
class Judge(Protocol):
    """A frozen feature network for evaluation; ``fewstep.parts.features.efficientnet.ImageNetFeatures`` is one."""

    @property
    def name(self) -> str:
        """The network's name."""

    @property
    def fingerprint(self) -> str:
        """Hash of its weights."""

    @property
    def resizer(self) -> str:
        """How pictures are brought to its size."""

    def __call__(self, media: Tensor, /) -> Features:
        """Features whose ``pooled`` is the embedding."""


@dataclass(frozen=True)
class MeasuredModel:
    """What is measured, as its records name it."""

    model: str
    """teacher, add, adversarial_only, ..."""
    steps: int
    """Steps a picture."""
    guidance: float = 1.0
    """Guidance used for drawing; 1 is none."""
    command: str = ""
    """What to type to measure it again."""
    nfe: int | None = None
    """Network evaluations a picture: twice the steps for a guided teacher. None leaves it out."""
    latency_ms: Sequence[float] = ()
    """Timed calls of one picture each; empty leaves latency out."""
    device: str = ""
    """Where the calls were timed."""


@dataclass(frozen=True)
class EvaluateOptions:
    """How the measuring is done."""

    seeds: tuple[int, ...] = tuple(range(8))
    """Every prompt is drawn once with each; diversity needs two or more."""
    batch: int = 16
    """Pictures drawn and measured in one go."""
    resamples: int = 200
    """Bootstrap resamples behind the interval of the time a picture takes; all others are jackknifed."""
    bootstrap_seed: int = 0
    """Seed of the resampling."""


@dataclass(frozen=True)
class Reference:
    """Real pictures, seen once by the judge and used against many models."""

    features: Float[Tensor, "M D"]
    concepts: Int[Tensor, " M"]
    sharpness: dict[str, Tensor]
    size: tuple[int, ...]
    judge: str
    """The judge, as ``name@fingerprint`` and resizer."""
    fingerprint: str
    """Hash of pictures and concepts."""

    @cached_property
    def reach(self) -> dict[int, Tensor]:
        """Distance from every picture to its k-th neighbour, by k."""
        most = max(manifold.PRECISION_NEIGHBOURS, manifold.DENSITY_NEIGHBOURS)
        near = manifold.nearest(self.features, most)
        return {k: near[:, k - 1] for k in (manifold.PRECISION_NEIGHBOURS, manifold.DENSITY_NEIGHBOURS)}

    @cached_property
    def pairs(self) -> kernel.ReferencePairs:
        """Mean kernel of the pictures' own pairs, for the kernel distance."""
        return kernel.ReferencePairs.of(self.features, self.concepts)

    def split(self, n: int) -> tuple[Reference, Reference]:
        """``n`` pictures, by lot but as even over the concepts as can be, and all others, as two sets."""
        lot = Rng.of(0, "real against real").uniform((len(self.features),)).argsort()
        of = self.concepts[lot].unique(return_inverse=True)[1]
        by_concept = of.argsort(stable=True)
        starts = torch.bincount(of).cumsum(0) - torch.bincount(of)
        turn = torch.empty_like(of)  # a picture's place among those of its concept
        turn[by_concept] = torch.arange(len(of)) - starts[of[by_concept]]
        order = lot[turn.argsort(stable=True)]
        one, other = (order[part].sort().values for part in (slice(None, n), slice(n, None)))
        return self.rows(one), self.rows(other)

    def rows(self, at: Int[Tensor, " K"]) -> Reference:
        """Some of the pictures."""
        sharp = {name: values[at] for name, values in self.sharpness.items()}
        return replace(self, features=self.features[at], concepts=self.concepts[at], sharpness=sharp)

    @classmethod
    def build(
        cls, media: Float[Tensor, "M C *S"], concepts: Int[Tensor, " M"] | Sequence[int], judge: Judge,
        batch: int = 16, progress: Progress | None = None,
    ) -> Reference:  # fmt: skip
        """Look at the real pictures ``media`` in [-1, 1]; ``concepts`` says what each of them shows."""
        ids = torch.as_tensor(concepts).long()
        if len(ids) != len(media):
            raise ValueError(f"{len(media)} reference pictures but {len(ids)} concepts: give one concept a picture")
        bytes_ = _eight_bits(media)
        media = _unit(bytes_)
        seen = _see(judge, media, batch, "reference", progress)
        return cls(
            seen, ids, pixels.sharpness(media), tuple(media.shape[1:]), _identity(judge), fingerprint(bytes_, ids)
        )


def fingerprint(pictures: UInt8[Tensor, "M C *S"], concepts: Int[Tensor, " M"]) -> str:
    """Hash of reference pictures and what each of them shows."""
    digest = hashlib.sha256(
        pictures.numpy().tobytes() + concepts.numpy().tobytes() + str(tuple(pictures.shape)).encode()
    )
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Figure:
    """A figure with its interval, and what it is without each prompt's pictures."""

    at: Interval
    left_out: Float[Tensor, " P"]


def evaluate(
    draw: Draw,
    prompts: Sequence[str],
    concepts: Sequence[int],
    reference: Reference,
    judge: Judge,
    measured: MeasuredModel,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    gallery: Reference | None = None,
    discriminator_features: str | None = None,
    progress: Progress | None = None,
) -> list[MetricRecord]:
    """Draw every prompt with every seed and measure the pictures against ``reference``; one record a metric.

    ``concepts`` are the true concepts of the prompts, looked up in ``gallery`` (the reference by default). A judge that
    the student was trained against would flatter it: name ``discriminator_features`` to have that refused.
    """
    check_impartial(judge.name, discriminator_features)
    media = draw_all(draw, prompts, options, reference.size, progress)
    return measure(media, prompts, concepts, reference, judge, measured, options, gallery=gallery, progress=progress)


def measure(
    media: Float[Tensor, "N C *S"],
    prompts: Sequence[str],
    concepts: Sequence[int],
    reference: Reference,
    judge: Judge,
    measured: MeasuredModel,
    options: EvaluateOptions = EvaluateOptions(),
    *,
    gallery: Reference | None = None,
    progress: Progress | None = None,
) -> list[MetricRecord]:
    """Measure pictures that ``draw_all`` drew; several judges may measure the same ones."""
    gallery = reference if gallery is None else gallery
    _check(prompts, concepts, (reference, gallery), judge)
    seen = _see(judge, media, options.batch, "judging", progress)
    of_prompt = torch.arange(len(prompts)).repeat_interleave(len(options.seeds))
    clusters = of_prompt if len(prompts) > 1 else torch.arange(len(seen))  # one prompt: its seeds stand for themselves
    found = _set_figures(seen, reference, clusters, progress)
    ranks = alignment.retrieval_ranks(
        seen, torch.as_tensor(concepts).long()[of_prompt], gallery.features, gallery.concepts
    )
    found |= _retrieval(ranks, clusters)
    sharp = pixels.ratios(pixels.sharpness(media), reference.sharpness)
    found |= {f"{name}_ratio": _mean(values, clusters) for name, values in sharp.items()}
    if len(options.seeds) > 1:
        found |= _variety(seen, of_prompt)
    return _records(found, measured, options, prompts, judge, reference, gallery)


def floor(reference: Reference, n: int, progress: Progress | None = None) -> list[MetricRecord]:
    """The figures of real pictures: ``n`` of the reference's compared with all others, as a model's are, one record a metric.

    A picture's concept is searched among all others. The variety is that of all drawings of one concept, over the concepts
    with as many as most have. ``n`` shrinks to half of the reference; empty where that is too few.
    """
    n = min(n, len(reference.features) // 2)
    if n <= manifold.DENSITY_NEIGHBOURS or len(reference.concepts.unique()) < 2:
        return []
    drawn, rest = reference.split(n)
    if len(drawn.concepts.unique()) < 2:
        return []
    found = _set_figures(drawn.features, rest, drawn.concepts, progress)
    known = torch.isin(drawn.concepts, rest.concepts)
    if int(known.sum()) > 1 and len(drawn.concepts[known].unique()) > 1:
        ranks = alignment.retrieval_ranks(drawn.features[known], drawn.concepts[known], rest.features, rest.concepts)
        found |= _retrieval(ranks, drawn.concepts[known])
    known_sharp = {name: values for name, values in rest.sharpness.items() if values.mean() > 0}
    sharp = pixels.ratios({name: drawn.sharpness[name] for name in known_sharp}, known_sharp)
    found |= {f"{name}_ratio": _mean(values, drawn.concepts) for name, values in sharp.items()}
    concepts, drawings = reference.concepts.unique(return_counts=True)
    usual = int(drawings[drawings > 1].mode().values) if bool((drawings > 1).any()) else 0
    chosen = torch.isin(reference.concepts, concepts[drawings == usual])
    if usual and int((drawings == usual).sum()) > 1:
        found |= _variety(reference.features[chosen], reference.concepts[chosen])
    judge, _, resizer = reference.judge.partition(" ")

    def record(metric: str, figure: Figure) -> MetricRecord:
        of, seeds = (int(chosen.sum()), usual) if metric in VARIETY else (n, 0)
        at, blind = figure.at, metric in _BLIND
        return MetricRecord(
            REAL, 0, metric, at.value, at.low, at.high, of, seeds, features="" if blind else judge,
            resizer="" if blind else resizer, dataset=reference.fingerprint, interval="jackknife",
        )  # fmt: skip

    return [record(metric, figure) for metric, figure in found.items()]


def check_impartial(judge: str, discriminator_features: str | None) -> None:
    """Raise ValueError where the judge is the network that the student was trained to please."""
    if judge == discriminator_features:
        raise ValueError(f"{judge} was the discriminator's network, so it cannot be the judge: choose another network")


def check_enough(prompts: int, seeds: int, real: int) -> None:
    """Raise ValueError for numbers of pictures that have no precision, recall, density and coverage, or no interval."""
    if prompts < 2:
        raise ValueError(
            "an interval leaves out one prompt at a time, and one is all there is: give --prompts 2 or more"
        )
    least = manifold.PRECISION_NEIGHBOURS + 1  # and as many without any prompt, for the interval
    if (prompts - 1) * seeds < least:
        raise ValueError(
            f"{prompts * seeds} pictures of {prompts} prompts are too few to measure: an interval leaves out one prompt at a "
            f"time, and {least} pictures have to be left; give --prompts {least + 1}, or more --seeds"
        )
    if real <= manifold.DENSITY_NEIGHBOURS:
        raise ValueError(
            f"{real} pictures are too few to measure against: give a data set with {manifold.DENSITY_NEIGHBOURS + 1} or more"
        )


def _check(prompts: Sequence[str], concepts: Sequence[int], references: Sequence[Reference], judge: Judge) -> None:
    if len(prompts) != len(concepts):
        raise ValueError(f"{len(prompts)} prompts but {len(concepts)} concepts: give one concept a prompt")
    for reference in references:
        if reference.judge != _identity(judge):
            raise ValueError(
                f"the reference was seen by {reference.judge}, not by {_identity(judge)}: build it with this judge"
            )


def draw_all(
    draw: Draw,
    prompts: Sequence[str],
    options: EvaluateOptions,
    size: tuple[int, ...],
    progress: Progress | None = None,
) -> Float[Tensor, "N C *S"]:
    """Every prompt with every seed, prompt by prompt, of ``size`` and as a person would get them: in 8 bits.

    Raises ValueError for pictures of another size, or that are not finite.
    """
    # a picture's seed hangs on its prompt and its seed alone, not on its place in the list
    jobs = [(prompt, fold(seed, prompt)) for prompt in prompts for seed in options.seeds]
    parts = []
    for start in range(0, len(jobs), options.batch):
        part = jobs[start : start + options.batch]
        media = draw([p for p, _ in part], [s for _, s in part]).detach().float().cpu()
        if tuple(media.shape) != (len(part), *size):
            raise ValueError(
                f"drew {list(media.shape)} for {len(part)} prompts, but the reference is {list(size)} a picture"
            )
        if not media.isfinite().all():
            raise ValueError(
                f"the picture of {part[0][0]!r} or of a prompt after it is not finite: the model is broken"
            )
        parts.append(_unit(_eight_bits(media)))
        if progress:
            progress("drawing", start + len(part), len(jobs))
    return torch.cat(parts)


def _set_figures(
    seen: Tensor, reference: Reference, clusters: Tensor, progress: Progress | None
) -> dict[str, Figure]:  # fmt: skip
    """The figures of the whole set: distances between distributions, and shares of neighbourhoods."""
    real, infinity = reference.features, float("inf")
    three, five = manifold.PRECISION_NEIGHBOURS, manifold.DENSITY_NEIGHBOURS
    in_real_3 = manifold.membership(seen, real, three, reach=reference.reach[three])
    in_real_5 = manifold.membership(seen, real, five, reach=reference.reach[five])
    in_drawn = manifold.membership(real, seen, three)
    statistics: dict[str, tuple[Callable[[Tensor], float], tuple[float, float]]] = {
        "fd": (frechet.frechet_statistic(seen, real), (0.0, infinity)),
        "kid": (kernel.kernel_statistic(seen, real, clusters, reference.pairs), (-infinity, infinity)),
        "recall": (lambda w: manifold.recall(in_drawn, w), SHARE),
        "coverage": (lambda w: manifold.coverage(in_real_5, w), SHARE),
    }
    found = {
        "precision": _mean(manifold.precision(in_real_3), clusters, SHARE),
        "density": _mean(manifold.density(in_real_5), clusters, (0.0, infinity)),
    }
    for done, (name, (statistic, bounds)) in enumerate(statistics.items()):
        value = statistic(torch.ones(len(seen), dtype=torch.float64))
        if name == "recall":  # see there
            without = jackknife.halved(statistic, len(seen), clusters, Rng.of(0, "halves"), least=three)
        else:
            without = jackknife.left_out(statistic, len(seen), clusters)
        found[name] = Figure(jackknife.interval(value, without, bounds), without)
        if progress:
            progress("intervals", done + 1, len(statistics))
    return found


def _mean(
    values: Tensor, clusters: Tensor | None = None, bounds: tuple[float, float] = (-float("inf"), float("inf"))
) -> Figure:
    without = jackknife.left_out_means(values, clusters)
    return Figure(jackknife.interval(values.double().mean().item(), without, bounds), without)


def _retrieval(ranks: Tensor, clusters: Tensor) -> dict[str, Figure]:
    return {f"retrieval_top{k}": _mean(alignment.retrieved(ranks, k), clusters, SHARE) for k in (1, 5)}


def _variety(seen: Tensor, of_prompt: Tensor) -> dict[str, Figure]:
    """How unlike the pictures of one prompt are; nothing for a single prompt, whose spread over prompts nobody can tell."""
    vendi, distance = diversity.per_prompt(seen, of_prompt)
    if len(vendi) < 2:
        return {}
    bounds = (0.0, float("inf"))
    return {"vendi_minus_1": _mean(vendi - 1, bounds=bounds), "pairwise_distance": _mean(distance, bounds=bounds)}


def _records(
    found: dict[str, Figure], measured: MeasuredModel, options: EvaluateOptions, prompts: Sequence[str],
    judge: Judge, reference: Reference, gallery: Reference,
) -> list[MetricRecord]:  # fmt: skip
    dataset = reference.fingerprint
    against = {name: gallery.fingerprint if name.startswith("retrieval") else dataset for name in found}
    drawn = len(prompts) * len(options.seeds)
    hashed = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:12]

    def record(metric: str, at: Interval, n: int, interval: str, **more: Any) -> MetricRecord:
        return MetricRecord(
            measured.model, measured.steps, metric, at.value, at.low, at.high, n, len(options.seeds),
            guidance=measured.guidance, command=measured.command, interval=interval, **more,
        )  # fmt: skip

    judged = {"features": f"{judge.name}@{judge.fingerprint}", "resizer": judge.resizer, "prompts": hashed}
    blind = {"resizer": "", "features": "", "prompts": hashed}
    records = [
        record(
            name,
            figure.at,
            drawn,
            "jackknife",
            dataset=against[name],
            left_out=tuple(figure.left_out.tolist()),
            **(blind if name in _BLIND else judged),
        )
        for name, figure in found.items()
    ]
    if measured.latency_ms:
        times = torch.tensor(list(measured.latency_ms), dtype=torch.float64)
        at = median_interval(times, _rng(options, "latency_ms"))
        records.append(record("latency_ms", at, len(times), "bootstrap", device=measured.device))
    if measured.nfe is not None:
        records.append(record("nfe", Interval(*[float(measured.nfe)] * 3), drawn, "none"))
    return records


_BLIND = ("edges_ratio", "midgreys_ratio", "highs_ratio")
"""Figures that need no network."""


def _see(judge: Judge, media: Tensor, batch: int, what: str, progress: Progress | None) -> Float[Tensor, "N D"]:
    parts = []
    for part in media.split(batch):
        with torch.no_grad():
            pooled = judge(part).pooled
        assert pooled is not None
        parts.append(pooled.cpu().double())
        if progress:
            progress(what, min(len(parts) * batch, len(media)), len(media))
    return torch.cat(parts)


def _eight_bits(media: Tensor) -> Tensor:
    return ((media.detach().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _unit(pixels_: Tensor) -> Tensor:
    return pixels_.float() / 127.5 - 1


def _identity(judge: Judge) -> str:
    return f"{judge.name}@{judge.fingerprint} {judge.resizer}"


def _rng(options: EvaluateOptions, name: str) -> Rng:
    return Rng.of(options.bootstrap_seed, "bootstrap", name)
