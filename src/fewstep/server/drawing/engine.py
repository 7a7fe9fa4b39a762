"""The torch side of the server: requests in, pictures out. Lives in the worker's thread, knows nothing of sessions.

decode -> text -> codec in -> network x steps -> codec out -> smooth -> watermark -> encode, every stage timed.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...bundle import Card
from ...diffusion import sampler
from ...inference import backend as backends
from ...inference.backend import Denoise
from ...inference.budget import Choices, Plan
from ...inference.cache import Cache
from ...inference.concepts import Concepts
from ...inference.pipeline import Pipeline, Request, blend
from ...inference.timings import Costs
from ...parts.conditioner import Unread
from ...pixels import Pixels
from ...tensors import Conditioning, Latents, Time
from ..wire import images as wire
from ..wire.protocol import ENCODERS, RAW, DrawRequest, Part, ProtocolError, check_pinned
from .codec import Pictures, TimedCodec
from .frame import Drawn, Given, Job
from .provenance import Stamper

log = logging.getLogger("fewstep.server")
Report = Callable[[str], None]


@dataclass(frozen=True)
class EngineOptions:
    """How pictures are made."""

    backends: tuple[str, ...] = ("auto",)
    """What may run the network, best first; ``auto`` takes the fastest whose pictures equal eager's, and to shed a clearly
    faster one whose pictures nearly do."""
    sizes: tuple[int, ...] = ()
    """Widths that may be drawn, best first, in the model's own shape; empty is its own alone."""
    batches: tuple[int, ...] = ()
    """Pictures that may be drawn in one call, 1 among them; empty is 1 on a CPU, where batching gains nothing, and up to
    8 on a GPU."""
    threads: int = 1
    """Threads of one network call. Two are quicker on an idle machine, and forty times slower on a busy one."""
    max_pixels: int = 1024 * 1024
    """Largest picture taken."""

    def __post_init__(self) -> None:
        if self.batches and (1 not in self.batches or min(self.batches) < 1):
            raise ValueError("batches are numbers of pictures from 1 on, and 1 is one of them: use for example 1 2 4")


