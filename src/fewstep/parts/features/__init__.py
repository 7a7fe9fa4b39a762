"""Frozen networks whose features a discriminator judges: one file each. ``feature`` is the contract; its main words stand here, too."""

from .feature import FeatureNetwork, MediaFeatures, Standardised

__all__ = ["FeatureNetwork", "MediaFeatures", "Standardised"]
