"""Frozen networks whose features a discriminator judges: one file each. The main words of the contract stand here."""

from .feature import FeatureNetwork, MediaFeatures, Standardised

__all__ = ["FeatureNetwork", "MediaFeatures", "Standardised"]
