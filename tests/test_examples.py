"""Every example, run by its path in a folder of its own. The notebook's cells, with what they show."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep import cli
from fewstep.provenance.verify import verify
from serving_helpers import running

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "tour.ipynb"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What an example prints, started by its path in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)

    def printed(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return printed


def test_every_example_is_run_here_and_told_of():
    tested = set(re.findall(r'run\("([a-z_.]+)"', Path(__file__).read_text("utf-8")))
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    in_a_browser = (Path(__file__).parent / "server/page/test_live_page.py").read_text("utf-8")
    tested |= set(re.findall(r'"examples" / "([a-z_.]+)"', in_a_browser))
    assert {name.removesuffix(".py") for name in files} - {"README.md", "shapes", "own_features"} <= tested | {NOTEBOOK.name}
    page = (EXAMPLES / "README.md").read_text("utf-8")
    assert files - {"README.md"} == set(re.findall(r"\]\(([a-z_]+\.(?:py|ipynb|html))\)", page))


def test_draw(run, tmp_path: Path):
    assert run("draw", "a red heart", "pizza") == "out/draw.png\n"
    assert verify(tmp_path / "out" / "draw.png").ai_generated


def test_verify_picture(run, tmp_path: Path):
    said = run("verify_picture")
    assert "out/verify.png: made by a model" in said
    assert "out/verify_bare.jpg: made by a model" in said
    assert "Content credentials: none, but the watermark is there" in said
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "photo.png")
    assert "photo.png: nothing says that a model made it" in run("verify_picture", "photo.png")


def test_live_client(run, tmp_path: Path):
    with running() as server:
        said = run("live_client", server.url, "a", "red", "heart")
    assert re.fullmatch(r"\d+ pictures, \d+ ms from canvas to picture \(median\); the last is out/live.png\n", said)
    assert verify(tmp_path / "out" / "live.png").credentials is not None
    with pytest.raises(SystemExit, match="live_client: no server answers at"):
        run("live_client", server.url)


def test_distil_points(run, tmp_path: Path):
    said = run("distil_points", "--quick").splitlines()
    assert re.fullmatch("data +8 of 8 clouds reached, 100% of the points in one", said[0])
    assert len(said) == 5
    assert Image.open(tmp_path / "out" / "points.png").size == (4 * 220, 244)


def test_a_dataset_and_a_feature_network_from_outside(run, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    cli.main(["data", "examples.shapes", "--of-each", "2", "--out", "shapes"])
    assert "40 pictures of 20 concepts" in capsys.readouterr().out
    said = run("distil_shapes", "--quick", "--features", "examples.own_features")
    assert said.splitlines()[-1] == "out/shapes/sheet.png"
    card = json.loads((tmp_path / "out/shapes/student/bundle/student_card.json").read_text("utf-8"))
    assert card["data"].startswith("shapes")
    assert "examples.own_features" in json.dumps(card["training"]["options"])


def shown(cell: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of its last line, as a notebook shows it."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None
    return out.getvalue(), value


def test_the_notebook_shows_what_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All cells in order, in a process with the folder of examples before it; pictures are those that lie in the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"] >= 4) == (4, True)
    assert NOTEBOOK.stat().st_size < 200_000
    names: dict[str, Any] = {"__name__": "__main__"}
    pictures = 0
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        told, value = shown("".join(cell["source"]), names)
        printed = "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")
        facts = re.compile(r"[0-9.]+(?:e-[0-9]+)?%?|bundle mark \w+")  # of keys and arithmetic that are this machine's
        assert facts.sub("#", told) == facts.sub("#", printed)
        for output in cell["outputs"]:
            if "image/jpeg" in output.get("data", {}):
                kept = Image.open(io.BytesIO(base64.b64decode("".join(output["data"]["image/jpeg"]))))
                assert kept.size == value.size
                difference = np.abs(np.asarray(kept, float) - np.asarray(value.convert("RGB"), float))
                assert difference.mean() < 3, "other pictures than the file shows: execute the notebook again"
                pictures += 1
    assert pictures == 3
