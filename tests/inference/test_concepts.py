"""What a model knows by name: the list, how far a prompt is from it, and the page that offers it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from concept_lists import NAMES, far_and_near, with_list
from fewstep import bundle
from fewstep.inference import concepts
from fewstep.inference.concepts import Concepts
from fewstep.inference.pipeline import Pipeline
from fewstep.tensors import Conditioning
from serving_helpers import running


def test_a_list_is_read_as_people_write_it(tmp_path: Path):
    assert concepts.read(tmp_path) == ()
    path = tmp_path / concepts.LIST
    path.write_bytes(b"\xef\xbb\xbf  red   heart \r\n\r\ncat\r\ncat\r\n")
    assert concepts.read(tmp_path) == ("red heart", "cat")
    path.write_bytes("cœur".encode("latin-1", "replace") + b"\xff\n")
    with pytest.raises(ValueError, match="save it as UTF-8"):
        concepts.read(tmp_path)
    path.write_bytes(b"x" * (concepts.MOST_BYTES + 1))
    with pytest.raises(ValueError, match="one short name a line"):
        concepts.read(tmp_path)


def test_far_is_further_than_all_but_a_twentieth_of_the_concepts_from_their_next():
    """Unit vectors on a circle, whose cosines are known: pairs 1 degree apart, and one pair of 60 degrees."""
    angles = torch.tensor([20.0 * i + d for i in range(10) for d in (0, 1)])
    vectors = torch.stack([angles.deg2rad().cos(), angles.deg2rad().sin()], 1)
    known = Concepts([f"{a:g}" for a in angles], vectors)
    assert known.threshold == pytest.approx(torch.tensor(1.0).deg2rad().cos().item(), abs=1e-6)

    def at(degrees: float) -> Conditioning:
        angle = torch.tensor(degrees).deg2rad()
        return Conditioning(pooled=7 * torch.stack([angle.cos(), angle.sin()])[None])

    assert known.far(at(20.5)) == ()
    assert known.far(at(23.0)) == ("21", "20", "40")
    cosine, names = known.nearest(at(23.0), 1)
    assert names == ("21",)
    assert cosine == pytest.approx(torch.tensor(2.0).deg2rad().cos().item(), abs=1e-6)
    assert Concepts(["a", "b"], vectors[:2]).far(at(200)) == (), "of a few no threshold is taken"
    assert known.far(Conditioning(labels=torch.tensor([1]))) == (), "a model that is not asked in words says nothing"


def test_directions_are_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    folder = with_list(tmp_path / "bundle")
    conditioner = Pipeline.open(folder).model.conditioner
    told: list[str] = []
    first = concepts.load(folder, conditioner, told.append)
    second = concepts.load(folder, conditioner, told.append)
    assert first is not None
    assert second is not None
    assert len(told) == 1
    exact, stored = (F.normalize(v, dim=-1) for v in (first._vectors, second._vectors))
    assert ((exact @ exact.T) - (stored @ stored.T)).abs().max() < 0.01, "a byte a number"
    (folder / concepts.LIST).write_text("\n".join(NAMES[:20]) + "\n")
    changed = concepts.load(folder, conditioner, told.append)
    assert len(told) == 2, "another list has directions of its own"
    assert changed is not None
    assert changed.names == tuple(NAMES[:20])
    (folder / concepts.LIST).unlink()
    assert concepts.load(folder, conditioner) is None


def test_a_server_lists_them_and_says_what_is_far(tmp_path: Path):
    folder = with_list(tmp_path / "bundle")
    far, near = far_and_near(folder)
    with running(model=str(folder)) as server:
        with urllib.request.urlopen(server.url + "/v1/concepts") as answer:
            assert json.load(answer)["concepts"] == NAMES
        engine = server.studio.worker.engine
        assert engine is not None
        assert len(engine._far(far)) == 3
        assert engine._far(near) == ()
        assert engine._far(" ") == ()
    with running() as server, urllib.request.urlopen(server.url + "/v1/concepts") as answer:
        assert json.load(answer)["concepts"] == [], "a bundle without a list"


def test_the_shipped_list_is_the_shipped_models():
    """1,571 names, none of them held out; its directions are of this list, so that no start has to make them."""
    folder = bundle.shipped()["emoji-64"]
    names = concepts.read(folder)
    assert len(names) == 1571
    assert {"red heart", "fox", "pizza"} <= set(names)
    assert "alembic" not in names
    kept = concepts._vectors(folder / concepts.VECTORS, json.loads(_metadata(folder / concepts.VECTORS))["key"])
    assert kept is not None
    assert kept.shape[0] == 1571


def _metadata(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return json.dumps(opened.metadata())
