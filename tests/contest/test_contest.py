"""A contest of a method from outside and one from here, judged by a network from outside and by pixels, on a tiny teacher."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bundles import tiny_bundle
from fewstep import cli
from fewstep.arena import command as arena
from fewstep.arena import pictures
from fewstep.bundle import Card
from fewstep.contest import runs
from fewstep.contest.plan import Options, Plan
from fewstep.data import folder as folder_data
from fewstep.evaluation.record import read_records
from fewstep.evaluation.suite import Options as Judging
from fewstep.ranges import USUAL
from helpers import forget

METHOD = '''
"""A student that is drawn to the data's mean."""
from dataclasses import dataclass
from fewstep.methods.method import OnePlayer, StudentOptions

@dataclass(frozen=True)
class Options(StudentOptions):
    pull: float = 1.0
    until: int = 10**6

class Mean(OnePlayer):
    def __init__(self, student, o):
        super().__init__("student", student.denoiser, o.student_moves())
        self.student, self.o, self.taken = student, o, 0
    def losses(self, player, batch, rng):
        self.taken += 1
        if self.taken > self.o.until:
            raise ValueError("this method goes no further")
        t = self.student.draw_times(len(batch), rng)
        return {"mean": self.o.pull * self.student.denoiser(batch.x0, t, batch.cond).sub(batch.x0.mean(0)).square().mean()}

def build(o, parts):
    return Mean(parts.student, o)
'''
JUDGE = '''
import torch
from fewstep.tensors import Features

class Colours(torch.nn.Module):
    def forward(self, media):
        small = torch.nn.functional.adaptive_avg_pool2d(media, 2).flatten(1)
        return Features((), pooled=small)

def load(o, teacher):
    return Colours()
