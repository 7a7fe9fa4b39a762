"""The command line. Help is made from the option dataclasses; every user error is one sentence and a non-zero exit."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, make_dataclass, replace
from functools import partial, wraps
from inspect import signature
from json import dumps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Union, get_type_hints

import tyro

from . import extras, failures
from .console import (
    PIPE_CLOSED,
    TrainingDisplay,
    console,
    encodable,
    note,
    progress_bars,
    say,
    say_tables,
)
from .files import content, whole
from .memory import keep_freed_memory
from .options import as_typed
from .options import words as words_of
from .ranges import USUAL, NewPath, Place, Placement, Range, Seed, Weight, checked, path_options
from .sizes import OwnSize, pair, shape_of, spoken
from .text import counted, heard, plain
from .training.health import Options as HealthOptions
from .training.health import Unhealthy
from .training.log import STOPS, Stopped, ignored, leave_terminal
from .version import __version__

if TYPE_CHECKING:  # it needs torch
    from torch import Tensor

    from .bundle import Card
    from .data.dataset import Progress
    from .provenance import Ingredient
    from .tensors import Media

FLAT = tyro.conf.arg(name="")
"""For an option dataclass whose own fields stand without a prefix; nested ones keep theirs (``--warm.steps``)."""


def flat(options: type) -> Any:
    """An option dataclass that is read later, so that ``--help`` need not wait for it."""
    return Annotated[options, FLAT]


Stored = Literal["auto", "fp32", "bf16", "fp16"]
"""Numbers that weights are stored in."""


@dataclass(frozen=True)
class Running:
    """How a training goes about it."""

    out: NewPath
    """Folder of the run; the finished bundle goes into its ``bundle`` folder, which every diffusers tool loads."""
    resume: bool = False
    """Continue from the state in ``out``, with the options it was started with; steps, seconds and the device may differ."""
    clock: Literal["wall", "processor"] = "wall"
    """What --seconds counts: time on the wall, or the processor's, which other programs on the machine do not shorten."""
    minutes: Weight = 0.0
    """Stop cleanly after about this many minutes of this call, state saved; 0 runs to the end."""
    save_every: Weight = 60.0
    """Seconds between saved states."""
    log: tuple[str, ...] = ()
    """Where steps and evaluations are logged beside the journal: tensorboard, wandb, trackio, or a dotted path to your own."""
    thin: bool = False
    """Leave the text encoder out of the bundle; it is added from its package when the bundle is opened."""
    save_dtype: Stored = "auto"
    """Numbers that the bundle's weights are stored in; auto is the teacher's own for a student, fp32 for a teacher."""
    health: HealthOptions = field(default_factory=HealthOptions)
    """When a rule speaks that watches over the run."""

    def needs(self) -> tuple[str, ...]:
        """The modules that logging takes."""
        from .training import sinks

        return sinks.needs(self.log)

    @property
    def stored(self) -> Any:
        """``save_dtype`` as torch's own; None for auto."""
        return dtype_of(self.save_dtype)


def dtype_of(name: Stored) -> Any:
    """The numbers of that name as torch's own; None for auto."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(name)


def data() -> None:
    """Build a dataset: emoji, digits, clothes, or your own folder of pictures."""


def data_commands(wanted: str = "") -> dict[str, Callable[..., None]]:
    """``fewstep data NAME`` for every file of the data family, and for one of somebody's own if its dotted path is given."""
    from .data.dataset import FAMILY

    def command(name: str, module: Any) -> Callable[..., None]:
        def build(options: Any, out: Annotated[Path | None, Place()] = None) -> None:
            from .data.dataset import cache_dir

            folder = out or cache_dir() / "data" / name.rpartition(".")[2]
            if getattr(options, "teacher", None):  # by its name, as everywhere
                from .bundle import locate

                options = replace(options, teacher=locate(str(options.teacher)))
            with progress_bars() as report:
                dataset = module.build(options, folder, report)
            say(
                f"{counted(len(dataset), 'picture')} of {counted(len(dataset.concepts), 'concept')} in {folder}", folder
            )
            if hasattr(module, "told"):
                say(module.told(folder))

        build.__annotations__["options"] = flat(module.Options)
        build.__name__ = f"data {name}"
        first = (module.__doc__ or f"Build {name}.").strip().splitlines()[0]
        build.__doc__ = f"{first}\n\nArgs:\n    out: Folder to write to; default: the cache, where training finds it."
        return build

    own = {wanted: FAMILY.load(wanted)} if "." in wanted.strip(".") else {}
    return {name: command(name, module) for name, module in {**FAMILY.members, **own}.items()}


