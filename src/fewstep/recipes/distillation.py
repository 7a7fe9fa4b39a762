"""Teacher -> student: the whole of ADD on any bundle or diffusers folder, with a warm start. One place for every model.

Three phases, each resumable: *pairs* (the teacher draws noise-to-sample pairs, cached), *warm* (the student regresses onto
them) and *add* (the game). Turning phases off gives the ablations: no warm start, adversarial only, distillation only.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import bundle, extras, pretrained
from ..data.dataset import Dataset, cache_dir, no_progress, spread
from ..diffusion import sampler
from ..methods import add, regression
from ..methods.method import Optimizer
from ..parts import discriminator
from ..parts.adversary import Adversary
from ..parts.augment import Augment
from ..parts.denoiser import Student, Teacher, freeze
from ..parts.discriminator import Discriminator
from ..parts.features import dinov2
from ..parts.features.dinov2 import DinoFeatures
from ..parts.features.efficientnet import NETWORKS, ImageNetFeatures
from ..parts.features.feature import FeatureNetwork, MediaFeatures, Standardised
from ..parts.features.teacher import TeacherFeatures
from ..pretrained import trainable
from ..ranges import Count, Limit, Range, Rate, Seed, check_device
from ..rng import Rng
from ..tensors import Batch, Conditioning, Media, unfinite
from ..training.data import (
    Progress,
    TrainingSet,
    chunks,
    data_needs,
    in_parts,
    key_of,
    open_dataset,
    save_whole,
    spread_chunks,
    tell_unread,
    training_set,
    wrote,
)
from ..training.ema import load_moving, moving
from ..training.probe import Keep, Measure, Probe
from ..training.recipe import Phase, history, named
from ..training.trainer import Options as TrainerOptions
from ..training.trainer import Trainer

PHASES = ("warm", "add")
"""Folders of a run's phases."""
Eyes = ImageNetFeatures | DinoFeatures
"""A feature network on pictures."""


