"""The contract of a model family: what its stock diffusers folder is made of, and how each part becomes one of fewstep's.

A file of this folder offers ``FAMILY``, a `ModelFamily`. A folder is opened by the one family that fits its configs; a bundle
is saved as its family says. Nothing else in fewstep knows a pipeline, a network's class or a scheduler by name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ... import plugin
from ...diffusion.schedule import NoiseSchedule, beta_table
from ...parts.codec import Codec
from ...parts.conditioner import Conditioner
from ..networks import NetworkDenoiser, factor_of
from ..reading import Parts, codec_of, has_part, read_config
from ..schedules import BETA_KEYS, flow_shift, kind_of, prediction_type, schedule_of, settled
from ..text import Written
from ..trainable import TARGETS

FAMILIES = plugin.Family("fewstep.pretrained.families", "model family", ("FAMILY",))
"""The families: one a file of this folder."""
OWN = "FEWSTEP_FAMILIES"
"""Environment variable: families of somebody's own, as dotted paths to files that offer ``FAMILY``, with commas between."""
RENAMED = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""What became of ``Transformer2DModel``, the class of DiT's and PixArt's networks in the folders that were published."""


@dataclass(frozen=True)
class Configs:
    """What the JSON files of a pipeline's folder say. No weights are read for them."""

    folder: Path
    """Where they stand."""
    index: Mapping[str, Any]
    """``model_index.json``."""
    scheduler: Mapping[str, Any]
    """``scheduler/scheduler_config.json``."""

    @classmethod
    def read(cls, folder: Path) -> Configs:
        """Read them. Raises ValueError that names a file which is missing or damaged."""
        index = read_config(folder / "model_index.json")
        return cls(folder, index, read_config(folder / "scheduler" / "scheduler_config.json"))

    def has(self, part: str) -> bool:
        """Whether the folder has this part."""
        return has_part(self.index, part)

    def kind(self, part: str) -> str:
        """The class of a part, as the index names it; "" where there is none."""
        return str(self.index[part][1]) if self.has(part) else ""

    def network(self, part: str) -> str:
        """The class of a network as diffusers calls it today: older folders say what it is in its config's ``norm_type``."""
        kind = self.kind(part)
        return RENAMED.get(self.of(part).get("norm_type", ""), kind) if kind == "Transformer2DModel" else kind

    def of(self, part: str) -> dict[str, Any]:
        """The config of a part; empty where there is none. Raises ValueError for one that is damaged."""
        return read_config(self.folder / part / "config.json") if self.has(part) else {}


class Usual(NamedTuple):
    """What a model is held against that comes without a teacher: the denoising network of the one that people know best.

    Counted in the stock class by its published config, without weights (``tests/pretrained/test_usual_sizes.py``).
    """

    name: str
    parameters: int
    flops: int
    """Operations of one evaluation for one picture, with the longest caption that its stock pipeline reads; a multiplication and
    an addition are two."""
    size: tuple[int, ...]
    """Of that picture, ``S`` in pixels: the native one."""


