"""Tiny folders as other people's tools write them: Stable Diffusion 1, SDXL, Stable Diffusion 3, DINOv2. Random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewstep.data.dataset import Dataset, DatasetWriter, Item

PROMPTS = ("a red heart", "a blue house", "a cat", "a dog", "a blue heart", "a red house")
SDXL_POOLED = 16
ASKED, SEEDS = ["a red heart", "a blue house"], [3, 4]
"""What the tests draw."""


def pictures(folder: Path, n: int = 16, side: int | tuple[int, ...] = 16) -> Dataset:
    """A dataset of n random pictures with captions; of two sides the height is the first."""
    height, width = (side, side) if isinstance(side, int) else side
    draw = np.random.Generator(np.random.PCG64(0))
    with DatasetWriter(folder, name="own", shape=(3, height, width), licences=[], attribution="", build={}) as writer:
        for i in range(n):
            flat = draw.integers(0, 256, (3, 1, 1))
            pixels = np.clip(flat + draw.integers(-60, 60, (3, height, width)), 0, 255).astype(np.uint8)
            writer.add(pixels, Item(str(i), str(i), (PROMPTS[i % len(PROMPTS)],)))
    return Dataset.open(folder)


def clip_tokenizer(folder: Path, length: int = 16) -> Any:
    """A byte-level CLIP tokenizer that merges nothing."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(s + "</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def clip_encoder(width: int, projection: int = 0) -> Any:
    """A CLIP text encoder of three layers; with ``projection`` the kind that ends in one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514, hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=projection or 8, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def safety_checker(folder: Path, found: Image.Image) -> None:
    """A Stable Diffusion folder's safety checker with random weights, which objects to one picture and what looks like it."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    import fewstep.pretrained as pretrained

    torch.manual_seed(0)
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    network = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    with pretrained.quiet():
        prepare = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        with torch.no_grad():
            pooled = network.vision_model(prepare(found, return_tensors="pt").pixel_values)[1]
            network.concept_embeds[3] = network.visual_projection(pooled)[0]
            network.concept_embeds_weights[3] = 0.99
        network.save_pretrained(folder / "safety_checker", safe_serialization=True)
        prepare.save_pretrained(folder / "feature_extractor")


def kl_vae(levels: int = 2, latent_channels: int = 4, **config: Any) -> Any:
    """An AutoencoderKL that shrinks by ``2 ** (levels - 1)``."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels, layers_per_block=1, latent_channels=latent_channels,
        norm_num_groups=4, sample_size=16, **config,
    ).eval()  # fmt: skip


def unet(width: int, **options: Any) -> Any:
    """A UNet for latents of 8x8."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=4, **options,
    ).eval()  # fmt: skip


def write(folder: Path, pipeline: str, **parts: Any) -> Path:
    """A pipeline's folder as its own class saves it; parts left out are null."""
    import diffusers

    import fewstep.pretrained as pretrained

    with pretrained.quiet():
        getattr(diffusers, pipeline)(**parts).save_pretrained(folder, safe_serialization=True)
    return folder


def sd1(root: Path, levels: int = 2, **scheduler: Any) -> Path:
    """Stable Diffusion 1.x: eps, no zero-terminal SNR, PNDM, an AutoencoderKL; a word about safety, as on the hub."""
    from diffusers import PNDMScheduler

    torch.manual_seed(0)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    return write(
        root / "sd1", "StableDiffusionPipeline", vae=kl_vae(levels), text_encoder=clip_encoder(8),
        tokenizer=clip_tokenizer(root / "words"), unet=unet(8), safety_checker=None, feature_extractor=None,
        scheduler=PNDMScheduler(**(betas | scheduler), set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1),
        requires_safety_checker=False,
    )  # fmt: skip


