"""The rules of the house, read off the source: who may import whom, and what may never stand in it."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest
import pytest_socket

import fewstep

SOURCE = Path(fewstep.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

CORE = ("version", "pixels", "plugin", "text", "files", "tensors", "rng", "ranges", "sizes", "options", "extras", "diffusion",
        "parts")  # fmt: skip
RUN = (*CORE, "pretrained", "modality", "data")
STUDENT = (*RUN, "bundle")
SEES: dict[str, tuple[str, ...]] = {
    "version": (),
    "pixels": (),
    "tensors": (),
    "rng": ("tensors",),
    "ranges": (),
    "sizes": (),
    "options": (),
    "extras": (),
    "text": (),
    "files": ("text",),
    "plugin": (),
    "diffusion": ("tensors", "rng"),
    "parts": ("plugin", "tensors", "rng", "ranges", "sizes", "options", "extras", "diffusion"),
    "pretrained": CORE,
    "modality": CORE,
    "report": (*CORE, "modality"),
    "data": (*CORE, "modality", "pretrained"),  # files -> modality.read -> media; a teacher's tokenizer counts captions
    "bundle": RUN,
    "adoption": STUDENT,
    # one arm: distil
    "methods": RUN,
    "training": (*STUDENT, "methods", "report"),
    "recipes": (*STUDENT, "methods", "training"),
    # the other: serve
    "inference": STUDENT,
    "server": (*STUDENT, "inference", "provenance"),
    "client": ("pixels", "provenance", "server"),  # the wire, and whose turn it is: neither torch nor the model
    # beside them
    "evaluation": (*STUDENT, "inference", "report"),
    "arena": (*STUDENT, "inference", "evaluation", "report", "server", "provenance"),  # it judges, and it serves a page
    "contest": (*STUDENT, "methods", "training", "recipes", "inference", "evaluation", "report", "provenance"),
    "judges": (*STUDENT, "inference", "evaluation", "report", "provenance", "arena"),  # it draws and reads what an arena does
    "provenance": ("version", "pixels", "text", "files", "plugin", "extras"),
}
"""Which rooms a room may look down into. The two arms meet in the bundle and nowhere else."""
SERVER: dict[str, tuple[str, ...]] = {
    "wire": (),
    "metrics": (),
    "access": (),
    "limits": ("wire",),
    "sessions": ("wire",),
    "drawing": ("wire", "metrics", "sessions"),
    "state": ("wire", "metrics", "access", "limits", "sessions", "drawing"),
    "http": ("wire", "metrics", "access", "limits", "sessions", "drawing", "state"),
    "app": ("wire", "metrics", "access", "limits", "sessions", "drawing", "state", "http"),
}
"""Which rooms of the server a room of the server may look down into: only ``app`` knows them all."""
SURFACE = ("cli", "console", "demo", "failures", "memory", "sheet")
"""What a person touches: sees every room, and no room sees it."""

CONTRACTS: dict[str, tuple[str, ...]] = {
    "methods": ("method", "adversarial", "scores", "tangents"),
    "inference.backends": (),
    "modality": (),
    "training.sinks": (),
    "parts.features": ("feature",),
    "evaluation": ("record", "bootstrap", "jackknife", "compare", "evaluate", "suite", "progress", "pages", "reconstruction",
                   "check", "genuine", "ruler"),
    "data": ("dataset",),
    "judges": ("judge", "kit", "running", "environment", "trial", "picture_sets", "figures", "command"),
}
"""Families, whose files never import each other, and the files in them that hold their contract or gather them."""


def module_of(path: Path) -> str:
    """``diffusion.sampler`` for its file, ``diffusion`` for its ``__init__``."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, within fewstep, of everything a file imports from it, at any depth; the package itself is ''."""
    package = ["fewstep", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            inner = origin.removeprefix("fewstep").lstrip(".")
            names = []
            for alias in node.names:
                deeper = f"{inner}.{alias.name}".lstrip(".")
                names.append(f"fewstep.{deeper}" if origin.startswith("fewstep") and deeper in MODULES else origin)
        else:
            continue
        for name in names:
            if name == "fewstep" or name.startswith("fewstep."):
                yield node.lineno, name.removeprefix("fewstep").lstrip(".")


def complaint(importer: str, imported: str) -> str:
    """What is wrong with this arrow; empty if nothing is."""
    here, there = importer.split(".")[0], imported.split(".")[0]
    if there in SURFACE and here not in SURFACE:
        return f"{importer} imports {imported}: nothing below sees what a person touches"
    for family, contracts in CONTRACTS.items():
        members = [
            m.removeprefix(family + ".")
            for m in (importer, imported)
            if m.startswith(family + ".") and "." not in m.removeprefix(family + ".")
        ]
        members = [m for m in members if m not in contracts and not m.startswith("_")]
        if len(members) == 2 and importer != imported:
            return f"{importer} imports {imported}: files of one family never import each other"
    if here == there == "server" and importer != "server":
        here, there = (name.split(".")[1] for name in (importer, imported))
        allowed = here == there or there in SERVER.get(here, ())
        return "" if allowed else f"{importer} imports {imported}: an arrow upward or sideways in the server"
    if not imported:
        return f"{importer} imports the package itself, which imports the client: the version is in fewstep.version"
    if here in SURFACE or not importer or here == there:
        return ""
    if here not in SEES:
        return f"{importer} stands in no room: give it one in tests/test_house.py and in the design"
    return "" if there in SEES[here] else f"{importer} imports {imported}: an arrow upward or sideways"


def test_arrows_go_down_only() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {said}"
        for path in FILES
        for line, imported in imports(path)
        if (said := complaint(module_of(path), imported))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_walls_have_no_circle() -> None:
    """Every room stands on rooms that do not stand on it."""
    for rooms in (SEES, SERVER):
        for room, below in rooms.items():
            assert room not in below
            assert all(room not in rooms[under] for under in below)


def circles(arrows: Mapping[str, Set[str]]) -> list[list[str]]:
    """Every set of modules that import one another, directly or by way of others (what remains once no end can be taken off)."""
    below = {module: set(imported) & set(arrows) - {module} for module, imported in arrows.items()}
    while ends := {module for module, imported in below.items() if not imported}:
        below = {module: imported - ends for module, imported in below.items() if module not in ends}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        new = below[start]
        while new:
            seen |= new
            new = {further for module in new for further in below[module]} - seen
        return seen

    from_each = {module: reached(module) for module in below}
    found = {tuple(sorted(m for m in seen if one in from_each[m])) for one, seen in from_each.items() if one in seen}
    return sorted(map(list, found))


def test_no_modules_import_one_another() -> None:
    """Neither at the top of a file, nor inside a function, nor for types alone."""
    arrows: dict[str, set[str]] = {module: set() for module in MODULES}
    for path in FILES:
        arrows[module_of(path)] |= {imported for _, imported in imports(path)}
    assert circles(arrows) == []


def test_a_circle_is_found_however_long_and_what_hangs_on_it_is_not_part_of_it() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}, "f": {"g"}, "g": {"f"}, "h": {"h"}}
    assert circles(arrows) == [["a", "b", "c"], ["f", "g"]]


