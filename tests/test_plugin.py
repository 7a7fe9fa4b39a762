"""What the command line finds by a name: files of a family, and files of somebody's own, by one loader."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fewstep import cli, plugin
from fewstep.data.dataset import FAMILY as DATASETS
from fewstep.data.dataset import Dataset
from fewstep.inference import backend
from fewstep.methods.method import FAMILY as METHODS
from fewstep.parts.features import feature
from fewstep.plugin import Family
from fewstep.recipes import assembly, distillation
from fewstep.rng import Rng
from fewstep.tensors import Conditioning, Features
from fewstep.training.data import PromptTable, TrainingSet
from helpers import ConvDenoiser, forget

FAMILIES = {"methods": METHODS, "backends": backend.FAMILY, "data": DATASETS, "features": feature.FAMILY}
FILE = {
    "methods": "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Options:\n    alpha: float = 1.0\n"
    "def build(o, parts): ...\n",
    "backends": "def missing(): return None\ndef compile(module, example): return module\n",
    "data": "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Options:\n    n: int = 3\n"
    "from fewstep.data.digits import Options as Digits, build as digits\n"
    "def build(options, folder, progress): return digits(Digits(size=options.n * 8), folder, progress)\n",
    "features": "import torch\nfrom fewstep.tensors import Features\n"
    "def load(o, teacher): return lambda media: Features((media * 2,), pooled=media.flatten(2).mean(2))\n",
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of somebody's own, not in Python's path, with a file for every family; it is the current one."""
    forget("my_lab")
    (tmp_path / "my_lab").mkdir()
    for kind, text in FILE.items():
        (tmp_path / "my_lab" / f"own_{kind}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget("my_lab")


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_file_is_reached_by_its_name_and_one_from_outside_by_its_path(kind: str, lab: Path) -> None:
    family = FAMILIES[kind]
    assert family.names
    for name in family.names:
        assert family.missing(family.load(name)) is None
    assert family.load(f"my_lab.own_{kind}").__file__ == str(lab / "my_lab" / f"own_{kind}.py")
    assert "" not in sys.path or sys.path.index("") == 0, "the path is as it was"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_wrong_name_is_one_sentence_with_the_right_ones(kind: str) -> None:
    family = FAMILIES[kind]
    with pytest.raises(ValueError, match=f"there is no {family.kind} 'warp': use .*{family.names[-1]}, or a dotted path"):
        family.load("warp")
    with pytest.raises(ValueError, match=rf"cannot load the {family.kind} 'no\.where' \(No module named 'no'\)"):
        family.load("no.where")
    with pytest.raises(ValueError, match=f"json.decoder is no {family.kind}, for it has no {family.offers[0]}"):
        family.load("json.decoder")
    with pytest.raises(ValueError, match="there is no"):
        family.load("..")


def test_the_files_beside_the_members_are_none(lab: Path) -> None:
    assert {"method", "adversarial", "denoising", "autoencoding"} <= set(METHODS.files) - set(METHODS.names)
    assert {"efficientnet-lite0", "efficientnet-lite2", "dinov2", "teacher"} == set(feature.FAMILY.names)


def test_the_current_folder_hides_nothing_that_is_installed(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "wsgiref"]:
        monkeypatch.delitem(sys.modules, module)
    (lab / "wsgiref").mkdir()
    (lab / "wsgiref" / "__init__.py").touch()
    (lab / "wsgiref" / "util.py").write_text("Options = build = None\n")
    with pytest.raises(ValueError, match=r"wsgiref\.util is no method"):
        METHODS.load("wsgiref.util")


def test_an_error_inside_a_file_of_ones_own_is_its_own(lab: Path) -> None:
    """What does not import for a reason of its own is not said to be missing."""
    (lab / "my_lab" / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        METHODS.load("my_lab.broken")


@pytest.mark.parametrize("name", ["teacher", "bundle", "warm"])
def test_a_method_may_not_be_called_like_something_else_in_a_run(name: str, lab: Path) -> None:
    (lab / "my_lab" / f"{name}.py").write_text(FILE["methods"])
    with pytest.raises(ValueError, match=f"cannot be called {name}, for something else in a run is: give its file another name"):
        distillation.options_type(f"my_lab.{name}")


def test_a_filter_of_ones_own_is_found_in_the_current_folder(lab: Path) -> None:
    (lab / "my_lab" / "made.py").write_text("class Seven(int):\n    def __new__(cls): return super().__new__(cls, 7)\n")
    assert plugin.load("my_lab.made.Seven", int, "a number") == 7
    with pytest.raises(ValueError, match="makes something else: a word"):
        plugin.load("my_lab.made.Seven", str, "a word")
    with pytest.raises(ValueError, match=r"cannot load 'my_lab\.made\.Eight' .*Eight.*: give a dotted path; a number"):
        plugin.load("my_lab.made.Eight", int, "a number")


def test_a_dataset_of_ones_own_is_built_by_its_path(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(lab / "cache"))
    cli.main(["data", "my_lab.own_data", "--n", "2"])
    assert Dataset.open(lab / "cache" / "data" / "own_data").shape == (1, 16, 16)


def test_a_feature_network_of_ones_own_is_looked_through(lab: Path) -> None:
    """Its name is an option's value; what it gives is standardised, and its embedding is what the heads are told."""
    media = Rng.of(0).normal((40, 3, 4, 4))
    data = TrainingSet(
        media, PromptTable(None, None), [[0]] * 40, Conditioning(), 8, media=lambda rows: media[torch.from_numpy(rows)]
    )
    o = assembly.decided(feature.Options(features="my_lab.own_features"), (4, 4))
    assert o.resolution == 64
    feature.check(o)
    network = assembly.load_network(o, ConvDenoiser())
    assert network is not None
    found = assembly.standardised(o, network, data, assembly.Setting(8, 0, "cpu"))
    seen = found(media, Conditioning(), Rng.of(0)).levels[0]
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)
    told = assembly.embed(network, data, assembly.Setting(8, 0, "cpu"))
    torch.testing.assert_close(told, media.flatten(2).mean(2).half())
    with pytest.raises(ValueError, match=r"give --heads\.no-image"):
        assembly.embed(lambda media: Features((media,)), data, assembly.Setting(8, 0, "cpu"))


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ([], "--add.distillation-weight", "--ladd."),
        (["--method", "ladd"], "--ladd.r1", "--add."),
        (["--method=gan"], "--gan.r1", "--add."),
        (["--method", "my_lab.own_methods"], "--own-methods.alpha", "--features"),
        (["--method", "ladd", "--method", "gan"], "--gan.r1", "--ladd."),
    ],
)
def test_help_shows_the_options_of_the_method_that_is_named_and_no_others(
    words: list[str], shown: str, hidden: str, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["distill", *words, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code in (0, None)
    assert shown in said
    assert hidden not in said
    assert "--warm.steps" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "warp"], "there is no method 'warp': use add, "),
        (["--method="], "there is no method '': use add, "),
        (["--method"], "--method"),
        (["--method", "my_lab.sid"], "cannot load the method 'my_lab.sid' (No module named 'my_lab.sid')"),
        (["--features", "warp"], "there is no feature network 'warp': use dinov2, efficientnet-lite0"),
        (["--method", "ladd", "--add.r1", "1"], "Unrecognized options: --add.r1"),
    ],
)
def test_what_there_is_not_is_refused_before_any_work(
    words: list[str], sentence: str, lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["distill", *words, "--out", str(lab / "run")])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert sentence in " ".join((said.out + said.err).split())
    assert not (lab / "run").exists()


def test_a_family_of_ones_own_may_give_its_files_several_names() -> None:
    family = Family("fewstep.parts.features", "network", ("load",))
    assert family.load("efficientnet-lite0") is family.load("efficientnet-lite2")
