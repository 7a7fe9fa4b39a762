"""Where networks run: refused in a sentence where a machine lacks it, the same noise everywhere, and no float64 on mps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bundles import tiny_bundle
from fewstep import bundle, cli, demo, rng, tensors
from fewstep.diffusion import sampler, schedule
from fewstep.inference import backend
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.modality.image import read
from fewstep.ranges import Placement, check_device

NO_GPU = pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")


@NO_GPU
@pytest.mark.parametrize("command", ["draw cat", "evaluate", "demo", "budget", "serve", "teach", "distill"])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("tpu", "unknown device 'tpu': use cpu, cuda, cuda:1 (the second GPU) or mps"),
        ("cuda:1", "torch sees no GPU cuda:1 here: use --device cpu, or install a torch with CUDA"),
        ("mps", "torch sees no Apple GPU (mps) here: use --device cpu, or cuda for an NVIDIA GPU"),
    ],
)
def test_every_command_takes_a_device_and_refuses_one_that_is_not_here(
    command: str, device: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--device", device])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"fewstep: {said}"
    assert not list(tmp_path.iterdir()), "nothing was begun"


def test_mps_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    check_device("mps")
    assert backend.runs_on(backend.load("eager"), "mps")
    assert not backend.runs_on(backend.load("cudagraph"), "mps")


@pytest.mark.parametrize(("dtype", "near"), [("fp32", 0.0), ("bf16", 0.05), ("fp16", 0.01)])
def test_draw_takes_its_numbers(dtype: str, near: float, tmp_path: Path) -> None:
    """Root mean square distance to fp32's picture, pixels in [-1, 1]; and the pictures are really other ones."""
    plain = ["draw", "a red heart", "--seed", "3", "--no-provenance"]
    cli.main([*plain, "-o", str(tmp_path / "plain.png")])
    cli.main([*plain, "--dtype", dtype, "-o", str(tmp_path / "other.png")])
    pictures = [read(tmp_path / f"{name}.png", size=64) for name in ("plain", "other")]
    distance = float((pictures[0] - pictures[1]).square().mean().sqrt())
    assert distance <= near
    assert (distance == 0) == (dtype == "fp32")


def test_records_say_what_they_were_timed_on(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path)
    machines = [Pipeline.open(folder, "cpu", dtype).machine for dtype in ("auto", "fp32", "bf16")]
    assert machines[0] == machines[1]
    assert machines[0].endswith(" CPU")
    assert machines[2] == f"{machines[0]}, bfloat16"


def test_the_demo_trains_in_what_it_can() -> None:
    assert demo.Options().placement == Placement("cpu", "auto")
    assert [Placement(dtype=d).precision for d in ("auto", "fp32", "bf16", "fp16")] == ["fp32", "fp32", "bf16", "fp32"]


def test_seeds_give_the_same_noise_on_every_device() -> None:
    """It is drawn on the CPU and carried over: a device that holds nothing (meta) moves no stream."""
    here, there = rng.Rng.per_sample([1, 2]), rng.Rng.per_sample([1, 2], "meta")
    here.normal((2, 3))
    assert there.normal((2, 3)).device.type == "meta"
    expected = torch.cat([torch.randn(2, 3, generator=torch.Generator().manual_seed(s))[None] for s in (1, 2)])
    assert torch.equal(rng.Rng.per_sample([1, 2]).normal((2, 2, 3)), expected)
    there = rng.Rng([g.clone_state() for g in there._generators], "cpu")
    assert torch.equal(here.normal((2, 3)), there.normal((2, 3)))


class NoDoubles(TorchDispatchMode):
    """Refuses every float64 that an operation makes, as Apple's GPUs do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                raise TypeError(f"{func} made a float64")
        return made


@pytest.mark.parametrize(
    ("model", "steps", "kind"),
    [("emoji-64", 1, None), ("emoji-64", 4, None), ("emoji-64", 2, "renoise"), ("emoji-64-teacher", 3, "ddim"),
     ("emoji-64-teacher", 3, "heun")],
)  # fmt: skip
def test_nothing_is_drawn_in_float64_where_there_is_none(
    model: str, steps: int, kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, since no such device is here: no operation makes one, and the picture is the same to 1e-4."""
    folder = bundle.locate(model)
    asked = Request(["a red heart", "a blue house"], [3, 4], steps, sampler=kind)
    wanted, there = Pipeline.open(folder)(asked), Pipeline.open(folder)
    for module in (tensors, sampler, schedule, rng):
        monkeypatch.setattr(module, "exact_dtype", lambda device: torch.float32)
    with NoDoubles():
        drawn = there(asked)
    assert float((drawn - wanted).abs().max()) < 1e-4


def test_training_times_are_drawn_for_a_device_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    times = torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64)
    usual = rng.Rng.of(0).choice(times, 64)
    monkeypatch.setattr(rng, "exact_dtype", lambda device: torch.float32)
    drawn = rng.Rng.of(0).choice(times, 64)
    assert (usual.dtype, drawn.dtype) == (torch.float64, torch.float32)
    assert torch.equal(usual.float(), drawn)
    assert tensors.exact_dtype("mps") == torch.float32
    assert tensors.exact_dtype("cuda:1") == torch.float64


@pytest.mark.parametrize("command", ["draw", "evaluate", "demo"])
def test_help_has_the_two_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert "--device" in shown
    assert "{auto,fp32,bf16,fp16}" in shown
