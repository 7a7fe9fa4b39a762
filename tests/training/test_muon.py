"""Muon: what an orthogonal update is, which weights it moves, and that a run with it resumes bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.training import checkpoint
from fewstep.training.muon import Muon, is_matrix, orthogonalised


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


def test_its_state_survives_a_checkpoint(tmp_path):
    def step(net, optimizer, n):
        for i in range(n):
            optimizer.zero_grad()
            net(torch.full((2, 64), 0.1 * (i + 1))).pow(2).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
    names = [k for k, _ in whole.named_parameters()]
    optimizer = Muon(whole.parameters(), lr=1e-2)
    step(whole, optimizer, 3)
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    checkpoint.save(tmp_path / "c", {"o": checkpoint.optimizer_state(optimizer, names)})
    step(whole, optimizer, 3)

    again = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
    again.load_state_dict(weights)
    second = Muon(again.parameters(), lr=1e-2)
    checkpoint.load_optimizer_state(second, names, checkpoint.load(tmp_path / "c")["o"])
    step(again, second, 3)
    for a, b in zip(whole.parameters(), again.parameters()):
        assert torch.equal(a, b)