def _train(title: str, prepare: Callable[[Progress], Any], how: Running, phases: Sequence[str]) -> tuple[Any, int]:
    """Lay a run out and train it under the live display; returns it, and the last phase's step whose weights it ends with."""
    from . import bundle
    from .training.recipe import run_phases
    from .training.run import Saving, check_free, check_own, check_writable

    if not how.resume:
        check_free(how.out)
    check_own(how.out, phases)
    bundle.check_place(how.out / "bundle", empty_handed=True)
    check_writable(how.out)
    keep_freed_memory()
    until = time.monotonic() + 60 * how.minutes if how.minutes else math.inf
    taken = 0  # and stays so where a finished run is resumed

    def watch(phase: Any, trainer: Any, log: Any) -> None:
        nonlocal taken
        taken = log.step
        display.watch(phase, trainer, log)

    with TrainingDisplay(title) as display:
        run = prepare(display.report)
        started = time.monotonic()
        timer = time.process_time if how.clock == "processor" else None
        saving = Saving(how.out, how.save_every, how.resume, until, timer=timer, command=typed(), log=how.log)
        kept = run_phases(run.phases, saving, watch, how.health)
    if taken:
        say(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")
    else:
        say(nothing_left(run.phases, how.out))
    ends_with = kept[run.phases[-1].name]
    if taken and ends_with != taken:
        say(f"the best was seen after step {ends_with}: its weights are kept (--keep last for the last)")
    return run, ends_with


def typed() -> str:
    """This call as it stands in the shell, to be kept with what it makes."""
    return shlex.join(["fewstep", *sys.argv[1:]])


def show_page(out: Path) -> None:
    """Bring the page of a finished run up to date, and say where it is."""
    from .training.page import NAME, RunPage

    RunPage(out).write()
    say(f"what happened: {out / NAME} (open it in a browser)", out / NAME)


def nothing_left(phases: Sequence[Any], out: Path) -> str:
    """Why a resume took no step: what every phase has taken already, of what was asked for."""
    from .training import checkpoint
    from .training.run import Saving

    done = [(phase, checkpoint.step_of(Saving(out / phase.name).checkpoint)) for phase in phases]
    told = ", ".join(f"{phase.name} has taken {step:,} of {phase.steps:,} steps already" for phase, step in done)
    more = " or more time (--seconds)" if any(phase.seconds for phase in phases) else ""
    return f"there was nothing to train: {told}; more of them{more} go on, and the bundle is written again"


def teach(
    options: Any,
    running: Annotated[Running, FLAT] = Running(Path("runs/teacher")),
) -> None:
    """Train a text-to-image teacher from scratch, as emoji-64's was: VAE, then UNet; or with --decoder-only a finished one's
    decoder alone."""
    if options.decoder_only:
        return teach_decoder(options, running)
    from .recipes import emoji

    run, steps = _train(f"teach {Path(options.data).name}", partial(emoji.teach, options), running, emoji.PHASES)
    run.save(running.out / "bundle", steps, running.thin, running.stored)
    made = running.out / "bundle"
    show_page(running.out)
    say(f"the teacher is in {made}", made)


def teach_decoder(options: Any, running: Running) -> None:
    """Fine-tune the decoder of a finished teacher, and write it into the teacher and into students of it."""
    from .evaluation import reconstruction
    from .recipes import decoder

    if running.thin or running.save_dtype != "auto":
        raise ValueError(
            "all but the decoder stays as it is, the text encoder and the stored numbers too: leave out --thin and --save-dtype"
        )
    prepare = partial(decoder.fine_tune, options, running.out, measure=reconstruction.of_heldout)
    run, steps = _train(f"teach the decoder of {options.teacher}", prepare, running, decoder.PHASES)
    cards = run.save(running.out / "bundle", steps)
    made = cards[running.out / "bundle"].training["decoder"]
    for line in reconstruction.told(made.get("before"), made.get("after")):
        say(line)
    for place in cards:
        say(f"the new decoder is in {place}", place)


def distill(
    options: Any,
    running: Annotated[Running, FLAT] = Running(Path("runs/student")),
) -> None:
    """Distil a teacher into a student that draws in one to four steps: by ADD (arXiv 2311.17042), or by another --method."""
    from . import bundle as models
    from .evaluation import suite
    from .recipes import distillation

    if running.thin:
        models.check_thin(models.locate(options.teacher))
    measure = suite.while_training(getattr(options.own, "features", "")) if options.keep == "best" else None
    prepare = partial(distillation.prepare, options, running.out, measure=measure)
    run, steps = _train(f"distil {options.teacher}", prepare, running, distillation.folders(options))
    bundle = running.out / "bundle"
    run.save(bundle, steps, running.thin, running.stored)
    for other in run.save_further(running.thin, running.stored):
        say(f"the student of another average is in {other}", other)
    show_page(running.out)
    said = shlex.join(["fewstep", "draw", run.dataset.items[0].prompts[0], "--model", str(bundle)])
    say(f"the student is in {bundle}: try `{said}`", bundle)


STRENGTH = 0.5
"""How far ``draw --image`` may change the picture, if nothing is said."""
AT_ONCE = 16
"""Pictures that ``draw`` makes in one call; which others there are changes none of them."""


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and into which file."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What to draw."""
    model: str = "emoji-64"
    """A shipped bundle's name, a bundle's folder, or any diffusers text-to-image folder."""
    steps: int | None = None
    """Steps; default 1 for a student, the card's most for a teacher."""
    seed: Seed = 0
    """Seed of the first picture; the others count up."""
    n: Annotated[int, Range(1, 1000)] = 1
    """How many pictures; more than one are numbered."""
    guidance_scale: float | None = None
    """Guidance for a teacher; default from its card. Students need none."""
    sampler: str | None = None
    """ancestral, renoise or ddim; for a teacher heun too (two evaluations a step). Default from the card."""
    image: Path | None = None
    """Start from this picture instead of from noise."""
    size: OwnSize = None
    """Size of the picture in pixels, width first: 768x512, or one number for a square. Default: the model's own, at which it
    draws best."""
    strength: Annotated[float, Range(0, 1, above=True)] = STRENGTH
    """How far the picture may be changed, in (0, 1]."""
    fit: Literal["crop", "pad"] = "crop"
    """An image of another shape than what is drawn: ``crop`` takes its middle, ``pad`` puts borders around it."""
    output: Annotated[NewPath, tyro.conf.arg(aliases=["-o"])] = Path("out/drawing.png")
    """PNG, JPEG or WebP file."""
    scale: Annotated[int, Range(1, 64)] = 1
    """Enlarge this many times, without smoothing."""

    def check(self) -> None:
        """Refuse what cannot be written, and choices about a picture that is not given. Raises ValueError with the fix."""
        from .modality.image import WRITTEN

        if self.output.suffix.lower().lstrip(".") not in WRITTEN:
            raise ValueError(f"cannot write {self.output.name}: give a name that ends in .png, .jpg or .webp")
        if self.image is None and (self.fit, self.strength) != ("crop", STRENGTH):
            raise ValueError("--fit and --strength say what becomes of a picture that is given: give one with --image")

    def start(self, size: Sequence[int]) -> Media | None:
        """The picture that drawing starts from, of this size ``(H, W)``; None where it starts from noise."""
        from .modality import image as pictures

        if self.image is None:
            return None
        loaded = pictures.load(self.image)
        if self.fit == "crop" and (cut := loaded.beyond(size)):
            note(f"{cut:.0%} of {str(self.image)!r} are cut off to make it {shape_of(size)}: --fit pad keeps all of it")
        return loaded.media(size, self.fit)

    def credentials(self) -> Ingredient | None:
        """The given picture, to be kept in the credentials of what is drawn; None where it has none of its own."""
        from .modality.image import MAX_BYTES
        from .provenance import ingredient_of
        from .provenance.verify import media_type

        if self.image is None:
            return None
        data = content(self.image, MAX_BYTES)
        return ingredient_of(data, media_type(data, self.image.name))

    def path(self, seed: int) -> Path:
        """The file of the picture with this seed."""
        return self.output if self.n == 1 else self.output.with_stem(f"{self.output.stem}-{seed}")

    def enlarged(self, picture: Tensor) -> Tensor:
        """``picture [3, H, W]``, every pixel repeated ``scale`` times in each direction."""
        return picture.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)


