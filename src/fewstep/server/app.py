"""The server put together: routes, page, limits, worker. ``serve`` runs it until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from ..inference.budget import Budget, milliseconds
from ..provenance.options import Signing
from ..ranges import Range, Sides, Threads, check_devices
from ..version import __version__
from .access import NO_TOKEN, AccessPolicy, address, is_loopback
from .drawing import safety
from .drawing.engine import Engine, EngineOptions
from .drawing.provenance import Stamper, try_out
from .drawing.worker import Open, Worker
from .http import openai, prefix
from .http import pictures as rest
from .http.assets import Assets
from .http.connections import ConnectionLimiter
from .http.disconnect import DisconnectMiddleware
from .http.middleware import AccessMiddleware, sentence, unreadable
from .http.transport import HttpProtocol, Server, WebSocketProtocol
from .http.websocket import Connection
from .limits import Limits, check_sizes
from .metrics import Metrics
from .state import Studio
from .wire.protocol import error_body

log = logging.getLogger("fewstep.server")
WEB = Path(__file__).parent / "web"
SEND_BUFFER = 128 * 1024
NEVER_READ_MS = 30_000
"""The kernel gives a connection up after this long in which its client took nothing of what lies in the kernel's buffer."""
SWITCH_S = 0.000_5
"""How long a thread may keep the interpreter while another wants it. A network call gives it up at every operation, a hundred
times a picture, and would wait Python's usual 5 ms each time for whoever packs a file meanwhile."""
TOLD_S = 0.5
"""A server that cannot open its model ends after this long, so that whoever is waiting for it hears why."""


@dataclass(frozen=True)
class ServeOptions:
    """Serve a student: the studio page, live sessions and single pictures."""

    model: str = "emoji-64"
    """A shipped bundle's name, or a bundle's folder."""
    budget: str = "100ms"
    """End-to-end target: 100ms, 0.1s or 30fps. Steps, size and encoding follow from it."""
    host: str = "127.0.0.1"
    """Address to serve on. Anything but this machine itself needs a token."""
    port: Annotated[int, Range(0, 65535)] = 7860
    """Port to serve on."""
    token: str = ""
    """What every client must show; ``auto`` makes one and prints it, ``none`` lets everybody in, from wherever they come."""
    names: tuple[str, ...] = ()
    """Further host names that this server is reached by."""
    trusted_proxies: tuple[str, ...] = ()
    """Reverse proxies, as 10.0.0.7 or 10.0.0.0/8, whose X-Forwarded-For, -Proto and -Prefix are believed; nobody else's are."""
    root_path: str = ""
    """Path that a reverse proxy serves this below, as /studio; whether the proxy cuts it off or not."""
    origins: tuple[str, ...] = ()
    """Web pages of other servers that may use this one, as https://example.org."""
    backends: tuple[str, ...] = ("auto",)
    """What may run the network, best first; auto takes the fastest whose pictures equal eager's."""
    sizes: Sides = ()
    """Widths of pictures that the budget may choose from, in pixels, best first; the shape is the model's own. Default: its own
    width alone."""
    batches: tuple[int, ...] = ()
    """Pictures that may be drawn in one call, 1 among them; default: 1 on a CPU, 1 2 4 8 on a GPU."""
    threads: Threads = 1
    """Threads of one network call. Two are quicker on an idle machine, and forty times slower on a busy one."""
    device: tuple[str, ...] = ("cpu",)
    """Where the network runs: cpu, cuda, mps, or several alike that share the users, as cuda:0 cuda:1. Naming cpu twice draws two
    pictures at a time."""
    signing: Annotated[Signing, tyro.conf.arg(name="")] = field(default_factory=Signing)
    """What marks and signs the pictures. Switching it off is logged, and the page shows it."""
    credentials: bool = True
    """Sign what is saved; --no-credentials leaves the invisible mark alone, where an identity to sign with cannot be kept."""
    safety: str = "words"
    """Filter of prompts and pictures: words (a word list; yours as FILE.txt), checker (the model folder's own safety checker,
    too), off, or a dotted path to your own; docs/safety.md."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on what clients can take."""


