"""``fewstep teach --decoder-only``: a finished teacher's decoder, fine-tuned alone, and put into the teacher and its students.

Nothing else of a bundle changes, down to the last bit: the folder is copied, and of its VAE's file the decoder's weights are
others. So every latent means what it meant, and a student of this teacher takes the new decoder without training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import bundle, files, pretrained
from ..data.dataset import ATTRIBUTION, Dataset, cache_dir, no_progress
from ..methods import decoding
from ..methods.decoding import Decoding
from ..options import CHANGEABLE, FREE, StandsFor, marked, resume_key
from ..parts.adversary import Adversary
from ..parts.codec import Codec, IdentityCodec
from ..parts.denoiser import Student, Teacher, freeze
from ..pretrained import VaeCodec
from ..ranges import Count, Seed, Weight, check_device
from ..tensors import Batch, unfinite
from ..training.buckets import training_samples
from ..training.data import Progress, data_needs, open_dataset
from ..training.recipe import Phase, history
from ..training.trainer import Options as Training
from ..training.trainer import Trainer
from . import assembly, emoji

PHASES = ("decoder",)
"""Folders of a run's phases."""
DECODING = ("decoder.", "post_quant_conv.")
"""How the names of a VAE's weights begin that turn latents into media."""
Measure = Callable[[Codec, Dataset], Mapping[str, float]]
"""Measures a codec on held-out pictures."""


@dataclass(frozen=True)
class Options:
    """Fine-tune the decoder of a finished teacher alone: latents stay what they are, so that its students take it over."""

    decoder_only: Annotated[bool, FREE] = False
    """Given, the decoder of a finished teacher is fine-tuned alone."""
    teacher: Annotated[str, StandsFor(emoji.weights_of)] = "emoji-64-teacher"
    """A shipped bundle's name, or the folder of any teacher whose VAE has a decoder."""
    student: Annotated[str, StandsFor(emoji.weights_of)] = ""
    """A student of this teacher whose latents the decoder learns to show, too (--decoding.student-share)."""
    also: Annotated[tuple[str, ...], FREE] = ()
    """Further bundles with the same latents that get the new decoder: each is written beside the teacher's, as bundle-NAME.
    With --resume a finished run gives it to one more, without training."""
    data: Annotated[str, StandsFor()] = "emoji"
    """Dataset folder, or the name of one that ``fewstep data`` has built."""
    styles: tuple[str, ...] = ()
    """Train on these style words only; empty takes all."""
    steps: Annotated[Count, FREE] = 3000
    """Steps of training."""
    seconds: Annotated[Weight, FREE] = 0.0
    """End after this long even if steps are left; 0 never does."""
    batch_size: Annotated[Count, CHANGEABLE] = 16
    """Pictures a step."""
    decoding: decoding.Options = field(default_factory=decoding.Options)
    """What is asked of the decoder."""
    seed: Annotated[Seed, CHANGEABLE] = 0
    """Seed of everything that is drawn."""
    precision: Annotated[Literal["fp32", "bf16"], CHANGEABLE] = "fp32"
    """bf16 only where the processor has bf16 units: elsewhere it is emulated, up to 80 times slower."""
    device: Annotated[str, FREE] = "cpu"
    """Where it is trained: cpu, cuda or cuda:1 for an NVIDIA GPU, mps for Apple's (which no test of ours has seen)."""

    def needs(self) -> tuple[str, ...]:
        """The modules that training takes."""
        return (*data_needs(self.data), *assembly.needs(self.decoding))


def options_type(*which: str) -> type[Any]:
    """The options of ``fewstep teach``, or of ``fewstep teach --decoder-only``."""
    return Options if which else emoji.TeacherOptions


def decoder_of(vae: nn.Module) -> nn.ModuleDict:
    """The modules of a diffusers VAE that turn latents into media."""
    return nn.ModuleDict({name: part for name, part in vae.named_children() if f"{name}." in DECODING})


