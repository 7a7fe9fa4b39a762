"""Fréchet distance in the features of a small ImageNet network from a Python package, as `fewstep evaluate` has it."""

from __future__ import annotations

from . import kit

MEMBERS = ("mobilenet-v2", "efficientnet-lite2")
KIND = "features"
METRIC = "fd"
LICENCE = "Apache-2.0; the packages name none of their weights"
PINS = None


def load(asked: kit.Asked) -> kit.OnMedia:
    """The network of this name."""
    from ..evaluation.suite import Options
    from ..parts.features.efficientnet import ImageNetFeatures

    return kit.OnMedia(ImageNetFeatures.load(asked.name, Options.resolution))
