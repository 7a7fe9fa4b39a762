"""FID: Fréchet distance in Inception-v3's features, with the weights of the original code, by pytorch-fid (arXiv:1706.08500)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import kit

KIND = "features"
LICENCE = "Apache-2.0"
PINS = "pytorch-fid==0.3.0", "torch==2.5.1", "torchvision==0.20.1", "numpy==1.26.4", "scipy==1.13.1", "pillow==10.4.0"
FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS = kit.Weights(
    f"curl -L --create-dirs -o {{folder}}/{FILE} https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}",
    {FILE: "6726825d"},  # the file's own name says so
)


def tiny(folder: str) -> None:
    """Inception-v3 with random weights: its width is fixed, so they are 24 million."""
    from unittest.mock import patch

    import torch
    from pytorch_fid import inception

    torch.manual_seed(0)
    with (
        patch.object(inception, "load_state_dict_from_url", lambda url, progress: {}),
        patch.object(torch.nn.Module, "load_state_dict", lambda self, state: None),
    ):
        network = inception.fid_inception_v3()
    torch.save(network.state_dict(), f"{folder}/{FILE}")


class Pool3:
    """The last pooling of pytorch-fid's network: bilinear to 299 x 299 in torch, without antialiasing, as the original."""

    resizer = "torch-bilinear-299"

    def __init__(self, asked: kit.Asked) -> None:
        import torch
        from pytorch_fid import inception

        state = torch.load(f"{asked.weights}/{FILE}", map_location="cpu", weights_only=True)
        inception.load_state_dict_from_url = lambda url, progress: state  # nothing is fetched
        self.network, self.device = inception.InceptionV3().eval().to(asked.device), asked.device

    def __call__(self, pictures: Sequence[str], prompts: Sequence[str]) -> Iterator[Any]:
        """One row a picture."""
        import torch

        for files, _ in kit.batches(pictures, prompts):
            for some in kit.media(files):
                with torch.no_grad():
                    (pooled,) = self.network(((some + 1) / 2).to(self.device))
                yield from pooled[:, :, 0, 0]


load = Pool3
