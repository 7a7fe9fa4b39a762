"""What the worker knows of one client: its newest request, its history, its budget, and the frames that are being drawn.

Pure data: the lock of the worker guards all of it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ...inference.budget import Budget, Choices, Plan
from ...inference.steady import Smoother
from ...inference.timings import Kind, Percentiles
from ...pixels import Pixels
from ..sessions.scheduler import Dispatch, Pending, Session
from ..sessions.wire_estimate import WireEstimate
from ..wire.protocol import MIMES, DrawRequest, Part, pack
from .frame import Drawn, Given, Job
from .provenance import PictureFacts

log = logging.getLogger("fewstep.server")


@dataclass(frozen=True)
class DrawResponse:
    """The answer to one request: a picture, or an error."""

    request: DrawRequest
    header: dict[str, Any]
    drawn: Drawn | None = None
    server_ms: float = 0.0
    """From the request's arrival to the answer's."""

    def frame(self, **facts: Any) -> bytes:
        """As one message of the protocol."""
        parts = [Part("image", MIMES[self.drawn.encoder], self.drawn.data)] if self.drawn else []
        try:
            return pack(self.header | facts, parts)
        except Exception:
            log.exception("an answer could not be packed")
            said = "the answer could not be packed: see the server's log"
            return pack({"type": "error", "id": self.request.id, "code": "internal", "message": said})


@dataclass(frozen=True)
class HistoryEntry:
    """A picture that can still be downloaded."""

    pixels: Pixels
    facts: PictureFacts


@dataclass(frozen=True)
class SentFrame:
    """What is remembered of an answer until the browser reports when it was shown."""

    kind: Kind
    bytes: int
    server_ms: float


class History:
    """The newest pictures of a session, without watermarks, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._pictures: OrderedDict[int, HistoryEntry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures."""
        return self._bytes

    def put(self, number: int, picture: HistoryEntry) -> None:
        """Add a picture; the oldest are dropped while the history is over its limit."""
        if (old := self._pictures.pop(number, None)) is not None:
            self._bytes -= old.pixels.nbytes
        self._pictures[number] = picture
        self._bytes += picture.pixels.nbytes
        while self._bytes > self._limit and len(self._pictures) > 1:
            _, gone = self._pictures.popitem(last=False)
            self._bytes -= gone.pixels.nbytes

    def clear(self) -> None:
        """Drop all pictures."""
        self._pictures.clear()
        self._bytes = 0

    def get(self, number: int) -> HistoryEntry | None:
        """The picture of a request by its id; None if it is gone."""
        return self._pictures.get(number)


@dataclass(frozen=True)
class ReadyRequest:
    """A request that can be drawn: its picture and mask are decoded."""

    request: DrawRequest
    given: Given | None = None


@dataclass
class ClientSession:
    """A client as the worker knows it. The worker's lock guards every field."""

    session: Session[ReadyRequest, DrawResponse]
    wake: Callable[[], None]
    """Called from the worker's thread when an answer is in the outbox."""
    budget: Budget
    history: History
    smoother: Smoother = field(default_factory=Smoother)
    wire_estimate: WireEstimate = field(default_factory=WireEstimate)
    """Time on the network, as this session's browser reports it. It changes the budget of this session alone."""
    text_ms: Percentiles = field(default_factory=lambda: Percentiles(64, 10.0))
    """Time that encoding this session's prompts took: near 0 while they are cached."""
    plan: Plan | None = None
    planned_at: float = 0.0
    choices: Choices | None = None
    stopped: str = ""
    """Why its pictures are held back: the safety filter refused one. Another prompt clears it."""
    stopped_prompt: str = ""
    newest_answer_s: float = 0.0
    """When the request of its newest answer came. An answer to an older request comes too late, and is dropped."""
    latest: DrawRequest | None = None
    """Its newest request ..."""
    latest_s: float = float("-inf")
    """... and when that came."""
    rest: ReadyRequest | None = None
    """The newest request, if it was answered with something shed and wants a better answer when there is time."""
    ready_s: float = float("-inf")
    """When the newest request came that was ready to be drawn. A request older than it never becomes ready."""
    decoding: bool = False
    """Whether one of its pictures is being decoded, or waits for a decoder. There is one at a time."""
    judging: Future[str | None] | None = None
    """The verdict of the safety filter that its newest answer waits for."""
    sent_frames: OrderedDict[int, SentFrame] = field(default_factory=OrderedDict)
    """The newest answers by request id, until the browser reports when each was shown."""


@dataclass(frozen=True)
class FrameTask:
    """A request that the scheduler has dispatched, and how it is drawn."""

    client: ClientSession
    pending: Pending[ReadyRequest]
    plan: Plan
    began: float
    """When its turn came, in seconds."""
    refined: bool = False
    """Whether it is a second drawing with nothing shed, while its session asks for nothing new."""

    @property
    def request(self) -> DrawRequest:
        """The request."""
        return self.pending.value.request

    @property
    def wait_ms(self) -> float:
        """Milliseconds that it waited for its turn, without the time of decoding."""
        return 1000 * (self.began - self.pending.put_at) - self.given_ms

    @property
    def given_ms(self) -> float:
        """Milliseconds that decoding took."""
        given = self.pending.value.given
        return 0.0 if given is None or self.refined else given.ms

    @property
    def job(self) -> Job:
        """The job for the engine. A refined picture is drawn without smoothing, and its input is decoded already."""
        ready = self.pending.value
        if not self.refined:
            return Job(ready.request, self.plan.encoder, self.client.smoother, ready.given)
        given = None if ready.given is None else replace(ready.given, ms=0.0)
        return Job(replace(ready.request, smoothing=0.0), self.plan.encoder, self.client.smoother, given)

    def may_be_refined(self, drawn: Drawn) -> bool:
        """Whether the client wants a better answer than this one, and a better one is possible."""
        return self.request.refine and not self.refined and bool(self.plan.shed or not drawn.settled)


class Batch(NamedTuple):
    """The requests that one network call draws."""

    dispatches: Sequence[Dispatch[ReadyRequest, DrawResponse]] = ()
    tasks: Sequence[FrameTask] = ()

    def __bool__(self) -> bool:
        return bool(self.dispatches)


def picture_header(task: FrameTask, drawn: Drawn, served_ms: float, marks: Mapping[str, bool]) -> dict[str, Any]:
    """The header of an answer: how the picture was drawn, how long it took, what was shed. The stages sum to ``server_ms``."""
    client, request, chosen, wait_ms = task.client, task.request, task.plan, task.wait_ms
    stages = drawn.stages | {"wait": wait_ms, "other": drawn.other_ms(served_ms)}
    header: dict[str, Any] = {
        "type": "picture",
        "id": request.id,
        "seed": request.seed,
        "steps": drawn.steps,
        "size": chosen.size,
        "backend": chosen.backend,
        "encoder": drawn.encoder,
        "shed": list(chosen.shed),
        "fits": chosen.fits,
        "expected_ms": round(chosen.expected_ms, 2),
        "target_ms": client.budget.target_ms,
        "stages_ms": {name: round(ms, 2) for name, ms in stages.items() if ms},
        "server_ms": round(wait_ms + task.given_ms + served_ms, 2),
        "sent_ms": request.sent_ms,
        "marks": marks,
    }
    if task.refined:
        header["refined"] = True
    if drawn.unread:
        header["unread"] = {
            name: {"tokens": left.tokens, "limit": left.limit, "dropped": left.told, "message": left.sentence}
            for name, left in drawn.unread.items()
        }
    if drawn.far:
        header["far"] = list(drawn.far)
    if request.with_picture:
        header["strength"] = round(drawn.strength, 3)
        header["settled"] = drawn.settled
        if client.smoother.flicker is not None:
            header["flicker"] = round(client.smoother.flicker, 5)
    return header
