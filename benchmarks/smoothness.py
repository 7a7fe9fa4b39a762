"""How smooth the digits' teacher is in its time: its exact derivative along its own trajectories beside differences.

    python benchmarks/smoothness.py

Continuous-time methods (``scm``, ``meanflow``) regress that derivative. Each line is one time of 64 pictures: the root mean
square of d x0 / d t, exact, then over longer and longer ways down the trajectory, with the cosine between the two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file

from fewstep.methods import tangents
from fewstep.parts.denoiser import Teacher, noise_to
from fewstep.recipes import digits
from fewstep.rng import Rng
from fewstep.tensors import Batch

HOUSE = Path(__file__).resolve().parent.parent
LENGTHS = (1 / 1000, 1 / 200, 1 / 50, 1 / 20, 1 / 10)


def sizes(teacher: Teacher, batch: Batch, at: float) -> str:
    """One line of the table."""
    t = torch.full((len(batch),), at, dtype=torch.float64)
    x_t = noise_to(teacher.schedule, batch.x0, Rng.of(1).normal_like(batch.x0), t)
    here = tangents.scales(teacher.schedule, t, x_t)
    rows = []
    x0, exact, _ = tangents.along(teacher.denoiser, teacher, x_t, t, here, batch)
    rows.append(exact.flatten(1))
    for length in LENGTHS:
        under = tangents.below(teacher.denoiser, teacher, x_t, t, t - length, batch)
        rows.append(((x0 - under) / length).flatten(1))
    said = []
    for change in rows:
        cosine = torch.nn.functional.cosine_similarity(change, rows[0]).mean()
        said.append(f"{float(change.pow(2).mean().sqrt()):5.2f} ({float(cosine):+.2f})")
    return f"t = {at:.2f}  " + "  ".join(said)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    network = digits.unet()
    weights = load_file(HOUSE / "tests" / "assets" / "digits_teacher.safetensors")
    network.load_state_dict({k: v.float() for k, v in weights.items()})
    teacher = Teacher(digits.denoiser(network), digits.GUIDANCE_SCALE)
    classes = digits.conditioner()
    cond = classes([digits.CLASSES[k % 10] for k in range(64)])
    noise = Rng.of(0).normal((64, 1, 16, 16))
    x0 = teacher.draw(noise, cond, classes.null(64), 25)
    print("over      " + "  ".join(f"{name:>13}" for name in ("exact", *(f"{length:.3f}" for length in LENGTHS))))
    for at in (0.15, 0.25, 0.5, 0.75, 0.9, 0.98):
        print(sizes(teacher, Batch(x0, cond, classes.null(64)), at), flush=True)


if __name__ == "__main__":
    main()