def openers(options: ServeOptions) -> list[Open]:
    """What the worker's threads call first, one a device: opening the model takes seconds, and happens beside the event loop."""
    stamping = options.signing.stamping()
    if not options.credentials:
        stamping = replace(stamping, credentials=False)
    try_out(stamping)
    opened: list[Engine] = []

    def open_on(device: str, report: Callable[[str], None]) -> Engine:
        from .. import bundle
        from ..inference import concepts
        from ..inference.pipeline import Pipeline

        report(f"opening {options.model} on {device}")
        pipeline = Pipeline.open(bundle.locate(options.model), device)
        # what the first device found best is not searched for again, so that all draw alike
        tried = opened[0].choices.backends if opened else options.backends
        made = EngineOptions(tried, options.sizes, options.batches, options.threads, options.limits.picture_pixels)
        engine = Engine(pipeline, Stamper(pipeline.card, options.signing.provenance, stamping), made)
        check_sizes(options.limits, engine.shapes.values())
        home = bundle.shipped().get(options.model, Path(options.model))
        engine.concepts = opened[0].concepts if opened else concepts.load(home, pipeline.model.conditioner, report)
        opened.append(engine)
        return engine

    return [partial(open_on, device) for device in options.device]


def make_studio(options: ServeOptions, clock: Callable[[], float] = time.perf_counter) -> Studio:
    """The state of a server. Raises ValueError for options that make no sense."""
    token = secrets.token_urlsafe(18) if options.token == "auto" else options.token
    is_open = options.token == NO_TOKEN
    access = AccessPolicy(
        options.host, "" if is_open else token, options.origins, options.names, options.trusted_proxies, is_open
    )
    budget = Budget(milliseconds(options.budget))
    metrics = Metrics()
    moderation = safety.Moderation(safety.load(options.safety, options.model, options.device[0]), metrics.note)
    return Studio(Worker(openers(options), metrics, moderation), options.limits, access, budget, clock)


def build(studio: Studio, root_path: str = "") -> FastAPI:
    """The application; its worker starts and stops with it. Raises ValueError for a ``root_path`` that is none."""
    root_path = prefix.checked(root_path)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        studio.worker.start()
        yield
        studio.close()

    app = FastAPI(
        title="fewstep",
        version=__version__,
        description="Pictures in one to four steps. Live sessions: WebSocket /v1/stream, see docs/protocol.md.",
        lifespan=lifespan,
        docs_url=None,  # their pages come from a CDN: /openapi.json is the offline form
        redoc_url=None,
    )
    _add_middleware(app, studio, root_path)
    _add_error_answers(app)
    app.include_router(rest.routes(studio))
    app.include_router(openai.routes(studio))
    _add_live_sessions(app, studio)
    _add_observation(app, studio)
    app.router.routes.extend(Assets(WEB).routes())
    return app


def _add_middleware(app: FastAPI, studio: Studio, root_path: str) -> None:
    """The last one added sees a request first."""
    access, clock, metrics = studio.access, studio.clock, studio.metrics
    limiter = app.state.limiter = ConnectionLimiter(studio.limits, access, clock, metrics)
    app.add_middleware(DisconnectMiddleware)
    app.add_middleware(AccessMiddleware, access=access, limiter=limiter, clock=clock, metrics=metrics)
    if access.proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(access.proxies))
    if root_path or access.proxies:
        app.add_middleware(prefix.PrefixMiddleware, root_path=root_path, proxies=access.proxies)


