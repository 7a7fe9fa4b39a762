"""The mark in recordings: encoded by a real video codec, decoded again, cut, broken and long."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.provenance import SpreadSpectrum, mark_payload, recording
from fewstep.provenance.detection import Detection
from fewstep.provenance.verify import VerifyOptions, verify
from fewstep.provenance.watermark import WatermarkOptions

av = pytest.importorskip("av", reason="videos are decoded by PyAV: pip install 'fewstep[video]'")
PAYLOAD = mark_payload("cd" * 32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))


def pictures(
    count: int, side: int = 64, marked: bool = True, seed: int = 0, psnr_db: float = 41.0
) -> list[np.ndarray]:
    """A smooth scene that drifts, marked frame by frame as a server does, or not."""
    rng, mark = np.random.default_rng(seed), SpreadSpectrum(options=WatermarkOptions(small_psnr_db=psnr_db))
    coarse = rng.uniform(0, 255, (24, 24, 3)).astype(np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((3 * side, 3 * side), Image.Resampling.BICUBIC))
    shifts = [2 * number % side for number in range(count)]
    drift = [np.ascontiguousarray(scene[at : at + side, at // 2 : at // 2 + side]) for at in shifts]
    return [mark.embed(one, PAYLOAD) for one in drift] if marked else drift


def film(frames: Iterable[np.ndarray], bits: int = 300_000, factor: int = 1, kind: str = "webm", gop: int = 30) -> bytes:
    """A file as a browser would record it."""
    output = io.BytesIO()
    codec = {"webm": "libvpx", "mp4": "libx264"}[kind]
    with av.open(output, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=30)
        stream.pix_fmt, stream.bit_rate, stream.gop_size = "yuv420p", bits, gop
        shown = [
            Image.fromarray(one).resize((factor * one.shape[1], factor * one.shape[0]), Image.Resampling.BICUBIC)
            for one in frames
        ]
        stream.width, stream.height = shown[0].size
        for one in shown:
            container.mux(stream.encode(av.VideoFrame.from_image(one)))
        container.mux(stream.encode(None))
    return output.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("kind", "factor"), [("webm", 1), ("webm", 8), ("mp4", 8)])
def test_a_recording_is_known_by_its_mark_and_names_its_bundle(kind: str, factor: int, tmp_path: Path) -> None:
    verdict = verify(put(tmp_path / f"a.{kind}", film(pictures(40), factor=factor, kind=kind)))
    assert verdict.watermark is not None
    assert 1 <= verdict.watermark.frames <= 40
    assert verdict.watermark.payload == PAYLOAD & 0xFFFF
    assert verdict.watermark.alignment.scale == 1 / factor
    assert (verdict.made_by_fewstep, verdict.mark_alone) == (True, True)
    assert "would be in a .c2pa file of the same name beside it" in verdict.sentences[0]
    assert "of its frames; the chance of this in an unmarked recording" in verdict.sentences[-1]


def test_many_frames_prove_what_one_does_not() -> None:
    faint = film(pictures(60, psnr_db=50), bits=200_000)
    mark = SpreadSpectrum()
    assert not any(mark.detect(frame).found for frame, _ in recording.frames(faint, "video/webm"))
    together = recording.detect(faint, "video/webm", mark)
    assert together is not None
    assert together.found
    assert together.frames == 60


def test_one_frame_proves_what_all_together_do_not() -> None:
    """Where little is spared for it, a codec moves the mark along with what it was put on."""
    crushed = film(pictures(60), bits=20_000)
    mark = SpreadSpectrum()
    single = [mark.detect(frame) for frame, _ in recording.frames(crushed, "video/webm")]
    assert not mark.pool(single).found
    found = recording.detect(crushed, "video/webm", mark)
    assert found is not None
    assert (found.found, found.payload) == (True, PAYLOAD & 0xFFFF)
    assert found.p_value > 60 * min(one.p_value for one in single), "the choice is paid for"


@pytest.mark.parametrize("factor", [1, 8])
def test_an_unmarked_recording_is_not_accused(factor: int, tmp_path: Path) -> None:
    for seed in range(2):
        verdict = verify(put(tmp_path / "a.webm", film(pictures(20, marked=False, seed=seed), factor=factor)))
        assert verdict.watermark is not None
        assert not verdict.made_by_fewstep
        assert verdict.watermark.p_value > 1e-3
    assert "of its frames; that proves nothing" in str(verdict)
    assert not verify(put(tmp_path / "b.webm", film(pictures(20))), VerifyOptions(mark=SpreadSpectrum(b"my"))).made_by_fewstep


@pytest.mark.parametrize("change", ["cropped", "resized", "negative"])
def test_a_recording_that_was_edited_is_searched(change: str) -> None:
    edits = {
        "cropped": lambda one: np.ascontiguousarray(one[6:, 10:])[:120, :112],
        "resized": lambda one: np.asarray(Image.fromarray(one).resize((160, 160), Image.Resampling.BICUBIC)),
        "negative": lambda one: 255 - one,
    }
    mark = SpreadSpectrum()
    for marked in (True, False):
        seen = [edits[change](one) for one in pictures(8, side=128, marked=marked, psnr_db=42.0)]
        found = recording.detect(film(seen, bits=2_000_000, gop=3), "video/webm", mark)
        assert found is not None
        assert found.found == marked
        assert found.payload == (PAYLOAD & 0xFFFF if marked else None)
        if marked:
            assert found.alignment.inverted == (change == "negative")
            assert (found.frames == recording.SEARCHED) == (change != "negative")


def test_of_a_long_recording_some_frames_are_read_from_all_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    long = film(pictures(300, marked=False) + pictures(300), gop=20)
    monkeypatch.setattr(recording, "MOST_FRAMES", 60)
    assert len(list(recording.frames(long, "video/webm"))) == 60
    found = recording.detect(long, "video/webm", SpreadSpectrum())
    assert found is not None
    assert found.found, "its second half is marked"
    monkeypatch.setattr(recording, "MOST_PIXELS", 12 * 64 * 64)
    assert len(list(recording.frames(long, "video/webm"))) <= 12
    monkeypatch.setattr(recording, "MOST_PACKETS", 5)
    assert len(list(recording.frames(long, "video/webm"))) <= 5


def test_frames_that_grow_on_the_way_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording may change its size at any key frame: those of 64 px give room to what is no room for 256 px."""
    output, time = io.BytesIO(), 0
    with av.open(output, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=30)
        for side in (64, 256):
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.width = encoder.height = side
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 30), 30
            if side == 64:
                stream.width = stream.height = side
                stream.pix_fmt = "yuv420p"
            for one in [*pictures(10, side=side), None]:
                frame = None if one is None else av.VideoFrame.from_image(Image.fromarray(one))
                if frame is not None:
                    frame.pts, time = time, time + 1
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    data = output.getvalue()
    sides = [frame.shape[0] for frame, _ in recording.frames(data, "video/webm")]
    assert sides == 10 * [64] + 10 * [256]
    monkeypatch.setattr(recording, "MOST_PIXELS", 42 * 64 * 64)
    assert [frame.shape[0] for frame, _ in recording.frames(data, "video/webm")] == 10 * [64] + 2 * [256]


