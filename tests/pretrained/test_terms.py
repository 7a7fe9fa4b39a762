"""A student carries what its teacher's makers ask of whoever passes it on: licence, notices, page and safety checker."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import foreign
from fewstep import bundle, cli, pretrained
from fewstep.bundle import Card
from fewstep.methods import add
from fewstep.parts import discriminator
from fewstep.pretrained.safety import FILES, SafetyChecker
from fewstep.pretrained.terms import front_matter
from fewstep.recipes import distillation
from fewstep.recipes.distillation import Distillation, WarmStart, prepare

TEXTS = {
    "LICENSE.md": "CreativeML Open RAIL-M\nUse Restrictions: ...\n",
    "NOTICE": "Contains works of others.\n",
    "Use-Policy.txt": "Not for harm.\n",
    "unet/LICENSE": "The network's own licence.\n",
}
PAGE = "---\nlicense: creativeml-openrail-m\nlicense_link: LICENSE.md\ntags: [art]\n---\n# A model\n\nLimits of use: no harm.\n"
INDEX: dict[str, Any] = {
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": True,
}


def ask_terms(folder: Path, index: dict[str, Any] = INDEX) -> None:
    """Give a teacher's folder a licence, notices and a safety checker, as folders on the hub have them."""
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    (folder / "README.md").write_text(PAGE)
    foreign.safety_checker(folder, Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 48, 3), np.uint8)))
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("terms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(folder / "cache"))
        ask_terms(foreign.sd1(folder))
        foreign.pictures(folder / "own")
        yield folder


def work(teacher: Path, root: Path, out: Path, **changes: Any) -> Distillation:
    fixed: dict[str, Any] = {
        "teacher": str(teacher), "data": str(root / "own"), "steps": 1, "batch_size": 8, "warm": WarmStart(steps=0),
        "heads": discriminator.Options(width=8), "add": add.Options(adversarial_weight=0.0),
    }  # fmt: skip
    return prepare(distillation.options(**(fixed | changes)), out)


@pytest.fixture(scope="module")
def student(root: Path) -> Path:
    made = work(root / "sd1", root, root / "out", student="lora", rank=2)
    made.save(root / "out" / "bundle", 0)
    return root / "out" / "bundle"


def test_licence_notices_and_page_go_along_to_the_letter(root, student):
    card = Card.read(student)
    assert card.licence == "creativeml-openrail-m (LICENSE.md)"
    for name, text in TEXTS.items():
        assert (student / name).read_text() == text
        assert (student / "lora" / name).read_text() == text, "the LoRA alone is passed on too"
    assert (student / "README.teacher.md").read_text() == PAGE
    head, page = (student / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    facts = yaml.safe_load(head)
    assert (facts["license"], facts["license_link"]) == ("creativeml-openrail-m", "LICENSE.md")
    assert "good for 1, 2, 4 steps" in page
    assert Card.read(student / "lora").licence == card.licence
    assert bundle.card_of(student) == card


def test_the_safety_checker_goes_along_and_stock_diffusers_loads_it(root, student):
    for name in FILES:
        assert (student / name).read_bytes() == (root / "sd1" / name).read_bytes()
    index = json.loads((student / "model_index.json").read_text())
    assert {name: index[name] for name in INDEX} == INDEX
    pipe = foreign.stock(student)
    assert pipe.safety_checker is not None
    assert pipe.config.requires_safety_checker is True
    SafetyChecker(student)
    bundle.verify(student)
    assert "safety_checker/model.safetensors" in Card.read(student).hashes


def test_info_tells_licence_notices_and_checker(student, capsys):
    cli.main(["info", str(student)])
    said = " ".join(capsys.readouterr().out.split())
    assert "licence creativeml-openrail-m (LICENSE.md)" in said
    assert "notices LICENSE.md, NOTICE, Use-Policy.txt, unet/LICENSE, README.teacher.md" in said
    assert "safety checker inside: `fewstep serve --safety checker`" in said


def test_a_checker_that_cannot_go_along_is_told(root, tmp_path):
    teacher = foreign.sd1(tmp_path)
    ask_terms(teacher)
    weights = teacher / "safety_checker" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    made = work(teacher, root, tmp_path / "out")
    with pytest.warns(UserWarning, match=r"has no safety checker.*model\.safetensors is missing.*a filter of your own"):
        made.save(tmp_path / "bundle", 0)
    index = json.loads((tmp_path / "bundle" / "model_index.json").read_text())
    assert (index["safety_checker"], index["requires_safety_checker"]) == ([None, None], False)
    assert not (tmp_path / "bundle" / "safety_checker").exists()
    other = foreign.sdxl(tmp_path)
    ask_terms(other, {name: INDEX[name] for name in ("safety_checker", "feature_extractor")})
    made = work(other, root, tmp_path / "xl")
    with pytest.warns(UserWarning, match="a StableDiffusionXLPipeline has no place for one"):
        made.save(tmp_path / "xl" / "bundle", 0)
    assert foreign.stock(tmp_path / "xl" / "bundle").unet is not None


def test_a_teacher_that_states_no_licence_is_told_before_training(root, tmp_path):
    teacher = foreign.sd1(tmp_path)
    with pytest.warns(UserWarning, match="sd1 states no licence .*ask its makers"):
        made = work(teacher, root, tmp_path / "out")
    assert made.card(0).licence == ""
    (teacher / "COPYING").write_text("Do as you like.\n")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = work(teacher, root, tmp_path / "out")
    assert not any("states no licence" in str(one.message) for one in told)
    assert made.card(0).licence == "see COPYING"
    made.save(tmp_path / "bundle", 0)
    assert (tmp_path / "bundle" / "COPYING").read_text() == "Do as you like.\n"
    assert not (tmp_path / "bundle" / "README.md").exists(), "nothing to state in one"


NINE = ",".join(["*{0}"] * 9)
BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [{NINE.format(p)}]\n" for p, c in zip("abcdefgh", "bcdefghi"))
"""Nine to the eighth words, if somebody were to write it out."""
NAMED = {"license": "other", "license_name": "own", "license_link": "LICENSE"}


@pytest.mark.parametrize(
    ("page", "front"),
    [
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\ntext", {"license": "mit, apache-2.0"}),
        ("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---", NAMED),
        ("---\nlicense: \"m\\e[2Jit\"\n---\n", {"license": "m[2Jit"}),
        (f"---\n{BOMB}license: *i\n---\n", {}),
        ("---\nlicense: [unclosed\n---\n", {}),
        ("---\n- a\n---\n", {}),
        ("# A page\n---\nlicense: mit\n---\n", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_a_pages_front_matter_states_its_licence(tmp_path, page, front):
    (tmp_path / "README.md").write_bytes(page.encode())
    assert front_matter(tmp_path / "README.md") == front


def test_what_is_no_licence_text_stays_behind(tmp_path):
    for name in ("licence", "LICENSE-CODE.txt", "NOTICE.md", "Copyright"):
        (tmp_path / name).write_text("x")
    for name in ("license.safetensors", "notice.py", "licensed_pictures.json", "config.json", "README.md"):
        (tmp_path / name).write_text("x")
    assert set(pretrained.read_terms(tmp_path).texts) == {"licence", "LICENSE-CODE.txt", "NOTICE.md", "Copyright"}


@pytest.mark.parametrize(
    ("page", "text", "against"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n", "", "cc-by-nc-4.0"),
        ("---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n", "", "other (flux-1-dev"),
        ("---\nlicense: other\nlicense_name: sai-nc-community\n---\n", "", "other (sai-nc-community)"),
        ("# A page\n", "STABILITY AI NON-COMMERCIAL\nRESEARCH COMMUNITY LICENSE AGREEMENT\n", "LICENSE"),
        ("---\nlicense: creativeml-openrail-m\n---\n", "CreativeML Open RAIL-M\n", ""),
        ("---\nlicense: apache-2.0\n---\n", "Apache License\nVersion 2.0\n", ""),
        ("---\nlicense: cc-by-sa-4.0\n---\n", "Attribution, once, since, france\n", ""),
    ],
)
def test_require_commercial_refuses_a_teacher_for_research_only(root, tmp_path, capsys, page, text, against):
    (tmp_path / "README.md").write_text(page)
    (tmp_path / "LICENSE").write_text(text)
    found = pretrained.research_only(tmp_path)
    assert found.startswith(against)
    assert bool(found) == bool(against)
    if not against:
        pretrained.check_commercial("it", "mit", found)
        return
    teacher = foreign.sd1(tmp_path)
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).rename(teacher / name)
    cli.main(["info", str(teacher)])
    assert "commercial use not allowed" in " ".join(capsys.readouterr().out.split())
    for weights in teacher.rglob("*.safetensors"):
        weights.write_bytes(b"not to be read")
    with pytest.raises(ValueError, match=r"may not be used commercially .*take another"):
        work(teacher, root, tmp_path / "out", require_commercial=True)


def test_require_commercial_asks_for_a_licence_and_looks_at_init_and_data(root, tmp_path):
    silent = foreign.sd1(tmp_path)
    with pytest.raises(ValueError, match=r"sd1 states no licence, .*README\.md"):
        work(silent, root, tmp_path / "out", require_commercial=True)
    (silent / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\n---\n")
    with pytest.raises(ValueError, match=r"--init .* may not be used commercially"):
        work(root / "sd1", root, tmp_path / "out", require_commercial=True, init=str(silent))
    work(root / "sd1", root, tmp_path / "out", require_commercial=True)
    data = foreign.pictures(tmp_path / "own").folder / "dataset.json"
    facts = json.loads(data.read_text())
    data.write_text(json.dumps(facts | {"licences": [{"licence": "CC-BY-NC-4.0"}]}))
    with pytest.raises(ValueError, match=r"the data .*own may not be used commercially \(CC-BY-NC-4.0\)"):
        work(root / "sd1", tmp_path, tmp_path / "out", require_commercial=True)
