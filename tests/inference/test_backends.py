"""Every backend that has a file, held to eager: found by its file, so a new one is tested by being there."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from fewstep.inference import backend as backends
from fewstep.inference import graph
from fewstep.inference.backend import Measured
from fewstep.inference.pipeline import Pipeline
from fewstep.rng import Rng
from fewstep.tensors import Conditioning
from serving_helpers import make_bundle


def tolerance(backend: backends.Backend) -> float:
    """Relative error that is allowed: a backend of less precision says how much."""
    return getattr(backend, "TOLERANCE", 1e-5)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """A network of one level: exporting takes a second for every dozen of layers."""
    return Pipeline.open(make_bundle(Path(tempfile.mkdtemp(prefix="fewstep-tiny-")) / "flat", channels=(8,)))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole run: exporting is what takes time."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("FEWSTEP_CACHE", str(folder))
    return folder


def usable(name: str) -> backends.Backend:
    backend = backends.load(name)
    if (sentence := backend.missing()) is not None:
        pytest.skip(sentence)
    return backend


def place(backend: backends.Backend) -> str:
    """Where it is tested: here, or on the GPU that it needs."""
    return "cpu" if backends.runs_on(backend, "cpu") else "cuda"


def test_every_file_is_a_backend():
    found = backends.names()
    assert found[0] == "eager"
    assert {"eager", "onnx", "openvino", "compiled", "cudagraph"} <= set(found)
    for name in found:
        sentence = backends.load(name).missing()
        assert sentence is None or len(sentence) > 10
    assert set(backends.installed()) <= set(found)


@pytest.mark.parametrize("name", backends.names())
def test_network_and_codec_agree_with_eager(name: str, pipeline: Pipeline):
    """Other inputs than the example, every time of the student: one graph, no constant baked in."""
    backend = usable(name)
    device = place(backend)
    model = copy.deepcopy(pipeline.model).to(device)
    shape = (1, *pipeline.latent_shape())
    with torch.inference_mode():
        example = pipeline.encode(["a cat"]).to(device)
        run = backends.compile_denoiser(backend, model.denoiser, torch.zeros(shape, device=device), example)
        for seed, (prompt, at) in enumerate([("a red heart", 1.0), ("the moon", 0.75), ("", 0.25)]):
            x_t, cond = Rng.of(seed, device=device).normal(shape), pipeline.encode([prompt]).to(device)
            t = torch.tensor([at], dtype=torch.float64, device=device)
            reference = model.denoiser(x_t, t, cond)
            assert backends.relative_error(run(x_t, t, cond), reference) < tolerance(backend)
        decode = backends.compile_decoder(backend, model.codec, torch.zeros(shape, device=device))
        assert backends.relative_error(decode(reference), model.codec.decode(reference)) < tolerance(backend)
        media = Rng.of(7, device=device).uniform((1, 3, 32, 32), -1, 1)
        encode = backends.compile_encoder(backend, model.codec, torch.zeros_like(media))
        assert backends.relative_error(encode(media), model.codec.encode(media)) < tolerance(backend)


@pytest.mark.parametrize("name", backends.names())
def test_a_backend_keeps_no_answer_alive_in_its_buffers(name: str):
    """An answer must not change when the next is computed."""
    backend = usable(name)
    device = place(backend)
    run = backend.compile(nn.Conv2d(2, 2, 1).to(device), (torch.zeros(1, 2, 4, 4, device=device),))
    with torch.inference_mode():
        first = run(torch.ones(1, 2, 4, 4, device=device))
        kept = first.clone()
        run(torch.full((1, 2, 4, 4), -3.0, device=device))
    assert torch.equal(first, kept)


def test_the_pipeline_draws_the_same_picture_through_another_backend(pipeline: Pipeline):
    backend = usable("onnx")
    with torch.inference_mode():
        cond = pipeline.encode(["a cat"])
        other = Pipeline(pipeline.model, pipeline.card)
        x_t = torch.zeros(1, *pipeline.latent_shape())
        other.denoise = backends.compile_denoiser(backend, other.model.denoiser, x_t, cond)
        difference = other.draw("a red heart", steps=4, seed=3) - pipeline.draw("a red heart", steps=4, seed=3)
    assert difference.abs().max() < 1 / 255


def test_the_exported_file_is_made_once_and_only_for_the_same_weights(cache: Path):
    example = (torch.zeros(1, 2, 4, 4),)
    torch.manual_seed(0)
    one, other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    versions = {"onnx": "1"}
    assert graph.fingerprint(one, example, versions) == graph.fingerprint(one, example, versions)
    assert graph.fingerprint(one, example, versions) != graph.fingerprint(other, example, versions)
    assert graph.fingerprint(one, example, versions) != graph.fingerprint(one, example, {"onnx": "2"})
    wider = (torch.zeros(1, 2, 4, 8),)
    assert graph.fingerprint(one, example, versions) != graph.fingerprint(one, wider, versions)
    if graph.missing("onnxruntime"):
        pytest.skip("nothing to export with")
    path = graph.exported(one, example)
    stamp = path.stat().st_mtime_ns
    assert graph.exported(one, example) == path
    assert path.stat().st_mtime_ns == stamp
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_the_default_is_chosen_by_picture_quality_first():
    measured = [Measured("eager", 20.0, 0.0), Measured("onnx", 11.0, 3e-6), Measured("wrong", 2.0, 0.5)]
    assert [m.name for m in backends.choose(measured)] == ["onnx"]
    with pytest.raises(ValueError, match="use eager"):
        backends.choose(measured[2:])


def test_a_backend_of_less_precision_stands_behind_if_it_is_clearly_faster():
    measured = [Measured("eager", 20.0, 0.0), Measured("onnx", 11.0, 3e-6)]
    half, quarter = Measured("half", 5.0, 4e-2), Measured("quarter", 4.0, 0.3)
    assert [m.name for m in backends.choose([half, quarter, *measured])] == ["onnx", "half"]
    assert [m.name for m in backends.choose([*measured, Measured("half", 10.0, 4e-2)])] == ["onnx"]


def test_an_unknown_backend_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"there is no backend 'warp': use compiled, .*eager.*, or a dotted path to your own"):
        backends.load("warp")
    with pytest.raises(ValueError, match="missing"):
        backends.load("json.decoder")
    with pytest.raises(ValueError, match=r"cannot load the backend 'foo\.bar'.*dotted path"):
        backends.load("foo.bar")


def test_a_backend_is_refused_on_a_device_that_it_is_not_made_for():
    with pytest.raises(ValueError, match="'eager' does not run on abacus"):
        backends.usable("eager", "abacus")
    if graph.missing("onnxruntime"):
        pytest.skip("onnx cannot run here")
    with pytest.raises(ValueError, match="'onnx' does not run on cuda: use one of eager, compiled, cudagraph"):
        backends.usable("onnx", "cuda")


def test_a_backend_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "twice.py").write_text(
        "def missing():\n    return None\n\ndef compile(module, example):\n    return lambda *x: 2 * module(*x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = backends.usable("mine.twice").compile(nn.Identity(), (torch.ones(2),))
    assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
    sys.modules.pop("mine.twice")


def test_a_backend_that_cannot_run_here_says_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: torch.compile can run")
    with pytest.raises(ValueError, match=r"compiled.*GPU"):
        backends.usable("compiled")


def test_only_what_the_network_reads_is_handed_over(pipeline: Pipeline):
    cond = pipeline.encode(["a cat"])
    assert backends.fields_of(pipeline.model.denoiser, cond) == ["tokens"]
    only_pooled = Conditioning(pooled=torch.zeros(1, 3))
    assert backends.fields_of(pipeline.model.denoiser, only_pooled) == ["pooled"]


def test_the_median_time_ignores_the_first_call():
    ticks = iter([0.0, 0.010, 0.010, 0.040, 0.040, 0.052])
    calls = []
    assert backends.milliseconds(lambda: calls.append(1), repeats=3, clock=lambda: next(ticks)) == pytest.approx(12)
    assert len(calls) == 4


SIGNALS = """
import signal, torch
from fewstep.inference.backends import openvino

