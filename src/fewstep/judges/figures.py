"""From what a judge answered to records: figures with their intervals, the floor, and the distance for n without end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..evaluation import jackknife
from ..evaluation.evaluate import Reference
from ..evaluation.frechet import TIMES, frechet_infinity, frechet_statistic
from ..evaluation.jackknife import Interval
from ..evaluation.mmd import mmd
from ..evaluation.record import REAL, MetricRecord
from ..rng import Rng
from .judge import Judge
from .picture_sets import PictureSet, Real

ENOUGH = 2048
"""Pictures below which a distance between distributions says little by itself: as many as Inception has features."""
MOST_GROUPS = 64
"""So many prompts are left out one at a time; of more of them, groups."""


@dataclass(frozen=True)
class Identity:
    """The judge as records name it."""

    judge: Judge
    others: str
    """`environment.Found.others`"""
    fingerprint: str
    resizer: str
    command: str

    @property
    def metric(self) -> str:
        """What the figure is called: never by the judge's own name where the weights are not the canonical ones."""
        return self.judge.metric + self.others

    def record(
        self, subject: PictureSet, metric: str, at: Interval, left_out: Sequence[float] = (), dataset: str = ""
    ) -> MetricRecord:
        """One figure of one row."""
        return MetricRecord(
            subject.model, subject.steps, metric, at.value, at.low, at.high, len(subject.pictures), subject.seeds,
            features=f"{self.judge.name}{self.others}@{self.fingerprint}", resizer=self.resizer, prompts=subject.hashed,
            dataset=dataset, guidance=subject.guidance, command=self.command, interval="jackknife",
            left_out=tuple(left_out), better=self.judge.direction,
        )  # fmt: skip


def of_scores(identity: Identity, subject: PictureSet, scores: Float[Tensor, " N"]) -> list[MetricRecord]:
    """The mean over pictures. Raises ValueError for a single prompt with a single picture: it has no interval."""
    clusters = subject.clusters if len(subject.clusters.unique()) > 1 else torch.arange(len(scores))
    without = jackknife.left_out_means(scores, clusters)
    at = jackknife.interval(scores.double().mean().item(), without)
    return [identity.record(subject, identity.metric, at, without.tolist())]


def of_features(
    identity: Identity, subject: PictureSet, drawn: Float[Tensor, "N D"], real: Float[Tensor, "M D"], against: Real
) -> list[MetricRecord]:
    """The distance to the real pictures, and for a Fréchet distance that for n without end."""
    groups = grouped(subject.clusters if len(subject.clusters.unique()) > 1 else torch.arange(len(drawn)))
    at, without = distance(identity.judge, drawn, real, groups)
    found = [identity.record(subject, identity.metric, at, without.tolist(), against.fingerprint)]
    if identity.judge.distance == "frechet" and len(drawn) >= TIMES * drawn.shape[1]:
        limit = frechet_infinity(drawn, real, Rng.of(0, "infinity"))
        metric = f"{identity.judge.metric}_infinity{identity.others}"
        found.append(identity.record(subject, metric, limit, (), against.fingerprint))
    return found


def floor(identity: Identity, n: int, real: Float[Tensor, "M D"], against: Real) -> list[MetricRecord]:
    """Real against real: ``n`` of them, at most half, held against the others. Empty where that is fewer than two."""
    n = min(n, len(real) // 2)
    if n < 2:
        return []
    whole = Reference(real, against.concepts, {}, (), "", against.fingerprint)
    one, other = whole.split(n)
    at, _ = distance(identity.judge, one.features, other.features, grouped(torch.arange(n)))
    subject = PictureSet(REAL, 0, against.pictures[:n], ("",) * n)
    return [replace(identity.record(subject, identity.metric, at, (), against.fingerprint), seeds=0)]


def distance(
    judge: Judge, drawn: Float[Tensor, "N D"], real: Float[Tensor, "M D"], groups: Int[Tensor, " N"]
) -> tuple[Interval, Float[Tensor, " G"]]:
    """The judge's distance with its interval, and what it is without each group."""
    if judge.distance == "mmd":
        value, without = mmd(drawn, real, groups)
    else:
        statistic = frechet_statistic(drawn, real)
        value = statistic(torch.ones(len(drawn), dtype=torch.float64))
        without = jackknife.left_out(statistic, len(drawn), groups)
    return jackknife.interval(value, without, (0.0, float("inf"))), without


def grouped(clusters: Int[Tensor, " N"], most: int = MOST_GROUPS) -> Int[Tensor, " N"]:
    """The clusters where they are few, else so many groups of whole clusters: the same for every model on these prompts."""
    of = clusters.unique(return_inverse=True)[1]
    return of if int(of.max()) < most else of % most


def warning(judge: Judge, n: int, m: int) -> str:
    """What is to be said of distances between few pictures; empty for enough."""
    if judge.kind == "score" or min(n, m) >= ENOUGH:
        return ""
    return (
        f"{n:,} pictures against {m:,} real ones: below {ENOUGH:,} a distance is mostly bias. Compare it at equal n alone, and "
        "with the floor"
    )