def test_frames_that_are_too_large_or_too_small_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny = verify(put(tmp_path / "tiny.webm", film([np.zeros((16, 64, 3), np.uint8)] * 3)))
    assert tiny.watermark is None
    assert "none possible" in tiny.sentences[-1]
    monkeypatch.setattr(recording, "LARGEST_FRAME", 64 * 63)
    assert list(recording.frames(film(pictures(3)), "video/webm")) == []


def test_broken_recordings_end_in_a_verdict(tmp_path: Path) -> None:
    """Fuzz: cut, bytes flipped, no video at all. Never an exception; what can be decoded is looked at."""
    whole = film(pictures(60), factor=4)
    rng = np.random.default_rng(3)
    cut = verify(put(tmp_path / "a.webm", whole[: len(whole) // 2]))
    assert cut.made_by_fewstep
    assert cut.watermark is not None
    assert 10 < cut.watermark.frames < 50
    for _ in range(30):
        data = bytearray(whole[: rng.integers(40, len(whole))])
        for place in rng.integers(0, len(data), rng.integers(1, 40)):
            data[place] = rng.integers(256)
        data[:4] = whole[:4]
        verdict = verify(put(tmp_path / "a.webm", bytes(data)))
        assert verdict.sentences[-1].startswith("Watermark: ")
    for name, data in (("a.webm", whole[:4] + rng.bytes(5000)), ("a.mp4", b"\0\0\0\x20ftypisom" + rng.bytes(5000))):
        said = verify(put(tmp_path / name, data)).sentences[-1]
        assert said == "Watermark: not looked for; no frame of this recording can be decoded: get a whole copy of it."


def test_a_file_that_is_far_too_large_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.provenance.verify.MOST_BYTES", 2**20)
    with pytest.raises(ValueError, match="larger than 1 MiB: cut a piece out of it and verify that"):
        verify(put(tmp_path / "a.webm", bytes(2**20 + 1)))


def test_another_watermarks_best_frame_pays_for_all_that_were_read(tmp_path: Path) -> None:
    class Once:
        """Sure of its third reading."""

        read = 0

        def embed(self, picture: np.ndarray, payload: int) -> np.ndarray:
            return picture

        def detect(self, picture: np.ndarray, effort: str = "aligned") -> Detection:
            self.read += 1
            hit = self.read == 3
            return Detection(9.0, 1e-9 if hit else 1.0, hit, 5 if hit else None, 48, 1.0)

    mark = Once()
    found = recording.detect(film(pictures(10, side=128)), "video/webm", mark)  # type: ignore[arg-type]
    assert found is not None
    assert mark.read == 30, "at its own size, a half and a quarter"
    assert found.p_value == pytest.approx(30e-9)
    assert (found.found, found.payload, found.frames) == (True, 5, 1)


def test_without_pyav_the_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "av" else sys.modules[name].__spec__)
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[video\]'"):
        recording.detect(b"", "video/webm", SpreadSpectrum())
