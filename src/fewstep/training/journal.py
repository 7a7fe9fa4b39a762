"""The journal of a run: one JSON line a step, next to its checkpoint, so that health curves outlive the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import whole
from .log import StepLog


class Journal:
    """Appends step logs to ``journal.jsonl``. After a resume, lines of steps that will be taken again are cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: int | None = None

    def write(self, log: StepLog) -> None:
        """Append one step. Raises ValueError with the fix when the disk is full or the folder cannot be written."""
        line: dict[str, Any] = {"step": log.step, **log.losses, **log.observations}
        if log.skipped:
            line["skipped"] = True
        if log.alarms:
            line["alarms"] = [alarm.rule for alarm in log.alarms]
        try:
            if self._last is None:
                self._cut(log.step)
            self._last = log.step
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")
        except OSError as error:
            raise ValueError(
                f"could not write the journal {self.path}: {error}; free space or choose another --out "
                "(the last checkpoint is intact)"
            ) from error

    def before(self, step: int) -> Iterator[StepLog]:
        """What was written of steps 0 to ``step``, as far as the health rules read it."""
        for line in self.read(self.path) if self.path.exists() else []:
            if line["step"] <= step:
                figures = {k: v for k, v in line.items() if isinstance(v, float)}
                yield StepLog(int(line["step"]), {}, figures, skipped=bool(line.get("skipped")))

    def _cut(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [line for line in self.read(self.path) if line["step"] < step] if step > 1 else []
            with whole(self.path) as draft:
                draft.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """Every line that can be read; a crash may have cut one short, and a damaged file has lost others."""
        lines = []
        for text in path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, TypeError, KeyError):
                continue
            lines.append(line)
        return lines

    @staticmethod
    def wrote(path: Path) -> bool:
        """Does this begin as a journal does, or with nothing, as one whose first line a crash cut short?"""
        try:
            return path.is_file() and (
                not path.stat().st_size or path.read_bytes()[:8] == b'{"step":' or bool(Journal.read(path))
            )
        except OSError:
            return False
