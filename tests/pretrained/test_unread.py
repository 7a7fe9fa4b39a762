"""Nothing is cut in silence: what a text encoder does not read of a prompt is known to the letter, and said at every door."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

import foreign
from bundles import tiny_bundle
from fewstep import cli, pretrained
from fewstep.inference.pipeline import Pipeline
from fewstep.parts.conditioner import QUOTED, Conditioner, Unread, UnreadWarning, summary
from fewstep.pretrained.text import readings
from fewstep.training.data import tell_unread
from fewstep.training.data import training_set as encoded
from tiny import tiny

TINIES = tiny()

LONG = "a red heart, a blue house, a cat"
"""Ten tokens in words and commas, of which the tiny model reads six."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unread")


@pytest.fixture(scope="module")
def student(root: Path) -> Path:
    return tiny_bundle(root)


@pytest.fixture(scope="module")
def pipeline(student: Path) -> Pipeline:
    return Pipeline.open(student)


def same(conditioner: Conditioner, one: str, other: str) -> bool:
    a, b = conditioner([one]), conditioner([other])
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.pooled, b.pooled)


LONGER = {"sd3": "a red heart with wings " * 15, **dict.fromkeys(("sana", "z_image", "lumina2"), "a red heart with wings " * 40)}


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "sana", "z_image", "lumina2"])
def test_what_was_read_is_what_the_encoder_made_its_numbers_of(root: Path, family: str) -> None:
    """The prompt and its part that was read are encoded to the same bits; a character less is not."""
    folder = TINIES[family].make(root / family)
    conditioner = pretrained.load(folder).conditioner
    long = LONGER.get(family, "a red heart with a wing")  # 14 letters, and more
    (left,) = conditioner.unread([long])
    assert left.dropped
    assert (left.read + long[len(left.read) :], left.prompt) == (long, long)
    assert same(conditioner, left.read, long)
    assert not same(conditioner, left.read[:-1], long)
    assert conditioner.unread(["a cat", left.by_all]) == [None, None]
    assert pretrained.reader_of(folder)([long, "a cat"]) == [left, None], "its tokenizers alone say the same"


def test_where_one_encoder_reads_on_the_sentence_says_so(root: Path) -> None:
    """Stable Diffusion 3: CLIP reads 14 tokens here, T5 256."""
    conditioner = pretrained.load(foreign.sd3(root / "three")).conditioner
    (left,) = conditioner.unread(["a red heart with wings"])
    assert (left.dropped, left.read, left.limit) == ("", "a red heart with wings", 14)
    assert "one of the text encoders reads 14 tokens" in left.sentence
    assert f"{left.prompt[len(left.by_all) :].strip()!r} was read by the others alone" in left.sentence


def test_a_tokenizer_that_does_not_say_where_tokens_stand_is_asked_by_halving() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(model_max_length=8)
    assert not tokenizer.is_fast
    prompts = ["red heart", "seven!!", "süßes Herz", ""]
    assert [(r.tokens, r.limit, r.characters) for r in readings(tokenizer, prompts)] == [
        (9, 7, 7), (7, 7, 7), (12, 7, 5), (0, 7, 0)]  # fmt: skip


def test_words_without_a_token_are_told(pipeline: Pipeline) -> None:
    (left,) = pipeline.model.conditioner.unread(["a 红 heart, a 心 cat"])
    assert left.unknown == ("红", "心")
    assert left.dropped == "cat"
    assert same(pipeline.model.conditioner, "a 红 heart", "a 绿 heart"), "they are all the same to the encoder"
    assert "has no token for '红, 心'" in left.sentence


def test_the_sentence_is_short_and_shows_no_escapes(pipeline: Pipeline) -> None:
    (left,) = pipeline.model.conditioner.unread(["a red heart, a blue \x1b[31m" + "house " * 200])
    assert "\x1b" not in left.sentence
    assert len(left.sentence) < 2 * QUOTED
    assert left.told.endswith("…")
    assert left.tokens == 207


def test_many_are_counted_with_one_example() -> None:
    short, long = (Unread("p", n, 6, "p"[:0], "") for n in (7, 9))
    assert summary([None, None]) == ""
    assert summary([None, short, long]).startswith("2 of 3 prompts were not read whole, such as 'p': ")
    assert "this one has 9" in summary([short, long, None])


def test_python_is_warned_once_of_each_prompt(pipeline: Pipeline) -> None:
    with pytest.warns(UnreadWarning, match=r"reads 6 tokens.*has 10: 'house, a cat' was not read"):
        pipeline.draw([LONG, "a cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.draw([LONG, "a cat"], seed=3)


def test_draw_says_what_it_did_not_read(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt, told in ((LONG, 1), ("a red heart", 0)):
        cli.main(["draw", prompt, "--model", str(student), "--n", "2", "--no-provenance", "-o", str(tmp_path / "a.png")])
        assert capsys.readouterr().out.count("was not read") == told


def test_training_and_measuring_count_them(pipeline: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = foreign.pictures(tmp_path / "data")
    with pytest.warns(UnreadWarning, match="2 of 3 prompts were not read whole"):
        tell_unread(pipeline.model.conditioner, ["a cat", LONG, LONG + " too"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadWarning)
        encoded(data, pipeline.model.codec, pipeline.model.conditioner, tmp_path, 4)
    short = tiny_bundle(tmp_path / "short", name="short")
    settings = (short / "tokenizer" / "tokenizer_config.json").read_text()
    (short / "tokenizer" / "tokenizer_config.json").write_text(settings.replace('"model_max_length": 8', '"model_max_length": 4'))
    with pytest.warns(UnreadWarning, match=r"4 of 6 prompts.*reads 2 tokens"):
        encoded(data, pipeline.model.codec, Pipeline.open(short).model.conditioner, tmp_path, 4)
    cli.main(["evaluate", str(short), "--data", str(data.folder), "-o", str(tmp_path / "m.json"), "--prompts", "6",
              "--calls", "1", "--resamples", "2", "--resolution", "32", "--steps", "1", "2"])  # fmt: skip
    assert capsys.readouterr().out.count("of 6 prompts were not read whole, such as") == 1
