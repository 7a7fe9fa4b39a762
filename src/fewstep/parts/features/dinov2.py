"""DINOv2 (arXiv 2304.07193) as a feature network: the paper's choice for ADD's discriminator (arXiv 2311.17042, Table 1a).

The network is transformers' ``Dinov2Model``; its weights are not ours to ship, so they come from a folder. What the heads
see is what StyleGAN-T's see (arXiv 2301.09515): the patch tokens after the embedding and after four blocks spread over the
depth, each with the class token of that depth added, as rows ``[B, C, N]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...sizes import like
from ...tensors import Features, Media
from ..denoiser import Denoiser
from .feature import Options, in_colour

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, for pixels in [0, 1]."""
WANTED = "facebook/dinov2-small from the Hugging Face hub (config.json and model.safetensors)"


class DinoFeatures(nn.Module):
    """A frozen DINOv2 as a map from media to ``Features``; differentiable with respect to its input."""

    _scale: Tensor
    _offset: Tensor

    def __init__(self, network: Any, resolution: int = 0) -> None:
        """``resolution`` is the side that pictures are resized to, a multiple of the patch size; 0 takes the network's own.

        Pictures that are no squares keep their shape and get the area of that square.
        """
        super().__init__()
        config = network.config
        self.patch = int(config.patch_size)
        self.resolution = resolution or int(config.image_size)
        if self.resolution % self.patch or self.resolution < self.patch:
            nearest = max(1, round(self.resolution / self.patch)) * self.patch
            raise ValueError(
                f"DINOv2 cannot look at {self.resolution} pixels: use a multiple of its patch size {self.patch}, "
                f"such as --resolution {nearest}"
            )
        depth = int(config.num_hidden_layers)
        if depth < 4:
            raise ValueError(f"a DINOv2 of {depth} blocks has no four to look through: give one of 4 or more")
        self.taps = tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))
        """Blocks whose outputs are levels, counted from 0: 2, 5, 8 and 11 of twelve."""
        self.pooled_channels = int(config.hidden_size)
        self.network = network
        self.register_buffer("_scale", torch.tensor([0.5 / s for s in STD]).view(3, 1, 1), persistent=False)
        offsets = [(0.5 - m) / s for m, s in zip(MEAN, STD)]
        self.register_buffer("_offset", torch.tensor(offsets).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def load(cls, folder: Path | str, resolution: int = 0) -> DinoFeatures:
        """Load from a folder in transformers' layout. Raises ValueError with the fix if one weight is missing or unknown."""
        folder = Path(folder)
        if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise ValueError(
                f"the weights of DINOv2 are not in {folder}: download {WANTED} and give its folder as --features-folder, "
                "or use --features efficientnet-lite0"
            )
        from transformers import AutoConfig, Dinov2Model

        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != "dinov2":
            raise ValueError(f"{folder} holds a {config.model_type}, not DINOv2: download {WANTED}")
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        options["ignore_mismatched_sizes"] = True  # they are reported, and refused, like all else that does not fit
        loaded: Any = Dinov2Model.from_pretrained(folder, config=config, dtype=torch.float32, **options)
        network, found = loaded
        _refuse({k for name in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in map(str, found[name])})
        return cls(network, resolution)

    @classmethod
    def from_state(cls, config: Any, state: Mapping[str, Tensor], resolution: int = 0) -> DinoFeatures:
        """Build from a state dictionary with this transformers' own names, every one of which has to match in shape too.

        A lax load is never offered: the attention's names have changed between releases, and what does not match would
        stay random without a word.
        """
        from transformers import Dinov2Model

        network = Dinov2Model(config)
        own = network.state_dict()
        _refuse(set(own) ^ set(state) | {k for k in set(own) & set(state) if own[k].shape != state[k].shape})
        network.load_state_dict(dict(state), strict=True)
        return cls(network, resolution)

    @property
    def fingerprint(self) -> str:
        """The first 12 hex digits of a SHA-256 over the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def train(self, mode: bool = True) -> DinoFeatures:
        """Stay in evaluation mode, whatever the network around this one does."""
        return super().train(False)

    def prepare(self, media: Float[Tensor, "B C *S"]) -> Float[Tensor, "B 3 H W"]:
        """Show grey as colour, resize to the resolution, in the pictures' own shape, and normalise as the network was trained."""
        media = in_colour(media, "DINOv2").to(self._scale)  # float32: bf16 has no antialiased resize
        size = like(media.shape[2:], self.resolution, self.patch, self.patch)
        if media.shape[-2:] != size:
            media = F.interpolate(media, size, mode="bicubic", antialias=True)
        return media * self._scale + self._offset

    def forward(self, media: Media) -> Features:
        """See ``media`` in [-1, 1]: five levels ``[B, C, N]``, and the class embedding ``[B, C]`` as ``pooled``.

        Position embeddings are interpolated (bicubic) to the resolution by the network itself.
        """
        out = self.network(self.prepare(media), output_hidden_states=True)
        states = [out.hidden_states[0], *(out.hidden_states[i + 1] for i in self.taps)]
        levels = [(tokens[:, 1:] + tokens[:, :1]).transpose(1, 2) for tokens in states]
        return Features(tuple(levels), out.pooler_output)


def _refuse(wrong: set[str]) -> None:
    if wrong:
        raise ValueError(
            f"these are not the weights of this DINOv2: {len(wrong)} keys differ, first {sorted(wrong)[:3]}; download "
            f"{WANTED} again"
        )


def suitable(side: int, patch: int = 14, largest: int = 518) -> int:
    """The resolution to show pictures of this side at: the nearest multiple of the patch, at most what DINOv2 was trained at."""
    return min(largest // patch, max(2, round(side / patch))) * patch


def load(o: Options, teacher: Denoiser) -> DinoFeatures:
    """The network in ``o.features_folder``."""
    return DinoFeatures.load(o.features_folder, o.resolution)
