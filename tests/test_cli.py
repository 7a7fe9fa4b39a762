"""The command line, as a stranger meets it: real commands in real processes, one sentence for every mistake."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import foreign
from bundles import tiny_bundle
from fewstep import cli, console
from fewstep.bundle import Card
from fewstep.console import TrainingDisplay
from fewstep.data import folder as folder_data
from fewstep.data.dataset import Dataset, DatasetWriter, Item
from fewstep.evaluation import suite
from fewstep.evaluation.record import of_card, read_records
from fewstep.inference.pipeline import Pipeline
from fewstep.methods import add
from fewstep.modality.image import to_pil
from fewstep.options import as_typed
from fewstep.provenance.detection import Detection
from fewstep.provenance.identity import own_identity
from fewstep.recipes import distillation
from fewstep.training import checkpoint
from fewstep.training.journal import Journal
from helpers import disk_of


def fewstep(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    if home is not None:
        environment["FEWSTEP_CACHE"] = str(home)
    command = [sys.executable, "-m", "fewstep.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("cli"))


def test_draw_writes_the_picture_it_says(student, tmp_path):
    heart = str(tmp_path / "sub" / "heart.png")
    done = fewstep("draw", "a red heart", "--model", str(student), "--seed", "7", "--scale", "4", "-o", heart)
    assert done.returncode == 0, done.stderr
    assert Image.open(heart).size == (64, 64)
    assert "1 step, seed 7" in done.stdout
    told = fewstep("verify", heart)
    assert "with tiny" in told.stdout, told.stderr
    assert "steps 1, seed 7" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "9"], "trained for 1, 2, 4 steps, not 9"),
        (["--seed", str(2**70)], "out of range"),
        (["-o", "heart.gif"], "give a name that ends in .png, .jpg or .webp"),
        (["--n", "0"], "--n 0 is out of range: use from 1 to 1,000"),
        (["--n", str(10**9)], "--n 1000000000 is out of range"),
        (["--scale", "0"], "--scale 0 is out of range: use from 1 to 64"),
        (["--scale", "100000"], "--scale 100000 is out of range"),
        (["--guidance-scale", "nan"], "--guidance-scale nan is out of range: use a finite number"),
        (["--strength", "inf"], "--strength inf is out of range"),
        (["--fit", "pad"], "--fit and --strength say what becomes of a picture that is given: give one with --image"),
        (["--strength", "0.7"], "give one with --image"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--sampler", "magic"], "unknown sampler 'magic'"),
        (["--model", "nothing"], "there is no bundle 'nothing'"),
    ],
)
def test_bad_input_gets_one_sentence_and_a_non_zero_exit(student, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "a cat", "--model", str(student), *arguments])
    assert_one_sentence(ended, capsys, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--steps", "100000"], "cannot draw in 100000 steps: use 1 to 1000"),
        (["--steps", str(10**30)], "is out of range: use a finite number of at most 64 bits"),
        (["--guidance-scale", "1e30", "--steps", "2"], "--guidance-scale 1e+30 is out of range"),
    ],
)
def test_what_no_teacher_can_draw_gets_one_sentence(teacher, tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "a cat", "--model", str(teacher), "-o", str(tmp_path / "a.png"), *arguments])
    assert_one_sentence(ended, capsys, sentence)
    assert not (tmp_path / "a.png").exists()


def test_a_model_that_has_diverged_draws_nothing(student, tmp_path, capsys):
    folder = shutil.copytree(student, tmp_path / "diverged")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * math.nan for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "a cat", "--model", str(folder), "-o", str(tmp_path / "a.png")])
    assert_one_sentence(ended, capsys, "the picture holds NaN")
    assert not (tmp_path / "a.png").exists()


def test_a_prompt_that_is_no_text_gets_one_sentence(student, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "\udcff", "--model", str(student)])  # as the shell hands over a byte that is not UTF-8
    assert_one_sentence(ended, capsys, "a prompt holds bytes that are no text: write it in UTF-8")


def test_many_pictures_are_drawn_a_few_at_a_time_and_are_the_same(student, tmp_path):
    wanted = Pipeline.open(student).draw(["a cat"] * 20, 1, seed=3)
    cli.main(["draw", "a cat", "--model", str(student), "--n", "20", "--seed", "3", "--no-provenance",
              "-o", str(tmp_path / "cat.png")])  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 20
    for seed, media in zip(range(3, 23), wanted):
        drawn = np.asarray(Image.open(tmp_path / f"cat-{seed}.png")).astype(int)
        assert np.abs(drawn - np.asarray(to_pil(media)).astype(int)).max() <= 1  # a batch of another size rounds otherwise


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "there is no command 'nothing': use demo, data, teach"),
        (["data", "nothing"], "there is no dataset 'nothing': use digits, emoji, fashion, folder"),
    ],
)
def test_an_unknown_command_is_told_those_there_are(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert_one_sentence(ended, capsys, sentence)


@pytest.mark.parametrize(("arguments", "code"), [(["data"], 2), (["data", "--help"], 0), (["data", "-h"], 0)])
def test_data_lists_its_datasets_a_line_each(capsys, arguments, code):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == code
    shown = capsys.readouterr().out
    assert "usage: fewstep data" in shown
    for name, said in {"digits": "Handwritten", "emoji": "Emoji", "fashion": "Fashion-MNIST", "folder": "Your own"}.items():
        assert re.search(rf"{name} +{said}", shown)


def test_an_image_that_is_no_square_is_not_cut_in_silence(student, tmp_path, capsys):
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, :8] = wide[:, 24:] = 255  # what a square of the middle does not show
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "square.png")
    drawn = []
    for given, more, told in (("wide", [], 1), ("wide", ["--fit", "pad"], 0), ("square", [], 0)):
        cli.main(["draw", "a cat", "--model", str(student), "--image", str(tmp_path / f"{given}.png"), *more,
                  "--no-provenance", "-o", str(tmp_path / "out.png")])  # fmt: skip
        said = capsys.readouterr().out
        assert said.count("50% of ") == said.count("--fit pad keeps all of it") == told
        drawn.append(np.asarray(Image.open(tmp_path / "out.png")))
    assert np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0], drawn[1])


def test_a_folder_of_pictures_says_what_it_left_out(tmp_path, capsys):
    source, out = tmp_path / "mine", tmp_path / "set"
    source.mkdir()
    for i in range(6):
        Image.new("RGB" if i else "RGBA", (16, 16), (40 * i, 0, 0)).save(source / f"{i}.png")
    for i in (0, 5):
        (source / f"{i}.txt").write_text("a red square")
    (source / "film.mp4").write_bytes(b"no picture")
    cli.main(["data", "folder", "--source", str(source), "--size", "16", "--out", str(out)])
    lines = capsys.readouterr().out.split("\n")
    said = lines.index(f"4 skipped, 1 converted, 1 other files: see {out / 'report.json'}")
    assert lines[said + 1] == "  1.png: no caption; write one into 1.txt or metadata.jsonl"
    assert lines[said + 4] == "  And 1 more"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prompts", "0"], "--prompts 0 is out of range: use from 1 to"),
        (["--resamples", "0"], "--resamples 0 is out of range"),
        (["--resamples", str(10**30)], "is out of range: use from 1 to 100,000"),
        (["--calls", "0"], "--calls 0 is out of range"),
        (["--seeds", "0", str(2**70)], "is out of range: use a whole number from 0 to 2^63 - 1"),
        (["--seeds"], "give one of --seeds or more"),
        (["--apart-from", "0"], "--apart-from 0 is out of range: use from 1 to"),
        (["--apart-from", "2", "1000000"], "--apart-from leaves no concept to draw"),
        (["--steps"], "give one of --steps or more"),
        (["--steps", "1", "9"], "trained for 1, 2, 4 steps, not 9"),
        (["--resolution", "100000"], "--resolution 100000 is out of range: use from 32 to 1,024"),
        (["-o", "{pickle}"], "is no results file"),
        (["-o", "/dev/full"], "/dev/full is no file (but a device or a pipe)"),
        (["--judge"], "give one --judge or more"),
        (["--prompts", "1", "--seeds", *map(str, range(12))], "one is all there is: give --prompts 2 or more"),
        (["--prompts", "2", "--seeds", "0"], "2 pictures of 2 prompts are too few to measure: an interval leaves out one prompt"),
        (["-o", "{folder}"], "a folder stands where a file is needed"),
        (["-o", "{file}/metrics.json"], "a file stands where a folder is needed"),
        (["-o", "{folder}/" + "x" * 300], "the name is too long; choose a shorter one"),
        (["--data", "x" * 300], "the name is too long; choose a shorter one"),
    ],
)
def test_a_measurement_that_cannot_be_is_refused_before_it_is_made(student, pictures, tmp_path, capsys, arguments, sentence):
    (tmp_path / "file").write_text("in the way")
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle")
    places = {name: str(tmp_path / name) for name in ("file", "pickle")} | {"folder": str(tmp_path)}
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", str(student), "--data", str(pictures), "-o", str(tmp_path / "m.json"),
                  *(a.format(**places) for a in arguments)])  # fmt: skip
    assert_one_sentence(ended, capsys, sentence)
    assert not (tmp_path / "m.json").exists()


def test_a_measured_bundle_has_its_figures_in_its_card(student, tmp_path, capsys, monkeypatch):
    data = foreign.pictures(tmp_path / "data").folder
    folder = shutil.copytree(student, tmp_path / "mine")
    before = Card.read(folder)

    def measure(*steps: str) -> None:
        cli.main(["evaluate", str(folder), "--data", str(data), "-o", str(tmp_path / "m.json"), "--prompts", "3",
                  "--resamples", "2", "--calls", "1", "--resolution", "32", "--judge", "mobilenet-v2", "pixels",
                  "--steps", *steps])  # fmt: skip

    measure("1", "2")
    measure("1")  # takes the place of the first
    told = read_records(tmp_path / "m.json")
    with monkeypatch.context() as patch:
        patch.setattr("fewstep.evaluation.suite.Evaluator.__init__", lambda *_: pytest.fail("there is nothing left to measure"))
        measure("1", "2", "--resume")
    assert read_records(tmp_path / "m.json") == told
    card = Card.read(folder)
    own = [replace(r, left_out=()) for r in told if r.model != "real"]
    assert of_card(folder) == own
    assert len(own) < len(told), "real pictures have a row in the file and none on a card"
    assert {(r.steps, r.metric) for r in of_card(folder)} > {(1, "fd"), (2, "fd"), (1, "latency_ms"), (2, "vendi_minus_1")}
    assert (card.hashes, card.fingerprint) == (before.hashes, before.fingerprint)
    assert len([line for line in (folder / "student_card.json").read_text().splitlines() if '"fd"' in line]) == 4
    for metric, looks in {"fd": 2, "retrieval_top1": 2, "highs_ratio": 1, "latency_ms": 1}.items():
        found = [r for r in own if (r.steps, r.metric) == (1, metric)]
        assert len({r.features for r in found}) == len(found) == looks, metric
    capsys.readouterr()
    cli.main(["info", str(folder)])
    assert "FD-mobilenet-v2" in (shown := " ".join(capsys.readouterr().out.split()))
    assert "FD-pixels" in shown
    assert "in 2 steps" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size 0 is out of range: use from 1 to 65,536"),
        (["--batch-size", str(10**12)], "is out of range"),
        (["--concepts", "-1"], "--concepts -1 is out of range"),
        (["--steps", "-1"], "--steps -1 is out of range"),
        (["--seconds", "nan", "nan"], "--seconds nan is out of range: use 0 or more"),
        (["--seed", str(2**70)], "is out of range: use a whole number from 0 to 2^63 - 1"),
        (["--look-every", "0"], "--look-every 0 is out of range"),
        (["--student-learning-rate", "inf"], "--student-learning-rate inf is out of range: use more than 0 to 1,000,000,000"),
        (["--student-learning-rate", "1e308"], "is out of range: use more than 0 to 1,000,000,000"),
        (["--warm.learning-rate", "1e308"], "is out of range: use more than 0 to 1,000,000,000"),
        (["--add.adversarial-weight", "1e308"], "is out of range: use from 0 to 1,000,000,000"),
        (["--add.regression-weight", "1e308"], "is out of range: use from 0 to 1,000,000,000"),
        (["--add.r1", "1e308"], "is out of range"),
        (["--student", "lora", "--rank", str(10**30)], "is out of range"),
        (["--times", "1", "nan"], "--times nan is out of range"),
        (["--probabilities", "nan", "1", "1", "1"], "--probabilities nan is out of range"),
        (["--probabilities", "0", "0", "0", "0"], "every student time has probability 0"),
        (["--guidance-scale", "nan"], "--guidance-scale nan is out of range"),
        (["--augment", "magic"], "unknown augmentation 'magic'"),
        (["--augment", "color"], "--features teacher does not see"),
        (["--minutes", "-1"], "--minutes -1.0 is out of range"),
        (["--warm.pairs", "0"], "--warm.pairs 0 is out of range"),
        (["--warm.teacher-steps", "-1"], "--warm.teacher-steps -1 is out of range"),
        (["--warm.batch-size", "0"], "--warm.batch-size 0 is out of range"),
        (["--add.student-every", "0"], "--add.student-every 0 is out of range"),
        (["--add.discriminator-turns", "0"], "--add.discriminator-turns 0 is out of range"),
        (["--add.teacher-times", "0.9", "0.1"], "teacher times (0.9, 0.1) must rise"),
        (["--add.teacher-times", "-1", "2"], "--add.teacher-times -1.0 is out of range: use from 0 to 1"),
        (["--add.condition-dropout", "2"], "--add.condition-dropout 2.0 is out of range"),
        (["--add.r1", "-1"], "--add.r1 -1.0 is out of range"),
        (["--heads.width", "-1"], "--heads.width -1 is out of range"),
    ],
)
def test_a_distillation_that_cannot_be_is_refused(distill, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "1", *arguments)
    assert_one_sentence(ended, capsys, sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--features dinov2", "the weights of DINOv2 are not in"),
        ("--batch-size 12", "a batch of 12 cannot be split into groups of 8: use a multiple of 8"),
        ("--add.adversarial-weight 0 --add.distillation-weight 0", "both losses have weight 0"),
        ("--add.weighting nfsd --add.teacher-steps 2", "nfsd asks the teacher for one direction, not for 2 steps"),
        ("--add.regression-steps 8", "regression_weight is 0: give it a weight (10)"),
        ("--add.teacher-times 0.9 0.1", "teacher times (0.9, 0.1) must rise"),
        ("--add.mismatched 1 --heads.no-text", "but they are shown none: leave out --heads.no-text"),
        ("--add.mismatched 1 --heads.no-text --heads.no-image --features efficientnet-lite0", "but they are shown none"),
        ("--add.mismatched 1 --concepts 1", "all that is trained on shows one concept: leave it out, or give data of more"),
        ("--add.mismatched 1 --batch-size 1", "takes its wrong prompts from the batch: use --batch-size 2 or more"),
        ("--ema 1.5", "--ema 1.5 is out of range"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused_before_its_warm_start(distill, tmp_path, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        distill("--warm.steps", "1", "--warm.pairs", "2", "--warm.teacher-steps", "1", *arguments.split())
    assert_one_sentence(ended, capsys, sentence)
    assert not (tmp_path / "run").exists()


def test_what_the_game_does_not_need_is_no_reason_to_refuse(distill):
    """Without an adversarial loss there are no heads; after the last step of a warm start there is no game."""
    odd = ["--batch-size", "12", "--features", "dinov2", "--add.mismatched", "1", "--heads.no-text"]
    distill("--steps", "1", "--keep", "last", "--add.adversarial-weight", "0", *odd)


SAVED = "what was saved so far is in --out: give the command again with --resume to go on"


@pytest.mark.parametrize(
    ("command", "stopped", "sentence"),
    [
        (["evaluate", "{student}", "--data", "{data}", "-o", "{out}"], "fewstep.evaluation.suite.Evaluator.measure",
         "the records of finished step counts are in --output: give the command again with --resume"),
        (["draw", "a cat", "--model", "{student}", "-o", "{out}/a.png"], "fewstep.provenance.write",
         "the pictures that were finished are kept"),
        (["teach", "--out", "{out}"], "fewstep.recipes.emoji.teach", SAVED),
        (["distill", "--out", "{out}"], "fewstep.recipes.distillation.prepare", SAVED),
        (["demo", "--out", "{out}"], "fewstep.demo.run", SAVED),
        (["info"], "fewstep.bundle.shipped", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_with_one_sentence_whatever_it_stops(
    student, pictures, tmp_path, monkeypatch, capsys, command, stopped, sentence, number
):
    def press(*arguments: object, **options: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stopped, press)
    places = {"student": student, "data": pictures, "out": tmp_path / "out"}
    with pytest.raises(SystemExit) as ended:
        cli.main([word.format(**places) for word in command])
    assert_one_sentence(ended, capsys, f"fewstep: stopped; {sentence}" if sentence else "fewstep: stopped\n", code=130)


@pytest.mark.parametrize("words", ["--help", "draw --help", "verify {picture}"])
def test_what_needs_no_network_does_not_wait_for_torch(tmp_path, words):
    """In a process of its own: torch is long there in this one. It takes seconds to import."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    code = "import contextlib, sys\nfrom fewstep import cli\n" \
           "with contextlib.suppress(SystemExit):\n    cli.main(sys.argv[1:])\n" \
           "sys.exit(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"  # fmt: skip
    asked = [sys.executable, "-c", code, *words.format(picture=tmp_path / "a.png").split()]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_ctrl_c_leaves_a_dataset_with_one_sentence():
    """In a process of its own: the shape checks of tests hide what its options are."""
    code = "import signal\nfrom fewstep import cli\nfrom fewstep.data import digits\n" \
           "digits.build = lambda *_: signal.raise_signal(signal.SIGINT)\ncli.main(['data', 'digits'])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("fewstep: stopped; nothing was written, and a dataset that was there stands as it was")
    assert len(done.stderr.splitlines()) == 1


def test_thresholds_of_health_are_options(distill, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "9", "--student-learning-rate", "1e9", "--ema", "0", "--health.nan-streak", "2")
    assert_one_sentence(ended, capsys, "nan_streak: 2 steps in a row had no finite gradient", code=3)


def test_bars_are_live_while_the_teacher_draws_and_the_panel_follows_them(distill, monkeypatch):
    """On a terminal, in one display, what is made ready inside a phase is seen like what is made ready before it."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    for module in ("console", "cli"):
        monkeypatch.setattr(f"fewstep.{module}.console", screen)
    distill("--warm.steps", "1", "--warm.pairs", "4", "--warm.teacher-steps", "1", "--steps", "0", "--keep", "last")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.file.getvalue())
    at = [shown.rindex(text) for text in ("latents", "teacher's trajectories", "warm step 1 of 1")]
    assert at == sorted(at)
    assert re.search(r"teacher's trajectories .* 4/4", shown)


def test_a_bar_is_there_before_what_it_counts_is_whole(monkeypatch, capsys):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr("fewstep.console.console", screen)
    with TrainingDisplay("a run") as display:
        display.report("teacher's trajectories", 1, 4)
        display._live.refresh()
        assert "1/4" in screen.file.getvalue()
    clock = iter([0.0, 1.0, 29.0, 31.0, 32.0, 33.0])
    plain = Console(file=io.StringIO())
    monkeypatch.setattr("fewstep.console.console", plain)
    with TrainingDisplay("a run", now=lambda: next(clock)) as display:
        for done in (1, 2, 3, 4):
            display.report("latents", done, 4)
    assert plain.file.getvalue().split() == ["latents", "3/4", "latents", "4/4"], "a log has a line every half minute"


def test_more_than_the_memory_holds_gets_one_sentence(monkeypatch, capsys):
    def hungry(options: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("fewstep.demo.run", hungry)
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo"])
    assert_one_sentence(ended, capsys, "there is not enough memory for this: ask for less at once")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def wrong(options: object) -> None:
        torch.ones(2) @ torch.ones(3)

    monkeypatch.setattr("fewstep.demo.run", wrong)
    with pytest.raises(RuntimeError, match="size"):
        cli.main(["demo"])


def in_the_way(out: Path, student: Path, name: str) -> Path:
    """Somebody's own file in the folder of a run, beside what fewstep wrote there where it says so."""
    path = out / name.removeprefix("ours and ")
    if name.startswith("ours and bundle"):
        shutil.copytree(student, out / "bundle", dirs_exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({"x": torch.zeros(3)}, path)
    else:
        path.write_text("years of work")
    return path


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize(
    "name",
    ["bundle/thesis.txt", "bundle", "bundle/model_index.json", "ours and bundle/thesis.txt",
     "ours and bundle/unet/old.safetensors",
     "add/checkpoint/thesis.txt", "add/checkpoint", "add/checkpoint.old/mine", "add/best/thesis.txt", "warm/best", "warm",
     "add/journal.jsonl", "warm/made_with.json", "pairs.safetensors", "pairs-part.safetensors"],
)  # fmt: skip
def test_nothing_of_the_users_own_is_removed_or_replaced_by_a_run(distill, student, tmp_path, capsys, name, resume):
    mine = in_the_way(tmp_path / "run", student, name)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "1", *resume)
    assert_one_sentence(ended, capsys, "choose another --out")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert mine in before


def test_a_users_own_files_beside_a_run_stay_while_it_trains_and_is_made_anew(distill, tmp_path):
    out = tmp_path / "run"
    mine = [out / name for name in ("notes.txt", ".lock", "add/notes.txt", "other/checkpoint/x", "checkpoint/state.json",
                                    ".bundle.backup/x", ".bundle.partial-mybackup/x")]  # fmt: skip
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for more in ((), ("--resume",)):
        distill("--steps", "1", "--keep", "last", *more)
        assert [path.read_text() for path in mine] == ["mine"] * len(mine)


@pytest.mark.parametrize("kills", [1, 3])
def test_a_killed_save_leaves_no_copy_of_the_model_behind_for_long(distill, tmp_path, monkeypatch, kills):
    """Killed while the bundle is written, by the kernel; the next run of the folder clears up."""
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                monkeypatch.setattr("fewstep.bundle.text_index", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                distill("--steps", "1", "--keep", "last", "--resume")
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert len(list((tmp_path / "run").glob(".bundle*"))) == 1
    distill("--steps", "1", "--keep", "last", "--resume")
    assert not list((tmp_path / "run").glob(".bundle*"))
    assert Card.read(tmp_path / "run" / "bundle").role == "student"


@pytest.mark.parametrize("place", [".", "/", "..", "x/.."])
@pytest.mark.parametrize("command", ["distill --out {}", "teach --out {}", "data folder --source . --out {}", "draw cat -o {}",
                                     "evaluate -o {}", "demo --out {}"])  # fmt: skip
def test_a_place_without_a_name_is_refused_by_every_command(tmp_path, monkeypatch, capsys, command, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(command.format(place).split())
    assert_one_sentence(ended, capsys, f"{place} is no place to write to: give a path that ends in a name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["distill", "--out", ""], "--out is empty: give a path"),
        (["distill", "--negative", "", "--out="], "--out is empty: give a path"),
        (["distill", "--data", ""], "--data is empty: give the folder of a dataset"),
        (["distill", "--teacher", ""], "no bundle is named: give a folder with model_index.json"),
        (["teach", "--out", ""], "--out is empty"),
        (["data", "folder", "--source", ""], "--source is empty"),
        (["data", "folder", "--source", "x", "--out", ""], "--out is empty"),
        (["draw", "a cat", "-o", ""], "--output is empty"),
        (["draw", "a cat", "--image", ""], "--image is empty"),
        (["draw", "", "--model", ""], "no bundle is named"),
        (["evaluate", "-o="], "--output is empty"),
        (["evaluate", "", "--data", ""], "no bundle is named"),
        (["demo", "--out", ""], "--out is empty"),
        (["docs", "--pages", "a", ""], "--pages is empty"),
        (["draw", "a cat", "-o", "a\0.png"], "an argument holds a NUL byte"),
        (["distill", "--out", "run\0"], "an argument holds a NUL byte"),
        (["info", "a\0b"], "an argument holds a NUL byte"),
    ],
)
def test_a_path_that_is_empty_or_none_is_refused_by_every_command(tmp_path, monkeypatch, capsys, command, sentence):
    """Not taken for the current folder, which may hold a model or a dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert_one_sentence(ended, capsys, sentence)


@pytest.mark.parametrize("command", [["info"], ["--help"], ["info", "emoji-64"], ["data"]])
@pytest.mark.parametrize(("read", "unbuffered"), [(0, ""), (0, "1"), (1, "1")])
def test_a_reader_that_leaves_ends_a_command_without_a_word(command, read, unbuffered):
    """As ``fewstep info | head -1`` does; the shell's word for it is 141."""
    asked, environment = [sys.executable, "-m", "fewstep.cli", *command], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.read(read)
        run.stdout.close()
        said = run.stderr.read()
    assert said == b""
    assert run.returncode in ((141,) if not read else (0, 2, 141)), "it may have said all before we left"


ESCAPE = "a\x1b]0;owned\x07\x1b[2J\u202eb\x9bc"


@pytest.mark.parametrize(
    "command",
    ["draw cat --image {}", "draw cat --model {}", "info {}", "verify {}", "{}", "data {}", "data folder --source {}",
     "distill --teacher {}", "distill --data {}", "draw cat --{}", "distill --out {}/pipe/x", "evaluate {}",
     "evaluate --data {}"],
)  # fmt: skip
def test_no_name_steers_the_terminal(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path(ESCAPE).mkdir()
    os.mkfifo(Path(ESCAPE) / "pipe")
    with pytest.raises(SystemExit) as ended:
        cli.main([word.format(ESCAPE) for word in command.split()])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert not set(out + err) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert err.startswith("fewstep: ")
    assert len(err.strip().splitlines()) == 1


def test_no_name_steers_the_terminal_where_all_is_well(student, tmp_path, monkeypatch, capsys):
    plainly = type(cli.console)(file=io.StringIO(), force_terminal=True, color_system=None, width=200)
    monkeypatch.setattr("fewstep.console.console", plainly)
    cli.main(["draw", ESCAPE, "--model", str(student), "-o", str(tmp_path / f"{ESCAPE}.png"), "--no-provenance"])
    with TrainingDisplay(ESCAPE) as display:
        display.report(ESCAPE, 1, 2)
    console.note(ESCAPE)
    told = plainly.file.getvalue()
    assert "\\x1b]0;owned" in told
    assert not set(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", told)) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "\x1b[2J" not in told


@pytest.mark.parametrize("command", ["draw cat --image {}", "verify {}", "draw cat -o {}"])
@pytest.mark.parametrize("name", ["pipe.png", "/dev/zero"])
def test_nobody_waits_for_ever_for_a_pipe_or_a_device(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    with pytest.raises(SystemExit) as ended:
        cli.main(command.format(name).split())
    said = "end" if name == "/dev/zero" and "-o" in command else "a device or a pipe, not a file"
    assert_one_sentence(ended, capsys, said)


def test_two_runs_in_one_folder_do_not_mix(distill, teacher, tmp_path, capsys):
    """The second is refused while the first trains, and takes over once that is gone, however it went."""
    code = "import sys\nfrom fewstep.training.run import alone\nfrom pathlib import Path\n" \
           "with alone(Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(SystemExit) as ended:
            distill("--steps", "1")
        assert_one_sentence(ended, capsys, "another run is training in")
    finally:
        other.kill()
        other.wait()
    distill("--steps", "1")


def assert_one_sentence(ended, capsys: pytest.CaptureFixture[str], sentence: str, code: int = 2) -> None:
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1, "no traceback"


def test_a_prompt_of_100_kb_gets_one_sentence(student, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["draw", "cat " * 25_000, "--model", str(student)])
    assert_one_sentence(ended, capsys, "100,000 characters is too long: keep it under 10,000")


def unknown_prediction(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "magic"))


def other_encoder(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    shutil.rmtree(folder / "text_encoder")
    BertModel(BertConfig(vocab_size=14, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
              ).save_pretrained(folder / "text_encoder")  # fmt: skip


def pickle_instead(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def pickle_in_disguise(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights)


def truncated(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (unknown_prediction, "unknown prediction_type 'magic'"),
        (other_encoder, "gives 24 numbers a token, the UNet takes 16"),
        (pickle_instead, "is a pickle, which can run code when it is read"),
        (pickle_in_disguise, "diffusion_pytorch_model.safetensors"),
        (truncated, "diffusion_pytorch_model.safetensors"),
    ],
)
@pytest.mark.parametrize("command", ["draw", "distill"])
def test_a_damaged_bundle_gets_one_sentence(student, teacher, tmp_path, capsys, damage, sentence, command):
    folder = shutil.copytree(student if command == "draw" else teacher, tmp_path / "broken")
    damage(folder)
    capsys.readouterr()
    arguments = ["a cat", "--model", str(folder)] if command == "draw" else ["--teacher", str(folder)]
    with pytest.raises(SystemExit) as ended:
        cli.main([command, *arguments])
    assert_one_sentence(ended, capsys, sentence)


# a distillation from the command line: the best is kept, and disks, folders and gradients fail with a sentence


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("teacher"), "teacher")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of twelve pictures in one colour each."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(["a red heart", "a blue house", "a cat", "a dog"] * 3):
        Image.new("RGB", (40, 40), (20 * i, 255 - 20 * i, 100)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(name)
    out = folder / "set"
    folder_data.build(folder_data.Options(source=folder, size=16, heldout=0.1), out)
    return out


@pytest.fixture
def distill(teacher, pictures, tmp_path, monkeypatch):
    """``fewstep distill`` in this process, the game alone, small."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str, out: Path = tmp_path / "run") -> Path:
        cli.main(["distill", "--teacher", str(teacher), "--data", str(pictures), "--out", str(out), "--features", "teacher",
                  "--batch-size", "4", "--warm.steps", "0", "--look-every", "1", *arguments])  # fmt: skip
        return out

    return run


def test_the_best_student_is_kept_unless_the_last_is_asked_for(distill, tmp_path, capsys):
    """At this rate four steps spoil the student, so that the best is an early one."""
    spoil = ("--steps", "4", "--student-learning-rate", "0.3", "--ema", "0.1")
    out = distill(*spoil)
    scores = {x["step"]: x["probe/score"] for x in Journal.read(out / "add" / "journal.jsonl")}
    assert sorted(scores) == [0, 1, 2, 3, 4]
    best = min(scores, key=scores.__getitem__)
    assert best < 4
    said = capsys.readouterr().out
    assert f"the best was seen after step {best}" in said
    kept = checkpoint.load(out / "add" / "best")["players"]["student"]
    network = load_file(out / "bundle" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, kept[f"network.{k}"]) for k, v in network.items())
    assert Card.read(distill(*spoil, "--resume") / "bundle").training["steps"] == best, "a finished run keeps its facts"
    last = distill(*spoil, "--keep", "last", out=tmp_path / "last")
    network = load_file(last / "bundle" / "unet" / "diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(v, kept[f"network.{k}"]) for k, v in network.items())


FAULTS = """
import resource, sys, torch
from fewstep import cli
if sys.argv[1:]:
    cli.main(sys.argv[1:])
for step in range(25):
    if step == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24).add(1)
print("faults", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not told")
def test_a_training_process_keeps_the_memory_that_a_step_frees(teacher, pictures, tmp_path):
    """Two tensors of 64 MB, asked for and freed 20 times: the kernel maps and clears their pages once, not 20 times.

    Now and then something small settles in a freed place, and a new one is mapped: 4 times in 40 have been seen.
    """

    def faults(*arguments: str) -> int:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "FEWSTEP_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", FAULTS, *arguments], capture_output=True, text=True, env=environment)
        return int(done.stdout.split("faults")[-1])

    run = ["distill", "--teacher", str(teacher), "--data", str(pictures), "--out", str(tmp_path / "run"),
           "--features", "teacher", "--batch-size", "4", "--steps", "1", "--keep", "last", "--warm.steps", "0"]  # fmt: skip
    trained = faults(*run)
    assert trained < 0.25 * faults()


def test_a_full_disk_ends_a_distillation_with_a_sentence_and_the_last_state_intact(distill, capsys):
    out = distill("--steps", "2")
    before = checkpoint.load(out / "add" / "checkpoint")
    drawn = (out / "bundle" / "student_card.json").read_text()
    capsys.readouterr()
    with disk_of(20_000), pytest.raises(SystemExit) as ended:
        distill("--steps", "4", "--resume")
    assert_one_sentence(ended, capsys, "free space")
    after = checkpoint.load(out / "add" / "checkpoint")
    assert after["step"] == before["step"] == 2
    assert all(torch.equal(v, after["players"]["student"][k]) for k, v in before["players"]["student"].items())
    assert (out / "bundle" / "student_card.json").read_text() == drawn
    distill("--steps", "4", "--resume")  # with space again, it goes on
    assert checkpoint.load(out / "add" / "checkpoint")["step"] == 4


def test_what_was_trained_is_neither_overwritten_nor_gone_on_with_under_other_options(
    distill, pictures, teacher, tmp_path, capsys
):
    out = distill("--steps", "2")
    states = {path: path.read_bytes() for path in (out / "add").rglob("*") if path.is_file()}
    for again, sentence in (
        ([], "run holds a run, 2 steps into its phase add: go on with --resume, choose another --out"),
        (["--resume", "--add.loss", "softplus", "--heads.norm", "group"],
         "was made with --add.loss hinge, --heads.norm local, not with --add.loss softplus, --heads.norm group: resume with"),
        (["--resume", "--captions", "name", "--guidance-scale", "2"],
         "with --captions all, --guidance-scale 3.0, not with --captions name, --guidance-scale 2.0"),
        (["--resume", "--teacher", str(tiny_bundle(tmp_path, "teacher", prediction_type="epsilon"))], "with --teacher of "),
    ):  # fmt: skip
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            distill("--steps", "3", *again)
        assert_one_sentence(ended, capsys, sentence)
    assert states == {path: path.read_bytes() for path in (out / "add").rglob("*") if path.is_file()}
    moved = [shutil.copytree(folder, tmp_path / "moved" / folder.name) for folder in (pictures, teacher)]
    same = ["--data", str(moved[0]), "--teacher", str(moved[1])]  # in another place they are the same
    distill("--steps", "3", "--resume", "--keep", "last", "--blend", "0.5", "--checkpointing", *same)
    assert checkpoint.load(out / "add" / "checkpoint")["step"] == 3


@pytest.mark.parametrize("command", ["draw", "distill"])
def test_a_folder_that_cannot_be_written_gets_one_sentence(student, distill, tmp_path, capsys, command):
    (tmp_path / "file").write_text("in the way")  # root may write anywhere, but not below a file
    inside = tmp_path / "file" / "x"
    commands = {
        "draw": lambda: cli.main(["draw", "a cat", "--model", str(student), "-o", str(inside / "a.png")]),
        "distill": lambda: distill("--steps", "2", out=inside),
    }
    with pytest.raises(SystemExit) as ended:
        commands[command]()
    assert_one_sentence(ended, capsys, "a file stands where a folder is needed; choose another path")


def test_a_picture_on_a_full_disk_gets_one_sentence(student, tmp_path, capsys):
    with disk_of(100), pytest.raises(SystemExit) as ended:
        cli.main(["draw", "a cat", "--model", str(student), "-o", str(tmp_path / "a.png")])
    assert_one_sentence(ended, capsys, "free space, or choose another folder")


def test_a_run_without_finite_gradients_rolls_back_and_exits_with_3(distill, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "9", "--student-learning-rate", "1e9", "--ema", "0")
    assert_one_sentence(ended, capsys, "nan_streak: 5 steps in a row had no finite gradient", code=3)
    assert checkpoint.load(tmp_path / "run" / "add" / "checkpoint")["step"] == 0


def test_the_advice_after_nan_can_be_followed(distill, capsys, tmp_path):
    """What a resume may change, it may; what it may not is named; and the card tells both values and from which step on."""
    with pytest.raises(SystemExit):
        distill("--steps", "9", "--student-learning-rate", "1e9", "--precision", "bf16", "--save-every", "0")
    assert "lower the learning rate, or use --precision fp32" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "9", "--times", "1", "0.5", "--student-learning-rate", "1e-4", "--resume")
    assert_one_sentence(ended, capsys, "another --out; a resume may change --batch-size, --gradient-accumulation, --precision")
    calm = ("--student-learning-rate", "1e-4", "--precision", "fp32", "--batch-size", "2")
    out = distill("--steps", "9", "--resume", "--keep", "last", *calm)
    said = " ".join(capsys.readouterr().out.split())
    told = said.partition("add goes on from step 0 with ")[2]
    for change in ("--batch-size 2 (before: 4)", "--precision fp32 (before: bf16)", "--student-learning-rate 0.0001 (before: 1"):
        assert change in told, said
    written = json.loads((out / "add" / "made_with.json").read_text())
    (change,) = written["changes"]
    assert (change["after"], change["--student-learning-rate"]) == (0, [1e9, 1e-4])
    assert written["--student-learning-rate"] == 1e-4
    weights = load_file(out / "bundle" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(bool(v.isfinite().all()) for v in weights.values())
    distill("--steps", "10", "--resume", "--keep", "last", *calm)
    assert "goes on from step" not in capsys.readouterr().out, "the same options as the last time are no change"


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("unet", "the network of tiny holds NaN or infinity (first in denoiser"),
        ("vae", "the VAE of tiny holds NaN or infinity (first in"),
        ("text_encoder", "the text encoder of tiny holds NaN or infinity (first in"),
        ("init", "holds NaN or infinity (first in "),
    ],
)
def test_a_part_that_is_no_number_is_found_at_the_start_and_named(distill, teacher, student, tmp_path, capsys, part, sentence):
    folder = shutil.copytree(student if part == "init" else teacher, tmp_path / "broken")
    (path,) = (folder / ("unet" if part == "init" else part)).glob("*.safetensors")
    weights = load_file(path)
    first = next(name for name, value in weights.items() if value.is_floating_point())
    weights[first].view(-1)[-1] = math.inf if part == "vae" else math.nan
    save_file(weights, path, metadata={"format": "pt"})
    given = ("--init", str(folder)) if part == "init" else ("--teacher", str(folder))
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "1", *given)
    assert_one_sentence(ended, capsys, sentence.replace("denoiser", ""))
    assert not (tmp_path / "run").exists()


def test_pairs_that_are_no_numbers_are_named(distill, tmp_path, capsys):
    warm = ("--warm.steps", "2", "--warm.pairs", "4", "--warm.teacher-steps", "1", "--steps", "0", "--keep", "last")
    path = distill(*warm) / "pairs.safetensors"
    with safe_open(path, "pt") as file:
        key = file.metadata()
    save_file({k: v * math.nan if k == "x0" else v for k, v in load_file(path).items()}, path, metadata=key)
    shutil.rmtree(tmp_path / "run" / "warm")
    with pytest.raises(SystemExit) as ended:
        distill(*warm)
    assert_one_sentence(ended, capsys, "the teacher's trajectories hold NaN or infinity (in x0): remove pairs.safetensors")


def test_a_dataset_that_changed_on_disk_is_refused(distill, pictures, tmp_path, capsys):
    """One byte of one picture, or of one caption, its sizes and dates as they were."""
    own = shutil.copytree(pictures, tmp_path / "own")
    given = ("--data", str(own), "--keep", "last")
    distill("--steps", "1", *given)
    for name in ("media.npy", "items.jsonl"):
        path = own / name
        data, times = path.read_bytes(), path.stat()
        at = data.index(b"red") + 1 if name == "items.jsonl" else len(data) - 3
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        os.utime(path, (times.st_atime, times.st_mtime))
        for more in (("--resume",), ("--out", str(tmp_path / "new"))):
            with pytest.raises(SystemExit) as ended:
                distill("--steps", "2", *given, *more)
            assert_one_sentence(ended, capsys, f"{name} is not the file that was built, it was changed since; build")
        path.write_bytes(data)
    assert not (tmp_path / "new").exists()
    distill("--steps", "2", *given, "--resume")


def test_the_card_is_of_what_ran_and_a_resume_with_nothing_to_do_says_so(distill, tmp_path, capsys):
    warm = ("--warm.steps", "2", "--warm.pairs", "4", "--warm.teacher-steps", "1", "--keep", "last")
    out = distill("--steps", "3", "--student-learning-rate", "0.001", *warm)
    capsys.readouterr()
    distill("--steps", "2", "--student-learning-rate", "0.5", *warm, "--resume")
    said = " ".join(capsys.readouterr().out.split())
    assert "there was nothing to train: warm has taken 2 of 2 steps already, add has taken 3 of 2 steps already" in said
    assert "trained in" not in said
    told = Card.read(out / "bundle").training
    assert (told["steps"], told["taken"]) == (3, {"warm": 2, "add": 3})
    assert (told["options"]["steps"], told["options"]["student_learning_rate"]) == (3, 0.001)
    assert told["threads"] == torch.get_num_threads()
    assert "changes" not in told
    distill("--steps", "4", "--student-learning-rate", "0.5", *warm, "--resume")
    told = Card.read(out / "bundle").training
    assert (told["options"]["steps"], told["options"]["student_learning_rate"]) == (4, 0.5)
    assert told["changes"] == [{"phase": "add", "after": 3, "--student-learning-rate": [0.001, 0.5]}]
    shown = cli.made(Card.read(out / "bundle"))
    assert shown["changed"] == "after step 3 of add: --student-learning-rate 0.5 (before: 0.001)"


def test_another_number_of_threads_is_told(distill, capsys):
    distill("--steps", "1", "--keep", "last")
    torch.set_num_threads(2)
    distill("--steps", "2", "--keep", "last", "--resume")
    assert "add was made with 1 threads and goes on with 2" in " ".join(capsys.readouterr().out.split())


DAMAGE = {
    "made_with.json": (b"{", b"", b"[1]", b"\xff\xfe"),
    "checkpoint/state.json": (b"{", b"[]", b"null", b"\xff", b'{"format": 1}', b'{"format": 1, "step": "x"}',
                              b'{"format": 1, "step": 2}'),
    "checkpoint/state.safetensors": (b"", b"\x00" * 100, None),
    "best/state.json": (b"{", b'{"format": 1}', b'{"format": 1, "step": 1, "score": "low"}'),
    "best/state.safetensors": (b"{", None),
    "journal.jsonl": (b"\xff\xfe", b"thesis"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), [(name, damage) for name, damages in DAMAGE.items() for damage in damages])
def test_a_damaged_file_of_a_run_is_named_with_the_way_out(distill, trained, tmp_path, capsys, name, damage):
    out = shutil.copytree(trained, tmp_path / "run")
    path = out / "add" / name
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(SystemExit) as ended:
        distill("--steps", "2", "--resume")
    folder = name.partition("/")[0]
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.strip().splitlines())) == (2, 1), said
    assert str(out / "add" / folder) in said
    assert "remove it, and --resume goes on without it" in said or "move it elsewhere" in said
    if (out / "add" / folder).is_dir():
        shutil.rmtree(out / "add" / folder)
    else:
        path.unlink()
    distill("--steps", "2", "--resume")


