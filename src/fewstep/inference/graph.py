"""A network as one ONNX file in the cache, for every backend that reads such files.

The file is named by the hash of weights, shapes, code and versions: only the first start on a machine exports, which
takes half a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import extras
from ..data.dataset import cache_dir
from ..files import whole
from ..version import __version__

EXPORTER = ("onnx", "onnxscript")


def missing(*runtime: str) -> str | None:
    """What to install so that ``runtime`` can run an exported graph; None if it is all installed."""
    return extras.missing("it", (*EXPORTER, *runtime))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """The exporter talks; nobody who starts a server asked it to."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before):
                logger.setLevel(level)


def fingerprint(module: nn.Module, example: Sequence[Tensor], versions: Mapping[str, str]) -> str:
    """The same only for the same weights, shapes, code and versions."""
    digest = hashlib.blake2b(digest_size=12)
    facts = {"fewstep": __version__, "torch": torch.__version__, **versions}
    shapes = [(list(x.shape), str(x.dtype)) for x in example]
    digest.update(repr((sorted(facts.items()), shapes, str(module))).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def export(module: nn.Module, example: Sequence[Tensor], path: Path) -> None:
    """Write ``module`` as one ONNX file with fixed shapes. ValueError if it ignores one of its inputs."""
    import onnx

    with quietly(), torch.no_grad():
        program = torch.onnx.export(module, tuple(example), dynamo=True, verbose=False)
        assert program is not None
        program.save(str(path), external_data=False)
    taken = len(onnx.load(path, load_external_data=False).graph.input)
    if taken != len(example):
        raise ValueError(f"the exported graph takes {taken} of {len(example)} inputs: use the eager backend")


def exported(module: nn.Module, example: Sequence[Tensor]) -> Path:
    """The ONNX file of ``module`` in the cache, made at the first call: written beside its place, then moved there."""
    versions = {name: importlib.metadata.version(name) for name in EXPORTER}
    path = cache_dir() / "backends" / f"{fingerprint(module, example, versions)}.onnx"
    if not path.is_file():
        with whole(path) as draft:
            export(module, example, draft)
    return path