class ModelFamily:
    """One kind of model. A subclass says in what it differs from Stable Diffusion's ways; its file offers one as ``FAMILY``."""

    title: str
    """What people call it, for sentences: "Stable Diffusion 1 and 2"."""
    pipeline: str
    """Class of the stock pipeline that its bundles are saved as."""
    component: str = "unet"
    """The part that is the denoising network: ``unet`` or ``transformer``."""
    networks: tuple[str, ...]
    """Classes of diffusers that this part may have."""
    optional: Mapping[str, Any] = {}
    """Lines of model_index.json for parts that a bundle does without."""
    text: tuple[str, ...] = ("tokenizer", "text_encoder")
    """Beginnings of the names of the parts that read a prompt: they are copied as they are."""
    tokenizers: Mapping[str, int | None] = {"tokenizer": None, "tokenizer_2": None}
    """The tokenizers that it may have, and how many tokens each is asked for; None is as many as it takes."""
    statistics: tuple[str, ...] = ()
    """Keys of the VAE's config that its stock pipeline reads, apart from ``scaling_factor``."""
    targets: tuple[str, ...] = TARGETS
    """Ends of the names of the layers that a LoRA is added to."""
    sampler: str = "ancestral"
    """The sampler of its students, which the saved scheduler makes stock diffusers use."""
    guidance_scale: float = 7.5
    """Classifier-free guidance of a model that brings no card; 1 for one that was distilled to need none."""

    usual: Usual = Usual("", 0, 0, ())
    """The model that people know of this family; empty where no size is usual."""

    def fits(self, configs: Configs) -> bool:
        """Whether a folder's model is of this family: exactly one must say so."""
        return configs.network(self.component) in self.networks

    def check(self, configs: Configs) -> None:
        """Raise ValueError with the fix for a model of this family that cannot be used, before any weight is read."""

    def schedule(self, configs: Configs) -> NoiseSchedule:
        """The noise schedule. Raises ValueError for one that is not known here."""
        return schedule_of(self.noise(configs))

    def noise(self, configs: Configs) -> dict[str, Any]:
        """The scheduler's config, of which a shift that goes by the picture's size is that of the native size."""
        network = configs.of(self.component)
        sides = (side // self.patch(network) for side in self.latent_shape(network)[1:])
        return settled(dict(configs.scheduler), math.prod(sides))

    def denoiser(self, network: Any, schedule: NoiseSchedule, kind: str, codec: Codec) -> NetworkDenoiser:
        """The network as a Denoiser."""
        raise NotImplementedError("a ModelFamily gives denoiser()")

    def codec(self, parts: Parts) -> Codec:
        """The VAE as a Codec, with the statistics that the stock pipeline reads."""
        return codec_of(parts, self.statistics)

    def conditioner(self, parts: Parts, network: Any) -> Conditioner:
        """What reads the prompts. Raises ValueError where it does not fit the network."""
        raise NotImplementedError("a ModelFamily gives conditioner()")

    def reading(self, parts: Parts) -> list[tuple[Any, int | None, Written | None]]:
        """Each tokenizer, how many tokens it is asked for, and what it is given for a prompt: they say how far one is read."""
        used = [
            name for name in self.tokenizers if parts.has(name) and parts.has(name.replace("tokenizer", "text_encoder"))
        ]
        return [(parts(name), self.tokenizers[name], None) for name in used]

    def arguments(self, size: Sequence[int]) -> dict[str, Any]:
        """What the stock pipeline is asked with, apart from prompt, steps and guidance, to draw a student's native ``size``."""
        return {}

    def latent_shape(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of one sample's latents at the native size, ``(C, *S)``, from the network's config."""
        size = config.get("sample_size") or 0
        return (config["in_channels"], *((size, size) if isinstance(size, int) else size))

    def longest(self, config: Mapping[str, Any]) -> int | None:
        """The longest side of latents that the network has places for, from its config; None where there is no end."""
        places = config.get("pos_embed_max_size")
        return int(places) * self.patch(config) if places else None

    def factor(self, config: Mapping[str, Any]) -> int:
        """Pixels a latent, along each side, from the VAE's config."""
        return factor_of(config)

    def patch(self, config: Mapping[str, Any]) -> int:
        """Latents a token of the network, along each side, from its config: the sides of latents are multiples of it."""
        return int(config.get("patch_size") or 1)

    def native_size(self, configs: Configs) -> tuple[int, ...]:
        """Size of one sample's media, ``S``, by the configs alone."""
        factor = self.factor(configs.of("vae"))
        return tuple(factor * side for side in self.latent_shape(configs.of(self.component))[1:])

    def scheduler(self, role: str, config: Mapping[str, Any]) -> Any:
        """The diffusers scheduler to save: with it stock tools draw in n steps what fewstep draws.

        ``config`` is that of the model's own scheduler, or what stands there of its noise and its prediction. Trailing times;
        ancestral for students, DDIM for teachers. A rectified flow gets first-order SDE-DPM-Solver++ (arXiv 2211.01095): on a
        flow's times it is the ancestral sampler, and for a pipeline that hands its scheduler no sigmas the only stock one whose
        config spaces 1, 2 and 4 steps as the student was trained. Its noises end at (N - 1) / N, which `schedule_of` reads.
        """
        import diffusers

        if kind_of(dict(config)) == "flow":
            return diffusers.DPMSolverMultistepScheduler(
                num_train_timesteps=config.get("num_train_timesteps", 1000),
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=flow_shift(dict(config)),
                solver_order=1,
                algorithm_type="sde-dpmsolver++" if role == "student" else "dpmsolver++",
                final_sigmas_type="zero",
            )
        kind = diffusers.EulerAncestralDiscreteScheduler if role == "student" else diffusers.DDIMScheduler
        options: dict[str, Any] = {
            "prediction_type": prediction_type(dict(config)),
            "timestep_spacing": "trailing",
            "steps_offset": 1,
            **table_of(config),
        }
        if role != "student":
            options |= {"clip_sample": False, "set_alpha_to_one": True}
        return kind(**options)

    def index(self, network: nn.Module, vae: nn.Module | None, scheduler: Any) -> dict[str, Any]:
        """The lines of a bundle's model_index.json, apart from the text parts'."""
        lines: dict[str, Any] = {
            "_class_name": self.pipeline,
            **self.optional,
            "scheduler": ["diffusers", type(scheduler).__name__],
            self.component: ["diffusers", type(network).__name__],
        }
        if vae is not None:
            lines["vae"] = ["diffusers", type(vae).__name__]
        return lines


def check_width(width: int, wanted: int, network: str) -> None:
    """Raise ValueError for a text encoder that gives another number of values a token than the ``network`` takes."""
    if width != wanted:
        raise ValueError(
            f"the text encoder gives {width} numbers a token, the {network} takes {wanted}: use the encoder it was "
            "trained with"
        )


def table_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler config's table of betas, written so that every stock scheduler reads it: few know ``sigmoid``."""
    betas = {key: config[key] for key in BETA_KEYS if key in config}
    if betas.get("beta_schedule") != "sigmoid":
        return betas
    n, ends = betas.get("num_train_timesteps", 1000), (betas.get("beta_start", 0.0001), betas.get("beta_end", 0.02))
    return {
        "trained_betas": beta_table(*ends, n, "sigmoid").tolist(),
        "num_train_timesteps": n,
        "rescale_betas_zero_snr": betas.get("rescale_betas_zero_snr", False),
    }


def all_families() -> dict[str, ModelFamily]:
    """Every family, by name: those of this folder, then those that the environment names.

    Raises ValueError for a dotted path that leads to none.
    """
    own = [name.strip() for name in os.environ.get(OWN, "").split(",") if name.strip()]
    modules = FAMILIES.members | {name: FAMILIES.load(name) for name in own}
    return {name: module.FAMILY for name, module in modules.items()}


def family_of(configs: Configs) -> ModelFamily:
    """The family of a folder. Raises ValueError, with the families that there are, where none fits or several do."""
    families = all_families()
    fitting = {name: family for name, family in families.items() if family.fits(configs)}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    what = configs.kind("transformer") or configs.kind("unet") or configs.index.get("_class_name", "nothing")
    if fitting:
        raise ValueError(f"{configs.folder} has a {what}, which {' and '.join(fitting)} both take: mend one of them")
    raise ValueError(
        f"{configs.folder} has a {what}, which no model family takes ({', '.join(families)}): give a folder of one of "
        "them, or write a family of your own (CONTRIBUTING.md, A model family)"
    )
