"""What of PixArt the suite of all families does not ask: older folders, what is said of a prompt, an encoder of another width."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import foreign
from fewstep import pretrained
from fewstep.rng import Rng
from tiny import dit, pixart_sigma


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixart_sigma.make(tmp_path_factory.mktemp("pixart"))


@pytest.mark.parametrize(("make", "prompt"), [(pixart_sigma.make, "a red heart"), (dit.make, "a cat")])
@torch.no_grad()
def test_a_folder_of_an_older_diffusers_is_the_same_model(tmp_path, make, prompt):
    """The hub's PixArt and DiT folders call their network a Transformer2DModel."""
    folder, old = make(tmp_path), tmp_path / "old"
    shutil.copytree(folder, old)
    for file, lines in (
        ("model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        ("transformer/config.json", {"_class_name": "Transformer2DModel"}),
    ):
        (old / file).write_text(json.dumps(json.loads((old / file).read_text()) | lines))
    now, then = pretrained.load(folder), pretrained.load(old)
    assert type(then.denoiser) is type(now.denoiser)
    x, t, cond = Rng.of(0).normal((1, *now.latent_shape)), torch.tensor([0.5]), now.conditioner([prompt])
    torch.testing.assert_close(then.denoiser(x, t, cond), now.denoiser(x, t, cond))


def test_capitals_are_read_and_what_stands_beyond_the_last_token_is_told(folder):
    """The stock pipeline gives T5 small letters: this tokenizer knows no others."""
    read = pretrained.load(folder).conditioner
    assert read.unread(["A Red HEART"]) == [None]
    (one,) = read.unread(["heart " * 100])
    assert one is not None
    assert one.limit == 299
    assert pretrained.reader_of(folder)(["A Red HEART", "heart " * 100]) == [None, one]
    small, capital = read(["a red heart"]), read(["A Red HEART"])
    assert small.tokens is not None
    assert capital.tokens is not None
    torch.testing.assert_close(small.tokens, capital.tokens)
    assert read.key(["a red heart"]) == read.key(["A Red HEART"]) != read.key(["a red house"])


def test_an_encoder_of_another_width_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "wrong")
    _, encoder = foreign.t5(16)
    shutil.rmtree(tmp_path / "wrong" / "text_encoder")
    encoder.save_pretrained(tmp_path / "wrong" / "text_encoder")
    with pytest.raises(ValueError, match="gives 16 numbers a token, the transformer takes 32: use the encoder it was"):
        pretrained.load(tmp_path / "wrong")
