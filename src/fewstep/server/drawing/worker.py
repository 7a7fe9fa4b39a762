"""One thread a device: they alone touch torch, and serve the sessions in fair turn. The event loop only leaves requests.

A full slot is overwritten, never queued, so what is drawn is always the newest, and a slow client holds one picture. The
threads share one line of sessions: whichever device is free takes the next turn, so none idles while somebody waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

from ...inference.budget import Budget, Choices, Plan, best, plan
from ...inference.steady import Smoother
from ...inference.timings import Kind, Percentiles
from ...pixels import Pixels
from ..metrics import Metrics
from ..sessions.scheduler import Dispatch, Pending, Scheduler, Session
from ..sessions.wire_estimate import WireEstimate
from ..wire.protocol import MIMES, DrawRequest, Part, ProtocolError, pack
from .engine import Drawn, Engine, Given, Job
from .pool import Pool
from .provenance import PictureFacts
from .safety import Moderation

log = logging.getLogger("fewstep.server")
State = Literal["warming", "ready", "failed", "stopped"]
REPLAN_S = 0.1
DECODERS = 2
"""Threads that decode what clients send."""
REST_S = 0.5
"""A session that has asked for nothing newer for this long is at rest: its newest request is drawn once more."""


@dataclass(frozen=True)
class DrawResponse:
    """What becomes of one request: a picture, or an error."""

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
    """What is remembered of an answer until its time from glass to glass is told."""

    kind: Kind
    bytes: int
    server_ms: float


class History:
    """The newest pictures of a session, unmarked, within a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._pictures: OrderedDict[int, HistoryEntry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self._bytes

    def put(self, number: int, picture: HistoryEntry) -> None:
        """Keep one; the oldest go when it gets too much."""
        if (old := self._pictures.pop(number, None)) is not None:
            self._bytes -= old.pixels.nbytes
        self._pictures[number] = picture
        self._bytes += picture.pixels.nbytes
        while self._bytes > self._limit and len(self._pictures) > 1:
            _, gone = self._pictures.popitem(last=False)
            self._bytes -= gone.pixels.nbytes

    def clear(self) -> None:
        """Forget all."""
        self._pictures.clear()
        self._bytes = 0

    def get(self, number: int) -> HistoryEntry | None:
        """One by the id of its request."""
        return self._pictures.get(number)


@dataclass(frozen=True)
class ReadyRequest:
    """A request that can be drawn: what it brings is decoded."""

    request: DrawRequest
    given: Given | None = None


@dataclass
class ClientSession:
    """A session's place at the worker. Everything in it is touched under the worker's lock."""

    session: Session[ReadyRequest, DrawResponse]
    wake: Callable[[], None]
    """Called from the worker's thread when an answer lies in the outbox."""
    budget: Budget
    history: History
    smoother: Smoother = field(default_factory=Smoother)
    wire_estimate: WireEstimate = field(default_factory=WireEstimate)
    """Time beyond the server, as this session's own browser reports it: it steers its own budget alone."""
    text_ms: Percentiles = field(default_factory=lambda: Percentiles(64, 10.0))
    """Time that encoding this session's prompts took: next to nothing while they are remembered."""
    plan: Plan | None = None
    planned_at: float = 0.0
    choices: Choices | None = None
    stopped: str = ""
    """Why its pictures are held back, since the safety filter refused one; the next other prompt clears it."""
    stopped_prompt: str = ""
    newest_answer_s: float = 0.0
    """When what its newest answer answers was asked: an older one, whose prompt took long to judge, comes too late."""
    latest: DrawRequest | None = None
    """Its newest request ..."""
    latest_s: float = float("-inf")
    """... and when that came."""
    rest: ReadyRequest | None = None
    """The newest request, where it was answered with something shed, and a better answer is wanted when there is time."""
    ready_s: float = float("-inf")
    """When the newest request was asked for that is, or was, ready to be drawn: none older becomes ready after it."""
    decoding: bool = False
    """Whether a picture of it is being decoded, or waits for that: one at a time."""
    judging: Future[str | None] | None = None
    """The verdict that its newest answer waits for."""
    sent_frames: OrderedDict[int, SentFrame] = field(default_factory=OrderedDict)
    """The newest answers, by request id: what glass-to-glass times are compared with."""


@dataclass(frozen=True)
class FrameTask:
    """A request whose turn has come."""

    client: ClientSession
    pending: Pending[ReadyRequest]
    plan: Plan
    began: float
    """When its turn came, in seconds."""
    refined: bool = False
    """Whether it is drawn once more, at rest, after an answer that had something shed."""

    @property
    def request(self) -> DrawRequest:
        """The request."""
        return self.pending.value.request

    @property
    def wait_ms(self) -> float:
        """How long it had waited by then, beside being decoded."""
        return 1000 * (self.began - self.pending.put_at) - self.given_ms

    @property
    def given_ms(self) -> float:
        """How long decoding took what it brings."""
        given = self.pending.value.given
        return 0.0 if given is None or self.refined else given.ms

    @property
    def job(self) -> Job:
        """For the engine. At rest nothing of the frames before is left in the picture, and it is decoded already."""
        ready = self.pending.value
        if not self.refined:
            return Job(ready.request, self.plan.encoder, self.client.smoother, ready.given)
        given = None if ready.given is None else replace(ready.given, ms=0.0)
        return Job(replace(ready.request, smoothing=0.0), self.plan.encoder, self.client.smoother, given)

    def may_be_refined(self, drawn: Drawn) -> bool:
        """Whether a better answer than this one is wanted, and there is one."""
        return self.request.refine and not self.refined and bool(self.plan.shed or not drawn.settled)


class Batch(NamedTuple):
    """What is drawn in one call."""

    dispatches: Sequence[Dispatch[ReadyRequest, DrawResponse]] = ()
    tasks: Sequence[FrameTask] = ()

    def __bool__(self) -> bool:
        return bool(self.dispatches)


Open = Callable[[Callable[[str], None]], Engine]
"""Makes the engine of a device, in the device's own thread, saying what it does."""


class Worker:
    """The threads of all devices, which are alike: what one of them can draw, each can."""

    def __init__(
        self,
        opens: Sequence[Open],
        metrics: Metrics,
        moderation: Moderation | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.metrics, self._clock = metrics, clock
        self.moderation = moderation or Moderation(None)
        self.state: State = "warming"
        self.doing = "starting"
        """What is being done while it warms up, or why it failed."""
        self.engine: Engine | None = None
        """The first device's, once all are ready: what is served here, and how."""
        self._engines: list[Engine] = []
        self._scheduler: Scheduler[ReadyRequest, DrawResponse] = Scheduler()
        self.decoders = Pool(DECODERS, "decoder")
        """What clients send is decoded there."""
        self._clients: dict[str, ClientSession] = {}
        self._lock = threading.Condition()
        self._warming = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(open_,), name=f"fewstep-worker-{n}", daemon=True)
            for n, open_ in enumerate(opens)
        ]
        self._on_state: list[Callable[[], None]] = []
        metrics.gauge("live_sessions", lambda: len(self._clients))

    # called from anywhere

    def start(self) -> None:
        """Begin to open, warm up and serve."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the batches that are being drawn, then end."""
        with self._lock:
            self.state = "failed" if self.state == "failed" else "stopped"
            self._lock.notify_all()
        ends = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, ends - time.monotonic()))
        self.moderation.close()
        self.decoders.close()
        self._tell()

    def on_state(self, call: Callable[[], None]) -> Callable[[], None]:
        """Have ``call`` made, from the worker's thread, whenever `state` or `doing` has changed; returns how to stop that."""
        self._on_state.append(call)
        return lambda: self._on_state.remove(call)

    def join(self, client: ClientSession) -> None:
        """Let a session take turns."""
        with self._lock:
            self._clients[client.session.id] = client
            self._scheduler.join(client.session)

    def leave(self, session_id: str) -> None:
        """Forget a session."""
        with self._lock:
            self._clients.pop(session_id, None)
            self._scheduler.leave(session_id)

    def client(self, session_id: str) -> ClientSession | None:
        """A session by its id; None if it is not here."""
        return self._clients.get(session_id)

    def submit(self, client: ClientSession, request: DrawRequest) -> None:
        """Leave a request in a session's slot, or in front of it until what it brings is decoded; returns at once."""
        with self._lock:
            now = self._clock()
            client.latest, client.latest_s, client.rest = request, now, None
            if request.with_picture:
                overwrote = client.session.incoming.put(request, now)
                self._decode(client)
            else:
                overwrote = self._ready(client, ReadyRequest(request), now)
        self.metrics.count("asked")
        if overwrote:
            self.metrics.count("overwritten")

    def _ready(self, client: ClientSession, ready: ReadyRequest, received_s: float) -> bool:
        """Have a request wait for its turn; whether one was overwritten: an older one, or it by a newer. Under the lock."""
        session = client.session
        if received_s < client.ready_s:
            return session.incoming.miss()
        client.ready_s = received_s
        self._lock.notify_all()
        return session.submit(ready, received_s)

    def _decode(self, client: ClientSession) -> None:
        """Have the newest picture of a session decoded, unless one of it is already. Under the lock."""
        if client.decoding or self.engine is None or not client.session.incoming.full:
            return
        self.decoders.submit(client.session.client_key, partial(self._decoded, self.engine, client))
        client.decoding = True

    def _decoded(self, engine: Engine, client: ClientSession) -> None:
        """Decode it, in a thread for that, and have it wait for its turn; what cannot be decoded is answered at once."""
        with self._lock:
            pending = client.session.incoming.take()
        try:
            given = engine.prepare(pending.value) if pending is not None else None
            if pending is None or given is None or client.session.id not in self._clients:
                return
            if isinstance(given, ProtocolError):
                plan = Plan(0, 0, "", "", 0.0, False)
                task = FrameTask(client, Pending(ReadyRequest(pending.value), pending.put_at), plan, self._clock())
                self._finish(engine, task, given, None)
                return
            with self._lock:
                overwrote = self._ready(client, ReadyRequest(pending.value, given), pending.put_at)
            if overwrote:
                self.metrics.count("overwritten")
        finally:
            with self._lock:
                client.decoding = False
                self._decode(client)

    def collect(self, client: ClientSession) -> Pending[DrawResponse] | None:
        """Take the newest answer out of a session's slot."""
        with self._lock:
            return client.session.outbox.take()

    def seen(self, client: ClientSession, number: int, glass_ms: float) -> None:
        """A browser showed the answer ``number``, ``glass_ms`` after what was asked had happened."""
        with self._lock:
            sent = client.sent_frames.get(number)
            if sent is None:
                return
            wire_ms = max(0.0, glass_ms - sent.server_ms)
            client.wire_estimate.add(sent.kind, sent.bytes, wire_ms, self._clock())
        self.metrics.note("glass_to_glass", glass_ms)
        self.metrics.note("wire", wire_ms)

    # the threads

    def _tell(self, state: State | None = None, doing: str | None = None) -> None:
        with self._lock:
            if state is not None and self.state == "warming":
                self.state = state
            self.doing = self.doing if doing is None else doing
            self._lock.notify_all()
        for call in list(self._on_state):
            call()

    def _run(self, open_: Open) -> None:
        if (engine := self._warmed(open_)) is None:
            return
        for batch in self._batches(engine):
            try:
                self._serve(engine, batch.tasks)
            except Exception:  # whatever it is, the others' pictures go on
                log.exception("a batch was not served to its end")
            finally:
                with self._lock:
                    self._scheduler.done(batch.dispatches)
                    self._lock.notify_all()

    def _warmed(self, open_: Open) -> Engine | None:
        """This thread's engine; None where it could not be made. One after the other: each is measured on an idle machine."""
        with self._warming:
            if self.state != "warming":
                return None
            try:
                engine = open_(lambda what: self._tell(doing=what))
                engine.warm_up(lambda what: self._tell(doing=what))
            except Exception as error:
                if not isinstance(error, ValueError):  # which says by itself what to do
                    log.exception("the model could not be made ready")
                self._tell("failed", str(error))
                return None
            self._engines.append(engine)
            if len(self._engines) == len(self._threads):
                self.engine = self._engines[0]
                self.metrics.use_costs(self.engine.costs)
                self._tell("ready", "")
                with self._lock:
                    for client in self._clients.values():
                        self._decode(client)
        return engine

    def _batches(self, engine: Engine) -> Iterator[Batch]:
        """What to draw next, again and again, until the server stops."""
        while True:
            with self._lock:
                while self.state in ("warming", "ready") and not (batch := self._next(engine)):
                    self._lock.wait(self._next_rest_s())
                if self.state != "ready":
                    return
            yield batch

    def _next(self, engine: Engine) -> Batch:
        """The requests whose turn it is; where nobody asks for anything, one of a session at rest, once more. May be empty."""
        if self.state != "ready":
            return Batch()

        def kind(session: Session[ReadyRequest, DrawResponse], ready: ReadyRequest) -> Hashable:
            try:
                return engine.kind(ready.request, self._plan(engine, self._clients[session.id], ready.request))
            except Exception:  # drawing it alone says what is wrong with it
                log.exception("a request could not be planned")
                return session.id

        def may(session: Session[ReadyRequest, DrawResponse], ready: ReadyRequest) -> bool:
            judging = self._clients[session.id].judging
            waits = judging is not None and not judging.done()
            return not waits or self.moderation.has_judged(ready.request.prompt, ready.request.blend_prompt)

        def cost(session: Session[ReadyRequest, DrawResponse]) -> float:
            found = self._clients[session.id].plan
            return 1.0 if found is None else engine.idle_ms(found)

        dispatches = self._scheduler.next_batch(kind, engine.batches, may, cost)
        if not dispatches:
            return self._at_rest(engine)
        began, tasks = self._clock(), []
        for dispatch in dispatches:
            client = self._clients[dispatch.session.id]
            cheapest = Plan(min(engine.card.steps), engine.sizes[0], engine.choices.backends[0], "png", 0.0, False)
            tasks.append(FrameTask(client, dispatch.pending, client.plan or cheapest, began))
        return Batch(dispatches, tasks)

    def _at_rest(self, engine: Engine) -> Batch:
        """The newest request of the session that has rested for longest, with nothing shed. While others draw, only one that
        is as quick as a picture of the stream has to be: a better one must not make theirs late."""
        now = self._clock()
        clients = sorted(
            (client for client in self._clients.values() if client.rest), key=lambda client: client.latest_s
        )
        for client in clients:
            if client.rest is None or client.session.drawing or now - client.latest_s < REST_S:
                continue
            request = client.rest.request
            alone = all(now - other.latest_s >= REST_S for other in self._clients.values())
            timings = replace(self.metrics.timings(), wait_ratio=0.0)
            found = best(client.budget, self._choices(engine, request), timings, request.with_picture)
            if alone or found.fits:
                dispatch = self._scheduler.again(client.session, Pending(client.rest, now))
                client.rest = None
                return Batch([dispatch], [FrameTask(client, dispatch.pending, found, now, refined=True)])
        return Batch()

    def _next_rest_s(self) -> float | None:
        """Seconds until a session at rest may have its turn; None where there is none."""
        resting = [client.latest_s for client in self._clients.values() if client.rest]
        if not resting:
            return None
        wait_s = min(resting) + REST_S - self._clock()
        return wait_s if 0 < wait_s < REST_S else REST_S

    @staticmethod
    def _choices(engine: Engine, request: DrawRequest) -> Choices:
        """What there is to choose from for this request: what is pinned stays."""
        choices = replace(engine.choices, steps=(request.steps,) if request.steps else engine.steps_for(request))
        if request.size in choices.sizes:
            choices = replace(choices, sizes=(request.size,))
        return replace(choices, encoders=(request.encoder,)) if request.encoder else choices

    def _plan(self, engine: Engine, client: ClientSession, request: DrawRequest) -> Plan:
        """How to draw this request: what is pinned stays, the rest is the budget's."""
        choices, now = self._choices(engine, request), self._clock()
        target_ms = request.target_ms or client.budget.target_ms
        same = client.choices == choices and client.budget.target_ms == target_ms
        if same and client.plan is not None and now - client.planned_at < REPLAN_S:
            return client.plan
        client.budget = replace(client.budget, target_ms=target_ms)
        wire_ms, text_ms = client.wire_estimate.wire_ms(engine.costs.sent, now), client.text_ms.at(0.9, now) or 0.0
        timings = replace(self.metrics.timings(), wire_ms=wire_ms, text_ms=text_ms)
        client.plan = plan(client.budget, choices, timings, client.plan if same else None, now, request.with_picture)
        client.planned_at, client.choices = now, choices
        return client.plan

    def _serve(self, engine: Engine, tasks: Sequence[FrameTask]) -> None:
        verdicts = [self._judge(one) for one in tasks]
        jobs = [one.job for one in tasks]
        try:
            results: Sequence[Drawn | ProtocolError] = engine.draw(jobs, tasks[0].plan)
        except Exception:
            log.exception("a batch could not be drawn")
            results = [ProtocolError("internal", "the picture could not be drawn: see the server's log")] * len(jobs)
        ended = self._clock()
        for one, result, verdict in zip(tasks, results, verdicts):
            self._when_judged(verdict, partial(self._finish, engine, one, result))
            self._note(engine, one, result, ended)  # when the picture is on its way
            if one.request.with_picture:
                one.client.smoother.measure()
        self.metrics.note_drawn(sum(isinstance(r, Drawn) for r in results))

    def _note(self, engine: Engine, task: FrameTask, result: Drawn | ProtocolError, ended: float) -> None:
        """Stage times, each against its idle cost."""
        served_ms = 1000 * (ended - task.began)
        if not task.refined:
            self.metrics.note_wait(task.wait_ms, served_ms + task.given_ms)
        if isinstance(result, ProtocolError):
            return
        costs, size = engine.costs, task.plan.size
        idle = {
            "network": result.steps * costs.network.get((task.plan.backend, size), 0.0),
            "codec_out": costs.codec_out.get(size, 0.0),
            "codec_in": costs.codec_in.get(size, 0.0),
            "watermark": costs.watermark.get(size, 0.0),
            "encode": costs.encode.get((result.encoder, size), 0.0),
            "decode": costs.decode,
            "other": costs.other.get(size, 0.0),
        }
        task.client.text_ms.add(result.stages["text"], ended)
        for stage, ms in (result.stages | {"other": result.other_ms(served_ms)}).items():
            if ms or stage in ("network", "text"):
                self.metrics.note(stage, ms, idle.get(stage))

    def _judge(self, task: FrameTask) -> Future[str | None] | None:
        """Have the prompt of a request judged whose turn has come, while it is drawn; None where nobody judges.

        What is overwritten before its turn is never judged, and a session whose answer waits for a verdict has no turn with
        another new prompt: so the line in front of the filter holds one prompt of each session.
        """
        try:
            verdict = self.moderation.judge_prompts(
                task.request.prompt, task.request.blend_prompt, client_key=task.client.session.client_key
            )
        except ProtocolError as error:  # too many of its address wait there
            verdict = Future()
            verdict.set_result(str(error))
        if verdict is not None and not verdict.done():
            with self._lock:
                task.client.judging = verdict
            verdict.add_done_callback(lambda _: self._look())
        return verdict

    def _look(self) -> None:
        """Have the threads look whether anybody may be drawn now."""
        with self._lock:
            self._lock.notify_all()

    def _when_judged(self, verdict: Future[str | None] | None, finish: Callable[[str | None], None]) -> None:
        """Go on with the verdict on the prompt: nearly always it is there by now; else another thread goes on later."""
        if verdict is None:
            finish(None)
        else:
            verdict.add_done_callback(lambda done: finish(self._reason(done)))

    @staticmethod
    def _reason(verdict: Future[str | None]) -> str | None:
        if verdict.cancelled():
            return "the server is shutting down"
        return verdict.result()

    def _finish(self, engine: Engine, task: FrameTask, result: Drawn | ProtocolError, refusal: str | None) -> None:
        """Make the answer and put it into the session's outbox."""
        try:
            self._finished(engine, task, result, refusal)
        except Exception:
            log.exception("an answer could not be made")
            said = "the answer could not be made: see the server's log"
            header = {"type": "error", "id": task.request.id, "code": "internal", "message": said}
            self._deliver(task, DrawResponse(task.request, header))

    def _finished(self, engine: Engine, task: FrameTask, result: Drawn | ProtocolError, refusal: str | None) -> None:
        client, request = task.client, task.request
        with self._lock:
            if refusal is None and client.stopped:
                refusal = client.stopped if request.prompt == client.stopped_prompt else None
                client.stopped = client.stopped if refusal else ""
            overtaken = task.refined and client.latest is not request
        if refusal is not None:
            result = ProtocolError("refused", refusal)
        if task.refined and (overtaken or isinstance(result, ProtocolError)):
            return  # the answer that it has stays
        if isinstance(result, ProtocolError):
            self.metrics.count("refused" if result.code == "refused" else "errors")
            header = {"type": "error", "id": request.id, "code": result.code, "message": str(result)}
            self._deliver(task, DrawResponse(request, header))
            return
        with self._lock:
            client.history.put(
                request.id, HistoryEntry(result.pixels, PictureFacts.of(request, result.steps, result.strength))
            )
            if task.may_be_refined(result) and client.latest is request:
                client.rest = task.pending.value
                self._lock.notify_all()
        self.moderation.watch(
            client.session.client_key, result.pixels, lambda reason: self._stop(client, request, reason)
        )
        served_ms = 1000 * (self._clock() - task.began)
        header = picture_header(engine, task, result, served_ms)
        self._deliver(task, DrawResponse(request, header, result, task.wait_ms + task.given_ms + served_ms))

    def _stop(self, client: ClientSession, request: DrawRequest, reason: str) -> None:
        """The filter refused a picture: hold back this session's pictures until it asks for something else."""
        with self._lock:
            client.stopped, client.stopped_prompt, client.rest = reason, request.prompt, None
            client.history.clear()

    def _deliver(self, task: FrameTask, answer: DrawResponse) -> None:
        """Put an answer into the outbox, over an older one; what is older than the newest is overwritten from the start."""
        client = task.client
        with self._lock:
            outbox, late = client.session.outbox, task.pending.put_at < client.newest_answer_s
            superseded = outbox.miss() if late else outbox.put(answer, self._clock())
            client.newest_answer_s = max(client.newest_answer_s, task.pending.put_at)
            if task.refined:
                client.sent_frames.pop(
                    answer.request.id, None
                )  # it came by waiting: its time on the wire tells nothing
                self.metrics.count("refined")
            elif answer.drawn is not None:
                kind = (answer.drawn.encoder, answer.header["size"])
                client.sent_frames[answer.request.id] = SentFrame(kind, len(answer.drawn.data), answer.server_ms)
            while len(client.sent_frames) > 32:
                client.sent_frames.popitem(last=False)
        if superseded:
            self.metrics.count("superseded")
        client.wake()


def picture_header(engine: Engine, task: FrameTask, drawn: Drawn, served_ms: float) -> dict[str, Any]:
    """What is said with a picture: how it was drawn, what that took, and what was shed. The stages make up ``server_ms``."""
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
        "marks": engine.stamper.state,
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
