"""What stands around the code: forms, workflow, citation, changelog, container, service. Linters run where they are installed."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

import pytest
import tyro
import yaml

from fewstep import __version__, cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def tracked() -> list[Path]:
    """Text files of the repository."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout here")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_forms_are_what_their_readers_take(schema: str, pattern: str):
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("no check-jsonschema here: pip install check-jsonschema")
    files = sorted(map(str, ROOT.glob(pattern)))
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_one_list_of_checks_serves_make_pre_commit_and_ci():
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == ["make check"]
    assert "\nmake check\n" in (ROOT / ".ci" / "run").read_text()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        assert any(step.get("run") == ".ci/run" for step in steps), path
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_citation_is_of_this_version_and_its_method():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (cited["version"], cited["license"]) == (__version__, project["license"])
    assert cited["references"][0]["url"].endswith("2311.17042")


def test_the_changelog_is_kept():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[([^\]]+)\](.*)$", text, re.M)
    assert versions[0][0] == "Unreleased"
    assert versions[1][0] == __version__
    assert all(re.match(r" - \d{4}-\d\d-\d\d", rest) for name, rest in versions[1:])
    kinds = set(re.findall(r"^### (\w+)", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_what_pages_and_forms_name_is_there():
    """Links into the repository, paths, and commands: of every page at its root, of docs/ and of the forms."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob(".github/**/*.md")]
    known = {*cli.commands(""), "help"}
    for page in pages:
        text = page.read_text("utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not re.match(r"https?:|mailto:", link):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
        if page.name != "log.md":
            for command in re.findall(r"`fewstep ([a-z]+)[ `]", text):
                assert command in known, f"{page.name}: fewstep {command}"
            for path in re.findall(r"\b(?:src|tests|benchmarks|deploy)/[\w/.-]+\.\w+", text):
                assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_files_are_as_editorconfig_says():
    asked = ConfigParser()
    asked.read_string("[DEFAULT]\n" + (ROOT / ".editorconfig").read_text("utf-8"))
    assert (asked["*"]["charset"], asked["*"]["end_of_line"]) == ("utf-8", "lf")
    for path in tracked():
        data = path.read_bytes()
        data.decode("utf-8")
        assert b"\r" not in data or path.suffix == ".py", path
        assert not data or data.endswith(b"\n"), f"{path}: no newline at its end"
        if path.suffix != ".md":
            assert not re.search(rb"[ \t]+$", data, re.M), f"{path}: spaces at the end of a line"
        if path.name != "Makefile" and path.suffix != ".json":
            assert not re.search(rb"^\t", data, re.M), f"{path}: tabs"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile and what follows them, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", dockerfile, flags=re.M))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def parsed_serve(words: Sequence[str]) -> object:
    """Options of ``fewstep serve``; fails for what it would not take."""
    assert words[0] == "serve"
    return tyro.cli(cli.options_of(*cli.OPTIONS["serve"][1:]), args=list(words[1:]))


def test_containers_start_what_there_is():
    steps = instructions((DEPLOY / "Dockerfile").read_text("utf-8"))
    commands = [json.loads(rest) for word, rest in steps if word == "CMD"]
    assert len(commands) == 2
    for command in commands:
        options = parsed_serve(command)
        assert (options.host, options.token, options.port) == ("0.0.0.0", "auto", 7860)  # type: ignore[attr-defined]
    assert [rest for word, rest in steps if word == "USER"] == ["fewstep"] * 2
    copied = [name for word, rest in steps if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    kept = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8"), re.M)
    assert sorted(set(copied)) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = " ".join(rest for word, rest in steps if word == "RUN")
    named = {extra for found in re.findall(r"\.whl\)\[([^\]]+)\]", installed) for extra in found.split(",")}
    assert named == {"serve", "backends"} <= set(extras)


def test_the_dockerfile_is_clean():
    if (linter := shutil.which("dockerfile-utils")) is None:
        pytest.skip("no dockerfile-utils here: npm install dockerfile-utils")
    done = subprocess.run([linter, "lint", str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def service() -> str:
    return (DEPLOY / "fewstep.service").read_text("utf-8")


def test_the_service_starts_what_there_is():
    started = re.search(r"^ExecStart=(.*)$", service(), re.M)
    assert started is not None
    program, *words = shlex.split(started[1].replace("${FEWSTEP_TOKEN}", "secret"))
    assert Path(program).name == "fewstep"
    options = parsed_serve(words)
    assert (options.host, options.root_path, options.token) == ("127.0.0.1", "/studio", "secret")  # type: ignore[attr-defined]
    proxied = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert f"proxy_pass http://127.0.0.1:{options.port};" in proxied  # type: ignore[attr-defined]
    assert f"location {options.root_path}/ {{" in proxied  # type: ignore[attr-defined]
    assert options.names == tuple(set(re.findall(r"server_name (.*);", proxied)))  # type: ignore[attr-defined]


def test_the_service_is_one_to_systemd(tmp_path: Path):
    if (systemd := shutil.which("systemd-analyze")) is None:
        pytest.skip("no systemd here")
    here = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", service())
    unit = tmp_path / "fewstep.service"
    unit.write_text(here.replace("file:///opt/fewstep/docs/deploy.md", "https://example.org"))
    done = subprocess.run([systemd, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "fewstep.service" in line]
    assert not ours
    for wrong, said in (("DynamicUser=perhaps", "Failed to parse boolean"), ("ProtectSytem=strict", "ProtectSytem")):
        unit.write_text(here.replace("DynamicUser=yes", wrong))
        done = subprocess.run([systemd, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
        assert said in done.stderr, "else it says nothing of anything"


def is_module(name: str) -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # where what should hold it is no package
        return importlib.util.find_spec(name) is not None
    return False


def test_what_benchmarks_and_examples_import_is_there() -> None:
    """They are run by hand, some of them for hours: a name that has moved must not be found out then."""
    missing = []
    for path in sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "fewstep":
                module = importlib.import_module(node.module or "")
                missing += [
                    f"{path.name}:{node.lineno}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not hasattr(module, alias.name) and not is_module(f"{node.module}.{alias.name}")
                ]
    assert missing == []
