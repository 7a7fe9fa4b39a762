"""Votes on disk: SQLite, each one committed before it is answered, so that a killed process loses none."""

from __future__ import annotations

import hmac
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from .plan import Plan, Trial, next_trial

FILE = "votes.sqlite"
Side = Literal["left", "tie", "right"]
SIDES: tuple[Side, ...] = get_args(Side)

TABLES = """
CREATE TABLE IF NOT EXISTS raters(name TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS trials(
    rater TEXT NOT NULL REFERENCES raters(name), number INTEGER NOT NULL,
    kind TEXT NOT NULL, a INTEGER NOT NULL, b INTEGER NOT NULL, item INTEGER NOT NULL, other INTEGER NOT NULL,
    flipped INTEGER NOT NULL, looks TEXT, follows TEXT, at REAL,
    PRIMARY KEY(rater, number));
CREATE TABLE IF NOT EXISTS undone(
    rater TEXT NOT NULL, number INTEGER NOT NULL, looks TEXT, follows TEXT, at REAL NOT NULL, undone_at REAL NOT NULL);
"""


class Vote(NamedTuple):
    """A pair that was judged."""

    rater: str
    number: int
    """The rater's how manieth pair it was, from 0."""
    trial: Trial
    looks: Side | None
    """Which looks better; None where that was not asked."""
    follows: Side | None
    """Which follows the prompt better."""
    at: float
    """When, in seconds since 1970."""

    def score(self, question: str) -> float | None:
        """1 for the trial's first picture, 0 for the second, one half for a tie; None where it was not asked."""
        side = getattr(self, question)
        if side is None:
            return None
        right = {"left": 0.0, "tie": 0.5, "right": 1.0}[side]
        return right if self.trial.flipped else 1 - right


class Stale(Exception):
    """The vote is not for the pair that this rater has before him: another window has cast it already."""


class VoteStore:
    """The raters, what each was shown, and what each said. Safe for several threads."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None)
        try:
            self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + TABLES)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{folder / FILE} cannot be used ({error}): move it away, or use another --out") from None

    def close(self) -> None:
        """Close the file; what was voted is in it already."""
        with self._lock:
            self._db.close()

    def admit(self, names: Sequence[str]) -> dict[str, str]:
        """Each rater's token, by name: an old one for who has it already."""
        with self._lock:
            for name in names:
                self._db.execute("INSERT OR IGNORE INTO raters VALUES(?, ?)", (name, secrets.token_urlsafe(18)))
            return dict(self._db.execute("SELECT name, token FROM raters ORDER BY rowid"))

    def rater(self, token: str) -> str | None:
        """Whose token this is, compared in constant time."""
        with self._lock:
            every = self._db.execute("SELECT name, token FROM raters").fetchall()
        found = [name for name, known in every if hmac.compare_digest(known.encode(), token.encode())]
        return found[0] if found else None

    def current(self, rater: str) -> tuple[int, Trial] | None:
        """The pair that a rater has before him, with its number; None where he has seen all. It stays until he has voted."""
        with self._lock:
            shown, waiting = self._shown(rater)
            if waiting is not None:
                return len(shown) - 1, shown[-1]
            counted: Counter[tuple[int, int, int]] = Counter(
                {
                    (a, b, item): n
                    for a, b, item, n in self._db.execute(
                        "SELECT a, b, item, count(*) FROM trials WHERE kind = 'pair' GROUP BY a, b, item"
                    )
                }
            )
            trial = next_trial(self.plan, rater, shown, counted)
            if trial is None:
                return None
            self._db.execute(
                "INSERT INTO trials(rater, number, kind, a, b, item, other, flipped) VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                (rater, len(shown), *trial),
            )
            return len(shown), trial

    def _shown(self, rater: str) -> tuple[list[Trial], int | None]:
        """All trials of a rater, and the number of the one that is not judged."""
        rows = self._db.execute(
            "SELECT kind, a, b, item, other, flipped, at FROM trials WHERE rater = ? ORDER BY number", (rater,)
        ).fetchall()
        waiting = len(rows) - 1 if rows and rows[-1][-1] is None else None
        return [Trial(kind, a, b, item, other, bool(flipped)) for kind, a, b, item, other, flipped, _ in rows], waiting

    def cast(self, rater: str, number: int, looks: Side | None, follows: Side | None, now: float) -> None:
        """Commit a vote. Raises Stale for another pair than the current one."""
        with self._lock:
            changed = self._db.execute(
                "UPDATE trials SET looks = ?, follows = ?, at = ? WHERE rater = ? AND number = ? AND at IS NULL",
                (looks, follows, now, rater, number),
            ).rowcount
        if not changed:
            raise Stale

    def undo(self, rater: str, now: float) -> bool:
        """Take a rater's last vote back: its pair is shown again. What it was stays in a list of its own."""
        with self._lock:
            shown, waiting = self._shown(rater)
            last = len(shown) - (1 if waiting is None else 2)
            if last < 0:
                return False
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT INTO undone SELECT rater, number, looks, follows, at, ? FROM trials WHERE rater = ? AND number = ?",
                (now, rater, last),
            )
            self._db.execute("DELETE FROM trials WHERE rater = ? AND number > ?", (rater, last))
            self._db.execute(
                "UPDATE trials SET looks = NULL, follows = NULL, at = NULL WHERE rater = ? AND number = ?",
                (rater, last),
            )
            self._db.execute("COMMIT")
            return True

    def done(self, rater: str) -> int:
        """How many pairs a rater has judged."""
        with self._lock:
            return int(
                self._db.execute("SELECT count(*) FROM trials WHERE rater = ? AND at IS NOT NULL", (rater,)).fetchone()[
                    0
                ]
            )

    def votes(self) -> list[Vote]:
        """Every vote that stands, in the order of casting."""
        with self._lock:
            rows = self._db.execute(
                "SELECT rater, number, kind, a, b, item, other, flipped, looks, follows, at FROM trials"
                " WHERE at IS NOT NULL ORDER BY at, rater, number"
            ).fetchall()
        return [
            Vote(rater, number, Trial(kind, a, b, item, other, bool(flipped)), looks, follows, at)
            for rater, number, kind, a, b, item, other, flipped, looks, follows, at in rows
        ]
