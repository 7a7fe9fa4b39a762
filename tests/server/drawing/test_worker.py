"""The engine and its thread, with a whole tiny model: what is drawn, in which turn, and what becomes of broken requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.inference.budget import Budget, Plan
from fewstep.inference.steady import Smoother, flicker
from fewstep.inference.timings import STAGES
from fewstep.modality.image import to_uint8
from fewstep.provenance import SpreadSpectrum
from fewstep.server.drawing.client_session import ClientSession, DrawResponse, History, HistoryEntry
from fewstep.server.drawing.engine import Engine, EngineOptions
from fewstep.server.drawing.frame import Drawn, Job
from fewstep.server.drawing.pool import Pool
from fewstep.server.drawing.provenance import PictureFacts, Stamper
from fewstep.server.drawing.safety import VERDICTS_BYTES, Moderation
from fewstep.server.drawing.worker import REPLAN_S, REST_S, Open, Worker
from fewstep.server.metrics import Metrics
from fewstep.server.sessions.scheduler import Session
from fewstep.server.wire import images as wire
from fewstep.server.wire.protocol import RAW, DrawRequest, Part, ProtocolError
from serving_helpers import SIZE, tiny_pipeline, until


def picture(seed: int = 0, size: int = SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), np.uint8)


def raw(name: str, pixels: np.ndarray) -> Part:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return Part(name, RAW, np.concatenate([pixels, alpha], -1).tobytes(), pixels.shape[1], pixels.shape[0])


def plan(steps: int = 1, encoder: str = "png", size: int = SIZE) -> Plan:
    return Plan(steps, size, "eager", encoder, 0.0, True)


def cold_engine(
    report: object = None,
    of: type[Engine] = Engine,
    batches: tuple[int, ...] = (1, 2, 4),
    clock: Callable[[], float] = time.perf_counter,
) -> Engine:
    pipeline = tiny_pipeline()
    return of(pipeline, Stamper(pipeline.card), EngineOptions(backends=("eager",), batches=batches), clock)


class Ticking:
    """A clock that a busy machine cannot disturb: every look at it takes a quarter of a millisecond, nothing else takes time."""

    def __init__(self) -> None:
        self._lock, self._now = threading.Lock(), 0.0

    def __call__(self) -> float:
        with self._lock:
            self._now += 0.000_25
            return self._now

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now += seconds


@pytest.fixture(scope="module")
def engine() -> Engine:
    made = cold_engine()
    made.warm_up(lambda what: None)
    return made


def draw(engine: Engine, request: DrawRequest, steps: int = 1, **options: object) -> Drawn:
    drawn = engine.draw([Job(request, "png", **options)], plan(steps))[0]  # type: ignore[arg-type]
    assert isinstance(drawn, Drawn), drawn
    return drawn


def test_it_draws_what_the_pipeline_draws(engine: Engine):
    for steps in (1, 4):
        drawn = draw(engine, DrawRequest(1, prompt="a red heart", seed=5), steps)
        with torch.inference_mode():
            media = tiny_pipeline().draw("a red heart", steps=steps, seed=5)[0]
        expected = to_uint8(media).permute(1, 2, 0).numpy()
        assert np.abs(drawn.pixels.astype(int) - expected).max() <= 1
        assert drawn.steps == steps
        assert set(drawn.stages) == {"decode", "text", "codec_in", "network", "codec_out", "watermark", "encode"}
        assert drawn.stages["network"] > 0


def test_every_frame_carries_the_mark_and_saved_pictures_are_made_from_clean_pixels(engine: Engine):
    drawn = draw(engine, DrawRequest(1, prompt="the sun", seed=2))
    sent = wire.decode(Part("image", "image/png", drawn.data), 10**6)
    assert not np.array_equal(sent, drawn.pixels)
    assert np.array_equal(sent, engine.stamper.frame(drawn.pixels))
    mark = SpreadSpectrum()
    assert mark.detect(sent).score > mark.detect(drawn.pixels).score + 1
    off = Stamper(engine.card, on=False)
    assert off.frame(drawn.pixels) is drawn.pixels
    assert off.state == {"watermark": False, "credentials": False}
    assert off.file(drawn.pixels, PictureFacts(1, 2, "x")) == wire.encode(drawn.pixels, "png")


def test_a_batch_gives_everybody_their_own_picture(engine: Engine):
    requests = [
        DrawRequest(i, prompt=p, seed=s) for i, (p, s) in enumerate([("a cat", 1), ("the moon", 2), ("a cat", 3), ("a cat", 1)])
    ]
    together = engine.draw([Job(request, "png") for request in requests], plan(2))
    for request, drawn in zip(requests, together):
        assert isinstance(drawn, Drawn)
        assert np.abs(drawn.pixels.astype(int) - draw(engine, request, 2).pixels).max() <= 1
    assert np.array_equal(together[0].pixels, together[3].pixels)  # type: ignore[union-attr]
    assert not np.array_equal(together[0].pixels, together[1].pixels)  # type: ignore[union-attr]


def test_one_broken_picture_spoils_no_batch(engine: Engine):
    good = DrawRequest(1, "image", "a cat", image=raw("image", picture()), strength=0.5)
    bad = replace(good, image=Part("image", "image/jpeg", b"\xff\xd8 nonsense"))
    first, broken, last = engine.draw([Job(good, "png"), Job(bad, "png"), Job(good, "png")], plan())
    assert isinstance(first, Drawn)
    assert isinstance(last, Drawn)
    assert np.array_equal(first.pixels, last.pixels)
    assert isinstance(broken, ProtocolError)
    assert broken.code == "picture"
    assert all(isinstance(a, ProtocolError) for a in engine.draw([Job(bad, "png")], plan()))


class Failing(Engine):
    """Some requests meet an exception on their way, whichever stage it is that they name."""

    @property
    def stamper(self) -> Any:
        return self._hurt

    @stamper.setter
    def stamper(self, stamper: Stamper) -> None:
        class Hurt(Stamper):
            def frame(self, pixels: np.ndarray) -> np.ndarray:
                if pixels[0, 0].tolist() == [1, 2, 3]:
                    raise RuntimeError("the mark's own fault")
                return super().frame(pixels)

        self._hurt = Hurt(stamper.card)

    def _cond(self, request: DrawRequest) -> Any:
        if request.prompt == "cannot be read":
            raise KeyError("token")
        return super()._cond(request)

    def _sound(self, latents: torch.Tensor, pixels: np.ndarray, finite: bool) -> Any:
        if latents[0, 0, 0] == 7:
            pixels[0, 0] = (1, 2, 3)
        return super()._sound(latents, pixels, finite)


@pytest.mark.parametrize("stage", ["read", "draw", "NaN", "mark"])
def test_an_exception_costs_its_own_request_alone(stage: str, monkeypatch: pytest.MonkeyPatch):
    engine = cold_engine(of=Failing)
    good = DrawRequest(1, prompt="a cat", seed=5)
    bad = replace(good, prompt="cannot be read") if stage == "draw" else replace(good, seed=6)
    given = None
    if stage == "read":
        def broken(*_: object, **__: object) -> None:
            raise IndexError("a decoder's own fault")

        monkeypatch.setattr(wire, "decode", broken)
        given = engine.prepare(DrawRequest(1, "image", "a cat", image=raw("image", picture())))
    latents = engine._pipeline.latents

    def hurt(request: Any) -> torch.Tensor:
        found = latents(request)
        for row, seed in zip(found, request.seeds):
            if seed == 6 and stage in ("NaN", "mark"):
                row[0, 0, 0] = float("nan") if stage == "NaN" else 7
        return found

    monkeypatch.setattr(engine._pipeline, "latents", hurt)
    first, broken_one, last = engine.draw([Job(good, "png"), Job(bad, "png", given=given), Job(good, "png")], plan())
    assert isinstance(first, Drawn)
    assert isinstance(last, Drawn)
    assert np.array_equal(first.pixels, last.pixels)
    assert isinstance(broken_one, ProtocolError)
    assert broken_one.code == ("picture" if stage == "read" else "internal")
    assert len(str(broken_one)) > 20


def test_numbers_that_overflow_in_the_decoder_are_no_black_picture(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """NaN becomes black when it becomes bytes; a picture that is meant to be black stays one."""
    latents, black = torch.zeros(4, 16, 16), np.zeros((SIZE, SIZE, 3), np.uint8)
    assert engine._sound(latents, black, True) is black
    decode = engine._codec.codec.codec.decode
    monkeypatch.setattr(engine._codec.codec.codec, "decode", lambda x: decode(x) * float("nan"))
    refused = engine._sound(latents, black, True)
    assert isinstance(refused, ProtocolError)
    assert "overflowed" in str(refused)


def test_strength_is_mapped_onto_the_students_own_times(engine: Engine):
    """steps x strength < 1 cannot happen: there is always a time to start from."""
    given = raw("image", picture())
    base = DrawRequest(1, "image", "a cat", image=given)
    for strength, steps, at, taken in [(0.01, 4, 0.25, 1), (0.4, 4, 0.5, 2), (0.6, 1, 0.5, 1), (1.0, 4, 1.0, 4)]:
        drawn = draw(engine, replace(base, strength=strength), steps)
        assert (drawn.strength, drawn.steps) == (at, taken)


def test_little_strength_changes_little(engine: Engine):
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    given = np.stack([8 * x, 8 * y, 255 - 8 * x], -1).astype(np.uint8)
    requests = [DrawRequest(1, "image", "a cat", image=raw("image", given), strength=s) for s in (0.25, 0.5, 1.0)]
    results = [draw(engine, request).pixels.astype(float) for request in requests]
    assert len({r.tobytes() for r in results}) == 3


def test_a_still_picture_does_not_flicker(engine: Engine):
    """The noise is the seed's, so the same frame gives the same picture, to the last bit, marks included."""
    request = DrawRequest(1, "image", "a cat", seed=3, image=raw("image", picture()), strength=0.5)
    smoother = Smoother()
    frames, flickers = [], []
    for _ in range(3):
        frames.append(draw(engine, request, 2, smoother=smoother))
        smoother.measure()
        flickers.append(smoother.flicker)
    assert len({f.data for f in frames}) == 1
    assert flickers == [None, 0.0, 0.0]
    draw(engine, replace(request, seed=4), 2, smoother=smoother)
    smoother.measure()
    assert smoother.flicker is not None
    assert smoother.flicker > 0.01