one, two = (openvino.compile(torch.nn.Linear(3, n), (torch.zeros(1, 3),)) for n in (3, 4))
one(torch.zeros(1, 3)), two(torch.zeros(1, 3))
del one
del two
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append(True))
signal.raise_signal(signal.SIGINT)
assert caught
"""


@pytest.mark.skipif("openvino" not in backends.installed(), reason="openvino is not installed")
def test_ctrl_c_survives_openvino_models_that_have_come_and_gone():
    subprocess.run([sys.executable, "-c", SIGNALS], check=True, timeout=120)


@pytest.mark.skipif("openvino" not in backends.installed(), reason="openvino is not installed")
def test_openvino_refuses_another_shape_than_it_was_compiled_for_and_lends_no_memory(pipeline: Pipeline):
    decode = backends.compile_decoder(
        backends.load("openvino"), pipeline.model.codec, torch.zeros(1, *pipeline.latent_shape())
    )
    with pytest.raises(ValueError, match="compiled for an input of"):
        decode(torch.zeros(2, *pipeline.latent_shape()))
    first = decode(torch.zeros(1, *pipeline.latent_shape()))
    kept = first.clone()
    decode(torch.ones(1, *pipeline.latent_shape()))
    assert torch.equal(first, kept)  # a second call does not write over the first one's answer
