"""The arena over HTTP and on disk: blind, a token a rater, each vote committed before it is answered, and kill -9."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arena_helpers import NAMES, folders, seen
from fewstep.arena import command, pictures
from fewstep.arena.app import Arena, build
from fewstep.arena.plan import Plan
from fewstep.arena.report import report
from fewstep.arena.votes import FILE, Stale, VoteStore
from fewstep.data.dataset import no_progress
from fewstep.ranges import USUAL

httpx = pytest.importorskip("httpx")
testclient = pytest.importorskip("starlette.testclient")


def options(home: Path, **more: Any) -> command.Options:
    if not (home / NAMES[0]).exists():
        folders(home)
    made = tuple(str(home / name) for name in NAMES)
    return command.Options(**{"models": made, "out": home / "run", "trials": 40, "seed": 7} | more)


class Rater:
    """One rater over HTTP."""

    def __init__(self, arena: Arena, token: str) -> None:
        self.client = testclient.TestClient(build(arena), base_url="http://localhost")
        self.client.headers["authorization"] = f"Bearer {token}"

    def pair(self) -> dict[str, Any]:
        return self.client.get("/api/pair").json()

    def pictures(self, pair: dict[str, Any]) -> list[Any]:
        return [self.client.get(f"/api/picture/{pair['number']}/{side}") for side in ("left", "right")]

    def judge(self, pair: dict[str, Any]) -> dict[str, str]:
        """Redder is better; noise is worse; the blue that the prompt names is what was asked for."""
        (red, blue, noise), (red_2, blue_2, noise_2) = (seen(answer.content) for answer in self.pictures(pair))
        wanted = 20 + 40 * (ord(pair["prompt"][-1]) - 97)
        looks = noise_2 - noise if abs(noise - noise_2) > 5 else red - red_2
        follows = abs(blue_2 - wanted) - abs(blue - wanted) if abs(noise - noise_2) <= 5 else noise_2 - noise
        return {q: "tie" if abs(d) < 5 else "left" if d > 0 else "right" for q, d in (("looks", looks), ("follows", follows))}

    def vote(self, pair: dict[str, Any], **said: str) -> Any:
        return self.client.post("/api/vote", json={"number": pair["number"], **(said or self.judge(pair))})


@pytest.fixture
def arena(tmp_path: Path):
    o = options(tmp_path)
    plan = command.prepare(o, USUAL, "fewstep arena ...", no_progress)
    store = VoteStore(o.out, plan)
    tokens = store.admit(("anna", "ben"))
    made = Arena(o.out, plan, store)
    yield made, tokens
    store.close()


def test_a_session_from_the_first_pair_to_the_result(arena):
    """Two raters at once, over HTTP, each with a preference that only the pixels tell."""
    made, tokens = arena

    def whole(name: str) -> int:
        rater = Rater(made, tokens[name])
        pair, n = rater.pair(), 0
        while "number" in pair:
            pair = rater.vote(pair).json()
            n += 1
        return n

    with ThreadPoolExecutor(2) as raters:
        cast = sum(raters.map(whole, ("anna", "ben")))
    votes = made.votes.votes()
    assert len({(v.rater, v.number) for v in votes}) == len(votes) == cast
    assert sum(v.trial.kind == "pair" for v in votes) == 36, "either saw all that there is"
    said = report(made.folder)
    found = json.loads((made.folder / "results.json").read_text())
    looks = {row["model"]: row["rating"] for row in found["questions"]["looks"]["models"]}
    assert looks["aurora"] > looks["borealis"] > looks["cumulus"]
    assert found["questions"]["follows"]["ties"] == 1
    assert found["left_out"] == []
    for rater in found["raters"]:
        assert rater["catch_right"] == rater["catch"] > 0
        assert rater["same"] in (1, None)
    assert all(pair["settled"] for pair in found["questions"]["looks"]["pairs"])
    assert "aurora is preferred" in said
    page = (made.folder / "results.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page), "it opens offline"
    lines = (made.folder / "votes.csv").read_text().splitlines()
    assert len(lines) == len(votes) + 1


def test_nothing_that_a_page_is_sent_tells_who_drew(arena):
    made, tokens = arena
    rater = Rater(made, tokens["anna"])
    told, sizes = "", set()
    for path in ("/", "/web/arena.js", "/web/arena.css", "/api/pair"):
        answer = rater.client.get(path)
        told += answer.text + str(answer.headers)
    pair = rater.pair()
    for _ in range(12):
        for answer in rater.pictures(pair):
            told += str(answer.headers) + str(answer.url)
            sizes.add(tuple(int.from_bytes(answer.content[16 + 4 * i : 20 + 4 * i], "big") for i in range(2)))
            chunks = re.findall(rb"tEXt|iTXt|eXIf|caBX|zTXt", answer.content)
            assert chunks == []
        answer = rater.vote(pair, looks="tie", follows="tie")
        told += answer.text + str(answer.headers)
        pair = answer.json()
    for word in (*NAMES, "prompt-", ".png", "damaged", "other_prompt"):
        assert word not in told.replace("image/png", ""), word
    assert sizes == {(pictures.SHOWN, pictures.SHOWN)}


def test_who_has_no_token_is_refused_and_bad_votes_change_nothing(arena):
    made, tokens = arena
    stranger = Rater(made, "wrong")
    for ask in (stranger.pair, lambda: stranger.vote({"number": 0}, looks="left", follows="left").json()):
        assert "token" in ask()["error"]["message"]
    assert stranger.client.get("/api/picture/0/left").status_code == 401
    assert stranger.client.get("/").status_code == 200, "the page itself holds nothing"
    rater = Rater(made, tokens["anna"])
    pair = rater.pair()
    for said in ({"looks": "left"}, {"looks": "up", "follows": "left"}, {"looks": ["left"], "follows": "tie"}):
        assert rater.vote(pair, **said).status_code == 422
    assert rater.vote({"number": "0"}, looks="left", follows="tie").status_code == 422
    assert rater.vote({"number": 5}, looks="left", follows="tie").status_code == 409
    assert rater.client.post("/api/vote", content=b"{" * 5000).status_code == 413
    assert rater.client.post("/api/vote", content=b"[1").status_code == 422
    assert rater.client.get("/api/picture/1/left").status_code == 404
    assert rater.client.get("/api/picture/0/middle").status_code == 404
    assert rater.client.post("/api/undo").status_code == 409
    assert rater.client.get("/api/pair", headers={"host": "evil.example"}).status_code == 403
    assert made.votes.votes() == []
    assert rater.pair() == pair


def test_a_vote_is_cast_once_and_can_be_taken_back(arena):
    made, tokens = arena
    rater = Rater(made, tokens["anna"])
    first = rater.pair()
    shown = [answer.content for answer in rater.pictures(first)]
    second = rater.vote(first, looks="left", follows="tie").json()
    assert rater.vote(first, looks="right", follows="tie").status_code == 409, "a double click is one vote"
    assert second["done"] == 1
    back = rater.client.post("/api/undo").json()
    assert (back["done"], back["number"], back["prompt"]) == (0, 0, first["prompt"])
    assert [answer.content for answer in rater.pictures(back)] == shown
    assert made.votes.votes() == []
    rater.vote(back, looks="right", follows="tie")
    assert [vote.looks for vote in made.votes.votes()] == ["right"]
    with sqlite3.connect(made.folder / FILE) as db:
        assert db.execute("SELECT looks FROM undone").fetchall() == [("left",)], "what was taken back is not forgotten"
    with pytest.raises(Stale):
        made.votes.cast("ben", 0, "left", "tie", 0.0)


KILLED = """
import sys
from pathlib import Path
from fewstep.arena.plan import Plan
from fewstep.arena.votes import VoteStore
folder = Path(sys.argv[1])
store = VoteStore(folder, Plan.read(folder))
store.admit(["anna"])
while (current := store.current("anna")) is not None:
    store.cast("anna", current[0], "left", "tie", float(current[0]))
    print(current[0], flush=True)