def draw(drawing: Annotated[Drawing, FLAT], signing: Any, placement: Annotated[Placement, FLAT] = USUAL) -> None:
    """Draw a prompt. The picture carries an invisible watermark and signed content credentials (C2PA)."""
    from . import bundle
    from . import provenance as marks
    from .inference.pipeline import Pipeline, Request
    from .parts.conditioner import shortened

    prompt = heard(drawing.prompt)
    drawing.check()
    stamping = signing.stamping()
    pipeline = Pipeline.open(bundle.locate(drawing.model), placement.device, placement.dtype)
    card = pipeline.card
    steps = drawing.steps if drawing.steps is not None else (1 if card.role == "student" else max(card.steps))
    card.check_use(steps)
    size = card.native_size if drawing.size is None else pair(drawing.size)
    pipeline.latent_shape(size)
    start, given = drawing.start(size), drawing.credentials() if signing.provenance else None
    times = pipeline.times(steps) if start is None else pipeline.times_from(steps, drawing.strength)
    facts = marks.GenerationFacts(card.name, card.fingerprint, len(times), prompt=prompt,
                                  task="text" if start is None else "image",
                                  strength=None if start is None else times[0])  # fmt: skip
    drawing.output.parent.mkdir(parents=True, exist_ok=True)
    seconds, end = 0.0, drawing.seed + drawing.n
    for first in range(drawing.seed, end, AT_ONCE):
        seeds = list(range(first, min(first + AT_ONCE, end)))
        began = time.perf_counter()
        rows = None if start is None else start[None].expand(len(seeds), -1, -1, -1)
        request = Request([prompt] * len(seeds), seeds, steps, drawing.guidance_scale, drawing.sampler, rows)
        request = replace(request, strength=drawing.strength, cond=pipeline.encode(request.prompts), size=size)
        media = pipeline(request).float().cpu()  # and only then is a GPU done
        seconds += time.perf_counter() - began
        for seed, picture in zip(seeds, media):
            files = marks.write(
                drawing.path(seed), drawing.enlarged(picture), replace(facts, seed=seed), stamping, given
            )
            how = f"{card.name}, {len(times)} step{'s' * (len(times) > 1)}, seed {seed}"
            say(f"{' and '.join(map(str, files))}  {shortened(prompt, 80)!r}  {how}", *files)
    say(f"{seconds * 1000 / drawing.n:.0f} ms a picture, text encoding included")
    if (left := pipeline.unread(prompt)) is not None:
        note(left.sentence)
    if not signing.provenance:
        note("no watermark and no content credentials, as you asked")


def verify(trusting: Any, files: Annotated[tuple[Path, ...], tyro.conf.Positional], json: bool = False) -> None:
    """Were these pictures or recordings generated, and by what? Reads content credentials and the watermark.

    Exit codes: 0 a model made every one of them, by intact credentials or the watermark; 1 for some of them nothing says so;
    2 a wrong call, or some could not be read.

    Args:
        files: Pictures, recordings (WebM or MP4; need the video extra), and folders of them.
        json: Print one JSON object a file and line, for programs; docs/provenance.md describes it.
    """
    from .provenance.verify import files_in
    from .provenance.verify import verify as verified

    meant, options = files_in(files), trusting.verifying()
    made, unread = 0, 0
    for path in meant:
        try:
            verdict = verified(path, options)
        except ValueError as error:
            if len(meant) == 1 and not json:
                raise
            unread += 1
            told, lines = {"ai_generated": None, "error": plain(error)}, [f"Could not be read: {error}."]
        else:
            made += verdict.ai_generated
            unread += not verdict.looked_at
            told, lines = {**verdict.table(), "error": None}, list(verdict.sentences)
        if json:
            print(dumps({"file": str(path), **told}), flush=True)
        elif len(meant) == 1:
            for sentence in lines:
                say(sentence)
        else:
            say(plain(path), plain(path))
            for sentence in lines:
                say(f"  {plain(sentence)}")
    if len(meant) > 1 and not json:
        silent = len(meant) - made - unread
        say(
            f"{len(meant)} files: {made} made by a model, {silent} that nothing says so of, {unread} that could not be read"
        )
    if unread or made < len(meant):
        console.file.flush()
        sys.exit(2 if unread else 1)


def serve(options: Any) -> None:
    """Start the studio: pictures that redraw while you draw, film or type, inside a latency budget."""
    from .server.app import serve as start

    start(options)


def arena(options: Any, placement: Annotated[Placement, FLAT] = USUAL) -> None:
    """Let people decide: a page shows pairs of pictures blind, keeps every vote, and says which model they prefer.

    Pictures are drawn beforehand, by all models from the same noises. --results reads the votes.
    """
    from .arena import command, report

    command.check(options)
    if options.results is not None:
        say_tables(report.report(options.results, options.everyone))
        return
    with progress_bars() as progress:
        plan = command.prepare(options, placement, typed(), progress)
    command.serve(options, plan, say)


