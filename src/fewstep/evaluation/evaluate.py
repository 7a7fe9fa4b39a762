"""Draw pictures, let a judge look at them, and write down every figure with its interval.

``draw`` is any callable from prompts and seeds to media: this file knows nothing of pipelines. Pictures are judged as a
person would get them: clamped and rounded to 8 bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewstep.evaluation import alignment, diversity, frechet, kernel, manifold
from fewstep.evaluation import sharpness as pixels
from fewstep.evaluation.bootstrap import Interval, bootstrap, mean_interval, median_interval
from fewstep.evaluation.record import MetricRecord
from fewstep.rng import Rng, fold
from fewstep.tensors import Features

Draw = Callable[[list[str], list[int]], Tensor]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@runtime_checkable
class Judge(Protocol):
    """A frozen network that looks at pictures; ``fewstep.parts.imagenet.ImageNetFeatures`` is one."""

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
class Subject:
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

    seeds: tuple[int, ...] = (0, 1)
    """Every prompt is drawn once with each; diversity needs two or more."""
    batch: int = 16
    """Pictures drawn and looked at in one go."""
    resamples: int = 200
    """Bootstrap resamples behind every interval."""
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
    """The judge that looked, as ``name@fingerprint`` and resizer."""
    fingerprint: str
    """Hash of pictures and concepts."""

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
        digest = hashlib.sha256(bytes_.numpy().tobytes() + ids.numpy().tobytes() + str(tuple(media.shape)).encode())
        media = _unit(bytes_)
        seen = _see(judge, media, batch, "reference", progress)
        return cls(
            seen, ids, pixels.sharpness(media), tuple(media.shape[1:]), _identity(judge), digest.hexdigest()[:12]
        )


def evaluate(
    draw: Draw,
    prompts: Sequence[str],
    concepts: Sequence[int],
    reference: Reference,
    judge: Judge,
    subject: Subject,
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
    gallery = reference if gallery is None else gallery
    _check(prompts, concepts, (reference, gallery), judge, discriminator_features)
    media = _draw_all(draw, prompts, options, reference.size, progress)
    seen = _see(judge, media, options.batch, "judging", progress)
    of_prompt = torch.arange(len(prompts)).repeat_interleave(len(options.seeds))
    found = _set_figures(seen, reference, of_prompt, options, progress)
    ranks = alignment.retrieval_ranks(
        seen, torch.as_tensor(concepts).long()[of_prompt], gallery.features, gallery.concepts
    )
    each = {f"retrieval_top{k}": alignment.retrieved(ranks, k) for k in (1, 5)}
    sharp = pixels.ratios(pixels.sharpness(media), reference.sharpness)
    each |= {f"{name}_ratio": values for name, values in sharp.items()}
    found |= {name: mean_interval(v, _rng(options, name), clusters=of_prompt) for name, v in each.items()}
    if len(options.seeds) > 1:
        vendi, distance = diversity.per_prompt(seen, of_prompt)
        found["vendi"] = mean_interval(vendi, _rng(options, "vendi"))
        found["pairwise_distance"] = mean_interval(distance, _rng(options, "pairwise_distance"))
    return _records(found, subject, options, prompts, judge, reference, gallery)


def check_impartial(judge: str, discriminator_features: str | None) -> None:
    """Raise ValueError where the judge is the network that the student was trained to please."""
    if judge == discriminator_features:
        raise ValueError(f"{judge} was the discriminator's network, so it cannot be the judge: choose another network")


def check_enough(drawn: int, real: int) -> None:
    """Raise ValueError for numbers of pictures that have no precision, recall, density and coverage."""
    if drawn <= manifold.PRECISION_NEIGHBOURS:
        raise ValueError(
            f"{drawn} pictures are too few to measure: give prompts times seeds of {manifold.PRECISION_NEIGHBOURS + 1} or more"
        )
    if real <= manifold.DENSITY_NEIGHBOURS:
        raise ValueError(
            f"{real} pictures are too few to measure against: give a data set with {manifold.DENSITY_NEIGHBOURS + 1} or more"
        )


def _check(
    prompts: Sequence[str], concepts: Sequence[int], references: Sequence[Reference], judge: Judge,
    discriminator_features: str | None,
) -> None:  # fmt: skip
    if len(prompts) != len(concepts):
        raise ValueError(f"{len(prompts)} prompts but {len(concepts)} concepts: give one concept a prompt")
    check_impartial(judge.name, discriminator_features)
    for reference in references:
        if reference.judge != _identity(judge):
            raise ValueError(
                f"the reference was seen by {reference.judge}, not by {_identity(judge)}: build it with this judge"
            )


def _draw_all(
    draw: Draw, prompts: Sequence[str], options: EvaluateOptions, size: tuple[int, ...], progress: Progress | None
) -> Float[Tensor, "N C *S"]:
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
    seen: Tensor, reference: Reference, clusters: Tensor, options: EvaluateOptions, progress: Progress | None
) -> dict[str, Interval]:
    """The figures of the whole set: distances between distributions, and shares of neighbourhoods."""
    real = reference.features
    in_real_3 = manifold.membership(seen, real, manifold.PRECISION_NEIGHBOURS)
    in_real_5 = manifold.membership(seen, real, manifold.DENSITY_NEIGHBOURS)
    in_drawn = manifold.membership(real, seen, manifold.PRECISION_NEIGHBOURS)
    infinity = float("inf")
    statistics: dict[str, tuple[Callable[[Tensor], float], float, float]] = {
        "fd": (frechet.frechet_statistic(seen, real), 0.0, infinity),
        "kid": (kernel.kernel_statistic(seen, real), -infinity, infinity),
        "recall": (lambda w: manifold.recall(in_drawn, w), 0.0, 1.0),
        "coverage": (lambda w: manifold.coverage(in_real_5, w), 0.0, 1.0),
    }
    found = {
        "precision": mean_interval(manifold.precision(in_real_3), _rng(options, "precision"), clusters=clusters),
        "density": mean_interval(manifold.density(in_real_5), _rng(options, "density"), clusters=clusters),
    }
    for done, (name, (statistic, least, most)) in enumerate(statistics.items()):
        found[name] = bootstrap(
            statistic, len(seen), _rng(options, name),
            resamples=options.resamples, clusters=clusters, recentre=True, bounds=(least, most),
        )  # fmt: skip
        if progress:
            progress("intervals", done + 1, len(statistics))
    return found


def _records(
    found: dict[str, Interval], subject: Subject, options: EvaluateOptions, prompts: Sequence[str],
    judge: Judge, reference: Reference, gallery: Reference,
) -> list[MetricRecord]:  # fmt: skip
    dataset = reference.fingerprint
    against = {name: gallery.fingerprint if name.startswith("retrieval") else dataset for name in found}
    drawn = len(prompts) * len(options.seeds)
    hashed = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:12]

    def record(metric: str, at: Interval, n: int, **more: Any) -> MetricRecord:
        return MetricRecord(
            subject.model, subject.steps, metric, at.value, at.low, at.high, n, len(options.seeds),
            guidance=subject.guidance, command=subject.command, **more,
        )  # fmt: skip

    looked = {"features": f"{judge.name}@{judge.fingerprint}", "resizer": judge.resizer, "prompts": hashed}
    blind = {"resizer": "", "features": "", "prompts": hashed}
    records = [
        record(name, at, drawn, dataset=against[name], **(blind if name in _BLIND else looked))
        for name, at in found.items()
    ]
    if subject.latency_ms:
        times = torch.tensor(list(subject.latency_ms), dtype=torch.float64)
        at = median_interval(times, _rng(options, "latency_ms"))
        records.append(record("latency_ms", at, len(times), device=subject.device))
    if subject.nfe is not None:
        records.append(record("nfe", Interval(*[float(subject.nfe)] * 3), drawn))
    return records


_BLIND = ("edges_ratio", "midgreys_ratio", "highs_ratio")
"""Figures that no network looked at."""


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
