"""Who may come in and how much they may take; pictures on the wire; the word list. All without a server."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from fewstep.modality import image as pictures
from fewstep.server.access import AccessPolicy, address, bearer, host_name, is_loopback
from fewstep.server.drawing import safety
from fewstep.server.drawing.safety import Moderation, WordList
from fewstep.server.limits import Arrivals, Limits, Pace, Shares, TokenBucket, check_sizes, neighbourhood
from fewstep.server.wire import images as wire
from fewstep.server.wire.protocol import RAW, Part, ProtocolError, pack

PIXELS = 64 * 64


def encoded(kind: str, size: tuple[int, int] = (16, 12), mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def wrong(part: Part) -> str:
    with pytest.raises(ProtocolError) as caught:
        wire.decode(part, PIXELS)
    assert caught.value.code == "picture"
    return str(caught.value)


def test_only_this_machine_without_a_token():
    assert AccessPolicy("127.0.0.1").host_refusal("localhost:7860") is None
    assert AccessPolicy("::1").host_refusal("[::1]:7860") is None
    for host in ("0.0.0.0", "192.168.1.7", "example.org", ""):
        with pytest.raises(ValueError, match="--token"):
            AccessPolicy(host)
        assert AccessPolicy(host, token="secret").token


def test_pages_of_other_sites_stay_outside():
    access = AccessPolicy("127.0.0.1", origins=("https://friend.org",))
    assert access.origin_refusal("localhost:7860", None) is None
    assert access.origin_refusal("localhost:7860", "http://localhost:7860") is None
    assert access.origin_refusal("localhost:7860", "https://friend.org") is None
    assert access.allows_origin("https://friend.org")
    assert not access.allows_origin("http://localhost:7860")
    for origin in ("https://evil.org", "http://localhost:9999", "null"):
        assert "--origins" in (access.origin_refusal("localhost:7860", origin) or ""), origin
    for origin in ("http://evil.org@localhost:7860", "file://"):  # `--origins` would not take these either
        assert "is no origin" in (access.origin_refusal("localhost:7860", origin) or ""), origin


@pytest.mark.parametrize("wrong", ["https://my.page/", "my.page", "https://My.page", "https://my.page/studio", "*", ""])
def test_an_origin_that_no_browser_would_send_is_refused_at_the_start(wrong: str):
    with pytest.raises(ValueError, match=r"https://example\.org"):
        AccessPolicy("127.0.0.1", origins=(wrong,))
    assert AccessPolicy("127.0.0.1", origins=("http://my.page:8000", "null", "http://[::1]:8000")).origins


@pytest.mark.parametrize("wrong", ["*", "proxy.local", "10.0.0.1/8", "0.0.0.0/0", "::/0", ""])
def test_a_proxy_that_is_nobody_or_everybody_is_refused_at_the_start(wrong: str):
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8"):
        AccessPolicy("127.0.0.1", proxies=(wrong,))
    assert AccessPolicy("127.0.0.1").private
    assert not AccessPolicy("127.0.0.1", proxies=("127.0.0.1", "fd00::/8")).private, "strangers come in through it"


@pytest.mark.parametrize("wrong", ["https://my.page", "my.page:80", "my page", "my.page/studio", "a@b", ""])
def test_a_name_that_no_host_has_is_refused_at_the_start(wrong: str):
    with pytest.raises(ValueError, match=r"studio\.example\.org"):
        AccessPolicy("127.0.0.1", names=(wrong,))
    assert AccessPolicy("127.0.0.1", names=("My.Page",)).knows_host("my.PAGE:443")


def test_a_server_that_strangers_reach_has_a_token_or_says_that_it_has_none():
    public = {"names": ("studio.example.org",), "proxies": ("127.0.0.1",)}
    with pytest.raises(ValueError, match="--token none"):
        AccessPolicy("127.0.0.1", **public)
    assert AccessPolicy("127.0.0.1", token="secret", **public).warning is None
    assert AccessPolicy("127.0.0.1").warning is None
    for access in (
        AccessPolicy("127.0.0.1", open=True, **public),
        AccessPolicy("127.0.0.1", proxies=("10.0.0.1",)),
        AccessPolicy("127.0.0.1", names=("studio.local",)),
        AccessPolicy("0.0.0.0", open=True),
    ):
        assert "can draw here" in (access.warning or "")


@pytest.mark.parametrize(
    "odd", ["[::1", "a@localhost", "localhost/x", "localhost:999999", "localhost:80:80", "[", " ", "x" * 300]
)
def test_what_is_no_host_is_nobody(odd: str):
    assert host_name(odd) == ""
    assert not AccessPolicy("127.0.0.1", token="secret").knows_host(odd)
    assert AccessPolicy("127.0.0.1").host_refusal(odd) is not None
    assert AccessPolicy("127.0.0.1").origin_refusal("localhost", odd) is not None


def test_a_name_that_was_made_to_point_here_is_refused():
    access = AccessPolicy("127.0.0.1", names=("studio.local",))
    assert "evil.org" in (access.host_refusal("evil.org:7860") or "")
    assert access.host_refusal("studio.local:7860") is None
    assert access.host_refusal(None) is not None
    assert access.host_refusal("localhost.evil.org") is not None


def test_tokens():
    access = AccessPolicy("0.0.0.0", token="secret")
    assert access.host_refusal("anything:7860") is None  # whoever knows the token was given the address
    assert access.token_refusal("secret") is None
    assert access.token_refusal("") is not None
    assert access.token_refusal("sécret") is not None
    assert bearer("Bearer secret") == bearer("bearer  secret ") == "secret"
    assert bearer(None) == bearer("Basic secret") == ""
    assert address("0.0.0.0", 80, "secret") == "http://0.0.0.0:80/#token=secret"
    assert address("127.0.0.1", 80) == "http://localhost:80/"


@pytest.mark.parametrize(
    ("host", "local"), [("127.8.9.1", True), ("localhost", True), ("::1", True), ("10.0.0.1", False)]
)
def test_loopback(host: str, local: bool):
    assert is_loopback(host) == local


def test_the_bucket_allows_bursts_and_a_rate():
    bucket = TokenBucket(rate=10, burst=5, now=0.0)
    assert sum(bucket.take(0.0) for _ in range(20)) == 5
    assert sum(bucket.take(i / 100) for i in range(1, 201)) in (19, 20)
    assert not bucket.take(1.0)  # a clock that runs backwards gives nothing
    assert sum(bucket.take(1000.0) for _ in range(20)) == 5


def test_a_storm_from_one_address_stays_outside_and_the_others_come_in():
    storm = Arrivals(Limits(connections_per_s=2, connections_burst=5))
    assert [storm.take("10.0.0.1", 0.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0.5, 0.5]
    assert storm.take("10.0.0.2", 0.0) == 0, "another address"
    assert [storm.take("10.0.0.1", now) for now in (0.25, 0.5, 0.5)] == [0.25, 0, 0.5]
    assert sum(storm.take("10.0.0.1", 60.0) == 0 for _ in range(20)) == 5


def test_arrivals_remember_little():
    arrivals = Arrivals(Limits(connections_per_s=1, connections_burst=1), most=3)
    assert [arrivals.take("10.0.0.1", 0.0) for _ in range(2)] == [0, 1]
    for number in range(2, 5):
        assert arrivals.take(f"10.0.0.{number}", 0.0) == 0
    assert arrivals.take("10.0.0.1", 0.0) == 0, "forgotten"


def test_whom_an_address_stands_for():
    assert neighbourhood("2001:db8:1:2:3:4:5:6") == neighbourhood("2001:db8:1:2:ffff::1")
    assert neighbourhood("2001:db8:1:2::1") != neighbourhood("2001:db8:1:3::1")
    assert neighbourhood("::ffff:10.0.0.1") == neighbourhood("10.0.0.1") == "10.0.0.1"
    assert {neighbourhood(odd) for odd in ("", "unix", "x" * 20_000, "10.0.0.1:80", "9" * 5000)} == {""}, "as one"
    assert AccessPolicy("127.0.0.1", proxies=("10.0.0.0/8", "fd00::1")).trusts_proxy("10.1.2.3")
    behind = AccessPolicy("127.0.0.1", proxies=("10.0.0.0/8",))
    assert not any(behind.trusts_proxy(odd) for odd in ("11.0.0.1", "", "nobody", "::1"))


def test_who_keeps_pace_is_never_late_and_who_stops_soon_is():
    pace = Pace(rate=100)
    assert [pace.lag(1.0, 100) for _ in range(50)] == [0.0] * 50
    assert [pace.lag(0.5, 0) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert pace.lag(1.0, 200) == 1.0, "twice the pace makes up for it"
    assert pace.lag(1.0, 10**9) == 0.0, "and nothing is saved for later"
    assert [pace.lag(1.0, 50) for _ in range(4)] == [0.5, 1.0, 1.5, 2.0], "half the pace falls behind"
    pace.rest()
    assert pace.lag(1000.0, 0) == 0.0, "time in which nothing was awaited does not count"


def test_shares_are_of_an_address_and_of_all():
    shares = Shares(total=10, each=6)
    assert [shares.take("a", 5), shares.take("b", 5), shares.take("c", 1)] == [True, True, False]
    assert [shares.take("c", -1), shares.take("b", -5), shares.take("a", 2)] == [True, True, False]
    assert shares.take("a", -7)
    assert (shares.taken, shares.take("a", 0)) == (0, True)
    assert Limits(sessions=1, queue=0).each(1) == 1
    assert [Limits(share=share).each(8) for share in (0.1, 0.5, 1.0)] == [1, 4, 8]


def test_a_model_larger_than_the_limit_is_refused():
    check_sizes(Limits(), [(1024, 1024), (512, 512), (512, 2048)])
    with pytest.raises(ValueError, match=r"use --limits\.picture-pixels 4194304"):
        check_sizes(Limits(), [(2048, 2048)])
    tight = Limits(message_bytes=4 * 2**20)
    check_sizes(tight, [(512, 512)])
    with pytest.raises(ValueError, match=r"use --limits\.message-bytes 8405000"):
        check_sizes(tight, [(512, 512), (1024, 1024)])


def test_the_largest_picture_and_its_mask_fit_into_a_message():
    bare = bytes(Limits().picture_pixels * 4)
    parts = [Part(name, RAW, bare, 1024, 1024) for name in ("image", "mask")]
    assert Limits().message_bytes - 16_384 <= len(pack({"type": "draw"}, parts)) <= Limits().message_bytes


@pytest.mark.parametrize("token", ["ab+/cd==", "a b", "é", "a,b", "a#b"])
def test_a_token_that_cannot_travel_is_refused(token: str):
    with pytest.raises(ValueError, match="use --token auto"):
        AccessPolicy("0.0.0.0", token=token)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_pictures_are_decoded_as_pillow_decodes_them(kind: str):
    data = encoded(kind)
    mime = f"image/{kind.lower()}"
    ours = wire.decode(Part("image", mime, memoryview(data)), PIXELS)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert ours.shape == (12, 16, 3)
    assert np.abs(ours - theirs).max() <= (2 if kind == "JPEG" else 0)


def test_transparency_lies_on_a_plain_background():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (255, 0, 0, 51)
    part = Part("image", RAW, rgba.tobytes(), 2, 2)
    assert wire.decode(part, PIXELS)[0].tolist() == [[255, 0, 0], [255, 204, 204]]
    assert wire.decode(part, PIXELS, background=0)[1].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_bombs_and_broken_pictures_are_refused_from_their_headers():
    assert "make it smaller" in wrong(Part("image", "image/jpeg", encoded("JPEG", (640, 640))))
    assert "megapixels" in wrong(Part("image", "image/png", encoded("PNG", (640, 640))))
    assert "4 bytes" in wrong(Part("image", RAW, bytes(15), 2, 2))
    assert "4 bytes" in wrong(Part("image", RAW, b"", 0, 0))
    assert "4 bytes" in wrong(Part("image", RAW, b"", 10**6, 10**6))
    assert "image/png" in wrong(Part("image", "image/gif", encoded("GIF")))
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(kind)
        for broken in (b"", data[:30], data[: len(data) // 2], b"\x00" * 100):
            assert wrong(Part("image", f"image/{kind.lower()}", broken))


def test_a_jpeg_is_turned_as_its_camera_meant_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded("JPEG", exif=exif)
    assert wire.decode(Part("image", "image/jpeg", data), PIXELS).shape == (16, 12, 3)


@pytest.mark.parametrize("odd", ["nothing", "CMYK", "odd EXIF", "EXIF far behind"])
def test_both_sides_of_the_house_read_the_same_jpeg(odd: str):
    """What a data set takes the server takes, with the same pixels up to the decoder's rounding, and the same way up."""
    y, x = np.mgrid[0:32, 0:48]
    picture = Image.fromarray(np.stack([5 * x, 7 * y, 3 * (x + y)], -1).astype(np.uint8))
    plain = jpeg(picture.convert("CMYK") if odd == "CMYK" else picture)
    data = plain
    if "EXIF" in odd:
        exif = Image.Exif()
        exif[0x0112] = 6
        body = b"Exif\0\0" + (b"no tiff at all" if odd == "odd EXIF" else exif.tobytes().removeprefix(b"Exif\0\0"))
        marker = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        padding = (
            b"" if odd == "odd EXIF" else b"\xff\xfe" + struct.pack(">H", 5002) + bytes(5000)
        )  # a long comment first
        data = plain[:2] + padding + marker + plain[2:]
    theirs = np.asarray(pictures.load(data).image).astype(int)
    assert theirs.shape == ((48, 32, 3) if odd == "EXIF far behind" else (32, 48, 3))
    ours = wire.decode(Part("image", "image/jpeg", data), PIXELS)
    assert np.abs(ours - theirs).max() <= 3


