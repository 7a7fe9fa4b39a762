"""A step of ADD against the sum of its unavoidable passes, timed one by one in the same run.

    python benchmarks/training_step.py [teacher] [dataset folder] [rounds] [results file]

Figures go into docs/results/training_step.json.

Unavoidable: the student forward and backward, the decoder forward and backward to its input, the feature network forward and
backward to its input and forward on reals, the heads of both turns with R1, the guided teacher forward, the optimisers.
"""

from __future__ import annotations

import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fewstep.evaluation.record import write_figures
from fewstep.recipes import distillation
from fewstep.rng import Rng
from fewstep.training.trainer import Trainer

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "training_step.json"


def passes(trainer: Trainer, batch: object) -> dict[str, Callable[[], object]]:
    game = trainer.method
    student, teacher, codec = game.student.denoiser, game.teacher, game.codec
    x, t, _ = game.input(batch.x0, batch.cond, Rng.of(0))
    rng = Rng.of(1)
    with torch.no_grad():
        sample = student(x, t, batch.cond)
        media = codec.decode(sample)
        features = game.adversary.features(media, batch.cond, rng)

    def student_pass() -> None:
        student(x, t, batch.cond).square().mean().backward()

    def decoder_pass() -> None:
        z = sample.clone().requires_grad_(True)
        codec.decode(z).square().mean().backward()

    def feature_pass() -> None:
        m = media.clone().requires_grad_(True)
        torch.stack([f.square().mean() for f in game.adversary.features(m, batch.cond, rng).levels]).sum().backward()

    @torch.no_grad()
    def real_features() -> None:
        game.adversary.features(batch.media, batch.cond, rng)

    def heads_pass() -> None:
        levels = tuple(f.detach().requires_grad_(True) for f in features.levels)
        game.adversary.discriminator(type(features)(levels), batch.cond).mean().backward()  # the student's turn
        logits = game.adversary.discriminator(type(features)(levels), batch.cond)
        from fewstep.diffusion.losses import r1

        (r1(logits, levels) + logits.mean()).backward()
        game.adversary.discriminator(features, batch.cond).mean().backward()

    def teacher_pass() -> None:
        teacher(sample, t.clamp(max=0.9), batch.cond, batch.null)

    def optimisers() -> None:
        for name, (network, _) in game.players.items():
            for p in network.parameters():
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            trainer.optimizers[name].step()
            if name in trainer.averages:
                trainer.averages[name].update(network)

    timed = (student_pass, decoder_pass, feature_pass, real_features, heads_pass, teacher_pass, optimisers)
    return {f.__name__: f for f in timed}


def main() -> None:
    torch.set_num_threads(1)
    teacher = (sys.argv[1:] or ["emoji-64-teacher"])[0]
    data = (sys.argv[2:] or ["emoji"])[0]
    rounds = int((sys.argv[3:] or ["7"])[0])
    o = distillation.options(
        teacher=teacher, data=data, concepts=64, captions="name", batch_size=16, steps=10_000,
        warm=distillation.WarmStart(steps=0),
    )  # fmt: skip
    run = distillation.prepare(o, Path("out/benchmark"))
    trainer, batches = run.phases[0].build()
    batch = batches(0)
    todo = passes(trainer, batch)
    steps = trainer.steps(lambda i: batch)
    times: dict[str, list[float]] = {name: [] for name in ("whole step", *todo)}
    for _ in range(rounds + 1):
        began = time.perf_counter()
        next(steps)
        times["whole step"].append(time.perf_counter() - began)
        for name, call in todo.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
        for network in trainer.networks.values():
            network.zero_grad(set_to_none=True)
    medians = {name: 1000 * statistics.median(v[1:]) for name, v in times.items()}
    total = sum(v for name, v in medians.items() if name != "whole step")
    print(f"| batch 16, one thread, n = {rounds} | median ms |\n|---|---|")
    for name, value in medians.items():
        print(f"| {name.replace('_', ' ')} | {value:.0f} |")
    print(f"| sum of the passes | {total:.0f} |\n\nwhole step / sum of its passes: {medians['whole step'] / total:.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory: {peak} MiB")
    figures: dict[str, float] = {f"{name.replace(' ', '_')}_ms": round(value, 1) for name, value in medians.items()}
    figures |= {"passes_ms": round(total, 1), "ratio": round(medians["whole step"] / total, 4)}
    figures |= {"rounds": rounds, "peak_mib": peak}
    path = Path(sys.argv[4]) if sys.argv[4:] else RESULTS
    write_figures(path, figures, shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:4]]))


if __name__ == "__main__":
    main()
