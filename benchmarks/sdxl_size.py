"""An SDXL-size student on a GPU: pictures a second at 512x512 in one step, beside stock diffusers, in one run.

    python benchmarks/sdxl_size.py                            # writes docs/results/sdxl_size.json
    python benchmarks/sdxl_size.py --device cpu --tiny --calls 2 --out /tmp/tried.json

The networks have SDXL's sizes and random weights (the time does not depend on them), float16, one picture a call, the prompt
encoded beforehand; the VAE is SDXL's own (83 M) and, for real time, its small stand-in (AutoencoderTiny). All variants take
turns within one run; every call ends when the pixels are on the host. ``--tiny`` tries the script on a laptop.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.bundle import Card
from fewstep.inference import backend
from fewstep.inference.pipeline import Pipeline, Request
from fewstep.parts.conditioner import Conditioner
from fewstep.pretrained import Pretrained, VaeCodec, schedule_of
from fewstep.pretrained.families import sdxl
from fewstep.tensors import Conditioning

HOUSE = Path(__file__).resolve().parent.parent
UNET: dict[str, Any] = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048,
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "scaling_factor": 0.13025,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 512,
}  # fmt: skip
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
             "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}  # fmt: skip
TINY = {"sample_size": 16, "block_out_channels": (32, 32, 32), "transformer_layers_per_block": (1, 1, 1),
        "attention_head_dim": (2, 2, 2)}  # fmt: skip


class Encoded(Conditioner):
    """A prompt that was encoded before: SDXL's 77 tokens of 2048 numbers, 1280 pooled."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.cond = Conditioning(
            tokens=torch.randn(1, 77, 2048, device=device, dtype=dtype),
            pooled=torch.randn(1, 1280, device=device, dtype=dtype),
        )

    def forward(self, prompts: Any) -> Conditioning:
        return self.cond[[0] * len(prompts)]


def build(o: argparse.Namespace) -> tuple[Any, dict[str, Any], torch.dtype]:
    """The UNet and both VAEs, made where they run."""
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

    dtype = torch.float16 if o.device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(o.device):
        unet = UNet2DConditionModel(**{**UNET, **(TINY if o.tiny else {})}).to(dtype).eval()
        vaes = {"SDXL's VAE": AutoencoderKL(**VAE), "small VAE": AutoencoderTiny(latent_channels=4)}
    return unet, {name: vae.to(dtype).eval() for name, vae in vaes.items()}, dtype


def ours(o: argparse.Namespace, unet: Any, vae: Any, dtype: torch.dtype, graph: bool) -> Callable[[int], Tensor]:
    """fewstep's pipeline; ``graph`` records the networks as CUDA graphs."""
    codec = VaeCodec(vae)
    denoiser = sdxl.SDXLDenoiser(unet, schedule_of(SCHEDULER), "v", codec.factor)
    side = unet.config.sample_size * codec.factor
    card = Card("sdxl-size", "student", "add", (1, 2, 4), times=(1.0, 0.75, 0.5, 0.25), native_size=(side, side))
    conditioner = Encoded(o.device, dtype)
    pipeline = Pipeline(Pretrained(sdxl.FAMILY, denoiser, codec, conditioner, Path(), codec.factor), card)
    if graph:
        runtime = backend.usable("cudagraph", "cuda")
        latents = torch.randn(1, *pipeline.model.latent_shape, device=o.device)
        pipeline.denoise = backend.compile_denoiser(runtime, denoiser, latents, conditioner.cond)
        pipeline.model.codec.decode = backend.compile_decoder(runtime, codec, latents)  # type: ignore[method-assign]

    def draw(seed: int) -> Tensor:
        media = pipeline(Request(["a prompt"], [seed], 1))
        return ((media + 1) * 127.5).round().to(torch.uint8).cpu()

    return draw


def stock(o: argparse.Namespace, unet: Any, vae: Any) -> Callable[[int], Any]:
    """diffusers' own pipeline, the prompt encoded beforehand there too."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    pipe = StableDiffusionXLPipeline(vae, None, None, None, None, unet, scheduler, add_watermarker=False)  # type: ignore[arg-type]
    pipe.set_progress_bar_config(disable=True)
    cond = Encoded(o.device, next(unet.parameters()).dtype).cond

    def draw(seed: int) -> Any:
        return pipe(
            prompt_embeds=cond.tokens, pooled_prompt_embeds=cond.pooled, num_inference_steps=1, guidance_scale=0.0,
            generator=torch.Generator().manual_seed(seed), output_type="np",
        ).images  # fmt: skip

    return draw


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script")
    parser.add_argument("--out", type=Path, default=HOUSE / "docs" / "results" / "sdxl_size.json")
    o = parser.parse_args()
    unet, vaes, dtype = build(o)
    variants: dict[str, Callable[[int], Any]] = {}
    for name, vae in vaes.items():
        variants[f"fewstep, {name}"] = ours(o, unet, vae, dtype, graph=False)
        if o.device == "cuda":
            variants[f"fewstep, {name}, CUDA graphs"] = ours(o, unet, vae, dtype, graph=True)
    variants["stock diffusers, SDXL's VAE"] = stock(o, unet, vaes["SDXL's VAE"])
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in range(o.calls + 3):
        for name, draw in variants.items():
            began = time.perf_counter()
            draw(call)
            times[name].append(1000 * (time.perf_counter() - began))
    where = torch.cuda.get_device_name() if o.device == "cuda" else "CPU"
    rows = []
    for name, taken in times.items():
        taken = sorted(taken[3:])
        p50, p99 = taken[len(taken) // 2], taken[min(len(taken) - 1, int(0.99 * len(taken)))]
        rows.append({"variant": name, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "fps": round(1000 / p50, 1)})
    peak = torch.cuda.max_memory_allocated() / 2**30 if o.device == "cuda" else 0.0
    facts = {
        "variants": rows, "device": where, "torch": torch.__version__, "dtype": str(dtype).removeprefix("torch."),
        "size": 8 * unet.config.sample_size, "unet_parameters": sum(p.numel() for p in unet.parameters()), "calls": o.calls,
        "peak_gib": round(peak, 2), "command": "python benchmarks/sdxl_size.py",
    }  # fmt: skip
    o.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(o.out.read_text())


if __name__ == "__main__":
    main()
