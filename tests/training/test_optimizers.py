"""How weights move: each optimiser against what it says it does, and exact resume for all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fewstep.methods.method import Optimizer
from fewstep.methods.regression import Regression
from fewstep.recipes import distillation, emoji, mixture
from fewstep.training import checkpoint
from fewstep.training.optimizers.adamw8bit import BLOCK, AdamW8bit, dynamic, packed, unpacked
from fewstep.training.optimizers.muon import Muon, is_matrix, orthogonalised
from fewstep.training.trainer import OPTIMIZERS, Trainer


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_an_orthogonalised_matrix_keeps_its_directions_and_evens_its_singular_values(shape):
    other, matrix = torch.randn(2, *shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    even = orthogonalised(torch.stack([100 * other, matrix]))[1]  # each by itself, whatever stands beside it
    turned = u.T @ even @ v.T  # diagonal where the directions are kept
    values = turned.diagonal()
    assert ((values > 0.5) & (values < 1.3)).all()
    torch.testing.assert_close(turned, torch.diag(values), atol=1e-8, rtol=0)


def test_first_and_last_layers_norms_and_biases_are_left_to_adamw():
    assert is_matrix(nn.Conv2d(64, 64, 3).weight)
    assert is_matrix(nn.Linear(64, 96).weight)
    assert not is_matrix(nn.Conv2d(4, 32, 3).weight)  # a first layer
    assert not is_matrix(nn.Conv2d(96, 4, 3).weight)  # a last one
    assert not is_matrix(nn.GroupNorm(8, 64).weight)


def test_what_is_no_matrix_moves_exactly_as_adamw_moves_it():
    a, b = torch.randn(7, requires_grad=True), torch.randn(7)
    b = a.detach().clone().requires_grad_(True)
    ours = Muon([a], lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    theirs = torch.optim.AdamW([b], lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1)
    for _ in range(5):
        for p, optimizer in ((a, ours), (b, theirs)):
            p.grad = p.detach() ** 3 - 1
            optimizer.step()
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_matrix_moves_by_the_size_of_an_adamw_update_along_the_descent_direction():
    torch.manual_seed(1)
    w = nn.Parameter(torch.randn(64, 128))
    before = w.detach().clone()
    w.grad = torch.randn(64, 128)
    gradient = w.grad.clone()
    Muon([w], lr=1e-2).step()
    moved = w.detach() - before
    assert (moved * gradient).sum() < 0
    size = float(moved.pow(2).mean().sqrt())
    assert 0.5 * 0.2e-2 < size < 1.3 * 0.2e-2  # 0.2 lr a number, whatever the size of the gradient


def test_it_learns_rare_pairs_in_fewer_steps_than_adamw():
    """64 keys of uneven frequency, each with its own value: after the same steps the rare ones are nearer."""

    def left(kind) -> float:
        torch.manual_seed(0)
        keys, values = torch.randn(64, 64), torch.randn(64, 64)
        often = 1 / torch.arange(1.0, 65.0)
        net = nn.Linear(64, 64, bias=False)
        optimizer = kind(net.parameters(), lr=3e-3)
        for _ in range(150):
            rows = torch.multinomial(often, 16, replacement=True)
            optimizer.zero_grad()
            (net(keys[rows]) - values[rows]).pow(2).mean().backward()
            optimizer.step()
        return float((net(keys[32:]) - values[32:]).detach().pow(2).mean())

    assert left(Muon) < left(torch.optim.AdamW)


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_every_optimiser_resumes_bit_for_bit(name, tmp_path):
    """Every file of the family: its state goes through a checkpoint as tensors, and the run goes on as if nothing had been."""

    def step(net, optimizer, n):
        for i in range(n):
            optimizer.zero_grad()
            net(torch.full((2, 64), 0.1 * (i + 1))).pow(2).sum().backward()
            optimizer.step()

    def made():
        net = nn.Sequential(nn.Linear(64, 80), nn.LayerNorm(80))
        return net, OPTIMIZERS.load(name).build(net.parameters(), Optimizer(1e-2, beta1=0.9, weight_decay=0.1))

    torch.manual_seed(0)
    whole, optimizer = made()
    names = [k for k, _ in whole.named_parameters()]
    step(whole, optimizer, 3)
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    checkpoint.save(tmp_path / "c", {"o": checkpoint.optimizer_state(optimizer, names)})
    step(whole, optimizer, 3)
    again, second = made()
    again.load_state_dict(weights)
    checkpoint.load_optimizer_state(second, names, checkpoint.load(tmp_path / "c")["o"])
    step(again, second, 3)
    for a, b in zip(whole.parameters(), again.parameters()):
        assert torch.equal(a, b)
        assert not torch.equal(a, torch.zeros_like(a))
    left, right = (checkpoint.optimizer_state(o, names) for o in (optimizer, second))
    for part in names:
        assert left[part].keys() == right[part].keys()
        assert all(v.dtype == right[part][k].dtype and torch.equal(v, right[part][k]) for k, v in left[part].items())


def test_an_optimiser_that_there_is_not_gets_one_sentence():
    with pytest.raises(ValueError, match=r"^there is no optimiser 'lion': use adamw, adamw8bit, muon, or a dotted path"):
        distillation.check(distillation.options(student_optimizer="lion"))
    with pytest.raises(ValueError, match=r"^there is no optimiser 'sgd'"):
        emoji.teach(emoji.TeacherOptions(optimizer="sgd"))


# moments of eight bits


@pytest.mark.parametrize("signed", [True, False])
def test_the_values_of_a_byte_lie_ever_denser_towards_zero(signed):
    table = dynamic(signed)
    assert len(table) == 256
    assert (table.diff() > 0).all()
    assert 0.0 in table
    assert table[-1] == 1
    for decade in range(7):  # ten to the -7 to 1
        inside = (table > 10.0 ** (decade - 7)) & (table < 10.0 ** (decade - 6))
        assert inside.sum() == 2 ** (decade + (0 if signed else 1))


@pytest.mark.parametrize("signed", [True, False])
def test_a_packed_moment_is_the_nearest_value_times_its_blocks_scale(signed):
    torch.manual_seed(0)
    x = torch.randn(5000) * torch.logspace(-4, 2, 5000)  # blocks of very different size; the last one is not full
    x = x if signed else x.abs()
    code, scale = packed(x, signed)
    assert (code.dtype, len(code), len(scale)) == (torch.uint8, 5000, -(-5000 // BLOCK))
    back = unpacked(code, scale, signed, x)
    for i, block in enumerate(x.split(BLOCK)):
        values = dynamic(signed) * block.abs().max()
        nearest = (block[:, None] - values).abs().min(1).values
        error = (back[i * BLOCK : i * BLOCK + len(block)] - block).abs()
        torch.testing.assert_close(error, nearest, rtol=1e-3, atol=1e-6 * float(block.abs().max()))
    zeros, none = packed(torch.zeros(300), signed)
    assert unpacked(zeros, none, signed, torch.zeros(300)).abs().max() == 0


def test_small_tensors_move_exactly_as_adamw_moves_them_and_large_ones_nearly():
    """A quarter of the state: 2 bytes and a 64th of 4 a weight, for AdamW's 8."""
    torch.manual_seed(0)
    weights = {n: torch.randn(n) for n in (100, 64 * 128)}
    for n, start in weights.items():
        a, b = (start.clone().requires_grad_() for _ in range(2))
        ours = AdamW8bit([a], lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1)
        theirs = torch.optim.AdamW([b], lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1)
        for step in range(20):
            for p, optimizer in ((a, ours), (b, theirs)):
                p.grad = p.detach() ** 3 + torch.randn(n, generator=torch.Generator().manual_seed(step))
                optimizer.step()
        moved, wanted = (a - start).detach(), (b - start).detach()
        if n == 100:
            torch.testing.assert_close(moved, wanted, rtol=1e-5, atol=1e-6)
        else:
            assert (moved - wanted).norm() < 0.08 * wanted.norm()
            kept = sum(v.numel() * v.element_size() for v in ours.state[a].values())
            assert 2 < kept / n < 2.1


def test_eight_bits_bring_a_network_as_far_as_adamw():
    """The student of the plane, 250 steps of regression onto its teacher's trajectories: the same loss within a tenth."""

    def loss(kind: str) -> float:
        student = mixture.student(0)
        o = mixture.warm_options(250)
        adam = replace(o.optimizers["student"], kind=kind)
        logs = list(Trainer(Regression(student), replace(o, optimizers={"student": adam})).steps(mixture.pairs(512)))
        return sum(log.losses["student/regression"] for log in logs[-50:]) / 50

    assert loss("adamw8bit") == pytest.approx(loss("adamw"), rel=0.1)