@dataclass
class FineTuning:
    """A run that is ready to begin."""

    options: Options
    source: Path
    """The teacher's folder, as thin as it is."""
    card: bundle.Card
    dataset: Dataset
    codec: VaeCodec
    phases: list[Phase]
    before: Mapping[str, float]
    """What the codec was worth on held-out pictures."""
    measure: Measure | None = None

    def save(self, folder: Path, steps_taken: int) -> dict[Path, bundle.Card]:
        """Write the teacher with its new decoder to ``folder``, and what ``also`` names beside it. Returns the cards by place."""
        weights = {
            name: w.detach().cpu() for name, w in self.codec.vae.state_dict().items() if name.startswith(DECODING)
        }
        after = self.measure(self.codec, self.dataset) if self.measure else {}
        told: dict[str, Any] = {
            "of": self.card.fingerprint,
            "steps": steps_taken,
            **history(self.options, self.phases, folder.parent),
            "data": self.dataset.describe(self.options.styles),
            "dataset": self.dataset.fingerprint,
            **({"before": dict(self.before), "after": dict(after)} if after else {}),
        }
        places = {folder: self.source, **places_of(self.options, folder.parent)}
        return {
            place: write(source, place, weights, told, self.dataset.attribution) for place, source in places.items()
        }


def fine_tune(o: Options, out: Path, progress: Progress | None = None, measure: Measure | None = None) -> FineTuning:
    """Read the teacher and the data, and lay out the run. Raises ValueError with the fix for anything that is missing."""
    check_device(o.device)
    decoding.check(o.decoding, o.batch_size)
    places = places_of(o, out)
    source = bundle.found(o.teacher)
    model = pretrained.load(bundle.locate(o.teacher))
    card = bundle.card_of(source, model)
    if not isinstance(codec := model.codec, VaeCodec):
        raise ValueError(f"{card.name} works on the media themselves and has no decoder: give a teacher with a VAE")
    if card.role == "student":
        teacher = card.teacher or "not known"
        raise ValueError(f"{card.name} is a student: give its teacher ({teacher}), and the student with --also")
    for place, other in places.items():
        bundle.check_place(place, empty_handed=True)
        check_same_latents(source, other)
    student = student_of(o, source)
    feature_options = assembly.decided(o.decoding, card.native_size)
    network = assembly.load_network(feature_options, model.denoiser)
    if getattr(network, "space", "media") == "latents":
        raise ValueError(
            f"a decoder is judged by its pictures, and --features {feature_options.features} sees latents: give another"
        )
    assembly.check_numbers(card.name, {"VAE": codec, "text encoder": model.conditioner})
    dataset = open_dataset(o.data, o.styles).verify(progress or no_progress)
    assembly.check_size(dataset, card, model.multiple)
    model = model.to(o.device)
    freeze(codec)
    before = measure(codec, dataset) if measure else {}

    def phase() -> tuple[Trainer, Callable[[int], Batch]]:
        data = training_samples(
            dataset, codec, model.conditioner, cache_dir(), o.batch_size, o.seed, True, progress=progress
        ).near(o.device)
        setting = assembly.Setting(o.batch_size, o.seed, o.device, o.precision, progress)
        played = student or Student(model.denoiser)  # not asked for by the method where there is none
        parts = assembly.Parts(played, Teacher(model.denoiser), model, data, _no_pairs, setting, network)
        method = build(feature_options, parts, codec, student)
        training = Training(o.steps, o.batch_size, o.seed, o.precision, o.device)
        return Trainer(method, training), parts.data if o.decoding.used else data

    found = {"--data": dataset.fingerprint[:12], "--features-folder": getattr(network, "fingerprint", "")}
    made_with = resume_key(o, found)
    same: dict[str, Any] = {"changeable": marked(o, CHANGEABLE), "contents": marked(o, StandsFor)}
    phases = [Phase(PHASES[0], o.steps, phase, o.seconds, made_with=made_with, counted="--steps", **same)]
    return FineTuning(o, source, card, dataset, codec, phases, before, measure)


def build(o: decoding.Options, parts: assembly.Parts, codec: VaeCodec, student: Student | None) -> Decoding:
    """The method, of a run's parts."""
    features = parts.features(o) if o.used else None
    adversary = None
    if o.adversarial_weight and features is not None:
        adversary = Adversary(IdentityCodec(), features, parts.heads(features, o.heads), o)
    decoder = decoder_of(codec.vae).requires_grad_(True)
    return Decoding(codec.decode, decoder, o, features if o.perceptual else None, adversary, student)


