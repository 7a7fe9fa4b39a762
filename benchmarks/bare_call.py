"""The baseline of load.py: codec in, one network evaluation, codec out, and nothing else.

    python benchmarks/bare_call.py BUNDLE BACKEND

For every number N read from its input, it makes N calls and prints the median milliseconds of one, in time that passed and in
processor time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fewstep import bundle
from fewstep.inference import backend as backends
from fewstep.inference.pipeline import Pipeline
from fewstep.parts.denoiser import Denoiser
from fewstep.tensors import Conditioning


class Bare(nn.Module):
    """A network's own prediction as a function of plain tensors."""

    def __init__(self, denoiser: Denoiser, fields: Sequence[str]) -> None:
        super().__init__()
        self.denoiser, self.fields = denoiser, fields

    def forward(self, x_t: Tensor, t: Tensor, *cond: Tensor) -> Tensor:
        return self.denoiser.predict(x_t, t, Conditioning(**dict(zip(self.fields, cond))))


def bare(name: str, backend: str) -> Callable[[], None]:
    pipeline = Pipeline.open(bundle.locate(name))
    run, denoiser, codec = backends.usable(backend), pipeline.model.denoiser, pipeline.model.codec
    cond = pipeline.encode(["a red heart"])
    fields = backends.fields_of(denoiser, cond)
    x_t, media = torch.randn(1, *pipeline.latent_shape()), torch.zeros(1, 3, *pipeline.card.native_size)
    inputs = (x_t, torch.full((1,), 0.5, dtype=torch.float64), *(getattr(cond, field) for field in fields))
    network = run.compile(Bare(denoiser, fields).eval(), inputs)
    decode, encode = backends.compile_decoder(run, codec, x_t), backends.compile_encoder(run, codec, media)

    def call() -> None:
        encode(media)
        network(*inputs)
        decode(x_t)

    return call


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        call = bare(*sys.argv[1:3])
        call()
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            passed, used = [], []
            for _ in range(int(line)):
                began, worked = time.perf_counter(), time.process_time()
                call()
                used.append(1000 * (time.process_time() - worked))
                passed.append(1000 * (time.perf_counter() - began))
            print(statistics.median(passed), statistics.median(used), flush=True)


if __name__ == "__main__":
    main()