'''


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a method and a judge of somebody's own, a teacher and its data; it is the current one."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "mean.py").write_text(METHOD)
    (tmp_path / "lab" / "colours.py").write_text(JUDGE)
    drawings = tmp_path / "pictures"
    drawings.mkdir()
    for i, name in enumerate(["a red heart", "a blue house", "a cat", "a dog"] * 4):
        picture = Image.new("RGB", (16, 16), (15 * i, 255 - 15 * i, 100))
        picture.paste((255, 15 * i, 0), (i % 5, 2, i % 5 + 6, 9))
        picture.save(drawings / f"{i}.png")
        (drawings / f"{i}.txt").write_text(name)
    folder_data.build(folder_data.Options(source=drawings, size=16, heldout=0.1), tmp_path / "set")
    tiny_bundle(tmp_path, "teacher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    forget("lab")


WORDS = [
    "contest", "--teacher", "tiny-teacher", "--data", "set", "--out", "contest", "--entries", "mean=--method lab.mean",
    "lcm=--method lcm --lcm.intervals 4", "fails=--method lab.mean --mean.until 1", "--against", "lcm", "--trainings", "1",
    "--updates", "3", "--warm=--warm.steps 2 --warm.pairs 4 --warm.teacher-steps 2 --warm.batch-size 4",
    "--recipe=--batch-size 4", "--steps", "1", "2", "--teacher-steps", "25", "1", "--judge", "lab.colours", "pixels",
    "--prompts", "4", "--seeds", "0", "1", "2", "--grid", "2",
]  # fmt: skip


def test_a_method_and_a_judge_from_outside_are_trained_compared_and_judged(lab, capsys):
    cli.main(WORDS)
    out = lab / "contest"
    found = json.loads((out / "contest.json").read_text())
    assert {(run["entry"], run["seed"]) for run in found["runs"]} == {("mean", 0), ("lcm", 0)}
    assert all(run["updates"] == 3 and run["cpu_s"] > 0 and run["memory_mib"] > 100 for run in found["runs"])
    assert [run["run"] for run in found["failed"]] == ["fails (warm, 3-updates), seed 0"]
    assert {run["why"] for run in found["failed"]} == {"this method goes no further"}
    judges = {r["features"].split("@")[0] for r in found["records"] if r["features"]}
    assert judges == {"lab.colours", "pixels"}
    rows = {(r["model"], r["steps"]) for r in found["records"]}
    students = {(f"{name} (warm, 3-updates)", steps) for name in ("mean", "lcm", "warm start") for steps in (1, 2)}
    assert rows == students | {("teacher", 25), ("teacher", 1), ("real", 0)}
    beside = [c for c in found["comparisons"] if c["entry"].startswith("mean")]
    assert {(c["judge"], c["steps"], c["trainings"], c["prompts"]) for c in beside if c["metric"] == "fd"} == {
        (judge, steps, 1, 4) for judge in judges for steps in (1, 2)
    }
    # both trainings of a seed went on from one warm start, with one file of the teacher's trajectories
    cards = [Card.read(out / "warm-3-updates" / f"{e}-0" / "bundle") for e in ("mean", "lcm")]
    assert {card.training["options"]["init"] for card in cards} == {str(Path("contest/warm-start/0/bundle"))}
    (start,) = found["warm_starts"]
    assert (start["bundle"], start["seed"]) == ("warm-start/0/bundle", 0)
    text = (out / "contest.md").read_text()
    assert "this method goes no further" in text
    assert "### In pairs against lcm" in text
    page = (out / "contest.html").read_text()
    for axis in ("network evaluations a picture", "variety, as a share of", "milliseconds a picture", "processor seconds of a"):
        assert page.count(axis) >= 2, "a plot for each judge"
    assert page.count("<img") == 2 * 2 * 5, "two prompts, two step counts, two entries beside their start and the teacher twice"
    assert not re.search(r"(?:src|href)=.(?!data:)", page), "it opens offline"
    # its folder opens in the arena: one student of every entry
    assert pictures.opened_up(["contest,2", "emoji-64"]) == [
        "mean=contest/warm-3-updates/mean-0/bundle,2", "lcm=contest/warm-3-updates/lcm-0/bundle,2", "emoji-64"
    ]  # fmt: skip
    plan = arena.prepare(arena.Options(models=("contest",), prompts=None), USUAL, "fewstep arena", lambda *_: None)
    assert [model.name for model in plan.models] == ["mean", "lcm"]
    assert all(Path("runs/arena", file).is_file() for model in plan.models for file in model.pictures)
    # the same command again trains and measures nothing
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*/**/*") if p.is_file()}
    cli.main(WORDS)
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/*/**/*") if p.is_file()} == before
    assert json.loads((out / "contest.json").read_text()) == found
    # another judge makes it another contest
    with pytest.raises(SystemExit) as ended:
        cli.main([*WORDS[: WORDS.index("--prompts")], "--prompts", "3", *WORDS[WORDS.index("--prompts") + 2 :]])
    assert ended.value.code == 2
    assert "holds a contest with another judging: give another --out" in " ".join(capsys.readouterr().err.split())


def test_a_contest_that_is_stopped_goes_on_to_the_same_students(lab):
    """SIGTERM while a training runs: its process saves its state; the same command again ends where an unstopped one does."""
    words = [*WORDS, "--updates", "40", "--against", "mean"]
    words[words.index("--entries") + 1 : words.index("--against")] = ["mean=--method lab.mean", "waits=--method lab.mean"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    once = subprocess.Popen([sys.executable, "-m", "fewstep.cli", *words], env=environment, stderr=subprocess.PIPE, text=True)
    journal = lab / "contest" / "warm-40-updates" / "mean-0" / "mean" / "journal.jsonl"
    until = time.monotonic() + 240
    while not journal.is_file() and once.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    once.send_signal(signal.SIGTERM)
    said = once.communicate(timeout=240)[1]
    assert once.returncode == 130, said
    assert "give the same command again to go on" in " ".join(said.split())
    assert not (lab / "contest" / "warm-40-updates" / "waits-0").exists()
    before = runs.Outcome.read(lab / "contest" / "warm-40-updates" / "mean-0")
    assert before is not None, "what it took is written down by whoever stops it"
    assert (before.done, before.failed) == (False, "")
    assert before.cpu_s > 0
    words.remove("waits=--method lab.mean")
    cli.main(words)
    stopped = json.loads((lab / "contest" / "contest.json").read_text())
    assert {run["updates"] for run in stopped["runs"]} == {40}
    (run,) = stopped["runs"]
    assert run["cpu_s"] > before.cpu_s
    assert run["wall_s"] > before.wall_s
    cli.main([*words[: words.index("--out")], "--out", "whole", *words[words.index("--out") + 2 :]])
    folders = [lab / out / "warm-40-updates" / "mean-0" for out in ("contest", "whole")]
    ours, theirs = (Card.read(folder / "bundle") for folder in folders)
    assert ours.hashes == theirs.hashes, "bit for bit"
    same = [
        [(r.metric, r.steps, r.value) for r in read_records(folder / "records.json") if r.metric != "latency_ms"]
        for folder in folders
    ]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"updates": 0}, "needs a budget: give --updates, --seconds or both"),
        ({"methods": ("add", "add")}, "two entries are called add: give one of them another name"),
        ({"methods": ("warp",)}, "there is no method 'warp': use add"),
        ({"against": "scm"}, "--against scm is no entry of this contest: use add, lcm"),
        ({"entries": ("add",)}, "'add' is no entry: write NAME=OPTIONS"),
        ({"entries": ("a/b=--method add",)}, "is no entry: write NAME=OPTIONS"),
        ({"entries": ("x=--method add --seed 3",)}, "entry x: --seed is the contest's own, the same for all: leave it out"),
        ({"entries": ("x=--method add --add.r1 -1",)}, "entry x: --add.r1 -1.0 is out of range"),
        ({"entries": ("x=--method add --add.warp 1",)}, "entry x: .*warp"),
        ({"recipe": "--batch-size 0"}, "the common warm start: --batch-size 0 is out of range"),
        ({"warm": "--warm.steps 0"}, "the common warm start: nothing to train"),
        ({"starts": ()}, "--starts is warm, teacher, or both"),
        ({"steps": ()}, "give one of --steps"),
        ({"judging": Judging(judge=("efficientnet-lite2",)), "entries": ("x=--method add --features efficientnet-lite2",)},
         "efficientnet-lite2 was the discriminator's network"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_before_any_work(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Plan.of(Options(**{"methods": ("add", "lcm"), **change})).check()


def test_every_method_there_is_takes_part_where_none_is_named():
    plan = Plan.of(Options(seconds=5.0, starts=("warm", "teacher"), trainings=3))
    plan.check()
    assert {"add", "regression", "lcm", "dmd2"} <= {entry.name for entry in plan.entries}
    assert [(name, "need --steps 601 or more" in why) for name, why in plan.left_out] == [("progressive", True)]
    assert len(plan.runs) == len(set(plan.runs)) == len(plan.entries) * 2 * 2 * 3
    assert [run.seed for run in plan.runs] == sorted(run.seed for run in plan.runs), "a contest that is cut short compares"
    timed = next(run for run in plan.runs if run.budget.seconds)
    words = plan.words(timed)
    assert words[words.index("--seconds") :][:3] == ("--seconds", "0", "5")
    assert words[words.index("--clock") + 1] == "processor"


def test_trainings_of_another_machine_are_taken_as_they_lie(tmp_path, monkeypatch):
    """Folders of a seed, its warm start's too, copied into a contest: nothing of it is trained again."""
    plan = Plan.of(Options(methods=("add", "lcm"), trainings=2, out=tmp_path))
    for folder in (*(run.folder for run in plan.runs), *map(plan.warm_folder, plan.seeds)):
        folder.mkdir(parents=True)
        runs.Outcome("fewstep distill", cpu_s=5, done=True).write(folder)
    monkeypatch.setattr(runs.subprocess, "Popen", lambda *_, **__: pytest.fail("a training began"))
    ended = []
    runs.train(plan, lambda *_: None, ended.append)
    assert ended == list(plan.runs)


def test_the_last_words_of_a_training_that_failed(tmp_path):
    log = tmp_path / "log"
    log.write_text("note: all is well\nfewstep: give --batch-size 8\n\n")
    assert runs.last_words(log, 2) == "give --batch-size 8"
    assert runs.last_words(log, -9) == "it was killed by SIGKILL"
    log.write_text("")
    assert runs.last_words(log, 1) == "it ended with 1 and said nothing"

