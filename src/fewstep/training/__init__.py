"""Optimisation: data, trainer, averaging, checkpoints, health, plan. Knows nothing of any method."""
