"""The journal of a run: one JSON line a step, next to its checkpoint, so that health curves outlive the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from .trainer import StepLog


class Journal:
    """Appends step logs to ``journal.jsonl``. After a resume, lines of steps that will be taken again are cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: int | None = None

    def write(self, log: StepLog) -> None:
        """Append one step."""
        if self._last is None:
            self._cut(log.step)
        self._last = log.step
        line = {"step": log.step, **log.losses, **log.observations}
        if log.skipped:
            line["skipped"] = True
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")

    def _cut(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [line for line in self.read(self.path) if line["step"] < step]
            self.path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    @staticmethod
    def read(path: Path) -> list[dict[str, float]]:
        """Every whole line; a last line that a crash cut short is left out."""
        lines = []
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
        return lines
