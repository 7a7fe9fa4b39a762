"""emoji-64, the embedded default, and its kind: small but complete text-to-image models in Stable Diffusion's layout.

Four parts, as in every Stable Diffusion: a pretrained sentence encoder, a tiny VAE (f4), a small conditional UNet that
predicts v, and a scheduler config. This file says what they are and how each is trained; nothing here runs a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn

from .. import bundle
from ..bundle import Card
from ..data.dataset import Dataset, cache_dir, no_progress
from ..methods import autoencoding, denoising
from ..methods.autoencoding import Autoencoding
from ..methods.denoising import Denoising
from ..methods.method import Optimizer
from ..options import CHANGEABLE, FREE, Mark, StandsFor, marked, resume_key
from ..parts.denoiser import freeze
from ..pretrained import (
    UNetDenoiser,
    VaeCodec,
    load,
    schedule_of,
    sentence_encoder_folder,
    text_conditioner,
)
from ..pretrained.families import sd
from ..ranges import Count, Limit, Range, Rate, Seed, check_device
from ..rng import Rng, fold
from ..sizes import spoken
from ..tensors import Batch, Conditioning
from ..training.data import Progress, batch_indices, data_needs, open_dataset, training_set
from ..training.recipe import Phase, history
from ..training.trainer import OPTIMIZERS, Options, Trainer

PHASES = ("codec", "teacher")
"""Folders of a run's phases."""
CROP = 32
"""Side of the crops that a codec is trained on, in pixels."""
GRID = 16
"""The sides of the pictures are multiples of this: f4, and two halvings in the UNet."""
TEXT_WIDTH = 384
BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": True,
}
STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25)
GUIDANCE_SCALE = 1.5


@dataclass(frozen=True)
class Size:
    """How big the UNet is."""

    channels: tuple[int, ...] = (32, 96, 192)
    """Channels at a quarter, an eighth and a sixteenth of the picture's side."""
    attention: tuple[bool, ...] = (False, False, True)
    """Where text is read: cross-attention at these levels (and in the middle)."""
    layers: int = 1
    """Residual blocks a level."""
    embedding: int = 0
    """Width of the time and text embedding that every block is told; 0 is four times the first channels."""


SIZES = {
    "small": Size(),
    "told": Size(embedding=768),
    "base": Size(channels=(64, 128, 256), attention=(False, True, True)),
}


def vae(latent_channels: int = 4, width: int = 32) -> Any:
    """The tiny VAE: f4, no full-resolution blocks (they cost half of all time at 64 px)."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(0, 2, 2),
        num_decoder_blocks=(3, 2, 0),
        latent_channels=latent_channels,
        act_fn="relu",
    )


def unet(size: Size = Size(), latent_channels: int = 4, shape: Sequence[int] = (64, 64)) -> Any:
    """The conditional UNet for pictures of this shape, ``(height, width)`` in pixels, fresh."""
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in size.attention)
    up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(size.attention))
    return UNet2DConditionModel(
        sample_size=shape[0] // 4 if len(set(shape)) == 1 else tuple(side // 4 for side in shape),
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(max(1, c // 32) for c in size.channels),  # diffusers reads this as a number of heads
        norm_num_groups=16,
        time_embedding_dim=size.embedding or None,
        addition_embed_type="text",  # pooled text joins the time embedding: every block is told what to draw
        resnet_time_scale_shift="scale_shift",
    )


def denoiser(network: nn.Module) -> UNetDenoiser:
    """The UNet as a Denoiser: v-prediction, zero terminal SNR."""
    return UNetDenoiser(network, schedule_of(dict(BETAS)), "v")


def codec(network: nn.Module) -> VaeCodec:
    """The VAE as a Codec."""
    return VaeCodec(network)


def scheduler(role: str) -> Any:
    """The scheduler config that ships with a teacher or a student."""
    return sd.FAMILY.scheduler(role, {"prediction_type": "v_prediction", **BETAS})


OF_CODEC = Mark("codec")
"""Marks an option that a VAE depends on."""


def weights_of(name: str) -> str:
    """What a bundle's name stands for: the first hex digits of a hash of the weights."""
    return bundle.content_of(bundle.locate(name))[:12] if name else ""


