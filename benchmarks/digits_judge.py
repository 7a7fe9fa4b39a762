"""The judge of a contest on digits: a classifier that took no part in any training."""

from __future__ import annotations

from typing import Any

from benchmarks.digits_networks import trained

from fewstep.parts.features.classifier import ConvClassifier


def load(o: Any, teacher: Any) -> ConvClassifier:
    """What judges: other weights and another width than what discriminators look through."""
    return trained(seed=2, width=24)