def sdxl(root: Path) -> Path:
    """SDXL: two tokenizers and encoders, pooled text and sizes beside the time, eps."""
    from diffusers import AutoencoderTiny, EulerDiscreteScheduler

    torch.manual_seed(0)
    network = unet(
        20, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + SDXL_POOLED,
    )  # fmt: skip
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4, scaling_factor=0.13025,
    ).eval()  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return write(
        root / "sdxl", "StableDiffusionXLPipeline", vae=vae, text_encoder=clip_encoder(8),
        text_encoder_2=clip_encoder(12, SDXL_POOLED), tokenizer=clip_tokenizer(root / "w1"),
        tokenizer_2=clip_tokenizer(root / "w2"), unet=network, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip


def t5(width: int) -> tuple[Any, Any]:
    """A T5 tokenizer of single letters and an encoder of one layer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5Config, T5EncoderModel

    letters = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz")]
    if transformers.__version__.startswith("4."):  # where T5Tokenizer is the slow one, which needs sentencepiece
        inner = Tokenizer(models.Unigram(letters, unk_id=2))
        inner.pre_tokenizer = pre_tokenizers.Metaspace()
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer = transformers.T5TokenizerFast(tokenizer_object=inner, extra_ids=0)
    else:
        tokenizer = transformers.T5Tokenizer(vocab=letters, extra_ids=0)
    config = T5Config(
        vocab_size=len(letters), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config).eval()


def sd3(root: Path, with_t5: bool = True, shift: dict[str, Any] | None = None, **options: Any) -> Path:
    """Stable Diffusion 3: three text encoders, or CLIP's two alone, and a transformer that predicts a flow."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=24, out_channels=4,
        pos_embed_max_size=16, **options,
    ).eval()  # fmt: skip
    tokenizer, encoder = t5(32) if with_t5 else (None, None)
    return write(
        root / "sd3", "StableDiffusion3Pipeline", transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**(shift or {"shift": 3.0})),
        vae=kl_vae(2, 4, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(8, 8), text_encoder_2=clip_encoder(12, 16), text_encoder_3=encoder,
        tokenizer=clip_tokenizer(root / "w1"), tokenizer_2=clip_tokenizer(root / "w2"), tokenizer_3=tokenizer,
    )  # fmt: skip


def dino(folder: Path, **config: Any) -> Any:
    """A DINOv2 of twelve thin blocks, saved; the network is returned too."""
    from transformers import Dinov2Config, Dinov2Model

    import fewstep.pretrained as pretrained

    torch.manual_seed(0)
    options = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56}
    network = Dinov2Model(Dinov2Config(patch_size=14, layerscale_value=0.5, **(options | config))).eval()
    with torch.no_grad():
        for p in network.parameters():  # fresh position embeddings and biases are zeros, which would hide mistakes
            p.add_(0.05 * torch.randn_like(p))
    with pretrained.quiet():
        network.save_pretrained(folder)
    return network


def stock(folder: Path, **parts: Any) -> Any:
    """A folder as stock diffusers opens it."""
    from diffusers import AutoPipelineForText2Image

    import fewstep.pretrained as pretrained

    if "sdxl" in str(folder) or "lora-xl" in str(folder):
        parts["add_watermarker"] = False
    with pretrained.quiet():
        pipe = AutoPipelineForText2Image.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


ALONE = """
import json, sys
import numpy as np, torch
from diffusers import AutoPipelineForText2Image

asked, drawn = json.loads(sys.argv[1]), {}
for name, (folder, prompt, seed, counts) in asked.items():
    pipe = AutoPipelineForText2Image.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    for n in counts:
        torch.manual_seed(seed)
        drawn[f"{name} {n}"] = pipe(prompt, num_inference_steps=n, guidance_scale=0, output_type="np").images
assert not any(name.partition(".")[0] == "fewstep" for name in sys.modules)
np.savez(sys.argv[2], **drawn)
"""
"""What anybody writes who has never heard of fewstep."""


def drawn_alone(asked: dict[str, tuple[str, str, int, tuple[int, ...]]], target: Path) -> dict[str, np.ndarray]:
    """For each name (folder, prompt, seed, step counts): what stock diffusers draws in a process without fewstep.

    Keys of the answer are name and count, as in "sd1 4".
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, json.dumps(asked), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return dict(np.load(target))


def theirs(pipe: Any, **call: Any) -> np.ndarray:
    """What a stock pipeline draws for `ASKED` and `SEEDS`, ``[B, H, W, 3]`` in [0, 1]."""
    generator = [torch.Generator().manual_seed(s) for s in SEEDS]
    return pipe(ASKED, generator=generator, **{"output_type": "np", **call}).images


def numpy(media: torch.Tensor) -> np.ndarray:
    """Media as a stock pipeline gives them."""
    return (media.permute(0, 2, 3, 1).numpy() + 1) / 2
