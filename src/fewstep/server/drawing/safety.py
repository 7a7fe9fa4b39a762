"""What may be asked for and shown: a pluggable filter of prompts and pictures, beside the hot path, never in it.

A prompt is judged once, in a thread of its own, while it waits for its turn and is drawn; only its answer waits for the
verdict. Streamed pictures are judged as fast as the filter can, the newest of each session; a refused one stops the
session's pictures until it asks for something else. Single and saved pictures are always judged first. A filter that fails
lets nothing through.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from ... import bundle, plugin
from ...inference.cache import Cache
from ...pixels import Pixels
from ...pretrained.safety import SafetyChecker, check_has_safety_checker
from ..sessions.scheduler import ClientKey
from .pool import Pool

log = logging.getLogger("fewstep.server")
WORDS = Path(__file__).with_name("words.txt")
ANONYMOUS: ClientKey = ("",)
"""The client key of work that belongs to no client."""
VERDICTS_BYTES = 2**20
"""Memory for cached verdicts on prompts ..."""
KNOWN_BYTES = 1000
"""... each of which takes about this many bytes beside its text."""
FAILED = "the safety filter failed, so nothing is shown: see the server's log"
"""The verdict when a filter raises an error."""


@runtime_checkable
class Filter(Protocol):
    """Judges prompts and pictures: a sentence refuses, None allows. A filter with ``blind = True`` gets no pictures."""

    def prompt(self, text: str) -> str | None:
        """Why this may not be asked for."""

    def picture(self, pixels: Pixels) -> str | None:
        """Why this may not be shown."""


class WordList:
    """The offline default: whole words and phrases, found through case, accents, digits for letters and spacing marks.

    It stops what is asked for outright. It knows no meanings and sees no pictures: for those there is `Checker`, and any
    model behind the same two methods.
    """

    blind = True

    def __init__(self, words: Iterable[str]) -> None:
        phrases = sorted({folded for word in words if (folded := fold(word))}, key=len, reverse=True)
        self._pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, phrases)) + r")(?!\w)") if phrases else None

    @classmethod
    def read(cls, path: Path = WORDS) -> WordList:
        """One word or phrase a line; # begins a comment. Raises ValueError for a file that cannot be read."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"can't read the word list ({error}): give a text file, one word or phrase a line"
            ) from None
        return cls(line.partition("#")[0].strip() for line in lines)

    def prompt(self, text: str) -> str | None:
        """Refuse a prompt that holds one of the words."""
        if self._pattern is None or not self._pattern.search(fold(text)):
            return None
        return "this prompt is not drawn here: it asks for something on the server's word list"

    def picture(self, pixels: Pixels) -> str | None:
        """A word list sees nothing."""
        return None


class Checker:
    """Prompts by the word list; pictures by the safety checker in the served Stable Diffusion folder, read at the first one."""

    def __init__(self, folder: Path, device: str) -> None:
        check_has_safety_checker(folder)
        self._words, self._folder, self._device = WordList.read(), folder, device

    @functools.cached_property
    def _finds(self) -> SafetyChecker:
        return SafetyChecker(self._folder, self._device)

    def prompt(self, text: str) -> str | None:
        """As the word list."""
        return self._words.prompt(text)

    def picture(self, pixels: Pixels) -> str | None:
        """Refuse a picture in which the checker finds one of its concepts."""
        return "this picture is not shown here: the model's own safety checker objects" if self._finds(pixels) else None


LETTERS = str.maketrans("013457", "oieast")
SIGNS = {"@": "a", "$": "s", "!": "i"}


