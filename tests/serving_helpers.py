"""A whole bundle of real diffusers and transformers classes, a few thousand random weights, made once a test run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fewstep import bundle
from fewstep.bundle import Card
from fewstep.inference.pipeline import Pipeline
from fewstep.pretrained.families import sd
from fewstep.server import app
from fewstep.server.state import Studio

SIZE = 32
TOKEN = "a-token-for-tests"
WORDS = ["a", "the", "red", "blue", "green", "heart", "cat", "dog", "sun", "moon", "face", "with", "of", "and"]


PATIENCE_S = 60.0
"""How long a test waits for what must come: no bound on speed, for a busy machine takes longer. Only failing waits it out."""


def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> None:
    """Wait for what must come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.01)


def text_folder(folder: Path) -> Path:
    """A word-level tokenizer and a BERT of 8 numbers a token."""
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = list(dict.fromkeys(vocabulary))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=8)
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    encoder = BertModel(
        BertConfig(
            vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=16, use_attention_mask=True,
        )
    )  # fmt: skip
    encoder.save_pretrained(folder / "text_encoder")
    return folder


def make_bundle(folder: Path, seed: int = 0, role: str = "student", channels: tuple[int, ...] = (8, 16)) -> Path:
    """Write a text-to-image bundle for pictures of 32x32 (latents of 16x16); a student of four steps."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D")[-len(channels):],
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")[:len(channels)],
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    with torch.no_grad():  # random weights hardly look at their text: here they do
        for name, p in unet.named_parameters():
            if "attn2.to_out" in name or "attn2.to_v" in name:
                p.mul_(8)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4, act_fn="relu",
    )  # fmt: skip
    with torch.no_grad():  # and nearly grey: here they draw in colour
        unet.conv_out.weight.mul_(4)
        vae.decoder.layers[-1].weight.mul_(8)
    scheduler = sd.FAMILY.scheduler(
        role,
        {"prediction_type": "v_prediction", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "rescale_betas_zero_snr": True},
    )  # fmt: skip
    student = role == "student"
    card = Card(
        name="tiny", role=role, method="add" if student else "denoising", steps=(1, 2, 4) if student else (25,),
        times=(1.0, 0.75, 0.5, 0.25) if student else (), native_size=(SIZE, SIZE), licence="CC0-1.0",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as text:
        bundle.save(folder, card, family=sd.FAMILY, network=unet, vae=vae, scheduler=scheduler, text=text_folder(Path(text)))
    return folder


@functools.cache
def tiny_bundle() -> Path:
    """The shared bundle: read it, never write to it."""
    return make_bundle(Path(tempfile.mkdtemp(prefix="fewstep-tiny-")) / "tiny")


def tiny_pipeline() -> Pipeline:
    """A fresh pipeline over the shared bundle."""
    return Pipeline.open(tiny_bundle())


@contextlib.contextmanager
def running(clock: Callable[[], float] = time.perf_counter, **options: Any) -> Iterator[Server]:
    """A whole server over loopback, in a thread of its own, on a port of its own; ``clock`` is what its limits go by."""
    import uvicorn

    options = {"model": str(tiny_bundle()), "port": 0, "backends": ("eager",)} | options
    chosen = app.ServeOptions(**options)
    studio = app.make_studio(chosen, clock)
    taken = app.listen("127.0.0.1", 0)
    server: uvicorn.Server = app.server(app.build(studio, chosen.root_path), studio.limits)
    thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{taken.getsockname()[1]}", studio).wait()
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server ends when it is told to"


def benchmark(name: str) -> ModuleType:
    """A file of ``benchmarks/`` as a module: what is tested is what is measured."""
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def process(home: Path) -> Iterator[Any]:
    """`benchmarks/load.py`'s server process: the tiny bundle behind a token, with little patience."""
    limits = {"sessions": 6, "queue": 4, "share": 1, "body-s": 1, "send-s": 1, "single-pictures": 2}
    limits |= {"connections-per-s": 10_000, "connections-burst": 10_000}  # harm is done here by those who are let in
    arguments = [text for name, value in limits.items() for text in (f"--limits.{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_HOME", str(home))
        load = benchmark("load")
        with load.serving(str(tiny_bundle()), "--backends", "eager", "--token", TOKEN, *arguments) as served:
            yield served


@dataclass(frozen=True)
class Server:
    """A running server, and its inside for looking at."""

    url: str
    studio: Studio

    def wait(self) -> Server:
        """Until pictures can be drawn."""
        until(lambda: self.studio.worker.state != "warming")
        assert self.studio.worker.state == "ready", self.studio.worker.doing
        return self
