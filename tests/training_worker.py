"""A run of a small two-player game in a process of its own, so that it can be killed: ``python training_worker.py OUT STEPS``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fewstep.tensors import Batch
from fewstep.training.run import Saving, run
from fewstep.training.trainer import Options, Trainer
from helpers import make_batch, make_game, optimizers


def batches(step: int) -> Batch:
    """The batch of a step is a function of its number."""
    return make_batch(8, seed=step)


def trainer(steps: int, seed: int = 0, gradient_accumulation: int = 1, **options: object) -> Trainer:
    """A two-player game with averaged weights; another ``seed`` gives the players other first weights, and nothing else."""
    game = make_game(**{"n": 8, "backward": 0.5, **options})  # type: ignore[arg-type]
    torch.manual_seed(seed)
    with torch.no_grad():
        for network, _ in game.add.players.values() if seed else ():
            for p in network.parameters():
                p.copy_(torch.randn_like(p))
    return Trainer(game.add, Options(steps, optimizers=optimizers(), gradient_accumulation=gradient_accumulation))


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, steps = Path(sys.argv[1]), int(sys.argv[2])
    saving = Saving(out, every_seconds=0.0, resume=True)  # the state is written after every step
    run(trainer(steps), batches, saving, lambda log: print(log.step, flush=True))
