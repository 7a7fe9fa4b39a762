"""``verify``: both testimonies together, in sentences; and files that are no pictures."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.provenance import GenerationFacts, StampOptions, mark_payload, stamp, write
from fewstep.provenance.content_credentials import Credentials
from fewstep.provenance.detection import Detection
from fewstep.provenance.identity import own_root
from fewstep.provenance.verify import VerifyOptions, conclude, decode, verify
from fewstep.provenance.watermark import Effort, SpreadSpectrum

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


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", bomb()])
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
    assert set(outcomes) == ({"refused"} if kind == "PNG" else {"verdict", "refused"}), "PNG has a checksum a chunk"


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
    moved = not np.array_equal(decode(path.read_bytes())[0], pixels)
    assert not (moved and verdict.credentials.state in ("trusted", "valid"))
    return "verdict"


def test_credentials_alone_make_no_false_claims() -> None:
    silent = conclude(Credentials("unchecked"), None)
    assert not silent.made_by_fewstep
    assert "pip install" in silent.sentences[0]
    foreign = conclude(Credentials("valid", software="Camera 3", signer="Camera maker"), None)
    assert not foreign.made_by_fewstep
    assert "Camera 3" in str(foreign)
