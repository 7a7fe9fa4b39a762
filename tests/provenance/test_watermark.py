"""The watermark on real encoders: what it survives, what it must never claim, and what it may cost."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from fewstep.provenance.chips import LAYOUTS, from_words, keyed_chips, layout_of, to_words
from fewstep.provenance.detection import Orientation, pool
from fewstep.provenance.payload import mark_payload
from fewstep.provenance.search import ORIENTATIONS
from fewstep.provenance.watermark import PUBLIC_KEY, SpreadSpectrum, StreamDetector

KEY = b"a key for tests"
MARK = SpreadSpectrum(KEY)
PAYLOAD = 0xC0FFEE123456


def _benchmark() -> ModuleType:
    """The benchmark's pictures and attacks are the test's: what is tested is what is tabled."""
    path = Path(__file__).parents[2] / "benchmarks" / "watermark.py"
    spec = importlib.util.spec_from_file_location("watermark_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = _benchmark()
KINDS = ["shapes", "photo", "gradient", *(["emoji"] if bench.emoji_files() else [])]


def draw(kind: str, side: int, seed: int = 0) -> np.ndarray:
    one = bench.emoji if kind == "emoji" else bench.DRAWN[kind]
    return one(np.random.default_rng(seed), side)


@pytest.mark.parametrize(
    ("height", "width", "bits"),
    [(32, 40, 0), (63, 200, 0), (64, 64, 16), (100, 71, 16), (255, 900, 16), (256, 256, 48), (517, 613, 48)],
)
def test_every_size_carries_what_its_layout_promises(height: int, width: int, bits: int) -> None:
    picture = draw("shapes", 900, 4)[:height, :width]
    before = picture.copy()
    marked = MARK.embed(picture, PAYLOAD)
    assert np.array_equal(picture, before), "the caller's picture was changed"
    assert marked.shape == picture.shape
    assert marked.dtype == np.uint8
    found = MARK.detect(marked)
    assert MARK.capacity(height, width) == found.payload_bits == bits
    if bits:
        assert found.found
        assert found.payload == PAYLOAD & ((1 << bits) - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", ["as saved", "JPEG 75", "JPEG 50", "WebP 75", "half and back"])
def test_512_px_survives_with_its_48_bits(kind: str, attack: str) -> None:
    found = MARK.detect(bench.ALIGNED[attack](MARK.embed(draw(kind, 512, 1), PAYLOAD)))
    assert found.found
    assert found.p_value < 1e-12
    faint = attack == "WebP 75" and kind in ("shapes", "gradient")  # three levels on a plain are little for it
    assert found.payload in (PAYLOAD, *([None] if faint else []))
    assert found.payload_confidence == float(found.payload == PAYLOAD)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gradient"])
def test_64_px_frames_survive_jpeg_and_never_report_a_wrong_payload(kind: str) -> None:
    found = []
    for seed in range(24):
        marked = MARK.embed(draw(kind, 64, seed), seed * 2711 & 0xFFFF)
        found.append((MARK.detect(bench.ALIGNED["JPEG 75"](marked)), seed * 2711 & 0xFFFF))
    assert np.mean([one.found for one, _ in found]) >= 0.75
    assert np.mean([one.payload == payload for one, payload in found]) >= 0.5
    assert all(one.payload in (None, payload) for one, payload in found)


@pytest.mark.parametrize("level", [0, 255])
def test_pictures_at_the_end_of_the_scale_keep_the_half_that_is_not_clipped(level: int) -> None:
    large, small = (np.full((side, side, 3), level, np.uint8) for side in (512, 64))
    for attack in ("JPEG 75", "JPEG 50"):
        assert MARK.detect(bench.ALIGNED[attack](MARK.embed(large, PAYLOAD))).payload == PAYLOAD
    assert MARK.detect(bench.ALIGNED["JPEG 75"](MARK.embed(small, 0x1234))).found


@pytest.mark.parametrize("side", [40, 64, 128, 256, 512])
def test_the_mark_is_not_seen_on_smooth_areas(side: int) -> None:
    """At most three levels on plains of any colour and on slopes, also beside a drawing and in the identifier's rows."""
    own = 0xABCDEF012345 if MARK.identifier_bits(side, side) else None
    plain = [
        np.full((side, side, 3), colour, np.uint8) for colour in (255, 0, 128, 250, (255, 214, 224), (205, 180, 219))
    ]
    slope = np.broadcast_to(np.linspace(250, 190, side).astype(np.uint8)[:, None, None], (side, side, 3)).copy()
    for picture in [*plain, slope]:
        assert np.abs(MARK.embed(picture, PAYLOAD, own).astype(int) - picture).max() <= 3
    drawing = plain[0].copy()
    drawing[side // 4 : side // 2, side // 4 : side // 2] = draw("photo", side, 3)[
        side // 4 : side // 2, side // 4 : side // 2
    ]
    change = np.abs(MARK.embed(drawing, PAYLOAD, own).astype(int) - drawing).max(2)
    change[side // 4 - 8 : side // 2 + 8, side // 4 - 8 : side // 2 + 8] = 0
    assert change.max() <= 3
    assert change.any()


@pytest.mark.parametrize("side", [64, 128])
def test_a_textured_area_takes_more_than_a_smooth_one(side: int) -> None:
    picture = draw("photo", side, 5)
    picture[:, : side // 2] = 150
    change = np.abs(MARK.embed(picture, PAYLOAD).astype(int) - picture)
    smooth, busy = change[:, : side // 2 - 8], change[:, side // 2 + 8 :]
    assert smooth.max() <= 3 < busy.max()
    assert np.square(busy).mean() > 1.5 * np.square(smooth).mean()


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_the_negative_of_a_picture_says_the_same(side: int) -> None:
    for seed in range(6):
        payload = 0x1357 * (seed + 1) & 0xFFFF
        marked = MARK.embed(draw("shapes", side, seed), payload)
        found = MARK.detect(255 - marked)
        assert found.found
        assert found.alignment.inverted
        assert found.payload in (payload, *([None] if side == 64 else []))
        assert not MARK.detect(marked).alignment.inverted
    shifted = MARK.detect(255 - marked[3:, 5:], "offsets")
    assert shifted.alignment.inverted
    assert shifted.payload in (payload, None)


def test_the_negative_of_an_unmarked_picture_is_unmarked() -> None:
    assert not any(MARK.detect(255 - picture).found for picture in bench.clean_pictures(300, 64, seed=8))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_whole_picture_is_read_however_it_lies(orientation: Orientation) -> None:
    marked = MARK.embed(draw("photo", 300, 2)[:, :270], PAYLOAD)
    lying = np.rot90(marked[:, ::-1] if orientation.mirrored else marked, 4 - orientation.quarter_turns)
    if orientation.mirrored:  # undone in the order turn, mirror
        lying = np.rot90(marked[:, ::-1], -orientation.quarter_turns)
    lying = np.ascontiguousarray(lying)
    assert not MARK.detect(lying).found
    found = MARK.detect(lying, "offsets")
    assert (found.found, found.payload, found.alignment.orientation) == (True, PAYLOAD, orientation)
    assert found.hypotheses >= 2 * (64 + len(ORIENTATIONS)), "every try is paid for"


@pytest.mark.parametrize("attack", ["as saved", "JPEG 75", "JPEG 50", "half and back"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_512_px_carries_an_identifier_of_its_own(kind: str, attack: str) -> None:
    picture, own = draw(kind, 512, 1), 0xDEC0DE987654
    marked = MARK.embed(picture, PAYLOAD, own)
    found = MARK.detect(bench.ALIGNED[attack](marked))
    assert (found.payload, found.identifier) == (PAYLOAD, own)
    assert bench.psnr_db(picture, marked) >= 42.0
    plain = MARK.detect(bench.ALIGNED[attack](MARK.embed(picture, PAYLOAD)))
    assert (plain.payload, plain.identifier) == (PAYLOAD, None), "no number is made up where none was embedded"


def test_the_identifier_is_found_after_a_crop_a_resize_and_in_the_negative() -> None:
    marked, own = MARK.embed(draw("photo", 512, 5), PAYLOAD, 77), 77
    for seen, effort in (
        (marked[11:, 21:], "offsets"),
        (bench.resized(marked, 0.5), "scales"),
        (255 - marked, "aligned"),
        (np.rot90(marked), "offsets"),
    ):
        assert MARK.detect(np.ascontiguousarray(seen), effort).identifier == own


def test_a_small_picture_takes_no_identifier_and_says_so() -> None:
    assert (MARK.identifier_bits(512, 600), MARK.identifier_bits(511, 600)) == (48, 0)
    with pytest.raises(ValueError, match="64x64 picture carries no identifier: its shorter side needs 512 pixels"):
        MARK.embed(np.zeros((64, 64, 3), np.uint8), 1, 5)
    with pytest.raises(ValueError, match="identifier -1 is out of range"):
        MARK.embed(np.zeros((512, 512, 3), np.uint8), 1, -1)


@pytest.mark.parametrize("name", ["40.png", "64.png", "128.jpg", "256.jpg", "512.jpg"])
def test_pictures_marked_by_the_first_version_are_still_found(name: str) -> None:
    """The files were made by the released code, before smooth areas were spared and rows echoed."""
    with Image.open(Path(__file__).parents[1] / "assets" / f"marked_first_{name}") as file:
        picture = np.asarray(file.convert("RGB"))
    found = SpreadSpectrum().detect(picture)
    assert found.p_value < 1e-20
    if found.payload_bits:
        assert found.payload == mark_payload("ab" * 32) & ((1 << found.payload_bits) - 1)
    if min(picture.shape[:2]) > 64:
        assert SpreadSpectrum().detect(np.ascontiguousarray(picture[3:, 5:]), "offsets").found


@pytest.mark.parametrize("kind", ["shapes", "photo"])
def test_a_shift_of_three_pixels_is_lost_and_found_again(kind: str) -> None:
    shifted = np.roll(MARK.embed(draw(kind, 512, 2), PAYLOAD), (3, 5), (0, 1))
    assert not MARK.detect(shifted).found
    found = MARK.detect(shifted, "offsets")
    assert found.found
    assert found.payload == PAYLOAD
    assert (found.alignment.dy, found.alignment.dx) == (3, 5)
    assert found.hypotheses > 64


@pytest.mark.parametrize("side", [128, 256, 512])
def test_a_crop_is_found_by_searching(side: int) -> None:
    marked = MARK.embed(draw("shapes", side, 3), PAYLOAD)
    rest = np.ascontiguousarray(marked[side // 8 + 1 :, side // 8 + 3 :])
    found = MARK.detect(rest, "offsets")
    assert found.found
    if side == 512:
        corner = np.ascontiguousarray(marked[37:251, 120:333])
        assert MARK.detect(corner, "offsets").payload == PAYLOAD


@pytest.mark.parametrize("name", ["resize to 78%", "screenshot 125%", "screenshot 150%, JPEG 80"])
def test_resized_and_screen_captured_pictures_are_found_by_scale(name: str) -> None:
    attack, effort = bench.SEARCHED[name]
    seen = np.ascontiguousarray(attack(MARK.embed(draw("photo", 512, 5), PAYLOAD)))
    found = MARK.detect(seen, effort)
    assert found.found
    assert found.payload == PAYLOAD
    assert found.alignment.scale != 1.0


def test_a_nearby_scale_does_not_end_the_search_before_the_payload_is_read() -> None:
    for seed in range(4):
        small = bench.resized(MARK.embed(draw("shapes", 256, seed), PAYLOAD), 0.78)
        assert MARK.detect(small, "scales").payload == PAYLOAD


def test_another_key_finds_nothing() -> None:
    for kind in KINDS:
        for side in (64, 512):
            marked = MARK.embed(draw(kind, side, 6), PAYLOAD)
            found = SpreadSpectrum(b"some other key").detect(marked)
            assert not found.found
            assert found.payload is None
            assert abs(found.score) < 5
    assert not SpreadSpectrum(b"some other key").detect(marked, "offsets").found


def test_the_score_of_unmarked_pictures_is_standard_normal_and_none_is_called_marked() -> None:
    keys = [SpreadSpectrum(key) for key in (KEY, bench.KEY, PUBLIC_KEY, b"one more")]
    pictures = list(bench.clean_pictures(2000, 64, seed=3))
    heard = [keys[index // 4 % len(keys)].detect(picture) for index, picture in enumerate(pictures)]
    scores = np.array([one.score for one in heard])
    assert not any(one.found for one in heard)
    assert all(one.payload is None for one in heard)
    assert abs(scores.mean()) < 0.12
    assert 0.92 < scores.std() < 1.06
    assert 0.03 < np.mean(np.abs(scores) > 1.96) < 0.07
    values = np.array([one.p_value for one in heard])
    for rate in (0.2, 0.05, 0.01):
        assert np.mean(values <= rate) <= rate, "the stated rate is an upper bound"
    assert np.mean(values <= 0.2) > 0.002, "a bound that nothing ever reaches would be no statement at all"


@pytest.mark.parametrize("kind", ["gradient", "texture", "shapes"])
def test_no_key_is_unlucky_with_a_kind_of_picture(kind: str) -> None:
    """Smooth pictures repeat one value in every block: without care they score by how even a key's signs are."""
    pictures = [draw(kind, 64, seed) for seed in range(60)]
    for key in (bench.KEY, PUBLIC_KEY, b"k1", b"k2"):
        assert 0.6 < np.std([SpreadSpectrum(key).detect(one).score for one in pictures]) < 1.4


def test_large_unmarked_pictures_score_about_normally_too() -> None:
    scores = np.array([MARK.detect(picture).score for picture in bench.clean_pictures(40, 512, seed=4)])
    assert abs(scores.mean()) < 0.6
    assert 0.6 < scores.std() < 1.5
    assert scores.max() < 5


def test_searching_unmarked_pictures_finds_nothing() -> None:
    for picture in bench.clean_pictures(8, 72, seed=5):
        assert not MARK.detect(picture, "offsets").found
    assert not MARK.detect(draw("photo", 96, 9), "scales").found


@pytest.mark.parametrize("kind", [*KINDS, "flat"])
@pytest.mark.parametrize(("side", "floor_db"), [(32, 41.0), (64, 41.0), (128, 42.0), (256, 42.0), (512, 42.0)])
def test_the_noise_stays_within_its_budget(kind: str, side: int, floor_db: float) -> None:
    for seed in range(6 if side < 512 else 2):
        picture = draw(kind, side, seed)
        assert bench.psnr_db(picture, MARK.embed(picture, PAYLOAD)) >= floor_db


def test_pooling_proves_a_stream_of_frames_none_of_which_proves_anything() -> None:
    attack = bench.ALIGNED["half and back"]
    seen = [MARK.detect(attack(MARK.embed(draw("photo", 64, seed), 0xBEEF))) for seed in range(60)]
    unproven = [frame for frame in seen if not frame.found]
    assert len(unproven) >= 10
    pooled = pool(unproven)
    assert pooled.found
    assert pooled.payload == 0xBEEF
    assert pooled.frames == len(unproven)


def test_pooling_makes_up_for_what_smooth_frames_of_64_px_no_longer_say() -> None:
    attack = bench.ALIGNED["WebP 75"]
    seen = [MARK.detect(attack(MARK.embed(draw("shapes", 64, seed), 0xBEEF))) for seed in range(40)]
    unproven = [frame for frame in seen if not frame.found]
    assert len(unproven) > 20
    assert (pool(unproven).found, pool(unproven).payload) == (True, 0xBEEF)


def test_pooling_unmarked_frames_proves_nothing() -> None:
    pooled = pool(MARK.detect(picture) for picture in bench.clean_pictures(200, 64, seed=6))
    assert not pooled.found
    assert abs(pooled.score) < 4


def test_a_still_stream_says_no_more_than_one_frame() -> None:
    scored = [MARK.detect(picture) for picture in bench.clean_pictures(30, 64, seed=7)]
    luckiest = max(scored, key=lambda one: one.score)
    assert luckiest.score > 1.5
    repeated = pool([luckiest] * 500)
    assert repeated.score == pytest.approx(luckiest.score, rel=0.02)
    assert not repeated.found


def test_every_look_at_a_stream_is_paid_for() -> None:
    frames = [MARK.embed(draw("photo", 64, seed), 0xBEEF) for seed in range(4)]
    stream = StreamDetector(MARK)
    seen = [stream.add(frame) for frame in frames]
    pooled = MARK.pool(MARK.detect(frame) for frame in frames)
    assert seen[-1].frames == 4
    assert seen[-1].score == pytest.approx(pooled.score)
    assert seen[-1].p_value == pytest.approx(4 * pooled.p_value)


def test_pooling_refuses_what_would_flatter_it() -> None:
    picture = MARK.embed(draw("photo", 64, 1), 1)
    with pytest.raises(ValueError, match="aligned"):
        pool([MARK.detect(np.roll(picture, 3, 0), "offsets")])
    with pytest.raises(ValueError, match="different keys"):
        pool([MARK.detect(picture), SpreadSpectrum(b"other").detect(picture)])
    with pytest.raises(ValueError, match="nothing to pool"):
        pool([])


def test_a_mark_can_be_copied_without_the_key_as_the_docs_say() -> None:
    """What is not claimed: one marked grey page is enough to mark innocent pictures, at 48 dB."""
    page = np.full((512, 512, 3), 128, np.uint8)
    copied = MARK.embed(page, PAYLOAD).astype(int) - page
    for seed in range(3):
        innocent = draw("photo", 512, 40 + seed)
        assert MARK.detect(np.clip(innocent + copied, 0, 255).astype(np.uint8)).found


def test_a_payload_whose_check_fails_is_not_reported() -> None:
    layout = layout_of(512, 512)
    words = to_words(PAYLOAD, layout)
    assert from_words(words, layout) == PAYLOAD
    for place in range(len(words)):
        broken = words.copy()
        broken[place] ^= 1
        assert from_words(broken, layout) is None


def test_the_chips_of_a_key_never_change() -> None:
    digests = [hashlib.sha256(keyed_chips(b"k", layout).pattern(5).tobytes()).hexdigest()[:12] for layout in LAYOUTS]
    assert digests == ["4c92459165d6", "002c8c5a74d1", "b0df71cb95b1", "89e24d91cecf"], (
        "marks made by an earlier version could no longer be read"
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((31, 200, 3), np.uint8), "too small"),
        (np.zeros((64, 64), np.uint8), "uint8"),
        (np.zeros((64, 64, 4), np.uint8), "uint8"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(picture: np.ndarray, message: str) -> None:
    for use in (lambda: MARK.embed(picture, 1), lambda: MARK.detect(picture)):
        with pytest.raises(ValueError, match=message):
            use()


def test_wrong_payloads_and_keys_are_refused() -> None:
    for payload in (-1, 1 << 48):
        with pytest.raises(ValueError, match="out of range"):
            MARK.embed(np.zeros((64, 64, 3), np.uint8), payload)
    with pytest.raises(ValueError, match="empty"):
        SpreadSpectrum(b"")


def test_pictures_from_a_view_or_read_only_memory_are_fine() -> None:
    whole = draw("shapes", 300, 8)
    view = whole[::-1, 10:270]
    view.setflags(write=False)
    assert MARK.detect(MARK.embed(view, PAYLOAD)).payload == PAYLOAD
    assert MARK.detect(MARK.embed(view, PAYLOAD)[:, ::-1][:, ::-1]).payload == PAYLOAD