def test_inpainting_keeps_what_is_not_brushed(engine: Engine):
    given, mask = picture(), np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[8:24, 8:24] = 255
    request = DrawRequest(1, "inpaint", "a cat", image=raw("image", given), mask=raw("mask", mask), strength=0.75)
    drawn = draw(engine, request, 4)
    outside = mask[..., 0] == 0
    assert np.abs(drawn.pixels.astype(int) - given)[outside].max() <= 1
    assert np.abs(drawn.pixels.astype(int) - given)[~outside].mean() > 10


def test_prompts_blend(engine: Engine):
    a, b = (draw(engine, DrawRequest(1, prompt=p)).pixels.astype(float) for p in ("a red heart", "blue cat"))
    mixed = {
        share: draw(engine, DrawRequest(1, prompt="a red heart", blend_prompt="blue cat", blend=share)).pixels.astype(float)
        for share in (0.0, 0.5, 1.0)
    }
    assert np.abs(mixed[0.0] - a).max() <= 1
    assert np.abs(mixed[1.0] - b).max() <= 1
    apart = np.abs(a - b).mean()
    assert 0 < np.abs(mixed[0.5] - a).mean() < apart
    assert 0 < np.abs(mixed[0.5] - b).mean() < apart


def test_requests_of_one_kind_can_share_a_call_and_others_cannot(engine: Engine):
    text = DrawRequest(1, prompt="a")
    image = DrawRequest(1, "image", "a", image=raw("image", picture()), strength=0.5)
    assert engine.kind(text, plan()) == engine.kind(replace(text, prompt="b", seed=9), plan(encoder="jpeg"))
    assert engine.kind(image, plan()) == engine.kind(replace(image, strength=0.55), plan())
    kinds = [engine.kind(text, plan()), engine.kind(text, plan(2)), engine.kind(image, plan())]
    kinds.append(engine.kind(replace(image, strength=1.0), plan()))
    assert len(set(kinds)) == 4


