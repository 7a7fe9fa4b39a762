"""Teacher -> student, by any method, on any bundle or diffusers folder, with a warm start. One place for every model.

Three phases, each resumable: *pairs* (the teacher draws noise-to-sample pairs, cached), *warm* (the student regresses onto
them) and the method's own, which is a file of ``methods/`` or of somebody's own and makes itself of the run's parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
import tyro
from torch import Tensor, nn

from .. import bundle, extras, pretrained
from ..data.dataset import Dataset, cache_dir, no_progress, spread
from ..diffusion import sampler
from ..methods.method import FAMILY as METHODS
from ..methods.method import Facts, StudentOptions
from ..options import CHANGEABLE, FREE, SHARED, StandsFor, marked, resume_key
from ..parts.denoiser import Student, Teacher, freeze
from ..parts.features import feature
from ..pretrained import loras, trainable
from ..ranges import Count, Limit, Range, Seed, check_device
from ..rng import Rng
from ..tensors import Batch, Media
from ..training import checkpoint
from ..training.buckets import Samples, training_samples
from ..training.data import Progress, chunks, data_needs, open_dataset
from ..training.drawn import SHOWN
from ..training.ema import load_moving, moving
from ..training.probe import Keep, Measure, Probe, RememberingDraw
from ..training.recipe import Phase, history
from ..training.run import Saving
from ..training.trainer import OPTIMIZERS, Trainer, further
from ..training.trainer import Options as TrainerOptions
from . import assembly, warm
from .assembly import Parts, Setting
from .warm import LATER, draw_pairs, warm_start
from .warm import Options as WarmStart

USUAL = "add"
"""The method where none is named."""


def weights_of(init: str) -> str:
    """What ``--init`` stands for: the first hex digits of a hash of the weights."""
    return init if init in ("teacher", "random") else bundle.content_of(bundle.locate(init))[:12]


@dataclass(frozen=True)
class Options:
    """Distil a teacher into a few-step student."""

    method: Annotated[str, LATER] = USUAL
    """How it is distilled."""
    teacher: Annotated[str, StandsFor()] = "emoji-64-teacher"
    """Name of a shipped bundle, or a diffusers text-to-image folder."""
    teacher_lora: Annotated[tuple[str, ...], StandsFor(loras.contents)] = ()
    """LoRAs that are merged into the teacher before all, in diffusers' or kohya's layout: FILE or FILE:weight."""
    data: Annotated[str, StandsFor()] = "emoji"
    """Dataset folder, or the name of one that ``fewstep data`` has built."""
    styles: tuple[str, ...] = ()
    """Train on these style words only; empty takes all."""
    concepts: Limit = 0
    """Train on this many concepts only, spread evenly; 0 takes all. For quick tries."""
    captions: Literal["all", "name"] = "all"
    """``name`` asks for a sample by its plain name only, which saves encoding the other prompts."""
    steps: Annotated[Limit, FREE] = 1000
    """Steps of the method; 0 stops after the warm start."""
    seconds: Annotated[tuple[float, float], Range(0), FREE] = (0.0, 0.0)
    """End the warm start and the method after this long each, steps or no steps; 0 never does."""
    batch_size: Annotated[int, Range(1, 2**16), CHANGEABLE, LATER] = 16
    """Samples a step; a multiple of 8 above 8 for heads with local batch norm."""
    gradient_accumulation: Annotated[Count, CHANGEABLE, LATER] = 1
    """Parts that a batch is worked through in, one after another: less memory at once for the same batch."""
    keep: Annotated[Keep, FREE] = "best"
    """The student to end with: the ``best`` of all evaluations on fixed prompts (distance and sharpness), or the ``last``."""
    blend: Annotated[float, Range(0, 1, above=True), FREE] = 1.0
    """Share of the method in the weights that are saved. Below 1 they are averaged with those from before it (WiSE-FT, arXiv
    2109.01903): more of a warm start's diversity for less of an adversary's fidelity, and a trade to choose after training."""
    look_every: Annotated[Count, FREE] = 100
    """Steps of the method between evaluations."""
    seed: Seed = 0
    """Seed of everything that is drawn."""
    precision: Annotated[Literal["fp32", "bf16"], CHANGEABLE] = "fp32"
    """bf16 only where the processor has bf16 units: elsewhere it is emulated, up to 80 times slower."""
    device: Annotated[str, FREE] = "cpu"
    """Where it is trained: cpu, cuda or cuda:1 for an NVIDIA GPU, mps for Apple's (which no test of ours has seen)."""
    checkpointing: Annotated[bool, FREE] = False
    """Forget activations of the student and of the decoder, and compute them again backwards: less memory, more time."""
    student: trainable.What = "full"
    """What is trained: ``full``, all weights; ``lora``, a low-rank addition that other tools load on top of the teacher;
    ``freeze``, all but the convolutions inside the blocks (GDD-I, arXiv 2405.20750)."""
    rank: Annotated[int, Range(1, 2**16)] = 64
    """Rank of a LoRA student."""
    init: Annotated[str, StandsFor(weights_of)] = "teacher"
    """Where the student's weights come from: ``teacher``; a student of this teacher, by name or folder, that is trained
    on; or ``random``, the paper's Table 1c, which fails."""
    times: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    """The student's times. It is good for every count of evenly spaced steps that are all among them: these give 1, 2 and 4;
    3 steps visit 1, 0.667 and 0.333. Stock diffusers spaces steps in no other way."""
    probabilities: Annotated[tuple[float, ...], Range(0)] = ()
    """How often each time is trained; empty is uniform, as the paper has it."""
    guidance_scale: float | None = None
    """The teacher's guidance; None takes its card's."""
    require_commercial: Annotated[bool, FREE] = False
    """Refuse a teacher, an --init or data whose licence allows no commercial use, or that state none."""
    warm: WarmStart = field(default_factory=WarmStart)
    """The warm start."""

    @property
    def own(self) -> Any:
        """The method's options."""
        return getattr(self, short(self.method))

    def needs(self) -> tuple[str, ...]:
        """The modules that distilling takes, as far as the options tell."""
        features = assembly.needs(self.own) if self.steps and isinstance(self.own, feature.Options) else ()
        lora = extras.of("lora") if self.student == "lora" or self.teacher_lora else ()
        return (*features, *lora, *data_needs(self.data))


