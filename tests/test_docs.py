"""The tables of the pages come from the result files, whatever they hold, and stand there as the files have it."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewstep
from fewstep import bundle, cli
from fewstep.evaluation import pages, realtime
from fewstep.evaluation.record import MetricRecord, of_card, write_figures, write_records
from fewstep.provenance.content_credentials import read as read_credentials
from fewstep.server.drawing import safety
from fewstep.server.wire.protocol import DrawRequest, Part, pack, unpack
from serving_helpers import benchmark

ROOT = Path(__file__).parents[1]


def results(folder: Path) -> Path:
    folder.mkdir()
    write_records(folder / "emoji64.json", [MetricRecord("add", 1, "kid", 0.25, 0.2, 0.3, 128, 2)])
    levels = (
        realtime.LoadLevel(1, 60.0, 29.97, 29.97, 29.97, 21.2, 30.4, 41.0, 2.0, 3, 17, 0, 0, 912.3, 913.0, 912.9),
        realtime.LoadLevel(50, 60.0, 1.05, 1.0, 1.1, 950.0, 1100.0, 1200.0, 1.0, 1234, 88, 0, 0, 913.0, 950.0, 930.0),
    )
    found = realtime.Realtime(
        levels, 1.08, 1.12, 3.42, 50.0, 14.6, 14.0, "emoji-64", "onnx", 1000 / 30, "A machine", "python benchmarks/load.py"
    )
    found.write(folder / "realtime.json")
    return folder


def test_a_benchmark_of_variants_fills_its_place(tmp_path: Path):
    path = tmp_path / "sdxl_size.json"
    row = {"variant": "ours", "p50_ms": 16.16, "p99_ms": 16.77, "fps": 61.9}
    facts = {"variants": [row], "device": "A GPU", "torch": "2.11.0", "dtype": "float16", "size": 512, "calls": 100,
             "unet_parameters": 2567463684, "peak_gib": 9.64, "command": "python it.py"}  # fmt: skip
    path.write_text(json.dumps(facts))
    text = pages.shown(path)
    assert "| ours | 16.2 | 16.8 | 61.9 |" in text
    assert "2.57 billion parameters of float16" in text
    path.write_text(json.dumps({"variants": [{"variant": "ours"}]}))
    with pytest.raises(ValueError, match="holds no variants"):
        pages.shown(path)


def test_every_kind_of_result_fills_its_place(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "# A\n<!-- table:realtime -->\nold\n<!-- /table:realtime -->\nb\n<!-- table:emoji64 -->\n<!-- /table:emoji64 -->\nc\n"
    )
    arguments = ["docs", "--pages", str(readme), "--results", str(results(tmp_path / "results"))]
    cli.main(arguments)
    text = readme.read_text()
    assert "old" not in text
    assert "| 1 | 30 | 1.00 | 21 | 30 | 41 | 2 | 3 | 0 | 0 | 912 → 913 |" in text
    assert "| 50 | 1.05 | 1.10 | 950 | 1100 | 1200 | 1 | 1,234 | 0 | 0 | 913 → 930 |" in text
    assert "takes 1.08 times as long for a picture as its bare networks (14.0 ms), and 1.12 times" in text
    assert "3.4 times the pictures of a plain server around the stock diffusers pipeline (50.0 against 14.6" in text
    assert "a target of 33 ms, 60 seconds a row" in text
    assert "| add | 1 | 1 |" in text
    assert text.endswith("<!-- /table:emoji64 -->\nc\n")
    cli.main(arguments)
    assert readme.read_text() == text


def test_a_figure_in_a_sentence_comes_from_its_file(tmp_path: Path):
    add = MetricRecord("add", 1, "fd", 0.25, 0.2, 0.3, 128, 2)
    write_records(tmp_path / "own.json", [add, replace(add, model="teacher", steps=50, value=0.5)])
    write_figures(tmp_path / "demo.json", {"minutes": 2.96}, "python it.py")
    found = {path.stem: path for path in tmp_path.glob("*.json")}
    page = (
        "FD <!--=own:add,1,fd:.2f-->9<!--=--> [<!--=own:add,1,fd.low:.1%-->9\n8<!--=-->], "
        "half (<!--=own:add,1,fd/teacher,50,fd:g--><!--=-->) in "
        "<!--=demo:minutes:.1f-->9<!--=--> minutes, <!--=gone:x:g-->as it stands<!--=-->"
    )
    (tmp_path / "speed.json").write_text(json.dumps({"variants": [{"variant": "ours, small", "p50_ms": 16.16}]}))
    (tmp_path / "load.json").write_text(json.dumps({"load": [{"sessions": 10, "p50_ms": 246.4}]}))
    for path in (tmp_path / "speed.json", tmp_path / "load.json"):
        found[path.stem] = path
    page += "; <!--=speed:ours, small,p50_ms:.0f--><!--=-->, <!--=load:10,p50_ms:.0f--><!--=-->"
    filled = pages.filled(page, found)
    assert re.sub("<!--.*?-->", "", filled) == "FD .25 [20.0%], half (.5) in 3.0 minutes, as it stands; 16, 246"
    assert pages.filled(filled, found) == filled
    for missing in ("own:add,2,fd:g", "own:add,1,fd/add,2,fd:g", "demo:hours:g"):
        with pytest.raises(ValueError, match=r"json holds no '.*: measure it, or correct the place"):
            pages.filled(f"<!--={missing}-->9<!--=-->", found)
    write_records(tmp_path / "own.json", [add, replace(add, model="teacher", steps=50, n=5000)])
    with pytest.raises(ValueError, match="cannot be compared: n is 128"):
        pages.filled("<!--=own:add,1,fd/teacher,50,fd:g--><!--=-->", found)


@pytest.mark.parametrize(("held", "said"), [('{"pictures": 1}', "records or load"), ("nonsense", "not JSON")])
def test_a_file_of_no_known_kind_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], held: str, said: str):
    (tmp_path / "x.json").write_text(held)
    (tmp_path / "README.md").write_text("<!-- table:x --><!-- /table:x -->")
    with pytest.raises(SystemExit) as ended:
        cli.main(["docs", "--pages", str(tmp_path / "README.md"), "--results", str(tmp_path)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


PAGES = ["README.md", *(f"docs/{name}.md" for name in ("results", "provenance", "evaluation", "variety", "winner", "check"))]


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_say_what_the_files_say(tmp_path: Path, page: str):
    """If this fails: make docs."""
    copy = tmp_path / Path(page).name
    shutil.copy(ROOT / page, copy)
    cli.main(["docs", "--pages", str(copy), "--results", str(ROOT / "docs" / "results")])
    assert copy.read_text() == (ROOT / page).read_text()


def test_a_table_in_a_benchmarks_words_fills_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as a script of theirs finds its neighbour
    recorded = [
        {"px": 64, "shown px": 512, "scene": scene, "kbit/s asked": asked, "bits a pixel": 0.02, "log10 p": -41,
         "frames proven alone": "3 of 9", "found": found}
        for asked in (300, 1000, "default")
        for scene, found in (("everything moves", "yes"), ("still, with noise", "no"), ("everything moves, unmarked", "no"))
    ]  # fmt: skip
    rows = benchmark("recording").side_by_side(recorded)
    benchmark("watermark").write(tmp_path, "recording", rows, "Measured here.")
    text = pages.shown(tmp_path / "recording.json").splitlines()
    assert text[0].startswith("| px (shown) | asked | moving: bits | moving: proven alone | moving: found | still: bits |")
    assert text[2] == "| 64 (512) | 300 kbit/s | 0.020 | 3 of 9 | 1e-41 | 0.020 | 3 of 9 | **no** |"
    assert [line.split(" | ")[1] for line in text[2:5]] == ["300 kbit/s", "1 Mbit/s", "default"]
    assert text[5:] == ["", "Measured here."]


def test_the_shipped_cards_say_what_the_files_say(tmp_path: Path):
    """If this fails: make docs."""
    for name, folder in bundle.shipped().items():
        (tmp_path / "models" / name).mkdir(parents=True)
        emptied = replace(bundle.Card.read(folder), metrics=[])
        emptied.write(tmp_path / "models" / name)
    (tmp_path / "page.md").write_text("")
    cli.main(["docs", "--pages", str(tmp_path / "page.md"), "--results", str(ROOT / "docs" / "results"),
              "--models", str(tmp_path / "models")])  # fmt: skip
    for name, folder in bundle.shipped().items():
        written = (tmp_path / "models" / name / bundle.CARD).read_text()
        assert written == (folder / bundle.CARD).read_text()
        card = bundle.Card.read(tmp_path / "models" / name)
        assert card.fingerprint == replace(card, metrics=[]).fingerprint
        assert set(card.steps) - {3} <= {r.steps for r in of_card(folder)}
        assert {r.model for r in of_card(folder)} == {"student" if card.role == "student" else "teacher"}


def blocks(page: str, language: str) -> list[str]:
    """The examples of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_pages_first_example_runs_as_it_stands(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    example = blocks("protocol.md", "python")[0]
    assert "http://localhost:7860" in example
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://localhost:7860", served.url), {})
    assert Image.open("streamed.png").size == Image.open("heart.png").size
    assert read_credentials(Path("heart.png").read_bytes(), "image/png").state == "valid"


def test_the_filter_of_the_safety_page_refuses_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (example,) = blocks("safety.md", "python")
    (tmp_path / "my_filter.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    named = re.search(r"--safety (my_filter\S+?)\"", example)
    assert named is not None
    moderation = safety.Moderation(safety.load(named[1]))
    said = [moderation.judge_prompts(*texts).result(10) for texts in (("a Dragon",), ("a cat", "a dragon"), ("a cat",))]
    assert said == [said[0], said[0], None]
    assert "another animal" in str(said[0])
    looks = [moderation.picture(np.full((8, 8, 3), level, np.uint8)) for level in (0, 200)]
    assert looks == ["this picture is too dark to be shown", None]
    moderation.close()


def codes_used() -> set[str]:
    """Every code of an error in the server's code, Python's and the browser's, and in its two clients'."""
    server = ROOT / "src" / "fewstep" / "server"
    used = {field.name for field in dataclasses.fields(DrawRequest)}  # what is wrong with a field of "draw" bears its name
    places = {"ProtocolError": 0, "ServerError": 0, "error_body": 1, "turn_away": 1, "Refusal": 1, "_end": 1, "_cut": 1}
    files = (server.parent / "client.py", *server.rglob("*.py"))
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        found: list[ast.expr] = []
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func).rpartition(".")[2]) in places:
            found = node.args[places[name] :][:1]
        elif isinstance(node, ast.Dict):
            found = [value for key, value in zip(node.keys, node.values) if ast.unparse(key or node) == "'code'"]
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 3:
            found = node.value.elts[1:2]  # of `AccessMiddleware._refusal`: status, code, sentence
        used |= {one.value for one in found if isinstance(one, ast.Constant)}
    wire = (server / "web" / "wire.js").read_text()
    says = re.search(r"const SAYS = {(.*?)};", wire, re.S)
    assert says is not None
    return used | {*re.findall(r'(?:ServerError\(|code: )"(\w+)"', wire)} | {*re.findall(r"^  (\w+):", says[1], re.M)}