def test_idle_costs_are_known_for_every_choice(engine: Engine):
    assert engine.choices.steps == (4, 2, 1)
    assert engine.choices.backends == ("eager",)
    assert set(engine.costs.network) == {("eager", SIZE)}
    assert set(engine.costs.encode) == {(e, SIZE) for e in ("png", "webp", "jpeg")}
    for cost in (*engine.costs.network.values(), *engine.costs.encode.values(), engine.costs.codec_in[SIZE]):
        assert cost > 0
    assert set(engine.costs.sent) == set(engine.costs.encode)
    assert min(engine.costs.sent.values()) > 100


def test_batches_that_leave_a_single_picture_out_are_refused():
    with pytest.raises(ValueError, match="1 is one of them"):
        EngineOptions(batches=(2, 4))


def test_flicker_looks_only_where_nothing_moved():
    still, out = picture(0), picture(1)
    assert flicker(still, still, out, out) == 0
    other = out.copy()
    other[:4] = 255 - other[:4]
    moved = still.copy()
    moved[:5] = 255 - moved[:5]
    assert flicker(still, still, out, other) > 0
    assert flicker(still, moved, out, other) == 0  # it changed only where the input did
    assert flicker(still, 255 - still, out, other) is None


def test_smoothing_is_an_exponential_mean_that_forgets_at_a_cut():
    smooth, dark, light = Smoother(), np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    assert np.array_equal(smooth(dark, dark, 0.5), dark)
    assert smooth(dark, light, 0.5).max() == 100
    assert smooth(dark, light, 0.5).max() == 150
    assert smooth(light, light, 0.5).max() == 200  # the input was cut
    assert smooth(light, dark, 0.0).max() == 0  # the knob is at zero
    assert smooth(light, light, 0.5).max() == 200


def test_smoothing_goes_on_until_it_has_converged():
    """Sixty frames of nine tenths leave nothing of 255 levels; then it is what was drawn, to the bit."""
    smooth, given, light = Smoother(), np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    smooth(given, given, 0.9)
    shown = []
    for _ in range(70):
        shown.append(int(smooth(given, light, 0.9).max()))
        assert smooth.settled == (shown[-1] == 255)
    assert shown[:2] == [26, 48], "255 (1 - 0.9^n)"
    assert shown == sorted(shown)
    assert shown.index(255) == 59, "0.9^n 255 < 1/2 from n = 60 on"


