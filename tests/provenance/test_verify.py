"""``verify``: both testimonies together, in sentences; and files that are no pictures."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.cli import main
from fewstep.files import content
from fewstep.provenance import GenerationFacts, StampOptions, mark_payload, stamp, write
from fewstep.provenance.content_credentials import Credentials
from fewstep.provenance.detection import Detection
from fewstep.provenance.identity import own_identity, own_root
from fewstep.provenance.verify import VerifyOptions, conclude, decode, verify
from fewstep.provenance.watermark import Effort, SpreadSpectrum
from fewstep.text import plain

FACTS = GenerationFacts(model="emoji-64", bundle_hash="cd" * 32, steps=2, seed=7)
needs_c2pa = pytest.mark.skipif(
    importlib.util.find_spec("c2pa") is None or importlib.util.find_spec("cryptography") is None,
    reason="needs the provenance extra",
)
QUICK = VerifyOptions(effort="aligned")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(2)
    coarse = rng.uniform(0, 255, (9, 9, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((288, 288), Image.Resampling.BICUBIC))


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@needs_c2pa
def test_a_stamped_picture_is_trusted_and_marked_and_both_name_one_bundle(picture: np.ndarray, tmp_path: Path) -> None:
    verdict = verify(put(tmp_path / "a.webp", stamp(picture, FACTS, StampOptions(format="WEBP"))))
    assert verdict.credentials.state == "trusted"
    assert verdict.watermark is not None
    assert verdict.watermark.payload == mark_payload("cd" * 32)
    assert verdict.same_bundle is True
    assert verdict.made_by_fewstep
    assert not verdict.mark_alone
    text = str(verdict)
    for words in ("intact and trusted", "emoji-64", "steps 2, seed 7", "Watermark: found", "trained model"):
        assert words in text
    assert all(one.endswith(".") and "\n" not in one for one in verdict.sentences)


@needs_c2pa
def test_trust_is_the_readers_own_choice(picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.png", stamp(picture, FACTS))
    root = put(tmp_path / "root.pem", own_root() or b"")
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "somebody else"))
    verdict = verify(path, QUICK)
    assert verdict.credentials.state == "valid"
    assert "not on your trust list" in str(verdict)
    assert verify(path, VerifyOptions(effort="aligned", trust_anchors=(root,))).credentials.state == "trusted"
    assert not (tmp_path / "somebody else").exists(), "verifying makes no identity"
    with pytest.raises(ValueError, match="trust anchor"):
        verify(path, VerifyOptions(trust_anchors=(tmp_path / "none.pem",)))


@needs_c2pa
def test_a_picture_saved_again_is_known_by_its_mark(picture: np.ndarray, tmp_path: Path) -> None:
    Image.open(io.BytesIO(stamp(picture, FACTS))).save(tmp_path / "again.jpg", quality=75)
    verdict = verify(tmp_path / "again.jpg")
    assert verdict.credentials.state == "absent"
    assert verdict.mark_alone
    assert verdict.made_by_fewstep
    assert "stripped, as by another program that saved the picture again" in verdict.sentences[0]
    assert f"{mark_payload('cd' * 32):012x}" in str(verdict)


@needs_c2pa
def test_a_cropped_screenshot_is_known_too(picture: np.ndarray, tmp_path: Path) -> None:
    marked = Image.open(io.BytesIO(stamp(picture, FACTS)))
    marked.crop((30, 21, 270, 250)).save(tmp_path / "crop.jpg", quality=85)
    verdict = verify(tmp_path / "crop.jpg", VerifyOptions(effort="offsets"))
    assert verdict.mark_alone
    assert "shifted grid" in str(verdict)


@needs_c2pa
def test_tampering_is_called_tampering(picture: np.ndarray, tmp_path: Path) -> None:
    data = bytearray(stamp(picture, FACTS, StampOptions(format="JPEG")))
    data[-200] ^= 8
    verdict = verify(put(tmp_path / "a.jpg", bytes(data)), QUICK)
    assert verdict.credentials.state == "tampered"
    assert "TAMPERED" in verdict.sentences[0]
    assert "They claimed" in verdict.sentences[1]


@needs_c2pa
def test_sidecars_are_found_beside_the_picture(picture: np.ndarray, tmp_path: Path) -> None:
    path, beside = write(tmp_path / "a.bmp", picture, FACTS)
    assert verify(path, QUICK).credentials.state == "trusted"
    assert verify(path, QUICK).credentials.sidecar
    beside.unlink()
    assert verify(path, QUICK).credentials.state == "absent"


@needs_c2pa
def test_a_mark_of_another_bundle_is_noticed(picture: np.ndarray, tmp_path: Path) -> None:
    foreign = SpreadSpectrum().embed(picture, mark_payload("another bundle"))
    data = stamp(foreign, FACTS, StampOptions(watermark=False))
    verdict = verify(put(tmp_path / "a.png", data), QUICK)
    assert verdict.same_bundle is False
    assert "different bundles" in verdict.sentences[-1]


def test_an_unmarked_picture_is_not_accused(picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "plain.png")
    verdict = verify(tmp_path / "plain.png", VerifyOptions(effort="offsets"))
    assert not verdict.made_by_fewstep
    assert not verdict.mark_alone
    assert "proves nothing" in verdict.sentences[-1]


def test_a_private_key_is_needed_to_see_a_private_mark(picture: np.ndarray, tmp_path: Path) -> None:
    mine = SpreadSpectrum(b"mine")
    data = stamp(picture, FACTS, StampOptions(mark=mine, credentials=False))
    path = put(tmp_path / "a.png", data)
    assert not verify(path, QUICK).made_by_fewstep
    assert verify(path, VerifyOptions(effort="aligned", mark=mine)).made_by_fewstep


def test_another_watermark_can_be_plugged_in(picture: np.ndarray, tmp_path: Path) -> None:
    class Always:
        def embed(self, picture: np.ndarray, payload: int) -> np.ndarray:
            return picture

        def detect(self, picture: np.ndarray, effort: Effort = "aligned") -> Detection:
            return Detection(9.0, 1e-9, True, 5, 48, 1.0)

    Image.fromarray(picture).save(tmp_path / "plain.png")
    verdict = verify(tmp_path / "plain.png", VerifyOptions(mark=Always()))
    assert verdict.watermark is not None
    assert verdict.watermark.payload == 5
    assert verdict.watermark.confidence == pytest.approx(1 - 1e-9)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_can_be_read(mode: str, tmp_path: Path, picture: np.ndarray) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    path = tmp_path / f"a.{kind.lower()}"
    Image.fromarray(picture).convert("I" if mode == "I;16" else mode).convert(mode).save(path, kind)
    assert verify(path, QUICK).watermark is not None


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_no_odd_file_hides_a_mark(picture: np.ndarray, tmp_path: Path) -> None:
    """16 bits, and texts and profiles so large that Pillow gives the picture up: it is a stranger who wrote them."""
    marked = SpreadSpectrum().embed(picture, 5)
    grey = np.asarray(Image.fromarray(marked).convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "deep.tif")
    buffer = io.BytesIO()
    Image.fromarray(marked).save(buffer, "PNG")
    data, huge = buffer.getvalue(), zlib.compress(bytes(100_000_000))
    head, tail = data[:33], data[33:]
    odd = {
        "zTXt.png": head + chunk(b"zTXt", b"a\0\0" + huge) + tail,
        "iTXt.png": head + tail[:-12] + chunk(b"iTXt", b"a\0\1\0\0\0" + huge) + tail[-12:],
        "iCCP.png": head + chunk(b"iCCP", b"a\0\0" + huge) + tail,
        "many.png": head + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))) * 100 + tail,
    }
    for name, whole in odd.items():
        put(tmp_path / name, whole)
    for name in ("deep.png", "deep.tif", *odd):
        found = verify(tmp_path / name, QUICK).watermark
        assert found is not None, name
        assert found.found, name


def test_of_an_animation_it_says_what_was_looked_at(picture: np.ndarray, tmp_path: Path) -> None:
    first, second = Image.new("RGB", (288, 288)), Image.fromarray(SpreadSpectrum().embed(picture, 5))
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert "in the first alone" in verify(tmp_path / name, QUICK).sentences[-1]
        first.save(tmp_path / name)
        assert "in the first alone" not in str(verify(tmp_path / name, QUICK))


def test_tiny_pictures_carry_no_mark(tmp_path: Path) -> None:
    Image.new("RGB", (16, 40)).save(tmp_path / "tiny.png")
    verdict = verify(tmp_path / "tiny.png")
    assert verdict.watermark is None
    assert "under 32 pixels" in verdict.sentences[-1]


def bomb() -> bytes:
    """A PNG that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", bomb(),
                                  bomb()[:33] + chunk(b"tRNS", b"") + bomb()[33:], bomb()[:8] + chunk(b"IHDR", b"")])  # fmt: skip
