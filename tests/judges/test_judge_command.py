"""``fewstep judge``: figures equal those of this process, records that pair, environments, and names that nobody borrows."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.arena.plan import Entry, Plan
from fewstep.bundle import locate
from fewstep.cli import main
from fewstep.evaluation import compare
from fewstep.evaluation.evaluate import EvaluateOptions, MeasuredModel, Reference, measure
from fewstep.evaluation.pixel_features import PixelFeatures
from fewstep.evaluation.record import MetricRecord, read_records
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.judges import environment
from fewstep.judges.command import kindred
from fewstep.judges.judge import FAMILY, find
from fewstep.modality.image import to_pil
from fewstep.parts.features.efficientnet import ImageNetFeatures
from fewstep.rng import fold


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def folder(at: Path, n: int, seed: int) -> torch.Tensor:
    """``n`` pictures of coloured noise under names that sort, and what they are as media."""
    at.mkdir()
    lot = np.random.default_rng(seed)
    coarse = lot.integers(0, 256, (n, 4, 4, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    for i, pixels in enumerate(coarse):
        Image.fromarray(pixels).save(at / f"{i:03}.png")
    return torch.from_numpy(coarse).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("name", ["pixels", "efficientnet-lite2"])
def test_a_judge_in_a_process_gives_the_figure_that_it_gives_in_this_one(tmp_path: Path, name: str) -> None:
    real, drawn = folder(tmp_path / "real", 40, 0), folder(tmp_path / "mine", 12, 1)
    main(["judge", name, "mine", "--against", "real", "-o", "m.json"])
    found = {(r.model, r.metric): r for r in read_records("m.json")}
    judge = PixelFeatures.fit(real) if name == "pixels" else ImageNetFeatures.load(name, 128)
    reference = Reference.build(real, torch.arange(40), judge)
    words = [f"{i:03}" for i in range(12)]
    measured = measure(drawn, words, list(range(12)), reference, judge, MeasuredModel("mine", 0), EvaluateOptions((0,)))
    want = next(r for r in measured if r.metric == "fd")
    got = found["mine", "fd"]
    assert got.value == pytest.approx(want.value, rel=1e-5)
    assert got.left_out == pytest.approx(want.left_out, rel=1e-5)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), rel=1e-4)
    assert (got.features, got.resizer, got.n, got.seeds) == (want.features, want.resizer, 12, 1)
    floor = found["real", "fd"]
    assert floor.n == 12
    assert floor.dataset == got.dataset


def test_two_folders_are_paired_and_few_pictures_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(tmp_path / "real", 40, 0)
    folder(tmp_path / "one", 20, 1)
    folder(tmp_path / "other", 20, 2)
    main(["judge", "pixels", "one", "B=other,4", "--against", "real", "-o", "m.json"])
    said = capsys.readouterr()
    assert "20 pictures against 40 real ones: below 2,048" in " ".join((said.out + said.err).split())
    rows = [compare.row(f"m.json:{which}")[1] for which in ("one,0", "B,4")]
    (paired,) = compare.compare(*rows)
    assert paired.a.title == "FD-pixels"
    assert paired.difference.low < paired.difference.value < paired.difference.high


def test_the_limit_is_printed_where_pictures_are_many_a_feature(tmp_path: Path) -> None:
    folder(tmp_path / "real", 9, 0)  # 8 components
    folder(tmp_path / "mine", 40, 1)
    main(["judge", "pixels", "mine", "--against", "real", "-o", "m.json"])
    found = {r.metric: r for r in read_records("m.json") if r.model == "mine"}
    limit = found["fd_infinity"]
    assert limit.title == "FD∞-pixels"
    assert limit.low < limit.value < limit.high
    assert limit.value < found["fd"].value


def test_a_score_of_ones_own_is_averaged_over_prompts_and_keeps_its_direction(tmp_path: Path) -> None:
    lab = tmp_path / "lab_of_scores"
    lab.mkdir()
    (lab / "darkness.py").write_text(
        '"""How dark a picture is, in words of the prompt."""\nfrom fewstep.judges import kit\nKIND = "score"\nLICENCE = "none"\n'
        "PINS = None\nDIRECTION = '↓'\n\ndef load(asked):\n    def judge(pictures, prompts):\n"
        "        for path, prompt in zip(pictures, prompts):\n            yield len(prompt.split()) + kit.rgb(path).size[0]\n"
        "    return judge\n"
    )
    folder(tmp_path / "mine", 6, 1)
    (tmp_path / "p.txt").write_text("a\na b\na b c\na b c d\na b c d e\na b c d e f\n")
    main(["judge", "lab_of_scores.darkness", "mine", "--prompts", "p.txt", "-o", "m.json"])
    (record,) = read_records("m.json")
    assert record.value == 32 + 3.5
    assert record.left_out == pytest.approx([32 + (21 - i) / 5 for i in range(1, 7)])
    assert record.direction == "↓"
    assert record.metric == "lab_of_scores.darkness"


def test_every_judge_says_what_it_is_and_the_table_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["judge"])
    said = capsys.readouterr().out
    for name in FAMILY.names:
        judge = find(name)
        assert name in said
        assert judge.measures
        assert judge.licence
        assert judge.pins is None or all("==" in pin for pin in judge.pins), "a figure hangs on its packages' releases"
        assert judge.weights is None or judge.has_tiny, "its self-test needs weights"


UV = shutil.which("uv")


@pytest.mark.parametrize(
    "tool", ["venv", pytest.param("uv", marks=pytest.mark.skipif(UV is None, reason="uv is not installed"))]
)
def test_setup_makes_an_environment_whole_and_tests_the_judge_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    monkeypatch.setenv("PATH", str(Path(UV).parent) if UV and tool == "uv" else "")
    lab = tmp_path / (alone := f"lab_alone_{tool}")
    lab.mkdir()
    # packages above a judge are not run in its process
    (lab / "__init__.py").write_text("import sys\nassert 'fewstep.cli' in sys.modules\n")
    text = (
        '"""Where it runs."""\nimport sys\nfrom fewstep.judges import kit\nKIND = "features"\nLICENCE = "none"\nPINS = ()\n\n'
        "def load(asked):\n    assert 'fewstep.cli' not in sys.modules\n    def judge(pictures, prompts):\n"
        "        assert sys.prefix != sys.base_prefix\n        yield from ([len(path), 1] for path in pictures)\n"
        "    return judge\n"
    )
    (lab / "judge.py").write_text(text)
    with pytest.raises(SystemExit):
        main(["judge", f"{alone}.judge", ".", "--against", "."])
    assert f"has no environment yet: fewstep judge {alone}.judge --setup" in capsys.readouterr().err
    main(["judge", f"{alone}.judge", "--setup"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"{alone}.judge answers" in said
    judge = find(f"{alone}.judge")
    python = environment.python_of(judge)
    assert python is not None
    assert python.parent.parent == environment.folder(judge) != Path(sys.prefix)
    assert ("uv = " in (environment.folder(judge) / "pyvenv.cfg").read_text()) == (tool == "uv")
    assert json.loads((environment.folder(judge) / "pins.json").read_text()) == []
    # a judge of the same pins shares it; one of others has none yet, and one that cannot be made leaves nothing behind
    (lab / "twin.py").write_text(text)
    assert environment.python_of(find(f"{alone}.twin")) == python
    (lab / "greedy.py").write_text(text.replace("PINS = ()", "PINS = ('no such package==1',)"))
    with pytest.raises(SystemExit):
        main(["judge", f"{alone}.greedy", "--setup"])
    assert "could not be made (" in capsys.readouterr().err
    assert not environment.folder(find(f"{alone}.greedy")).exists()
    assert list(environment.folder(judge).parent.iterdir()) == [environment.folder(judge)]


def test_other_weights_never_carry_the_canonical_name(tmp_path: Path) -> None:
    lab = tmp_path / "lab_weighed"
    lab.mkdir()
    digest = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"  # of "hello world"
    (lab / "judge.py").write_text(
        '"""What its file says."""\nfrom fewstep.judges import kit\nKIND = "score"\nLICENCE = "none"\nPINS = None\n'
        f"METRIC = 'clip_score'\nWEIGHTS = kit.Weights('hf download it --local-dir {{folder}}', {{'w.bin': '{digest[:8]}'}})\n\n"
        "def load(asked):\n    size = len(open(asked.weights + '/w.bin').read())\n"
        "    return lambda pictures, prompts: (size + i for i, _ in enumerate(pictures))\n"
    )
    folder(tmp_path / "mine", 3, 0)
    run = ["judge", "lab_weighed.judge", "mine", "-o", "m.json", "--prompts", "p.txt"]
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    usual = tmp_path / "home" / "judges" / "weights" / "lab_weighed.judge"

    def names() -> list[tuple[str, str]]:
        return [(r.metric, r.features.partition("@")[0]) for r in read_records("m.json")]

    usual.mkdir(parents=True)
    (usual / "w.bin").write_text("hello world")
    main(run)
    assert names() == [("clip_score", "lab_weighed.judge")]
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "w.bin").write_text("hello wurld")
    main([*run, "--weights", "w"])
    (_, (metric, judge)) = names()
    assert metric.startswith("clip_score (other weights: ")
    assert judge.startswith("lab_weighed.judge (other weights: ")
    source = (lab / "judge.py").read_text()
    (lab / "unsure.py").write_text(source.replace(digest[:8], ""))  # nobody knows the hash of its weights
    main(["judge", "lab_weighed.unsure", *run[2:], "--weights", "w"])
    assert names()[2][0].startswith("clip_score (unverified weights: ")
    other = read_records("m.json")[1]
    assert isinstance(other, MetricRecord)
    assert other.value == 12.0


def test_missing_weights_are_one_sentence_with_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FAMILY.names:
        judge = find(name)
        if judge.weights is not None:
            said = environment.missing(judge)
            assert judge.name in said
            assert str(environment.usual_folder(judge)) in said
    folder(tmp_path / "mine", 3, 0)
    for words, sentence in (
        (["pixels", "mine"], "give a folder or a data set with --against"),
        (["pixels", "mine/000.png", "--against", "mine"], "is a file: give the folder"),
        (["nobody", "mine"], "there is no judge 'nobody'"),
        (["pixels"], "what is to be judged?"),
        (["pixels", "mine", "--against", "mine", "--weights", "mine"], "reads no weights"),
        (["pixels", "real=mine", "--against", "mine"], "cannot be called 'real'"),
    ):
        with pytest.raises(SystemExit) as code:
            main(["judge", *words])
        assert code.value.code == 2
        assert sentence in capsys.readouterr().err


def test_a_model_is_drawn_once_and_an_arena_is_judged_as_it_stands(tmp_path: Path) -> None:
    folder(tmp_path / "real", 12, 0)
    (tmp_path / "p.txt").write_text("a red heart\na blue fish\na house\n")
    run = [
        "judge",
        "pixels",
        "emoji-64,1",
        "--prompts",
        "p.txt",
        "--seeds",
        "0",
        "5",
        "--against",
        "real",
        "-o",
        "m.json",
    ]
    main(run)
    first = {r.metric: r for r in read_records("m.json") if r.model == "emoji-64"}
    drawn = sorted((tmp_path / "m-pictures").rglob("*.png"))
    assert [len(drawn), first["fd"].steps, first["fd"].n, first["fd"].seeds, len(first["fd"].left_out)] == [
        6,
        1,
        6,
        2,
        3,
    ]
    # the drawing is that of `fewstep evaluate`, to the bit
    pipeline = Pipeline.open(locate("emoji-64"))
    seed = fold(5, "a blue fish")
    media = pipeline(Request(["a blue fish"], [seed], 1, cond=pipeline.encode(["a blue fish"])))[0]
    assert np.array_equal(np.array(Image.open(drawn[3])), np.array(to_pil(media)))
    # two of its pictures a model, as an arena has them
    plan = Plan(
        (Entry("mine,4", tuple(map(str, drawn[:3]))), Entry("other", tuple(map(str, drawn[3:])))), ("a", "b", "c")
    )
    (tmp_path / "arena").mkdir()
    plan.write(tmp_path / "arena")
    folder(tmp_path / "more", 7, 3)  # of another number: a table of its own
    main(["judge", "pixels", "arena", "more", *run[-4:]])
    rows = {(r.model, r.steps): r for r in read_records("m.json") if r.metric == "fd"}
    assert set(rows) == {("real", 0), ("emoji-64", 1), ("mine", 4), ("other", 0), ("more", 0)}
    assert rows["mine", 4].n == rows["other", 0].n == 3


def test_a_judge_that_sees_like_the_discriminator_is_told_of_and_the_discriminators_own_refused() -> None:
    assert kindred(find("fd_dinov2"), ["efficientnet-lite0", "dinov2"])
    assert not kindred(find("fd_dinov2"), ["efficientnet-lite0"])
    assert not kindred(find("pixels"), [])
    with pytest.raises(ValueError, match="was the discriminator's network"):
        kindred(find("efficientnet-lite2"), ["dinov2", "efficientnet-lite2"])
