"""What a contest found, as a page and a results file of the documentation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parent.parent
KEPT = ("fd", "pairwise_distance", "retrieval_top1")


def shortened(text: str) -> str:
    """``contest.md`` without its long tables: who is nearest, and the first table of every start and budget."""
    head, *parts = re.split(r"(?m)^(?=## )", text)
    kept = [re.split(r"(?m)^### ", part)[0].rstrip() for part in parts]
    return "\n\n".join([head.rstrip(), *kept]) + "\n"


def slim(found: dict[str, Any]) -> dict[str, Any]:
    """``contest.json`` without what only pairs new entries with old ones; of single trainings the figures of `KEPT`."""
    found["comparisons"] = [c for c in found["comparisons"] if c["metric"] in KEPT]
    trained = found["runs"] + found.get("warm_starts", [])
    for run in trained:
        run["records"] = [r for r in run["records"] if r["metric"] in KEPT]
    for row in [found["records"], *(run["records"] for run in trained)]:
        for record in row:
            for name in ("left_out", "command", "device"):
                record.pop(name, None)
            record["command"] = ""
    return found


def write(name: str, title: str, out: Path) -> None:
    """``docs/contest_NAME.md`` and ``docs/results/contest_NAME.json`` from the folder of a contest."""
    found, text = json.loads((out / "contest.json").read_text("utf-8")), (out / "contest.md").read_text("utf-8")
    page = shortened(text).replace("# Contest", f"<!-- written by benchmarks/{name}_contest.py -->\n# {title}", 1)
    (HOUSE / "docs" / f"contest_{name}.md").write_text(page, "utf-8")
    made = json.dumps(slim(found), ensure_ascii=False, allow_nan=False)
    (HOUSE / "docs" / "results" / f"contest_{name}.json").write_text(made + "\n", "utf-8")
