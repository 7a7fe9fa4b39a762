"""Which weights of a student are trained: everything, a low-rank addition (LoRA), or everything but most convolutions.

LoRA (arXiv 2106.09685) learns ``W + B A`` with A and B of a small rank. Alpha is the rank, so the addition is not scaled
and every tool reads the file alike, with or without its metadata. It is kept as diffusers keeps it:
``pytorch_lora_weights.safetensors`` with keys such as ``unet.down_blocks.0.attentions.0...to_q.lora_A.weight``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import extras
from .quiet import quiet

What = Literal["full", "lora", "freeze"]
ADAPTER = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)
"""Where a rank is added: attention, feed-forward and residual layers (LCM-LoRA, arXiv 2311.05556, takes the same)."""


def choose(network: nn.Module, what: What, rank: int = 64, seed: int = 0, targets: Sequence[str] = TARGETS) -> float:
    """Make exactly the chosen weights of a diffusers network trainable; returns their share of all.

    ``targets`` are the ends of the names of the layers that a LoRA is added to.

    ``freeze`` keeps the convolutions inside the blocks as they are (GDD-I, arXiv 2405.20750) and trains the rest: norms,
    attention, time and the first and last convolution. Raises ValueError with the fix where that leaves nothing or all.
    """
    if what == "lora":
        add_lora(network, rank, seed, targets)
    else:
        network.requires_grad_(True)
        if what == "freeze":
            freeze_convolutions(network)
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, trained in counts if trained) / sum(n for n, _ in counts)


def freeze_convolutions(network: nn.Module) -> None:
    """Freeze every convolution larger than 1x1, except the first and the last one of the network.

    One that cuts pictures into patches is a first one. Raises ValueError with the fix where no other is there.
    """
    edges = {id(getattr(network, name, None)) for name in ("conv_in", "conv_out")}
    inner = [
        m
        for m in network.modules()
        if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) and max(m.kernel_size) > 1
        if id(m) not in edges and m.stride != m.kernel_size
    ]
    if not inner:
        raise ValueError("this network has no inner convolutions to freeze: use --student lora or --student full")
    for module in inner:
        module.requires_grad_(False)


def add_lora(network: Any, rank: int, seed: int = 0, ends: Sequence[str] = TARGETS) -> None:
    """Freeze the network and give it low-rank additions that start at zero. Raises ValueError with the fix."""
    if rank < 1:
        raise ValueError(f"a LoRA of rank {rank} holds nothing: use --rank 1 or more, 64 is usual")
    if not hasattr(network, "add_adapter"):
        raise ValueError(f"stock diffusers loads no LoRA onto a {type(network).__name__}: use --student full")
    extras.require("a LoRA student", extras.of("lora"))
    from peft import LoraConfig

    ends = tuple(f".{name}" for name in ends)
    targets = [
        name
        for name, module in network.named_modules()
        if f".{name}".endswith(ends) and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    if not targets:
        raise ValueError("this network has no layers that a LoRA is added to: use --student full")
    network.requires_grad_(False)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
        network.add_adapter(config, adapter_name=ADAPTER)


def has_lora(network: Any) -> bool:
    """Whether the network carries low-rank additions."""
    return bool(getattr(network, "peft_config", None))


def lora_weights(network: Any, component: str) -> dict[str, Tensor]:
    """The low-rank weights under the keys of the ecosystem; ``component`` is ``unet`` or ``transformer``."""
    from peft import get_peft_model_state_dict

    return {f"{component}.{k}": v for k, v in get_peft_model_state_dict(network, adapter_name=ADAPTER).items()}


def save_lora(network: Any, component: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the low-rank weights where ``pipe.load_lora_weights(folder)`` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().to(dtype).contiguous().cpu() for k, v in lora_weights(network, component).items()}
    save_file(weights, folder / LORA_FILE, metadata={"format": "pt"})


@torch.no_grad()
def merged_state(network: Any) -> dict[str, Tensor]:
    """The network's weights with its low-rank additions added in, under the names of the network without them."""
    state: dict[str, Tensor] = dict(network.state_dict())
    if not has_lora(network):
        return state
    plain = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    for name, module in network.named_modules():
        if callable(getattr(module, "get_delta_weight", None)):
            key = f"{name}.weight"
            plain[key] = plain[key] + cast(Any, module).get_delta_weight(ADAPTER).to(plain[key].dtype)
    return plain