def test_files_that_are_no_pictures_get_one_sentence(junk: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad\.png") as raised:
        verify(put(tmp_path / "bad.png", junk))
    assert "\n" not in str(raised.value)


def test_paths_that_are_no_files_get_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(ValueError, match="can't read"):
            verify(path)


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.provenance.verify.MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="pixels"):
        decode(stamp(np.zeros((64, 64, 3), np.uint8), FACTS, StampOptions(credentials=False)))


@needs_c2pa
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_broken_files_end_in_a_verdict_or_in_one_sentence(kind: str, tmp_path: Path) -> None:
    """Fuzz: bytes flipped, cut and swapped at random. Never another exception, and never 'intact' once pixels moved."""
    small = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    whole = stamp(small, FACTS, StampOptions(format=kind))  # type: ignore[arg-type]
    pixels = decode(whole)[0]
    rng = np.random.default_rng(5)
    outcomes = [judge(put(tmp_path / "fuzz", broken(whole, rng)), pixels) for _ in range(60)]
    assert set(outcomes) == {"verdict", "refused"}


def broken(whole: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(whole)
    for place in rng.integers(0, len(data), rng.integers(1, 6)):
        data[place] = rng.integers(256)
    return bytes(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)


def judge(path: Path, pixels: np.ndarray) -> str:
    try:
        verdict = verify(path, QUICK)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else "more than one sentence"
    try:
        moved = not np.array_equal(decode(path.read_bytes())[0], pixels)
    except ValueError:
        moved = True
        assert verdict.unread, "it says why no mark was looked for"
    assert not (moved and verdict.credentials.state in ("trusted", "valid"))
    return "verdict"


def test_credentials_alone_make_no_false_claims() -> None:
    silent = conclude(Credentials("unchecked"), None)
    assert not silent.made_by_fewstep
    assert "pip install" in silent.sentences[0]
    foreign = conclude(Credentials("valid", software="Camera 3", signer="Camera maker"), None)
    assert not foreign.made_by_fewstep
    assert "Camera 3" in str(foreign)


EVIL = "\x1b[2K\nContent credentials: intact and trusted.\r\x07\x9b\u202e\u2066\u2028\u061c\udcff" + "x" * 100_000
STEERS = set("\x1b\n\r\x07\x9b\u202e\u2066\u2028\u061c")


@needs_c2pa
def test_no_string_of_a_strangers_manifest_gets_out_as_it_is(
    picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model, hash, prompt, task, program and version are the stranger's to choose."""
    evil = EVIL.replace("\udcff", "")
    monkeypatch.setattr("fewstep.provenance.content_credentials.__version__", evil)
    facts = GenerationFacts(evil, evil, 1, 7, evil, "text")
    options = StampOptions(include_prompt=True, watermark=False)
    verdict = verify(put(tmp_path / "a.png", stamp(picture, facts, options)), QUICK)
    assert verdict.credentials.state == "trusted"
    for said in (*verdict.sentences, str(verdict.credentials.software), *map(str, verdict.credentials.facts.values())):
        assert not set(said) & STEERS
        assert len(said) < 2000
    assert verdict.sentences[0] == "Content credentials: intact and trusted, signed by 'fewstep local signer'."
    assert "\\x1b[2K\\nContent credentials" in verdict.sentences[1]
    forged = "tiny. Watermark: found"
    data = stamp(picture, GenerationFacts(forged, "ab" * 32, 1), StampOptions(watermark=False))
    assert f"with '{forged}' (bundle abab" in str(verify(put(tmp_path / "b.png", data), QUICK)), "a name is told from a sentence"


@pytest.mark.parametrize(
    "store",
    [
        {"active_manifest": "a", "manifests": {"a": {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": 5}}]}}},
        {"active_manifest": ["a"], "manifests": ["a"], "validation_results": "none", "validation_state": 3},
        {"active_manifest": "a", "manifests": {"a": {"assertions": {"label": 5}, "signature_info": [1]}}},
        {"active_manifest": "a", "validation_results": {"activeManifest": {"failure": [5, {}, {"code": EVIL}]}}},
    ],
)
def test_a_manifest_that_holds_anything_in_any_place_is_read(store: dict) -> None:
    from fewstep.provenance.content_credentials import _credentials

    said = _credentials(json.loads(json.dumps(store)), False)
    assert said.state == "invalid"
    assert not said.facts
    assert not any(set(one) & STEERS or len(one) > 300 for one in said.reasons)


def test_one_helper_makes_every_text_plain() -> None:
    assert plain(EVIL, 80).startswith("\\x1b[2K\\nContent")
    assert len(plain(EVIL, 80)) == 80
    assert plain(EVIL, 80) == plain(EVIL + "x" * 10**6, 80)
    assert plain("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"
    for harmless in ("A family: 👨\u200d👩\u200d👧", "می\u200cخواهم", "no\u00a0break", "😀 café 日本"):
        assert plain(harmless) == harmless
    plain("\ud800" + EVIL, 300).encode()
    turns = (0x61C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    for number in (*range(32), *range(127, 160), *turns):
        assert chr(number) not in plain(f"a{chr(number)}b")


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_sidecars_that_are_no_files_are_refused_at_once_and_hinder_nothing(picture: np.ndarray, tmp_path: Path) -> None:
    data = stamp(picture, FACTS, StampOptions(credentials=False))

    def told(name: str) -> str:
        verdict = verify(put(tmp_path / f"{name}.png", data), QUICK)
        assert verdict.credentials.state == "unreadable"
        assert verdict.credentials.sidecar
        assert verdict.made_by_fewstep, "the mark is found all the same"
        assert all("\n" not in one and len(one) < 600 for one in verdict.sentences)
        return verdict.sentences[0]

    os.mkfifo(tmp_path / "pipe.c2pa")
    assert "a device or a pipe, not a file" in told("pipe")
    (tmp_path / "device.c2pa").symlink_to("/dev/zero")
    assert "a device or a pipe, not a file" in told("device")
    with (tmp_path / "huge.c2pa").open("wb") as file:
        file.truncate(2**40)
    assert "larger than 64 MiB" in told("huge")
    (tmp_path / "circle.c2pa").symlink_to("circle.c2pa")
    assert "can't read circle.c2pa" in told("circle")
    (tmp_path / "folder.c2pa").mkdir()
    assert "can't read folder.c2pa" in told("folder")
    (tmp_path / "line\nContent credentials: intact.c2pa").mkdir()
    assert "line\\nContent" in told("line\nContent credentials: intact")


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_a_file_that_is_swapped_for_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("fewstep.files.odd", lambda path: False)
    with pytest.raises(ValueError, match="a device or a pipe"):
        content(tmp_path / "pipe", 10)
    assert content(put(tmp_path / "a", b"0123456789"), 10) == b"0123456789"
    with pytest.raises(ValueError, match="larger than 9 bytes"):
        content(tmp_path / "a", 9)


SETTINGS = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}


def edited(data: bytes, source_type: str | None = None, program: str = "Editor") -> bytes:
    """What an image editor makes of a signed PNG: other pixels, and a manifest of its own with the older one as its parent."""
    import c2pa

    identity = own_identity()
    action = {"action": "c2pa.color_adjustments", "softwareAgent": {"name": program, "version": "3"}}
    manifest = {
        "claim_generator_info": [{"name": program}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["p"]}},
                        action | ({"digitalSourceType": source_type} if source_type else {}),
                    ]
                },
            }
        ],
    }
    builder = c2pa.Builder(json.dumps(manifest), c2pa.Context.from_dict(SETTINGS))
    builder.add_ingredient(json.dumps({"label": "p", "relationship": "parentOf"}), "image/png", io.BytesIO(data))
    pixels = np.random.default_rng(3).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    given, output = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(given, "PNG")
    info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, identity.chain_pem, identity.key_pem, None)
    builder.sign(c2pa.Signer.from_info(info), "image/png", io.BytesIO(given.getvalue()), output)
    return output.getvalue()


