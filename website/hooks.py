"""What the site adds to the pages of docs/: a reference page for every public module, and pages that lie outside of docs/.

mkdocs calls the functions below while it builds. Nothing is listed by hand, so that a module or a guide may move freely.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md",
           "examples/README.md": "examples.md"}  # fmt: skip
"""Pages of the repository that the site shows, too, and what they are called there."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
SECTION = re.compile(r"^<!-- from (README|CONTRIBUTING): (.+?) -->$", re.M)
"""Where a page shows a section of one of these."""

log = get_plugin_logger("fewstep")


def modules(package: Path = SOURCE / "fewstep") -> dict[str, str]:
    """The page of every public module, by its dotted name; a room's page is the first of its folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        at = path.relative_to(package.parent).with_suffix("")
        if at.name == "__init__":
            at = at.parent / "index"
        if not any(part.startswith("_") for part in at.parts):
            found[".".join(part for part in at.parts if part != "index")] = f"reference/{at.as_posix()}.md"
    return found


def tree(room: str, pages: dict[str, str]) -> list[Any]:
    """The navigation of what is in a room: its own page, then what lies in it, rooms within rooms."""
    inner = [name for name in pages if name.rpartition(".")[0] == room]
    rooms = {name: tree(name, pages) for name in inner}
    return [
        pages[room],
        *({name.rpartition(".")[2]: held if len(held) > 1 else pages[name]} for name, held in rooms.items()),
    ]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation that are empty in mkdocs.yml, and put what no one names among the guides."""
    nav: list[Any] = config.nav or []
    docs = Path(config.docs_dir)
    named = set(re.findall(r"[\w/.]+\.md", str(nav)))
    filled = {
        "Tutorials": [p.relative_to(docs).as_posix() for p in sorted(docs.glob("tutorials/*.md"), key=order)]
        + ["examples.md"],
        "Guides": sorted(p.name for p in docs.glob("*.md") if p.name not in named),
        "Reference": tree("fewstep", modules()),
        "Log": ["contributing.md", "changelog.md", "security.md"],
    }
    for entry in nav:
        for title in entry:
            if title in filled:
                entry[title] = [*entry[title], *filled[title]]
    return config


def order(path: Path) -> tuple[int, str]:
    """Where a tutorial stands: by the number in a comment below its title (``<!-- 2 -->``), else last."""
    found = re.search(r"^<!-- (\d+) -->$", path.read_text("utf-8"), re.M)
    return int(found[1]) if found else 99, path.name


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/, and the studio's icon."""
    for module, page in modules().items():
        files.append(File.generated(config, page, content=f"::: {module}\n"))
    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text("utf-8")))
    icon = SOURCE / "fewstep" / "server" / "web" / "icon.svg"
    files.append(File.generated(config, "icon.svg", abs_src_path=str(icon)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put sections of other pages where a page asks for them, and turn links that leave docs/ around."""
    here = page.file.src_uri
    source = next((path for path, name in OUTSIDE.items() if name == here), f"docs/{here}")

    def section(found: re.Match[str]) -> str:
        origin, heading = f"{found[1]}.md", found[2]
        _, there, rest = (ROOT / origin).read_text("utf-8").partition(f"\n## {heading}\n")
        if not there:
            log.warning(f"{source} asks for the section {heading!r} of {origin}, which is not there")
        return turned(rest.split("\n## ")[0].strip(), origin)

    def turned(text: str, origin: str) -> str:
        return LINK.sub(lambda found: link(found, origin), text)

    def link(found: re.Match[str], origin: str) -> str:
        picture, words, target, anchor = found.groups()
        path = (ROOT / origin).parent.joinpath(target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            log.warning(f"{origin} links to {target}, which is not there")
            return found[0]
        inside = path.relative_to(ROOT).as_posix()
        if inside in OUTSIDE:
            there = OUTSIDE[inside]
        elif inside.startswith("docs/") and not inside.startswith("docs/results/"):
            there = inside.removeprefix("docs/")
        elif f"{inside}/README.md" in OUTSIDE:
            there = OUTSIDE[f"{inside}/README.md"]
        else:  # a file of the repository, which the site has no page for
            return words
        up = "../" * here.count("/")
        return f"{picture}[{words}]({up}{there}{anchor or ''})"

    if here.startswith("reference/"):
        return markdown
    return SECTION.sub(section, turned(markdown, source))