def short(method: str) -> str:
    """What a method's options stand under: the last part of its name, as ``sid`` of ``my_lab.sid``."""
    return method.rpartition(".")[2]


def options_type(method: str = USUAL) -> type[Options]:
    """The options of distilling by this method: those of every run, and its own under its name.

    Raises ValueError, with the names that there are, for a method that there is not.
    """
    return _options_type(method)


@lru_cache
def _options_type(method: str) -> type[Options]:
    module, name = METHODS.load(method), short(method)
    if name in {f.name for f in fields(Options)} | {"bundle"}:
        raise ValueError(
            f"a method cannot be called {name}, for something else in a run is: give its file another name"
        )
    names = ", ".join(METHODS.names)
    said = tyro.conf.arg(help=f"How it is distilled: {names}, or the dotted path of a file of your own (my_lab.sid).")
    own = field(default_factory=module.Options)
    made = make_dataclass(
        "Options",
        [("method", Annotated[str, LATER, said], field(default=method)), (name, Annotated[module.Options, LATER], own)],
        bases=(Options,),
        frozen=True,
    )
    made.__doc__ = Options.__doc__
    return made


def options(method: str = USUAL, **given: Any) -> Any:
    """Options by their names on the command line: what a method shares with others stands beside it, as ``features``."""
    kind, name = options_type(method), short(method)
    own = given.pop(name, None) or METHODS.load(method).Options()
    hints = get_type_hints(type(own), include_extras=True)
    shared = {f.name for f in fields(own) if SHARED in getattr(hints[f.name], "__metadata__", ())}
    own = replace(own, **{option: given.pop(option) for option in shared & given.keys()})
    return kind(**given, **{name: own})


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
    """The student's weights as the method found them, where they are needed at the end."""

    def card(self, steps_taken: int) -> bundle.Card:
        """The facts of the student as it stands."""
        o, t, shapes = self.options, self.teacher_card, self.dataset.subset("train").shapes
        own = self.dataset.describe(o.styles)
        data = own if t.data in ("", own) else f"{own}; its teacher: {t.data}"
        return bundle.Card(
            name=self.folder.name,
            role="student",
            method=method_name(o),
            steps=self.student.steps,
            times=o.times,
            sampler=self.student.sampler_kind,
            native_size=t.native_size,
            sizes=tuple(tuple(shape[1:]) for shape in shapes) if len(shapes) > 1 else (),
            teacher=" + ".join((t.name, *(lora.name for lora in loras.loras_of(o.teacher_lora)))),
            licence=self.licence,
            data=data,
            text_encoder="",
            training={"steps": steps_taken, "trained_share": self.share, **history(o, self.phases, self.folder)},
        )

    @property
    def licence(self) -> str:
        """The teacher's, and those that LoRAs on it state."""
        own = self.teacher_card.licence or pretrained.read_terms(self.model.folder).licence
        theirs = [f"{lora.name}: {lora.licence}" for lora in loras.loras_of(self.options.teacher_lora) if lora.licence]
        return "; ".join((*filter(None, [own]), *theirs))

    def save_further(self, thin: bool = False, dtype: torch.dtype | None = None) -> list[Path]:
        """Write a bundle of every further average (``--further-ema``), of the last step's weights; says where they are."""
        places = further_places(self.options, self.folder)
        if not places:
            return []
        state = checkpoint.load(Saving(self.folder / self.phases[-1].name).checkpoint)
        for decay, place in places.items():
            with lent(self.student.denoiser, state["averages"][further("student", decay)]["weights"]):
                self.save(place, state["step"], thin, dtype, decay)
        return list(places.values())

    def save(
        self,
        folder: Path,
        steps_taken: int,
        thin: bool = False,
        dtype: torch.dtype | None = None,
        ema: float | None = None,
    ) -> bundle.Card:
        """Write the student as a bundle. ``thin`` leaves the text encoder to the package it comes from. ``dtype`` is its
        weights', None takes the teacher's. ``ema`` is the decay of the weights that it has, where it is not ``--ema``.

        A LoRA student is written merged, with the LoRA alone in ``lora/``.
        """
        card, source = self.card(steps_taken), self.model.folder
        if ema is not None:
            card = replace(card, training=card.training | {"ema": ema})
        if thin:
            card = replace(card, text_encoder="sentence")
        family = self.model.family
        with blended(self.student.denoiser, self.before, self.options.blend):
            return bundle.save(
                folder,
                replace(card, name=bundle.name_of(folder)),
                family=family,
                network=self.student.denoiser.network,  # type: ignore[arg-type]
                vae=getattr(self.model.codec, "vae", None),
                scheduler=family.scheduler("student", family.noise(pretrained.Configs.read(source))),
                text=None if thin else source,
                dtype=dtype or pretrained.stored_dtype(source / family.component),
                origin=source,
                notices="\n".join(dict.fromkeys(t for t in (bundle.notices_of(source), self.dataset.attribution) if t)),
            )