def test_a_jpeg_that_is_repaired_is_refused_on_both_sides_in_the_same_words():
    y, x = np.mgrid[0:32, 0:48]
    data = bytearray(jpeg(Image.fromarray(np.stack([5 * x, 7 * y, 3 * (x + y)], -1).astype(np.uint8))))
    start = data.index(b"\xff\xda") + 80
    data[start : start + 40] = bytes(40)
    with pytest.raises(ValueError, match="make pixels up") as said:
        pictures.load(bytes(data))
    assert wrong(Part("image", "image/jpeg", bytes(data))).endswith(str(said.value).removeprefix("picture"))


def test_the_middle_is_fitted():
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    assert wire.fit(wide, (16, 16)).min() >= 190
    assert wire.fit(wide, (16, 16)).shape == (16, 16, 3)
    assert wire.fit(wide, (24, 12)).min() >= 190
    lying = wire.fit(wide, (8, 20))  # 80 of the 96 columns: 24 black ones left and right of the middle
    assert lying.shape == (8, 20, 3)
    assert np.ptp(lying, 0).max() == 0, "nothing is stretched: each column is of one colour"
    assert [lying[0, column, 0] > 100 for column in (0, 5, 6, 13, 14, 19)] == [False, False, True, True, False, False]
    square = np.zeros((16, 16, 3), np.uint8)
    assert wire.fit(square, (16, 16)) is square


