"""The names of what a model was trained to draw: people choose from them, and a prompt far from all of them is recognised.

A bundle may bring a list, ``concepts.txt`` beside its card: one name a line. Without one nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..data.dataset import cache_dir
from ..parts.conditioner import Conditioner
from ..tensors import Conditioning

LIST, VECTORS = "concepts.txt", "concepts.safetensors"
MOST_BYTES = 4 * 2**20
AT_A_TIME = 64
OUTLIERS = 0.05
"""A prompt is far when it is further from every concept than this share of the concepts is from the next. On emoji-64 (1,571
concepts): docs/log.md, 2026-11-28."""
FEWEST = 20
"""Of fewer concepts no threshold is taken."""


def read(folder: Path) -> tuple[str, ...]:
    """The names in a bundle's list, without repetitions; () where it has none. Raises ValueError for a file that is no list."""
    path = folder / LIST
    if not path.is_file():
        return ()
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES // 2**20} MiB: give one short name a line")
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: save it as UTF-8, one name a line") from None
    return tuple(dict.fromkeys(name for line in lines if (name := " ".join(line.split()))))


def direction(cond: Conditioning) -> Float[Tensor, "B D"] | None:
    """One unit vector a prompt: its pooled text, or the mean of its tokens; None for what is no text."""
    text = cond.mean_token if cond.pooled is None else cond.pooled
    return None if text is None else F.normalize(text.float(), dim=-1).cpu()


class Concepts:
    """The names with their directions, and how far apart they are themselves."""

    def __init__(self, names: Sequence[str], vectors: Float[Tensor, "N D"]) -> None:
        self.names, self._vectors = tuple(names), F.normalize(vectors.float(), dim=-1)
        between = self._vectors @ self._vectors.T
        between.fill_diagonal_(-1)
        enough = len(names) >= FEWEST
        self.threshold = float(torch.quantile(between.max(1).values, OUTLIERS)) if enough else -1.0
        """The cosine under which a prompt is far."""

    def nearest(self, cond: Conditioning, n: int = 3) -> tuple[float, tuple[str, ...]]:
        """The cosine to the nearest concept of one prompt, in [-1, 1], and the ``n`` nearest names."""
        towards = direction(cond)
        if towards is None:
            return 1.0, ()
        cosines, places = (self._vectors @ towards[0]).topk(min(n, len(self.names)))
        return float(cosines[0]), tuple(self.names[int(i)] for i in places)

    def far(self, cond: Conditioning) -> tuple[str, ...]:
        """The nearest names where one prompt is far from all; () where it is not."""
        cosine, names = self.nearest(cond)
        return names if cosine < self.threshold else ()


def load(folder: Path, conditioner: Conditioner, report: Callable[[str], None] = lambda _: None) -> Concepts | None:
    """A bundle's concepts, or None without a list.

    Their directions are read from beside the list, or from the cache, where those are of this list and this text encoder;
    else they are made, which takes seconds, and kept in the cache.
    """
    names = read(folder)
    if not names:
        return None
    key = conditioner.key(names)
    kept = cache_dir() / f"concepts-{key[:16]}.safetensors"
    for path in (folder / VECTORS, kept) if key else ():
        if (found := _vectors(path, key)) is not None:
            return Concepts(names, found)
    report(f"reading {len(names):,} concepts (once on this machine)")
    made = encode(names, conditioner)
    if made is None:
        return None
    if key:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(kept, key, made)
    return Concepts(names, made)


@torch.inference_mode()
def encode(names: Sequence[str], conditioner: Conditioner) -> Float[Tensor, "N D"] | None:
    """The names' directions; None where the model is not asked in words."""
    parts = [direction(conditioner(names[i : i + AT_A_TIME])) for i in range(0, len(names), AT_A_TIME)]
    whole = [part for part in parts if part is not None]
    return torch.cat(whole) if len(whole) == len(parts) else None


def write(path: Path, key: str, vectors: Float[Tensor, "N D"]) -> None:
    """Keep directions, in a byte a number (a cosine moves by less than .005)."""
    scale = vectors.abs().amax(1, keepdim=True).clamp_min(1e-12)
    save_file({"vectors": (127 * vectors / scale).round().to(torch.int8)}, path, {"key": key})


def _vectors(path: Path, key: str) -> Float[Tensor, "N D"] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            return opened.get_tensor("vectors").float() if (opened.metadata() or {}).get("key") == key else None
    except (SafetensorError, OSError):
        return None