def test_smoothing_never_mixes_two_recipes(engine: Engine):
    """What is shown after another prompt, seed, strength, blend, mask or number of steps is that picture alone."""
    mask = np.zeros((SIZE, SIZE, 3), np.uint8)
    mask[8:24, 8:24] = 255
    base = DrawRequest(1, "image", "a cat", seed=3, image=raw("image", picture()), strength=0.5, smoothing=0.9)
    changes: list[tuple[dict[str, Any], int]] = [
        ({"prompt": "the sun"}, 2),
        ({"seed": 4}, 2),
        ({"strength": 1.0}, 2),
        ({"blend_prompt": "the moon", "blend": 0.5}, 2),
        ({"blend_prompt": "the moon", "blend": 0.6}, 2),
        ({"task": "inpaint", "mask": raw("mask", mask)}, 2),
        ({"task": "inpaint", "mask": raw("mask", 255 - mask)}, 2),
        ({}, 1),
    ]
    smoother = Smoother()
    for change, steps in changes:
        draw(engine, base, 2, smoother=smoother)
        mixed = draw(engine, replace(base, image=raw("image", picture(5) // 8 + picture() // 8 * 7)), 2, smoother=smoother)
        assert not mixed.settled, "another input is mixed in little by little"
        request = replace(base, **change)
        drawn, alone = draw(engine, request, steps, smoother=smoother), draw(engine, replace(request, smoothing=0.0), steps)
        assert drawn.settled
        assert drawn.data == alone.data, change
    moved = replace(base, image=raw("image", picture(5) // 8 + picture() // 8 * 7))
    draw(engine, base, 2, smoother=smoother)
    alone = draw(engine, moved, 2, smoother=Smoother())
    drawn = draw(engine, moved, 2, smoother=smoother)
    assert np.array_equal(drawn.pixels, alone.pixels), "what is kept for a file holds no older input"
    assert drawn.data != alone.data
    for _ in range(70):
        drawn = draw(engine, moved, 2, smoother=smoother)
    assert drawn.settled
    assert drawn.data == alone.data, "and what is shown comes to it"


def test_prompts_are_remembered_within_bytes_and_drawn_the_same():
    pipeline = tiny_pipeline()
    prompts = [f"a cat {n}" for n in range(40)]
    first = [tiny_pipeline().encode([prompts[0]])]
    pipeline.encode([prompts[0]])
    each = pipeline._encoded.nbytes + 10
    pipeline._encoded.limit = 10 * each
    again = [pipeline.encode([p]) for p in prompts]
    assert 10 <= len(pipeline._encoded) <= 11
    assert pipeline._encoded.nbytes <= 10 * each
    assert each >= first[0].tokens.nbytes
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again))
    together = pipeline.encode(prompts)  # more than are remembered
    assert torch.equal(together.tokens[0], first[0].tokens[0])
    assert len(together) == 40
    pipeline._looked_at.limit = 5000
    for prompt in prompts:
        pipeline.unread(prompt)
    assert pipeline._looked_at.nbytes <= 5000


def test_verdicts_are_remembered_within_bytes():
    moderation = Moderation(Judge())
    for n in range(3000):
        moderation.judge_prompts(f"{n} " * 100).result(60)
    assert moderation._known.nbytes <= VERDICTS_BYTES
    assert len(moderation._known) < 3000
    moderation.close()


def test_what_is_handed_in_is_done_in_fair_turn_and_one_address_never_holds_all_threads():
    pool, go, begun = Pool(2, "test", most=10), threading.Event(), []

    def work(name: str) -> str:
        begun.append(name)
        assert go.wait(60)
        return name

    greedy = [pool.submit(("greedy", str(n % 2)), partial(work, f"greedy {n}")) for n in range(10)]
    until(lambda: len(begun) == 1)
    honest = pool.submit(("honest", "a"), partial(work, "honest"))
    until(lambda: len(begun) == 2)
    assert begun[1] == "honest"
    with pytest.raises(ProtocolError, match="try again"):
        [pool.submit(("greedy", "x"), partial(work, "more")) for _ in range(3)]
    assert greedy[-1].cancel()
    go.set()
    assert honest.result(60) == "honest"
    assert [one.result(60) for one in greedy[:-1]] == [f"greedy {n}" for n in range(9)]
    broken = pool.submit(("a",), lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        broken.result(60)
    assert pool.submit(("a",), lambda: 1).result(60) == 1
    pool.close()
    assert pool.submit(("a",), lambda: 1).cancelled()


def test_kept_pictures_are_bounded():
    kept = History(3 * 300)
    for i in range(10):
        kept.put(i, HistoryEntry(np.zeros((10, 10, 3), np.uint8), PictureFacts(1, i, "")))
    assert len(kept) == 3
    assert kept.get(6) is None
    assert kept.get(9).facts.seed == 9
    kept.put(9, HistoryEntry(np.zeros((10, 10, 3), np.uint8), PictureFacts(2, 9, "")))
    assert len(kept) == 3
    kept.clear()
    assert len(kept) == 0


# the thread


class Client:
    """A client session, with the answers it got."""

    def __init__(self, worker: Worker, name: str, target_ms: float = 60_000.0) -> None:
        self.worker, self.answers, self.woken = worker, [], threading.Event()
        self.state = ClientSession(Session(name), self.woken.set, Budget(target_ms), History(10**6))
        worker.join(self.state)

    def collect(self) -> DrawResponse | None:
        self.woken.clear()
        held = self.worker.collect(self.state)
        if held is not None:
            self.answers.append(held.value)
        return held.value if held else None

    def draw(self, request: DrawRequest) -> DrawResponse:
        self.worker.submit(self.state, request)
        assert self.woken.wait(60)
        answer = self.collect()
        assert answer is not None
        return answer


@pytest.fixture
def start(engine: Engine) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def begin(
        moderation: Moderation | None = None,
        opens: Sequence[Open] = (lambda report: engine,),
        clock: Callable[[], float] = time.perf_counter,
    ) -> Worker:
        worker = Worker(opens, Metrics(clock), moderation, clock)
        workers.append(worker)
        worker.start()
        until(lambda: worker.state != "warming")
        assert worker.state == "ready"
        return worker

    yield begin
    for worker in workers:
        worker.stop()
        assert worker.state == "stopped"


def test_a_worker_answers_and_says_how(start: Callable[..., Worker]):
    worker = start()
    answer = Client(worker, "a").draw(DrawRequest(7, prompt="a cat", seed=3, sent_ms=12.5))
    header = answer.header
    assert (header["type"], header["id"], header["seed"], header["sent_ms"]) == ("picture", 7, 3, 12.5)
    assert (header["steps"], header["shed"], header["fits"]) == (4, [], True)
    assert {"network", "codec_out", "wait", "watermark", "encode"} <= set(header["stages_ms"])
    assert header["server_ms"] == pytest.approx(answer.server_ms, abs=0.01)
    until(lambda: worker.metrics.total("drawn") == 1)  # counted when the picture is on its way
    assert worker.metrics.timings().factor("network") > 0


def test_the_stages_add_up_to_the_time_on_the_server(start: Callable[..., Worker]):
    clock = Ticking()
    worker = start(opens=[partial(cold_engine, clock=clock)], clock=clock)
    client = Client(worker, "a")
    for number, size in enumerate((SIZE, 10 * SIZE)):  # a new prompt, and a picture that takes time to take in
        request = DrawRequest(number, "image", f"cat {number}", image=raw("image", picture(1, size)), strength=0.5, smoothing=0.5)
        header = client.draw(request).header
        assert set(header["stages_ms"]) <= set(STAGES)
        assert header["stages_ms"]["other"] > 0
        assert sum(header["stages_ms"].values()) == pytest.approx(header["server_ms"], abs=0.06)
    load = worker.metrics.timings().factor("other")
    assert 0.5 < load < 2, "the same looks at the clock as when it was measured"
    assert worker.engine.costs.other[SIZE] > 0


def test_new_prompts_are_charged_to_whoever_brings_them(start: Callable[..., Worker]):
    """Reading a new prompt takes 20 ms of this clock; a remembered one is not read again."""
    clock = Ticking()

    def reads_slowly(report: object) -> Engine:
        engine = cold_engine(clock=clock)
        engine._pipeline.model.conditioner.register_forward_pre_hook(lambda *_: clock.skip(0.02))
        return engine

    worker = start(opens=[reads_slowly], clock=clock)
    writer, camera = Client(worker, "writer", 500.0), Client(worker, "camera", 500.0)
    for number in range(8):
        writer.draw(DrawRequest(number, prompt=f"a cat {number}", steps=1))
        camera.draw(DrawRequest(number, prompt="a cat", seed=number, steps=1))
    now = clock()
    assert writer.state.text_ms.at(0.5, now) == pytest.approx(20, abs=1)
    assert camera.state.text_ms.at(0.5, now) < 1
    clock.skip(REPLAN_S)
    expected = {c: c.draw(DrawRequest(9, prompt="a cat", steps=1)).header["expected_ms"] for c in (writer, camera)}
    assert expected[writer] > expected[camera] + 10


def test_a_slow_network_is_felt_by_its_own_user_and_by_the_bytes(start: Callable[..., Worker]):
    clock = Ticking()
    worker = start(opens=[partial(cold_engine, clock=clock)], clock=clock)
    far, near = Client(worker, "far", 500.0), Client(worker, "near", 500.0)
    for number in range(4):
        for client, wire_ms in ((far, 450.0), (near, 1.0)):
            answer = client.draw(DrawRequest(number, prompt="a cat", encoder="png"))
            worker.seen(client.state, number, answer.server_ms + wire_ms)
    sent = worker.engine.costs.sent
    assert sent["png", SIZE] == pytest.approx(len(answer.drawn.data), rel=0.5)
    far_ms = far.state.wire_estimate.wire_ms(sent, clock())
    assert far_ms["png", SIZE] == pytest.approx(450, abs=0.01)
    assert far_ms["jpeg", SIZE] == pytest.approx(450 * min(1, sent["jpeg", SIZE] / sent["png", SIZE]), abs=0.1)
    assert near.state.wire_estimate.wire_ms(sent, clock())["png", SIZE] == pytest.approx(1, abs=0.01)
    clock.skip(REPLAN_S)
    assert far.draw(DrawRequest(5, prompt="a cat", encoder="png")).header["expected_ms"] > 450
    assert near.draw(DrawRequest(5, prompt="a cat", encoder="png")).header["expected_ms"] < 450


def test_pinned_choices_are_kept_and_a_tight_budget_sheds_the_rest(start: Callable[..., Worker]):
    client = Client(start(), "a", target_ms=0.001)
    tight = client.draw(DrawRequest(1, prompt="a cat")).header
    assert (tight["steps"], tight["fits"]) == (1, False)
    assert "steps" in tight["shed"]
    pinned = client.draw(DrawRequest(2, prompt="a cat", steps=2, encoder="webp")).header
    assert (pinned["steps"], pinned["encoder"], pinned["shed"]) == (2, "webp", [])
    patient = client.draw(DrawRequest(3, prompt="a cat", target_ms=60_000)).header
    assert (patient["steps"], patient["shed"]) == (4, [])


class Stepped(Engine):
    """Draws a picture for every permit, and says when it waits for one."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.permits, self.waits, self.drawn = threading.Semaphore(0), threading.Semaphore(0), list[DrawRequest]()
        self.begun = 0

    def draw(self, jobs: Sequence[Job], plan: Plan) -> list[Drawn | ProtocolError]:
        if jobs[0].request.id:  # 0 is what it warms up with
            self.begun += 1
            self.waits.release()
            assert self.permits.acquire(timeout=60)
            self.drawn += [job.request for job in jobs]
        return super().draw(jobs, plan)


@pytest.fixture
def stepped(start: Callable[..., Worker]) -> Iterator[tuple[Worker, Stepped]]:
    worker = start(opens=[partial(cold_engine, of=Stepped, batches=(1,))])
    engine = worker.engine
    assert isinstance(engine, Stepped)
    yield worker, engine
    engine.permits.release(1000)  # so that it can stop


@pytest.fixture
def stepped_on_a_clock(start: Callable[..., Worker]) -> Iterator[tuple[Worker, Stepped, Ticking]]:
    clock = Ticking()
    worker = start(opens=[partial(cold_engine, of=Stepped, batches=(1,), clock=clock)], clock=clock)
    engine = worker.engine
    assert isinstance(engine, Stepped)
    yield worker, engine, clock
    engine.permits.release(1000)  # so that it can stop


def test_the_newest_wins_and_what_it_overtakes_is_counted(stepped: tuple[Worker, Stepped]):
    worker, engine = stepped
    client = Client(worker, "a")
    worker.submit(client.state, DrawRequest(1, prompt="a cat", seed=1))
    assert engine.waits.acquire(timeout=60)
    for number in range(2, 200):
        worker.submit(client.state, DrawRequest(number, prompt="a cat", seed=number))
    engine.permits.release(2)
    while not client.answers or client.answers[-1].request.id < 199:
        assert client.woken.wait(60)
        client.collect()
    assert [request.id for request in engine.drawn] == [1, 199]
    until(lambda: worker.metrics.total("drawn") == 2)
    assert (worker.metrics.total("overwritten"), worker.metrics.total("asked")) == (197, 199)


def test_at_rest_the_newest_input_is_drawn_once_more_with_nothing_shed(start: Callable[..., Worker]):
    """A budget that nothing fits sheds all there is; half a second later all of it comes back, once."""
    clock = Ticking()
    client = Client(start(opens=[partial(cold_engine, clock=clock)], clock=clock), "a", target_ms=0.001)
    first = client.draw(DrawRequest(1, prompt="a cat", seed=3, refine=True))
    assert (first.header["steps"], first.header["shed"], "refined" in first.header) == (1, ["steps"], False)
    client.woken.clear()
    clock.skip(REST_S)
    assert client.woken.wait(60)
    second = client.collect()
    header = second.header
    assert (header["id"], header["refined"], header["steps"], header["encoder"], header["shed"]) == (1, True, 4, "png", [])
    assert header["stages_ms"].get("wait", 0) < 100, "what it rested for is no waiting"
    alone = draw(client.worker.engine, DrawRequest(1, prompt="a cat", seed=3), 4)
    assert np.array_equal(second.drawn.pixels, alone.pixels)
    assert np.array_equal(client.state.history.get(1).pixels, alone.pixels), "what is saved is what is shown"
    clock.skip(10 * REST_S)
    other = Client(client.worker, "b")
    other.draw(DrawRequest(1, prompt="a dog"))  # whatever was due came before this
    assert client.draw(DrawRequest(2, prompt="a cat")).request.id == 2
    clock.skip(10 * REST_S)
    other.draw(DrawRequest(2, prompt="a dog"))
    assert client.collect() is None, "never twice, and never for who did not want it"
    assert client.worker.metrics.total("refined") == 1


def test_a_stream_that_was_smoothed_comes_to_its_own_end_at_rest(start: Callable[..., Worker]):
    clock = Ticking()
    client = Client(start(opens=[partial(cold_engine, clock=clock)], clock=clock), "a")
    base = DrawRequest(0, "image", "a cat", strength=0.5, smoothing=0.8, refine=True)
    moved = np.roll(picture() // 4, 8, 1)  # not so much that a new scene begins
    requests = [replace(base, id=n, image=raw("image", given)) for n, given in ((1, picture() // 4), (2, moved))]
    alone = draw(client.worker.engine, replace(requests[1], smoothing=0.0), 4)
    assert client.draw(requests[0]).header["settled"]
    assert not client.draw(requests[1]).header["settled"]
    client.woken.clear()
    clock.skip(REST_S)
    assert client.woken.wait(60)
    refined = client.collect()
    assert (refined.header["refined"], refined.header["settled"], refined.drawn.data) == (True, True, alone.data)


def test_a_newer_input_puts_off_the_better_answer_to_the_old(stepped_on_a_clock: tuple[Worker, Stepped, Ticking]):
    """Both ways: what has not begun is not begun, and what is being drawn is not shown."""
    worker, engine, clock = stepped_on_a_clock
    client = Client(worker, "a", target_ms=0.001)
    engine.permits.release(2)
    client.draw(DrawRequest(1, prompt="a cat", refine=True))
    clock.skip(REST_S / 2)
    client.draw(DrawRequest(2, prompt="a cat", refine=True))
    clock.skip(REST_S)
    until(lambda: len(engine.drawn) == 2 and engine.begun == 3)
    worker.submit(client.state, DrawRequest(3, prompt="a cat"))
    engine.permits.release(2)
    until(lambda: client.collect() is not None)
    assert [request.id for request in engine.drawn] == [1, 2, 2, 3]
    assert [(a.request.id, a.header.get("refined", False)) for a in client.answers] == [(1, False), (2, False), (3, False)]
    assert worker.metrics.total("refined") == 0


def test_a_better_answer_makes_nobody_elses_late(stepped_on_a_clock: tuple[Worker, Stepped, Ticking]):
    """While another session draws, a session at rest waits if its best takes longer than its own target: here it always does."""
    worker, engine, clock = stepped_on_a_clock
    resting, busy = Client(worker, "resting", target_ms=0.001), Client(worker, "busy")
    engine.permits.release(100)
    resting.draw(DrawRequest(1, prompt="a cat", refine=True))
    for number in range(2, 8):
        busy.draw(DrawRequest(number, prompt="a dog"))
        clock.skip(REST_S / 2)
    assert [request.id for request in engine.drawn] == [1, 2, 3, 4, 5, 6, 7]
    clock.skip(REST_S)
    until(lambda: resting.collect() is not None)
    assert resting.answers[-1].header["refined"]


def test_a_client_that_does_not_read_holds_one_picture(start: Callable[..., Worker]):
    worker = start()
    sleeper, reader = Client(worker, "sleeper"), Client(worker, "reader")
    for number in range(1, 6):
        sleeper.woken.clear()
        worker.submit(sleeper.state, DrawRequest(number, prompt="a cat"))
        assert sleeper.woken.wait(60)
        reader.draw(DrawRequest(number, prompt="a cat"))
    assert worker.metrics.total("superseded") == 4
    assert sleeper.collect().request.id == 5
    assert sleeper.collect() is None


def test_pictures_are_decoded_beside_the_drawing_thread(stepped: tuple[Worker, Stepped], monkeypatch: pytest.MonkeyPatch):
    """While one is drawn another is decoded, and a third that takes for ever to decode holds up nobody."""
    worker, engine = stepped
    slow, quick, other = (Client(worker, name) for name in ("slow", "quick", "other"))
    go, decode, threads = threading.Event(), wire.decode, set()

    def decoding(part: Part, *given: Any) -> np.ndarray:
        threads.add(threading.current_thread().name)
        if part.width == 7:
            assert go.wait(60)
        return decode(part, *given)

    monkeypatch.setattr(wire, "decode", decoding)
    base = DrawRequest(1, "image", "a cat", image=raw("image", picture()), strength=0.5)
    worker.submit(slow.state, replace(base, image=raw("image", picture(0, 7))))
    engine.permits.release(10)
    assert quick.draw(base).header["type"] == "picture"
    assert other.draw(DrawRequest(1, prompt="a cat")).header["type"] == "picture"
    header = quick.draw(replace(base, id=2)).header
    assert header["stages_ms"]["decode"] > 0
    assert sum(header["stages_ms"].values()) == pytest.approx(header["server_ms"], abs=0.1)
    assert slow.collect() is None
    go.set()
    assert slow.woken.wait(60)
    assert slow.collect().header["type"] == "picture"
    assert threads <= {"fewstep-decoder-0", "fewstep-decoder-1"}


def test_the_newest_picture_wins_also_while_one_is_decoded(stepped: tuple[Worker, Stepped], monkeypatch: pytest.MonkeyPatch):
    worker, engine = stepped
    client, go, decode, decoded = Client(worker, "a"), threading.Event(), wire.decode, []

    def decoding(part: Part, *given: Any) -> np.ndarray:
        decoded.append(part.width)
        assert go.wait(60)
        return decode(part, *given)

    monkeypatch.setattr(wire, "decode", decoding)
    engine.permits.release(10)
    for number in range(8, 40):
        worker.submit(client.state, DrawRequest(number, "image", "a cat", image=raw("image", picture(0, number)), strength=0.5))
        until(lambda: decoded)  # the first has begun
    worker.submit(client.state, DrawRequest(40, prompt="a cat"))  # brings nothing, and is newer than all that is being decoded
    until(lambda: client.collect() is not None)
    go.set()
    until(lambda: not client.state.decoding)
    assert client.answers[-1].request.id == 40
    assert decoded == [8, 39]
    assert [request.id for request in engine.drawn] == [40]
    until(lambda: worker.metrics.total("overwritten") == 32)
    assert client.state.session.drops == 32


def test_single_pictures_have_one_share_together(stepped: tuple[Worker, Stepped]):
    worker, engine = stepped
    live = Client(worker, "live")
    singles = [Client(worker, f"s{n}") for n in range(6)]
    for n, client in enumerate(singles):
        worker.leave(client.state.session.id)
        session = Session(f"s{n}", ("strangers", "single"))
        client.state = ClientSession(session, client.woken.set, Budget(60_000.0), History(10**6))
        worker.join(client.state)
        worker.submit(client.state, DrawRequest(100 + n, prompt="a cat", steps=1))
    for number in range(1, 9):
        assert engine.waits.acquire(timeout=60)
        worker.submit(live.state, DrawRequest(number, prompt="a cat", steps=1))  # it always wants one more
        engine.permits.release()
    until(lambda: len(engine.drawn) == 8)
    assert [request.id < 100 for request in engine.drawn] == [False, True] * 4


def test_who_has_left_is_not_drawn(stepped: tuple[Worker, Stepped]):
    worker, engine = stepped
    busy, gone = Client(worker, "busy"), Client(worker, "gone")
    worker.submit(busy.state, DrawRequest(1, prompt="a cat"))
    assert engine.waits.acquire(timeout=60)
    worker.submit(gone.state, DrawRequest(2, prompt="a cat"))
    worker.leave("gone")
    engine.permits.release(5)
    busy.draw(DrawRequest(3, prompt="a cat"))
    until(lambda: len(engine.drawn) == 2)
    assert [request.id for request in engine.drawn] == [1, 3]


def test_sessions_are_served_in_fair_turn(stepped: tuple[Worker, Stepped]):
    """All want more than they get, and one asks less often than the others."""
    worker, engine = stepped
    clients = [Client(worker, name) for name in "abcd"]
    for number in range(1, 41):
        for i, client in enumerate(clients):
            if i or number % 3 == 1:
                worker.submit(client.state, DrawRequest(number, prompt="a cat", seed=i, steps=1))
        assert engine.waits.acquire(timeout=60)  # one is being drawn: the slots are full again before the next turn
        engine.permits.release()
    until(lambda: len(engine.drawn) == 40)
    turns = [request.seed for request in engine.drawn]
    assert turns == [0, 1, 2, 3] * 10


def test_an_error_in_drawing_is_an_answer_and_the_worker_lives_on(start: Callable[..., Worker]):
    client = Client(start(), "a")
    broken = client.draw(DrawRequest(1, "image", "x", image=Part("image", "image/png", b"nonsense")))
    assert (broken.header["type"], broken.header["code"], broken.header["id"]) == ("error", "picture", 1)
    impossible = DrawRequest(2, prompt="a cat", seed=-1)  # the protocol lets none such through
    assert client.draw(impossible).header["code"] == "internal"
    assert client.draw(DrawRequest(3, prompt="a cat")).header["type"] == "picture"


def test_what_was_pinned_while_the_model_warmed_up_is_refused_when_its_turn_comes(start: Callable[..., Worker]):
    """Nobody knew by then what may be pinned: the protocol let it through."""
    client = Client(start(), "a")
    assert client.draw(DrawRequest(1, prompt="a cat", steps=3)).header["code"] == "steps"
    refused = client.draw(DrawRequest(2, prompt="a cat", size=48)).header
    assert (refused["code"], "drawn at 32 px here, not 48" in refused["message"]) == ("size", True)
    assert client.draw(DrawRequest(3, prompt="a cat", size=SIZE)).header["size"] == SIZE


def test_a_model_that_cannot_be_opened_is_said_and_not_hidden():
    def broken(report: Callable[[str], None]) -> Engine:
        raise ValueError("there is no bundle 'x': give another")

    worker = Worker([cold_engine, broken], Metrics())
    heard = []
    failed = threading.Event()
    worker.on_state(lambda: heard.append((worker.state, worker.doing)))
    worker.on_state(lambda: failed.set() if worker.state == "failed" else None)
    worker.start()
    assert failed.wait(60)
    worker.stop()
    assert worker.engine is None
    assert heard[-2] == heard[-1] == ("failed", "there is no bundle 'x': give another")


def meeting(barrier: threading.Barrier, drawn: list[tuple[str, int]], name: str) -> Open:
    """Opens an engine that notes whom it draws, and whose first draws wait for each other."""

    class Meeting(Engine):
        def draw(self, jobs: Sequence[Job], plan: Plan) -> list[Drawn | ProtocolError]:
            if jobs[0].request.id:  # 0 is what it warms up with
                drawn.append((name, jobs[0].request.id))
            if 0 < jobs[0].request.id < 10:
                barrier.wait(60)
            return super().draw(jobs, plan)

    return partial(cold_engine, of=Meeting, batches=(1,))


def test_two_devices_draw_at_the_same_time_and_the_same(start: Callable[..., Worker]):
    """Both draws wait until the other has begun: one thread alone would break the barrier."""
    barrier, drawn = threading.Barrier(2), []
    worker = start(opens=[meeting(barrier, drawn, name) for name in ("first", "second")])
    assert worker.engine is not None
    clients = [Client(worker, name) for name in ("a", "b")]
    for client in clients:
        worker.submit(client.state, DrawRequest(1, prompt="a cat", seed=3))
    for client in clients:
        assert client.woken.wait(60)
    answers = [client.collect() for client in clients]
    assert sorted(name for name, _ in drawn) == ["first", "second"]
    pixels = [answer.drawn.pixels for answer in answers]
    assert np.array_equal(*pixels)


def test_a_session_is_on_one_device_at_a_time_so_its_pictures_come_in_order(start: Callable[..., Worker]):
    """The second device is free all along, and leaves the request alone until the first picture is done."""
    barrier, drawn = threading.Barrier(2), []
    worker = start(opens=[meeting(barrier, drawn, name) for name in ("first", "second")])
    client, other = Client(worker, "a"), Client(worker, "b")
    worker.submit(client.state, DrawRequest(1, prompt="a cat"))
    until(lambda: drawn)
    worker.submit(client.state, DrawRequest(11, prompt="a cat"))
    assert other.draw(DrawRequest(12, prompt="a cat")).drawn is not None  # the free device passed by what waits
    assert [number for _, number in drawn] == [1, 12]
    barrier.wait(60)
    until(lambda: client.collect() is None and len(client.answers) == 2)
    assert [answer.request.id for answer in client.answers] == [1, 11]


class Judge:
    def __init__(self) -> None:
        self.dark = False

    def prompt(self, text: str) -> str | None:
        if text == "broken":
            raise RuntimeError("the filter's own fault")
        return "not drawn here" if "bad" in text else None

    def picture(self, pixels: np.ndarray) -> str | None:
        return "not shown here" if self.dark else None


def test_refused_prompts_and_pictures_are_held_back(start: Callable[..., Worker]):
    judge = Judge()
    client = Client(start(Moderation(judge)), "a")
    refused = client.draw(DrawRequest(1, prompt="a bad cat"))
    assert (refused.header["code"], refused.header["message"], refused.drawn) == ("refused", "not drawn here", None)
    assert client.draw(DrawRequest(2, prompt="x", blend_prompt="bad", blend=0.5)).header["code"] == "refused"
    assert "filter failed" in client.draw(DrawRequest(3, prompt="broken")).header["message"]
    assert client.draw(DrawRequest(4, prompt="a cat")).drawn is not None
    assert len(client.state.history) == 1
    judge.dark = True
    client.draw(DrawRequest(5, prompt="a cat"))  # shown: its verdict comes beside the stream
    until(lambda: client.state.stopped)
    assert client.draw(DrawRequest(6, prompt="a cat")).header["message"] == "not shown here"
    assert len(client.state.history) == 0
    judge.dark = False
    assert client.draw(DrawRequest(7, prompt="a dog")).drawn is not None


class Slow(Judge):
    """Takes its time for one prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def prompt(self, text: str) -> str | None:
        return "waited in vain" if text == "new" and not self.go.wait(60) else None


def test_a_picture_whose_prompt_took_long_to_judge_does_not_come_after_a_newer_one(start: Callable[..., Worker]):
    judge = Slow()
    judge.go.set()
    client = Client(start(Moderation(judge)), "a")
    assert client.draw(DrawRequest(1, prompt="known")).drawn is not None
    judge.go.clear()
    client.worker.submit(client.state, DrawRequest(2, prompt="new"))
    until(lambda: client.state.session.served == 2)
    assert client.draw(DrawRequest(3, prompt="known")).request.id == 3
    judge.go.set()
    until(lambda: client.state.session.drops)
    assert (client.state.session.drops, client.collect()) == (1, None)
    until(lambda: client.worker.metrics.total("superseded") == 1)


class Counting(Judge):
    """Takes its time for every prompt, one permit each, and notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.permits, self.judged = threading.Semaphore(0), list[str]()

    def prompt(self, text: str) -> str | None:
        self.judged.append(text)
        assert self.permits.acquire(timeout=60)
        return None


def test_what_is_overwritten_is_never_judged_and_nobody_holds_the_filter(start: Callable[..., Worker]):
    """One client asks for 300 prompts while the filter looks at its first: of all these only the newest is judged, and
    another client's prompt before it."""
    judge = Counting()
    worker = start(Moderation(judge), opens=[partial(cold_engine, batches=(1,))])
    greedy, victim, silent = (Client(worker, name) for name in ("greedy", "victim", "silent"))
    worker.submit(greedy.state, DrawRequest(0, prompt="greedy 0"))
    until(lambda: judge.judged == ["greedy 0"])
    for number in range(1, 300):
        worker.submit(greedy.state, DrawRequest(number, prompt=f"greedy {number}"))
        if number < 5:
            silent.draw(DrawRequest(number))  # turns go by
            assert greedy.state.session.served == 1
    worker.submit(victim.state, DrawRequest(1, prompt="victim"))
    until(lambda: victim.state.session.served == 1)
    judge.permits.release(10)
    assert victim.woken.wait(60)
    until(lambda: (greedy.collect() or greedy).request.id == 299 if greedy.state.session.outbox.full else False)
    assert judge.judged == ["greedy 0", "victim", "greedy 299"]
    assert victim.collect().header["type"] == "picture"


def test_a_picture_filter_that_fails_goes_on_looking(start: Callable[..., Worker]):
    looked = []

    class Blinking(Judge):
        def picture(self, pixels: np.ndarray) -> str | None:
            looked.append(pixels)
            raise RuntimeError("the filter's own fault")

    client = Client(start(Moderation(Blinking())), "a")
    for number, prompt in enumerate(("a cat", "a dog", "a sun"), 1):
        client.draw(DrawRequest(number, prompt=prompt))
        until(lambda number=number: len(looked) == number)
    until(lambda: not client.worker.moderation._watching)


def test_the_picture_that_is_drawn_when_the_server_stops_is_judged_and_delivered():
    inside = threading.Event()

    class Lingering(Engine):
        def draw(self, jobs: Sequence[Job], plan: Plan) -> list[Drawn | ProtocolError]:
            if jobs[0].request.id:
                inside.set()
                time.sleep(0.3)
            return super().draw(jobs, plan)

    worker = Worker([partial(cold_engine, of=Lingering)], Metrics(), Moderation(Judge()))
    worker.start()
    client = Client(worker, "a")
    worker.submit(client.state, DrawRequest(1, prompt="a cat"))
    assert inside.wait(60)
    worker.stop()
    answer = client.collect()
    assert answer is not None
    assert answer.drawn is not None