@pytest.mark.parametrize("encoder", ["png", "webp", "jpeg"])
def test_what_is_encoded_can_be_decoded(encoder: str):
    y, x = np.mgrid[0:32, 0:32]
    smooth = np.stack([8 * x, 8 * y, 128 + 0 * x], -1).astype(np.uint8)
    back = wire.decode(Part("image", f"image/{encoder}", wire.encode(smooth, encoder)), PIXELS)
    assert np.abs(back.astype(int) - smooth).max() <= (0 if encoder == "png" else 24)
    with pytest.raises(ValueError, match="png, webp, jpeg"):
        wire.encode(smooth, "bmp")


def test_the_word_list_finds_whole_words_however_they_are_written():
    words = WordList(["gore", "self harm"])
    for text in ("GORE", "some g0re!", "self-harm", "Self  Harm", "gоre".replace("о", "o"), "ｇｏｒｅ", "go\u200bre"):
        assert words.prompt(text), text
    for text in ("gorey edward", "a gorge", "harm none", "", "4 leaf clover"):
        assert words.prompt(text) is None, text
    assert WordList([]).prompt("gore") is None
    assert WordList.read().prompt("a red heart") is None
    assert WordList.read().prompt("NSFW") is not None


class Fussy:
    """A filter that takes its time and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()

    def prompt(self, text: str) -> str | None:
        self.asked.append(text)
        assert self.go.wait(10)
        return "not this" if "bad" in text else None

    def picture(self, pixels: np.ndarray) -> str | None:
        return "too dark" if pixels.max() == 0 else None


def test_a_prompt_is_judged_once_beside_the_caller():
    fussy = Fussy()
    took: list[str] = []
    moderation = Moderation(fussy, lambda stage, ms: took.append(stage))
    texts = (("bad idea",), ("fine", ""), ("bad idea",))
    verdicts = [moderation.judge_prompts(*text) for text in texts]
    assert verdicts[0] is verdicts[2]
    assert not any(v.done() for v in verdicts if v)
    fussy.go.set()
    assert [v.result(10) for v in verdicts if v] == ["not this", None, "not this"]
    assert fussy.asked == ["bad idea", "fine"]
    assert took == ["safety_prompt", "safety_prompt"]
    assert moderation.judge_prompts("", "") is None
    heard: list[str] = []
    done = threading.Event()
    moderation.watch(("s",), np.zeros((2, 2, 3), np.uint8), lambda reason: (heard.append(reason), done.set()))
    assert done.wait(10)
    assert heard == ["too dark"]
    moderation.close()
    assert Moderation(None).judge_prompts("bad") is None


class Broken:
    """A filter that raises, until it is mended."""

    mended = False

    def prompt(self, text: str) -> str | None:
        return self._judge()

    def picture(self, pixels: np.ndarray) -> str | None:
        return self._judge()

    def _judge(self) -> str | None:
        if not self.mended:
            raise ConnectionError("the model behind it is gone")
        return None


def test_a_filter_that_fails_lets_nothing_through_and_is_asked_again(caplog: pytest.LogCaptureFixture):
    broken = Broken()
    took: list[str] = []
    moderation = Moderation(broken, lambda stage, ms: took.append(stage))
    pixels = np.zeros((2, 2, 3), np.uint8)
    streamed: Future[str] = Future()
    moderation.watch(("s",), pixels, streamed.set_result)
    assert streamed.result(10) == moderation.picture(pixels) == moderation.judge_prompts("a cat").result(10) == safety.FAILED
    assert took == ["safety_picture", "safety_picture", "safety_prompt"], "every verdict is timed"
    assert [record.message for record in caplog.records] == 3 * ["the safety filter failed"]
    broken.mended = True
    assert moderation.judge_prompts("a cat").result(10) is None, "its failure is no verdict to remember"
    assert moderation.picture(pixels) is None
    assert len(took) == 5
    moderation.close()


def test_filters_are_loaded_by_name(tmp_path: Path):
    assert isinstance(safety.load("words"), WordList)
    assert safety.load("off") is None
    (tmp_path / "own.txt").write_text("# mine\nbroccoli\n")
    own = safety.load(str(tmp_path / "own.txt"))
    assert own is not None
    assert own.prompt("BROCCOLI!") is not None
    assert own.prompt("nsfw") is None
    with pytest.raises(ValueError, match="can't read the word list"):
        safety.load(str(tmp_path / "none.txt"))
    assert isinstance(safety.load(f"{__name__}.Fussy"), Fussy)
    with pytest.raises(ValueError, match="words, checker, off"):
        safety.load("strict")
    with pytest.raises(ValueError, match="needs the methods"):
        safety.load("pathlib.Path")


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def many_scans(n: int) -> bytes:
    """A sound progressive JPEG whose last scan comes n times over."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * n + whole[-2:]


