import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles import tiny_bundle
from fewstep.data import folder
from fewstep.data._captions import words_in
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
    said = json.loads((data.folder / "report.json").read_text("utf-8"))
    groups = [said[name] for name in ("skipped", "read", "captions", "ignored")]
    assert groups == [report.skipped, report.read, report.captions, report.ignored]
    assert set(report.read) == {item.key for item in data.items}
    once = [name for group in groups for name in group]
    assert len(once) == len(set(once)), "every file stands there once"
    assert said["totals"]["files"] == len(once) - said["totals"]["rows_skipped"]
    assert [said["totals"][name] for name in ("read", "captions", "ignored")] == [len(group) for group in groups[1:]]
    assert all(why for group in groups for why in group.values())
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
    assert captions == {"good.png": ("a good picture",), "sub/deeper/two.JPG": ("two", "words"), "wide.png": ("wide",)}
    assert (report.skipped, report.ignored) == ({}, {})
    assert report.read["sub/deeper/two.JPG"] == "2 captions from sub/deeper/two.txt"
    assert report.read["wide.png"] == "caption from wide.txt; 67% cut off to make it square"
    names = ("good.png", "sub/deeper/two.JPG", "wide.png")
    assert report.captions == {f"{name[:-4]}.txt": f"of {name}" for name in names}
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
    assert report.read["a.png"] == "caption from metadata.jsonl (not used: a.txt)"
    assert report.captions["a.txt"] == "not used: a.png has its caption from metadata.jsonl"
    assert report.captions["metadata.jsonl"] == "2 of its rows used"


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
    converted = {"cmyk.jpg": "CMYK converted to RGB", "deep.png": "16-bit grey scaled",
                 "glass.png": "transparency put on the background", "turned.png": "turned as its EXIF orientation says"}
    assert report.read == {"good.png": "caption from good.txt"} | {
        name: f"caption from metadata.jsonl; {what}" for name, what in converted.items()}  # fmt: skip
    assert report.totals["converted"] == 4
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
        ("sus".encode("utf-16-le"), "control characters"),
        (b"\xff\xfes", "not UTF-8"),
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
        ({"file_name": "good.png", "text": "a good picture"}, "a second time, with the same caption"),
        ({"file_name": "good.png"}, '"file_name" and "text"'),
        ({"file_name": "good.png", "label": "x"}, "its columns are file_name, label; name the captions' with --caption-column"),
        ({"file_name": "good.png", "text": ["a", 2]}, '"file_name" and "text"'),
        ({"file_name": "good.png", "text": " "}, "has an empty caption for 'good.png'"),
        ({"file_name": "good.png", "text": None}, '"file_name" and "text"'),
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
    assert "another Unicode spelling" in report.skipped[apart]


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
    for name in ("README.md", "notes.txt", "movie.mp4", "metadata.parquet", ".DS_Store", "__MACOSX/x.png", ".git/y.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    captions, report, _ = build(root)
    assert list(captions) == ["good.png"]
    assert report.skipped == {}
    assert report.ignored == {
        ".DS_Store": "a hidden file, for its name begins with a dot", ".git/": "a hidden folder, which is not entered",
        "__MACOSX/": "a hidden folder, which is not entered", "README.md": "neither picture nor caption",
        "movie.mp4": "neither picture nor caption", "notes.txt": "a text without a picture of its name",
        "metadata.parquet": "not read as captions; write them into metadata.jsonl or metadata.csv"}  # fmt: skip


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


@pytest.mark.parametrize(
    ("picture_name", "text_name"),
    [("CAT.PNG", "CAT.TXT"), ("cat.png", "CAT.txt"), ("cat.png", "cat.caption"), ("cat.png", "Cat.Caption"),
     ("cat.png", "cat.png.txt")],
)
def test_a_caption_beside_its_picture_in_any_case(root: Path, picture_name: str, text_name: str) -> None:
    picture(1).save(root / picture_name, "PNG")
    (root / text_name).write_text("a cat")
    captions, report, _ = build(root)
    assert captions[picture_name] == ("a cat",)
    assert report.captions[text_name] == f"of {picture_name}"


def test_the_same_case_comes_first_and_txt_before_caption(root: Path) -> None:
    for i, name in enumerate(("cat.png", "CAT.png")):
        picture(i).save(root / name)
        (root / name).with_suffix(".txt").write_text(name)
    (root / "cat.caption").write_text("another")
    captions, report, _ = build(root)
    assert (captions["cat.png"], captions["CAT.png"]) == (("cat.png",), ("CAT.png",))
    assert report.captions["cat.caption"] == "not used: cat.png has its caption from cat.txt"
    assert report.read["cat.png"] == "caption from cat.txt (not used: cat.caption)"


@pytest.mark.parametrize("other", ["cat.TXT", "CAT.txt"])
def test_of_texts_in_two_cases_the_pictures_own_spelling_wins(root: Path, other: str) -> None:
    picture(1).save(root / "cat.png")
    (root / "cat.txt").write_text("own")
    (root / other).write_text("another")
    if {"cat.txt", other} - set(os.listdir(root)):
        pytest.skip("this file system knows one case")
    captions, report, _ = build(root)
    assert captions["cat.png"] == ("own",)
    assert report.captions["cat.txt"] == "of cat.png"
    assert report.captions[other] == "not used: cat.png has its caption from cat.txt"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_several_captions_one_a_line(root: Path, ending: str, encoding: str) -> None:
    """Also as Windows' editor writes them."""
    put(root, "cat.png", None, seed=1)
    (root / "cat.txt").write_bytes(ending.join(["a  cat", "", "süßes Tier", "a cat", " "]).encode(encoding))
    captions, report, _ = build(root)
    assert captions["cat.png"] == ("a cat", "süßes Tier")
    assert report.read["cat.png"] == "2 captions from cat.txt"
    assert report.totals["several_captions"] == 1


def test_a_caption_that_cannot_be_used_spoils_none_beside_it(root: Path) -> None:
    put(root, "cat.png", "word " * 300 + "\na cat\nb\x01d", seed=1)
    put(root, "many.png", "\n".join(f"caption {i}" for i in range(101)), seed=2)
    captions, report, _ = build(root)
    assert captions["cat.png"] == ("a cat",)
    assert report.read["cat.png"].startswith("caption from cat.txt; left out: its caption has 300 words")
    assert len(captions["many.png"]) == 100
    assert "only the first 100 of its 101 captions" in report.read["many.png"]
    assert report.totals["captions_left_out"] == 2


TABLE = "file_name,text\na.png,\"a red square, plain\"\nsub\\b.png,\"two\nlines\"\n\na.png,a square\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "sign"), [("metadata.csv", ","), ("METADATA.CSV", ";"), ("metadata.tsv", "\t")])
def test_a_table_of_captions(root: Path, name: str, sign: str, encoding: str) -> None:
    """Quoted, with a byte order mark, with semicolons as Excel writes them where 1,5 is a number; rows are alternatives."""
    put(root, "a.png", None, seed=1)
    put(root, "sub/b.png", None, seed=2)
    (root / name).write_bytes(TABLE.replace(",text", f"{sign}text").replace("png,", f"png{sign}").encode(encoding))
    captions, report, _ = build(root)
    assert captions["a.png"] == ("a red square, plain", "a square")
    assert captions["sub/b.png"] == ("two lines",)
    assert report.read["a.png"] == f"2 captions from {name}"
    assert report.captions[name] == "3 of its rows used"
    assert report.skipped == {}


@pytest.mark.parametrize(
    ("rows", "row", "why"),
    [
        ("good.png,a red square, plain", 2, "3 values for 2 columns; put quotation marks around a caption with ',' in it"),
        ("good.png", 2, "1 values for 2 columns"),
        ("gone.png,x", 2, "names gone.png, which is not there"),
        ("good.png,", 2, "an empty caption"),
        ('x.png,"never closed\ngood.png,y', 2, "not CSV"),
        ("../x.png,y", 2, "outside its folder"),
        ("good.png,x\ngood.png,x", 3, "a second time, with the same caption"),
        (b"good.png,s\xfc\xdf", 2, "not UTF-8"),
    ],
)
def test_faulty_rows_of_a_table(root: Path, rows: str | bytes, row: int, why: str) -> None:
    (root / "metadata.csv").write_bytes(b"file_name,text\n" + (rows if isinstance(rows, bytes) else rows.encode()))
    _, report, _ = build(root)
    assert list(report.skipped) == [f"metadata.csv:{row}"]
    assert why in report.skipped[f"metadata.csv:{row}"]
    assert report.totals["rows_skipped"] == 1
    assert report.totals["skipped"] == 0


def test_a_table_without_a_head(root: Path) -> None:
    (root / "metadata.csv").write_text("good.png,a red square\n")
    assert "does not name the columns; write file_name,text" in refusal(root, "metadata.csv")


def test_columns_may_be_called_otherwise(root: Path) -> None:
    for i, name in enumerate(("a", "b", "c", "d")):
        put(root, f"{name}.png", None, seed=i)
    metadata(
        root,
        {"file_name": "a.png", "Prompt": "by prompt", "author": "x"},
        {"file_name": "b.png", "caption": ["one", "two"]},
        {"filename": "c.png", "prompt": "later", "text": "first"},
        {"file_name": "d.png", "blip": "by name", "text": "t"},
    )
    captions, _, _ = build(root)
    expected = {"a.png": ("by prompt",), "b.png": ("one", "two"), "c.png": ("first",), "d.png": ("t",)}
    assert captions == {"good.png": ("a good picture",)} | expected
    captions, report, _ = build(root, caption_column="BLIP")
    assert captions == {"good.png": ("a good picture",), "d.png": ("by name",)}
    assert "its columns are file_name, Prompt, author" in report.skipped["metadata.jsonl:1"]
    assert 'has no "file_name" and "BLIP"' in report.skipped["metadata.jsonl:1"]


def test_a_column_needs_a_table_and_advice_names_the_one_that_is_there(root: Path) -> None:
    with pytest.raises(ValueError, match=r"--caption-column blip names a column, but .* holds no table: leave it out"):
        build(root, caption_column="blip")
    put(root, "bare.png", None, seed=5)
    assert build(root)[1].skipped["bare.png"].endswith("write one into bare.txt or metadata.jsonl")
    (root / "metadata.csv").write_text("file_name,text\ngood.png,from CSV\n")
    assert build(root)[1].skipped["bare.png"].endswith("write one into bare.txt or metadata.csv")


def test_of_two_tables_one_wins_and_the_other_says_so(root: Path) -> None:
    (root / "metadata.csv").write_text("file_name,text\ngood.png,from CSV\n")
    metadata(root, {"file_name": "GOOD.png", "text": "from JSON"})
    captions, report, _ = build(root)
    assert captions == {"good.png": ("from JSON",)}
    why = "names good.png, whose caption metadata.jsonl has already; keep one of the two"
    assert report.skipped == {"metadata.csv:2": why}
    assert report.read["good.png"] == "caption from metadata.jsonl (not used: metadata.csv, good.txt)"


def test_a_picture_that_cannot_be_read_leaves_its_caption_to_the_one_that_can(root: Path) -> None:
    """A camera's raw file beside its photograph, and telephones' HEIC where its decoder is missing or the file is broken."""
    put(root, "a.png", "a cat", seed=1)
    (root / "a.CR2").write_bytes(b"raw")
    (root / "b.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (root / "b.txt").write_text("a dog")
    captions, report, _ = build(root)
    assert captions["a.png"] == ("a cat",)
    assert "save it as PNG" in report.skipped["a.CR2"]
    assert "fewstep[heif]" in report.skipped["b.HEIC"] or "damaged" in report.skipped["b.HEIC"]
    assert report.captions["b.txt"] == "of b.HEIC"
    assert report.ignored == {}


def test_whole_pictures_with_borders(root: Path) -> None:
    pixels = np.full((SIZE // 2, SIZE, 3), 7, np.uint8)
    pixels[2:-2, 2:-2] = np.random.default_rng(3).integers(0, 256, (SIZE // 2 - 4, SIZE - 4, 3))
    put(root, "wide.png", "wide", image=Image.fromarray(pixels))
    _, report, data = build(root, fit="pad")
    made = data.media([[item.key for item in data.items].index("wide.png")])[0].numpy()
    expected = np.full((SIZE, SIZE, 3), 7, np.uint8)
    expected[SIZE // 4 : 3 * SIZE // 4] = pixels
    np.testing.assert_allclose((made + 1) * 127.5, expected.transpose(2, 0, 1), atol=1e-4)
    assert report.read["wide.png"] == "caption from wide.txt; borders put around it"
    assert (report.totals["padded"], report.totals["cropped"], report.totals["most_cut_off"]) == (1, 0, 0)
    assert data.info["build"]["fit"] == "pad"
    put(root, "wide.png", "wide", image=Image.new("RGB", (SIZE // 2 - 1, 3)))
    assert f"less than {SIZE // 2} on its longer side" in refusal(root, "wide.png", fit="pad")


def test_cropped_pictures_are_counted(root: Path) -> None:
    put(root, "tall.png", "x", image=picture(1, 20, 80))
    put(root, "nearly.png", "x", image=picture(2, 200, 201))
    _, report, data = build(root)
    assert report.read["tall.png"].endswith("75% cut off to make it square")
    assert report.read["nearly.png"].endswith("under 1% cut off to make it square")
    assert (report.totals["cropped"], report.totals["most_cut_off"]) == (2, 0.75)
    assert "2 cropped to squares (up to 75% cut off; --fit pad keeps whole pictures)" in folder.told(data.folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a red heart", 3), ("一颗红心", 4), ("a 红 heart", 3), ("赤いheart型", 4), ("빨간 하트", 2), ("หัวใจ", 5), ("", 0)],
)
def test_words_are_counted_where_there_are_no_spaces(text: str, words: int) -> None:
    assert words_in(text) == words


def test_chinese_captions_have_a_length(root: Path) -> None:
    put(root, "bad.png", "红" * 257)
    assert "has 257 words" in refusal(root, "bad.png")


def test_a_teachers_encoder_counts_its_own_tokens(root: Path, tmp_path: Path) -> None:
    """It reads six: what is beyond is named, not skipped, and words are no longer counted."""
    put(root, "long.png", "a red heart, a blue house\na cat", seed=1)
    put(root, "novel.png", "a cat " * 300, seed=2)
    captions, report, data = build(root, teacher=tiny_bundle(tmp_path))
    assert captions["long.png"] == ("a red heart, a blue house", "a cat")
    assert "reads 6 tokens of a prompt, and this one has 7: 'house' was not read" in report.read["long.png"]
    assert len(captions["novel.png"][0].split()) == 600
    assert "has no token for 'good, picture'" in report.read["good.png"]
    assert report.totals["not_read_whole"] == 3
    assert "3 with captions that the teacher will not read whole" in folder.told(data.folder)


def test_names_of_files_never_steer_the_terminal(root: Path) -> None:
    put(root, "\x1b[31mred.png", None, seed=1)
    metadata(root, {"file_name": "gone\x1b[2J.png", "text": "x"})
    _, report, data = build(root)
    assert "\x1b" not in folder.told(data.folder)
    assert "\\x1b[31mred.png: no caption" in folder.told(data.folder)
    assert len(report.skipped) == 2
