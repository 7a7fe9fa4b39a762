"""The page of the paper's Table 1: planted trainings get the planted verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewstep.evaluation.compare import over_trainings
from fewstep.evaluation.record import MetricRecord, entry
from serving_helpers import benchmark

page = benchmark("table1_page")
JUDGE = "digits-classifier@0"


def planted(file: Path, figures: Mapping[str, Sequence[float]], metric: str = "fd", **more: Any) -> Path:
    """A results file: one-step figures of every training of every model."""
    runs = [
        {"seed": seed, "entry": model, **more,
         "records": [entry(MetricRecord(model, 1, metric, value, value, value, 10, 1, features=JUDGE))]}
        for model, values in figures.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    file.write_text(json.dumps({"runs": runs}))
    return file


def part(letter: str) -> Any:
    return next(one for one in page.PARTS if one.letter == letter)


BASE = (1.0, 2.0, 4.0)


def worse(by: float) -> list[float]:
    """Worse by this in every training, give or take little: the trainings differ by much more."""
    return [value + by + 0.01 * i for i, value in enumerate(BASE)]


@pytest.mark.parametrize(
    ("letter", "figures", "said"),
    [
        ("c", {"random_init": worse(5)}, "**Reproduced** (3 trainings)."),
        ("c", {"random_init": worse(-0.5)},
         "**Not reproduced**: random weights goes the other way, and not by chance (3 trainings)."),
        ("c", {"random_init": (9.0, 2.0, 5.0)},
         "**Open** (3 trainings): 0 of 1 differences are the paper's beyond chance, and the means of 1 of 1 point its way."),
        ("c", {"random_init": (9.0,)},
         "**Open** (1 training): 0 of 1 differences are the paper's beyond chance, and the means of 1 of 1 point its way."),
        ("c", {}, "Not run yet."),
        ("d", {"adversarial_only": worse(0.2), "distillation_only": worse(9), "add_sds": worse(0.3)},
         "**Reproduced** (3 trainings). Not run yet: both with NFSD."),
        ("f", {"teacher_steps_2": (1.5, 1.0, 4.5), "teacher_steps_4": (2.0, 1.0, 4.5)}, "**Reproduced** (3 trainings)."),
        ("f", {"teacher_steps_4": worse(-0.5)},
         "**Not reproduced**: 4 goes the other way, and not by chance (3 trainings). Not run yet: 2."),
    ],
)  # fmt: skip
def test_planted_trainings_get_the_planted_verdict(tmp_path: Path, letter: str, figures: dict[str, Any], said: str):
    values = page.read([planted(tmp_path / "x.json", {"add": BASE} | figures), tmp_path / "not there.json"])
    assert page.verdict(part(letter), values) == said


def test_a_training_that_stands_twice_counts_once(tmp_path: Path):
    new, old = planted(tmp_path / "new.json", {"add": (1.0,)}), planted(tmp_path / "old.json", {"add": (7.0, 3.0)})
    assert page.read([new, old])["add", 1, "fd", "digits-classifier"] == {0: 1.0, 1: 3.0}


def test_the_claim_is_judged_by_pairs_of_trainings(tmp_path: Path):
    """ADD is better than LCM in every training by about the same, and now better, now worse than the GAN."""
    figures = {"add": BASE, "lcm": worse(0.3), "gan": (1.5, 1.0, 4.5)}
    file = planted(tmp_path / "contest.json", figures, start="warm", budget="150-updates")
    assert page.of_contest(file, "cold", "150-updates") == {}
    _, cells, said = page.claim(page.of_contest(file, "warm", "150-updates"))
    assert said == [
        "**ADD against GAN** (3 trainings): better beyond chance in 0 of 1 figures, worse in 0, open in 1.",
        "**ADD against LCM** (3 trainings): better beyond chance in 1 of 1 figures, worse in 0, open in 0.",
    ]
    assert cells == [["FD, classifier", "1", "2.33 (3)", "2.33 (3)", "2.64 (3)", "+0.00 [-2.15, 2.15]", "+0.31 [0.29, 0.33]"]]


def test_the_claim_is_read_from_a_contests_own_pairs(tmp_path: Path):
    """The contest says by how much others are better than ADD; the page says by how much ADD is."""
    gains = {("fd", "gan"): (-5.0, -7.0, -3.0), ("fd", "lcm"): (2.0, 1.0, 3.0),
             ("retrieval_top1", "gan"): (-0.1, -0.3, 0.1), ("retrieval_top1", "lcm"): (-0.2, -0.3, -0.1)}  # fmt: skip
    pairs = [
        {"entry": f"{name} (warm, 9-seconds)", "metric": metric, "judge": "network", "steps": 1, "trainings": 2,
         "mean": 4.0, "other": 3.0, "gain": gain, "low": low, "high": high}
        for (metric, name), (gain, low, high) in gains.items()
    ]  # fmt: skip
    file = tmp_path / "contest.json"
    file.write_text(json.dumps({"against": "add", "comparisons": pairs[::-1]}))
    _, cells, said = page.claim_of_pairs(file)
    assert said == [
        "**ADD against GAN** (2 trainings): better beyond chance in 1 of 2 figures, worse in 0, open in 1.",
        "**ADD against LCM** (2 trainings): better beyond chance in 1 of 2 figures, worse in 1, open in 0.",
    ]
    assert [row[0] for row in cells] == ["FD, network", "retrieval top 1, network"]
    assert cells[0][2:] == ["3.00 (2)", "4.00 (2)", "4.00 (2)", "+5.00 [3.00, 7.00]", "-2.00 [-3.00, -1.00]"]
    file.write_text(json.dumps({"against": "lcm", "comparisons": pairs}))
    assert page.claim_of_pairs(file)[1] == page.claim_of_pairs(tmp_path / "none.json")[1] == []


def test_an_interval_over_trainings_is_students():
    found = over_trainings([1.0, 2.0, 6.0])
    assert (found.value, found.high) == (3.0, pytest.approx(3 + 4.302653 * (7 / 3) ** 0.5, abs=1e-4))
    with pytest.raises(ValueError, match="1 pair of trainings: an interval over trainings needs two or more"):
        over_trainings([1.0])