def student_of(o: Options, source: Path) -> Student | None:
    """The frozen student whose latents are decoded beside the drawings', if one is named; ValueError for one of other latents."""
    if not o.student:
        return None
    folder = bundle.locate(o.student)
    check_same_latents(source, bundle.found(o.student))
    model = pretrained.load(folder).to(o.device)
    card = bundle.card_of(folder, model)
    if card.role != "student":
        raise ValueError(
            f"--student {o.student} is a teacher, which draws nothing in one step: give one of its students"
        )
    freeze(model.denoiser)
    return Student(model.denoiser, card.times, sampler_kind=card.sampler)


def _no_pairs(batch_size: int) -> Any:
    raise ValueError("a decoder is trained without the teacher's trajectories")


def places_of(o: Options, out: Path) -> dict[Path, Path]:
    """Where every further bundle goes, and where it comes from. Raises ValueError where two would go to one place."""
    found: dict[Path, Path] = {}
    for name in o.also:
        place = out / f"bundle-{bundle.name_of(Path(name))}"
        if place in found:
            raise ValueError(
                f"--also names two bundles called {bundle.name_of(Path(name))}: give one of them at a time"
            )
        found[place] = bundle.found(name)
    return found


def check_same_latents(source: Path, other: Path) -> None:
    """Refuse a bundle whose latents mean something else than those of ``source``, or whose decoder has another shape.

    Raises ValueError that names the first weight that differs.
    """
    own, theirs = (stored(folder / "vae") for folder in (source, other))
    name, of = bundle.name_of(other), bundle.name_of(source)
    if not theirs:
        raise ValueError(f"{name} has no VAE, so no decoder of {of} fits it: give a student of this teacher")
    for key in sorted({*own, *theirs}, key=lambda key: (key.startswith(DECODING), key)):
        decodes = key.startswith(DECODING)
        if key not in own or key not in theirs or not alike(own[key], theirs[key], in_shape=decodes):
            what = "a decoder of another shape" if decodes else "other latents"
            raise ValueError(f"{name} has {what} than {of} (first at vae/{key}): give a student of this teacher")
    configs = [pretrained.read_config(folder / "vae" / "config.json") for folder in (source, other)]
    for key in ("scaling_factor", "shift_factor", "latents_mean", "latents_std"):
        if configs[0].get(key) != configs[1].get(key):
            raise ValueError(
                f"{name} has other latents than {of} ({key} in vae/config.json): give a student of this teacher"
            )


def alike(a: Tensor, b: Tensor, in_shape: bool = False) -> bool:
    """Are two stored weights the same, in the coarser of their numbers? Or, ``in_shape``, of one shape at least?"""
    if in_shape or a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and (in_shape or torch.equal(a, b))
    coarse = min((a.dtype, b.dtype), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.equal(a.to(coarse), b.to(coarse))


def stored(part: Path) -> dict[str, Tensor]:
    """All weights of a part of a bundle, such as its ``vae`` folder, as they are stored; none where it has no such part."""
    return {key: value for path in pretrained.weight_files(part)[1] for key, value in read(path).items()}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def write(
    source: Path, place: Path, weights: Mapping[str, Tensor], told: Mapping[str, Any], notices: str
) -> bundle.Card:
    """Copy a bundle; of its VAE's files the decoder's weights are others, in the numbers that they are stored in.

    Its card says so under ``decoder`` and forgets what was measured with the old one. Raises ValueError for a weight that is
    no number in them.
    """
    bundle.check_place(place)
    card = bundle.card_of(source)
    with files.replaced(place, bundle.USUAL) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True)
        for path in pretrained.weight_files(draft / "vae")[1]:
            old = read(path)
            new = {name: weights[name].to(value.dtype) if name in weights else value for name, value in old.items()}
            if first := unfinite(new):
                raise ValueError(
                    f"the new decoder is no number in {new[first].dtype} (first in {first}): train it anew"
                )
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            save_file({name: value.contiguous() for name, value in new.items()}, path, metadata=metadata)
        page = draft / ATTRIBUTION
        own = bundle.notices_of(source)
        if both := "\n".join(dict.fromkeys(text for text in (own, notices) if text)):
            page.write_text(both, "utf-8")
        hashes = {name: bundle.file_hash(draft / name) for name in card.hashes}
        training = {**card.training, "decoder": dict(told)}
        card = replace(card, name=bundle.name_of(place), hashes=hashes, training=training, metrics=[])
        card.write(draft)
    return card