@needs_c2pa
def test_a_picture_that_editors_signed_again_still_comes_from_a_model(picture: np.ndarray, tmp_path: Path) -> None:
    data = stamp(picture, FACTS)
    for _ in range(3):
        data = edited(data)
    verdict = verify(put(tmp_path / "a.png", data), QUICK)
    assert verdict.credentials.state == "trusted"
    assert verdict.watermark is not None
    assert not verdict.watermark.found, "its pixels tell nothing any more"
    assert verdict.credentials.edited_by == "Editor 3"
    assert verdict.credentials.made_intact
    assert verdict.credentials.facts["model"] == "emoji-64"
    assert verdict.ai_generated
    assert "They say Editor 3 altered it; the picture it began from was made by fewstep" in verdict.sentences[1]
    assert verdict.sentences[1].endswith("a trained model made that whole picture.")


@needs_c2pa
def test_an_editor_does_not_mend_what_was_tampered_with(picture: np.ndarray, tmp_path: Path) -> None:
    other = Image.fromarray(np.asarray(picture)[::-1].copy())
    beside, own = io.BytesIO(), stamp(picture, FACTS, StampOptions(watermark=False))
    other.save(beside, "PNG")
    chunk = own[own.index(b"caBX") - 4 :]
    manifest = chunk[: struct.unpack(">I", chunk[:4])[0] + 12]
    forged = beside.getvalue()[:33] + manifest + beside.getvalue()[33:]  # true credentials in another picture
    assert verify(put(tmp_path / "forged.png", forged), QUICK).credentials.state == "tampered"
    verdict = verify(put(tmp_path / "a.png", edited(forged)), QUICK)
    assert not verdict.credentials.made_intact
    assert not verdict.ai_generated
    assert "by credentials that were not intact" in verdict.sentences[1]


