"""Frozen networks that a discriminator looks through: one file each. ``feature.py`` is the contract."""
