"""The decoder's training: its terms in closed form, its weights alone, the balance of the adversary, the student's rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.methods import decoding
from fewstep.methods.decoding import Decoding, Options
from fewstep.parts.adversary import Adversary
from fewstep.parts.codec import IdentityCodec
from fewstep.parts.denoiser import Student, freeze
from fewstep.parts.discriminator import Discriminator
from fewstep.parts.features.feature import MediaFeatures
from fewstep.recipes.decoder import decoder_of
from fewstep.rng import Rng
from fewstep.tensors import Batch
from fewstep.training.trainer import Options as Training
from fewstep.training.trainer import Trainer
from helpers import ConvDenoiser, Eyes, assert_same_state, make_batch, tiny_vae


class Shift(nn.Module):
    """A decoder with a weight a pixel: its gradient is that at the pixels."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros_like(like))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.by


def game(decode: Any, network: nn.Module, batch: Batch, student: Student | None = None, **options: Any) -> Decoding:
    """A decoder's game with tiny eyes, in the numbers of the batch."""
    torch.manual_seed(1)
    assert batch.media is not None
    o = Options(**{"ramp_start": 0, "ramp": 0, **options})
    eyes = freeze(Eyes(batch.media.dim() - 2, batch.media.shape[1]).to(batch.media))
    looking = MediaFeatures(eyes)
    seen = looking(batch.media, batch.cond, Rng.of(0))
    heads = Discriminator.over(seen, batch.cond, o.heads).to(batch.media)
    return Decoding(decode, network, o, looking, Adversary(IdentityCodec(), looking, heads, o), student)


def drawings(n: int = 4, axes: int = 2, dtype: torch.dtype = torch.float64) -> Batch:
    """Samples within [-.5, .5] that are their own latents."""
    batch = make_batch(n, axes, dtype=dtype)
    return replace(batch, x0=0.5 * batch.x0, media=0.5 * batch.x0)


