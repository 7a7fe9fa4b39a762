"""What is left of the watermark in a browser's recording: by size of the picture, by bitrate, by how much moves.

    python benchmarks/recording.py          # about five minutes; needs playwright, Chromium and PyAV
    python benchmarks/recording.py --quick

Marked pictures are shown as the studio shows them (small ones enlarged to about 512 px), 15 a second, and recorded by
Chromium's own MediaRecorder in VP8; the film is decoded again and read as ``fewstep verify`` reads it.
"""

from __future__ import annotations

import argparse
import base64
import io
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from watermark import photo, table, write

from fewstep.provenance import SpreadSpectrum, mark_payload, recording

PICTURES = 45
SECONDS = 3
PER_S = 15
PAYLOAD = mark_payload("a bundle")
PAGE = """async ({pictures, shown, bits, seconds, perS}) => {
    const canvas = Object.assign(document.createElement("canvas"), {width: shown, height: shown});
    const c = canvas.getContext("2d");
    c.imageSmoothingQuality = "high";
    const maps = await Promise.all(pictures.map(async p => createImageBitmap(await (await fetch(p)).blob())));
    const recorder = new MediaRecorder(canvas.captureStream(30), {mimeType: "video/webm;codecs=vp8",
        ...(bits ? {videoBitsPerSecond: bits} : {})});
    const chunks = [];
    recorder.ondataavailable = e => chunks.push(e.data);
    const stopped = new Promise(resolve => recorder.onstop = resolve);
    let n = 0;
    const draw = () => c.drawImage(maps[n++ % maps.length], 0, 0, shown, shown);
    draw();
    recorder.start(500);
    const clock = setInterval(draw, 1000 / perS);
    await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
    clearInterval(clock);
    recorder.stop();
    await stopped;
    const data = new Uint8Array(await new Blob(chunks).arrayBuffer());
    let text = "";
    for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
    return btoa(text);
}"""


def scene(side: int, moving: bool, marked: bool) -> Iterator[str]:
    """Pictures as a server streams them, as data URLs: a pan over a "photograph", or one view of it with a camera's noise."""
    rng, mark = np.random.default_rng(5), SpreadSpectrum()
    large = Image.fromarray(photo(rng, 2 * side))
    for number in range(PICTURES):
        at = number * side / PICTURES if moving else side / 4
        view = large.transform((side, side), Image.Transform.AFFINE, (1, 0, at, 0, 1, at / 2), Image.Resampling.BICUBIC)
        noisy = np.asarray(view) + rng.normal(0, 0 if moving else 3, (side, side, 3))
        picture = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(mark.embed(picture, PAYLOAD) if marked else picture).save(file, "JPEG", quality=92, subsampling=0)
        yield "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def measure(page: Any, side: int, moving: bool, bits: int, marked: bool = True) -> dict[str, Any]:
    shown = side * max(1, round(512 / side))
    given = {"pictures": list(scene(side, moving, marked)), "shown": shown, "bits": bits}
    film = base64.b64decode(page.evaluate(PAGE, given | {"seconds": SECONDS, "perS": PER_S}))
    mark = SpreadSpectrum()
    frames = [Image.fromarray(frame).reduce(shown // side) for frame, _ in recording.frames(film, "video/webm")]
    single = [mark.detect(np.asarray(frame)) for frame in frames]
    found = recording.detect(film, "video/webm", mark)
    assert found is not None
    mask = (1 << found.payload_bits) - 1
    return {
        "px": side,
        "shown px": shown,
        "scene": ("everything moves" if moving else "still, with noise") + ("" if marked else ", unmarked"),
        "kbit/s asked": bits // 1000 or "default",
        "kbit/s": round(len(film) * 8 / SECONDS / 1000),
        "bits a pixel": round(len(film) * 8 / (len(frames) * shown**2), 3),
        "frames proven alone": f"{sum(one.found for one in single)} of {len(single)}",
        "log10 p": round(math.log10(found.p_value)),
        "found": "yes" if found.found else "no",
        "payload": {PAYLOAD & mask: "right", None: "-"}.get(found.payload, "WRONG"),
    }


def side_by_side(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of docs/provenance.md: a size and a rate a line, what moves beside what is still."""
    lines: dict[tuple[int, object], dict[str, Any]] = {}
    for row in rows:
        name = {"everything moves": "moving", "still, with noise": "still"}.get(row["scene"])
        if name is None:
            continue
        asked = row["kbit/s asked"]
        shown = asked if asked == "default" else f"{asked} kbit/s" if asked < 1000 else f"{asked // 1000} Mbit/s"
        line = lines.setdefault((row["px"], asked), {"px (shown)": f"{row['px']} ({row['shown px']})", "asked": shown})
        found = f"1e{row['log10 p']}" if row["found"] == "yes" else "**no**"
        line |= {f"{name}: bits": f"{row['bits a pixel']:.3f}", f"{name}: proven alone": row["frames proven alone"],
                 f"{name}: found": found}  # fmt: skip
    return list(lines.values())


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes, two rates")
    parser.add_argument("--write", type=Path, help="folder for the table's file, such as docs/results; then: make docs")
    arguments = parser.parse_args()
    quick = arguments.quick
    sides, rates = ((64, 512), (300_000, 0)) if quick else ((64, 256, 512, 1024), (100_000, 300_000, 1_000_000, 0, 8_000_000))
    rows = []
    with sync_playwright() as running:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = running.chromium.launch(executable_path=system, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        for side in sides:
            for moving in (True, False):
                rows += [measure(page, side, moving, bits) for bits in rates]
            rows.append(measure(page, side, True, 0, marked=False))
        print(f"Recorded by Chromium {browser.version}, {SECONDS} s each.\n\n{table(rows)}")
        if arguments.write:
            measured = f"Measured by `python benchmarks/recording.py`, Chromium {browser.version}, {SECONDS} s each."
            write(arguments.write, "recording", side_by_side(rows), measured)
        browser.close()


if __name__ == "__main__":
    main()