def contest(options: Any) -> None:
    """Compare methods: train every one on one teacher with the same seeds, noises and budget, and judge them in pairs.

    Every training is a process of its own. Stop at will, and give the same command again to go on.
    """
    from .contest import command

    with progress_bars() as progress:
        command.run(options, typed(), progress, say)
    out = options.out
    say(f"the tables are in {out / 'contest.md'}, and as a page in {out / 'contest.html'}", out)


def judge(options: Any, placement: Annotated[Placement, FLAT] = USUAL) -> None:
    """Have pictures judged by a network in a process and an environment of its own; without a name, the judges there are.

    --setup makes a judge's environment and tests it. Records go where `fewstep evaluate` writes its own, for `compare`.
    """
    from .evaluation.record import merge, read_records, table, write_records
    from .judges import command
    from .training.data import open_dataset

    command.check(options)
    if not options.name:
        return say_tables(command.overview())
    if options.setup:
        return command.setup(options, say)
    with progress_bars() as progress:
        found = command.judge(options, placement, open_dataset, typed(), progress)
    before = read_records(options.output) if options.output.exists() else []
    write_records(options.output, merge(before, found.records))
    for records in found.alike:
        say_tables(table(records))
    for sentence in found.warnings:
        note(sentence)
    say(f"records: {options.output}", options.output)
    return None


def budget(options: Any) -> None:
    """Show what fits into a latency target on this machine, and where the time goes; exit code 2 if nothing fits."""
    from .console import show_forecast
    from .server.drawing.forecast import forecast

    with console.status("measuring") as status:
        found = forecast(options, lambda what: status.update(what))
    show_forecast(found)
    if found.refusal:
        raise ValueError(found.refusal)


def docs(
    pages: tuple[Path, ...] = (
        Path("README.md"),
        Path("docs/results.md"),
        Path("docs/log.md"),
        Path("docs/provenance.md"),
        Path("docs/evaluation.md"),
        Path("docs/variety.md"),
        Path("docs/winner.md"),
        Path("docs/check.md"),
    ),
    results: Path = Path("docs/results"),
    models: Path | None = None,
) -> None:
    """Rewrite the tables and figures of the README, of pages in docs, and the shipped cards' metrics.

    All of it comes from the result files.

    Args:
        pages: The files whose marked places are filled.
        results: Folder of the result files.
        models: Folder of bundles, whose cards get what ``emoji64.json`` holds about them.
    """
    from .evaluation.pages import fill_cards, filled

    found = {path.stem: path for path in sorted(results.glob("*.json"))}
    if not found:
        raise ValueError(f"{results} holds no results: run this in the project's folder, or give --results")
    for page in pages:
        page.write_text(filled(page.read_text("utf-8"), found), "utf-8")
    if models is not None:
        fill_cards(models, results / "emoji64.json")


