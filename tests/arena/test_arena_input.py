"""What an arena is made of: prompt lists, folders, models; whatever is wrong is one sentence before anything is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arena_helpers import folders
from fewstep.arena import command, pictures, prompts
from fewstep.arena.plan import Plan
from fewstep.arena.report import report
from fewstep.data.dataset import no_progress
from fewstep.ranges import USUAL
from serving_helpers import make_bundle

PARTI = "Prompt\tCategory\tChallenge\tNote\n" + "".join(
    f"{row}\t\n" for row in ('a "bond"\tAbstract\tBasic', "a cow\tAnimals\tQuantity", "a cow\tAnimals\tBasic", "a map\tMaps\tOdd")
)


def test_a_prompt_list_is_read_as_partiprompts_writes_it_and_as_plain_lines(tmp_path: Path):
    table, plain = tmp_path / "parti.tsv", tmp_path / "plain.txt"
    table.write_text(PARTI, "utf-8")
    plain.write_text("\ufeffa red heart\r\n\n  a fish \na red heart\n", "utf-8")
    assert [p.text for p in prompts.read(plain)] == ["a red heart", "a fish"]
    assert prompts.read(table)[0] == ('a "bond"', "Abstract", "Basic")
    assert [p.text for p in prompts.read(table)] == ['a "bond"', "a cow", "a map"]
    assert [p.text for p in prompts.read(table, without=("basic",))] == ["a cow", "a map"]
    assert [p.text for p in prompts.read(table, ("maps",))] == ["a map"]
    (tmp_path / "comma.csv").write_text('Prompt,Category\n"a cat, a dog",Animals\n', "utf-8")
    assert prompts.read(tmp_path / "comma.csv")[0].text == "a cat, a dog"
    for name, text, said in (("none.tsv", "Text\nx\n", "no column Prompt"), ("empty.txt", "\n", "holds no prompts")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            prompts.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"no category 'plants': it has abstract, animals"):
        prompts.read(table, ("plants",))


def test_models_draw_from_the_same_noises_and_a_stopped_run_draws_only_what_is_missing(tmp_path: Path):
    tiny = str(make_bundle(tmp_path / "tiny"))
    models = (f"one={tiny},1", f"two={tiny},2", f"again={tiny},1")
    o = command.Options(models=models, out=tmp_path / "run", seeds=2)
    said: list[tuple[str, int, int]] = []
    plan = command.prepare(o, USUAL, "", lambda *progress: said.append(progress))
    assert [entry.name for entry in plan.models] == ["one", "two", "again"]
    assert plan.models[0].pictures == plan.models[2].pictures, "the same picture is drawn once"
    assert plan.prompts[:2] == (command.PROMPTS[0],) * 2
    assert len(set(plan.models[0].pictures)) == 16, "two noises of each prompt"
    assert said[-1] == ("drawing with two", 16, 16)
    first, second = (o.out / plan.models[0].pictures[i] for i in (0, 5))
    drawn, stamp = np.asarray(Image.open(first)), second.stat().st_mtime_ns
    first.unlink()
    assert command.prepare(o, USUAL, "", no_progress) == plan
    assert np.array_equal(np.asarray(Image.open(first)), drawn)
    assert second.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ()}, "needs two models"),
        ({"models": ("emoji-64",)}, "needs two models"),
        ({"models": ("a", "b"), "results": Path("run")}, "leave the models out"),
        ({"models": ("a", "b"), "raters": ("anna", "anna")}, "same name"),
        ({"models": ("a", "b"), "raters": ("",)}, "1 to 40"),
        ({"models": ("a", "b"), "questions": ()}, "looks, follows, or both"),
        ({"models": ("a", "b"), "categories": ("Basic",)}, "--prompts"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        command.check(command.Options(**options))


def test_folders_that_do_not_go_together_are_refused_and_nothing_is_left(tmp_path: Path):
    first, second, _ = map(str, folders(tmp_path))
    out = tmp_path / "run"

    def refusal(*models: str, **more: Any) -> str:
        with pytest.raises(ValueError, match=r"\w") as caught:
            command.prepare(command.Options(models=models, out=out, **more), USUAL, "", no_progress)
        return str(caught.value)

    assert "there is no bundle 'nowhere'" in refusal("nowhere", "emoji-64")
    assert "names no model" in refusal(first, "=")
    assert "both called 'x'" in refusal(f"x={first}", f"x={second}")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    assert "6 pictures and 2 prompts" in refusal(first, second, prompts=tmp_path / "few.txt")
    (Path(second) / "prompt-a.png").write_bytes(b"no picture")
    assert "no picture that can be read" in refusal(first, second)
    (Path(second) / "prompt-a.png").rename(Path(second) / "other.png")
    assert "do not go together" in refusal(first, second)
    assert not out.exists()
    numbers = [tmp_path / "n1", tmp_path / "n2"]
    for folder in numbers:
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "0001.png")
    assert "hold no prompts" in refusal(*map(str, numbers))
    command.prepare(command.Options(models=tuple(map(str, numbers)), out=out, questions=("looks",)), USUAL, "", no_progress)
    for folder, said in ((tmp_path, "no run of an arena"), (out, "no votes yet")):
        with pytest.raises(ValueError, match=said):
            report(folder)
    (out / "arena.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Plan.read(out)


def test_a_damaged_picture_is_always_the_same_and_plainly_worse():
    picture = Image.fromarray(np.arange(3 * 32 * 32, dtype=np.uint8).reshape(32, 32, 3))
    once, again = (np.asarray(pictures.damaged(picture)) for _ in range(2))
    assert np.array_equal(once, again)
    assert np.abs(once.astype(int) - np.asarray(picture).astype(int)).mean() > 25
