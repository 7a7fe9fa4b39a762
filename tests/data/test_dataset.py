import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.data import dataset as module
from fewstep.data.dataset import Dataset, DatasetWriter, Item, cache_dir, split_of

SHAPE = (3, 4, 5)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def written(folder: Path, count: int = 7, seed: int = 0, name: str = "test", error: Exception | None = None) -> Dataset:
    writer = DatasetWriter(folder, name=name, shape=SHAPE, licences=[{"licence": "MIT"}], attribution="# A\n", build={})
    with writer:
        for i, pixels in enumerate(pictures(count, seed)):
            item = Item(f"k/{i}", f"c{i % 3}", (f"name {i}", "é\u2028"), "s", i, "heldout" if i % 3 == 0 else "train")
            writer.add(pixels, item)
        if error:
            raise error
    return Dataset.open(folder)


def test_media_and_items_come_back_exactly(tmp_path: Path) -> None:
    data = written(tmp_path / "d").verify()
    assert len(data) == 7
    media = data.media([6, 0, 0])
    assert media.shape == (3, *SHAPE)
    assert media.dtype == torch.float32
    expected = pictures(7)[[6, 0, 0]].astype(np.float64) * 2 / 255 - 1
    np.testing.assert_allclose(media.numpy(), expected, atol=1e-6)
    for indices in (torch.tensor([6, 0, 0]), np.array([6, 0, 0])):
        assert torch.equal(data.media(indices), media)
    assert torch.equal(data.media(slice(2, 4)), data.media([2, 3]))
    assert data.items[4] == Item("k/4", "c1", ("name 4", "é\u2028"), "s", 4, "train")
    assert (data.name, data.shape, data.info["licences"]) == ("test", SHAPE, [{"licence": "MIT"}])
    assert (tmp_path / "d" / "ATTRIBUTION.md").read_text() == "# A\n"
    assert [p.name for p in tmp_path.iterdir()] == ["d"], "no temporary folder is left"


def test_a_card_counts_what_was_trained_on(tmp_path: Path) -> None:
    data = written(tmp_path / "d")
    assert data.describe() == data.subset("train").describe() == "test (all styles), 4 pictures"
    assert data.describe(("a", "b")) == "test (a, b), 4 pictures"


def test_reading_media_leaves_the_file_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "d")
    data.media([0]).fill_(9.0)
    data.verify()
    assert data.media([0]).max() <= 1


def test_subsets_are_views_with_their_own_fingerprint(tmp_path: Path) -> None:
    data = written(tmp_path / "d")
    train, heldout = data.subset("train"), data.subset("heldout")
    assert [item.key for item in heldout.items] == ["k/0", "k/3", "k/6"]
    assert len(train) + len(heldout) == len(data)
    assert torch.equal(heldout.media([1, 2]), data.media([3, 6]))
    late = heldout.subset(where=lambda item: item.label >= 3)
    assert torch.equal(late.media([0]), data.media([3]))
    assert len({d.fingerprint for d in (data, train, heldout, late)}) == 4
    assert data.subset().fingerprint == data.fingerprint


def test_concepts_are_listed_once_and_indexed(tmp_path: Path) -> None:
    data = written(tmp_path / "d")
    assert data.concepts == ("c0", "c1", "c2")
    assert data.concept_index.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert data.subset("train").concepts == ("c1", "c2")
    assert data.subset("train").concept_index.tolist() == [0, 1, 0, 1]


def test_building_twice_gives_one_fingerprint_and_any_change_another(tmp_path: Path) -> None:
    first = written(tmp_path / "a").fingerprint
    assert written(tmp_path / "b").fingerprint == first
    assert written(tmp_path / "c", seed=1).fingerprint != first
    assert written(tmp_path / "d", count=6).fingerprint != first