# fmt: off
PRIVATE = frozenset({
    "Seat", "Taken", "Held", "Kept", "KeptPicture", "Shelf", "Left", "Room", "Door", "Gate", "Guard", "Link", "Stay", "Turns",
    "Turn", "Ask", "Marks", "Facts", "Desk", "Lines", "Line", "Live", "Attended", "Party", "Fair", "Sent", "Answer",
    "Remembered", "ByTime", "OfMedia", "OfTeacher", "Bench", "Subject", "Way", "Rung", "Alike", "Crops", "Eyes", "Looked",
    "Teach", "Teaching", "eyes", "game", "load_eyes", "look", "look_through", "take_a_look",
})
# fmt: on
"""Names that only this house would understand: for each of them the field has a word (a session, a request, a scheduler)."""
PUBLIC = {"methods.method": {"Turn", "Facts"}}
"""Modules in which one of them is the design's own word."""


def private_names(module: str, tree: ast.AST) -> list[str]:
    """Classes, functions and aliases of types that bear one of them."""
    named = [n.name for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.Assign):
            named += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in named if name in PRIVATE - PUBLIC.get(module, set())]


def test_classes_have_the_words_of_the_field() -> None:
    found = {module_of(path): private_names(module_of(path), ast.parse(path.read_text("utf-8"))) for path in FILES}
    assert not {module: names for module, names in found.items() if names}
    wrong = ast.parse("class Seat: ...\nParty = tuple[str, ...]\nclass Session: ...\nclass Turn: ...")
    assert sorted(private_names("server.state", wrong)) == ["Party", "Seat", "Turn"]
    assert sorted(private_names("methods.method", wrong)) == ["Party", "Seat"]
    assert private_names("training.run", ast.parse("class Fine:\n    def look(self): ...")) == ["look"]


