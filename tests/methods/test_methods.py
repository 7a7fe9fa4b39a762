"""What every method keeps to, whoever wrote it: this suite finds each file of the family and plays it."""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import foreign
import method_parts
from bundles import tiny_bundle
from fewstep import cli
from fewstep.bundle import Card
from fewstep.methods.method import Method
from fewstep.parts import adversary
from fewstep.parts.denoiser import StudentInput
from fewstep.recipes import distillation
from fewstep.recipes.distillation import METHODS
from fewstep.rng import Rng
from fewstep.tensors import Batch
from fewstep.training import checkpoint
from fewstep.training.trainer import only_trainable
from helpers import assert_same_state, flat_gradient, gradients, same_weights
from method_parts import LOSSES, SMALL, built, trainer

each_method = pytest.mark.parametrize("name", METHODS.names)


def test_the_family_is_found() -> None:
    assert {"add", "dmd2", "drifting", "gan", "ladd", "lcm", "meanflow", "progressive", "scm", "sida"} <= set(METHODS.names)


@each_method
@pytest.mark.parametrize("axes", [1, 2, 3], ids=["sound", "pictures", "video"])
def test_only_the_player_at_its_turn_gets_a_gradient(name: str, axes: int) -> None:
    """Every turn of a step: losses are finite scalars under the field's names, and reach that player alone."""
    method, parts = built(name, axes)
    assert isinstance(method, Method)
    networks = {role: player.network for role, player in method.players.items()}
    seen = {}
    for number, turn in enumerate(method.turns(0)):
        batch = seen.setdefault(turn.batch, parts.data(turn.batch))
        for network in (*networks.values(), *parts.frozen.values()):
            network.zero_grad(set_to_none=True)
        with only_trainable(networks, turn.player):
            losses = method.losses(turn.player, batch, Rng.of(0, number))
            torch.stack(list(losses.values())).sum().backward()
        assert set(losses) <= LOSSES
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        assert all(math.isfinite(value) for value in method.observations().values())
        assert flat_gradient(networks[turn.player]).norm() > 0
        others = {role: network for role, network in networks.items() if role != turn.player} | parts.frozen
        assert not [role for role, network in others.items() if gradients(network)]
    method.after_step(0)
    assert "student" in networks
    assert {turn.player for turn in method.turns(0)} == set(networks), "every player moves"