def fold(text: str) -> str:
    """Case, accents, look-alike digits and separators taken out."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    inside = re.sub(r"(?<=\w)[@$!](?=\w)", lambda sign: SIGNS[sign[0]], plain.translate(LETTERS))
    return re.sub(r"[\W_]+", " ", inside).strip()


def load(name: str, model: str = "", device: str = "cpu") -> Filter | None:
    """``words``: the word list. ``checker``: with ``model``'s own safety checker. ``off``: none. A ``.txt`` file: your words.

    Else a dotted path to a class or function that makes a Filter. Raises ValueError for what is none of these.
    """
    if name == "off":
        return None
    if name == "words":
        return WordList.read()
    if name == "checker":
        return Checker(bundle.locate(model), device)
    if name.endswith(".txt"):
        return WordList.read(Path(name))
    made: Filter = plugin.load(
        name, Filter, "a filter (beside words, checker, off) needs the methods prompt(text) and picture(pixels)"
    )
    return made


class Moderation:
    """Runs a filter in its own thread, one call after another, in fair turn between clients. It caches verdicts on prompts."""

    def __init__(
        self,
        judge: Filter | None,
        note: Callable[[str, float], None] = lambda stage, ms: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.filter, self._note, self._clock = judge, note, clock
        self._known: Cache[str, Future[str | None]] = Cache(VERDICTS_BYTES)
        self._lock = threading.Lock()
        self._thread = Pool(1, "moderation") if judge is not None else None
        self._watching: set[ClientKey] = set()
        self._sees = judge is not None and not getattr(judge, "blind", False)

    def judge_prompts(self, *texts: str, client_key: ClientKey = ANONYMOUS) -> Future[str | None] | None:
        """Begin to judge prompts; returns the coming verdict, or None if there is no filter or every prompt is empty."""
        text = _together(texts)
        if self._thread is None or not text:
            return None
        with self._lock:
            known = self._known.get(text)
            if known is None or known.cancelled() or (known.done() and known.result() == FAILED):
                known = self._thread.submit(client_key, partial(self._judged, "safety_prompt", text))
                self._known.put(text, known, KNOWN_BYTES + sys.getsizeof(text))
            return known

    def has_judged(self, *texts: str) -> bool:
        """Whether the verdict on these prompts is there already, or none is needed."""
        text = _together(texts)
        with self._lock:
            known = None if self._thread is None or not text else self._known.get(text)
            return self._thread is None or not text or (known is not None and known.done())

    def judge_picture(self, pixels: Pixels, client_key: ClientKey = ANONYMOUS) -> Future[str | None] | None:
        """Begin to judge one picture; returns the coming verdict, or None if no filter looks at pictures."""
        if self._thread is None or not self._sees:
            return None
        return self._thread.submit(client_key, partial(self._judged, "safety_picture", pixels))

    def picture(self, pixels: Pixels, client_key: ClientKey = ANONYMOUS) -> str | None:
        """Judge one picture, and wait for the verdict."""
        verdict = self.judge_picture(pixels, client_key)
        return None if verdict is None else verdict.result()

    def watch(self, client_key: ClientKey, pixels: Pixels, refuse: Callable[[str], None]) -> None:
        """Judge a streamed picture beside the stream, unless another one of this session is being judged."""
        if self._thread is None or not self._sees or client_key in self._watching:
            return
        self._watching.add(client_key)

        def judge() -> None:
            try:
                if (reason := self._judged("safety_picture", pixels)) is not None:
                    refuse(reason)
            finally:
                self._watching.discard(client_key)

        self._thread.submit(client_key, judge)

    def _judged(self, stage: str, subject: str | Pixels) -> str | None:
        """Ask the filter, and record the time. A filter that raises refuses."""
        assert self.filter is not None
        began = self._clock()
        try:
            return self.filter.prompt(subject) if isinstance(subject, str) else self.filter.picture(subject)
        except Exception:
            log.exception("the safety filter failed")
            return FAILED
        finally:
            self._note(stage, 1000 * (self._clock() - began))

    def close(self) -> None:
        """Stop judging."""
        if self._thread is not None:
            self._thread.close()


def _together(texts: Iterable[str]) -> str:
    return "\n".join(t for t in texts if t)