def test_a_grey_teacher_is_distilled_and_judged_like_any_other(tmp_path, monkeypatch, capsys):
    """With the options' defaults: EfficientNet in the discriminator, and MobileNet's look at the student."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    network = UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    teacher = foreign.write(tmp_path / "teacher", "DDPMPipeline", unet=network, scheduler=DDPMScheduler(clip_sample=False))
    data = tmp_path / "grey"
    with DatasetWriter(data, name="grey", shape=(1, 16, 16), licences=[], attribution="", build={}) as writer:
        for i in range(8):
            writer.add(np.full((1, 16, 16), 30 * i, np.uint8), Item(str(i), str(i), (f"a tone {i}",), split="train"))
    cli.main(["distill", "--teacher", str(teacher), "--data", str(data), "--out", str(tmp_path / "run"), "--batch-size", "8",
              "--warm.steps", "0", "--steps", "1"])  # fmt: skip
    last = Journal.read(tmp_path / "run" / "add" / "journal.jsonl")[-1]
    assert last["step"] == 1
    assert math.isfinite(last["probe/score"] + last["student/adversarial"])
    assert "try `fewstep draw 'a tone 0' --model " in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(teacher, pictures, tmp_path_factory):
    """The folder of a run of one step, looked at."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(out.parent / "cache"))
        cli.main(["distill", "--teacher", str(teacher), "--data", str(pictures), "--out", str(out), "--features", "teacher",
                  "--batch-size", "4", "--warm.steps", "0", "--look-every", "1", "--steps", "1"])  # fmt: skip
    return out