def test_no_picture_stands_for_a_plain_word() -> None:
    """A training is no game, a feature network has no eyes, an experiment is no rung."""
    found = [(module_of(path), re.findall(r"\b(?:games?|eyes|rungs?)\b", path.read_text("utf-8"))) for path in FILES]
    assert [(module, words) for module, words in found if words] == []


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("bundle", "", False),
        ("bundle", "version", True),
        ("diffusion.sampler", "parts.denoiser", False),
        ("tensors", "rng", False),
        ("training.trainer", "methods.method", True),
        ("training.trainer", "recipes.digits", False),
        ("methods.add", "methods.method", True),
        ("methods.add", "methods.regression", False),
        ("methods.add", "training.trainer", False),
        ("parts.features.teacher", "parts.features.feature", True),
        ("parts.features.teacher", "parts.features.dinov2", False),
        ("inference.pipeline", "training.data", False),
        ("inference.backends.onnx", "inference.backend", True),
        ("inference.backends.onnx", "inference.backends.openvino", False),
        ("server.drawing.engine", "inference.pipeline", True),
        ("server.drawing.engine", "evaluation.record", False),
        ("server.drawing.engine", "provenance.watermark", True),
        ("recipes.emoji", "bundle", True),
        ("bundle", "training.trainer", False),
        ("evaluation.kernel", "evaluation.bootstrap", True),
        ("evaluation.evaluate", "evaluation.kernel", True),
        ("evaluation.kernel", "evaluation.frechet", False),
        ("provenance.verify", "tensors", False),
        ("data.emoji", "data.dataset", True),
        ("data.emoji", "data._npm", True),
        ("data.emoji", "data.digits", False),
        ("server.drawing.engine", "server.wire.images", True),
        ("server.drawing.engine", "server.limits", False),
        ("server.sessions.scheduler", "server.drawing.worker", False),
        ("server.http.websocket", "server.state", True),
        ("server.state", "server.http.disconnect", False),
        ("client", "server.wire.protocol", True),
        ("cli", "server.app", True),
        ("training.run", "console", False),
        ("attic", "tensors", False),
    ],
)
def test_the_rule_tells_right_from_wrong(importer: str, imported: str, allowed: bool) -> None:
    assert (complaint(importer, imported) == "") == allowed


def test_folders_of_tests_mirror_the_rooms() -> None:
    """Files that tests read are in ``assets``; test files at the top are of what is no room, or of several."""
    tests = Path(__file__).parent
    for path in tests.rglob("test_*.py"):
        place = path.relative_to(tests).parent.as_posix()
        assert place in (".", "server/page") or (SOURCE / place).is_dir(), f"{path} is in no room"
    names = [path.name for path in tests.rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest imports them by their name alone"


def in_the_locales_encoding(tree: ast.AST) -> list[int]:
    """Lines that read or write text without naming an encoding."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        match node.func:
            case ast.Attribute(attr="read_text"):
                wrong = not node.args
            case ast.Attribute(attr="write_text"):
                wrong = len(node.args) < 2
            case ast.Name(id="open") | ast.Attribute(attr="open", value=ast.Attribute(attr="path") | ast.Name(id="path")):
                texts = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
                wrong = not any("b" in mode for mode in texts)
            case _:
                wrong = False
        if wrong:
            found.append(node.lineno)
    return found


def test_no_text_is_read_or_written_in_the_locales_encoding() -> None:
    """What one machine writes, another reads: Windows and a plain C locale have encodings of their own."""
    wrong = [f"{path.name}:{line}" for path in FILES for line in in_the_locales_encoding(ast.parse(path.read_text("utf-8")))]
    assert not wrong, f"name the encoding: {wrong}"
    bad = 'p.read_text()\np.write_text("é")\nopen(p)\nopen(p, "a")\nself.path.open("a")'
    good = 'p.read_text("utf-8")\np.write_text("é", "utf-8")\nopen(p, "rb")\nopen(p, encoding="utf-8")\nImage.open(p)'
    assert (in_the_locales_encoding(ast.parse(bad)), in_the_locales_encoding(ast.parse(good))) == ([1, 2, 3, 4, 5], [])


def test_imports_are_read_in_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_house.SOURCE", tmp_path)
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts" / "x.py"
    path.write_text(
        "import torch, fewstep.rng\nfrom fewstep.tensors import Batch\nfrom .denoiser import Student\nfrom . import codec\n"
        "from .. import bundle, __version__\ndef f():\n    from ..training.run import run\n"
    )
    found = [name for _, name in imports(path)]
    assert found == ["rng", "tensors", "parts.denoiser", "parts.codec", "bundle", "", "training.run"]


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call and its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def imported_packages(tree: ast.AST) -> set[str]:
    """Top-level names of foreign packages."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_forbidden_stands_in_a_file(path: Path) -> None:
    text = path.read_text()
    tree, room = ast.parse(text), module_of(path).split(".")[0]
    assert "torchvision" not in imported_packages(tree), (
        "a CUDA build of it beside a CPU torch breaks everything at import"
    )
    assert not imported_packages(tree) & {"pickle", "dill", "joblib", "cloudpickle", "shelve"}, (
        "reading a pickle runs its code"
    )
    for call, name in calls(tree):
        options = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load":
            assert options.get("weights_only") == "True", f"line {call.lineno}: a pickle"
        if name in ("np.load", "numpy.load"):
            assert options.get("allow_pickle") == "False", f"line {call.lineno}: a pickle"
    machine = re.findall(r"/(?:work|root)/\S*|/(?:home|Users)/\S+|[A-Z]:\\\\\S+", text)
    assert not machine, f"paths of one machine: {machine}"
    if room in ("diffusion", "methods", "training"):
        drawn = [
            f"line {c.lineno}: {n}" for c, n in calls(tree) if DRAWS.fullmatch(n) and "generator" not in str(c.keywords)
        ]
        assert not drawn, f"randomness is an argument: {drawn}"


def private_strings(tree: ast.AST) -> list[str]:
    """Calls that reach a private name by a string: of an attribute, or of a dotted path into fewstep."""
    found = []
    for call, name in calls(tree):
        by_name = name.rpartition(".")[2] in ("setattr", "getattr", "delattr", "hasattr")
        for text in (a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)):
            private = any(re.match(r"_(?!_)", part) for part in text.split("."))
            if private and ((by_name and "." not in text) or text.startswith("fewstep.")):
                found.append(f"line {call.lineno}: {text!r}")
    return found