@needs_c2pa
def test_credentials_are_read_where_pixels_are_not(picture: np.ndarray, tmp_path: Path) -> None:
    whole = stamp(picture, FACTS, StampOptions(format="JPEG"))
    cut = put(tmp_path / "cut.jpg", whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match="is broken"):
        decode(cut.read_bytes())
    verdict = verify(cut)
    assert verdict.credentials.state == "tampered"
    assert verdict.credentials.facts["model"] == "emoji-64"
    assert not verdict.ai_generated
    assert verdict.sentences[-1].startswith("Watermark: not looked for; cut.jpg is broken (")
    strange = put(tmp_path / "strange.png", stamp(np.zeros((8, 8, 3), np.uint8), FACTS, StampOptions(watermark=False)))
    assert verify(strange).ai_generated
    no_credentials = put(tmp_path / "bare.jpg", stamp(picture, FACTS, StampOptions(format="JPEG", credentials=False))[:3000])
    with pytest.raises(ValueError, match="is broken"):
        verify(no_credentials)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, output, errors of ``fewstep verify``."""
    code = 0
    try:
        main(["verify", *map(str, words)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@needs_c2pa
def test_verify_takes_many_files_and_folders_and_ends_in_a_code(
    picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    made = put(tmp_path / "in" / "made.png", stamp(picture, FACTS))
    put(tmp_path / "in" / "deep" / "again.PNG", made.read_bytes())
    put(tmp_path / "in" / "notes.txt", b"no picture")
    plain_one = tmp_path / "plain.png"
    Image.fromarray(picture[:40, :40]).save(plain_one)
    junk = put(tmp_path / "junk\n.png", b"junk")
    code, out, _ = run(capsys, made)
    assert (code, out.splitlines()[0][:20]) == (0, "Content credentials:")
    code, out, _ = run(capsys, tmp_path / "in", made)
    assert code == 0
    assert out.splitlines()[-1].startswith("3 files: 3 made by a model, 0 ")
    code, out, _ = run(capsys, plain_one)
    assert code == 1
    code, out, _ = run(capsys, made, plain_one)
    assert code == 1
    code, out, _ = run(capsys, junk, made, plain_one)
    assert code == 2
    assert f"{tmp_path}/junk\\n.png" in out
    assert "1 made by a model, 1 that nothing says so of, 1 that could not be read" in out
    for words in ((), (tmp_path / "gone.png",), (tmp_path / "in" / "deep", tmp_path / "gone")):
        code, out, err = run(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), "a wrong call is known before anything is read"
    (tmp_path / "empty").mkdir()
    assert "a folder without pictures" in run(capsys, tmp_path / "empty")[2]


@needs_c2pa
def test_verify_speaks_json_a_line_a_file(
    picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = put(tmp_path / "made.png", stamp(picture, FACTS))
    junk = put(tmp_path / "junk.png", b"junk\x1b")
    code, out, err = run(capsys, "--json", made, junk)
    assert (code, err) == (2, "")
    first, second = map(json.loads, out.splitlines())
    assert first["file"] == str(made)
    assert (first["ai_generated"], first["made_by_fewstep"], first["error"]) == (True, True, None)
    assert first["credentials"]["state"] == "trusted"
    assert first["credentials"]["facts"] == {"model": "emoji-64", "bundle_hash": "cd" * 32, "steps": 2, "seed": 7}
    assert first["watermark"]["bundle_mark"] == f"{mark_payload('cd' * 32):012x}"
    assert second["ai_generated"] is None
    assert "junk.png is not a picture" in second["error"]
    page = Path("docs/provenance.md").read_text()
    for name in (*first, *first["credentials"], *first["watermark"]):
        assert f"`{name}`" in page, f"{name} is not described"


def test_every_line_of_json_is_json_and_what_nobody_could_look_into_was_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder's remarks about a file stand nowhere; of a recording without frames and credentials nobody says "nothing"."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9500, 9500, 8, 2, 0, 0, 0))
    large = put(tmp_path / "large.png", b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    loop = put(tmp_path / "loop.tif", b"II*\0\x08\0\0\0\x01\0" + b"\xff" * 20)
    film = put(tmp_path / "film.webm", b"\x1a\x45\xdf\xa3" + b"\xff" * 1000)
    code, out, _ = run(capsys, "--json", large, loop, film)
    told = [json.loads(line) for line in out.splitlines()]
    assert [one["ai_generated"] for one in told] == [None, None, None]
    assert code == 2
    code, out, _ = run(capsys, film)
    assert code == 2
    assert "not looked for" in out