class Engine:
    """A pipeline made ready to serve."""

    def __init__(
        self,
        pipeline: Pipeline,
        stamper: Stamper,
        options: EngineOptions = EngineOptions(),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.card: Card = pipeline.card
        self.stamper, self.options, self._clock = stamper, options, clock
        self.device = pipeline.device
        on_gpu = self.device.type != "cpu"
        self.batches = tuple(sorted(options.batches)) or ((1, 2, 4, 8) if on_gpu else (1,))
        self.shapes = shapes_of(pipeline, options.sizes)
        """``(height, width)`` of the pictures of every size. A size is a width: the shape is the model's own."""
        self.sizes = tuple(self.shapes)
        self._spent: dict[str, float] = defaultdict(float)
        self._networks: dict[tuple[str, tuple[int, ...]], Denoise] = {}
        self._codec = TimedCodec(pipeline.model.codec, self._spend, clock)
        self._eager = pipeline.model.denoiser
        self.count_tokens = pipeline.model.conditioner.counter()
        """Counts the tokens of a prompt that are read. Safe in other threads than the one that draws."""
        self._backend = "eager"
        self._pipeline = Pipeline(pipeline.model, self.card, self._denoise)
        guided = self.card.role != "student" and self.card.guidance_scale not in (0, 1)
        self._rows = 2 if guided else 1
        self.choices = Choices(tuple(sorted(self.card.steps, reverse=True)), self.sizes, ("eager",), ENCODERS)
        self.costs = Costs({}, {}, {})
        self.measured: list[backends.Measured] = []
        self.concepts: Concepts | None = None
        """What the model knows by name; None if its bundle has no list."""
        self._fars: Cache[str, tuple[str, ...]] = Cache(2**20)
        self.left_out: dict[str, str] = {}
        """Backends that could not be tried, and why."""

    def _spend(self, stage: str, began: float) -> None:
        """Add the time since ``began`` to a stage. On a GPU it waits until the work is done."""
        backends.wait_for(self.device)
        self._spent[stage] += 1000 * (self._clock() - began)

    def _denoise(self, x_t: Latents, t: Time, cond: Conditioning) -> Latents:
        began = self._clock()
        network = self._networks.get((self._backend, tuple(x_t.shape)), self._eager)
        x0 = network(x_t, t, cond)
        self._spend("network", began)
        return x0

    # warming up

    def warm_up(self, report: Report = log.info) -> None:
        """Compile and run everything with the shapes that will be used; leaves `choices`, `costs` and `measured`.

        To be called in the thread that will draw.
        """
        torch.set_num_threads(self.options.threads)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread: what records a graph records it there
        with torch.inference_mode():
            chosen = self._choose(report)
            self.choices = replace(self.choices, backends=chosen)
            for name in chosen:
                for size in self.sizes:
                    for n in self.batches:
                        self._compile(name, size, n)
            for size in self.sizes:
                for n in self.batches:
                    self._compile_codec(chosen[0], size, n)
            report("measuring every stage")
            self.costs = self._measure()

    def _choose(self, report: Report) -> tuple[str, ...]:
        wanted = self.options.backends
        if wanted != ("auto",):
            for name in wanted:
                self._usable(name)
            return wanted
        for name in backends.installed():
            if not backends.runs_on(backends.load(name), self.device.type):
                continue
            report(f"trying the {name} backend (the first start on a machine takes longer)")
            try:
                self.measured.append(self._try(name))
            except Exception as error:
                self.left_out[name] = (str(error) or type(error).__name__).splitlines()[0]
                log.warning("the %s backend is left out: %s", name, self.left_out[name])
        return tuple(m.name for m in backends.choose(self.measured))

    def _usable(self, name: str) -> backends.Backend:
        return backends.usable(name, self.device.type)

    def _try(self, name: str) -> backends.Measured:
        x_t, cond = self._example(self.sizes[0], 1)
        t = sampler.at(0.75, x_t)
        run = self._compile(name, self.sizes[0], 1)
        error = backends.relative_error(run(x_t, t, cond), self._eager(x_t, t, cond))
        return backends.Measured(name, backends.milliseconds(lambda: run(x_t, t, cond)), error)

    def _example(self, size: int, n: int) -> tuple[Tensor, Conditioning]:
        shape = (n * self._rows, *self._pipeline.latent_shape(self.shapes[size]))
        generator = torch.Generator().manual_seed(0)
        return torch.randn(shape, generator=generator).to(self.device), self._pipeline.encode([""] * n * self._rows)

    def _compile(self, name: str, size: int, n: int) -> Denoise:
        x_t, cond = self._example(size, n)
        key = (name, tuple(x_t.shape))
        if key not in self._networks:
            self._networks[key] = backends.compile_denoiser(self._usable(name), self._eager, x_t, cond)
        return self._networks[key]

    def _compile_codec(self, name: str, size: int, n: int) -> None:
        latents = torch.zeros(n, *self._pipeline.latent_shape(self.shapes[size]), device=self.device)
        pixels = torch.zeros(n, *self.shapes[size], 3, dtype=torch.uint8, device=self.device)
        self._codec.compile(self._usable(name), latents, pixels)

    def _measure(self) -> Costs:
        """Measure the cost of every choice on an idle machine, by drawing pictures as users' pictures are drawn."""
        network, encode, sent = {}, {}, {}
        by_size: dict[str, dict[int, float]] = defaultdict(dict)
        text = backends.milliseconds(lambda: self._pipeline.model.conditioner(["a picture of something"]))
        for size in self.sizes:
            height, width = self.shapes[size]
            picture = Part("image", RAW, bytes(height * width * 4), width, height)
            request = DrawRequest(0, "image", "", image=picture, strength=1.0)
            for name, encoder in itertools.product(self.choices.backends, self.choices.encoders):
                plan = Plan(1, size, name, encoder, 0, True)
                for n in self.batches[1:]:
                    self._drawn(plan, request, encoder, n)
                runs = [self._drawn(plan, request, encoder, 1) for _ in range(3)]
                stages = {stage: statistics.median(run.stages[stage] for run in runs) for stage in runs[0].stages}
                network[name, size], encode[encoder, size] = stages["network"], stages["encode"]
                sent[encoder, size] = float(len(runs[0].data))
                for stage, ms in stages.items():
                    by_size[stage][size] = ms
        rest = {stage: by_size[stage] for stage in ("codec_in", "codec_out", "watermark", "other")}
        return Costs(network, encode, **rest, decode=by_size["decode"][self.sizes[-1]], text=text, sent=sent)

    def _drawn(self, plan: Plan, request: DrawRequest, encoder: str, n: int) -> Drawn:
        """Draw n equal pictures; returns one, with the time of all of them."""
        given = self.prepare(request)
        assert isinstance(given, Given), "the engine's own example can be decoded"
        began = self._clock()
        drawn = self.draw([Job(request, encoder, given=given)] * n, plan)[0]
        assert isinstance(drawn, Drawn), "the engine's own example is drawn"
        return replace(drawn, stages=drawn.stages | {"other": drawn.other_ms(1000 * (self._clock() - began))})

    # drawing

    def prepare(self, request: DrawRequest) -> Given | ProtocolError:
        """Decode the picture and the mask of a request, at the largest size it may be drawn at. Any thread may; no torch."""
        began = self._clock()
        try:
            check_pinned(request, self.card.steps, self.sizes)  # of one that came before they were known
            found = []
            for part, background in ((request.image, 255), (request.mask, 0)):
                if part is not None:
                    pixels = wire.decode(part, self.options.max_pixels, background)
                    found.append(wire.fit(pixels, self.shapes[request.size or max(self.sizes)]))
        except ProtocolError as error:
            return error
        except Exception:
            return _broken("the picture could not be read", "picture")
        return Given(tuple(found), 1000 * (self._clock() - began))

    @torch.inference_mode()
    def draw(self, jobs: Sequence[Job], plan: Plan) -> list[Drawn | ProtocolError]:
        """Draw a batch of one kind in one call. A request that fails gets its error; the others get a picture."""
        self._spent.clear()
        began = self._clock()
        jobs = [job if job.given is not None else replace(job, given=self._prepared_now(job.request)) for job in jobs]
        inputs = [self._fitted(job.given, self.shapes[plan.size]) for job in jobs]
        self._spend("decode", began)
        whole = [(job, given) for job, given in zip(jobs, inputs) if not isinstance(given, ProtocolError)]
        if not whole:
            return [given for given in inputs if isinstance(given, ProtocolError)]
        try:
            found, times = self._pictures([job.request for job, _ in whole], [given for _, given in whole], plan)
        except Exception:
            if len(jobs) > 1:  # one of them is at fault, and the others are drawn without it
                return [self.draw([job], plan)[0] for job in jobs]
            return [_broken("the picture could not be drawn")]
        drawn = iter(found)
        return [
            given if isinstance(given, ProtocolError) else self._finish(job, given, next(drawn), times)
            for job, given in zip(jobs, inputs)
        ]

    def _prepared_now(self, request: DrawRequest) -> Given | ProtocolError:
        """`prepare` in the drawing thread. The stage ``decode`` counts its time, so ``ms`` is 0."""
        given = self.prepare(request)
        return replace(given, ms=0.0) if isinstance(given, Given) else given

    @staticmethod
    def _fitted(given: Given | ProtocolError | None, shape: tuple[int, int]) -> tuple[Pixels, ...] | ProtocolError:
        if isinstance(given, Given):
            return tuple(wire.fit(one, shape) for one in given.pictures)
        assert given is not None, "what was not prepared was prepared by now"
        return given

    def _pictures(
        self, requests: Sequence[DrawRequest], inputs: Sequence[tuple[Pixels, ...]], plan: Plan
    ) -> tuple[list[Pixels | ProtocolError], list[float]]:
        """Draw the pictures; returns them, or an error for each that failed, and the times that were visited."""
        began = self._clock()
        encoded = [self._cond(request) for request in requests]
        cond = encoded[0] if len(encoded) == 1 else Conditioning.cat(encoded)
        self._spend("text", began)
        batch = Request(
            [request.prompt for request in requests], [request.seed for request in requests], plan.steps, cond=cond
        )
        if inputs[0]:
            x0 = self._codec.encode(self._together([given[0] for given in inputs]))
            batch = replace(batch, x0=x0, strength=requests[0].strength)
            times = self._pipeline.times_from(plan.steps, requests[0].strength)
        else:
            batch = replace(batch, size=self.shapes[plan.size])
            times = self._pipeline.times(plan.steps)
        if len(inputs[0]) > 1:
            masks = self._together([given[1] for given in inputs]).to(torch.float32).mean(-1)
            batch = replace(batch, mask=masks.unsqueeze(1) / 255)
        self._backend = plan.backend
        latents = self._pipeline.latents(batch)
        pictures = self._codec.decode(latents)
        sound = torch.isfinite(latents).flatten(1).all(1).tolist()
        return [self._sound(*one) for one in zip(latents, pictures.numpy(), sound)], list(times)

    def _sound(self, latents: Tensor, pixels: Pixels, finite: bool) -> Pixels | ProtocolError:
        """A picture, or an error if the networks gave NaN or infinity, which as bytes would be black."""
        if finite and not pixels.any():
            finite = bool(torch.isfinite(self._codec.codec.codec.decode(latents[None])).all())
        if finite:
            return pixels
        log.warning("the model gave NaN or infinity for a picture")
        return ProtocolError(
            "internal", "the model's numbers overflowed at this picture: try another prompt, seed or strength"
        )

    def _cond(self, request: DrawRequest) -> Conditioning:
        if not request.blended:
            return self._pipeline.encode([request.prompt])
        parts = [self._pipeline.encode([p]) for p in (request.prompt, request.blend_prompt)]
        return blend(parts, [1 - request.blend, request.blend])

    def _together(self, pictures: Sequence[Pixels]) -> Pictures:
        return torch.from_numpy(np.stack(pictures)).to(self.device)

    def _finish(
        self, job: Job, given: tuple[Pixels, ...], pixels: Pixels | ProtocolError, times: Sequence[float]
    ) -> Drawn | ProtocolError:
        if isinstance(pixels, ProtocolError):
            return pixels
        try:
            return self._finished(job, given, pixels, times)
        except Exception:
            return _broken("the picture could not be marked and encoded")

    def _finished(self, job: Job, given: tuple[Pixels, ...], pixels: Pixels, times: Sequence[float]) -> Drawn:
        stages = {name: self._spent[name] for name in ("decode", "text", "codec_in", "network", "codec_out")}
        given_ms = job.given.ms if isinstance(job.given, Given) else 0.0
        stages["decode"] += given_ms
        if len(given) > 1:
            pixels = composited(given[0], pixels, given[1])
        shown = pixels
        if given:
            shown = job.smoother(given[0], pixels, job.request.smoothing, _recipe(job.request, given[1:], times))
        began = self._clock()
        marked = self.stamper.frame(shown)
        between = self._clock()
        data = wire.encode(marked, job.encoder)
        stages |= {"watermark": 1000 * (between - began), "encode": 1000 * (self._clock() - between)}
        settled = job.smoother.settled if given else True
        unread, far = self._unread(job.request), self._far(job.request.prompt)
        return Drawn(pixels, data, job.encoder, len(times), times[0], stages, unread, given_ms, settled, far)

    def _unread(self, request: DrawRequest) -> dict[str, Unread]:
        given = {"prompt": request.prompt} | ({"blend_prompt": request.blend_prompt} if request.blended else {})
        return {name: left for name, prompt in given.items() if (left := self._pipeline.unread(prompt)) is not None}

    def _far(self, prompt: str) -> tuple[str, ...]:
        """`_is_far` with a cache."""
        known = self._fars.get(prompt)
        if known is None:
            known = self._is_far(prompt)
            self._fars.put(prompt, known, sys.getsizeof(prompt) + 1000)
        return known

    def _is_far(self, prompt: str) -> tuple[str, ...]:
        if self.concepts is None or not prompt.strip():
            return ()
        return self.concepts.far(self._pipeline.encode([prompt]))

    def places(self, size: int) -> int:
        """Number of positions in the latents of a picture of this size."""
        return math.prod(self._pipeline.latent_shape(self.shapes[size])[1:])

    def steps_for(self, request: DrawRequest) -> tuple[int, ...]:
        """The step counts that differ for this request, most first. With a picture, only times up to its strength are used."""
        if not request.with_picture:
            return self.choices.steps
        taken = {
            len(self._pipeline.times_from(n, request.strength)): n for n in self.choices.steps
        }  # the fewest that do it
        return tuple(taken.values())

    def idle_ms(self, plan: Plan) -> float:
        """Milliseconds that drawing a picture takes on an idle machine."""
        costs, size = self.costs, plan.size
        ends = costs.codec_out.get(size, 0.0) + costs.encode.get((plan.encoder, size), 0.0)
        return plan.steps * costs.network.get((plan.backend, size), 1.0) + ends

    def kind(self, request: DrawRequest, plan: Plan) -> tuple[object, ...]:
        """A key: requests with equal keys can be drawn in one call."""
        from_time = self._pipeline.times_from(plan.steps, request.strength)[0] if request.with_picture else 1.0
        return plan.steps, plan.size, plan.backend, request.task, from_time


def shapes_of(pipeline: Pipeline, widths: Sequence[int]) -> dict[int, tuple[int, int]]:
    """``(height, width)`` of the pictures of these widths, in the model's own shape as nearly as its codec can; of its own width
    without any. Raises ValueError with the fix for a width that it cannot make."""
    height, width = pipeline.card.native_size
    step = pipeline.model.multiple
    found = {}
    for wide in widths or (width,):
        high = height if wide == width else max(1, round(wide * height / width / step)) * step
        pipeline.latent_shape((high, wide))
        found[wide] = high, wide
    return found


def _broken(what: str, code: str = "internal") -> ProtocolError:
    """Log an unexpected exception; returns the error for the request that caused it."""
    log.exception("%s", what)
    return ProtocolError(code, f"{what}: see the server's log")


def _recipe(request: DrawRequest, mask: Sequence[Pixels], times: Sequence[float]) -> Hashable:
    """A key of everything that decides what is drawn, apart from the picture. Frames with equal keys can be averaged."""
    blended = (request.blend_prompt, request.blend) if request.blended else None
    return request.task, request.prompt, blended, request.seed, tuple(times), tuple(one.tobytes() for one in mask)


def composited(under: Pixels, over: Pixels, mask: Pixels) -> Pixels:
    """``over`` where ``mask`` is white, ``under`` where it is black, a mixture in between. Where it is black, no bit changes."""
    share = mask.mean(-1, keepdims=True, dtype=np.float32) / 255
    return np.rint(under + share * (over.astype(np.float32) - under)).astype(np.uint8)