def test_every_code_of_an_error_stands_in_the_page_and_no_other():
    table = (ROOT / "docs" / "protocol.md").read_text().split("## Errors\n")[1].split("\n## ")[0]
    told = [code for row in re.findall(r"^\| (`.*?) \|", table, re.M) for code in re.findall(r"`(\w+)`", row)]
    assert len(told) == len(set(told))
    assert set(told) == codes_used()


def test_the_pages_second_example_streams(served: Any):
    shown: list[Any] = []

    async def frames() -> AsyncIterator[dict[str, Any]]:
        for seed in range(3):
            yield {"prompt": "a cat", "seed": seed}

    example = blocks("protocol.md", "python")[1].replace("http://localhost:7860", served.url)
    names: dict[str, Any] = {"fewstep": fewstep, "frames": frames, "show": shown.append}
    exec("async def main():\n" + textwrap.indent(example, "    "), names)
    asyncio.run(names["main"]())
    assert len(shown) >= 2
    assert shown[-1].shape[2] == 3


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node here to run the browser's module")
def test_the_browsers_module_and_python_speak_one_language(tmp_path: Path):
    shutil.copy(ROOT / "src" / "fewstep" / "server" / "web" / "wire.js", tmp_path / "wire.mjs")
    (tmp_path / "echo.mjs").write_text(
        'import { readFileSync, writeFileSync } from "node:fs";\nimport { pack, unpack } from "./wire.mjs";\n'
        "const bytes = readFileSync(0);\n"
        "const { header, parts } = unpack(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));\n"
        "const { parts: _, ...rest } = header;\n"
        "writeFileSync(1, pack({ ...rest, heard: true }, Object.values(parts)));\n"
    )
    sent = [Part("image", "pixels/rgba", bytes(range(16)), 2, 2), Part("mask", "image/png", b"\x89PNG")]
    frame = pack({"type": "draw", "prompt": "ein Herz für Zoë ♥", "seed": 7}, sent)
    done = subprocess.run(["node", "echo.mjs"], input=frame, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    back = unpack(done.stdout)
    assert {k: back.header[k] for k in ("prompt", "seed", "heard")} == {
        "prompt": "ein Herz für Zoë ♥", "seed": 7, "heard": True,
    }  # fmt: skip
    assert [(p.name, p.mime, bytes(p.data), p.width) for p in back.parts.values()] == [
        (p.name, p.mime, p.data, p.width) for p in sent
    ]


@pytest.mark.skipif(shutil.which("tsc") is None, reason="there is no tsc here: npm install -g typescript")
def test_the_browsers_modules_keep_to_their_types():
    done = subprocess.run(["tsc", "-p", str(ROOT / "jsconfig.json")], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_tests_that_the_page_names_are_there() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", page))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()] == []


def test_the_page_of_the_papers_table_is_that_of_the_results():
    made = benchmark("table1_page").sheet(ROOT / "docs" / "results", ["python benchmarks/table1.py"])
    anew = "write it anew: python benchmarks/table1.py --page-only"
    assert (ROOT / "docs" / "table1.md").read_text("utf-8") == made.markdown(), anew
    whole = (ROOT / "docs" / "table1_offline.html").read_text("utf-8")
    assert whole.partition("<body")[2] == made.html().partition("<body")[2], anew  # its style sheet may have changed since
    assert "<script" not in made.html()
