"""What the credentials say of how a picture was made, wherever it is drawn: nobody's photograph is signed as a model's."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import fewstep
from fewstep import cli
from fewstep.provenance import GenerationFacts, content_credentials, stamp
from fewstep.provenance.content_credentials import CREATED, EDITED, GENERATION, Credentials, Task
from fewstep.provenance.identity import own_identity
from fewstep.provenance.verify import Verdict, VerifyOptions, conclude, verify
from serving_helpers import SIZE, Server, running, tiny_bundle

c2pa = pytest.importorskip("c2pa")
pytest.importorskip("cryptography")

WHOLE = "; a trained model made the whole picture"
PART = "; a trained model made part of the picture: a region of a picture drawn anew"
MADE = {
    None: (CREATED, None, f"{WHOLE}."),
    "text": (CREATED, None, f"{WHOLE}."),
    "image": (CREATED, "inputTo", f"{WHOLE}, from a picture, strength 0.5."),
    "inpaint": (EDITED, "parentOf", f"{PART}, strength 0.5."),
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HOME", str(folder := tmp_path_factory.mktemp("home")))
        own_identity()
        yield folder


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with running(sizes=(SIZE, 4 * SIZE)) as made:  # on a small picture of a random model one frame proves nothing
        yield made


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def dot() -> np.ndarray:
    """A mask of 2x2 pixels."""
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[4:6, 4:6] = 255
    return mask


def told(data: bytes, folder: Path) -> Verdict:
    (folder / "told.png").write_bytes(data)
    verdict = verify(folder / "told.png", VerifyOptions(effort="aligned"))
    assert verdict.credentials.state == "trusted"
    return verdict


def manifest(data: bytes) -> dict[str, Any]:
    """As any other C2PA tool reads it."""
    with c2pa.Reader("image/png", io.BytesIO(data)) as reader:
        store = json.loads(reader.json())
    return store["manifests"][store["active_manifest"]]


def facts(task: Task | None, strength: float | None = 0.5) -> GenerationFacts:
    return GenerationFacts("emoji-64", "ab" * 32, 2, 7, task=task, strength=None if task in (None, "text") else strength)


@pytest.mark.parametrize("task", list(MADE))
def test_every_task_is_signed_as_what_it_is(task: Task | None, photo: np.ndarray, tmp_path: Path) -> None:
    source, relation, words = MADE[task]
    data = stamp(photo, facts(task))
    verdict = told(data, tmp_path)
    assert verdict.credentials.source_type == source
    assert verdict.credentials.ai_generated
    assert (verdict.credentials.software or "").startswith("fewstep ")
    assert verdict.credentials.facts.get("task") == task
    assert verdict.credentials.facts.get("strength") == (0.5 if relation else None)
    assert verdict.sentences[1].endswith(words)
    actions, ingredients = manifest(data)["assertions"][0]["data"]["actions"], manifest(data).get("ingredients", [])
    assert [action["action"] for action in actions] == (
        ["c2pa.opened", "c2pa.edited"] if task == "inpaint" else ["c2pa.created"]
    )
    assert actions[-1]["digitalSourceType"] == source
    assert [one["relationship"] for one in ingredients] == [relation] * bool(relation)
    for one in ingredients:
        assert set(one) == {"title", "relationship", "label"}, "nothing by which the given picture could be known"
        assert actions[0]["parameters"]["ingredients"][0]["url"].endswith(one["label"])


def test_credentials_from_before_tasks_were_told_still_read(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {"name": "fewstep", "version": "0.1.0"}
    created = {"action": "c2pa.created", "digitalSourceType": CREATED, "softwareAgent": agent}
    said = {"model": "emoji-64", "bundle_hash": "ab" * 32, "steps": 4, "seed": 7}
    before = {
        "claim_generator_info": [agent],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": GENERATION, "data": said},
        ],
    }
    monkeypatch.setattr(content_credentials, "manifest_of", lambda *_: before)
    verdict = told(stamp(photo, facts(None)), tmp_path)
    assert verdict.credentials.facts == said
    assert verdict.credentials.ai_generated
    assert verdict.sentences[1] == (
        f"They say it was made by fewstep 0.1.0 with emoji-64 (bundle abababababab), steps 4, seed 7{WHOLE}."
    )


@pytest.mark.parametrize(
    ("source", "said", "ends"),
    [
        (EDITED, {}, "made by Other 2; a trained model made part of the picture."),
        (CREATED, {}, "made by Other 2; a trained model made the whole picture."),
        ("http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture", {}, "made by Other 2."),
        (None, {}, "made by Other 2."),
        (CREATED, {"task": ["image"], "strength": "all"}, f"{WHOLE}."),
        (CREATED, {"task": "image", "strength": "all"}, f"{WHOLE}, from a picture."),
    ],
)
def test_other_programs_are_taken_at_their_word_and_no_further(source: str | None, said: Any, ends: str) -> None:
    verdict = conclude(Credentials("valid", software="Other 2", source_type=source, facts=said), None)
    assert verdict.sentences[1].endswith(ends)


def test_a_photograph_with_a_dot_drawn_anew_is_not_signed_as_a_models(
    server: Server, photo: np.ndarray, tmp_path: Path
) -> None:
    given = {name: base64.b64encode(png(one)).decode() for name, one in (("image", photo), ("mask", dot()))}
    request = {"prompt": "a cat", "seed": 7, "steps": 4, "strength": 0.75}
    answer = httpx.post(f"{server.url}/v1/pictures", json=request | given, timeout=60)
    verdict = told(answer.content, tmp_path)
    assert verdict.credentials.source_type == EDITED
    assert verdict.credentials.facts["task"] == "inpaint"
    assert verdict.sentences[1].endswith(f"steps 3, seed 7{PART}, strength 0.75.")
    assert "whole" not in str(verdict)


def test_a_streamed_picture_of_every_task_is_downloaded_with_what_it_was(
    server: Server, photo: np.ndarray, tmp_path: Path
) -> None:
    asked: dict[Task, dict[str, Any]] = {"text": {}, "image": {"image": photo}, "inpaint": {"image": photo, "mask": dot()}}
    with fewstep.connect(server.url) as studio:
        for task, given in asked.items():
            picture = studio.draw("a cat", seed=7, strength=0.5, target_ms=60_000, **given)
            studio.download(picture, tmp_path / "a.png")
            credentials = told((tmp_path / "a.png").read_bytes(), tmp_path).credentials
            assert (credentials.source_type, credentials.facts["task"]) == (MADE[task][0], task)
            assert credentials.facts.get("strength") == (0.5 if given else None)


@pytest.mark.parametrize("encoder", ["png", "jpeg"])
def test_a_frame_as_it_was_streamed_is_not_said_to_have_been_saved_again(
    server: Server, tmp_path: Path, encoder: str
) -> None:
    with fewstep.connect(server.url) as studio:
        picture = studio.draw("a red heart", seed=7, size=4 * SIZE, encoder=encoder)
    picture.save(path := tmp_path / f"streamed.{encoder}")
    assert path.read_bytes() == picture.data
    verdict = verify(path, VerifyOptions(effort="aligned"))
    assert (verdict.credentials.state, verdict.mark_alone, verdict.made_by_fewstep) == ("absent", True, True)
    assert verdict.sentences[0] == (
        "Content credentials: none, but the watermark is there: a frame as it was streamed, and a picture saved without, "
        "never had any; else they were stripped, as by another program that saved the picture again."
    )


def test_a_drawing_from_a_picture_is_told_by_the_command_line_and_drawn_again_from_what_it_tells(
    photo: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given.png").write_bytes(png(photo))

    def draw(name: str, *arguments: str) -> Verdict:
        cli.main(["draw", "a cat", "--model", str(tiny_bundle()), "-o", str(tmp_path / name), *arguments])
        return told((tmp_path / name).read_bytes(), tmp_path)

    text = draw("text.png").credentials
    assert (text.source_type, text.facts["task"], text.facts.get("strength")) == (CREATED, "text", None)
    given = ("--image", str(tmp_path / "given.png"), "--seed", "7")
    verdict = draw("a.png", *given, "--steps", "4", "--strength", "0.6")
    said = verdict.credentials.facts
    assert (said["task"], said["steps"], said["strength"]) == ("image", 2, 0.5)
    assert verdict.sentences[1].endswith(f"steps 2, seed 7{WHOLE}, from a picture, strength 0.5.")
    draw("b.png", *given, "--steps", str(said["steps"]), "--strength", str(said["strength"]))
    first, again = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert np.array_equal(first, again)