def test_no_test_names_what_is_private_by_a_string() -> None:
    """A renaming would break such a test, and no tool would find the place."""
    tests = Path(__file__).parent
    found = {str(p.relative_to(tests)): private_strings(ast.parse(p.read_text("utf-8"))) for p in tests.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("code", "many"),
    [
        ("patch.setattr(thing, '_hidden', 1)", 1),
        ("patch.setattr('fewstep.rng._hidden', 1)", 1),
        ("getattr(thing, '_hidden')", 1),
        ("patch.setattr('torch.optim._hidden', 1)", 0),
        ("getattr(thing, '__name__')", 0),
        ("config.pop('_class_name')", 0),
    ],
)
def test_private_strings_are_found(code: str, many: int) -> None:
    assert len(private_strings(ast.parse(code))) == many


DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|rand_like|randn_like|normal|bernoulli|multinomial)"
    r"|random\.\w+|np\.random\.(?!Generator|PCG64)\w+"
)
"""Draws from a global stream; a Generator made from a seed is fine."""


def option_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Every dataclass called Options, or something Options."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Options") and node.decorator_list:
                yield f"{module_of(path)}.{node.name}", node


@pytest.mark.parametrize(("name", "node"), [pytest.param(*case, id=case[0]) for case in option_classes()])
def test_options_are_frozen_and_every_field_is_explained(name: str, node: ast.ClassDef) -> None:
    """The command line's help is made from these sentences."""
    assert "frozen=True" in ast.unparse(node.decorator_list[0])
    for field, after in zip(node.body, [*node.body[1:], None]):
        if isinstance(field, ast.AnnAssign):
            said = (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            )
            assert said, f"{name}.{ast.unparse(field.target)} has no sentence under it"


@pytest.mark.parametrize("path", ["src/fewstep/rng.py", "benchmarks/load.py", "tests/helpers.py"])
def test_a_misspelt_name_is_found_in_every_function(path: str) -> None:
    """`make check` finds it, shape strings notwithstanding; nothing else would before the line is run."""
    root = SOURCE.parents[1]
    wrong = 'def f(x: Float[Tensor, "B C *S"], y: Float[Tensor, " B"]) -> float:\n    return sum(z * misspelt for z in x)\n'
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename", path, "-"]
    text = (root / path).read_text() + "\n\n" + wrong
    said = subprocess.run(command, input=text, cwd=root, capture_output=True, text=True, check=False).stdout
    assert "F821 Undefined name `misspelt`" in said
    assert not re.search("Undefined name `[BCS]`", said)


def test_the_network_is_out_of_reach_of_every_test() -> None:
    with (
        pytest.warns(match="tried to use socket"),
        pytest.raises(pytest_socket.SocketConnectBlockedError),
        socket.socket() as s,
    ):
        s.connect(("192.0.2.1", 80))
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def test_shapes_are_checked_while_the_tests_run() -> None:
    import torch
    from jaxtyping import TypeCheckError

    from fewstep.diffusion.guidance import guide

    with pytest.raises(TypeCheckError):
        guide(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5), 1.0)
