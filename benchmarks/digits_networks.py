"""Two classifiers of digits: what discriminators look through in a contest on digits, and another one that judges.

``fewstep contest --features benchmarks.digits_networks`` and ``--judge benchmarks.digits_judge`` load them, from the project's
folder. Both are trained where they are loaded, in a few seconds, always to the same weights.
"""

from __future__ import annotations

from typing import Any

import torch

from fewstep.parts.features.classifier import ConvClassifier
from fewstep.recipes import digits
from fewstep.training.data import open_dataset

DATA = "digits"
"""Built by ``fewstep data digits``."""


def trained(seed: int, width: int) -> ConvClassifier:
    """A classifier of the digits that are trained on."""
    train = open_dataset(DATA).subset("train")
    return digits.classifier(train.media(slice(None)), torch.tensor([item.label for item in train.items]), seed, width)


def load(o: Any, teacher: Any) -> ConvClassifier:
    """What discriminators look through."""
    return trained(seed=1, width=32)