def _add_error_answers(app: FastAPI) -> None:
    """Every error has the same form, a sentence and a code."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Any, error: RequestValidationError) -> Response:
        return Response(error_body(sentence(error.errors()[0]), "invalid"), 422, {}, "application/json")

    @app.exception_handler(HTTPException)
    async def nothing_here(request: Request, error: HTTPException) -> Response:
        if error.status_code not in (404, 405):  # FastAPI could not read the body, and says nothing of why
            said = unreadable(error.__cause__, error.detail)
            return Response(error_body(said, "invalid"), error.status_code, error.headers, "application/json")
        said = f"{request.method} {request.url.path} is not offered here ({error.detail.lower()}): see /openapi.json"
        return Response(error_body(said, "not_found"), error.status_code, error.headers, "application/json")

    @app.exception_handler(Exception)
    async def broken(_: Any, error: Exception) -> Response:  # which is raised again, and stands in the log
        said = "the server failed at this request: its log says why"
        return Response(error_body(said, "internal", "server_error"), 500, {}, "application/json")


def _add_live_sessions(app: FastAPI, studio: Studio) -> None:
    @app.websocket("/v1/stream")
    async def stream(ws: WebSocket) -> None:
        await Connection(ws, studio).run()

    @app.websocket("/{path:path}")
    async def elsewhere(ws: WebSocket) -> None:
        said = f"no live session is offered at {ws.url.path:.100}: open /v1/stream"
        await ws.send_denial_response(Response(error_body(said, "not_found"), 404, {}, "application/json"))


def _add_observation(app: FastAPI, studio: Studio) -> None:
    """For load balancers and for Prometheus."""

    @app.get("/health")
    async def health() -> JSONResponse:
        """200 once pictures can be drawn."""
        worker = studio.worker
        return JSONResponse({"state": worker.state, "doing": worker.doing}, 200 if worker.state == "ready" else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(studio.metrics.text(), 200, {}, "text/plain; version=0.0.4; charset=utf-8")


def server(app: Starlette, limits: Limits) -> uvicorn.Server:
    """uvicorn, set up for frames: no compression of pictures, bounded messages, pings, quick to give up on the slow."""
    limiter = {"limiter": app.state.limiter}
    config = uvicorn.Config(
        app,
        proxy_headers=False,  # by itself it believes whoever is on this machine
        http=type("LimitedHttp", (HttpProtocol,), limiter),
        ws=type("LimitedWebSocket", (WebSocketProtocol,), limiter),
        ws_per_message_deflate=False,
        ws_max_size=limits.message_bytes,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 * 1024,
        log_level="error",  # of bad requests anybody can make as many as they like
        access_log=False,
        server_header=False,
    )
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on. Raises ValueError where the port is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # what a client that never reads can hold
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # and for how long, also where we have closed already
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, NEVER_READ_MS)
    try:
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise ValueError(f"cannot serve on {host} port {port} ({error.strerror}): choose another with --port") from None
    return taken


def serve(options: ServeOptions) -> None:
    """Serve until stopped: with Ctrl-C, or by a service manager's SIGTERM, which is no failure at any time."""
    with contextlib.suppress(ValueError):  # of a thread that is not the main one
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    check_devices(options.device)
    sys.setswitchinterval(SWITCH_S)
    studio = make_studio(options)
    app = build(studio, options.root_path)
    taken = listen(options.host, options.port)
    port = taken.getsockname()[1]
    print(f"fewstep studio: {address(options.host, port, studio.access.token)}   (Ctrl-C stops it)", flush=True)
    if studio.access.token and not is_loopback(options.host):
        print("anyone who has this address, with its token, can draw here", flush=True)
    if (warning := studio.access.warning) is not None:
        print(f"warning: {warning}", flush=True)
    if not options.signing.provenance:
        print("provenance is off: pictures carry no watermark and no content credentials", flush=True)
    elif not options.credentials:
        print("credentials are off: pictures carry the watermark alone", flush=True)
    running = server(app, options.limits)

    def end() -> None:
        running.should_exit = True

    told = ""

    def state_changed() -> None:
        nonlocal told
        said = f"  {studio.worker.state}: {studio.worker.doing}".rstrip(": ")
        if studio.worker.state == "failed":  # which is said at the end, in a sentence
            threading.Timer(TOLD_S, end).start()
        elif said != told:
            print(said, flush=True)
        told = said

    studio.worker.on_state(state_changed)
    running.run([taken])
    if studio.worker.state == "failed":
        raise ValueError(studio.worker.doing)