@pytest.mark.parametrize(
    ("n", "split", "sentence"),
    [(3, "heldout", "all 3 pictures of own are held out, and none is left"), (1, "train", "has one picture to train on")],
)
def test_too_few_pictures_are_told_before_the_warm_start(distill, tmp_path, capsys, n, split, sentence):
    with DatasetWriter(tmp_path / "own", name="own", shape=(3, 16, 16), licences=[], attribution="", build={}) as writer:
        for i in range(n):
            writer.add(np.full((3, 16, 16), i, np.uint8), Item(str(i), str(i), ("a cat",), split=split))
    warm = ("--warm.steps", "1", "--warm.pairs", "2", "--warm.teacher-steps", "1")
    given = ("--data", str(tmp_path / "own"), *warm, "--steps", "1")
    with pytest.raises(SystemExit) as ended:
        distill(*given)
    assert_one_sentence(ended, capsys, sentence)
    assert not (tmp_path / "run").exists()
    if n == 1:
        distill(*given, "--keep", "last")


def test_a_record_says_all_that_has_to_be_typed_again():
    options = suite.Options(prompts=5, apart_from=(3, 1), seeds=(2, 3, 5), judge=("mobilenet-v2", "efficientnet-lite2"))
    words = cli.words_of(asdict(options), asdict(suite.Options()))
    assert words == shlex.split("--prompts 5 --apart-from 3 1 --seeds 2 3 5 --judge mobilenet-v2 efficientnet-lite2")
    assert tyro.cli(cli.flat(suite.Options), args=words) == options
    assert cli.words_of(asdict(suite.Options()), asdict(suite.Options())) == []
    o = distillation.options(add=add.Options(r1=0.5, reals_through_codec=True), standardise=False, concepts=3)
    words = cli.words_of(json.loads(json.dumps(as_typed(o))), as_typed(distillation.options()))
    assert tyro.cli(cli.flat(distillation.options_type()), args=words) == o


