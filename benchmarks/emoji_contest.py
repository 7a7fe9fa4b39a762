"""Every method on emoji-64 from one strong warm start, twenty minutes of one core each: a ``fewstep contest``.

    fewstep data emoji
    python benchmarks/emoji_contest.py --trainings 2

A training takes about 22 minutes of one core, and there are 13 of them a seed: stop at will, and give the same command again.
Further options are those of ``fewstep contest``.
Afterwards ``docs/contest_emoji.md`` and ``docs/results/contest_emoji.json`` are what it found.
"""

from __future__ import annotations

import sys
from pathlib import Path

import contest_docs

from fewstep.cli import main

CONTEST = [
    "--teacher", "emoji-64-teacher", "--data", "emoji", "--out", "runs/emoji-contest",
    "--recipe=--batch-size 16 --captions name --student-learning-rate 1e-4 --probabilities 0.4 0.2 0.2 0.2 --look-every 250",
    "--warm=--warm.steps 450 --warm.pairs 6144 --warm.teacher-steps 8 --warm.optimizer muon --warm.batch-size 64 "
    "--warm.learning-rate 1e-3",
    "--updates", "0", "--seconds", "1200", "--judge", "mobilenet-v2", "pixels",
]  # fmt: skip
THROUGH = "--features efficientnet-lite0 --heads.no-image"
"""What every adversary of pictures looks through; it knows the prompt, and no picture's embedding."""
ENTRIES = {
    "add": f"--method add {THROUGH}",
    "scm": "--method scm",
    "gan": f"--method gan {THROUGH}",
    "lcm": "--method lcm",
    "regression": "--method regression",
    "progressive": "--method progressive --progressive.halvings 3 --progressive.each 300",
    "drifting": "--method drifting",
    "dmd2": "--method dmd2",
    "sida": "--method sida",
    "ladd": "--method ladd",
    "meanflow": "--method meanflow",
    "drifting_adversary": f"--method drifting --drifting.positives teacher --drifting.adversarial-weight 1 {THROUGH}",
    "add_regression": f"--method add --add.distillation-weight 0.5 --add.regression-weight 1 {THROUGH}",
}
"""Every method, the most asked for first, then two that are mixtures: a contest that was stopped compares the first ones."""

if __name__ == "__main__":
    entries = [f"{name}={words}" for name, words in ENTRIES.items()]
    sys.argv[1:] = ["contest", *CONTEST, "--entries", *entries, *sys.argv[1:]]  # the command that the results name
    main()
    contest_docs.write("emoji", "Every method on emoji-64", Path("runs/emoji-contest"))
