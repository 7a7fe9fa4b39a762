"""One thread a device draws for the sessions in fair turn. These threads alone touch torch; the event loop only submits requests.

A full slot is overwritten, never queued, so what is drawn is always the newest, and a slow client holds one picture. The
threads share one line of sessions: whichever device is free takes the next turn, so none idles while somebody waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Literal

from ...inference.budget import Choices, Plan, best, plan
from ..metrics import Metrics
from ..sessions.scheduler import Pending, Scheduler, Session
from ..wire.protocol import DrawRequest, ProtocolError
from .client_session import (
    Batch,
    ClientSession,
    DrawResponse,
    FrameTask,
    HistoryEntry,
    ReadyRequest,
    SentFrame,
    picture_header,
)
from .engine import Engine
from .frame import Drawn
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


Open = Callable[[Callable[[str], None]], Engine]
"""Makes the engine of a device, in the device's own thread, saying what it does."""


class Worker:
    """The drawing threads, one a device. The devices are alike: each can draw every request."""

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
        """The engine of the first device, once all devices are ready; None before."""
        self._engines: list[Engine] = []
        self._scheduler: Scheduler[ReadyRequest, DrawResponse] = Scheduler()
        self.decoders = Pool(DECODERS, "decoder")
        """Threads that decode what clients send."""
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
        """Call ``call`` from the worker's thread whenever `state` or `doing` changes; returns a function that stops this."""
        self._on_state.append(call)
        return lambda: self._on_state.remove(call)

    def join(self, client: ClientSession) -> None:
        """Serve a session from now on."""
        with self._lock:
            self._clients[client.session.id] = client
            self._scheduler.join(client.session)

    def leave(self, session_id: str) -> None:
        """Stop serving a session."""
        with self._lock:
            self._clients.pop(session_id, None)
            self._scheduler.leave(session_id)

    def client(self, session_id: str) -> ClientSession | None:
        """A session by its id; None if it is not here."""
        return self._clients.get(session_id)

    def submit(self, client: ClientSession, request: DrawRequest) -> None:
        """Put a request into its session's slot, once its picture is decoded. Returns at once."""
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
        """Put a decoded request into the inbox. True if it overwrote an older one, or came too late itself. Under the lock."""
        session = client.session
        if received_s < client.ready_s:
            return session.incoming.miss()
        client.ready_s = received_s
        self._lock.notify_all()
        return session.submit(ready, received_s)

    def _decode(self, client: ClientSession) -> None:
        """Submit the newest picture of a session to the decoders, unless one is being decoded. Under the lock."""
        if client.decoding or self.engine is None or not client.session.incoming.full:
            return
        self.decoders.submit(client.session.client_key, partial(self._decoded, self.engine, client))
        client.decoding = True

    def _decoded(self, engine: Engine, client: ClientSession) -> None:
        """Decode the newest picture of a session, in a decoder thread. A picture that cannot be decoded is answered at once."""
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
        """A browser showed the answer ``number``, ``glass_ms`` milliseconds after the change that asked for it."""
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
        """Make this thread's engine; None if that fails. One at a time: each is measured on an idle machine."""
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
        """Wait for batches and yield each, until the server stops."""
        while True:
            with self._lock:
                while self.state in ("warming", "ready") and not (batch := self._next(engine)):
                    self._lock.wait(self._next_rest_s())
                if self.state != "ready":
                    return
            yield batch

    def _next(self, engine: Engine) -> Batch:
        """The batch to draw now: dispatched requests, or else one request of a session at rest. It may be empty."""
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
        """The newest request of the session that has rested for longest, drawn with nothing shed.

        While other sessions draw, it must fit into the budget of a streamed picture, so that theirs are not late.
        """
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
        """Seconds until the next session at rest may be served; None if there is none."""
        resting = [client.latest_s for client in self._clients.values() if client.rest]
        if not resting:
            return None
        wait_s = min(resting) + REST_S - self._clock()
        return wait_s if 0 < wait_s < REST_S else REST_S

    @staticmethod
    def _choices(engine: Engine, request: DrawRequest) -> Choices:
        """What the budget may choose from for this request; pinned values are the only choice."""
        choices = replace(engine.choices, steps=(request.steps,) if request.steps else engine.steps_for(request))
        if request.size in choices.sizes:
            choices = replace(choices, sizes=(request.size,))
        return replace(choices, encoders=(request.encoder,)) if request.encoder else choices

    def _plan(self, engine: Engine, client: ClientSession, request: DrawRequest) -> Plan:
        """How to draw this request: pinned values stay, and the budget decides the others."""
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
        """Record the time of every stage beside its cost on an idle machine."""
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
            verdict.add_done_callback(lambda _: self._wake_threads())
        return verdict

    def _wake_threads(self) -> None:
        """Wake the threads: another session may be ready now."""
        with self._lock:
            self._lock.notify_all()

    def _when_judged(self, verdict: Future[str | None] | None, finish: Callable[[str | None], None]) -> None:
        """Call ``finish`` with the verdict on the prompt: now if it is there, else later from the thread that judges."""
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
        """Make the answer and put it into the outbox of its session."""
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
        header = picture_header(task, result, served_ms, engine.stamper.state)
        self._deliver(task, DrawResponse(request, header, result, task.wait_ms + task.given_ms + served_ms))

    def _stop(self, client: ClientSession, request: DrawRequest, reason: str) -> None:
        """Hold back this session's pictures until its prompt changes: the filter refused one."""
        with self._lock:
            client.stopped, client.stopped_prompt, client.rest = reason, request.prompt, None
            client.history.clear()

    def _deliver(self, task: FrameTask, answer: DrawResponse) -> None:
        """Put an answer into the outbox over an older one. An answer older than the newest is dropped and counted."""
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
