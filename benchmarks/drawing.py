"""One-step drawing against its networks' own time, and against stock diffusers at 1 and 50 steps, on the same weights.

    python benchmarks/drawing.py [bundle] [calls] [results file]

Figures go into docs/results/drawing.json, from where ``make docs`` takes them into the README's sentence.

All variants take turns within one run, so that a drifting machine hits them alike; medians and ratios of medians.
"""

from __future__ import annotations

import re
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fewstep import bundle, pretrained
from fewstep.diffusion.sampler import at
from fewstep.evaluation.record import write_figures
from fewstep.inference.pipeline import Pipeline

PROMPT = "red heart"
RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "drawing.json"


def variants(name: str) -> dict[str, tuple[Callable[[], object], int]]:
    folder = bundle.locate(name)
    pipeline = Pipeline.open(folder)
    with pretrained.quiet():
        from diffusers import AutoPipelineForText2Image

        stock = AutoPipelineForText2Image.from_pretrained(folder)
    stock.set_progress_bar_config(disable=True)
    cond, noise = pipeline.encode([PROMPT]), torch.randn(1, *pipeline.model.latent_shape)
    t = at(1.0, noise)

    @torch.inference_mode()
    def networks() -> object:
        return pipeline.model.codec.decode(pipeline.model.denoiser.predict(noise, t, cond))

    def theirs(steps: int) -> object:
        return stock(PROMPT, num_inference_steps=steps, guidance_scale=0, output_type="pt")

    return {
        "networks alone": (networks, 1),
        "fewstep, 1 step": (lambda: pipeline.draw(PROMPT, 1), 1),
        "fewstep, 1 step, new prompt": (lambda: (pipeline._encoded.clear(), pipeline.draw(PROMPT, 1)), 1),
        "stock diffusers, 1 step": (lambda: theirs(1), 1),
        "stock diffusers, 50 steps": (lambda: theirs(50), 10),
    }


def main() -> None:
    torch.set_num_threads(1)
    name, calls = (sys.argv[1:] or ["emoji-64"])[0], int((sys.argv[2:] or ["30"])[0])
    todo = variants(name)
    times: dict[str, list[float]] = {k: [] for k in todo}
    for i in range(calls + 2):
        for label, (call, every) in todo.items():
            if i % every == 0:
                began = time.perf_counter()
                call()
                times[label].append(1000 * (time.perf_counter() - began))
    base = statistics.median(times["networks alone"][1:])
    figures: dict[str, float] = {"calls": calls}
    print(f"| {name}, one thread, n = {calls} | median ms | ratio to the networks alone |\n|---|---|---|")
    for label, values in times.items():
        median = statistics.median(values[1:])
        key = re.sub(r"\W+", "_", label)
        figures |= {f"{key}_ms": round(median, 2), f"{key}_ratio": round(median / base, 4)}
        print(f"| {label} | {median:.1f} | {median / base:.2f} |")
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory: {figures['peak_mib']} MiB")
    path = Path(sys.argv[3]) if sys.argv[3:] else RESULTS
    write_figures(path, figures, shlex.join(["python", "benchmarks/drawing.py", *sys.argv[1:3]]))


if __name__ == "__main__":
    main()