@pytest.mark.parametrize(
    ("name", "own"),
    [("add", {}), ("gan", {}), ("ladd", {}), ("ladd", {"reals": "teacher"}), ("drifting", {})],
    ids=["add", "gan", "ladd", "ladd on the teacher's samples", "drifting"],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_regression_beside_an_adversary_is_the_same_in_every_method(name: str, own: dict[str, Any], steps: int) -> None:
    """Weighted, and written out: from the trajectory's own noise onto its end, or from what the student was shown onto where
    the teacher carries that."""
    method, parts = built(name, regression_weight=0.5, regression_steps=steps, **own)
    batch, rng = parts.data(0), Rng.of(3)
    found = method.losses("student", batch, rng)["regression"]
    shown = batch.pairs if own else batch
    assert shown is not None
    if steps:
        x, t, _ = StudentInput(parts.student)(shown.x0, shown.cond, Rng.of(3))
        end, cond = parts.teacher.refine(x, t, shown.cond, shown.null, steps), shown.cond
    else:
        pairs = batch.pairs
        assert pairs is not None, "it asked for trajectories"
        assert pairs.noise is not None
        x, t, end, cond = pairs.noise, torch.ones(len(pairs)), pairs.x0, pairs.cond
    with torch.no_grad():
        apart = parts.student.denoiser(x, t, cond) - end
    wanted = 0.5 * ((apart.square().flatten(1).mean(1) + 0.01).sqrt() - 0.1).mean()
    torch.testing.assert_close(found.detach(), wanted)
    with pytest.raises(ValueError, match="regression_weight is 0: give it a weight"):
        METHODS.load(name).check(METHODS.load(name).Options(regression_weight=0.0, regression_steps=2))


@each_method
def test_half_a_run_and_the_other_half_are_the_run(name: str, tmp_path: Path) -> None:
    """Through a file, into players of other first weights: all that the next step depends on is in the state."""
    whole, data = trainer(name, 6)
    for log in whole.steps(data):
        assert not log.skipped
        if log.step == 3:
            whole.save(tmp_path / "half")
    other, data = trainer(name, 6, seed=1)
    other.resume(tmp_path / "half")
    list(other.steps(data))
    assert_same_state(whole.state(), other.state())
    fresh, _ = trainer(name, 6)
    assert not same_weights(whole.networks["student"], fresh.networks["student"]), "it was trained"


@pytest.mark.timeout(900)  # two starts of Python and torch, slow on a busy machine
def test_all_methods_are_killed_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    """A real process, a real SIGKILL while some have taken one step more than others, a new process, the same bits."""
    command = [sys.executable, str(Path(method_parts.__file__)), str(tmp_path), "4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["2", METHODS.names[1]]:
            break
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    left = {name: checkpoint.load(tmp_path / name)["step"] for name in METHODS.names}
    assert sum(left.values()) < 4 * len(left)
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(resumed.stdout.splitlines()) == 4 * len(left) - sum(left.values()), "nothing was done twice"
    for name in METHODS.names:
        whole, data = trainer(name, 4)
        list(whole.steps(data))
        plainly = checkpoint.load(checkpoint.save(tmp_path / f"plain-{name}", whole.state()))
        assert_same_state(checkpoint.load(tmp_path / name), plainly)


adversaries = [name for name in METHODS.names if issubclass(METHODS.load(name).Options, adversary.Options)]


@pytest.mark.parametrize("name", adversaries)
def test_the_adversarial_weight_rises_as_it_is_told_and_a_resumed_run_knows_where_it_stood(
    name: str, tmp_path: Path
) -> None:
    """Nothing in the first two steps, half in the third, all from the fourth on."""
    usual, parts = built(name, adversarial_weight=0.5)
    ramped, _ = built(name, adversarial_weight=0.5, ramp_start=2, ramp=2)

    def adversarial(method: Method, step: int) -> float:
        method.turns(step)
        loss = float(method.losses("student", parts.data(0), Rng.of(0))["adversarial"].detach())
        method.after_step(step)
        return loss

    whole = [adversarial(usual, step) for step in range(5)]
    shares = [adversarial(ramped, step) / now for step, now in enumerate(whole)]
    assert shares == pytest.approx([0, 0, 0.5, 1, 1])
    o: dict[str, Any] = {"adversarial_weight": 0.5, "ramp_start": 1, "ramp": 4}
    one, data = trainer(name, 4, own=o)
    for log in one.steps(data):
        if log.step == 2:
            one.save(tmp_path / "half")
    other, data = trainer(name, 4, own=o)
    other.resume(tmp_path / "half")
    list(other.steps(data))
    assert_same_state(one.state(), other.state())


@pytest.mark.parametrize("name", adversaries)
def test_every_adversary_takes_apts_approximate_r1(name: str) -> None:
    """In the place of R1, as large as it is asked for, and felt by the heads alone."""
    found = []
    for weight in (100.0, 200.0):
        method, parts = built(name, adversarial_weight=1.0, loss="softplus", r1=0.0, approximate_r1=weight)
        losses = method.losses("discriminator", parts.data(0), Rng.of(0))
        assert losses.keys() == {"adversarial", "approximate_r1"}
        found.append(losses["approximate_r1"])
        found[-1].backward()
        assert flat_gradient(method.players["discriminator"].network).norm() > 0
        assert not gradients(method.players["student"].network)
    assert found[0] > 0
    torch.testing.assert_close(found[1], 2 * found[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("name", "option"), [("drifting", "positives"), ("ladd", "reals")])
def test_the_teachers_samples_may_stand_for_data(name: str, option: str) -> None:
    """Then the data of the batch are not read, and the trajectories' ends are."""
    o: dict[str, Any] = {option: "teacher", "adversarial_weight": 1.0}
    batch = built(name, **o)[1].data(0)
    assert batch.pairs is not None
    other = replace(batch, x0=batch.x0 + 1)
    moved = replace(batch, pairs=replace(batch.pairs, x0=batch.pairs.x0 + 1))

    def found(player: str, of: Batch) -> dict[str, float]:
        losses = built(name, **o)[0].losses(player, of, Rng.of(0))
        return {name: float(loss.detach()) for name, loss in losses.items()}

    for player in ("student", "discriminator"):
        assert found(player, batch) == found(player, other)
        assert found(player, batch)["adversarial"] != found(player, moved)["adversarial"]
    with pytest.raises(ValueError, match="give batches with pairs"):
        found("student", replace(batch, pairs=None))


@each_method
def test_mixed_precision_trains_to_the_same_losses(name: str) -> None:
    exact, data = trainer(name, 3)
    mixed, _ = trainer(name, 3, precision="bf16")
    for a, b in zip(exact.steps(data), mixed.steps(data), strict=True):
        assert not b.skipped
        assert a.losses.keys() == b.losses.keys()
        for loss, value in a.losses.items():
            assert b.losses[loss] == pytest.approx(value, rel=0.2, abs=0.02), loss


@each_method
def test_a_batch_in_parts_trains_too(name: str) -> None:
    """Gradient accumulation: what a method keeps between its turns is found for every part."""
    run, data = trainer(name, 2, gradient_accumulation=2)
    for log in run.steps(data):
        assert not log.skipped
        assert all(math.isfinite(value) for value in log.losses.values())


def test_more_parts_than_a_batch_has_rows_get_a_sentence() -> None:
    said = r"^a batch of 16 has no 17 parts: use --gradient-accumulation from 1 to 16$"
    with pytest.raises(ValueError, match=said):
        distillation.check(distillation.options(gradient_accumulation=17))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("methods"), "teacher")


@each_method
def test_the_command_line_distils_by_it_and_card_and_info_say_so(
    name: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    data = foreign.pictures(tmp_path / "data").folder
    out = tmp_path / "run"
    cli.main(["distill", "--method", name, "--teacher", str(teacher), "--data", str(data), "--steps", "2", "--batch-size", "4",
              "--gradient-accumulation", "2",
              "--student-optimizer", "adamw8bit", "--further-ema", "0.1", "0", "--warm.steps", "1", "--warm.pairs", "4",
              "--warm.batch-size", "4", "--warm.teacher-steps", "2",
              *(f"--{name}.{option.replace('_', '-')}={value}" for option, value in SMALL.get(name, {}).items()),
              "--out", str(out)])  # fmt: skip
    card = Card.read(out / "bundle")
    assert card.method == name
    assert card.training["options"]["gradient_accumulation"] == 2
    bundles = ("bundle", "bundle-ema-0.1", "bundle-ema-0")
    weights = [load_file(out / name / "unet" / "diffusion_pytorch_model.safetensors") for name in bundles]
    assert Card.read(out / "bundle-ema-0.1").training["ema"] == 0.1
    assert all(any(not torch.equal(a[k], b[k]) for k in a) for a, b in itertools.combinations(weights, 2))
    capsys.readouterr()
    cli.main(["info", str(out / "bundle")])
    told = capsys.readouterr().out
    assert f"method          {name} " in told
    assert f"--method {name}" in " ".join(told.split()) or name == distillation.USUAL


def test_gdds_student_keeps_the_teachers_inner_convolutions_and_trains_the_rest(teacher: Path, tmp_path: Path) -> None:
    """GDD-I with APT's regulariser, by the command line as the method's own page names it."""
    data, out = foreign.pictures(tmp_path / "data").folder, tmp_path / "run"
    cli.main(["distill", "--method", "gan", "--student", "freeze", "--gan.r1", "0", "--gan.approximate-r1", "100", "--gan.loss",
              "softplus", "--teacher", str(teacher), "--data", str(data), "--steps", "2", "--batch-size", "4", "--keep", "last",
              "--warm.steps", "0", "--out", str(out)])  # fmt: skip
    file = Path("unet") / "diffusion_pytorch_model.safetensors"
    before, after = (load_file(folder / file) for folder in (teacher, out / "bundle"))
    inner = {k for k, v in before.items() if v.dim() == 4 and v.shape[-1] > 1 and not k.startswith(("conv_in.", "conv_out."))}
    assert inner
    moved = {k for k in before if not torch.equal(before[k].float(), after[k].float())}
    assert not moved & inner
    assert {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"} <= moved