def pointing(entries: int, at_bytes: int) -> bytes:
    """EXIF whose every entry points at all of the same bytes: reading all of it is a copy of them for each."""
    head = b"II*\0" + struct.pack("<IH", 8, entries)
    listed = b"".join(struct.pack("<HHII", 1000 + i, 7, at_bytes, 10 + 12 * entries) for i in range(entries))
    return head + listed + bytes(4 + at_bytes)


def bombs() -> dict[str, bytes]:
    exif = pointing(4000, 12_000)
    plain = jpeg(Image.new("RGB", (8, 8), "red"))
    hollow = encoded("PNG")[:33] + 200_000 * (b"\0\0\0\0teXt" + struct.pack(">I", zlib.crc32(b"teXt"))) + encoded("PNG")[33:]
    return {
        "scans": many_scans(5000),
        "segments": plain[:2] + segment(0xFE, b"") * 200_000 + plain[2:],
        "fill bytes": plain[:2] + b"\xff" * 200_000 + plain[2:],
        "chunks": hollow,
        "EXIF that points a thousand times at itself": plain[:2] + segment(0xE1, b"Exif\0\0" + exif) + plain[2:],
    }


@pytest.mark.parametrize("name", ["scans", "segments", "fill bytes", "chunks"])
def test_a_picture_that_is_made_to_cost_work_is_refused_before_a_decoder_sees_it(name: str, monkeypatch):
    def never(*_: object, **__: object) -> None:
        raise AssertionError("no decoder is asked")

    data = bombs()[name]
    for decoder in ("decode_jpeg", "decode_jpeg_header"):
        monkeypatch.setattr(simplejpeg, decoder, never)
    monkeypatch.setattr(Image, "open", never)
    said = wrong(Part("image", "image/jpeg", data))
    assert "save it anew" in said
    assert not said.endswith("cannot be decoded; save it anew as PNG, JPEG or WebP"), said


