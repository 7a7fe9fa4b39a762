"""The arena over HTTP: each rater has a token, sees pairs without a name, and every vote is on disk before it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..server.access import AccessPolicy, bearer
from ..server.http.assets import Assets
from ..server.http.connections import ConnectionLimiter
from ..server.http.middleware import AccessMiddleware
from ..server.limits import Limits
from ..server.metrics import Metrics
from ..server.wire.protocol import error_body
from .pictures import shown
from .plan import Plan, Trial
from .votes import SIDES, Stale, VoteStore

WEB = Path(__file__).with_name("web")
LIMITS = Limits(message_bytes=4096)
CODES = {401: "invalid_api_key", 404: "not_found", 405: "not_found", 409: "stale"}


class Arena:
    """The routes of one run."""

    def __init__(self, folder: Path, plan: Plan, votes: VoteStore, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.plan, self.votes, self.clock = folder, plan, votes, clock

    def routes(self) -> list[Route]:
        """All of them; the pages hold nothing of anybody's, the others ask for a rater's token."""
        return [
            Route("/api/pair", self.pair),
            Route("/api/picture/{number:int}/{side}", self.picture),
            Route("/api/vote", self.vote, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            *Assets(WEB).routes(),
        ]

    def _rater(self, request: Request) -> str:
        name = self.votes.rater(bearer(request.headers.get("authorization")))
        if name is None:
            raise HTTPException(401, "this needs a rater's token: open the address that the arena printed for you")
        return name

    def _state(self, rater: str) -> Response:
        """What a rater has before him. Nothing in it tells one model from another."""
        current = self.votes.current(rater)
        done = self.votes.done(rater)
        facts: dict[str, Any] = {"rater": rater, "done": done, "questions": self.plan.questions}
        facts["total"] = self.plan.trials if current else done
        if current:
            number, trial = current
            facts |= {"number": number, "prompt": self.plan.prompts[trial.item]}
        return JSONResponse(facts, headers={"cache-control": "no-store"})

    def pair(self, request: Request) -> Response:
        """The pair that waits for this rater."""
        return self._state(self._rater(request))

    def picture(self, request: Request) -> Response:
        """The left or the right picture of the current pair: pixels alone."""
        current = self.votes.current(self._rater(request))
        side = request.path_params["side"]
        if current is None or side not in ("left", "right") or request.path_params["number"] != current[0]:
            raise HTTPException(404, "there is no such picture: ask for the pair anew")
        trial = current[1]
        second = (side == "right") != trial.flipped
        try:
            data = shown(self.folder / self._file(trial, second), trial.kind, second)
        except ValueError as error:
            raise HTTPException(500, str(error)) from None
        return Response(data, media_type="image/png", headers={"cache-control": "no-store"})

    def _file(self, trial: Trial, second: bool) -> str:
        model, item = (trial.b, trial.other) if second else (trial.a, trial.item)
        return self.plan.models[model].pictures[item]

    async def vote(self, request: Request) -> Response:
        """Commit a vote, and answer with the next pair."""
        rater = self._rater(request)
        try:
            given = await request.json()
            number = given["number"]
            said = {question: given.get(question) for question in self.plan.questions}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise HTTPException(422, 'send {"number": 0, "looks": "left", "follows": "tie"} as JSON') from None
        if type(number) is not int or any(side not in SIDES for side in said.values()):
            raise HTTPException(422, f"answer each of {' and '.join(said)} with left, tie or right")
        try:
            self.votes.cast(rater, number, said.get("looks"), said.get("follows"), self.clock())
        except Stale:
            raise HTTPException(409, "this pair has been judged already: here is the next") from None
        return self._state(rater)

    def undo(self, request: Request) -> Response:
        """Take the last vote back, and answer with its pair."""
        rater = self._rater(request)
        if not self.votes.undo(rater, self.clock()):
            raise HTTPException(409, "there is no vote to take back")
        return self._state(rater)


def build(arena: Arena, host: str = "127.0.0.1") -> Starlette:
    """The application, behind the studio's bounds on clients."""
    access = AccessPolicy(host, open=True)  # who may vote is asked of each request: there is a token a rater
    metrics, clock = Metrics(), time.perf_counter
    limiter = ConnectionLimiter(LIMITS, access, clock, metrics)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
        code = CODES.get(error.status_code, "invalid" if error.status_code < 500 else "internal")
        return Response(error_body(error.detail, code, kind), error.status_code, error.headers, "application/json")

    middleware = Middleware(AccessMiddleware, access=access, limiter=limiter, clock=clock, metrics=metrics)
    app = Starlette(routes=arena.routes(), middleware=[middleware], exception_handlers={HTTPException: refused})
    app.state.limiter = limiter
    return app