@dataclass(frozen=True)
class WarmStart:
    """Regression onto the teacher's own trajectories before the game begins."""

    steps: Limit = 300
    """Training steps; 0 leaves the warm start out."""
    pairs: Annotated[int, Range(1, 10**6)] = 1024
    """Noise-to-sample pairs that the teacher draws (cached beside the run), for the warm start and for the game's regression."""
    teacher_steps: Annotated[int, Range(1, 1000)] = 16
    """DDIM steps of a pair."""
    regression_steps: Annotated[int, Range(0, 1000)] = 0
    """DDIM steps of the teacher from noised samples, so that the student follows it at every student time: rare modes stay at
    two and four steps (docs/variety.md). 0 denoises there, which costs no teacher."""
    learning_rate: Rate = 5e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` pays at batches of 64 and above: its own work a step is the same at any batch."""
    batch_size: Annotated[int, Range(1, 2**16)] = 32
    """Pairs a step."""


@dataclass(frozen=True)
class Options:
    """Distil a teacher into a few-step student."""

    teacher: str = "emoji-64-teacher"
    """Name of a shipped bundle, or a diffusers text-to-image folder."""
    data: str = "emoji"
    """Dataset folder, or the name of one that ``fewstep data`` has built."""
    styles: tuple[str, ...] = ()
    """Train on these style words only; empty takes all."""
    concepts: Limit = 0
    """Train on this many concepts only, spread evenly; 0 takes all. For quick tries."""
    captions: Literal["all", "name"] = "all"
    """``name`` asks for a sample by its plain name only, which saves encoding the other prompts."""
    steps: Limit = 1000
    """Steps of the adversarial game; 0 stops after the warm start."""
    seconds: Annotated[tuple[float, float], Range(0)] = (0.0, 0.0)
    """End the warm start and the game after this long each, steps or no steps; 0 never does."""
    batch_size: Annotated[int, Range(1, 2**16)] = 16
    """Samples a step; a multiple of 8 above 8 for heads with local batch norm."""
    student_learning_rate: Rate = 2e-4
    """Adam's learning rate of the student."""
    heads_learning_rate: Rate = 1e-3
    """Adam's learning rate of the discriminator's heads."""
    ema: Annotated[float, Range(0, 0.999999)] = 0.99
    """Decay of the student's weight average, which is what is saved."""
    keep: Keep = "best"
    """The student to end with: the ``best`` of all looks at fixed prompts (distance and sharpness), or the ``last``."""
    blend: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Share of the game in the weights that are saved. Below 1 they are averaged with those from before it (WiSE-FT, arXiv
    2109.01903): more of a warm start's diversity for less of the game's fidelity, and a trade to choose after training."""
    look_every: Count = 100
    """Steps of the game between looks."""
    seed: Seed = 0
    """Seed of everything that is drawn."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 only where the processor has bf16 units: elsewhere it is emulated, up to 80 times slower."""
    device: str = "cpu"
    """Where it is trained: cpu, cuda or cuda:1 for an NVIDIA GPU, mps for Apple's (which no test of ours has seen)."""
    checkpointing: bool = False
    """Forget activations of the student and of the decoder, and compute them again backwards: less memory, more time."""
    student: trainable.What = "full"
    """What is trained: ``full``, all weights; ``lora``, a low-rank addition that other tools load on top of the teacher;
    ``freeze``, all but the convolutions inside the blocks (GDD-I, arXiv 2405.20750)."""
    rank: Annotated[int, Range(1, 2**16)] = 64
    """Rank of a LoRA student."""
    init: str = "teacher"
    """Where the student's weights come from: ``teacher``; a student of this teacher, by name or folder, that is trained
    on; or ``random``, the paper's Table 1c, which fails."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """The student's times. It is good for every count of evenly spaced steps that are all among them: these give 1, 2 and 4;
    3 steps visit 1, 0.667 and 0.333. Stock diffusers spaces steps in no other way."""
    probabilities: Annotated[tuple[float, ...], Range(0)] = ()
    """How often each time is trained; empty is uniform, as the paper has it."""
    guidance_scale: float | None = None
    """The teacher's guidance; None takes its card's."""
    features: Literal["auto", "dinov2", "efficientnet-lite0", "efficientnet-lite2", "teacher"] = "auto"
    """What the discriminator looks through. ``auto`` is the paper's dinov2 for teachers of 128 pixels or more where its
    weights are to be had, else efficientnet-lite0, which comes in a Python package."""
    features_folder: str = ""
    """Folder of DINOv2 (a download of facebook/dinov2-small, say); empty looks for ``dinov2`` in fewstep's cache."""
    resolution: Annotated[int, Range(0, 4096)] = 0
    """Side that pictures are resized to for an image feature network; 0 takes the pictures' own, as near as it can."""
    negative: str = ""
    """What a picture should not be, such as "unrealistic, blurry, low quality": NFSD's negative prompt, read with
    ``--add.weighting nfsd`` only."""
    augment: tuple[str, ...] = ()
    """Differentiable augmentation in front of the features: color, translation, cutout."""
    standardise: bool = True
    """Give every channel of the features zero mean and unit variance over real data. Off, as in the paper, R1 is measured
    in the features' own units: raw EfficientNet-Lite0 takes 15 times the weight for the same pressure."""
    warm: WarmStart = field(default_factory=WarmStart)
    """The warm start."""
    add: add.Options = field(default_factory=add.Options)
    """The game."""
    heads: discriminator.Options = field(default_factory=discriminator.Options)
    """The discriminator's heads."""

    def needs(self) -> tuple[str, ...]:
        """The modules that distilling takes, as far as the options tell."""
        looks = self.features
        if looks == "auto":  # the network is certain where DINOv2's weights are not to be had
            looks = "teacher" if self.features_folder or dino_at_hand(cache_dir() / "dinov2") else "efficientnet-lite0"
        played = self.steps and self.add.adversarial_weight and looks in NETWORKS
        lora = extras.of("lora") if self.student == "lora" else ()
        return (*((NETWORKS[looks].module,) if played else ()), *lora, *data_needs(self.data))


@dataclass
class Distillation:
    """A run that is ready to begin: its phases, and what to do at the end."""

    options: Options
    teacher_card: bundle.Card
    model: pretrained.Pretrained
    student: Student
    share: float
    """Share of the student's weights that is trained."""
    phases: list[Phase]
    folder: Path
    dataset: Dataset
    """What the student is trained on."""
    before: dict[str, Tensor] = field(default_factory=dict)
    """The student's weights as the game found them, where they are needed at the end."""

    def card(self, steps_taken: int) -> bundle.Card:
        """The facts of the student as it stands."""
        o, t = self.options, self.teacher_card
        own = self.dataset.describe(o.styles)
        data = own if t.data in ("", own) else f"{own}; its teacher: {t.data}"
        return bundle.Card(
            name=self.folder.name,
            role="student",
            method=method_name(o),
            steps=self.student.steps,
            times=o.times,
            native_size=t.native_size,
            teacher=t.name,
            licence=t.licence or pretrained.read_terms(self.model.folder).licence,
            data=data,
            text_encoder="",
            training={"steps": steps_taken, "trained_share": self.share, **history(o, self.phases, self.folder)},
        )

    def save(
        self, folder: Path, steps_taken: int, thin: bool = False, dtype: torch.dtype = torch.float32
    ) -> bundle.Card:
        """Write the student as a bundle. ``thin`` leaves the text encoder to the package it comes from.

        A LoRA student is written merged, with the LoRA alone in ``lora/``.
        """
        card, source = self.card(steps_taken), self.model.folder
        if thin:
            card = replace(card, text_encoder="sentence")
        config = pretrained.read_config(source / "scheduler" / "scheduler_config.json")
        betas = {k: config[k] for k in BETA_KEYS if k in config}
        with blended(self.student.denoiser, self.before, self.options.blend):
            return bundle.save(
                folder,
                replace(card, name=folder.name),
                unet=self.student.denoiser.network,  # type: ignore[arg-type]
                vae=self.model.codec.vae,  # type: ignore[arg-type]
                scheduler=bundle.scheduler_for("student", prediction_type(config), **betas),
                text=None if thin else source,
                dtype=dtype,
                origin=source,
                notices="\n".join(dict.fromkeys(t for t in (bundle.notices_of(source), self.dataset.attribution) if t)),
            )


@contextmanager
def blended(network: nn.Module, before: dict[str, Tensor], share: float) -> Iterator[None]:
    """Lend ``network`` the average of its weights, of this ``share``, and those ``before``; the same where there are none."""
    after = {name: value.clone() for name, value in moving(network).items()}
    if before:
        mixed = {k: torch.lerp(before[k], v, share) if v.is_floating_point() else v for k, v in after.items()}
        load_moving(network, mixed)
    try:
        yield
    finally:
        load_moving(network, after)


BETA_KEYS = (
    "beta_start",
    "beta_end",
    "beta_schedule",
    "num_train_timesteps",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def prediction_type(config: dict[str, Any]) -> str:
    """What a scheduler config says that the network predicts, in diffusers' words."""
    return {kind: name for name, kind in pretrained.PREDICTION_TYPES.items()}[pretrained.kind_of(config)]


def method_name(o: Options) -> str:
    """What the student's method is called in tables: add, or which part of it is missing."""
    if not o.steps:
        return "regression"
    if o.init == "random":
        return "random_init"
    if not o.add.adversarial_weight:
        return "distillation_only"
    return "add" if o.add.distillation_weight else "adversarial_only"


def prepare(
    options: Options,
    folder: Path,
    progress: Progress | None = None,
    keep: Sequence[str] = (),
    measure: Measure | None = None,
) -> Distillation:
    """Read the teacher and the data, and lay out the phases. Raises ValueError with the fix for anything that is missing.

    ``keep`` names prompts whose concepts are trained on whatever ``options.concepts`` leaves out. ``measure`` looks at the
    game while it runs (``evaluation.progress``); without it the last state is kept.
    """
    check(options)
    tell_idle_times(options.times)
    check_pairs(folder)
    source = bundle.locate(options.teacher)
    model = pretrained.load(source).to(options.device)
    card = bundle.card_of(source, model)
    if card.role == "student":
        raise ValueError(f"{card.name} is already a student: give its teacher ({card.teacher})")
    o = seen_through(options, card.native_size)
    check_game(o)
    tell_missing_licence(card, source)
    network = eyes(o)
    check_numbers(card.name, {"network": model.denoiser, "VAE": model.codec, "text encoder": model.conditioner})
    if network is not None:
        check_numbers(o.features, {"feature network": network})
    freeze(model.codec)
    scale = card.guidance_scale if o.guidance_scale is None else o.guidance_scale
    student = Student(copy.deepcopy(model.denoiser), o.times, o.probabilities)
    if o.init not in ("teacher", "random"):
        train_on(student.denoiser.network, o.init)  # type: ignore[arg-type]
    share = trainable.choose(student.denoiser.network, o.student, o.rank, o.seed)  # type: ignore[arg-type]
    if o.init == "random":
        randomise(student.denoiser, o.seed)
    if o.checkpointing:
        student.denoiser.network.enable_gradient_checkpointing()  # type: ignore[operator, union-attr]
        model.codec.vae.enable_gradient_checkpointing()  # type: ignore[operator, union-attr]
    teacher = Teacher(model.denoiser, scale)
    dataset = choose(open_dataset(o.data, o.styles).verify(progress or no_progress), o.concepts, keep)
    if tuple(dataset.shape[1:]) != tuple(card.native_size):
        given, wanted = ("x".join(map(str, size)) for size in (dataset.shape[1:], card.native_size))
        raise ValueError(
            f"the pictures are {given}, {card.name} draws {wanted}: build the data again with --size {card.native_size[0]}"
        )
    check_concepts(o, dataset)
    check_enough(dataset, bool(measure and o.steps))
    data = training_set(
        dataset,
        model.codec,
        model.conditioner,
        cache_dir(),
        o.batch_size,
        o.seed,
        media=True,
        names_only=o.captions == "name",
        progress=progress,
    ).near(o.device)
    negative = model.conditioner([o.negative]) if o.negative else None
    tell_unread(model.conditioner, [o.negative] if o.negative else [])
    model.conditioner.to("cpu")  # every prompt is encoded by now, and memory is short where it matters
    phases: list[Phase] = []
    before: dict[str, Tensor] = {}
    content = bundle.content_of(source)
    made_with = depends_on(o, content, scale, dataset, network)
    origin = f"{content}|{dataset.fingerprint}|{o.captions}"
    pairs = partial(draw_pairs, o, teacher, data, folder, origin, progress)
    if o.warm.steps:
        before_it = {name: value for name, value in made_with.items() if not is_of_the_game(name)}
        phases.append(
            Phase(
                "warm",
                o.warm.steps,
                partial(warm_start, o, student, teacher, pairs),
                o.seconds[0],
                made_with=before_it,
                changeable=CHANGEABLE,
                counted="--warm.steps",
            )
        )
    if o.steps:

        def play() -> tuple[Trainer, Callable[[int], Batch]]:
            if o.blend < 1:
                before.update({name: value.clone() for name, value in moving(student.denoiser).items()})
            beside = pairs(o.batch_size) if o.add.regression_weight and not o.add.regression_steps else None
            return game(o, student, teacher, model, network, replace(data, pairs=beside), negative, progress)

        look = partial(probe, o, student, model, data, measure) if measure else None
        phases.append(Phase("add", o.steps, play, o.seconds[1], look, o.keep, made_with, CHANGEABLE, "--steps"))
    if not phases:
        raise ValueError("nothing to train: give --steps or --warm.steps")
    return Distillation(o, card, model, student, share, phases, folder, dataset, before)


def check(o: Options) -> None:
    """Refuse options that contradict each other or this machine, before anything is read."""
    check_device(o.device)
    Augment(o.augment)  # refuses names that it does not know
    if o.augment and o.features == "teacher":
        raise ValueError("--augment changes pictures, which --features teacher does not see: leave one of the two out")
    if o.init == "random" and o.student != "full":
        raise ValueError(f"a {o.student} student keeps its teacher's weights: use --init teacher or --student full")
    if o.negative and o.add.weighting != "nfsd":
        raise ValueError("--negative is read by noise-free score distillation: add --add.weighting nfsd")
    if o.negative and not o.add.distillation_weight:
        raise ValueError("--negative belongs to the distillation loss, which has weight 0: leave one of the two out")


def tell_missing_licence(teacher: bundle.Card, folder: Path) -> None:
    """Warn of a teacher that states no licence: its student's card will state none either."""
    if not (teacher.licence or pretrained.read_terms(folder).licence):
        warnings.warn(
            f"{teacher.name} states no licence (no LICENSE file, none in its README.md), so its student will state none: "
            "ask its makers before you pass the student on",
            stacklevel=3,
        )


def tell_idle_times(times: Sequence[float]) -> None:
    """Warn of times that no count of steps visits: they would be trained for nothing."""
    counts = sampler.step_counts(times)
    visited = [t for n in counts for t in sampler.trailing_times(n)]
    idle = [t for t in times if all(abs(t - other) > sampler.NEAR for other in visited)]
    if idle:
        usual = Options.times
        warnings.warn(
            f"the student's time{'s' * (len(idle) > 1)} {' '.join(f'{t:g}' for t in idle)} will be of no use: stock diffusers "
            f"spaces steps evenly, so this student can be drawn in {_listed(counts)} steps; "
            f"--times {' '.join(f'{t:g}' for t in usual)} gives {_listed(sampler.step_counts(usual))}",
            stacklevel=3,
        )


def _listed(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def check_pairs(folder: Path) -> None:
    """Refuse a folder where something else stands in place of the teacher's trajectories. Raises ValueError with the fix."""
    for path in pairs_in(folder):
        if os.path.lexists(path) and not wrote(path):
            raise ValueError(
                f"{path} is not what fewstep wrote, and the teacher's trajectories go there: move it elsewhere, "
                "or choose another --out"
            )


def pairs_in(folder: Path) -> tuple[Path, Path]:
    """Where a run keeps the teacher's trajectories: all of them, and those drawn so far."""
    return folder / "pairs.safetensors", folder / "pairs-part.safetensors"


def check_enough(dataset: Dataset, looked_at: bool) -> None:
    """Refuse a dataset with no picture to train on, or too few to look at the game by. Raises ValueError with the fix."""
    left = len(dataset.subset("train"))
    if looked_at and left == 1:
        raise ValueError(
            f"{dataset.name} has one picture to train on, and looks at the game compare with two or more: give it more, or "
            "use --keep last"
        )
    if not left:
        raise ValueError(
            f"all {len(dataset):,} pictures of {dataset.name} are held out, and none is left to train on: build the data "
            "again with less --heldout"
        )


def check_game(o: Options) -> None:
    """Refuse a game that cannot be played, before the warm start is trained for it. Its feature network is decided by now."""
    if not o.steps:
        return
    add.check(o.add)
    if not o.add.adversarial_weight:
        return
    if o.heads.norm == "local":
        discriminator.check_groups(o.batch_size)
    if o.add.mismatched and not (o.heads.text or shows_pictures(o)):
        raise ValueError(
            "--add.mismatched shows the heads a wrong prompt, but they are shown none: leave out --heads.no-text, or "
            "--add.mismatched"
        )
    if o.add.mismatched and o.batch_size == 1:
        raise ValueError("--add.mismatched takes its wrong prompts from the batch: use --batch-size 2 or more")


def check_concepts(o: Options, dataset: Dataset) -> None:
    """Refuse wrong prompts where there is no other concept to take them from, before anything is encoded."""
    if not (o.steps and o.add.adversarial_weight and o.add.mismatched):
        return
    train = dataset.subset("train")
    if min(len(train.concepts), len({p for item in train.items for p in item.prompts})) < 2:
        raise ValueError(
            "--add.mismatched shows the heads another concept's prompt, but all that is trained on shows one concept: leave "
            "it out, or give data of more"
        )


def shows_pictures(o: Options) -> bool:
    """Do the heads see the embedding of the real picture (c_img)?"""
    return o.heads.image and o.features != "teacher"


def dino_at_hand(folder: Path) -> bool:
    """Whether the folder holds DINOv2's weights."""
    return (folder / "model.safetensors").is_file()


def seen_through(o: Options, native_size: tuple[int, ...]) -> Options:
    """The options with the feature network, its folder and its resolution decided."""
    folder = Path(o.features_folder) if o.features_folder else cache_dir() / "dinov2"
    features = o.features
    if features == "auto":
        real = min(native_size) >= 128
        to_be_had = bool(o.features_folder) or (real and dino_at_hand(folder))
        features = "dinov2" if to_be_had else "efficientnet-lite0"
    elif o.features_folder and features != "dinov2":
        raise ValueError(f"--features-folder is DINOv2's: leave it out, or use --features dinov2 instead of {features}")
    side = max(native_size)
    own = dinov2.suitable(side) if features == "dinov2" else min(max(side, 64), 224)
    given = str(folder) if features == "dinov2" else ""
    return replace(o, features=features, features_folder=given, resolution=o.resolution or own)


FREE = ("steps", "seconds", "keep", "blend", "look_every", "device", "checkpointing")
"""Options that a run may go on with others of: they say how far it goes, where, and which of its states is taken."""
CHANGEABLE = ("--student-learning-rate", "--heads-learning-rate", "--batch-size", "--precision", "--ema",
              "--warm.learning-rate", "--warm.batch-size", "--add.r1", "--add.adversarial-weight",
              "--add.distillation-weight", "--add.regression-weight")  # fmt: skip
"""Options that a run which has exploded may go on with others of, and is told so."""
OF_THE_GAME = ("batch_size", "student_learning_rate", "heads_learning_rate", "ema", "features", "features_folder",
               "resolution", "standardise", "augment", "negative")  # fmt: skip
"""Options that a warm start knows nothing of, beside those of ``add`` and ``heads``."""


def depends_on(o: Options, teacher: str, scale: float, dataset: Dataset, network: Eyes | None) -> dict[str, Any]:
    """What the student depends on, by option: of models and pictures the first hex digits of their hashes, not their names."""
    found = named(o, FREE) | {"--teacher": teacher[:12], "--guidance-scale": scale, "--data": dataset.fingerprint[:12]}
    if o.init not in ("teacher", "random"):
        found["--init"] = bundle.content_of(bundle.locate(o.init))[:12]
    found["--features-folder"] = network.fingerprint if isinstance(network, DinoFeatures) else ""
    return found


def is_of_the_game(name: str) -> bool:
    """Does this option say nothing of a warm start? How many steps that takes is fixed by the game that goes on from it."""
    own = [f"--{option.replace('_', '-')}" for option in OF_THE_GAME]
    return name in own or name.startswith(("--add.", "--heads.")) or name == "--warm.steps"


def choose(dataset: Dataset, concepts: int, keep: Sequence[str] = ()) -> Dataset:
    """Every k-th concept, so that about ``concepts`` remain, and those named in ``keep``; 0 keeps all."""
    if not concepts or concepts >= len(dataset.concepts):
        return dataset
    kept = set(dataset.concepts[:: len(dataset.concepts) // concepts][:concepts])
    return dataset.subset(where=lambda item: item.concept in kept or item.prompts[0] in keep)


def check_numbers(owner: str, parts: Mapping[str, Any]) -> None:
    """Refuse networks whose weights hold NaN or infinity, by name: every step of a training on them would be lost."""
    for part, network in parts.items():
        if isinstance(network, nn.Module) and (first := unfinite(network.state_dict())):
            raise ValueError(
                f"the {part} of {owner} holds NaN or infinity (first in {first}): fetch it again, or take another one"
            )


def train_on(network: nn.Module, name: str) -> None:
    """Give the student the weights of another one. Raises ValueError where that is a network of another shape."""
    given = pretrained.load(bundle.locate(name)).denoiser.network.state_dict()
    own = network.state_dict()
    wrong = [k for k in {**own, **given} if k not in own or k not in given or own[k].shape != given[k].shape]
    if wrong:
        raise ValueError(
            f"--init {name} has another network than the teacher (first at {wrong[0]}): give one of its students"
        )
    if first := unfinite(given):
        raise ValueError(
            f"--init {name} holds NaN or infinity (first in {first}): give another student, or make it again"
        )
    network.load_state_dict(given)


def randomise(network: nn.Module, seed: int) -> None:
    """Fresh weights (the paper's random-init ablation)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()


# -- phase one: pairs and regression


def warm_start(
    o: Options, student: Student, teacher: Teacher, pairs: Callable[[int], TrainingSet]
) -> tuple[Trainer, Callable[[int], Batch]]:
    """Regression onto the teacher's trajectories."""
    adam = Optimizer(o.warm.learning_rate, beta1=0.9, warmup=20, decay=True, ema=0.98, kind=o.warm.optimizer)
    options = TrainerOptions(o.warm.steps, o.warm.batch_size, o.seed, o.precision, o.device, {"student": adam})
    following = regression.Options(regression_steps=o.warm.regression_steps)
    return Trainer(regression.Regression(student, following, teacher), options), pairs(o.warm.batch_size)


def draw_pairs(
    o: Options,
    teacher: Teacher,
    data: TrainingSet,
    folder: Path,
    origin: str,
    progress: Progress | None,
    batch_size: int,
) -> TrainingSet:
    """Noise, the guided teacher's sample from it, and the prompt row it was drawn for. Kept in ``folder``, drawn once.

    ``origin`` stands for the teacher and the prompts: pairs of another origin are drawn again.
    """
    key = f"{origin}|{teacher.guidance_scale}|{o.warm.teacher_steps}|{o.warm.pairs}|{o.seed}"
    path, part = pairs_in(folder)
    if key_of(path) == key:
        return _paired(o, data, load_file(path), batch_size)
    rng = np.random.Generator(np.random.PCG64(o.seed))
    rows = np.concatenate([rng.permutation(len(data)) for _ in range(-(-o.warm.pairs // len(data)))])[: o.warm.pairs]
    prompts = torch.tensor([int(rng.choice(list(data.choices[i]))) for i in rows])
    noise = Rng.of(o.seed, "pairs").normal((len(rows), *data.latents.shape[1:]))

    def draw(at: np.ndarray) -> Tensor:
        cond = data.prompts[prompts[at].to(data.latents.device)].to(o.device)
        null = data.null[[0] * len(at)].to(o.device)
        return teacher.draw(noise[at].to(o.device), cond, null, o.warm.teacher_steps).half().cpu()

    what = "teacher's trajectories"
    drawn = in_parts(draw, len(rows), o.warm.batch_size, part, key, what, progress)
    saved = {"noise": noise.half(), "x0": drawn, "prompts": prompts}
    save_whole(saved, path, {"key": key})
    part.unlink(missing_ok=True)
    return _paired(o, data, saved, batch_size)


def _paired(o: Options, data: TrainingSet, saved: dict[str, Tensor], batch_size: int) -> TrainingSet:
    if first := unfinite({name: saved[name] for name in ("noise", "x0")}):
        raise ValueError(
            f"the teacher's trajectories hold NaN or infinity (in {first}): remove pairs.safetensors from --out to draw them "
            "again, with --precision fp32, less --guidance-scale or another teacher"
        )
    choices = [[int(p)] for p in saved["prompts"]]
    return TrainingSet(saved["x0"], data.prompts, choices, data.null, batch_size, o.seed, noise=saved["noise"]).near(
        o.device
    )


# -- phase two: the game


def game(
    o: Options,
    student: Student,
    teacher: Teacher,
    model: pretrained.Pretrained,
    network: Eyes | None,
    data: TrainingSet,
    negative: Conditioning | None,
    progress: Progress | None,
) -> tuple[Trainer, Callable[[int], Batch]]:
    """ADD; without an adversarial loss nothing is looked at."""
    features, image = look(o, teacher, network, data, progress) if o.add.adversarial_weight else (None, None)
    on_media = features is not None and features.space == "media"
    data = replace(data, image=image, media=data.media if on_media else None).near(o.device)
    against = Adversary(model.codec, features, heads_over(o, features, data), o.add) if features else None
    advice = teacher if o.add.distillation_weight or o.add.regression_steps else None
    method = add.ADD(student, advice, model.codec, against, o.add, negative)
    optimizers = {
        "student": Optimizer(o.student_learning_rate, warmup=20, ema=o.ema),
        "discriminator": Optimizer(o.heads_learning_rate, warmup=0, max_gradient_norm=0.0),
    }
    options = TrainerOptions(o.steps, o.batch_size, o.seed, o.precision, o.device, optimizers)
    return Trainer(method, options), data


def heads_over(o: Options, features: FeatureNetwork, data: TrainingSet) -> Discriminator:
    """Fresh heads that fit the features and the conditioning of the data."""
    example = data.rows(np.arange(min(8, len(data)))).to(o.device)
    view = example.media if features.space == "media" else example.x0
    assert view is not None, "a feature network on media comes with media"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(o.seed)
        seen = features(view, example.cond, Rng.of(o.seed, "example", device=o.device))
        return Discriminator.over(seen, example.cond, o.heads).to(o.device)


def probe(o: Options, student: Student, model: pretrained.Pretrained, data: TrainingSet, measure: Measure) -> Probe:
    """Two one-step pictures of 64 training prompts, spread evenly, always from the same noise, against the pictures they name."""
    rows, rounds = np.array(spread(64, len(data))), 2
    batch = data.rows(rows).to(o.device)
    assert batch.media is not None, "prepare() reads the media"
    noise = Rng.of(o.seed, "probe", device=o.device).normal((rounds * len(rows), *batch.x0.shape[1:]))

    @torch.no_grad()
    def draw() -> Media:
        return torch.cat(
            [
                model.codec.decode(
                    student.draw(noise[at], batch.cond[torch.from_numpy(at % len(rows))], 1, Rng.of(o.seed))
                )
                for at in chunks(len(noise), 16)
            ]
        )

    return Probe(measure(draw, batch.media, rounds), o.look_every)


def look(
    o: Options, teacher: Teacher, network: Eyes | None, data: TrainingSet, progress: Progress | None
) -> tuple[FeatureNetwork, Tensor | None]:
    """The feature network, standardised over rows from all over the data, and, if the heads see it, the embedding of every
    training picture (c_img)."""
    samples: Iterable[tuple[Tensor, Conditioning]]
    if network is None:
        inner: FeatureNetwork = TeacherFeatures(teacher.denoiser)
        some = (data.rows(at).to(o.device) for at in spread_chunks(256, len(data), 32))
        samples = ((b.x0, b.cond) for b in some)
    else:
        inner = MediaFeatures(network.to(o.device), Augment(o.augment) if o.augment else None)
        samples = ((_media(data, at).to(o.device), Conditioning()) for at in spread_chunks(512, len(data), 32))
    rng = Rng.of(o.seed, "fit", device=o.device)
    features = Standardised.fit(inner, samples, rng) if o.standardise else inner
    image = embed(network, partial(_media, data), len(data), progress) if network and shows_pictures(o) else None
    return features, image


def _media(data: TrainingSet, rows: np.ndarray) -> Media:
    assert data.media is not None, "prepare() reads the media"
    return data.media(rows)


def eyes(o: Options) -> Eyes | None:
    """The image feature network, loaded, where the game looks through one. Raises ValueError with the fix if it is not there."""
    if not (o.steps and o.add.adversarial_weight) or o.features == "teacher":
        return None
    if o.features == "dinov2":
        return DinoFeatures.load(o.features_folder, o.resolution)
    return ImageNetFeatures.load(o.features, o.resolution)


@torch.no_grad()
def embed(
    network: Eyes,
    read: Callable[[np.ndarray], Media],
    n: int,
    progress: Progress | None,
) -> Tensor:
    """Pooled features of every picture ``[N, P]``, float16."""
    parts, device = [], next(network.parameters()).device
    for at in chunks(n, 32):
        pooled = network(read(at).to(device)).pooled
        assert pooled is not None
        parts.append(pooled.half().cpu())
        if progress:
            progress("image embeddings", int(at[-1]) + 1, n)
    return torch.cat(parts)