def test_what_honest_pictures_hold_is_within_the_bounds():
    assert wire.decode(Part("image", "image/jpeg", many_scans(1)), PIXELS).shape == (64, 64, 3)
    data = bombs()["EXIF that points a thousand times at itself"]
    assert pictures.inspect(data).turn == 1
    assert len(pictures.inspect(data).data) < 1000, "a decoder sees none of it"
    assert wire.decode(Part("image", "image/jpeg", data), PIXELS).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM", "ICO", "TGA", "JPEG2000", "PCX", "SGI"])
def test_only_what_the_protocol_names_is_decoded(kind: str, monkeypatch):
    """Whatever it says that it is: each other decoder would raise here."""
    data = encoded(kind)
    for name, (_, accepts) in list(Image.OPEN.items()):
        if name not in wire.TAKEN:

            def never(*_: object) -> None:
                raise AssertionError("this decoder is not asked")

            monkeypatch.setitem(Image.OPEN, name, (never, accepts))
    for mime in ("image/png", "image/jpeg", "image/webp"):
        assert "save it as PNG, JPEG or WebP" in wrong(Part("image", mime, data))


def test_whatever_a_decoder_raises_is_a_sentence(monkeypatch):
    for error in (IndexError("list index out of range"), RecursionError(), MemoryError(), KeyError("x")):

        def raising(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(PngImageFile, "load", raising)
        assert "cannot be decoded" in wrong(Part("image", "image/png", encoded("PNG")))


def test_a_jpeg_that_browsers_do_not_read_is_refused():
    data = bytearray(jpeg(Image.new("RGB", (8, 8), "red")))
    data[data.index(b"\xff\xc0") + 1] = 0xC9  # arithmetic coding: ten times the work
    assert "browsers do not read" in wrong(Part("image", "image/jpeg", bytes(data)))