def shifted(by: Tensor, batch: Batch, **options: Any) -> dict[str, Tensor]:
    """The losses of a decoder that is off by so much, without an adversary or features."""
    network = Shift(batch.x0)
    with torch.no_grad():
        network.by += by
    o = Options(adversarial_weight=0, perceptual=0, jitter=0, **options)
    return Decoding(network, network, o).losses("decoder", batch, Rng.of(0))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_errors_against_a_drawing_are_means_of_absolute_differences(axes: int) -> None:
    batch = drawings(axes=axes)
    by = 0.1 * torch.randn(batch.x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = shifted(by, batch, edges=2.0)
    assert found["reconstruction"].item() == pytest.approx(by.abs().mean().item(), rel=1e-12)
    steps = sum(by.diff(dim=axis).abs().mean().item() for axis in range(2, by.dim()))
    assert found["edges"].item() == pytest.approx(2 * steps, rel=1e-12)
    assert found["overshoot"].item() == 0


def test_whiter_than_white_costs_the_overshoot_alone() -> None:
    """What is beyond white is shown as white: no error, but the overshoot leads it back where the clamp has no gradient."""
    batch = drawings()
    white = torch.ones_like(batch.x0)
    batch = replace(batch, x0=white, media=white)
    found = shifted(0.5 * white, batch, overshoot=0.05)
    assert [found[name].item() for name in ("reconstruction", "edges")] == [0, 0]
    assert found["overshoot"].item() == pytest.approx(0.05 * 0.5, rel=1e-12)
    network = Shift(white)
    with torch.no_grad():
        network.by += 0.5
    method = Decoding(network, network, Options(adversarial_weight=0, perceptual=0, jitter=0, overshoot=0.05))
    torch.stack(list(method.losses("decoder", batch, Rng.of(0)).values())).sum().backward()
    assert network.by.grad is not None
    assert torch.allclose(network.by.grad, 0.05 * white / white.numel(), atol=0, rtol=1e-12)


@pytest.mark.parametrize(("share", "ramp", "step", "wanted"), [(2.0, 0, 0, 2.0), (6.0, 4, 1, 3.0), (2.0, 4, 9, 2.0)])
def test_the_adversarys_gradient_at_the_pixels_is_a_share_of_the_drawings(
    share: float, ramp: int, step: int, wanted: float
) -> None:
    batch = drawings()
    network = Shift(batch.x0)
    method = game(network, network, batch, adversarial_weight=share, ramp=ramp)
    method.turns(step)
    out = method.losses("decoder", batch, Rng.of(0))
    at = {name: torch.autograd.grad(value, network.by, retain_graph=True)[0] for name, value in out.items()}
    drawn = (at["reconstruction"] + at["edges"] + at["perceptual"]).norm()
    assert at["adversarial"].norm().item() == pytest.approx(wanted * drawn.item(), rel=1e-9)
    method.after_step(0)


def test_before_its_ramp_the_adversary_says_nothing_and_its_heads_learn() -> None:
    batch = drawings()
    network = Shift(batch.x0)
    method = game(network, network, batch, ramp_start=5)
    method.turns(0)
    assert method.losses("decoder", batch, Rng.of(0))["adversarial"].item() == 0
    assert method.losses("discriminator", batch, Rng.of(0))["adversarial"].item() > 0


def test_balance_is_a_ratio_of_norms_and_0_where_there_is_nothing_to_scale() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert decoding.balance(a, b).item() == 2.5
    assert decoding.balance(a, torch.zeros(2)).item() == 0


def tiny(student: bool = True, seed: int = 0, **options: Any) -> tuple[Decoding, Batch, Any]:
    """A real tiny VAE's decoder, whose other half is frozen; a student of its latents; a batch of eight."""
    codec = tiny_vae(seed)
    media = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    batch = make_batch(8, channels=4)
    batch = replace(batch, x0=codec.encode(media), media=media)
    torch.manual_seed(seed + 7)
    played = Student(freeze(ConvDenoiser(2, 4))) if student else None
    decoder = decoder_of(codec.vae).requires_grad_(True)
    return game(codec.decode, decoder, batch, played, **options), batch, codec


def trained(method: Decoding, batch: Batch, steps: int, state: Path | None = None, at: int = 0) -> Trainer:
    """``steps`` steps on one batch; the state of step ``at`` is saved."""
    trainer = Trainer(method, Training(steps, len(batch)))
    for log in trainer.steps(lambda step: batch):
        if state is not None and log.step == at:
            trainer.save(state)
    return trainer


def test_the_decoder_moves_and_nothing_else_does() -> None:
    method, batch, codec = tiny()
    assert method.student is not None
    held = {"student": method.student.denoiser, "features": method.features.network}  # type: ignore[union-attr]
    before = {name: copy.deepcopy(network.state_dict()) for name, network in {**held, "vae": codec.vae}.items()}
    trained(method, batch, 3)
    for name, network in held.items():
        assert_same_state(before[name], network.state_dict())
        assert all(p.grad is None for p in network.parameters())
    for name, value in codec.vae.state_dict().items():
        same = torch.equal(value, before["vae"][name])
        assert same == (not name.startswith("decoder.")) or value.numel() == 0, name
    assert all(p.grad is None for p in codec.vae.encoder.parameters())


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    method, batch, _ = tiny()
    whole = trained(method, batch, 4, tmp_path / "state", at=2)
    other, batch, _ = tiny()
    again = Trainer(other, Training(4, len(batch)))
    again.resume(tmp_path / "state")
    assert again.step == 2
    list(again.steps(lambda step: batch))
    assert_same_state(whole.state(), again.state())


def test_a_quarter_of_the_rows_are_the_students_estimates_and_another_its_draws() -> None:
    method, batch, _ = tiny()
    assert method.student is not None
    rows, again = method.rows(batch, Rng.of(4)), method.rows(batch, Rng.of(4))
    assert torch.equal(rows.z, again.z)
    assert torch.equal(rows.paired, again.paired)
    assert not torch.equal(rows.z, method.rows(batch, Rng.of(5)).z)
    rng = Rng.of(4)
    jittered = batch.x0 + 0.05 * rng.normal_like(batch.x0)
    plain = (rows.z == jittered).flatten(1).all(1)
    assert (int(plain.sum()), int((~rows.paired).sum())) == (4, 2)
    assert bool(rows.paired[plain].all())
    rng.uniform((8,))
    noise = rng.normal_like(batch.x0)
    drawn = ~rows.paired
    own = method.student.draw(noise[drawn], batch.cond[drawn], 1, Rng.of(0))
    assert torch.allclose(rows.z[drawn], own, atol=1e-6)


def test_without_a_student_every_row_is_a_drawing() -> None:
    method, batch, _ = tiny(student=False)
    rows = method.rows(batch, Rng.of(0))
    assert bool(rows.paired.all())
    assert (rows.z - batch.x0).std().item() == pytest.approx(0.05, rel=0.1)


def test_a_student_of_one_time_gives_draws_only() -> None:
    method, batch, _ = tiny()
    method = game(method.decode, method.decoder, batch, Student(method.student.denoiser, (1.0,)))  # type: ignore[union-attr]
    rows = method.rows(batch, Rng.of(0))
    assert int((~rows.paired).sum()) == 2


def test_what_the_heads_judge_is_what_was_decoded() -> None:
    """Two turns of a step see one picture: the heads' turn decodes nothing anew."""
    method, batch, _ = tiny()
    method.turns(0)
    method.losses("decoder", batch, Rng.of(0))
    calls = []
    method.decode = lambda z: calls.append(z) or z
    method.losses("discriminator", batch, Rng.of(1))
    assert not calls


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"student_share": 0.6, "drawn_share": 0.5}, "more than the whole batch"),
        ({"features": "teacher"}, "does not see"),
        ({"mismatched": 1.0}, "they are shown none"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decoding.check(Options(**options), 16)


def test_a_loss_without_its_part_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the part features"):
        Decoding(lambda z: z, nn.Identity())
