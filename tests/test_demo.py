"""The demo, whole: pictures, a table, and a student that is the best of those that were looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import foreign
from bundles import tiny_bundle
from fewstep import cli, demo
from fewstep.bundle import Card
from fewstep.provenance.verify import verify
from fewstep.training import checkpoint
from fewstep.training.journal import Journal


def test_the_demo_ends_with_its_best_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    foreign.pictures(tmp_path / "cache" / "data" / "emoji")
    student, teacher = tiny_bundle(tmp_path / "a"), tiny_bundle(tmp_path / "b", "teacher")
    out = tmp_path / "demo"
    cli.main(["demo", "--student", str(student), "--teacher", str(teacher), "--out", str(out), "--concepts", "8",
              "--seconds", "1e-9", "1e-9"])  # fmt: skip
    looks = {x["step"]: x["probe/score"] for x in Journal.read(out / "run" / "add" / "journal.jsonl")}
    assert sorted(looks) == [0, 1], "one step of the game, looked at before and after"
    best = min(looks, key=looks.__getitem__)
    assert f"the best was seen after step {best}" in " ".join(capsys.readouterr().out.split())
    assert Card.read(out / "student").training["steps"] == best
    kept = checkpoint.load(out / "run" / "add" / "best")["players"]["student"]
    network = load_file(out / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, kept[f"network.{k}"]) for k, v in network.items())
    for name, made in (("shipped.png", student), ("before_after.png", out / "student")):
        said = verify(out / name)
        assert said.made_by_fewstep, "a sheet of drawn pictures says so"
        assert said.credentials.facts["bundle_hash"] == Card.read(made).fingerprint
    journal = out / "run" / "add" / "journal.jsonl"
    written = journal.stat().st_mtime_ns
    demo.distil(demo.Options(out, str(student), str(teacher), (1e-9, 1e-9), 8, resume=True))
    assert journal.stat().st_mtime_ns == written, "what was done is not done again"
    assert {"shipped.png", "before_after.png", "table.md"} <= {path.name for path in out.iterdir()}