def info(model: Annotated[str, tyro.conf.Positional] = "") -> None:
    """What a bundle is, or what is shipped and installed.

    Args:
        model: A shipped bundle's name, a bundle's folder or any diffusers text-to-image folder; without it, an overview.
    """
    import platform

    import torch
    from rich.table import Column, Table
    from rich.text import Text

    from . import bundle, pretrained
    from .evaluation.pages import TABLE
    from .evaluation.record import of_entry, sentences

    if not model:
        say(f"fewstep {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
        table = Table(*(Column(name, no_wrap=True) for name in ("bundle", "role", "method", "teacher")),
                      "steps", "licence", box=None)  # fmt: skip
        for name, folder in bundle.shipped().items():
            c = bundle.Card.read(folder)
            table.add_row(name, c.role, c.method, c.teacher, ", ".join(map(str, c.steps)), c.licence.partition(";")[0])
        console.print(table)
        return
    folder = bundle.locate(model)
    c = bundle.card_of(folder)
    compared = "no card to compare them with"
    if bundle.card_file(folder):
        bundle.verify(folder)
        compared = "every hash as the card has it"
    table = Table(box=None, show_header=False)
    told = (
        "name",
        "role",
        "method",
        "steps",
        "times",
        "guidance_scale",
        "sampler",
        "native_size",
        "teacher",
        "licence",
    )
    rows = {key.replace("_", " "): getattr(c, key) for key in (*told, "data", "version")}
    rows |= {"steps": ", ".join(map(str, c.steps)), "times": ", ".join(f"{t:g}" for t in c.times)}
    rows |= {"native size": native(c.native_size)}
    rows |= {"trained at": f"{', '.join(map(spoken, c.sizes))} (width x height)"} if c.sizes else {}
    rows |= {f"in {n}": said for n, said in sentences([of_entry(r) for r in c.metrics], TABLE).items()}
    rows |= {"recognised as": c.recognised} if c.recognised else {}
    rows |= {"told guidance": f"{c.embedded_guidance:g}"} if c.embedded_guidance else {}
    if against := pretrained.research_only(folder, c.licence):
        rows["commercial use"] = f"not allowed ({against})"
    rows |= bundle.passed_on(folder)
    rows |= made(c) | {"folder": folder, "weights": f"{len(c.hashes)} files, {compared}"}
    for key, value in rows.items():
        table.add_row(key, Text(str(value)))
    console.print(table)


def adopt(
    model: Annotated[Path, tyro.conf.Positional],
    as_: Annotated[str, tyro.conf.arg(name="as")] = "",
    steps: tuple[int, ...] = (),
    sampler: Literal["", "ancestral", "renoise", "ddim"] = "",
    guidance_scale: float | None = None,
    licence: str = "",
    lora: Path | None = None,
    lora_weight: float = 1.0,
    out: NewPath | None = None,
) -> None:
    """Write a card for a few-step model of somebody else's: SDXL-Turbo, LCM, Lightning ... It is kept beside the folder.

    Models that are recognised need no card to be drawn and served; this writes down what was recognised, or something else.

    Args:
        model: A diffusers folder.
        as_: What model it is, such as sdxl-turbo; teacher for one of many steps. Without it the folder says so itself.
        steps: Step counts that it was made for.
        sampler: How it is drawn; without it as its model's makers say.
        guidance_scale: The guidance that its network is told, of a latent consistency model.
        licence: Licence of its weights, where its folder says none; of the LoRA, where there is one.
        lora: A few-step LoRA (LCM-LoRA, Lightning, Hyper-SD) that is merged into the folder's UNet; the result goes to --out.
        lora_weight: How many times the LoRA is added.
        out: Folder of the new bundle that --lora makes.
    """
    from . import bundle
    from .adoption import adopt as take
    from .adoption import merge

    if (lora is None) != (out is None):
        raise ValueError("--lora makes a new bundle, and --out says where: give both or neither")
    if lora is not None and out is not None:
        if sampler or guidance_scale is not None:
            raise ValueError("a LoRA is drawn as --as says: leave out --sampler and --guidance-scale")
        card = merge(bundle.locate(model), lora, out, as_, steps, lora_weight, licence)
        say(f"{card.name}: {card.recognised}; {', '.join(map(str, card.steps))} steps of {card.sampler}")
        say(f"licence: {card.licence}")
        say(f"bundle: {out}", out)
        return
    card, path = take(bundle.locate(model), as_, steps, sampler, guidance_scale, licence)
    say(f"{card.name}: {card.recognised or 'a teacher'}; {', '.join(map(str, card.steps))} steps of {card.sampler}")
    say(f"licence: {card.licence or 'its folder says none'}")
    say(f"card: {path}", path)


def merge(
    models: Annotated[tuple[str, ...], tyro.conf.Positional],
    out: NewPath,
    save_dtype: Stored = "auto",
) -> None:
    """Average students of one teacher into one (a model soup, arXiv 2203.05482): it often has the better of each.

    Args:
        models: Students, as MODEL or MODEL=WEIGHT; the weights are made to add up to 1. Without weights all count alike.
        out: Folder of the new bundle.
        save_dtype: Numbers that its weights are stored in; auto is what the first model's are.
    """
    from .recipes.merging import merge as average

    card = average(models, out, dtype_of(save_dtype))
    parts = ", ".join(f"{part['weight']:.0%} {part['name']}" for part in card.training["merged"])
    say(f"{card.name}: {parts}; {', '.join(map(str, card.steps))} steps of {card.sampler}")
    say(f"bundle: {out}", out)


def export(
    model: Annotated[str, tyro.conf.Positional],
    output: Annotated[NewPath, tyro.conf.arg(aliases=["-o"])],
    config: Path | None = None,
) -> None:
    """Write a model as one .safetensors file, in the layout that ComfyUI, A1111 and Forge read: Stable Diffusion and SDXL.

    With --config the other way round: such a file becomes a diffusers folder.

    Args:
        model: A bundle's folder, or any diffusers folder of Stable Diffusion 1, 2 or SDXL; with --config a .safetensors file.
        output: The .safetensors file; with --config the folder.
        config: A diffusers folder of the file's kind of model. Its configs and tokenizers are taken, its weights are not read.
    """
    from . import bundle, pretrained

    if config is not None:
        pretrained.unpack(Path(model), bundle.locate(config), output)
        say(f"the model is in {output}", output)
        return
    card = bundle.export(bundle.locate(model), output)
    counts = ", ".join(map(str, card.steps))
    say(f"{card.name} is in {output}", output)
    if card.role == "student":
        say(
            f"draw it with {counts} steps, CFG 1, sampler Euler a (euler_ancestral), schedule SGM Uniform (sgm_uniform)"
        )


def native(size: Sequence[int]) -> str:
    """A model's own size in words, and which number is the width."""
    told = spoken(size).replace("x", "×")
    return told if len(size) != 2 or len(set(size)) == 1 else f"{told} (width × height)"


def made(card: Card) -> dict[str, str]:
    """How a bundle came to be, as far as its card tells: the command, what came before it and how it ended."""
    told: dict[str, str] = dict(card.training)
    if options := card.training.get("options"):
        command = "distill" if card.role == "student" else "teach"
        told["made with"] = shlex.join(["fewstep", command, *words_of(options, usual(command, options))])
    if parts := card.training.get("merged"):
        told["merged of"] = "; ".join(f"{part['weight']:.0%} {part['name']} ({part['method']})" for part in parts)
    if decoder := card.training.get("decoder"):
        usually = as_typed(options_of(*OPTIONS["teach"][1:], "decoder")())
        told["its decoder"] = shlex.join(["fewstep", "teach", *words_of(decoder["options"], usually)])
    if changes := card.training.get("changes"):
        told["changed"] = "; ".join(
            f"after step {change['after']} of {change['phase']}: {name} {values[1]} (before: {values[0]})"
            for change in changes
            for name, values in change.items()
            if name.startswith("--")
        )
    kept = ("merged of", "before", "made with", "changed", "ended", "then", "its decoder", "machine")
    return {key: str(told[key]) for key in kept if key in told}


def usual(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options are by default, of the method that a card names; where that is not to be had, its own
    have no defaults."""
    if command != "distill":
        return as_typed(options_of(*OPTIONS[command][1:])())
    from .recipes import distillation

    method = given.get("method", distillation.USUAL)
    try:
        found = as_typed(distillation.options_type(method)())
    except ValueError:
        own = distillation.short(method)
        found = {**as_typed(distillation.Options()), own: dict.fromkeys(given.get(own, {}))}
    return {**found, "method": distillation.USUAL}


def evaluate(
    options: Any,
    model: Annotated[str, tyro.conf.Positional] = "emoji-64",
    steps: tuple[int, ...] = (1,),
    data: str = "emoji",
    name: str = "",
    output: Annotated[NewPath, tyro.conf.arg(aliases=["-o"])] = Path("out/metrics.json"),
    resume: bool = False,
    placement: Annotated[Placement, FLAT] = USUAL,
) -> None:
    """Measure a bundle: Fréchet distance, KID, precision/recall, retrieval, diversity, sharpness, latency.

    Args:
        model: A shipped bundle's name, a bundle's folder, or any diffusers text-to-image folder.
        steps: Step counts to measure, one after the other.
        data: Dataset folder or name; its train split is the reference, in the styles the model was trained on.
        name: What the records call the model; default its method.
        output: JSON file of metric records; records of other models in it are kept. They go into the card of a bundle's
            folder, too.
        resume: Leave out step counts that the same command has measured already: their records are in the output.
    """
    from . import bundle
    from .evaluation.record import (
        beside_last,
        check_output,
        into_card,
        merge,
        of_card,
        read_records,
        table,
        write_records,
    )
    from .evaluation.suite import Evaluator, check_judge, of_size
    from .inference.pipeline import Pipeline
    from .training.data import open_dataset

    pipeline = Pipeline.open(bundle.locate(model), placement.device, placement.dtype)
    styles = pipeline.card.styles
    for n in steps:
        pipeline.card.check_use(n)
    check_judge(options, pipeline.card)
    if not steps:
        raise ValueError("there is nothing to measure: give one of --steps or more")
    check_output(output)
    records = read_records(output) if output.exists() else []
    given = [
        *(["--data", data] if data != "emoji" else []),
        *(["--name", name] if name else []),
        *words_of(as_typed(options), as_typed(type(options)())),
        *words_of(as_typed(placement), as_typed(USUAL)),
    ]
    commands = {n: shlex.join(["fewstep", "evaluate", model, "--steps", str(n), *given]) for n in steps}
    known = {r.command for r in records if r.left_out} if resume else set()  # an older version's cannot be paired
    left = {n: command for n, command in commands.items() if command not in known}
    if left:
        with progress_bars() as report:
            evaluator = Evaluator(of_size(open_dataset(data, styles), pipeline.card.native_size), options, report)
            real = evaluator.floor(records, report)
    for n, command in left.items():
        with progress_bars() as report:
            measured = evaluator.measure(pipeline, n, name, command, report)
        before = read_records(output) if output.exists() else []  # others may have added theirs
        records = merge(before, [*real, *measured])
        write_records(output, records)
        if (Path(model) / bundle.CARD).is_file():
            into_card(Path(model), merge(of_card(Path(model)), measured))
    together = beside_last(records)
    say_tables(table(together))
    if len(together) < len(records):
        say(f"{output} also holds figures that were measured otherwise: they are not shown", output)
    say(f"records: {output}", output)


def report(run: Annotated[Path, tyro.conf.Positional]) -> None:
    """Write the page of a run anew: its index.html, which opens offline. Trainings keep it up to date by themselves.

    Args:
        run: The --out of a `fewstep distill` or `fewstep teach`, of any age.
    """
    from .bundle import CARD, Card
    from .training import page

    command, card = "", run / "bundle" / CARD
    if card.is_file():
        with suppress(ValueError):
            command = made(Card.read(card.parent)).get("made with", "")
    for sentence in page.write(run, command):
        note(sentence)
    say(f"the page is {run / page.NAME}: open it in a browser", run / page.NAME)


def compare(
    a: Annotated[str, tyro.conf.Positional],
    b: Annotated[str, tyro.conf.Positional],
    margin: Annotated[float, Range(0, 1)] = 0.05,
) -> None:
    """Set two measured models side by side, prompt by prompt: better, worse, or no difference seen, and how large it may be.

    Both have to be measured on the same prompts, by the same judge: `fewstep evaluate` keeps what is needed in its output.

    Args:
        a: A row of a results file, FILE:MODEL,STEPS (out/metrics.json:add,1); FILE alone where the file has one row.
        b: The row it is held against; MODEL,STEPS alone is one of the same file.
        margin: The share of B's figure by which A may be worse and still count as not worse. State it before you measure.
    """
    from .evaluation import compare as paired

    file, ours = paired.row(a)
    _, theirs = paired.row(b, file)
    say_tables(paired.table(paired.compare(ours, theirs, margin)))


def check(
    options: Any,
    model: Annotated[str, tyro.conf.Positional] = "emoji-64",
    prompts: Path | None = None,
    expect: Literal["", "few-step", "not few-step", "small", "undertrained", "broken"] = "",
    output: Annotated[NewPath | None, tyro.conf.arg(aliases=["-o"])] = None,
    page: NewPath | None = None,
    json: bool = False,
    placement: Annotated[Placement, FLAT] = USUAL,
) -> None:
    """What is really running underneath: a few-step model, a small one that is fast for that, or one that its settings break?

    The model is drawn from the same noises in several step counts, by its card's settings and by the usual wrong ones. Exit code
    0 whatever the verdict is; with --expect 1 where it is another.

    Args:
        model: A shipped bundle's name, a bundle's folder, or any diffusers text-to-image folder.
        prompts: Prompts, one a line, or a TSV with a column Prompt; default eight plain ones, or the model's classes.
        expect: The verdict that there should be, for scripts.
        output: JSON file of everything that was measured.
        page: HTML file that opens offline: the verdict, quality against steps, pictures of one noise over the steps.
        json: Print the same JSON, and nothing else.
    """
    from . import bundle
    from .arena.prompts import read
    from .evaluation import check as looking
    from .evaluation.check_data import chosen
    from .evaluation.record import check_output
    from .inference.pipeline import Pipeline
    from .training.data import open_dataset

    texts = [prompt.text for prompt in read(prompts)] if prompts is not None else []
    written = [path for path in (output, page) if path is not None]
    if len({path.resolve() for path in written}) < len(written):
        raise ValueError(f"--output and --page are one file, {page}: give two, the page is no JSON")
    for path in written:
        check_output(path)
    opened = [Pipeline.open(bundle.locate(name), placement.device, placement.dtype)
              for name in (model, options.teacher) if name]  # fmt: skip
    styles = opened[0].card.styles
    real = chosen(open_dataset(options.data, styles), opened[0], options.n, texts) if options.data else None
    with nullcontext() if json else progress_bars() as report:
        found = looking.check(opened[0], options, texts, opened[1] if len(opened) > 1 else None, report, real)
    facts = dumps(found.table(), indent=1)
    if output is not None:
        with whole(output) as draft:
            draft.write_text(facts + "\n", "utf-8")
    if page is not None:
        from .evaluation.check_page import document

        with whole(page) as draft:
            draft.write_text(document(found, shlex.join(["fewstep", *sys.argv[1:]])), "utf-8")
    if json:
        print(facts, flush=True)
    else:
        say_tables(found.markdown())
        say(found.verdict.paragraph, found.verdict.headline)
        if output is not None:
            say(f"record: {output}", output)
        if page is not None:
            say(f"page: {page}", page)
    if expect and expect != found.verdict.kind:
        end(f"{found.model} is {found.verdict.kind}, and {expect} was expected", 1)


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]) -> None:
    """Print a script that makes a shell complete commands and options; docs/install.md says where it goes.

    Args:
        shell: The shell that will read the script.
    """
    complete(shell)


def complete(shell: str) -> None:
    """Print the completion script of the whole program: every command with all its options, every dataset."""
    every: dict[str, Any] = {}
    for name in commands(""):
        try:
            every[name] = commands(name)[name]
        except ValueError:  # its options need packages that are not installed: its name alone is completed
            every[name] = listed(commands("")[name])
    from .recipes import distillation

    methods = [
        ("method", Literal[distillation.METHODS.names], distillation.USUAL)
    ]  # or a dotted path: help names no choice
    known = make_dataclass("Options", methods, bases=(distillation.options_type(),), frozen=True)
    every["distill"].__annotations__["options"] = flat(known)
    datasets = tuple(Annotated[Any, tyro.conf.subcommand(n, constructor=c)] for n, c in data_commands().items())

    def dataset(name: Any) -> None: ...  # of a union that is known only now

    dataset.__annotations__["name"] = Annotated[Union[datasets], FLAT]  # noqa: UP007
    every["data"] = dataset
    tyro.extras.subcommand_cli_from_dict(every, prog="fewstep", args=["--tyro-print-completion", shell])


def demo(options: Any) -> None:
    """Draw with the shipped student and teacher, then make a student in about three minutes."""
    from . import demo as show

    keep_freed_memory()
    show.run(options)


OPTIONS = {
    "demo": ("options", "demo", "Options"),
    "teach": ("options", "recipes.decoder", "options_type"),
    "distill": ("options", "recipes.distillation", "options_type"),
    "draw": ("signing", "provenance.options", "FileSigning"),
    "evaluate": ("options", "evaluation.suite", "Options"),
    "check": ("options", "evaluation.check", "Options"),
    "verify": ("trusting", "provenance.options", "Trusting"),
    "serve": ("options", "server.app", "ServeOptions"),
    "arena": ("options", "arena.command", "Options"),
    "contest": ("options", "contest.plan", "Options"),
    "judge": ("options", "judges.command", "Options"),
    "budget": ("options", "server.drawing.forecast", "ForecastOptions"),
}
"""By command: the argument that takes an option dataclass, and where that is found."""


def commands(wanted: str, words: Sequence[str] = ()) -> dict[str, Callable[..., None]]:
    """Every command by name; ``wanted`` with all its options, the others as lines of the overview.

    So nothing is imported that is not about to be used: the server needs packages that the rest does without, and torch
    takes seconds to say which commands there are.
    """
    making = (demo, data, teach, distill, draw, evaluate, judge, compare, check, contest, arena, report)
    every = (*making, adopt, merge, info, export, verify, serve, budget, docs, completion)
    known = {command.__name__: command for command in every}
    if wanted in OPTIONS:
        argument, *place = OPTIONS[wanted]
        known[wanted].__annotations__[argument] = flat(options_of(*place, *meant(wanted, words)))
    return {name: command if name == wanted != "data" else listed(command) for name, command in known.items()}


def meant(command: str, words: Sequence[str]) -> tuple[str, ...]:
    """The method that is meant, where the command's options depend on one; the last word counts, as it does for all. And whether
    a decoder alone is taught."""
    given: tuple[str, ...] = ()
    if command == "teach" and "--decoder-only" in words:
        return ("decoder",)
    for word, after in zip(words, [*words[1:], "-"]):
        option, equals, value = word.partition("=")
        if command == "distill" and option == "--method" and (equals or not after.startswith("-")):
            given = (value if equals else after,)
    return given


def options_of(module: str, name: str, *which: str) -> Any:
    """An option dataclass of this package. Those of the server stand beside what it imports, so that is asked for first."""
    if module.startswith(("server.", "arena.")):
        extras.require("the arena" if module.startswith("arena.") else "the studio", extras.of("serve"))
    found = getattr(importlib.import_module(f"fewstep.{module}"), name)
    return found if isinstance(found, type) else found(*which)


def ready(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which says at once all the packages that its options ask for and that are not installed."""

    @wraps(command)
    def ask_first(*args: Any, **kwargs: Any) -> None:
        given = signature(command).bind(*args, **kwargs).arguments.values()
        needed = [module for value in given if hasattr(value, "needs") for module in value.needs()]
        extras.require(command.__name__, needed)
        command(*args, **kwargs)

    return ask_first


def asked(arguments: list[str]) -> tuple[str, dict[str, Callable[..., None]], list[str]]:
    """The program that is meant, its commands, and their arguments: ``fewstep data`` is one of its own, a command a dataset.

    Raises ValueError for a command that there is not.
    """
    program, what, words = "fewstep", "command", arguments
    if arguments[:1] == ["data"]:
        program, what, words = "fewstep data", "dataset", arguments[1:]
    wanted = words[0] if words else ""
    known = data_commands(wanted) if what == "dataset" else commands(wanted, words)
    if wanted and not wanted.startswith("-") and wanted not in known:
        raise ValueError(f"there is no {what} {wanted!r}: use {', '.join(known)}")
    return program, {name: checked(ready(command)) for name, command in known.items()}, words


def listed(command: Callable[..., None]) -> Callable[..., None]:
    """The command's line in the overview, without its options."""

    def placeholder() -> None: ...

    placeholder.__doc__ = command.__doc__
    return placeholder


MORE = "fewstep help COMMAND shows the options of a command, fewstep -V the version."
"""The sentence above the overview of the commands."""
KEPT = {
    "arena": "every picture that was drawn and every vote is kept: give the same command again to go on",
    "contest": "every training has saved its state: give the same command again to go on",
    "data": "nothing was written, and a dataset that was there stands as it was: give the command again to build it",
    "judge": "pictures that were drawn are kept beside --output: give the command again to go on",
    "evaluate": "the records of finished step counts are in --output: give the command again with --resume for the others",
    "draw": "the pictures that were finished are kept: give the command again for the others",
    "teach": "what was saved so far is in --out: give the command again with --resume to go on",
    "distill": "what was saved so far is in --out: give the command again with --resume to go on",
    "demo": "what was saved so far is in --out: give the command again with --resume to go on",
}
"""What remains after Ctrl-C of a command that cannot save at once, and how to continue."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point; a bare program lists its commands.

    Exit codes: 0 done, 1 nothing found (verify) or another verdict than expected (check), 2 bad input, 3 unhealthy run, 130
    stopped by Ctrl-C, SIGTERM or SIGHUP (state saved; a server takes SIGTERM as an order, and ends with 0), 141 nobody reads
    the output any more.
    """
    with stopping(), piped():
        run(sys.argv[1:] if arguments is None else arguments)


@contextmanager
def stopping() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the program as Ctrl-C does. Threads that are not the main one cannot, and leave them alone."""

    def stop(number: int, frame: FrameType | None) -> None:
        leave_terminal(number)
        raise KeyboardInterrupt

    try:
        before = {s: signal.signal(s, stop) for s in STOPS if s != signal.SIGINT and not ignored(s)}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def piped() -> Iterator[None]:
    """End without a word, and as the shell expects it, where nobody reads on: ``fewstep info | head -1``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # or Python complains at its own end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def uncoloured() -> None:
    """Have help and its errors without colours where ``NO_COLOR`` is set (no-color.org): rich heeds it, tyro does not."""
    options = getattr(tyro, "_experimental_options", {})
    if os.environ.get("NO_COLOR") and "ansi_codes" in options:
        options["ansi_codes"] = False


def flowing(module: Any = tyro._strings) -> None:
    """Have the help texts flow: tyro breaks a sentence where a line of the docstring begins with a space or a digit."""
    usual = getattr(module, "remove_single_line_breaks", None)
    if usual is not None and not hasattr(usual, "__wrapped__"):
        joined = partial(re.compile(r"(?<=[^\n])\n(?=[^\n*-])").sub, " ")
        module.remove_single_line_breaks = wraps(usual)(lambda text: usual(joined(inspect.cleandoc(text))))


def run(arguments: list[str]) -> None:
    """Parse and do it; whatever goes wrong becomes one sentence and an exit code."""
    warnings.showwarning = lambda message, *_, **__: note(message)
    warnings.filterwarnings("ignore", category=FutureWarning)
    encodable(sys.stdout, sys.stderr)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        program, known, words = asked(arguments)
        flowing()
        uncoloured()
        if words in (["--version"], ["-V"]):
            say(f"fewstep {__version__}")
        elif words and words[0] in known:
            check_words(known[words[0]], words[1:])
            tyro.cli(known[words[0]], prog=f"{program} {words[0]}", args=words[1:])
        elif words:
            tyro.extras.subcommand_cli_from_dict(known, prog=program, args=words, description=MORE)
        else:
            with suppress(SystemExit):
                tyro.extras.subcommand_cli_from_dict(known, prog=program, args=["--help"], description=MORE)
            sys.exit(2)
    except (ValueError, Unhealthy) as error:
        end(str(error), 3 if isinstance(error, Unhealthy) else 2)
    except BrokenPipeError:  # of our own output
        raise
    except failures.OURS as error:  # the machine's, not ours
        if not (said := failures.sentence(error)):
            raise
        end(said, 2)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(130)
    except KeyboardInterrupt:
        kept = KEPT.get(arguments[0] if arguments else "")
        end(f"stopped; {kept}" if kept else "stopped", 130)


def check_words(command: Callable[..., None], words: Sequence[str]) -> None:
    """Refuse what no path can be, while it is still told from what it would become: an empty one from the current folder."""
    if any("\0" in word for word in words):
        raise ValueError("an argument holds a NUL byte, which no path and no text may: leave it out")
    known = {f"--{name.replace('_', '-')}" for name in path_options(get_type_hints(command, include_extras=True))}
    option = ""
    for word in words:
        if word.startswith("-"):
            if plain(word.partition("=")[0]) != word.partition("=")[0]:
                raise ValueError(f"there is no option {word!r}: --help lists those there are")
            option, equals, word = word.partition("=")
            option = "--output" if option == "-o" else option.replace("_", "-")
            if not equals:
                continue
        if not word and option in known:
            raise ValueError(f"{option} is empty: give a path")


def end(sentence: str, code: int) -> NoReturn:
    """Leave with one sentence, after whatever else was said."""
    console.file.flush()
    print(f"fewstep: {plain(sentence)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
