"""Teacher -> student: the whole of ADD on any bundle or diffusers folder, with a warm start. One place for every model.

Three phases, each resumable: *pairs* (the teacher draws noise-to-sample pairs, cached), *warm* (the student regresses onto
them) and *add* (the game). Turning phases off gives the ablations: no warm start, adversarial only, distillation only.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import bundle, pretrained
from ..data.dataset import Dataset, cache_dir, spread
from ..methods import add, regression
from ..parts import dino, discriminator
from ..parts.augment import Augment
from ..parts.denoiser import Student, Teacher, freeze
from ..parts.dino import DinoFeatures
from ..parts.discriminator import Discriminator
from ..parts.features import FeatureNetwork, OfMedia, OfTeacher, Standardised
from ..parts.imagenet import ImageNetFeatures
from ..pretrained import trainable
from ..ranges import Count, Limit, Range, Rate, Seed, check_device
from ..rng import Rng
from ..tensors import Batch, Conditioning, Media
from ..training.data import Progress, TrainingSet, chunks, open_dataset, save_whole, training_set
from ..training.ema import load_moving, moving
from ..training.probe import Keep, Measure, Probe
from ..training.recipe import Phase
from ..training.trainer import Optimizer, Trainer
from ..training.trainer import Options as TrainerOptions


@dataclass(frozen=True)
class WarmStart:
    """Regression onto the teacher's own trajectories before the game begins."""

    steps: Limit = 300
    """Training steps; 0 leaves the warm start out."""
    pairs: Annotated[int, Range(1, 10**6)] = 1024
    """Noise-to-sample pairs that the teacher draws (cached beside the run), for the warm start and for the game's regression."""
    teacher_steps: Annotated[int, Range(1, 1000)] = 16
    """DDIM steps of a pair."""
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
    ema: float = 0.99
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
    """Where it is trained: cpu, or cuda for a GPU."""
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
    """The student's times."""
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
    warm: WarmStart = field(default_factory=WarmStart)
    """The warm start."""
    add: add.Options = field(default_factory=lambda: add.Options(r1=1.0))
    """The game."""
    heads: discriminator.Options = field(default_factory=discriminator.Options)
    """The discriminator's heads."""


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
        n = len(o.times)
        own = self.dataset.describe(o.styles)
        data = own if t.data in ("", own) else f"{own}; its teacher: {t.data}"
        return bundle.Card(
            name=self.folder.name,
            role="student",
            method=method_name(o),
            steps=tuple(range(1, n + 1)),
            times=o.times,
            native_size=t.native_size,
            teacher=t.name,
            licence=t.licence,
            data=data,
            text_encoder="",
            training={
                "steps": steps_taken,
                "trained_share": self.share,
                "options": json.loads(json.dumps(asdict(o), default=str)),
            },
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
    source = bundle.locate(options.teacher)
    model = pretrained.load(source).to(options.device)
    card = bundle.card_of(source, model)
    if card.role == "student":
        raise ValueError(f"{card.name} is already a student: give its teacher ({card.teacher})")
    o = seen_through(options, card.native_size)
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
    dataset = choose(open_dataset(o.data, o.styles), o.concepts, keep)
    if tuple(dataset.shape[1:]) != tuple(card.native_size):
        given, wanted = ("x".join(map(str, size)) for size in (dataset.shape[1:], card.native_size))
        raise ValueError(
            f"the pictures are {given}, {card.name} draws {wanted}: build the data again with --size {card.native_size[0]}"
        )
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
    model.conditioner.to("cpu")  # every prompt is encoded by now, and memory is short where it matters
    phases: list[Phase] = []
    before: dict[str, Tensor] = {}
    origin = f"{pair_maker(source)}|{dataset.fingerprint}|{o.captions}"
    pairs = partial(draw_pairs, o, teacher, data, folder / "pairs.safetensors", origin, progress)
    if o.warm.steps:
        phases.append(Phase("warm", o.warm.steps, partial(warm_start, o, student, pairs), o.seconds[0]))
    if o.steps:

        def play() -> tuple[Trainer, Callable[[int], Batch]]:
            if o.blend < 1:
                before.update({name: value.clone() for name, value in moving(student.denoiser).items()})
            beside = pairs(o.batch_size) if o.add.regression_weight else None
            return game(o, student, teacher, model, replace(data, pairs=beside), negative, progress)

        look = partial(probe, o, student, model, data, measure) if measure else None
        phases.append(Phase("add", o.steps, play, o.seconds[1], look, o.keep))
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


def seen_through(o: Options, native_size: tuple[int, ...]) -> Options:
    """The options with the feature network, its folder and its resolution decided."""
    folder = Path(o.features_folder) if o.features_folder else cache_dir() / "dinov2"
    features = o.features
    if features == "auto":
        real = min(native_size) >= 128
        to_be_had = bool(o.features_folder) or (real and (folder / "model.safetensors").is_file())
        features = "dinov2" if to_be_had else "efficientnet-lite0"
    elif o.features_folder and features != "dinov2":
        raise ValueError(f"--features-folder is DINOv2's: leave it out, or use --features dinov2 instead of {features}")
    side = max(native_size)
    own = dino.suitable(side) if features == "dinov2" else min(max(side, 64), 224)
    given = str(folder) if features == "dinov2" else ""
    return replace(o, features=features, features_folder=given, resolution=o.resolution or own)


def choose(dataset: Dataset, concepts: int, keep: Sequence[str] = ()) -> Dataset:
    """Every k-th concept, so that about ``concepts`` remain, and those named in ``keep``; 0 keeps all."""
    if not concepts or concepts >= len(dataset.concepts):
        return dataset
    kept = set(dataset.concepts[:: len(dataset.concepts) // concepts][:concepts])
    return dataset.subset(where=lambda item: item.concept in kept or item.prompts[0] in keep)


def train_on(network: nn.Module, name: str) -> None:
    """Give the student the weights of another one. Raises ValueError where that is a network of another shape."""
    given = pretrained.load(bundle.locate(name)).denoiser.network.state_dict()
    own = network.state_dict()
    wrong = [k for k in {**own, **given} if k not in own or k not in given or own[k].shape != given[k].shape]
    if wrong:
        raise ValueError(
            f"--init {name} has another network than the teacher (first at {wrong[0]}): give one of its students"
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
    o: Options, student: Student, pairs: Callable[[int], TrainingSet]
) -> tuple[Trainer, Callable[[int], Batch]]:
    """Regression onto the teacher's trajectories."""
    adam = Optimizer(o.warm.learning_rate, beta1=0.9, warmup=20, decay=True, ema=0.98, kind=o.warm.optimizer)
    options = TrainerOptions(o.warm.steps, o.warm.batch_size, o.seed, o.precision, o.device, {"student": adam})
    return Trainer(regression.Regression(student), options), pairs(o.warm.batch_size)


def pair_maker(teacher: Path) -> str:
    """Stands for all that a teacher's folder brings to its samples: weights, configs, tokenizers."""
    files = bundle.part_hashes(teacher, *bundle.WEIGHTS, "*.json")
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def draw_pairs(
    o: Options,
    teacher: Teacher,
    data: TrainingSet,
    path: Path,
    origin: str,
    progress: Progress | None,
    batch_size: int,
) -> TrainingSet:
    """Noise, the guided teacher's sample from it, and the prompt row it was drawn for. Kept at ``path``, drawn once.

    ``origin`` stands for the teacher and the prompts: pairs of another origin are drawn again.
    """
    key = f"{origin}|{teacher.guidance_scale}|{o.warm.teacher_steps}|{o.warm.pairs}|{o.seed}"
    if path.is_file() and _key_of(path) == key:
        return _paired(o, data, load_file(path), batch_size)
    rng = np.random.Generator(np.random.PCG64(o.seed))
    rows = np.concatenate([rng.permutation(len(data)) for _ in range(-(-o.warm.pairs // len(data)))])[: o.warm.pairs]
    prompts = torch.tensor([int(rng.choice(list(data.choices[i]))) for i in rows])
    noise = Rng.of(o.seed, "pairs").normal((len(rows), *data.latents.shape[1:]))
    drawn = []
    for at in chunks(len(rows), o.warm.batch_size):
        cond = data.prompts[prompts[at].to(data.latents.device)].to(o.device)
        null = data.null[[0] * len(at)].to(o.device)
        drawn.append(teacher.draw(noise[at].to(o.device), cond, null, o.warm.teacher_steps).half().cpu())
        if progress:
            progress("teacher's trajectories", int(at[-1]) + 1, len(rows))
    saved = {"noise": noise.half(), "x0": torch.cat(drawn), "prompts": prompts}
    save_whole(saved, path, {"key": key})
    return _paired(o, data, saved, batch_size)


def _key_of(path: Path) -> str:
    """What the pairs in a file were drawn from and for; empty if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("key", "")
    except SafetensorError:
        return ""


def _paired(o: Options, data: TrainingSet, saved: dict[str, Tensor], batch_size: int) -> TrainingSet:
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
    data: TrainingSet,
    negative: Conditioning | None,
    progress: Progress | None,
) -> tuple[Trainer, Callable[[int], Batch]]:
    """ADD, with its features standardised over real data."""
    features, image = look(o, teacher, data, progress)
    data = replace(data, image=image, media=data.media if features.space == "media" else None).near(o.device)
    example = data.rows(np.arange(min(8, len(data)))).to(o.device)
    view = example.media if features.space == "media" else example.x0
    assert view is not None, "a feature network on media comes with media"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(o.seed)
        seen = features(view, example.cond, Rng.of(o.seed, "example", device=o.device))
        heads = Discriminator.over(seen, example.cond, o.heads).to(o.device)
    advice = teacher if o.add.distillation_weight else None
    method = add.ADD(student, advice, model.codec, features, heads, o.add, negative)
    optimizers = {
        "student": Optimizer(o.student_learning_rate, warmup=20, ema=o.ema),
        "discriminator": Optimizer(o.heads_learning_rate, warmup=0, max_gradient_norm=0.0),
    }
    options = TrainerOptions(o.steps, o.batch_size, o.seed, o.precision, o.device, optimizers)
    return Trainer(method, options), data


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
    o: Options, teacher: Teacher, data: TrainingSet, progress: Progress | None
) -> tuple[FeatureNetwork, Tensor | None]:
    """The standardised feature network, and the embedding of every training picture (c_img) if it gives one."""
    if o.features == "teacher":
        inner: FeatureNetwork = OfTeacher(copy.deepcopy(teacher.denoiser))
        some = (data.rows(at).to(o.device) for at in chunks(min(256, len(data)), 32))
        return Standardised.fit(inner, ((b.x0, b.cond) for b in some), Rng.of(o.seed, "fit", device=o.device)), None
    network = eyes(o)
    read = data.media
    assert read is not None, "prepare() reads the media"
    augmented = OfMedia(network, Augment(o.augment) if o.augment else None)
    samples = ((read(at).to(o.device), Conditioning()) for at in chunks(min(512, len(data)), 32))
    features = Standardised.fit(augmented, samples, Rng.of(o.seed, "fit", device=o.device))
    if not o.heads.image:
        return features, None
    return features, embed(network, read, len(data), progress)


def eyes(o: Options) -> ImageNetFeatures | DinoFeatures:
    """The image feature network, loaded, where it is used."""
    if o.features == "dinov2":
        return DinoFeatures.load(o.features_folder, o.resolution).to(o.device)
    return ImageNetFeatures.load(o.features, o.resolution).to(o.device)


@torch.no_grad()
def embed(
    network: ImageNetFeatures | DinoFeatures,
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
