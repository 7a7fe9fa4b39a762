"""Report on every file of a folder, ``report.json``: used, refused and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.sizes import spoken


@dataclass
class Report:
    """Every file once, with what was done with it. Paths are relative to the source."""

    skipped: dict[str, str] = field(default_factory=dict)
    """File, or row of a table (``metadata.csv:3``), that was meant to be used -> what is wrong and what to do."""
    read: dict[str, str] = field(default_factory=dict)
    """Picture in the dataset -> where its captions came from, and what was done to its pixels."""
    captions: dict[str, str] = field(default_factory=dict)
    """File with captions -> what they were used for."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Any other file, and folder that was not entered -> what it is taken for."""
    counts: Counter[str] = field(default_factory=Counter)
    """Of pictures, those to which something was done, by what that is; of rows, those that were skipped."""
    most_cut_off: float = 0.0
    """The largest share of a picture that was cut off to give it the shape of the others."""

    buckets: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Pictures in each bucket, and the share of them all that was cut off."""

    def placed(self, bucket: str, cut_off: float) -> None:
        """Count a picture of a bucket, of which this share was cut off."""
        n, share = self.buckets.get(bucket, (0, 0.0))
        self.buckets[bucket] = n + 1, (n * share + cut_off) / (n + 1)

    @property
    def _groups(self) -> dict[str, dict[str, str]]:
        return {"skipped": self.skipped, "read": self.read, "captions": self.captions, "ignored": self.ignored}

    @property
    def totals(self) -> dict[str, int | float]:
        """Everything counted."""
        sizes = {name: len(files) for name, files in self._groups.items()}
        sizes["skipped"] -= self.counts["rows_skipped"]
        return {"files": sum(sizes.values()), **sizes, **{name: self.counts[name] for name in COUNTED},
                "most_cut_off": round(self.most_cut_off, 4)}  # fmt: skip

    def text(self) -> str:
        """The report as ``report.json``."""
        shown = {name: dict(sorted(files.items())) for name, files in self._groups.items()}
        buckets = {name: {"pictures": n, "cut_off": round(cut, 4)} for name, (n, cut) in self.buckets.items()}
        totals: dict[str, Any] = self.totals | ({"buckets": buckets} if buckets else {})
        return json.dumps({"totals": totals} | shown, indent=2, ensure_ascii=False) + "\n"

    def refusals(self, most: int = 3) -> list[str]:
        """The first few refusals, each with its reason, and how many there are beyond."""
        return refusals(self.skipped, most)


COUNTED = ("rows_skipped", "cropped", "padded", "converted", "several_captions", "captions_left_out", "not_read_whole")
"""Counts in a report, apart from its files."""


def printable(text: str) -> str:
    """Without what steers a terminal: names of files are other people's."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def refusals(skipped: dict[str, str], most: int = 3) -> list[str]:
    """The first few, and how many there are beyond."""
    lines = [printable(f"{name}: {why}") for name, why in skipped.items()]
    return [*lines[:most], *([f"And {len(lines) - most} more"] if len(lines) > most else [])]


def told(folder: Path) -> str:
    """The report of the finished dataset in ``folder``, in a few lines."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    totals = report["totals"]
    _, *size = json.loads((folder / "dataset.json").read_text("utf-8"))["shape"]
    made = "buckets" if "buckets" in totals else "squares" if len(set(size)) == 1 else spoken(size)
    kinds = {
        "skipped": "skipped",
        "rows_skipped": "rows of tables skipped",
        "converted": "converted",
        "cropped": f"cropped to {made} (up to {percent(totals['most_cut_off'])} cut off; --fit pad keeps whole pictures)",
        "padded": "with borders around them",
        "captions_left_out": "with captions left out",
        "not_read_whole": "with captions that the teacher will not read whole",
        "ignored": "other files",
    }
    counted = ", ".join(f"{totals[key]:,} {what}" for key, what in kinds.items() if totals[key] or key == "skipped")
    lines = [f"{counted}: see {folder / 'report.json'}", *(f"  {line}" for line in refusals(report["skipped"]))]
    return "\n".join([*lines, *placed(totals.get("buckets", {}))])


def placed(buckets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many pictures went into each bucket, and how much of them was cut off, in a line; none where there are no buckets."""
    told = [f"{b['pictures']:,} in {name} ({percent(b['cut_off'])} cut off)" for name, b in buckets.items()]
    return [f"buckets, the width first: {', '.join(told)}"] if told else []


def percent(share: float) -> str:
    """A share as people say it."""
    return f"{share:.0%}" if share >= 0.01 else "under 1%" if share else "nothing"
