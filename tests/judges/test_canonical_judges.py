"""Canonical judges: their real classes at small random weights in a process, against the classes' own answers here.

Their weights are not here and never fetched: what is tested is the way from pictures and prompts to figures.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from fewstep.cli import main
from fewstep.evaluation.record import METRICS, read_records
from fewstep.judges import kit
from fewstep.judges.judge import FAMILY, find
from judge_helpers import PROMPTS, judged, pictures


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("name", ["clip_score", "pickscore"])
def test_scores_are_those_of_transformers_own_processor_and_model(tmp_path: Path, name: str) -> None:
    given, folder = pictures(tmp_path), tmp_path / "weights"
    folder.mkdir()
    kit.tiny_clip(str(folder))
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    model.text_projection.weight.data.neg_()  # made at random they dislike every picture, and CLIP score is 0 then
    model.save_pretrained(folder)
    scores = judged(name, folder, given, tiny=False).scores
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    seen = transformers.CLIPImageProcessorPil(**size)([kit.rgb(str(path)) for path in given], return_tensors="pt")
    read = tokenizer(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        logits = model(**seen, **read).logits_per_image.diagonal()
    want = logits if name == "pickscore" else (100 * logits / model.logit_scale.exp()).clamp(min=0)
    assert min(want) > 1
    assert scores == pytest.approx(want.tolist(), abs=1e-3)


def test_dinov2_is_seen_as_its_own_processor_has_it(tmp_path: Path) -> None:
    given = pictures(tmp_path)
    rows = judged("fd_dinov2", tmp_path / "weights", given).features
    model = transformers.Dinov2Model.from_pretrained(tmp_path / "weights").eval()
    processor = transformers.BitImageProcessorPil(
        size={"height": 224, "width": 224},
        do_center_crop=False,
        image_mean=kit.IMAGENET_MEAN,
        image_std=kit.IMAGENET_STD,
    )
    with torch.no_grad():
        want = model(**processor([kit.rgb(str(path)) for path in given], return_tensors="pt")).pooler_output
    assert rows is not None
    assert rows.shape == (5, 16)
    torch.testing.assert_close(rows[:4].float(), want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rows[4], rows[0], atol=1e-6, rtol=1e-6)


def test_cmmd_sees_embeddings_of_length_one(tmp_path: Path) -> None:
    given = pictures(tmp_path)
    rows = judged("cmmd", tmp_path / "weights", given).features
    kind = transformers.CLIPVisionModelWithProjection
    model = kind.from_pretrained(tmp_path / "weights", use_safetensors=False).eval()
    square = torch.from_numpy(np.array(kit.rgb(str(given[1])))).permute(2, 0, 1)[None].float() / 255
    resized = torch.nn.functional.interpolate(square, (28, 28), mode="bicubic")[0]
    mean, std = torch.tensor(kit.CLIP_MEAN), torch.tensor(kit.CLIP_STD)
    with torch.no_grad():
        want = model(((resized - mean[:, None, None]) / std[:, None, None])[None]).image_embeds[0]
    assert rows is not None
    torch.testing.assert_close(rows[1].float(), want / want.norm(), atol=1e-4, rtol=1e-4)


def test_weights_that_do_not_fit_are_refused_not_left_random(tmp_path: Path) -> None:
    kit.tiny_clip(str(tmp_path))
    state = {
        k: v for k, v in transformers.CLIPModel.from_pretrained(tmp_path).state_dict().items() if "q_proj" not in k
    }
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="does not hold the weights of this CLIPModel: 8 differ"):
        kit.Clip(str(tmp_path), "cpu")


def test_a_canonical_judge_on_random_weights_is_recorded_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find("clip_score").module, "PINS", None)
    (tmp_path / "mine").mkdir()
    pictures(tmp_path / "mine")
    (tmp_path / "p.txt").write_text("a\nb\nc\nd\n")
    run = ["judge", "clip_score", "mine", "--prompts", "p.txt", "-o", "m.json"]
    with pytest.raises(SystemExit):
        main(run)
    said = " ".join(capsys.readouterr().err.split())
    assert "the weights of clip_score are not here: there is no folder" in said
    assert "hf download openai/clip-vit-large-patch14 --revision" in said
    (tmp_path / "weights").mkdir()
    kit.tiny_clip("weights")
    main([*run, "--weights", "weights"])
    (record,) = read_records("m.json")
    assert record.metric.startswith("clip_score (other weights: ")
    assert "other weights" in capsys.readouterr().out


@pytest.mark.parametrize("name", FAMILY.names)
def test_what_a_judge_says_of_itself_holds(name: str) -> None:
    judge = find(name)
    assert judge.metric in METRICS
    assert METRICS[judge.metric][1] == judge.direction
    if judge.weights is not None:
        assert all(not pin or len(pin) >= 8 for pin in judge.weights.files.values())
        assert "{folder}" in judge.weights.fetch
    source = judge.file.read_text("utf-8")
    assert not [line for line in source.splitlines() if line.startswith(("import torch", "import numpy", "from PIL"))]


def test_the_page_names_every_judge_with_its_licence() -> None:
    rows = [
        line
        for line in (Path(__file__).parents[2] / "docs" / "judges.md").read_text("utf-8").splitlines()
        if "|" in line
    ]
    for name in FAMILY.names:
        (row,) = [line for line in rows if f"`{name}`" in line.split("|")[1]]
        assert find(name).licence in row


def test_pins_of_judges_are_what_the_tests_run_them_with() -> None:
    """A pin that constraints.txt holds too is the same there: else `kit.NETWORK` claims a test that nobody made."""
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8").splitlines()
    held = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    pinned = dict(pin.split("==") for pin in kit.NETWORK)
    assert {"torch", "transformers", "numpy", "pillow", "safetensors"} <= set(held)
    assert {name: held.get(name, pin) for name, pin in pinned.items()} == pinned
