"""Duties of whoever passes a model on: its licence, the texts that go with it, its safety checker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .safety import FILES as CHECKER_FILES

TEXTS = re.compile(
    r"(licen[cs]es?|copying|notice|copyright|patents|authors|third[-_ ]?party|(acceptable[-_ ]?)?use[-_ ]?policy)"
    r"([-_ .].*)?",
    re.IGNORECASE,
)
"""Names of files that a licence asks to be passed on, with any ending."""
README = "README.md"
TEACHERS_README = "README.teacher.md"
"""The teacher's own page, where it goes along: it may state limits of use."""
FRONT = ("license", "license_name", "license_link")
"""Fields of a page's front matter that state a licence, as model hubs read them."""
RESEARCH_ONLY = re.compile(
    r"non[-_ ]?commercial|research[-_ ](use[-_ ])?only|(^|[^a-z])nc([^a-z]|$)|research[-_ ]community|mnpl",
    re.IGNORECASE,
)
"""Words of licences that allow no commercial use: CC BY-NC, NVIDIA's NC, FLUX.1's, Stability's for research."""
TITLE = 400
"""Characters of a licence's text that hold its title."""
NOT_TEXTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx", ".py")


@dataclass(frozen=True)
class Terms:
    """The licence of a pipeline's folder."""

    front: dict[str, str]
    """``license`` and its like, from the front matter of README.md; empty where it has none."""
    texts: tuple[str, ...]
    """Files with licence texts and notices, by path in the folder."""

    @property
    def licence(self) -> str:
        """One line for a card: "openrail++", "other (its name, its link)" or "see LICENSE"; "" if the folder says nothing."""
        first, *more = [self.front[name] for name in FRONT if self.front.get(name)] or [""]
        if first:
            return f"{first} ({', '.join(more)})" if more else first
        return f"see {self.texts[0]}" if self.texts else ""


def read_terms(folder: Path) -> Terms:
    """The terms in a folder: its page's front matter, and the texts beside it and beside its parts."""
    beside = [path for path in sorted(folder.iterdir()) if path.is_file()]
    parts = [
        path
        for part in sorted(folder.iterdir())
        if part.is_dir() and part.name != "lora"
        for path in sorted(part.iterdir())
        if path.is_file()
    ]
    texts = [p for p in (*beside, *parts) if TEXTS.fullmatch(p.name) and p.suffix.lower() not in NOT_TEXTS]
    return Terms(front_matter(folder / README), tuple(path.relative_to(folder).as_posix() for path in texts))


def title_of(text: Path) -> str:
    """The beginning of a licence's text, on one line."""
    with open(text, encoding="utf-8", errors="replace") as file:
        return " ".join(file.read(TITLE).split())


def research_only(folder: Path, licence: str = "") -> str:
    """What of a model's terms allows no commercial use, in its own words; "" where nothing says so.

    ``licence`` is what its card says. The front matter of its page, and the titles of its licence texts, are read too.
    """
    terms = read_terms(folder)
    if RESEARCH_ONLY.search(stated := licence or terms.licence):
        return stated
    if RESEARCH_ONLY.search(terms.licence):
        return terms.licence
    return next((name for name in terms.texts if RESEARCH_ONLY.search(title_of(folder / name))), "")


def check_commercial(what: str, stated: str, against: str) -> None:
    """Raise ValueError where ``what`` (a teacher, data) states no licence, or one (``against``) without commercial use."""
    if against:
        raise ValueError(
            f"{what} may not be used commercially ({against}), and --require-commercial asks for that: take another, or "
            "leave --require-commercial out"
        )
    if not stated:
        raise ValueError(
            f"{what} states no licence, and --require-commercial asks for one that allows commercial use: put what its "
            "makers say (license: NAME) into the front matter of its README.md, or leave --require-commercial out"
        )


def front_matter(page: Path) -> dict[str, str]:
    """The lines of a page's front matter that state a licence, as printable text; empty for a page without."""
    try:
        with open(page, encoding="utf-8", errors="replace") as file:
            text = file.read(2**16)
    except OSError:
        return {}
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if not found:
        return {}
    import yaml

    try:
        facts: Any = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError):
        return {}
    if not isinstance(facts, dict):
        return {}
    rows = {name: value if isinstance(value, list) else [value] for name in FRONT if (value := facts.get(name))}
    stated = {name: ", ".join(one for one in row if isinstance(one, str)) for name, row in rows.items()}
    return {k: "".join(c for c in v if c.isprintable())[:200] for k, v in stated.items() if v}


def pass_on(source: Path, target: Path) -> Terms:
    """Copy the texts of ``source`` into ``target``, its page as `TEACHERS_README`; returns its terms."""
    terms = read_terms(source)
    for name in terms.texts:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    page = next((source / name for name in (TEACHERS_README, README) if (source / name).is_file()), None)
    if page is not None:  # of a student of a student it is still the first teacher's
        shutil.copyfile(page, target / TEACHERS_README)
    return terms


def page_of(
    name: str, teacher: str, steps: tuple[int, ...], front: dict[str, str], arguments: Mapping[str, Any] | None = None
) -> str:
    """A student's own README.md: its front matter states the licence that it inherits, as model hubs read it.

    ``arguments`` are what its stock pipeline is asked with beside ``guidance_scale=0``.
    """
    import yaml

    head = yaml.safe_dump({**front, "library_name": "diffusers", "pipeline_tag": "text-to-image"}, sort_keys=False)
    counts = ", ".join(map(str, steps))
    asked = ", ".join(f"{key}={value!r}" for key, value in {"guidance_scale": 0, **(arguments or {})}.items())
    return (
        f"---\n{head}---\n# {name}\n\nA few-step student of {teacher}, distilled with fewstep: good for {counts} "
        f"step{'s' * (steps != (1,))} with `{asked}`.\nIts teacher's licence holds for it too, with the texts beside "
        f"this page; what its teacher's makers say of it stands in `{TEACHERS_README}`.\n"
    )


def checker_of(source: Path, index: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The lines of a bundle's model_index.json for the safety checker that ``source`` brings, and why there is none.

    ``index`` is the one of ``source``. The reason is empty where there is a checker to take along, or none at all.
    """
    names = ("safety_checker", "feature_extractor")
    if any((index.get(name) or [None, None])[1] is None for name in names):
        return {}, ""
    if missing := [name for name in CHECKER_FILES if not (source / name).is_file()]:
        return {}, f"{missing[0]} is missing"
    return {name: index[name] for name in (*names, "requires_safety_checker") if name in index}, ""


def copy_checker(source: Path, target: Path) -> None:
    """The files of the safety checker, and what it prepares pictures with."""
    for name in CHECKER_FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
