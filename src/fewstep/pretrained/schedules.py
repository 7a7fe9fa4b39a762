"""A diffusers scheduler config, read: its noise schedule, its kind of prediction, its timesteps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule, RectifiedFlow, VariancePreserving
from ..tensors import Time, exactly, snapped

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


def is_flow(config: dict[str, Any]) -> bool:
    """Whether the config belongs to a rectified flow."""
    return (
        "FlowMatch" in config.get("_class_name", "")
        or bool(config.get("use_flow_sigmas", False))
        or config.get("prediction_type") == "flow_prediction"
    )


def schedule_of(config: dict[str, Any], unit_start: bool = False) -> NoiseSchedule:
    """The noise schedule behind a diffusers scheduler config; ``unit_start`` as in `VariancePreserving`.

    Raises ValueError for betas or times it does not know.
    """
    refuse_other_times(config)
    n = config.get("num_train_timesteps", 1000)
    if type(n) is not int or n < 1:
        raise ValueError(f"num_train_timesteps is {n!r} in the scheduler config: give a whole number from 1 on")
    if is_flow(config):
        return RectifiedFlow(n, (n - 1) / n if config.get("use_flow_sigmas") else 1.0, flow_shift(config))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    trained = config.get("trained_betas")
    start, end = (config.get(f"beta_{at}", usual) for at, usual in (("start", 0.0001), ("end", 0.02)))
    betas = [start, end] if trained is None else trained
    if not betas or not all(type(beta) in (int, float) and 0 <= beta <= 1 for beta in betas):
        raise ValueError(f"the betas of the scheduler config are {betas!r:.60}: give numbers from 0 to 1")
    if trained is not None:
        return VariancePreserving(
            torch.tensor(trained, dtype=torch.float64), zero_terminal_snr=zero, unit_start=unit_start
        )
    return VariancePreserving.from_range(
        start,
        end,
        n,
        config.get("beta_schedule", "linear"),
        zero_terminal_snr=zero,
        unit_start=unit_start,
    )


def flow_shift(config: dict[str, Any]) -> float:
    """By how much a flow's config shifts its noise: `RectifiedFlow`'s ``shift``; 1 where that depends on the picture's size.

    Raises ValueError for what is no number.
    """
    if config.get("use_dynamic_shifting"):
        return 1.0
    name = "flow_shift" if config.get("use_flow_sigmas") else "shift"
    shift = config.get(name, 1.0)
    if type(shift) not in (int, float):
        raise ValueError(f"{name} is {shift!r} in the scheduler config: give a number above 0, 1 for none")
    return float(shift)


def settled(config: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The config with the shift that its size-dependent one comes to for pictures of so many ``tokens``.

    ``mu`` goes evenly from ``base_shift`` to ``max_shift`` between two numbers of tokens; the shift is ``e^mu``, or mu itself
    where the config says that it is linear (arXiv 2403.03206, section 5.3.2; stock diffusers' ``calculate_shift``).
    """
    if not config.get("use_dynamic_shifting"):
        return config
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = least + (most - least) * (tokens - low) / (high - low)
    shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    name = "flow_shift" if config.get("use_flow_sigmas") else "shift"
    return config | {"use_dynamic_shifting": False, name: shift}


def refuse_other_times(config: dict[str, Any]) -> None:
    """Raise ValueError for a scheduler that scales its network, or tells it the time, in a way that is not known here."""
    name = config.get("_class_name", "")
    if "EDM" in name or "sigma_data" in config:
        raise ValueError(
            "an EDM model scales its network in a way that is not known here: give an eps, v or flow model"
        )
    if config.get("timestep_type", "discrete") != "discrete" and config.get("prediction_type") == "v_prediction":
        raise ValueError(
            f"this model's network is told the logarithm of the noise (timestep_type {config['timestep_type']!r} in its "
            'scheduler config), which is not known here: give a model of "discrete" timesteps'
        )
    if config.get("invert_sigmas"):
        raise ValueError("this model counts its time backwards (invert_sigmas), which is not known here: give another")
    if float(config.get("snr_shift_scale", 1.0)) != 1.0:
        raise ValueError(
            f"this model's betas are shifted (snr_shift_scale {config['snr_shift_scale']}), which is not known here: "
            "give another"
        )
    if name and not is_flow(config) and not {"beta_start", "trained_betas"} & set(config):
        raise ValueError(
            f"a {name} config holds no betas, so its noise is not known here: give an eps, v or flow model, with the "
            "scheduler that it was trained with"
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
    return snapped(exactly(t) * n - 1).clamp(min=0).float()


BETA_KEYS = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "num_train_timesteps",
    "trained_betas",
    "rescale_betas_zero_snr",
)
"""The noise schedule of a scheduler config."""


def prediction_type(config: dict[str, Any]) -> str:
    """What the network predicts by its scheduler config, in diffusers' words."""
    return {kind: name for name, kind in PREDICTION_TYPES.items()}[kind_of(config)]