"""


def test_kill_9_loses_no_vote_that_was_answered(tmp_path: Path):
    o = options(tmp_path, trials=100_000, repeat=0.5)
    plan = command.prepare(o, USUAL, "", no_progress)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(o.out)], stdout=subprocess.PIPE, text=True) as voting:
            assert voting.stdout is not None
            said = [int(voting.stdout.readline()) for _ in range(4)]
            voting.send_signal(signal.SIGKILL)
            said += [int(line) for line in voting.stdout.read().split()]
        store = VoteStore(o.out, plan)
        kept = [vote.number for vote in store.votes()]
        assert set(said) <= set(kept)
        assert sorted(kept) == list(range(len(kept)))
        store.close()


def test_an_arena_goes_on_where_it_was_and_never_mixes_votes(tmp_path: Path):
    o = options(tmp_path)
    plan = command.prepare(o, USUAL, "one", no_progress)
    store = VoteStore(o.out, plan)
    before = store.admit(("anna",))
    store.close()
    again = command.prepare(options(tmp_path, trials=60), USUAL, "two", no_progress)
    assert again == Plan.read(o.out)
    assert VoteStore(o.out, again).admit(("anna", "ben"))["anna"] == before["anna"]
    with pytest.raises(ValueError, match="other models"):
        command.prepare(options(tmp_path, models=o.models[:2]), USUAL, "", no_progress)
    assert Plan.read(o.out) == again
