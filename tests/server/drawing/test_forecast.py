"""``fewstep budget``: what fits on this machine, told from the same measurements and the same plan that serving uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep import cli
from fewstep.console import console, show_forecast
from fewstep.inference.backend import Measured
from fewstep.inference.budget import Choices, QualityLevel, latencies, totals
from fewstep.inference.timings import STAGES, Costs, Timings
from fewstep.server.drawing.forecast import Forecast, ForecastOptions, forecast
from serving_helpers import make_bundle, tiny_bundle


def look(**options: object) -> Forecast:
    given = {"model": str(tiny_bundle()), "backends": ("eager",)} | options
    return forecast(ForecastOptions(**given), lambda what: None)  # type: ignore[arg-type]


def shown(*arguments: str) -> tuple[str, object]:
    """What is printed, and how it ends."""
    with console.capture() as capture:
        try:
            cli.main(["budget", "--model", str(tiny_bundle()), "--backends", "eager", *arguments])
            ended: object = 0
        except SystemExit as exit_:
            ended = exit_.code
    return capture.get(), ended


def test_a_way_and_the_planner_agree_on_every_rung():
    choices = Choices((4, 2, 1), (64, 32), ("eager", "onnx"))
    by = [(s, n) for n in (64, 32) for s in ("eager", "onnx")]
    costs = Costs(
        {key: 10.0 + i for i, key in enumerate(by)},
        {(e, n): 1.0 + n / 64 for e in choices.encoders for n in choices.sizes},
        {64: 4.0, 32: 1.0}, {64: 3.0, 32: 1.0}, {64: 0.3, 32: 0.1}, 0.2, 7.0, {64: 0.5, 32: 0.4},
    )  # fmt: skip
    wire_ms = {kind: 5.0 + cost for kind, cost in costs.encode.items()}
    timings = Timings(costs, {"network": 1.5}, wire_ms, wait_ratio=0.5, text_ms=7.0)
    for with_picture in (False, True):
        every = latencies(choices, timings, with_picture)
        assert [w.total_ms for w in every] == pytest.approx(totals([w.quality for w in every], timings, with_picture))
        assert every[0].quality == QualityLevel(4, 64, "eager", "png")
        assert all(tuple(w.stages_ms) == STAGES for w in every)


def test_all_the_time_in_the_world_takes_the_best():
    found = look(budget="600s", strength=1.0)
    assert (found.chosen.quality.steps, found.chosen.quality.encoder, found.refusal) == (4, "png", "")
    assert found.chosen.stages_ms["network"] > found.chosen.stages_ms["decode"] > 0
    assert found.chosen.stages_ms["wire"] == 0
    assert "trained to draw in 1, 2, 4 steps (by add)" in found.advice


def test_little_strength_leaves_few_steps_and_new_prompts_cost_their_encoding():
    assert {way.quality.steps for way in look(strength=0.5).latencies} == {1, 2}
    text = look(task="text", wire="7ms")
    assert {way.quality.steps for way in text.latencies} == {1, 2, 4}
    stages = text.chosen.stages_ms
    assert stages["text"] > 0
    assert (stages["wire"], stages["decode"], stages["codec_in"]) == (7.0, 0.0, 0.0)


def test_nothing_fits_is_a_refusal_that_says_what_would(capsys: pytest.CaptureFixture[str]):
    text, ended = shown("--budget", "0.001ms")
    assert ended == 2
    for wanted in ("what fits into 0.001 ms", "too long", "where the time goes", "network", "over"):
        assert wanted in text
    said = capsys.readouterr().err
    assert "nothing fits into 0.001 ms here" in said
    assert "--budget" in said
    assert len(said.strip().splitlines()) == 1


def test_what_fits_is_shown_by_stage():
    text, ended = shown("--target", "600s")
    assert ended == 0
    assert "what will be drawn" in text
    assert "--wire 20ms" in text


def test_why_a_backend_was_taken_is_said():
    """Not for speed alone: the fastest draws other pictures."""
    found = look(budget="600s")
    tried = [Measured("eager", 9.0, 0.0), Measured("int8", 1.0, 0.08), Measured("onnx", 6.0, 1e-6)]
    missing = {"openvino": "run pip install it"}
    told = Forecast(found.model, found.card, found.plan, found.latencies, found.target_ms, tried, missing)
    with console.capture() as capture:
        show_forecast(told)
    lines = {line.split()[0]: line for line in capture.get().splitlines() if line.split()}
    assert "taken" in lines["eager"]
    assert "other pictures" in lines["int8"]
    assert "slower" not in lines["int8"]
    assert "the same pictures" in lines["onnx"]
    assert "left out: run pip install it" in lines["openvino"]


def test_a_teacher_is_told_to_be_distilled(tmp_path: Path):
    teacher = make_bundle(tmp_path / "teacher", role="teacher")
    found = look(model=str(teacher), budget="0.001ms")
    assert "not trained for few steps: it needs 25" in found.advice
    assert f"fewstep distill --teacher {teacher}" in found.refusal


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": "soon"}, "100ms"),
        ({"strength": 0.0}, "more than 0"),
        ({"wire": "far"}, "100ms"),
        ({"backends": ("abacus",)}, "eager"),
        ({"model": "nothing"}, "emoji-64"),
    ],
)
def test_options_that_make_no_sense(options: dict, said: str):
    with pytest.raises(ValueError, match=said):
        look(**options)