@dataclass(frozen=True)
class TeacherOptions:
    """Train a text-to-image teacher from scratch, as emoji-64's was: first its VAE, then its UNet."""

    decoder_only: Annotated[bool, FREE] = False
    """Fine-tune the decoder of a finished teacher instead: ``--decoder-only --help`` shows the options of that."""
    data: Annotated[str, StandsFor(), OF_CODEC] = "emoji"
    """Dataset folder, or the name of one that ``fewstep data`` has built."""
    styles: Annotated[tuple[str, ...], OF_CODEC] = ()
    """Train on these style words only; empty takes all."""
    size: Literal["small", "told", "base"] = "told"
    """How big the UNet is: 9, 12 or 18 million parameters; ``told`` is ``small`` with a wide embedding of the text."""
    init: Annotated[str, StandsFor(weights_of)] = ""
    """A bundle whose UNet is trained on; one of size ``small`` may go on as ``told``."""
    captions: Literal["all", "name"] = "all"
    """``name`` asks for a picture by its plain name only."""
    latent_channels: Annotated[int, Range(1, 64), OF_CODEC] = 4
    """Numbers the VAE keeps for every 4x4 pixels."""
    codec_steps: Limit = 2000
    """Steps of VAE training."""
    codec_batch_size: Annotated[Count, CHANGEABLE, OF_CODEC] = 64
    """RandomCrops of 32 px (whole pictures where they are smaller) a step of VAE training."""
    autoencoding: Annotated[autoencoding.Options, OF_CODEC] = field(default_factory=autoencoding.Options)
    """What is asked of the VAE."""
    codec: Annotated[str, StandsFor(weights_of)] = ""
    """A bundle whose VAE is taken over instead of training one."""
    steps: Annotated[Count, FREE] = 20000
    """Steps of teacher training."""
    batch_size: Annotated[Count, CHANGEABLE] = 64
    """Pictures a step."""
    learning_rate: Annotated[Rate, CHANGEABLE] = 1e-3
    """Peak learning rate of the teacher."""
    optimizer: str = "muon"
    """muon needs fewer samples for the same loss (docs/log.md); or ``adamw``, ``adamw8bit``, or a dotted path to your own."""
    ema: Annotated[float, Range(0, 0.999999), CHANGEABLE] = 0.999
    """Decay of the teacher's weight average, which is what is saved."""
    denoising: denoising.Options = field(default_factory=lambda: denoising.Options(high_noise=0.5, min_snr_gamma=0.0))
    """What is asked of it at which noise."""
    seed: Annotated[Seed, OF_CODEC] = 0
    """Seed of everything that is drawn."""
    precision: Annotated[Literal["fp32", "bf16"], CHANGEABLE, OF_CODEC] = "fp32"
    """bf16 only where the processor has bf16 units: elsewhere it is emulated, up to 80 times slower."""
    device: Annotated[str, FREE] = "cpu"
    """Where it is trained: cpu, cuda or cuda:1 for an NVIDIA GPU, mps for Apple's (which no test of ours has seen)."""

    def needs(self) -> tuple[str, ...]:
        """The modules that teaching takes."""
        return data_needs(self.data)


@dataclass
class TeacherRun:
    """A teacher run that is ready to begin."""

    options: TeacherOptions
    dataset: Dataset
    vae: nn.Module
    unet: nn.Module
    phases: list[Phase]
    folder: Path | None = None
    """Folder of the run; by itself the one that the bundle is saved in."""

    def save(self, folder: Path, steps_taken: int, thin: bool = False, dtype: torch.dtype | None = None) -> Card:
        """Write the teacher as a bundle; ``thin`` leaves the sentence encoder to its package."""
        card = Card(
            name=bundle.name_of(folder),
            role="teacher",
            method="denoising",
            steps=(25, 50),
            guidance_scale=GUIDANCE_SCALE,
            sampler="ddim",
            native_size=tuple(self.dataset.shape[1:]),
            licence=f"that of its data: {', '.join(self.dataset.licences)} (see ATTRIBUTION.md)",
            data=self.dataset.describe(self.options.styles),
            text_encoder="sentence" if thin else "",
            training={
                "steps": steps_taken,
                "samples_seen": steps_taken * self.options.batch_size,
                **history(self.options, self.phases, self.folder or folder.parent),
                "dataset": self.dataset.fingerprint,
            },
        )
        text = None if thin else sentence_encoder_folder(cache_dir())
        return bundle.save(
            folder,
            card,
            family=sd.FAMILY,
            network=self.unet,
            vae=self.vae,
            scheduler=scheduler("teacher"),
            text=text,
            dtype=dtype or torch.float32,
            notices=self.dataset.attribution,
        )


