"""Drifting: its field in closed form, what it does not move, groups, and the alarm."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep.methods import drifting
from fewstep.methods.method import Facts
from fewstep.rng import Rng
from fewstep.tensors import Features
from fewstep.training.health import Health
from fewstep.training.log import StepLog

F64 = torch.float64


def test_the_affinity_of_two_samples_and_one_positive_is_its_formula() -> None:
    """``A = sqrt(row softmax * column softmax)`` written out by hand for samples at 0 and 1 and a positive at 3, R = 2."""
    x, y = torch.tensor([[0.0], [1.0]], dtype=F64), torch.tensor([[3.0]], dtype=F64)
    pull, push = drifting.affinity(x, y, 2.0)
    e = math.exp
    row = [e(-1.5) / (e(-1.5) + e(-0.5)), e(-1.0) / (e(-1.0) + e(-0.5))]
    column = [e(-1.5) / (e(-1.5) + e(-1.0)), e(-1.0) / (e(-1.5) + e(-1.0))]
    drawn = [math.sqrt(r * c) for r, c in zip(row, column)]
    pushed = [math.sqrt(1 - r) for r in row]  # each is the only one that pushes the other: its column's softmax is 1
    for i in (0, 1):
        assert float(pull[i, 0]) == pytest.approx(drawn[i] * pushed[i], rel=1e-9)
        assert float(push[i, 1 - i]) == pytest.approx(pushed[i] * drawn[i], rel=1e-9)
        assert float(push[i, i]) == 0


def test_the_field_is_scaled_and_moves_with_the_features() -> None:
    """Each radius has a root mean square of 1; a shift of everything changes nothing, a rotation rotates the field."""
    rng = Rng.of(0)
    x, y = rng.normal((3, 6, 4), F64), rng.normal((3, 9, 4), F64) + 0.5
    moved = drifting.drift(x, y, (0.2,))
    assert float(moved.pow(2).mean()) == pytest.approx(1, rel=1e-9)
    torch.testing.assert_close(drifting.drift(x + 7, y + 7, (0.2,)), moved, rtol=1e-6, atol=1e-8)
    turn = torch.linalg.qr(rng.normal((4, 4), F64)).Q
    torch.testing.assert_close(drifting.drift(x @ turn, y @ turn, (0.2,)), moved @ turn, rtol=1e-6, atol=1e-8)
    both = drifting.drift(x, y, (0.2, 0.05))
    torch.testing.assert_close(both, moved + drifting.drift(x, y, (0.05,)), rtol=1e-9, atol=1e-9)


def test_samples_drift_to_the_positives_and_away_from_one_another() -> None:
    far, apart = torch.tensor([[0.0, 0.0], [0.1, 0.0]], dtype=F64), torch.tensor([[5.0, 0.0], [5.1, 0.0]], dtype=F64)
    assert bool((drifting.drift(far, apart, (0.2,))[:, 0] > 0).all())
    x = torch.tensor([[-0.1, 0.0], [0.1, 0.0]], dtype=F64)
    y = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=F64)
    left, right = drifting.drift(x, y, (0.5,))[:, 0].tolist()
    assert left < 0 < right


def test_where_samples_and_positives_are_alike_there_is_next_to_no_field() -> None:
    """Of 600 points each; it grows with their distance."""
    rng = Rng.of(0)
    x, y = rng.normal((600, 2), F64), rng.normal((600, 2), F64)

    def size(apart: float) -> float:
        pull, push = drifting.affinity(x, y + apart, 0.5)
        return float((pull @ (y + apart) - push @ x).mean(0).norm())

    assert size(0) < 0.25 * size(0.5) < 0.25 * size(1)


def test_places_are_averaged_by_four_and_groups_stay_together() -> None:
    level = torch.arange(4 * 2 * 8 * 8, dtype=F64).reshape(4, 2, 8, 8)
    small, mean = drifting.levels_of(Features((level,)), 2)
    assert small.shape == (4, 2, 2, 2)
    assert mean.shape == (1, 2, 2, 2)
    torch.testing.assert_close(small[1, 1, 0], level[2, :, :4, 4:].mean((1, 2)))
    torch.testing.assert_close(mean[0, 0, 1], level[1].mean((1, 2)))


def test_options_that_cannot_be_trained_get_a_sentence() -> None:
    said = "12 samples that are looked at together cannot be filled with groups of 8"
    with pytest.raises(ValueError, match=said):
        drifting.check(drifting.Options(), Facts(batch_size=12))
    drifting.check(drifting.Options(), Facts(batch_size=16))
    with pytest.raises(ValueError, match="nothing would drift"):
        drifting.check(drifting.Options(drift_weight=0))
    with pytest.raises(ValueError, match="needs a radius"):
        drifting.check(drifting.Options(radii=()))


def test_samples_that_are_too_much_alike_raise_an_alarm_once_a_window() -> None:
    def fired(distance: float) -> list[int]:
        health = Health()
        logs = [StepLog(step, {"student/drift": 1.0}, {"student/group_distance": distance}) for step in range(1, 80)]
        return [log.step for log in logs if "alike_in_a_group" in [alarm.rule for alarm in health.check(log)]]

    assert fired(0.5) == [50]
    assert fired(1.05) == []
