import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.modality import image


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def pixels(media: torch.Tensor) -> np.ndarray:
    return image.to_uint8(media).permute(1, 2, 0).numpy()


def test_every_8_bit_value_is_read_as_documented_and_written_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    media = image.read(encoded(Image.fromarray(np.stack([values, values[::-1], values.T], -1))))
    assert media.shape == (3, 16, 16)
    assert media.dtype == torch.float32
    expected = torch.from_numpy(values.astype(np.float32)) * 2 / 255 - 1
    torch.testing.assert_close(media[0], expected, rtol=0, atol=1e-6)
    assert (media.min(), media.max()) == (-1, 1)
    assert torch.equal(image.read(image.write(media, "png")), media)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_lossy_formats_stay_close_and_obey_quality(kind: str) -> None:
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64).contiguous()
    assert (image.read(image.write(ramp, kind, quality=95)) - ramp).abs().max() < 0.1
    media = image.from_pil(Image.fromarray(noise(64, 64)))
    assert len(image.write(media, kind, quality=20)) < len(image.write(media, kind, quality=95)) / 2


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256], [257, 32768, 65535]], dtype=np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(values).save(tmp_path / name)
        media = image.read(tmp_path / name)
        expected = torch.from_numpy(values.astype(np.float64) * 2 / 65535 - 1).float().expand(3, 2, 3)
        torch.testing.assert_close(media, expected, rtol=0, atol=1e-6)
    assert "16-bit" in image.load(tmp_path / "grey.png").notes[0]
    assert torch.equal(image.from_pil(Image.fromarray(values)), media)


def test_16_bit_grey_keeps_its_range_when_resized() -> None:
    values = np.zeros((32, 64), dtype=np.uint16)
    values[:, 32:] = 65535
    media = image.read(encoded(Image.fromarray(values)), 8)
    assert media.shape == (3, 8, 8)
    assert (media.min(), media.max()) == (-1, 1)
    torch.testing.assert_close(media[0, :, :3], torch.full((8, 3), -1.0), rtol=0, atol=0.1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_on_the_background(mode: str) -> None:
    alpha = np.array([[0, 51, 255]], dtype=np.uint8).repeat(2, 0)
    colour = Image.new("L" if mode == "LA" else "RGB", (3, 2), 0)
    colour.putalpha(Image.fromarray(alpha))
    assert colour.mode == mode
    data = encoded(colour)
    assert pixels(image.read(data))[0, :, 0].tolist() == [255, 204, 0]
    assert pixels(image.read(data, background=(0, 100, 200)))[0].tolist() == [[0, 100, 200], [0, 80, 160], [0, 0, 0]]


def test_palette_transparency_is_put_on_the_background() -> None:
    palette = Image.new("P", (2, 2))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    data = encoded(palette, transparency=0)
    assert pixels(image.read(data))[0].tolist() == [[255, 255, 255], [200, 0, 0]]
    assert pixels(image.read(encoded(palette)))[0].tolist() == [[10, 20, 30], [200, 0, 0]]


def test_invisible_colours_do_not_bleed_into_edges_when_resized() -> None:
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[:, 32:] = (255, 255, 255, 255)  # white beside fully transparent black: on white, all is white
    media = image.read(encoded(Image.fromarray(rgba)), 10)
    assert torch.equal(media, torch.ones(3, 10, 10))


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation_is_applied_pixel_by_pixel(orientation: int, undo) -> None:
    stored = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = image.load(encoded(Image.fromarray(stored), exif=exif.tobytes()))
    assert np.array_equal(np.asarray(loaded.image), undo(stored))
    assert bool(loaded.notes) == (orientation != 1)


def test_cmyk_becomes_rgb_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    loaded = image.load(path)
    assert loaded.notes == ("CMYK converted to RGB",)
    red = pixels(loaded.media()).reshape(-1, 3).astype(int)
    assert (abs(red - [255, 0, 0]) < 8).all()


def test_the_middle_square_is_cut_and_resized_with_antialiasing() -> None:
    wide = np.zeros((32, 96, 3), dtype=np.uint8)
    wide[:, 32:64] = np.indices((32, 32)).sum(0)[..., None] % 2 * 255  # a one-pixel checkerboard in the middle
    media = image.read(encoded(Image.fromarray(wide)), 8)
    assert media[:, 2:6, 2:6].abs().max() < 0.05, "grey in the mean, not one of the two colours"
    exact = image.read(encoded(Image.fromarray(wide)), 32)
    assert np.array_equal(pixels(exact), wide[:, 32:64])


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (20_000, 2), (9_000, 9_000), (65_000, 65_000)])
def test_huge_pictures_are_refused_from_the_header(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="smaller"):
        image.read(png_header(width, height))


