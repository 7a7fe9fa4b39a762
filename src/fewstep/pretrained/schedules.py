"""A diffusers scheduler config, read: its noise schedule, its kind of prediction, its timesteps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule, RectifiedFlow, VariancePreserving
from ..tensors import Time

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


def is_flow(config: dict[str, Any]) -> bool:
    """Whether the config belongs to a rectified flow."""
    return (
        "FlowMatch" in config.get("_class_name", "")
        or bool(config.get("use_flow_sigmas", False))
        or config.get("prediction_type") == "flow_prediction"
    )


def schedule_of(config: dict[str, Any]) -> NoiseSchedule:
    """The noise schedule behind a diffusers scheduler config. Raises ValueError for betas it does not know."""
    if is_flow(config):
        return RectifiedFlow()
    if "EDM" in config.get("_class_name", ""):
        raise ValueError(
            "an EDM model scales its network in a way that is not known here: give an eps, v or flow model"
        )
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if (trained := config.get("trained_betas")) is not None:
        return VariancePreserving(torch.tensor(trained, dtype=torch.float64), zero_terminal_snr=zero)
    return VariancePreserving.from_range(
        config.get("beta_start", 0.0001),
        config.get("beta_end", 0.02),
        config.get("num_train_timesteps", 1000),
        config.get("beta_schedule", "linear"),
        zero_terminal_snr=zero,
    )


def kind_of(config: dict[str, Any]) -> str:
    """eps | v | x0 | flow from a diffusers scheduler config. Raises ValueError for an unknown prediction type."""
    if is_flow(config):
        return "flow"
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTION_TYPES:
        raise ValueError(
            f"unknown prediction_type {name!r} in the scheduler config: use one of {', '.join(PREDICTION_TYPES)}"
        )
    return PREDICTION_TYPES[name]


def to_timestep(t: Time, n: int = 1000) -> Tensor:
    """t in [0, 1] -> the table's timestep: t = (k + 1) / n stands for timestep k. Fractions are kept for training."""
    timestep = t.double() * n - 1
    nearest = timestep.round()
    return torch.where((timestep - nearest).abs() < 1e-3, nearest, timestep).clamp(min=0).float()