def teach(o: TeacherOptions, progress: Progress | None = None) -> TeacherRun:
    """Lay out teacher training: phases *codec* and *teacher*."""
    check_device(o.device)
    OPTIMIZERS.load(o.optimizer)
    dataset = open_dataset(o.data, o.styles).verify(progress or no_progress)
    channels, *shape = dataset.shape
    if channels != 3 or len(shape) != 2 or any(side % GRID for side in shape):
        wanted = spoken([max(GRID, round(side / GRID) * GRID) for side in (*shape, *shape)[:2]])
        raise ValueError(
            f"the pictures are {spoken(shape)} in {channels} channels, this teacher draws colour pictures whose sides are "
            f"multiples of {GRID}: build the data with --size {wanted}"
        )
    train = dataset.subset("train")
    if not len(train):
        raise ValueError(
            f"all {len(dataset):,} pictures of {dataset.name} are held out, and none is left to train on: build the data "
            "again with less --heldout"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(o.seed)
        encoder, network = vae(o.latent_channels), unet(SIZES[o.size], o.latent_channels, shape)
    if o.init:
        take_over(network, load(bundle.locate(o.init)).denoiser.network, o.seed)
    if o.codec:
        encoder = load(bundle.locate(o.codec)).codec.vae
        kept = encoder.config.latent_channels  # type: ignore[union-attr]
        if kept != o.latent_channels:
            raise ValueError(f"{o.codec} keeps {kept} latent channels: give --latent-channels {kept}")
    encoder, network = encoder.to(o.device), network.to(o.device)

    def codec_phase() -> tuple[Trainer, Callable[[int], Batch]]:
        options = codec_options(o.codec_steps, o.codec_batch_size, seed=o.seed, precision=o.precision, device=o.device)
        return Trainer(Autoencoding(codec(encoder), o.autoencoding), options), RandomCrops(
            train, o.seed, o.codec_batch_size
        )

    def teacher_phase() -> tuple[Trainer, Callable[[int], Batch]]:
        freeze(encoder)
        text = text_conditioner(sentence_encoder_folder(cache_dir())).to(o.device)
        names_only = o.captions == "name"
        data = training_set(
            dataset, codec(encoder), text, cache_dir(), o.batch_size, o.seed, names_only=names_only, progress=progress
        ).near(o.device)
        adam = replace(TEACHER, kind=o.optimizer, learning_rate=o.learning_rate, ema=o.ema)
        options = Options(o.steps, o.batch_size, o.seed, o.precision, o.device, optimizers={"teacher": adam})
        return Trainer(Denoising(denoiser(network), o.denoising), options), data

    made_with = resume_key(o, {"--data": dataset.fingerprint[:12]})
    of_codec = {name: made_with[name] for name in marked(o, OF_CODEC)}
    changeable, contents = marked(o, CHANGEABLE), marked(o, StandsFor)
    same: dict[str, Any] = {"changeable": changeable, "contents": contents}
    phases = [Phase("teacher", o.steps, teacher_phase, made_with=made_with, counted="--steps", **same)]
    if not o.codec:
        first = Phase("codec", o.codec_steps, codec_phase, made_with=of_codec, counted="--codec-steps", **same)
        phases.insert(0, first)
    return TeacherRun(o, dataset, encoder, network, phases)


@dataclass(frozen=True)
class RandomCrops:
    """Batches for the codec: crops, one a picture, a pure function of the step."""

    dataset: Dataset
    seed: int
    batch_size: int = 64

    def __call__(self, step: int) -> Batch:
        """The crops of this step."""
        draw = np.random.Generator(np.random.PCG64(fold(self.seed, "crops", step)))
        rows = batch_indices(len(self.dataset), self.batch_size, self.seed, step)
        media = self.dataset.media(torch.from_numpy(rows))
        free = [max(0, side - CROP) + 1 for side in media.shape[2:]]
        corners = draw.integers(0, free, (len(rows), 2))
        crops = [m[:, i : i + CROP, j : j + CROP] for m, (i, j) in zip(media, corners)]
        nothing = Conditioning()
        return Batch(torch.zeros(len(rows), 1), nothing, nothing, media=torch.stack(crops))


def codec_options(steps: int = 2000, batch_size: int = 64, **options: Any) -> Options:
    """How the VAE is trained."""
    adam = Optimizer(learning_rate=2e-3, beta1=0.9, beta2=0.99, decay=True, ema=0.998)
    return Options(steps=steps, batch_size=batch_size, optimizers={"codec": adam}, **options)


TEACHER = Optimizer(beta1=0.9, beta2=0.99, weight_decay=0.01, warmup=100, decay=True)
"""How the teacher is trained."""


def take_over(network: nn.Module, source: nn.Module, seed: int = 0) -> None:
    """Give ``network`` the weights of ``source``, whose embedding may be narrower: it then begins as the same function.

    The narrow embedding is repeated and its readers' weights are shared out among the copies (Net2Net, arXiv 1511.05641),
    with a tenth of noise on the readers so that the copies can grow apart. Raises ValueError for any other difference.
    """
    rng = Rng.of(seed, "take over")
    own, given = network.state_dict(), source.state_dict()
    if set(own) != set(given):
        raise ValueError("--init is a UNet of other blocks: give a teacher of the same --size, or of size small")
    for name, weight in given.items():
        times = (
            own[name].shape[0] // weight.shape[0],
            (own[name][0].numel() // weight[0].numel() if weight.dim() > 1 else 1),
        )
        if times == (1, 1):
            wide = weight
        elif times[0] > 1 and "embedding" in name:
            wide = weight.repeat(*times[: weight.dim()]) / (times[1] if weight.dim() > 1 else 1)
        else:
            wide = weight.repeat(*times) / times[1]
            wide = wide + 0.1 * wide.std() * rng.normal(wide.shape)
        if wide.shape != own[name].shape:
            raise ValueError(
                f"--init does not fit at {name} ({list(weight.shape)}): give a teacher of the same --size, or of size small"
            )
        own[name] = wide
    network.load_state_dict(own)
