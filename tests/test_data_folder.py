import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.data import folder
from fewstep.data.dataset import Dataset

SIZE = 16


def picture(seed: int = 0, width: int = 20, height: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def put(
    root: Path, name: str, caption: str | None = "a caption", seed: int = 0, image: Image.Image | None = None
) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture(seed)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")
    return path


def metadata(root: Path, *entries: object) -> None:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (root / "metadata.jsonl").write_text("\n".join(lines), "utf-8")


def build(root: Path, **changes: object) -> tuple[dict[str, tuple[str, ...]], folder.Report, Dataset]:
    """(captions by key, report, dataset)."""
    options = folder.Options(source=root, **{"size": SIZE, **changes})
    data, report = folder.build_with_report(options, root.parent / f"{root.name}-set")
    assert json.loads((data.folder / "report.json").read_text("utf-8"))["skipped"] == report.skipped
    assert report.read == len(data)
    return {item.key: item.prompts for item in data.items}, report, data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source that always has one good picture."""
    put(tmp_path / "photos", "good.png", "a good picture", seed=99)
    return tmp_path / "photos"


def refusal(root: Path, name: str, **changes: object) -> str:
    """Build, check that the good picture alone is left, and say why ``name`` was skipped."""
    captions, report, _ = build(root, **changes)
    assert captions == {"good.png": ("a good picture",)}
    assert list(report.skipped) == [name]
    return report.skipped[name]


def test_pictures_and_captions_beside_them(root: Path) -> None:
    put(root, "sub/deeper/two.JPG", "  two\n words  ")
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, 3 * SIZE, 3), dtype=np.uint8)
    put(root, "wide.png", "\ufeffwide", image=Image.fromarray(pixels))
    captions, report, data = build(root)
    assert captions == {"good.png": ("a good picture",), "sub/deeper/two.JPG": ("two words",), "wide.png": ("wide",)}
    assert (report.skipped, report.converted, report.ignored) == ({}, {}, [])
    middle = pixels[:, SIZE : 2 * SIZE].transpose(2, 0, 1) / 127.5 - 1
    place = [item.key for item in data.items].index("wide.png")
    np.testing.assert_allclose(data.media([place])[0].numpy(), middle, atol=1e-6)


def test_captions_from_metadata_win_and_may_stand_in_sub_folders(root: Path) -> None:
    put(root, "a.png", "the text beside", seed=1)
    put(root, "sub/b.png", None, seed=2)
    put(root, "sub/c.png", None, seed=3)
    metadata(
        root, {"file_name": "a.png", "text": "from metadata", "extra": 1}, {"file_name": "sub/b.png", "text": "b"}, ""
    )
    metadata(root / "sub", {"file_name": "./c.png", "text": "c"})
    captions, report, _ = build(root)
    assert captions["a.png"] == ("from metadata",)
    assert (captions["sub/b.png"], captions["sub/c.png"]) == (("b",), ("c",))
    assert report.skipped == {}


def test_a_corrupt_picture(root: Path) -> None:
    path = put(root, "bad.png")
    path.write_bytes(path.read_bytes()[:400])
    assert "damaged" in refusal(root, "bad.png")


def test_what_is_no_picture_at_all(root: Path) -> None:
    put(root, "bad.jpg").write_text("<html>404</html>")
    why = refusal(root, "bad.jpg")
    assert why.startswith("not a picture")
    assert str(root) not in why


def test_an_animation(root: Path) -> None:
    put(root, "bad.gif")
    picture(1).save(root / "bad.gif", save_all=True, append_images=[picture(2), picture(3)])
    assert "animated" in refusal(root, "bad.gif")


@pytest.mark.parametrize("size", [(20_000, 20_000), (20_000, 30)])
def test_a_twenty_thousand_pixel_file(root: Path, size: tuple[int, int]) -> None:
    put(root, "bad.png", image=Image.new("1", size))
    assert "make it smaller" in refusal(root, "bad.png")


def test_pictures_that_would_have_to_be_blown_up(root: Path) -> None:
    put(root, "bad.png", image=Image.new("RGB", (1, 1)))
    assert "1x1 pixels" in refusal(root, "bad.png")
    put(root, "bad.png", image=Image.new("RGB", (SIZE, SIZE // 2 - 1)))
    assert f"less than {SIZE // 2}" in refusal(root, "bad.png")
    assert "bad.png" in build(root, min_side=1)[0]


def test_convertible_files_are_read_right_and_named(root: Path) -> None:
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(root / "cmyk.jpg", quality=100)
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(root / "deep.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 51)).save(root / "glass.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    half = np.zeros((20, 20, 3), np.uint8)
    half[:10] = 255
    Image.fromarray(half).save(root / "turned.png", exif=exif)
    names = ["cmyk.jpg", "deep.png", "glass.png", "turned.png"]
    metadata(root, *({"file_name": name, "text": "x"} for name in names))
    _, report, data = build(root)
    assert list(report.converted) == names
    assert report.skipped == {}
    red, grey, glass, turned = ((data.media([i])[0].numpy() + 1) * 127.5 for i in (0, 1, 2, 4))
    assert abs(red.mean((1, 2)) - [254, 0, 0]).max() < 8
    assert (grey.round() == 128).all()
    assert (glass.round() == 204).all()
    assert turned[:, :7].max() < 40 < 215 < turned[:, 9:].min(), "white is below, as the camera meant it"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b" \n\t ", "empty"),
        (b"word " * 10_000, "10000 words"),
        (b"x" * 1_000_001, "over 1000000 bytes"),
        ("süß".encode("latin-1"), "not UTF-8"),
        ("süß".encode("utf-16"), "not UTF-8"),
        (b"a\x00b", "control characters"),
        (None, "no caption; write one into bad.txt"),
    ],
)
def test_captions_that_cannot_be_used(root: Path, content: bytes | None, why: str) -> None:
    put(root, "bad.png", None)
    if content is not None:
        (root / "bad.txt").write_bytes(content)
    assert why in refusal(root, "bad.png")


def test_the_longest_caption_allowed(root: Path) -> None:
    put(root, "long.png", "word " * 256)
    assert len(build(root)[0]["long.png"][0].split()) == 256
    put(root, "long.png", "word " * 257)
    assert "raise --max-words" in refusal(root, "long.png")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"file_name": "gone.png", "text": "x"}, "names gone.png, which is not there"),
        ({"file_name": "../secret.png", "text": "x"}, "outside its folder"),
        ({"file_name": "sub/../../secret.png", "text": "x"}, "outside its folder"),
        ({"file_name": "..\\secret.png", "text": "x"}, "outside its folder"),
        ({"file_name": "/etc/secret.png", "text": "x"}, "outside its folder"),
        ({"file_name": "C:\\secret.png", "text": "x"}, "outside its folder"),
        ({"file_name": "", "text": "x"}, "outside its folder"),
        ({"file_name": "good.png", "text": "x"}, "a second time"),
        ({"file_name": "good.png"}, '"file_name" and "text"'),
        ({"file_name": "good.png", "text": ["a", "b"]}, '"file_name" and "text"'),
        ({"file_name": 3, "text": "x"}, '"file_name" and "text"'),
        ("[1, 2]", '"file_name" and "text"'),
        ("{broken", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_faulty_lines_of_metadata(root: Path, entry: object, why: str) -> None:
    put(root.parent, "secret.png", None)
    metadata(root, {"file_name": "good.png", "text": "a good picture"}, entry)
    assert why in refusal(root, "metadata.jsonl:2")


def test_metadata_in_another_encoding(root: Path) -> None:
    (root / "metadata.jsonl").write_bytes('{"file_name": "good.png", "text": "süß"}'.encode("latin-1"))
    assert "not JSON in UTF-8" in refusal(root, "metadata.jsonl:1")


def test_symbolic_links(root: Path, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "secret.png", "a secret")
    (root / "bad.png").symlink_to(outside)
    (root / "bad.txt").write_text("linked")
    assert "--follow-links" in refusal(root, "bad.png")
    assert build(root, follow_links=True)[0]["bad.png"] == ("linked",)


def test_a_linked_caption_is_not_read_either(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("a password")
    put(root, "bad.png", None)
    (root / "bad.txt").symlink_to(tmp_path / "secret.txt")
    captions, report, _ = build(root)
    assert list(captions) == ["good.png"]
    assert "symbolic link" in report.skipped["bad.txt"]
    assert "no caption" in report.skipped["bad.png"]


def test_linked_folders_loops_and_dead_links(root: Path, tmp_path: Path) -> None:
    (root / "loop").symlink_to(root)
    (root / "dead.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    captions, report, _ = build(root, follow_links=True)
    assert list(captions) == ["good.png"]
    assert "linked folder" in report.skipped["loop"]
    assert "leads nowhere" in report.skipped["dead.png"]
    assert "not a file" in report.skipped["pipe.png"]


def test_two_pictures_that_share_a_caption_file(root: Path) -> None:
    put(root, "good.webp", None, seed=1)
    assert refusal(root, "good.webp").startswith("shares good.txt with good.png")


def test_unicode_names_in_either_spelling(root: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café 猫 🐈.png") for form in ("NFC", "NFD"))
    put(root, apart, None, seed=1)
    metadata(root, {"file_name": composed, "text": "a cat"})
    assert build(root)[0][composed] == ("a cat",)
    put(root, composed, None, seed=2)
    captions, report, _ = build(root)
    assert captions[composed] == ("a cat",)
    assert "another Unicode spelling" in report.skipped[max(apart, composed)]


def test_a_name_that_is_no_text(root: Path) -> None:
    raw = os.path.join(os.fsencode(root), b"b\xffd.png")
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    try:
        with open(raw, "wb") as stream:
            stream.write(buffer.getvalue())
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    assert "not UTF-8" in refusal(root, "b\\xffd.png")


def test_other_files_are_listed_and_hidden_ones_left_alone(root: Path) -> None:
    for name in ("README.md", "notes.txt", "movie.mp4", ".DS_Store", "__MACOSX/x.png", ".git/y.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    captions, report, _ = build(root)
    assert list(captions) == ["good.png"]
    assert sorted(report.ignored) == ["README.md", "movie.mp4", "notes.txt"]
    assert report.skipped == {}


def test_when_nothing_can_be_used_the_sentence_says_why(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for i in range(5):
        put(source, f"{i}.png", "")
    options = folder.Options(source=source, size=SIZE)
    with pytest.raises(ValueError, match=r"none of its 5 pictures.*0\.png: its caption is empty.*And 2 more"):
        folder.build(options, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in it"):
        folder.build(folder.Options(source=tmp_path / "empty", size=SIZE), tmp_path / "set")
    with pytest.raises(ValueError, match="no such folder; pass --source"):
        folder.build(folder.Options(source=tmp_path / "gone"), tmp_path / "set")


def test_identical_pictures_stay_on_one_side_and_builds_repeat(root: Path) -> None:
    for i in range(40):
        put(root, f"{i}.png", f"caption {i}", seed=i % 20)
    _, _, data = build(root, heldout=0.4)
    train, heldout = data.subset("train"), data.subset("heldout")
    assert min(len(train), len(heldout)) > 4
    assert not set(train.concepts) & set(heldout.concepts)
    assert len(data.concepts) == 21
    assert build(root, heldout=0.4)[2].fingerprint == data.fingerprint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders(root: Path) -> None:
    put(root, "locked.png").chmod(0)
    put(root, "sub/x.png").parent.chmod(0)
    _, report, _ = build(root)
    (root / "sub").chmod(0o700)
    assert "permissions" in report.skipped["locked.png"]
    assert "cannot be listed" in report.skipped["sub"]