def test_commands_are_found_by_their_files(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in ("demo", "data", "teach", "distill", "draw", "evaluate", "compare", "check", "adopt",
                 "info", "verify", "serve", "budget", "docs"):  # fmt: skip
        assert name in shown


def test_distill_then_resume_then_draw(pictures, tmp_path, monkeypatch, capsys):
    """The whole distil arm on a tiny teacher and eight pictures of its own, stopped and continued."""
    teacher = tiny_bundle(tmp_path, "teacher")
    home = tmp_path / "home"
    common = ["distill", "--teacher", str(teacher), "--data", str(pictures), "--out", str(tmp_path / "run"),
              "--features", "teacher", "--batch-size", "4", "--warm.steps", "3", "--warm.pairs", "4", "--warm.teacher-steps", "2",
              "--warm.batch-size", "4"]  # fmt: skip
    first = fewstep(*common, "--steps", "2", home=home)
    assert first.returncode == 0, first.stderr
    bundle = tmp_path / "run" / "bundle"
    monkeypatch.setenv("FEWSTEP_CACHE", str(home))
    cli.main(["draw", "a cat", "--model", str(bundle), "--steps", "4", "-o", str(tmp_path / "cat.png")])
    assert (tmp_path / "cat.png").is_file()
    cli.main([*common, "--steps", "4", "--resume"])
    again = capsys.readouterr().out
    assert "add 4/4" in again
    assert "warm" not in again.replace("warm.", "")
    cli.main(["info", str(bundle)])
    shown = capsys.readouterr().out
    assert "student" in shown
    assert "every hash as the card has it" in shown
    made = " ".join(shown.split()).split("made with ")[1]
    assert made.startswith("fewstep distill --teacher ")
    for words in ("--batch-size 4", "--features teacher", "--warm.steps 3 --warm.pairs 4 --warm.teacher-steps 2", "--steps 4"):
        assert words in made


@pytest.mark.parametrize("prompt", ["a heart [/red]", "a [red] heart", "[bold]"])
def test_what_looks_like_markup_is_said_as_it_stands(student, tmp_path, capsys, prompt):
    file = tmp_path / "pics[raw]" / "a[bold].png"
    cli.main(["draw", prompt, "--model", str(student), "--n", "2", "-o", str(file)])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note: ")]
    for number, line in enumerate(lines[:2]):
        written = file.with_stem(f"a[bold]-{number}")
        assert line.startswith(f"{written}  {prompt!r}  ")
        assert written.is_file()


def test_a_folder_that_cannot_be_made_is_told_before_anything_takes_long(teacher, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fewstep.recipes.distillation.prepare", lambda *_, **__: pytest.fail("work was begun"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["distill", "--teacher", str(teacher), "--data", str(pictures), "--out", str(tmp_path / "file" / "run")])
    assert_one_sentence(ended, capsys, "a file stands where a folder is needed")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("budget --threads 0", "--threads 0 is out of range: use from 1 to 256"),
        ("budget --threads 100000", "--threads 100000 is out of range"),
        ("budget --strength 0", "--strength 0.0 is out of range: use more than 0 to 1"),
        ("budget --device tpu", "unknown device 'tpu': use cpu, cuda"),
        ("budget --device cuda:99", "torch sees no GPU cuda:99 here"),
        ("serve --port 99999", "--port 99999 is out of range: use from 0 to 65,535"),
        ("serve --device tpu", "unknown device 'tpu': use cpu, cuda"),
        ("serve --device cpu cuda:0", "--device cpu cuda:0: name one or several of one kind, as cuda:0 cuda:1"),
        ("serve --sizes -3", "--sizes -3 is out of range"),
        ("serve --limits.send-s nan", "--limits.send-s nan is out of range: use more than 0"),
        ("serve --limits.sessions 0", "--limits.sessions 0 is out of range"),
        ("serve --safety os.nothing", "cannot load 'os.nothing'"),
        ("teach --batch-size 0", "--batch-size 0 is out of range"),
        ("teach --device tpu", "unknown device 'tpu': use cpu, cuda"),
        ("distill --device tpu", "unknown device 'tpu': use cpu, cuda"),
        ("docs --results nowhere", "nowhere holds no results"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused_at_once(student, capsys, arguments, sentence):
    model = ["--model", str(student)] if arguments.startswith(("serve", "budget")) else []
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments.split(), *model])
    assert_one_sentence(ended, capsys, sentence)


@pytest.mark.parametrize(("size", "fix"), [(40, "build the data with --size 32"), (8, "build the data with --size 16")])
def test_a_teacher_is_not_trained_on_pictures_that_do_not_halve(capsys, tmp_path, size, fix):
    Image.new("RGB", (40, 40), (200, 30, 100)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    folder_data.build(folder_data.Options(source=tmp_path, size=size, heldout=0), tmp_path / "set")
    with pytest.raises(SystemExit) as ended:
        cli.main(["teach", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run")])
    assert_one_sentence(ended, capsys, fix)


def test_a_teacher_of_any_size_is_taught_distilled_and_drawn_with(pictures, tmp_path, monkeypatch):
    """From a folder of one's own pictures, 16 px here, to a student's picture, with the notices passed on twice."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "home"))
    own, at = ["--data", str(pictures), "--batch-size", "8"], lambda name: str(tmp_path / name / "bundle")
    cli.main(["teach", *own, "--steps", "2", "--codec-steps", "2", "--codec-batch-size", "4",
              "--out", str(tmp_path / "teacher")])  # fmt: skip
    cli.main(["distill", *own, "--teacher", at("teacher"), "--features", "teacher", "--warm.steps", "1",
              "--warm.pairs", "4", "--warm.teacher-steps", "1", "--steps", "1", "--keep", "last",
              "--out", str(tmp_path / "student")])  # fmt: skip
    for name in ("teacher", "student"):
        card = Card.read(tmp_path / name / "bundle")
        assert card.native_size == (16, 16)
        assert card.data == f"folder-16 (all styles), {len(Dataset.open(pictures).subset('train'))} pictures"
        assert card.licence == "that of its data: as their owner says (see ATTRIBUTION.md)"
        page = (tmp_path / name / "bundle" / "ATTRIBUTION.md").read_text()
        assert page == (pictures / "ATTRIBUTION.md").read_text()
    cli.main(["draw", "a cat", "--model", at("student"), "--no-provenance", "-o", str(tmp_path / "cat.png")])
    assert Image.open(tmp_path / "cat.png").size == (16, 16)


class Ours:
    """A watermark of somebody's own: the payload's low bits in every pixel's blue."""

    def embed(self, picture: np.ndarray, payload: int) -> np.ndarray:
        marked = picture.copy()
        marked[..., 2] = payload & 255
        return marked

    def detect(self, picture: np.ndarray, effort: str = "aligned") -> Detection:
        plain = bool((picture[..., 2] == picture[0, 0, 2]).all())
        return Detection(9.0, 1e-9 if plain else 1.0, plain, int(picture[0, 0, 2]) if plain else None, 8, 1.0)


@pytest.fixture
def office(tmp_path, monkeypatch) -> Path:
    """Somebody else's signing identity; this machine's own is made elsewhere."""
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    pytest.importorskip("cryptography")
    own_identity(tmp_path / "office")
    return tmp_path / "office" / "identity"


def test_draw_and_verify_with_a_watermark_a_key_and_a_chain_of_ones_own(student, office, capsys, tmp_path):
    pytest.importorskip("c2pa")
    drawn: list[str] = []

    def draw(name: str, *arguments: str) -> str:
        picture = str(tmp_path / name)
        cli.main(["draw", "a cat", "--model", str(student), "--scale", "4", "-o", picture, *arguments])
        drawn.append(capsys.readouterr().out)
        return picture

    def verify(*arguments: str) -> str:
        capsys.readouterr()
        cli.main(["verify", *arguments])
        return capsys.readouterr().out

    mark = ["--watermark", f"{__name__}.Ours"]
    chain = ["--certificate-chain", str(office / "chain.pem"), "--private-key", str(office / "key.pem")]
    picture = draw("a.png", *mark, *chain)
    assert len(np.unique(np.asarray(Image.open(picture))[..., 2])) == 1
    assert "not on your trust list" in (unknown := verify(picture))
    assert "not found" in unknown
    for anchor in ("root.pem", "chain.pem"):
        assert "intact and trusted" in verify(picture, "--anchors", str(office / anchor))
    said = verify(picture, *mark, "--anchors", str(office / "root.pem"))
    assert "Watermark: found" in said
    assert "names bundle mark" in said
    (tmp_path / "key").write_bytes(b"mine\n")
    key = ["--watermark-key", str(tmp_path / "key")]
    picture = draw("b.png", *key)
    assert "Watermark: not found" in verify(picture)
    assert "Watermark: found" in verify(picture, *key)
    assert "prompt" not in verify(picture)
    picture = draw("c.png", "--include-prompt", "--sidecar")
    assert "prompt 'a cat'" in (told := verify(picture))
    assert "intact and trusted" in told
    assert str(tmp_path / "c.c2pa") in "".join(drawn[-1].split()), "it says where the credentials are"
    (tmp_path / "c.c2pa").unlink()
    assert "prompt 'a cat'" not in verify(picture), "they were beside the picture alone"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("verify {picture} --anchors {folder}/none.pem", "can't read a trust anchor"),
        ("verify {picture} --anchors {office}/root.pem {office}/key.pem", "key.pem holds no certificate in PEM"),
        ("verify {picture} --watermark nowhere.Mark", "cannot load 'nowhere.Mark'"),
        ("verify {picture} --watermark pathlib.Path", "a watermark needs the methods embed and detect"),
        ("verify {picture} --watermark-key {folder}/none", "can't read the watermark key"),
        ("verify {picture} --watermark-key {folder}/empty", "a watermark key is any bytes"),
        ("draw cat -o {folder}/a.png --certificate-chain {office}/chain.pem", "give both"),
        ("draw cat -o {folder}/a.png --certificate-chain {office}/key.pem --private-key {office}/chain.pem", "is not PEM"),
        ("draw cat -o {folder}/a.png --watermark nowhere.Mark", "cannot load 'nowhere.Mark'"),
        ("draw cat -o {folder}/a.png --sidecar --no-provenance", "--sidecar is about content credentials"),
        ("draw cat -o {folder}/a.png --include-prompt --no-provenance", "--include-prompt is about content credentials"),
        ("serve --port 0 --private-key {office}/key.pem", "give both"),
        ("serve --port 0 --watermark nowhere.Mark", "cannot load 'nowhere.Mark'"),
    ],
)
def test_marks_and_certificates_that_are_none_are_refused_before_anything_is_drawn(
    student, office, capsys, tmp_path, arguments, sentence
):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    (tmp_path / "empty").write_bytes(b" \n")
    given = arguments.format(picture=tmp_path / "plain.png", folder=tmp_path, office=office)
    model = [] if given.startswith("verify") else ["--model", str(student)]
    with pytest.raises(SystemExit) as ended:
        cli.main([*given.split(), *model])
    assert_one_sentence(ended, capsys, sentence)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("command", "sentence"), [
    ("distill", "(WiSE-FT, arXiv 2109.01903): more of"), ("distill", "on top of the teacher; ``freeze``, all but"),
    ("teach", "(arXiv 2303.09556); 0 turns it off"), ("draw", "default 1 for a student, the card's most for a teacher."),
])  # fmt: skip
def test_help_breaks_no_sentence_where_its_source_does(command, sentence, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "900")
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert sentence in capsys.readouterr().out


def test_a_table_too_wide_for_the_terminal_is_turned(monkeypatch):
    """With every cell whole, and as Markdown where it goes into a file."""
    models, metrics = [f"model-{i}" for i in range(3)], [f"a rather long name {i}" for i in range(4)]
    cells = [[f"{i}.{j} [{i}, {i + 1}]" for j in range(4)] for i in range(3)]
    rows = [["model", *metrics], *([m, *found] for m, found in zip(models, cells))]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    markdown = "\n".join([lines[0], "|---|" + "--:|" * 4, *lines[1:], "", "In brackets: both."])

    shown: list[str] = []

    def told(width: int, terminal: bool) -> list[list[str]]:
        screen = type(cli.console)(file=io.StringIO(), force_terminal=terminal, color_system=None, width=width)
        monkeypatch.setattr("fewstep.console.console", screen)
        console.say_tables(markdown)
        shown.append(screen.file.getvalue())
        return [re.split(r" {2,}", line.strip()) for line in shown[-1].strip().splitlines()]

    assert told(150, True)[:4] == rows
    assert told(70, True)[:5] == [list(row) for row in zip(*rows)]
    assert told(70, True)[-1] == ["In brackets: both."]
    markdown = "\n".join(["| a | b |", "|---|--:|", *("| 1 | a rather long cell |" for _ in range(9))])
    assert told(20, True)[:2] == [["a", "b"], ["1", "a rather long"]], "turned it would be wider yet"
    markdown = "| | a |\n|---|---|\n| 1 | |"
    assert told(70, True) == [["a"], ["1"]]
    assert "  a" in shown[-1], "an empty cell keeps its place"
    assert [" ".join(line) for line in told(20, False)] == markdown.split("\n")


def test_info_shows_steps_and_sizes_as_people_write_them(capsys):
    cli.main(["info", "emoji-64"])
    said = capsys.readouterr().out
    assert re.search(r"steps +1, 2, 4\b", said)
    assert re.search(r"native size +64×64\b", said)
    assert "(64" not in said