def further_places(o: Options, folder: Path) -> dict[float, Path]:
    """Where the bundles of the further averages go, by their decay."""
    decays = o.own.further_ema if o.steps and isinstance(o.own, StudentOptions) else ()
    return {decay: folder / f"bundle-ema-{decay:g}" for decay in decays}


@contextmanager
def blended(network: nn.Module, before: dict[str, Tensor], share: float) -> Iterator[None]:
    """Lend ``network`` the average of its weights, of this ``share``, and those ``before``; the same where there are none."""
    after = moving(network)
    mixed = {k: torch.lerp(v, after[k], share) if v.is_floating_point() else after[k] for k, v in before.items()}
    with lent(network, mixed):
        yield


@contextmanager
def lent(network: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Lend these weights to ``network``; it has its own again afterwards, also after an error."""
    own = {name: value.clone() for name, value in moving(network).items()}
    load_moving(network, weights)
    try:
        yield
    finally:
        load_moving(network, own)


def method_name(o: Options) -> str:
    """What the student's method is called in tables."""
    if not o.steps:
        return warm.METHOD
    if o.init == "random":
        return "random_init"
    called = getattr(METHODS.load(o.method), "called", None)
    return called(o.own) if called else short(o.method)


def prepare(
    options: Options,
    folder: Path,
    progress: Progress | None = None,
    keep: Sequence[str] = (),
    measure: Measure | None = None,
) -> Distillation:
    """Read the teacher and the data, and lay out the phases. Raises ValueError with the fix for anything that is missing.

    ``keep`` names prompts whose concepts are trained on whatever ``options.concepts`` leaves out. ``measure`` evaluates the
    method while it runs (``evaluation.progress``); without it the last state is kept.
    """
    check(options)
    for place in further_places(options, folder).values():
        bundle.check_place(place, empty_handed=True)
    tell_idle_times(options.times)
    warm.check_pairs(folder)
    source = bundle.locate(options.teacher)
    loras.loras_of(options.teacher_lora)
    if options.require_commercial:
        check_commercial(options, source)
    model = pretrained.load(source).to(options.device)
    card = bundle.card_of(source, model)
    if card.role == "student":
        raise ValueError(f"{card.name} is already a student: give its teacher ({card.teacher or 'not known'})")
    o = decided(options, card.native_size)
    check_method(o, facts_of(o, card.native_size))
    tell_missing_licence(card, source)
    loras.merge(model.denoiser.network, model.family, o.teacher_lora)
    network = assembly.load_network(o.own, model.denoiser) if o.steps and isinstance(o.own, feature.Options) else None
    assembly.check_numbers(
        card.name, {"network": model.denoiser, "VAE": model.codec, "text encoder": model.conditioner}
    )
    if network is not None:
        assembly.check_numbers(o.own.features, {"feature network": network})
    freeze(model.codec)
    scale = card.guidance_scale if o.guidance_scale is None else o.guidance_scale
    denoiser, share = assembly.student_of(model, o.init, o.student, o.rank, o.seed)
    student = Student(denoiser, o.times, o.probabilities, model.family.sampler)
    teacher = Teacher(model.denoiser, scale)
    if o.checkpointing:
        denoiser.network.enable_gradient_checkpointing()  # type: ignore[operator, union-attr]
        vae: Any = getattr(model.codec, "vae", None)
        if getattr(vae, "_supports_gradient_checkpointing", False):  # Qwen-Image's does not
            vae.enable_gradient_checkpointing()
    dataset = pictures(o, card, keep, progress, model.multiple)
    check_enough(dataset, bool(measure and o.steps))
    data = encoded(o, model, dataset, progress)
    content = bundle.content_of(source)
    found = {"--teacher": content[:12], "--guidance-scale": scale, "--data": dataset.fingerprint[:12]}
    found["--features-folder"] = getattr(network, "fingerprint", "") if getattr(o.own, "features_folder", "") else ""
    setting = Setting(o.batch_size, o.seed, o.device, o.precision, progress)
    merged = "".join(f"|{one}" for one in loras.contents(o.teacher_lora))
    origin = f"{content}{merged}|{dataset.fingerprint}|{o.captions}"
    pairs = partial(draw_pairs, o.warm, setting, teacher, data, folder, origin)
    parts = Parts(student, teacher, model, data, pairs, setting, network, o.student, o.rank)
    evaluate = partial(probe, o, student, model, data, measure) if measure else None
    work = Distillation(o, card, model, student, share, [], folder, dataset)
    work.phases = phases(work, parts, found, evaluate, partial(warm_start, o.warm, setting, student, teacher, pairs))
    return work


def pictures(
    o: Options, card: bundle.Card, keep: Sequence[str], progress: Progress | None, multiple: int = 1
) -> Dataset:
    """What the student is trained on, verified. Raises ValueError where it does not suit the teacher or the method."""
    dataset = choose(open_dataset(o.data, o.styles).verify(progress or no_progress), o.concepts, keep)
    assembly.check_size(dataset, card, multiple)
    check_method(o, facts_of(o, card.native_size, kinds(dataset)))
    return dataset


def encoded(o: Options, model: pretrained.Pretrained, dataset: Dataset, progress: Progress | None) -> Samples:
    """Its latents and prompts, encoded once; the text encoder leaves the device, where memory is short."""
    names_only = o.captions == "name"
    data = training_samples(
        dataset, model.codec, model.conditioner, cache_dir(), o.batch_size, o.seed, True, names_only, progress
    ).near(o.device)
    model.conditioner.to("cpu")
    return data


def phases(
    work: Distillation,
    parts: Parts,
    found: dict[str, Any],
    evaluate: Callable[[], Probe] | None,
    warmed: Callable[[], tuple[Trainer, Callable[[int], Batch]]],
) -> list[Phase]:
    """The warm start and the method, as far as they are asked for; ``found``: what the run's names stand for."""
    o = work.options
    made_with, changeable, contents = resume_key(o, found), marked(o, CHANGEABLE), marked(o, StandsFor)
    steady = {name: value for name, value in made_with.items() if name not in marked(o, LATER)}

    def begin() -> tuple[Trainer, Callable[[int], Batch]]:
        if o.blend < 1:
            work.before.update({name: value.clone() for name, value in moving(work.student.denoiser).items()})
        method = METHODS.load(o.method).build(o.own, parts)
        each = o.gradient_accumulation
        training = TrainerOptions(o.steps, o.batch_size, o.seed, o.precision, o.device, gradient_accumulation=each)
        return Trainer(method, training), parts.data

    todo = []
    if o.warm.steps:
        todo.append(
            Phase(
                "warm", o.warm.steps, warmed, o.seconds[0], None, o.keep, steady, changeable, "--warm.steps", contents
            )
        )
    if o.steps:
        name = short(o.method)
        todo.append(
            Phase(name, o.steps, begin, o.seconds[1], evaluate, o.keep, made_with, changeable, "--steps", contents)
        )
    if not todo:
        raise ValueError("nothing to train: give --steps or --warm.steps")
    return todo


def folders(o: Options) -> tuple[str, ...]:
    """Folders of a run's phases."""
    return ("warm", short(o.method))


def decided(o: Options, native_size: tuple[int, ...]) -> Options:
    """The options with the feature network decided, where the method needs one, for a teacher of this size."""
    if not isinstance(o.own, feature.Options):
        return o
    changed: dict[str, Any] = {short(o.method): assembly.decided(o.own, native_size)}
    return replace(o, **changed)


def check(o: Options) -> None:
    """Refuse options that contradict each other or this machine, before anything is read."""
    check_device(o.device)
    OPTIMIZERS.load(o.warm.optimizer)
    if not part_of(o):
        raise ValueError(
            f"a batch of {o.batch_size} has no {o.gradient_accumulation} parts: use --gradient-accumulation from 1 to "
            f"{o.batch_size}"
        )
    if o.init == "random" and o.student != "full":
        raise ValueError(f"a {o.student} student keeps its teacher's weights: use --init teacher or --student full")
    check_method(o, facts_of(o))


def facts_of(o: Options, native_size: tuple[int, ...] | None = None, concepts: int | None = None) -> Facts:
    """What is known of a run by now."""
    return Facts(part_of(o), native_size, concepts, o.steps)


def part_of(o: Options) -> int:
    """Samples that are looked at together: the smallest part of a batch."""
    return o.batch_size // o.gradient_accumulation


def check_method(o: Options, facts: Facts) -> None:
    """Refuse a method that cannot be trained, before the warm start is trained for it."""
    if isinstance(o.own, StudentOptions):
        OPTIMIZERS.load(o.own.student_optimizer)
    refuse = getattr(METHODS.load(o.method), "check", None)
    if o.steps and refuse:
        refuse(o.own, facts)


def kinds(dataset: Dataset) -> int:
    """How many concepts, under prompts of their own, are trained on."""
    train = dataset.subset("train")
    return min(len(train.concepts), len({p for item in train.items for p in item.prompts}))


def check_commercial(o: Options, teacher: Path) -> None:
    """Refuse what a student would be made of where it may not be used commercially. No weights are read."""
    given = {f"the teacher {o.teacher}": teacher}
    if o.init not in ("teacher", "random"):
        given[f"--init {o.init}"] = bundle.locate(o.init)
    for what, folder in given.items():
        known = bundle.Card.read(folder) if (folder / bundle.CARD).is_file() else None
        licence = (known.licence if known else "") or pretrained.read_terms(folder).licence
        pretrained.check_commercial(what, licence, pretrained.research_only(folder, licence))
    loras.check_licences(o.teacher_lora)
    for licence in open_dataset(o.data, o.styles).licences:
        pretrained.check_commercial(
            f"the data {o.data}", licence, licence * bool(pretrained.RESEARCH_ONLY.search(licence))
        )


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


def check_enough(dataset: Dataset, looked_at: bool) -> None:
    """Refuse a dataset with no picture to train on, or too few to evaluate the method by. Raises ValueError with the fix."""
    left = len(dataset.subset("train"))
    if looked_at and left == 1:
        raise ValueError(
            f"{dataset.name} has one picture to train on, and evaluations compare two or more: give it more, or "
            "use --keep last"
        )
    if not left:
        raise ValueError(
            f"all {len(dataset):,} pictures of {dataset.name} are held out, and none is left to train on: build the data "
            "again with less --heldout"
        )


def choose(dataset: Dataset, concepts: int, keep: Sequence[str] = ()) -> Dataset:
    """Every k-th concept, so that about ``concepts`` remain, and those named in ``keep``; 0 keeps all."""
    if not concepts or concepts >= len(dataset.concepts):
        return dataset
    kept = set(dataset.concepts[:: len(dataset.concepts) // concepts][:concepts])
    return dataset.subset(where=lambda item: item.concept in kept or item.prompts[0] in keep)


def probe(o: Options, student: Student, model: pretrained.Pretrained, data: Samples, measure: Measure) -> Probe:
    """Two one-step pictures of 64 training prompts, spread evenly, always from the same noise, against the pictures they name."""
    rows, rounds = data.alike(64), 2
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

    shown = RememberingDraw(draw, spread(SHOWN, len(rows)))
    return Probe(measure(shown, batch.media, rounds), o.look_every, shown.pictures)
