"""Networks from disk with every one of their weights: what both libraries would fill with random numbers is refused."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

NO_WEIGHTS = (".position_ids", ".inv_freq")
"""Ends of names that older files keep among the weights: both libraries count them anew, so nothing is lost."""
NAMED = 3
"""How many names a sentence holds."""


STORED = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-\d+-of-\d+)?(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
)
"""Names that both libraries give to weights, in one file or in several, with the name of a variant at one of three places."""
FIRST = ("", "fp16", "bf16", "fp32")
"""The variants, the one first that is read: the files without a name, else these, else any other."""


def weight_files(folder: Path) -> tuple[str, list[Path]]:
    """The variant that is read of a network's folder ("" for the usual files), and its files; none where there are none."""
    of: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if found := STORED.fullmatch(path.name):
            of.setdefault(next((name for name in found.groups() if name), ""), []).append(path)
    stored = {name: paths for name, paths in of.items() if any(path.suffix == ".safetensors" for path in paths)}
    if not stored:
        return "", []
    first = min(stored, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return first, [path for path in stored[first] if path.suffix == ".safetensors"]


def stored_dtype(folder: Path) -> torch.dtype:
    """The numbers that most of a network's floating-point weights are stored in: float32 where nothing is stored."""
    count: Counter[str] = Counter()
    for path in weight_files(folder)[1]:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                found = file.get_slice(name)
                count[found.get_dtype()] += math.prod(found.get_shape())
    of = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return max(
        ((n, of[name]) for name, n in count.items() if name in of), key=itemgetter(0), default=(0, torch.float32)
    )[1]


def load_network(kind: Any, folder: Path, **options: Any) -> Any:
    """A diffusers or transformers network ``kind`` from ``folder``, safetensors only, nothing fetched; `weight_files` says which.

    Raises ValueError that names the weights which the files lack or hold in another shape: both libraries would draw those
    at random and say so only in a log. Weights in the files that the network has no place for are told in a warning.
    """
    variant, _ = weight_files(folder)
    loaded = kind.from_pretrained(
        folder,
        variant=variant or None,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, and refused, like all else that does not fit
        **options,
    )
    network, found = loaded
    shapes = [str(key[0]) if isinstance(key, tuple | list) else str(key) for key in found["mismatched_keys"]]
    if wrong := sorted({*random_ones(network, map(str, found["missing_keys"])), *shapes}):
        raise ValueError(
            f"{folder} lacks {_listed(wrong)}, or has them in another shape: they would be random; "
            "fetch or save the pipeline again"
        )
    unread = sorted(key for key in map(str, found["unexpected_keys"]) if not key.endswith(NO_WEIGHTS))
    if unread:
        warnings.warn(
            f"{folder} holds {_listed(unread)} that its config has no place for: they are not used", stacklevel=4
        )
    return network


def random_ones(network: nn.Module, missing: Iterable[str]) -> list[str]:
    """Of the names that the files lack, those of parameters that nothing else gives: tied weights and buffers are fine."""
    own = dict(network.named_parameters(remove_duplicate=False))
    absent = set(missing)
    given = {id(value) for name, value in own.items() if name not in absent}
    return sorted(name for name in absent if name in own and id(own[name]) not in given)


def _listed(names: list[str]) -> str:
    first = ", ".join(name.encode("unicode_escape").decode() for name in names[:NAMED])  # the files' own words
    more = len(names) - NAMED
    return f"{len(names)} weight{'s' * (len(names) > 1)} ({first}{f' and {more} more' if more > 0 else ''})"


def fingerprint(network: nn.Module) -> str:
    """sha256 of a network's config and of the bytes of all its weights: about a gigabyte a second. 64 hex digits."""
    config: Any = network.config
    facts = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {k: v for k, v in facts.items() if not k.startswith("_") and k not in ("transformers_version", "dtype")}
    digest = hashlib.sha256(type(network).__name__.encode())
    digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, value in sorted(network.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
