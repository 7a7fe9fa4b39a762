"""What ``fewstep arena`` does: prepare the pictures, serve the page, or read the result."""

from __future__ import annotations

import contextlib
import math
import shlex
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data.dataset import Progress
from ..evaluation._drawing import PROMPTS
from ..ranges import Count, NewPath, Placement, Range, Seed, Share
from ..rng import fold
from ..server.access import address
from ..server.app import listen, server
from . import pictures, prompts
from .app import LIMITS, Arena, build
from .plan import PLAN, QUESTIONS, Entry, Plan, Question
from .votes import VoteStore


@dataclass(frozen=True)
class Options:
    """Which models, which prompts, who votes."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Two or more: MODEL, MODEL,STEPS or NAME=MODEL,STEPS; or folders of pictures with the same names in each; or the
    folder of a contest, RUN or RUN,STEPS, which stands for a student of each of its entries."""
    out: NewPath = Path("runs/arena")
    """Folder of the arena: pictures and votes. What is there already is gone on with."""
    prompts: Path | None = None
    """Prompts, one a line; or a TSV as PartiPrompts has it, with the columns Prompt, Category and Challenge."""
    categories: tuple[str, ...] = ()
    """Only prompts of these categories or challenges."""
    without: tuple[str, ...] = ()
    """No prompts of these; the paper's study left out Basic."""
    most_prompts: Annotated[int, Range(0, 10**6)] = 0
    """So many prompts of the list at most, drawn at random; 0 is all. The paper took 100."""
    steps: Annotated[int, Range(0, 1000)] = 0
    """Steps of models that do not say their own; 0: 1 for a student, the card's most for a teacher."""
    seeds: Annotated[int, Range(1, 1000)] = 1
    """Pictures of every prompt; all models start from the same noises."""
    seed: Seed = 0
    """Of noises, order and sides."""
    raters: tuple[str, ...] = ("you",)
    """Names of those who vote; each gets an address of his own."""
    trials: Count = 100
    """Pairs that each rater is shown."""
    questions: tuple[Question, ...] = QUESTIONS
    """What is asked: looks (which looks better), follows (which follows the prompt better)."""
    catch: Share = 0.1
    """Share of catch pairs, in which one side is plainly right: they find raters who do not look."""
    repeat: Share = 0.1
    """Share of repeated pairs, which say how far raters agree with themselves."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets phones in the same network in, with their tokens."""
    port: Annotated[int, Range(0, 65535)] = 7870
    """Port; 0 takes a free one."""
    results: Path | None = None
    """Say what the votes of an arena's folder say, write them there as JSON, CSV and one HTML page, and end."""
    everyone: bool = False
    """With --results: count raters whom catch pairs found careless, too."""


def check(o: Options) -> None:
    """Refuse what makes no sense, before anything is opened. Raises ValueError with the fix."""
    if o.results is not None:
        if o.models:
            raise ValueError("--results reads votes and draws nothing: leave the models out")
        return
    if len(pictures.opened_up(o.models)) < 2:
        raise ValueError("an arena needs two models: fewstep arena emoji-64,1 emoji-64,4; or --results RUN reads votes")
    if not o.raters or any(not name.strip() or len(name) > 40 or not name.isprintable() for name in o.raters):
        raise ValueError("--raters needs names of 1 to 40 printable characters: one for each person")
    if len(set(o.raters)) < len(o.raters):
        raise ValueError("two raters have the same name: give each another, for each has votes of his own")
    if not o.questions or len(set(o.questions)) < len(o.questions):
        raise ValueError("--questions is asked once each: looks, follows, or both")
    if (o.categories or o.without or o.most_prompts) and o.prompts is None:
        raise ValueError("--categories, --without and --most-prompts choose from a list: give one with --prompts")


def listed(o: Options) -> list[prompts.Prompt]:
    """The prompts that are asked for; none where no list is given."""
    if o.prompts is None:
        return []
    found = prompts.read(o.prompts, o.categories, o.without)
    if o.most_prompts and o.most_prompts < len(found):
        by_chance = sorted(range(len(found)), key=lambda i: fold(o.seed, "prompts", found[i].text))
        found = [found[i] for i in sorted(by_chance[: o.most_prompts])]
    return found


