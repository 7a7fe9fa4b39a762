"""Students of Stable Diffusion's and SDXL's other models: v and x0, zero terminal SNR, other latents, other guidance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import foreign
from fewstep import pretrained
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.parts import discriminator
from fewstep.recipes import distillation
from fewstep.recipes.distillation import WarmStart, prepare
from fewstep.training.recipe import run_phases
from fewstep.training.run import Saving
from tiny import sd, sdxl

CASES = [(one, name) for one, tiny in (("sd", sd.TINY), ("sdxl", sdxl.TINY)) for name in tiny.variants]
VARIANTS = {"sd": sd.TINY.variants, "sdxl": sdxl.TINY.variants}


@pytest.mark.parametrize(("one", "name"), CASES)
def test_stock_diffusers_draws_the_students_of_a_familys_other_models(tmp_path, monkeypatch, one, name):
    """In single precision, at every count that the card promises."""
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    folder, out = VARIANTS[one][name].make(tmp_path / one), tmp_path / "run"
    student = trained(folder, tmp_path / "data", out)
    pipeline = Pipeline.open(student)
    theirs = foreign.stock(student, **({"add_watermarker": False} if one == "sdxl" else {}))
    assert theirs.scheduler.config.prediction_type == pretrained.read_config(
        folder / "scheduler" / "scheduler_config.json"
    ).get("prediction_type", "epsilon")
    drawn = []
    for n in (1, 2, 4):
        torch.manual_seed(3)
        pictures = theirs("a red heart", num_inference_steps=n, guidance_scale=0, output_type="np").images
        drawn.append(pictures)
        own = foreign.numpy(pipeline(Request(["a red heart"], [3], n)))
        assert own.std() > 0.01
        np.testing.assert_allclose(own, pictures, atol=1e-3, err_msg=f"{n} steps")
    assert np.abs(drawn[0] - drawn[2]).max() > 5e-3, "another count, another picture"


def trained(teacher: Path, data: Path, out: Path) -> Path:
    """A student of two steps."""
    native = pretrained.native_size(teacher)
    foreign.pictures(data, side=native)
    options = distillation.options(
        teacher=str(teacher), data=str(data), steps=2, batch_size=4, features="teacher", student_learning_rate=0.02,
        warm=WarmStart(steps=0), heads=discriminator.Options(width=8), student="full",
    )  # fmt: skip
    work = prepare(options, out)
    run_phases(work.phases, Saving(out), lambda phase, trainer, log: None)
    work.save(out / "bundle", 2)
    return out / "bundle"