def test_a_failure_leaves_the_previous_dataset_intact(tmp_path: Path) -> None:
    before = written(tmp_path / "d").fingerprint
    for error in (RuntimeError("stop"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            written(tmp_path / "d", seed=1, error=error)
        assert Dataset.open(tmp_path / "d").verify().fingerprint == before
        assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert written(tmp_path / "d", seed=1).verify().fingerprint != before, "and a success replaces it"


def test_a_full_disk_is_one_sentence_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path / "d").fingerprint

    def full(path: Path, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ValueError, match=r"cannot write the dataset \(No space left on device\); free some disk"):
        written(tmp_path / "d", seed=1)
    monkeypatch.undo()
    assert Dataset.open(tmp_path / "d").verify().fingerprint == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_while_pixels_are_written_is_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(tmp_path / "d").fingerprint
    monkeypatch.setattr(module, "open", lambda path, mode: io.FileIO("/dev/full", mode), raising=False)
    with pytest.raises(ValueError, match="No space left on device"):
        written(tmp_path / "d", seed=1)
    monkeypatch.undo()
    assert Dataset.open(tmp_path / "d").verify().fingerprint == before


def test_a_failed_rename_puts_the_previous_dataset_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(tmp_path / "d").fingerprint
    rename = os.rename

    def failing(path: Path, target: Path) -> None:
        if ".partial-" in path.parent.name:
            raise OSError(5, "Input/output error")
        rename(path, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(ValueError, match="Input/output error"):
        written(tmp_path / "d", seed=1)
    assert Dataset.open(tmp_path / "d").verify().fingerprint == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot write the dataset"):
        written(tmp_path / "d")


def test_a_folder_that_may_not_be_looked_into_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(ValueError, match=r"cannot write the dataset \(Permission denied\)"):
        written(tmp_path / "d")
    with pytest.raises(ValueError, match="no dataset here"):
        Dataset.open(tmp_path / "d")


def test_a_parent_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the dataset"):
        written(tmp_path / "file" / "d")


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not a dataset"):
        written(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_no_items_and_repeated_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not one item"):
        written(tmp_path / "d", count=0)
    first, second = pictures(2)
    with DatasetWriter(tmp_path / "e", name="x", shape=SHAPE, licences=[], attribution="", build={}) as writer:
        writer.add(first, Item("k", "c", ("p",)))
        with pytest.raises(ValueError, match="k: two items"):
            writer.add(second, Item("k", "c", ("p",)))
    assert not (tmp_path / "d").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def changed(**fields: object):  # type: ignore[no-untyped-def]
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("media.npy", cut),
        ("media.npy", lambda path: path.write_bytes(b"")),
        ("media.npy", lambda path: path.unlink()),
        ("media.npy", lambda path: np.save(path, np.zeros((7, *SHAPE)))),
        ("media.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
        ("items.jsonl", cut),
        ("items.jsonl", lambda path: path.write_text("")),
        ("items.jsonl", lambda path: path.unlink()),
        ("items.jsonl", lambda path: path.write_text('{"key": "a"}\n' * 7)),
        ("dataset.json", cut),
        ("dataset.json", lambda path: path.write_text("[]")),
        ("dataset.json", changed(count=6)),
        ("dataset.json", changed(version=2)),
    ],
)
def test_a_damaged_dataset_is_refused_with_the_fix(tmp_path: Path, name: str, damage) -> None:
    written(tmp_path / "d")
    damage(tmp_path / "d" / name)
    with pytest.raises(ValueError, match=r"d: the dataset is damaged \(.*build it again"):
        Dataset.open(tmp_path / "d")


def test_verify_finds_a_single_changed_byte(tmp_path: Path) -> None:
    written(tmp_path / "d")
    path = tmp_path / "d" / "media.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"media\.npy is not the file"):
        Dataset.open(tmp_path / "d").verify()


def test_a_missing_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fewstep data emoji"):
        Dataset.open(tmp_path / "nowhere")


def test_the_split_is_a_stable_hash_with_the_asked_share() -> None:
    sides = [split_of(f"concept {i}", 0.05) for i in range(20_000)]
    assert 0.045 < sides.count("heldout") / len(sides) < 0.055
    assert split_of("x", 0) == "train"
    held = {i for i in range(2000) if split_of(str(i), 0.05) == "heldout"}
    assert held < {i for i in range(2000) if split_of(str(i), 0.1) == "heldout"}, "a larger share keeps the smaller one"


def test_the_cache_folder_obeys_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("FEWSTEP_CACHE")
    monkeypatch.setenv("HOME", "/somewhere")
    assert cache_dir() == Path("/somewhere/.cache/fewstep")