def prepare(o: Options, placement: Placement, command: str, report: Progress) -> Plan:
    """Everything that is shown, on disk: pictures are drawn where they are missing. Raises ValueError before any is drawn."""
    words = pictures.opened_up(o.models)
    given = [pictures.contender(word) for word in words]
    folders = [one for one in given if one.is_folder_of_pictures]
    chosen = listed(o)
    if not chosen and len(folders) < len(given):
        chosen = [prompts.Prompt(text) for text in PROMPTS]
    items = [prompt for prompt in chosen for _ in range(o.seeds)]
    held, texts = pictures.of_folders(folders, [item.text for item in items]) if folders else ([], [])
    texts = texts or [item.text for item in items]
    if "follows" in o.questions and not all(texts):
        raise ValueError("the pictures' names hold no prompts: give --prompts, one for each, or --questions looks")
    seeds = [o.seed + i for i in range(len(texts))]
    entries = {entry.name: entry for entry in held}
    for one in given:
        if one not in folders:
            pipeline, steps = pictures.opened(one, placement, o.steps or None)
            name = one.name if one.steps or "=" in words[given.index(one)] else f"{one.name},{steps}"
            entries[one.name] = Entry(name, pictures.places(pipeline, steps, texts, seeds))
    categories = tuple(item.category for item in items) if any(item.category for item in items) else ()
    every = math.comb(len(given), 2) * len(texts)  # and no rater is shown one of them twice, but to repeat it
    trials = min(o.trials, max(1, math.ceil(every / max(0.2, 1 - o.catch - o.repeat))))
    plan = Plan(
        tuple(entries[one.name] for one in given),
        tuple(texts),
        categories,
        o.questions,
        o.catch,
        o.repeat,
        trials,
        o.seed,
        command,
    )
    check_same(o.out, plan)
    o.out.mkdir(parents=True, exist_ok=True)
    for one in given:
        entry = entries[one.name]
        if one not in folders and not all((o.out / file).is_file() for file in entry.pictures):
            pipeline, steps = pictures.opened(one, placement, o.steps or None)
            pictures.draw(pipeline, steps, texts, seeds, o.out, entry.name, report)
    plan.write(o.out)
    return plan


def check_same(out: Path, plan: Plan) -> None:
    """Refuse to mix votes: those in a folder are on its own models, prompts and pictures. Raises ValueError."""
    if not (out / PLAN).is_file():
        return
    before = Plan.read(out)
    for what in ("models", "prompts", "questions"):
        if getattr(before, what) != getattr(plan, what):
            raise ValueError(f"{out} holds an arena with other {what}, and perhaps votes on it: give another --out")


def serve(o: Options, plan: Plan, say: Callable[[str], None]) -> None:
    """Serve the page until stopped. Raises ValueError for a port that is taken."""
    with contextlib.suppress(ValueError):  # of a thread that is not the main one
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    votes = VoteStore(o.out, plan)
    try:
        tokens = votes.admit(o.raters)
        taken = listen(o.host, o.port)
        port = taken.getsockname()[1]
        say(f"{len(plan.models)} models, {len(plan.prompts)} pictures each, {plan.trials} pairs for each rater")
        for name in o.raters:
            shown = address(reached_at(o.host), port, tokens[name])
            say(f"{name}: {shown}   {votes.done(name)} judged")
        say(f"Ctrl-C stops it, the same command goes on; the result: fewstep arena --results {shlex.quote(str(o.out))}")
        server(build(Arena(o.out, plan, votes), o.host), LIMITS).run([taken])
    finally:
        votes.close()


def reached_at(host: str) -> str:
    """The address that a phone in the same network reaches this machine by, where it listens on all of its addresses."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which of our addresses would be used
        return str(probe.getsockname()[0])
    return socket.gethostname()
