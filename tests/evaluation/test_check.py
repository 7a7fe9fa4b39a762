"""``fewstep check``: distances with a closed form, a model whose every step is known, the rule, and the shipped pair."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch

from bundles import tiny_bundle
from fewstep import bundle, cli
from fewstep.evaluation import _drawing, check, check_page, genuine, pyramid
from fewstep.evaluation.genuine import Evidence
from fewstep.evaluation.jackknife import Interval
from fewstep.evaluation.ruler import Ruler, share
from fewstep.inference.pipeline import Pipeline
from fewstep.pretrained.families import Configs, Usual, family_of
from fewstep.rng import Rng
from known_models import known

QUICK = _drawing.Options(steps=(1, 4, 16), wrong_steps=(), n=4, noises=4, calls=1)


def test_the_energy_distance_leaves_out_pairs_of_one_noise() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0], [12.0]])
    assert pyramid.energy(x, y) == 2 * (12 + 9) / 2 - 1 - 2
    assert pyramid.energy(x, x) == 0
    assert pyramid.energy(x, x.flip(0)) == -2, "the same pictures from other noises: 2 * 0 - 1 - 1, for it is unbiased"


def test_the_energy_distance_of_two_normals_is_their_closed_form() -> None:
    x = torch.special.ndtri((torch.arange(1000, dtype=torch.float64)[:, None] + 0.5) / 1000)  # every quantile once
    y = x.flip(0) + 1.5
    folded = 2 / math.sqrt(math.pi) * math.exp(-(1.5**2) / 4) + 1.5 * math.erf(1.5 / 2)
    assert pyramid.energy(x, y) == pytest.approx(2 * folded - 4 / math.sqrt(math.pi), abs=0.01)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_octave_holds_its_own_detail_alone(axes: int) -> None:
    signs = torch.ones([32] * axes)
    for axis in range(axes):
        signs = signs * torch.tensor([1.0, -1.0]).repeat(16).reshape([-1 if a == axis else 1 for a in range(axes)])
    layout, finest, *coarser = pyramid.blocks(0.25 + 0.5 * signs[None, None])
    torch.testing.assert_close(layout, torch.full_like(layout, 0.25))
    torch.testing.assert_close(finest, torch.full_like(finest, 0.5))
    assert len(coarser) == 2
    assert all(band.abs().max() < 1e-12 for band in coarser)


def test_the_mean_picture_has_no_likeness_and_faint_pictures_are_less_sharp() -> None:
    best = Rng.of(3).normal((12, 3, 16, 16)).clamp(-1, 1)
    ruler = Ruler(best, noises=4)
    assert ruler.likeness(ruler.seen(best)).value == 1
    mean = best.mean(0, keepdim=True).expand_as(best)
    assert ruler.likeness(ruler.seen(mean)).value == pytest.approx(0, abs=1e-6)
    assert {name: round(i.value, 6) for name, i in ruler.sharpness(best / 2).items()} == {"highs": 0.5, "edges": 0.5}
    assert ruler.share(best) == 1
    whole, sharp = Interval(1, 1, 1), Interval(1.25, 1, 1.5)
    assert share(whole, {"highs": whole, "edges": sharp}) == 0.8, "too sharp by itself is a fault, too"
    assert ruler.share(2 * best) <= 0.5, "too sharp is no better than blurred"


def test_a_mixtures_exact_denoiser_is_not_few_step(tmp_path) -> None:
    """Its one step is the mean of the mixture: no likeness, and half as sharp, for four pictures of one kind add up by chance."""
    found = check.check(known(tmp_path, "teacher"), QUICK)
    one = next(row for row in found.rows if row.steps == 1 and row.setting == _drawing.OWN)
    assert one.likeness.value == pytest.approx(0, abs=0.1)
    assert one.sharpness["highs"].value == pytest.approx(0.5, abs=0.1)
    assert found.verdict.kind == "not few-step"
    assert found.evidence.best == 16
    assert found.rows[2].share == 1
    assert found.rows[2].distance == 0


def test_a_model_that_picks_a_picture_at_once_is_few_step(tmp_path) -> None:
    found = check.check(known(tmp_path, "student"), QUICK)
    own = {row.steps: row for row in found.rows if row.setting == _drawing.OWN}
    assert [row.off_card for row in own.values()] == [False, False, False, True], "1, 2 and 4 are its card's, 16 is not"
    assert own[1].sharpness["highs"].value == pytest.approx(1, abs=0.02)
    assert found.verdict.headline.startswith("few-step: one step reaches")
    assert "does not list this count" in found.markdown()
    json.dumps(found.table(), allow_nan=False)
    page = check_page.document(found, "fewstep check <model>")
    assert page.count("<img") == 4 * len(found.rows), "four noises of every row"
    assert found.verdict.headline[1:] in page
    assert "fewstep check &lt;model&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "it opens offline"


def test_cost_counts_parameters_and_operations(tmp_path) -> None:
    pipeline = known(tmp_path, "teacher")
    weight = torch.ones(5, 3, 3, 3)
    convolving = Pipeline(pipeline.model, pipeline.card, lambda x, t, cond: torch.conv2d(x, weight, padding=1))
    found = check.cost(convolving, 1)
    assert found.flops == 2 * 5 * 3 * 3 * 3 * 16 * 16
    assert found.parameters == sum(p.numel() for p in pipeline.model.denoiser.network.parameters())


def test_a_model_without_a_teacher_stands_beside_what_is_usual_in_its_family(tmp_path, monkeypatch) -> None:
    pipeline, quick = known(tmp_path, "student"), replace(QUICK, n=1)
    unknown = check.check(pipeline, quick)
    assert (unknown.table()["usual_flops"], unknown.table()["usual_size"]) == (0, [])
    assert "usual" not in unknown.markdown() + check_page.document(unknown)
    monkeypatch.setattr(pipeline.model.family, "usual", Usual("Big", 1_500_000, 2_250_000_000, (256, 512)))
    found = check.check(pipeline, quick)
    assert (found.table()["usual_flops"], found.table()["usual_size"]) == (2_250_000_000, [256, 512])
    said = "Big, its family's usual: 1.5 million parameters, 2.25 GFLOP a picture and network evaluation at 512x256."
    assert found.markdown().endswith(said)
    page = check_page.document(found)
    assert all(cell in page for cell in ("Big, as published, at 512x256", "2.25 GFLOP", "not measured here"))
    taught = check.check(pipeline, quick, teacher=known(tmp_path / "t", "teacher"))
    assert taught.table()["usual_flops"] == taught.teacher_cost.flops
    assert taught.table()["usual_size"] == [16, 16]
    assert "Big" not in taught.markdown() + check_page.document(taught)


def test_one_prompt_has_no_interval_and_its_json_is_json(tmp_path) -> None:
    found = check.check(known(tmp_path, "student"), replace(QUICK, n=1))
    facts = json.loads(json.dumps(found.table(), allow_nan=False))
    assert facts["rows"][0]["likeness"]["low"] is None
    assert "inf" not in found.markdown()


def test_a_teacher_of_another_size_is_refused_before_anything_is_drawn(tmp_path) -> None:
    pipeline = known(tmp_path, "student")
    halved = replace(pipeline.card, native_size=(8, 8))

    def never(*_) -> None:
        raise AssertionError("nothing is drawn yet")

    class Half(Pipeline):
        def latent_shape(self, size=None):
            channels, *sides = super().latent_shape(size)
            return (channels, *(side // 2 for side in sides))

    with pytest.raises(ValueError, match=r"draws 16x16 and --teacher .* 8x8, with 3 and 3 channels"):
        check.check(Pipeline(pipeline.model, pipeline.card, never), QUICK, teacher=Half(pipeline.model, halved))


@pytest.mark.parametrize("steps", [1, 3, 4, 50])
def test_leading_times_are_the_stock_ones(steps: int) -> None:
    from diffusers import DDIMScheduler

    stock = DDIMScheduler(timestep_spacing="leading", steps_offset=1)
    stock.set_timesteps(steps)
    assert _drawing.leading_times(steps) == pytest.approx([(k + 1) / 1000 for k in stock.timesteps.tolist()])


def test_a_student_keeps_its_card_where_that_has_the_count(tmp_path) -> None:
    card = bundle.Card("s", "student", "add", (1, 2, 4), times=(1.0, 0.75, 0.5, 0.25))
    own, strong = _drawing.Setting("own"), _drawing.Setting("7.5", guidance_scale=7.5)
    assert own.card(card, 4) is card
    assert (own.card(card, 8).role, own.card(card, 8).guidance_scale) == ("teacher", 1)
    assert (strong.card(card, 4).role, strong.card(card, 4).guidance_scale) == ("teacher", 7.5)
    assert _drawing.Setting("l", leading=True).card(card, 2).times_by_steps == {"2": (0.502, 0.002)}
    names = [s.name for s in _drawing.settings_of(card, _drawing.Options(guidance_scale=7.5))]
    assert names == ["guidance 7.5", _drawing.OWN, "the ddim sampler", "leading times"]


def evidence(**more) -> Evidence:
    return Evidence(**({"student": False, "few": 1, "best": 50, "own": {1: 0.12, 8: 0.8, 25: 0.95, 50: 1.0}} | more))


@pytest.mark.parametrize(
    ("found", "kind", "said"),
    [
        (evidence(student=True, best=4, own={1: 0.97, 4: 1.0}), "few-step", "one step reaches 97% of its best (4 steps)"),
        (evidence(), "not few-step", "one step keeps 12% of its best (50 steps)"),
        (evidence(parameters=4, usual=100, usual_name="SD 1.5"), "small",
         "merely small: 4% of the parameters of SD 1.5, needs 25 steps"),
        (evidence(own_name="guidance 7.5", others={_drawing.OWN: {1: 0.9}}), "broken", "broken by these settings: guidance 7.5"),
        (evidence(others={"guidance 1": {1: 0.9}}), "broken", "with guidance 1 it is 90%"),
        (evidence(student=True, best=4, own={1: 0.5, 4: 1.0}), "undertrained", "one step keeps 50%"),
        (evidence(student=True, own={1: 0.7}, others={"the ddim sampler": {1: 0.76}}), "undertrained", "one step keeps 70%"),
        (evidence(own={1: 0.97, 50: 1.0}, reference={1: 0.2, 50: 0.8}), "not few-step", "one step keeps 25%"),
        (evidence(parameters=60, usual=100, usual_name="T"), "not few-step", "It has 60% of the parameters of T."),
        (evidence(student=True, few=4, own={4: 0.9, 50: 1.0}), "few-step", "4 steps reach 90% of its best (50 steps)"),
    ],
)  # fmt: skip
def test_the_rule(found: Evidence, kind: str, said: str) -> None:
    verdict = genuine.judge(found)
    assert verdict.kind == kind
    assert said in f"{verdict.headline} {verdict.paragraph}"
    assert verdict.paragraph[0].isupper()
    assert verdict.paragraph.endswith(".")


@pytest.mark.parametrize(("share", "kind"), [(genuine.REACHED, "few-step"), (genuine.REACHED - 0.01, "not few-step")])
def test_the_threshold_itself_is_enough(share: float, kind: str) -> None:
    assert genuine.judge(evidence(own={1: share, 50: 1.0})).kind == kind


def looked_at(capsys, *arguments: str) -> dict:
    words = ["--n", "4", "--noises", "3", "--calls", "1", "--wrong-steps", "1"]
    cli.main(["check", *arguments, *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_shipped_pair_is_told_apart(capsys, tmp_path) -> None:
    files = ["-o", str(tmp_path / "c.json"), "--page", str(tmp_path / "c.html")]
    student = looked_at(capsys, "emoji-64", "--steps", "1", "4", *files)
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert student["verdict"] == "few-step"
    assert student == json.loads((tmp_path / "c.json").read_text())
    teacher = looked_at(capsys, "emoji-64-teacher", "--steps", "1", "8")
    assert teacher["verdict"] == "small"
    assert "of SD 1.5" in teacher["headline"]
    assert student["reached"] > teacher["reached"] + 0.2


def test_wrong_guidance_breaks_the_shipped_student_and_scripts_are_told(capsys) -> None:
    words = ["--steps", "1", "4", "--guidance-scale", "7.5", "--expect", "few-step"]
    with pytest.raises(SystemExit) as ended:
        looked_at(capsys, "emoji-64", *words)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["headline"] == "few-step, but broken by these settings: guidance 7.5"
    assert "emoji-64 is broken, and few-step was expected" in printed.err


def test_bad_input_is_one_sentence(tmp_path, capsys) -> None:
    folder = tiny_bundle(tmp_path, "teacher")
    capsys.readouterr()
    for words, said in (
        (["--steps", "1"], "one step alone shows no difference: give two of --steps or more, such as 1 50"),
        (["--noises", "1"], "--noises 1 is out of range: use from 2 to 64"),
        (["--prompts", str(tmp_path / "none.txt")], "none.txt"),
        (["--teacher", "nobody"], "nobody"),
        (["--data", "nobody"], "there is no dataset 'nobody'"),
        (["--data", str(tmp_path)], "is a folder, but no dataset: build one of its pictures with `fewstep data folder"),
        (["--page", str(tmp_path)], "a folder stands where a file is needed"),
        (["-o", str(tmp_path / "x"), "--page", str(tmp_path / "y/../x")], "--output and --page are one file"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["check", str(folder), *words])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert said in error
        assert error.count("\n") == 1


def test_a_family_of_small_folders_has_a_usual_size(tmp_path) -> None:
    assert family_of(Configs.read(tiny_bundle(tmp_path, "teacher"))).usual.name == "SD 1.5"