def test_an_acceptable_header_without_pixels_is_refused_as_damaged() -> None:
    with pytest.raises(ValueError, match="damaged"):
        image.read(png_header(64, 64))


def test_tiny_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="1x1 pixels, less than 2"):
        image.read(encoded(Image.new("RGB", (1, 1))))
    assert image.read(encoded(Image.new("RGB", (1, 1))), min_side=1).shape == (3, 1, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_are_refused_and_their_first_frame_is_not_taken_silently(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    with pytest.raises(ValueError, match=r"3 frames.*save the frame"):
        image.read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_a_photograph_with_an_embedded_preview_is_one_picture() -> None:
    data = encoded(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert image.read(data).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_cut_at_any_place_is_refused_never_half_read(kind: str) -> None:
    data = encoded(Image.fromarray(noise(32, 32)), kind)
    for share in (0, 0.05, 0.3, 0.6, 0.9):
        with pytest.raises(ValueError, match="; "):
            image.read(data[: int(len(data) * share)])


def test_what_is_no_picture_is_refused_with_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.png: not a picture"):
        image.read(tmp_path / "notes.png")
    with pytest.raises(ValueError, match=r"gone\.png: cannot be read \(No such file"):
        image.read(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="directory"):
        image.read(tmp_path)
    (tmp_path / "program.eps").write_bytes(encoded(Image.new("RGB", (8, 8)), "EPS"))
    with pytest.raises(ValueError, match="not a picture"):
        image.read(tmp_path / "program.eps")


def test_pixels_without_a_stated_range_are_refused() -> None:
    floats = Image.fromarray(np.ones((4, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="32-bit"):
        image.read(encoded(floats, "TIFF"))
    with pytest.raises(ValueError, match="float pixels"):
        image.from_pil(floats)


def test_writing_a_path_is_atomic_and_returns_the_bytes(tmp_path: Path) -> None:
    media = torch.zeros(3, 8, 8)
    path = tmp_path / "grey.PNG"
    assert image.write(media, path) == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["grey.PNG"]
    with pytest.raises(ValueError, match=r"grey.PNG.x.png: cannot be written"):
        image.write(media, path / "x.png")
    with pytest.raises(ValueError, match="png, jpeg"):
        image.write(media, tmp_path / "x.xyz")
    with pytest.raises(ValueError, match="quality 0"):
        image.write(media, "jpeg", quality=0)


def test_writing_clips_and_rounds_and_refuses_nan() -> None:
    media = torch.tensor([-9.0, -1.0, 0.0, 0.003, 1.0, 9.0]).reshape(1, 2, 3)
    assert np.asarray(image.to_pil(media)).tolist() == [[0, 0, 128], [128, 255, 255]]
    with pytest.raises(ValueError, match="NaN"):
        image.write(torch.full((3, 4, 4), float("nan")))
    with pytest.raises(ValueError, match="one picture"):
        image.write(torch.zeros(2, 4, 4))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return png[:33] + chunk(kind, data) + png[33:]


def tiff_exif(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block whose one entry is the orientation, as a number of some TIFF type."""
    return b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHI", 0x0112, kind, count) + value + bytes(4)


ODD_EXIF = {
    "no TIFF": b"what is this",
    "empty": b"",
    "cut short": b"II*\0\x08\0\0\0\x09\0",
    "orientation 9": tiff_exif(3, 1, b"\x09\0\0\0"),
    "orientation as text": tiff_exif(2, 4, b"six\0"),
    "directory far outside": b"MM\0*\x7f\xff\xff\xff",
}


@pytest.mark.parametrize("exif", ODD_EXIF.values(), ids=ODD_EXIF)
def test_a_sound_picture_with_an_odd_exif_is_read_as_it_stands(exif: bytes) -> None:
    """An orientation that cannot be read is none: every viewer shows the picture."""
    stored = noise(8, 12)
    png = with_chunk(encoded(Image.fromarray(stored)), b"eXIf", exif)
    assert np.array_equal(pixels(image.read(png)), stored)
    plain = encoded(Image.fromarray(stored), "JPEG")
    body = b"Exif\0\0" + exif
    jpeg = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert torch.equal(image.read(jpeg), image.read(plain))
    webp = encoded(Image.fromarray(stored), "WEBP", lossless=True, exif=b"Exif\0\0" + exif)
    assert np.array_equal(pixels(image.read(webp)), stored)
    assert image.load(png).notes == ()


def test_an_orientation_in_a_png_still_counts() -> None:
    png = with_chunk(encoded(Image.fromarray(noise(4, 6))), b"eXIf", tiff_exif(3, 1, b"\x06\0\0\0"))
    assert image.read(png).shape == (3, 6, 4)


def test_what_is_odd_beside_the_pixels_of_a_png_harms_nothing() -> None:
    stored = noise(8, 8)
    png = encoded(Image.fromarray(stored))
    novel = b"parameters\0\0" + zlib.compress(b"a long prompt, " * 200_000)
    wrong = bytearray(chunk(b"tEXt", b"Comment\0hello"))
    wrong[-1] ^= 255
    for odd in (with_chunk(png, b"zTXt", novel), with_chunk(png, b"iCCP", b"no profile"), png[:33] + wrong + png[33:]):
        assert np.array_equal(pixels(image.read(bytes(odd))), stored)


def test_a_wrong_checksum_over_pixels_is_refused() -> None:
    """Stored blocks: without the checksum any bytes at all would be pixels."""
    raw = b"".join(b"\0" + row.tobytes() for row in noise(8, 8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(raw, 0))
    assert image.read(image.PNG + head + body + chunk(b"IEND", b"")).shape == (3, 8, 8)
    damaged = bytearray(body)
    damaged[40] ^= 1
    with pytest.raises(ValueError, match=r"checksum of its IDAT.*replace it"):
        image.read(image.PNG + head + bytes(damaged) + chunk(b"IEND", b""))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}, {"restart_marker_rows": 1}],
                         ids=["baseline", "progressive", "444", "restarts"])  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_decoders_repair_is_refused(mode: str, options: dict) -> None:
    y, x = np.mgrid[0:96, 0:96]
    smooth = Image.fromarray(np.stack([x * 2, y * 2, x + y], -1).astype(np.uint8)).convert(mode)
    data = encoded(smooth, "JPEG", **options)
    assert image.read(data).shape == (3, 96, 96)
    damaged = bytearray(data)
    start = data.index(b"\xff\xda") + 20  # behind the head of the scan
    damaged[start + 60 : start + 100] = bytes(40)
    with pytest.raises(ValueError, match=r"picture: .*; "):
        image.read(bytes(damaged))


def test_a_jpeg_with_something_behind_its_end_is_sound() -> None:
    """Cameras hang previews and padding behind the end of the picture."""
    data = encoded(Image.fromarray(noise(16, 16)), "JPEG")
    assert torch.equal(image.read(data + bytes(1000)), image.read(data))
    assert torch.equal(image.read(data + data), image.read(data))


@pytest.mark.parametrize("transform", [True, False], ids=["YCCK", "CMYK"])
def test_cmyk_is_stored_inverted_as_adobe_does(transform: bool) -> None:
    """Pillow writes CMYK inverted and with Adobe's marker; without the marker nothing else is meant, as in browsers."""
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    if not transform:
        at = data.index(b"\xff\xeeAdobe"[:2])
        data = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    red = pixels(image.read(data)).reshape(-1, 3).astype(int)
    assert (abs(red - [255, 0, 0]) < 8).all()


def test_borders_keep_the_whole_picture() -> None:
    wide = noise(16, 48)
    wide[[0, -1]] = (10, 200, 30)  # a plain edge: the borders go on in its colour
    loaded = image.load(encoded(Image.fromarray(wide)))
    assert loaded.beyond(48) == pytest.approx(2 / 3)
    square = pixels(loaded.media(48, "pad"))
    assert np.array_equal(square[16:32], wide)
    assert (square[:16] == (10, 200, 30)).all()
    assert (square[32:] == (10, 200, 30)).all()
    tall = pixels(image.load(encoded(Image.fromarray(noise(48, 16)))).media(48, "pad"))
    assert (tall[:, :16] == 255).all()
    assert np.array_equal(tall[:, 16:32], noise(48, 16)), "an edge that is not plain has white borders"
    assert pixels(loaded.media(24, "pad")).shape == (24, 24, 3)
    assert pixels(loaded.media(48)).shape == (48, 48, 3)


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (6, 24), (24, 6), (7, 5)], ids=str)
@pytest.mark.parametrize("given", [(24, 36), (36, 24), (24, 24), (13, 61)], ids=str)
def test_a_picture_gets_any_shape_without_being_stretched(given: tuple[int, int], size: tuple[int, int]) -> None:
    """A ramp along each axis tells which part of the picture is seen: its middle, equally far along both axes."""
    down, right = (np.linspace(0, 1, n, dtype=np.float32) for n in given)
    values = np.stack([np.broadcast_to(down[:, None], given), np.broadcast_to(right, given), np.zeros(given)], -1)
    loaded = image.load(encoded(Image.fromarray((values * 255).round().astype(np.uint8))))
    made = pixels(loaded.media(size)).astype(float) / 255
    assert made.shape == (*size, 3)
    seen = [np.ptp(made[:, size[1] // 2, 0]) * given[0], np.ptp(made[size[0] // 2, :, 1]) * given[1]]  # pixels of the file
    across = [n * (s - 1) / s for n, s in zip(seen_of(given, size), size)]
    np.testing.assert_allclose(seen, across, atol=1.5)
    np.testing.assert_allclose(made[..., :2].mean((0, 1)), 0.5, atol=0.03)
    share = np.prod(seen_of(given, size)) / np.prod(given)
    assert loaded.beyond(size) == pytest.approx(1 - share, abs=1e-6)
    whole = loaded.media(size, "pad")
    assert whole.shape == (3, *size)
    assert float(whole[2].max() > 0) == float(share < 0.9), "borders are white where the shape is another"


def seen_of(given: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Height and width of the largest part of ``given`` that has the shape of ``size``."""
    scale = min(given[0] / size[0], given[1] / size[1])
    return size[0] * scale, size[1] * scale


def test_borders_of_what_was_transparent_are_the_background() -> None:
    glass = np.zeros((8, 24, 4), np.uint8)
    glass[2:6, :] = (0, 0, 255, 255)
    square = pixels(image.load(encoded(Image.fromarray(glass)), background=(1, 2, 3)).media(24, "pad"))
    assert (square[[0, 8, 9, -1]] == (1, 2, 3)).all()
    assert (square[11:13] == (0, 0, 255)).all()


def test_borders_of_16_bit_grey() -> None:
    values = np.full((8, 24), 257 * 100, np.uint16)
    values[3:5] = 65535
    media = image.load(encoded(Image.fromarray(values))).media(24, "pad")
    assert (pixels(media)[0] == 100).all()
    assert (pixels(media)[11] == 255).all()


def test_pictures_that_are_not_read_say_the_way_out() -> None:
    assert image.unread(".PNG") == image.unread(".mp4") == image.unread("") == ""
    assert "save it as PNG" in image.unread(".CR2")
    assert "JPEG XL" in image.unread(".jxl")


def test_heic() -> None:
    """With its decoder it is a picture like any other; without, the sentence has the line that installs one."""
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    try:
        import pillow_heif
    except ImportError:
        assert "pip install 'fewstep[heif]'" in image.unread(".HEIC")
        with pytest.raises(ValueError, match=r"pip install 'fewstep\[heif\]'"):
            image.read(head + bytes(64))
        return
    assert image.unread(".heic") == ""
    with pytest.raises(ValueError, match="damaged"):
        image.read(head + bytes(64))
    image.read(encoded(Image.new("RGB", (16, 16))))  # registers the format
    if not pillow_heif.libheif_info()["HEIF"]:
        pytest.skip("this pillow-heif cannot write HEIC")
    exif = Image.Exif()
    exif[0x0112] = 6
    half = np.zeros((64, 96, 3), np.uint8)
    half[:, 48:] = 255
    data = encoded(Image.fromarray(half), "HEIF", quality=90, exif=exif.tobytes())
    media = image.read(data)
    assert media.shape == (3, 96, 64)
    assert media[:, :40].max() < -0.8
    assert media[:, 56:].min() > 0.8, "turned a quarter: what was on the right is below"


@pytest.mark.parametrize(("brand", "kind"), [(b"avif", "AVIF"), (b"heic", "HEIF")])
def test_a_format_that_is_not_taken_is_no_damaged_file(brand: bytes, kind: str):
    """Where only some formats may be decoded, as on a server, the others are named."""
    whole = b"\0\0\0\x1cftyp" + brand + bytes(200)
    with pytest.raises(ValueError, match=f"{kind} is not taken here; save it as PNG, JPEG or WebP"):
        image.load(whole, formats=("PNG", "JPEG", "WEBP"))
